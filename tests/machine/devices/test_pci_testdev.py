"""pci-testdev: its configuration space, and the tests a guest chooses (QEMU's pci-testdev.rst)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machine.devices.pci_testdev import MEMORY_SIZE, PORTS_SIZE, PciTestdev

NAMES = ["mmio-no-eventfd", "mmio-wildcard-eventfd", "mmio-datamatch-eventfd",
         "portio-no-eventfd", "portio-wildcard-eventfd", "portio-datamatch-eventfd"]


class Board:
    def __init__(self) -> None:
        self.memory: list[int | None] = []
        self.ports: list[int | None] = []
        self.device = PciTestdev(map_memory=self.memory.append, map_ports=self.ports.append)

    def write(self, test: int, offset: int, value: int, size: int = 1) -> None:
        """A write in the memory of tests 0 to 2 or the ports of 3 to 5."""
        if test < 3:
            self.device.memory_write(offset, size, value)
        else:
            self.device.ports_write(offset, value, size)

    def reader(self, test: int) -> Callable[[int, int], int]:
        return self.device.memory_read if test < 3 else self.device.ports_read

    def choose(self, test: int) -> dict[str, object]:
        """Choose a test, and its header."""
        self.write(test, 0, test % 3)
        return self.header(test)

    def header(self, test: int) -> dict[str, object]:
        read = self.reader(test)
        name = bytearray()
        while byte := read(0x10 + len(name), 1):
            name.append(byte)
        return {"test": read(0, 1), "width": read(1, 1), "offset": read(4, 4),
                "data": read(8, 1), "count": read(12, 4), "name": name.decode()}


@pytest.fixture
def board() -> Board:
    return Board()


def test_configuration_space(board: Board) -> None:
    config = board.device.config_read
    assert (config(0, 4), config(8, 4), config(0x2C, 4)) == (0x0005_1B36, 0x00FF_0000,
                                                             0x1100_1AF4)
    for bar, size, kind in ((0x10, MEMORY_SIZE, 0), (0x14, PORTS_SIZE, 1)):
        board.device.config_write(bar, 0xFFFF_FFFF, 4)
        assert config(bar, 4) == (1 << 32) - size | kind
    board.device.config_write(0x10, 0xFEB0_0000, 4)
    board.device.config_write(0x14, 0xC000, 4)
    board.device.config_write(4, 3, 2)
    assert (board.memory[-1], board.ports[-1]) == (0xFEB0_0000, 0xC000)


@pytest.mark.parametrize("test", range(6))
def test_the_headers(board: Board, test: int) -> None:
    wildcard = test % 3 == 1
    middle = (MEMORY_SIZE if test < 3 else PORTS_SIZE) // 2
    assert board.choose(test) == {
        "test": test, "width": 1, "offset": middle + test, "count": 0, "name": NAMES[test],
        "data": 0xCE if wildcard else 0xFA}
    read = board.reader(test)
    assert read(0x10 + len(NAMES[test]) + 1, 1) == 0
    assert read(middle, 4) == 0


@pytest.mark.parametrize("test", [0, 3])
def test_writes_of_the_value_are_counted(board: Board, test: int) -> None:
    offset = board.choose(test)["offset"]
    assert isinstance(offset, int)
    for value, count in ((0xFA, 1), (0x11, 1), (0xFA, 2)):
        board.write(test, offset, value)
        assert board.header(test)["count"] == count
    board.write(test, offset + 1, 0xFA)
    assert board.header(test)["count"] == 2
    board.write(test, offset, 0x11FA, 2)            # as bytes
    assert board.header(test)["count"] == 3
    assert board.choose(test)["count"] == 0


@pytest.mark.parametrize(("test", "value", "size", "events", "count"), [
    (1, 0x55, 1, 1, 0), (1, 0x55, 2, 1, 0), (1, 0x55, 4, 1, 0), (2, 0xFA, 1, 1, 0),
    (2, 0x55, 1, 0, 0), (2, 0xFA, 4, 0, 1), (4, 0x55, 1, 1, 0), (4, 0x55, 4, 0, 1),
    (5, 0xFA, 1, 1, 0), (5, 0x55, 1, 0, 0), (5, 0xFA, 2, 0, 1)])
def test_what_sets_an_event_off_is_not_counted(board: Board, test: int, value: int, size: int,
                                               events: int, count: int) -> None:
    offset = board.choose(test)["offset"]
    assert isinstance(offset, int)
    board.write(test, offset, value, size)
    assert (board.device.state.events, board.header(test)["count"]) == (events, count)


def test_memory_and_ports_show_the_same_test(board: Board) -> None:
    board.choose(0)
    assert board.device.ports_read(0, 1) == 0
    assert board.device.ports_read(0x10, 4) == int.from_bytes(b"mmio", "little")
    board.device.ports_write(0, 2, 1)
    assert board.device.memory_read(0, 1) == 5


@pytest.mark.parametrize("end", [lambda board: board.write(0, 0, 3),
                                 lambda board: board.write(3, 0, 0xFF),
                                 lambda board: board.device.reset()])
def test_no_test_reads_zero(board: Board, end: Callable[[Board], None]) -> None:
    assert board.device.memory_read(0, 4) == 0
    board.choose(0)
    end(board)
    assert [board.device.memory_read(at, 4) for at in range(0, 0x20, 4)] == [0] * 8
    board.write(0, MEMORY_SIZE // 2, 0xFA)
    assert board.choose(0)["count"] == 0
