"""Guests that make no sense, one for each seed, and what must hold whatever they do.

A guest is random bytes as code in one of the processor's modes, with exception
handlers that lead into more of them; or a program of random port and memory-mapped
accesses; or one of random system instructions with operands that look right (MSRs,
control and debug registers, local APIC, system management mode, gates of every kind).

`python -m tests.machine.random_guests 10000` runs seeds in processes of their own, so that
one that dies or hangs is seen, with its seed.
"""

from __future__ import annotations

import random
import selectors
import subprocess
import sys
import time
from collections.abc import Callable

from machine import DeviceSpec, Machine, MachineError, RunState
from tests.asm import asm
from tests.emu.guest import LONG, PROTECTED, TO_USER

MS = 1_000_000
CODE, CODE_END = 0x20000, 0x60000       # random code, and where handlers go on
ENTRY = 0x1000
VARIANTS = ("real", "protected", "user", "long", "long user", "io",
            "system", "system long", "system real")
LEGAL = {RunState.PRELAUNCH, RunState.RUNNING, RunState.SUSPENDED, RunState.SHUTDOWN,
         RunState.PAUSED, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR}
MODELS = ("qemu64", "qemu64", "max", "max", "qemu64,+x2apic,+tsc-deadline", "max,hv-passthrough",
          "qemu32", "Haswell", "486", "EPYC", "Icelake-Server")
LOGS = (frozenset({"int", "exec", "cpu", "in_asm"}), frozenset({"exec", "nochain"}),
        frozenset({"int", "cpu_reset", "guest_errors"}), frozenset({"in_asm", "fpu", "cpu"}))

#: each port of a device of the board, its neighbours, and the PM block where we put it
PORTS = [*range(0x1E, 0x23), *range(0x3F, 0x45), *range(0x5F, 0x66), 0x70, 0x71, 0x80, 0x91,
         0x92, 0x93, *range(0x9F, 0xA3), 0xB2, 0xB3, *range(0xE0, 0xEC), *range(0x2F7, 0x301),
         *range(0x3F7, 0x401), *range(0x4CF, 0x4D3), 0x501, 0x502, 0x505, *range(0x50F, 0x51D),
         *range(0xCF7, 0xD01), *range(0xAFDF, 0xAFE5), *range(0x600, 0x640),
         *range(0x2000, 0x2019), *range(0xC000, 0xC010)]
#: RAM, VGA hole, option ROM, shadow, above RAM, the PCI hole, the APICs, the firmware
ADDRESSES = (0x7000, 0x9FFFC, 0xA0000, 0xBFFFE, 0xC0000, 0xDFFFF, 0xF0000, 0xFFFFE, 0x100000,
             0xFFFFFC, 0x1000000, 0xE0000000, 0xFEC00000, 0xFEC00010, 0xFEC00040, 0xFEE00020,
             0xFED00000, 0xFEB00000, 0xFF000000, 0xFFFF0000, 0xFFFFFFFC)

_TO_LONG_USER = """
        mov     dword [0x2808], 0
        push    qword 0x2b
        push    qword 0x6800
        push    qword 0x2
        push    qword 0x33
        push    qword 0x20000
        iretq
"""
#: 16-bit entry code of each variant; it ends where the random bytes begin
PROLOGUES = {
    "real": "mov sp, 0x7000\nsti\njmp 0x2000:0",
    "protected": PROTECTED + "jmp 0x08:0x20000",
    "user": PROTECTED + TO_USER % 2 + "mov eax, 0x20000\njmp eax",
    "long": PROTECTED + LONG + "mov dword [0x2808], 0\nmov eax, 0x20000\njmp rax",
    "long user": PROTECTED + LONG + _TO_LONG_USER,
    "io": PROTECTED + "sti\njmp 0x08:0x20000",
}
PROLOGUES |= {"system": PROLOGUES["protected"], "system long": PROLOGUES["long"],
              "system real": PROLOGUES["real"]}
