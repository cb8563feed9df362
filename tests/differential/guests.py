"""Little guests that provoke exceptions, and write down what was delivered.

Each is a ROM of its own that begins in real mode, sets up the mode that it is
about (`REAL`, `PROTECTED`, `LONG`) and runs its body.  An exception writes a
record of twelve 32-bit words to the debug console (`Event` names them) and goes
on at the address in `resume`, in ring 0 and with the stack emptied.

Macros for bodies: `expect where, next` sets what RIP is told against, and
`resume`; `show value` writes a record with vector SHOW and the value as its error
code; `done` ends.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from machine import Machine
from machine.config import DeviceSpec
from tests.asm import asm
from tests.differential.harness import QEMU

__all__ = ["LONG", "PROTECTED", "REAL", "SHOW", "Event", "rom", "run_qemu_guest",
           "run_snooze_guest"]

SHOW = 0x100
MODEL = "qemu64,+umip"
RECORD = 48


class Event(NamedTuple):
    """One record.  What is None in an expectation may be anything."""

    vector: int
    error: int | None = None        #: 0 where none is pushed
    ip: int | None = None           #: RIP less `base`, as a signed number
    cs: int | None = None
    flags: int | None = None
    sp: int | None = None           #: of what was interrupted
    ss: int | None = None
    cr2: int | None = None
    dr6: int | None = None          #: the lower half
    tr: int | None = None
    frame: int | None = None        #: the handler's stack pointer, behind the frame
    high: int | None = None         #: RIP's upper half

    def __str__(self) -> str:
        if self.vector == SHOW and self.error is not None:
            return f"show {self.error:x}"
        return " ".join([f"{self.vector:x}", *(
            f"{name}={value:x}" for name, value in self._asdict().items()
            if value is not None and name != "vector")])

    @classmethod
    def parse(cls, text: str) -> Event:
        """A line of an expectation: a vector and fields, or `show` and a value."""
        first, *rest = text.split()
        if first == "show":
            return cls(SHOW, int(rest[0], 16))
        return cls(int(first, 16), **{name: int(value, 16) for name, value in
                                      (field.split("=") for field in rest)})

    def fits(self, found: Event) -> bool:
        """Whether *found* is what this expects."""
        return all(wanted is None or wanted == value
                   for wanted, value in zip(self, found, strict=True))


#: Copies the ROM to 0x1000 and goes on there in real mode, with flat zero segments.
_START = """
base    equ     0x500
resume  equ     0x504
kept    equ     0x510           ; words of the body's own
which   equ     0x5f0
RECORD  equ     0x600
IDT     equ     0x8000
TSS     equ     0x9000          ; selector 0x38; those of 0x40 and 0x48 behind it
TSS_DF  equ     0x9200
TSS_T   equ     0x9300
TABLES  equ     0x10000
APIC    equ     0xfee00000
%macro expect 2
        mov     dword [base], %1
        mov     dword [resume], %2
%endmacro
%macro done 0
        mov     al, 0
        out     0xf4, al
        hlt
%endmacro
        cli
        xor     ax, ax
        mov     es, ax
        xor     si, si
        mov     di, 0x1000
        mov     cx, 0x6000
        cs      rep movsb
        mov     al, [cs:0xfff8]         ; which body
        mov     [es:which], al
        xor     ax, ax
        dec     ax                      ; no interrupts but those that a body asks for
        out     0x21, al
        out     0xa1, al
        inc     ax
        jmp     0:started
        align   8
gdt:    dq      0
        dq      0x00cf9b000000ffff      ; 08 code
        dq      0x00cf93000000ffff      ; 10 data
        dq      0x00af9b000000ffff      ; 18 code 64
        dq      0x00cffb000000ffff      ; 20 code, ring 3
        dq      0x00cff3000000ffff      ; 28 data, ring 3
        dq      0x00affb000000ffff      ; 30 code 64, ring 3
        dq      0x00008900900000ff      ; 38 TSS
        dq      0x0000890092000067      ; 40 TSS
        dq      0x0000890093000067      ; 48 TSS
        dq      0x00009b000000ffff      ; 50 code 16
        dq      0x000093000000ffff      ; 58 data 16
        dq      0x00cf1b000000ffff      ; 60 code, not present
        dq      0x00cf13000000ffff      ; 68 data, not present
        dq      0x00cf9f000000ffff      ; 70 code, conforming
        dq      0x00cf91000000ffff      ; 78 data, read only
        dq      0x00cf99000000ffff      ; 80 code, execute only
        dq      0x00cfbb000000ffff      ; 88 code, ring 1
        dq      0x00cfb3000000ffff      ; 90 data, ring 1
        dq      0x0000850000480000      ; 98 task gate to 0x48
        dq      0, 0                    ; a0, a8: the body's
