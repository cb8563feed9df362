; Native routines between libunicorn's code and Python's callbacks.  x86-64, System V ABI.
;
; Assembled by `make firmware` into native.bin, which emu/native.py maps read-only and
; executable, followed by one writable page of globals: addresses in libunicorn (IMPORTS in
; emu/native.py, in the same order as here) and the list of contexts, one for each engine.
;
; Why native: a guest exception leaves by longjmp, which must never cross a Python frame.
; So Python decides, returns, and these routines raise, deliver or leave the loop.
;
; The offsets of Unicorn's structures come from emu/layout.py: `make firmware` writes them
; to layout.inc.

bits 64
default rel
%include "layout.inc"

%define GLOBALS_AT 0x3000           ; three pages of code, one of globals
%define ENDING 9                    ; how many helpers end their block

; --- one context for each engine (Context in emu/native.py)
struc context
.next:          resq 1
.uc:            resq 1
.tcg:           resq 1              ; TCGContext
.cpu:           resq 1              ; CPUState
.env:           resq 1              ; CPUX86State
.fault:         resd 1              ; 0x100 | vector that Python asked for, or 0
.fault_error:   resd 1
.limit:         resq 1              ; leave when the counter is above this
.request:       resd 1              ; not 0: look at interrupt_request at the next block
.replaying:     resd 1              ; a watched instruction is being run again, alone
.watching:      resd 1              ; some watchpoint is set
.patch:         resd 1              ; count blocks inline
.trace:         resq 1              ; next free trace record
.trace_end:     resq 1
.int_length:    resq 1              ; of the last INT n, in bytes
.leave:         resq 1              ; how long the store is that raised an interrupt, or 0
.last_code:     resq 1              ; where the newest block's host code is
.flushes:       resq 1              ; how often that began anew
.instead:       resq 1              ; bytes that the translator is to read, or 0
.io_weight:     resq 1              ; what an access to a port or MMIO adds to the counter
.large:         resq 1              ; a large page has been used
.bases:         resq 6              ; what LGDT, LIDT, WRFSBASE and WRGSBASE may change
; callbacks into Python; 0 for none
.acknowledge:   resq 1              ; () -> vector or -1
.rdmsr:         resq 1              ; ()
.wrmsr:         resq 1              ; ()
.read_cr8:      resq 1              ; () -> value
.write_cr:      resq 1              ; (number, value) -> go on with Unicorn's own
.wrote_dr:      resq 1              ; (number)
.smm:           resq 1              ; (entered)
.interrupt:     resq 1              ; (vector, error code, is_int, next rip, hardware)
.translated:    resq 1              ; (pc, size, instructions, flags, cs_base, host)
.traced:        resq 1              ; (): the trace buffer is full
.watch_page:    resq 1              ; (address, length) -> flags of BP_MEM_*
.watch:         resq 1              ; (address, length, flags) -> 0 no, 1 stop after it
.debug:         resq 1              ; () -> 1: #DB in the guest, 0: end the slice
.wild_base:     resq 1              ; (selector) -> its TSS or LDT has no canonical base
; the time stamp counter
.tsc:           resq 1              ; TSC_ASK Python, or what it follows
.tsc_base:      resq 1              ; what is added to that
.tsc_scale:     resq 1              ; TSC_COUNTER: cycles for each count
endstruc
TSC_ASK         equ 0
TSC_COUNTER     equ 1
TSC_HOST        equ 2               ; the host's monotonic clock, in ns

; --- globals
struc globals
.contexts:      resq 1
.do_interrupt:  resq 1
.hardirq:       resq 1
.raise:         resq 1
.loop_exit:     resq 1
.noexc:         resq 1
.restore_state: resq 1
.emu_stop:      resq 1
.smm_enter:     resq 1
.tlb_flush:     resq 1
.check_exit:    resq 1
.breakpoint:    resq 1
; originals of what is replaced
.gen_code:      resq 1
.set_page:      resq 1
.protect_code:  resq 1
.rdmsr:         resq 1
.wrmsr:         resq 1
.read_cr:       resq 1
.write_cr:      resq 1
.rsm:           resq 1
.set_dr:        resq 1
.translator:    resq 1
.load_byte:     resq 1
.raise_at:      resq 1
.raise_interrupt: resq 1
.into:          resq 1
.pause:         resq 1
.single_step:   resq 1
.syscall:       resq 1
.sysenter:      resq 1
.read_eflags:   resq 1
.update_hflags: resq 1
.lldt:          resq 1
.ltr:           resq 1
.invlpg:        resq 1
.iret_real:     resq 1
.lcall_real:    resq 1
.probe_access:  resq 1
.load_mmuidx:   resq 1
; what `emit` calls
.gen_call:      resq 1
.const_i32:     resq 1
.temp_free:     resq 1
.clts:          resq 1
.check_iob:     resq 1
.check_iow:     resq 1
.check_iol:     resq 1
.get_dr:        resq 1
.load_seg:      resq 1
.iret:          resq 1
.lret:          resq 1
.ljmp:          resq 1
.lcall:         resq 1
.lookup:        resq 1
.load_word:     resq 1
.hlt:           resq 1
.clock_gettime: resq 1
; instructions that end their block
.ends:          resq ENDING
; TranslatorOps with our translate_insn, and the original's
.ops:           resq 7
.translate_insn: resq 1
endstruc

%define G(field) [$$ + GLOBALS_AT + globals. %+ field]

INTERRUPT_HARD  equ 0x002
INTERRUPT_SMI   equ 0x040
INTERRUPT_DEBUG equ 0x080
INTERRUPT_NMI   equ 0x200
HF_INHIBIT_IRQ  equ 1 << 3
HF_CS32         equ 1 << 4
HF_LMA          equ 1 << 14
HF_CS64         equ 1 << 15
HF_SMM          equ 1 << 19
HF_AM           equ 1 << HF_AM_BIT
AC              equ 1 << 18
MO_ALIGN        equ 7 << 4
MO_ALIGN_16     equ 4 << 4
HF2_NMI         equ 1 << 2
TF              equ 0x100
NT              equ 0x4000
DR6_BD          equ 1 << 13
DR6_BS          equ 1 << 14
DR6_BT          equ 1 << 15
DR7_GD          equ 1 << 13
CR4_DE          equ 1 << 3
CR4_UMIP        equ 1 << 11
IF              equ 0x200
DF              equ 0x400
RF              equ 0x10000
VM              equ 0x20000
STATUS          equ 0x8d5           ; CF, PF, AF, ZF, SF, OF
CODE64          equ 0x00a09b00      ; as in a descriptor's second dword
CODE32          equ 0x00c09b00
DATA            equ 0x00c09300
EXCP_INTERRUPT  equ 0x10000
TLB_NOTDIRTY    equ 0x400
; A TSS that is there: P, and bit 0 of the type, which every TSS type has.  With a task
; register that holds none (LTR of a null selector) Unicorn would abort the process at the way
; to an inner ring.  The null task register's limit, 0, makes it #TS instead.
TSS_THERE       equ 0x8100
CC_OP_EFLAGS    equ 1
MMU_RING_3      equ 1               ; of QEMU's three MMU modes
MMU_RING_0      equ 2
FLAGS_IN_TB     equ 0x73100         ; TF, IOPL, RF, VM, AC: part of a block's flags

; r11 := the context whose %2 is %1, or 0
%macro FIND 2
        mov     r11, G(contexts)
        jmp     %%test
%%next: mov     r11, [r11 + context.next]
%%test: test    r11, r11
        jz      %%end
        cmp     [r11 + context. %+ %2], %1
        jne     %%next
%%end:
%endmacro

; al := the code byte at CS:%1; rdx (the context), rcx and rsi are kept
%macro FETCH 1
        push    rdx
        push    rcx
        push    rsi
        mov     rdi, [rdx + context.env]
        mov     rsi, %1
        add     rsi, [rdi + ENV_CS_BASE]
        test    dword [rdi + ENV_HFLAGS], HF_CS64
        jnz     %%long
        mov     esi, esi
%%long: call    G(load_byte)
        pop     rsi
        pop     rcx
        pop     rdx
%endmacro

; CR0.AM of rax becomes our flag HF_AM of %1, an env, so that blocks differ by it; eax is lost
%macro ALIGNMENT 1
        and     dword [%1 + ENV_HFLAGS], ~HF_AM
        shr     eax, 18
        and     eax, 1
        shl     eax, HF_AM_BIT
        or      [%1 + ENV_HFLAGS], eax
%endmacro

; --- where emu/native.py finds the routines (ENTRIES there, in the same order)
        dw      deliver, deliver_invalid, guard_in, guard_out, guard_insn, exec_interrupt
        dw      count, trace, gen_code, set_page, protect_code, watch_page, watch, debug
        dw      rdmsr, wrmsr, read_cr, write_cr, rsm, set_dr, translator, load_byte, unaligned
        dw      mmio_read, mmio_write, guard_rdtsc, guard_rdtscp

; UC_HOOK_INTR (uc, vector, context): deliver an exception or INT n; may longjmp.
; Unicorn has moved RIP behind a software interrupt by now.  It is put back, so that a fault
; of the delivery names the instruction.
; A fault pushes RF, so that an instruction breakpoint does not stop its second try.
; The error code of a bad gate in long mode is 16 * n + 2 in Unicorn, as if an entry of the
; IDT had an index of its size (SDM 3A, 6.13: 8 * n + 2).
; F1, ICEBP, is #UD in Unicorn; it is a #DB behind the instruction (SDM 2, INT1).
align 16
deliver:
        mov     rax, [rdx + context.env]
        or      dword [rax + ENV_TR_FLAGS], TSS_THERE
        cmp     dword [rax + ENV_EXCEPTION_IS_INT], 0
        je      .exception
        mov     rcx, [rax + ENV_EXCEPTION_NEXT_EIP]
        sub     rcx, [rdx + context.int_length]
        mov     [rax + ENV_EIP], rcx
        jmp     .go
