"""The bundled firmware: a 64 KiB ROM for the i440FX/PIIX PC, and its NASM source.

The ROM boots, carries a demo operating system that suspends, wakes and proves
that its RAM survived, and offers a menu on the first serial port.  The memory
map, the menu and the documents followed are at the head of `snooze.asm` and
`os.inc`, the ACPI tables in `acpi.inc`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["IMAGE", "MULTIBOOT", "SOURCE", "image", "multiboot"]

#: The NASM source; it includes the `.inc` files beside it.
SOURCE = Path(__file__).with_name("snooze.asm")
#: The ROM assembled from it.
IMAGE = Path(__file__).with_name("snooze.rom")


def image() -> bytes:
    """The ROM, to be mapped so that its last byte is the last below 4 GiB."""
    return IMAGE.read_bytes()


#: The option ROM that boots a Multiboot kernel under other firmware, from `multiboot.asm`.
MULTIBOOT = Path(__file__).with_name("multiboot.bin")


def multiboot() -> bytes:
    """The option ROM, for the fw_cfg file that firmware looks for; its bytes' sum is 0."""
    rom = bytearray(MULTIBOOT.read_bytes())
    rom[-1] = -sum(rom[:-1]) & 0xFF
    return bytes(rom)
