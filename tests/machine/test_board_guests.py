"""Interrupts, the APICs and system management mode, seen by guests that run on QEMU as well."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.machine.board_guest import QEMU, SMM, run_qemu, run_snooze


class Guest(NamedTuple):
    """*expected*: the first 32-bit words of its result.

    *differs*: why QEMU's would be another.
    """

    body: str
    expected: tuple[int, ...] = ()
    cpu: str = "qemu64"
    devices: tuple[str, ...] = ()
    differs: str = ""


GUESTS: dict[str, Guest] = {}

# --- the local APIC's timer, HLT

GUESTS["the APIC timer wakes HLT"] = Guest("""
        gate    0x50, timer
        lapic   0xf0, 0x1ff
        lapic   0x3e0, 0xb
        lapic   0x320, 0x50
        lapic   0x380, 1000000
        sti
        hlt
        cli
        put     0x22222222
        mov     eax, [LAPIC + 0x390]
        put     eax
        done
timer:  put     0x11111111
        lapic   0xb0, 0
        iret
""", (0x11111111, 0x22222222, 0))

GUESTS["a periodic APIC timer comes again"] = Guest("""
        gate    0x50, timer
        lapic   0xf0, 0x1ff
        lapic   0x3e0, 0xb
        lapic   0x320, 0x20050
        lapic   0x380, 100000
        xor     ebx, ebx
        sti
again:  hlt
        cmp     ebx, 5
        jb      again
        cli
        put     ebx
        done
timer:  cmp     ebx, 5                  ; on QEMU a sixth may come before the CLI
        adc     ebx, 0
        lapic   0xb0, 0
        iret
""", (5,))

GUESTS["an NMI from the APIC ends HLT with interrupts off"] = Guest("""
        gate    2, nmi
        gate    0x52, other
        lapic   0xf0, 0x1ff
        ioapic  0x14, 0x400             ; pin 2, the PIT: NMI
        pit     2000
        cli
        hlt
        put     0x22222222
        lapic   0x300, 0x44400          ; and from itself, at once
        nop
        put     0x33333333
        done
nmi:    put     0x11111111
        iret
other:  put     0xdead
        iret
""", (0x11111111, 0x22222222, 0x11111111, 0x33333333))

GUESTS["STI holds off an interrupt for one instruction"] = Guest("""
        gate    0x50, irq
        lapic   0xf0, 0x1ff
        lapic   0x300, 0x40050
        xor     ebx, ebx
        sti
        inc     ebx
        inc     ebx
        cli
        put     ebx
        done
irq:    put     ebx
        lapic   0xb0, 0
        iret
""", (1, 2))

GUESTS["priorities and nesting"] = Guest("""
        gate    0x50, low
        gate    0x90, high
        gate    0x95, higher
        lapic   0xf0, 0x1ff
        lapic   0x80, 0x50
        lapic   0x300, 0x40050
        lapic   0x300, 0x40090
        sti
        nop
        nop
        put     0x1
        lapic   0x80, 0x40
        nop
        cli
        put     0x2
        done
low:    put     0x50
        lapic   0xb0, 0
        iret
high:   put     0x90
        lapic   0x300, 0x40095          ; the same class: waits for the EOI
        sti
        nop
        nop
        put     0x91
        mov     eax, [LAPIC + 0xa0]
        put     eax
        lapic   0xb0, 0
        nop
        put     0x92
        iret
higher: put     0x95
        lapic   0xb0, 0
        iret
""", (0x90, 0x91, 0x90, 0x95, 0x92, 1, 0x50, 2))

GUESTS["x2APIC: a self IPI, CR8 holds it back"] = Guest("""
        gate    0x61, irq
        lapic   0xf0, 0x1ff
        set_msr 0x1b, 0xfee00d00
        set_msr 0x808, 0x60
        sti
        set_msr 0x83f, 0x61
        nop
        put     1
        set_msr 0x808, 0x50
        put     2
        get_msr 0x80d, RESULT + 0x10
        get_msr 0x802, RESULT + 0x18
        done
