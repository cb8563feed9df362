"""The PCI bus: configuration mechanism 1, and the configuration space of a function.

Follows the PCI Local Bus Specification 2.1 (chapters 3.2.2.3.2 and 6).

=======  ====================================================================
port     access
=======  ====================================================================
cf8      32 bits: CONFIG_ADDRESS.  Bit 31 enable, 23-16 bus, 15-11 device,
         10-8 function, 7-2 register.  Narrower writes are ignored; narrower
         reads give the low bits whatever port they are from (as in QEMU)
cfc-cff  CONFIG_DATA: 1, 2 or 4 bytes of the register that is addressed
=======  ====================================================================

Nobody there, another bus than 0, or bit 31 clear: reads give all ones, writes
are lost.  QEMU ORs bits 1-0 of CONFIG_ADDRESS into the register's offset.

A function's registers 00-3f are the standard header, of which the guest can
write what the masks below allow; registers 40-ff are the device's own and can be
written as a whole unless the device narrows `write_mask`.  A bit in `w1c_mask`
is cleared by writing 1.  Accesses come aligned to their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["PciBus", "BusState", "PciFunction", "State"]

CONFIG_SIZE = 256
HEADER_SIZE = 0x40

# registers of the header
VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION_ID, CLASS_CODE = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09
CACHE_LINE_SIZE, HEADER_TYPE, BASE_ADDRESS_0 = 0x0C, 0x0E, 0x10
SUBSYSTEM_VENDOR_ID, SUBSYSTEM_ID, INTERRUPT_LINE, INTERRUPT_PIN = 0x2C, 0x2E, 0x3C, 0x3D
BARS = 6

COMMAND_IO, COMMAND_MEMORY = 0x0001, 0x0002
#: I/O, memory, bus master, SERR#, INTx disable
COMMAND_WRITABLE = 0x0507
#: the error bits: data parity, target abort (both ways), master abort, SERR#, parity
STATUS_W1C = 0xF900
MULTIFUNCTION = 0x80

#: what QEMU's own devices give as their subsystem (Red Hat, "QEMU Virtual Machine")
SUBSYSTEM = (0x1AF4, 0x1100)

ADDRESS_ENABLE = 1 << 31
BAR_IO = 0x01


def _ones(size: int) -> int:
    return (1 << 8 * size) - 1


@dataclass
class State:
    """A function's state.  Devices with more to remember derive theirs from it."""

    config: bytearray = field(default_factory=lambda: bytearray(CONFIG_SIZE))


@dataclass
class _Bar:
    register: int
    size: int
    io: bool
    on_map: Callable[[int | None], None]
    mapped: int | None = None