gdt_end:
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt, 0
idtr:   dw      0xfff
        dd      IDT, 0
started:
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x7000
        lgdt    [gdtr]
"""

#: In real mode, with vectors 0 to 47 in the table at 0.
REAL = _START + """
%macro show 1
        push    eax
        mov     eax, %1
        call    show_it
        pop     eax
%endmacro
        xor     di, di
        mov     ax, stubs
        mov     cx, 48
.fill:  stosw
        mov     word [di], 0
        add     di, 2
        add     ax, 8
        loop    .fill
        movzx   bx, byte [which]
        add     bx, bx
        push    word 2
        popf
        jmp     [bodies + bx]
show_it:
        mov     [RECORD + 4], eax
        pushad
        mov     dword [RECORD], 0x100
        mov     cx, 10
        mov     di, RECORD + 8
        xor     eax, eax
        rep     stosd
        call    write
        popad
        ret
write:  mov     si, RECORD
        mov     cx, 48
        mov     dx, 0xe9
        rep     outsb
        ret
record: cld
        pushad                          ; behind it: vector, IP, CS, FLAGS
        mov     ax, 0
        mov     ds, ax
        mov     es, ax
        mov     bp, sp
        mov     di, RECORD
        movzx   eax, word [bp + 32]
        stosd
        xor     eax, eax
        stosd
        movzx   eax, word [bp + 34]
        sub     eax, [base]
        stosd
        movzx   eax, word [bp + 36]
        stosd
        movzx   eax, word [bp + 38]
        stosd
        lea     ax, [bp + 40]
        movzx   eax, ax
        stosd
        mov     ax, ss
        stosd
        mov     eax, cr2
        stosd
        mov     eax, dr6
        stosd
        xor     eax, eax
        stosd
        lea     ax, [bp + 34]
        stosd
        xor     eax, eax
        stosd
        call    write
        popad
        mov     sp, 0x7000
        jmp     [resume]
        align   8
stubs:
%assign vector 0
%rep 48
        push    word %[vector]
        jmp     near record
        align   8
%assign vector vector + 1
%endrep
"""

_STUBS = """
        align   16
stubs:
%assign vector 0
%rep 64
%if vector < 32 && ((1 << vector) & 0x227d00)
%else
        push    byte 0
%endif
        push    byte %[vector]
        jmp     near record
        align   16
%assign vector vector + 1
%endrep
"""

#: In 32-bit protected mode, ring 0, with interrupt gates of DPL 0 for vectors 0 to 63 (3 and 4:
#: DPL 3).  `paging` turns on paging of 4 MiB, page by page, all for ring 3.
PROTECTED = _START + """
%macro show 1
        pushfd
        push    eax
        mov     eax, %1
        call    show_it
        pop     eax
        popfd
%endmacro
%macro gate 4                   ; vector, selector, offset, attributes (8e: interrupt, 85: task)
        mov     word [IDT + 8 * (%1)], %3
        mov     word [IDT + 8 * (%1) + 2], %2
        mov     dword [IDT + 8 * (%1) + 4], (%4) << 8
%endmacro
%macro paging 0
        mov     edi, TABLES + 0x1000
        mov     eax, 7
%%fill: stosd
        add     eax, 0x1000
        cmp     eax, 0x400000
        jb      %%fill
        mov     dword [TABLES], TABLES + 0x1007
        mov     dword [TABLES + 0xfec], 0xfec00083
        mov     eax, cr4
        or      al, 0x10                ; PSE
        mov     cr4, eax
        mov     eax, TABLES
        mov     cr3, eax
        mov     eax, cr0
        or      eax, 0x80000000
        mov     cr0, eax