irq:    put     0x61
        pushad
        set_msr 0x80b, 0
        popad
        iret
""", (1, 0x61, 2, 0, 1, 0, 0, 0), cpu="max")

GUESTS["CPUID's APIC bit follows the enable bit"] = Guest("""
        mov     eax, 1
        cpuid
        and     edx, 0x200
        put     edx
        set_msr 0x1b, 0xfee00100
        mov     eax, 1
        cpuid
        and     edx, 0x200
        put     edx
        set_msr 0x1b, 0xfee00900
        mov     eax, 1
        cpuid
        and     edx, 0x200
        put     edx
        mov     eax, [LAPIC + 0xf0]
        put     eax
        done
""", (0x200, 0, 0x200, 0xFF))

# --- INIT

GUESTS["INIT to itself begins again at the reset vector"] = Guest("""
        cmp     dword [0x5010], 0x1234
        je      second
        mov     dword [0x5010], 0x1234
        lapic   0xf0, 0x1ff
        lapic   0x20, 0x03000000
        lapic   0xd0, 0x55000000
        lapic   0x320, 0x50
        lapic   0x380, 0x1000
        mov     ebx, 0x5555
        lapic   0x310, 0x03000000
        lapic   0x300, 0x4500
        jmp     $
second: put     ebx
        mov     eax, [LAPIC + 0x20]
        put     eax
        mov     eax, [LAPIC + 0xd0]
        put     eax
        mov     eax, [LAPIC + 0xf0]
        put     eax
        mov     eax, [LAPIC + 0x320]
        put     eax
        mov     eax, [LAPIC + 0x380]
        put     eax
        get_msr 0x1b, RESULT + 0x20
        done
""", (0, 0x03000000, 0, 0xFF, 0x10000, 0, 0, 0, 0xFEE00900))

GUESTS["a start-up message is ignored by a processor that runs"] = Guest("""
        lapic   0xf0, 0x1ff
        lapic   0x300, 0x4610
        put     1
        done
""", (1,))

# --- the i8259s: virtual wires

PIC = """
%macro pics 0
        mov     al, 0x11
        out     0x20, al
        out     0xa0, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 0x28
        out     0xa1, al
        mov     al, 4
        out     0x21, al
        mov     al, 2
        out     0xa1, al
        mov     al, 1
        out     0x21, al
        out     0xa1, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0xff
        out     0xa1, al
%endmacro
"""

WIRE = PIC + """
        gate    0x20, irq
        pics
        pit     1000
        sti
        hlt
        cli
        put     1
        mov     eax, [LAPIC + 0x110]
        put     eax
        done
irq:    put     0x20
        mov     al, 0x20
        out     0x20, al
        iret
"""

GUESTS["virtual wire through LINT0"] = Guest(
    "lapic 0xf0, 0x1ff\nlapic 0x350, 0x700\nlapic 0x80, 0xff\n" + WIRE, (0x20, 1, 0))
GUESTS["virtual wire through the I/O APIC's pin 0"] = Guest(
    "lapic 0xf0, 0x1ff\nlapic 0x80, 0xff\nioapic 0x10, 0x700\n" + WIRE, (0x20, 1, 0),
    differs="QEMU's pin 0 has no wire")
GUESTS["with the APIC disabled INTR is the i8259s'"] = Guest(
    "set_msr 0x1b, 0xfee00100\nlapic 0xf0, 0x1ff\n" + WIRE.replace("mov     eax, [LAPIC + 0x110]",
                                                                   "xor eax, eax"),
    (0x20, 1, 0))

GUESTS["two interrupts in turn through pin 0"] = Guest(PIC + """
        gate    0x20, irq0
        gate    0x25, irq5
        lapic   0xf0, 0x1ff
        ioapic  0x10, 0x700
        pics
        mov     al, 0xde
        out     0x21, al
        mov     edx, 0x2005
        mov     al, 1
        out     dx, al
        pit     1
        mov     ecx, 100
