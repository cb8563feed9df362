; snooze.asm - the firmware that comes with snooze, and a demo operating system in the same ROM
;
;   make it:    cd firmware && nasm -f bin -o snooze.rom snooze.asm
;   run it:     qemu-system-x86_64 -M pc -m 128 -nodefaults -bios snooze.rom -serial stdio
;
; A 64 KiB image that ends at 4 GiB and shows again at 0xF0000.  It wants an i440FX/PIIX PC with 1 MiB of
; RAM or more; it uses nothing above 1 MiB.  From the reset vector it
;
;   1. maps the PIIX4's power management block and opens the A20 gate; when it finds the block mapped the
;      processor alone was reset (INIT): it goes on at 0040:0067 if the CMOS's shutdown byte says so, as
;      in every PC since the AT;
;   2. when PM1_STS.WAK_STS says that this reset is the end of S3: restores ACPI mode, sets up the interrupt
;      controllers, all masked, and enters the operating system, in real mode, at the FACS's waking vector;
;   3. boots the Multiboot kernel that fw_cfg holds, if there is one (multiboot.inc);
;   4. otherwise boots: interrupt controllers, timer, serial port, BIOS data area, ACPI tables in the EBDA,
;      one line on the serial port; then copies the demo OS to RAM and enters it.
;
; Physical memory:
;   0x00000   interrupt vectors: 0-31 tell of CPU exceptions, the others return
;   0x00400   BIOS data area: 0x40e EBDA segment, 0x413 KiB of base memory
;   0x08000   demo OS and its state (os.inc), stack below 0x10000
;   0x10000   the demo OS's 64 KiB test pattern
;   0x9c000   EBDA, 16 KiB: RSDP, FACS and the other ACPI tables (acpi.inc); the firmware's stack at its end
;   0xf0000   this ROM
;
; The firmware's resume path writes to nothing but its own stack in the EBDA: all else is the OS's.
;
; Documents:
;   ACPI Specification 3.0b: 4.7.2.5 (legacy/ACPI select), 4.7.3 (PM1, PM timer), 5.2 (tables; 5.2.10: how
;   the waking vector is entered), 15.1.3 and 15.3.2 (what S3 keeps, what the firmware does at a wake)
;   Intel 82371AB PIIX4 data sheet 290562: function 3, APMC;  82441FX data sheet 290549
;   Intel MultiProcessor Specification 1.4: 3.6.2.2 (virtual wire mode)
;
; SPDX-License-Identifier: GPL-2.0-or-later

%define VERSION "0.1"

        cpu     686
        bits    16

%include "chipset.inc"
%include "serial.inc"

IVT_STUB        equ     5                       ; bytes of one exc_stubs entry
EXCEPTIONS      equ     32
NMI_VECTOR      equ     2
BDA_SEGMENT     equ     0x0040
BDA_COM1        equ     0x00
BDA_EBDA        equ     0x0e
BDA_EQUIPMENT   equ     0x10
BDA_BASE_KIB    equ     0x13
BDA_RESUME      equ     0x67                    ; where a reset goes on: IP, CS
BDA_TICKS       equ     0x6c                    ; of the clock since midnight
BDA_MIDNIGHTS   equ     0x70
TICKS_A_DAY     equ     0x1800b0
TIMER_IRQ       equ     0
TIMER_VECTOR    equ     0x08                    ; PIC_SETUP
FW_STACK        equ     EBDA_KIB * 1024         ; in the EBDA's segment
OS_SEGMENT      equ     0x0800

        section .text start=0 vstart=0

%include "multiboot.inc"

; =============================================================== every reset comes here
start:
        cli
        cld
        mov     ax, EBDA_SEGMENT
        mov     ss, ax
        mov     sp, FW_STACK

        ; The PM block first: without it there is no telling a wake from a boot.
        mov     eax, PIIX4_PM
        call    pci_select
        in      eax, dx
        cmp     eax, PIIX4_PM_ID
        jne     no_chipset
        mov     eax, PIIX4_PM | PMREGMISC       ; a reset of the board closes it
        call    pci_select
        in      al, dx
        test    al, PMIOSE
        jnz     init
