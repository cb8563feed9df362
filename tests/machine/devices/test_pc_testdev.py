"""pc-testdev: what QEMU's does, port by port."""

from __future__ import annotations

import pytest

from machine.devices.pc_testdev import MEMORY_SIZE, PcTestdev, reads_zero


class Board:
    def __init__(self) -> None:
        self.lines: list[tuple[int, bool]] = []
        self.device = PcTestdev(line=lambda gsi, level: self.lines.append((gsi, level)))


@pytest.fixture
def board() -> Board:
    return Board()


def test_the_data_ports_hold_four_bytes(board: Board) -> None:
    device = board.device
    assert device.data_read(0, 4) == 0
    device.data_write(0, 0x1234_5678, 4)
    assert [device.data_read(0, size) for size in (1, 2, 4)] == [0x78, 0x5678, 0x1234_5678]
    assert [device.data_read(at, 1) for at in range(4)] == [0x78, 0x56, 0x34, 0x12]
    device.data_write(1, 0xAA, 1)
    device.data_write(2, 0xBBCC, 2)
    assert device.data_read(0, 4) == 0xBBCC_AA78


def test_what_would_be_past_the_last_byte_is_dropped_and_reads_zero(board: Board) -> None:
    board.device.data_write(3, 0x1122_3344, 4)
    assert board.device.data_read(0, 4) == 0x4400_0000
    assert board.device.data_read(3, 4) == 0x44
    board.device.data_write(0, 0x0101_0101, 4)
    assert board.device.data_read(0, 4) == 0x0101_0101


def test_a_reset_leaves_what_was_written(board: Board) -> None:
    board.device.data_write(0, 0x55, 1)
    board.device.memory_write(0, 1, 0x66)
    board.device.reset()
    assert (board.device.data_read(0, 1), board.device.memory_read(0, 1)) == (0x55, 0x66)


@pytest.mark.parametrize("gsi", [0, 1, 15, 23])
def test_interrupt_ports_drive_lines(board: Board, gsi: int) -> None:
    for value in (1, 0, 0xFF):
        board.device.irq_write(gsi, value, 1)
    assert board.lines == [(gsi, True), (gsi, False), (gsi, True)]


def test_the_flush_port_does_nothing_that_is_seen(board: Board) -> None:
    board.device.flush_write(0, 0x1000, 4)
    assert board.device.data_read(0, 4) == 0
    assert board.lines == []
    assert reads_zero(0, 4) == 0


def test_the_memory_reads_back(board: Board) -> None:
    device = board.device
    device.memory_write(0x100, 8, 0x1122_3344_5566_7788)
    assert device.memory_read(0x100, 8) == 0x1122_3344_5566_7788
    assert [device.memory_read(0x100 + at, 1) for at in range(8)] == [
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]
    device.memory_write(0x102, 2, 0xABCD)
    assert device.memory_read(0x100, 4) == 0xABCD_7788


def test_the_memory_ends(board: Board) -> None:
    device = board.device
    device.memory_write(MEMORY_SIZE - 2, 4, 0x1122_3344)
    assert device.memory_read(MEMORY_SIZE - 2, 4) == 0x3344
    assert device.memory_read(MEMORY_SIZE - 1, 1) == 0x33
    assert len(device.state.memory) == MEMORY_SIZE
