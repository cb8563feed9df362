"""Code that changes while it runs, or whose address changes: what is fetched is what is there.

Intel SDM volume 3A, 13.6 (self-modifying code) and 4.10.4 (invalidation of TLBs).  Each guest
runs with blocks, with one instruction per block, and with a trace on: each has other code in
the engine that could run stale.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emu.cpu import Stop, X86Cpu
from tests.asm import asm
from tests.emu.guest import LONG, PROTECTED, Pins, make, result, start

BUDGET = 100_000


class Sink:
    """A trace that nobody reads."""

    def translated(self, pc: int, size: int, instructions: int, flags: int, cs_base: int,
                   host: int) -> None: ...
    def executed(self, records: memoryview) -> None: ...
    def interrupt(self, vector: int, error_code: int, is_int: int, next_rip: int,
                  hardware: int) -> None: ...
    def smm(self, entered: bool) -> None: ...


def plain(cpu: X86Cpu) -> None:
    """Blocks, counted inline."""


def one_insn(cpu: X86Cpu) -> None:
    cpu.one_insn_per_tb = True


def traced(cpu: X86Cpu) -> None:
    cpu.set_trace(Sink(), executed=True, translated=True)


MODES = pytest.mark.parametrize("mode", [plain, one_insn, traced])
Mode = Callable[[X86Cpu], None]


def run(mode: Mode, body: str, prepare: Callable[[X86Cpu, Pins], None] | None = None) -> X86Cpu:
    """Run a guest to its HLT."""
    cpu, pins = make()
    mode(cpu)
    start(cpu, body)
    if prepare is not None:
        prepare(cpu, pins)
    while (why := cpu.run(BUDGET)) is Stop.KICK:
        pass
    assert why is Stop.HALT
    return cpu


@MODES
def test_the_next_instruction_may_be_rewritten(mode: Mode) -> None:
    """By a MOV, by a REP STOSB that is in the same block, and by a PUSH."""
    cpu = run(mode, PROTECTED + """
        mov     ecx, 3
again:  mov     byte [patch1 + 1], cl
patch1: mov     al, 0x55
        add     [0x6000], al
        push    ecx
        mov     eax, ecx
        mov     edi, patch2 + 2
        mov     ecx, 2
        rep     stosb
patch2: mov     ax, 0x5555
        add     [0x6004], ax
        pop     ecx
        mov     esp, patch3 + 5
        push    ecx
patch3: mov     eax, 0x55555555
        add     [0x6008], eax
        mov     esp, 0x7000
        dec     ecx
        jnz     again
        hlt
""")
    assert [result(cpu, i) for i in range(3)] == [6, 0x0606, 6]


@MODES
@pytest.mark.parametrize("at", [0x3FFE, 0x3FFC, 0x3FFF])
def test_an_instruction_over_two_pages_may_be_rewritten(mode: Mode, at: int) -> None:
    """The byte that changes is in either page; the code that changes it in the first, a third."""
    def prepare(cpu: X86Cpu, _pins: Pins) -> None:
        cpu.memory.write(at, b"\xb8\x11\x22\x33\x44\xc3")

    cpu = run(mode, PROTECTED + f"""
        xor     esi, esi
again:  mov     ebx, {at}
        call    ebx
        add     [0x6000], eax
        inc     dword [{at} + 4]
        inc     byte [{at} + 1]
        inc     esi
        cmp     esi, 16
        jb      again
        hlt
""", prepare)
    assert result(cpu) == sum(0x44332211 + i * 0x01000001 for i in range(16)) & 0xFFFF_FFFF


ALIASES = {
    # 0x400000 and 0x401000 -> 0x3000 (4 KiB, executable and not); 0x800000 -> 0 (2 MiB)
    "4 KiB": (0x400000, "mov dword [0x13000], 0x3007"),
    "4 KiB, no execution": (0x401000, "mov dword [0x13008], 0x3007\nmov dword [0x1300c], 1 << 31"),
    "2 MiB": (0x803000, "mov dword [0x12020], 0x87"),
    "2 MiB, no execution": (0x803000, "mov dword [0x12020], 0x87\nmov dword [0x12024], 1 << 31"),
}


@MODES
@pytest.mark.parametrize("alias", ALIASES)
def test_code_may_be_rewritten_under_another_name(mode: Mode, alias: str) -> None:
    """The store's page has been stored to before the code was there and after."""
    address, entry = ALIASES[alias]
    cpu = run(mode, PROTECTED + LONG + f"""
        mov     edi, 0x13000
        mov     ecx, 0x400
        xor     eax, eax
        rep     stosd
        mov     dword [0x12010], 0x00013007     ; 0x400000
        {entry}
        mov     byte [{address}], 0xb8          ; mov eax, imm32; ret
        mov     byte [{address} + 5], 0xc3
        xor     esi, esi
again:  mov     [{address} + 1], esi
        mov     ebx, 0x3000
        call    rbx
        cmp     eax, esi
        je      same
        inc     dword [0x6000]
same:   mov     [{address} + 0x80], esi         ; beside the code
        inc     esi
        cmp     esi, 200
        jb      again
        hlt
""")
    assert (cpu.read("rsi"), result(cpu)) == (200, 0)