%endmacro
%macro page 2                   ; address, low bits
        mov     dword [TABLES + 0x1000 + ((%1) >> 12) * 4], (%1) & 0xfffff000 | (%2)
        invlpg  [%1]
%endmacro
%macro ring3 2                  ; where, flags
        mov     ax, 0x2b
        mov     ds, ax
        mov     es, ax
        push    dword 0x2b
        push    dword 0x6800
        push    dword %2
        push    dword 0x23
        push    dword %1
        iretd
%endmacro
%macro v86 3                    ; segment, offset, flags
        push    dword 0x4444            ; GS, FS, DS, ES
        push    dword 0x3333
        push    dword 0x2222
        push    dword 0x1111
        push    dword 0x600             ; SS:SP
        push    dword 0x800
        push    dword (%3) | 0x20002
        push    dword %1
        push    dword %2
        iretd
%endmacro
%macro task 3                   ; TSS, where, stack pointer
        mov     edi, %1
        mov     ecx, 26
        xor     eax, eax
        rep     stosd
        mov     eax, cr3
        mov     [%1 + 0x1c], eax
        mov     dword [%1 + 0x20], %2
        mov     dword [%1 + 0x24], 2
        mov     dword [%1 + 0x38], %3
        mov     dword [%1 + 0x48], 0x10
        mov     dword [%1 + 0x4c], 8
        mov     dword [%1 + 0x50], 0x10
        mov     dword [%1 + 0x54], 0x10
        mov     word [%1 + 0x66], 0x68
%endmacro
        mov     eax, cr0
        or      al, 0x21                ; NE, PE
        mov     cr0, eax
        jmp     dword 0x08:protected
        bits    32
show_it:
        push    ds
        push    es
        pushad
        mov     cx, 0x10
        mov     ds, cx
        mov     es, cx
        mov     dword [RECORD], 0x100
        mov     [RECORD + 4], eax
        mov     ecx, 10
        mov     edi, RECORD + 8
        xor     eax, eax
        rep     stosd
        call    write
        popad
        pop     es
        pop     ds
        ret
write:  mov     esi, RECORD
        mov     ecx, 48
        mov     dx, 0xe9
        rep     outsb
        ret
record: cld
        pushad                          ; behind it: vector, error, EIP, CS, EFLAGS, ESP, SS
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ebp, esp
        lea     esi, [ebp + 32]
        mov     edi, RECORD
        movsd
        movsd
        lodsd
        sub     eax, [base]
        stosd
        lodsd
        movzx   ebx, ax
        mov     [edi], ebx
        add     edi, 4
        lodsd
        stosd
        test    eax, 0x20000
        jnz     .outer
        test    bl, 3
        jz      .same
.outer: movsd
        movzx   eax, word [esi]
        stosd
        jmp     .rest
.same:  mov     eax, esi
        stosd
        xor     eax, eax
        mov     ax, ss
        stosd
.rest:  mov     eax, cr2
        stosd
        mov     eax, dr6
        stosd
        xor     eax, eax
        str     ax
        stosd
        lea     eax, [ebp + 40]
        stosd
        xor     eax, eax
        stosd
        call    write
        popad
        mov     sp, 0x10
        mov     ss, sp
        mov     esp, 0x7000
        jmp     [resume]
""" + _STUBS + """
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        mov     edi, IDT
        mov     eax, stubs
        mov     ecx, 64
.gate:  mov     [edi], eax
        mov     word [edi + 2], 8
        mov     dword [edi + 4], 0x8e00
        add     edi, 8
        add     eax, 16
        loop    .gate
        mov     byte [IDT + 8 * 3 + 5], 0xee
        mov     byte [IDT + 8 * 4 + 5], 0xee
        mov     word [idtr], 0x7ff
        lidt    [idtr]
        mov     edi, TSS
        mov     ecx, 0x100
        xor     eax, eax
        rep     stosd
        mov     dword [TSS + 4], 0x6e00 ; ESP0, SS0
        mov     dword [TSS + 8], 0x10
        mov     dword [TSS + 12], 0x6600        ; ESP1, SS1
        mov     dword [TSS + 16], 0x91
        mov     word [TSS + 0x66], 0x68
        mov     byte [TSS + 0xff], 0xff
        mov     ax, 0x38
        ltr     ax
        xor     eax, eax
        mov     dr6, eax
        fninit
        movzx   eax, byte [which]
        movzx   eax, word [bodies + eax * 2]
        push    dword 2
        popfd
        jmp     eax
