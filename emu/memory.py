"""Guest-physical memory: RAM, ROM, memory-mapped I/O, and holes that read all ones.

RAM is one host buffer and no byte of it is ever mapped at two guest-physical
addresses: translated code is tracked by address, and an alias would run stale.
Writes to ROM are discarded.  What nothing answers is an open bus: it reads all
ones and swallows writes (mapped as MMIO, because any memory hook over RAM would
send each of the guest's stores down the slow path).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import NamedTuple

from emu.engine import Engine

__all__ = ["Memory", "Region", "ADDRESS_LIMIT"]

#: One past the highest guest-physical address (40 bits, as QEMU's TCG CPUs have).
ADDRESS_LIMIT = 1 << 40
PAGE = 0x1000

MmioRead = Callable[[int, int], int]
MmioWrite = Callable[[int, int, int], None]


class Region(NamedTuple):
    """A mapped range [start, end) of guest-physical addresses.

    *buffer* and *offset* say where its bytes are on the host; *writable* is
    false for ROM.  *absorb* takes writes to a ROM region instead of discarding
    them (reads from one place, writes to another: PAM's write-only state).
    """

    start: int
    end: int
    buffer: mmap.mmap
    offset: int
    writable: bool
    name: str
    absorb: Callable[[int, bytes], None] | None = None


class Memory:
    """The guest's physical address space on one engine."""

    def __init__(self, engine: Engine, ram_size: int) -> None:
        if ram_size % PAGE or ram_size < PAGE:
            raise ValueError(f"RAM size {ram_size:#x} is not a number of whole pages")
        self._engine = engine
        self.ram_size = ram_size
        self.ram = mmap.mmap(-1, ram_size)
        self._host: dict[int, int] = {}
        self._regions: list[Region] = []
        self._mmio: list[tuple[int, int, MmioRead, MmioWrite]] = []

    # -- the map
    def map_ram(self, address: int, length: int, offset: int, *, writable: bool = True,
                name: str = "ram") -> None:
        """Show *length* bytes of RAM from byte *offset* at *address*."""
        self._map(Region(address, address + length, self.ram, offset, writable, name))

    def map_rom(self, address: int, length: int, image: mmap.mmap, offset: int = 0, *,
                name: str = "rom",
                absorb: Callable[[int, bytes], None] | None = None) -> None:
        """Show *length* bytes of *image* from byte *offset* at *address*, read-only."""
        self._map(Region(address, address + length, image, offset, False, name, absorb))

    def map_mmio(self, address: int, length: int, read: MmioRead, write: MmioWrite) -> None:
        """Let a device answer a range."""
        self._engine.map_mmio(address, length, read, write)
        self._mmio.append((address, address + length, read, write))

    def unmap(self, address: int, length: int) -> None:
        """Take one earlier mapping of exactly this range away."""
        self._engine.unmap(address, length)
        end = address + length
        self._regions = [r for r in self._regions if (r.start, r.end) != (address, end)]
        self._mmio = [m for m in self._mmio if (m[0], m[1]) != (address, end)]

    def overlay(self, address: int, length: int, read: MmioRead, write: MmioWrite) -> bool:
        """Let a device answer a part of a hole, until `unveil`.

        False, and nothing changes, when something else than a hole is there.
        """
        if not self._carve(address, length):
            return False
        self.map_mmio(address, length, read, write)
        return True

    def overlay_ram(self, address: int, length: int, offset: int) -> bool:
        """Show RAM in a part of a hole, until `unveil`."""
        if not self._carve(address, length):
            return False
        self.map_ram(address, length, offset)
        return True

    def unveil(self, address: int, length: int) -> None:
        """Take an overlay away: the hole is there again."""
        self.unmap(address, length)
        self.map_mmio(address, length, _open_bus_read, _open_bus_write)

    def _carve(self, address: int, length: int) -> bool:
        """Make room in the hole that holds this range."""
        end = address + length
        for start, stop, read, _ in self._mmio:
            if start <= address and end <= stop and read is _open_bus_read:
                self.unmap(start, stop - start)
                for low, high in ((start, address), (end, stop)):
                    if low < high:
                        self.map_mmio(low, high - low, _open_bus_read, _open_bus_write)
                return True
        return False

    def fill_holes(self) -> None:
        """Map all that is not mapped yet as an open bus."""
        taken = sorted([(r.start, r.end) for r in self._regions]
                       + [(start, end) for start, end, _, _ in self._mmio])
        at = 0
        for start, end in [*taken, (ADDRESS_LIMIT, ADDRESS_LIMIT)]:
            if start > at:
                self.map_mmio(at, start - at, _open_bus_read, _open_bus_write)
            at = max(at, end)

    def _map(self, region: Region) -> None:
        host = self._host_address(region.buffer) + region.offset
        self._engine.map_memory(region.start, region.end - region.start, host,
                                rom=not region.writable)
        self._regions.append(region)

    def _host_address(self, buffer: mmap.mmap) -> int:
        key = id(buffer)
        if key not in self._host:
            self._host[key] = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        return self._host[key]

    # -- access from the host: devices' DMA, monitors, loaders
    def _find(self, address: int) -> Region | None:
        for region in self._regions:
            if region.start <= address < region.end:
                return region
        return None

    def _span(self, address: int, length: int) -> int:
        """How many of *length* bytes from an unmapped *address* stay unmapped."""
        above = [r.start for r in self._regions if r.start > address]
        return min(length, min(above) - address) if above else length

    def read(self, address: int, length: int) -> bytes:
        """*length* bytes from *address*; what is not RAM or ROM reads 0xff."""
        out = bytearray()
        while length > 0:
            region = self._find(address)
            if region is None:
                step = self._span(address, length)
                out += b"\xff" * step
            else:
                step = min(length, region.end - address)
                at = region.offset + address - region.start
                out += region.buffer[at:at + step]
            address += step
            length -= step
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """Store *data* at *address*; ROM and holes swallow it.

        Code that was translated from the bytes is forgotten.
        """
        done = 0
        while done < len(data):
            at = address + done
            region = self._find(at)
            if region is None:
                step = self._span(at, len(data) - done)
            else:
                step = min(len(data) - done, region.end - at)
                if region.writable:
                    offset = region.offset + at - region.start
                    region.buffer[offset:offset + step] = data[done:done + step]
                    self._engine.invalidate(self._host_address(region.buffer) + offset, step)
                elif region.absorb is not None:
                    region.absorb(at, data[done:done + step])
            done += step

    def write_protected(self, address: int, data: bytes) -> None:
        """The guest stored to a read-only region: discard, or let the region absorb it."""
        self._engine.counter.value += self._engine.io_weight
        region = self._find(address)
        if region is not None and region.absorb is not None:
            region.absorb(address, data)

    def load(self, offset: int, data: bytes) -> None:
        """Store *data* at byte *offset* of RAM itself, wherever that is mapped."""
        self.ram[offset:offset + len(data)] = data
        self._engine.invalidate(self._host_address(self.ram) + offset, len(data))


def _open_bus_read(_offset: int, size: int) -> int:
    return (1 << (8 * size)) - 1


def _open_bus_write(_offset: int, _size: int, _value: int) -> None:
    """Nobody answers."""
