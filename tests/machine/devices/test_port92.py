"""Port 92: A20 and fast reset."""

from __future__ import annotations

import pytest

from machine.devices.port92 import Port92


class Board:
    def __init__(self) -> None:
        self.resets = 0
        self.a20: list[bool] = []
        self.port = Port92(reset=self._reset, set_a20=self.a20.append)

    def _reset(self) -> None:
        self.resets += 1


@pytest.fixture
def board() -> Board:
    return Board()


def test_reads_0_after_power_on(board: Board) -> None:
    assert board.port.read(0, 1) == 0


@pytest.mark.parametrize("value", [0x00, 0x02, 0xFC, 0x54])
def test_keeps_what_is_written(board: Board, value: int) -> None:
    board.port.write(0, value, 1)
    assert board.port.read(0, 1) == value


def test_bit_1_is_a20(board: Board) -> None:
    board.port.write(0, 2, 1)
    board.port.write(0, 0, 1)
    assert board.a20 == [True, False]


def test_bit_0_resets_once_as_it_rises(board: Board) -> None:
    board.port.write(0, 3, 1)
    assert board.resets == 1
    board.port.write(0, 3, 1)
    assert board.resets == 1
    board.port.write(0, 2, 1)
    board.port.write(0, 3, 1)
    assert board.resets == 2


def test_a20_alone_does_not_reset(board: Board) -> None:
    board.port.write(0, 0xFE, 1)
    assert board.resets == 0


def test_reset_clears_bit_0_and_keeps_the_rest(board: Board) -> None:
    board.port.write(0, 0xFF, 1)
    board.port.reset()
    assert board.port.read(0, 1) == 0xFE
    board.port.write(0, 0xFF, 1)
    assert board.resets == 2


def test_a_wide_read_repeats_the_byte(board: Board) -> None:
    board.port.write(0, 0x54, 1)
    assert board.port.read(0, 2) == 0x5454
    assert board.port.read(0, 4) == 0x54545454


def test_a_wide_write_writes_byte_after_byte(board: Board) -> None:
    board.port.write(0, 0x0203, 2)
    assert board.resets == 1
    assert board.a20 == [True, True]
    assert board.port.read(0, 1) == 0x02