.wait:  in      al, 0x61
        loop    .wait
        sti
        nop
        nop
        cli
        done
irq0:   put     0x20
        mov     al, 0x20
        out     0x20, al
        iret
irq5:   put     0x25
        mov     al, 0x20
        out     0x20, al
        iret
""", (0x20, 0x25), devices=("pc-testdev",), differs="QEMU's pin 0 has no wire")

GUESTS["an interrupt that goes before INTA is the spurious one"] = Guest(PIC + """
        gate    0x25, irq5
        gate    0x27, spurious
        lapic   0xf0, 0x1ff
        ioapic  0x10, 0x700
        pics
        mov     edx, 0x4d0
        mov     al, 0x20                ; IRQ 5 is a level
        out     dx, al
        mov     al, 0xdf
        out     0x21, al
        mov     edx, 0x2005
        mov     al, 1
        out     dx, al
        mov     al, 0
        out     dx, al
        sti
        nop
        cli
        put     1
        done
irq5:   put     0x25
        iret
spurious:
        put     0x27
        iret
""", (0x27, 1), devices=("pc-testdev",), differs="QEMU's pin 0 has no wire")

# --- the I/O APIC

GUESTS["a level comes again after its EOI until the line is low"] = Guest("""
        gate    0x71, irq
        lapic   0xf0, 0x1ff
        ioapic  0x10 + 2 * 10, 0x8071
        xor     ebx, ebx
        mov     edx, 0x2000 + 10
        mov     al, 1
        sti
        out     dx, al
        nop
        nop
        nop
        nop
        cli
        put     ebx
        mov     dword [IOAPIC], 0x10 + 2 * 10
        mov     eax, [IOAPIC + 0x10]
        put     eax
        done
irq:    inc     ebx
        mov     dword [IOAPIC], 0x10 + 2 * 10
        mov     eax, [IOAPIC + 0x10]
        put     eax
        cmp     ebx, 3
        jb      .eoi
        mov     al, 0
        out     dx, al
.eoi:   lapic   0xb0, 0
        iret
""", (0xC071, 0xC071, 0xC071, 3, 0x8071), devices=("pc-testdev",))

GUESTS["each interrupt line of the test device"] = Guest("""
        gate    0x70, irq
        lapic   0xf0, 0x1ff
        sti
        mov     ebx, 23
.line:  lea     eax, [ebx * 2 + 0x10]
        mov     [IOAPIC], eax
        mov     dword [IOAPIC + 0x10], 0x70
        lea     edx, [ebx + 0x2000]
        mov     al, 1
        out     dx, al
        nop
        mov     al, 0
        out     dx, al
        mov     dword [IOAPIC + 0x10], 0x10000
        dec     ebx
        jns     .line
        cli
        done
irq:    put     ebx
        lapic   0xb0, 0
        iret
""", (*range(23, 2, -1), 2, 1), devices=("pc-testdev",),
    differs="QEMU aborts at an interrupt that is not ISA's")

# --- system management mode

#: to the mode, with something to lose in each register; then an SMI, and what is there behind it
_STATE = """
%macro state 1                  ; DR's size
        mov     %1, dr0
        mov     [RESULT + 0x20], %1
        mov     %1, dr3
        mov     [RESULT + 0x28], %1
        mov     %1, dr6
        mov     [RESULT + 0x30], %1
        mov     %1, dr7
        mov     [RESULT + 0x38], %1
        mov     %1, cr0
        mov     [RESULT + 0x40], %1
        mov     %1, cr2
        mov     [RESULT + 0x48], %1
        mov     %1, cr3
        mov     [RESULT + 0x50], %1
        mov     %1, cr4
        mov     [RESULT + 0x58], %1
        get_msr 0xc0000080, RESULT + 0x60
        get_msr 0xc0000100, RESULT + 0x68
        get_msr 0xc0000101, RESULT + 0x70
        get_msr 0xc0000102, RESULT + 0x78
        mov     [RESULT + 0x80], cs
        mov     [RESULT + 0x82], ds
        mov     [RESULT + 0x84], es
        mov     [RESULT + 0x86], fs
        mov     [RESULT + 0x88], gs
        mov     [RESULT + 0x8a], ss
        sgdt    [RESULT + 0x90]
        sidt    [RESULT + 0xa0]
