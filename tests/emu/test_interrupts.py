"""NMI, SMI, INIT and the windows in which they are taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.cpu import Stop, X86Cpu
from tests.emu.guest import LONG, PROTECTED, Pins, make, result, start

BUDGET = 100_000
#: real mode: NMI to `nmi`
NMI_VECTOR = "mov word [8], nmi\nmov word [10], 0\n"


def at_port(pins: Pins, port: int, action: Callable[[], None]) -> None:
    def on_write(written: int, _value: int, _size: int) -> None:
        if written == port:
            action()

    pins.on_write = on_write


def test_an_nmi_comes_with_interrupts_off_and_wakes_hlt() -> None:
    cpu, pins = make()
    start(cpu, NMI_VECTOR + "cli\nhlt\nmov word [0x6004], 2\nhlt\nnmi: mov word [0x6000], 1\niret")
    assert cpu.run(BUDGET) is Stop.HALT
    assert not cpu.wakeable
    cpu.raise_nmi()
    assert cpu.wakeable
    assert cpu.run(BUDGET) is Stop.HALT
    assert (result(cpu), result(cpu, 1)) == (1, 2)


def test_an_nmi_waits_for_the_iret_of_another() -> None:
    """One is remembered, not two (SDM volume 3A, 6.7.1)."""
    cpu, pins = make()
    start(cpu, NMI_VECTOR + """
        out     0x80, al
again:  hlt
        jmp     again
nmi:    inc     word [0x6000]
        cmp     word [0x6000], 1
        jne     done
        out     0x80, al            ; two more, while this one is served
        out     0x80, al
        jmp     next
next:   mov     ax, [0x6000]
        mov     [0x6004], ax
done:   iret
""")
    at_port(pins, 0x80, cpu.raise_nmi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert not cpu.wakeable
    assert (result(cpu) & 0xFFFF, result(cpu, 1) & 0xFFFF) == (2, 1)


def test_mov_ss_holds_off_an_nmi_for_one_instruction() -> None:
    cpu, pins = make()
    start(cpu, NMI_VECTOR + """
        xor     ax, ax
        mov     bx, 0x5000
        out     0x80, al
        mov     ss, ax
        mov     sp, bx
        hlt
nmi:    mov     [0x6000], sp
        hlt
""")
    at_port(pins, 0x80, cpu.raise_nmi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 0xFFFF in (0x7000 - 6, 0x5000 - 6)


def test_an_interrupt_asked_for_in_a_slice_is_taken_in_it() -> None:
    """Without a way back to the caller: the slice has the whole budget."""
    cpu, pins = make()
    start(cpu, "mov word [0x80], irq\nmov word [0x82], 0\nsti\nout 0x80, al\n"
               "again: cmp byte [0x6000], 1\njne again\nhlt\nirq: mov byte [0x6000], 1\niret")
    pins.vectors = [0x20]
    at_port(pins, 0x80, lambda: cpu.set_interrupt(True))
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 0xFF == 1
    assert cpu.blocks < 20


def test_wrmsr_that_asks_for_an_interrupt_gets_it_behind_itself() -> None:
    """x2APIC: the self IPI's handler runs before the next instruction."""
    cpu, pins = make()
    start(cpu, "mov word [0x80], irq\nmov word [0x82], 0\nsti\nmov ecx, 0x83f\nnop\nwrmsr\n"
               "mov bl, [0x6000]\nmov [0x6004], bl\nhlt\nirq: mov byte [0x6000], 7\niret")
    pins.apic_msrs[0x83F] = 0
    pins.vectors = [0x20]

    def self_ipi(number: int, value: int) -> bool:
        cpu.set_interrupt(True)
        return True

    pins.write_apic_msr = self_ipi      # type: ignore[method-assign]
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 1) & 0xFF == 7


def interrupting_page(cpu: X86Cpu, pins: Pins) -> None:
    """Registers at 0xa0000: a store raises the interrupt line, with vector 0x20."""
    def write(_offset: int, _size: int, _value: int) -> None:
        pins.vectors = [0x20]
        cpu.set_interrupt(True)

    assert cpu.memory.overlay(0xA0000, 0x1000, lambda _offset, _size: 0, write)


STORES = (("mov [0xa0080], eax", True), ("mov [ebx], cl", True), ("mov [ebx + 0x300], cx", True),
          ("mov dword [ebx + edx * 4 + 0x300], 0x12345678", True),
          ("mov word [fs:0xa0080], 0x1234", True), ("mov byte [ebx], 1", True),
          ("mov [ebx + 1], eax", False), ("xchg [ebx], eax", False), ("or [ebx], eax", False),
          ("stosd", False))


