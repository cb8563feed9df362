"""The PIIX3 ISA bridge: its header, PIRQ routing and reset control."""

from __future__ import annotations

import pytest

from machine.devices.piix3 import Piix3Isa
from machine.ports import PortBus
from machine.wiring import Line


class Board:
    def __init__(self) -> None:
        self.resets = 0
        self.irqs: list[tuple[int, bool]] = []
        self.bridge = Piix3Isa(isa_line=self._line, reset=self._reset)
        self.ports = PortBus()
        self.ports.add(0xCF9, 1, self.bridge.rcr_read, self.bridge.rcr_write, width=4)

    def _line(self, irq: int) -> Line:
        if irq == 2:
            raise ValueError("IRQ 2 is the cascade")
        return lambda level: self.irqs.append((irq, level))

    def _reset(self) -> None:
        self.resets += 1

    def route(self, pirq: int, irq: int) -> None:
        self.bridge.config_write(0x60 + pirq, irq, 1)


@pytest.fixture
def board() -> Board:
    return Board()


def rows(**lines: str) -> bytes:
    """Configuration space from rows of 16 bytes; what is not given is 0."""
    config = bytearray(256)
    for name, text in lines.items():
        start = int(name[1:], 16)
        config[start:start + 16] = bytes.fromhex(text)
    return bytes(config)


AFTER_RESET = rows(
    x00="86 80 00 70 00 00 00 02 00 00 01 06 00 00 80 00",
    x20="00 00 00 00 00 00 00 00 00 00 00 00 f4 1a 00 11",
    x40="00 00 00 00 00 00 00 00 00 00 00 00 4d 00 03 00",
    x60="80 80 80 80 00 00 00 00 00 02 00 00 00 00 00 00",
    x70="80 00 00 00 00 00 0c 0c 02 00 00 00 00 00 00 00",
    xa0="08 00 00 00 00 00 00 00 0f 00 00 00 00 00 00 00")


def test_configuration_space_after_power_on_is_qemu_s(board: Board) -> None:
    assert board.bridge.config.hex(" ") == AFTER_RESET.hex(" ")
    board.bridge.reset()
    assert board.bridge.config.hex(" ") == AFTER_RESET.hex(" ")


def test_reset_loads_some_registers_and_keeps_the_others(board: Board) -> None:
    for offset in range(256):
        board.bridge.config_write(offset, 0xA5, 1)
    board.bridge.reset()
    expected = bytearray(b"\xa5" * 256)
    expected[:0x40] = AFTER_RESET[:0x40]
    for row, text in {
            0x40: "a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 4d a5 03 00",
            0x60: "80 80 80 80 a5 a5 a5 a5 a5 02 a5 a5 a5 a5 a5 a5",
            0x70: "80 a5 a5 a5 a5 a5 0c 0c 02 00 a5 a5 a5 a5 a5 a5",
            0x80: "00 a5 00 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5 a5",
            0xA0: "08 a5 00 00 00 00 00 00 0f a5 00 00 00 a5 00 a5"}.items():
        expected[row:row + 16] = bytes.fromhex(text)
    assert board.bridge.config.hex(" ") == expected.hex(" ")


# -- PIRQ routing


def test_pirqs_go_nowhere_after_reset(board: Board) -> None:
    for pirq in range(4):
        board.bridge.set_pirq(pirq, True)
    assert board.irqs == []


@pytest.mark.parametrize("pirq", range(4))
def test_a_routed_pirq_drives_its_irq(board: Board, pirq: int) -> None:
    board.route(pirq, 10)
    board.bridge.set_pirq(pirq, True)
    board.bridge.set_pirq(pirq, True)
    board.bridge.set_pirq(pirq, False)
    assert board.irqs == [(10, True), (10, False)]


def test_pirqs_can_share_an_irq(board: Board) -> None:
    board.route(0, 11)
    board.route(3, 11)
    board.bridge.set_pirq(0, True)
    board.bridge.set_pirq(3, True)
    board.bridge.set_pirq(0, False)
    assert board.irqs == [(11, True)]
    board.bridge.set_pirq(3, False)
    assert board.irqs == [(11, True), (11, False)]


def test_a_route_changed_while_active_moves_the_level(board: Board) -> None:
    board.route(1, 5)
    board.bridge.set_pirq(1, True)
    board.irqs.clear()
    board.bridge.config_write(0x60, 0x80800980, 4)
    assert sorted(board.irqs) == [(5, False), (9, True)]
    board.irqs.clear()
    board.route(1, 0x89)
    assert board.irqs == [(9, False)]


@pytest.mark.parametrize("route", [0x80, 0x8A, 0x10, 0xFF, 0x02])
def test_routes_that_lead_nowhere(board: Board, route: int) -> None:
    board.route(2, route)
    board.bridge.set_pirq(2, True)
    assert board.irqs == []


def test_other_registers_do_not_touch_the_lines(board: Board) -> None:
    board.route(0, 10)
    board.bridge.set_pirq(0, True)
    board.irqs.clear()
    board.bridge.config_write(0x5C, 0x0B0B0B0B, 4)
    board.bridge.config_write(0x64, 0x0B0B0B0B, 4)
    assert board.irqs == []


def test_reset_drops_the_routes(board: Board) -> None:
    board.route(0, 10)
    board.bridge.set_pirq(0, True)
    board.bridge.reset()
    assert board.irqs == [(10, True), (10, False)]


# -- reset control


def test_bit_1_is_kept_and_resets_nothing(board: Board) -> None:
    for value, read in ((0x02, 0x02), (0x01, 0x00), (0xFB, 0x02), (0x00, 0x00)):
        board.ports.write(0xCF9, value, 1)
        assert board.ports.read(0xCF9, 1) == read
    assert board.resets == 0


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E, 0xFF])
def test_bit_2_resets_and_stores_nothing(board: Board, value: int) -> None:
    board.ports.write(0xCF9, value, 1)
    assert board.resets == 1
    assert board.ports.read(0xCF9, 1) == 0x00


def test_a_reset_clears_the_register(board: Board) -> None:
    board.ports.write(0xCF9, 0x02, 1)
    board.bridge.reset()
    assert board.ports.read(0xCF9, 1) == 0x00


def test_a_wide_access_is_this_register_in_every_byte(board: Board) -> None:
    board.ports.write(0xCF9, 2, 1)
    assert board.ports.read(0xCF9, 2) == 0x0202
    board.ports.write(0xCF9, 0x0002, 2)
    assert board.ports.read(0xCF9, 1) == 0x00
    board.ports.write(0xCF9, 0x0302, 2)
    assert board.ports.read(0xCF9, 1) == 0x02
    assert board.resets == 0
    board.ports.write(0xCF9, 0x0402, 2)
    assert board.resets == 1
