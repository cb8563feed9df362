"""The I/O port bus: which device answers which of the 65,536 ports.

A device registers a range with the widest access it implements; a wider or
unaligned access from the guest is split into consecutive ones, low address
first.  The device of the first port answers a part of an access whole.  A port
nobody answers reads all ones and swallows writes, and so does an aligned access
that begins there, whatever lies behind it; past port 0xffff there are zeros (as
QEMU does it).
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["PortBus", "PortRead", "PortWrite"]

#: (offset from the range's base, size in bytes: 1, 2 or 4) -> value
PortRead = Callable[[int, int], int]
#: (offset from the range's base, value, size in bytes: 1, 2 or 4)
PortWrite = Callable[[int, int, int], None]


class _Range:
    __slots__ = ("base", "read", "write", "width", "name")

    def __init__(self, base: int, read: PortRead | None, write: PortWrite | None,
                 width: int, name: str) -> None:
        self.base = base
        self.read = read
        self.write = write
        self.width = width
        self.name = name


class PortBus:
    """Finds the device of a port by table."""

    def __init__(self) -> None:
        self._table: dict[int, _Range] = {}

    def add(self, base: int, count: int, read: PortRead | None, write: PortWrite | None,
            *, width: int = 1, name: str = "") -> None:
        """Let a device answer ports *base* … *base+count-1*.

        *width* is the widest access (1, 2 or 4 bytes) the device implements.  A
        missing *read* reads all ones, a missing *write* ignores.  A later
        registration takes the ports over from an earlier one.
        """
        entry = _Range(base, read, write, width, name)
        for port in range(base, base + count):
            self._table[port & 0xFFFF] = entry

    def remove(self, base: int, count: int) -> None:
        """Let nobody answer the range any more."""
        for port in range(base, base + count):
            self._table.pop(port & 0xFFFF, None)

    def name_of(self, port: int) -> str | None:
        """The name under which *port* was registered, or None for an open port."""
        entry = self._table.get(port)
        return entry.name if entry is not None else None

    def read(self, port: int, size: int) -> int:
        """What the guest's IN of *size* bytes from *port* gives."""
        entry = self._table.get(port)
        if entry is not None and size == 1:
            return entry.read(port - entry.base, 1) & 0xFF if entry.read is not None else 0xFF
        value = shift = 0
        while size:
            step, entry = self._step(port, size)
            if port > 0xFFFF:
                part = 0
            elif entry is None or entry.read is None:
                part = (1 << (8 * step)) - 1
            else:
                part = entry.read(port - entry.base, step) & ((1 << (8 * step)) - 1)
            value |= part << shift
            shift += 8 * step
            port += step
            size -= step
        return value

    def write(self, port: int, value: int, size: int) -> None:
        """The guest's OUT of *size* bytes to *port*."""
        while size:
            step, entry = self._step(port, size)
            if entry is not None and entry.write is not None:
                entry.write(port - entry.base, value & ((1 << (8 * step)) - 1), step)
            value >>= 8 * step
            port += step
            size -= step

    def _step(self, port: int, size: int) -> tuple[int, _Range | None]:
        """How many bytes the next part of an access takes, and who answers it.

        A part is a power of two, and aligned in the range it goes to (among all ports
        where nobody answers).
        """
        entry = self._table.get(port)
        if entry is None:
            offset, widest = port, 4
        else:
            offset, widest = port - entry.base, entry.width
        step = 4 if size >= 4 else 2 if size >= 2 else 1
        return min(step, widest, offset & -offset or step), entry