FLUSHES = {
    "INVLPG": "invlpg [0x400000]",
    "CR3": "mov rax, cr3\nmov cr3, rax",
    "CR4.PGE": "mov rax, cr4\nxor eax, 0x80\nmov cr4, rax\nxor eax, 0x80\nmov cr4, rax",
}
#: page size -> (page table entry, its first value, what changes it, an address in the page)
PAGES = {"4 KiB": (0x13000, 0x200007, 0x3000, 0x400800),
         "2 MiB": (0x12010, 0x87, 0x200000, 0x409800)}


@MODES
@pytest.mark.parametrize("flush", FLUSHES)
@pytest.mark.parametrize("size", PAGES)
def test_a_page_of_code_may_be_remapped(mode: Mode, flush: str, size: str) -> None:
    """Two pages of code take turns at one address; they are called from elsewhere.

    INVLPG of any address in a large page is for all of it.
    """
    entry, value, change, target = PAGES[size]

    def prepare(cpu: X86Cpu, _pins: Pins) -> None:
        at = (value & ~0xFFF) + (target & 0x1FFFFF if size == "2 MiB" else target & 0xFFF)
        cpu.memory.write(at, bytes((0xB8, 1, 0, 0, 0, 0xC3)))
        cpu.memory.write(at ^ change, bytes((0xB8, 2, 0, 0, 0, 0xC3)))

    cpu = run(mode, PROTECTED + LONG + f"""
        mov     edi, 0x13000
        mov     ecx, 0x400
        xor     eax, eax
        rep     stosd
        mov     dword [0x12010], 0x13007
        mov     dword [{entry:#x}], {value:#x}
        {FLUSHES[flush]}
        xor     esi, esi
again:  mov     ebx, {target:#x}
        call    rbx
        mov     [0x6000 + rsi * 4], eax
        xor     dword [{entry:#x}], {change:#x}
        {FLUSHES[flush]}
        inc     esi
        cmp     esi, 8
        jb      again
        hlt
""", prepare)
    assert [result(cpu, i) for i in range(8)] == [1, 2] * 4


@MODES
@pytest.mark.parametrize("flush", FLUSHES)
def test_the_page_that_runs_may_be_remapped(mode: Mode, flush: str) -> None:
    """After the flush the other page's bytes go on at the next instruction."""
    program = f"""
        bits    64
again:  xor     dword [0x13000], 0x3000
        {FLUSHES[flush]}
        mov     ebx, MARK
        add     [0x6000], ebx
        inc     esi
        cmp     esi, 6
        jb      again
        hlt
"""

    def prepare(cpu: X86Cpu, _pins: Pins) -> None:
        for page, mark in ((0x200000, 1), (0x203000, 0x100)):
            cpu.memory.write(page, asm(program.replace("MARK", str(mark)), org=0x400000))

    cpu = run(mode, PROTECTED + LONG + """
        mov     edi, 0x13000
        mov     ecx, 0x400
        xor     eax, eax
        rep     stosd
        mov     dword [0x12010], 0x13007
        mov     dword [0x13000], 0x200007
        mov     rax, cr3
        mov     cr3, rax
        xor     esi, esi
        mov     ebx, 0x400000
        jmp     rbx
""", prepare)
    assert result(cpu) == 0x303


@MODES
def test_a20_flips_under_the_code_that_runs(mode: Mode) -> None:
    """At 1 MiB and above with bit 20 off, at 0 with it on: the same offsets, other bytes."""
    program = """
        bits    16
again:  mov     al, [0x6100]
        xor     al, 1
        mov     [0x6100], al
        out     0x92, al
        mov     dl, MARK
        add     [0x6000], dl
        inc     cx
        cmp     cx, 6
        jb      again
        hlt
"""

    def prepare(cpu: X86Cpu, pins: Pins) -> None:
        cpu.memory.write(0x500, asm(program.replace("MARK", "1"), org=0x510))
        cpu.memory.write(0x100500, asm(program.replace("MARK", "0x10"), org=0x510))
        cpu.memory.write(0x6100, b"\1")
        pins.on_write = lambda port, value, size: cpu.set_a20(bool(value & 1))

    cpu = run(mode, "xor cx, cx\njmp 0xffff:0x510", prepare)
    assert result(cpu) & 0xFF == 0x33


@MODES
@pytest.mark.parametrize("above", [False, True])
def test_a_host_write_into_the_block_that_runs_is_seen(mode: Mode, above: bool) -> None:
    """A device writes to memory behind the OUT that asked it to."""
    at = 0x200000 if above else 0x9000

    def prepare(cpu: X86Cpu, pins: Pins) -> None:
        # mov al, imm8 is at +4
        cpu.memory.write(at, bytes.fromhex("b000 e680 b000 0005 00600000 41 83f908 72ee f4"))

        def on_write(_port: int, _value: int, _size: int) -> None:
            cpu.memory.write(at + 5, bytes([cpu.read("rcx") + 1 & 0xFF]))

        pins.on_write = on_write

    cpu = run(mode, PROTECTED + f"xor ecx, ecx\nmov ebx, {at}\njmp ebx", prepare)
    assert result(cpu) == sum(range(1, 9))