"""

#: In 64-bit mode, ring 0, with interrupt gates for vectors 0 to 63; 2 MiB are mapped page by
#: page, all for ring 3; IST 1 to 3 are at 0x6a00, 0x6c00 and 0x6e00.
LONG = _START + """
%macro show 1
        push    rax
        mov     rax, %1
        call    show_it
        pop     rax
%endmacro
%macro gate 4                   ; vector, selector, offset, attributes | IST
        mov     word [IDT + 16 * (%1)], %3
        mov     word [IDT + 16 * (%1) + 2], %2
        mov     dword [IDT + 16 * (%1) + 4], %4
        mov     qword [IDT + 16 * (%1) + 8], 0
%endmacro
%macro page 2                   ; address, low bits
        mov     qword [TABLES + 0x3000 + ((%1) >> 12) * 8], (%1) & 0xfffff000 | (%2)
        invlpg  [%1]
%endmacro
%macro ring3 2                  ; where, flags
        push    qword 0x2b
        push    qword 0x6500
        push    qword %2
        push    qword 0x33
        push    qword %1
        iretq
%endmacro
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 0x08:protected
        bits    32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     edi, TABLES
        mov     ecx, 0x1800
        xor     eax, eax
        rep     stosd
        mov     dword [TABLES], TABLES + 0x1007
        mov     dword [TABLES + 0x1000], TABLES + 0x2007
        mov     dword [TABLES + 0x1018], TABLES + 0x4007
        mov     dword [TABLES + 0x2000], TABLES + 0x3007
        mov     dword [TABLES + 0x4fb8], 0xfee00083     ; the local APIC
        mov     edi, TABLES + 0x3000
        mov     eax, 7
        mov     ecx, 512
.fill:  mov     [edi], eax
        add     edi, 8
        add     eax, 0x1000
        loop    .fill
        mov     eax, TABLES
        mov     cr3, eax
        mov     eax, 0x620              ; PAE, OSFXSR, OSXMMEXCPT
        mov     cr4, eax
        mov     ecx, 0xc0000080
        mov     eax, 0xd01              ; NXE, LME, SCE
        xor     edx, edx
        wrmsr
        mov     eax, cr0
        or      eax, 0x80000020         ; PG, NE
        mov     cr0, eax
        jmp     0x18:long_mode
        bits    64
show_it:
        push    rdi
        push    rsi
        push    rcx
        push    rdx
        mov     dword [RECORD], 0x100
        mov     [RECORD + 4], eax
        xor     eax, eax
        mov     ecx, 10
        mov     edi, RECORD + 8
        rep     stosd
        call    write
        pop     rdx
        pop     rcx
        pop     rsi
        pop     rdi
        ret
write:  mov     esi, RECORD
        mov     ecx, 48
        mov     dx, 0xe9
        rep     outsb
        ret
record: cld
        push    rax
        push    rcx
        push    rdx
        push    rbx
        push    rbp
        push    rsi
        push    rdi
        lea     rbp, [rsp + 56]         ; vector, error, RIP, CS, RFLAGS, RSP, SS
        mov     edi, RECORD
        mov     eax, [rbp]
        stosd
        mov     eax, [rbp + 8]
        stosd
        mov     eax, [rbp + 16]
        sub     eax, [base]
        stosd
        mov     eax, [rbp + 24]
        stosd
        mov     eax, [rbp + 32]
        stosd
        mov     eax, [rbp + 40]
        stosd
        mov     eax, [rbp + 48]
        stosd
        mov     rax, cr2
        stosd
        mov     rax, dr6
        stosd
        xor     eax, eax
        str     ax
        stosd
        lea     eax, [rbp + 16]
        stosd
        mov     eax, [rbp + 20]
        stosd
        call    write
        pop     rdi
        pop     rsi
        pop     rbp
        pop     rbx
        pop     rdx
        pop     rcx
        pop     rax
        mov     sp, 0x10
        mov     ss, sp
        mov     esp, 0x7000
        jmp     [resume]
