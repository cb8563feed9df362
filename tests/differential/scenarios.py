"""Scenarios for `guests`: what exceptions and interrupts do in each mode.

What is expected is by the book (SDM volume 3A, chapters 6, 7, 17 and 20, with the pseudocode
of volume 2), and is what QEMU does unless `differs` says otherwise.  A line is
a record: the vector, then fields of `guests.Event`; or `show` and a value; or
`triple fault`.  All numbers are hexadecimal.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.differential.guests import LONG, PROTECTED, REAL

__all__ = ["SCENARIOS", "Scenario"]


class Scenario(NamedTuple):
    """*expected* from *body* in *mode*; *differs* is what QEMU does otherwise."""

    name: str
    mode: str
    body: str
    expected: str
    differs: str = ""


SCENARIOS = (
    Scenario("exceptions in real mode", REAL, """
        expect  .a1, .a2
        xor     ax, ax
.a1:    div     al
.a2:    expect  .b1, .b2
.b1:    int3
.b2:    expect  .c1, .c2
        mov     al, 0x7f
        add     al, 0x7f
.c1:    into
.c2:    expect  .d1, .d2
        mov     word [kept], 1
        mov     word [kept+2], 5
        mov     ax, 7
.d1:    bound   ax, [kept]
.d2:    expect  .e1, .e2
.e1:    ud2
.e2:    expect  .f1, .f2
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
.f1:    fnop
.f2:    clts
        expect  .g1, .g2
.g1:    int     0x20
.g2:    expect  .h1, .h2
        pushf
        or      word [esp], 0x100
        popf
.h1:    nop
.h2:    pushf
        pop     ax
        and     ah, 0xfe
        push    ax
        popf
        expect  .i1, .i2
.i1:    db      0xf1
.i2:    mov     eax, cr0
        or      al, 0x20
        mov     cr0, eax
        fninit
        mov     word [kept], 0
        fldcw   [kept]
        fldz
        fld1
        fdivrp
        expect  .j1, .j2
.j1:    fwait
.j2:    fninit
        expect  .kk1, .kk2
.kk1:   lock nop
.kk2:   expect  .m1, .m2
.m1:    lldt    ax
.m2:    expect  .n1, .n2
.n1:    str     ax
.n2:    done
""", """
0 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
3 ip=1 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
4 ip=1 cs=0 flags=892 ss=0 sp=7000 frame=6ffa
5 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
6 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
7 ip=0 cs=0 flags=6 ss=0 sp=7000 frame=6ffa
20 ip=2 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
1 ip=1 cs=0 flags=146 ss=0 sp=7000 dr6=4ff0 frame=6ffa
1 ip=1 cs=0 flags=46 ss=0 sp=7000 dr6=4ff0 frame=6ffa
10 ip=0 cs=0 flags=6 ss=0 sp=7000 frame=6ffa
6 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
6 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
6 ip=0 cs=0 flags=46 ss=0 sp=7000 frame=6ffa
"""),
    Scenario("an interrupt table that is too short is a triple fault", REAL, """
        mov     word [idtr], 0x1f
        lidt    [idtr]
        expect  .a1, .a2
.a1:    int     0x20
.a2:    done
""", """
triple fault
"""),
    Scenario("exceptions in ring 0", PROTECTED, """
        expect  .a1, .a2
        xor     ax, ax
.a1:    div     al
.a2:    expect  .b1, .b2
.b1:    int3
.b2:    expect  .c1, .c2
        mov     al, 0x7f
        add     al, 0x7f
.c1:    into
.c2:    expect  .d1, .d2
        mov     dword [kept], 1
        mov     dword [kept+4], 5
        mov     eax, 7
.d1:    bound   eax, [kept]
.d2:    expect  .e1, .e2
.e1:    ud2
.e2:    expect  .f1, .f2
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
.f1:    fnop
.f2:    clts
        expect  .g1, .g2
.g1:    int     0x20
.g2:    expect  .h1, .h2
        pushfd
        or      word [esp], 0x100
        popfd
.h1:    nop
.h2:    pushfd
        and     word [esp], 0xfeff
        popfd
        expect  .i1, .i2
.i1:    db      0xf1
.i2:
        fninit
        mov     word [kept], 0
        fldcw   [kept]
        fldz
        fld1
        fdivrp
        expect  .j1, .j2
.j1:    fwait
.j2:    fninit
        expect  .kk1, .kk2
.kk1:   lock nop
.kk2:   expect  .l1, .l2
        mov     eax, 0x1123
.l1:    mov     ds, ax
.l2:    expect  .m1, .m2
        mov     eax, 0x68
.m1:    mov     ds, ax
.m2:    expect  .n1, .n2
.n1:    mov     ss, ax
.n2:    expect  .o1, .o2
.o1:    jmp     0x60:0
.o2:    expect  .p1, .p2
.p1:    int     0x50
.p2:    mov     byte [IDT+8*0x21+5], 0x0e
        expect  .q1, .q2
.q1:    int     0x21
.q2:    expect  .s1, .s2
        mov     ax, 0x40
        mov     byte [gdt+0x45], 0x8b
.s1:    ltr     ax
.s2:    expect  .t1, .t2
        mov     eax, 0x68
.t1:    lldt    ax
.t2:    expect  .u1, .u2
        mov     eax, 0x78
.u1:    mov     ss, ax
.u2:    expect  .v1, .v2
.v1:    call    0x80:0
.v2:    done
""", """
0 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
3 ip=1 cs=8 flags=46 ss=10 sp=7000 frame=6ff4
4 ip=1 cs=8 flags=892 ss=10 sp=7000 frame=6ff4
5 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
7 ip=0 cs=8 flags=10006 ss=10 sp=7000 frame=6ff4
20 ip=2 cs=8 flags=46 ss=10 sp=7000 frame=6ff4
1 ip=1 cs=8 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6ff4
1 ip=1 cs=8 flags=46 ss=10 sp=7000 dr6=4ff0 frame=6ff4
10 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
d error=1120 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=68 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
c error=68 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=60 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
d error=282 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=10a ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
d error=40 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
d error=68 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
d error=78 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
6 ip=-12b3 cs=80 flags=10016 ss=10 sp=6ff8 frame=6fec
"""),
    Scenario("alignment checks", PROTECTED, """
        mov     eax, cr0
        or      eax, 0x40000
        mov     cr0, eax
        expect  .a1, .a2
        mov     ebx, 0x701
        ring3   .user, 0x40002
.user:  mov     ebx, 0x701
.a1:    mov     eax, [ebx]
.a2:    expect  .b1, .b2
        pushfd
        or      dword [esp], 0x40000
        popfd
.b1:    mov     eax, [ebx]
.b2:    ring3   .user2, 2
.user2: mov     eax, [ebx]
        expect  .c1, .c2
.c1:    cli
.c2:    done
""", """
11 error=0 ip=0 cs=23 flags=50002 ss=2b sp=6800 frame=6dec
d error=0 ip=0 cs=23 flags=10002 ss=2b sp=6800 frame=6dec
""",
             "QEMU: #AC is not there"),
    Scenario("EM, TS and MP", PROTECTED, """
        mov     eax, cr0
        or      al, 4
        mov     cr0, eax
        expect  .a1, .a2
.a1:    fnop
.a2:    expect  .b1, .b2
.b1:    fwait
        show    1
        mov     eax, cr0
        and     al, 0xf3
        or      al, 2
        mov     cr0, eax
        fwait
        show    2
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
        expect  .b1, .b2
.b2:    expect  .c1, .c2
        mov     eax, cr0
        or      al, 0xa
        and     al, 0xfb
        mov     cr0, eax
.c1:    fwait
.c2:    mov     eax, cr0
        and     al, 0xfd
        mov     cr0, eax
        fwait
        show    3
        mov     eax, cr4
        or      ah, 2
        mov     cr4, eax
        expect  .d1, .d2
