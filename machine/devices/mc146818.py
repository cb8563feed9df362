"""The MC146818A real-time clock with the PC's 128 bytes of CMOS RAM.

Follows Motorola's MC146818A data sheet, and the PC's use of it.

====  =================================================================
port  access
====  =================================================================
70    write: index (bit 7, the NMI mask, is not part of it); reads 0xff
71    rw: the byte at the index
====  =================================================================

=====  ====================================================================
index  byte
=====  ====================================================================
00-05  seconds, seconds alarm, minutes, minutes alarm, hours, hours alarm
06-09  day of the week (1 is Sunday), day, month, year
0a     A: 7 UIP (read only), 6-4 divider (2 runs, 6 and 7 reset), 3-0 rate
0b     B: 7 SET, 6 PIE, 5 AIE, 4 UIE, 3 SQWE, 2 binary, 1 24 hours, 0 DSE
0c     C (read only, a read clears it): 7 IRQF, 6 PF, 5 AF, 4 UF
0d     D (read only): 7 power is good
32     century; 37 is another name of it
=====  ====================================================================

Time is the clock's reading plus an offset that the guest sets.  Registers
0-9 and 0x32 are worked out when they are read.  An update comes once a second, UIP
announces it 244 us ahead.  An alarm byte of 0xc0-0xff matches anything.

As in QEMU: PF is only set while PIE is; a reset clears PIE, AIE and SQWE, and keeps UIE, the
RAM and the time; it also clears the shutdown byte 0x0f, unless that is 0xfe, a wake-up from S3.
Other than in QEMU, writing the time while it runs keeps the fraction of the second.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from machine.clock import NS_PER_SECOND, Clock
from machine.wiring import Line, Notify

__all__ = ["Mc146818", "State"]

_log = logging.getLogger("snooze.guest")

INDEX, DATA = 0, 1

(SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM,
 WEEKDAY, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D, _DIAGNOSTIC, SHUTDOWN_STATUS) = range(16)
CENTURY, CENTURY_PS2 = 0x32, 0x37
_TIME = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))
_ALARM = frozenset((SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM))

A_UIP, A_DIVIDER, A_RATE = 0x80, 0x70, 0x0F
A_DIVIDER_RESET = 0x60              # both bits: the chain is held
A_DIVIDER_RUNS = 0x20               # the largest divider that counts
B_SET, B_PIE, B_AIE, B_UIE, B_SQWE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQF, C_PF, C_AF, C_UF = 0x80, 0x40, 0x20, 0x10
C_CAUSES = C_PF | C_AF | C_UF
D_VRT = 0x80
ANY = 0xC0                          # alarm bytes from here on match anything
PM = 0x80

CMOS_SIZE = 128
RATE_HZ = 32_768
#: UIP is set this long before an update: eight periods of 32 kHz
UIP_NS = 8 * NS_PER_SECOND // RATE_HZ
#: the first update comes this long after the divider is let go
DIVIDER_RELEASE_NS = NS_PER_SECOND // 2
S3_WAKE = 0xFE                      # shutdown status of a machine that slept in S3
SECONDS_PER_DAY = 86_400
_NEVER = -1


def _initial_cmos() -> bytearray:
    cmos = bytearray(CMOS_SIZE)
    cmos[REG_A], cmos[REG_B], cmos[REG_D] = 0x26, B_24H, D_VRT
    return cmos


@dataclass
class State:
    """The RAM with all registers in it, and where the time stands.

    The time bytes in *cmos* are current only while the time is set or held.
    """

    cmos: bytearray = field(default_factory=_initial_cmos)
    index: int = 0
    #: guest time = clock + wall_ns_at_zero + this, ns
    offset_ns: int = 0
    #: level of the interrupt line
    irq: int = 0
    # ns of the clock, or -1
    update_at: int = _NEVER
    alarm_at: int = _NEVER
    periodic_at: int = _NEVER


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to a date; a month or day out of range runs on."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    # Years that begin in March put the leap day last.
    if month <= 2:
        year -= 1
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - 719_468


def _date(days: int) -> tuple[int, int, int]:
    """(year, month, day) that many days from 1970-01-01."""
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524
                   - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march_month + 2) // 5 + 1
    month = march_month + 3 if march_month < 10 else march_month - 9
    return era * 400 + year_of_era + (month <= 2), month, day


class Mc146818:
    """The clock chip.

    *wall_ns_at_zero* is the date and time, in ns since 1970 in the guest's own zone, at the clock's
    zero.  *irq* is its level interrupt.  `on_alarm` is called when an alarm sets AF
    while AIE is on.
    """

    def __init__(self, *, clock: Clock, irq: Line, wall_ns_at_zero: int) -> None:
        self.state = State()
        self.on_alarm: Notify | None = None
        self._clock = clock
        self._irq = irq
        self._wall_ns_at_zero = wall_ns_at_zero
        self._update_timer = clock.timer("mc146818-update", self._updated)
        self._periodic_timer = clock.timer("mc146818-periodic", self._period_over)
        self._latch_time()
        self._find_alarm()
        self._arm()

    def reset(self) -> None:
        """The reset pin: no interrupts; RAM and time stay."""
        cmos = self.state.cmos
        if cmos[SHUTDOWN_STATUS] != S3_WAKE:
            cmos[SHUTDOWN_STATUS] = 0
        cmos[REG_B] &= ~(B_PIE | B_AIE | B_SQWE)
        cmos[REG_C] = 0
        self._drive(False)
        self._set_period()
        self._find_alarm()
        self._arm()

    def restored(self) -> None:
        """Arm the timers of a `state` that was put in place from outside."""
        self._arm()
        if self.state.periodic_at == _NEVER:
            self._periodic_timer.cancel()
        else:
            self._periodic_timer.at(self.state.periodic_at)

    # -- the ports ---------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """IN from 0x70 + *offset*."""
        if offset != DATA:
            return 0xFF
        s = self.state
        index, cmos = s.index, s.cmos
        if index in _TIME:
            if self._running():
                self._latch_time()
            return cmos[index]
        if index == REG_A:
            return cmos[REG_A] | (A_UIP if self._update_in_progress() else 0)
        if index == REG_C:
            causes = cmos[REG_C]
            if causes:
                cmos[REG_C] = 0
                self._drive(False)
                if causes & C_UF:
                    self._arm()
            return causes
        return cmos[index]

    def write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x70 + *offset*."""
        s = self.state
        if offset != DATA:
            index = value & 0x7F
            s.index = CENTURY if index == CENTURY_PS2 else index
            return
        index = s.index
        if index == REG_A:
            self._write_a(value)
        elif index == REG_B:
            self._write_b(value)
        elif index in (REG_C, REG_D):
            _log.warning("mc146818: write of 0x%02x to read-only register 0x%02x", value, index)
        elif index in _TIME:
            running = self._running()
            if running:
                self._latch_time()
            s.cmos[index] = value
            if running:
                self._set_time(self._guest_ns() % NS_PER_SECOND)
                self._find_alarm()
                self._arm()
        else:
            s.cmos[index] = value
            if index in _ALARM:
                self._find_alarm()
                self._arm()

    def _write_a(self, value: int) -> None:
        cmos = self.state.cmos
        before = cmos[REG_A]
        was_running = self._running()
        if was_running:
            self._latch_time()
        cmos[REG_A] = value & ~A_UIP
        if self._running() and not was_running:
            self._set_time(DIVIDER_RELEASE_NS)
        if (before ^ value) & A_DIVIDER:
            self._find_alarm()
        if (before ^ value) & A_RATE:
            self._set_period()
        self._arm()

    def _write_b(self, value: int) -> None:
        cmos = self.state.cmos
        before = cmos[REG_B]
        if value & B_SET:
            if self._running():
                self._latch_time()
            value &= ~B_UIE
        elif before & B_SET and cmos[REG_A] & A_DIVIDER <= A_DIVIDER_RUNS:
            # the bytes are what they were when written: in the old format
            self._set_time(self._guest_ns() % NS_PER_SECOND)
        cmos[REG_B] = value
        if value & cmos[REG_C] & C_CAUSES:
            cmos[REG_C] |= C_IRQF
            self._drive(True)
        else:
            cmos[REG_C] &= ~C_IRQF
            self._drive(False)
        if (before ^ value) & B_PIE:
            self._set_period()
        if (before ^ value) & (B_SET | B_BINARY | B_24H):
            self._find_alarm()
        self._arm()

    # -- time --------------------------------------------------------------------

    def _running(self) -> bool:
        """Whether the time bytes follow the time."""
        cmos = self.state.cmos
        return not cmos[REG_B] & B_SET and cmos[REG_A] & A_DIVIDER <= A_DIVIDER_RUNS

    def _counting(self) -> bool:
        """Whether seconds pass at all; SET only keeps them out of the time bytes."""
        return self.state.cmos[REG_A] & A_DIVIDER_RESET != A_DIVIDER_RESET

    def _guest_ns(self) -> int:
        return self._wall_ns_at_zero + self._clock.now_ns() + self.state.offset_ns

    def _update_in_progress(self) -> bool:
        return (self._running()
                and self._guest_ns() % NS_PER_SECOND >= NS_PER_SECOND - UIP_NS)

    def _encode(self, value: int) -> int:
        if self.state.cmos[REG_B] & B_BINARY:
            return value & 0xFF
        return value // 10 % 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        return byte if self.state.cmos[REG_B] & B_BINARY else (byte >> 4) * 10 + (byte & 15)

    def _decode_hours(self, byte: int) -> int:
        hours = self._decode(byte & ~PM & 0xFF)
        if self.state.cmos[REG_B] & B_24H:
            return hours
        return hours % 12 + (12 if byte & PM else 0)

    def _latch_time(self) -> None:
        """Put the present time into its bytes."""
        cmos, encode = self.state.cmos, self._encode
        days, second = divmod(self._guest_ns() // NS_PER_SECOND, SECONDS_PER_DAY)
        year, month, day = _date(days)
        hours = second // 3600
        cmos[SECONDS] = encode(second % 60)
        cmos[MINUTES] = encode(second // 60 % 60)
        if cmos[REG_B] & B_24H:
            cmos[HOURS] = encode(hours)
        else:
            cmos[HOURS] = encode(hours % 12 or 12) | (PM if hours >= 12 else 0)
        cmos[WEEKDAY] = encode((days + 4) % 7 + 1)      # 1970-01-01 was a Thursday
        cmos[DAY] = encode(day)
        cmos[MONTH] = encode(month)
        cmos[YEAR] = encode(year % 100)
        cmos[CENTURY] = encode(year // 100)

    def _set_time(self, fraction_ns: int) -> None:
        """Take the time from its bytes, *fraction_ns* into that second."""
        cmos, decode = self.state.cmos, self._decode
        year = decode(cmos[CENTURY]) * 100 + decode(cmos[YEAR])
        days = _days(year, decode(cmos[MONTH]), decode(cmos[DAY]))
        seconds = (days * SECONDS_PER_DAY + self._decode_hours(cmos[HOURS]) * 3600
                   + decode(cmos[MINUTES]) * 60 + decode(cmos[SECONDS]))
        self.state.offset_ns = (seconds * NS_PER_SECOND + fraction_ns
                                - self._wall_ns_at_zero - self._clock.now_ns())

    # -- update and alarm --------------------------------------------------------

    def _seconds_to_alarm(self, second_of_day: int) -> int | None:
        """Seconds from *second_of_day* to the next match, 1 to a day; None for never."""
        cmos = self.state.cmos
        hour, minute, second = (
            None if byte >= ANY else decode(byte) for byte, decode in (
                (cmos[HOURS_ALARM], self._decode_hours), (cmos[MINUTES_ALARM], self._decode),
                (cmos[SECONDS_ALARM], self._decode)))
        at, end = second_of_day + 1, second_of_day + SECONDS_PER_DAY
        while at <= end:
            if hour is not None and at // 3600 % 24 != hour:
                at += 3600 - at % 3600
            elif minute is not None and at // 60 % 60 != minute:
                at += 60 - at % 60
            elif second is not None and at % 60 != second:
                at += 1
            else:
                return at - second_of_day
        return None

    def _find_alarm(self) -> None:
        """Work out when the alarm matches next."""
        s = self.state
        s.alarm_at = _NEVER
        if self._counting():
            guest_ns = self._guest_ns()
            seconds = self._seconds_to_alarm(guest_ns // NS_PER_SECOND % SECONDS_PER_DAY)
            if seconds is not None:
                s.alarm_at = (self._clock.now_ns() - guest_ns % NS_PER_SECOND
                              + seconds * NS_PER_SECOND)

    def _arm(self) -> None:
        """Wait for the next update, or only for the alarm while UF has not been read."""
        s = self.state
        if not self._counting():
            s.update_at = _NEVER
        elif s.cmos[REG_C] & C_UF:
            s.update_at = s.alarm_at
        else:
            now = self._clock.now_ns()
            s.update_at = now + NS_PER_SECOND - self._guest_ns() % NS_PER_SECOND
            if s.alarm_at != _NEVER and s.alarm_at < s.update_at:
                s.update_at = s.alarm_at        # overdue
        if s.update_at == _NEVER:
            self._update_timer.cancel()
        elif s.update_at != self._update_timer.deadline:
            self._update_timer.at(s.update_at)

    def _updated(self) -> None:
        s = self.state
        causes = C_UF
        alarm = s.alarm_at != _NEVER and self._clock.now_ns() >= s.alarm_at
        if alarm:
            causes |= C_AF
            self._find_alarm()
        self._raise(causes)
        self._arm()
        if alarm and s.cmos[REG_B] & B_AIE and self.on_alarm is not None:
            self.on_alarm()

    # -- the periodic interrupt ----------------------------------------------------

    def _period_ticks(self) -> int:
        """The period in ticks of 32 kHz, 0 for none."""
        cmos = self.state.cmos
        rate = cmos[REG_A] & A_RATE
        if not rate or not cmos[REG_B] & B_PIE:
            return 0
        return 1 << (rate + 6 if rate <= 2 else rate - 1)

    def _set_period(self) -> None:
        s = self.state
        ticks = self._period_ticks()
        if not ticks:
            s.periodic_at = _NEVER
            self._periodic_timer.cancel()
            return
        # The chain runs freely: its edges do not depend on when PIE was set.
        passed = self._clock.now_ns() * RATE_HZ // NS_PER_SECOND // ticks
        s.periodic_at = -(-(passed + 1) * ticks * NS_PER_SECOND // RATE_HZ)
        self._periodic_timer.at(s.periodic_at)

    def _period_over(self) -> None:
        self._set_period()
        self._raise(C_PF)

    # -- the interrupt -------------------------------------------------------------

    def _raise(self, causes: int) -> None:
        cmos = self.state.cmos
        fresh = causes & ~cmos[REG_C]
        cmos[REG_C] |= causes
        if fresh & cmos[REG_B]:
            cmos[REG_C] |= C_IRQF
            self._drive(True)

    def _drive(self, level: bool) -> None:
        if self.state.irq != level:
            self.state.irq = int(level)
            self._irq(level)
