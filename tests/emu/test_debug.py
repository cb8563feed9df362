"""Breakpoints and watchpoints, the debugger's and the guest's."""

from __future__ import annotations

import pytest

from emu.breakpoints import Access, Watchpoint
from emu.cpu import Stop
from tests.emu.guest import PROTECTED, make, result, start

BUDGET = 100_000


def test_a_breakpoint_stops_before_its_instruction_and_goes_on() -> None:
    cpu, _ = make()
    start(cpu, "inc ax\ninc ax\ninc ax\njmp 0x1000")
    cpu.breakpoints.add(0x1001)
    for turn in range(3):
        assert cpu.run(BUDGET) is Stop.BREAKPOINT
        assert cpu.read("rip") == 0x1001
        assert cpu.read("rax") & 0xFFFF == 3 * turn + 1
    cpu.breakpoints.remove(0x1001)
    assert cpu.run(100) is Stop.BUDGET


def test_a_breakpoint_counts_linear_addresses() -> None:
    cpu, _ = make()
    start(cpu, "jmp 0x100:next - 0x1000\nnext: nop\nnop\nhlt")
    cpu.breakpoints.add(0x1006)
    assert cpu.run(BUDGET) is Stop.BREAKPOINT
    assert (cpu.segment("cs").base, cpu.read("rip")) == (0x1000, 6)


def test_a_step_is_one_instruction() -> None:
    cpu, _ = make()
    start(cpu, "inc ax\ninc bx\njmp 0x1000")
    for rip in (0x1001, 0x1002, 0x1000, 0x1001):
        assert cpu.step() is Stop.BUDGET
        assert cpu.read("rip") == rip
    assert cpu.blocks == 4


@pytest.mark.parametrize(("access", "hits"), [
    (Access.WRITE, [0x1006, 0x100E]), (Access.READ, [0x100A, 0x100E]),
    (Access.ANY, [0x1006, 0x100A, 0x100E])])
def test_a_watchpoint_stops_behind_each_access(access: Access, hits: list[int]) -> None:
    cpu, _ = make()
    start(cpu, "mov byte [0x5000], 1\nnop\nmov al, [0x5001]\nnop\ninc byte [0x5001]\nhlt"
               .replace("[0x5000]", "[0x5001]"))
    # mov byte [m], i: 5 bytes; nop; mov al, [m]: 3; nop; inc byte [m]: 4
    cpu.breakpoints.watch(Watchpoint(0x5001, 1, access))
    cpu.memory.write(0x5001, b"\x09")
    found = []
    while (why := cpu.run(BUDGET)) is Stop.WATCHPOINT:
        found.append(cpu.read("rip"))
        hit = cpu.breakpoints.watchpoint_hit
        assert hit is not None
        assert hit[1] == 0x5001
        cpu.breakpoints.watchpoint_hit = None
    assert why is Stop.HALT
    ends = {0x1006: 0x1005, 0x100A: 0x1009, 0x100E: 0x100E}
    assert found == [ends[hit] for hit in hits]
    assert cpu.memory.read(0x5001, 1) == b"\x02"


def test_bytes_beside_a_watchpoint_do_not_stop() -> None:
    cpu, _ = make()
    start(cpu, "mov word [0x4ffe], 1\nmov word [0x5002], 1\nmov word [0x5001], 1\nhlt")
    cpu.breakpoints.watch(Watchpoint(0x5000, 2, Access.WRITE))
    assert cpu.run(BUDGET) is Stop.WATCHPOINT
    assert cpu.memory.read(0x5001, 2) == b"\1\0"


def test_watching_costs_nothing_once_it_is_over() -> None:
    cpu, _ = make()
    start(cpu, "again: inc byte [0x5000]\njmp again")
    watched = Watchpoint(0x5000, 1, Access.ANY)
    cpu.breakpoints.watch(watched)
    assert cpu.run(BUDGET) is Stop.WATCHPOINT
    cpu.breakpoints.watchpoint_hit = None
    cpu.breakpoints.unwatch(watched)
    assert cpu.run(BUDGET) is Stop.BUDGET
    assert not cpu._engine.context.watching


DEBUG_GUEST = PROTECTED + """
        gate    1, trap, 0x8e
BODY
        hlt
trap:   mov     eax, dr6
        mov     [0x6000], eax
        pop     dword [0x6004]          ; EIP
        inc     dword [0x6008]
        or      dword [esp + 4], 0x10000    ; RF
        mov     eax, 0
        mov     dr7, eax
        mov     dr6, eax
        push    dword [0x6004]
        iret
"""


def test_the_guests_data_breakpoint_is_a_trap() -> None:
    cpu, _ = make()
    start(cpu, DEBUG_GUEST.replace("BODY", """
        mov     eax, 0x5004
        mov     dr1, eax
        mov     eax, 0x00d00404         ; DR1: writes, 4 bytes; global
        or      eax, 8
        mov     dr7, eax
        mov     eax, [0x5004]
        mov     [0x5000], eax
        mov     [0x5006], al
after:  mov     dword [0x600c], after
"""))
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) & 0xF == 2
    assert result(cpu, 1) == result(cpu, 3)
    assert result(cpu, 2) == 1


def test_the_guests_instruction_breakpoint_is_a_fault() -> None:
    cpu, _ = make()
    start(cpu, DEBUG_GUEST.replace("BODY", """
        mov     eax, here
        mov     dr0, eax
        mov     eax, 0x402
        mov     dr7, eax
        nop
here:   mov     dword [0x600c], here
"""))
    assert cpu.run(BUDGET) is Stop.HALT
    assert result(cpu, 0) & 0xF == 1
    assert result(cpu, 1) == result(cpu, 3)
    assert result(cpu, 2) == 1


def test_reset_forgets_the_guests_breakpoints_and_not_the_debuggers() -> None:
    cpu, _ = make()
    start(cpu, "mov eax, 0x5000\nmov dr0, eax\nmov eax, 0x10402\nmov dr7, eax\nhlt")
    assert cpu.run(BUDGET) is Stop.HALT
    assert cpu._engine.context.watching
    cpu.breakpoints.add(0x1003)
    start(cpu, "mov [0x5000], al\nhlt")
    assert not cpu._engine.context.watching
    assert cpu.run(BUDGET) is Stop.BREAKPOINT