.d1:    movaps  xmm0, xmm1
.d2:    expect  .e1, .e2
.e1:    movq    mm0, mm1
.e2:    mov     eax, cr0
        and     al, 0xf7
        or      al, 4
        mov     cr0, eax
        expect  .f1, .f2
.f1:    movaps  xmm0, xmm1
.f2:    expect  .g1, .g2
.g1:    movq    mm0, mm1
.g2:    mov     eax, cr0
        and     al, 0xf3
        mov     cr0, eax
        mov     eax, cr4
        and     ah, 0xfd
        mov     cr4, eax
        expect  .h1, .h2
.h1:    movaps  xmm0, xmm1
.h2:    done
""", """
7 ip=0 cs=8 flags=10006 ss=10 sp=7000 frame=6ff4
show 1
show 2
7 ip=0 cs=8 flags=10002 ss=10 sp=7000 frame=6ff4
show 3
7 ip=0 cs=8 flags=10002 ss=10 sp=7000 frame=6ff4
7 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10006 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
"""),
    Scenario("page faults", PROTECTED, """
        paging
        mov     eax, cr0
        or      eax, 0x10000
        mov     cr0, eax
        page    0x300000, 0
        page    0x301000, 5
        page    0x302000, 3
        expect  .a1, .a2
.a1:    mov     eax, [0x300123]
.a2:    expect  .b1, .b2
.b1:    mov     [0x300ffe], eax
.b2:    expect  .c1, .c2
.c1:    mov     [0x301004], eax
.c2:    expect  0x300000, .d2
        mov     eax, 0x300000
        jmp     eax
.d2:    ring3   .user, 2
.user:  expect  .e1, .e2
.e1:    mov     eax, [0x300010]
.e2:    ring3   .user2, 2
.user2: expect  .f1, .f2
.f1:    mov     [0x301010], eax
.f2:    ring3   .user3, 2
.user3: expect  .g1, .g2
.g1:    mov     eax, [0x302010]
.g2:    ring3   .user4, 2
.user4: expect  0x302000, .h2
        jmp     0x302000
.h2:    expect  .j1, .j2
.j1:    mov     eax, [0x2ffffe]
.j2:    done
""", """
e error=0 ip=0 cs=8 flags=10082 ss=10 sp=7000 cr2=300123 frame=6ff4
e error=2 ip=0 cs=8 flags=10046 ss=10 sp=7000 cr2=300ffe frame=6ff4
e error=3 ip=0 cs=8 flags=10046 ss=10 sp=7000 cr2=301004 frame=6ff4
e error=0 ip=0 cs=8 flags=10046 ss=10 sp=7000 cr2=300000 frame=6ff4
e error=4 ip=0 cs=23 flags=10002 ss=2b sp=6800 cr2=300010 frame=6dec
e error=7 ip=0 cs=23 flags=10002 ss=2b sp=6800 cr2=301010 frame=6dec
e error=5 ip=0 cs=23 flags=10002 ss=2b sp=6800 cr2=302010 frame=6dec
e error=5 ip=0 cs=23 flags=10002 ss=2b sp=6800 cr2=302000 frame=6dec
e error=0 ip=0 cs=8 flags=10046 ss=10 sp=7000 cr2=300000 frame=6ff4
"""),
    Scenario("INT n through a task gate, and back", PROTECTED, """
        task    TSS_T, .other, 0x6400
        gate    0x21, 0x48, 0, 0x85
        int     0x21
        show    2
        str     ax
        movzx   eax, ax
        show    eax
        int     0x21
        mov     eax, [gdt+0x4c]
        show    eax
        mov     eax, [TSS_T+0x24]
        show    eax
        mov     eax, [TSS+0x24]
        show    eax
        done
.other: str     ax
        movzx   eax, ax
        show    eax
        pushfd
        pop     eax
        show    eax
        mov     eax, [TSS_T]
        show    eax
        mov     eax, [gdt+0x3c]
        show    eax
        mov     eax, [gdt+0x4c]
        show    eax
        mov     eax, cr0
        show    eax
        clts
        iretd
        jmp     .other
""", """
show 48
show 4002
show 38
show 8b00
show 8b00
show 60000039
show 2
show 38
show 48
show 4002
show 38
show 8b00
show 8b00
show 60000039
show 8900
show 2
show 46
"""),
    Scenario("an error code goes to the task's stack", PROTECTED, """
        task    TSS_T, .other, 0x6400
        gate    13, 0x48, 0, 0x85
        expect  .a1, .a2
        mov     eax, 0x1120
.a1:    mov     es, ax
.a2:    show    5
        done
.other: mov     eax, [esp]
        show    eax
        show    esp
        mov     eax, [TSS+0x20]
        sub     eax, [base]
        show    eax
        mov     eax, [TSS+0x24]
        show    eax
        add     dword [TSS+0x20], 2
        add     esp, 4
        iretd
""", """
show 1120
show 63f4
show 0
show 10046
show 5
""",
             "QEMU: through a task gate a fault does not set RF"),
    Scenario("a double fault through a task gate", PROTECTED, """
        task    TSS_DF, .other, 0x6400
        gate    8, 0x40, 0, 0x85
        mov     byte [IDT+8*13+5], 0x0e
        expect  .a1, .a2
        mov     eax, 0x1120
.a1:    mov     es, ax
.a2:    show    5
        done
.other: mov     eax, [esp]
        show    eax
        show    esp
        mov     eax, [TSS+0x20]
        sub     eax, [base]
        show    eax
        mov     eax, [TSS+0x24]
        show    eax
        done
""", """
show 0
show 63f4
show 0
show 46
"""),
    Scenario("JMP, CALL and IRET to tasks", PROTECTED, """
        task    TSS_T, .other, 0x6400
        jmp     0x48:0x12345678
        show    9
        mov     eax, [gdt+0x3c]
        show    eax
        mov     eax, [gdt+0x4c]
        show    eax
        mov     dword [TSS_T+0x20], .other2
        call    0x48:0
        show    10
        mov     dword [TSS_T+0x20], .other2
        call    0x98:0
        show    11
        expect  .a1, .a2
.a1:    call    0x38:0
.a2:    expect  .b1, .b2
        mov     byte [gdt+0x45], 0x09
.b1:    call    0x40:0
.b2:    expect  .c1, .c2
        mov     byte [gdt+0x45], 0x89
        mov     byte [gdt+0x40], 0x66
.c1:    call    0x40:0
.c2:    expect  .d1, .d2
        pushfd
        or      word [esp], 0x4000
        popfd
        mov     word [TSS], 0x40
.d1:    iretd
.d2:    done
.other: pushfd
        pop     eax
        show    eax
        mov     eax, [gdt+0x3c]
        show    eax
        jmp     0x38:0
.other2:
        pushfd
        pop     eax
        show    eax
        movzx   eax, word [TSS_T]
        show    eax
        iretd
""", """
show 2
show 8900
show 9
show 8b00
show 8900
show 4002
show 38
show a
show 4002
show 38
show b
d error=38 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=40 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
a error=40 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
a error=40 ip=0 cs=8 flags=14046 ss=10 sp=7000 frame=6ff4
"""),
    Scenario("a task switch clears local breakpoints; T is a trap", PROTECTED, """
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        mov     eax, 0x455
        mov     dr7, eax
        expect  .other, .a2
        jmp     0x48:0
        show    1
.a2:    mov     eax, dr7
        show    eax
        done
.other: show    2
        done
""", """
1 ip=0 cs=8 flags=2 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
show 400
""",
             "QEMU: the trap flag of a task is not there"),
    Scenario("segments of a new task that are not right", PROTECTED, """
        task    TSS_T, .other, 0x6400
        mov     dword [TSS_T+0x54], 0x1120
        expect  .other, .a2
        jmp     0x48:0
