"""Run many small pieces of code, one after the other, in a guest that writes down what happened.

The guest is a 128 KiB ROM in long mode.  Each case is up to 14 bytes of code, run
in 64-bit mode or in 32- or 16-bit compatibility mode, in ring 0 or 3, from the
same registers, FPU state and scratch memory, and ended by UD2 (or by whatever
exception it raises).  A record of 512 bytes goes to the debug console:

======  =====================================================================
offset  content (64-bit words unless noted)
======  =====================================================================
000     RAX RCX RDX RBX RSP RBP RSI RDI R8 ... R15 (RSP is the frame's)
080     vector, error code, RIP, CS, RFLAGS, RSP, SS as pushed
0b8     CR2, DR6
0c8     32 bytes of FXSAVE: FCW, FSW, FTW, opcode ..., MXCSR
0e8     ST0 and ST1 (16 bytes each), XMM0 to XMM6 (16 bytes each)
178     128 bytes of scratch memory
1f8     which case it is (its place in the ROM)
======  =====================================================================

The same image runs on snooze (in this process) and on qemu-system-x86_64.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from machine import Machine
from machine.config import DeviceSpec
from tests.asm import asm

__all__ = ["MODES", "QEMU", "Case", "run_qemu", "run_snooze"]

QEMU = shutil.which("qemu-system-x86_64")
MODES = {"64": 0, "32": 1, "16": 2}
RECORD = 512
PER_IMAGE = 4095
MODEL = "qemu64,+pclmulqdq,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+aes,+abm,+bmi1,+bmi2,+adx"


class Case(NamedTuple):
    """*code*: at most 14 bytes.  *mode*: "64", "32" or "16" bits.  *user*: in ring 3.
    *trap*: with TF set, so that #DB comes behind the first instruction.
    """

    code: bytes
    mode: str = "64"
    user: bool = False
    trap: bool = False

    def __str__(self) -> str:
        return (f"{self.code.hex()} ({self.mode}-bit, ring {3 if self.user else 0}"
                f"{', trapped' if self.trap else ''})")


HARNESS = """
CODE    equ     0x4000          ; where a case runs; 0xcc around it; below 64 KiB for 16-bit code
SCRATCH equ     0x5000
STACK   equ     0x5800
WILD    equ     0xa780          ; where BP + DI of 16-bit code points, and BX + SI + 0x9090
WILD2   equ     0x3000
TABLES  equ     0x20000         ; the page tables; 64 KiB from here is ours, the rest 0xcc
IDT     equ     0x28000
TSS     equ     0x29000
FPU_IMAGE  equ     0x2a000
RING0   equ     0x2c000         ; stacks
IST1    equ     0x2d000
RECORD  equ     0x2e000
CASES   equ     0xe0000         ; 16 bytes each: mode | user << 2 | trap << 3 | 0x80, length, code
ERRORS  equ     0x227d00        ; the vectors that come with an error code
NEXT    equ     0x2f000         ; the next case's address
        cli
        mov     ax, cs
        mov     ds, ax
        o32 lgdt [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 0x18:0xf0000 + protected
        align   8
gdt:    dq      0
        dq      0x00af9b000000ffff      ; 08 code 64
        dq      0x00cf93000000ffff      ; 10 data
        dq      0x00cf9b000000ffff      ; 18 code 32
        dq      0x008f9b000000ffff      ; 20 code 16
        dq      0x00affb000000ffff      ; 28 code 64, ring 3
        dq      0x00cff3000000ffff      ; 30 data, ring 3
        dq      0x00cffb000000ffff      ; 38 code 32, ring 3
        dq      0x008ffb000000ffff      ; 40 code 16, ring 3
        dq      0x0000890290000067, 0   ; 48 TSS at 0x29000
        dq      0x00cf1b000000ffff      ; 58 code, not present
        dq      0x00cf9f000000ffff      ; 60 code, conforming
        dq      0x00cf91000000ffff      ; 68 data, read only
        dq      0x0000820000000fff      ; 70 LDT
        dq      0
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      0xf0000 + gdt
idtr:   dw      0xfff
        dq      IDT
        bits    32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     edi, TABLES
        mov     ecx, 0xc00
        xor     eax, eax
        rep     stosd
        mov     dword [TABLES], TABLES + 0x1007
        mov     dword [TABLES + 0x1000], TABLES + 0x2007
        mov     dword [TABLES + 0x2000], 0x00000087
        mov     eax, TABLES
        mov     cr3, eax
        mov     eax, 0x620              ; PAE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     ecx, 0xc0000080
        mov     eax, 0x900
        xor     edx, edx
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000022         ; PG, NE, MP
        mov     cr0, eax
        jmp     0x08:0xf0000 + long_mode
        bits    64
long_mode:
        mov     edi, IDT                ; 256 gates, all on IST 1
        mov     eax, 0xf0000 + stubs
        mov     ecx, 256
.gate:  mov     ebx, eax
        and     ebx, 0xffff
        or      ebx, 0x80000
        mov     [rdi], ebx
        mov     ebx, eax
        and     ebx, 0xffff0000
        or      ebx, 0x8e01
        cmp     ecx, 256 - 3            ; 3 and 4: from ring 3 too
        ja      .ring0
        cmp     ecx, 256 - 4
        jb      .ring0
        or      ebx, 0x6000
.ring0: mov     [rdi + 4], ebx
        mov     qword [rdi + 8], 0
        add     rdi, 16
        add     rax, 8
        dec     ecx
        jnz     .gate
        lidt    [0xf0000 + idtr]
        mov     edi, TSS
        xor     eax, eax
        mov     ecx, 26
        rep     stosd
        mov     dword [TSS + 0x24], IST1 ; IST 1
        mov     dword [TSS + 4], RING0 ; RSP 0
        mov     word [TSS + 0x66], 0x68 ; no I/O bitmap
        mov     ax, 0x48
        ltr     ax
        mov     qword [NEXT], CASES
        mov     al, 0xff                ; no interrupts, whatever a case does to IF
        out     0x21, al
        out     0xa1, al
        mov     eax, 0xcccccccc
        xor     edi, edi
        mov     ecx, TABLES / 4
        rep     stosd
        mov     edi, TABLES + 0x10000
        mov     ecx, (0xa0000 - TABLES - 0x10000) / 4
        rep     stosd
        fninit
        mov     edi, FPU_IMAGE             ; the FPU's and XMM's state
        mov     ecx, 64
        xor     eax, eax
        rep     stosq
        fxsave64 [FPU_IMAGE]
        mov     word [FPU_IMAGE], 0x037f
        mov     byte [FPU_IMAGE + 4], 0xe0     ; ST0 to ST2 are valid: top is 5
        mov     word [FPU_IMAGE + 2], 0x2800
        mov     rsi, 0xf0000 + numbers
        mov     edi, FPU_IMAGE + 0x20
        mov     ecx, 6
        rep     movsq
        mov     edi, FPU_IMAGE + 0xa0
        mov     rax, 0x0102030405060708
        mov     ecx, 32
.xmm:   stosq
        mov     rbx, 0x1f3f5d7b99b7d5f3
        imul    rax, rbx
        add     rax, rcx
        loop    .xmm

next_case:
        mov     rbp, [NEXT]
        movzx   r15d, byte [rbp]
        test    r15b, 0x80
        jz      finished
        mov     edi, CODE - 64
        mov     eax, 0xcccccccc
        mov     ecx, 64
        rep     stosd
        movzx   ecx, byte [rbp + 1]
        lea     rsi, [rbp + 2]
        mov     edi, CODE
        rep     movsb
        mov     word [rdi], 0x0b0f
        mov     edi, SCRATCH - 128
        mov     rax, 0x8877665544332211
        mov     ecx, 48
.fill:  stosq
        mov     rbx, 0x9e3779b97f4a7c15
        add     rax, rbx
        loop    .fill
        mov     edi, WILD
        mov     ecx, 32
        rep     stosq
        mov     edi, WILD2
        mov     ecx, 32
        rep     stosq
        mov     edi, STACK - 64
        mov     ecx, 32
        rep     stosq
        xor     eax, eax
        mov     cr2, rax
        mov     dr6, rax
        mov     rbx, cr0
        fxrstor64 [FPU_IMAGE]
        mov     ax, 0x30
        test    r15b, 4
        jnz     .data
        mov     ax, 0x10
.data:  mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     esp, RING0
        mov     ebx, r15d
        and     ebx, 3
        test    r15b, 4
        jnz     .user
        push    qword 0x10
        movzx   eax, byte [0xf0000 + codes0 + rbx]
        jmp     .frame
.user:  push    qword 0x33
        movzx   eax, byte [0xf0000 + codes3 + rbx]
.frame: push    qword STACK
        push    qword 0x8d7
        test    r15b, 8
        jz      .free
        or      word [rsp], 0x100
.free:  push    rax
        push    qword CODE
        mov     rax, 0x1122334455667788
        mov     ecx, 3
        mov     rdx, 0x8000000000000001
        mov     ebx, SCRATCH
        mov     ebp, STACK + 16
        mov     esi, SCRATCH + 8
        mov     edi, SCRATCH + 40
        mov     r8, 0xfedcba9876543210
        mov     r9d, SCRATCH + 16
        mov     r10, -1
        mov     r11, 0x7fffffffffffffff
        mov     r12d, SCRATCH + 24
        mov     r13d, SCRATCH + 32
        mov     r14d, 0x80000000
        mov     r15d, SCRATCH + 48
        iretq

finished:
        mov     al, 0
        out     0xf4, al
        hlt

codes0: db      0x08, 0x18, 0x20
codes3: db      0x2b, 0x3b, 0x43
        align   8
numbers:
        dq      0xc90fdaa22168c235, 0x4000      ; pi
        dq      0x8000000000000000, 0xbfff      ; -1
        dq      0xb504f333f9de6484, 0x3fff      ; the root of 2

; error code pushed?, vector
record: cld
        push    rax                     ; frame: rax, vector, error, rip, cs, rflags, rsp, ss
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        pop     rax
        mov     [RECORD + 0x00], rax
        mov     [RECORD + 0x08], rcx
        mov     [RECORD + 0x10], rdx
        mov     [RECORD + 0x18], rbx
        mov     [RECORD + 0x28], rbp
        mov     [RECORD + 0x30], rsi
        mov     [RECORD + 0x38], rdi
        mov     [RECORD + 0x40], r8
        mov     [RECORD + 0x48], r9
        mov     [RECORD + 0x50], r10
        mov     [RECORD + 0x58], r11
        mov     [RECORD + 0x60], r12
        mov     [RECORD + 0x68], r13
        mov     [RECORD + 0x70], r14
        mov     [RECORD + 0x78], r15
        mov     rsi, rsp
        mov     edi, RECORD + 0x80
        mov     ecx, 7
        rep     movsq
        mov     rax, [RECORD + 0xa8]
        mov     [RECORD + 0x20], rax
        mov     rax, cr2
        stosq
        mov     rax, dr6
        stosq
        clts
        fxsave64 [FPU_IMAGE + 0x400]
        mov     esi, FPU_IMAGE + 0x400
        mov     ecx, 8
        rep     movsd
        mov     esi, FPU_IMAGE + 0x420
        mov     ecx, 4
        rep     movsq
        mov     esi, FPU_IMAGE + 0x4a0
        mov     ecx, 14
        rep     movsq
        mov     esi, SCRATCH
        mov     ecx, 16
        rep     movsq
        mov     rax, [NEXT]
        stosq
        mov     esi, RECORD
        mov     ecx, 512
        mov     dx, 0xe9
        rep     outsb
        add     qword [NEXT], 16
        mov     ax, 0x10
        mov     ss, ax
        jmp     next_case

        align   8
stubs:
%assign vector 0
%rep 256
        align   8, db 0x90
%if vector < 32 && ((1 << vector) & ERRORS)
        push    strict byte %[vector]
        jmp     near record
%else
        jmp     near short_%[vector]
%endif
%assign vector vector + 1
%endrep
%assign vector 0
%rep 256
%if vector < 32 && ((1 << vector) & ERRORS)
%else
short_%[vector]:
        push    qword 0
        push    qword %[vector]
        jmp     near record
%endif
%assign vector vector + 1
%endrep
"""


def image(cases: list[Case]) -> bytes:
    """A 128 KiB ROM that runs *cases*."""
    assert len(cases) <= PER_IMAGE
    rom = bytearray(0x20000)
    code = asm(HARNESS, org=0)
    assert len(code) < 0xFFF0
    rom[0x10000:0x10000 + len(code)] = code
    rom[0x1FFF0:0x1FFF5] = b"\xea\x00\x00\x00\xf0"
    for i, case in enumerate(cases):
        assert len(case.code) <= 14
        head = bytes([0x80 | MODES[case.mode] | case.user << 2 | case.trap << 3, len(case.code)])
        rom[16 * i:16 * i + 16] = (head + case.code).ljust(16, b"\xcc")
    return bytes(rom)


def run_snooze(cases: list[Case], model: str = MODEL) -> list[bytes]:
    """The records, from a machine in this process; empty where none came."""
    records: list[bytes] = []
    for at in range(0, len(cases), PER_IMAGE):
        some, output = cases[at:at + PER_IMAGE], bytearray()
        machine = Machine(
            bios=image(some), ram_mb=16, cpu=model, icount_shift=0, chardevs={"d": output.extend},
            devices=[DeviceSpec("isa-debugcon", {"chardev": "d"}),
                     DeviceSpec("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})])
        machine.run_until(lambda: False, limit_ns=10 * 10**9)
        machine.close()
        records += _split(bytes(output), len(some))
    return records


def run_qemu(cases: list[Case], model: str = MODEL) -> list[bytes]:
    """The records, from qemu-system-x86_64; empty where none came."""
    assert QEMU is not None
    records: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        rom, out = Path(folder, "rom"), Path(folder, "out")
        for at in range(0, len(cases), PER_IMAGE):
            some = cases[at:at + PER_IMAGE]
            rom.write_bytes(image(some))
            subprocess.run(
                [QEMU, "-M", "pc", "-m", "16", "-cpu", model, "-accel", "tcg", "-nodefaults",
                 "-no-user-config", "-display", "none", "-no-reboot", "-bios", str(rom),
                 "-chardev", f"file,id=d,path={out}", "-device", "isa-debugcon,chardev=d",
                 "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
                check=False, timeout=120, stdin=subprocess.DEVNULL, capture_output=True)
            records += _split(out.read_bytes(), len(some))
    return records


def _split(data: bytes, count: int) -> list[bytes]:
    records = [b""] * count
    for at in range(0, len(data) - RECORD + 1, RECORD):
        record = data[at:at + RECORD]
        case = (int.from_bytes(record[-8:], "little") - 0xE0000) // 16
        if 0 <= case < count:
            records[case] = record
    return records