#: what ring 3's exceptions do: back to ring 3, somewhere else
_BACK = """
        imul    eax, [0x5000], 1664525
        add     eax, 1013904223
        mov     [0x5000], eax
        shr     eax, 14
        add     eax, 0x20000
"""
BACK_TO_USER = _BACK + """
        mov     esp, 0x6f00
        push    dword 0x2b
        push    dword 0x6800
        push    dword 2
        push    dword 0x23
        push    eax
        iret
"""
BACK_TO_LONG_USER = _BACK + """
        mov     esp, 0x6f00
        push    qword 0x2b
        push    qword 0x6800
        push    qword 2
        push    qword 0x33
        push    rax
        iretq
"""
#: the io program's interrupt and exception handler
END_OF_INTERRUPT = """
        push    eax
        mov     al, 0x20
        out     0xa0, al
        out     0x20, al
        mov     dword [0xfee000b0], 0
        pop     eax
        iret
"""

# --- system instructions
MSRS = (*range(0x10, 0x1C), 0x34, 0x3A, 0x3B, 0x48, 0x49, 0x79, 0x8B, *range(0xC1, 0xC5), 0xE7,
        0xE8, 0xFE, 0x174, 0x175, 0x176, 0x179, 0x17A, 0x17B, 0x186, 0x198, 0x199, 0x19A, 0x19B,
        0x1A0, 0x1D9, *range(0x1DB, 0x1DF), *range(0x200, 0x210), 0x250, 0x258, 0x259,
        *range(0x268, 0x270), 0x277, 0x2FF, 0x38D, 0x38F, *range(0x400, 0x428), 0x480, 0x48F,
        0x6E0, *range(0x800, 0x840), 0x83F, 0xD90, 0xDA0, *range(0x40000000, 0x40000004),
        *range(0x40000020, 0x40000024), 0x40000080, *range(0x40000100, 0x40000106), 0x4B564D00,
        *range(0xC0000080, 0xC0000085), *range(0xC0000100, 0xC0000104), 0xC0010010, 0xC0010015,
        0xC001001F, 0xC0010055, 0xC0010111, 0xC0010112, 0xC0010114, 0xC0010117, 0xC0010140)
APIC_REGISTERS = (0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0, 0x100, 0x170, 0x180, 0x200,
                  0x280, 0x2F0, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380,
                  0x390, 0x3E0, 0x3F0)
#: GDT of `PROTECTED`: code, data, TSS; then what LDT and wild ones may give
SELECTORS = (0, 3, 8, 0x10, 0x18, 0x23, 0x2B, 0x33, 0x38, 0x3B, 0x40, 0x48, 0x4F, 4, 0xC, 0xFFF8)
EAX, ECX, EDX, EBX = 0, 1, 2, 3