.other: show    2
.a2:    mov     byte [gdt+0x3d], 0x89
        mov     byte [gdt+0x4d], 0x89
        mov     ax, 0x38
        ltr     ax
        task    TSS_T, .other, 0x6400
        mov     dword [TSS_T+0x50], 0x68
        expect  .other, .b2
        jmp     0x48:0
.b2:    mov     byte [gdt+0x3d], 0x89
        mov     byte [gdt+0x4d], 0x89
        mov     ax, 0x38
        ltr     ax
        task    TSS_T, .other, 0x6400
        mov     dword [TSS_T+0x4c], 0x60
        expect  .other, .c2
        jmp     0x48:0
.c2:    mov     byte [gdt+0x3d], 0x89
        mov     byte [gdt+0x4d], 0x89
        mov     ax, 0x38
        ltr     ax
        task    TSS_T, .other, 0x6400
        mov     dword [TSS_T+0x60], 0x1120
        expect  .other, .d2
        jmp     0x48:0
.d2:    mov     byte [gdt+0x3d], 0x89
        mov     byte [gdt+0x4d], 0x89
        mov     ax, 0x38
        ltr     ax
        task    TSS_T, .other, 0x6400
        mov     dword [TSS_T+0x54], 0x68
        expect  .other, .e2
        jmp     0x48:0
.e2:    done
""", """
a error=1120 ip=0 cs=8 flags=10002 ss=10 sp=6400 tr=48 frame=63f4
b error=68 ip=0 cs=8 flags=10002 ss=68 sp=6400 tr=48 frame=63f4
b error=60 ip=0 cs=60 flags=10002 ss=10 sp=6400 tr=48 frame=63f4
a error=1120 ip=0 cs=8 flags=10002 ss=10 sp=6400 tr=48 frame=63f4
b error=68 ip=0 cs=8 flags=10002 ss=10 sp=6400 tr=48 frame=63f4
""",
             "QEMU: what is wrong with the new task is told at the old one's instruction"),
    Scenario("a task in ring 3", PROTECTED, """
        task    TSS_T, .user, 0x6400
        mov     dword [TSS_T+0x4c], 0x23
        mov     dword [TSS_T+0x50], 0x2b
        mov     dword [TSS_T+0x54], 0x2b
        mov     dword [TSS_T+0x48], 0x2b
        mov     dword [TSS_T+4], 0x6300
        mov     dword [TSS_T+8], 0x10
        expect  .user, .a2
        jmp     0x48:0
.user:  hlt
.a2:    done
""", """
d error=0 ip=0 cs=23 flags=10002 ss=2b sp=6400 tr=48 frame=62ec
"""),
    Scenario("virtual 8086 mode with IOPL 0", PROTECTED, """
        expect  .a1, .a2
        v86     0x100, .v1-0x1000, 0
.v1:
.a1:    cli
.a2:    expect  .b1, .b2
        v86     0x100, .b1-0x1000, 0
.b1:    sti
.b2:    expect  .c1, .c2
        v86     0x100, .c1-0x1000, 0
        bits    16
.c1:    pushf
        bits    32
.c2:    expect  .d1, .d2
        v86     0x100, .d1-0x1000, 0
        bits    16
.d1:    popf
        bits    32
.d2:    expect  .e1, .e2
        v86     0x100, .e1-0x1000, 0
        bits    16
.e1:    iret
        bits    32
.e2:    expect  .f1, .f2
        v86     0x100, .f1-0x1000, 0
.f1:    int     0x21
.f2:    expect  .g1, .g2
        v86     0x100, .g1-0x1000, 0
.g1:    hlt
.g2:    expect  .h1, .h2
        mov     byte [TSS+0x68+4], 2
        v86     0x100, .h1-0x1000, 0
.h1:    in      al, 0x21
.h2:    expect  .i1, .i2
        v86     0x100, .i1-0x1000, 0
.i1:    int3
.i2:    expect  .j1, .j2
        v86     0x100, .j1-0x1000, 0
.j1:    ud2
.j2:    expect  .m1, .m2
        v86     0x100, .m1-0x1000, 0
.m1:    lldt    ax
.m2:    expect  .n1, .n2
        v86     0x100, .n1-0x1000, 0
.n1:    mov     eax, cr0
.n2:    expect  .o1, .o2
        v86     0x100, .o1-0x1000, 0
        bits    16
.o1:    xor     ax, ax
.o3:    div     al
        bits    32
.o2:    expect  .p1, .p2
        v86     0x100, .p1-0x1000, 0
        bits    16
.p1:    sgdt    [0x600]
        arpl    ax, ax
        bits    32
.p2:    expect  .q1, .q2
        v86     0x100, .q1-0x1000, 0
        bits    16
.q1:    mov     ax, 0x7fff
        add     ax, ax
        into
        bits    32
.q2:    expect  .r1, .r2
        v86     0x100, .r1-0x1000, 0
        bits    16
.r1:    db      0xf1
        bits    32
.r2:    expect  .s1, .s2
        v86     0x100, .s1-0x1000, 0
        bits    16
.s1:    lmsw    ax
        bits    32
.s2:    done
""", """
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
3 ip=-fff cs=100 flags=20002 ss=600 sp=800 frame=6ddc
6 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
6 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
0 ip=-ffe cs=100 flags=30046 ss=600 sp=800 frame=6ddc
6 ip=-ffb cs=100 flags=30002 ss=600 sp=800 frame=6ddc
4 ip=-ffa cs=100 flags=20892 ss=600 sp=800 frame=6ddc
1 ip=-fff cs=100 flags=20002 ss=600 sp=800 dr6=ff0 frame=6ddc
d error=0 ip=-1000 cs=100 flags=30002 ss=600 sp=800 frame=6ddc
"""),
    Scenario("virtual 8086 mode with IOPL 3", PROTECTED, """
        expect  .a1, .a2
        v86     0x100, .v1-0x1000, 0x3000
.v1:    bits    16
        cli
        sti
        cli
        pushf
        pop     ax
        push    ax
        popf
.a1:    int     0x21
        bits    32
.a2:    expect  .b1, .b2
        gate    0x21, 8, stubs+16*0x21, 0xee
        v86     0x100, .b1-0x1000, 0x3000
.b1:    int     0x21
.b2:    expect  .c1, .c2
        v86     0x100, .c1-0x1000, 0x3000
.c1:    in      al, 0x22
        ud2
.c2:    expect  .d1, .d2
        mov     byte [TSS+0x68+4], 0xfb
        v86     0x100, .d1-0x1000, 0x3000
.d1:    in      al, 0x22
        bits    16
        in      ax, 0x22
        bits    32
.d2:    expect  .e1, .e2
        v86     0x100, .e1-0x1000, 0x3000
        bits    16
.e1:    push    word 0x100
        push    word 0x100
        push    word .e3-0x1000
        iret
.e3:    mov     ax, sp
        ud2
        bits    32
.e2:    gate    0x21, 0x70, stubs+16*0x21, 0xee
        expect  .f1, .f2
        v86     0x100, .f1-0x1000, 0x3000
.f1:    int     0x21
.f2:    done
""", """
d error=10a ip=-1000 cs=100 flags=33002 ss=600 sp=800 frame=6ddc
21 ip=-ffe cs=100 flags=23002 ss=600 sp=800 frame=6ddc
6 ip=-ffe cs=100 flags=33002 ss=600 sp=800 frame=6ddc
d error=0 ip=-ffe cs=100 flags=33002 ss=600 sp=800 frame=6ddc
1 ip=-ff4 cs=100 flags=23102 ss=600 sp=800 dr6=4ff0 frame=6ddc
d error=70 ip=-1000 cs=100 flags=33002 ss=600 sp=800 frame=6ddc
"""),
    Scenario("out of virtual 8086 mode by a task gate, and back", PROTECTED, """
        task    TSS_T, .other, 0x6400
        gate    6, 0x48, 0, 0x85
        v86     0x100, .v1-0x1000, 0
.v1:    ud2
        bits    16
        mov     ax, 1
        mov     bx, ds
        ud2
        bits    32
