"""Thousands of small pieces of code, here and on qemu-system-x86_64: the same registers, flags,
memory and exceptions, but for the differences that are listed, each with its reason.

`KNOWN` is exact: a mismatch that it does not name fails, and so does an entry that no case needs.
"""

from __future__ import annotations

import collections
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pytest

from tests.differential.cases import (
    opcode_cases,
    random_cases,
    system_cases,
    trapped_cases,
    wide_opcode_cases,
)
from tests.differential.harness import QEMU, Case, run_qemu, run_snooze

needs_qemu = pytest.mark.skipif(
    QEMU is None or b"version 10." not in subprocess.run(
        [QEMU, "--version"], capture_output=True, check=False).stdout,
    reason="qemu-system-x86_64 10 is not installed")
pytestmark = needs_qemu

_WORDS = ("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 "
          "vector error rip cs rflags frsp ss cr2 dr6").split()
#: field -> where it is in a record
FIELDS = {name: slice(8 * i, 8 * i + 8) for i, name in enumerate(_WORDS)} | {
    "fcw": slice(0xC8, 0xCA), "fsw": slice(0xCA, 0xCC), "ftw": slice(0xCC, 0xCE),
    "mxcsr": slice(0xE0, 0xE4), "st": slice(0xE8, 0x108), "xmm": slice(0x108, 0x178),
    "memory": slice(0x178, 0x1F8)}

#: an instruction without its prefixes: opcode, then ModRM and so on
Match = Callable[[bytes, Case], bool]


class Known(NamedTuple):
    """Cases of *match* may differ in *fields* ("*": in all)."""

    reason: str
    match: Match
    fields: str


def op(*codes: int, mode: str = "") -> Match:
    """The opcode is one of *codes*: a byte, or 0x0Fxx."""
    def match(code: bytes, case: Case) -> bool:
        opcode = 0x0F00 | code[1] if code[0] == 0x0F else code[0]
        return opcode in codes and (not mode or case.mode == mode)
    return match


def bits64(*codes: int) -> Match:
    return op(*codes, mode="64")


def _reg(code: bytes) -> int:
    return code[1] >> 3 & 7


SHIFTS = (0xC0, 0xC1, 0xD2, 0xD3, 0x0FA4, 0x0FA5, 0x0FAC, 0x0FAD)
SETCC = tuple(bytes([0x0F, 0x90 | condition]) for condition in range(16))
KNOWN = (
    # --- undefined, or QEMU 10 does what the manual does not say
    Known("OF after a shift by more than one is undefined", op(*SHIFTS), "rflags"),
    Known("QEMU: ENTER's size is a signed number", op(0xC8), "rsp frsp"),
    Known("QEMU: INTO, AAM, AAD, SALC and others are there in 64-bit mode",
          bits64(0xCE, 0xD4, 0xD5, 0xD6, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x62, 0x82, 0x9A,
                 0xEA, 0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F), "*"),
    Known("QEMU: MOV from segment registers 6 and 7",
          lambda code, _: code[0] == 0x8C and _reg(code) >= 6, "*"),
    Known("QEMU: does not check the alignment of these operands of 16 bytes",
          op(*(0x0F00 | code for code in (
              0x12, 0x14, 0x15, 0x16, 0x2C, 0x2D, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x5A,
              0x5B, 0x7C, 0x7D, 0xC6, 0xD0, 0xE1, 0xE2, 0xE6, 0xF1, 0xF2, 0xF3))), "*"),
    Known("MASKMOVDQU of memory is looked at before it is #UD", op(0x0FF7), "vector"),
    Known("POPCNT of 16 bits clears the rest of its register", op(0x0FB8), "rax"),
    Known("QEMU: RDRAND and RDSEED of memory", op(0x0FC7),
          "rip vector rflags dr6"),
    Known("QEMU: INVD and WBINVD in ring 3 are #UD",
          lambda code, case: code[0] == 0x0F and code[1] in (8, 9) and case.user,
          "vector rip rflags dr6"),
    Known("QEMU: SYSRET with SCE clear is #GP in ring 3", op(0x0F07), "vector"),
    Known("QEMU: MMX instructions with a prefix that the manual excludes",
          op(0x0F77, 0x0FD6, 0x0FE7), "*"),
    Known("QEMU: CMPXCHG of a 32-bit register that differs keeps the upper half", op(0x0FB1),
          "rcx rdx rbx rsi rdi r9 r10 r11 r12 r13"),
    Known("QEMU: after a fault of SETcc the flags are wrong",
          lambda code, case: any(case.code[at:at + 2] in SETCC for at in (0, 2)), "rflags"),
    Known("QEMU: a null SS may have any RPL",
          lambda code, _: code.endswith(b"\x8e\xd0") or code[:2] == b"\x8e\xd1",
          "rip vector ss"),
    Known("QEMU: JMP to an address that is not canonical has been done when it faults",
          lambda code, _: code.endswith(b"\xff\xe0"), "rip"),
    Known("BSWAP of a 16-bit register is undefined", op(*range(0x0FC8, 0x0FD0)), "*"),
    # --- Unicorn's core (docs/cpu.md)
    Known("SMSW r32 outside of 64-bit mode stores 16 bits",
          lambda code, case: code[:2] == b"\x0f\x01" and case.mode != "64", "rax"),
    Known("the reserved forms of 0F 18 are #UD", op(0x0F18), "rip vector rflags dr6"),
    Known("#DB between the rounds of a repeated string instruction has RF clear",
          lambda code, case: case.trap and 0xA4 <= code[0] <= 0xAF, "rflags"),
    Known("MOVNTSS and MOVNTSD of AMD's SSE4a are there", op(0x0F2B), "rip memory"),
    Known("CMPPS' predicates above 7 are #UD", op(0x0FC2), "*"),
    Known("LAHF and SAHF with REX use SPL", bits64(0x9E, 0x9F), "rax rsp frsp rflags"),
    Known("an MMX encoding that is #UD has already left x87 mode",
          lambda code, _: code[0] == 0x0F and (code[1] in (0x71, 0x72, 0x73)
                                               or 0x60 <= code[1] <= 0xFE), "fsw ftw st"),
    Known("SSSE3 of MMX registers does not leave x87 mode",
          lambda code, _: code[:2] in (b"\x0f\x38", b"\x0f\x3a"), "fsw ftw st"),
    Known("a near transfer with 66 in 64-bit mode is AMD's", bits64(
        0xE8, 0xE9, 0xEB, 0xC2, 0xC3, 0xE0, 0xE1, 0xE2, 0xE3, 0xFF, *range(0x70, 0x80),
        *range(0x0F80, 0x0F90)), "vector error rip rflags cr2 rsp frsp"),
    Known("Jcc over the end of 4 GiB in 32-bit code does not wrap",
          lambda code, case: code[0] == 0x0F and code[1] & 0xF0 == 0x80 and case.mode != "64",
          "rip cr2"),
    Known("LSS, LFS, LGS with REX.W are AMD's", bits64(0x0FB2, 0x0FB4, 0x0FB5), "error"),
    Known("REX.R is not ignored where ModRM's reg is a part of the opcode",
          bits64(0xC6, 0xC7, 0x0FBA), "*"),
    Known("x87 transcendentals have a double's precision, PE is not set",
          lambda code, _: 0xD8 <= code[0] <= 0xDF, "st fsw"),
)