%endmacro
%macro paging 2                 ; PAE tables for long mode or not: the first entry's flags, EFER
        mov     edi, 0x10000
        mov     ecx, 0xc00
        xor     eax, eax
        rep     stosd
        mov     dword [0x10000], 0x11000 + %1
%if %2
        mov     dword [0x11000], 0x12007
        mov     dword [0x12000], 0xe7
        mov     dword [0x12008], 0x2000e7
%else
        mov     dword [0x11000], 0xe3
        mov     dword [0x11008], 0x2000e3
%endif
        mov     eax, 0x10000
        mov     cr3, eax
        mov     eax, 0x620
        mov     cr4, eax
%if %2
        set_msr 0xc0000080, %2
%endif
        mov     eax, cr0
        or      eax, 0x80010022
        mov     cr0, eax
%endmacro
        mov     eax, 0x11223344
        mov     dr0, eax
        mov     eax, 0x44556677
        mov     dr3, eax
        mov     eax, 0x400
        mov     dr7, eax
        mov     eax, 0xffff4ff1
        mov     dr6, eax
        mov     eax, 0xcafebabe
        mov     cr2, eax
        lldt    [ldt_at]
        ltr     [tss_at]
"""

_VALUES = """
        mov     ecx, 0x55556666
        mov     edx, 0x77778888
        mov     esi, 0x12121212
        mov     edi, 0x34343434
        mov     ebp, 0x56565656
        mov     eax, 0x78787801
        stc
        std
        out     0xb2, al
        nop
"""

_LEFT = """
        mov     [RESULT], eax
        mov     [RESULT + 4], ebx
        mov     [RESULT + 8], ecx
        mov     [RESULT + 0xc], edx
        mov     [RESULT + 0x10], esi
        mov     [RESULT + 0x14], edi
        mov     [RESULT + 0x18], ebp
        mov     [RESULT + 0x1c], esp
"""

#: what the handler finds, its save area, and rubbish in every register
_SMI = """
        bits    16
%macro store 2
        a32 mov [dword %1], %2
%endmacro
smi:    store   RESULT + 0x100, eax
        store   RESULT + 0x104, ebx
        store   RESULT + 0x108, ecx
        store   RESULT + 0x10c, edx
        store   RESULT + 0x110, esp
        mov     eax, cr0
        store   RESULT + 0x114, eax
        mov     eax, cr3
        store   RESULT + 0x118, eax
        mov     eax, cr4
        store   RESULT + 0x11c, eax
        mov     eax, dr7
        store   RESULT + 0x120, eax
        mov     ecx, 0xc0000080
        rdmsr
        store   RESULT + 0x124, eax
        store   RESULT + 0x130, cs
        store   RESULT + 0x132, ds
        store   RESULT + 0x134, ss
        store   RESULT + 0x136, gs
        a32 sidt [dword RESULT + 0x140]
        a32 sgdt [dword RESULT + 0x150]
        mov     esp, 0x6ff0
        pushfd
        pop     eax
        store   RESULT + 0x160, eax
        mov     esi, 0x3fe00
        mov     edi, RESULT + 0x200
        mov     ecx, 0x200
        cld
        a32 rep movsb
        mov     eax, 0x0badbad0
        mov     ebx, eax
        mov     ecx, eax
        mov     edx, eax
        mov     ebp, eax
        mov     cr2, eax
        mov     ax, 0x1234
        mov     fs, ax
        mov     gs, ax
        rsm
smi_end:
"""

_MODES = {
    "real mode": """
        jmp     0x58:.sixteen - 0xf0000 + 0xf0000
        bits    16
