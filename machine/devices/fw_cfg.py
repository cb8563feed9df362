"""fw_cfg: how the machine hands firmware its tables, by a selector and a data port.

Follows QEMU's docs/specs/fw_cfg.rst.

========  ==================================================================
port      access
========  ==================================================================
510       write, 16 bits: select an item and go to its start
          read, 8 bits: the same as 511
511       read, 8 bits: the item's next byte, 0 beyond its end
514-51b   read: "QEMU CFG"; write, 32 bits, big endian: the high half (514)
          and the low half (518) of a DMA descriptor's address: the latter
          starts it
========  ==================================================================

DMA descriptor in guest memory, big endian: control (32 bits), length (32),
address (64).  Control: bit 0 error (by the device), 1 read, 2 skip, 3 select the
item in bits 31-16, 4 write; of read, write and skip the first in that order
counts.  When done the device stores 0, or 1 for an error, in the control field.

====  ==========================================================================
key   item
====  ==========================================================================
0     "QEMU"
1     interface: bit 0 this one, bit 1 DMA (32 bits, little endian)
19    file directory: count, then per file size (32 bits), key (16), 0 (16), name
      (56 bytes, NUL padded), all big endian, room for 32 files
20…   the files, in the order of their names
====  ==========================================================================

Bit 15 of a key chooses the architecture's items; bit 14 once meant writing through
the data port and is ignored, as those writes are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from machine.wiring import PhysicalMemory

__all__ = ["FwCfg", "State"]

_log = logging.getLogger("snooze.guest")

SIGNATURE, INTERFACE, FILE_DIRECTORY, FIRST_FILE, FILE_SLOTS = 0x00, 0x01, 0x19, 0x20, 0x20
INTERFACE_TRADITIONAL, INTERFACE_DMA = 0x01, 0x02
KEY_MASK = 0xBFFF                   # without the write bit
KEY_NUMBER = 0x3FFF                 # without the architecture bit as well
NO_ITEM = 0xFFFF
FILE_ENTRY_SIZE, FILE_NAME_SIZE = 64, 56

DMA_SIGNATURE = b"QEMU CFG"
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 0x01, 0x02, 0x04, 0x08, 0x10
DMA_DESCRIPTOR_SIZE = 16
#: a length is the guest's to choose, so zeros are stored in pieces
ZEROS = bytes(1 << 20)
ADDRESS_MASK = (1 << 64) - 1


@dataclass
class State:
    #: what the guest selected, NO_ITEM where it does not exist
    key: int = SIGNATURE
    offset: int = 0
    #: the high half of a descriptor's address that has been written so far
    dma_address: int = 0
    #: contents of the files that the guest has written to
    written: dict[str, bytes] = field(default_factory=dict)


@dataclass
class _File:
    data: bytes
    on_write: Callable[[bytes], None] | None


class FwCfg:
    """*memory* is where DMA goes."""

    def __init__(self, *, memory: PhysicalMemory) -> None:
        self.state = State()
        self._memory = memory
        self._items: dict[int, bytes] = {}
        self._files: dict[str, _File] = {}
        self._names: list[str] = []
        self.add(SIGNATURE, b"QEMU")
        self.add(INTERFACE, (INTERFACE_TRADITIONAL | INTERFACE_DMA).to_bytes(4, "little"))
        self._items[FILE_DIRECTORY] = self._directory()

    def reset(self) -> None:
        """Select the signature.  What the guest wrote to files stays."""
        self._select(SIGNATURE)
        self.state.dma_address = 0

    # -- the machine's side --------------------------------------------------

    def add(self, key: int, data: bytes) -> None:
        """Put *data* under a fixed *key*."""
        number = key & KEY_NUMBER
        if key != key & KEY_MASK or number >= FIRST_FILE and not key & ~KEY_NUMBER \
                or number >= FIRST_FILE + FILE_SLOTS:
            raise ValueError(f"{key:#x} is no key of a fixed item")
        if key in self._items:
            raise ValueError(f"fw_cfg item {key:#x} exists")
        self._items[key] = bytes(data)

    def add_file(self, name: str, data: bytes, *,
                 on_write: Callable[[bytes], None] | None = None) -> None:
        """Put *data* into the directory as *name* (at most 55 bytes).

        With *on_write* the guest may write to it by DMA; it is told the new contents.
        Keys follow the names' order, so they change while files are being added.
        """
        if not 0 < len(name.encode()) < FILE_NAME_SIZE:
            raise ValueError(f"{name!r} is no file name of 1 to {FILE_NAME_SIZE - 1} bytes")
        if name in self._files:
            raise ValueError(f"fw_cfg file {name!r} exists")
        if len(self._files) == FILE_SLOTS:
            raise ValueError(f"no slot is left for the fw_cfg file {name!r}")
        self._files[name] = _File(bytes(data), on_write)
        self._names = sorted(self._files, key=str.encode)
        self._items[FILE_DIRECTORY] = self._directory()

    def _directory(self) -> bytes:
        entries = [len(self._names).to_bytes(4, "big")]
        for index, name in enumerate(self._names):
            entries.append(
                len(self._files[name].data).to_bytes(4, "big")
                + (FIRST_FILE + index).to_bytes(2, "big") + bytes(2)
                + name.encode().ljust(FILE_NAME_SIZE, b"\0"))
        return b"".join(entries).ljust(4 + FILE_ENTRY_SIZE * FILE_SLOTS, b"\0")

    # -- 510 and 511 ---------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        if size != 1:
            return 0                    # no such access: nothing is taken from the item
        state = self.state
        data = self._data()
        if state.offset >= len(data):
            return 0
        value = data[state.offset]
        state.offset += 1
        return value

    def write(self, offset: int, value: int, size: int) -> None:
        if offset == 0 and size == 2:
            self._select(value)

    def _select(self, key: int) -> None:
        exists = key & KEY_NUMBER < FIRST_FILE + FILE_SLOTS
        self.state.key = key & KEY_MASK if exists else NO_ITEM
        self.state.offset = 0

    def _file_name(self) -> str | None:
        """The name of the selected file, None where that is no file."""
        index = self.state.key - FIRST_FILE
        return self._names[index] if 0 <= index < len(self._names) else None

    def _data(self) -> bytes:
        """The selected item; an item that does not exist is empty."""
        name = self._file_name()
        if name is None:
            return self._items.get(self.state.key, b"")
        return self.state.written.get(name, self._files[name].data)

    # -- 514 … 51b -------------------------------------------------------------

    def dma_read(self, offset: int, size: int) -> int:
        return int.from_bytes(DMA_SIGNATURE[offset:offset + size], "little")

    def dma_write(self, offset: int, value: int, size: int) -> None:
        if size != 4 or offset not in (0, 4):
            return
        half = int.from_bytes(value.to_bytes(4, "little"), "big")
        if offset == 0:
            self.state.dma_address = half << 32
        else:
            address, self.state.dma_address = self.state.dma_address | half, 0
            self._transfer(address)

    def _transfer(self, descriptor: int) -> None:
        raw = self._memory.read(descriptor, DMA_DESCRIPTOR_SIZE)
        control = int.from_bytes(raw[0:4], "big")
        length = int.from_bytes(raw[4:8], "big")
        address = int.from_bytes(raw[8:16], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        error = False
        if control & DMA_READ:
            self._dma_read(address, length)
        elif control & DMA_WRITE:
            error = not self._dma_write(address, length)
        elif control & DMA_SKIP:
            self._take(length)
        if error:
            _log.warning("fw_cfg: item %#x cannot be written so", self.state.key)
        self._memory.write(descriptor, (DMA_ERROR if error else 0).to_bytes(4, "big"))

    def _take(self, length: int) -> bytes:
        """Up to *length* bytes of the item from where the guest is; go on behind them."""
        state = self.state
        part = self._data()[state.offset:state.offset + length]
        state.offset += len(part)
        return part

    def _dma_read(self, address: int, length: int) -> None:
        part = self._take(length)
        if part:
            self._memory.write(address, part)
        address, length = address + len(part), length - len(part)
        while length:                   # beyond the item's end it is zeros
            piece = min(length, len(ZEROS))
            self._memory.write(address & ADDRESS_MASK, ZEROS[:piece])
            address, length = address + piece, length - piece

    def _dma_write(self, address: int, length: int) -> bool:
        """Whether that could be done: the guest cannot write behind a file's end."""
        if not length:
            return True
        state = self.state
        name = self._file_name()
        data = self._data()
        start, end = state.offset, state.offset + length
        if name is None or end > len(data):
            state.offset = min(end, max(start, len(data)))
            return False
        file = self._files[name]
        state.offset = end
        if file.on_write is None:
            return False
        new = data[:start] + self._memory.read(address, length) + data[end:]
        state.written[name] = new
        file.on_write(new)
        return True
