"""The clock chip: time, its updates, alarms and interrupts, and what a reset leaves."""

from __future__ import annotations

import calendar
import dataclasses
import random
from datetime import datetime, timedelta

import pytest

from machine.clock import Clock
from machine.devices.mc146818 import Mc146818, State

SECOND = 1_000_000_000
SEC, SEC_ALARM, MIN, MIN_ALARM, HOUR, HOUR_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
A, B, C, D, SHUTDOWN, CENTURY = 10, 11, 12, 13, 15, 0x32
SET, PIE, AIE, UIE, SQWE, BINARY, H24 = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
UIP = 0x80


class Bench:
    """A clock chip at *start*; `after` lets time pass, each timer at its moment."""

    def __init__(self, start: str = "2025-01-31T12:34:56") -> None:
        self.now = 0
        self.clock = Clock(source=lambda: self.now)
        self.irq = False
        self.rises: list[int] = []
        self.alarms: list[int] = []
        wall = calendar.timegm(datetime.fromisoformat(start).timetuple()) * SECOND
        self.rtc = Mc146818(clock=self.clock, irq=self._irq, wall_ns_at_zero=wall)
        self.rtc.on_alarm = lambda: self.alarms.append(self.now)

    def _irq(self, level: bool) -> None:
        assert level != self.irq
        self.irq = level
        if level:
            self.rises.append(self.now)

    def after(self, ns: int) -> None:
        end = self.now + ns
        while (due := self.clock.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.clock.fire_due()
        self.now = end

    def get(self, index: int) -> int:
        self.rtc.write(0, index, 1)
        return self.rtc.read(1, 1)

    def put(self, index: int, value: int) -> None:
        self.rtc.write(0, index, 1)
        self.rtc.write(1, value, 1)

    def time(self) -> str:
        """What the BCD, 24-hour registers say."""
        return (f"{self.get(CENTURY):02x}{self.get(YEAR):02x}-{self.get(MONTH):02x}-"
                f"{self.get(DAY):02x}T{self.get(HOUR):02x}:{self.get(MIN):02x}:{self.get(SEC):02x}")

    def alarm(self, hour: int, minute: int, second: int) -> None:
        for index, value in ((HOUR_ALARM, hour), (MIN_ALARM, minute), (SEC_ALARM, second)):
            self.put(index, value)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- the registers -----------------------------------------------------------------


def test_control_registers_at_power_on(bench: Bench) -> None:
    assert [bench.get(index) for index in (A, B, C, D)] == [0x26, 0x02, 0x00, 0x80]


def test_the_index_port_reads_all_ones(bench: Bench) -> None:
    bench.rtc.write(0, 0x0D, 1)
    assert bench.rtc.read(0, 1) == 0xFF


def test_the_nmi_mask_is_not_part_of_the_index(bench: Bench) -> None:
    bench.put(0x40, 0x5A)
    bench.rtc.write(0, 0x80 | 0x40, 1)
    assert bench.rtc.read(1, 1) == 0x5A


def test_the_ram_is_ram(bench: Bench) -> None:
    indices = [i for i in range(0x0E, 0x80) if i not in (CENTURY, 0x37)]
    for index in indices:
        bench.put(index, index ^ 0xA5)
    assert all(bench.get(index) == index ^ 0xA5 for index in indices)


def test_c_and_d_cannot_be_written(bench: Bench) -> None:
    bench.put(C, 0xFF)
    bench.put(D, 0x00)
    assert (bench.get(C), bench.get(D)) == (0, 0x80)


def test_uip_cannot_be_written(bench: Bench) -> None:
    bench.put(A, 0xA6)
    assert bench.get(A) == 0x26


# -- time ----------------------------------------------------------------------------


def test_time_is_told_in_bcd_and_24_hours(bench: Bench) -> None:
    assert bench.time() == "2025-01-31T12:34:56"
    assert bench.get(WEEKDAY) == 6              # a Friday
    assert bench.get(0x37) == 0x20              # the century's other name


def test_time_goes_on_over_every_boundary() -> None:
    bench = Bench("2023-12-31T23:59:59")
    bench.after(SECOND - 1)
    assert bench.time() == "2023-12-31T23:59:59"
    bench.after(1)
    assert bench.time() == "2024-01-01T00:00:00"
    bench.after(59 * 86_400 * SECOND)
    assert bench.time() == "2024-02-29T00:00:00"


def test_dates_are_those_of_the_calendar() -> None:
    chance = random.Random(146818)
    for _ in range(300):
        moment = datetime(1970, 1, 1) + timedelta(seconds=chance.randrange(8_000_000_000))
        bench = Bench(moment.isoformat())
        assert bench.time() == moment.isoformat()
        assert bench.get(WEEKDAY) == moment.isoweekday() % 7 + 1


def test_what_is_set_is_what_is_read() -> None:
    chance = random.Random(8254)
    bench = Bench()
    for _ in range(300):
        moment = datetime(1900, 1, 1) + timedelta(seconds=chance.randrange(10_000_000_000))
        bench.put(B, SET | BINARY | H24)
        for index, value in ((SEC, moment.second), (MIN, moment.minute), (HOUR, moment.hour),
                             (DAY, moment.day), (MONTH, moment.month), (YEAR, moment.year % 100),
                             (CENTURY, moment.year // 100)):
            bench.put(index, value)
        bench.put(B, BINARY | H24)
        bench.put(B, H24)
        assert bench.time() == moment.isoformat()
        assert bench.get(WEEKDAY) == moment.isoweekday() % 7 + 1


def test_binary_mode(bench: Bench) -> None:
    bench.put(B, BINARY | H24)
    assert [bench.get(i) for i in (CENTURY, YEAR, MONTH, DAY, HOUR, MIN, SEC)] == [
        20, 25, 1, 31, 12, 34, 56]


@pytest.mark.parametrize(("hour", "bcd", "binary"), [
    (0, 0x12, 12), (1, 0x01, 1), (11, 0x11, 11), (12, 0x92, 0x8C), (13, 0x81, 0x81),
    (23, 0x91, 0x8B)])
def test_12_hour_mode(hour: int, bcd: int, binary: int) -> None:
    bench = Bench(f"2025-01-31T{hour:02d}:00:00")
    bench.put(B, 0)
    assert bench.get(HOUR) == bcd
    bench.put(B, BINARY)
    assert bench.get(HOUR) == binary
    bench.put(HOUR, binary)                     # and back
    bench.put(B, BINARY | H24)
    assert bench.get(HOUR) == hour


def test_set_holds_the_registers_still(bench: Bench) -> None:
    bench.put(B, SET | H24)
    bench.after(10 * SECOND)
    assert bench.time() == "2025-01-31T12:34:56"
    assert bench.get(A) & UIP == 0


def test_time_goes_on_from_what_was_set_with_the_same_fraction(bench: Bench) -> None:
    bench.after(SECOND // 4)
    bench.put(B, SET | H24)
    bench.put(SEC, 0x10)
    bench.after(3 * SECOND)
    bench.put(B, H24)
    assert bench.get(SEC) == 0x10
    bench.after(3 * SECOND // 4 - 1)
    assert bench.get(SEC) == 0x10
    bench.after(1)
    assert bench.get(SEC) == 0x11


def test_writing_while_it_runs_sets_the_time(bench: Bench) -> None:
    bench.after(SECOND // 2)
    bench.put(YEAR, 0x30)
    assert bench.time() == "2030-01-31T12:34:56"
    bench.after(SECOND // 2)
    assert bench.time() == "2030-01-31T12:34:57"


def test_the_century_is_set_through_either_name(bench: Bench) -> None:
    bench.put(0x37, 0x21)
    assert bench.get(CENTURY) == 0x21
    assert bench.time() == "2125-01-31T12:34:56"


def test_nonsense_in_the_date_does_no_harm(bench: Bench) -> None:
    for value in range(256):
        for index in (SEC, MIN, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY):
            bench.put(index, value)
        bench.put(B, (value & 0x86) ^ H24)
        bench.get(SEC)
        bench.after(SECOND)


def test_a_held_divider_stops_the_time_and_half_a_second_restarts_it(bench: Bench) -> None:
    bench.put(A, 0x66)
    bench.after(10 * SECOND)
    assert bench.time() == "2025-01-31T12:34:56"
    assert bench.get(C) == 0
    bench.put(A, 0x26)
    bench.after(SECOND // 2 - 1)
    assert bench.get(SEC) == 0x56
    bench.after(1)
    assert bench.get(SEC) == 0x57


def test_uip_announces_an_update_244_us_ahead(bench: Bench) -> None:
    bench.after(SECOND - 244_141)
    assert bench.get(A) & UIP == 0
    bench.after(1)
    assert bench.get(A) & UIP
    bench.after(244_140 - 1)
    assert bench.get(A) & UIP and bench.get(SEC) == 0x56
    bench.after(1)
    assert bench.get(A) & UIP == 0 and bench.get(SEC) == 0x57


# -- update --------------------------------------------------------------------------


def test_uf_is_set_at_each_update_and_cleared_by_a_read(bench: Bench) -> None:
    assert bench.get(C) == 0
    bench.after(SECOND)
    assert bench.get(C) == UF
    assert bench.get(C) == 0
    bench.after(SECOND - 1)
    assert bench.get(C) == 0
    bench.after(1)
    assert bench.get(C) == UF
    assert bench.rises == []


def test_the_update_interrupt_stays_until_c_is_read(bench: Bench) -> None:
    bench.put(B, UIE | H24)
    bench.after(SECOND)
    assert bench.irq
    bench.after(5 * SECOND)
    assert bench.irq and bench.rises == [SECOND]
    assert bench.get(C) == IRQF | UF
    assert not bench.irq
    bench.after(SECOND)
    assert bench.rises == [SECOND, 7 * SECOND]


def test_enabling_a_cause_that_is_there_interrupts_at_once(bench: Bench) -> None:
    bench.after(SECOND)
    bench.put(B, UIE | H24)
    assert bench.irq
    bench.put(B, H24)
    assert not bench.irq
    assert bench.get(C) == UF


def test_set_takes_uie_away(bench: Bench) -> None:
    bench.put(B, SET | UIE | H24)
    assert bench.get(B) == SET | H24


def test_an_unread_uf_costs_no_more_timers_than_the_alarm(bench: Bench) -> None:
    bench.alarm(0x13, 0, 0)
    bench.after(SECOND)
    assert bench.clock.next_deadline() == (25 * 60 + 4) * SECOND


# -- alarm ---------------------------------------------------------------------------


def test_an_alarm_comes_once_a_day(bench: Bench) -> None:
    bench.alarm(0x12, 0x35, 0x00)
    bench.put(B, AIE | H24)
    bench.after(4 * SECOND - 1)
    assert bench.rises == []
    bench.after(1)
    assert bench.irq and bench.alarms == [4 * SECOND]
    assert bench.get(C) == IRQF | AF | UF
    bench.after(86_400 * SECOND)
    assert bench.alarms == [4 * SECOND, (86_400 + 4) * SECOND]


@pytest.mark.parametrize(("alarm", "matches"), [
    ((0xC0, 0xFF, 0xC0), [1, 2, 3]),
    ((0xFF, 0xC5, 0x58), [2, 62, 122]),
    ((0xFF, 0x36, 0x00), [64, 3664, 7264]),
    ((0xFF, 0x35, 0xC0), [4, 5, 6]),
    ((0x13, 0xC0, 0xFF), [1504, 1505, 1506]),
    ((0x13, 0xFF, 0x59), [1563, 1623, 1683]),
    ((0x12, 0x34, 0xFF), [1, 2, 3]),
])
def test_bytes_from_c0_match_anything(bench: Bench, alarm: tuple[int, int, int],
                                      matches: list[int]) -> None:
    bench.alarm(*alarm)
    bench.put(B, AIE | H24)
    for at in matches:
        bench.after(at * SECOND - bench.now)
        assert bench.get(C) & AF
    assert bench.alarms == [at * SECOND for at in matches]


def test_an_alarm_of_this_very_second_is_tomorrows(bench: Bench) -> None:
    bench.alarm(0x12, 0x34, 0x56)
    bench.put(B, AIE | H24)
    bench.after(86_400 * SECOND - 1)
    assert bench.alarms == []
    bench.after(1)
    assert bench.alarms == [86_400 * SECOND]


def test_an_impossible_alarm_never_comes(bench: Bench) -> None:
    bench.alarm(0x25, 0x00, 0x00)
    bench.put(B, AIE | H24)
    bench.after(3 * 86_400 * SECOND)
    assert bench.alarms == []


def test_an_alarm_in_12_hour_mode(bench: Bench) -> None:
    bench.put(B, AIE)
    bench.alarm(0x81, 0x00, 0x00)               # 1 PM
    bench.after((25 * 60 + 4) * SECOND)
    assert bench.alarms == [(25 * 60 + 4) * SECOND]


def test_an_alarm_in_binary(bench: Bench) -> None:
    bench.put(B, AIE | BINARY | H24)
    bench.alarm(12, 59, 59)
    bench.after(86_000 * SECOND)
    assert bench.alarms == [(25 * 60 + 3) * SECOND]


def test_without_aie_af_is_set_and_nobody_is_told(bench: Bench) -> None:
    bench.alarm(0x12, 0x35, 0x00)
    bench.after(4 * SECOND)
    assert bench.get(C) == AF | UF
    assert bench.alarms == [] and bench.rises == []


def test_the_alarm_moves_with_the_time(bench: Bench) -> None:
    bench.alarm(0x18, 0x00, 0x00)
    bench.put(B, SET | AIE | H24)
    bench.put(HOUR, 0x17)
    bench.put(MIN, 0x59)
    bench.put(SEC, 0x50)
    bench.put(B, AIE | H24)
    bench.after(10 * SECOND)
    assert bench.alarms == [10 * SECOND]


def test_an_alarm_that_fell_due_unseen_is_delivered_late(bench: Bench) -> None:
    bench.alarm(0x12, 0x35, 0x00)
    bench.put(B, AIE | H24)
    bench.now = 100 * SECOND                    # the machine was stopped
    bench.clock.fire_due()
    assert bench.alarms == [100 * SECOND]
    assert bench.get(C) & AF
    bench.after(86_400 * SECOND)
    assert len(bench.alarms) == 2


def test_on_alarm_is_called_after_the_flags_are_set(bench: Bench) -> None:
    seen: list[tuple[int, bool]] = []
    bench.rtc.on_alarm = lambda: seen.append((bench.rtc.state.cmos[C], bench.irq))
    bench.alarm(0xFF, 0xFF, 0xFF)
    bench.put(B, AIE | H24)
    bench.after(SECOND)
    assert seen == [(IRQF | AF | UF, True)]


# -- the periodic interrupt ------------------------------------------------------------


@pytest.mark.parametrize("rate", range(16))
def test_the_periodic_rates(bench: Bench, rate: int) -> None:
    bench.put(A, 0x20 | rate)
    bench.put(B, PIE | H24)
    hz = [0, 256, 128] + [32_768 >> (r - 1) for r in range(3, 16)]
    if not rate:
        bench.after(10 * SECOND)
        assert bench.rises == []
        return
    for _ in range(10):
        bench.after(bench.rtc.state.periodic_at - bench.now)
        assert bench.get(C) & (IRQF | PF) == IRQF | PF
    assert bench.rises == [-(-n * SECOND // hz[rate]) for n in range(1, 11)]


def test_1024_hz_is_1024_interrupts_a_second(bench: Bench) -> None:
    bench.put(B, PIE | H24)
    for _ in range(1024):
        deadline = bench.clock.next_deadline()
        assert deadline is not None
        bench.after(deadline - bench.now)
        assert bench.get(C) & (IRQF | PF) == IRQF | PF
    assert bench.now == SECOND


def test_without_pie_there_is_no_periodic_timer(bench: Bench) -> None:
    bench.put(B, PIE | H24)
    bench.put(B, H24)
    bench.after(SECOND - 1)
    assert bench.get(C) == 0 and bench.rises == []


def test_a_rate_change_takes_effect_at_once(bench: Bench) -> None:
    bench.put(A, 0x2F)                          # 2 Hz
    bench.put(B, PIE | H24)
    bench.put(A, 0x26)
    assert bench.clock.next_deadline() == 976_563


def test_periods_that_nobody_saw_are_one_interrupt(bench: Bench) -> None:
    bench.put(B, PIE | H24)
    bench.now = 3600 * SECOND + 1
    bench.clock.fire_due()
    assert len(bench.rises) == 1
    deadline = bench.clock.next_deadline()
    assert deadline is not None and deadline > bench.now


# -- life cycle ------------------------------------------------------------------------


def test_reset_keeps_ram_and_time_and_takes_the_enables(bench: Bench) -> None:
    bench.put(0x40, 0x77)
    bench.put(B, PIE | AIE | UIE | SQWE | BINARY | H24 | 1)
    bench.after(SECOND)
    assert bench.irq
    bench.rtc.reset()
    assert not bench.irq
    assert (bench.get(B), bench.get(C)) == (UIE | BINARY | H24 | 1, 0)
    assert bench.get(0x40) == 0x77
    bench.put(B, H24)
    assert bench.time() == "2025-01-31T12:34:57"


def test_reset_stops_the_periodic_interrupt(bench: Bench) -> None:
    bench.put(B, PIE | H24)
    bench.rtc.reset()
    bench.after(SECOND - 1)
    assert bench.rises == []


def test_the_alarm_time_survives_a_reset_without_its_enable(bench: Bench) -> None:
    bench.alarm(0x12, 0x35, 0x00)
    bench.put(B, AIE | H24)
    bench.rtc.reset()
    bench.after(10 * SECOND)
    assert bench.alarms == []
    assert bench.get(C) == AF | UF


@pytest.mark.parametrize(("before", "after"), [(0x00, 0x00), (0x05, 0x00), (0xFE, 0xFE)])
def test_only_an_s3_shutdown_status_survives_a_reset(bench: Bench, before: int,
                                                    after: int) -> None:
    bench.put(SHUTDOWN, before)
    bench.rtc.reset()
    assert bench.get(SHUTDOWN) == after


def test_a_frozen_clock_freezes_the_time(bench: Bench) -> None:
    bench.clock.freeze()
    bench.now += 50 * SECOND
    bench.clock.thaw()
    assert bench.time() == "2025-01-31T12:34:56"


def test_state_put_in_place_goes_on_where_it_was(bench: Bench) -> None:
    bench.put(MIN, 0x00)
    bench.alarm(0x12, 0x01, 0x00)
    bench.put(A, 0x2F)
    bench.put(B, AIE | PIE | H24)
    other = Bench()
    other.rtc.state = State(**dataclasses.asdict(bench.rtc.state))
    other.rtc.restored()
    assert other.time() == "2025-01-31T12:00:56"
    other.after(4 * SECOND)
    assert other.alarms == [4 * SECOND]
    assert other.rises == [SECOND // 2]