@pytest.mark.parametrize(("store", "behind"), STORES)
@pytest.mark.parametrize("mode", ["32", "64"])
def test_a_store_that_raises_an_interrupt_gets_it_behind_itself(store: str, behind: bool,
                                                               mode: str) -> None:
    """A plain MOV; what is more, or is done in parts, at the end of its block at the latest.

    Registers and flags (the carry, computed lazily) are as they were.
    """
    cpu, pins = make()
    interrupting_page(cpu, pins)
    long = mode == "64"
    if long:
        store = store.replace("[e", "[r").replace("edx * 4", "rdx * 4")
    start(cpu, PROTECTED + (LONG + """
        mov     rax, irq
        mov     [0x2200], ax
        mov     dword [0x2202], 0x18
        mov     dword [0x2204], 0x8e00
        mov     dword [0x2208], 0
""" if long else "gate 0x20, irq, 0x8e\n") + f"""
        mov     ebx, 0xa0000
        mov     edi, ebx
        xor     edx, edx
        mov     esi, 0x10
        mov     eax, 1
        sti
        nop
        cmp     edx, eax                ; carry
        {store}
        adc     esi, 0
        adc     esi, 0x10
        jmp     next
next:   cli
        mov     [0x6000], esi
        hlt
irq:    mov     [0x6004], esi
        inc     dword [0x6008]
        iret{"q" if long else ""}
""")
    assert cpu.run(BUDGET) is Stop.HALT
    left = 0x20 if "or " in store else 0x21         # OR clears the carry
    assert (result(cpu), result(cpu, 1), result(cpu, 2)) == (left, 0x10 if behind else left, 1)


def test_a_store_in_other_code_at_the_same_place_is_measured_anew() -> None:
    """Of the same host code: the address is the same, with a displacement of 0 in 32 bits."""
    cpu, pins = make()
    interrupting_page(cpu, pins)
    for store in ("db 0x89, 0x83, 0, 0, 0, 0", "mov [ebx], eax"):
        start(cpu, PROTECTED + "gate 0x20, irq, 0x8e\n" + f"""
        mov     ebx, 0xa0000
        xor     esi, esi
        sti
        nop
        {store}
        inc     esi
        jmp     next
next:   cli
        mov     [0x6000], esi
        hlt
irq:    mov     [0x6004], esi
        iret
""")
        cpu.forget_code()
        assert cpu.run(BUDGET) is Stop.HALT
        assert (result(cpu), result(cpu, 1)) == (1, 0)


# --- system management mode

SMI_HANDLER = 0x38000       # SMBASE + 0x8000


def smm_guest(cpu: X86Cpu, body: str, handler: str) -> None:
    from tests.asm import asm

    start(cpu, body)
    cpu.memory.write(SMI_HANDLER, asm(handler, org=0x8000))


