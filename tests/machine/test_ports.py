"""What the port bus promises; the odd cases were seen on QEMU 10.0.2 (`i` and `o`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.ports import PortBus


class Device:
    """Remembers accesses; byte *n* of its range reads `first + n`."""

    def __init__(self, first: int = 0x10) -> None:
        self.first = first
        self.log: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.log.append(("r", offset, size, 0))
        return sum((self.first + offset + i & 0xFF) << (8 * i) for i in range(size))

    def write(self, offset: int, value: int, size: int) -> None:
        self.log.append(("w", offset, size, value))


def bus_with(base: int, count: int, width: int = 1, first: int = 0x10) -> tuple[PortBus, Device]:
    bus = PortBus()
    device = Device(first)
    bus.add(base, count, device.read, device.write, width=width, name="it")
    return bus, device


@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_open_port_reads_all_ones_and_swallows_writes(size: int) -> None:
    bus = PortBus()
    bus.write(0x80, 0x12345678, size)
    assert bus.read(0x80, size) == (1 << 8 * size) - 1


def test_a_device_sees_offsets_in_its_range() -> None:
    bus, device = bus_with(0x3F8, 8)
    assert bus.read(0x3FD, 1) == 0x15
    bus.write(0x3F8, 0x41, 1)
    assert device.log == [("r", 5, 1, 0), ("w", 0, 1, 0x41)]


@pytest.mark.parametrize(("width", "reads"), [(1, [1, 1, 1, 1]), (2, [2, 2]), (4, [4])])
def test_a_wide_access_is_split_to_what_the_device_implements(
        width: int, reads: list[int]) -> None:
    bus, device = bus_with(0x600, 8, width)
    assert bus.read(0x600, 4) == 0x13121110
    assert [size for _, _, size, _ in device.log] == reads
    device.log.clear()
    bus.write(0x600, 0x44332211, 4)
    assert [size for _, _, size, _ in device.log] == reads
    assert sum(value << (8 * offset) for _, offset, _, value in device.log) == 0x44332211


def test_an_unaligned_access_is_split_at_the_alignment() -> None:
    bus, device = bus_with(0x600, 8, 4)
    assert bus.read(0x601, 4) == 0x14131211
    assert [(offset, size) for _, offset, size, _ in device.log] == [(1, 1), (2, 2), (4, 1)]
    device.log.clear()
    bus.write(0x603, 0xBBAA, 2)
    assert device.log == [("w", 3, 1, 0xAA), ("w", 4, 1, 0xBB)]


def test_a_split_access_goes_on_in_the_next_devices_range() -> None:
    bus, low = bus_with(0x20, 2, first=0x10)
    high = Device(0x80)
    bus.add(0x22, 2, high.read, high.write)
    assert bus.read(0x20, 4) == 0x81801110


def test_a_narrow_device_beside_open_ports_reads_ones_there() -> None:
    bus, _ = bus_with(0x3FF, 1)
    assert bus.read(0x3FF, 2) == 0xFF10


def test_an_aligned_access_that_begins_at_an_open_port_reaches_nobody() -> None:
    bus, device = bus_with(0x505, 1)
    assert bus.read(0x504, 2) == 0xFFFF
    assert bus.read(0x504, 4) == 0xFFFFFFFF
    assert bus.read(0x503, 4) == 0xFFFFFFFF
    bus.write(0x504, 0x0101, 2)
    assert device.log == []


def test_an_unaligned_access_from_an_open_port_reaches_the_device_behind_it() -> None:
    bus, _ = bus_with(0x20, 2)
    assert bus.read(0x1F, 2) == 0x10FF


def test_past_the_last_port_there_are_zeros_and_not_port_0() -> None:
    bus, device = bus_with(0, 16)
    assert bus.read(0xFFFF, 4) == 0x000000FF
    bus.write(0xFFFF, 0x0101, 2)
    assert device.log == []


def test_a_value_is_cut_to_the_size_of_the_access() -> None:
    bus = PortBus()
    written: list[int] = []
    bus.add(0x70, 1, lambda offset, size: 0x1FF, lambda offset, value, size: written.append(value))
    assert bus.read(0x70, 1) == 0xFF
    bus.write(0x70, 0x1234, 1)
    assert written == [0x34]


def test_a_missing_read_gives_ones_and_a_missing_write_is_ignored() -> None:
    bus = PortBus()
    bus.add(0x92, 1, None, None)
    assert bus.read(0x92, 1) == 0xFF
    bus.write(0x92, 1, 1)


def test_a_later_device_takes_ports_over() -> None:
    bus, pci = bus_with(0xCF8, 4, 4)
    reset = Device(0x77)
    bus.add(0xCF9, 1, reset.read, reset.write, name="reset control")
    assert bus.read(0xCF9, 1) == 0x77
    assert bus.read(0xCF8, 4) == 0x13121110
    assert (bus.name_of(0xCF8), bus.name_of(0xCF9)) == ("it", "reset control")


def test_removed_ports_are_open_again() -> None:
    bus, device = bus_with(0x600, 64, 4)
    bus.remove(0x600, 64)
    assert bus.read(0x600, 2) == 0xFFFF and bus.name_of(0x600) is None
    bus.remove(0x600, 64)
    assert device.log == []


@given(st.integers(0x5F8, 0x618), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]))
def test_a_read_is_its_bytes_wherever_it_begins_in_a_range(
        port: int, size: int, width: int) -> None:
    bus, _ = bus_with(0x5F0, 0x40, width)
    assert bus.read(port, size) == sum(
        bus.read(port + i, 1) << (8 * i) for i in range(size))
