"""Guests that are firmware: a 64 KiB ROM that runs here and on qemu-system-x86_64.

The ROM enters flat 32-bit protected mode and runs a body, which leaves what it
found in the 1 KiB at RESULT and ends with `done`.  That writes the kilobyte to
the debug console and leaves by isa-debug-exit.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from machine import Machine
from machine.config import DeviceSpec
from tests.asm import asm

__all__ = ["QEMU", "RESULT", "SMM", "run_qemu", "run_snooze"]

QEMU = shutil.which("qemu-system-x86_64")
RESULT, RESULT_SIZE = 0x6000, 0x400
BASE = 0xF0000

PRELUDE = f"""
RESULT  equ     {RESULT:#x}
LAPIC   equ     0xfee00000
IOAPIC  equ     0xfec00000
IDT     equ     0x2000

%macro gate 2                   ; vector, handler: a 32-bit interrupt gate
        mov     word [IDT + 8 * %1], %2 - {BASE:#x}
        mov     dword [IDT + 8 * %1 + 2], 0x40
        mov     dword [IDT + 8 * %1 + 4], 0x8e00
%endmacro
%macro lapic 2                  ; offset, value
        mov     dword [LAPIC + %1], %2
%endmacro
%macro ioapic 2                 ; register, value
        mov     dword [IOAPIC], %1
        mov     dword [IOAPIC + 0x10], %2
%endmacro
%macro pci 2                    ; address, value
        mov     edx, 0xcf8
        mov     eax, %1
        out     dx, eax
        mov     edx, 0xcfc
        mov     eax, %2
        out     dx, eax
%endmacro
%macro set_msr 2
        mov     ecx, %1
        mov     eax, (%2) & 0xffffffff
        mov     edx, (%2) >> 32
        wrmsr
%endmacro
%macro get_msr 2                ; number, where
        mov     ecx, %1
        rdmsr
        mov     [%2], eax
        mov     [%2 + 4], edx
%endmacro
%macro copy 3                   ; from, to, length: of code that does not care where it is
        cld
        mov     esi, %1
        mov     edi, %2
        mov     ecx, %3
        rep     movsb
%endmacro
%macro put 1                    ; the next word of the result
        push    dword %1
        push    eax
        push    edx
        mov     eax, [0x5000]
        mov     edx, [esp + 8]
        mov     [eax], edx
        add     dword [0x5000], 4
        pop     edx
        pop     eax
        lea     esp, [esp + 4]
%endmacro
%macro pit 1                    ; channel 0: one interrupt after so many ticks
        mov     al, 0x30
        out     0x43, al
        mov     al, (%1) & 0xff
        out     0x40, al
        mov     al, (%1) >> 8
        out     0x40, al
%endmacro
%macro done 0                   ; in any mode with a flat DS and interrupts as they are
        mov     dx, 0xe9
        mov     esi, RESULT
        mov     ecx, {RESULT_SIZE}
        cld
        rep a32 outsb
        mov     al, 1
        out     0xf4, al
        cli
        hlt
%endmacro
        cli
        o32 lgdt [cs:gdtr - {BASE:#x}]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:protected
        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff      ; 08 code
        dq      0x00cf93000000ffff      ; 10 data
        dq      0x00af9b000000ffff      ; 18 code, 64 bits
        dq      0x00cffb000000ffff      ; 20 code, ring 3
        dq      0x00cff3000000ffff      ; 28 data, ring 3
        dq      0x0000890028000067, 0   ; 30 TSS at 0x2800
        dq      0x00409b0f0000ffff      ; 40 the ROM's code, 32 bits
        dq      0x0000820f1000ffff, 0   ; 48 LDT
        dq      0x000f9b000000ffff      ; 58 code, 16 bits
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr:   dw      0x7ff
        dd      IDT
ldt_at: dw      0x48
tss_at: dw      0x30
        bits    32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x7000
        lidt    [idtr]
        mov     dword [0x5000], RESULT
        mov     dword [0x2804], 0x6f00  ; TSS: SS0:ESP0
        mov     dword [0x2808], 0x10
        mov     al, 0xff
        out     0x21, al
        out     0xa1, al
"""

#: SMIs by port 0xb2, handled by the code between `smi` and `smi_end` at the usual place
SMM = """
        pci     0x80000b58, 0x02000000  ; PIIX4 PM, DEVACTB: APMC_EN
        copy    smi, 0x38000, smi_end - smi
"""

_EXIT = DeviceSpec("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})


def image(body: str) -> bytes:
    """The ROM."""
    code = asm(PRELUDE + body, org=BASE)
    rom = bytearray(0x10000)
    rom[:len(code)] = code
    rom[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"
    return bytes(rom)


def run_snooze(body: str, *, cpu: str = "qemu64", devices: tuple[str, ...] = (),
               **fields: Any) -> bytes:
    """What the body left, run on deterministic time; empty when it did not get to its end."""
    output = bytearray()
    machine = Machine(
        bios=image(body), ram_mb=16, icount_shift=2, cpu=cpu, chardevs={"out": output.extend},
        devices=[*(DeviceSpec(device) for device in devices), _EXIT,
                 DeviceSpec("isa-debugcon", {"chardev": "out"})], **fields)
    try:
        machine.run_until(lambda: False, limit_ns=5_000_000_000)
    finally:
        machine.close()
    return bytes(output)


def run_qemu(body: str, *, cpu: str = "qemu64", devices: tuple[str, ...] = ()) -> bytes:
    """The same from qemu-system-x86_64."""
    assert QEMU is not None
    with tempfile.TemporaryDirectory() as folder:
        rom, output = Path(folder, "rom"), Path(folder, "output")
        rom.write_bytes(image(body))
        more = [word for device in devices for word in ("-device", device)]
        subprocess.run(
            [QEMU, "-accel", "tcg", "-cpu", cpu, "-m", "16", "-nodefaults", "-display", "none",
             "-no-reboot", "-bios", rom, "-debugcon", f"file:{output}",
             "-device", "isa-debug-exit,iobase=0xf4,iosize=4", *more],
            check=False, timeout=60)
        return output.read_bytes()
