"""What Unicorn does wrong for a full PC, and that it is cured: a test for each point.

Each of these fails when the cure named in it is taken out of `emu/engine.py`,
`emu/cpu.py` or `emu/memory.py`, except where its docstring says that it passes all the same.
The TLB flush with each new block is such a one: no guest here needs it, Linux's JIT tests do.
"""

from __future__ import annotations

import gc
import mmap
import threading
import time

import pytest

from emu import engine, layout
from emu.cpu import Stop, X86Cpu
from emu.engine import EngineError, UnknownEngine
from tests.emu.guest import (
    LONG,
    PAGING,
    PROTECTED,
    RAM,
    TO_USER,
    Pins,
    make,
    result,
    start,
)

BUDGET = 1_000_000


def test_exceptions_are_delivered_again_and_again() -> None:
    """Cure: x86_cpu_do_interrupt from the INTR hook, which also resets old_exception."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    14, fault, 0x8e
""" + PAGING + """
        mov     dword [0x11000 + 4 * 0x300], 0  ; 0x300000 is not present
        mov     esi, 0x300000
        mov     ecx, 5
again:  mov     eax, [esi]              ; #PF, five times: never #DF
next:   add     esi, 4
        loop    again
        hlt
fault:  inc     dword [0x6000]
        pop     dword [0x6004]          ; the error code
        mov     eax, cr2
        mov     [0x6008], eax
        mov     dword [esp], next
        iret
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert (result(cpu, 0), result(cpu, 1), result(cpu, 2)) == (5, 0, 0x300010)


def test_undefined_instructions_reach_the_guest() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    6, undefined, 0x8e
        ud2
        hlt
undefined:
        pop     dword [0x6000]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    at = result(cpu)
    assert cpu.memory.read(at, 2) == b"\x0f\x0b"


def test_software_interrupts_through_a_privileged_gate_fault_in_the_guest() -> None:
    """Cure: the native thunk; the delivery of INT 0x81 longjmps into #GP."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        gate    0x81, hidden, 0x8e
""" + TO_USER % 2 + """
again:  int     0x81
hidden: hlt
protection:
        inc     dword [0x6000]
        pop     dword [0x6004]
        pop     dword [0x6008]
        cmp     dword [0x6000], 1000
        jae     done
        push    dword again
        iret
done:   hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) == 1000
    assert result(cpu, 1) == 0x81 * 8 + 2
    assert cpu.memory.read(result(cpu, 2), 2) == b"\xcd\x81"


def test_a_fault_while_delivering_becomes_a_double_fault_on_its_own_task_or_stack() -> None:
    """A page fault whose handler's gate is not present: #NP in #PF is #DF."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    14, nothing, 0x0e       ; not present
        gate    8, double, 0x8e
""" + PAGING + """
        mov     dword [0x11000 + 4 * 0x300], 0
        mov     eax, [0x300000]
nothing: hlt
double: pop     dword [0x6000]
        mov     dword [0x6004], 8
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert (result(cpu, 0), result(cpu, 1)) == (0, 8)


def test_an_unusable_stack_is_a_triple_fault_and_not_our_crash() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    3, handler, 0x8e
        gate    8, handler, 0x8e
        gate    14, handler, 0x8e
""" + PAGING + """
        mov     dword [0x11000 + 4 * 0x3ff], 0
        mov     esp, 0x400000           ; the page below is not present
        int3
handler: hlt
""")
    assert cpu.run(BUDGET) is Stop.TRIPLE_FAULT


