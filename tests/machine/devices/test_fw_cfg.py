"""fw_cfg: items, the directory, the data port and DMA."""

from __future__ import annotations

import pytest

from machine.devices.fw_cfg import FwCfg
from machine.ports import PortBus

DESCRIPTOR, BUFFER = 0x100, 0x1000
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16


class Memory:
    """64 KiB; above it nothing is RAM."""

    def __init__(self) -> None:
        self.ram = bytearray(b"\xcc" * 0x10000)
        self.largest = 0

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.ram[address:address + length]).ljust(length, b"\xff")

    def write(self, address: int, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        if address < len(self.ram):
            end = min(address + len(data), len(self.ram))
            self.ram[address:end] = data[:end - address]


class Board:
    def __init__(self) -> None:
        self.memory = Memory()
        self.fw_cfg = FwCfg(memory=self.memory)
        self.ports = PortBus()
        self.ports.add(0x510, 2, self.fw_cfg.read, self.fw_cfg.write, width=4)
        self.ports.add(0x514, 8, self.fw_cfg.dma_read, self.fw_cfg.dma_write, width=8)

    def select(self, key: int) -> None:
        self.ports.write(0x510, key, 2)

    def take(self, length: int) -> bytes:
        return bytes(self.ports.read(0x511, 1) for _ in range(length))

    def item(self, key: int, length: int) -> bytes:
        self.select(key)
        return self.take(length)

    def files(self) -> list[tuple[int, int, bytes]]:
        count = int.from_bytes(self.item(0x19, 4), "big")
        entries = [self.take(64) for _ in range(count)]
        return [(int.from_bytes(entry[:4], "big"), int.from_bytes(entry[4:6], "big"),
                 entry[8:].rstrip(b"\0")) for entry in entries]

    def dma(self, control: int, length: int = 0, address: int = BUFFER, *,
            descriptor: int = DESCRIPTOR) -> int:
        """Run one transfer; what is in the control field afterwards."""
        self.memory.write(descriptor, control.to_bytes(4, "big") + length.to_bytes(4, "big")
                          + address.to_bytes(8, "big"))
        raw = descriptor.to_bytes(8, "big")
        self.ports.write(0x514, int.from_bytes(raw[:4], "little"), 4)
        self.ports.write(0x518, int.from_bytes(raw[4:], "little"), 4)
        return int.from_bytes(self.memory.read(descriptor, 4), "big")

    def buffer(self, length: int) -> bytes:
        return bytes(self.memory.ram[BUFFER:BUFFER + length])


@pytest.fixture
def board() -> Board:
    return Board()


# -- items


def test_signature_and_interface(board: Board) -> None:
    assert board.take(6) == b"QEMU\0\0"
    assert board.item(1, 5) == b"\x03\0\0\0\0"


def test_an_item_reads_zeros_beyond_its_end(board: Board) -> None:
    board.fw_cfg.add(0x05, b"\x01\x02")
    assert board.item(0x05, 5) == b"\x01\x02\0\0\0"


@pytest.mark.parametrize("key", [0x02, 0x18, 0x20, 0x3F, 0x40, 0x1FFF, 0x3FFF, 0x8000, 0xFFFF])
def test_an_item_that_does_not_exist_reads_zeros(board: Board, key: int) -> None:
    assert board.item(key, 3) == bytes(3)


def test_the_architecture_s_items_are_apart(board: Board) -> None:
    board.fw_cfg.add(0x0003, b"common")
    board.fw_cfg.add(0x8003, b"arch")
    assert board.item(0x0003, 6) == b"common"
    assert board.item(0x8003, 4) == b"arch"


def test_the_write_bit_of_a_key_is_ignored(board: Board) -> None:
    board.fw_cfg.add(0x8003, b"arch")
    assert board.item(0x4000, 4) == b"QEMU"
    assert board.item(0xC003, 4) == b"arch"


def test_select_goes_back_to_the_start(board: Board) -> None:
    assert board.take(2) == b"QE"
    assert board.item(0, 4) == b"QEMU"


@pytest.mark.parametrize("key", [0x20, 0x3F, 0x4003, 0x8040, 0xFFFF, 0x00, 0x01, 0x19])
def test_keys_that_cannot_be_added(board: Board, key: int) -> None:
    with pytest.raises(ValueError, match="fixed item|exists"):
        board.fw_cfg.add(key, b"")


# -- the directory


def test_files_are_sorted_by_name_whatever_their_order(board: Board) -> None:
    for name, size in (("etc/e820", 40), ("bootorder", 0), ("etc/acpi/rsdp", 20),
                       ("genroms/x.bin", 3), ("Z", 1), ("etc/acpi/tables", 9)):
        board.fw_cfg.add_file(name, bytes(size))
    assert board.files() == [
        (1, 0x20, b"Z"), (0, 0x21, b"bootorder"), (20, 0x22, b"etc/acpi/rsdp"),
        (9, 0x23, b"etc/acpi/tables"), (40, 0x24, b"etc/e820"), (3, 0x25, b"genroms/x.bin")]


def test_a_file_is_found_under_its_directory_key(board: Board) -> None:
    board.fw_cfg.add_file("b", b"second")
    board.fw_cfg.add_file("a", b"first")
    board.fw_cfg.add_file("c", b"third")
    assert [board.item(key, size).decode() for size, key, _ in board.files()] == [
        "first", "second", "third"]


def test_an_empty_directory(board: Board) -> None:
    assert board.files() == []
    assert board.item(0x19, 8) == bytes(8)


def test_the_directory_s_entries_are_64_bytes(board: Board) -> None:
    board.fw_cfg.add_file("n" * 55, b"abc")
    assert board.item(0x19, 68) == (b"\0\0\0\x01" b"\0\0\0\x03" b"\0\x20" b"\0\0"
                                    + b"n" * 55 + b"\0")


def test_files_that_cannot_be_added(board: Board) -> None:
    board.fw_cfg.add_file("once", b"")
    with pytest.raises(ValueError, match="exists"):
        board.fw_cfg.add_file("once", b"")
    for name in ("", "n" * 56):
        with pytest.raises(ValueError, match="file name"):
            board.fw_cfg.add_file(name, b"")
    for index in range(31):
        board.fw_cfg.add_file(f"f{index}", b"")
    with pytest.raises(ValueError, match="slot"):
        board.fw_cfg.add_file("more", b"")
    assert len(board.files()) == 32


# -- accesses of other kinds


def test_510_reads_like_511(board: Board) -> None:
    assert [board.ports.read(port, 1) for port in (0x510, 0x511, 0x510)] == [0x51, 0x45, 0x4D]


@pytest.mark.parametrize("size", [2, 4])
def test_wide_reads_of_510_give_0_and_take_nothing(board: Board, size: int) -> None:
    assert board.ports.read(0x510, size) == 0
    assert board.take(1) == b"Q"


def test_a_word_from_511_has_one_byte(board: Board) -> None:
    assert board.ports.read(0x511, 2) == 0xFF51
    assert board.ports.read(0x511, 4) == 0x51FFFF45
    assert board.take(1) == b"M"


@pytest.mark.parametrize(("port", "size"), [(0x510, 1), (0x511, 1), (0x511, 2), (0x510, 4)])
def test_other_writes_are_lost(board: Board, port: int, size: int) -> None:
    board.take(1)
    board.ports.write(port, 1, size)
    assert board.take(1) == b"E"


def test_reset_selects_the_signature(board: Board) -> None:
    board.fw_cfg.add(5, b"five")
    board.item(5, 2)
    board.fw_cfg.reset()
    assert board.take(4) == b"QEMU"


# -- DMA


def test_the_dma_port_reads_its_signature(board: Board) -> None:
    assert bytes(board.ports.read(0x514 + i, 1) for i in range(8)) == b"QEMU CFG"
    assert [board.ports.read(0x514 + i, 2) for i in (0, 1, 7)] == [0x4551, 0x4D45, 0xFF47]
    assert [board.ports.read(0x514 + i, 4) for i in (0, 1, 4, 6)] == [
        0x554D4551, 0x20554D45, 0x47464320, 0xFFFF4746]


def test_select_and_read(board: Board) -> None:
    assert board.dma(0x0001 << 16 | SELECT | READ, 4) == 0
    assert board.buffer(5) == b"\x03\0\0\0\xcc"


def test_reads_go_on_where_the_last_ended(board: Board) -> None:
    assert board.dma(SELECT, 0) == 0
    assert board.dma(READ, 2) == 0
    assert board.buffer(3) == b"QE\xcc"
    assert board.dma(READ, 2) == 0
    assert board.buffer(3) == b"MU\xcc"
    assert board.take(1) == b"\0"


def test_dma_and_the_data_port_share_the_place(board: Board) -> None:
    board.item(0, 1)
    assert board.dma(READ, 2) == 0
    assert board.buffer(2) == b"EM"
    assert board.take(1) == b"U"


def test_reads_beyond_the_end_store_zeros(board: Board) -> None:
    assert board.dma(SELECT | READ, 7) == 0
    assert board.buffer(8) == b"QEMU\0\0\0\xcc"
    assert board.dma(0x3F << 16 | SELECT | READ, 3) == 0
    assert board.buffer(4) == b"\0\0\0U"


def test_skip(board: Board) -> None:
    assert board.dma(SELECT | SKIP, 3) == 0
    assert board.buffer(1) == b"\xcc"
    assert board.take(1) == b"U"
    assert board.dma(SKIP, 100) == 0


def test_read_counts_before_write_and_write_before_skip(board: Board) -> None:
    told: list[bytes] = []
    board.fw_cfg.add_file("f", b"abcd", on_write=told.append)
    assert board.dma(0x20 << 16 | SELECT | READ | WRITE | SKIP, 2) == 0
    assert (told, board.buffer(3)) == ([], b"ab\xcc")
    assert board.dma(WRITE | SKIP, 2) == 0
    assert told == [b"abab"]


def test_a_command_without_a_direction_moves_nothing(board: Board) -> None:
    assert board.dma(SELECT, 4) == 0
    assert board.buffer(1) == b"\xcc"
    assert board.take(1) == b"Q"


def test_a_64_bit_buffer_address_is_taken_whole(board: Board) -> None:
    assert board.dma(SELECT | READ, 4, (1 << 32) | BUFFER) == 0
    assert board.buffer(4) == b"\xcc" * 4


def test_the_high_half_of_the_descriptor_is_used_once(board: Board) -> None:
    board.ports.write(0x514, 0x01000000, 4)
    board.memory.write(DESCRIPTOR, (SELECT | READ).to_bytes(4, "big") + b"\0\0\0\x04"
                       + BUFFER.to_bytes(8, "big"))
    board.ports.write(0x518, 0x00010000, 4)
    assert board.buffer(1) == b"\xcc"           # that one was above 4 GiB
    board.ports.write(0x518, 0x00010000, 4)
    assert board.buffer(4) == b"QEMU"


@pytest.mark.parametrize(("port", "size"), [
    (0x518, 1), (0x518, 2), (0x51A, 2), (0x516, 4), (0x51B, 1)])
def test_narrow_or_crooked_dma_writes_start_nothing(board: Board, port: int, size: int) -> None:
    board.memory.write(DESCRIPTOR, (SELECT | READ).to_bytes(4, "big") + b"\0\0\0\x04"
                       + BUFFER.to_bytes(8, "big"))
    board.ports.write(port, 0x00010000, size)
    assert board.buffer(1) == b"\xcc"


def test_a_guest_that_asks_for_4_gib_costs_no_memory(board: Board) -> None:
    assert board.dma(0x3F << 16 | SELECT | READ, 0x0FFFFFFF, 1 << 40) == 0
    assert board.memory.largest <= 1 << 20


# -- writing


def test_the_guest_writes_to_a_file_that_allows_it(board: Board) -> None:
    told: list[bytes] = []
    board.fw_cfg.add_file("f", b"abcdef", on_write=told.append)
    board.memory.write(BUFFER, b"XY")
    assert board.dma(0x20 << 16 | SELECT | SKIP, 2) == 0
    assert board.dma(WRITE, 2) == 0
    assert told == [b"abXYef"]
    assert board.take(2) == b"ef"
    assert board.item(0x20, 6) == b"abXYef"
    board.fw_cfg.reset()
    assert board.item(0x20, 6) == b"abXYef"


def test_writes_that_are_refused(board: Board) -> None:
    told: list[bytes] = []
    board.fw_cfg.add_file("f", b"abcd", on_write=told.append)
    board.fw_cfg.add_file("g", b"abcd")
    board.memory.write(BUFFER, b"XXXXX")
    assert board.dma(0x20 << 16 | SELECT | WRITE, 5) == ERROR
    assert board.dma(WRITE, 1) == ERROR         # the refused one went to the end
    assert board.dma(0x21 << 16 | SELECT | WRITE, 4) == ERROR
    assert board.dma(0x00 << 16 | SELECT | WRITE, 4) == ERROR
    assert board.dma(0x3F << 16 | SELECT | WRITE, 4) == ERROR
    assert told == []
    assert board.item(0x20, 4) == b"abcd"
    assert board.item(0x21, 4) == b"abcd"
    assert board.item(0, 4) == b"QEMU"


def test_a_write_of_nothing_is_no_error(board: Board) -> None:
    assert board.dma(SELECT | WRITE, 0) == 0


# -- snapshots


def test_a_restored_state_goes_on_in_the_middle(board: Board) -> None:
    board.fw_cfg.add_file("f", b"abcd", on_write=lambda data: None)
    board.memory.write(BUFFER, b"X")
    assert board.dma(0x20 << 16 | SELECT | WRITE, 1) == 0
    other = Board()
    other.fw_cfg.add_file("f", b"abcd", on_write=lambda data: None)
    other.fw_cfg.state = board.fw_cfg.state
    assert other.take(3) == b"bcd"
    assert other.item(0x20, 4) == b"Xbcd"
