"""A machine without a machine, for tests of the monitors: it notes what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from machine.events import Event
from machine.log import LogError
from machine.runstate import MachineError, MachineLeft, RunState, Status

T = TypeVar("T")


class FakeSegment(NamedTuple):
    selector: int = 0
    base: int = 0
    limit: int = 0xFFFF
    flags: int = 0x9300


@dataclass
class FakeCpu:
    """Registers from a dictionary; what is not in it is 0."""

    registers: dict[str, int] = field(default_factory=dict)
    segments: dict[str, FakeSegment] = field(default_factory=dict)
    xmm_registers: dict[int, int] = field(default_factory=dict)
    stack: dict[int, tuple[int, int]] = field(default_factory=dict)
    halted: bool = False
    a20: bool = True

    def read(self, name: str) -> int:
        return self.registers.get(name, 0)

    def segment(self, name: str) -> FakeSegment:
        return self.segments.get(name, FakeSegment())

    def xmm(self, index: int) -> int:
        return self.xmm_registers.get(index, 0)

    def st(self, index: int) -> tuple[int, int]:
        return self.stack.get(index, (0, 0))


class FakeClock:
    def now_ns(self) -> int:
        return 1_500_000_000


class FakeLog:
    """Notes what is to be logged; files called /bad… do not open."""

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    def set_items(self, items: frozenset[str]) -> None:
        self._calls.append(("log", sorted(items)))

    def set_file(self, path: str | None) -> None:
        if path is not None and path.startswith("/bad"):
            raise LogError(f"Error opening logfile {path}: No such file or directory")
        self._calls.append(("logfile", path))


class FakeMachine:
    """Notes calls in `calls`; `post` works on a thread of its own."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cpu = FakeCpu()
        self.log = FakeLog(self.calls)
        self.clock = FakeClock()
        self.state = RunState.RUNNING
        self.one_insn_per_tb = False
        self.serial = bytearray()
        self.serial_ports = 1
        self.room = 1 << 30
        self.subscribers: list[Callable[[Event], None]] = []
        self.left = False
        self.refusal: str | None = None
        self._thread = ThreadPoolExecutor(1, "machine")

    def post(self, fn: Callable[[], T]) -> Future[T]:
        if not self.left:
            return self._thread.submit(fn)
        refused: Future[T] = Future()
        refused.set_exception(MachineLeft())
        return refused

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        self.subscribers.append(callback)
        return lambda: self.subscribers.remove(callback)

    def emit(self, name: str, data: dict[str, Any] | None = None) -> None:
        for subscriber in list(self.subscribers):
            subscriber(Event(name, data, 0, 0))

    @property
    def status(self) -> Status:
        return Status(self.state, self.state is RunState.RUNNING, self.one_insn_per_tb)

    def _called(self, name: str) -> None:
        if self.refusal is not None:
            raise MachineError(self.refusal)
        self.calls.append(name)

    def stop(self) -> None:
        self._called("stop")
        self.state = RunState.PAUSED

    def cont(self) -> None:
        self._called("cont")
        self.state = RunState.RUNNING

    def wakeup(self) -> None:
        self._called("wakeup")

    def system_reset(self) -> None:
        self._called("system_reset")

    def system_powerdown(self) -> None:
        self._called("system_powerdown")

    def inject_nmi(self) -> None:
        self._called("inject_nmi")

    def quit(self) -> None:
        self._called("quit")
        self.left = True

    def send_keys(self, qcodes: list[str], hold_ms: int = 100) -> None:
        self.calls.append((qcodes, hold_ms))

    def serial_receive(self, index: int, data: bytes) -> int:
        if index >= self.serial_ports:
            raise IndexError(index)
        taken = data[: self.room]
        self.serial += taken
        self.room -= len(taken)
        return len(taken)

    def serial_room(self, index: int) -> int:
        return self.room
