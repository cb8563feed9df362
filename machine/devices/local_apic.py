"""The local APIC: xAPIC registers in memory, x2APIC registers as MSRs, one timer.

Follows the Intel SDM volume 3A, chapter 11 (10 in older editions).  The registers
are 32 bits wide and 16 bytes apart in a page; MSR 0x800 + n is the one at 16 * n.

======  ==========================  ======  ==========================
offset  register                    offset  register
======  ==========================  ======  ==========================
020     ID                          280     ESR, error status
030     version: 0x14, 6 LVTs       300     ICR, bits 31-0
080     TPR, task priority          310     ICR, bits 63-32
090     APR, arbitration priority   320     LVT timer
0a0     PPR, processor priority     330     LVT thermal sensor
0b0     EOI                         340     LVT performance counters
0d0     LDR, logical destination    350     LVT LINT0
0e0     DFR, destination format     360     LVT LINT1
0f0     SVR, spurious vector        370     LVT error
100     ISR, 8 x 32 bits            380     timer: initial count
180     TMR, 8 x 32 bits            390     timer: current count
200     IRR, 8 x 32 bits            3e0     timer: divide configuration
======  ==========================  3f0     self IPI (x2APIC only)
                                    ======  ==========================

As in QEMU a reset leaves every LVT masked and the APIC disabled by software (SVR
0xff), so the i8259's interrupts wait until firmware programs LINT0 as ExtINT;
with the APIC globally disabled they go straight to the processor.  There is one
processor: lowest priority goes to it when it is among the destinations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from machine.clock import Clock
from machine.wiring import Line, Notify

__all__ = ["DEFAULT_BASE", "LocalApic", "State"]

_guest = logging.getLogger("snooze.guest")

DEFAULT_BASE = 0xFEE0_0000
BASE_BSP, BASE_EXTD, BASE_ENABLE = 1 << 8, 1 << 10, 1 << 11
PHYSICAL_BITS = 40
VERSION = 0x14 | 5 << 16

# register numbers: offset >> 4, MSR - 0x800
ID, VERSION_REG, TPR, APR, PPR, EOI = 0x02, 0x03, 0x08, 0x09, 0x0A, 0x0B
LDR, DFR, SVR, ISR, TMR, IRR, ESR = 0x0D, 0x0E, 0x0F, 0x10, 0x18, 0x20, 0x28
ICR, ICR_HIGH, LVT, INITIAL, CURRENT, DIVIDE, SELF_IPI = 0x30, 0x31, 0x32, 0x38, 0x39, 0x3E, 0x3F
# LVTs, from LVT on
TIMER, THERMAL, PERFORMANCE, LINT0, LINT1, ERROR = range(6)
LVT_COUNT = 6

MASKED, LEVEL, REMOTE_IRR, DELIVERY_STATUS = 1 << 16, 1 << 15, 1 << 14, 1 << 12
SVR_ENABLE = 1 << 8
#: bits of an LVT that hold what is written
LVT_BITS = (0x7_00FF, 0x1_07FF, 0x1_07FF, 0x1_A7FF, 0x1_A7FF, 0x1_00FF)
ONE_SHOT, PERIODIC, TSC_DEADLINE_MODE = 0, 1, 2

FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7

ESR_SEND_ILLEGAL, ESR_RECEIVE_ILLEGAL, ESR_ILLEGAL_REGISTER = 1 << 5, 1 << 6, 1 << 7

MSR_APIC_BASE, MSR_TSC_DEADLINE, MSR_X2APIC = 0x1B, 0x6E0, 0x800


@dataclass(slots=True)
class State:
    """All registers.  ISR, TMR and IRR are numbers of 256 bits."""

    base: int = DEFAULT_BASE | BASE_BSP | BASE_ENABLE
    id: int = 0
    tpr: int = 0
    ldr: int = 0
    dfr: int = 0xFFFF_FFFF
    svr: int = 0xFF
    isr: int = 0
    tmr: int = 0
    irr: int = 0
    esr: int = 0
    #: errors since ESR was last written
    errors: int = 0
    icr: int = 0
    lvt: list[int] = field(default_factory=lambda: [MASKED] * LVT_COUNT)
    initial: int = 0
    divide: int = 0
    #: when the timer's present period began, ns; meaningful while it is armed
    began_ns: int = 0
    armed: bool = False
    tsc_deadline: int = 0
    #: an ExtINT message waits for its acknowledge cycle
    extint: bool = False
    #: the levels at LINT0 and LINT1
    pins: list[bool] = field(default_factory=lambda: [False, False])


class LocalApic:
    """One local APIC.

    *clock* times it; the timer counts once each *bus_ns* ns before its divider.
    *tsc* reads the TSC, *tsc_ns* says at which ns of the clock it has a value.
    *output* is the processor's INTR pin; *nmi*, *smi*, *init* and *start_up*
    (with its vector) are edges.  *extint* is the i8259's acknowledge cycle.
    *broadcast_eoi* tells the I/O APIC a vector, *accepting* that messages which
    were refused may be sent again.  *moved* is told where the registers' page is
    now, None for nowhere.
    """

    def __init__(self, *, clock: Clock, tsc: Callable[[], int], tsc_ns: Callable[[int], int],
                 output: Line, nmi: Notify, smi: Notify, init: Notify,
                 start_up: Callable[[int], None], extint: Callable[[], int],
                 broadcast_eoi: Callable[[int], None], accepting: Notify,
                 moved: Callable[[int | None], None], apic_id: int = 0, bus_ns: int = 1,
                 x2apic: bool = True, tsc_deadline: bool = True) -> None:
        self.state = State(id=apic_id)
        self._apic_id = apic_id
        self._clock = clock
        self._tsc, self._tsc_ns = tsc, tsc_ns
        self._output = output
        self._nmi, self._smi, self._init, self._start_up = nmi, smi, init, start_up
        self._extint = extint
        self._broadcast_eoi = broadcast_eoi
        self._accepting = accepting
        self._moved = moved
        self._bus_ns = bus_ns
        self._has_x2apic, self._has_tsc_deadline = x2apic, tsc_deadline
        self._lvt_bits = (LVT_BITS[TIMER] & ~(0 if tsc_deadline else TSC_DEADLINE_MODE << 17),
                          *LVT_BITS[THERMAL:])
        #: x2APIC registers beside ICR that can be written, and their bits that must be 0
        self._reserved = {**_X2APIC_RESERVED, **{
            LVT + i: ~(bits | DELIVERY_STATUS | (REMOTE_IRR if i in (LINT0, LINT1) else 0))
            for i, bits in enumerate(self._lvt_bits)}}
        self._timer = clock.timer("local APIC", self._timer_expired)
        self._level = False
        self._reads: list[Callable[[], int] | None] = [None] * 64
        self._writes: list[Callable[[int], None] | None] = [None] * 64
        self._fill_tables()

    def _fill_tables(self) -> None:
        s, reads, writes = self, self._reads, self._writes
        reads[ID] = lambda: s.state.id if s._x2apic else s.state.id << 24
        reads[VERSION_REG] = lambda: VERSION
        reads[TPR] = lambda: s.state.tpr
        reads[APR] = lambda: 0
        reads[PPR] = self._ppr
        reads[EOI] = lambda: 0
        reads[LDR] = lambda: s.state.ldr
        reads[DFR] = lambda: s.state.dfr
        reads[SVR] = lambda: s.state.svr
        for i in range(8):
            reads[ISR + i] = partial(self._word, "isr", 32 * i)
            reads[TMR + i] = partial(self._word, "tmr", 32 * i)
            reads[IRR + i] = partial(self._word, "irr", 32 * i)
        reads[ESR] = lambda: s.state.esr
        reads[ICR] = lambda: s.state.icr & 0xFFFF_FFFF
        reads[ICR_HIGH] = lambda: s.state.icr >> 32
        for i in range(LVT_COUNT):
            reads[LVT + i] = partial(self._read_lvt, i)
            writes[LVT + i] = partial(self._write_lvt, i)
        reads[INITIAL] = lambda: s.state.initial
        reads[CURRENT] = self._current
        reads[DIVIDE] = lambda: s.state.divide
        writes[ID] = self._write_id
        writes[TPR] = self._write_tpr
        writes[EOI] = self._write_eoi
        writes[LDR] = self._write_ldr
        writes[DFR] = self._write_dfr
        writes[SVR] = self._write_svr
        writes[ESR] = self._write_esr
        writes[ICR] = self._write_icr
        writes[ICR_HIGH] = self._write_icr_high
        writes[INITIAL] = self._write_initial
        writes[DIVIDE] = self._write_divide
        for read_only in (VERSION_REG, APR, PPR, CURRENT, *range(ISR, ESR)):
            writes[read_only] = _ignore

    def _word(self, name: str, at: int) -> int:
        """32 bits of ISR, TMR or IRR."""
        return int(getattr(self.state, name)) >> at & 0xFFFF_FFFF

    def _read_lvt(self, entry: int) -> int:
        return self.state.lvt[entry]

    # -- life
    def reset(self) -> None:
        """RESET: everything, back to xAPIC at the usual address."""
        pins = self.state.pins
        self.state = State(id=self._apic_id, pins=pins)
        self._timer.cancel()
        self._moved(DEFAULT_BASE)
        self._update()

    def init_reset(self) -> None:
        """INIT: all but the base and the ID."""
        old = self.state
        self.state = State(base=old.base, id=old.id, pins=old.pins)
        if self._x2apic:
            self._set_x2apic_ldr()
        self._timer.cancel()
        self._update()

    @property
    def pending(self) -> bool:
        """Whether the INTR pin is high."""
        return self._level

    @property
    def _x2apic(self) -> bool:
        return bool(self.state.base & BASE_EXTD)

    # -- priorities
    def _ppr(self) -> int:
        s = self.state
        in_service = s.isr.bit_length() - 1 & 0xF0 if s.isr else 0
        return s.tpr if s.tpr & 0xF0 >= in_service else in_service

    def _deliverable(self) -> int:
        """The vector in IRR that is above the processor's priority, or -1."""
        s = self.state
        if not s.irr or not s.svr & SVR_ENABLE:
            return -1
        vector = s.irr.bit_length() - 1
        level = vector & 0xF0
        if s.isr and s.isr.bit_length() - 1 >= level:
            return -1
        return vector if level > s.tpr & 0xF0 else -1

    def _extint_pending(self) -> bool:
        """Whether the i8259, which drives LINT0 high or sent a message, is let through."""
        s = self.state
        if s.extint or not s.base & BASE_ENABLE:
            return True
        lvt = s.lvt[LINT0]
        return not lvt & MASKED and lvt >> 8 & 7 == EXTINT

    def _update(self) -> None:
        s = self.state
        level = (s.irr != 0 and self._deliverable() >= 0
                 or (s.pins[0] or s.extint) and self._extint_pending())
        if level is not self._level:
            self._level = level
            self._output(level)

    def acknowledge(self) -> int:
        """The processor takes an interrupt: its vector, or -1 when there is none at all."""
        s = self.state
        if (s.pins[0] or s.extint) and self._extint_pending():
            s.extint = False
            vector = self._extint()
            self._update()
            return vector
        vector = self._deliverable()
        if vector < 0:
            if not s.base & BASE_ENABLE or not self._level:
                return -1
            self._update()
            return s.svr & 0xFF
        bit = 1 << vector
        s.irr ^= bit
        s.isr |= bit
        self._update()
        return vector

    # -- interrupts that arrive
    def matches(self, destination: int, logical: bool) -> bool:
        """Whether a message's 8-bit destination (32-bit in x2APIC mode) names this APIC.

        As in QEMU cluster 15 is all clusters.
        """
        s = self.state
        if not s.base & BASE_ENABLE:
            return False
        if self._x2apic:
            if destination == 0xFFFF_FFFF:
                return True
            if not logical:
                return destination == s.id
            return destination >> 16 == s.ldr >> 16 and bool(destination & s.ldr & 0xFFFF)
        destination &= 0xFF
        if not logical:
            return destination in (0xFF, s.id & 0xFF)
        if destination == 0xFF:
            return True
        mine = s.ldr >> 24
        if s.dfr >> 28 == 0xF:
            return bool(destination & mine)
        return destination >> 4 in (0xF, mine >> 4) and bool(destination & mine & 0xF)

    def deliver(self, vector: int, mode: int, level: bool) -> bool:
        """An interrupt message (I/O APIC, IPI).  Whether it was accepted."""
        s = self.state
        if mode <= LOWEST:
            if vector < 16:
                self._error(ESR_RECEIVE_ILLEGAL)
                return False
            if not s.svr & SVR_ENABLE:
                return False
            bit = 1 << vector
            s.irr |= bit
            if level:
                s.tmr |= bit
            elif s.tmr & bit:
                s.tmr ^= bit
            self._update()
        elif mode == NMI:
            self._nmi()
        elif mode == SMI:
            self._smi()
        elif mode == INIT:
            self._init()
        elif mode == STARTUP:
            self._start_up(vector)
        elif mode == EXTINT:
            s.extint = True
            self._update()
        else:
            return False
        return True

    def lint(self, pin: int, level: bool) -> None:
        """The level at LINT0 (the i8259's output) or LINT1 (NMI)."""
        s = self.state
        rising = level and not s.pins[pin]
        s.pins[pin] = level
        if not s.base & BASE_ENABLE:
            if pin and rising:
                self._nmi()
            self._update()
            return
        lvt = s.lvt[LINT0 + pin]
        mode = lvt >> 8 & 7
        if mode == EXTINT:
            self._update()
        elif mode == FIXED and lvt & LEVEL and pin == 0:
            self._level_lint(lvt, level)
        elif rising:
            self._local(LINT0 + pin)

    def _level_lint(self, lvt: int, level: bool) -> None:
        if level and not lvt & (MASKED | REMOTE_IRR):
            if self.deliver(lvt & 0xFF, FIXED, True):
                self.state.lvt[LINT0] |= REMOTE_IRR
        elif not level and lvt & REMOTE_IRR and self.state.irr >> (lvt & 0xFF) & 1:
            # as in QEMU it is withdrawn unless it is in service, where EOI ends it
            self.state.irr &= ~(1 << (lvt & 0xFF))
            self.state.lvt[LINT0] &= ~REMOTE_IRR
            self._update()

    def _local(self, entry: int) -> None:
        """The local source of an LVT entry fires."""
        lvt = self.state.lvt[entry]
        if not lvt & MASKED:
            mode = FIXED if entry in (TIMER, ERROR) else lvt >> 8 & 7
            self.deliver(lvt & 0xFF, mode, False)

    def _error(self, bit: int) -> None:
        """Log an error; the first since ESR was written interrupts."""
        s = self.state
        first, s.errors = not s.errors, s.errors | bit
        if first:
            self._local(ERROR)

    # -- register access
    def mmio_read(self, offset: int, size: int) -> int:
        """A read in the registers' page: 32 bits, anywhere in a register's 16 bytes."""
        if size < 4:
            return 0
        register = offset >> 4
        read = self._reads[register] if register < 64 else None
        if read is None:
            self._error(ESR_ILLEGAL_REGISTER)
            return 0
        return read()

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """A write in the registers' page."""
        if size < 4:
            return
        register = offset >> 4
        write = self._writes[register] if register < 64 else None
        if write is None:
            self._error(ESR_ILLEGAL_REGISTER)
            return
        write(value & 0xFFFF_FFFF)

    def read_msr(self, number: int) -> int | None:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE or an x2APIC register; None: #GP."""
        s = self.state
        if number == MSR_APIC_BASE:
            return s.base
        if number == MSR_TSC_DEADLINE:
            return s.tsc_deadline if self._has_tsc_deadline else None
        register = number - MSR_X2APIC
        if not self._x2apic or not 0 <= register < 64 or register in (APR, DFR, EOI, ICR_HIGH):
            return None
        if register == ICR:
            return s.icr
        read = self._reads[register]
        return None if read is None else read()

    def write_msr(self, number: int, value: int) -> bool:
        """The same; False: #GP."""
        if number == MSR_APIC_BASE:
            return self._write_base(value)
        if number == MSR_TSC_DEADLINE:
            if not self._has_tsc_deadline:
                return False
            self._write_tsc_deadline(value)
            return True
        register = number - MSR_X2APIC
        if not self._x2apic or not 0 <= register < 64:
            return False
        if register == ICR:
            if value & _ICR_RESERVED_X2APIC:
                return False
            self.state.icr = value
            self._send()
            return True
        if register == SELF_IPI:
            if value >> 8:
                return False
            if value < 16:
                self._error(ESR_SEND_ILLEGAL)
            else:
                self.deliver(value, FIXED, False)
            return True
        reserved = self._reserved.get(register)
        if reserved is None or value & reserved:
            return False
        write = self._writes[register]
        assert write is not None
        write(value)
        return True

    def _write_base(self, value: int) -> bool:
        s = self.state
        if value >> PHYSICAL_BITS or value & 0x2FF:
            return False
        extended, enabled = value & BASE_EXTD, value & BASE_ENABLE
        if extended and (not enabled or not self._has_x2apic or not s.base & BASE_ENABLE):
            return False
        if s.base & BASE_EXTD and enabled and not extended:
            return False
        was_extended = s.base & BASE_EXTD
        s.base = value & ~0xFFF | value & (BASE_BSP | BASE_EXTD | BASE_ENABLE)
        if not enabled:
            s.id = self._apic_id
            self.init_reset()
            self._moved(None)
        elif extended:
            if not was_extended:
                self._set_x2apic_ldr()
            self._moved(None)
        else:
            self._moved(value & ~0xFFF)
        self._update()
        return True

    def _set_x2apic_ldr(self) -> None:
        s = self.state
        s.id = self._apic_id
        s.ldr = s.id >> 4 << 16 | 1 << (s.id & 15)
        s.icr &= 0xFFFF_FFFF

    # -- registers
    def _write_id(self, value: int) -> None:
        self.state.id = value >> 24

    def _write_tpr(self, value: int) -> None:
        self.state.tpr = value & 0xFF
        self._update()

    def read_cr8(self) -> int:
        """CR8: the task priority's class."""
        return self.state.tpr >> 4

    def write_cr8(self, value: int) -> None:
        """CR8: 0 to 15."""
        self.state.tpr = value << 4
        self._update()

    def _write_eoi(self, _value: int) -> None:
        s = self.state
        if not s.isr:
            return
        vector = s.isr.bit_length() - 1
        bit = 1 << vector
        s.isr &= ~bit
        if s.tmr & bit:
            lvt = s.lvt[LINT0]
            if lvt & REMOTE_IRR and lvt & 0xFF == vector:
                s.lvt[LINT0] = lvt & ~REMOTE_IRR
                self._level_lint(s.lvt[LINT0], s.pins[0])
            self._broadcast_eoi(vector)
        self._update()

    def _write_ldr(self, value: int) -> None:
        self.state.ldr = value & 0xFF00_0000

    def _write_dfr(self, value: int) -> None:
        self.state.dfr = value & 0xF000_0000 | 0x0FFF_FFFF

    def _write_svr(self, value: int) -> None:
        s = self.state
        was_off = not s.svr & SVR_ENABLE
        s.svr = value & 0x1FF
        if not value & SVR_ENABLE:
            self._settle()
            s.lvt = [lvt | MASKED for lvt in s.lvt]
            self._arm()
        elif was_off:
            self._accepting()
        self._update()

    def _write_esr(self, _value: int) -> None:
        s = self.state
        s.esr, s.errors = s.errors, 0

    def _write_lvt(self, entry: int, value: int) -> None:
        s = self.state
        value &= self._lvt_bits[entry]
        if not s.svr & SVR_ENABLE:
            value |= MASKED
        old = s.lvt[entry]
        if entry == TIMER:
            self._settle()
        s.lvt[entry] = value | old & REMOTE_IRR if entry == LINT0 and value & LEVEL else value
        if entry == TIMER:
            if (old ^ value) >> 17 & 3:
                self._mode_changed(old >> 17 & 3, value >> 17 & 3)
            self._arm()
        elif entry == LINT0:
            if value >> 8 & 7 == FIXED and value & LEVEL:
                self._level_lint(s.lvt[LINT0], s.pins[0])
            self._update()

    def _write_icr_high(self, value: int) -> None:
        s = self.state
        s.icr = s.icr & 0xFFFF_FFFF | value << 32

    def _write_icr(self, value: int) -> None:
        s = self.state
        s.icr = s.icr & ~0xFFFF_FFFF | value & 0xC_CFFF      # delivery status: always idle
        self._send()

    def _send(self) -> None:
        """An IPI: to this processor or to nobody."""
        icr = self.state.icr
        vector, mode, shorthand = icr & 0xFF, icr >> 8 & 7, icr >> 18 & 3
        if mode <= LOWEST and vector < 16:
            self._error(ESR_SEND_ILLEGAL)
            return
        if mode == INIT and icr & LEVEL and not icr & 1 << 14:
            return                                          # the INIT level de-assert message
        if shorthand == 0:
            destination = icr >> 32 if self._x2apic else icr >> 56
            if not self.matches(destination, bool(icr >> 11 & 1)):
                return
        elif shorthand == 3:
            return
        elif mode in (INIT, STARTUP):
            # The manual lists neither for these shorthands (SDM volume 3A, table 11-3) and does
            # not say what they do; KVM and QEMU send them, and guests reset themselves so.
            _guest.warning("local APIC: an IPI of mode %d to itself is not valid", mode)
        if mode == STARTUP:
            return          # nobody here waits for one: the bootstrap processor ignores it
        self.deliver(vector, mode, False)

    # -- timer
    @property
    def _tick_ns(self) -> int:
        """How long a count of the timer lasts."""
        divide = self.state.divide
        return self._bus_ns << ((divide & 3 | divide >> 1 & 4) + 1 & 7)

    def _mode(self) -> int:
        return self.state.lvt[TIMER] >> 17 & 3

    def _current(self) -> int:
        s = self.state
        if not s.armed or self._mode() == TSC_DEADLINE_MODE:
            return 0
        gone = (self._clock.now_ns() - s.began_ns) // self._tick_ns
        if self._mode() == PERIODIC:
            return s.initial - gone % s.initial if s.initial else 0
        return max(s.initial - gone, 0)

    def _write_initial(self, value: int) -> None:
        s = self.state
        if self._mode() == TSC_DEADLINE_MODE:
            return
        s.initial = value
        s.began_ns = self._clock.now_ns()
        s.armed = value != 0
        self._arm()

    def _write_divide(self, value: int) -> None:
        s = self.state
        self._settle()
        left = self._current()
        s.divide = value & 0xB
        if s.armed and self._mode() != TSC_DEADLINE_MODE:
            # the count goes on from where it is, at the new speed
            s.began_ns = self._clock.now_ns() - (s.initial - left) * self._tick_ns
            self._arm()

    def _mode_changed(self, old: int, new: int) -> None:
        s = self.state
        if TSC_DEADLINE_MODE in (old, new):
            s.armed, s.initial, s.tsc_deadline = False, 0, 0
            self._timer.cancel()

    def _settle(self) -> None:
        """Count the periods that ended while the timer was masked, and nothing was armed."""
        s = self.state
        if not s.armed or self._mode() == TSC_DEADLINE_MODE:
            return
        period = s.initial * self._tick_ns
        gone = (self._clock.now_ns() - s.began_ns) // period
        if self._mode() == PERIODIC:
            s.began_ns += gone * period
        elif gone:
            s.armed = False

    def _arm(self) -> None:
        """Wait for the end of the count, unless that would go unnoticed."""
        s = self.state
        if self._mode() == TSC_DEADLINE_MODE:
            return
        if s.armed and not s.lvt[TIMER] & MASKED:
            self._timer.at(s.began_ns + s.initial * self._tick_ns)
        else:
            self._timer.cancel()

    def _write_tsc_deadline(self, value: int) -> None:
        s = self.state
        if self._mode() != TSC_DEADLINE_MODE or not self._has_tsc_deadline:
            return
        s.tsc_deadline = value
        if value == 0:
            self._timer.cancel()
        elif value <= self._tsc():
            self._timer.cancel()
            self._timer_expired()
        else:
            self._timer.at(self._tsc_ns(value))

    def tsc_changed(self) -> None:
        """The TSC was written: an armed deadline comes at another time."""
        if self.state.tsc_deadline:
            self._write_tsc_deadline(self.state.tsc_deadline)

    def _timer_expired(self) -> None:
        s = self.state
        if self._mode() == TSC_DEADLINE_MODE:
            s.tsc_deadline = 0
        elif self._mode() == PERIODIC and s.initial:
            # the next period begins where this one ended; periods missed are lost
            period = s.initial * self._tick_ns
            s.began_ns += max((self._clock.now_ns() - s.began_ns) // period, 1) * period
            self._arm()
        else:
            s.armed = False
        self._local(TIMER)


def _ignore(_value: int) -> None:
    """A register that cannot be written."""


#: reserved bits of the ICR as an MSR: 12 (delivery status), 13, 16, 17, 20-31
_ICR_RESERVED_X2APIC = 0xFFF3_3000
#: the bits of x2APIC registers that must be 0; LVTs' depend on the model
_X2APIC_RESERVED = {
    TPR: ~0xFF, EOI: ~0, SVR: ~0x1FF, ESR: ~0, INITIAL: ~0xFFFF_FFFF, DIVIDE: ~0xB}
