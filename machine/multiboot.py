"""Multiboot kernels (version 1) for `-kernel`: from files to fw_cfg items.

As in QEMU the image is taken apart here, and code in the guest (firmware's
multiboot.inc) only copies it, adds what the BIOS knows, and enters it.
Reference: Multiboot Specification 0.6.96, 3.1 (header) and 3.3 (information).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Kernel", "KernelError", "Module", "fw_cfg_items"]

HEADER_MAGIC, SEARCHED = 0x1BADB002, 8192
HAS_VIDEO, HAS_ADDRESSES = 1 << 2, 1 << 16
MMAP_ADDRESS, INFO_ADDRESS, INFO_SIZE = 0x9000, 0x9500, 88
BOOT_LOADER = b"qemu"      # kernels look at it
BOOT_DEVICE = 0x8000FFFF
#: memory sizes, boot device, command line, modules, memory map, boot loader's name
INFO_FLAGS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
PAGE = 0x1000

# fw_cfg selector keys (QEMU docs/specs/fw_cfg.rst)
KERNEL_ADDR, KERNEL_SIZE, KERNEL_ENTRY, KERNEL_DATA = 0x07, 0x08, 0x10, 0x11
INITRD_ADDR, INITRD_SIZE, INITRD_DATA = 0x0A, 0x0B, 0x12

EM_386, EM_X86_64, PT_LOAD = 3, 62, 1


class KernelError(Exception):
    """The image cannot be booted: one line, QEMU's where it has one."""


class Module(NamedTuple):
    """A boot module: its command line (the file's name first) and content."""

    command_line: str
    data: bytes


class Kernel(NamedTuple):
    """What `-kernel`, `-append` and `-initrd` say."""

    name: str
    image: bytes
    command_line: str = ""
    modules: tuple[Module, ...] = ()


class _Loaded(NamedTuple):
    address: int
    entry: int
    data: bytes


def fw_cfg_items(kernel: Kernel) -> dict[int, bytes]:
    """Key -> content, for the guest's loader.  Raises KernelError."""
    loaded = _load(kernel.image)
    blob = bytearray(loaded.data.ljust(_page_up(len(loaded.data)), b"\0"))
    mods_at = len(blob)
    strings = bytearray()
    strings_at = mods_at + 16 * len(kernel.modules)

    def add_string(text: bytes) -> int:
        at = loaded.address + strings_at + len(strings)
        strings.extend(text + b"\0")
        return at

    lines = [add_string(module.command_line.encode()) for module in kernel.modules]
    command_line = add_string(f"{kernel.name} {kernel.command_line}".encode())
    loader = add_string(BOOT_LOADER)
    at = _page_up(strings_at + len(strings))
    table = b""
    content = bytearray()
    for module, line in zip(kernel.modules, lines, strict=True):
        start = at + len(content)
        table += struct.pack("<4I", loaded.address + start,
                             loaded.address + start + len(module.data), line, 0)
        content += module.data.ljust(_page_up(len(module.data)), b"\0")
    blob += table + strings
    blob = blob.ljust(at, b"\0") + content
    info = bytearray(INFO_SIZE)
    struct.pack_into("<I", info, 0, INFO_FLAGS)
    struct.pack_into("<4I", info, 12, BOOT_DEVICE, command_line, len(kernel.modules),
                     loaded.address + mods_at)
    struct.pack_into("<I", info, 48, MMAP_ADDRESS)
    struct.pack_into("<I", info, 64, loader)
    word = struct.Struct("<I").pack
    return {KERNEL_ENTRY: word(loaded.entry), KERNEL_ADDR: word(loaded.address),
            KERNEL_SIZE: word(len(blob)), KERNEL_DATA: bytes(blob),
            INITRD_ADDR: word(INFO_ADDRESS), INITRD_SIZE: word(INFO_SIZE),
            INITRD_DATA: bytes(info)}


def _page_up(length: int) -> int:
    return -(-length // PAGE) * PAGE


def _load(image: bytes) -> _Loaded:
    at, flags = _find_header(image)
    if flags & HAS_ADDRESSES:
        return _load_addresses(image, at)
    if len(image) < 52 or image[:4] != b"\x7fELF":
        raise KernelError("Error while loading elf kernel")
    machine, = struct.unpack_from("<H", image, 18)
    if machine == EM_X86_64:
        raise KernelError("Cannot load x86-64 image, give a 32bit one.")
    if machine != EM_386 or image[4:6] != b"\1\1":
        raise KernelError("Error while loading elf kernel")
    return _load_elf(image)


def _find_header(image: bytes) -> tuple[int, int]:
    """Where the header is, and its flags."""
    for at in range(0, min(SEARCHED - 48, len(image) - 11), 4):
        magic, flags, check = struct.unpack_from("<3I", image, at)
        if magic == HEADER_MAGIC and (magic + flags + check) & 0xFFFF_FFFF == 0:
            return at, flags
    if image[0x202:0x206] == b"HdrS":
        raise KernelError("a Linux kernel cannot be booted yet, only a Multiboot one")
    if image[:4] == b"\x7fELF":
        raise KernelError("Error loading uncompressed kernel without PVH ELF Note")
    raise KernelError("invalid kernel header")


def _load_addresses(image: bytes, at: int) -> _Loaded:
    """The header has the addresses ("a.out kludge")."""
    if len(image) < at + 32:
        raise KernelError("invalid kernel_file_size")
    header, load, load_end, bss_end, entry = struct.unpack_from("<5I", image, at + 12)
    if header < load:
        raise KernelError("invalid load_addr address")
    if header - load > at:
        raise KernelError("invalid header_addr address")
    start = at - (header - load)
    if load_end and load_end < load:
        raise KernelError("invalid load_end_addr address")
    size = load_end - load if load_end else len(image) - start
    if load + size > 0xFFFF_FFFF:
        raise KernelError("kernel does not fit in address space")
    if bss_end and bss_end < load + size:
        raise KernelError("invalid bss_end_addr address")
    data = image[start:start + size]
    if len(data) != size:
        raise KernelError("fread() failed")
    return _Loaded(load, entry, data.ljust(bss_end - load, b"\0") if bss_end else data)


def _load_elf(image: bytes) -> _Loaded:
    """ELF32: all that is to be loaded, by physical address."""
    entry, headers = struct.unpack_from("<II", image, 24)
    size, count = struct.unpack_from("<HH", image, 42)
    segments = []
    for i in range(count):
        if headers + i * size + 32 > len(image):
            raise KernelError("Error while loading elf kernel")
        kind, offset, virtual, physical, in_file, in_memory = struct.unpack_from(
            "<6I", image, headers + i * size)
        if kind != PT_LOAD or not in_memory:
            continue
        if offset + in_file > len(image) or in_file > in_memory or physical + in_memory > 1 << 32:
            raise KernelError("Error while loading elf kernel")
        if virtual <= entry < virtual + in_memory and virtual != physical:
            entry = entry - virtual + physical
        segments.append((physical, image[offset:offset + in_file], in_memory))
    if not segments:
        raise KernelError("Error while loading elf kernel")
    low = min(address for address, _data, _length in segments)
    high = max(address + length for address, _data, length in segments)
    data = bytearray(high - low)
    for address, content, _length in segments:
        data[address - low:address - low + len(content)] = content
    return _Loaded(low, entry, bytes(data))
