"""The I/O APIC, driven by its registers and pins with a local APIC that takes notes (82093AA)."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from machine.devices.ioapic import IoApic, State

IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
LOGICAL, DELIVERY_STATUS, LOW, REMOTE_IRR, LEVEL, MASKED = (
    1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16)
FIXED, LOWEST, SMI, NMI, INIT, EXTINT = (mode << 8 for mode in (0, 1, 2, 4, 5, 7))
PIN = 20


class Message(NamedTuple):
    destination: int
    logical: bool
    vector: int
    mode: int
    level: bool


class Bench:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.accepts = True
        self.chip = IoApic(deliver=self._deliver)
        self.pin = [self.chip.line(pin) for pin in range(24)]

    def _deliver(self, *message: int) -> bool:
        self.messages.append(Message(*message))     # type: ignore[arg-type]
        return self.accepts

    def read(self, register: int) -> int:
        self.chip.mmio_write(IOREGSEL, 4, register)
        return self.chip.mmio_read(IOWIN, 4)

    def write(self, register: int, value: int) -> None:
        self.chip.mmio_write(IOREGSEL, 4, register)
        self.chip.mmio_write(IOWIN, 4, value)

    def entry(self, pin: int = PIN) -> int:
        return self.read(0x10 + 2 * pin) | self.read(0x11 + 2 * pin) << 32

    def program(self, low: int, high: int = 0, pin: int = PIN) -> None:
        self.write(0x11 + 2 * pin, high)
        self.write(0x10 + 2 * pin, low)

    def sent(self) -> list[int]:
        """The vectors of the messages since this was last asked."""
        vectors = [message.vector for message in self.messages]
        self.messages.clear()
        return vectors


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- registers

def registers(bench: Bench) -> list[int]:
    return [bench.read(register) for register in range(256)]


def test_registers_after_reset(bench: Bench) -> None:
    expected = [0] * 256
    expected[1] = 0x0017_0020
    expected[0x10:0x40] = [MASKED, 0] * 24
    assert registers(bench) == expected
    for register in range(256):
        bench.write(register, 0xFFFF_FFFF)
    assert registers(bench) != expected
    bench.chip.reset()
    assert bench.chip.mmio_read(IOREGSEL, 4) == 0
    assert registers(bench) == expected
    bench.write(0, 0)
    bench.chip.mmio_write(IOREGSEL, 4, 0)
    assert bench.chip.state == State()


@pytest.mark.parametrize(("register", "reads"), [
    (0, 0x0F00_0000), (1, 0x0017_0020), (2, 0), (3, 0), (0x10, 0x1_AFFF), (0x11, 0xFF00_0000),
    (0x3F, 0xFF00_0000), (0x40, 0), (0xFF, 0)])
def test_bits_that_can_be_written(bench: Bench, register: int, reads: int) -> None:
    bench.write(register, 0xFFFF_FFFF)
    assert bench.read(register) == reads


def test_the_arbitration_id_follows_the_id(bench: Bench) -> None:
    bench.write(0, 5 << 24)
    bench.write(2, 9 << 24)
    assert (bench.read(0), bench.read(2)) == (5 << 24, 5 << 24)


def test_the_window_is_32_bits_wide_and_the_index_a_byte(bench: Bench) -> None:
    chip = bench.chip
    chip.mmio_write(IOREGSEL, 1, 1)
    assert (chip.mmio_read(IOREGSEL, 1), chip.mmio_read(IOREGSEL, 4)) == (1, 1)
    assert [chip.mmio_read(IOWIN, size) for size in (1, 2, 4)] == [0, 0, 0x0017_0020]
    chip.mmio_write(IOREGSEL, 4, 0x1234_5610)
    assert chip.mmio_read(IOREGSEL, 4) == 0x10
    chip.mmio_write(IOWIN, 1, 0x55)
    chip.mmio_write(IOWIN, 2, 0x55)
    assert chip.mmio_read(IOWIN, 4) == MASKED
    assert [chip.mmio_read(at, 4) for at in (0x04, 0x14, 0x20, 0x40)] == [0] * 4


def test_the_registers_repeat_every_256_bytes(bench: Bench) -> None:
    bench.chip.mmio_write(0x300, 4, 1)
    assert bench.chip.mmio_read(0xF10, 4) == 0x0017_0020


# --- messages

@pytest.mark.parametrize("mode", [FIXED, LOWEST, SMI, NMI, INIT, EXTINT])
@pytest.mark.parametrize("logical", [0, LOGICAL])
@pytest.mark.parametrize("trigger", [0, LEVEL])
def test_an_entry_is_the_message(bench: Bench, mode: int, logical: int, trigger: int) -> None:
    bench.program(0x51 | mode | logical | trigger, 0xA5 << 24)
    bench.pin[PIN](True)
    assert bench.messages == [Message(0xA5, bool(logical), 0x51, mode >> 8, bool(trigger))]
    waits = trigger and mode in (FIXED, LOWEST)
    assert bool(bench.entry() & REMOTE_IRR) is bool(waits)
    assert not bench.entry() & DELIVERY_STATUS


@pytest.mark.parametrize("pin", range(24))
def test_each_pin_has_its_entry(bench: Bench, pin: int) -> None:
    for other in range(24):
        bench.program(0x40 + other, pin=other)
    bench.pin[pin](True)
    assert bench.sent() == [0x40 + pin]


def test_the_polarity_is_kept_and_not_looked_at(bench: Bench) -> None:
    bench.program(0x51 | LOW)
    bench.pin[PIN](True)
    assert (bench.sent(), bench.entry()) == ([0x51], 0x51 | LOW)


# --- edges

def test_each_rising_edge_is_a_message(bench: Bench) -> None:
    bench.program(0x51)
    for level in (True, True, False, False, True, False):
        bench.pin[PIN](level)
    assert bench.sent() == [0x51, 0x51]


def test_an_edge_while_masked_is_lost(bench: Bench) -> None:
    """82093AA, 3.2.4, interrupt mask."""
    bench.program(0x51 | MASKED)
    bench.pin[PIN](True)
    bench.program(0x51)
    assert bench.sent() == []
    bench.pin[PIN](False)
    bench.pin[PIN](True)
    assert bench.sent() == [0x51]


# --- levels

def test_a_level_comes_again_after_each_eoi_while_it_lasts(bench: Bench) -> None:
    bench.program(0x51 | LEVEL)
    bench.pin[PIN](True)
    bench.pin[PIN](True)
    assert (bench.sent(), bench.entry()) == ([0x51], 0x51 | LEVEL | REMOTE_IRR)
    bench.chip.eoi(0x52)
    assert bench.sent() == []
    bench.chip.eoi(0x51)
    assert (bench.sent(), bench.entry()) == ([0x51], 0x51 | LEVEL | REMOTE_IRR)
    bench.pin[PIN](False)
    assert bench.entry() & REMOTE_IRR
    bench.chip.eoi(0x51)
    assert (bench.sent(), bench.entry()) == ([], 0x51 | LEVEL)


def test_the_eoi_register_is_the_broadcast(bench: Bench) -> None:
    bench.program(0x51 | LEVEL)
    bench.pin[PIN](True)
    bench.pin[PIN](False)
    bench.chip.mmio_write(EOI, 1, 0x51)
    assert bench.entry() & REMOTE_IRR
    bench.chip.mmio_write(EOI, 4, 0x51)
    assert not bench.entry() & REMOTE_IRR


def test_an_eoi_ends_all_pins_with_its_vector(bench: Bench) -> None:
    for pin in (10, 11):
        bench.program(0x51 | LEVEL, pin=pin)
        bench.pin[pin](True)
    bench.pin[10](False)
    bench.sent()
    bench.chip.eoi(0x51)
    assert bench.sent() == [0x51]
    assert [bool(bench.entry(pin) & REMOTE_IRR) for pin in (10, 11)] == [False, True]


def test_a_masked_level_is_sent_when_the_mask_goes(bench: Bench) -> None:
    bench.program(0x51 | LEVEL | MASKED)
    bench.pin[PIN](True)
    assert bench.sent() == []
    bench.program(0x51 | LEVEL)
    assert bench.sent() == [0x51]


def test_a_level_that_went_while_masked_is_not_sent(bench: Bench) -> None:
    bench.program(0x51 | LEVEL | MASKED)
    bench.pin[PIN](True)
    bench.pin[PIN](False)
    bench.program(0x51 | LEVEL)
    assert bench.sent() == []


def test_masked_while_in_service_it_waits_for_both(bench: Bench) -> None:
    bench.program(0x51 | LEVEL)
    bench.pin[PIN](True)
    bench.program(0x51 | LEVEL | MASKED)
    assert bench.entry() == 0x51 | LEVEL | MASKED | REMOTE_IRR
    bench.chip.eoi(0x51)
    assert bench.sent() == [0x51]
    assert bench.entry() == 0x51 | LEVEL | MASKED
    bench.program(0x51 | LEVEL)
    assert bench.sent() == [0x51]


def test_remote_irr_cannot_be_written_but_edge_mode_clears_it(bench: Bench) -> None:
    """How kernels end a level interrupt on chips without an EOI register."""
    bench.program(0x51 | LEVEL | REMOTE_IRR | DELIVERY_STATUS)
    assert bench.entry() == 0x51 | LEVEL
    bench.pin[PIN](True)
    bench.program(0x51 | LEVEL)
    assert bench.entry() == 0x51 | LEVEL | REMOTE_IRR
    bench.program(0x51 | MASKED)
    assert bench.entry() == 0x51 | MASKED
    bench.sent()
    bench.program(0x51 | LEVEL)
    assert bench.sent() == [0x51]


def test_a_level_that_was_refused_is_sent_again_when_asked(bench: Bench) -> None:
    bench.accepts = False
    bench.program(0x51 | LEVEL)
    bench.program(0x52 | LEVEL, pin=21)
    bench.program(0x53, pin=22)
    for pin in (PIN, 22):
        bench.pin[pin](True)
    assert not bench.entry() & REMOTE_IRR
    bench.accepts = True
    bench.sent()
    bench.chip.retry()
    bench.chip.retry()
    assert bench.sent() == [0x51]


def test_a_reset_masks_and_keeps_the_levels(bench: Bench) -> None:
    bench.program(0x51 | LEVEL)
    bench.pin[PIN](True)
    bench.sent()
    bench.chip.reset()
    bench.program(0x51 | LEVEL)
    assert bench.sent() == [0x51]
