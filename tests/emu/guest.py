"""A processor with a little RAM and no board, for tests of `emu`."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from emu.cpu import X86Cpu
from emu.models import resolve
from tests.asm import asm

RAM = 4 << 20
CODE = 0x1000
RESULT = 0x6000         # where guests leave what they found


class Pins:
    """`emu.cpu.Bus` with a log of port writes."""

    def __init__(self) -> None:
        self.cpu: X86Cpu | None = None
        self.writes: list[tuple[int, int, int]] = []
        self.on_write: Callable[[int, int, int], None] | None = None
        self.reads: dict[int, int] = {}
        self.vectors: list[int] = []
        self.tsc = 0
        self.tsc_source: tuple[int, int] | None = None
        self.cr8 = 0
        self.smm: list[bool] = []
        self.apic_msrs = {0x1B: 0xFEE00900}
        self.crashes: list[tuple[int, int, int, int, int]] = []

    def port_read(self, port: int, size: int) -> int:
        return self.reads.get(port, (1 << 8 * size) - 1)

    def port_write(self, port: int, value: int, size: int) -> None:
        self.writes.append((port, value, size))
        if self.on_write is not None:
            self.on_write(port, value, size)

    def acknowledge_interrupt(self) -> int:
        assert self.cpu is not None
        vector = self.vectors.pop(0)
        if not self.vectors:
            self.cpu.set_interrupt(False)
        return vector

    def time_stamp(self) -> int:
        return self.tsc

    def time_stamp_source(self) -> tuple[int, int] | None:
        return self.tsc_source

    def read_cr8(self) -> int:
        return self.cr8

    def write_cr8(self, value: int) -> None:
        self.cr8 = value

    def smm_changed(self, active: bool) -> None:
        self.smm.append(active)

    def read_apic_msr(self, number: int) -> int | None:
        return self.apic_msrs.get(number)

    def write_apic_msr(self, number: int, value: int) -> bool:
        if number not in self.apic_msrs:
            return False
        self.apic_msrs[number] = value
        return True

    def set_time_stamp(self, value: int) -> None:
        self.tsc = value

    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None:
        self.crashes.append(args)

    def reference_ns(self) -> int:
        return self.tsc


def make(ram: int = RAM, cpu_model: str = "Haswell") -> tuple[X86Cpu, Pins]:
    """RAM below 640 KiB and from 1 MiB, a page of ROM at 0xf0000, holes elsewhere."""
    pins = Pins()
    cpu = pins.cpu = X86Cpu(pins, ram, resolve(cpu_model))
    cpu.memory.map_ram(0, 0xA0000, 0)
    cpu.memory.map_ram(0x100000, ram - 0x100000, 0x100000)
    rom = mmap.mmap(-1, 0x1000)
    rom[0:4] = b"ROM!"
    cpu.memory.map_rom(0xF0000, 0x1000, rom)
    cpu.memory.fill_holes()
    return cpu, pins


def start(cpu: X86Cpu, body: str, at: int = CODE) -> None:
    """Reset, and set out in real mode at 0:*at* with flat zero segments and a stack."""
    code = asm(body, org=at)
    cpu.memory.write(at, code)
    cpu.reset()
    for segment in ("cs", "ds", "es", "ss"):
        cpu.load_real_mode_segment(segment, 0)
    cpu.write("rip", at)
    cpu.write("rsp", 0x7000)


def result(cpu: X86Cpu, index: int = 0) -> int:
    """The 32-bit word number *index* that the guest left."""
    return int.from_bytes(cpu.memory.read(RESULT + 4 * index, 4), "little")


#: Real mode to 32-bit protected mode with an IDT at 0x2000 (filled by `gate`), a TSS at
#: 0x2800 and, when `paging` was set up, nothing more.  The body goes on at 32-bit ring 0.
PROTECTED = """
%macro gate 3               ; vector, handler, attributes (0x8e: ring 0, 0xee: ring 3)
        mov     word [0x2000 + 8 * %1], %2
        mov     word [0x2002 + 8 * %1], 0x08
        mov     dword [0x2004 + 8 * %1], (%3) << 8
%endmacro
        lgdt    [cs:gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 0x08:protected
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr:   dw      0x7ff
        dd      0x2000
        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff      ; 08 code, ring 0
        dq      0x00cf93000000ffff      ; 10 data, ring 0
        dq      0x00af9b000000ffff      ; 18 code 64, ring 0
        dq      0x00cffb000000ffff      ; 20 code, ring 3
        dq      0x00cff3000000ffff      ; 28 data, ring 3
        dq      0x00affb000000ffff      ; 30 code 64, ring 3
        dq      0x0000890028000fff      ; 38 TSS at 0x2800, limit 0xfff
        dq      0
gdt_end:
        bits    32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x7000
        lidt    [idtr]
        mov     dword [0x2804], 0x6f00  ; ESP0, SS0
        mov     dword [0x2808], 0x10
        mov     word [0x2866], 0x68     ; the I/O bitmap follows the TSS
        mov     ax, 0x38
        ltr     ax
"""

#: ring 0 to ring 3, to the label `user`, with the flags given in %1
TO_USER = """
        mov     ax, 0x2b
        mov     ds, ax
        mov     es, ax
        push    dword 0x2b
        push    dword 0x6800
        push    dword %d
        push    dword 0x23
        push    dword user
        iret
user:
"""

#: 32-bit paging: identity 4 MiB with 4 KiB pages, tables at 0x10000 and 0x11000, user access
PAGING = """
        mov     edi, 0x11000
        mov     eax, 7
        mov     ecx, 1024
.fill:  stosd
        add     eax, 0x1000
        loop    .fill
        mov     dword [0x10000], 0x11007
        mov     eax, 0x10000
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
"""

#: 32-bit protected mode to 64-bit mode: 4 MiB identity (2 MiB pages, user); goes on at `long_mode`
LONG = """
        mov     edi, 0x10000
        mov     ecx, 0xc00
        xor     eax, eax
        rep     stosd
        mov     dword [0x10000], 0x11007
        mov     dword [0x11000], 0x12007
        mov     dword [0x12000], 0x00000087
        mov     dword [0x12008], 0x00200087
        mov     eax, 0x10000
        mov     cr3, eax
        mov     eax, 0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        mov     eax, 0x901
        xor     edx, edx
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
        jmp     0x18:long_mode
        bits    64
long_mode:
"""