.other: mov     eax, [TSS+0x24]
        show    eax
        mov     eax, [TSS+0x54]
        show    eax
        mov     eax, [TSS+0x4c]
        show    eax
        cmp     dword [TSS+0x28], 1
        je      .fin
        add     dword [TSS+0x20], 2
        iretd
        jmp     .other
.fin:   mov     eax, [TSS+0x34]
        show    eax
        done
""", """
show 30002
show 2222
show 100
show 30002
show 2222
show 100
show 2222
""",
             "QEMU: through a task gate a fault does not set RF"),
    Scenario("a watched MOV SS", LONG, """
        mov     dword [kept], 0x10
        mov     eax, kept
        mov     dr1, rax
        mov     eax, 0xf0040a
        mov     dr7, rax
        expect  .a1, .a2
.a1:    mov     ss, [kept]
        db      0x2e, 0x2e, 0xf1
.a2:    expect  .b1, .b2
.b1:    mov     ss, [kept]
        int     1
.b2:    expect  .c1, .c2
.c1:    mov     ss, [kept]
        int3
.c2:    expect  .d1, .d2
.d1:    mov     ss, [kept]
        nop
        nop
.d2:    expect  .e1, .e2
.e1:    mov     eax, [kept]
        nop
.e2:    expect  .f1, .f2
.f1:    mov     ss, [kept]
        ud2
.f2:    done
""", """
1 ip=7 cs=18 flags=2 ss=10 sp=7000 dr6=ff2 frame=6fd8
1 ip=7 cs=18 flags=46 ss=10 sp=7000 dr6=ff2 frame=6fd8
1 ip=7 cs=18 flags=46 ss=10 sp=7000 dr6=ff2 frame=6fd8
1 ip=7 cs=18 flags=46 ss=10 sp=7000 dr6=ff2 frame=6fd8
1 ip=7 cs=18 flags=46 ss=10 sp=7000 dr6=ff2 frame=6fd8
1 ip=7 cs=18 flags=46 ss=10 sp=7000 dr6=ff2 frame=6fd8
"""),
    Scenario("a single step over HLT", LONG, """
        expect  .a1, .a2
        pushf
        or      word [rsp], 0x100
        popf
        sti
.a1:    hlt
        nop
.a2:    done
""", """
1 ip=0 cs=18 flags=302 ss=10 sp=7000 dr6=4ff0 frame=6fd8
"""),
    Scenario("debug registers: general detect, reserved bits, aliases", LONG, """
        expect  .a1, .a2
        mov     eax, 0x2400
        mov     dr7, rax
.a1:    mov     rax, dr3
.a2:    mov     rax, dr7
        show    rax
        mov     rax, dr6
        show    rax
        expect  .b1, .b2
        mov     eax, 0x2400
        mov     dr7, rax
.b1:    mov     dr3, rax
.b2:    xor     eax, eax
        mov     dr6, rax
        expect  .c1, .c2
        mov     eax, 0x2400
        mov     dr7, rax
        xor     eax, eax
.c1:    mov     dr7, rax
.c2:    mov     rax, dr7
        show    rax
        expect  .d1, .d2
        mov     rax, 0x100000000
.d1:    mov     dr7, rax
.d2:    expect  .e1, .e2
.e1:    mov     dr6, rax
.e2:    expect  .f1, .f2
        mov     rax, 0x100000000
.f1:    mov     dr3, rax
.f2:    mov     rax, cr4
        or      al, 8
        mov     cr4, rax
        expect  .g1, .g2
.g1:    mov     rax, dr4
.g2:    expect  .h1, .h2
.h1:    mov     dr5, rax
.h2:    expect  .i1, .i2
        ring3   .i1, 2
.i1:    mov     rax, dr7
.i2:    expect  .j1, .j2
        ring3   .j1, 2
.j1:    mov     dr7, rax
.j2:    done
""", """
1 ip=0 cs=18 flags=2 ss=10 sp=7000 dr6=2ff0 frame=6fd8
show 400
show ffff2ff0
1 ip=0 cs=18 flags=46 ss=10 sp=7000 dr6=2ff0 frame=6fd8
1 ip=0 cs=18 flags=46 ss=10 sp=7000 dr6=2ff0 frame=6fd8
show 400
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
6 ip=0 cs=18 flags=10006 ss=10 sp=7000 frame=6fd8
6 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
"""),
    Scenario("addresses that are not canonical", LONG, """
        mov     rax, 0x800000000000
        expect  .a1, .a2
.a1:    jmp     rax
.a2:    expect  .b1, .b2
.b1:    call    rax
.b2:    expect  .c1, .c2
        push    rax
.c1:    ret
.c2:    expect  .d1, .d2
        push    rax
.d1:    ret     16
.d2:    expect  .e1, .e2
        mov     [kept], rax
.e1:    jmp     [kept]
.e2:    expect  .f1, .f2
.f1:    call    [kept]
.f2:    expect  .g1, .g2
.g1:    mov     al, [rax]
.g2:    expect  .h1, .h2
        mov     rbp, rax
.h1:    mov     al, [rbp]
.h2:    done
""", """
d error=0 ip=0 cs=18 flags=10002 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=6ff8 frame=6fc8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=6ff8 frame=6fc8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
""",
             "QEMU: the fault comes at the target"),
    Scenario("a pending x87 error in 64-bit mode", LONG, """
        mov     word [kept], 0
        fninit
        fldcw   [kept]
        fldz
        fld1
        fdivrp
        expect  .a1, .a2
.a1:    movq    mm0, mm1
        show    1
.a2:    expect  .b1, .b2
.b1:    emms
        show    2
.b2:    fninit
        fldcw   [kept]
        fldz
        fld1
        fdivrp
        expect  .c1, .c2
.c1:    fld1
        show    3
.c2:    expect  .d1, .d2
.d1:    fnop
.d2:    fninit
        done
""", """
show 1
show 2
show 3
10 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
"""),
    Scenario("IRET to ring 3 keeps the bases of FS and GS", LONG, """
        mov     ax, 0x10
        mov     fs, ax
        mov     gs, ax
        mov     ecx, 0xc0000100
        xor     edx, edx
        mov     eax, 0x1000
        wrmsr
        inc     ecx
        mov     eax, 0x2000
        wrmsr
        expect  .a1, .a2
        ring3   .user, 2
.user:  mov     ax, fs
        mov     bx, gs
.a1:    ud2
.a2:    mov     ecx, 0xc0000100
        rdmsr
        show    rax
        inc     ecx
        rdmsr
        show    rax
        mov     ax, fs
        movzx   eax, ax
        show    rax
        done
""", """
6 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
show 1000
show 2000
show 0
"""),
    Scenario("T of a task that is reached by any way", PROTECTED, """
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        expect  .other, .a2
        jmp     0x48:0
.a2:    mov     ax, 0x38
        mov     byte [gdt+0x3d], 0x89
        ltr     ax
        mov     byte [gdt+0x4d], 0x89
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        xor     eax, eax
        mov     dr6, eax
        expect  .other, .b2
        call    0x48:0
.b2:    mov     ax, 0x38
        mov     byte [gdt+0x3d], 0x89
        ltr     ax
        mov     byte [gdt+0x4d], 0x89
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        gate    0x21, 0x48, 0, 0x85
        expect  .other, .c2
        int     0x21
.c2:    mov     ax, 0x38
        mov     byte [gdt+0x3d], 0x89
        ltr     ax
        mov     byte [gdt+0x4d], 0x89
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        gate    6, 0x48, 0, 0x85
        expect  .other, .d2
        ud2
.d2:    mov     ax, 0x38
        mov     byte [gdt+0x3d], 0x89
        ltr     ax
        mov     byte [gdt+0x4d], 0x8b
        task    TSS_T, .other, 0x6400
        mov     byte [TSS_T+0x64], 1
        mov     word [TSS], 0x48
        expect  .other, .e2
        pushfd
        or      word [esp], 0x4000
        popfd
        iretd