.exception:
        test    dword [rax + ENV_HFLAGS], HF_LMA
        jz      .code
        cmp     esi, 11                 ; #NP
        je      .gate
        cmp     esi, 13                 ; #GP
        jne     .code
.gate:  mov     ecx, [rax + ENV_ERROR_CODE]
        test    cl, 2
        jz      .code
        shr     ecx, 4
        lea     ecx, [rcx * 8 + 2]
        mov     [rax + ENV_ERROR_CODE], ecx
.code:  bt      dword [not_faults], esi
        jc      .other
        or      dword [rax + ENV_EFLAGS], RF
        jmp     .go
.other: cmp     esi, 8                  ; #DF: what the fault before it has set
        jne     .go
        and     dword [rax + ENV_EFLAGS], ~RF
.go:    cmp     qword [rdx + context.interrupt], 0
        jne     .told
.do:    mov     rdi, [rdx + context.cpu]
        mov     rax, [rdx + context.env]
        test    dword [rax + ENV_HFLAGS], HF_LMA
        jz      .legacy
        jmp     G(do_interrupt)
.legacy:
        push    rbx
        mov     rbx, rdx
        call    do_interrupt
        pop     rbx
        ret
.told:  push    rdx
        mov     edi, esi
        mov     esi, [rax + ENV_ERROR_CODE]
        mov     r9, rdx
        mov     edx, [rax + ENV_EXCEPTION_IS_INT]
        mov     rcx, [rax + ENV_EXCEPTION_NEXT_EIP]
        xor     r8d, r8d
        call    [r9 + context.interrupt]
        pop     rdx
        jmp     .do

not_faults:                         ; #DB, #BP, #OF, #DF, #MC
        dd      1 << 1 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 18

; rbx: context.  Deliver an exception, which may switch tasks.
do_interrupt:
        push    r12
        mov     rdi, [rbx + context.cpu]
        mov     rax, [rbx + context.env]
        mov     r12d, [rax + ENV_TR]
        call    G(do_interrupt)
        call    switched
        pop     r12
        ret

; rbx: context, r12d: TR before an exception or interrupt was delivered.  Through a task gate
; to a task with T set in its TSS, a #DB follows (see `switch`).
switched:
        mov     rax, [rbx + context.env]
        cmp     r12d, [rax + ENV_TR]
        je      .end
        push    rbx
        mov     rbx, rax
        call    trapped
        mov     rax, rbx
        pop     rbx
        jz      .end
        mov     rdi, [rbx + context.cpu]
        mov     dword [rdi + CPU_EXCEPTION_INDEX], 1
        mov     dword [rax + ENV_ERROR_CODE], 0
        mov     dword [rax + ENV_EXCEPTION_IS_INT], 0
        sub     rsp, 8
        call    G(do_interrupt)
        add     rsp, 8
.end:   ret

; UC_HOOK_INSN_INVALID (uc, context): deliver #UD, say that it is handled.
align 16
deliver_invalid:
        push    rbx
        push    r12
        mov     rbx, rsi
        mov     rax, [rbx + context.env]
        or      dword [rax + ENV_TR_FLAGS], TSS_THERE
        mov     rdx, rbx
        mov     r12, [rax + ENV_EIP]
        sub     rsp, 8
.byte:  sub     rsp, 8
        FETCH   r12
        add     rsp, 8
        inc     r12
        cmp     al, 0xf1
        je      .icebp
        lea     ecx, [rax - 0x64]       ; prefixes but LOCK
        cmp     cl, 4
        jb      .more
        lea     ecx, [rax - 0xf2]
        cmp     cl, 2
        jb      .more
        mov     ecx, eax
        and     cl, 0xe7
        cmp     cl, 0x26
        je      .more
        mov     rcx, [rbx + context.env]
        test    dword [rcx + ENV_HFLAGS], HF_CS64
        jz      .undefined
        and     al, 0xf0
        cmp     al, 0x40                ; REX
        jne     .undefined
.more:  mov     rcx, r12
        mov     rax, [rbx + context.env]
        sub     rcx, [rax + ENV_EIP]
        cmp     ecx, 15
        jb      .byte
.undefined:
        mov     rax, [rbx + context.env]
        mov     edi, 6
        or      dword [rax + ENV_EFLAGS], RF
        jmp     .tell
.icebp: mov     rax, [rbx + context.env]
        mov     [rax + ENV_EIP], r12
        mov     edi, 1
        mov     rcx, [rbx + context.cpu]
        mov     [rcx + CPU_EXCEPTION_INDEX], edi
.tell:  cmp     qword [rbx + context.interrupt], 0
        je      .do
        xor     esi, esi
        xor     edx, edx
        mov     rcx, [rax + ENV_EIP]
        xor     r8d, r8d
        call    [rbx + context.interrupt]
.do:    call    do_interrupt
        add     rsp, 8
        pop     r12
        pop     rbx
        mov     eax, 1
        ret

; What an access to a port or to MMIO adds to the counter.  %1: context; rax is lost.
%macro WEIGH 1
        mov     rax, [%1 + context.cpu]
        mov     r11, [%1 + context.io_weight]
        add     [rax + CPU_COUNTER], r11
%endmacro

; UC_HOOK_INSN of IN, OUT and the rest: call Python, then raise what it asked for.
; user_data points to {callback, context}.
align 16
guard_in:                           ; (uc, port, size, user_data) -> value
        push    rbx
        mov     rbx, [rcx + 8]
        WEIGH   rbx
        call    [rcx]
        jmp     guarded
guard_out:                          ; (uc, port, size, value, user_data)
        push    rbx
        mov     rbx, [r8 + 8]
        WEIGH   rbx
        call    [r8]
        jmp     guarded

; Callbacks of uc_mmio_map; user_data points to {callback, context}.
mmio_read:                          ; (uc, offset, size, user_data) -> value
        mov     r10, [rcx + 8]
        WEIGH   r10
        jmp     [rcx]
; When the store made an interrupt wait and Python has said how long it is, go on behind it, by
; TCG's main loop.
mmio_write:                         ; (uc, offset, size, value, user_data)
        push    rbx
        mov     rbx, [r8 + 8]
        WEIGH   rbx
        call    [r8]
        mov     r11, rbx
        pop     rbx
        cmp     qword [r11 + context.leave], 0
        jne     .leave
        ret
.leave: push    rbx
        mov     rbx, r11
        mov     rdi, [rbx + context.cpu]
        mov     rsi, [rdi + CPU_MEM_IO_PC]
        mov     edx, 1
        call    G(restore_state)
        mov     rdi, [rbx + context.env]
        mov     rax, [rdi + ENV_EIP]
        add     rax, [rbx + context.leave]
        mov     qword [rbx + context.leave], 0
        test    dword [rdi + ENV_HFLAGS], HF_CS64
        jnz     .there
        mov     eax, eax
        test    dword [rdi + ENV_HFLAGS], HF_CS32
        jnz     .there
        movzx   eax, ax
.there: mov     [rdi + ENV_EIP], rax
        mov     rdi, [rbx + context.cpu]
        pop     rbx
        jmp     G(noexc)

; RDTSC and RDTSCP, which an operating system reads at each system call: Python is asked only when
; nobody said what the counter follows.
guard_rdtscp:
        push    rsi
        call    guard_rdtsc
        pop     rsi
        mov     r11, [rsi + 8]
        mov     rcx, [r11 + context.env]
        mov     edx, [rcx + ENV_TSC_AUX]
        mov     [rcx + ENV_RCX], rdx
        ret
CLOCK_MONOTONIC equ 1
align 16
guard_rdtsc:
        mov     r11, [rsi + 8]
        cmp     dword [r11 + context.tsc], TSC_COUNTER
        jb      guard_insn
        push    rbx
        mov     rbx, r11
        jne     .host
        mov     rax, [rbx + context.cpu]
        mov     rax, [rax + CPU_COUNTER]
        imul    rax, [rbx + context.tsc_scale]
        jmp     .add
.host:  sub     rsp, 16
        mov     edi, CLOCK_MONOTONIC
        mov     rsi, rsp
        call    G(clock_gettime)
        imul    rax, [rsp], 1000000000
        add     rax, [rsp + 8]
        add     rsp, 16
.add:   add     rax, [rbx + context.tsc_base]
        mov     rcx, [rbx + context.env]
        mov     edx, eax
        mov     [rcx + ENV_RAX], rdx
        shr     rax, 32
        mov     [rcx + ENV_RDX], rax
        mov     eax, 1
        pop     rbx
        ret

align 16
guard_insn:                         ; (uc, user_data) -> skip Unicorn's own
        push    rbx
        mov     rbx, [rsi + 8]
        call    [rsi]
guarded:
        mov     r11, rbx
        pop     rbx
fault_or_return:                    ; r11: context, rax: result, at a return address
        mov     esi, [r11 + context.fault]
        test    esi, esi
        jnz     .raise
        ret
.raise: mov     edx, [r11 + context.fault_error]
        mov     dword [r11 + context.fault], 0
        and     esi, 0xff
        mov     rdi, [r11 + context.env]
        jmp     G(raise)

