"""The debug console of Bochs and QEMU (isa-debugcon): a port that prints each byte.

====  ========================================================
port  access
====  ========================================================
e9    read: *readback* (0xe9, by which software finds the port);
      write: the byte goes to the console
====  ========================================================

SeaBIOS and the golden guests use 0x402 instead of 0xe9.  Byte accesses only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DEFAULT_IOBASE", "DebugCon", "State"]

DEFAULT_IOBASE = 0xE9


@dataclass
class State:
    """Nothing: the device remembers nothing."""


class DebugCon:
    """*write* takes what the guest prints, one byte at a time."""

    def __init__(self, *, write: Callable[[bytes], None], readback: int = 0xE9) -> None:
        self.state = State()
        self._write = write
        self._readback = readback & 0xFF

    def reset(self) -> None:
        """Nothing to do."""

    def read(self, offset: int, size: int) -> int:
        return self._readback

    def write(self, offset: int, value: int, size: int) -> None:
        self._write(bytes((value & 0xFF,)))