.sixteen:
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        jmp     0xf000:.real - 0xf0000
.real:  mov     ax, 0x2345
        mov     es, ax
        mov     ax, 0x3456
        mov     fs, ax
        mov     ax, 0x4567
        mov     gs, ax
        mov     ax, 0x100
        mov     ss, ax
        mov     esp, 0x6000
        xor     ax, ax
        mov     ds, ax
        mov     ebx, 0x44443333
""" + _VALUES + _LEFT + """
        state   eax
        pushfd
        pop     dword [RESULT + 0xb8]
        done
""",
    "protected mode": "mov ebx, 0x44443333\n" + _VALUES + _LEFT + """
        state   eax
        pushfd
        pop     dword [RESULT + 0xb8]
        sldt    [RESULT + 0xb0]
        str     [RESULT + 0xb2]
        done
""",
    "protected mode with paging": "paging 1, 0\nmov ebx, 0x44443333\n" + _VALUES + _LEFT + """
        state   eax
        pushfd
        pop     dword [RESULT + 0xb8]
        sldt    [RESULT + 0xb0]
        str     [RESULT + 0xb2]
        done
""",
    "compatibility mode": "paging 7, 0x901\nmov ebx, 0x44443333\n" + _VALUES + _LEFT + """
        state   eax
        pushfd
        pop     dword [RESULT + 0xb8]
        sldt    [RESULT + 0xb0]
        str     [RESULT + 0xb2]
        done
""",
    "64-bit mode": """
        paging  7, 0x901
        jmp     0x18:.long
        bits    64
.long:  set_msr 0xc0000100, 0x0000123412345678
        set_msr 0xc0000101, 0xffff82349abcdef0
        set_msr 0xc0000102, 0xffff83349abcdef1
        mov     r8, 0x8888888888888888
        mov     r9, 0x9999999999999999
        mov     r10, 0xaaaaaaaaaaaaaaaa
        mov     r11, 0xbbbbbbbbbbbbbbbb
        mov     r12, 0xcccccccccccccccc
        mov     r13, 0xdddddddddddddddd
        mov     r14, 0xeeeeeeeeeeeeeeee
        mov     r15, 0xffffffffffffff0f
        mov     rbx, 0x1111222233334444
""" + _VALUES + _LEFT + """
        state   rax
        pushfq
        pop     qword [RESULT + 0xb8]
        sldt    [RESULT + 0xb0]
        str     [RESULT + 0xb2]
        mov     [RESULT + 0xc0], r8
        mov     [RESULT + 0xc8], r9
        mov     [RESULT + 0xd0], r10
        mov     [RESULT + 0xd8], r11
        mov     [RESULT + 0xe0], r12
        mov     [RESULT + 0xe8], r13
        mov     [RESULT + 0xf0], r14
        mov     [RESULT + 0xf8], r15
        done
""",
}
for _name, _body in _MODES.items():
    GUESTS[f"an SMI in {_name} and back"] = Guest(
        SMM + _STATE + _body + _SMI,
        (0x78787801, 0x33334444 if "64" in _name else 0x44443333, 0x55556666, 0x77778888,
         0x12121212, 0x34343434, 0x56565656, 0x6000 if "real" in _name else 0x7000))

GUESTS["an SMI in ring 3"] = Guest(SMM + """
        gate    0x80, back
        ltr     [tss_at]
        mov     byte [IDT + 8 * 0x80 + 5], 0xee
        push    dword 0x2b
        push    dword 0x6800
        push    dword 0x3002
        push    dword 0x23
        push    dword .user
        iret
.user:  mov     ebx, 0x1234
        out     0xb2, al
        nop
        mov     ecx, cs
        int     0x80
back:   mov     ax, 0x10
        mov     ds, ax
        put     ebx
        put     ecx
        done
        bits    16
smi:    xor     ebx, ebx
        rsm
