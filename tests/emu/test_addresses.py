"""Bases that are not canonical are refused where they would be loaded (SDM volume 2, LGDT, LTR,
WRFSBASE; volume 3A, 5.3.1), and what was there before stays."""

from __future__ import annotations

import pytest

from tests.emu.guest import LONG, PAGING, PROTECTED, TO_USER, make, result, start

BUDGET = 100_000
WILD, CANONICAL, UPPER = 0xFFAA_AAAA_AAAA_AAAA, 0x5555_5555_5555, 0xFFFF_AAAA_AAAA_AAAA

#: an IDT for 64-bit code with #GP's and #TS' handler, which tells and goes on behind the
#: instruction (its length is in EBP)
GUARDED = PROTECTED + LONG + """
        lea     rbx, [protection]
        mov     [0x20d0], bx
        mov     dword [0x20d2], 0x00000018
        mov     word [0x20d5], 0x8e
        mov     dword [0x20d8], 0
        mov     [0x20d6], word 0
        mov     edi, 0x5000
        jmp     go
protection:
        inc     dword [0x6000]
        pop     rax
        mov     [0x6004], eax           ; error code
        add     [rsp], rbp
        iretq
go:
"""
LOADS = {
    "LGDT": ("mov word [rdi], 0x4f\nmov [rdi + 2], rsi\nlgdt [rdi]", 3,
             "sgdt [0x6100]", 0x6102),
    "LIDT": ("mov word [rdi], 0x7ff\nmov [rdi + 2], rsi\nlidt [rdi]", 3,
             "sidt [0x6100]", 0x6102),
    "WRFSBASE": ("wrfsbase rsi", 5, "rdfsbase rax\nmov [0x6100], rax", 0x6100),
    "WRGSBASE": ("wrgsbase rsi", 5, "rdgsbase rax\nmov [0x6100], rax", 0x6100),
}


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("value", [WILD, CANONICAL, UPPER])
def test_a_base_must_be_canonical(name: str, value: int) -> None:
    load, length, store, at = LOADS[name]
    cpu, _ = make()
    start(cpu, GUARDED + f"""
        mov     rax, cr4
        or      eax, 1 << 16            ; FSGSBASE
        mov     cr4, rax
        {store}
        mov     rcx, [{at}]
        mov     [0x6200], rcx
        mov     ebp, {length}
        mov     rsi, {value:#x}
        {load}
        {store}
        hlt
""")
    cpu.run(BUDGET)
    before = int.from_bytes(cpu.memory.read(0x6200, 8), "little")
    after = int.from_bytes(cpu.memory.read(at, 8), "little")
    if value == WILD:
        assert (result(cpu), result(cpu, 1), after) == (1, 0, before)
    else:
        assert (result(cpu), after) == (0, value)


@pytest.mark.parametrize("load", ["ltr", "lldt"])
@pytest.mark.parametrize("value", [WILD, UPPER])
def test_a_system_descriptor_has_a_canonical_base(load: str, value: int) -> None:
    """The error code is the selector; a refused TSS does not become busy."""
    kind = {"ltr": 0x89, "lldt": 0x82}[load]
    cpu, _ = make()
    start(cpu, GUARDED + f"""
        sgdt    [0x6100]
        mov     rbx, [0x6102]
        mov     word [0x6100], 0x7f     ; room for one at 0x60
        lgdt    [0x6100]
        mov     rax, {value:#x}
        mov     word [rbx + 0x60], 0xfff
        mov     [rbx + 0x62], ax
        shr     rax, 16
        mov     [rbx + 0x64], al
        mov     word [rbx + 0x65], {kind:#x}
        mov     [rbx + 0x67], ah
        shr     rax, 16
        mov     [rbx + 0x68], rax
        mov     eax, 0x60
        mov     ebp, 3
        {load}  ax
        mov     al, [rbx + 0x65]
        mov     [0x6008], al
        hlt
""")
    cpu.run(BUDGET)
    loaded = cpu.segment({"ltr": "tr", "lldt": "ldt"}[load])
    if value == WILD:
        assert (result(cpu), result(cpu, 1), result(cpu, 2)) == (1, 0x60, kind)
        assert loaded.selector != 0x60
    else:
        assert (result(cpu), loaded.base) == (0, value)


#: ring 3 code with its stack at the end of a supervisor's page: (bits, code, error code, CR2)
SUPERVISOR_STACK = {
    "IRET": ("mov esp, 0x9ff8\niret", 5, 0x9FF8),
    "RETF": ("mov esp, 0x9ffa\nretf", 5, 0x9FFA),
    "RETF into the page": ("mov esp, 0x8ffc\nretf", 5, 0x9000),
    "CALL FAR": ("mov esp, 0x9008\ncall 0x23:0x1000", 7, 0x9004),
    "CALL FAR into the page": ("mov esp, 0xa004\ncall 0x23:0x1000", 7, 0x9FFC),
    "CALL FAR across": ("mov esp, 0xa002\ncall 0x23:0x1000", 7, 0x9FFE),
    "IRET across": ("mov esp, 0x8ffa\niret", 5, 0x9000),
    "PUSH": ("mov esp, 0x9800\npush eax", 7, 0x97FC),
}


@pytest.mark.parametrize("name", SUPERVISOR_STACK)
def test_ring_3_has_its_own_rights_on_its_stack(name: str) -> None:
    code, error, address = SUPERVISOR_STACK[name]
    cpu, _ = make()
    start(cpu, PROTECTED + PAGING + """
        gate    14, fault, 0x8e
        mov     dword [0x11000 + 4 * 9], 0x9003
        mov     eax, cr3
        mov     cr3, eax
""" + TO_USER % 2 + code + """
fault:  mov     eax, cr2
        mov     [0x6000], eax
        pop     dword [0x6004]
        hlt
""")
    cpu.run(BUDGET)
    assert (result(cpu), result(cpu, 1)) == (address, error)


def test_ring_3_may_call_and_return_on_its_own_stack() -> None:
    """Through code segments, and through a call gate although its stack is read-only."""
    cpu, _ = make()
    gate = PROTECTED.replace("dq      0\ngdt_end", "dq 0x0000ec0000080000\ngdt_end")
    start(cpu, gate + PAGING + """
        gate    13, done, 0x8e
        mov     ebx, gdt + 0x40
        mov     word [ebx], gated
        mov     dword [0x11000 + 4 * 9], 0x9005
        mov     eax, cr3
        mov     cr3, eax
""" + TO_USER % 2 + """
        call    0x23:called
        mov     esp, 0x9800
        call    0x40:0
        mov     esp, 0x6800
        pushfd
        push    dword 0x23
        push    dword back
        iret
back:   inc     dword [0x6000]
        cli
called: inc     dword [0x6000]
        retf
gated:  inc     dword [0x6000]
        retf
done:   hlt
""")
    cpu.run(BUDGET)
    assert result(cpu) == 3
