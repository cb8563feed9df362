"""isa-debug-exit: the code the guest leaves with."""

from __future__ import annotations

import pytest

from machine.devices.debug_exit import DEFAULT_IOBASE, DEFAULT_IOSIZE, DebugExit
from machine.ports import PortBus


@pytest.fixture
def codes() -> list[int]:
    return []


@pytest.fixture
def ports(codes: list[int]) -> PortBus:
    bus = PortBus()
    device = DebugExit(exit=codes.append)
    bus.add(DEFAULT_IOBASE, DEFAULT_IOSIZE, device.read, device.write, width=4)
    return bus


@pytest.mark.parametrize(("value", "size", "code"), [
    (0, 1, 1), (3, 1, 7), (0xFF, 1, 0x1FF), (0x1234, 2, 0x2469), (0x12345, 4, 0x2468B)])
def test_code_is_twice_the_value_plus_one(ports: PortBus, codes: list[int], value: int,
                                          size: int, code: int) -> None:
    ports.write(0x501, value, size)
    assert codes == [code]


def test_the_second_port_takes_bytes(ports: PortBus, codes: list[int]) -> None:
    ports.write(0x502, 0x2211, 2)
    assert codes == [0x23]


def test_other_ports_do_nothing(ports: PortBus, codes: list[int]) -> None:
    ports.write(0x503, 5, 1)
    ports.write(0x500, 5, 1)
    assert codes == []


def test_reads_0(ports: PortBus, codes: list[int]) -> None:
    assert [ports.read(0x501, size) for size in (1, 2, 4)] == [0, 0, 0]
    assert ports.read(0x502, 2) == 0xFF00
    assert codes == []


def test_a_reset_does_not_exit(codes: list[int]) -> None:
    DebugExit(exit=codes.append).reset()
    assert codes == []
