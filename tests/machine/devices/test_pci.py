"""PCI configuration mechanism 1, headers and base address registers."""

from __future__ import annotations

import pytest

from machine.devices import pci
from machine.devices.pci import PciBus, PciFunction
from machine.ports import PortBus


def a_function(vendor_id: int = 0x8086, device_id: int = 0x1237) -> PciFunction:
    return PciFunction(pci.State(), vendor_id=vendor_id, device_id=device_id,
                       class_code=0x060102, revision=3, status=0x0280, interrupt_pin=1,
                       multifunction=True)


class Bus:
    """A bus on its ports, with a function at 00:00.0 and one at 00:01.3."""

    def __init__(self) -> None:
        self.pci = PciBus()
        self.ports = PortBus()
        self.ports.add(0xCF8, 4, self.pci.address_read, self.pci.address_write, width=4)
        self.ports.add(0xCFC, 4, self.pci.data_read, self.pci.data_write, width=4)
        self.first = a_function()
        self.second = a_function(device_id=0x7113)
        self.pci.add(self.first, 0x00, "first")
        self.pci.add(self.second, 0x0B, "second")

    def select(self, address: int) -> None:
        self.ports.write(0xCF8, address, 4)

    def read(self, port: int = 0xCFC, size: int = 4) -> int:
        return self.ports.read(port, size)

    def write(self, value: int, port: int = 0xCFC, size: int = 4) -> None:
        self.ports.write(port, value, size)


@pytest.fixture
def bus() -> Bus:
    return Bus()


# -- CONFIG_ADDRESS


def test_the_address_reads_back_whole(bus: Bus) -> None:
    for value in (0x7FFFFFFF, 0xFFFFFFFF, 0x80000844):
        bus.select(value)
        assert bus.read(0xCF8) == value


def test_narrow_reads_give_the_low_bits_of_the_address(bus: Bus) -> None:
    bus.select(0x80000844)
    assert [bus.read(port, 1) for port in (0xCF8, 0xCFA, 0xCFB)] == [0x44, 0x44, 0x44]
    assert [bus.read(port, 2) for port in (0xCF8, 0xCFA)] == [0x0844, 0x0844]


@pytest.mark.parametrize(("port", "size"), [
    (0xCF8, 1), (0xCF8, 2), (0xCF9, 1), (0xCFA, 2), (0xCFB, 1)])
def test_narrow_writes_of_the_address_are_lost(bus: Bus, port: int, size: int) -> None:
    bus.select(0x80000844)
    bus.write(0x1122, port, size)
    assert bus.read(0xCF8) == 0x80000844


# -- who answers


def test_finds_the_function_by_device_and_function(bus: Bus) -> None:
    bus.select(0x80000000)
    assert bus.read() == 0x12378086
    bus.select(0x80000B00)
    assert bus.read() == 0x71138086


@pytest.mark.parametrize("address", [
    0x80000800, 0x80000900, 0x8000F800, 0x80010000, 0x80800000, 0x00000000, 0x7F000000])
def test_nobody_there_reads_ones_and_swallows_writes(bus: Bus, address: int) -> None:
    bus.select(address)
    assert bus.read() == 0xFFFFFFFF
    assert bus.read(0xCFE, 2) == 0xFFFF
    assert bus.read(0xCFD, 1) == 0xFF
    bus.select(address | 0x40)
    bus.write(0x12345678)
    assert bus.first.config[0x40:0x44] == bytes(4)


def test_the_reserved_bits_of_the_address_are_not_decoded(bus: Bus) -> None:
    bus.select(0xFF000000)
    assert bus.read() == 0x12378086


def test_a_place_is_taken_once(bus: Bus) -> None:
    with pytest.raises(ValueError, match="PCI: slot 1 function 3 not available for third, in use "
                                         "by second,"):
        bus.pci.add(a_function(), 0x0B, "third")


def test_the_first_free_device_is_found(bus: Bus) -> None:
    bus.pci.add(a_function(), None, "third")
    assert bus.pci.names[0x08] == "third"       # 1.3 is taken, 1.0 is not
    bus.pci.add(a_function(), None, "fourth")
    assert bus.pci.names[0x10] == "fourth"


# -- CONFIG_DATA


def test_parts_of_a_register(bus: Bus) -> None:
    bus.select(0x80000000)
    assert [bus.read(0xCFC + i, 1) for i in range(4)] == [0x86, 0x80, 0x37, 0x12]
    assert [bus.read(port, 2) for port in (0xCFC, 0xCFE)] == [0x8086, 0x1237]


def test_unaligned_accesses_are_split_and_end_at_the_register(bus: Bus) -> None:
    bus.select(0x80000000)
    assert bus.read(0xCFD, 2) == 0x3780
    assert bus.read(0xCFD, 4) == 0xFF123780
    assert bus.read(0xCFE, 4) == 0xFFFF1237
    assert bus.read(0xCFF, 2) == 0xFF12
    bus.select(0x80000040)
    bus.write(0x11223344, 0xCFD, 4)
    assert bus.first.config[0x40:0x48].hex() == "0044332200000000"


def test_the_low_bits_of_the_address_are_ored_into_the_offset(bus: Bus) -> None:
    bus.select(0x80000003)
    assert bus.read(0xCFC, 4) & 0xFF == 0x12
    assert bus.read(0xCFD, 1) == 0x12
    bus.select(0x80000001)
    assert bus.read(0xCFC, 1) == 0x80


def test_nothing_lies_behind_the_last_register(bus: Bus) -> None:
    bus.select(0x800000FF)
    bus.write(0x5A, size=1)
    assert bus.read() == 0x5A
    bus.select(0x800000FD)
    bus.write(0x11223344)
    assert bus.first.config[0xFC:].hex() == "00443322"
    assert bus.first.config[0:4].hex() == "86803712"


