"""x86 code as QEMU 10.0.2 prints it (disas/capstone.c): AT&T syntax.

QEMU's builds differ in their Capstone.  Debian's has version 4, whose text for
some instructions is another one than that of the Capstone 5 used here; `_RULES`
are the differences that real code meets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

__all__ = ["ADDRESS_SIZE", "Code", "Disassembler", "Instruction", "look"]

_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))
_OPERAND_SIZE, ADDRESS_SIZE = 0x66, 0x67
_MOD = 0xC0                     # ModRM: both bits set is a register
_BYTES_A_LINE = 8


class Instruction(NamedTuple):
    """*lines*: address, bytes, text; more than one where the bytes need it."""

    address: int
    code: bytes
    lines: tuple[str, ...]


class Disassembler:
    """Loads Capstone when it is first used."""

    def __init__(self) -> None:
        self._capstone: dict[int, Any] = {}

    def instructions(self, code: bytes, address: int, bits: int) -> Iterator[Instruction]:
        """Of *code* at linear *address*, in 16, 32 or 64 *bits*; what is none comes last, whole."""
        done = 0
        for at, size, mnemonic, operands in self._engine(bits).disasm_lite(code, address):
            data = code[done:done + size]
            done += size
            mnemonic, operands = _as_version_4(data, bits, mnemonic, operands)
            shown = "".join(f"{byte:02x} " for byte in data[:_BYTES_A_LINE])
            lines = [f"0x{at:08x}:  {shown:<24} {mnemonic:<8} {operands}"]
            if size > _BYTES_A_LINE:
                lines.append(f"0x{at + _BYTES_A_LINE:08x}:  {data[_BYTES_A_LINE:].hex(' ')}")
            yield Instruction(at, data, tuple(lines))
        if done < len(code):
            rest = code[done:]
            yield Instruction(address + done, rest,
                              (f"0x{address + done:08x}:  " + "".join(f"{b:02x} " for b in rest),))

    def _engine(self, bits: int) -> Any:
        engine = self._capstone.get(bits)
        if engine is None:
            import capstone

            engine = self._capstone[bits] = capstone.Cs(capstone.CS_ARCH_X86, {
                16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits])
            engine.syntax = capstone.CS_OPT_SYNTAX_ATT
            engine.skipdata = True          # what is no instruction: .byte
        return engine


class Code(NamedTuple):
    """An instruction's beginning: *opcode* is 0x0fxx with two bytes, REX counts as a prefix."""

    bits: int
    prefixes: frozenset[int]
    opcode: int
    modrm: int

    @property
    def narrow(self) -> bool:
        """Whether operands have 16 bits."""
        return (self.bits == 16) != (_OPERAND_SIZE in self.prefixes)


def look(data: bytes, bits: int) -> Code | None:
    """At the first instruction of *data*; None where there are prefixes only."""
    at = 0
    while at < len(data) and (data[at] in _PREFIXES or bits == 64 and data[at] >> 4 == 4):
        at += 1
    if at == len(data):
        return None
    prefixes, opcode = frozenset(data[:at]), data[at]
    if opcode == 0x0F and at + 1 < len(data):
        at += 1
        opcode = 0x0F00 | data[at]
    return Code(bits, prefixes, opcode, data[at + 1] if at + 1 < len(data) else 0)


def _swapped(text: str) -> str:
    """The two operands the other way round; a comma within parentheses parts none."""
    first, *rest = re.split(r", (?![^(]*\))", text)
    return ", ".join((*rest, first))


def _signed(text: str) -> str:
    """An immediate above 2^63 - 1, which version 5 prints in decimal."""
    digits, comma, rest = text.partition(",")
    value = int(digits[1:]) - (1 << 64)
    return f"${value if value > -10 else f'-{-value:#x}'}{comma}{rest}"


def _hexadecimal(text: str) -> str:
    digits, comma, rest = text.partition(",")
    return f"${int(digits[1:]):#x}{comma}{rest}"


_RENAMED = {"fucompi": "fucomip", "fcompi": "fcomip", "movzww": "movzwl", "movsww": "movswl",
            "ud1": "ud2b", "sysexitl": "sysexit"}
_BIG = re.compile(r"\$\d{19,}")
_SHORT_JUMPS = frozenset((*range(0x70, 0x80), *range(0xE0, 0xE4), 0xEB))
_NEAR_JUMPS = frozenset((*range(0x0F80, 0x0F90), 0xE8, 0xE9))

#: (for which, the operands then)
_RULES: tuple[tuple[Callable[[Code, str], bool], Callable[[str], str]], ...] = (
    (lambda code, _: code.bits == 16 and code.opcode in _SHORT_JUMPS
        or code.bits != 64 and code.narrow and code.opcode in _NEAR_JUMPS,
     lambda text: f"{int(text, 16) & 0xFFFF:#x}"),
    (lambda code, _: 0x91 <= code.opcode <= 0x97, _swapped),
    (lambda code, _: code.opcode == 0x62 and code.bits != 64, _swapped),
    (lambda code, _: code.opcode in (0xD0, 0xD1) and code.modrm & _MOD != _MOD,
     lambda text: f"$1, {text}"),
    (lambda code, _: code.opcode == 0x9A, lambda text: text.replace(", ", ":")),
    (lambda code, text: code.opcode in (0xD4, 0xD5) and text == "$0xa", lambda _: ""),
    (lambda code, text: 0xB8 <= code.opcode <= 0xBF and bool(_BIG.match(text)), _hexadecimal),
    (lambda code, text: bool(_BIG.match(text)), _signed),
)


def _as_version_4(data: bytes, bits: int, mnemonic: str, operands: str) -> tuple[str, str]:
    code = look(data, bits)
    if code is None:                    # a lone prefix: .byte
        return mnemonic, operands
    if mnemonic in _RENAMED:
        mnemonic = _RENAMED[mnemonic]
    elif (mnemonic == "movq" and code.opcode in (0x0F6E, 0x0F7E) and "%r" in operands
          and 0xF3 not in data[:data.index(0x0F)]):
        mnemonic = "movd"
    elif mnemonic == "pause" and bits == 16:
        mnemonic = "nop"
    mnemonic = mnemonic.removeprefix("bnd ")
    for wanted, change in _RULES:
        if wanted(code, operands):
            return mnemonic, change(operands)
    return mnemonic, operands
