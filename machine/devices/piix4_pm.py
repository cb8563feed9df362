"""The power management function of PIIX4 (82371AB): PCI 8086:7113, 00:01.3.

Follows Intel's 82371AB data sheet (290562) and ACPI 1.0b, chapter 4.7.

======  ======================================================================
offset  meaning (PCI configuration space)
======  ======================================================================
40-43   PMBA: bits 15-6 the base of the PM1 block; a reset clears bits 7-1 only
58-5b   DEVACTB: bit 25 (5b bit 1) APMC_EN, a write of SMI_CMD raises an SMI
5f-67   which ISA devices the board has (see `machine_ready`)
80      PMREGMISC: bit 0 the PM1 block answers
90-93   SMBus base, d2 SMBus configuration (kept; there is no SMBus)
======  ======================================================================

=======  =====  =============================================================
port     bits   register
=======  =====  =============================================================
base+0   16     PM1_STS: 0 TMR, 8 PWRBTN, 10 RTC, 15 WAK; write 1 to clear
base+2   16     PM1_EN: 0 TMR, 5 GBL, 8 PWRBTN, 10 RTC
base+4   16     PM1_CNT: 0 SCI_EN, 10-12 SLP_TYP, 13 SLP_EN (never stored)
base+8   24     PM_TMR: counts at 3.579545 MHz, read only
afe0     4 x 8  GPE0 status (2 bytes, write 1 to clear) and enable (2 bytes)
b2, b3   8      SMI_CMD (f1 ACPI on, f0 ACPI off: SCI_EN) and its data byte
=======  =====  =============================================================

SLP_EN with SLP_TYP 0 powers off, 1 suspends to RAM (S3), the S4 value (2) tells
"suspend to disk" and powers off; others do nothing.  The disable properties only
change what firmware is told (`system_states`): the register obeys all the same.

As in QEMU:

- TMR_STS is worked out when PM1_STS is looked at, by comparing the timer with the
  count at which bit 23 toggles next.  After a reset that count is 0, so TMR_STS
  reads 1 until it is cleared for the first time.
- A byte at base+1, base+3 does not exist, a byte at base+0, base+2 writes the high
  byte as 0.  So does a byte at base+4, while one at base+5 keeps the low byte.
- Any byte or word within the timer's port reads the timer's low bits.
- SCI_EN does not gate the SCI.
- Ports that another device holds stay that device's when the block is moved there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from machine.clock import NS_PER_SECOND, Clock
from machine.devices import pci
from machine.ports import PortBus, PortRead, PortWrite
from machine.wiring import Line, Notify

__all__ = ["Piix4Pm", "State", "PM_TIMER_HZ"]

_log = logging.getLogger("snooze.guest")

PM_TIMER_HZ = 3_579_545
PM_TIMER_MASK = 0xFF_FFFF
PM_TIMER_HALF = 0x80_0000           # bit 23 toggles every so many counts

# configuration space
PMBA, DEVACTB_APMC, PMREGMISC = 0x40, 0x5B, 0x80
SMB_BASE, SMB_CONFIG = 0x90, 0xD2
PMBA_MASK, PMBA_IO, PMIOSE, APMC_EN = 0xFFC0, 0x01, 0x01, 0x02
SMB_DEFAULT_BASE = 0xB100
#: What a reset loads.  Registers that are not here keep what they hold.
RESET_VALUES = {PMBA: PMBA_IO, 0x58: 0, 0x59: 0, 0x5A: 0, DEVACTB_APMC: 0, PMREGMISC: 0}
#: (register, always there, (port of an ISA device, bit that tells of it)…)
DEVICE_RESOURCES = (
    (0x5F, 0x10, ((0x378, 0x80),)),
    (0x63, 0x60, ()),
    (0x67, 0x00, ((0x3F8, 0x08), (0x2F8, 0x90))),
)

# the PM1 block: offset and length of each register group
EVENTS, CONTROL, TIMER = (0, 4), (4, 2), (8, 4)
GPE0_BASE, GPE0_LENGTH = 0xAFE0, 4

TMR, GBL, PWRBTN, RTC, WAK = 1 << 0, 1 << 5, 1 << 8, 1 << 10, 1 << 15
SCI_SOURCES = TMR | GBL | PWRBTN | RTC
SCI_EN, SLP_EN, SLP_TYP_SHIFT, SLP_TYP_MASK = 0x0001, 0x2000, 10, 0x7
SLP_TYP_S5, SLP_TYP_S3 = 0, 1
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0

#: What the guest finds in PM1_STS beside WAK_STS, by the reason of its wake-up
WAKE_STATUS = {"other": PWRBTN, "rtc": RTC, "pm-timer": TMR}
#: The bit of PM1_EN that allows a wake-up; 0: always allowed
WAKE_ENABLE = {"other": 0, "rtc": RTC, "pm-timer": TMR}

NAME = "PIIX4 PM"


@dataclass
class State(pci.State):
    pm1_sts: int = 0
    pm1_en: int = 0
    pm1_cnt: int = 0
    #: count (not wrapped at 24 bits) from which on TMR_STS is set
    overflow: int = 0
    #: GPE0: two status bytes, two enable bytes
    gpe0: list[int] = field(default_factory=lambda: [0] * GPE0_LENGTH)
    apm_control: int = 0
    apm_status: int = 0


class Piix4Pm(pci.PciFunction):
    """Puts its own blocks on *ports*: PM1 where the guest says, GPE0 at 0xafe0.

    *suspend*, *suspend_disk*, *power_off*: what the guest asks for by PM1_CNT.  *smi* is
    raised by SMI_CMD when APMC_EN is set.  Without *smm_enabled* a reset leaves APMC_EN
    set, by which firmware knows that it must not set up system management mode.
    """

    state: State

    def __init__(self, *, clock: Clock, sci: Line, ports: PortBus, suspend: Notify,
                 suspend_disk: Notify, power_off: Notify, smi: Notify,
                 disable_s3: bool = False, disable_s4: bool = False, s4_val: int = 2,
                 smm_enabled: bool = True) -> None:
        super().__init__(State(), vendor_id=0x8086, device_id=0x7113, class_code=0x068000,
                         revision=3, status=0x0280, interrupt_pin=1)
        self._clock = clock
        self._sci = sci
        self._ports = ports
        self._suspend = suspend
        self._suspend_disk = suspend_disk
        self._power_off = power_off
        self._smi = smi
        self._disable_s3 = disable_s3
        self._disable_s4 = disable_s4
        self._s4_val = s4_val
        self._smm_enabled = smm_enabled
        self._timer = clock.timer("acpi-pm", self._update_sci)
        self._base: int | None = None
        self._load_reset_values()
        self.config[SMB_BASE:SMB_BASE + 2] = (SMB_DEFAULT_BASE | PMBA_IO).to_bytes(2, "little")
        self.config[SMB_CONFIG] = 0x09                  # enabled, interrupt by SMI#
        ports.add(GPE0_BASE, GPE0_LENGTH, self.gpe0_read, self.gpe0_write, name="GPE0")

    def machine_ready(self) -> None:
        """The board is complete: note which ISA devices it has, as firmware does on iron."""
        for register, value, devices in DEVICE_RESOURCES:
            for port, bit in devices:
                if self._ports.name_of(port) is not None:
                    value |= bit
            self.config[register] = value

    def reset(self) -> None:
        """A reset, or what S3 does to the chip.  SMI_CMD's bytes survive, as in QEMU."""
        super().reset()
        self._load_reset_values()
        self._map_pm1()
        state = self.state
        state.pm1_sts = state.pm1_en = state.pm1_cnt = state.overflow = 0
        state.gpe0[:] = [0] * GPE0_LENGTH
        self._update_sci()

    def restored(self) -> None:
        super().restored()
        self._map_pm1()
        self._update_sci()

    # -- what the board asks -------------------------------------------------

    @property
    def system_states(self) -> bytes:
        """fw_cfg's "etc/system-states": by sleep state, bit 7 there, bits 2-0 SLP_TYP."""
        s3 = 0x00 if self._disable_s3 else 0x80
        s4 = 0x00 if self._disable_s4 else 0x80
        return bytes((0x80, 0, 0, s3 | SLP_TYP_S3, s4 | self._s4_val, 0x80 | SLP_TYP_S5))

    def power_button(self) -> None:
        """Press it.  A guest that does not listen finds no trace of it later."""
        if self.state.pm1_en & PWRBTN:
            self.state.pm1_sts |= PWRBTN
            self._update_sci()

    def wake_enabled(self, reason: str) -> bool:
        """Whether *reason* ("other", "rtc", "pm-timer") may wake the guest now."""
        bit = WAKE_ENABLE[reason]
        return not bit or bool(self.state.pm1_en & bit)

    def wake(self, reason: str) -> None:
        """Leave S3 (after `reset`): tell the guest that and why."""
        self.state.pm1_sts |= WAK | WAKE_STATUS[reason]
        self._update_sci()

    # -- PCI configuration space ---------------------------------------------

    def config_write(self, offset: int, value: int, size: int) -> None:
        super().config_write(offset, value, size)
        if offset < PMBA + 4 and offset + size > PMBA or offset <= PMREGMISC < offset + size:
            self._map_pm1()

    def _load_reset_values(self) -> None:
        for register, value in RESET_VALUES.items():
            self.config[register] = value
        if not self._smm_enabled:
            self.config[DEVACTB_APMC] = APMC_EN

    def _map_pm1(self) -> None:
        base: int | None = None
        if self.config[PMREGMISC] & PMIOSE:
            base = int.from_bytes(self.config[PMBA:PMBA + 4], "little") & PMBA_MASK
        if base == self._base:
            return
        if self._base is not None:
            for start, length in (EVENTS, CONTROL, TIMER):
                for port in range(self._base + start, self._base + start + length):
                    if self._ports.name_of(port) == NAME:
                        self._ports.remove(port, 1)
        self._base = base
        if base is not None:
            self._map(base, EVENTS, self.event_read, self.event_write, 2)
            self._map(base, CONTROL, self.control_read, self.control_write, 2)
            self._map(base, TIMER, self.timer_read, self.timer_write, 4)

    def _map(self, base: int, group: tuple[int, int], read: PortRead, write: PortWrite,
             width: int) -> None:
        start, length = base + group[0], group[1]
        free = [i for i in range(length) if self._ports.name_of(start + i) is None]
        if len(free) == length:
            self._ports.add(start, length, read, write, width=width, name=NAME)
            return
        _log.warning("PIIX4: the PM1 block at %#x lies on other devices' ports", base)
        for i in free:
            self._ports.add(start + i, 1, partial(_read_at, read, i), partial(_write_at, write, i),
                            name=NAME)

    # -- PM1_STS and PM1_EN: base+0 … base+3 -----------------------------------

    def event_read(self, offset: int, size: int) -> int:
        value = self._status() if offset == 0 else self.state.pm1_en if offset == 2 else 0
        return value & (1 << 8 * size) - 1

    def event_write(self, offset: int, value: int, size: int) -> None:
        state = self.state
        if offset == 0:
            if self._status() & value & TMR:
                # TMR_STS comes back at the toggle of bit 23 that is next from now.
                state.overflow = (self._count() & -PM_TIMER_HALF) + PM_TIMER_HALF
            state.pm1_sts &= ~value
        elif offset == 2:
            state.pm1_en = value
        self._update_sci()

    # -- PM1_CNT: base+4, base+5 ------------------------------------------------

    def control_read(self, offset: int, size: int) -> int:
        return self.state.pm1_cnt >> 8 * offset & (1 << 8 * size) - 1

    def control_write(self, offset: int, value: int, size: int) -> None:
        state = self.state
        if offset == 1:
            value = value << 8 | state.pm1_cnt & 0xFF
        state.pm1_cnt = value & ~SLP_EN
        if not value & SLP_EN:
            return
        sleep_type = value >> SLP_TYP_SHIFT & SLP_TYP_MASK
        if sleep_type == SLP_TYP_S5:
            self._power_off()
        elif sleep_type == SLP_TYP_S3:
            self._suspend()
        elif sleep_type == self._s4_val:
            self._suspend_disk()
            self._power_off()
        else:
            _log.warning("PIIX4: SLP_EN with the unknown SLP_TYP %d", sleep_type)

    # -- PM_TMR: base+8 … base+11 -----------------------------------------------

    def timer_read(self, offset: int, size: int) -> int:
        return self._count() & PM_TIMER_MASK & (1 << 8 * size) - 1

    def timer_write(self, offset: int, value: int, size: int) -> None:
        """The timer is read only."""

    # -- GPE0: afe0 … afe3 ------------------------------------------------------

    def gpe0_read(self, offset: int, size: int) -> int:
        return self.state.gpe0[offset]

    def gpe0_write(self, offset: int, value: int, size: int) -> None:
        gpe0 = self.state.gpe0
        if offset < GPE0_LENGTH // 2:
            gpe0[offset] &= ~value
        else:
            gpe0[offset] = value
        self._update_sci()

    # -- SMI_CMD: b2, b3 --------------------------------------------------------

    def apm_read(self, offset: int, size: int) -> int:
        return self.state.apm_status if offset & 1 else self.state.apm_control

    def apm_write(self, offset: int, value: int, size: int) -> None:
        state = self.state
        if offset & 1:
            state.apm_status = value
            return
        state.apm_control = value
        if value == ACPI_ENABLE:
            state.pm1_cnt |= SCI_EN
        elif value == ACPI_DISABLE:
            state.pm1_cnt &= ~SCI_EN
        elif self.config[DEVACTB_APMC] & APMC_EN:
            self._smi()

    # -- the timer and the SCI --------------------------------------------------

    def _count(self) -> int:
        return self._clock.now_ns() * PM_TIMER_HZ // NS_PER_SECOND

    def _status(self) -> int:
        if self._count() >= self.state.overflow:
            self.state.pm1_sts |= TMR
        return self.state.pm1_sts

    def _update_sci(self) -> None:
        state = self.state
        status = self._status()
        self._sci(bool(status & state.pm1_en & SCI_SOURCES or state.gpe0[0] & state.gpe0[2]))
        if state.pm1_en & TMR and not status & TMR:
            # Round up: at that instant the count has been reached.
            self._timer.at(-(-state.overflow * NS_PER_SECOND // PM_TIMER_HZ))
        else:
            self._timer.cancel()


def _read_at(read: Callable[[int, int], int], at: int, offset: int, size: int) -> int:
    return read(at + offset, size)


def _write_at(write: Callable[[int, int, int], None], at: int, offset: int, value: int,
              size: int) -> None:
    write(at + offset, value, size)