; CPUClass.cpu_exec_interrupt (cpu, interrupt_request) -> taken.  Asked at each turn of TCG's
; main loop while interrupt_request is not 0, so what mostly says no is native.
; A MOV SS or STI shadow holds off all three kinds (SDM vol. 3A 7.8.3).
align 16
exec_interrupt:
        FIND    rdi, cpu
        mov     rax, [r11 + context.env]
        test    dword [rax + ENV_HFLAGS], HF_INHIBIT_IRQ
        jnz     .deny
        push    rbx
        mov     rbx, r11
        or      dword [rax + ENV_TR_FLAGS], TSS_THERE
        test    esi, INTERRUPT_SMI
        jz      .nmi
        test    dword [rax + ENV_HFLAGS], HF_SMM
        jnz     .hard
        and     dword [rdi + CPU_INTERRUPT_REQUEST], ~INTERRUPT_SMI
        mov     edi, 1
        call    [rbx + context.smm]
        mov     rdi, [rbx + context.cpu]
        call    G(smm_enter)
        jmp     .taken
.nmi:   test    esi, INTERRUPT_NMI
        jz      .hard
        test    dword [rax + ENV_HFLAGS2], HF2_NMI
        jnz     .hard
        and     dword [rdi + CPU_INTERRUPT_REQUEST], ~INTERRUPT_NMI
        or      dword [rax + ENV_HFLAGS2], HF2_NMI
        mov     eax, 2
        jmp     .take
.hard:  test    esi, INTERRUPT_HARD
        jz      .no
        test    dword [rax + ENV_EFLAGS], IF
        jz      .no
        call    [rbx + context.acknowledge]
        test    eax, eax
        js      .no
.take:  cmp     qword [rbx + context.interrupt], 0
        je      .do
        push    rax
        sub     rsp, 8
        mov     edi, eax
        mov     rdx, [rbx + context.env]
        mov     rcx, [rdx + ENV_EIP]
        xor     esi, esi
        xor     edx, edx
        mov     r8d, 1
        call    [rbx + context.interrupt]
        add     rsp, 8
        pop     rax
.do:    mov     rdi, [rbx + context.env]
        push    r12
        sub     rsp, 8
        mov     r12d, [rdi + ENV_TR]
        mov     esi, eax
        mov     edx, 1
        call    G(hardirq)
        call    switched
        add     rsp, 8
        pop     r12
.taken: mov     eax, 1
        pop     rbx
        ret
.no:    xor     eax, eax
        pop     rbx
        ret
.deny:  xor     eax, eax
        ret

; UC_HOOK_BLOCK or UC_HOOK_CODE (uc, pc, size, context): count, or leave before it.
align 16
count:
        mov     rdx, [rcx + context.cpu]
        mov     rax, [rdx + CPU_COUNTER]
        inc     rax
        mov     [rdx + CPU_COUNTER], rax
        cmp     rax, [rdx + CPU_BOUND]
        ja      .over
        ret
.over:  mov     r11, rcx
        jmp     over_bound

; The same with a record {host code, cs_base, pc, flags} for each that runs.
align 16
trace:
        push    rbx
        push    rsi
        sub     rsp, 8
        mov     rbx, rcx
        call    count
        add     rsp, 8
        pop     rsi
        mov     rax, [rbx + context.trace]
        mov     rdx, [rbx + context.env]
        mov     rcx, [rsp + 8]
        mov     [rax], rcx
        mov     rcx, [rdx + ENV_CS_BASE]
        mov     [rax + 8], rcx
        mov     [rax + 16], rsi
        mov     ecx, [rdx + ENV_EFLAGS]
        and     ecx, FLAGS_IN_TB
        or      ecx, [rdx + ENV_HFLAGS]
        mov     [rax + 24], rcx
        add     rax, 32
        mov     [rbx + context.trace], rax
        cmp     rax, [rbx + context.trace_end]
        jb      .done
        call    [rbx + context.traced]
.done:  pop     rbx
        ret

; From a block whose count went over its bound: rbp is env and RIP has been stored.
align 16
block_over:
        FIND    rbp, env
        mov     rdx, [r11 + context.cpu]
; r11: context, rdx: CPUState.  Leave the loop when the limit is reached; go on through TCG's
; main loop, which looks at interrupt_request, when that was asked for; otherwise return.
over_bound:
        mov     rcx, [r11 + context.limit]
        cmp     [rdx + CPU_COUNTER], rcx
        ja      .leave
        xchg    [rdx + CPU_BOUND], rcx  ; a full barrier: a kick may come in between
        mov     rcx, [r11 + context.limit]
        cmp     [rdx + CPU_BOUND], rcx
        jne     over_bound
        cmp     dword [r11 + context.request], 0
        je      .return
        mov     dword [r11 + context.request], 0
        dec     qword [rdx + CPU_COUNTER]       ; it will begin again
        mov     rdi, rdx
        jmp     G(loop_exit)
.return:
        ret
.leave: push    rdx
        mov     rdi, [r11 + context.uc]
        call    G(emu_stop)
        pop     rdi
        mov     dword [rdi + CPU_EXCEPTION_INDEX], EXCP_INTERRUPT
        jmp     G(loop_exit)

; CPUX86State's words that `keep_bases` keeps, in the order of context.bases
%define BASES ENV_GDT + 8, ENV_GDT + 16, ENV_IDT + 8, ENV_IDT + 16, ENV_FS_BASE, ENV_GS_BASE

; translator_loop (ops, db, cpu, tb, max_insns): as QEMU 10, let a block end behind an instruction
; that may raise an interrupt line (port I/O, WRMSR) or reads the time, so that an interrupt is
; taken right behind it.
align 16
translator:
        FIND    rdx, cpu
        test    r11, r11
        jz      .go
        cmp     qword G(translate_insn), 0
        jne     .known
        xor     eax, eax
        lea     r11, G(ops)
.copy:  mov     r10, [rdi + rax * 8]
        mov     [r11 + rax * 8], r10
        inc     eax
        cmp     eax, 7
        jb      .copy
        mov     r10, [rdi + 8 * OPS_TRANSLATE_INSN]
        mov     G(translate_insn), r10
        lea     r10, [translate_insn]
        mov     [r11 + 8 * OPS_TRANSLATE_INSN], r10
.known: lea     rdi, G(ops)
.go:    jmp     G(translator)

; TranslatorOps.translate_insn (db, cpu)
translate_insn:
        push    rbx
        push    r12
        push    r13
        mov     rbx, rdi
        FIND    rsi, cpu
        mov     r12, r11
        mov     r13, rsi
        call    examine
        xor     ecx, ecx
        cmp     eax, ILL
        jne     .fed
        mov     ecx, 0x0b0f             ; UD2
.fed:   cmp     eax, REFUSED
        jne     .read
        mov     ecx, 0xf4               ; HLT, which is #GP outside of ring 0
.read:  mov     [r12 + context.instead], rcx
        mov     r12, [r12 + context.tcg]
        push    rax
        push    r13
        cmp     eax, PORT
        jne     .keep
        mov     rdi, r12
        call    emit_port_check
.keep:  cmp     dword [rsp + 8], BASE
        jne     .theirs
        mov     rdi, r12
        lea     rsi, [keep_bases]
        call    emit
.theirs:
        mov     rdi, rbx
        mov     rsi, [rsp]
        mov     r13, [r12 + TCG_OPS + 8]        ; the last op's link: insn_start's
        call    G(translate_insn)
        cmp     dword [rsp + 8], BASE
        jne     .emitted
        mov     rdi, r12
        lea     rsi, [check_bases]
        call    emit
.emitted:
        add     rsp, 8
        pop     rax
        cmp     eax, ALIGNED
        je      .align
        cmp     eax, FLAGS_FIRST
        jne     .ends
        cmp     dword [rbx + DC_CC_OP], CC_OP_EFLAGS
        jne     .ends
        mov     qword [r13 + 24], CC_OP_EFLAGS  ; insn_start (pc, cc_op)
        jmp     .ends
.align: mov     rdx, r13                ; of two accesses of 8 bytes, mark the first
        xor     ecx, ecx
.access:
        mov     rdx, [rdx]
        test    rdx, rdx
        jz      .ends
        movzx   eax, byte [rdx]
        add     rdx, 8                  ; its link
        cmp     eax, OP_QEMU_LD_I64
        je      .wide
        cmp     eax, OP_QEMU_ST_I64
        jne     .access
.wide:  mov     eax, [rdx + 32]         ; (data, address, memop << 4 | mmu index)
        and     eax, 3 << 4
        cmp     eax, 3 << 4             ; MO_64
        jne     .access
        test    rcx, rcx
        jnz     .second
        mov     rcx, rdx
        jmp     .access
.second:
        mov     al, [rdx - 8]
        cmp     al, [rcx - 8]
        jne     .ends
        or      qword [rcx + 32], MO_ALIGN_16 << 4
.ends:
        cmp     dword [rbx + DB_IS_JMP], DISAS_NEXT
        jne     .end
        mov     rax, [rbx + DB_TB]
        test    dword [rax + TB_FLAGS], RF      ; RF is for one instruction
        jnz     .cut
.op:    mov     r13, [r13]
        test    r13, r13
        jz      .end
        cmp     byte [r13], OP_CALL
        jne     .next
        movzx   eax, byte [r13 + 1]
        mov     edx, eax
        and     eax, 15
        shr     edx, 4
        add     eax, edx
        mov     rax, [r13 + rax * 8 + 24]
        lea     rdx, G(ends)
        mov     ecx, ENDING
.which: cmp     rax, [rdx]
        je      .cut
        add     rdx, 8
        dec     ecx
        jnz     .which
.next:  add     r13, 8
        jmp     .op
.cut:   mov     dword [rbx + DB_IS_JMP], DISAS_TOO_MANY
.end:   pop     r13
        pop     r12
        pop     rbx
        ret

