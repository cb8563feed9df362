"""What the monitors need of a machine, and of its processor.

The monitors are typed against these protocols, so that they can be tested with
no machine at all; `machine.machine.Machine` is what they get in earnest.

Only `post` may be called from any thread.  Everything else is for the machine
thread: inside a function given to `post`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from machine.events import Event
from machine.registers import CpuTarget
from machine.runstate import Status

__all__ = ["ClockTarget", "LogTarget", "MachineTarget"]

T = TypeVar("T")


class ClockTarget(Protocol):
    """The machine's virtual clock."""

    def now_ns(self) -> int: ...


class LogTarget(Protocol):
    """The machine's log."""

    def set_items(self, items: frozenset[str], /) -> None: ...
    def set_file(self, path: str | None, /) -> None:
        """Raises `machine.log.LogError`."""


class MachineTarget(Protocol):
    """A machine as a monitor sees it."""

    def post(self, fn: Callable[[], T], /) -> Future[T]:
        """Run *fn* on the machine thread, serve what it requested, then resolve."""

    def subscribe(self, callback: Callable[[Event], None], /) -> Callable[[], None]:
        """Have *callback* called on the machine thread with each event; returns the way out."""

    @property
    def status(self) -> Status: ...
    @property
    def cpu(self) -> CpuTarget: ...
    @property
    def clock(self) -> ClockTarget: ...
    @property
    def log(self) -> LogTarget: ...
    @property
    def one_insn_per_tb(self) -> bool: ...
    @one_insn_per_tb.setter
    def one_insn_per_tb(self, on: bool, /) -> None: ...
    def stop(self) -> None: ...
    def cont(self) -> None: ...
    def wakeup(self) -> None: ...
    def system_reset(self) -> None: ...
    def system_powerdown(self) -> None: ...
    def inject_nmi(self) -> None: ...
    def quit(self) -> None: ...
    def send_keys(self, qcodes: list[str], hold_ms: int = ..., /) -> None:
        """Press the keys in order and let them go after *hold_ms* milliseconds."""

    def serial_receive(self, index: int, data: bytes, /) -> int:
        """Give *data* to a serial port; how many bytes of it were taken."""

    def serial_room(self, index: int, /) -> int:
        """How many bytes a serial port would take now."""