def bare(case: Case) -> bytes:
    """A case's code without its prefixes."""
    code = case.code
    while code[0] in b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3" or (
            case.mode == "64" and code[0] & 0xF0 == 0x40):
        code = code[1:]
    return code


def masked(record: bytes) -> bytes:
    """Without what is not compared: the FPU's instruction pointers, sticky exception flags
    (x87's and MXCSR's, which Unicorn does not keep), CR2 where no page fault was.
    """
    data = bytearray(record)
    data[0xCA] &= 0xC0
    data[0xCB] &= 0xFD                  # C1: rounded up
    data[0xCE:0xE0] = bytes(18)
    data[0xE0] &= 0xC0
    data[0xE4:0xE8] = bytes(4)
    if data[0x80:0x88] != b"\x0e" + bytes(7):
        data[0xB8:0xC0] = bytes(8)
    return bytes(data)


def mismatches(cases: list[Case]) -> Iterator[tuple[Case, set[str], str]]:
    """Cases whose records differ: (case, fields, what they are here and there)."""
    for case, here, there in zip(cases, run_snooze(cases), run_qemu(cases), strict=True):
        if not here or not there:
            yield case, {"*"}, f"{case}: no record {'here' if there else 'there'}"
            continue
        here, there = masked(here), masked(there)
        if here == there:
            continue
        fields = {name for name, at in FIELDS.items() if here[at] != there[at]}
        yield case, fields, f"{case}: " + ", ".join(
            f"{name} {here[FIELDS[name]][::-1].hex().lstrip('0') or '0'}"
            f"/{there[FIELDS[name]][::-1].hex().lstrip('0') or '0'}" for name in sorted(fields))


def check(cases: Iterable[Case]) -> collections.Counter[str]:
    """Fail where a mismatch is not known; how many cases needed each entry."""
    needed: collections.Counter[str] = collections.Counter()
    unknown = []
    for case, fields, text in mismatches(list(cases)):
        code = bare(case)
        for known in KNOWN:
            if known.match(code, case) and (known.fields == "*"
                                            or fields <= set(known.fields.split())):
                needed[known.reason] += 1
                break
        else:
            unknown.append(text)
    assert not unknown, f"{len(unknown)} new differences\n" + "\n".join(unknown[:40])
    return needed


def test_system_instructions_and_exceptions() -> None:
    check(system_cases())


@pytest.mark.slow
def test_single_steps() -> None:
    check(trapped_cases())


def test_opcode_groups() -> None:
    check(wide_opcode_cases())


@pytest.mark.parametrize("seed", range(2))
def test_random_sequences(seed: int) -> None:
    check(random_cases(2000, seed))


@pytest.mark.slow
def test_every_opcode_with_every_prefix() -> None:
    """32,000 cases; every entry of the table is needed by some."""
    needed = check([*opcode_cases(), *opcode_cases(("64",), user=True), *system_cases(),
                    *trapped_cases(), *wide_opcode_cases()])
    assert {known.reason for known in KNOWN} == set(needed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 15))
def test_more_random_sequences(seed: int) -> None:
    check(random_cases(8000, seed))