class PciFunction:
    """One function's configuration space; devices derive from it.

    *class_code* is 24 bits: class, subclass, programming interface.
    *interrupt_pin* is 1-4 for INTA#-INTD#, 0 for none.
    """

    state: State

    def __init__(self, state: State, *, vendor_id: int, device_id: int, class_code: int,
                 revision: int = 0, status: int = 0, interrupt_pin: int = 0,
                 multifunction: bool = False) -> None:
        self.state = state
        config = state.config
        for register, value, size in (
                (VENDOR_ID, vendor_id, 2), (DEVICE_ID, device_id, 2), (STATUS, status, 2),
                (REVISION_ID, revision, 1), (CLASS_CODE, class_code, 3),
                (HEADER_TYPE, MULTIFUNCTION if multifunction else 0, 1),
                (SUBSYSTEM_VENDOR_ID, SUBSYSTEM[0], 2), (SUBSYSTEM_ID, SUBSYSTEM[1], 2),
                (INTERRUPT_PIN, interrupt_pin, 1)):
            config[register:register + size] = value.to_bytes(size, "little")
        self.write_mask = bytearray(HEADER_SIZE) + b"\xff" * (CONFIG_SIZE - HEADER_SIZE)
        self.write_mask[COMMAND:COMMAND + 2] = COMMAND_WRITABLE.to_bytes(2, "little")
        self.write_mask[CACHE_LINE_SIZE] = self.write_mask[INTERRUPT_LINE] = 0xFF
        self.w1c_mask = bytearray(CONFIG_SIZE)
        self.w1c_mask[STATUS:STATUS + 2] = STATUS_W1C.to_bytes(2, "little")
        self._bars: list[_Bar] = []

    @property
    def config(self) -> bytearray:
        """The 256 bytes of configuration space, past all masks."""
        return self.state.config

    def add_bar(self, index: int, size: int, *, io: bool = False,
                on_map: Callable[[int | None], None]) -> None:
        """Give the function a base address register for *size* bytes (a power of two).

        *on_map* is called with the address whenever that changes, and with None when the
        region is nowhere any more.
        """
        if size & (size - 1) or size < (4 if io else 2) or not 0 <= index < BARS:
            raise ValueError(f"no base address register {index} can have {size} bytes")
        register = BASE_ADDRESS_0 + 4 * index
        # A region of less than 16 bytes makes flag bits writable: so it is in QEMU, whose
        # pvpanic-pci has one of 2 bytes.
        self.write_mask[register:register + 4] = (-size & 0xFFFF_FFFF).to_bytes(4, "little")
        self.config[register] = BAR_IO if io else 0
        self._bars.append(_Bar(register, size, io, on_map))

    def reset(self) -> None:
        """RST#: command, error bits, cache line size, interrupt line and BARs."""
        config = self.config
        for register in (COMMAND, COMMAND + 1, STATUS, STATUS + 1, CACHE_LINE_SIZE,
                         INTERRUPT_LINE):
            config[register] &= ~(self.write_mask[register] | self.w1c_mask[register])
        for bar in self._bars:
            config[bar.register:bar.register + 4] = bytes((BAR_IO if bar.io else 0, 0, 0, 0))
        self._map_bars()

    def restored(self) -> None:
        """After `state` was replaced: tell the outside what follows from it."""
        self._map_bars()

    def config_read(self, offset: int, size: int) -> int:
        """Hook: what a read of *size* bytes gives."""
        return int.from_bytes(self.config[offset:offset + size], "little")

    def config_write(self, offset: int, value: int, size: int) -> None:
        """Hook: a write.  A device that acts on one calls this first, then looks."""
        config = self.config
        for register in range(offset, min(offset + size, CONFIG_SIZE)):
            byte, mask = value & 0xFF, self.write_mask[register]
            old = config[register] & ~(byte & self.w1c_mask[register])
            config[register] = old & ~mask | byte & mask
            value >>= 8
        if self._bars and offset < BASE_ADDRESS_0 + 4 * BARS:
            self._map_bars()

    def _map_bars(self) -> None:
        for bar in self._bars:
            address = self._address(bar)
            if address != bar.mapped:
                bar.mapped = address
                bar.on_map(address)

    def _address(self, bar: _Bar) -> int | None:
        command = self.config[COMMAND]
        if not command & (COMMAND_IO if bar.io else COMMAND_MEMORY):
            return None
        raw = int.from_bytes(self.config[bar.register:bar.register + 4], "little")
        address = raw & -bar.size
        limit = 0xFFFF if bar.io else 0xFFFF_FFFE
        # Software sizes a register by all ones: that, and 0, is no place.
        if address == 0 or address + bar.size - 1 > limit:
            return None
        return address


@dataclass
class BusState:
    config_address: int = 0


class PciBus:
    """Bus 0: who answers which configuration cycle."""

    def __init__(self) -> None:
        self.state = BusState()
        self.functions: dict[int, PciFunction] = {}
        #: what the functions are called, for people
        self.names: dict[int, str] = {}

    def add(self, device: PciFunction, devfn: int | None, name: str) -> None:
        """Put *device* at *devfn* (device << 3 | function), None for the first free device.

        ValueError, in QEMU's words, when that is taken.
        """
        if devfn is None:
            devfn = next((at for at in range(0, 256, 8) if at not in self.functions), None)
            if devfn is None:
                raise ValueError(f"PCI: no slot/function available for {name}, all in use or "
                                 "reserved")
        if devfn in self.functions:
            raise ValueError(
                f"PCI: slot {devfn >> 3} function {devfn & 7} not available for {name}, in use "
                f"by {self.names[devfn]},id=(null)")
        self.functions[devfn] = device
        self.names[devfn] = name

    def address_read(self, offset: int, size: int) -> int:
        return self.state.config_address & _ones(size)

    def address_write(self, offset: int, value: int, size: int) -> None:
        if offset == 0 and size == 4:
            self.state.config_address = value

    def data_read(self, offset: int, size: int) -> int:
        function = self._addressed()
        if function is None:
            return _ones(size)
        return function.config_read((self.state.config_address | offset) & 0xFF, size)

    def data_write(self, offset: int, value: int, size: int) -> None:
        function = self._addressed()
        if function is not None:
            function.config_write((self.state.config_address | offset) & 0xFF, value, size)

    def _addressed(self) -> PciFunction | None:
        address = self.state.config_address
        # Bits 30-24 are reserved and not decoded.
        if not address & ADDRESS_ENABLE or address & 0x00FF_0000:
            return None
        return self.functions.get(address >> 8 & 0xFF)