.e2:    mov     ax, 0x38
        mov     byte [gdt+0x3d], 0x89
        ltr     ax
        mov     byte [gdt+0x4d], 0x89
        task    TSS_T, .other2, 0x6400
        mov     byte [TSS+0x64], 1
        expect  .other, .f2
        call    0x48:0
.f1:    show    77
.f2:    mov     dword [base], .f1
        done
.other2:
        mov     dword [base], .f1
        iretd
.other: show    66
        done
""", """
1 ip=0 cs=8 flags=2 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
1 ip=0 cs=8 flags=4002 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
1 ip=0 cs=8 flags=4002 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
1 ip=0 cs=8 flags=4002 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
1 ip=0 cs=8 flags=2 ss=10 sp=6400 dr6=8ff0 tr=48 frame=63f4
1 ip=0 cs=8 flags=46 ss=10 sp=7000 dr6=8ff0 frame=6ff4
""",
             "QEMU: the trap flag of a task is not there"),
    Scenario("INT1 with prefixes", PROTECTED, """
        expect  .a1, .a2
.a1:    db      0x2e, 0x66, 0xf1
.a2:    expect  .b1, .b2
.b1:    db      0xf0, 0xf1
.b2:    expect  .c1, .c2
.c1:    db      0xf1
.c2:    done
""", """
1 ip=3 cs=8 flags=2 ss=10 sp=7000 dr6=ff0 frame=6ff4
6 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
1 ip=1 cs=8 flags=46 ss=10 sp=7000 dr6=ff0 frame=6ff4
"""),
    Scenario("INT1 with REX", LONG, """
        expect  .a1, .a2
.a1:    db      0x48, 0xf1
.a2:    done
""", """
1 ip=2 cs=18 flags=2 ss=10 sp=7000 dr6=ff0 frame=6fd8
"""),
    Scenario("user-mode instruction prevention", LONG, """
        mov     rax, cr4
        or      eax, 0x800
        mov     cr4, rax
        sgdt    [kept]
        smsw    ax
        expect  .a1, .a2
        ring3   .a1, 2
.a1:    sgdt    [kept]
.a2:    expect  .b1, .b2
        ring3   .b1, 2
.b1:    smsw    ax
.b2:    expect  .c1, .c2
        ring3   .c1, 2
.c1:    str     ax
.c2:    expect  .d1, .d2
        ring3   .d0, 2
.d0:    verr    ax
.d1:    sldt    [kept]
.d2:    expect  .e1, .e2
        ring3   .e1, 2
.e1:    db      0x2e, 0x48
        sidt    [kept]
.e2:    mov     rax, cr4
        and     eax, 0xfffff7ff
        mov     cr4, rax
        expect  .f1, .f2
        ring3   .f0, 2
.f0:    sgdt    [kept]
        smsw    ax
        str     ax
.f1:    ud2
.f2:    done
""", """
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10042 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
6 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
"""),
    Scenario("a null SS", LONG, """
        expect  .a1, .a2
        mov     eax, 3
.a1:    mov     ss, ax
.a2:    xor     eax, eax
        mov     ss, ax
        mov     ax, ss
        movzx   eax, ax
        show    rax
        done
""", """
d error=0 ip=0 cs=18 flags=10002 ss=10 sp=7000 frame=6fd8
show 0
""",
             "QEMU: any RPL will do"),
    Scenario("double faults, and benign pairs", PROTECTED, """
        expect  .a1, .a2
        gate    13, 8, 0, 0x0e
        mov     eax, 0x1120
.a1:    mov     es, ax
.a2:    gate    13, 8, stubs+13*16, 0x8e
        gate    0, 8, 0, 0x0e
        expect  .b1, .b2
        xor     eax, eax
.b1:    div     al
.b2:    gate    6, 8, 0, 0x0e
        expect  .c1, .c2
.c1:    ud2
.c2:    gate    3, 8, 0, 0x0e
        expect  .d1, .d2
.d1:    int3
.d2:    gate    0x21, 8, 0, 0x0e
        expect  .e1, .e2
.e1:    int     0x21
.e2:    gate    1, 8, 0, 0x0e
        expect  .f1, .f2
.f1:    db      0xf1
.f2:    gate    7, 8, 0, 0x0e
        mov     eax, cr0
        or      al, 8
        mov     cr0, eax
        expect  .g1, .g2
.g1:    fnop
.g2:    clts
        done
""", """
8 error=0 ip=0 cs=8 flags=2 ss=10 sp=7000 frame=6ff4
8 error=0 ip=0 cs=8 flags=46 ss=10 sp=7000 frame=6ff4
b error=32 ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=1a ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=10a ip=0 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=a ip=1 cs=8 flags=10046 ss=10 sp=7000 frame=6ff4
b error=3a ip=0 cs=8 flags=10006 ss=10 sp=7000 frame=6ff4
"""),
    Scenario("a page fault in a page fault", PROTECTED, """
        paging
        page    0x300000, 0
        gate    14, 8, 0, 0x0e
        expect  .a1, .a2
.a1:    mov     eax, [0x300000]
.a2:    gate    14, 8, stubs+14*16, 0x8e
        mov     dword [idtr+2], 0x300000
        expect  .b1, .b2
        lidt    [idtr]
.b1:    mov     eax, [0x300000]
.b2:    done
""", """
8 error=0 ip=0 cs=8 flags=82 ss=10 sp=7000 frame=6ff4
triple fault
"""),
    Scenario("a page fault at a handler of #GP", PROTECTED, """
        paging
        page    0x300000, 0
        expect  0x300000, .a2
        gate    13, 8, 0x4000, 0x8e
        mov     dword [IDT+13*8+4], 0x308e00
        mov     word [IDT+13*8], 0
        mov     eax, 0x1120
        mov     es, ax
.a2:    done
""", """
e error=0 ip=0 cs=8 flags=10082 ss=10 sp=6ff0 cr2=300000 frame=6fe4
"""),
    Scenario("a missing inner stack is a triple fault", PROTECTED, """
        paging
        page    0x300000, 0
        mov     dword [TSS+4], 0x300100
        expect  .a1, .a2
        ring3   .a1, 2
.a1:    hlt
.a2:    done
""", """
triple fault
"""),
    Scenario("a missing stack is a double fault by a task gate", PROTECTED, """
        paging
        task    TSS_DF, .dft, 0x6400
        gate    8, 0x40, 0, 0x85
        page    0x300000, 0
        expect  .a1, .a2
        mov     esp, 0x300100
.a1:    push    eax
.a2:    done
.dft:   mov     eax, [TSS+0x20]
        sub     eax, [base]
        show    eax
        show    [TSS+0x38]
        mov     eax, cr2
        show    eax
        pop     eax
        show    eax
        done
""", """
show 0
show 300100
show 3000fc
show 0
"""),
    Scenario("a missing gate for #DF is a triple fault", PROTECTED, """
        gate    13, 8, 0, 0x0e
        gate    8, 8, 0, 0x0e
        show    1
        mov     eax, 0x1120
        mov     es, ax
        show    2
        done
""", """
show 1
triple fault
"""),
    Scenario("an empty IDT is a triple fault", PROTECTED, """
        mov     word [idtr], 0
        lidt    [idtr]
        int3
        done
""", """
triple fault
"""),
    Scenario("a null SS0", PROTECTED, """
        mov     dword [TSS+8], 0
        expect  .a1, .a2
        gate    10, 0x40, 0, 0x85
        task    TSS_DF, .ts, 0x6400
        ring3   .a1, 2
.a1:    ud2
.a2:    done
.ts:    pop     eax
        show    eax
        mov     eax, [TSS+0x20]
        sub     eax, [base]
        show    eax
        done
