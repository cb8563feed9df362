"""`info registers`: a processor's state as QEMU 10.0.2 prints it, to the byte.

Which of the forms it is follows the mode, as the cache of it in hflags says:

=======================  ==========  ===================  =====================
mode                     registers   segment bases        GDT, IDT, CR2, CR3
=======================  ==========  ===================  =====================
real, protected 16/32    32 bits     8 digits             8 digits
compatibility (LMA)      32 bits     8 digits             16 digits
64-bit code (LMA, CS64)  64 bits     16 digits            16 digits
=======================  ==========  ===================  =====================

A present segment in protected mode is explained after its numbers.  `Segment
flags` are the second word of a descriptor (Intel SDM volume 3, figure 3-8), of
which bits 8 to 23 are shown.

The registers that `$name` in an expression stands for are here as well.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["CC_OP_EFLAGS", "CpuTarget", "LazyFlags", "SegmentTarget", "info_registers",
           "register_value", "state_text"]

# hflags
HF_CPL = 3
HF_INHIBIT_IRQ = 1 << 3
HF_PE = 1 << 7
HF_LMA = 1 << 14
HF_CS64 = 1 << 15
HF_SMM = 1 << 19

# segment flags
DESC_SHOWN = 0x00FFFF00
DESC_A = 1 << 8
DESC_RW = 1 << 9
DESC_EC = 1 << 10
DESC_CODE = 1 << 11
DESC_S = 1 << 12
DESC_P = 1 << 15
DESC_L = 1 << 21
DESC_B = 1 << 22
DESC_TYPE_SHIFT = 8
DESC_DPL_SHIFT = 13

FLAG_RF = 1 << 16
#: EFLAGS' letters as they are shown
FLAG_LETTERS = (
    (0x400, "D"), (0x800, "O"), (0x80, "S"), (0x40, "Z"), (0x10, "A"), (0x4, "P"), (0x1, "C"),
)

SYSTEM_TYPES_32 = (
    "Reserved", "TSS16-avl", "LDT", "TSS16-busy", "CallGate16", "TaskGate", "IntGate16",
    "TrapGate16", "Reserved", "TSS32-avl", "Reserved", "TSS32-busy", "CallGate32", "Reserved",
    "IntGate32", "TrapGate32",
)
SYSTEM_TYPES_64 = (
    "<hiword>", "Reserved", "LDT", "Reserved", "Reserved", "Reserved", "Reserved", "Reserved",
    "Reserved", "TSS64-avl", "Reserved", "TSS64-busy", "CallGate64", "Reserved", "IntGate64",
    "TrapGate64",
)

#: cc_op's names (QEMU 5.0's numbers, which the engine has)
CC_OPS = ("DYNAMIC", "EFLAGS",
          *(f"{name}{size}" for name in ("MUL", "ADD", "ADC", "SUB", "SBB", "LOGIC", "INC", "DEC",
                                         "SHL", "SAR", "BMILG") for size in "BWLQ"),
          "ADCX", "ADOX", "ADCOX", "CLR", "POPCNT")

CC_OP_EFLAGS = 1

GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")

#: $name -> register
NAMES = {
    "eax": "rax", "ecx": "rcx", "edx": "rdx", "ebx": "rbx", "esp": "rsp", "sp": "rsp",
    "ebp": "rbp", "fp": "rbp", "esi": "rsi", "edi": "rdi", "eip": "rip", "eflags": "eflags",
    **{f"r{number}": f"r{number}" for number in range(8, 16)},
}


class SegmentTarget(Protocol):
    """A segment register with its hidden part."""

    @property
    def selector(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def limit(self) -> int:
        """In bytes, the granularity already applied."""

    @property
    def flags(self) -> int:
        """The second word of the descriptor, as it lies in memory."""


class CpuTarget(Protocol):
    """A processor's registers, for reading."""

    @property
    def halted(self) -> bool: ...
    @property
    def a20(self) -> bool: ...
    def read(self, name: str, /) -> int:
        """rax..r15, rip, eflags, cr0..cr4, dr0..dr7, efer, hflags, fpcw, fpsw, mxcsr;
        fptag is the 16-bit tag word: two bits a physical register, 3 = empty."""

    def segment(self, name: str, /) -> SegmentTarget:
        """es cs ss ds fs gs ldt tr gdt idt."""

    def xmm(self, index: int, /) -> int:
        """The 128 bits of XMM *index*."""

    def st(self, index: int, /) -> tuple[int, int]:
        """ST(*index*), counted from the top of the stack: 64 bits of mantissa, and
        16 bits of sign and exponent."""


