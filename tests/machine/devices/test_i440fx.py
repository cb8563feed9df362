"""The i440FX host bridge: its header, PAM, and what a reset leaves."""

from __future__ import annotations

import pytest

from machine.devices.i440fx import PAM_SEGMENTS, I440fx, State

MIB = 1 << 20


class Board:
    def __init__(self, ram_size: int = 16 * MIB) -> None:
        self.pam: list[tuple[int, int]] = []
        self.smram: list[tuple[bool, bool]] = []
        self.bridge = I440fx(ram_size=ram_size,
                             pam_changed=lambda segment, state: self.pam.append((segment, state)),
                             smram_changed=lambda always, smm: self.smram.append((always, smm)))


@pytest.fixture
def board() -> Board:
    return Board()


def test_configuration_space_after_reset_is_qemu_s(board: Board) -> None:
    expected = bytearray(256)
    expected[0x00:0x10] = bytes.fromhex("86803712000000000200000600000000")
    expected[0x2C:0x30] = bytes.fromhex("f41a0011")
    expected[0x57] = 0x02
    expected[0x72] = 0x02
    assert board.bridge.config.hex(" ") == expected.hex(" ")
    board.bridge.reset()
    assert board.bridge.config.hex(" ") == expected.hex(" ")


@pytest.mark.parametrize(("mib", "value"), [
    (16, 0x02), (100, 0x0C), (128, 0x10), (2040, 0xFF), (2048, 0xFF), (4096, 0xFF)])
def test_57_tells_the_ram_size(mib: int, value: int) -> None:
    assert Board(mib * MIB).bridge.config_read(0x57, 1) == value


def test_nothing_is_said_about_pam_until_it_changes(board: Board) -> None:
    assert board.pam == []
    board.bridge.config_write(0x58, 0xFF, 1)
    board.bridge.config_write(0x60, 0xFFFFFFFF, 4)
    board.bridge.config_write(0x59, 0, 1)
    assert board.pam == []


def test_59_is_the_system_bios_in_its_high_nibble(board: Board) -> None:
    board.bridge.config_write(0x59, 0x30, 1)
    board.bridge.config_write(0x59, 0x1F, 1)
    assert board.pam == [(0, 3), (0, 1)]


@pytest.mark.parametrize("register", range(0x5A, 0x60))
def test_each_register_has_two_segments(board: Board, register: int) -> None:
    low = 1 + 2 * (register - 0x5A)
    board.bridge.config_write(register, 0x21, 1)
    assert board.pam == [(low, 1), (low + 1, 2)]
    assert (board.bridge.pam(low), board.bridge.pam(low + 1)) == (1, 2)


def test_the_other_bits_of_a_nibble_mean_nothing(board: Board) -> None:
    board.bridge.config_write(0x5A, 0xCC, 1)
    assert board.pam == []
    assert board.bridge.config_read(0x5A, 1) == 0xCC


def test_a_wide_write_changes_all_it_covers(board: Board) -> None:
    board.bridge.config_write(0x58, 0x33333300, 4)
    board.bridge.config_write(0x5C, 0x33333333, 4)
    assert sorted(board.pam) == [(segment, 3) for segment in range(PAM_SEGMENTS)]


def test_only_what_changes_is_told(board: Board) -> None:
    board.bridge.config_write(0x5A, 0x33, 1)
    board.pam.clear()
    board.bridge.config_write(0x5A, 0x13, 1)
    assert board.pam == [(2, 1)]


def test_reset_keeps_pam_and_the_rest_of_the_device_s_registers(board: Board) -> None:
    for offset in range(256):
        board.bridge.config_write(offset, 0xA5, 1)
    board.pam.clear()
    board.bridge.reset()
    assert board.pam == []
    expected = bytearray(b"\xa5" * 0xC0)
    expected[0x72 - 0x40] = 0x02
    assert board.bridge.config[0x40:] == expected
    assert board.bridge.config_read(4, 2) == 0


def test_a_restored_state_tells_every_segment(board: Board) -> None:
    board.bridge.config_write(0x59, 0x10, 1)
    board.bridge.config_write(0x5F, 0x32, 1)
    other = Board()
    other.bridge.state = State(bytearray(board.bridge.config))
    other.bridge.restored()
    assert other.pam == [(0, 1)] + [(segment, 0) for segment in range(1, 11)] + [(11, 2), (12, 3)]


def test_smram_opens_closes_and_locks_until_a_reset(board: Board) -> None:
    write, read = board.bridge.config_write, board.bridge.config_read
    write(0x72, 0x0A, 1)
    write(0x72, 0x4A, 1)
    assert board.smram == [(False, True), (True, True)]
    write(0x72, 0x5A, 1)                    # locking closes
    assert (read(0x72, 1), board.smram[-1]) == (0x1A, (False, True))
    write(0x72, 0x4A, 1)
    assert (read(0x72, 1), board.smram[-1]) == (0x1A, (False, True))
    board.bridge.reset()
    assert (read(0x72, 1), board.smram[-1]) == (0x02, (False, False))


def test_smram_s_base_segment_is_hard_wired(board: Board) -> None:
    board.bridge.config_write(0x72, 0xFF, 1)
    assert board.bridge.config_read(0x72, 1) == 0x3A
