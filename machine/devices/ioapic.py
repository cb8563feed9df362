"""The I/O APIC: 24 pins, each with a redirection entry.

Follows Intel's 82093AA data sheet (290566), with the EOI register of version 0x20.

======  ==================================================================
offset  register (32 bits)
======  ==================================================================
00      IOREGSEL: which register IOWIN shows
10      IOWIN
40      EOI: a vector, as the local APIC's broadcast
======  ==================================================================

=========  ===============================================================
IOREGSEL   register
=========  ===============================================================
00         ID in bits 27-24
01         version 0x20, highest entry 23
02         arbitration ID
10 + 2n    entry n, bits 31-0: vector, 10-8 delivery mode, 11 logical
           destination, 12 delivery status, 13 active low (not looked at),
           14 remote IRR, 15 level, 16 masked
11 + 2n    entry n, bits 63-32: 31-24 destination
=========  ===============================================================

A pin is active when its line is high.  As in QEMU ISA interrupt 0 comes at pin 2
(the board wires it there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from machine.wiring import Line

__all__ = ["BASE", "IoApic", "State"]

BASE = 0xFEC0_0000
PINS = 24
VERSION = 0x20 | (PINS - 1) << 16

IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
REDIRECTION = 0x10
DELIVERY_STATUS, REMOTE_IRR, LEVEL, MASKED = 1 << 12, 1 << 14, 1 << 15, 1 << 16
READ_ONLY = DELIVERY_STATUS | REMOTE_IRR
ENTRY_BITS = 0xFF00_0000_0001_EFFF | READ_ONLY
EXTINT = 7

#: (destination, logical, vector, delivery mode, level) -> accepted
Deliver = Callable[[int, bool, int, int, bool], bool]


@dataclass
class State:
    """Registers, the lines' levels, and level interrupts that wait."""

    select: int = 0
    id: int = 0
    entries: list[int] = field(default_factory=lambda: [MASKED] * PINS)
    levels: int = 0


class IoApic:
    """The chip.  *deliver* hands a message to the local APICs."""

    def __init__(self, *, deliver: Deliver, apic_id: int = 0) -> None:
        self.state = State(id=apic_id)
        self._apic_id = apic_id
        self._deliver = deliver

    def reset(self) -> None:
        """All entries masked; the lines stay as they are driven."""
        self.state = State(id=self._apic_id, levels=self.state.levels)

    def line(self, pin: int) -> Line:
        """What drives *pin*."""
        bit = 1 << pin

        def drive(level: bool) -> None:
            s = self.state
            rising = level and not s.levels & bit
            if level:
                s.levels |= bit
            else:
                s.levels &= ~bit
            entry = s.entries[pin]
            if entry & LEVEL and level or rising:
                self._service(pin)

        return drive

    def _service(self, pin: int) -> None:
        """The pin is active: send its message unless it is masked or under way."""
        entry = self.state.entries[pin]
        if entry & (MASKED | REMOTE_IRR):
            return
        level = bool(entry & LEVEL)
        accepted = self._deliver(entry >> 56, bool(entry >> 11 & 1), entry & 0xFF,
                                 entry >> 8 & 7, level)
        if level and accepted and entry >> 8 & 7 < 2:
            self.state.entries[pin] |= REMOTE_IRR

    def retry(self) -> None:
        """A local APIC takes messages again: send those of level interrupts it refused."""
        s = self.state
        for pin, entry in enumerate(s.entries):
            if entry & LEVEL and s.levels >> pin & 1:
                self._service(pin)

    def eoi(self, vector: int) -> None:
        """A level interrupt with this vector has been served."""
        s = self.state
        for pin, entry in enumerate(s.entries):
            if entry & REMOTE_IRR and entry & 0xFF == vector:
                s.entries[pin] = entry & ~REMOTE_IRR
                if s.levels >> pin & 1:
                    self._service(pin)

    def mmio_read(self, offset: int, size: int) -> int:
        """A read; IOWIN answers 32-bit accesses only."""
        s = self.state
        offset &= 0xFF
        if offset == IOREGSEL:
            return s.select
        if offset != IOWIN or size != 4:
            return 0
        if s.select in (0, 2):
            return s.id << 24
        if s.select == 1:
            return VERSION
        pin, high = divmod(s.select - REDIRECTION, 2)
        if not 0 <= pin < PINS:
            return 0
        return s.entries[pin] >> 32 * high & 0xFFFF_FFFF

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """A write; IOWIN and EOI take 32-bit accesses only."""
        s = self.state
        offset &= 0xFF
        if offset == IOREGSEL:
            s.select = value & 0xFF
        elif offset == EOI and size == 4:
            self.eoi(value & 0xFF)
        elif offset == IOWIN and size == 4:
            self._write_register(s.select, value & 0xFFFF_FFFF)

    def _write_register(self, select: int, value: int) -> None:
        s = self.state
        if select == 0:
            s.id = value >> 24 & 15
            return
        pin, high = divmod(select - REDIRECTION, 2)
        if not 0 <= pin < PINS:
            return
        old = s.entries[pin]
        entry = (old & 0xFFFF_FFFF | value << 32 if high else old & ~0xFFFF_FFFF | value)
        entry = entry & ENTRY_BITS & ~READ_ONLY | old & READ_ONLY
        if not entry & LEVEL:
            entry &= ~REMOTE_IRR        # switching to edge is how old kernels clear it
        s.entries[pin] = entry
        if entry & LEVEL and s.levels >> pin & 1:
            self._service(pin)
