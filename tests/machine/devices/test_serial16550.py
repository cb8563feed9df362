"""The UART: what drivers probe for, its FIFOs, interrupts and loopback."""

from __future__ import annotations

import dataclasses

import pytest

from machine.clock import Clock
from machine.devices.serial16550 import Serial16550, State

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR
NONE, MODEM, THRE, RECEIVED, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
CHARACTER_NS = 10 * 1_000_000_000 // 9600       # after reset: 9600 8N1


class Bench:
    def __init__(self) -> None:
        self.now = 0
        self.clock = Clock(source=lambda: self.now)
        self.sent = bytearray()
        self.levels: list[bool] = []
        self.uart = Serial16550(clock=self.clock, irq=self.levels.append,
                                transmit=self.sent.extend)

    def out(self, offset: int, value: int) -> None:
        self.uart.write(offset, value, 1)

    def inp(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def cause(self) -> int:
        return self.inp(IIR) & 0x0F

    @property
    def irq(self) -> bool:
        return bool(self.levels) and self.levels[-1]

    def after(self, ns: int) -> None:
        self.now += ns
        self.clock.fire_due()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def fifo(bench: Bench) -> Bench:
    bench.out(LCR, 3)
    bench.out(FCR, 0x01)
    return bench


def test_registers_after_reset(bench: Bench) -> None:
    assert [bench.inp(n) for n in range(8)] == [0, 0, 0x01, 0, 0x08, 0x60, 0xB0, 0]


def test_what_is_written_is_sent_at_once_and_the_line_is_idle_again(bench: Bench) -> None:
    for byte in b"ok\xff\0":
        bench.out(DATA, byte)
        assert bench.inp(LSR) == 0x60
    assert bench.sent == b"ok\xff\0"


def test_the_divisor_hides_behind_dlab(bench: Bench) -> None:
    bench.out(IER, 0x05)
    bench.out(LCR, 0x83)
    assert (bench.inp(DATA), bench.inp(IER)) == (12, 0)
    bench.out(DATA, 0x34)
    bench.out(IER, 0x12)
    assert (bench.inp(DATA), bench.inp(IER)) == (0x34, 0x12)
    bench.out(LCR, 0x03)
    assert bench.inp(IER) == 0x05
    assert bench.sent == b""


def test_registers_keep_the_bits_they_have(bench: Bench) -> None:
    for offset, kept in ((IER, 0x0F), (LCR, 0xFF), (MCR, 0x1F), (SCR, 0xFF)):
        bench.out(offset, 0xFF)
        assert bench.inp(offset) == kept
        bench.out(offset, 0)
        assert bench.inp(offset) == 0


def test_lsr_and_msr_are_read_only(bench: Bench) -> None:
    bench.out(LSR, 0xFF)
    bench.out(MSR, 0xFF)
    assert (bench.inp(LSR), bench.inp(MSR)) == (0x60, 0xB0)


# -- how Linux's 8250 driver finds out what this is ------------------------------


def test_the_loopback_test_of_the_modem_lines(bench: Bench) -> None:
    bench.out(MCR, 0x10 | 0x08 | 0x02)          # LOOP, OUT2, RTS
    assert bench.inp(MSR) & 0xF0 == 0x90        # DCD, CTS


@pytest.mark.parametrize(("mcr", "msr"), [
    (0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x00, 0x00), (0x0F, 0xF0)])
def test_loopback_ties_each_output_to_its_input(bench: Bench, mcr: int, msr: int) -> None:
    bench.out(MCR, 0x10 | mcr)
    assert bench.inp(MSR) == msr
    bench.out(MCR, mcr)
    assert bench.inp(MSR) == 0xB0


def test_fifo_bits_say_16550a(bench: Bench) -> None:
    bench.out(FCR, 0x01)
    assert bench.inp(IIR) >> 6 == 3
    bench.out(FCR, 0x00)
    assert bench.inp(IIR) >> 6 == 0


def test_it_is_no_16750_with_64_bytes(bench: Bench) -> None:
    bench.out(LCR, 0x80)
    bench.out(FCR, 0x21)
    assert bench.inp(IIR) >> 5 == 6
    bench.out(LCR, 0)


def test_the_size_of_the_fifo_is_16(bench: Bench) -> None:
    bench.out(FCR, 0x07)
    bench.out(MCR, 0x10)
    for byte in range(256):
        bench.out(DATA, byte)
    received = []
    while bench.inp(LSR) & 0x01:
        received.append(bench.inp(DATA))
    assert received == list(range(16))
    assert bench.sent == b""


def test_enabling_the_thre_interrupt_twice_raises_it_twice(bench: Bench) -> None:
    bench.out(IER, 0x02)
    assert bench.irq and bench.cause() == THRE
    assert bench.cause() == NONE and not bench.irq
    bench.out(IER, 0x00)
    bench.out(IER, 0x02)
    assert bench.irq and bench.cause() == THRE


# -- receiving -------------------------------------------------------------------


def test_without_fifo_there_is_room_for_one_byte(bench: Bench) -> None:
    assert bench.uart.can_receive() == 1
    assert bench.uart.receive(b"ab") == 1
    assert bench.uart.can_receive() == 0
    assert bench.uart.receive(b"b") == 0
    assert bench.inp(LSR) == 0x61
    assert bench.inp(DATA) == ord("a")
    assert bench.inp(LSR) == 0x60


def test_the_fifo_takes_16_and_refuses_the_rest(fifo: Bench) -> None:
    data = bytes(range(40))
    assert fifo.uart.receive(data) == 16
    assert fifo.uart.receive(data[16:]) == 0
    assert [fifo.inp(DATA) for _ in range(16)] == list(range(16))
    assert fifo.inp(LSR) == 0x60
    assert fifo.inp(DATA) == 0                  # an empty FIFO


def test_receiving_nothing_takes_nothing(fifo: Bench) -> None:
    assert fifo.uart.receive(b"") == 0
    assert fifo.inp(LSR) == 0x60


@pytest.mark.parametrize("fcr", [0x00, 0x01])
def test_a_refused_sender_is_called_back_and_nothing_is_lost(bench: Bench, fcr: int) -> None:
    bench.out(FCR, fcr)
    text = bytes(range(200))
    position = 0

    def offer() -> None:
        nonlocal position
        position += bench.uart.receive(text[position:])

    bench.uart.on_can_receive = offer
    offer()
    received = bytearray()
    while bench.inp(LSR) & 1:
        received.append(bench.inp(DATA))
    assert received == text


def test_clearing_the_fifo_makes_room_known(fifo: Bench) -> None:
    calls: list[int] = []
    fifo.uart.receive(bytes(16))
    fifo.uart.on_can_receive = lambda: calls.append(fifo.uart.can_receive())
    fifo.out(FCR, 0x03)
    assert calls == [16]
    assert fifo.inp(LSR) == 0x60


def test_reading_from_a_fifo_that_was_not_full_calls_nobody(fifo: Bench) -> None:
    calls: list[int] = []
    fifo.uart.receive(b"abc")
    fifo.uart.on_can_receive = lambda: calls.append(1)
    fifo.inp(DATA)
    assert calls == []


def test_nothing_comes_in_during_loopback(bench: Bench) -> None:
    calls: list[int] = []
    bench.uart.on_can_receive = lambda: calls.append(1)
    bench.out(MCR, 0x10)
    assert bench.uart.can_receive() == 0 and bench.uart.receive(b"x") == 0
    bench.out(MCR, 0x00)
    assert calls == [1] and bench.uart.receive(b"x") == 1


def test_switching_the_fifo_on_empties_it(bench: Bench) -> None:
    bench.uart.receive(b"x")
    bench.out(FCR, 0x01)
    assert bench.inp(LSR) == 0x60


def test_a_loopback_overrun_is_told_once(bench: Bench) -> None:
    bench.out(MCR, 0x10)
    bench.out(DATA, 1)
    bench.out(DATA, 2)
    assert bench.inp(LSR) == 0x63
    assert bench.inp(LSR) == 0x61
    assert bench.inp(DATA) == 2                 # a single register holds the newer byte


def test_a_break_is_a_zero_with_its_bit(fifo: Bench) -> None:
    fifo.uart.receive_break()
    assert fifo.inp(LSR) == 0x71
    assert fifo.inp(LSR) == 0x61
    assert fifo.inp(DATA) == 0


# -- interrupts ------------------------------------------------------------------


def test_received_data_interrupts_until_it_is_read(bench: Bench) -> None:
    bench.out(IER, 0x01)
    bench.uart.receive(b"a")
    assert bench.irq and bench.cause() == RECEIVED
    assert bench.irq
    bench.inp(DATA)
    assert not bench.irq and bench.cause() == NONE


@pytest.mark.parametrize(("fcr", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_fifo_interrupts_at_its_trigger_level(bench: Bench, fcr: int, level: int) -> None:
    bench.out(FCR, fcr)
    bench.out(IER, 0x01)
    bench.uart.receive(bytes(level - 1))
    assert not bench.irq
    bench.uart.receive(b"x")
    assert bench.irq and bench.inp(IIR) == 0xC0 | RECEIVED
    bench.inp(DATA)
    assert not bench.irq


def test_bytes_below_the_trigger_time_out_after_four_characters(bench: Bench) -> None:
    bench.out(LCR, 0x03)
    bench.out(FCR, 0xC1)
    bench.out(IER, 0x01)
    bench.uart.receive(b"ab")
    bench.after(4 * CHARACTER_NS - 10)
    assert not bench.irq
    bench.after(20)
    assert bench.irq and bench.inp(IIR) == 0xC0 | TIMEOUT
    assert bench.inp(DATA) == ord("a")
    assert not bench.irq                        # and it starts over
    bench.after(4 * CHARACTER_NS + 10)
    assert bench.cause() == TIMEOUT
    bench.inp(DATA)
    assert not bench.irq
    bench.after(100 * CHARACTER_NS)
    assert not bench.irq and bench.clock.next_deadline() is None


def test_each_byte_puts_the_timeout_off(bench: Bench) -> None:
    bench.out(LCR, 0x03)
    bench.out(FCR, 0xC1)
    bench.out(IER, 0x01)
    for _ in range(5):
        bench.uart.receive(b"x")
        bench.after(3 * CHARACTER_NS)
    assert not bench.irq


def test_the_timeout_follows_the_line_settings(bench: Bench) -> None:
    bench.out(LCR, 0x80)
    bench.out(DATA, 1)                          # 115200
    bench.out(IER, 0)
    bench.out(LCR, 0x1F)                        # 8 bits, parity, 2 stop bits: 12 in all
    bench.out(FCR, 0xC1)
    bench.uart.receive(b"x")
    assert bench.uart.state.timeout_at == 4 * 12 * 1_000_000_000 // 115_200


def test_a_divisor_of_zero_is_survived(bench: Bench) -> None:
    bench.out(LCR, 0x80)
    bench.out(DATA, 0)
    bench.out(LCR, 0x03)
    bench.out(FCR, 0x01)
    assert bench.uart.receive(b"x") == 1


def test_each_byte_sent_makes_a_new_edge(bench: Bench) -> None:
    bench.out(IER, 0x02)
    assert bench.cause() == THRE
    del bench.levels[:]
    bench.out(DATA, 1)
    assert bench.levels == [True]
    bench.out(DATA, 2)
    assert bench.levels == [True, False, True]


def test_thre_is_pending_once_the_interrupt_is_enabled_later(bench: Bench) -> None:
    bench.out(DATA, 1)
    assert not bench.irq
    bench.out(IER, 0x02)
    assert bench.irq


def test_clearing_the_transmit_fifo_is_a_thre_event(bench: Bench) -> None:
    bench.out(IER, 0x02)
    bench.cause()
    bench.out(FCR, 0x05)
    assert bench.irq and bench.cause() == THRE


def test_line_status_comes_before_data_before_thre(bench: Bench) -> None:
    bench.out(MCR, 0x10)
    bench.out(DATA, 1)
    bench.out(DATA, 2)                          # an overrun
    bench.out(IER, 0x07)
    assert bench.cause() == LINE
    bench.inp(LSR)
    assert bench.cause() == RECEIVED
    bench.inp(DATA)
    assert bench.cause() == THRE
    assert bench.cause() == NONE


def test_reading_iir_clears_thre_only_when_it_is_what_is_told(bench: Bench) -> None:
    bench.out(IER, 0x03)
    bench.uart.receive(b"x")
    assert bench.cause() == RECEIVED
    assert bench.cause() == RECEIVED
    bench.inp(DATA)
    assert bench.cause() == THRE


def test_disabling_takes_the_line_down(bench: Bench) -> None:
    bench.out(IER, 0x01)
    bench.uart.receive(b"x")
    assert bench.irq
    bench.out(IER, 0x00)
    assert not bench.irq and bench.cause() == NONE
    bench.out(IER, 0x01)
    assert bench.irq


def test_the_modem_lines_never_change_and_never_interrupt(bench: Bench) -> None:
    bench.out(IER, 0x08)
    for mcr in (0x1F, 0x00, 0x0F):
        bench.out(MCR, mcr)
    assert not bench.irq


# -- life cycle ------------------------------------------------------------------


def test_reset_is_a_master_reset(fifo: Bench) -> None:
    fifo.out(IER, 0x01)
    fifo.out(SCR, 0x55)
    fifo.uart.receive(b"abc")
    assert fifo.irq
    fifo.uart.reset()
    assert not fifo.irq
    assert [fifo.inp(n) for n in range(8)] == [0, 0, 0x01, 0, 0x08, 0x60, 0xB0, 0]
    assert fifo.clock.next_deadline() is None


def test_state_put_in_place_goes_on_where_it_was(fifo: Bench) -> None:
    fifo.out(FCR, 0xC1)
    fifo.out(IER, 0x01)
    fifo.uart.receive(b"xyz")
    other = Bench()
    other.uart.state = State(**dataclasses.asdict(fifo.uart.state))
    other.uart.restored()
    other.after(5 * CHARACTER_NS)
    assert other.irq and other.cause() == TIMEOUT
    assert bytes(other.inp(DATA) for _ in range(3)) == b"xyz"
