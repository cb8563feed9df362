"""QEMU's pc-testdev: what CPU test kernels need of a board beside a real one's devices.

==================  ========================================================
at                  access
==================  ========================================================
ports e0-e3         four bytes that read back what was written, 1, 2 or 4
                    at a time
ports e4-e7         32-bit write: an address whose page is to be forgotten
                    by whatever caches its mapping; here nothing does
ports e8-eb         the same four bytes, one at a time
ports 2000-2017     byte write: interrupt line 0 to 23 := (value is not 0)
memory ff000000     64 KiB that read back what was written
==================  ========================================================

An access of memory's last bytes that is wider than what is left reads zeros there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["MEMORY_BASE", "MEMORY_SIZE", "PcTestdev", "State"]

MEMORY_BASE, MEMORY_SIZE = 0xFF00_0000, 0x1_0000


@dataclass
class State:
    data: bytearray = field(default_factory=lambda: bytearray(4))
    memory: bytearray = field(default_factory=lambda: bytearray(MEMORY_SIZE))


class PcTestdev:
    """*line* drives global system interrupt 0 to 23."""

    def __init__(self, *, line: Callable[[int, bool], None]) -> None:
        self.state = State()
        self._line = line

    def reset(self) -> None:
        """Nothing changes: test kernels reset the machine to see what stays."""

    def data_read(self, offset: int, size: int) -> int:
        """Ports e0 and e8."""
        return int.from_bytes(self.state.data[offset:offset + size], "little")

    def data_write(self, offset: int, value: int, size: int) -> None:
        data = self.state.data
        end = min(offset + size, 4)
        data[offset:end] = value.to_bytes(size, "little")[:end - offset]

    def flush_write(self, offset: int, value: int, size: int) -> None:
        """Ports e4: guest memory is mapped as long as the machine lives."""

    def irq_write(self, offset: int, value: int, size: int) -> None:
        """Ports 2000."""
        self._line(offset, value != 0)

    def memory_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.memory[offset:offset + size], "little")

    def memory_write(self, offset: int, size: int, value: int) -> None:
        end = min(offset + size, MEMORY_SIZE)
        self.state.memory[offset:end] = value.to_bytes(size, "little")[:end - offset]


def reads_zero(_offset: int, _size: int) -> int:
    """The ports that are only written."""
    return 0