""", """
show 0
show 0
"""),
    Scenario("SS0 of another ring", PROTECTED, """
        mov     dword [TSS+8], 0x2b
        gate    10, 0x40, 0, 0x85
        task    TSS_DF, .ts, 0x6400
        ring3   .a1, 2
.a1:    ud2
.ts:    pop     eax
        show    eax
        done
""", """
show 28
"""),
    Scenario("gates to ring 1 and to conforming code", PROTECTED, """
        gate    0x21, 0x88, .stubs1, 0xee
        gate    0x22, 0x70, .stubs1, 0xee
        expect  .a1, .a2
        ring3   .a1, 2
.a1:    int     0x21
.a2:    ring3   .b1, 2
.b1:    int     0x22
.b2:    done
.stubs1:
        mov     eax, esp
        mov     bx, cs
        mov     cx, ss
        mov     [0x700], eax
        mov     [0x704], bx
        mov     [0x706], cx
        mov     edx, [esp+12]
        mov     [0x708], edx
        expect  .c1, .c2
.c1:    hlt
.c2:    show    [0x700]
        show    [0x704]
        show    [0x708]
        cmp     word [0x704], 0x73
        je      .b2
        jmp     .a2
""", """
d error=0 ip=0 cs=89 flags=10002 ss=91 sp=65ec frame=6dec
show 65ec
show 910089
show 6800
d error=0 ip=0 cs=73 flags=10002 ss=2b sp=67f4 frame=6dec
show 67f4
show 2b0073
show 0
"""),
    Scenario("flags behind trap gates and interrupt gates", PROTECTED, """
        gate    0x21, 8, .other, 0x8f
        sti
        pushfd
        or      dword [esp], 0x4100
        popfd
        int     0x21
        done
.other: pushfd
        pop     eax
        show    eax
        mov     eax, [esp+8]
        show    eax
        gate    0x21, 8, .other2, 0x8e
        mov     esp, 0x7000
        sti
        int     0x21
.other2:
        pushfd
        pop     eax
        show    eax
        mov     eax, [esp+8]
        show    eax
        done
""", """
show 202
show 4302
show 2
show 202
"""),
    Scenario("a gate of 16 bits", PROTECTED, """
        gate    0x21, 8, .other, 0x86
        mov     ax, 0x1234
.a1:    int     0x21
.other: mov     eax, esp
        show    eax
        movzx   eax, word [esp]
        sub     eax, .a1
        show    eax
        movzx   eax, word [esp+2]
        show    eax
        movzx   eax, word [esp+4]
        show    eax
        done
""", """
show 6ffa
show 2
show 8
show 2
"""),
    Scenario("instruction breakpoints and RF", PROTECTED, """
        mov     eax, .a1
        mov     dr0, eax
        mov     eax, 0x402
        mov     dr7, eax
        expect  .a1, .a2
.a1:    nop
.a2:    mov     eax, .b1
        mov     dr3, eax
        mov     eax, 0x480
        mov     dr7, eax
        expect  .b1, .b2
        pushfd
        pop     ebx
        or      ebx, 0x10000
        push    ebx
        push    8
        push    .b1
        iretd
.b1:    nop
        nop
.b2:    show    1
        expect  .b1, .c2
        jmp     .b1
.c2:    mov     eax, 0x4ff0
        mov     dr6, eax
        expect  .b1, .d2
        jmp     .b1
.d2:    mov     eax, .d1
        mov     dr0, eax
        mov     dr1, eax
        mov     eax, 0x402
        mov     dr7, eax
        expect  .d1, .d3
        pushfd
        or      word [esp], 0x100
        popfd
.d1:    nop
.d3:    mov     eax, 0x400
        mov     dr7, eax
        pushfd
        and     word [esp], 0xfeff
        popfd
        done
""", """
1 ip=0 cs=8 flags=2 ss=10 sp=7000 dr6=ff1 frame=6ff4
show 1
1 ip=0 cs=8 flags=46 ss=10 sp=7000 dr6=ff8 frame=6ff4
1 ip=0 cs=8 flags=46 ss=10 sp=7000 dr6=4ff8 frame=6ff4
1 ip=0 cs=8 flags=146 ss=10 sp=7000 dr6=4ff3 frame=6ff4
"""),
    Scenario("data breakpoints of every size", PROTECTED, """
        mov     eax, 0x700
        mov     dr0, eax
        mov     eax, 0x10402
        mov     dr7, eax
        expect  .a1, .a2
.a1:    mov     [0x6ff], ax
.a2:    mov     [0x6fe], ax
        mov     [0x701], eax
        mov     eax, [0x700]
        mov     eax, 0x50402
        mov     dr7, eax
        expect  .b1, .b2
.b1:    mov     [0x701], al
.b2:    mov     eax, 0xf0402
        mov     dr7, eax
        expect  .c1, .c2
.c1:    mov     al, [0x703]
.c2:    mov     eax, 0x703
        mov     dr0, eax
        expect  .d1, .d2
.d1:    mov     al, [0x700]
.d2:    mov     eax, 0x704
        mov     dr1, eax
        mov     eax, 0xff040a
        mov     dr7, eax
        expect  .e1, .e2
.e1:    mov     eax, [0x702]
.e2:    mov     eax, 0x400
        mov     dr7, eax
        done
""", """
1 ip=6 cs=8 flags=2 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=5 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=5 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=5 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=5 cs=8 flags=46 ss=10 sp=7000 dr6=ff3 frame=6ff4
""",
             "QEMU: an access that is not aligned may be missed"),
    Scenario("data breakpoints by REP, on the stack, and with TF", PROTECTED, """
        cld
        mov     eax, 0x708
        mov     dr0, eax
        mov     eax, 0x10402
        mov     dr7, eax
        expect  .a1, .a2
        mov     edi, 0x700
        mov     ecx, 16
        xor     eax, eax
.a1:    rep     stosb
.a2:    show    ecx
        show    edi
        mov     eax, 0x6ffc
        mov     dr0, eax
        expect  .b1, .b2
.b1:    push    eax
.b2:    mov     eax, 0x700
        mov     dr0, eax
        expect  .c1, .c2
        pushfd
        or      word [esp], 0x100
        popfd
.c1:    mov     [0x700], al
.c2:    pushfd
        and     word [esp], 0xfeff
        popfd
        mov     eax, 0x400
        mov     dr7, eax
        done
""", """
1 ip=0 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
show 7
show 709
1 ip=1 cs=8 flags=46 ss=10 sp=6ffc dr6=ff1 frame=6ff0
1 ip=5 cs=8 flags=146 ss=10 sp=7000 dr6=4ff1 frame=6ff4
""",
             "QEMU: REP is not left at the access; TF and the access are two traps"),
    Scenario("I/O breakpoints", PROTECTED, """
        mov     eax, cr4
        or      al, 8
        mov     cr4, eax
        mov     eax, 0x80
        mov     dr0, eax
        mov     eax, 0x20402
        mov     dr7, eax
        expect  .a1, .a2
.a1:    out     0x80, al
        nop
.a2:    expect  .b1, .b2
        mov     dx, 0x80
.b1:    in      al, dx
        nop
.b2:    expect  .c1, .c2
        mov     dx, 0x7f
.c1:    out     dx, ax
        nop
.c2:    show    1
        mov     dx, 0x81
        in      al, dx
        show    2
        mov     eax, 0x400
        mov     dr7, eax
        done
""", """
1 ip=2 cs=8 flags=2 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=1 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
1 ip=2 cs=8 flags=46 ss=10 sp=7000 dr6=ff1 frame=6ff4
show 1
show 2
"""),
    Scenario("single steps", PROTECTED, """
        expect  .a1, .a2
        pushfd
        or      word [esp], 0x100
        popfd
.a1:    int     0x21
.a2:    expect  .b1, .b2
        pushfd
        or      word [esp], 0x100
        popfd
.b1:    ud2
.b2:    expect  .c1, .c2
        mov     ecx, 3
        mov     edi, 0x700
        pushfd
        or      word [esp], 0x100
        popfd