# -- the header


def test_the_header_holds_what_the_function_is() -> None:
    assert a_function().config[:0x40].hex(" ", 4) == (
        "86803712 00008002 03020106 00008000 "
        "00000000 00000000 00000000 00000000 00000000 00000000 00000000 f41a0011 "
        "00000000 00000000 00000000 00010000")


def test_of_the_header_only_some_bits_can_be_written() -> None:
    function = a_function()
    before = bytes(function.config)
    for offset in range(0x40):
        function.config_write(offset, 0xFF, 1)
    changed = {i: function.config[i] for i in range(0x40) if function.config[i] != before[i]}
    assert changed == {0x04: 0x07, 0x05: 0x05, 0x0C: 0xFF, 0x3C: 0xFF}


def test_the_device_s_own_registers_can_be_written_whole() -> None:
    function = a_function()
    for offset in range(0x40, 0x100, 4):
        function.config_write(offset, 0xFFFFFFFF, 4)
    assert function.config[0x40:] == b"\xff" * 0xC0


def test_a_device_can_narrow_its_mask() -> None:
    function = a_function()
    function.write_mask[0x50] = 0x0F
    function.config[0x50] = 0xA0
    function.config_write(0x50, 0x55, 1)
    assert function.config_read(0x50, 1) == 0xA5


def test_error_bits_are_cleared_by_writing_ones() -> None:
    function = a_function()
    function.config[7] |= 0xF1
    function.config_write(6, 0x3000, 2)
    assert function.config_read(6, 2) == 0xC380
    function.config_write(6, 0xFFFF, 2)
    assert function.config_read(6, 2) == 0x0280


def test_reset_clears_what_the_bus_owns_and_no_more() -> None:
    function = a_function()
    for offset in range(0x100):
        function.config_write(offset, 0xA5, 1)
    function.config[7] |= 0x80
    function.reset()
    assert function.config[:0x40] == a_function().config[:0x40]
    assert function.config[0x40:] == b"\xa5" * 0xC0


# -- base address registers


class Mapped:
    def __init__(self) -> None:
        self.io: list[int | None] = []
        self.memory: list[int | None] = []
        self.function = a_function()
        self.function.add_bar(0, 0x1000, on_map=self.memory.append)
        self.function.add_bar(4, 0x20, io=True, on_map=self.io.append)

    def put(self, offset: int, value: int, size: int = 4) -> None:
        self.function.config_write(offset, value, size)


@pytest.fixture
def bars() -> Mapped:
    return Mapped()


def test_sizing_by_all_ones(bars: Mapped) -> None:
    for offset in range(0x10, 0x34, 4):
        bars.put(offset, 0xFFFFFFFF)
    read = [bars.function.config_read(offset, 4) for offset in range(0x10, 0x34, 4)]
    assert read == [0xFFFFF000, 0, 0, 0, 0xFFFFFFE1, 0, 0, 0x11001AF4, 0]


def test_a_region_of_two_bytes_reads_as_in_qemu() -> None:
    function = a_function()
    function.add_bar(0, 2, on_map=lambda address: None)
    function.config_write(0x10, 0xFFFFFFFF, 4)
    assert function.config_read(0x10, 4) == 0xFFFFFFFE


def test_a_region_appears_when_the_command_register_allows(bars: Mapped) -> None:
    bars.put(0x10, 0xFEB00000)
    bars.put(0x20, 0xC000)
    assert (bars.memory, bars.io) == ([], [])
    bars.put(0x04, 2, 2)
    assert (bars.memory, bars.io) == ([0xFEB00000], [])
    bars.put(0x04, 3, 2)
    assert (bars.memory, bars.io) == ([0xFEB00000], [0xC000])
    bars.put(0x04, 0, 2)
    assert (bars.memory, bars.io) == ([0xFEB00000, None], [0xC000, None])


def test_a_region_moves_and_tells_only_then(bars: Mapped) -> None:
    bars.put(0x04, 3, 2)
    bars.put(0x20, 0xC000)
    bars.put(0x20, 0xC01F)
    bars.put(0x3C, 9, 1)
    bars.put(0x20, 0xC040)
    assert bars.io == [0xC000, 0xC040]


@pytest.mark.parametrize(("offset", "value"), [
    (0x10, 0), (0x10, 0xFFFFFFFF), (0x20, 0), (0x20, 0xFFFFFFFF), (0x20, 0x10000)])
def test_sizing_values_and_impossible_addresses_map_nothing(bars: Mapped, offset: int,
                                                            value: int) -> None:
    bars.put(0x04, 3, 2)
    bars.put(offset, value)
    assert (bars.memory, bars.io) == ([], [])


def test_reset_unmaps_and_clears_the_register(bars: Mapped) -> None:
    bars.put(0x20, 0xC000)
    bars.put(0x04, 1, 2)
    bars.function.reset()
    assert bars.io == [0xC000, None]
    assert bars.function.config_read(0x20, 4) == 1


def test_restored_state_is_mapped(bars: Mapped) -> None:
    bars.put(0x20, 0xC000)
    bars.put(0x04, 1, 2)
    other = Mapped()
    other.function.state = pci.State(bytearray(bars.function.config))
    other.function.restored()
    assert other.io == [0xC000]


@pytest.mark.parametrize(("index", "size", "io"), [
    (0, 3, False), (0, 1, False), (0, 2, True), (0, 0, False), (6, 16, False), (-1, 16, True)])
def test_a_bar_that_cannot_be_is_refused(index: int, size: int, io: bool) -> None:
    with pytest.raises(ValueError, match="base address register"):
        a_function().add_bar(index, size, io=io, on_map=lambda address: None)
