"""The plain types that boards wire devices with.

A device knows registers and the lines that leave it.  It never knows the
processor, the machine, another device or a thread: it is handed callables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Line", "Notify", "PhysicalMemory"]

#: An interrupt or signal line: called with the level that the device drives.
Line = Callable[[bool], None]
#: A request that carries nothing: "reset the machine", "the guest suspends".
Notify = Callable[[], None]


class PhysicalMemory(Protocol):
    """Guest-physical memory as a bus-mastering device sees it."""

    def read(self, address: int, length: int) -> bytes:
        """*length* bytes; what is not RAM or ROM reads 0xff."""

    def write(self, address: int, data: bytes) -> None:
        """Store *data*; what is not RAM is left alone.  Translated code is invalidated."""
