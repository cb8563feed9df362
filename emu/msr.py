"""Model-specific registers: which exist, what they read, what may be written.

References: Intel SDM volume 4 (MSRs) and volume 3A, 12.11 (MTRRs, PAT), AMD APM
volume 2, appendix A; Hyper-V Top-Level Functional Specification, "Partition
Crash Enlightenment".  An MSR that the model does not have raises #GP, as hardware
does (QEMU's TCG reads 0 there).  docs/cpu.md lists the differences.

The rows below are of two kinds.  `_STORED` registers only hold a value: a check
says what may be written.  The others are functions of the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

__all__ = ["MsrFile", "Processor"]

U64 = 0xFFFF_FFFF_FFFF_FFFF
PHYSICAL_BITS = 40

TSC, APIC_BASE, TSC_ADJUST, SMI_COUNT = 0x10, 0x1B, 0x3B, 0x34
TSC_DEADLINE, X2APIC, X2APIC_END = 0x6E0, 0x800, 0x900
MISC_ENABLE, MTRR_DEF_TYPE, PAT = 0x1A0, 0x2FF, 0x277
MC0_CTL, MC_BANKS = 0x400, 10
PRED_CMD, PRED_CMD_IBPB = 0x49, 1
EFER = 0xC000_0080

HV_GUEST_OS_ID, HV_HYPERCALL, HV_VP_INDEX, HV_TIME_REF_COUNT = (
    0x4000_0000, 0x4000_0001, 0x4000_0002, 0x4000_0020)
HV_REFERENCE_TSC, HV_TSC_FREQUENCY, HV_APIC_FREQUENCY = 0x4000_0021, 0x4000_0022, 0x4000_0023
HV_CRASH_P0, HV_CRASH_CTL = 0x4000_0100, 0x4000_0105
#: CTL: write it to tell of a crash; read it to see that one can (TLFS, HV_CRASH_CTL_REG_CONTENTS)
HV_CRASH_NOTIFY = 1 << 63

#: the TSC counts at the frequency of P-state 0, so all the time at the same
HWCR_TSC_FREQ_SEL = 1 << 24

EFER_SCE, EFER_LME, EFER_LMA, EFER_NXE, EFER_FFXSR = 1, 1 << 8, 1 << 10, 1 << 11, 1 << 14
CR0_PG = 1 << 31


class Processor(Protocol):
    """What the table needs of the processor."""

    def read(self, name: str) -> int: ...
    def write_state(self, name: str, value: int) -> None:
        """Set a register by its name, without checks."""
    def time_stamp(self) -> int: ...
    def set_time_stamp(self, value: int) -> None: ...
    def read_apic_msr(self, number: int) -> int | None: ...
    def write_apic_msr(self, number: int, value: int) -> bool: ...
    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None: ...
    def reference_ns(self) -> int:
        """Virtual time since power-on."""


def canonical(value: int) -> bool:
    """Whether bits 63 to 47 are equal (48-bit linear addresses)."""
    return value >> 47 in (0, 0x1FFFF)


def _any(_value: int) -> bool:
    return True


def _never(_value: int) -> bool:
    return False


def _zero(value: int) -> bool:
    return value == 0


def _low32(value: int) -> bool:
    return value >> 32 == 0


def _memory_types(value: int) -> bool:
    """Eight MTRR types: UC, WC, WT, WP, WB."""
    return all(value >> 8 * i & 0xFF in (0, 1, 4, 5, 6) for i in range(8))


def _pat_types(value: int) -> bool:
    """Eight PAT types, with UC- too."""
    return all(value >> 8 * i & 0xFF in (0, 1, 4, 5, 6, 7) for i in range(8))


def _mtrr_base(value: int) -> bool:
    return value >> PHYSICAL_BITS == 0 and value & 0xF00 == 0 and value & 0xFF in (0, 1, 4, 5, 6)


def _mtrr_mask(value: int) -> bool:
    return value >> PHYSICAL_BITS == 0 and value & 0x7FF == 0


def _mtrr_def_type(value: int) -> bool:
    return value & ~0xCFF == 0 and value & 0xFF in (0, 1, 4, 5, 6)


def _all_or_nothing(value: int) -> bool:
    return value in (0, U64)


def _bank_control(value: int) -> bool:
    """IA32_MCi_CTL: all or nothing, but for two bits that systems clear to work around faults
    of older processors: 10 (an AMD K8's GART TLB errors, in bank 4) and 0.
    """
    return value == 0 or value | 1 << 10 | 1 == U64


def _bits(mask: int) -> Callable[[int], bool]:
    return lambda value: value & ~mask == 0


class Stored(NamedTuple):
    """A register that holds a value.  *feature* is QEMU's name, "" for always."""

    number: int
    name: str
    feature: str
    reset: int
    allowed: Callable[[int], bool]
    #: whether INIT resets it as RESET does (SDM volume 3A, table 9-1)
    init: bool = False


_FIXED_MTRRS = (0x250, 0x258, 0x259, *range(0x268, 0x270))

_STORED = (
    Stored(0x17, "IA32_PLATFORM_ID", "vendor-intel", 0, _never),
    Stored(0x3A, "IA32_FEATURE_CONTROL", "vendor-intel", 1, _never),       # locked, nothing on
    Stored(0x48, "IA32_SPEC_CTRL", "spec-ctrl", 0, _bits(7)),
    Stored(0x8B, "IA32_BIOS_SIGN_ID", "", 0x1_0000_0000, _any),
    Stored(0xFE, "IA32_MTRRCAP", "mtrr", 0x508, _never),       # WC, fixed, 8 variable
    Stored(0x179, "IA32_MCG_CAP", "mca", 0x100 | MC_BANKS, _never),      # MCG_CTL_P
    Stored(0x17A, "IA32_MCG_STATUS", "mca", 0, _bits(7)),
    Stored(0x17B, "IA32_MCG_CTL", "mca", U64, _all_or_nothing),
    Stored(0x198, "IA32_PERF_STATUS", "", 1000 | 4 << 40, _never),
    Stored(MISC_ENABLE, "IA32_MISC_ENABLE", "", 1, _bits(0x4_40C5_1889)),
    Stored(0x1D9, "IA32_DEBUGCTL", "", 0, _bits(0x3), True),
    Stored(MTRR_DEF_TYPE, "IA32_MTRR_DEF_TYPE", "mtrr", 0, _mtrr_def_type),
    *(Stored(0x200 + 2 * i, f"IA32_MTRR_PHYSBASE{i}", "mtrr", 0, _mtrr_base) for i in range(8)),
    *(Stored(0x201 + 2 * i, f"IA32_MTRR_PHYSMASK{i}", "mtrr", 0, _mtrr_mask) for i in range(8)),
    *(Stored(n, f"IA32_MTRR_FIX_{n:x}", "mtrr", 0, _memory_types) for n in _FIXED_MTRRS),
    *(Stored(MC0_CTL + 4 * i, f"IA32_MC{i}_CTL", "mca", U64, _bank_control)
      for i in range(MC_BANKS)),
    # software may only clear the status; what goes with it is as free as QEMU leaves it
    # (SDM volume 3B, 17.3.2: a processor may also raise #GP for 1s there)
    *(Stored(MC0_CTL + 4 * i + 1, f"IA32_MC{i}_STATUS", "mca", 0, _zero)
      for i in range(MC_BANKS)),
    *(Stored(MC0_CTL + 4 * i + j, f"IA32_MC{i}_{name}", "mca", 0, _any)
      for i in range(MC_BANKS) for j, name in enumerate(("ADDR", "MISC"), 2)),
    # what a stock Linux reads on an AMD processor of family 15 and later
    Stored(0xC001_0010, "SYSCFG", "vendor-amd", 0, _any),
    Stored(0xC001_0015, "HWCR", "vendor-amd", HWCR_TSC_FREQ_SEL, _any),
    Stored(0xC001_001F, "NB_CFG", "vendor-amd", 0, _any),
    Stored(0xC001_0055, "INT_PENDING", "vendor-amd", 0, _any),
    Stored(0xC001_0140, "OSVW_ID_LENGTH", "vendor-amd", 0, _never),
    Stored(0xC001_0141, "OSVW_STATUS", "vendor-amd", 0, _never),
    Stored(0xC001_1020, "LS_CFG", "vendor-amd", 0, _any),
    Stored(0xC001_1022, "DC_CFG", "vendor-amd", 0, _any),
    Stored(0xC001_1029, "DE_CFG", "vendor-amd", 0, _any),
    Stored(HV_GUEST_OS_ID, "HV_X64_MSR_GUEST_OS_ID", "hyperv", 0, _any),
    Stored(HV_HYPERCALL, "HV_X64_MSR_HYPERCALL", "hyperv", 0, _any),
    Stored(HV_VP_INDEX, "HV_X64_MSR_VP_INDEX", "hyperv", 0, _never),
    Stored(HV_REFERENCE_TSC, "HV_X64_MSR_REFERENCE_TSC", "hv-time", 0, _any),
    Stored(HV_TSC_FREQUENCY, "HV_X64_MSR_TSC_FREQUENCY", "hv-frequencies", 10**9, _never),
    Stored(HV_APIC_FREQUENCY, "HV_X64_MSR_APIC_FREQUENCY", "hv-frequencies", 10**9, _never),
    *(Stored(HV_CRASH_P0 + i, f"HV_X64_MSR_CRASH_P{i}", "hv-crash", 0, _any) for i in range(5)),
)


class InState(NamedTuple):
    """A register that is part of the processor's state."""

    number: int
    name: str
    state: str
    feature: str
    allowed: Callable[[int], bool]


_IN_STATE = (
    InState(0x174, "IA32_SYSENTER_CS", "sysenter_cs", "sep", _low32),
    InState(0x175, "IA32_SYSENTER_ESP", "sysenter_esp", "sep", canonical),
    InState(0x176, "IA32_SYSENTER_EIP", "sysenter_eip", "sep", canonical),
    InState(PAT, "IA32_PAT", "pat", "pat", _pat_types),
    InState(0xC000_0081, "STAR", "star", "syscall", _any),
    InState(0xC000_0082, "LSTAR", "lstar", "lm", canonical),
    InState(0xC000_0083, "CSTAR", "cstar", "lm", canonical),
    InState(0xC000_0084, "FMASK", "fmask", "lm", _low32),
    InState(0xC000_0100, "FS_BASE", "fs_base", "lm", canonical),
    InState(0xC000_0101, "GS_BASE", "gs_base", "lm", canonical),
    InState(0xC000_0102, "KERNEL_GS_BASE", "kernelgsbase", "lm", canonical),
    InState(0xC000_0103, "TSC_AUX", "tsc_aux", "rdtscp", _low32),
)


class MsrFile:
    """All MSRs of one processor.  *has* tells whether the model has a feature.

    `values` is what the stored ones hold: all there is to save.
    """

    def __init__(self, processor: Processor, has: Callable[[str], bool]) -> None:
        self._cpu = processor
        self._has = has
        self.values: dict[int, int] = {}
        self._stored = {row.number: row for row in _STORED if not row.feature or has(row.feature)}
        self._readers: dict[int, Callable[[], int | None]] = {}
        self._writers: dict[int, Callable[[int], bool]] = {}
        self._fill()
        self.reset()

    def _fill(self) -> None:
        cpu, has = self._cpu, self._has
        for row in _IN_STATE:
            if not row.feature or has(row.feature):
                self._readers[row.number] = partial(cpu.read, row.state)
                self._writers[row.number] = partial(self._set, row)
        if has("tsc"):
            self._readers[TSC] = cpu.time_stamp
            self._writers[TSC] = self._write_tsc
        if has("tsc-adjust"):
            self._readers[TSC_ADJUST] = lambda: self.values[TSC_ADJUST]
            self._writers[TSC_ADJUST] = self._write_tsc_adjust
        if has("lm") or has("nx") or has("syscall"):
            self._readers[EFER] = lambda: cpu.read("efer")
            self._writers[EFER] = self._write_efer
        if has("spec-ctrl") or has("ibpb"):
            self._readers[PRED_CMD] = lambda: None          # a command: it can only be written
            self._writers[PRED_CMD] = lambda value: value & ~PRED_CMD_IBPB == 0
        self._readers[SMI_COUNT] = lambda: self.values[SMI_COUNT]
        for number in (APIC_BASE, TSC_DEADLINE):
            self._readers[number] = partial(cpu.read_apic_msr, number)
            self._writers[number] = partial(cpu.write_apic_msr, number)
        if has("hv-crash"):
            self._readers[HV_CRASH_CTL] = lambda: HV_CRASH_NOTIFY
            self._writers[HV_CRASH_CTL] = self._write_crash_ctl
        if has("hv-time"):      # in units of 100 ns
            self._readers[HV_TIME_REF_COUNT] = lambda: cpu.reference_ns() // 100

    # -- life
    def reset(self) -> None:
        """RESET."""
        self.values = {row.number: row.reset for row in self._stored.values()}
        self.values |= {TSC_ADJUST: 0, SMI_COUNT: 0}
        if self._has("pat"):
            self._cpu.write_state("pat", 0x0007_0406_0007_0406)

    def init_reset(self) -> None:
        """INIT: few change."""
        self.values |= {row.number: row.reset for row in self._stored.values() if row.init}

    # -- access
    def read(self, number: int) -> int | None:
        """RDMSR; None: #GP(0)."""
        if X2APIC <= number < X2APIC_END:
            return self._cpu.read_apic_msr(number)
        reader = self._readers.get(number)
        if reader is not None:
            return reader()
        return self.values[number] if number in self._stored else None

    def write(self, number: int, value: int) -> bool:
        """WRMSR; False: #GP(0)."""
        if X2APIC <= number < X2APIC_END:
            return self._cpu.write_apic_msr(number, value)
        writer = self._writers.get(number)
        if writer is not None:
            return writer(value)
        row = self._stored.get(number)
        if row is None or not row.allowed(value):
            return False
        self.values[number] = value
        return True

    # -- registers with a meaning
    def _set(self, row: InState, value: int) -> bool:
        if not row.allowed(value):
            return False
        self._cpu.write_state(row.state, value)
        return True

    def _write_tsc(self, value: int) -> bool:
        moved = value - self._cpu.time_stamp()
        self._cpu.set_time_stamp(value)
        self.values[TSC_ADJUST] = self.values[TSC_ADJUST] + moved & U64
        return True

    def _write_tsc_adjust(self, value: int) -> bool:
        moved = value - self.values[TSC_ADJUST]
        self._cpu.set_time_stamp(self._cpu.time_stamp() + moved & U64)
        self.values[TSC_ADJUST] = value
        return True

    def _write_efer(self, value: int) -> bool:
        has = self._has
        known = ((EFER_SCE if has("syscall") else 0) | (EFER_LME | EFER_LMA if has("lm") else 0)
                 | (EFER_NXE if has("nx") else 0) | (EFER_FFXSR if has("fxsr-opt") else 0))
        old = self._cpu.read("efer")
        if value & ~known or (value ^ old) & EFER_LME and self._cpu.read("cr0") & CR0_PG:
            return False
        self._cpu.write_state("efer", value & ~EFER_LMA | old & EFER_LMA)
        return True

    def _write_crash_ctl(self, value: int) -> bool:
        if value & HV_CRASH_NOTIFY:
            p0, p1, p2, p3, p4 = (self.values[HV_CRASH_P0 + i] for i in range(5))
            self._cpu.hyperv_crash((p0, p1, p2, p3, p4))
        return True