""" + _STUBS + """
long_mode:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     fs, ax
        mov     gs, ax
        mov     esp, 0x7000
        mov     edi, IDT
        mov     eax, stubs
        mov     ecx, 64
.gate:  mov     [rdi], eax
        mov     word [rdi + 2], 0x18
        mov     dword [rdi + 4], 0x8e00
        mov     qword [rdi + 8], 0
        add     rdi, 16
        add     rax, 16
        loop    .gate
        mov     byte [IDT + 16 * 3 + 5], 0xee
        mov     byte [IDT + 16 * 4 + 5], 0xee
        mov     word [idtr], 0x3ff
        lidt    [idtr]
        mov     edi, TSS
        mov     ecx, 0x100
        xor     eax, eax
        rep     stosd
        mov     dword [TSS + 4], 0x6800 ; RSP 0
        mov     dword [TSS + 12], 0x6600
        mov     dword [TSS + 0x24], 0x6a00
        mov     dword [TSS + 0x2c], 0x6c00
        mov     dword [TSS + 0x34], 0x6e00
        mov     word [TSS + 0x66], 0x68
        mov     byte [TSS + 0xff], 0xff
        mov     qword [gdt + 0x40], 0   ; the TSS's upper half
        mov     ax, 0x38
        ltr     ax
        xor     eax, eax
        mov     dr6, rax
        fninit
        movzx   eax, byte [which]
        movzx   eax, word [bodies + rax * 2]
        push    qword 2
        popfq
        jmp     rax
"""


def rom(mode: str, bodies: Sequence[str], which: int) -> bytes:
    """A 64 KiB ROM that runs body number *which*."""
    source = mode + "\n".join(f"body_{i}:\n{body}" for i, body in enumerate(bodies))
    code = asm(source + "bodies: dw " + ", ".join(f"body_{i}" for i in range(len(bodies))))
    assert len(code) <= 0x6000
    data = bytearray(0x10000)
    data[:len(code)] = code
    data[0xFFF0:0xFFF9] = b"\xea\x00\x00\x00\xf0\0\0\0" + bytes([which])
    return bytes(data)


def run_snooze_guest(image: bytes, model: str = MODEL) -> tuple[list[Event], bool]:
    """What it wrote, from a machine in this process, and whether it came to its end."""
    output = bytearray()
    machine = Machine(
        bios=image, ram_mb=16, cpu=model, icount_shift=0, reboot_action="shutdown",
        chardevs={"d": output.extend},
        devices=[DeviceSpec("isa-debugcon", {"chardev": "d"}),
                 DeviceSpec("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})])
    machine.run_until(lambda: False, limit_ns=10**9)
    ended = machine.runstate.exit_code == 1         # isa-debug-exit's; a triple fault's is 0
    machine.close()
    return _split(bytes(output)), ended


def run_qemu_guest(image: bytes, model: str = MODEL) -> tuple[list[Event], bool]:
    """The same from qemu-system-x86_64."""
    assert QEMU is not None
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "rom"), Path(folder, "out")
        path.write_bytes(image)
        command = [
            QEMU, "-M", "pc", "-m", "16", "-cpu", model, "-accel", "tcg", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-bios", str(path),
            "-chardev", f"file,id=d,path={out}", "-device", "isa-debugcon,chardev=d",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        status = subprocess.run(command, check=False, timeout=60, stdin=subprocess.DEVNULL,
                                capture_output=True).returncode
        return _split(out.read_bytes()), status == 1


def _split(data: bytes) -> list[Event]:
    events = []
    for at in range(0, len(data) - RECORD + 1, RECORD):
        words = [int.from_bytes(data[i:i + 4], "little") for i in range(at, at + RECORD, 4)]
        words[2] -= (words[2] & 1 << 31) << 1
        words[8] &= 0xFFFF
        events.append(Event(*words))
    return events