.c1:    rep     stosb
        nop
.c2:    show    ecx
        expect  .d1, .d2
        pushfd
        pop     eax
        or      ah, 1
        push    eax
        push    8
        push    .d1
        iretd
.d1:    nop
.d2:    expect  .e1, .e2
        mov     ax, 0x10
        pushfd
        or      word [esp], 0x100
        popfd
.e1:    mov     ss, ax
        nop
        nop
.e2:    expect  .f1, .f2
        mov     dword [0x700], 2
        pushfd
        or      word [esp], 0x100
        popfd
.f1:    cpuid
.f2:    expect  .g1, .g2
        pushfd
        or      word [esp], 0x100
        popfd
.g1:    call    .g3
.g3:    expect  .h1, .h2
        pushfd
        or      word [esp], 0x100
        popfd
.h1:    jmp     .h3
        nop
.h3:    nop
.g2:
.h2:    pushfd
        and     word [esp], 0xfeff
        popfd
        done
""", """
21 ip=2 cs=8 flags=102 ss=10 sp=7000 frame=6ff4
6 ip=0 cs=8 flags=10146 ss=10 sp=7000 frame=6ff4
1 ip=0 cs=8 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6ff4
show 2
1 ip=1 cs=8 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6ff4
1 ip=3 cs=8 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6ff4
1 ip=2 cs=8 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6ff4
1 ip=5 cs=8 flags=146 ss=10 sp=6ffc dr6=4ff0 frame=6ff0
""",
             "QEMU: RF is set between the rounds of a repeated instruction, as it should be"),
    Scenario("NMIs wait for IRET", PROTECTED, """
        mov     dword [APIC+0xf0], 0x1ff
        gate    2, 8, .nmi, 0x8e
        mov     dword [kept], 0
        mov     dword [APIC+0x310], 0
        mov     dword [APIC+0x300], 0x4400
        nop
        nop
        show    9
        show    [kept]
        done
.nmi:   inc     dword [kept]
        show    [kept]
        cmp     dword [kept], 1
        jne     .out
        mov     dword [APIC+0x300], 0x4400
        mov     dword [APIC+0x300], 0x4400
        nop
        nop
        show    5
.out:   iretd
""", """
show 1
show 5
show 2
show 9
show 2
"""),
    Scenario("when interrupts are taken", PROTECTED, """
        mov     dword [APIC+0xf0], 0x1ff
        gate    2, 8, .nmi, 0x8e
        gate    0x30, 8, .irq, 0x8e
        mov     dword [APIC+0x310], 0
        mov     ax, 0x10
        mov     dword [base], .a1
        mov     dword [APIC+0x300], 0x4030
        nop
        show    1
        sti
.a1:    nop
        nop
        cli
        show    2
        mov     dword [base], .b1
        mov     dword [APIC+0x300], 0x4030
        sti
        cli
.b1:    nop
        show    3
        mov     dword [base], .c1
        sti
.c1:    mov     ss, ax
        nop
        nop
        cli
        mov     dword [APIC+0x300], 0x4030
        pushfd
        or      word [esp], 0x200
        mov     dword [base], .d1
        popfd
.d1:    nop
        cli
        mov     dword [base], .e1
        mov     dword [APIC+0x300], 0x4030
        pushfd
        pop     eax
        or      ax, 0x200
        push    eax
        push    8
        push    .e1
        iretd
.e1:    nop
        cli
        mov     dword [base], .f1
        mov     dword [APIC+0x300], 0x4030
        sti
.f1:    hlt
        nop
        cli
        mov     dword [base], .g1
        mov     dword [APIC+0x300], 0x4030
        sti
        sti
        sti
.g1:    nop
        done
.nmi:   show    0x22
        iretd
.irq:   mov     eax, [esp]
        sub     eax, [base]
        show    eax
        mov     dword [APIC+0xb0], 0
        mov     ax, 0x10
        iretd
""", """
show 1
show 1
show 2
show 3
show 2
show 0
show 0
show 1
show ffffffff
"""),
    Scenario("interrupts through gates that are not right", PROTECTED, """
        mov     dword [APIC+0xf0], 0x1ff
        mov     dword [APIC+0x310], 0
        gate    0x30, 8, 0, 0x0e
        expect  .a1, .a2
        sti
        mov     dword [APIC+0x300], 0x4030
.a1:    nop
        nop
.a2:    mov     dword [APIC+0xb0], 0
        expect  .b1, .b2
        gate    0x30, 0x60, 0, 0x8e
        sti
        mov     dword [APIC+0x300], 0x4030
.b1:    nop
        nop
.b2:    mov     dword [APIC+0xb0], 0
        expect  .c1, .c2
        sti
        mov     dword [APIC+0x300], 0x4050
.c1:    nop
        nop
.c2:    done
""", """
b error=182 ip=0 cs=8 flags=10202 ss=10 sp=7000 frame=6ff4
b error=60 ip=0 cs=8 flags=10246 ss=10 sp=7000 frame=6ff4
d error=282 ip=0 cs=8 flags=10246 ss=10 sp=7000 frame=6ff4
"""),
    Scenario("exceptions in 64-bit mode", LONG, """
        expect  .a1, .a2
        xor     ax, ax
.a1:    div     al
.a2:    expect  .b1, .b2
.b1:    int3
.b2:    expect  .e1, .e2
.e1:    ud2
.e2:    expect  .f1, .f2
        mov     rax, cr0
        or      al, 8
        mov     cr0, rax
.f1:    fnop
.f2:    clts
        expect  .g1, .g2
.g1:    int     0x20
.g2:    expect  .h1, .h2
        pushf
        or      word [rsp], 0x100
        popf
.h1:    nop
.h2:    pushf
        and     word [rsp], 0xfeff
        popf
        expect  .i1, .i2
.i1:    db      0xf1
.i2:    expect  .ll1, .ll2
        mov     eax, 0x1123
.ll1:   mov     ds, ax
.ll2:   expect  .m1, .m2
        mov     eax, 0x68
.m1:    mov     ds, ax
.m2:    expect  .n1, .n2
.n1:    mov     ss, ax
.n2:    expect  .p1, .p2
.p1:    int     0x50
.p2:    mov     byte [IDT+16*0x21+5], 0x0e
        expect  .q1, .q2
.q1:    int     0x21
.q2:    expect  .s1, .s2
        mov     ax, 0x38
.s1:    ltr     ax
.s2:    expect  .t1, .t2
        mov     word [kept], 0
        fninit
        fldcw   [kept]
        fldz
        fld1
        fdivrp
.t1:    fwait
.t2:    fninit
        done
""", """
0 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
3 ip=1 cs=18 flags=46 ss=10 sp=7000 frame=6fd8
6 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
7 ip=0 cs=18 flags=10006 ss=10 sp=7000 frame=6fd8
20 ip=2 cs=18 flags=46 ss=10 sp=7000 frame=6fd8
1 ip=1 cs=18 flags=146 ss=10 sp=7000 dr6=4ff0 frame=6fd8
1 ip=1 cs=18 flags=46 ss=10 sp=7000 dr6=4ff0 frame=6fd8
d error=1120 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
b error=68 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
c error=68 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=282 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
b error=10a ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
d error=38 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
10 ip=0 cs=18 flags=10046 ss=10 sp=7000 frame=6fd8
"""),
    Scenario("exceptions in 64-bit ring 3", LONG, """
        expect  .a1, .a2
        ring3   .a0, 2
.a0:    xor     ax, ax
.a1:    div     al
.a2:    expect  .b1, .b2
        ring3   .b1, 2
.b1:    int3
.b2:    expect  .c1, .c2
        ring3   .c1, 2
.c1:    int     0x21
.c2:    expect  .d1, .d2
        ring3   .d1, 2
.d1:    hlt
.d2:    expect  .e1, .e2
        ring3   .e1, 2