; Let the block call our routine (env).  rdi: TCGContext, rsi: it.  The op is made for a helper
; that has the same arguments and that may raise exceptions, then sent to ours.
emit:
        push    rbx
        push    rsi
        sub     rsp, 8
        mov     rbx, rdi
        mov     rax, [rdi + TCG_CPU_ENV]
        add     rax, rdi
        mov     [rsp], rax
        mov     r8, rsp
        mov     ecx, 1
        xor     edx, edx
        mov     rsi, G(clts)
        call    G(gen_call)
        mov     rax, [rbx + TCG_OPS + 8]        ; the last op's link
        mov     rcx, [rsp + 8]
        mov     [rax + 24], rcx                 ; (env, function, flags)
        add     rsp, 16
        pop     rbx
        ret

; Let the block call check_port (env, which).  rdi: TCGContext, edx: which.
emit_port_check:
        push    rbx
        sub     rsp, 16
        mov     rbx, rdi
        mov     esi, edx
        call    G(const_i32)
        add     rax, rbx
        mov     [rsp + 8], rax
        mov     rax, [rbx + TCG_CPU_ENV]
        add     rax, rbx
        mov     [rsp], rax
        mov     r8, rsp
        mov     ecx, 2
        xor     edx, edx
        mov     rsi, G(ltr)
        mov     rdi, rbx
        call    G(gen_call)
        mov     rax, [rbx + TCG_OPS + 8]
        lea     rcx, [check_port]
        mov     [rax + 32], rcx                 ; (env, which, function, flags)
        mov     rdi, rbx
        mov     rsi, [rsp + 8]
        call    G(temp_free)
        add     rsp, 16
        pop     rbx
        ret

; (env, which): ask the TSS whether ring 3 may use a port; may raise.  Which: 0, 1 or 2 for 1, 2
; or 4 bytes, bit 2: the port is in bits 8 to 15 (otherwise in DX).
align 16
check_port:
        mov     eax, esi
        shr     esi, 8
        test    al, 4
        jnz     .known
        movzx   esi, word [rdi + ENV_RDX]
.known: and     eax, 3
        jz      .byte
        dec     eax
        jz      .word
        jmp     G(check_iol)
.word:  jmp     G(check_iow)
.byte:  jmp     G(check_iob)

; (env): keep the bases that the instruction is about to load
align 16
keep_bases:
        FIND    rdi, env
%assign i 0
%macro KEEP 1-*
%rep %0
        mov     rax, [rdi + %1]
        mov     [r11 + context.bases + i], rax
%assign i i + 8
%rotate 1
%endrep
%endmacro
        KEEP    BASES
        ret

; (env): one that is not canonical is refused, #GP(0) (SDM 2, LGDT, WRFSBASE)
align 16
check_bases:
%macro CANONICAL 1-*
%rep %0
        mov     rax, [rdi + %1]
        mov     rcx, rax
        shl     rax, 16
        sar     rax, 16
        cmp     rax, rcx
        jne     .refuse
%rotate 1
%endrep
%endmacro
        CANONICAL ENV_GDT + 8, ENV_IDT + 8, ENV_FS_BASE, ENV_GS_BASE
        ret
.refuse:
        FIND    rdi, env
%assign i 0
%macro PUT_BACK 1-*
%rep %0
        mov     rax, [r11 + context.bases + i]
        mov     [rdi + %1], rax
%assign i i + 8
%rotate 1
%endrep
%endmacro
        PUT_BACK BASES
        mov     esi, 13
        xor     edx, edx
        mov     rcx, [rsp]
        jmp     G(raise_at)

; helper_lldt (env, selector), helper_ltr (env, selector): in long mode a descriptor whose base
; is not canonical is refused, #GP(selector)
%macro LOAD_SYSTEM 1
align 16
%1:     FIND    rdi, env
        test    dword [rdi + ENV_HFLAGS], HF_LMA
        jz      %%theirs
        push    rdi
        push    rsi
        push    r11
        mov     edi, esi
        call    [r11 + context.wild_base]
        pop     r11
        pop     rsi
        pop     rdi
        test    eax, eax
        jz      %%theirs
        mov     edx, esi
        and     edx, 0xfffc
        mov     esi, 13
        mov     rcx, [rsp]
        jmp     G(raise_at)
%%theirs:
        jmp     G(%1)
%endmacro
        LOAD_SYSTEM lldt
        LOAD_SYSTEM ltr

; helper_invlpg (env, address).  For a large page Unicorn forgets, from the cache of blocks by
; their addresses, those of 4 KiB only.
align 16
invlpg:
        FIND    rdi, env
        cmp     qword [r11 + context.large], 0
        je      .theirs
        push    rdi
        mov     rdi, [r11 + context.cpu]
        add     rdi, CPU_JMP_CACHE
        mov     ecx, JMP_CACHE_SIZE
        xor     eax, eax
        rep     stosq
        pop     rdi
.theirs:
        jmp     G(invlpg)

; helper_iret_protected (env, shift, next eip), helper_iret_real (env, shift),
; helper_lret_protected (env, shift, immediate), helper_lcall_protected (env, selector, offset,
; shift, next eip), helper_lcall_real (the same).  Unicorn accesses the stack with ring 0's rights
; whoever asks; ring 3 is judged here first.
%macro RING_3 1
        mov     eax, [rdi + ENV_HFLAGS]
        and     eax, 3
        cmp     eax, 3
        jne     %1
        push    rdi
        push    rsi
        push    rdx
        push    rcx
        push    r8
        mov     r9, [rsp + 40]          ; where in the block
%endmacro
%macro JUDGED 1
        pop     r8
        pop     rcx
        pop     rdx
        pop     rsi
        pop     rdi
        jmp     %1
%endmacro
align 16
judged_iret:
        RING_3  iret
        mov     edx, 3
        test    dword [rdi + ENV_HFLAGS], HF_CS64
        jz      .words
        mov     edx, 5                  ; SS:RSP too
.words: call    probe_pops
        JUDGED  iret
align 16
iret_real:
        RING_3  .theirs
        mov     edx, 3
        call    probe_pops
        JUDGED  G(iret_real)
.theirs:
        jmp     G(iret_real)
align 16
judged_lret:
        RING_3  lret
        mov     edx, 2
        call    probe_pops
        JUDGED  lret
align 16
judged_lcall:
        RING_3  lcall
        lea     rax, [rdi + ENV_GDT]
        test    esi, 4
        jz      .table
        lea     rax, [rdi + ENV_LDT]
.table: mov     ecx, esi
        or      ecx, 7
        cmp     ecx, [rax + 16]
        ja      .judged
        and     esi, 0xfff8
        add     rsi, [rax + 8]
        add     rsi, 5
        mov     edx, MMU_RING_0
        mov     rcx, r9
        call    G(load_mmuidx)
        and     al, 0x18
        cmp     al, 0x18
        jne     .judged                 ; a gate: not this stack
        mov     rdi, [rsp + 32]
        mov     ecx, [rsp + 8]
        mov     r9, [rsp + 40]
        call    probe_pushes
.judged:
        JUDGED  lcall
align 16
lcall_real:
        RING_3  .theirs
        call    probe_pushes
        JUDGED  G(lcall_real)
.theirs:
        jmp     G(lcall_real)

; May ring 3 pop edx words of 2 << esi bytes, push two of 2 << ecx bytes?  rdi: env, r9: where
; in the block.  Raises the page fault of the first that it may not.
probe_pops:
        mov     ecx, esi
        mov     eax, 2
        shl     eax, cl                 ; size
        mov     ecx, eax                ; step
        xor     esi, esi                ; the first word's offset from RSP
        jmp     probe_stack
probe_pushes:
        mov     eax, 2
        shl     eax, cl
        mov     ecx, eax
        neg     ecx
        mov     esi, ecx
        mov     edx, 2
probe_stack:
        push    rbx
        push    rbp
        push    r12
        push    r13
        push    r14
        push    r15
        push    rcx
        mov     rbx, rdi
        mov     ebp, eax
        movsxd  r12, esi
        mov     r13d, edx
        mov     r14, r9
.word:  mov     rax, r12
        call    .linear
        mov     r15, rax
        call    .probe
        lea     rax, [r12 + rbp - 1]
        call    .linear
        xor     r15, rax
        and     rax, ~0xfff             ; the word's second page
        shr     r15, 12
        jz      .next
        call    .probe
.next:  movsxd  rax, dword [rsp]
        add     r12, rax
        dec     r13d
        jnz     .word
        pop     rcx
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        ret
.linear:
        add     rax, [rbx + ENV_RSP]
        test    dword [rbx + ENV_HFLAGS], HF_CS64
        jnz     .known
        test    dword [rbx + ENV_SS + 20], 1 << 22      ; B
        jnz     .wide
        movzx   eax, ax
.wide:  add     eax, [rbx + ENV_SS + 8]
.known: ret
.probe: mov     rdi, rbx
        mov     rsi, rax
        mov     edx, 1
        mov     ecx, [rsp + 8]
        shr     ecx, 31                 ; steps down: a store
        mov     r8d, MMU_RING_3
        mov     r9, r14
        jmp     G(probe_access)