class System:
    """Random system instructions for code of *bits* bits."""

    def __init__(self, rng: random.Random, bits: int) -> None:
        self.rng, self.bits = rng, bits

    def load(self, register: int, value: int) -> bytes:
        """MOV r32, imm32; sometimes, in 64-bit code, MOV r64, imm64."""
        if value >> 32:
            if self.bits == 64:
                return bytes([0x48, 0xB8 + register]) + value.to_bytes(8, "little")
            value &= 0xFFFF_FFFF
        data = bytes([0xB8 + register]) + value.to_bytes(4, "little")
        return b"\x66" + data if self.bits == 16 else data

    def memory(self, opcode: bytes, register: int, address: int) -> bytes:
        """*opcode* with a ModRM of *register* and [EBX], EBX being *address*."""
        prefix = b"\x67" if self.bits == 16 else b""
        return self.load(EBX, address) + prefix + opcode + bytes([register << 3 | EBX])

    def store(self, address: int, value: int, size: int = 4) -> bytes:
        wide = b"\x66" if (size == 2) != (self.bits == 16) and size != 1 else b""
        code = self.load(EAX, value)
        if size == 8 and self.bits == 64:
            return code + self.memory(b"\x48\x89", EAX, address)
        return code + self.memory(wide + (b"\x88" if size == 1 else b"\x89"), EAX, address)

    def out(self, port: int, value: int, size: int = 1) -> bytes:
        prefix = b"\x66" if (size == 2) != (self.bits == 16) and size != 1 else b""
        return (self.load(EAX, value) + self.load(EDX, port) + prefix
                + (b"\xee" if size == 1 else b"\xef"))

    def value(self) -> int:
        rng = self.rng
        return rng.choice((
            0, 1, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF, 1 << rng.randrange(64), rng.getrandbits(64),
            rng.getrandbits(32), rng.getrandbits(8), 0x8000_0000_0000, 0xFFFF_8000_0000_0000,
            0xFEE0_0900, 0xFEE0_0D00, 0xFEE0_0100, 0xA0000, 0x2000, 0x7000,
            rng.randrange(CODE, CODE_END)))

    def one(self) -> bytes:
        return self.rng.choice(self.KINDS)(self)

    def msr(self) -> bytes:
        rng = self.rng
        number = rng.choice(MSRS) if rng.random() < 0.95 else rng.getrandbits(32)
        if rng.random() < 0.3:
            return self.load(ECX, number) + b"\x0f\x32"
        low = self.value() & 0xFFFF_FFFF
        high = rng.choice((0, 0, 0, 0xFFFF_FFFF, self.value() >> 32))
        return (self.load(ECX, number) + self.load(EAX, low) + self.load(EDX, high) + b"\x0f\x30")

    def apic(self) -> bytes:
        rng = self.rng
        register = rng.choice(APIC_REGISTERS) if rng.random() < 0.9 else rng.getrandbits(12)
        value = self.value() & 0xFFFF_FFFF
        kind = rng.random()
        if kind < 0.25:                         # IPIs: mode, level, trigger, shorthand
            vector = rng.choice((0x20, 0x30, 0xFF, 0x0F, 2, rng.getrandbits(8)))
            register, value = 0x300, (vector | rng.getrandbits(3) << 8 | rng.getrandbits(5) << 11
                                      | rng.choice((0, 1, 1, 2, 3)) << 18)
        elif kind < 0.45:                       # the timer
            value = rng.choice((0x30, 0x20030, 0x40030, 0x10030, 0xFF))
            return (self.store(0xFEE0_0320, value)
                    + self.store(0xFEE0_03E0, rng.getrandbits(4))
                    + self.store(0xFEE0_0380, rng.choice((1, 100, 10000, 0xFFFF_FFFF))))
        elif kind < 0.55:
            register, value = 0xF0, 0x100 | rng.getrandbits(8) | rng.choice((0, 0, 0x200, 0x1000))
        elif kind < 0.65:
            opcode = rng.choice((b"\x8b", b"\x8a", b"\x87", b"\xf0\x0f\xb1", b"\x66\x8b"))
            return self.memory(opcode, EAX, 0xFEE0_0000 + register)
        return self.store(0xFEE0_0000 + register, value, rng.choice((4, 4, 4, 1, 2, 8)))

    def ioapic(self) -> bytes:
        rng = self.rng
        data = rng.choice((rng.getrandbits(32), 0x20 + rng.getrandbits(4), 0x1_0000, 0x700, 0x8020))
        return self.store(0xFEC0_0000, rng.choice((0, 1, 2, rng.randrange(0x10, 0x40)))) + (
            self.store(0xFEC0_0010, data) if rng.random() < 0.8
            else self.store(0xFEC0_0040, rng.getrandbits(8)))

    def control(self) -> bytes:
        rng = self.rng
        number = rng.choice((0, 2, 3, 4, 4, 8))
        register = bytes([0xC0 | (number & 7) << 3])
        rex = b"\x44" if number == 8 and self.bits == 64 else b""
        if number == 8 and self.bits != 64:     # LOCK MOV CR0 is AMD's CR8
            rex = b"\xf0"
            register = b"\xc0"
        read, write = rex + b"\x0f\x20" + register, rex + b"\x0f\x22" + register
        if rng.random() < 0.4:                  # flip a bit or two
            bits = 1 << rng.randrange(32) | (1 << rng.randrange(32) if rng.random() < 0.3 else 0)
            xor = b"\x35" + bits.to_bytes(4, "little")
            return read + (b"\x66" if self.bits == 16 else b"") + xor + write
        if rng.random() < 0.3:
            return read
        value = {0: 0x8000_0011, 3: 0x10000}.get(number, self.value())
        return self.load(EAX, value if rng.random() < 0.7 else self.value()) + write

    def debug(self) -> bytes:
        rng = self.rng
        number = rng.randrange(8)
        value = rng.choice((rng.randrange(CODE, CODE_END), rng.randrange(0x6000, 0x7000), 0x3F8))
        if number == 7:
            value = rng.getrandbits(32) & 0xFFFF_23FF | 0x400 | rng.choice((0, 0, 0x2000))
        elif number in (4, 5, 6):
            value = self.value()
        code = self.load(EAX, value) + bytes([0x0F, 0x23, 0xC0 | number << 3])
        return code + bytes([0x0F, 0x21, 0xC0 | rng.randrange(8) << 3])

    def smm(self) -> bytes:
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            return self.out(0xB2, rng.getrandbits(8))
        if kind < 0.5:
            return b"\x0f\xaa"                                      # RSM
        if kind < 0.75:                                             # the chipset's SMRAM register
            return self.out(0xCF8, 0x8000_0070, 4) + self.out(
                0xCFE, rng.choice((0x0A, 0x4A, 0x02, 0x0A, 0x42, rng.getrandbits(8) & 0xEF)))
        if kind < 0.8:                                              # APMC_EN and the like
            return self.out(0xCF8, 0x8000_0B58, 4) + self.out(0xCFC, rng.getrandbits(32), 4)
        area = rng.choice((0x3FE00, 0xAFE00, 0x3FF00))
        return self.store(area + rng.randrange(0x200), self.value())

    def pci(self) -> bytes:
        rng = self.rng
        address = 0x8000_0000 | rng.choice((0, 8, 0xB, 0x10, 0x18)) << 8 | rng.randrange(0, 256, 4)
        if rng.random() < 0.5:                  # PAM: shadow RAM, read from and written to
            address = 0x8000_0000 | rng.choice((0x58, 0x5C))
        return self.out(0xCF8, address, 4) + self.out(
            0xCFC + rng.randrange(4), rng.choice((self.value() & 0xFFFF_FFFF, 0x3333_3333, 0x11,
                                                  0x2222_2222, 0)), rng.choice((1, 2, 4)))

    def flags(self) -> bytes:
        bits = self.rng.choice((0x100, 0x100, 0x200, 0x3000, 0x4000, 0x10000, 0x20000, 0x40000,
                                0x400, 0x240000))
        xor = {16: b"\x66\x9c\x66\x58\x66\x35", 32: b"\x9c\x58\x35", 64: b"\x9c\x58\x35"}[self.bits]
        end = b"\x66\x50\x66\x9d" if self.bits == 16 else b"\x50\x9d"
        return xor + bits.to_bytes(4, "little") + end

    def far(self) -> bytes:
        """Far jumps and calls, to segments, gates and tasks; segment loads."""
        rng = self.rng
        selector = rng.choice(SELECTORS) if rng.random() < 0.9 else rng.getrandbits(16)
        kind = rng.random()
        if kind < 0.5:
            code = self.load(EAX, selector)
            return code + rng.choice((
                bytes([0x8E, 0xC0 | rng.choice((0, 2, 3, 4, 5, 1, 6)) << 3]),
                b"\x0f\x00" + bytes([0xC0 | rng.randrange(8) << 3]), b"\x0f\x02\xc0",
                b"\x0f\x03\xc0"))
        offset = rng.randrange(CODE, CODE_END)
        if self.bits == 64:
            return (self.store(0x5800, offset) + self.store(0x5804, selector)
                    + self.memory(b"\xff", rng.choice((3, 5)), 0x5800))
        data = offset.to_bytes(4, "little") if self.bits == 32 else (
            rng.getrandbits(16).to_bytes(2, "little"))
        return rng.choice((b"\xea", b"\x9a")) + data + selector.to_bytes(2, "little")

    def tables(self) -> bytes:
        """Gates, descriptors and task state: a random one where tables are; LGDT and LIDT."""
        rng = self.rng
        if rng.random() < 0.15:
            return (self.store(0x5800, rng.getrandbits(32))
                    + self.store(0x5804, rng.getrandbits(32))
                    + self.memory(b"\x0f\x01", rng.choice((0, 1, 2, 3, 4, 6, 7)), 0x5800))
        at = rng.choice((0x2000 + rng.randrange(0, 0x800, 8), 0x2800 + rng.randrange(0, 0x6C, 4)))
        if rng.random() < 0.5:
            at = (ENTRY & ~0xFFF) + rng.randrange(0, 0x100, 8)      # the GDT is behind the entry
        kind = rng.choice((0x85, 0x8C, 0x8E, 0x8F, 0xEC, 0xEE, 0xE5, 0x84, 0x87, 0x89, 0x8B, 0x82,
                           0x93, 0x9B, 0xFB, rng.getrandbits(8)))
        low = rng.choice(SELECTORS) << 16 | rng.getrandbits(16)
        return self.store(at, low) + self.store(at + 4, kind << 8 | rng.choice((0, 2, 0xCF0000)))

    def paging(self) -> bytes:
        """A page table entry, and the flush, or none."""
        rng = self.rng
        entry = rng.choice((0x10000, 0x11000, 0x12000, 0x12008, 0x13000))
        value = rng.choice((0x11007, 0x12007, 0x87, 0x200087, 0, 0x1E7, 0xA0083, 0xFEE0_0083,
                            rng.getrandbits(32)))
        flush = rng.choice((b"", b"\x0f\x20\xd8\x0f\x22\xd8",
                            self.memory(b"\x0f\x01", 7, rng.randrange(1 << 22))))
        return self.store(entry, value) + flush

    def code(self) -> bytes:
        """Write into the program."""
        rng = self.rng
        return self.store(rng.randrange(CODE, CODE_END),
                          rng.choice((0x9090_9090, rng.getrandbits(32), 0xF4CC_CCEB)))

    def strings(self) -> bytes:
        rng = self.rng
        count = rng.choice((0, 1, 7, 300, 5000))
        port = rng.choice((0xE9, 0x402, 0x70, 0x3F8, 0x60, 0x511, 0xE0, 0xCFC))
        prefix = rng.choice((b"\xf3", b"\xf2", b"", b"\xf3\x66"))
        return (self.load(ECX, count) + self.load(EDX, port) + self.load(7, rng.choice(ADDRESSES))
                + self.load(6, rng.choice(ADDRESSES)) + prefix
                + bytes([rng.choice((0x6C, 0x6D, 0x6E, 0x6F, 0xA4, 0xA5, 0xAA, 0xAB, 0xA6, 0xAE))]))

    def rare(self) -> bytes:
        """Instructions with few or no operands."""
        rng = self.rng
        modrm = bytes([rng.getrandbits(8)])
        address = rng.choice((0x5000, 0x5FF0, 0x7000, 0xFEE0_0020, 0xA0000, 0xFFFFFFFC))
        return rng.choice((
            b"\x0f\xa2", b"\x0f\x31", b"\x0f\x33", b"\x0f\x06", b"\x0f\x08", b"\x0f\x09",
            b"\x0f\x05", b"\x0f\x34", b"\x0f\x07", b"\x0f\x35", b"\x48\x0f\x07", b"\x48\x0f\x35",
            b"\xf1", b"\xcc", b"\xce", b"\xcd" + modrm, b"\xcf", b"\x48\xcf", b"\xfb\xf4", b"\xf4",
            b"\xfa", b"\xfb",
            b"\x17", b"\x8e\xd0", b"\x0f\x01" + modrm, b"\x0f\xae" + modrm, b"\x0f\xc7" + modrm,
            b"\x0f\x00" + modrm, b"\x0f\x01\xc8", b"\x0f\x01\xc9", b"\x0f\x01\xd0", b"\x0f\x01\xd1",
            b"\x0f\x01\xf9", b"\x0f\x01\xca", b"\x0f\x01\xcb", b"\x0f\x01\xee", b"\x0f\x01\xef",
            b"\xf3\x0f\xae\xc0", b"\xf3\x48\x0f\xae\xd0", b"\xf3\x48\x0f\xae\xd8",
            b"\x0f\x20\xe0\x0d\x00\x06\x04\x00\x0f\x22\xe0",        # OSFXSR, OSXSAVE
            self.memory(b"\x0f\xae", rng.randrange(8), address),
            self.memory(b"\x0f\xc7", rng.randrange(8), address),
            self.memory(b"\x66\x0f\x38\x82", EAX, 0x5000),          # INVPCID
            self.memory(bytes([0xD8 + rng.randrange(8)]), rng.randrange(8), address),
            bytes([0xD8 + rng.randrange(8), 0xC0 | rng.getrandbits(6)]), b"\x9b",
            self.memory(b"\x0f\x6f", 1, address), self.memory(b"\x0f\x7f", 1, address),
            self.load(4, rng.choice((0x7000, 0x7000, 0x7000, 0, 3, 0xA0002, 0xFEE00100)))))

    def encoded(self) -> bytes:
        """LOCK, VEX, EVEX, XOP and REX in front of anything."""
        rng = self.rng
        prefix = rng.choice((b"\xf0", b"\xf0", b"\xc5", b"\xc4", b"\x62", b"\x8f", b"\x66\xf2",
                             b"\xf0\x48", b"\xf2\xf0", b"\x67", b"\x2e\x66", b"\xd5"))
        return prefix + rng.randbytes(rng.randrange(2, 8))

    KINDS = (msr, msr, msr, apic, apic, apic, ioapic, control, control, debug, smm, smm, pci, flags,
             far, tables, paging, code, strings, rare, rare, rare, encoded, encoded)