smi_end:
""", (0x1234, 0x23))

GUESTS["an SMI in virtual-8086 mode"] = Guest(SMM + """
        gate    0x80, back
        ltr     [tss_at]
        mov     byte [IDT + 8 * 0x80 + 5], 0xee
        copy    .v86, 0x9000, .v86_end - .v86
        push    dword 0x4444            ; GS FS DS ES SS ESP EFLAGS CS EIP
        push    dword 0x3333
        push    dword 0x2222
        push    dword 0x1111
        push    dword 0x0500
        push    dword 0x1000
        push    dword 0x23002
        push    dword 0x0900
        push    dword 0
        iret
.v86:   bits    16
        mov     bx, 0x1234
        out     0xb2, al
        nop
        mov     cx, cs
        mov     dx, ds
        int     0x80
        bits    32
.v86_end:
back:   mov     eax, [esp + 8]
        mov     ebp, 0x10
        mov     ds, ebp
        put     ebx
        put     ecx
        put     edx
        put     eax
        done
        bits    16
smi:    xor     ebx, ebx
        mov     ds, bx
        rsm
smi_end:
""", (0x1234, 0x900, 0x2222, 0x23002))

GUESTS["an SMI from the APIC ends HLT"] = Guest(SMM + """
        lapic   0xf0, 0x1ff
        ioapic  0x14, 0x200             ; pin 2, the PIT: SMI
        pit     2000
        hlt
        put     2
        lapic   0x310, 0
        lapic   0x300, 0x4200           ; and from itself
        nop
        put     3
        done
        bits    16
smi:    mov     ebx, 0x5000
        mov     edi, [ebx]
        mov     dword [edi], 0x11
        add     dword [ebx], 4
        rsm
smi_end:
""", (0x11, 2, 0x11, 3))

GUESTS["an SMI comes before an NMI and that before an interrupt"] = Guest(SMM + """
        gate    2, nmi
        gate    0x60, irq
        lapic   0xf0, 0x1ff
        lapic   0x300, 0x40060
        lapic   0x310, 0
        sti
        out     0xb2, al
        nop
        put     4
        cli
        done
nmi:    put     2
        iret
irq:    put     3
        lapic   0xb0, 0
        iret
        bits    16
smi:    mov     ebx, 0x5000
        mov     edi, [ebx]
        mov     dword [edi], 1
        mov     eax, 0xfee00300
        mov     dword [eax], 0x4400     ; an NMI, which waits for RSM
        nop
        mov     dword [edi + 4], 0x11
        add     dword [ebx], 8
        rsm
smi_end:
""", (1, 0x11, 2, 3, 4))

GUESTS["a second SMI in SMM is remembered"] = Guest(SMM + """
        out     0xb2, al
        nop
        put     9
        done
        bits    16
smi:    mov     ebx, 0x5000
        mov     edi, [ebx]
        mov     dword [edi], 1
        cmp     edi, 0x6000
        jne     .out
        out     0xb2, al
        out     0xb2, al
        nop
        mov     dword [edi], 2
.out:   add     dword [ebx], 4
        rsm
smi_end:
""", (2, 1, 9))

GUESTS["IRET in SMM lets an NMI come"] = Guest(SMM + """
        mov     word [IDT + 8], 0x8100          ; real mode's vector 2, in SMRAM
        mov     word [IDT + 10], 0x3000
        copy    nmi, 0x38100, nmi_end - nmi
        lapic   0xf0, 0x1ff
        out     0xb2, al
        nop
        put     3
        done
        bits    16
smi:    mov     esp, 0x7800
        mov     ebx, 0x5000
        mov     edi, [ebx]
        mov     eax, 0xfee00300
        mov     dword [eax], 0x4400
        nop
        mov     dword [edi], 1
        add     edi, 4
        pushf
        push    cs
        call    .next
.next:  pop     ax
        add     ax, .behind - .next
        push    ax
        iret
.behind:
        nop
        mov     [ebx], edi
        rsm
smi_end:
nmi:    mov     dword [edi], 2
        add     edi, 4
        iret
nmi_end:
""", (1, 2, 3))

GUESTS["SMBASE moves"] = Guest(SMM + """
        copy    smi2, 0x58000, smi2_end - smi2
        out     0xb2, al
        nop
        out     0xb2, al
        nop
        put     0xff
        done
        bits    16
