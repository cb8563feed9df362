; multiboot.asm - an option ROM that boots the Multiboot kernel in fw_cfg, for any PC BIOS
;
;   make it:    cd firmware && nasm -f bin -o multiboot.bin multiboot.asm
;
; SeaBIOS finds it as the fw_cfg file "genroms/multiboot.bin" and, being first in "bootorder", enters it at
; the boot entry vector.  The bundled firmware has the same code in itself.
;
; Document: Plug and Play BIOS Specification 1.0A, 3.2 (expansion header).
;
; SPDX-License-Identifier: GPL-2.0-or-later

        cpu     686
        bits    16
        org     0

ROM_BLOCKS      equ     2                       ; of 512 bytes

        dw      0xaa55
        db      ROM_BLOCKS
        retf                                    ; initialisation: nothing
        times   0x18 - ($ - $$) db 0
        dw      0                               ; no PCI data structure
        dw      pnp

        align   16, db 0
pnp:    db      "$PnP"
        db      1                               ; structure revision
        db      2                               ; length, in 16 bytes
        dw      0                               ; next header
        db      0
        db      0                               ; check sum (the ROM's is filled in when it is read)
        dd      0                               ; device identifier
        dw      maker, product
        db      0, 0, 0                         ; type: none
        db      0x14                            ; device indicators: boot device
        dw      0                               ; boot connection vector: none
        dw      0                               ; disconnect vector
        dw      enter                           ; boot entry vector
        dw      0
        dw      0
maker:  db      "snooze", 0
product:
        db      "Multiboot", 0

enter:  jmp     multiboot

%include "multiboot.inc"

        times   ROM_BLOCKS * 512 - ($ - $$) db 0
