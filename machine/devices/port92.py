"""System control port A, 0x92: fast A20 and fast reset, as on the PS/2 and on PCs since.

====  ================================================================
bit   meaning
====  ================================================================
0     a change from 0 to 1 resets the machine; always reads 0
1     A20 is on
2-7   kept and read back (on a PS/2: CMOS lock, watchdog, activity LED)
====  ================================================================

As in QEMU the register lives through a reset, so A20 reads back as it was left.
One byte answers; in a wider access every byte is this register.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from machine.wiring import Notify

__all__ = ["Port92", "State"]

FAST_RESET, A20 = 0x01, 0x02
REPEATED = 0x01010101


@dataclass
class State:
    outport: int = 0


class Port92:
    """One register; *reset* is pulsed, *set_a20* told the level at each write."""

    def __init__(self, *, reset: Notify, set_a20: Callable[[bool], None]) -> None:
        self.state = State()
        self._reset = reset
        self._set_a20 = set_a20

    def reset(self) -> None:
        self.state.outport &= ~FAST_RESET

    def read(self, offset: int, size: int) -> int:
        return self.state.outport * REPEATED & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        for _ in range(size):
            self._write_byte(value & 0xFF)
            value >>= 8

    def _write_byte(self, value: int) -> None:
        before, self.state.outport = self.state.outport, value
        self._set_a20(bool(value & A20))
        if value & ~before & FAST_RESET:
            self._reset()