smi:    mov     ebx, 0x3fef8
        mov     dword [dword ebx + 8], 0x50000
        mov     eax, [ebx]
        mov     edi, 0x6000
        mov     [edi], eax              ; not used: 0
        mov     eax, [ebx + 4]
        mov     [edi + 4], eax          ; revision
        mov     ebx, 0x5000
        add     dword [ebx], 8
        rsm
smi_end:
smi2:   mov     ebx, 0x5000
        mov     edi, [ebx]
        xor     eax, eax
        mov     ax, cs
        mov     [edi], eax
        add     dword [ebx], 4
        rsm
smi2_end:
""", (0, 0x20064, 0x5000, 0xFF))

GUESTS["RSM elsewhere is an invalid opcode"] = Guest("""
        gate    6, ud
        rsm
        put     1
ud:     put     6
        done
""", (6,))

GUESTS["without APMC_EN a command makes no SMI"] = Guest("""
        copy    smi, 0x38000, smi_end - smi
        mov     al, 0x5a
        out     0xb2, al
        nop
        in      al, 0xb2
        movzx   eax, al
        put     eax
        done
        bits    16
smi:    mov     ebx, 0x5000
        add     dword [ebx], 4
        rsm
smi_end:
""", (0x5A, 0))


_SMRAM = """
%macro smram 1
        pci     0x80000070, (%1) << 16
%endmacro
"""

GUESTS["SMRAM: open, closed, in SMM"] = Guest(SMM + _SMRAM + """
        mov     dword [0xa0000], 0x11111111     ; nobody there
        smram   0x42
        mov     dword [0xa0000], 0x22222222
        mov     eax, [0xa0000]
        put     eax
        smram   0x02
        mov     dword [0xa0000], 0x33333333
        out     0xb2, al
        nop
        smram   0x0a
        out     0xb2, al
        nop
        smram   0x4a
        mov     eax, [0xa0000]
        put     eax
        smram   0x02
        done
        bits    16
smi:    mov     ebx, 0x5000
        mov     edi, [ebx]
        add     dword [ebx], 4
        mov     esi, 0xa0000
        mov     eax, [esi]
        mov     [edi], eax
        inc     dword [esi]
        rsm
smi_end:
""", (0x22222222, 0xFFFFFFFF, 0x22222222, 0x22222223), differs="open bus")

GUESTS["SMRAM: locked until a reset"] = Guest(_SMRAM + """
        smram   0x1a
        smram   0x4a
        smram   0x02
        pci     0x80000070, 0
        mov     edx, 0xcf8
        mov     eax, 0x80000070
        out     dx, eax
        mov     edx, 0xcfe
        in      al, dx
        movzx   eax, al
        put     eax
        done
""", (0x1A,), differs="QEMU has no lock")


@pytest.mark.parametrize("name", GUESTS)
def test_guests(name: str) -> None:
    guest = GUESTS[name]
    left = run_snooze(guest.body, cpu=guest.cpu, devices=guest.devices)
    assert left, "it did not get to its end"
    words = tuple(int.from_bytes(left[4 * i:4 * i + 4], "little")
                  for i in range(len(guest.expected)))
    assert [hex(word) for word in words] == [hex(word) for word in guest.expected]
    if not guest.expected:
        assert any(left)


@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize("name", [name for name, guest in GUESTS.items() if not guest.differs])
def test_guests_find_the_same_on_qemu(name: str) -> None:
    """All of it: for SMIs that is the whole save area and each register behind RSM."""
    guest = GUESTS[name]
    here = run_snooze(guest.body, cpu=guest.cpu, devices=guest.devices)
    there = run_qemu(guest.body, cpu=guest.cpu, devices=guest.devices)
    assert here and [f"{at:#x}: {x:02x} {y:02x}" for at, (x, y) in enumerate(
        zip(here, there, strict=True)) if x != y] == []