def test_an_smi_runs_the_handler_at_smbase_and_rsm_comes_back() -> None:
    cpu, pins = make()
    smm_guest(cpu, "mov eax, 0x12345678\nmov ebx, 0x9abcdef0\nstc\nout 0xb2, al\njmp next\n"
                   "next: pushf\npop word [0x6008]\nmov [0x6000], eax\nmov [0x6004], ebx\nhlt",
              "mov eax, 0\nmov ebx, 0\nmov byte [cs:0x8100], 0x77\nclc\nrsm")
    at_port(pins, 0xB2, cpu.raise_smi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 0x12345678
    assert result(cpu, 1) == 0x9ABCDEF0
    assert result(cpu, 2) & 1
    assert cpu.memory.read(0x38100, 1) == b"\x77"
    assert pins.smm == [True, False]


def test_an_smi_from_protected_mode_finds_real_mode_and_flat_segments() -> None:
    cpu, pins = make()
    smm_guest(cpu, PROTECTED + "out 0xb2, al\njmp next\nnext: mov eax, cr0\nmov [0x6000], eax\n"
                               "mov [0x6004], cs\nhlt",
              "mov eax, cr0\nmov ebx, 0x6008\nmov [ds:ebx], eax\nmov ax, cs\nmov [ds:ebx+4], ax\n"
              "rsm")
    at_port(pins, 0xB2, cpu.raise_smi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 1
    assert result(cpu, 1) & 0xFFFF == 8
    assert result(cpu, 2) & 0x80000001 == 0
    assert result(cpu, 3) & 0xFFFF == 0x3000


def test_rsm_comes_back_to_long_mode() -> None:
    cpu, pins = make()
    smm_guest(cpu, PROTECTED + LONG +
              "mov rax, 0x1122334455667788\nmov r15, rax\nout 0xb2, al\njmp next\n"
              "next: mov [0x6000], r15\nmov rcx, cr4\nmov [0x6008], rcx\nhlt",
              "xor eax, eax\nmov ecx, 0xc0000080\nrdmsr\nmov ebx, 0x6010\nmov [ds:ebx], eax\nrsm")
    at_port(pins, 0xB2, cpu.raise_smi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.memory.read(0x6000, 8) == bytes.fromhex("8877665544332211")
    assert result(cpu, 2) & 0x20            # CR4.PAE
    assert cpu.read("efer") & 0x500 == 0x500
    assert result(cpu, 4) & 0x400 == 0      # in SMM: not in long mode
    assert cpu.segment("cs").flags & 1 << 21


def test_smis_and_nmis_wait_for_rsm() -> None:
    cpu, pins = make()
    smm_guest(cpu, NMI_VECTOR + "out 0xb2, al\njmp next\nnext: hlt\nnmi: inc byte [0x6000]\niret",
              "mov ebx, 0x6004\ninc byte [ds:ebx]\ncmp byte [ds:ebx], 1\njne done\n"
              "out 0xb3, al\njmp done\ndone: mov al, [ds:0x6000]\nmov [ds:0x6008], al\nrsm")

    def on_write(port: int, _value: int, _size: int) -> None:
        cpu.raise_smi()
        if port == 0xB3:
            cpu.raise_nmi()

    pins.on_write = on_write
    while cpu.run(BUDGET) is Stop.HALT and cpu.wakeable:
        pass
    assert result(cpu, 1) & 0xFF == 2       # the second SMI after the first
    assert result(cpu) & 0xFF == 1          # and the NMI after both
    assert result(cpu, 2) & 0xFF == 0


def test_smbase_can_be_moved() -> None:
    cpu, pins = make()
    smm_guest(cpu, "out 0xb2, al\njmp next\nnext: out 0xb2, al\njmp last\nlast: hlt",
              "mov dword [cs:0xff00], 0x50000\nrsm")
    from tests.asm import asm

    cpu.memory.write(0x58000, asm("mov byte [cs:0x8100], 0x55\nrsm", org=0x8000))
    at_port(pins, 0xB2, cpu.raise_smi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.memory.read(0x58100, 1) == b"\x55"


def test_rsm_outside_smm_is_an_invalid_opcode() -> None:
    cpu, _ = make()
    start(cpu, "mov word [0x18], ud\nmov word [0x1a], 0\nrsm\nhlt\nud: mov byte [0x6000], 6\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 0xFF == 6


def test_reset_leaves_smm() -> None:
    cpu, pins = make()
    smm_guest(cpu, "out 0xb2, al\njmp next\nnext: hlt", "hlt")
    at_port(pins, 0xB2, cpu.raise_smi)
    assert cpu.run(BUDGET) is Stop.HALT
    assert pins.smm == [True]
    cpu.reset()
    assert pins.smm == [True, False]
    assert cpu.read("smbase") & 0xFFFFFFFF == 0x30000


# --- INIT

def test_init_restarts_and_leaves_what_the_sdm_says() -> None:
    """SDM volume 3A, table 9-1."""
    cpu, pins = make()
    start(cpu, "fninit\nfldpi\nmov eax, 0x55aa\nmovd xmm3, eax\nhlt".replace(
        "mov eax", "mov ecx, cr4\nor ecx, 0x200\nmov cr4, ecx\nmov eax"))
    assert cpu.run(BUDGET) is Stop.HALT
    cpu.msrs.write(0x277, 0x0606060606060606)
    cpu.init()
    assert (cpu.segment("cs").selector, cpu.read("rip")) == (0xF000, 0xFFF0)
    assert cpu.read("cr4") == 0
    assert cpu.xmm(3) == 0x55AA
    assert cpu.read("pat") == 0x0606060606060606
    cpu.reset()
    assert cpu.xmm(3) == 0
    assert cpu.read("pat") == 0x0007040600070406


@pytest.mark.parametrize(("number", "value", "fine"), [
    (0, 0x60000010, True), (0, 0x80000010, False), (0, 0x20000010, False),
    (4, 0x20, True), (4, 1 << 31, False), (4, 1 << 15, False)])
def test_reserved_bits_of_control_registers_fault(number: int, value: int, fine: bool) -> None:
    cpu, _ = make()
    start(cpu, "mov word [0x34], gp\nmov word [0x36], 0\n"
               f"mov eax, {value:#x}\nmov cr{number}, eax\nmov byte [0x6000], 1\nhlt\n"
               "gp: mov byte [0x6000], 13\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 0xFF == (1 if fine else 13)


def test_cr8_is_the_task_priority() -> None:
    cpu, pins = make()
    start(cpu, PROTECTED + LONG + "mov rax, 9\nmov cr8, rax\nxor eax, eax\nmov rax, cr8\n"
                                  "mov [0x6000], rax\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert (pins.cr8, result(cpu)) == (9, 9)