cold:   mov     eax, PIIX4_PM | PMBA
        call    pci_select
        mov     eax, PM_BASE | 1
        out     dx, eax
        mov     eax, PIIX4_PM | PMREGMISC
        call    pci_select
        in      al, dx
        or      al, PMIOSE
        out     dx, al

        ; A20, leaving the fast reset bit alone
        in      al, PORT_92
        or      al, 0x02
        and     al, 0xfe
        out     PORT_92, al

        call    apic_init

        ; ACPI mode: cold, to spare the OS the way; at a wake because SCI_EN is the firmware's to restore
        ; (ACPI 4.7.2.5).
        outb    SMI_CMD, ACPI_ENABLE

        ; The shutdown byte is taken and cleared: a later reset must not find it.  It does not decide on
        ; its own, for a reset during S3 leaves it behind.
        mov     al, CMOS_SHUTDOWN
        call    cmos_read
        mov     bl, al
        mov     al, CMOS_SHUTDOWN
        out     CMOS_INDEX, al
        outb    CMOS_DATA, 0

        PIC_SETUP 0x08, 0x70, 0xff, 0xff        ; the PC's vectors, all masked
        mov     dx, ELCR2
        mov     al, 1 << (SCI_IRQ - 8)          ; the SCI is level triggered
        out     dx, al

        mov     si, s_nothing                   ; SI: what to tell besides
        mov     dx, PM1_STS
        in      ax, dx
        test    ax, WAK_STS
        jnz     resume
        cmp     bl, SHUTDOWN_S3
        jne     boot
        mov     si, s_reset_in_s3
        jmp     boot

; =============================================================== the end of an INIT
; The shutdown byte is taken; with no order in it the machine boots.
init:   mov     al, CMOS_SHUTDOWN
        call    cmos_read
        mov     bl, al
        mov     al, CMOS_SHUTDOWN
        out     CMOS_INDEX, al
        outb    CMOS_DATA, 0
        cmp     bl, SHUTDOWN_JUMP
        je      .jump
        cmp     bl, SHUTDOWN_EOI
        jne     cold
        outb    PIC2, PIC_EOI
        outb    PIC1, PIC_EOI
.jump:  xor     ax, ax
        mov     ds, ax
        mov     es, ax
        jmp     far [BDA_SEGMENT * 16 + BDA_RESUME]

; =============================================================== the end of S3
; WAK_STS stays set: the operating system looks at it and clears it.
resume:
        mov     ax, EBDA_SEGMENT
        mov     ds, ax
        mov     si, s_no_vector
        cmp     dword [facs], "FACS"
        jne     boot
        mov     eax, [facs_waking_vector]
        test    eax, eax
        jz      boot
        cmp     eax, 0x100000                   ; real mode cannot enter beyond
        jae     boot
        mov     ecx, eax                        ; CS = vector >> 4, IP = vector & 15
        shr     ecx, 4
        and     ax, 0x000f
        push    cx
        push    ax
        xor     ax, ax                          ; the data segments at 0: some rely on it
        mov     ds, ax
        mov     es, ax
        retf

; =============================================================== boot (SI: a remark to print)
boot:
        push    si
        UART_SETUP 0
        call    pit_init
        call    vectors_init
        call    bda_init
        call    acpi_init
        call    pci_assign
        FW_CFG32 KERNEL_SIZE                    ; -kernel: nothing of ours appears
        test    eax, eax
        jz      .ours
        outb    PIC1 + 1, ~(1 << TIMER_IRQ) & 0xff      ; the clock ticks, as a PC's does
        jmp     multiboot
.ours:

        mov     si, s_post
        call    fw_puts
        call    ram_size
        mov     si, s_kib
        test    eax, 1023
        jnz     .unit
        shr     eax, 10
        mov     si, s_mib
