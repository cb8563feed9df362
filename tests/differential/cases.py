"""Which pieces of code are compared: opcode tables, and random sequences.

What a case may not hold: port I/O, HLT and the like in ring 0 (they reach
devices or stop the processor), and what reads the time or the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.differential.harness import Case

__all__ = ["opcode_cases", "random_cases", "system_cases", "trapped_cases"]

#: ModRM bytes: memory at [rbx], [rsi + disp8], [r12/rsp + …] by SIB; registers
MODRM = (0x03, 0x4E, 0x1F, 0xC0, 0xD1, 0xE3, 0xFA)
PREFIXES = (b"", b"\x66", b"\x48", b"\xf3", b"\xf2", b"\xf0", b"\x67")
NOPS = b"\x90" * 8

#: one-byte opcodes that cannot run in ring 0: I/O, HLT, prefixes of their own
_SKIP_1 = {0x0F, 0x6C, 0x6D, 0x6E, 0x6F, 0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF, 0xF4,
           0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3,
           0xC4, 0xC5, 0x62}                    # VEX, EVEX: not in the model
#: two-byte ones: control registers, MSRs, time, CPUID, SYSRET, SYSEXIT, RSM, VMX, GETSEC;
#: 0F 01 and 0F 00, 0F AE and 0F C7 have cases of their own
_SKIP_2 = {0x00, 0x01, 0x07, 0x09, 0x08, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0x35,
           0x37, 0x05, 0x34, 0x38, 0x3A, 0xA2, 0xAA, 0xAE, 0xC7, 0x0E, 0x0F, 0x78, 0x79, 0x06,
           0x24, 0x26, 0x0B, 0xFF, 0xB9}


def opcode_cases(modes: tuple[str, ...] = ("64", "32", "16"),
                 user: bool = False) -> Iterator[Case]:
    """Each opcode with each prefix and a few operands."""
    for mode in modes:
        for prefix in PREFIXES:
            if prefix == b"\x48" and mode != "64":
                continue
            for opcode in range(256):
                if opcode in _SKIP_1 or 0x40 <= opcode < 0x50 and mode == "64":
                    continue
                for modrm in MODRM[:2] if prefix else MODRM:
                    if opcode == 0x8E and modrm >> 3 & 7 in (1, 6, 7):
                        continue                # QEMU 10 takes CS and two that are not there
                    yield Case((prefix + bytes([opcode, modrm]) + NOPS)[:12], mode, user)
            for opcode in range(256):
                if opcode in _SKIP_2:
                    continue
                for modrm in (MODRM[0], MODRM[3]) if prefix else MODRM:
                    yield Case((prefix + bytes([0x0F, opcode, modrm]) + NOPS)[:12], mode, user)


def wide_opcode_cases() -> Iterator[Case]:
    """0F 38, 0F 3A, the groups, SETcc and the x87's registers, in 64-bit mode."""
    for condition in range(16):
        for before in (b"", b"\xfe\xc0", b"\x39\xd8", b"\x85\xd2", b"\x11\xdb", b"\xd1\xe8"):
            for modrm in (0x03, 0x00, 0xC7):        # RAX is not canonical
                yield Case(before + bytes([0x0F, 0x90 | condition, modrm]))
    for prefix in (b"", b"\x66", b"\xf2", b"\xf3"):
        for opcode in (*range(0x0C), 0x10, 0x14, 0x15, 0x17, 0x1C, 0x1D, 0x1E, *range(0x20, 0x26),
                       *range(0x28, 0x2C), *range(0x30, 0x42), *range(0xDB, 0xE0), 0xF0, 0xF1,
                       0xF6):
            for modrm in (0x03, 0xC1):
                yield Case(prefix + bytes([0x0F, 0x38, opcode, modrm]))
        for opcode in (*range(0x08, 0x10), *range(0x14, 0x18), 0x20, 0x21, 0x22, 0x40, 0x41, 0x42,
                       0x44, *range(0x60, 0x64), 0xDF):
            for modrm in (0x03, 0xC1):
                for imm in (0x00, 0x1B):
                    yield Case(prefix + bytes([0x0F, 0x3A, opcode, modrm, imm]))
    for opcode in (0x80, 0x81, 0x83, 0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3, 0xF6, 0xF7, 0xFE, 0xFF):
        for reg in range(8):
            for prefix in (b"", b"\x66", b"\x48", b"\xf0"):
                for modrm in (0x03, 0xC1):
                    code = prefix + bytes([opcode, modrm | reg << 3, 0x05, 0, 0, 0])
                    yield Case((code + NOPS)[:12])
    yield Case(b"\x44\xc6\x03\x05")
    yield Case(b"\x44\x0f\xba\x23\x05")
    for opcode in range(0xD8, 0xE0):
        for modrm in range(0xC0, 0x100):
            yield Case(bytes([opcode, modrm]))
        for reg in range(8):
            yield Case(bytes([opcode, reg << 3 | 3]))


