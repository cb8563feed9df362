"""QEMU's isa-debug-exit: a write ends the emulator with a code that the guest chose.

=======  ==================================================================
port     access
=======  ==================================================================
501-502  read: 0; write: exit with (value << 1) | 1, which is never success
=======  ==================================================================

The number of ports is a property (*iosize*, 2 unless told), but an access at the
first one may be 1, 2 or 4 bytes wide whatever it is: register it with width 4.
What the process's parent sees of the code is up to its system (8 bits on Unix).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DEFAULT_IOBASE", "DEFAULT_IOSIZE", "DebugExit", "State"]

DEFAULT_IOBASE = 0x501
DEFAULT_IOSIZE = 2


@dataclass
class State:
    """Nothing: the device remembers nothing."""


class DebugExit:
    """*exit* is called with the code."""

    def __init__(self, *, exit: Callable[[int], None]) -> None:
        self.state = State()
        self._exit = exit

    def reset(self) -> None:
        """Nothing to do."""

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, value: int, size: int) -> None:
        self._exit(value << 1 | 1)
