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
from machine.runstate import Status

__all__ = ["ClockTarget", "CpuTarget", "MachineTarget", "SegmentTarget"]

T = TypeVar("T")


class SegmentTarget(Protocol):
    """A segment register with its hidden part."""

    @property
    def selector(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def limit(self) -> int:
        """In bytes, the granularity already applied."""

    @property
    def flags(self) -> int:
        """The second word of the descriptor, as it lies in memory."""


class CpuTarget(Protocol):
    """A processor's registers, for reading."""

    @property
    def halted(self) -> bool: ...
    @property
    def a20(self) -> bool: ...
    def read(self, name: str, /) -> int:
        """rax..r15, rip, eflags, cr0..cr4, dr0..dr7, efer, hflags, fpcw, fpsw, mxcsr;
        fptag is the 16-bit tag word: two bits a physical register, 3 = empty."""

    def segment(self, name: str, /) -> SegmentTarget:
        """es cs ss ds fs gs ldt tr gdt idt."""

    def xmm(self, index: int, /) -> int:
        """The 128 bits of XMM *index*."""

    def st(self, index: int, /) -> tuple[int, int]:
        """ST(*index*), counted from the top of the stack: 64 bits of mantissa, and
        16 bits of sign and exponent."""


class ClockTarget(Protocol):
    """The machine's virtual clock."""

    def now_ns(self) -> int: ...


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
    def one_insn_per_tb(self) -> bool: ...
    @one_insn_per_tb.setter
    def one_insn_per_tb(self, on: bool, /) -> None: ...
    def stop(self) -> None: ...
    def cont(self) -> None: ...
    def wakeup(self) -> None: ...
    def system_reset(self) -> None: ...
    def system_powerdown(self) -> None: ...
    def quit(self) -> None: ...
    def send_keys(self, qcodes: list[str], hold_ms: int = ..., /) -> None:
        """Press the keys in order and let them go after *hold_ms* milliseconds."""

    def serial_receive(self, index: int, data: bytes, /) -> int:
        """Give *data* to a serial port; how many bytes of it were taken."""

    def serial_room(self, index: int, /) -> int:
        """How many bytes a serial port would take now."""