def system_cases() -> Iterator[Case]:
    """Segment loads, far transfers, interrupts, privileged instructions from ring 3."""
    selectors = (0, 3, 8, 0x0B, 0x10, 0x13, 0x18, 0x2B, 0x30, 0x33, 0x48, 0x58, 0x60, 0x63, 0x68,
                 0x70, 0x77, 0x78, 0x7C, 0x100, 0xFFF8)
    for user in (False, True):
        for selector in selectors:
            load = b"\xb8" + selector.to_bytes(4, "little")         # mov eax, selector
            for reg in (0, 2, 3, 4, 5):     # QEMU 10 takes MOV CS and two that are not there
                yield Case(load + bytes([0x8E, 0xC0 | reg << 3]), "64", user)
                yield Case(load + bytes([0x8E, 0xC0 | reg << 3]), "32", user)
            for opcode in (0x02, 0x03):                             # LAR, LSL
                yield Case(load + bytes([0x0F, opcode, 0xC8]), "64", user)
            for reg in (4, 5):                                      # VERR, VERW
                yield Case(load + bytes([0x0F, 0x00, 0xC0 | reg << 3]), "64", user)
            yield Case(b"\xea\x10\x40\x00\x00" + selector.to_bytes(2, "little"), "32", user)
            yield Case(b"\x9a\x10\x40\x00\x00" + selector.to_bytes(2, "little"), "32", user)
        for vector in (0, 1, 3, 4, 8, 13, 14, 0x20, 0x80, 0xFF):
            for mode in ("64", "32"):
                yield Case(bytes([0xCD, vector]), mode, user)
        # non-canonical addresses, and pages that are not there
        for code in ("48b800000000000080008b00", "48b80000000000008000ffe0",
                     "48b80000000000008000488900", "a10090909090909090", "8b042500004000",
                     "890425000040008f00", "48b80000000000008000ff30", "0fc733", "0fc70b",
                     "480fc70b", "f0480fc70b", "f3c8100002"):
            yield Case(bytes.fromhex(code)[:14], "64", user)
        # alignment, #NM, flags
        for code in ("9c580d000400005 09d".replace(" ", ""), "9d", "9b", "0f77", "fb", "fa", "cf",
                     "cb", "ca0400", "48cf", "48cb", "c8100003", "c9", "f1", "ce", "d7",
                     "668cd8", "0fa0", "0fa1", "1f", "17", "0f06", "0f08", "0f09", "f4", "0f00d8",
                     "0f00d0", "0f01f0", "0f0138", "0f20c0", "0f22c0", "0f21c0", "0f23c0", "0f32",
                     "0f30", "0f35", "0f07", "0f01d8", "0f01f8", "0faae0", "e4ff", "e6ff", "ec",
                     "ee", "6c", "6e", "0f0113", "0f0103", "0f010b", "0f01e0"):
            data = bytes.fromhex(code)
            if not user and data[0] in (0xF4, 0xE4, 0xE6, 0xEC, 0xEE, 0x6C, 0x6E, 0xCF) or (
                    not user and data[:2] in (b"\x0f\x22", b"\x0f\x30", b"\x0f\x35", b"\x0f\x07",
                                              b"\x0f\x23", b"\x0f\x20", b"\x0f\x00", b"\x48\xcf",
                                              b"\x0f\x32") or data[:3] in (
                        b"\x0f\x01\x13", b"\x0f\x01\xf0", b"\x0f\x01\xf8")):
                continue
            yield Case(data, "64", user)
            yield Case(data, "32", user)


def trapped_cases() -> Iterator[Case]:
    """Single steps: over instructions of every kind, and what holds #DB off."""
    for case in system_cases():
        yield case._replace(trap=True)
    for i, case in enumerate(opcode_cases()):
        if i % 8 == 0:
            yield case._replace(trap=True)
    for text in ("0fa2", "9c", "9d", "fb", "fbfb", "8ed0", "17", "f3a4", "f3aa", "f2ae", "cd03",
                 "cc", "f1", "90", "c8100000", "c9", "e800000000", "eb00", "7400", "e300", "ffe3",
                 "c3", "8ed090", "8ed00fa2", "17cd03", "8ed0cc", "8ed0f1", "9d90", "0f06",
                 "0fae38"):
        for mode in ("64", "32", "16"):
            yield Case(bytes.fromhex(text), mode, False, True)
            yield Case(bytes.fromhex(text), mode, True, True)


#: instructions for random sequences: (bytes before ModRM, bytes of immediate).  Without those
#: whose result is partly undefined: shifts by more than one, and what QEMU does otherwise.
_BLOCKS = tuple(
    [(bytes([op]), 0) for op in (0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x11, 0x13, 0x19, 0x1B,
                                 0x21, 0x23, 0x29, 0x2B, 0x31, 0x33, 0x39, 0x3B, 0x63, 0x84, 0x85,
                                 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8D, 0xD1)]
    + [(bytes([op]), 1) for op in (0x6B, 0x80, 0x83)]
    + [(b"\x0f" + bytes([op]), 0) for op in (
        0x40, 0x42, 0x44, 0x4C, 0xAF, 0xB0, 0xB6,
        0xBE, 0xBF, 0xC0, 0xC1, 0x51, 0x58, 0x59, 0x5C, 0x5E, 0x6F, 0x7F,
        0xD4, 0xEF, 0xFE)]
    + [(b"\x0f" + bytes([op]), 1) for op in (0x70,)])


def random_cases(count: int, seed: int) -> Iterator[Case]:
    """Sequences of two to five instructions."""
    rng = random.Random(seed)
    for _ in range(count):
        code = b""
        mode = rng.choice(("64", "64", "64", "32", "16"))
        while True:
            before, immediate = rng.choice(_BLOCKS)
            prefix = b"\x66" if rng.random() < 0.15 else b""
            if mode == "64" and rng.random() < 0.4:
                prefix += bytes([rng.choice((0x48, 0x44, 0x41, 0x4D))])
            modrm = rng.choice((0xC0, 0xC0, 0xC0, 0x00)) | rng.randrange(64)
            if modrm < 0xC0:
                modrm = modrm & 0x38 | rng.choice((3, 6, 7) if mode != "16" else (4, 5, 7))
            if modrm & 7 == 4 and modrm >= 0xC0:
                modrm ^= 1                          # leave RSP alone
            piece = prefix + before + bytes([modrm]) + rng.randbytes(immediate)
            if len(code) + len(piece) > 14:
                break
            code += piece
        yield Case(code, mode, rng.random() < 0.3)
