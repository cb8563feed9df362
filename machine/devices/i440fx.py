"""The host bridge of the 440FX chip set (82441FX PMC): PCI 8086:1237, 00:00.0.

Follows Intel's 440FX PCIset data sheet (290549).  Registers that do something:

======  ==================================================================
offset  meaning
======  ==================================================================
57      where QEMU says how much RAM there is: 8 MiB units, at most 255
59-5f   PAM0-PAM6: who answers at 0xc0000-0xfffff; two segments a register,
        in each nibble bit 0: reads go to RAM, bit 1: writes go to RAM
72      SMRAM control: 3 G_SMRAME: a0000-bffff is RAM in system management
        mode; 6 D_OPEN: in every mode; 4 D_LCK: no change until a reset
======  ==================================================================

========  =====================  =================
register  bits 3-0               bits 7-4
========  =====================  =================
59        (reserved)             segment 0: f0000 (64 KiB)
5a        segment 1: c0000       segment 2: c4000
5b        segment 3: c8000       segment 4: cc000
...       16 KiB each            ...
5f        segment 11: e8000      segment 12: ec000
========  =====================  =================

The other registers hold what is written.  As in QEMU a reset does not touch PAM:
firmware finds its shadow copy after a reset and after S3.  It closes and unlocks
SMRAM.  D_CLS (bit 5), which tells code from data, is kept only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from machine.devices import pci

__all__ = ["I440fx", "State", "PAM_SEGMENTS"]

DRAM_SIZE, PAM0, PAM6, SMRAM = 0x57, 0x59, 0x5F, 0x72
SMRAM_COMPATIBLE = 0x02             # C_BASE_SEG: SMRAM lies at 0xa0000, hard-wired
SMRAM_ENABLE, SMRAM_LOCK, SMRAM_OPEN = 1 << 3, 1 << 4, 1 << 6
SMRAM_WRITABLE = 0x78
PAM_STATE = 0x03                    # bit 0 reads, bit 1 writes go to RAM
PAM_SEGMENTS = 13
DRAM_UNIT = 8 << 20


@dataclass
class State(pci.State):
    """Configuration space alone."""


class I440fx(pci.PciFunction):
    """*ram_size* in bytes; *pam_changed(segment, state)*: see the table above.

    *smram_changed(always, in_smm)*: when RAM is seen at 0xa0000 to 0xbffff.
    """

    state: State

    def __init__(self, *, ram_size: int, pam_changed: Callable[[int, int], None],
                 smram_changed: Callable[[bool, bool], None]) -> None:
        super().__init__(State(), vendor_id=0x8086, device_id=0x1237, class_code=0x060000,
                         revision=2)
        self._pam_changed = pam_changed
        self._smram_changed = smram_changed
        self.config[DRAM_SIZE] = min(ram_size // DRAM_UNIT, 0xFF)
        self.config[SMRAM] = SMRAM_COMPATIBLE

    def pam(self, segment: int) -> int:
        """The state of *segment* (0-12)."""
        register, high = divmod(segment - 1, 2) if segment else (-1, 1)
        return self.config[PAM0 + 1 + register] >> 4 * high & PAM_STATE

    def reset(self) -> None:
        super().reset()
        self._set_smram(SMRAM_COMPATIBLE)

    def restored(self) -> None:
        super().restored()
        for segment in range(PAM_SEGMENTS):
            self._pam_changed(segment, self.pam(segment))
        self._set_smram(self.config[SMRAM])

    def config_write(self, offset: int, value: int, size: int) -> None:
        before = [self.pam(segment) for segment in range(PAM_SEGMENTS)]
        smram = self.config[SMRAM]
        super().config_write(offset, value, size)
        if offset <= PAM6 and offset + size > PAM0:
            for segment, old in enumerate(before):
                new = self.pam(segment)
                if new != old:
                    self._pam_changed(segment, new)
        if offset <= SMRAM < offset + size:
            written = self.config[SMRAM] & SMRAM_WRITABLE | SMRAM_COMPATIBLE
            if written & SMRAM_LOCK:
                written &= ~SMRAM_OPEN
            self._set_smram(smram if smram & SMRAM_LOCK else written)

    def _set_smram(self, value: int) -> None:
        self.config[SMRAM] = value
        self._smram_changed(bool(value & SMRAM_OPEN), bool(value & SMRAM_ENABLE))
