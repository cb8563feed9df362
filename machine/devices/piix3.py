"""The PCI-to-ISA bridge of PIIX3 (82371SB): PCI 8086:7000, 00:01.0.

Follows Intel's 82371FB/82371SB data sheet (290550).

======  ====================================================================
offset  meaning
======  ====================================================================
60-63   PIRQRCA-PIRQRCD: bit 7 off, bits 3-0 the ISA IRQ of PIRQA#-PIRQD#
others  kept (4c I/O recovery, 4e X-bus chip select, 69 top of memory,
        70 MBIRQ, 76-77 motherboard DMA, a0 SMI control, a8 fast off timer)
======  ====================================================================

====  ======================================================================
port  access
====  ======================================================================
cf9   reset control: bit 1 (kind of reset: kept, read back, without effect),
      bit 2 resets the machine and is not kept; other bits read 0
====  ======================================================================

In an access to cf9 wider than a byte every byte is this register.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from machine.devices import pci
from machine.wiring import Line, Notify

__all__ = ["Piix3Isa", "State", "PIRQS"]

_log = logging.getLogger("snooze.guest")

PIRQRC, PIRQS = 0x60, 4
ISA_IRQS = 16
CASCADE = 2                         # no input of the interrupt controllers
RCR_HARD, RCR_CPU = 0x02, 0x04
REPEATED = 0x01010101

#: What a reset loads.  Registers that are not here keep what they hold.
RESET_VALUES = {
    0x4C: 0x4D, 0x4E: 0x03, 0x4F: 0x00,
    0x60: 0x80, 0x61: 0x80, 0x62: 0x80, 0x63: 0x80,
    0x69: 0x02, 0x70: 0x80, 0x76: 0x0C, 0x77: 0x0C, 0x78: 0x02, 0x79: 0x00,
    0x80: 0x00, 0x82: 0x00,
    0xA0: 0x08, 0xA2: 0x00, 0xA3: 0x00, 0xA4: 0x00, 0xA5: 0x00, 0xA6: 0x00, 0xA7: 0x00,
    0xA8: 0x0F, 0xAA: 0x00, 0xAB: 0x00, 0xAC: 0x00, 0xAE: 0x00,
}


@dataclass
class State(pci.State):
    #: reset control register
    rcr: int = 0
    #: levels at PIRQA#-PIRQD#: 1 active
    pirq: list[int] = field(default_factory=lambda: [0] * PIRQS)
    #: levels driven to the ISA IRQs, a bit each
    irq: int = 0


class Piix3Isa(pci.PciFunction):
    """*isa_line(irq)* gives the line of an ISA IRQ; *reset* resets the machine."""

    state: State

    def __init__(self, *, isa_line: Callable[[int], Line], reset: Notify) -> None:
        super().__init__(State(), vendor_id=0x8086, device_id=0x7000, class_code=0x060100,
                         status=0x0200, multifunction=True)
        self._isa_line = isa_line
        self._reset = reset
        self._load_reset_values()

    def reset(self) -> None:
        super().reset()
        self._load_reset_values()
        self.state.rcr = 0
        self._drive()

    def config_write(self, offset: int, value: int, size: int) -> None:
        super().config_write(offset, value, size)
        if offset < PIRQRC + PIRQS and offset + size > PIRQRC:
            self._drive()

    def set_pirq(self, number: int, level: bool) -> None:
        """Drive PIRQA# (0) … PIRQD# (3); True is active."""
        self.state.pirq[number] = int(level)
        self._drive()

    def rcr_read(self, offset: int, size: int) -> int:
        return self.state.rcr * REPEATED & (1 << 8 * size) - 1

    def rcr_write(self, offset: int, value: int, size: int) -> None:
        for _ in range(size):
            if value & RCR_CPU:
                self._reset()
            else:
                self.state.rcr = value & RCR_HARD
            value >>= 8

    def _load_reset_values(self) -> None:
        for register, value in RESET_VALUES.items():
            self.config[register] = value

    def _drive(self) -> None:
        """Recompute the ISA IRQs; several PIRQs may share one."""
        irqs = 0
        for number, level in enumerate(self.state.pirq):
            target = self.config[PIRQRC + number]
            if not level or target >= ISA_IRQS:
                continue
            if target == CASCADE:
                _log.warning("PIIX3: PIRQ%s# routed to IRQ 2", "ABCD"[number])
                continue
            irqs |= 1 << target
        changed = irqs ^ self.state.irq
        self.state.irq = irqs
        for irq in range(ISA_IRQS):
            if changed >> irq & 1:
                self._isa_line(irq)(bool(irqs >> irq & 1))