; Look at the instruction that the translator is about to read.
; ILL: Unicorn executes it, or dies of it, and a processor refuses it with #UD: LOCK on what
; cannot be locked (SDM 2, LOCK), MOVBE of two registers, MOVMSKPS of memory, 8F, C6 and C7 with another reg than 0.
; FLAGS_FIRST: Unicorn computes the flags in place before the instruction's memory access, so
; that after a fault they are not as insn_start says: SETcc, RCL and RCR of memory.
; ALIGNED: an operand of 16 bytes must be aligned (SDM 2, 2.4), which Unicorn does not check.
; BASE: LGDT, LIDT, WRFSBASE or WRGSBASE in 64-bit mode, whose base must be canonical.
; PORT: IN, OUT, INS or OUTS that the TSS is to be asked for (edx: `check_port`'s); Unicorn
; leaves that check out.
; REFUSED: SGDT, SIDT, SLDT, SMSW and STR outside of ring 0 with CR4.UMIP are #GP.
; rbx: DisasContextBase, r12: context -> eax: ILL, FLAGS_FIRST, ALIGNED, BASE, PORT,
; REFUSED or else
ILL         equ 0
FLAGS_FIRST equ 2
ALIGNED     equ 3
BASE        equ 4
PORT        equ 5
REFUSED     equ 6
examine:
        push    rbp
        push    r13
        push    r14
        push    r15
        mov     r13, [rbx + DB_PC_NEXT]
        xor     r14d, r14d              ; bit 0: LOCK, 1: REPNE, 2: REP, 3: operand size
        mov     r15d, 14                ; more prefixes are #GP, which the translator says
.byte:  call    .load
        dec     r15d
        js      .well
        lea     ecx, [rax - 0x26]       ; segments, 0x26 to 0x3e
        test    ecx, ~0x18
        jz      .byte
        cmp     al, 0x66
        je      .data
        lea     ecx, [rax - 0x64]       ; FS, GS, address size
        cmp     ecx, 4
        jb      .byte
        cmp     al, 0xf0
        je      .lock
        cmp     al, 0xf2
        je      .repne
        cmp     al, 0xf3
        je      .rep
        mov     rcx, [r12 + context.env]
        test    dword [rcx + ENV_HFLAGS], HF_CS64
        jz      .opcode
        mov     ecx, eax
        and     ecx, 0xf0
        cmp     ecx, 0x40               ; REX
        je      .byte
.opcode:
        cmp     al, 0x0f
        je      .two
        test    r14d, 1
        jz      .rotate
        lea     rbp, [lockable]
        jmp     .find
.rotate:
        lea     ecx, [rax - 0xc0]       ; C0, C1, D0 to D3
        cmp     ecx, 2
        jb      .rcl
        lea     ecx, [rax - 0xd0]
        cmp     ecx, 4
        jae     .one
.rcl:   call    .load
        cmp     al, 0xc0
        jae     .well
        and     al, 0x30
        cmp     al, 0x10                ; /2, /3
        je      .flags_first
        jmp     .well
.one:   lea     ecx, [rax - 0x6c]       ; INS, OUTS
        cmp     ecx, 4
        jb      .port
        mov     ecx, eax
        and     ecx, 0xf4               ; E4 to E7, EC to EF: IN, OUT
        cmp     ecx, 0xe4
        je      .port
        cmp     al, 0x8f
        je      .reg0
        and     al, 0xfe
        cmp     al, 0xc6
        jne     .well
.reg0:  call    .load
        test    al, 0x38
        jnz     .ill
        jmp     .well
.port:  mov     rcx, [r12 + context.env]
        mov     edx, [rcx + ENV_EFLAGS]
        mov     ecx, [rcx + ENV_HFLAGS]
        bt      edx, 17                 ; VM
        jc      .asked
        shr     edx, 12
        and     edx, 3                  ; IOPL
        mov     ebp, ecx
        and     ebp, 3                  ; CPL
        cmp     ebp, edx
        jbe     .well
.asked: mov     ebp, eax
        xor     r15d, r15d
        test    al, 1
        jz      .sized
        test    ecx, HF_CS32 | HF_CS64
        setnz   r15b
        shr     r14d, 3
        and     r14d, 1
        xor     r15d, r14d
        inc     r15d
.sized: sub     ebp, 0xe4
        cmp     ebp, 4
        jae     .in_dx
        call    .load
        shl     eax, 8
        or      r15d, eax
        or      r15d, 4
.in_dx: mov     edx, r15d
        mov     eax, PORT
        jmp     .end
.lock:  or      r14d, 1
        jmp     .byte
.repne: or      r14d, 2
        jmp     .byte
.rep:   or      r14d, 4
        jmp     .byte
.data:  or      r14d, 8
        jmp     .byte
.two:   call    .load
        lea     rbp, [lockable_0f]
        test    r14d, 1
        jnz     .find
        lea     ecx, [rax - 0x90]
        cmp     ecx, 16
        jb      .setcc
        cmp     al, 0x01
        je      .tables
        cmp     al, 0xae
        je      .bases
        cmp     al, 0x3a
        je      .three
        cmp     al, 0x38
        jne     .sse
        call    .load
        and     al, 0xfe
        cmp     al, 0xf0                ; MOVBE, or CRC32 with F2
        jne     .aligned
        test    r14d, 2
        jnz     .well
        call    .load
        cmp     al, 0xc0
        jae     .ill
        jmp     .well
.tables:
        call    .load
        mov     ecx, eax
        and     ecx, 0x38
        cmp     ecx, 4 << 3             ; SMSW
        je      .user
        cmp     al, 0xc0
        jae     .well
        cmp     ecx, 2 << 3             ; SGDT, SIDT
        jae     .loads_base
.user:  mov     rcx, [r12 + context.env]
        test    dword [rcx + ENV_CR4], CR4_UMIP
        jz      .well
        test    dword [rcx + ENV_HFLAGS], 3
        jz      .well
        mov     eax, REFUSED
        jmp     .end
.selectors:
        mov     rcx, [r12 + context.env]
        test    dword [rcx + ENV_EFLAGS], VM    ; #UD
        jnz     .well
        call    .load
        test    al, 0x30                ; SLDT, STR
        jz      .user
        jmp     .well
.bases: test    r14d, 4
        jz      .aligned
        call    .load
        cmp     al, 0xc0
        jb      .well
.loads_base:
        and     al, 0x30
        cmp     al, 0x10                ; /2, /3
        jne     .well
        mov     rcx, [r12 + context.env]
        test    dword [rcx + ENV_HFLAGS], HF_CS64
        jz      .well
        mov     eax, BASE
        jmp     .end
.three: call    .load
        and     al, 0xfc
        cmp     al, 0x60                ; PCMPESTRM and its like
        jne     .aligned
        jmp     .well
.sse:   test    al, al
        jz      .selectors
        lea     ecx, [rax - 0x10]       ; MOVUPS
        cmp     ecx, 2
        jb      .well
        lea     ecx, [rax - 0x1a]       ; BNDMOV
        cmp     ecx, 2
        jb      .well
        cmp     al, 0xf0                ; LDDQU
        je      .well
        cmp     al, 0x50                ; MOVMSKPS, of memory
        je      .register
        lea     ecx, [rax - 0x2c]       ; CVTTPS2PI and CVTPS2PI take 8 bytes
        cmp     ecx, 2
        jb      .two_wide
        cmp     al, 0x5a                ; CVTPS2PD too
        je      .two_wide
        cmp     al, 0xe6                ; CVTDQ2PD: F3
        je      .not_rep
        and     al, 0xef
        cmp     al, 0x6f                ; MOVDQU: F3
        jne     .aligned
.not_rep:
        test    r14d, 4
        jnz     .well
.aligned:
        mov     eax, ALIGNED
        jmp     .end
.two_wide:
        test    r14d, 8
        jnz     .aligned
        jmp     .well
.register:
        call    .load
        cmp     al, 0xc0
        jb      .ill
        jmp     .well
.find:  movzx   ecx, word [rbp]
        jecxz   .ill
        add     rbp, 2
        cmp     cl, al
        jne     .find
        mov     ebp, ecx
        call    .load
        cmp     al, 0xc0
        jae     .ill
        shr     eax, 3
        and     eax, 7
        add     eax, 8
        bt      ebp, eax
        jnc     .ill
.well:  mov     eax, 1
        jmp     .end
.setcc: call    .load
        cmp     al, 0xc0
        jae     .well
.flags_first:
        mov     eax, FLAGS_FIRST
        jmp     .end
.ill:   mov     eax, ILL
.end:   pop     r15
        pop     r14
        pop     r13
        pop     rbp
        ret
.load:  mov     rdi, [r12 + context.env]
        mov     rsi, r13
        inc     r13
        test    dword [rdi + ENV_HFLAGS], HF_CS64
        jnz     .long
        mov     esi, esi
.long:  call    G(load_byte)
        movzx   eax, al
        ret

; opcode | 1 << (8 + reg of its ModRM) | …, 0
lockable:
%assign opcode 0
%rep 7
        dw      0xff00 + opcode, 0xff01 + opcode
%assign opcode opcode + 8
%endrep
        dw      0x7f80, 0x7f81, 0x7f82, 0x7f83, 0xff86, 0xff87, 0x0cf6, 0x0cf7, 0x03fe, 0x03ff, 0
lockable_0f:                            ; BTS, BTR, BTC, CMPXCHG, XADD, CMPXCHG8B
        dw      0xffab, 0xffb3, 0xffbb, 0xe0ba, 0xffb0, 0xffb1, 0xffc0, 0xffc1, 0x02c7, 0

; helper_raise_interrupt (env, vector, length), helper_into (env, length)
align 16
raise_interrupt:
        FIND    rdi, env
        mov     [r11 + context.int_length], edx
        jmp     G(raise_interrupt)
into:
        FIND    rdi, env
        mov     [r11 + context.int_length], esi
        jmp     G(into)

; helper_syscall (env, length), helper_sysenter (env, length): Unicorn's only call hooks.
; SDM 2, AMD APM 3; from compatibility mode to CSTAR and in legacy mode as AMD's.
align 16
syscall_:
        test    dword [rdi + ENV_EFER], 1       ; SCE
        jnz     .on
        mov     esi, 6
        xor     edx, edx
        jmp     G(raise)
.on:    push    rbx
        mov     rbx, rdi
        movsxd  rsi, esi
        add     rsi, [rdi + ENV_EIP]
        mov     [rdi + ENV_RCX], rsi
        call    G(read_eflags)
        and     eax, ~RF
        test    dword [rbx + ENV_HFLAGS], HF_LMA
        jz      .legacy
        mov     [rbx + ENV_R11], rax
        mov     ecx, [rbx + ENV_FMASK]
        not     ecx
        and     eax, ecx
        mov     edx, CODE64
        mov     rcx, [rbx + ENV_LSTAR]
        test    dword [rbx + ENV_HFLAGS], HF_CS64
        jnz     .enter
        mov     rcx, [rbx + ENV_CSTAR]
        jmp     .enter
.legacy:
        mov     dword [rbx + ENV_RCX + 4], 0
        and     eax, ~(IF | VM)
        mov     edx, CODE32
        mov     ecx, [rbx + ENV_STAR]
.enter: mov     [rbx + ENV_EIP], rcx
        mov     ecx, eax
        and     ecx, STATUS
        mov     [rbx + ENV_CC_SRC], rcx
        mov     dword [rbx + ENV_CC_OP], CC_OP_EFLAGS
        xor     ecx, ecx
        test    eax, DF
        setz    cl
        lea     ecx, [rcx * 2 - 1]
        mov     [rbx + ENV_DF], ecx
        and     eax, ~(STATUS | DF)
        or      eax, 2
        mov     [rbx + ENV_EFLAGS], rax
        movzx   esi, word [rbx + ENV_STAR + 4]
; rbx: env, on the stack: rbx; esi: selector; edx: code segment's flags.  Flat segments of ring 0.
enter_ring_0:
        and     esi, 0xfffc
        mov     [rbx + ENV_CS], esi
        mov     qword [rbx + ENV_CS + 8], 0
        mov     dword [rbx + ENV_CS + 16], -1
        mov     [rbx + ENV_CS + 20], edx
        add     esi, 8
        and     esi, 0xfffc
        mov     [rbx + ENV_SS], esi
        mov     qword [rbx + ENV_SS + 8], 0
        mov     dword [rbx + ENV_SS + 16], -1
        mov     dword [rbx + ENV_SS + 20], DATA
        mov     rdi, rbx
        pop     rbx
        jmp     G(update_hflags)
align 16
sysenter_:
        mov     esi, [rdi + ENV_SYSENTER_CS]
        test    esi, 0xfffc
        jnz     .on
        mov     esi, 13
        xor     edx, edx
        jmp     G(raise)
.on:    push    rbx
        mov     rbx, rdi
        and     dword [rdi + ENV_EFLAGS], ~(IF | RF | VM)
        mov     rax, [rdi + ENV_SYSENTER_ESP]
        mov     [rdi + ENV_RSP], rax
        mov     rax, [rdi + ENV_SYSENTER_EIP]
        mov     [rdi + ENV_EIP], rax
        mov     edx, CODE32
        test    dword [rdi + ENV_HFLAGS], HF_LMA
        jz      enter_ring_0
        mov     edx, CODE64
        jmp     enter_ring_0

; helper_pause (env, length): leaves the block as every instruction does, which Unicorn forgets:
; the shadow of MOV SS and RF end, TF is a #DB behind it.
align 16
pause:
        movsxd  rsi, esi
        add     [rdi + ENV_EIP], rsi
        xor     esi, esi
        and     dword [rdi + ENV_HFLAGS], ~HF_INHIBIT_IRQ
        and     dword [rdi + ENV_EFLAGS], ~RF
        test    dword [rdi + ENV_EFLAGS], TF
        jz      .go
        jmp     G(single_step)
.go:    jmp     G(pause)

; helper_single_step (env): of an instruction with a watched access it is one #DB for both
align 16
single_step:
        test    dword [rdi - CPU_ENV + CPU_INTERRUPT_REQUEST], INTERRUPT_DEBUG
        jnz     .both
.go:    jmp     G(single_step)
.both:  FIND    rdi, env
        test    r11, r11
        jz      .go
        push    rbx
        mov     rbx, r11
        call    [rbx + context.debug]
        mov     rdi, [rbx + context.env]
        test    eax, eax
        jz      .theirs                 ; the debugger's watchpoint: later
        and     dword [rdi - CPU_ENV + CPU_INTERRUPT_REQUEST], ~INTERRUPT_DEBUG
        mov     dword [rbx + context.replaying], 0
        pop     rbx
        or      dword [rdi + ENV_DR6], DR6_BS
        mov     esi, 1
        xor     edx, edx
        jmp     G(raise)
.theirs:
        pop     rbx
        jmp     G(single_step)

; helper_hlt (env, length): with TF the #DB behind it comes at once
align 16
hlt:    test    dword [rdi + ENV_EFLAGS], TF
        jnz     pause
        jmp     G(hlt)

; CPUClass.do_unaligned_access (cpu, address, type, mmu index, host address): #AC where
; alignment is checked, or what an SSE operand gets
align 16
unaligned:
        lea     rdi, [rdi + CPU_ENV]
        mov     eax, [rdi + ENV_HFLAGS]
        and     eax, HF_AM | 3
        mov     esi, 13
        cmp     eax, HF_AM | 3
        jne     .raise
        test    dword [rdi + ENV_EFLAGS], AC
        jz      .raise
        mov     esi, 17
.raise: xor     edx, edx
        mov     rcx, r8
        jmp     G(raise_at)

; cpu_ldub_code (env, address) -> byte
align 16
load_byte:
        FIND    rdi, env
        test    r11, r11
        jz      .theirs
        mov     rax, [r11 + context.instead]
        test    rax, rax
        jnz     .instead
.theirs:
        jmp     G(load_byte)
.instead:
        shr     qword [r11 + context.instead], 8
        movzx   eax, al
        ret

; tcg_gen_code (TCGContext, tb) -> size or an error: before it, send calls of helpers that we
; replace to our own; after it, count inline and tell who wants to know.
align 16
gen_code:
        FIND    rdi, tcg
        test    r11, r11
        jz      .theirs
        push    rbx
        push    r12
        push    r13
        mov     rbx, r11
        mov     r12, rsi
        mov     rcx, [rdi + TCG_OPS]
        mov     edi, [rsi + TB_FLAGS]
        and     edi, HF_AM | AC | 3
        cmp     edi, HF_AM | AC | 3
        sete    dil                     ; alignment is checked
        jmp     .ops
.op:    cmp     byte [rcx], OP_CALL
        jne     .align
        movzx   eax, byte [rcx + 1]     ; how many inputs, how many outputs
        mov     edx, eax
        and     eax, 15
        shr     edx, 4
        add     eax, edx
        lea     rdx, [rcx + rax * 8 + 24]       ; the function's argument
        mov     rax, [rdx]
%macro REPLACE 2
        cmp     rax, G(%1)
        jne     %%not
        lea     rax, [%2]
        mov     [rdx], rax
        jmp     .link
%%not:
%endmacro
        REPLACE rdmsr, rdmsr
        REPLACE wrmsr, wrmsr
        REPLACE read_cr, read_cr
        REPLACE write_cr, write_cr
        REPLACE rsm, rsm
        REPLACE set_dr, set_dr
        REPLACE get_dr, get_dr
        REPLACE load_seg, load_seg
        REPLACE iret, judged_iret
        REPLACE lret, judged_lret
        REPLACE ljmp, ljmp
        REPLACE lcall, judged_lcall
        REPLACE lookup, lookup
        REPLACE hlt, hlt
        REPLACE single_step, single_step
        REPLACE raise_interrupt, raise_interrupt
        REPLACE into, into
        REPLACE lldt, lldt
        REPLACE ltr, ltr
        REPLACE invlpg, invlpg
        REPLACE iret_real, iret_real
        REPLACE lcall_real, lcall_real
        REPLACE pause, pause
        REPLACE syscall, syscall_
        REPLACE sysenter, sysenter_
        jmp     .link
.align: movzx   eax, byte [rcx]
        sub     eax, OP_QEMU_LD_I32
        cmp     eax, 4                  ; qemu_ld and qemu_st of i32 and i64
        jae     .link
        test    dil, dil
        jz      .link
        test    qword [rcx + 40], MO_ALIGN << 4
        jnz     .link
        or      qword [rcx + 40], MO_ALIGN << 4
.link:  mov     rcx, [rcx + 8]
.ops:   test    rcx, rcx
        jnz     .op
        mov     rax, [r12 + TB_CODE]
        cmp     rax, [rbx + context.last_code]
        ja      .newer
        inc     qword [rbx + context.flushes]
.newer: mov     [rbx + context.last_code], rax
        mov     rdi, [rbx + context.tcg]
        mov     rsi, r12
        call    G(gen_code)
        mov     r13d, eax
        test    eax, eax
        js      .end
        cmp     dword [rbx + context.patch], 0
        je      .tell
        call    patch
.tell:  cmp     qword [rbx + context.translated], 0
        je      .end
        mov     rdi, [r12 + TB_PC]
        movzx   esi, word [r12 + TB_SIZE]
        movzx   edx, word [r12 + TB_ICOUNT]
        mov     ecx, [r12 + TB_FLAGS]
        mov     r8, [r12 + TB_CS_BASE]
        mov     r9, [r12 + TB_CODE]
        call    [rbx + context.translated]
.end:   mov     eax, r13d
        pop     r13
        pop     r12
        pop     rbx
        ret
.theirs:
        jmp     G(gen_code)

; The head of a fresh block stores RIP, calls the block hook (`count`) and then
; check_exit_request, which has nothing to look for here.  Count inline instead:
;       mov rax, [counter]; inc rax; mov [counter], rax; cmp rax, [bound]; jbe behind
;       mov [rip of env], pc; mov rax, block_over; call rax
; rbx: context, r12: tb, r13: size.  Other heads than expected are left as they are.
align 16
patch:
        mov     rdi, [r12 + TB_CODE]
        xor     ecx, ecx
        mov     r8, [rbx + context.uc]
.find:  lea     rdx, [rdi + rcx]
        cmp     word [rdx], 0xbf48              ; mov rdi, uc
        jne     .on
        cmp     [rdx + 2], r8
        jne     .on
        cmp     word [rdx + 10], 0xf633         ; xor esi, esi
        jne     .on
        cmp     byte [rdx + 12], 0xe8           ; call check_exit_request
        jne     .far
        movsxd  rax, dword [rdx + 13]
        lea     esi, [rcx + 17]                 ; the head's length
        lea     rax, [rdx + rax + 17]
        cmp     rax, G(check_exit)
        je      .found
.far:   cmp     word [rdx + 12], 0x15ff         ; call [check_exit_request, in the block's pool]
        jne     .on
        movsxd  rax, dword [rdx + 14]
        lea     esi, [rcx + 18]
        mov     rax, [rdx + rax + 18]
        cmp     rax, G(check_exit)
        je      .found
.on:    inc     ecx
        cmp     ecx, 96
        jb      .find
        ret
.found: mov     rdx, [r12 + TB_PC]
        sub     rdx, [r12 + TB_CS_BASE]         ; what RIP is
        movsxd  rax, edx
        mov     ecx, 49
        cmp     rax, rdx
        je      .fits
        mov     ecx, 55
.fits:  cmp     esi, ecx
        jb      .return
        mov     dword [rdi], 0x858b48           ; mov rax, [rbp + disp32]
        mov     dword [rdi + 3], CPU_COUNTER - CPU_ENV
        mov     dword [rdi + 7], 0x48c0ff48     ; inc rax; (48)
        mov     word [rdi + 11], 0x8589         ; mov [rbp + disp32], rax
        mov     dword [rdi + 13], CPU_COUNTER - CPU_ENV
        mov     dword [rdi + 17], 0x853b48      ; cmp rax, [rbp + disp32]
        mov     dword [rdi + 20], CPU_BOUND - CPU_ENV
        mov     byte [rdi + 24], 0x76           ; jbe
        lea     eax, [rsi - 26]
        mov     [rdi + 25], al
        add     rdi, 26
        cmp     ecx, 49
        jne     .long
        mov     dword [rdi], 0x85c748           ; mov qword [rbp + disp32], imm32
        mov     dword [rdi + 3], ENV_EIP
        mov     [rdi + 7], edx
        add     rdi, 11
        jmp     .call
.long:  mov     word [rdi], 0xb848              ; mov rax, imm64
        mov     [rdi + 2], rdx
        mov     dword [rdi + 10], 0x858948      ; mov [rbp + disp32], rax
        mov     dword [rdi + 13], ENV_EIP
        add     rdi, 17
.call:  lea     rax, [block_over]
        mov     word [rdi], 0xb848              ; mov rax, block_over
        mov     [rdi + 2], rax
        mov     word [rdi + 10], 0xd0ff         ; call rax
        add     rdi, 12
        add     rsi, [r12 + TB_CODE]
.pad:   cmp     rdi, rsi
        jae     .return
        mov     byte [rdi], 0x90
        inc     rdi
        jmp     .pad
.return:
        ret

; tlb_set_page_with_attrs (cpu, vaddr, paddr, attrs, prot, mmu index, size).
; Unicorn keeps each store to an executable page on the slow way.  It is needed only while
; the page holds translated code; `protect_code` is told when a page gets its first.
align 16
set_page:
        FIND    rdi, cpu
        test    r11, r11
        jz      .theirs
        push    rbx
        push    r12
        push    r13
        mov     rbx, r11
        mov     r12, rsi
        mov     r13d, r9d
        cmp     qword [rsp + 32], 0x1000        ; size
        jbe     .small
        mov     qword [r11 + context.large], 1
.small:
        sub     rsp, 8
        push    qword [rsp + 40]
        call    G(set_page)
        add     rsp, 16
        mov     rdi, [rbx + context.env]
        mov     ecx, r13d
        shl     ecx, 4
        mov     rax, [rdi + rcx + TLB_MASK]
        shr     rax, TLB_ENTRY_BITS
        mov     rdx, r12
        shr     rdx, 12
        and     rax, rdx                        ; the entry's index
        mov     rsi, rax
        shl     rsi, TLB_ENTRY_BITS
        add     rsi, [rdi + rcx + TLB_TABLE]
        mov     rdx, [rsi + TLB_ADDR_WRITE]
        mov     ecx, edx
        and     ecx, 0xfff
        cmp     ecx, TLB_NOTDIRTY
        jne     .end
        imul    ecx, r13d, TLB_DESC_SIZE
        add     rdi, rcx
        mov     rdi, [rdi + TLB_IOTLB]
        shl     rax, 4
        mov     rax, [rdi + rax]
        and     r12, ~0xfff
        add     rax, r12                        ; ram_addr_t
        shr     rax, 12
        mov     r8, [rbx + context.uc]
        call    page_has_code
        jnz     .end
        and     qword [rsi + TLB_ADDR_WRITE], ~TLB_NOTDIRTY
.end:   pop     r13
        pop     r12
        pop     rbx
        ret
.theirs:
        jmp     G(set_page)

; rax: page number, r8: uc.  ZF set when no block comes from the page.
page_has_code:
        mov     ecx, [r8 + UC_L1_SHIFT]
        mov     rdx, rax
        shr     rdx, cl
        mov     edi, [r8 + UC_L1_SIZE]
        dec     edi
        and     rdx, rdi
        shl     rdx, 3
        add     rdx, [r8 + UC_L1_MAP]
        mov     ecx, [r8 + UC_L2_LEVELS]
        imul    ecx, ecx, 10
.level: mov     rdx, [rdx]
        test    rdx, rdx
        jz      .return
        test    ecx, ecx
        jz      .last
        mov     rdi, rax
        shr     rdi, cl
        and     edi, 1023
        lea     rdx, [rdx + rdi * 8]
        sub     ecx, 10
        jmp     .level
.last:  and     eax, 1023
        lea     rax, [rax + rax * 2]            ; PageDesc is three words
        cmp     qword [rdx + rax * 8], 0
.return:
        ret

; tlb_protect_code (uc, ram address): the page gets its first block.  Any address may show it.
align 16
protect_code:
        FIND    rdi, uc
        test    r11, r11
        jz      .theirs
        mov     rdi, [r11 + context.cpu]
        jmp     G(tlb_flush)
.theirs:
        jmp     G(protect_code)

; cpu_watchpoint_address_matches (cpu, address, length) -> BP_MEM_READ | BP_MEM_WRITE or 0
align 16
watch_page:
        FIND    rdi, cpu
        xor     eax, eax
        test    r11, r11
        jz      .return
        cmp     dword [r11 + context.watching], 0
        je      .return
        mov     rdi, rsi
        mov     rsi, rdx
        jmp     [r11 + context.watch_page]
.return:
        ret

; cpu_check_watchpoint (cpu, address, length, attrs, flags, return address).  A watched
; instruction is begun again as a block of its own; after it the debug handler is asked.
align 16
watch:
        FIND    rdi, cpu
        test    r11, r11
        jz      .return
        cmp     dword [r11 + context.watching], 0
        je      .return
        push    rbx
        push    r12
        push    r13
        mov     rbx, r11
        mov     r12, r9
        mov     rdi, rsi
        mov     rsi, rdx
        mov     edx, r8d
        call    [rbx + context.watch]
        test    eax, eax
        jz      .pop
        mov     r13, [rbx + context.cpu]
        cmp     dword [rbx + context.replaying], 0
        jne     .after
        mov     dword [rbx + context.replaying], 1
        mov     rdi, r13
        mov     rsi, r12
        mov     edx, 1
        call    G(restore_state)
        mov     dword [r13 + CPU_CFLAGS_NEXT_TB], 1
        mov     rdi, r13
        pop     r13
        pop     r12
        pop     rbx
        jmp     G(noexc)
.after: or      dword [r13 + CPU_INTERRUPT_REQUEST], INTERRUPT_DEBUG
        mov     dword [rbx + context.request], 1
        mov     qword [r13 + CPU_BOUND], 0
.pop:   pop     r13
        pop     r12
        pop     rbx
.return:
        ret

; CPUClass.debug_excp_handler (cpu): a breakpoint was reached or a watchpoint was hit.
align 16
debug:
        FIND    rdi, cpu
        push    rbx
        mov     rbx, r11
        mov     dword [rbx + context.replaying], 0
        call    [rbx + context.debug]
        mov     rdi, [rbx + context.env]
        test    eax, eax
        jnz     .guest
        mov     rdi, [rbx + context.uc]
        call    G(emu_stop)
        pop     rbx
        ret
.guest: pop     rbx
        mov     esi, 1
        xor     edx, edx
        jmp     G(raise)

; helper_rdmsr (env), helper_wrmsr (env)
align 16
rdmsr:
        FIND    rdi, env
        push    r11
        call    [r11 + context.rdmsr]
        pop     r11
        jmp     fault_or_return
align 16
wrmsr:
        FIND    rdi, env
        push    r11
        call    [r11 + context.wrmsr]
        pop     r11
        jmp     fault_or_return

; helper_read_crN (env, number) -> value
align 16
read_cr:
        cmp     esi, 8
        jne     .theirs
        FIND    rdi, env
        jmp     [r11 + context.read_cr8]
.theirs:
        jmp     G(read_cr)

; helper_write_crN (env, number, value).  Nobody cares for a CR3 with no bit above 40 set.
align 16
write_cr:
        cmp     esi, 3
        jne     .ask
        mov     rax, rdx
        shr     rax, 40
        jz      .theirs
.ask:   FIND    rdi, env
        push    rdi
        push    rsi
        push    rdx
        push    r11
        sub     rsp, 8
        mov     edi, esi
        mov     rsi, rdx
        call    [r11 + context.write_cr]
        add     rsp, 8
        pop     r11
        pop     rdx
        pop     rsi
        pop     rdi
        test    eax, eax
        jz      fault_or_return
.theirs:
        test    esi, esi
        jnz     .go
        mov     rax, rdx
        ALIGNMENT rdi
.go:    jmp     G(write_cr)

; helper_rsm (env)
align 16
rsm:
        FIND    rdi, env
        push    r11
        call    G(rsm)
        pop     r11
        mov     rdi, [r11 + context.env]
        mov     rax, [rdi + ENV_CR0]
        ALIGNMENT rdi
        xor     edi, edi
        jmp     [r11 + context.smm]

; helper_get_dr (env, number) -> value, helper_set_dr (env, number, value): may raise #UD
; themselves, for DR4 and DR5.  With DR7.GD any access is a #DB before it (SDM 3B, 18.2.4).
align 16
get_dr:
        call    debug_register
        jmp     G(get_dr)
align 16
set_dr:
        call    debug_register
        jz      .undefined
        test    dword [rdi + ENV_HFLAGS], HF_CS64
        jz      .go
        mov     rax, rdx
        shr     rax, 32
        jz      .go
        cmp     esi, 4                  ; DR6 and DR7 have 32 bits
        jb      .go
        mov     esi, 13
        xor     edx, edx
        mov     rcx, [rsp]
        jmp     G(raise_at)
.go:    FIND    rdi, env
        push    r11
        push    rsi
        sub     rsp, 8
        call    G(set_dr)
        add     rsp, 8
        pop     rdi
        pop     r11
        jmp     [r11 + context.wrote_dr]
.undefined:
        jmp     G(set_dr)

; ZF set when the access is #UD, which the helper raises.  Otherwise it returns only when
; DR7.GD is clear; what it raises is told where by its caller's return address.
debug_register:
        mov     eax, esi
        and     eax, ~1
        cmp     eax, 4
        jne     .general
        mov     eax, [rdi + ENV_CR4]
        not     eax
        test    eax, CR4_DE
        jz      .end
.general:
        test    dword [rdi + ENV_DR7], DR7_GD
        jnz     .detect
        or      eax, 1                  ; clears ZF
.end:   ret
.detect:
        add     rsp, 8
        and     dword [rdi + ENV_DR7], ~DR7_GD
        or      dword [rdi + ENV_DR6], DR6_BD
        mov     esi, 1
        xor     edx, edx
        mov     rcx, [rsp]
        jmp     G(raise_at)

; helper_load_seg (env, register, selector): a null SS in rings 0 to 2 must have the ring as its
; RPL (SDM 2, MOV)
align 16
load_seg:
        cmp     esi, 2
        jne     .go
        movzx   eax, dx
        cmp     eax, 3
        ja      .go
        mov     ecx, [rdi + ENV_HFLAGS]
        and     ecx, 3
        cmp     ecx, eax
        je      .go
        mov     esi, 13
        xor     edx, edx
        mov     rcx, [rsp]
        jmp     G(raise_at)
.go:    jmp     G(load_seg)

; helper_iret_protected (env, size, next EIP), helper_lret_protected (env, size, bytes).
; A data segment that an outer ring may not have becomes null.  Its base stays, which FS and GS
; in 64-bit mode go on using.  What helpers raise is told where by their return address: they
; are called here with the state already restored to the instruction's beginning.
align 16
iret:
        mov     rax, G(iret)
        test    dword [rdi + ENV_EFLAGS], NT
        jz      return
        test    dword [rdi + ENV_HFLAGS], HF_LMA
        jz      switch
return: test    dword [rdi + ENV_HFLAGS], HF_LMA
        jz      .go
        mov     ecx, [rdi + ENV_FS]
        or      ecx, [rdi + ENV_GS]
        test    ecx, 0xfffc
        jz      .go
        test    dword [rdi + ENV_HFLAGS], 3
        jnz     .go
        mov     rcx, [rsp]
        push    rbx
        push    qword [rdi + ENV_FS + 8]
        push    qword [rdi + ENV_GS + 8]
        mov     rbx, rdi
        call    at_its_beginning
        call    rax
        pop     rax
        pop     rcx
        test    dword [rbx + ENV_FS], 0xfffc
        jnz     .gs
        mov     [rbx + ENV_FS + 8], rcx
.gs:    test    dword [rbx + ENV_GS], 0xfffc
        jnz     .end
        mov     [rbx + ENV_GS + 8], rax
.end:   pop     rbx
        ret
.go:    jmp     rax
align 16
lret:
        mov     rax, G(lret)
        jmp     return

; helper_ljmp_protected, helper_lcall_protected (env, selector, offset, size or next EIP, next EIP)
align 16
ljmp:
        mov     rax, G(ljmp)
        jmp     switch
lcall:
        mov     rax, G(lcall)
; rax: a helper that may switch tasks.  T in the new task's TSS is a #DB before its first
; instruction, with DR6.BT (SDM 3B, 18.3.1.5).
switch: test    dword [rdi + ENV_HFLAGS], HF_LMA
        jz      .legacy
        jmp     rax
.legacy:
        mov     r9, rcx
        mov     rcx, [rsp]
        push    rbx
        push    r12
        sub     rsp, 8
        mov     rbx, rdi
        mov     r12d, [rdi + ENV_TR]
        call    at_its_beginning
        mov     rcx, r9
        call    rax
        cmp     r12d, [rbx + ENV_TR]
        je      .end
        call    trapped
        jz      .end
        mov     rdi, rbx
        mov     esi, 1
        xor     edx, edx
        jmp     G(raise)
.end:   add     rsp, 8
        pop     r12
        pop     rbx
        ret

; rdi: env, rcx: an address in a block: make RIP and cc_op what they are at that instruction.
; All registers that hold arguments, and rax, are kept.
at_its_beginning:
        push    rax
        push    rdi
        push    rsi
        push    rdx
        push    r8
        push    r9
        sub     rsp, 8
        lea     rdi, [rdi - CPU_ENV]
        mov     rsi, rcx
        xor     edx, edx
        call    G(restore_state)
        add     rsp, 8
        pop     r9
        pop     r8
        pop     rdx
        pop     rsi
        pop     rdi
        pop     rax
        ret

; rbx: env.  ZF clear, and DR6.BT set, when the present task state segment has T set.
trapped:
        push    qword [rbx + ENV_HFLAGS]
        and     dword [rbx + ENV_HFLAGS], ~3    ; read it as the supervisor
        mov     rdi, rbx
        mov     rsi, [rbx + ENV_TR + 8]
        add     rsi, 100
        call    G(load_word)
        pop     rcx
        mov     [rbx + ENV_HFLAGS], ecx
        test    al, 1
        jz      .end
        or      dword [rbx + ENV_DR6], DR6_BT   ; clears ZF
.end:   ret

; helper_lookup_tb_ptr (env) -> where to go on.  At the end of JMP, CALL and RET to a computed
; address; one that is not canonical is #GP of the instruction itself (SDM 2, JMP).
align 16
lookup:
        mov     rax, [rdi + ENV_EIP]
        sar     rax, 47
        inc     rax
        cmp     rax, 1                  ; 0 or -1
        ja      .wild
        jmp     G(lookup)
.wild:  mov     rcx, [rsp]
        push    rbx
        mov     rbx, rdi
        sub     rsp, 16
        call    at_its_beginning
        mov     rax, [rbx + ENV_EIP]
        mov     [rsp], rax
        mov     dword [rsp + 8], 15
.byte:  call    .load
        cmp     al, 0xc3
        je      .ret
        cmp     al, 0xc2
        je      .ret_more
        cmp     al, 0xe8
        je      .call
        cmp     al, 0xff
        je      .group
        dec     dword [rsp + 8]         ; other opcodes are jumps
        jz      .raise
        lea     ecx, [rax - 0x64]       ; sizes and segments
        cmp     ecx, 4
        jb      .byte
        lea     ecx, [rax - 0xf2]       ; BND, NOTRACK, REP
        cmp     ecx, 2
        jb      .byte
        mov     ecx, eax
        and     ecx, 0xe7
        cmp     ecx, 0x26
        je      .byte
        and     eax, 0xf0
        cmp     eax, 0x40               ; REX
        je      .byte
        jmp     .raise
.group: call    .load
        and     al, 0x38
        cmp     al, 0x10
        jne     .raise
.call:  add     qword [rbx + ENV_RSP], 8        ; it has pushed where to return to
        jmp     .raise
.ret_more:
        call    .load
        mov     [rsp + 8], eax
        call    .load
        shl     eax, 8
        add     eax, [rsp + 8]
        sub     [rbx + ENV_RSP], rax
.ret:   sub     qword [rbx + ENV_RSP], 8
.raise: mov     rdi, rbx
        mov     esi, 13
        xor     edx, edx
        jmp     G(raise)
.load:  mov     rsi, [rsp + 8]
        inc     qword [rsp + 8]
        mov     rdi, rbx
        sub     rsp, 8
        call    G(load_byte)
        add     rsp, 8
        movzx   eax, al
        ret
