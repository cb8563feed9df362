"""How long a MOV to memory is: what there is to skip when it is done but has not ended.

References: Intel SDM volume 2, chapter 2 (instruction format), and MOV.
"""

from __future__ import annotations

__all__ = ["store_length"]

_OPERAND_SIZE, _ADDRESS_SIZE = 0x66, 0x67
#: these two and the segments'
_PREFIXES = frozenset(bytes((byte,)) for byte in (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67))


def store_length(code: bytes, bits: int, size: int) -> int:
    """The length of the instruction *code* begins with, in bytes.

    0 unless it is MOV to memory of all *size* bytes, in a code segment of *bits*
    (16, 32 or 64).  Such an instruction has no effect behind its store.
    """
    operand = 2 if bits == 16 else 4
    address = bits
    at = rex = 0
    while code[at:at + 1] in _PREFIXES:
        if code[at] == _OPERAND_SIZE:
            operand = 4 if bits == 16 else 2
        elif code[at] == _ADDRESS_SIZE:
            address = 32 if bits == 16 else bits // 2
        at += 1
    if bits == 64 and at < len(code) and code[at] & 0xF0 == 0x40:
        rex = code[at]
        at += 1
    if rex & 8:
        operand = 8
    if at + 1 >= len(code):
        return 0
    opcode = code[at]
    if opcode not in (0x88, 0x89, 0xA2, 0xA3, 0xC6, 0xC7):
        return 0
    if not opcode & 1:
        operand = 1
    if operand != size:
        return 0
    at += 1
    if opcode in (0xA2, 0xA3):
        return at + address // 8
    modrm = code[at]
    at += 1 + _addressing(code[at:at + 2], address)
    if modrm >> 6 == 3:
        return 0
    return at + (min(operand, 4) if opcode in (0xC6, 0xC7) else 0)


def _addressing(code: bytes, address: int) -> int:
    """How many bytes of SIB and displacement follow a ModR/M byte, which *code* begins with."""
    mode, register = code[0] >> 6, code[0] & 7
    if address == 16:
        return (0, 1, 2, 0)[mode] if mode or register != 6 else 2
    sib = register == 4
    base = code[1] & 7 if sib and len(code) > 1 else register
    return sib + ((0, 1, 4, 0)[mode] if mode or base != 5 else 4)
