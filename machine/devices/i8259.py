"""The pair of 8259A interrupt controllers of a PC, with the ELCR beside them.

Follows Intel's 8259A data sheet (231468) and, for the edge/level registers, the
82371SB (PIIX3) one.  The slave's INT drives the master's input 2; the master's
INT drives the processor.

========  ==========================================================================
port      access
========  ==========================================================================
20, a0    write: ICW1 (bit 4 set), OCW3 (bit 3 set), else OCW2
          read: IRR or ISR, as OCW3 chose; the poll byte after a poll command
21, a1    write: ICW2 .. ICW4 while the initialisation goes on, else OCW1 (the mask)
          read: the mask; the poll byte after a poll command
4d0, 4d1  ELCR of the master, of the slave: a set bit makes the input a level input
========  ==========================================================================

ICW1  1 A7-A5; bit 0 ICW4 follows, bit 1 single (no ICW3), bit 3 all inputs level
ICW2  vector base (bits 7-3)       ICW3  cascade wiring: taken and not used
ICW4  bit 1 automatic EOI, bit 4 special fully nested mode (master)
OCW2  bits 7-5: 0/4 rotate in AEOI off/on, 1 EOI, 3 specific EOI, 5 EOI and rotate,
      6 set lowest priority, 7 specific EOI and rotate, 2 nothing; bits 2-0 level
OCW3  bits 1-0: 2 IRR, 3 ISR; bit 2 poll; bits 6-5: 2/3 special mask off/on

As in QEMU, an edge input keeps its request when the line falls again (the data
sheet would make it spurious), a poll acknowledges without lowering the cascade,
and the buffered and 8080 modes do not exist.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from machine.wiring import Line

__all__ = ["I8259Pair", "State"]

_log = logging.getLogger("snooze.guest")

MASTER, SLAVE = 0, 1
CASCADE = 2                         # the master's input that the slave drives
SPURIOUS = 7

ICW1_IC4, ICW1_SNGL, ICW1_LTIM, ICW1 = 0x01, 0x02, 0x08, 0x10
ICW4_AEOI, ICW4_SFNM = 0x02, 0x10
OCW3_RIS, OCW3_RR, OCW3_POLL, OCW3, OCW3_SMM, OCW3_ESMM = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
POLL_INTERRUPT = 0x80

# OCW2 commands
ROTATE_AEOI_CLEAR, EOI, NOP, SPECIFIC_EOI = 0, 1, 2, 3
ROTATE_AEOI_SET, ROTATE_EOI, SET_PRIORITY, ROTATE_SPECIFIC_EOI = 4, 5, 6, 7

#: what the next write to the odd port is
_EXPECT_OCW1, _EXPECT_ICW2, _EXPECT_ICW3, _EXPECT_ICW4 = range(4)

#: IRQ 0, 1, 2, 8 and 13 can only be edge inputs
ELCR_MASK = (0xF8, 0xDE)


def _pair() -> list[int]:
    return [0, 0]


@dataclass
class State:
    """Both chips; each list holds the master's value, then the slave's."""

    irr: list[int] = field(default_factory=_pair)
    isr: list[int] = field(default_factory=_pair)
    imr: list[int] = field(default_factory=_pair)
    elcr: list[int] = field(default_factory=_pair)
    #: levels of the inputs, for the edge detectors
    lines: list[int] = field(default_factory=_pair)
    #: the input with the highest priority (0 after initialisation)
    first: list[int] = field(default_factory=_pair)
    base: list[int] = field(default_factory=_pair)
    expect: list[int] = field(default_factory=_pair)
    read_isr: list[int] = field(default_factory=_pair)
    poll: list[int] = field(default_factory=_pair)
    special_mask: list[int] = field(default_factory=_pair)
    auto_eoi: list[int] = field(default_factory=_pair)
    rotate_on_auto_eoi: list[int] = field(default_factory=_pair)
    special_fully_nested: list[int] = field(default_factory=_pair)
    icw4_follows: list[int] = field(default_factory=_pair)
    single: list[int] = field(default_factory=_pair)
    #: 0xff when ICW1 made every input a level input
    all_level: list[int] = field(default_factory=_pair)
    #: level of the master's INT
    output: int = 0


class I8259Pair:
    """Master and slave 8259A.

    *output* is the line to the processor; it is called when the level changes.
    """

    def __init__(self, *, output: Line) -> None:
        self.state = State()
        self._output = output

    def reset(self) -> None:
        """Power-on: everything off, all inputs edge inputs and inactive."""
        output = self.state.output
        self.state = State(output=output)
        self._update(MASTER)

    # -- the processor's side ------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether the master has a request that an acknowledge would deliver."""
        return self._request(MASTER) >= 0

    @property
    def output_level(self) -> bool:
        """The level of the INT line to the processor."""
        return bool(self.state.output)

    def acknowledge(self) -> int:
        """The processor's INTA cycles: take the best request, return its vector.

        With nothing to deliver it is the vector of input 7, as a spurious
        interrupt, and no in-service bit is set.
        """
        s = self.state
        irq = self._request(MASTER)
        if irq < 0:
            return s.base[MASTER] + SPURIOUS
        if irq == CASCADE:
            inner = self._request(SLAVE)
            self._take(MASTER, CASCADE)
            if inner < 0:
                inner = SPURIOUS
                self._update(MASTER)
            else:
                self._take(SLAVE, inner)
                self._update(SLAVE)
            return s.base[SLAVE] + inner
        self._take(MASTER, irq)
        self._update(MASTER)
        return s.base[MASTER] + irq

    # -- the interrupt inputs ------------------------------------------------

    def line(self, irq: int) -> Line:
        """The input of *irq*, 0-15 without 2 (the cascade)."""
        if not 0 <= irq <= 15 or irq == CASCADE:
            raise ValueError(f"no interrupt input {irq}: 0-1 and 3-15 are there to be wired")
        chip, bit = irq >> 3, 1 << (irq & 7)

        def set_level(level: bool) -> None:
            self._set(chip, bit, level)

        return set_level

    def _set(self, chip: int, bit: int, level: bool) -> None:
        s = self.state
        if level:
            before = s.lines[chip]
            s.lines[chip] = before | bit
            if not s.irr[chip] & bit and (
                    not before & bit or (s.elcr[chip] | s.all_level[chip]) & bit):
                s.irr[chip] |= bit
                self._update(chip)
                return
        else:
            s.lines[chip] &= ~bit
            if s.irr[chip] & (s.elcr[chip] | s.all_level[chip]) & bit:
                s.irr[chip] &= ~bit
                self._update(chip)
                return
        if chip == SLAVE:
            # The slave drives INT anew: a master that was initialised since sees an edge.
            self._update(SLAVE)

    # -- priority ------------------------------------------------------------

    def _request(self, chip: int) -> int:
        """The input that *chip* would deliver now, or -1."""
        s = self.state
        waiting = s.irr[chip] & ~s.imr[chip]
        if not waiting:
            return -1
        serviced = s.isr[chip]
        if serviced:
            if s.special_mask[chip]:
                serviced &= ~s.imr[chip]
            if chip == MASTER and s.special_fully_nested[MASTER]:
                serviced &= ~(1 << CASCADE)     # the slave may nest within itself
        first = s.first[chip]
        if first:
            waiting = (waiting >> first | waiting << (8 - first)) & 0xFF
            serviced = (serviced >> first | serviced << (8 - first)) & 0xFF
        best = waiting & -waiting
        if serviced and best >= (serviced & -serviced):
            return -1
        return (best.bit_length() - 1 + first) & 7

    def _take(self, chip: int, irq: int) -> None:
        s = self.state
        bit = 1 << irq
        if not s.auto_eoi[chip]:
            s.isr[chip] |= bit
        elif s.rotate_on_auto_eoi[chip]:
            s.first[chip] = (irq + 1) & 7
        if not (s.elcr[chip] | s.all_level[chip]) & bit:
            s.irr[chip] &= ~bit
        if chip == SLAVE:
            # INT falls with each INTA, so that what still waits makes a new edge
            s.lines[MASTER] &= ~(1 << CASCADE)

    def _update(self, chip: int) -> None:
        """Drive the INT of *chip*; the slave's goes into the master."""
        s = self.state
        if chip == SLAVE:
            cascade = 1 << CASCADE
            if s.irr[SLAVE] and self._request(SLAVE) >= 0:
                if not s.lines[MASTER] & cascade or s.all_level[MASTER]:
                    s.irr[MASTER] |= cascade
                s.lines[MASTER] |= cascade
            else:
                s.lines[MASTER] &= ~cascade
                if s.all_level[MASTER]:
                    s.irr[MASTER] &= ~cascade
        level = 1 if self._request(MASTER) >= 0 else 0
        if level != s.output:
            s.output = level
            self._output(level == 1)

    # -- the ports -----------------------------------------------------------

    def master_read(self, offset: int, size: int) -> int:
        """IN from 0x20 + *offset*."""
        return self._read(MASTER, offset)

    def master_write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x20 + *offset*."""
        self._write(MASTER, offset, value)

    def slave_read(self, offset: int, size: int) -> int:
        """IN from 0xa0 + *offset*."""
        return self._read(SLAVE, offset)

    def slave_write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0xa0 + *offset*."""
        self._write(SLAVE, offset, value)

    def elcr_read(self, offset: int, size: int) -> int:
        """IN from 0x4d0 + *offset*."""
        return self.state.elcr[offset]

    def elcr_write(self, offset: int, value: int, size: int) -> None:
        """OUT to 0x4d0 + *offset*."""
        if value & ~ELCR_MASK[offset] & 0xFF:
            _log.warning("ELCR %d: 0x%02x sets inputs that can only be edge inputs",
                         offset, value)
        self.state.elcr[offset] = value & ELCR_MASK[offset]

    def _read(self, chip: int, offset: int) -> int:
        s = self.state
        if s.poll[chip]:
            s.poll[chip] = 0
            irq = self._request(chip)
            if irq < 0:
                return 0
            self._take(chip, irq)
            self._update(chip)
            return irq | POLL_INTERRUPT
        if offset:
            return s.imr[chip]
        return s.isr[chip] if s.read_isr[chip] else s.irr[chip]

    def _write(self, chip: int, offset: int, value: int) -> None:
        s = self.state
        if offset:
            self._write_data(chip, value)
        elif value & ICW1:
            self._begin_initialisation(chip, value)
        elif value & OCW3:
            if value & OCW3_POLL:
                s.poll[chip] = 1
            if value & OCW3_RR:
                s.read_isr[chip] = value & OCW3_RIS
            if value & OCW3_ESMM:
                # INT follows with the chip's next event, as in QEMU
                s.special_mask[chip] = int(bool(value & OCW3_SMM))
        else:
            self._operate(chip, value >> 5, value & 7)

    def _begin_initialisation(self, chip: int, value: int) -> None:
        s = self.state
        s.lines[chip] = 0
        s.irr[chip] &= s.elcr[chip]
        for register in (s.isr, s.imr, s.first, s.base, s.read_isr, s.poll, s.special_mask,
                         s.auto_eoi, s.rotate_on_auto_eoi, s.special_fully_nested):
            register[chip] = 0
        s.icw4_follows[chip] = value & ICW1_IC4
        s.single[chip] = value & ICW1_SNGL
        s.all_level[chip] = 0xFF if value & ICW1_LTIM else 0
        s.expect[chip] = _EXPECT_ICW2
        self._update(chip)

    def _write_data(self, chip: int, value: int) -> None:
        s = self.state
        expect = s.expect[chip]
        if expect == _EXPECT_OCW1:
            s.imr[chip] = value
            self._update(chip)
        elif expect == _EXPECT_ICW2:
            s.base[chip] = value & 0xF8
            last = _EXPECT_ICW4 if s.icw4_follows[chip] else _EXPECT_OCW1
            s.expect[chip] = last if s.single[chip] else _EXPECT_ICW3
        elif expect == _EXPECT_ICW3:
            s.expect[chip] = _EXPECT_ICW4 if s.icw4_follows[chip] else _EXPECT_OCW1
        else:
            s.special_fully_nested[chip] = int(bool(value & ICW4_SFNM))
            s.auto_eoi[chip] = int(bool(value & ICW4_AEOI))
            s.expect[chip] = _EXPECT_OCW1

    def _operate(self, chip: int, command: int, level: int) -> None:
        """OCW2."""
        s = self.state
        if command == EOI or command == ROTATE_EOI:
            serviced, first = s.isr[chip], s.first[chip]
            if not serviced:
                return
            if first:
                serviced = (serviced >> first | serviced << (8 - first)) & 0xFF
            irq = ((serviced & -serviced).bit_length() - 1 + first) & 7
            s.isr[chip] &= ~(1 << irq)
            if command == ROTATE_EOI:
                s.first[chip] = (irq + 1) & 7
        elif command == SPECIFIC_EOI or command == ROTATE_SPECIFIC_EOI:
            s.isr[chip] &= ~(1 << level)
            if command == ROTATE_SPECIFIC_EOI:
                s.first[chip] = (level + 1) & 7
        elif command == SET_PRIORITY:
            s.first[chip] = (level + 1) & 7
        elif command == NOP:
            return
        else:
            s.rotate_on_auto_eoi[chip] = int(command == ROTATE_AEOI_SET)
            return
        self._update(chip)