def info_registers(cpu: CpuTarget, index: int = 0) -> str:
    """The whole text for processor *index*, lines ended with a newline."""
    hflags = cpu.read("hflags")
    lines = ["", f"CPU#{index}", *_state(cpu, hflags), *_floating_point(cpu, hflags)]
    return "\n".join(lines) + "\n"


class LazyFlags(NamedTuple):
    """How the arithmetic flags are kept: an operation, its source and its result."""

    operation: int
    source: int
    result: int

    @classmethod
    def of(cls, cpu: CpuTarget) -> LazyFlags:
        """As *cpu* keeps them, with QEMU 10's choice where it is another one."""
        operation, source = cpu.read("cc_op"), cpu.read("cc_src")
        if CC_OPS[operation] == "CLR":
            operation, source = CC_OP_EFLAGS, 0x44
        elif operation == 0:                    # as reset leaves it; 0 is EFLAGS there
            operation = CC_OP_EFLAGS
        return cls(operation, source, cpu.read("cc_dst"))


def state_text(cpu: CpuTarget, *, lazy: LazyFlags | None = None, fpu: bool = False,
               rf: bool | None = None) -> str:
    """What the log shows: with *lazy* flags (those of the processor if not given), *fpu* with
    the FPU and XMM, and EFLAGS.RF as *rf* says."""
    hflags = cpu.read("hflags")
    lines = _state(cpu, hflags, rf)
    operation, source, result = lazy or LazyFlags.of(cpu)
    digits = 16 if hflags & HF_CS64 else 8
    mask = (1 << 4 * digits) - 1
    lines.insert(-1, f"CCS={source & mask:0{digits}x} CCD={result & mask:0{digits}x}"
                     f" CCO={CC_OPS[operation]}")
    if fpu:
        lines += _floating_point(cpu, hflags)
    return "\n".join(lines) + "\n"


def _state(cpu: CpuTarget, hflags: int, rf: bool | None = None) -> list[str]:
    return [*_general(cpu, hflags, rf),
            *(_segment(cpu, name, hflags) for name in (*SEGMENTS, "ldt", "tr")),
            *_system(cpu, hflags)]


def register_value(cpu: CpuTarget, name: str) -> int | None:
    """What `$name` is in an expression, None when there is no such register."""
    if name in NAMES:
        return cpu.read(NAMES[name])
    if name == "pc":
        return cpu.read("rip") + cpu.segment("cs").base
    segment, _, part = name.partition(".")
    if segment not in SEGMENTS or part not in ("", "base", "limit") or name.endswith("."):
        return None
    value = cpu.segment(segment)
    if part == "base":
        return value.base
    if part == "limit":  # QEMU takes the 32 bits as signed: 4 GiB is -1
        return value.limit - (value.limit >> 31 << 32)
    return value.selector


