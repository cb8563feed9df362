"""System control port B, 0x61: the speaker's gate and data, and two signals to look at.

Follows the PC/AT technical reference and the 82371SB (PIIX3) data sheet's NSC register.

====  ======  ==========================================================
bit   access  meaning
====  ======  ==========================================================
0     rw      gate of timer channel 2
1     rw      speaker data
4     r       refresh: toggles
5     r       output of timer channel 2
====  ======  ==========================================================

The other bits read 0.  As in QEMU, refresh toggles with each read instead of
each 15 us, and a reset closes the gate (which is the timer's) and leaves bit 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["State", "SystemControlPortB"]

GATE_2, SPEAKER_DATA, REFRESH, OUT_2 = 0x01, 0x02, 0x10, 0x20


@dataclass
class State:
    """The bits that are kept: gate and data as written, refresh as last read."""

    control: int = 0
    refresh: int = 0


class SystemControlPortB:
    """The port.  *pit_output* tells OUT of channel 2, *pit_gate* drives its gate."""

    def __init__(self, *, pit_output: Callable[[], bool],
                 pit_gate: Callable[[bool], None]) -> None:
        self.state = State()
        self._pit_output = pit_output
        self._pit_gate = pit_gate

    def reset(self) -> None:
        """Close the gate; the speaker's data bit stays."""
        self.state.control &= ~GATE_2
        self._pit_gate(False)

    def read(self, offset: int, size: int) -> int:
        """IN from 0x61."""
        s = self.state
        s.refresh ^= REFRESH
        return s.control | s.refresh | (OUT_2 if self._pit_output() else 0)

    def write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x61."""
        self.state.control = value & (GATE_2 | SPEAKER_DATA)
        self._pit_gate(bool(value & GATE_2))