def test_hlt_and_triple_fault_are_told_apart() -> None:
    cpu, _ = make()
    start(cpu, "hlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.halted
    start(cpu, "lidt [cs:none]\nint3\nnone: dw 0\ndd 0")
    assert cpu.run(BUDGET) is Stop.TRIPLE_FAULT
    assert not cpu.halted


def test_hardware_interrupts_wait_for_the_flag_and_the_shadow() -> None:
    """Cure: our cpu_exec_interrupt; Unicorn's knows no vector."""
    cpu, pins = make()
    start(cpu, """
        mov     word [0x21 * 4], handler
        mov     word [0x21 * 4 + 2], 0
        out     0x80, al            ; raises the line: IF is clear
        nop
        sti
        inc     dword [0x6000]      ; in the shadow of STI
        inc     dword [0x6004]      ; not reached before the interrupt
        hlt
handler:
        mov     eax, [0x6000]
        mov     [0x6008], eax
        mov     eax, [0x6004]
        mov     [0x600c], eax
        iret
""")
    pins.vectors = [0x21]
    pins.on_write = lambda port, value, size: cpu.set_interrupt(True)
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    assert [result(cpu, i) for i in range(4)] == [1, 1, 1, 0]


def test_an_interrupt_ends_a_halt() -> None:
    cpu, pins = make()
    start(cpu, """
        mov     word [0x21 * 4], handler
        mov     word [0x21 * 4 + 2], 0
        sti
        hlt
        inc     dword [0x6000]
        cli
        hlt
handler: iret
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert not cpu.wakeable
    pins.vectors = [0x21]
    cpu.set_interrupt(True)
    assert cpu.wakeable
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 1


@pytest.mark.parametrize("one_insn", [False, True])
def test_two_thousand_kicks_never_double_a_read_modify_write(one_insn: bool) -> None:
    """Cure: kicks by the block counter only.

    no_exit_request changes nothing here: with no emu_stop from outside there is no exit in the
    middle of an instruction to forbid.  It spares the checks after each memory access.
    """
    cpu, _ = make()
    cpu.one_insn_per_tb = one_insn
    start(cpu, """
        xor     eax, eax
again:  inc     dword [0x6000]
        inc     eax
        cmp     byte [0x6010], 0
        je      again
        hlt
""")
    done = False

    def kicker() -> None:
        while not done:
            cpu.kick()
            time.sleep(0.0001)

    thread = threading.Thread(target=kicker)
    thread.start()
    try:
        kicks = 0
        while kicks < 2000:
            assert cpu.run(10**12) is Stop.KICK
            kicks += 1
        cpu.memory.write(0x6010, b"\x01")
    finally:
        done = True
        thread.join()
    while cpu.run(10**12) is not Stop.HALT:
        pass
    assert result(cpu) == cpu.read("rax") & 0xFFFFFFFF
    assert result(cpu) > 2000


def test_the_end_of_a_slice_leaves_cr2_alone() -> None:
    """Cure: exits enabled with an empty list; otherwise Unicorn may page-walk `until`.

    With `until` 0 (as `Engine.run` has it) 2.1.4 leaves CR2 alone without the cure as well.
    """
    cpu, _ = make()
    start(cpu, PROTECTED + PAGING + """
        mov     dword [0x11000], 0      ; page 0 is not present
        mov     eax, cr3
        mov     cr3, eax
        mov     eax, 0x12345678
        mov     cr2, eax
again:  inc     dword [0x6000]
        jmp     again
""")
    for _ in range(50):
        assert cpu.run(100) is Stop.BUDGET
    assert cpu.read("cr2") == 0x12345678


def test_slices_count_blocks_exactly() -> None:
    cpu, _ = make()
    start(cpu, "again: inc dword [0x6000]\njmp again")
    before = cpu.blocks
    assert cpu.run(1000) is Stop.BUDGET
    assert (result(cpu), cpu.blocks - before) == (1000, 1000)
    assert cpu.run(1) is Stop.BUDGET
    assert (result(cpu), cpu.blocks - before) == (1001, 1001)


def test_every_instruction_is_its_own_unit_in_one_insn_mode() -> None:
    cpu, _ = make()
    cpu.one_insn_per_tb = True
    start(cpu, "nop\nnop\nmov eax, 5\nnop\nhlt")
    seen = []
    while cpu.run(1) is Stop.BUDGET:
        seen.append(cpu.read("rip"))
    assert seen == [0x1001, 0x1002, 0x1008, 0x1009]


def test_interrupts_are_looked_at_between_any_two_instructions_in_one_insn_mode() -> None:
    cpu, pins = make()
    cpu.one_insn_per_tb = True
    start(cpu, """
        mov     word [0x21 * 4], handler
        mov     word [0x21 * 4 + 2], 0
        sti
        nop
        out     0x80, al
here:   nop
        nop
        hlt
handler: pop    word [0x6000]
        mov     word [0x6002], here
        hlt
""")
    pins.vectors = [0x21]
    pins.on_write = lambda port, value, size: cpu.set_interrupt(True)
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    assert result(cpu) & 0xFFFF == result(cpu) >> 16


def test_one_insn_mode_can_be_switched_at_any_slice() -> None:
    cpu, _ = make()
    start(cpu, "xor eax, eax\nagain: inc dword [0x6000]\ninc eax\njmp again")
    for turn in range(40):
        cpu.one_insn_per_tb = turn % 2 == 1
        assert cpu.run(997) is Stop.BUDGET
    assert 0 <= result(cpu) - cpu.read("rax") <= 1


def test_dma_over_executed_code_is_seen() -> None:
    """Cure: tb_invalidate_phys_range after each host write."""
    cpu, _ = make()
    start(cpu, "again: mov eax, 1\nout 0x80, al\njmp again")
    cpu.run(5)
    assert cpu.read("rax") == 1
    cpu.memory.write(0x1002, b"\x02")
    cpu.run(5)
    assert cpu.read("rax") == 2


def test_dma_over_code_above_the_hole_is_seen() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + "jmp 0x08:0x200000")
    cpu.memory.write(0x200000, b"\xb8\x01\x00\x00\x00\xeb\xf9")     # mov eax, 1; jmp $-5
    cpu.run(50)
    assert cpu.read("rax") == 1
    cpu.memory.write(0x200001, b"\x02")
    cpu.run(50)
    assert cpu.read("rax") == 2


def test_a_store_through_another_mapping_is_seen() -> None:
    """Cure: every new block flushes the TLB; dirty tracking is per virtual address.

    The other mapping forbids execution, as Linux's direct map does: Unicorn takes the slow
    path for each store to an executable page.  This guest alone does not miss the cure: Linux's
    BPF JIT tests did (1999 of 2000 failed).
    """
    cpu, _ = make()
    start(cpu, PROTECTED + LONG + """
        mov     edi, 0x13000
        mov     ecx, 0x400
        xor     eax, eax
        rep     stosd
        mov     dword [0x12010], 0x00013007     ; 0x480000 -> 0x3000 as well, NX
        mov     dword [0x13400], 0x00003007
        mov     dword [0x13404], 0x80000000
        mov     byte [0x480000], 0xb8           ; mov eax, imm32; ret
        mov     byte [0x480005], 0xc3
        xor     esi, esi
again:  mov     [0x480001], esi                 ; store by one name,
        mov     ebx, 0x3000
        call    rbx                             ; run by the other
        cmp     eax, esi
        je      same
        inc     dword [0x6000]
same:   inc     esi
        cmp     esi, 2000
        jb      again
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 0
    assert cpu.read("rsi") == 2000


def test_self_modifying_code_runs_as_modified() -> None:
    cpu, _ = make()
    start(cpu, """
        xor     cx, cx
again:  mov     [patch + 1], cl
patch:  mov     al, 0
        add     [0x6000], al
        adc     byte [0x6001], 0
        inc     cx
        cmp     cx, 200
        jb      again
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) & 0xFFFF == sum(range(200))


def test_a_larger_ram_block_after_a_smaller_one_does_not_run_its_code() -> None:
    """Cure: a dummy page is mapped and unmapped right after the engine is made."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        mov     ebx, 0x1100
        call    ebx
        mov     [0x6000], eax
        mov     ebx, 0x101100
        call    ebx
        mov     [0x6004], eax
        mov     ebx, 0x1100
        call    ebx
        mov     [0x6008], eax
        hlt
""", at=0x3000)
    cpu.memory.write(0x1100, b"\xb8\x01\x00\x00\x00\xc3")
    cpu.memory.write(0x101100, b"\xb8\x02\x00\x00\x00\xc3")
    assert cpu.run(BUDGET) is Stop.HALT
    assert [result(cpu, i) for i in range(3)] == [1, 2, 1]


def test_rom_swallows_writes_and_holes_read_all_ones() -> None:
    """Cure: ROM is mapped writable, then protected; holes are MMIO."""
    cpu, _ = make()
    start(cpu, """
        mov     ax, 0xf000
        mov     ds, ax
        mov     dword [0], 0x11111111
        mov     eax, [0]
        mov     bx, 0xa000
        mov     ds, bx
        mov     dword [0], 0x22222222
        mov     ebx, [0]
        mov     cl, [1]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.read("rax").to_bytes(8, "little")[:4] == b"ROM!"
    assert cpu.read("rbx") & 0xFFFFFFFF == 0xFFFFFFFF
    assert cpu.read("rcx") & 0xFF == 0xFF


def test_memory_can_be_remapped_under_the_running_code() -> None:
    """PAM: the OUT makes another page of code appear where this one runs."""
    cpu, pins = make()
    image = mmap.mmap(-1, 0x1000)
    start(cpu, """
        mov     al, 1
        out     0x80, al
        jmp     $ + 2
        mov     bx, 1
        hlt
""", at=0x20000 - 0x1000 * 0x10 - 0x8000)
    other = mmap.mmap(-1, 0x1000)
    code = cpu.memory.read(0x8000, 0x20)
    image[:0x20] = code
    other[:0x20] = code.replace(b"\xbb\x01\x00", b"\xbb\x02\x00")
    cpu.memory.unmap(0xF0000, 0x1000)
    cpu.memory.map_rom(0xF0000, 0x1000, image)

    def remap(port: int, value: int, size: int) -> None:
        cpu.memory.unmap(0xF0000, 0x1000)
        cpu.memory.map_rom(0xF0000, 0x1000, other)
        cpu.forget_code()

    pins.on_write = remap
    cpu.load_real_mode_segment("cs", 0xF000)
    cpu.write("rip", 0)
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    assert cpu.read("rbx") & 0xFFFF == 2


@pytest.mark.parametrize(("iopl", "bitmap", "allowed"), [
    (0, 0xFF, False), (0, 0x00, True), (3, 0xFF, True), (0, 0x01, False), (0, 0xFE, True)])
def test_port_access_from_ring_3_asks_iopl_and_the_bitmap(iopl: int, bitmap: int,
                                                          allowed: bool) -> None:
    """Cure: the check in the IN/OUT hook; the fault is raised after Python has returned."""
    cpu, pins = make()
    start(cpu, PROTECTED + f"""
        gate    13, protection, 0x8e
        mov     byte [0x2800 + 0x68 + 0x10], {bitmap}
        mov     byte [0x2800 + 0x69 + 0x10], 0xff
        gate    0x80, finished, 0xee
""" + TO_USER % (2 | iopl << 12) + """
        mov     eax, 0xa5
        xor     ebx, ebx
        cmp     ebx, 0              ; ZF: must survive into the pushed flags
        out     0x80, al
        mov     ebx, 1
        int     0x80
protection:
        pop     dword [0x6000]
        pop     dword [0x6004]
        pop     eax
        pop     dword [0x6008]
finished: hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert pins.writes == ([(0x80, 0xA5, 1)] if allowed else [])
    assert cpu.read("rbx") & 0xFFFFFFFF == int(allowed)
    if not allowed:
        assert cpu.memory.read(result(cpu, 1), 2) == b"\xe6\x80"
        assert result(cpu, 2) & 0x40


def test_in_from_ring_3_leaves_eax_alone_when_refused() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        mov     byte [0x2800 + 0x68 + 0x10], 0xff
""" + TO_USER % 2 + """
        mov     eax, 0x12345678
        in      al, 0x80
        hlt
protection: hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.read("rax") & 0xFFFFFFFF == 0x12345678


@pytest.mark.parametrize(("access", "granted"), [
    ("rep insb", False), ("rep outsb", False), ("insd", False), ("rep insb", True)])
def test_string_io_from_ring_3_changes_nothing_when_refused(access: str, granted: bool) -> None:
    """The bitmap is asked before memory is: INS's destination keeps its bytes, and OUTS of a
    page that is not there is #GP.
    """
    cpu, pins = make()
    pins.reads[0x80] = 0x77
    source = 0x5000 if granted or "ins" in access else 0x900000
    start(cpu, PROTECTED + PAGING + f"""
        gate    13, protection, 0x8e
        gate    14, fault, 0x8e
        mov     byte [0x2800 + 0x68 + 0x10], {0 if granted else 0xFF}
        mov     dword [0x5000], 0x12345678
""" + TO_USER % 2 + f"""
        mov     edx, 0x80
        mov     edi, 0x5000
        mov     esi, {source:#x}
        mov     ecx, 2
        {access}
        cli                             ; #GP as well
protection:
        mov     [0x6000], ecx
        mov     [0x6004], edi
        hlt
fault:  mov     dword [0x6008], 1
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 2) == 0
    assert cpu.memory.read(0x5000, 4) == (b"\x77\x77\x34\x12" if granted else b"\x78\x56\x34\x12")
    assert (result(cpu), result(cpu, 1)) == ((0, 0x5002) if granted else (2, 0x5000))
    assert not pins.writes


def test_syscall_and_sysret_in_long_mode() -> None:
    """Cure: the SYSCALL hook does all the work."""
    cpu, _ = make()
    start(cpu, PROTECTED + LONG + """
        mov     ecx, 0xc0000081         ; STAR: kernel 0x18, user 0x20 (SS 0x28, CS 0x30)
        xor     eax, eax
        mov     edx, 0x00200018
        wrmsr
        mov     ecx, 0xc0000082         ; LSTAR
        mov     eax, kernel
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000084         ; FMASK: IF
        mov     eax, 0x200
        wrmsr
        mov     rcx, userland
        mov     r11, 0x202
        db      0x48, 0x0f, 0x07        ; sysretq
userland:
        stc
        syscall
back:   pushf
        pop     rbx
        mov     [0x6010], ebx
        mov     [0x6000], cs
        mov     eax, back
        mov     [0x6004], eax
        syscall
        jmp     $
kernel: inc     dword [0x6020]
        cmp     dword [0x6020], 2
        je      done
        mov     [0x6008], ecx
        mov     [0x600c], r11d
        mov     word [0x6014], cs
        mov     word [0x6016], ss
        pushf
        pop     qword [0x6018]
        db      0x48, 0x0f, 0x07        ; sysretq
done:   hlt
""")
    cpu.write("rsp", 0x7000)
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) & 0xFFFF == 0x33
    assert result(cpu, 1) == result(cpu, 2)             # RCX: the next instruction
    assert result(cpu, 3) & 0x203 == 0x203              # R11: the flags, with CF and IF
    assert result(cpu, 4) & 0x203 == 0x203              # and back in user mode
    assert result(cpu, 5) == 0x00200018                 # SS:CS in the kernel
    assert result(cpu, 6) & 0x201 == 0x001              # IF masked, CF kept


def test_syscall_without_its_enable_bit_is_undefined() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    6, undefined, 0x8e
        syscall
        hlt
undefined:
        pop     dword [0x6000]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.memory.read(result(cpu), 2) == b"\x0f\x05"


def test_sysenter_and_sysexit() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        xor     edx, edx
        mov     ecx, 0x174
        mov     eax, 0x08
        wrmsr
        mov     ecx, 0x175
        mov     eax, 0x6e00
        wrmsr
        mov     ecx, 0x176
        mov     eax, kernel
        wrmsr
""" + TO_USER % 0x202 + """
        mov     dword [0x6000], 1
        sysenter
back:   mov     dword [0x6008], 3
        mov     word [0x600c], cs
        hlt                             ; ring 3: #GP
kernel: mov     [0x6004], esp
        mov     word [0x6010], cs
        mov     word [0x6012], ss
        pushf
        pop     dword [0x6014]
        ud2
protection: hlt
""")
    assert cpu.run(BUDGET) in (Stop.HALT, Stop.TRIPLE_FAULT)
    assert result(cpu, 1) == 0x6E00
    assert result(cpu, 4) == 0x00100008
    assert result(cpu, 5) & 0x200 == 0


def test_the_time_stamp_counter_is_the_boards() -> None:
    cpu, pins = make()
    pins.tsc = 0x1122334455667788
    start(cpu, "rdtsc\nmov [0x6000], eax\nmov [0x6004], edx\nrdtscp\nmov [0x6008], eax\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert [result(cpu, i) for i in range(3)] == [0x55667788, 0x11223344, 0x55667788]


def test_the_time_stamp_counter_follows_the_counted_blocks_when_the_board_says_so() -> None:
    cpu, pins = make()
    pins.tsc, pins.tsc_source = 1, (0xFFFF_FFFF_FFFF_FF00, 0x1000)
    start(cpu, """
        rdtsc                           ; in the first block: it has been counted
        mov     [0x6000], eax
        mov     [0x6004], edx
        jmp     second
second: mov     ecx, 0xc0000103
        rdtscp
        mov     [0x6008], eax
        mov     [0x600c], edx
        mov     [0x6010], ecx
        out     0x80, al
        rdtsc
        mov     [0x6014], eax
        hlt
""")
    pins.on_write = lambda *_access: cpu.ask_time_stamp()
    assert cpu.run(BUDGET) is Stop.HALT
    first = 0xFFFF_FFFF_FFFF_FF00 + 0x1000 & 0xFFFF_FFFF_FFFF_FFFF
    assert result(cpu, 0) | result(cpu, 1) << 32 == first
    # a block ends behind RDTSC, so the jump's is the second and RDTSCP's the third
    assert result(cpu, 2) | result(cpu, 3) << 32 == first + 2 * 0x1000
    assert result(cpu, 4) == 0
    assert result(cpu, 5) == 1                      # it was told to ask again


def test_the_time_stamp_counter_follows_the_hosts_clock_when_the_board_says_so() -> None:
    cpu, pins = make()
    pins.tsc_source = (5 << 40, 0)
    start(cpu, "rdtsc\nmov [0x6000], eax\nmov [0x6004], edx\nhlt")
    before = time.monotonic_ns()
    assert cpu.run(BUDGET) is Stop.HALT
    assert before <= (result(cpu, 0) | result(cpu, 1) << 32) - (5 << 40) <= time.monotonic_ns()


def test_rdtscp_gives_the_processors_number_as_the_guest_set_it() -> None:
    cpu, _ = make()
    start(cpu, """
        mov     ecx, 0xc0000103
        mov     eax, 0x77
        xor     edx, edx
        wrmsr
        rdtscp
        mov     [0x6000], ecx
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 0x77


def test_rdtsc_obeys_cr4_tsd() -> None:
    """Unicorn 2.1.4 looks at TSD itself, before its hook: the hook's own look changes nothing."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        mov     eax, 4
        mov     cr4, eax
        rdtsc
""" + TO_USER % 2 + """
        rdtsc
        hlt                             ; #GP as well, but behind
protection:
        pop     dword [0x6000]
        pop     dword [0x6004]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.memory.read(result(cpu, 1), 2) == b"\x0f\x31"


def test_cpuid_does_not_promise_what_is_not_there() -> None:
    cpu, pins = make()
    _, _, ecx, edx = cpu.cpuid_leaf(1, 0)
    assert edx & 1 << 9                             # APIC, as its base MSR says
    assert not ecx & 1 << 30                        # RDRAND
    assert not cpu.cpuid_leaf(7, 0)[1] & 1 << 18    # RDSEED
    start(cpu, "mov eax, 1\ncpuid\nmov [0x6000], edx\nhlt")
    pins.apic_msrs[0x1B] = 0xFEE00100
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == edx & ~(1 << 9)


def test_xcr0_takes_the_states_that_cpuid_shows() -> None:
    """XSETBV of others, of none, or without x87: #GP; at reset there is x87 alone."""
    cpu, _ = make(cpu_model="max")
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        mov     eax, cr4
        or      eax, 1 << 18            ; OSXSAVE
        mov     cr4, eax
        xor     ecx, ecx
        xgetbv
        mov     [0x6000], eax
        mov     eax, 0xd
        cpuid
        mov     [0x6004], eax
        mov     edi, 0x6010
        xor     esi, esi
next:   xor     ecx, ecx
        xor     edx, edx
        mov     eax, [values + esi * 4]
        xsetbv
        xgetbv
        stosd
done:   inc     esi
        cmp     esi, 6
        jb      next
        hlt
protection:
        add     esp, 16
        mov     eax, 0xbad
        stosd
        jmp     done
values: dd      1, 3, 0x203, 0, 2, 7
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert (result(cpu), result(cpu, 1)) == (1, 0x203)
    assert [result(cpu, 4 + i) for i in range(6)] == [1, 3, 0x203, 0xBAD, 0xBAD, 0xBAD]


def test_reset_leaves_cr4_zero_and_the_reset_vector() -> None:
    cpu, _ = make()
    cpu.reset()
    assert cpu.read("cr4") == 0
    assert cpu.read("rip") == 0xFFF0
    assert cpu.segment("cs").base == 0xFFFF0000
    assert cpu.read("cr0") == 0x60000010


def test_the_a20_gate_masks_bit_20() -> None:
    cpu, _ = make()
    cpu.memory.write(0x500, b"low!")
    cpu.memory.write(0x100500, b"high")
    body = "mov ax, 0xffff\nmov ds, ax\nmov eax, [0x510]\nhlt"
    start(cpu, body)
    cpu.run(BUDGET)
    assert cpu.read("rax").to_bytes(8, "little")[:4] == b"high"
    cpu.set_a20(False)
    start(cpu, body)
    cpu.run(BUDGET)
    assert cpu.read("rax").to_bytes(8, "little")[:4] == b"low!"


def test_a_devices_exception_comes_out_of_run() -> None:
    """Cure: callbacks keep an exception; ctypes would swallow it."""
    cpu, pins = make()
    start(cpu, "out 0x80, al\nnop\nagain: jmp again")

    def broken(port: int, value: int, size: int) -> None:
        raise RuntimeError("broken device")

    pins.on_write = broken
    with pytest.raises(RuntimeError, match="broken device"):
        cpu.run(BUDGET)
    assert cpu.blocks < 100             # at once, not at the slice's end
    pins.on_write = None
    assert cpu.run(10) is Stop.BUDGET


def test_running_into_a_hole_is_an_engine_error_and_not_a_crash() -> None:
    cpu, _ = make()
    start(cpu, "jmp 0xa000:0")
    with pytest.raises(EngineError):
        cpu.run(BUDGET)


@pytest.mark.parametrize(("table", "field"), [
    ("ENV", "regs"), ("ENV", "eip"), ("ENV", "dr"), ("ENV", "old_exception"), ("ENV", "lstar"),
    ("CPU", "interrupt_request"), ("CPU", "halted"), ("CPU", "uc"), ("CPU", "exception_index"),
    ("CPU", "icount_extra"), ("CPU", "icount_budget"), ("CC", "cpu_exec_interrupt"),
    ("CC", "debug_excp_handler"), ("TLB", "mask"), ("UC", "stop_request")])
def test_an_offset_that_is_off_is_refused_in_one_line(
        monkeypatch: pytest.MonkeyPatch, table: str, field: str) -> None:
    step = 4 if field in (
        "interrupt_request", "halted", "old_exception", "exception_index") else 8
    if field == "stop_request":
        step = 1
    offsets = getattr(layout, table)
    monkeypatch.setitem(offsets, field, offsets[field] + step)
    with pytest.raises(UnknownEngine) as caught:
        make()
    text = str(caught.value)
    assert text.startswith("this build of unicorn is not one that is known to work: ")
    assert "\n" not in text




def test_a_full_code_buffer_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that keeps changing its code must not fill the host's memory."""
    monkeypatch.setattr(engine, "CODE_BUFFER_SIZE", 2 << 20)
    cpu, _ = make()
    for turn in range(40):
        start(cpu, "jmp 0x1000:0")
        cpu.memory.write(0x10000, b"\x01\xc8\x31\xc2\x41\xeb\x00" * 1000 + b"\xf4")
        assert cpu.run(BUDGET) is Stop.HALT, turn
        assert cpu.read("rcx") & 0xFFFF == 1000


def test_a_breakpoint_through_a_privileged_gate_names_its_one_byte() -> None:
    """Cure: RIP goes back one byte for INT3 before the delivery faults."""
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
        gate    3, hidden, 0x8e
""" + TO_USER % 2 + """
        int3
hidden: nop
        hlt
protection:
        pop     dword [0x6000]
        pop     dword [0x6004]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) == 3 * 8 + 2
    assert cpu.memory.read(result(cpu, 1), 2) == b"\xcc\x90"


def test_an_inner_ring_without_a_task_register_is_a_triple_fault_and_no_abort() -> None:
    """Cure: the delivery thunks make the null TR a TSS with limit 0; Unicorn calls abort()."""
    for load in ("xor ax, ax\nltr ax", ""):
        for trap in ("int 0x80", "ud2", "hlt", "jmp $"):
            cpu, pins = make()
            start(cpu, PROTECTED.replace("ltr     ax", "nop") + load + """
        gate    6, handler, 0x8e
        gate    13, handler, 0x8e
        gate    0x21, handler, 0x8e
        gate    0x80, handler, 0xee
""" + TO_USER % 0x202 + trap + "\nhandler: hlt")
            cpu.run(100)
            pins.vectors = [0x21]
            cpu.set_interrupt(True)
            assert cpu.run(BUDGET) is Stop.TRIPLE_FAULT


def test_the_task_register_reads_busy_after_reset() -> None:
    """Its type is kept as not busy, at which Unicorn does not abort; nobody sees that."""
    cpu, _ = make()
    cpu.reset()
    assert cpu.segment("tr") == (0, 0, 0xFFFF, 0x8B00)


def test_interrupts_wait_while_the_flag_is_clear() -> None:
    cpu, pins = make()
    start(cpu, """
        mov     word [0x21 * 4], handler
        mov     word [0x21 * 4 + 2], 0
        out     0x80, al            ; raises the line
        jmp     $ + 2
        inc     dword [0x6000]
        jmp     $ + 2
        sti
        nop
        hlt
handler:
        mov     eax, [0x6000]
        mov     [0x6004], eax
        iret
""")
    pins.vectors = [0x21]
    pins.on_write = lambda port, value, size: cpu.set_interrupt(True)
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    assert [result(cpu, i) for i in range(2)] == [1, 1]


def test_only_the_interrupt_line_asks_for_a_vector() -> None:
    cpu, pins = make()
    start(cpu, "sti\nnop\nout 0x80, al\nsti\nnop\nhlt")

    def other(port: int, value: int, size: int) -> None:
        cpu._engine.request[0] = 4     # CPU_INTERRUPT_EXITTB

    pins.on_write = other
    assert cpu.run(BUDGET) is Stop.HALT             # and Pins has no vector to give


def test_a_load_over_executed_code_is_seen() -> None:
    cpu, _ = make()
    start(cpu, "again: mov eax, 1\nout 0x80, al\njmp again")
    cpu.run(5)
    assert cpu.read("rax") == 1
    cpu.memory.load(0x1002, b"\x02")
    cpu.run(5)
    assert cpu.read("rax") == 2


def test_code_and_data_follow_each_remap() -> None:
    """A freed RAM block's number comes again, with other bytes behind it.

    Passes without forget_code and without the TLB flush of `Engine.unmap` as well: 2.1.4's own
    uc_mem_unmap does both.
    """
    cpu, pins = make()
    start(cpu, "again: mov bx, 1\nmov al, [cs:0x100]\nout 0x80, al\njmp again", at=0x8000)
    images = []
    for mark in (1, 2):
        image = mmap.mmap(-1, 0x1000)
        image[:0x20] = cpu.memory.read(0x8000, 0x20).replace(b"\xbb\x01", bytes((0xBB, mark)))
        image[0x100] = mark
        images.append(image)
    seen = []

    def remap(port: int, value: int, size: int) -> None:
        seen.append((cpu.read("rbx") & 0xFFFF, value))
        cpu.memory.unmap(0xF0000, 0x1000)
        cpu.memory.map_rom(0xF0000, 0x1000, images[len(seen) % 2])
        cpu.forget_code()

    cpu.memory.unmap(0xF0000, 0x1000)
    cpu.memory.map_rom(0xF0000, 0x1000, images[0])
    pins.on_write = remap
    cpu.load_real_mode_segment("cs", 0xF000)
    cpu.write("rip", 0)
    for _ in range(20):
        cpu.run(10)
    assert len(seen) >= 20
    assert seen == [(1, 1), (2, 2)] * (len(seen) // 2) + [(1, 1)] * (len(seen) % 2)


def test_reset_forgets_the_page_tables_and_the_halt() -> None:
    """cpu_reset does both itself in 2.1.4; so does emu_start clear `halted`."""
    cpu, _ = make()
    cpu.memory.write(0x9000, b"old!")
    cpu.memory.write(0xA000, b"new!")
    start(cpu, PROTECTED + PAGING + """
        mov     dword [0x11000 + 4 * 9], 0xa007     ; 0x9000 -> 0xa000
        mov     eax, cr3
        mov     cr3, eax
        mov     ebx, [0x9000]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.read("rbx").to_bytes(8, "little")[:4] == b"new!"
    cpu.reset()
    assert not cpu.halted
    start(cpu, "mov ebx, [0x9000]\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.read("rbx").to_bytes(8, "little")[:4] == b"old!"


PORT_GUEST = """
        gate    13, protection, 0x8e
        gate    14, page, 0x8e
        gate    0x80, finished, 0xee
"""
PORT_HANDLERS = """
        int     0x80
page:   mov     eax, cr2
        mov     [0x6004], eax
        pop     dword [0x6008]
protection:
        inc     dword [0x6000]
        in      al, 0x40                ; no fault is left over for this one
finished: hlt
"""


@pytest.mark.parametrize(("limit", "base", "allowed"), [
    (0x50, 0x10, False), (0x78, 0x68, False), (0x79, 0x68, True)])
def test_the_io_bitmap_ends_with_a_long_enough_tss(limit: int, base: int, allowed: bool) -> None:
    cpu, pins = make()
    start(cpu, PROTECTED.replace("0x0000890028000fff", f"0x000089002800{limit:04x}")
          + PORT_GUEST + f"mov word [0x2866], {base}\n" + TO_USER % 2
          + "out 0x80, al" + PORT_HANDLERS)
    assert cpu.run(BUDGET) is Stop.HALT
    assert len(pins.writes) == int(allowed)
    assert result(cpu) == int(not allowed)


@pytest.mark.parametrize(("access", "allowed"), [
    ("out 0x80, al", True), ("out 0x80, ax", True), ("out 0x80, eax", False)])
def test_the_io_bitmap_has_a_bit_for_each_byte(access: str, allowed: bool) -> None:
    cpu, pins = make()
    start(cpu, PROTECTED + PORT_GUEST + "mov byte [0x2800 + 0x68 + 0x10], 0x08\n"
          + TO_USER % 2 + access + PORT_HANDLERS)
    assert cpu.run(BUDGET) is Stop.HALT
    assert len(pins.writes) == int(allowed)


def test_an_io_bitmap_that_is_paged_out_is_a_page_fault() -> None:
    cpu, pins = make()
    start(cpu, PROTECTED + PORT_GUEST + PAGING + """
        mov     word [0x2866], 0x7f0    ; port 0x80's bit is at 0x3000
        mov     dword [0x1100c], 0
        mov     eax, cr3
        mov     cr3, eax
""" + TO_USER % 2 + "out 0x80, al" + PORT_HANDLERS)
    assert cpu.run(BUDGET) is Stop.HALT
    assert pins.writes == []
    assert (result(cpu, 1), result(cpu, 2)) == (0x3000, 0)


def test_virtual_8086_mode_asks_the_bitmap_whatever_iopl_says() -> None:
    cpu, pins = make()
    start(cpu, PROTECTED + PORT_GUEST + """
        mov     byte [0x2800 + 0x68 + 0x10], 0x01
        push    dword 0                 ; GS, FS, DS, ES
        push    dword 0
        push    dword 0
        push    dword 0
        push    dword 0                 ; SS:ESP
        push    dword 0x6800
        push    dword 0x23002           ; VM, IOPL 3
        push    dword 0
        push    dword virtual
        iret
        bits    16
virtual: out    0x81, al
        out     0x80, al
        bits    32
""" + PORT_HANDLERS)
    assert cpu.run(BUDGET) is Stop.HALT
    assert [port for port, _, _ in pins.writes] == [0x81]
    assert result(cpu) == 1


def test_looking_at_unmapped_memory_leaves_no_trace() -> None:
    """Cure: Unicorn's page walk raises a page fault in the CPU's fields; they are put back."""
    cpu, _ = make()
    start(cpu, PROTECTED + PAGING + """
        mov     dword [0x11000 + 4 * 0x300], 0
        mov     eax, 0x12345678
        mov     cr2, eax
again:  jmp     again
""")
    cpu.run(2000)
    before = bytes(cpu._engine.b)
    assert cpu.read_virtual(0x300000, 4) is None
    assert cpu.read("cr2") == 0x12345678
    for name in ("error_code", "exception_is_int", "exception_next_eip", "old_exception"):
        at = layout.ENV[name]
        assert cpu._engine.b[at:at + 4] == before[at:at + 4], name


def test_supervisor_pages_can_be_read_from_a_ring_3_port_access() -> None:
    """Cure: read_virtual clears CPL, by which Unicorn would look."""
    cpu, pins = make()
    start(cpu, PROTECTED + PAGING + """
        mov     dword [0x11000 + 4 * 0x300], 0x300003   ; supervisor only
        mov     dword [0x300000], 0x600d
""" + TO_USER % 0x3002 + "out 0x80, al\njmp $")
    seen = []
    pins.on_write = lambda port, value, size: seen.append(cpu.read_virtual(0x300000, 2))
    cpu.run(2000)
    assert seen == [b"\x0d\x60"]


#: MSRs for SYSCALL: kernel 0x18/0x20, user 0x20; targets `kernel`; FMASK: CF, DF and IF
SYSCALL_MSRS = """
        mov     ecx, 0xc0000081
        mov     eax, kernel
        mov     edx, 0x00200018
        wrmsr
        mov     ecx, 0xc0000082
        mov     eax, kernel
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000083
        mov     eax, compatible
        wrmsr
        mov     ecx, 0xc0000084
        mov     eax, 0x601
        wrmsr
"""


def test_syscall_masks_flags_that_were_not_yet_computed() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + LONG + SYSCALL_MSRS + """
        std
        mov     eax, 1
        cmp     eax, 2                  ; CF, SF
        syscall
compatible: hlt
kernel: pushf
        pop     qword [0x6000]
        mov     [0x6008], r11
        mov     edi, 0x6100
        mov     al, 1
        stosb
        mov     [0x6010], edi
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) & 0xCD5 == 0x094          # PF and SF stay, CF and DF are gone
    assert result(cpu, 2) & 0xCD5 == 0x495 | 0
    assert result(cpu, 4) == 0x6101


def test_syscall_from_compatibility_mode_goes_to_cstar() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + LONG + SYSCALL_MSRS + """
        push    qword 0x2b
        push    qword 0x6800
        push    qword 2
        push    qword 0x23
        push    qword user
        iretq
        bits    32
user:   syscall
        bits    64
kernel: hlt
compatible:
        mov     dword [0x6000], 1
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 1


def test_syscall_in_legacy_mode_goes_to_stars_low_half() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        mov     ecx, 0xc0000080
        mov     eax, 1
        xor     edx, edx
        wrmsr
        mov     ecx, 0xc0000081
        mov     eax, kernel
        mov     edx, 8
        wrmsr
""" + TO_USER % 0x202 + """
        syscall
back:   hlt
kernel: mov     [0x6000], ecx
        mov     dword [0x6004], back
        mov     [0x6008], cs
        mov     [0x600a], ss
        mov     esp, 0x7000
        pushf
        pop     dword [0x600c]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) == result(cpu, 1)
    assert result(cpu, 2) == 0x00100008
    assert result(cpu, 3) & 0x200 == 0


def test_sysenter_without_a_code_segment_is_a_protection_fault() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + """
        gate    13, protection, 0x8e
""" + TO_USER % 2 + """
        sysenter
protection:
        pop     dword [0x6000]
        pop     dword [0x6004]
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu.memory.read(result(cpu, 1), 2) == b"\x0f\x34"


def test_sysenter_in_long_mode_enters_64_bit_code() -> None:
    cpu, _ = make()
    start(cpu, PROTECTED + LONG + """
        xor     edx, edx
        mov     ecx, 0x174
        mov     eax, 0x18
        wrmsr
        mov     ecx, 0x176
        mov     eax, kernel
        wrmsr
        sysenter
kernel: xor     eax, eax
        inc     rax                     ; 32-bit code would be DEC EAX, INC EAX
        mov     [0x6000], eax
        hlt
""")
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu) == 1


def test_a_device_may_unmap_itself_while_it_answers() -> None:
    """Cure: an unmapped range's callbacks are kept.  (ctypes may hold them long enough itself.)"""
    pins = Pins()
    cpu = X86Cpu(pins, RAM)
    cpu.memory.map_ram(0, 0xA0000, 0)
    seen = []

    def write(offset: int, size: int, value: int) -> None:
        seen.append(value)
        cpu.memory.unmap(0xA0000, 0x1000)
        gc.collect()
        map_again()

    def map_again() -> None:
        cpu.memory.map_mmio(0xA0000, 0x1000, lambda offset, size: len(seen), write)

    map_again()
    start(cpu, """
        mov     ax, 0xa000
        mov     ds, ax
        mov     cx, 20
again:  mov     [0], cx
        loop    again
        mov     al, [0]
        hlt
""")
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    assert seen == list(range(20, 0, -1))
    assert cpu.read("rax") & 0xFF == 20


def test_accesses_to_devices_count_as_blocks() -> None:
    """One block can hold hundreds of slow accesses: a slice must not take minutes."""
    cpu, _ = make()
    cpu.io_weight = 50
    start(cpu, "mov ax, 0xa000\nmov ds, ax\n" + "mov [0], al\n" * 10
          + "mov al, [0]\n" * 10 + "mov ax, 0xf000\nmov ds, ax\n" + "mov [0], al\n" * 10 + "hlt")
    before = cpu.blocks
    assert cpu.run(BUDGET) is Stop.HALT
    assert 1500 <= cpu.blocks - before < 1510