def random_system(rng: random.Random, bits: int) -> bytes:
    """A program of them that fills all the code there is."""
    system = System(rng, bits)
    out = bytearray()
    while len(out) < CODE_END - CODE - 64:
        snippet = bytearray()
        for _ in range(rng.randrange(1, 60)):
            snippet += system.one()
        for _ in range(rng.randrange(1, 4)):
            out += snippet
        if rng.random() < 0.3:
            out += b"\xeb" + bytes([rng.getrandbits(8)])
    return bytes(out)[:CODE_END - CODE]


def random_code(rng: random.Random, bits: int) -> bytes:
    """Random bytes; often without HLT and CLI, which end too many guests early, and sometimes
    with system instructions in between."""
    code = bytearray(rng.randbytes(CODE_END - CODE))
    if rng.random() < 0.7:
        code = code.replace(b"\xf4", b"\x90").replace(b"\xfa", b"\xfb")
    if rng.random() < 0.5:
        system = System(rng, bits)
        pieces = [system.one() for _ in range(200)]
        for _ in range(4000):
            piece = rng.choice(pieces)
            at = rng.randrange(len(code) - len(piece))
            code[at:at + len(piece)] = piece
    return bytes(code)


def random_accesses(rng: random.Random) -> bytes:
    """32-bit code: some hundred random IN, OUT, loads and stores, over and over."""
    out = bytearray()
    for _ in range(400):
        kind = rng.random()
        value = rng.choice((rng.getrandbits(32), rng.getrandbits(8), 0, 0xFFFFFFFF))
        out += b"\xb8" + value.to_bytes(4, "little")                    # mov eax, imm32
        if kind < 0.06:         # PCI configuration, mostly of functions that are there
            address = 0x80000000 | rng.choice((0, 8, 0xB, 0x10)) << 8 | rng.randrange(0, 256, 4)
            out += b"\xb8" + address.to_bytes(4, "little")
            out += b"\x66\xba\xf8\x0c\xef"                              # mov dx, 0xcf8; out dx, eax
            out += b"\xb8" + rng.choice((value, 0x601, 1)).to_bytes(4, "little")
            out += b"\x66\xba\xfc\x0c" + rng.choice((b"\xef", b"\xed", b"\x66\xef", b"\xee"))
        elif kind < 0.85:
            port = rng.choice(PORTS) if rng.random() < 0.9 else rng.getrandbits(16)
            out += b"\x66\xba" + port.to_bytes(2, "little")             # mov dx, imm16
            out += rng.choice((b"\xee", b"\xee", b"\x66\xef", b"\xef",  # out
                               b"\xec", b"\xec", b"\x66\xed", b"\xed"))
        elif kind < 0.98:
            address = rng.choice(ADDRESSES)
            if rng.random() < 0.2:
                address = rng.randrange(0x80000, 1 << 32)
            out += rng.choice((b"\xa2", b"\xa3", b"\x66\xa3", b"\xa0", b"\xa1", b"\x66\xa1"))
            out += address.to_bytes(4, "little")
        else:
            out += rng.choice((b"\xf4", b"\xfb", b"\xfa", b"\xfb\xf4"))
    return bytes(out) + b"\xe9" + (-(len(out) + 5)).to_bytes(4, "little", signed=True)