.unit:  call    fw_dec
        call    fw_puts
        mov     si, s_acpi
        call    fw_puts
        pop     si
        call    fw_puts
        call    pit_counts
        jnz     .pit_ok
        mov     si, s_pit
        call    fw_puts
.pit_ok:
        ; The demo OS: to RAM, and in.
        mov     ax, OS_SEGMENT
        mov     es, ax
        mov     ax, cs
        mov     ds, ax
        mov     si, section.os.start
        xor     di, di
        mov     cx, OS_LENGTH
        rep     movsb
        jmp     OS_SEGMENT:0

; No PIIX4 where it belongs (another board): nothing here can sleep, so say it and stop.
no_chipset:
        UART_SETUP 0
        mov     si, s_no_chipset
        call    fw_puts
halt:   cli
        hlt
        jmp     halt

; =============================================================== parts of POST
; Select the PCI register in EAX; DX is then the data port.
pci_select:
        mov     dx, PCI_ADDRESS
        out     dx, eax
        mov     dx, PCI_DATA
        ret

; Give every function on bus 0 places for its base address registers (PCI 2.1, 6.2.5.1), and
; let it answer there.  EBX: the function's address, EDI: next memory, EBP: next port.
pci_assign:
        mov     ebx, 0x80000000
        mov     edi, PCI_MEMORY
        mov     ebp, PCI_PORTS
.function:
        mov     eax, ebx
        call    pci_select
        in      eax, dx
        inc     eax
        jz      .absent
        lea     eax, [ebx + PCI_HEADER_TYPE]
        call    pci_select
        in      eax, dx
        shr     eax, 16
        push    ax                              ; header type
        test    al, 0x7f                        ; bridges are not assigned
        jnz     .assigned
        mov     cl, PCI_BAR0
.bar:   movzx   eax, cl
        or      eax, ebx
        call    pci_select
        or      eax, -1
        out     dx, eax
        in      eax, dx
        test    eax, eax
        jz      .next_bar
        test    al, 1
        jnz     .ports
        mov     ch, al                          ; bits 2-1: 64 bits wide
        and     al, 0xf0
        neg     eax
        dec     eax
        add     edi, eax                        ; up to a multiple of the size
        not     eax
        and     edi, eax
        xchg    eax, edi
        out     dx, eax
        xchg    eax, edi
        sub     edi, eax
        and     ch, 0x06
        cmp     ch, 0x04
        jne     .next_bar
        add     cl, 4
        movzx   eax, cl
        or      eax, ebx
        call    pci_select
        xor     eax, eax
        out     dx, eax
        jmp     .next_bar
.ports: and     al, 0xfc
        or      eax, 0xffff0000
        neg     eax
        dec     eax
        add     ebp, eax
        not     eax
        and     ebp, eax
        xchg    eax, ebp
        out     dx, eax
        xchg    eax, ebp
        sub     ebp, eax
.next_bar:
        add     cl, 4
        cmp     cl, PCI_BAR0 + 6 * 4
        jb      .bar
        lea     eax, [ebx + PCI_COMMAND]
        call    pci_select
        in      ax, dx
        or      al, 0x03
        out     dx, ax
.assigned:
        pop     ax
        test    bh, 0x07
        jnz     .next                           ; not function 0
        test    al, 0x80
        jnz     .next                           ; several functions
        jmp     .slot
.absent:
        test    bh, 0x07
        jnz     .next
.slot:  add     bh, 0x07
.next:  inc     bh
        jnz     .function
        ret

; CMOS byte AL to AL.
cmos_read:
        out     CMOS_INDEX, al
        in      al, CMOS_DATA
        ret

; CMOS word, low byte at AL, to AX.
cmos_read16:
        push    bx
        mov     bl, al
        inc     al
        call    cmos_read
        mov     bh, al
        mov     al, bl
        call    cmos_read
        mov     ah, bh
        pop     bx
        ret

