"""The 8254 interval timer of a PC: three counters at 1.193182 MHz.

Follows Intel's 8254 data sheet (231164).  Channel 0 drives IRQ 0, channel 1 was the
DRAM refresh, channel 2 drives the speaker and is gated by port 0x61.

====  =================================================================
port  access
====  =================================================================
40-42 write: count of the channel; read: its status when latched, else
      its latched count, else its present count
43    write only (reads 0): control word, counter latch or read-back
====  =================================================================

Control word   7-6 channel, 5-4 access (1 low byte, 2 high byte, 3 low then high;
               0 latches the count), 3-1 mode, 0 BCD
Read-back      7-6 = 3, 5 = 0 latches counts, 4 = 0 latches status, 3-1 channels
Status         7 OUT, 6 null count (0 here), 5-4 access, 3-1 mode, 0 BCD

QEMU's ways, which guests have come to know, win over the data sheet:

- a count takes effect with its last byte, in every mode, also under way and
  without a trigger, and the control word alone changes neither count nor null count;
- OUT of modes 2, 4 and 5 is active high: high for one tick at the end;
- mode 3 counts down by two from whatever the count is, odd or even.

What QEMU does not have follows the data sheet: BCD counting, modes 6 and 7 as other names of 2 and
3, and a low gate that holds the count in modes 0, 2, 3 and 4 (and OUT idle in modes 2 and 3).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from machine.clock import NS_PER_SECOND, Clock
from machine.wiring import Line

__all__ = ["I8254", "PIT_HZ", "State"]

_log = logging.getLogger("snooze.guest")

PIT_HZ = 1_193_182

CONTROL = 3                         # the control word's offset
READ_BACK = 3                       # the channel number that makes it a read-back
READ_BACK_NO_COUNT, READ_BACK_NO_STATUS = 0x20, 0x10
ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_WORD = range(4)

#: the mode that each mode number selects: 6 and 7 are 2 and 3
_MODES = (0, 1, 2, 3, 4, 5, 2, 3)
_PERIODIC = (2, 3)
_HELD_BY_GATE = (0, 2, 3, 4)
_TRIGGERED_BY_GATE = (1, 2, 3, 5)
_IDLE_OUT = {2: False, 3: True}
_RUNNING = -1
_NEVER = -1


def _three(value: int) -> list[int]:
    return [value] * 3


@dataclass
class State:
    """The three channels; each list holds one value for each of them."""

    #: the reload value, 1-65536 (1-10000 in BCD)
    count: list[int] = field(default_factory=lambda: _three(0x10000))
    #: when it was loaded, ns of the clock
    loaded_at: list[int] = field(default_factory=lambda: _three(0))
    #: the ticks at which a low gate holds the channel, or -1
    held: list[int] = field(default_factory=lambda: _three(_RUNNING))
    gate: list[int] = field(default_factory=lambda: [1, 1, 0])
    #: mode as written, 0-7
    mode: list[int] = field(default_factory=lambda: _three(3))
    bcd: list[int] = field(default_factory=lambda: _three(0))
    access: list[int] = field(default_factory=lambda: _three(0))
    #: 1: the low byte of a word has been read / written
    read_high: list[int] = field(default_factory=lambda: _three(0))
    write_high: list[int] = field(default_factory=lambda: _three(0))
    write_low_byte: list[int] = field(default_factory=lambda: _three(0))
    #: what is left to be read of a latched count (an access code), 0 when none is
    latched: list[int] = field(default_factory=lambda: _three(0))
    latched_count: list[int] = field(default_factory=lambda: _three(0))
    status_latched: list[int] = field(default_factory=lambda: _three(0))
    status: list[int] = field(default_factory=lambda: _three(0))
    #: level of IRQ 0
    irq: int = 0
    #: when IRQ 0 moves next, ns of the clock, or -1
    irq_at: int = _NEVER


def _ticks(ns: int) -> int:
    return ns * PIT_HZ // NS_PER_SECOND


def _ns(ticks: int) -> int:
    """The first nanosecond at which *ticks* have passed."""
    return -(-ticks * NS_PER_SECOND // PIT_HZ)


def _from_bcd(value: int) -> int:
    return sum((value >> 4 * digit & 15) * 10 ** digit for digit in range(4))


def _to_bcd(value: int) -> int:
    return sum(value // 10 ** digit % 10 << 4 * digit for digit in range(4))


class I8254:
    """The timer.  *irq0* is the line that channel 0 drives."""

    def __init__(self, *, clock: Clock, irq0: Line) -> None:
        self.state = State()
        self._clock = clock
        self._irq0 = irq0
        self._timer = clock.timer("i8254-irq0", self._fire)
        self.reset()

    def reset(self) -> None:
        """Power-on: mode 3 with the longest period, the speaker's gate closed."""
        self._drive(False)
        self.state = s = State()
        s.loaded_at = _three(self._clock.now_ns())
        s.held[2] = 0
        self._arm_after(_MODES[s.mode[0]], 0)

    def restored(self) -> None:
        """Arm the timer of a `state` that was put in place from outside."""
        if self.state.irq_at == _NEVER:
            self._timer.cancel()
        else:
            self._timer.at(self.state.irq_at)

    # -- what other parts of the board see ---------------------------------------

    def output(self, channel: int) -> bool:
        """The level of OUT of *channel* at this moment."""
        s = self.state
        mode = _MODES[s.mode[channel]]
        if s.held[channel] != _RUNNING and mode in _IDLE_OUT:
            return _IDLE_OUT[mode]
        return self._output_after(channel, mode, self._elapsed(channel))

    def set_gate(self, channel: int, level: bool) -> None:
        """Drive the GATE input of *channel*."""
        s = self.state
        before = s.gate[channel]
        s.gate[channel] = int(level)
        if before == level:
            return
        mode = _MODES[s.mode[channel]]
        if not level:
            if mode in _HELD_BY_GATE:
                s.held[channel] = self._elapsed(channel)
                if channel == 0:
                    self._disarm()
            return
        if mode in _TRIGGERED_BY_GATE:
            self._start(channel)
        elif s.held[channel] != _RUNNING:
            s.loaded_at[channel] = self._clock.now_ns() - _ns(s.held[channel])
            s.held[channel] = _RUNNING
            if channel == 0:
                self._arm()

    # -- the ports -----------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """IN from 0x40 + *offset*."""
        if offset == CONTROL:
            return 0
        s = self.state
        if s.status_latched[offset]:
            s.status_latched[offset] = 0
            return s.status[offset]
        latched = s.latched[offset]
        if latched:
            count = s.latched_count[offset]
            if latched == ACCESS_WORD:
                s.latched[offset] = ACCESS_HIGH
                return count & 0xFF
            s.latched[offset] = 0
            return count & 0xFF if latched == ACCESS_LOW else count >> 8
        count = self._count(offset)
        access = s.access[offset]
        if access == ACCESS_HIGH:
            return count >> 8
        if access != ACCESS_WORD:
            return count & 0xFF
        if s.read_high[offset]:
            s.read_high[offset] = 0
            return count >> 8
        s.read_high[offset] = 1
        return count & 0xFF

    def write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x40 + *offset*."""
        if offset == CONTROL:
            self._control(value)
            return
        s = self.state
        access = s.access[offset]
        if access == ACCESS_HIGH:
            self._load(offset, value << 8)
        elif access != ACCESS_WORD:
            self._load(offset, value)
        elif s.write_high[offset]:
            s.write_high[offset] = 0
            self._load(offset, s.write_low_byte[offset] | value << 8)
        else:
            s.write_high[offset] = 1
            s.write_low_byte[offset] = value

    def _control(self, value: int) -> None:
        s = self.state
        channel = value >> 6
        if channel == READ_BACK:
            for channel in range(3):
                if value & 2 << channel:
                    if not value & READ_BACK_NO_COUNT:
                        self._latch(channel)
                    if not value & READ_BACK_NO_STATUS:
                        self._latch_status(channel)
            return
        access = value >> 4 & 3
        if access == ACCESS_LATCH:
            self._latch(channel)
            return
        if channel == 0:
            self._settle()
            self._disarm()
        s.access[channel] = access
        s.read_high[channel] = s.write_high[channel] = 0
        s.mode[channel] = value >> 1 & 7
        s.bcd[channel] = value & 1

    def _latch(self, channel: int) -> None:
        """Keep the present count until it is read; a second latch changes nothing."""
        s = self.state
        if not s.latched[channel]:
            s.latched_count[channel] = self._count(channel)
            s.latched[channel] = s.access[channel]

    def _latch_status(self, channel: int) -> None:
        s = self.state
        if not s.status_latched[channel]:
            s.status[channel] = (self.output(channel) << 7 | s.access[channel] << 4
                                 | s.mode[channel] << 1 | s.bcd[channel])
            s.status_latched[channel] = 1

    # -- counting ------------------------------------------------------------------

    def _elapsed(self, channel: int) -> int:
        """Ticks since the count was loaded."""
        s = self.state
        held = s.held[channel]
        if held != _RUNNING:
            return held
        return (self._clock.now_ns() - s.loaded_at[channel]) * PIT_HZ // NS_PER_SECOND

    def _count(self, channel: int) -> int:
        """The counter as it reads, 0-0xffff."""
        s = self.state
        elapsed, count = self._elapsed(channel), s.count[channel]
        mode = _MODES[s.mode[channel]]
        if mode == 2:
            count -= elapsed % count
        elif mode == 3:
            count -= 2 * elapsed % count
        else:
            count -= elapsed
        if s.bcd[channel]:
            return _to_bcd(count % 10_000)
        return count & 0xFFFF

    def _output_after(self, channel: int, mode: int, elapsed: int) -> bool:
        count = self.state.count[channel]
        if mode <= 1:
            return elapsed >= count
        if mode == 2:
            return elapsed > 0 and elapsed % count == 0
        if mode == 3:
            return elapsed % count < (count + 1) // 2
        return elapsed == count

    def _load(self, channel: int, value: int) -> None:
        s = self.state
        if channel == 0:
            self._settle()
        if s.bcd[channel]:
            s.count[channel] = _from_bcd(value) or 10_000
        else:
            s.count[channel] = value or 0x10000
        if value == 1 and _MODES[s.mode[channel]] in _PERIODIC:
            _log.warning("i8254: channel %d in mode %d cannot count from 1",
                         channel, s.mode[channel])
        self._start(channel)

    def _start(self, channel: int) -> None:
        s = self.state
        s.loaded_at[channel] = self._clock.now_ns()
        stopped = not s.gate[channel] and _MODES[s.mode[channel]] in _HELD_BY_GATE
        s.held[channel] = 0 if stopped else _RUNNING
        if channel == 0:
            self._arm()

    # -- IRQ 0 -----------------------------------------------------------------------
    #
    # The interrupt controller's input looks at rising edges only, so that each
    # period needs one timer: what the line does between two of them is caught up with
    # there, and before the channel is programmed anew.

    def _drive(self, level: bool) -> None:
        if self.state.irq != level:
            self.state.irq = int(level)
            self._irq0(level)

    def _settle(self) -> None:
        """Bring the line to where it is at this moment, before channel 0 changes."""
        s = self.state
        if s.irq_at == _NEVER:
            return
        if s.irq_at <= self._clock.now_ns():
            self._fire()
        if _MODES[s.mode[0]] == 3 and not self.output(0):
            self._drive(False)

    def _fire(self) -> None:
        mode = _MODES[self.state.mode[0]]
        if mode <= 1:
            self._drive(True)
        else:
            self._drive(False)
            self._drive(True)
            if mode != 3:
                self._drive(False)
        self._arm_after(mode, self._elapsed(0))

    def _arm(self) -> None:
        """Drive IRQ 0 for a count that starts, and wait for its next edge."""
        self._drive(self.output(0))
        if self.state.held[0] == _RUNNING:
            self._arm_after(_MODES[self.state.mode[0]], self._elapsed(0))
        else:
            self._disarm()

    def _arm_after(self, mode: int, elapsed: int) -> None:
        s = self.state
        count = s.count[0]
        if mode in _PERIODIC:
            if count == 1:
                self._disarm()
                return
            edge = (elapsed // count + 1) * count
        elif elapsed < count:
            edge = count
        else:
            self._disarm()
            return
        s.irq_at = s.loaded_at[0] + _ns(edge)
        self._timer.at(s.irq_at)

    def _disarm(self) -> None:
        self.state.irq_at = _NEVER
        self._timer.cancel()