def gates(rng: random.Random, wide: bool, targets: Callable[[], int], attributes: int,
          wild: float = 0.03) -> bytes:
    """An IDT of 2 KiB."""
    out = bytearray()
    for _ in range(128 if wide else 256):
        at = targets()
        if rng.random() < wild:
            out += rng.choice((
                rng.randbytes(16 if wide else 8),
                bytes((0, 0, 0x38, 0, 0, 0x85, 0, 0)).ljust(16 if wide else 8, b"\0")))  # a task
            continue
        out += (at & 0xFFFF).to_bytes(2, "little") + (0x18 if wide else 8).to_bytes(2, "little")
        out += bytes((0, attributes)) + (at >> 16).to_bytes(2, "little")
        if wide:
            out += bytes(8)
    return bytes(out)


def build(seed: int) -> Machine:
    """The guest of *seed*."""
    rng = random.Random(seed)
    variant = VARIANTS[seed % len(VARIANTS)]
    bits = 16 if variant.endswith("real") else 64 if "long" in variant else 32
    bios = bytearray(rng.randbytes(0x10000))
    bios[0xFFF0:0xFFF5] = b"\xea" + ENTRY.to_bytes(2, "little") + b"\0\0"
    devices = [DeviceSpec("pvpanic", {}), DeviceSpec("isa-debugcon", {})]
    if rng.random() < 0.2:
        devices.append(DeviceSpec("isa-debug-exit", {}))
    if rng.random() < 0.3:
        devices.append(DeviceSpec("pc-testdev", {}))
    if rng.random() < 0.3:
        devices.append(DeviceSpec("pci-testdev", {}))
    model = rng.choice(MODELS)
    if bits == 64 and model in ("qemu32", "486"):
        model = "max"
    machine = Machine(
        bios=bytes(bios), ram_mb=rng.choice((1, 1, 1, 2, 2, 3, 16)), icount_shift=2,
        devices=devices, one_insn_per_tb=rng.random() < 0.15, serials=[lambda data: None],
        cpu=model, smm=rng.random() < 0.9,
        log_items=rng.choice(LOGS) if rng.random() < 0.12 else frozenset(),
        log_file="/dev/null", reboot_action=rng.choice(("reset", "reset", "shutdown")),
        shutdown_action="pause", panic_action=rng.choice(("pause", "none", "shutdown")))
    store = machine.write_memory
    if variant.startswith("system"):
        store(CODE, random_system(rng, bits))
    else:
        store(CODE, random_accesses(rng) if variant == "io" else random_code(rng, bits))
    if rng.random() < 0.8:                      # where an SMI leads to
        store(0x38000, b"\x0f\xaa")

    def anywhere() -> int:
        return rng.randrange(CODE, CODE_END)

    if variant.endswith("real"):
        store(0, b"".join(rng.getrandbits(15).to_bytes(2, "little") + b"\x00\x20"
                          for _ in range(256)))
    elif variant == "io":
        store(0x4000, asm(END_OF_INTERRUPT, bits=32, org=0x4000))
        store(0x2000, gates(rng, False, lambda: 0x4000, 0x8E))
    elif variant.endswith("user"):
        wide = variant == "long user"
        store(0x4000, asm(BACK_TO_LONG_USER, bits=64, org=0x4000) if wide
              else asm(BACK_TO_USER, bits=32, org=0x4000))
        store(0x5000, rng.randbytes(4))
        store(0x2000, gates(rng, wide, lambda: 0x4000, rng.choice((0x8E, 0xEE))))
    else:
        store(0x2000, gates(rng, bits == 64, anywhere, 0x8E))
    if variant.endswith("user"):
        store(0x2868, rng.randbytes(0x700))                             # the I/O bitmap
    store(ENTRY, asm(PROLOGUES[variant], org=ENTRY))
    return machine


