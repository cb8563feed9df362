"""The interval timer, driven through its ports with a clock that the tests turn."""

from __future__ import annotations

import dataclasses

import pytest

from machine.clock import Clock
from machine.devices.i8254 import I8254, PIT_HZ, State

CONTROL = 3
LOW, HIGH, WORD = 0x10, 0x20, 0x30


class Bench:
    """A timer whose clock stands where `tick` puts it; IRQ 0's edges are recorded."""

    def __init__(self) -> None:
        self.now = 0
        self.level = False
        self.edges: list[int] = []
        self.clock = Clock(source=lambda: self.now)
        self.pit = I8254(clock=self.clock, irq0=self._irq0)

    def _irq0(self, level: bool) -> None:
        if level and not self.level:
            self.edges.append(self.now * PIT_HZ // 1_000_000_000)
        self.level = level

    def program(self, channel: int, mode: int, count: int, access: int = WORD,
                bcd: int = 0) -> None:
        self.pit.write(CONTROL, channel << 6 | access | mode << 1 | bcd, 1)
        if access & LOW:
            self.pit.write(channel, count & 0xFF, 1)
        if access & HIGH:
            self.pit.write(channel, count >> 8, 1)

    def tick(self, ticks: int) -> None:
        """Let *ticks* pass (and a nanosecond, for rounding), each timer in its turn."""
        end = self.now + -(-ticks * 1_000_000_000 // PIT_HZ) + 1
        while (due := self.clock.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.clock.fire_due()
        self.now = end

    def count(self, channel: int) -> int:
        """A latched count of two bytes."""
        self.pit.write(CONTROL, channel << 6, 1)
        return self.pit.read(channel, 1) | self.pit.read(channel, 1) << 8

    def status(self, channel: int) -> int:
        self.pit.write(CONTROL, 0xE0 | 2 << channel, 1)
        return self.pit.read(channel, 1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("mode", [0, 1, 2, 4, 5])
def test_the_count_falls_by_one_each_tick(bench: Bench, mode: int) -> None:
    bench.program(1, mode, 1000)
    assert bench.count(1) == 1000
    bench.tick(1)
    assert bench.count(1) == 999
    bench.tick(300)
    assert bench.count(1) == 699


def test_mode_3_falls_by_two(bench: Bench) -> None:
    bench.program(1, 3, 1000)
    bench.tick(100)
    assert bench.count(1) == 800
    bench.tick(500)
    assert bench.count(1) == 800                # the second half


@pytest.mark.parametrize("mode", [0, 1, 4, 5])
def test_one_shot_modes_count_on_through_zero(bench: Bench, mode: int) -> None:
    bench.program(1, mode, 10)
    bench.tick(11)
    assert bench.count(1) == 0xFFFF


def test_mode_2_reloads(bench: Bench) -> None:
    bench.program(1, 2, 10)
    seen = []
    for _ in range(12):
        seen.append(bench.count(1))
        bench.tick(1)
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 10, 9]


def test_a_count_of_zero_is_65536(bench: Bench) -> None:
    bench.program(1, 2, 0)
    assert bench.count(1) == 0
    bench.tick(1)
    assert bench.count(1) == 0xFFFF


WAVES = {
    0: "0000 1111 1111", 1: "0000 1111 1111", 2: "0000 1000 1000",
    3: "1100 1100 1100", 4: "0000 1000 0000", 5: "0000 1000 0000",
}


@pytest.mark.parametrize("mode", sorted(WAVES))
def test_the_output_of_each_mode(bench: Bench, mode: int) -> None:
    bench.program(1, mode, 4)
    wave = ""
    for _ in range(12):
        wave += str(int(bench.pit.output(1)))
        assert bench.status(1) >> 7 == bench.pit.output(1)
        bench.tick(1)
    assert wave == WAVES[mode].replace(" ", "")


def test_an_odd_square_wave_is_high_for_the_longer_half(bench: Bench) -> None:
    bench.program(1, 3, 5)
    wave = ""
    for _ in range(10):
        wave += str(int(bench.pit.output(1)))
        bench.tick(1)
    assert wave == "1110011100"


@pytest.mark.parametrize(("mode", "as_mode"), [(6, 2), (7, 3)])
def test_modes_6_and_7_are_2_and_3(bench: Bench, mode: int, as_mode: int) -> None:
    bench.program(1, mode, 100)
    bench.program(2, as_mode, 100)
    bench.pit.set_gate(2, True)
    for _ in range(250):
        bench.tick(1)
        assert bench.pit.output(1) == bench.pit.output(2)
        assert bench.count(1) == bench.count(2)
    assert bench.status(1) & 0x0E == mode << 1


def test_bcd_counts_in_decimal(bench: Bench) -> None:
    bench.program(1, 2, 0x0100, bcd=1)
    bench.tick(1)
    assert bench.count(1) == 0x0099
    bench.tick(98)
    assert bench.count(1) == 0x0001
    bench.tick(1)
    assert bench.count(1) == 0x0100
    assert bench.status(1) & 1


def test_bcd_zero_is_ten_thousand(bench: Bench) -> None:
    bench.program(1, 0, 0, bcd=1)
    bench.tick(1)
    assert bench.count(1) == 0x9999
    bench.tick(9998)
    assert not bench.pit.output(1)
    bench.tick(1)
    assert bench.pit.output(1)
    bench.tick(1)
    assert bench.count(1) == 0x9999


def test_access_to_one_byte(bench: Bench) -> None:
    bench.program(1, 0, 0x34, access=LOW)
    assert bench.pit.read(1, 1) == 0x34
    assert bench.pit.read(1, 1) == 0x34
    bench.program(1, 0, 0x1200, access=HIGH)
    assert bench.pit.read(1, 1) == 0x12
    bench.tick(1)
    assert bench.pit.read(1, 1) == 0x11


def test_a_word_is_read_low_byte_first(bench: Bench) -> None:
    bench.program(1, 0, 0x1234)
    assert [bench.pit.read(1, 1) for _ in range(4)] == [0x34, 0x12, 0x34, 0x12]


def test_half_a_word_changes_nothing_yet(bench: Bench) -> None:
    bench.program(1, 0, 0x1234)
    bench.pit.write(1, 0x99, 1)
    bench.tick(4)
    assert bench.count(1) == 0x1230
    bench.pit.write(1, 0x88, 1)
    assert bench.count(1) == 0x8899


def test_a_control_word_starts_the_bytes_over(bench: Bench) -> None:
    bench.program(1, 0, 0x1234)
    bench.pit.write(1, 0x99, 1)
    bench.pit.read(1, 1)
    bench.program(1, 0, 0x5678)
    assert bench.count(1) == 0x5678


def test_a_latched_count_stands_still_until_it_is_read(bench: Bench) -> None:
    bench.program(1, 0, 0x1234)
    bench.pit.write(CONTROL, 0x40, 1)
    bench.tick(0x100)
    bench.pit.write(CONTROL, 0x40, 1)           # ignored: one is latched
    assert bench.pit.read(1, 1) == 0x34
    bench.tick(0x100)
    assert bench.pit.read(1, 1) == 0x12
    assert bench.pit.read(1, 1) == 0x34 and bench.pit.read(1, 1) == 0x10


def test_read_back_latches_the_chosen_channels(bench: Bench) -> None:
    bench.pit.set_gate(2, True)
    for channel in range(3):
        bench.program(channel, 0, 0x1000)
    bench.pit.write(CONTROL, 0xDA, 1)          # counts of 0 and 2
    bench.tick(16)
    words = [bench.pit.read(ch, 1) | bench.pit.read(ch, 1) << 8 for ch in range(3)]
    assert words == [0x1000, 0x0FF0, 0x1000]


def test_read_back_gives_status_before_the_count(bench: Bench) -> None:
    bench.program(1, 2, 0x1234)
    bench.pit.write(CONTROL, 0xC4, 1)
    bench.tick(5)
    assert [bench.pit.read(1, 1) for _ in range(3)] == [0x34, 0x34, 0x12]


def test_a_second_status_latch_is_ignored(bench: Bench) -> None:
    bench.program(1, 0, 4)
    bench.pit.write(CONTROL, 0xE4, 1)
    bench.tick(10)
    bench.pit.write(CONTROL, 0xE4, 1)
    assert bench.pit.read(1, 1) == 0x30
    assert bench.status(1) == 0xB0


def test_the_control_port_reads_zero(bench: Bench) -> None:
    assert bench.pit.read(CONTROL, 1) == 0


def test_reset_state_is_a_square_wave_of_the_longest_period(bench: Bench) -> None:
    assert bench.edges == []
    assert bench.status(0) == 0x86
    assert bench.pit.output(2) and not bench.pit.state.gate[2]
    bench.tick(0x10000 * 3)
    assert bench.edges == [0x10000, 0x20000, 0x30000]


# -- IRQ 0 ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", [2, 3])
def test_periodic_modes_interrupt_once_a_period(bench: Bench, mode: int) -> None:
    bench.program(0, mode, 1000)
    start = len(bench.edges)
    bench.tick(3500)
    assert bench.edges[start:] == [1000, 2000, 3000]


@pytest.mark.parametrize("mode", [0, 1, 4, 5])
def test_one_shot_modes_interrupt_once(bench: Bench, mode: int) -> None:
    bench.program(0, mode, 1000)
    assert bench.edges == []
    bench.tick(200_000)
    assert bench.edges == [1000]
    assert bench.clock.next_deadline() is None


def test_loading_a_square_wave_raises_the_line(bench: Bench) -> None:
    bench.program(0, 3, 1000)
    assert bench.edges == [0]
    bench.tick(600)                             # in the low half now
    bench.program(0, 3, 1000)
    assert bench.edges == [0, 600]
    bench.tick(100)                             # in the high half
    bench.program(0, 3, 1000)
    assert bench.edges == [0, 600]
    bench.tick(1000)
    assert bench.edges == [0, 600, 1700]


def test_switching_from_the_power_on_square_wave_makes_no_edge(bench: Bench) -> None:
    bench.tick(100)
    bench.program(0, 2, 1000)
    assert bench.edges == []


def test_a_new_count_starts_the_period_over(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.tick(900)
    bench.program(0, 2, 500)
    bench.tick(600)
    assert bench.edges == [1400]


def test_a_control_word_stops_the_interrupts(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.pit.write(CONTROL, 0x30, 1)
    assert bench.clock.next_deadline() is None


def test_an_edge_that_is_due_is_not_lost_to_a_new_count(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.now = 2_000_000                       # nobody has looked at the timers
    bench.program(0, 2, 1000)
    assert len(bench.edges) == 1


def test_periods_that_nobody_saw_are_one_edge(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.now = 10_000_000_000
    assert bench.clock.fire_due() == 1
    assert len(bench.edges) == 1
    ticks = bench.now * PIT_HZ // 1_000_000_000
    bench.tick(1000)
    assert len(bench.edges) == 2
    assert bench.edges[1] == (ticks // 1000 + 1) * 1000


def test_the_period_does_not_drift(bench: Bench) -> None:
    bench.program(0, 2, 11_932)                 # 100 Hz
    bench.tick(11_932 * 1000)
    assert bench.edges == [11_932 * n for n in range(1, 1001)]


def test_a_periodic_count_of_one_does_not_storm(bench: Bench) -> None:
    bench.program(0, 2, 1)
    assert bench.clock.next_deadline() is None


# -- the gate ------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, 4])
def test_a_low_gate_holds_a_count_and_a_high_one_lets_it_go_on(bench: Bench, mode: int) -> None:
    bench.pit.set_gate(2, True)
    bench.program(2, mode, 1000)
    bench.tick(100)
    bench.pit.set_gate(2, False)
    bench.tick(500)
    assert bench.count(2) == 900
    bench.pit.set_gate(2, True)
    assert bench.count(2) == 900
    bench.tick(899)
    assert not bench.pit.output(2)
    bench.tick(1)
    assert bench.pit.output(2)


def test_a_count_loaded_behind_a_closed_gate_waits(bench: Bench) -> None:
    bench.program(2, 0, 1000)
    bench.tick(5000)
    assert bench.count(2) == 1000 and not bench.pit.output(2)
    bench.pit.set_gate(2, True)
    bench.tick(1000)
    assert bench.pit.output(2)


@pytest.mark.parametrize("mode", [1, 2, 3, 5])
def test_a_rising_gate_triggers_anew(bench: Bench, mode: int) -> None:
    bench.pit.set_gate(2, True)
    bench.program(2, mode, 1000)
    bench.tick(100)
    bench.pit.set_gate(2, False)
    bench.tick(10)
    bench.pit.set_gate(2, True)
    assert bench.count(2) == 1000


@pytest.mark.parametrize(("mode", "idle"), [(2, False), (3, True)])
def test_a_closed_gate_idles_the_periodic_modes(bench: Bench, mode: int, idle: bool) -> None:
    bench.pit.set_gate(2, True)
    bench.program(2, mode, 10)
    bench.pit.set_gate(2, False)
    for _ in range(25):
        bench.tick(1)
        assert bench.pit.output(2) is idle


def test_a_gate_that_stays_high_does_not_trigger(bench: Bench) -> None:
    bench.pit.set_gate(2, True)
    bench.program(2, 2, 1000)
    bench.tick(100)
    bench.pit.set_gate(2, True)
    assert bench.count(2) == 900


def test_the_gate_of_channel_0_holds_its_interrupt(bench: Bench) -> None:
    bench.program(0, 0, 1000)
    bench.tick(400)
    bench.pit.set_gate(0, False)
    bench.tick(5000)
    assert bench.edges == []
    bench.pit.set_gate(0, True)
    bench.tick(601)
    assert bench.edges == [6000]


# -- life cycle ----------------------------------------------------------------


def test_a_frozen_clock_freezes_the_count(bench: Bench) -> None:
    bench.program(1, 0, 1000)
    bench.clock.freeze()
    bench.now += 1_000_000_000
    bench.clock.thaw()
    assert bench.count(1) == 1000


def test_state_put_in_place_goes_on_where_it_was(bench: Bench) -> None:
    bench.program(0, 2, 1000)
    bench.program(1, 0, 5000)
    bench.tick(300)
    saved = dataclasses.asdict(bench.pit.state)
    other = Bench()
    other.now = bench.now
    other.pit.state = State(**saved)
    other.pit.restored()
    other.tick(700)
    assert other.edges == [1000]
    assert other.count(1) == 4000


def test_reset_forgets_the_programming(bench: Bench) -> None:
    bench.program(0, 0, 1000)
    bench.pit.set_gate(2, True)
    bench.pit.reset()
    bench.tick(1001)
    assert bench.edges == []
    assert bench.status(0) & 0x3F == 0x06