.e1:    ud2
.e2:    expect  .f1, .f2
        mov     rax, cr0
        or      eax, 0x40000
        mov     cr0, rax
        ring3   .f0, 0x40002
.f0:    mov     ebx, 0x701
.f1:    mov     eax, [rbx]
.f2:    expect  .g1, .g2
        ring3   .g1, 2
.g1:    in      al, 0x21
.g2:    expect  .h1, .h2
        ring3   .h1, 2
.h1:    mov     eax, [0x200000]
.h2:    done
""", """
0 ip=0 cs=33 flags=10046 ss=2b sp=6500 frame=67d8
3 ip=1 cs=33 flags=2 ss=2b sp=6500 frame=67d8
d error=10a ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
6 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=67d8
11 error=0 ip=0 cs=33 flags=50002 ss=2b sp=6500 frame=67d8
e error=4 ip=0 cs=33 flags=10002 ss=2b sp=6500 cr2=200000 frame=67d8
""",
             "QEMU: #AC is not there"),
    Scenario("stacks are aligned; interrupt stacks", LONG, """
        gate    6, 0x18, stubs+6*16, 0x8e01
        gate    3, 0x18, stubs+3*16, 0xee02
        gate    13, 0x18, stubs+13*16, 0x8e03
        mov     rsp, 0x6ff3
        expect  .a1, .a2
.a1:    ud2
.a2:    mov     rsp, 0x6ff5
        expect  .b1, .b2
.b1:    int3
.b2:    mov     rsp, 0x6ff9
        expect  .c1, .c2
.c1:    int     0x20
.c2:    expect  .d1, .d2
        ring3   .d1, 2
.d1:    ud2
.d2:    expect  .e1, .e2
        ring3   .e1, 2
.e1:    hlt
.e2:    expect  .f1, .f2
        mov     rsp, 0x800000000000
.f1:    ud2
.f2:    done
""", """
6 ip=0 cs=18 flags=10002 ss=10 sp=6ff3 frame=69d8
3 ip=1 cs=18 flags=46 ss=10 sp=6ff5 frame=6bd8
20 ip=2 cs=18 flags=46 ss=10 sp=6ff9 frame=6fc8
6 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=69d8
d error=0 ip=0 cs=33 flags=10002 ss=2b sp=6500 frame=6dd8
6 ip=0 cs=18 flags=10046 ss=10 sp=0 frame=69d8
"""),
    Scenario("double faults on an interrupt stack", LONG, """
        gate    8, 0x18, stubs+8*16, 0x8e01
        expect  .a1, .a2
        mov     rsp, 0x800000000100
.a1:    push    rax
.a2:    mov     rsp, 0x200100
        expect  .b1, .b2
.b1:    push    rax
.b2:    gate    13, 0x18, 0, 0x0e00
        expect  .c1, .c2
.c1:    mov     ds, [kept+0x100]
        mov     eax, 0x1120
        mov     ds, ax
.c2:    gate    14, 0x18, 0, 0x0e00
        expect  .d1, .d2
.d1:    mov     eax, [0x200010]
.d2:    gate    13, 0x18, stubs+13*16, 0x8e00
        gate    14, 0x10, 0, 0x8e00
        expect  .e1, .e2
.e1:    mov     eax, [0x200010]
.e2:    done
""", """
8 error=0 ip=0 cs=18 flags=2 ss=10 sp=100 frame=69d8
8 error=0 ip=0 cs=18 flags=46 ss=10 sp=200100 frame=69d8
8 error=0 ip=0 cs=18 flags=46 ss=10 sp=7000 frame=69d8
8 error=0 ip=0 cs=18 flags=46 ss=10 sp=7000 frame=69d8
8 error=0 ip=0 cs=18 flags=46 ss=10 sp=7000 frame=69d8
""",
             "QEMU: CR2 changes"),
    Scenario("page faults in 64-bit mode", LONG, """
        page    0x1f0000, 0
        page    0x1f1000, 5
        page    0x1f2000, 3
        mov     rax, cr0
        or      eax, 0x10000
        mov     cr0, rax
        expect  .a1, .a2
.a1:    mov     eax, [0x1f0123]
.a2:    expect  .b1, .b2
.b1:    mov     [0x1f1004], eax
.b2:    mov     dword [TABLES+0x3000+0x1f3*8+4], 0x80000000
        invlpg  [0x1f3000]
        expect  0x1f3000, .c2
        mov     eax, 0x1f3000
        jmp     rax
.c2:    mov     dword [TABLES+0x3000+0x1f4*8+4], 0x00080000
        invlpg  [0x1f4000]
        expect  .d1, .d2
.d1:    mov     eax, [0x1f4010]
.d2:    expect  .e1, .e2
        ring3   .e1, 2
.e1:    mov     [0x1f1010], eax
.e2:    done
""", """
e error=0 ip=0 cs=18 flags=10082 ss=10 sp=7000 cr2=1f0123 frame=6fd8
e error=3 ip=0 cs=18 flags=10046 ss=10 sp=7000 cr2=1f1004 frame=6fd8
e error=11 ip=0 cs=18 flags=10046 ss=10 sp=7000 cr2=1f3000 frame=6fd8
e error=9 ip=0 cs=18 flags=10046 ss=10 sp=7000 cr2=1f4010 frame=6fd8
e error=7 ip=0 cs=33 flags=10002 ss=2b sp=6500 cr2=1f1010 frame=67d8
""",
             "QEMU: the error code has RSVD without P"),
    Scenario("breakpoints in 64-bit mode", LONG, """
        mov     eax, .a1
        mov     dr0, rax
        mov     eax, 0x402
        mov     dr7, rax
        expect  .a1, .a2
.a1:    nop
.a2:    mov     eax, 0x700
        mov     dr0, rax
        mov     eax, 0xb0402
        mov     dr7, rax
        expect  .b1, .b2
.b1:    mov     rax, [0x700]
.b2:    expect  .c1, .c2
.c1:    movups  xmm0, [0x6f8]
.c2:    mov     eax, 0x400
        mov     dr7, rax
        done
""", """
1 ip=0 cs=18 flags=2 ss=10 sp=7000 dr6=ff1 frame=6fd8
1 ip=8 cs=18 flags=46 ss=10 sp=7000 dr6=ff1 frame=6fd8
1 ip=8 cs=18 flags=46 ss=10 sp=7000 dr6=ff1 frame=6fd8
"""),
    Scenario("paging without protection", REAL, """
        expect  .l1, .l2
        mov     eax, 0x80000000
.l1:    mov     cr0, eax
.l2:    done
""", """
d error=0 ip=0 cs=0 flags=2 ss=0 sp=7000 frame=6ffa
""",
             "QEMU: CR0.PG without PE is taken"),
    Scenario("the frame of an exception in virtual 8086 mode", PROTECTED, """
        gate    6, 8, .other, 0x8e
        v86     0x100, .v1-0x1000, 0x3000
.v1:    ud2
.other: mov     dx, ds
        mov     bx, fs
        mov     ecx, 8
        lea     esi, [esp+4]
.nn:    mov     eax, [ss:esi]
        push    ecx
        push    esi
        mov     cx, 0x10
        mov     ds, cx
        mov     es, cx
        show    eax
        pop     esi
        pop     ecx
        add     esi, 4
        loop    .nn
        movzx   eax, dx
        show    eax
        movzx   eax, bx
        show    eax
        done
""", """
show 100
show 33002
show 800
show 600
show 1111
show 2222
show 3333
show 4444
show 0
show 0
"""),
    Scenario("no virtual 8086 mode extensions", PROTECTED, """
        mov     eax, cr4
        or      al, 1
        expect  .a1, .a2
.a1:    mov     cr4, eax
.a2:    done
""", """
d error=0 ip=0 cs=8 flags=10002 ss=10 sp=7000 frame=6ff4
""",
             "QEMU: CR4.VME may be set"),
)