def live(seed: int, duration_ns: int) -> bytes:
    """Run the guest of *seed*, with a little prodding, and tell what became of it."""
    machine = build(seed)
    rng = random.Random(~seed)
    states = []
    try:
        for _ in range(4):
            machine.run_for(duration_ns // 4)
            state = machine.status.state
            assert state in LEGAL, state
            assert machine.status.running == (state is RunState.RUNNING)
            states.append(state.value)
            if machine.runstate.exit_code is not None:
                break
            prod = rng.choice(("wakeup", "cont", "stop", "powerdown", "reset", "key", "serial",
                               "nmi", "one-insn"))
            if prod == "wakeup" and state is RunState.SUSPENDED:
                machine.wakeup()
            elif prod == "cont" or state is RunState.PAUSED:
                try:
                    machine.cont()
                except MachineError:
                    assert state in (RunState.SHUTDOWN, RunState.INTERNAL_ERROR)
            elif prod == "stop":
                machine.stop()
            elif prod == "powerdown":
                machine.system_powerdown()
            elif prod == "reset" and rng.random() < 0.3:
                machine.system_reset()
            elif prod == "key":
                machine.send_keys(["a", "ctrl"])
            elif prod == "serial":
                machine.serial_receive(0, b"x" * rng.randrange(20))
            elif prod == "nmi":
                machine.inject_nmi()
            elif prod == "one-insn":
                machine.one_insn_per_tb = not machine.one_insn_per_tb
        return ",".join(states).encode() + machine.fingerprint()
    finally:
        machine.close()


# --- many seeds, in processes of their own
#: a guest that takes longer has hung
PATIENCE_S = 60


def _work(first: int, last: int, duration_ns: int) -> None:
    for seed in range(first, last):
        print("began", seed, flush=True)
        begun = time.monotonic()
        once = live(seed, duration_ns)
        if seed % 5 == 0 and once != live(seed, duration_ns):
            raise AssertionError(f"two runs of seed {seed} differ")
        print("ended", seed, f"{time.monotonic() - begun:.2f}", flush=True)


def _supervise(first: int, last: int, duration_ns: int) -> int:
    """How many seeds went wrong; each is told, with how."""
    bad = 0
    while first < last:
        with subprocess.Popen(
                [sys.executable, "-m", __spec__.name, "--work", str(first), str(last),
                 str(duration_ns)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
            assert worker.stdout is not None and worker.stderr is not None
            streams = selectors.DefaultSelector()
            streams.register(worker.stdout, selectors.EVENT_READ)
            trouble = ""
            seed = first
            while not trouble:
                if not streams.select(PATIENCE_S):
                    trouble = "hangs"
                    worker.kill()
                    break
                line = worker.stdout.readline().split()
                if not line:
                    break
                seed = int(line[1])
                if line[0] == b"ended":
                    first = seed + 1
                    if float(line[2]) > 8:
                        print(f"seed {seed} took {line[2].decode()} s", flush=True)
            rest = worker.stderr.read().decode(errors="replace")
        if not trouble and first >= last:
            break
        bad += 1
        print(f"seed {seed}: {trouble or f'exit status {worker.returncode}'}\n{rest[-2000:]}",
              flush=True)
        first = seed + 1
    return bad


def main(arguments: list[str]) -> int:
    """`COUNT [FIRST [DURATION_NS]]`."""
    if arguments[:1] == ["--work"]:
        _work(*(int(text) for text in arguments[1:]))
        return 0
    count, first, duration = map(int, [*arguments, "0", str(MS // 25)][:3] if len(arguments) < 2
                                 else [*arguments, str(MS // 25)][:3])
    bad = _supervise(first, first + count, duration)
    print(f"{count - bad} of {count} seeds ran well")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