; Where the processor has a local APIC, the 8259's interrupts and the NMI come in through it (virtual wire
; mode, MP specification 3.6.2.2); it leaves every reset with both inputs masked.  It lies beyond real mode's
; reach, hence the few instructions in protected mode.  Spoils EAX, EBX, ECX and EDX.
apic_init:
        mov     eax, 1
        cpuid
        test    edx, CPUID_APIC
        jz      .none
        o32 lgdt [cs:gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     .protected
.protected:
        mov     bx, gdt.flat - gdt
        mov     fs, bx
        mov     dword [fs:dword APIC_BASE + APIC_SVR], 0x1ff            ; on, spurious vector 0xff
        mov     dword [fs:dword APIC_BASE + APIC_LVT_LINT0], 0x700      ; ExtINT
        mov     dword [fs:dword APIC_BASE + APIC_LVT_LINT1], 0x400      ; NMI
        mov     bx, gdt.real - gdt              ; real mode's limit back
        mov     fs, bx
        and     al, 0xfe
        mov     cr0, eax
        jmp     .real
.real:  xor     bx, bx
        mov     fs, bx
.none:  ret

        align   8, db 0
gdt:    dq      0
.flat:  dq      0x00cf93000000ffff              ; data, base 0, 4 GiB
.real:  dq      0x000093000000ffff              ; data, base 0, 64 KiB
gdt_pointer:
        dw      $ - gdt - 1
        dd      0xf0000 + gdt

; EAX: RAM in KiB, the hole below 1 MiB counted in.
ram_size:
        push    ecx
        call    low_ram_size
        mov     ecx, eax
        mov     al, CMOS_ABOVE_4G + 2
        call    cmos_read
        movzx   eax, al
        shl     eax, 16
        push    eax
        mov     al, CMOS_ABOVE_4G
        call    cmos_read16
        movzx   eax, ax
        shl     eax, 6
        add     ecx, eax
        pop     eax
        shl     eax, 6
        add     eax, ecx
        pop     ecx
        ret

; The same for what is below 4 GiB.
low_ram_size:
        push    ecx
        mov     al, CMOS_EXT_HIGH
        call    cmos_read16
        movzx   ecx, ax
        shl     ecx, 6                          ; 64 KiB units
        jz      .small
        add     ecx, 16 * 1024
        jmp     .high
.small: mov     al, CMOS_EXT_LOW
        call    cmos_read16
        movzx   ecx, ax
        add     ecx, 1024
.high:  mov     eax, ecx
        pop     ecx
        ret

; Counter 0 at 18.2 Hz, counter 1 as the refresh request of old, the speaker silent.
pit_init:
        outb    PIT_COMMAND, 0x36               ; counter 0, both bytes, mode 3
        outb    PIT + 0, 0
        outb    PIT + 0, 0
        outb    PIT_COMMAND, 0x54               ; counter 1, low byte, mode 2
        outb    PIT + 1, 18
        outb    PIT_COMMAND, 0xb6               ; counter 2, both bytes, mode 3
        outb    PIT + 2, 0
        outb    PIT + 2, 0
        in      al, PORT_61
        and     al, 0xfc                        ; gate of counter 2 and speaker off
        out     PORT_61, al
        ret

; ZF clear when counter 0 moves.
pit_counts:
        call    .latch
        mov     bx, ax
        xor     cx, cx
.again: call    .latch
        cmp     ax, bx
        loope   .again
        cmp     ax, bx
        ret
.latch: outb    PIT_COMMAND, 0x00
        in      al, PIT + 0
        mov     ah, al
        in      al, PIT + 0
        xchg    al, ah
        ret

vectors_init:
        xor     di, di
        mov     es, di
        mov     ax, exc_stubs
        mov     cx, EXCEPTIONS
        mov     dx, IVT_STUB
.fill:  mov     [es:di], ax
        mov     [es:di + 2], cs
        add     di, 4
        add     ax, dx
        loop    .fill
        cmp     di, 256 * 4
        je      .services
        mov     ax, ignore                      ; one handler for all the others
        xor     dx, dx
        mov     cx, 256 - EXCEPTIONS
        jmp     .fill
.services:
        mov     word [es:0x12 * 4], int_12
        mov     word [es:0x15 * 4], int_15
        mov     word [es:TIMER_VECTOR * 4], irq_0
        ret

; IRQ 0, INT 08h: count the ticks since midnight, 18.2 a second.
irq_0:  push    ax
        push    ds
        mov     ax, BDA_SEGMENT
        mov     ds, ax
        inc     dword [BDA_TICKS]
        cmp     dword [BDA_TICKS], TICKS_A_DAY
        jb      .same_day
        mov     dword [BDA_TICKS], 0
        inc     byte [BDA_MIDNIGHTS]
.same_day:
        outb    PIC1, PIC_EOI
        pop     ds
        pop     ax
        iret

; INT 12h: AX := base memory in KiB.
int_12: mov     ax, BASE_KIB
        iret

; INT 15h, E820 (ACPI 14.1): EDX "SMAP", EBX the entry's number, ES:DI a buffer of 20 bytes.  All other
; functions: carry, AH 0x86.
int_15: push    bp
        mov     bp, sp                          ; [bp + 6]: the caller's flags
        cmp     eax, 0xe820
        jne     .refuse
        cmp     edx, SMAP
        jne     .refuse
        cmp     ebx, E820_ENTRIES
        jae     .refuse
        push    bx
        imul    bx, 20
        mov     ecx, 5
        push    di
.copy:  mov     eax, [cs:e820 + bx]
        mov     [es:di], eax
        add     bx, 4
        add     di, 4
        loop    .copy
        pop     di
        pop     bx
        call    ram_size
        mov     ecx, eax
        cmp     bx, E820_LOW
        je      .low
        cmp     bx, E820_HIGH
        je      .high
        jmp     .done
.low:   call    low_ram_size
        shl     eax, 10
        sub     eax, 0x100000
        mov     [es:di + 8], eax
        jmp     .done
.high:  call    low_ram_size
        sub     ecx, eax                        ; KiB above 4 GiB
        mov     eax, ecx
        shl     eax, 10
        mov     [es:di + 8], eax
        shr     ecx, 22
        mov     [es:di + 12], ecx
.done:  inc     bx
        movzx   ebx, bx
        cmp     bx, E820_HIGH                   ; the last is there only when it has a length
        jb      .more
        push    ecx
        call    low_ram_size
        mov     ecx, eax
        call    ram_size
        cmp     eax, ecx
        pop     ecx
        je      .last
        cmp     bx, E820_ENTRIES
        jb      .more
.last:  xor     ebx, ebx
.more:  mov     ecx, 20
        mov     eax, SMAP
        and     word [bp + 6], ~1
        pop     bp
        iret
.refuse:
        mov     ah, 0x86
        or      word [bp + 6], 1
        pop     bp
        iret

e820:   dd      0, 0, BASE_KIB * 1024, 0, 1
        dd      BASE_KIB * 1024, 0, EBDA_KIB * 1024, 0, 2
        dd      0xf0000, 0, 0x10000, 0, 2
        dd      0x100000, 0, 0, 0, 1            ; its length: from the CMOS
        dd      0xffff0000, 0, 0x10000, 0, 2
        dd      0, 1, 0, 0, 1                   ; above 4 GiB, the same
E820_LOW        equ     3
E820_HIGH       equ     5
E820_ENTRIES    equ     6

bda_init:
        mov     ax, BDA_SEGMENT
        mov     es, ax
        xor     di, di
        xor     ax, ax
        mov     cx, 0x100 / 2
        rep     stosw
        mov     word [es:BDA_COM1], COM1
        mov     word [es:BDA_EBDA], EBDA_SEGMENT
        mov     word [es:BDA_EQUIPMENT], 1 << 9 ; one serial port
        mov     word [es:BDA_BASE_KIB], BASE_KIB
        ret

; The tables to the EBDA, with their check sums.
acpi_init:
        mov     ax, EBDA_SEGMENT
        mov     es, ax
        mov     ds, ax
        mov     si, section.acpi.start
        xor     di, di
        mov     cx, ACPI_IMAGE_LENGTH
        cs rep  movsb
        mov     dword [rsdp], "RSD "
        mov     dword [rsdp + 4], "PTR "
        mov     bp, acpi_sums
        mov     dx, ACPI_SUMS
.table: mov     si, [cs:bp]
        mov     bx, si
        add     bx, [cs:bp + 4]
        mov     cx, [cs:bp + 2]
        xor     ah, ah
.byte:  lodsb
        sub     ah, al
        loop    .byte
        mov     [bx], ah                        ; now all of it adds up to 0
        add     bp, 6
        dec     dx
        jnz     .table
        ret

; =============================================================== interrupts and exceptions
; These stay in use while the OS runs.  Nothing pushes an error code in real mode.
exc_stubs:
%assign vector 0
%rep EXCEPTIONS
        push    byte vector
        jmp     near exc_common
%assign vector vector + 1
%endrep
%if ($ - exc_stubs) != EXCEPTIONS * IVT_STUB
%error "IVT_STUB is not the size of an exception stub"
%endif

; Stack: vector, IP, CS, FLAGS.  An NMI is told and returns; anything else is the end.
exc_common:
        push    bp
        mov     bp, sp
        push    ax
        push    si
        mov     si, s_exception
        call    fw_puts
        mov     al, [bp + 2]
        call    fw_hex8
        mov     al, ' '
        call    fw_putc
        movzx   si, byte [bp + 2]
        shl     si, 2
        add     si, exc_names
        call    fw_puts
        mov     si, s_at
        call    fw_puts
        mov     ax, [bp + 6]
        call    fw_hex16
        mov     al, ':'
        call    fw_putc
        mov     ax, [bp + 4]
        call    fw_hex16
        mov     si, s_crlf
        call    fw_puts
        cmp     word [bp + 2], NMI_VECTOR
        jne     halt
        pop     si
        pop     ax
        pop     bp
        add     sp, 2
ignore: iret

exc_names:
        db      "#DE", 0, "#DB", 0, "NMI", 0, "#BP", 0, "#OF", 0, "#BR", 0, "#UD", 0, "#NM", 0
        db      "#DF", 0, "CSO", 0, "#TS", 0, "#NP", 0, "#SS", 0, "#GP", 0, "#PF", 0, "?15", 0
        db      "#MF", 0, "#AC", 0, "#MC", 0, "#XM", 0, "#VE", 0, "#CP", 0
        times   EXCEPTIONS - 22 db "???", 0

        SERIAL_ROUTINES fw

s_post:         db      13, 10, "snooze firmware ", VERSION, ": ", 0
s_kib:          db      " KiB", 0
s_mib:          db      " MiB", 0
s_acpi:         db      " RAM, PIIX4 PM at 0x600, ACPI tables at 0x9C000", 13, 10
s_nothing:      db      0
s_reset_in_s3:  db      "snooze firmware: reset during S3, what was in RAM is given up", 13, 10, 0
s_no_vector:    db      "snooze firmware: woken from S3 without a waking vector, booting", 13, 10, 0
s_pit:          db      "snooze firmware: the timer (i8254) does not count", 13, 10, 0
s_no_chipset:   db      13, 10, "snooze firmware ", VERSION, ": no PIIX4 at 00:01.3: "
                db      "this firmware wants an i440FX PC (-M pc)", 13, 10, 0
s_exception:    db      13, 10, "snooze: CPU exception 0x", 0
s_at:           db      " at ", 0
s_crlf:         db      13, 10, 0

%include "acpi.inc"
%include "os.inc"

; =============================================================== 16 bytes below 4 GiB
        section reset start=0xfff0 vstart=0xfff0
        jmp     0xf000:start
        db      "01/01/26"                      ; the PC BIOS's date field, here the source's year
        db      0
        db      0xfc                            ; model: AT
        db      0
%if $ - $$ != 16
%error "the image must be exactly 64 KiB"
%endif