def _general(cpu: CpuTarget, hflags: int, rf: bool | None) -> list[str]:
    flags = cpu.read("eflags")
    if rf is not None:
        flags = flags | FLAG_RF if rf else flags & ~FLAG_RF
    state = (
        "[" + "".join(letter if flags & bit else "-" for bit, letter in FLAG_LETTERS) + "]"
        f" CPL={hflags & HF_CPL} II={int(bool(hflags & HF_INHIBIT_IRQ))} A20={int(cpu.a20)}"
        f" SMM={int(bool(hflags & HF_SMM))} HLT={int(cpu.halted)}"
    )
    if hflags & HF_CS64:
        names = GENERAL + tuple(f"r{number}" for number in range(8, 16))
        words = [f"{name.upper():<3}={cpu.read(name):016x}" for name in names]
        place = f"RIP={cpu.read('rip'):016x} RFL={flags:08x} "
    else:
        words = [f"E{name[1:].upper()}={cpu.read(name) & 0xFFFFFFFF:08x}" for name in GENERAL]
        place = f"EIP={cpu.read('rip') & 0xFFFFFFFF:08x} EFL={flags:08x} "
    lines = [" ".join(words[at : at + 4]) for at in range(0, len(words), 4)]
    return [*lines, place + state]


def _segment(cpu: CpuTarget, name: str, hflags: int) -> str:
    segment = cpu.segment(name)
    digits = 16 if hflags & HF_CS64 else 8
    base = segment.base & ((1 << 4 * digits) - 1)
    flags = segment.flags
    text = (
        f"{name.upper():<3}={segment.selector:04x} {base:0{digits}x} {segment.limit:08x}"
        f" {flags & DESC_SHOWN:08x}"
    )
    if not (hflags & HF_PE and flags & DESC_P):
        return text
    text += f" DPL={flags >> DESC_DPL_SHIFT & 3} "
    if not flags & DESC_S:
        types = SYSTEM_TYPES_64 if hflags & HF_LMA else SYSTEM_TYPES_32
        return text + types[flags >> DESC_TYPE_SHIFT & 15]
    if flags & DESC_CODE:
        text += "CS64" if flags & DESC_L else "CS32" if flags & DESC_B else "CS16"
        letters = "CR"
    else:
        text += "DS  " if flags & DESC_B or hflags & HF_LMA else "DS16"
        letters = "EW"
    shown = zip((DESC_EC, DESC_RW, DESC_A), letters + "A", strict=True)
    return text + " [" + "".join(letter if flags & bit else "-" for bit, letter in shown) + "]"


def _system(cpu: CpuTarget, hflags: int) -> list[str]:
    digits = 16 if hflags & HF_LMA else 8
    mask = (1 << 4 * digits) - 1
    gdt, idt = cpu.segment("gdt"), cpu.segment("idt")
    debug = [f"DR{number}={cpu.read(f'dr{number}'):016x} " for number in range(4)]
    return [
        f"GDT=     {gdt.base & mask:0{digits}x} {gdt.limit:08x}",
        f"IDT=     {idt.base & mask:0{digits}x} {idt.limit:08x}",
        f"CR0={cpu.read('cr0') & 0xFFFFFFFF:08x} CR2={cpu.read('cr2') & mask:0{digits}x}"
        f" CR3={cpu.read('cr3') & mask:0{digits}x} CR4={cpu.read('cr4') & 0xFFFFFFFF:08x}",
        "".join(debug),  # with a blank at its end
        f"DR6={cpu.read('dr6'):016x} DR7={cpu.read('dr7'):016x}",
        f"EFER={cpu.read('efer'):016x}",
    ]


def _floating_point(cpu: CpuTarget, hflags: int) -> list[str]:
    status = cpu.read("fpsw")
    top = status >> 11 & 7
    tags = cpu.read("fptag")
    valid = sum((tags >> 2 * number & 3 != 3) << number for number in range(8))
    lines = [
        f"FCW={cpu.read('fpcw'):04x} FSW={status:04x} [ST={top}] FTW={valid:02x}"
        f" MXCSR={cpu.read('mxcsr'):08x}"
    ]
    words = []
    for number in range(8):  # physical registers; the processor counts from the top
        mantissa, exponent = cpu.st((number - top) & 7)
        words.append(f"FPR{number}={mantissa:016x} {exponent:04x}")
    for number in range(16 if hflags & HF_CS64 else 8):
        value = cpu.xmm(number)
        words.append(f"XMM{number:02d}={value >> 64:016x} {value & (1 << 64) - 1:016x}")
    return lines + [" ".join(words[at : at + 2]) for at in range(0, len(words), 2)]
