"""The native routines of `native.asm`, and how libunicorn is made to call them.

Unicorn's hooks lead to some.  Others take the place of functions that libunicorn
calls through its procedure linkage table: `interpose` stores our address in the
table's slot, which the dynamic symbols name, so no address is assumed and no
code of the library is changed.  That is once for a process; each routine finds
its engine's `Context` in a list and, for an engine that is not ours, goes on to
the original.
"""

from __future__ import annotations

import ctypes as C
import mmap
import os
import struct
from pathlib import Path
from typing import Any, Final

__all__ = ["CALLBACKS", "Context", "Native"]

#: in the order of native.asm's table
ENTRIES: Final = (
    "deliver", "deliver_invalid", "guard_in", "guard_out", "guard_insn", "exec_interrupt",
    "count", "trace", "gen_code", "set_page", "protect_code", "watch_page", "watch", "debug",
    "rdmsr", "wrmsr", "read_cr", "write_cr", "rsm", "set_dr", "translator", "load_byte",
    "unaligned", "mmio_read", "mmio_write", "guard_rdtsc", "guard_rdtscp")

#: the globals' words after the list of contexts: symbols of libunicorn
IMPORTS: Final = (
    "x86_cpu_do_interrupt_x86_64", "do_interrupt_x86_hardirq_x86_64",
    "raise_exception_err_x86_64", "cpu_loop_exit_x86_64", "cpu_loop_exit_noexc_x86_64",
    "cpu_restore_state_x86_64", "uc_emu_stop", "do_smm_enter_x86_64", "tlb_flush_x86_64",
    "helper_check_exit_request_x86_64", "breakpoint_handler_x86_64",
    "tcg_gen_code_x86_64", "tlb_set_page_with_attrs_x86_64", "tlb_protect_code_x86_64",
    "helper_rdmsr_x86_64", "helper_wrmsr_x86_64", "helper_read_crN_x86_64",
    "helper_write_crN_x86_64", "helper_rsm_x86_64", "helper_set_dr_x86_64",
    "translator_loop_x86_64", "cpu_ldub_code_x86_64",
    "raise_exception_err_ra_x86_64", "helper_raise_interrupt_x86_64", "helper_into_x86_64",
    "helper_pause_x86_64", "helper_single_step_x86_64",
    "helper_syscall_x86_64", "helper_sysenter_x86_64", "helper_read_eflags_x86_64",
    "x86_update_hflags_x86_64",
    "helper_lldt_x86_64", "helper_ltr_x86_64", "helper_invlpg_x86_64",
    "helper_iret_real_x86_64", "helper_lcall_real_x86_64", "probe_access_x86_64",
    "cpu_ldub_mmuidx_ra_x86_64",
    "tcg_gen_callN_x86_64", "tcg_const_i32_x86_64", "tcg_temp_free_internal_x86_64",
    "helper_clts_x86_64", "helper_check_iob_x86_64", "helper_check_iow_x86_64",
    "helper_check_iol_x86_64",
    "helper_get_dr_x86_64", "helper_load_seg_x86_64", "helper_iret_protected_x86_64",
    "helper_lret_protected_x86_64", "helper_ljmp_protected_x86_64",
    "helper_lcall_protected_x86_64", "helper_lookup_tb_ptr_x86_64", "cpu_lduw_data_x86_64",
    "helper_hlt_x86_64",
    "clock_gettime",             # of the C library
    # ENDING in native.asm: instructions that end their block
    "helper_inb_x86_64", "helper_inw_x86_64", "helper_inl_x86_64",
    "helper_outb_x86_64", "helper_outw_x86_64", "helper_outl_x86_64",
    "helper_rdtsc_x86_64", "helper_rdtscp_x86_64", "helper_wrmsr_x86_64")

#: functions of libunicorn that are replaced by a routine
INTERPOSED: Final = {
    "tcg_gen_code_x86_64": "gen_code", "translator_loop_x86_64": "translator",
    "tlb_set_page_with_attrs_x86_64": "set_page",
    "tlb_protect_code_x86_64": "protect_code",
    "cpu_watchpoint_address_matches_x86_64": "watch_page",
    "cpu_check_watchpoint_x86_64": "watch", "cpu_ldub_code_x86_64": "load_byte"}

_CODE_PAGES = 0x3000            # GLOBALS_AT in native.asm
_P, _U64, _U32, _INT = C.c_void_p, C.c_uint64, C.c_uint32, C.c_int

#: callback's field in Context -> its C type.  CFUNCTYPE: the guest runs without the GIL.
CALLBACKS: Final[dict[str, Any]] = {
    "acknowledge": C.CFUNCTYPE(_INT),
    "rdmsr": C.CFUNCTYPE(None),
    "wrmsr": C.CFUNCTYPE(None),
    "read_cr8": C.CFUNCTYPE(_U64),
    "write_cr": C.CFUNCTYPE(_INT, _INT, _U64),
    "wrote_dr": C.CFUNCTYPE(None, _INT),
    "smm": C.CFUNCTYPE(None, _INT),
    "interrupt": C.CFUNCTYPE(None, _INT, _U32, _INT, _U64, _INT),
    "translated": C.CFUNCTYPE(None, _U64, _U32, _U32, _U32, _U64, _U64),
    "traced": C.CFUNCTYPE(None),
    "watch_page": C.CFUNCTYPE(_INT, _U64, _U64),
    "watch": C.CFUNCTYPE(_INT, _U64, _U64, _INT),
    "debug": C.CFUNCTYPE(_INT),
    "wild_base": C.CFUNCTYPE(_INT, _U32),
}


class Context(C.Structure):
    """What the routines know of one engine; `struc context` in native.asm."""

    _fields_ = [("next", _U64), ("uc", _U64), ("tcg", _U64), ("cpu", _U64), ("env", _U64),
                ("fault", _U32), ("fault_error", _U32), ("limit", _U64), ("request", _U32),
                ("replaying", _U32), ("watching", _U32), ("patch", _U32), ("trace", _U64),
                ("trace_end", _U64), ("int_length", _U64), ("leave", _U64),
                ("last_code", _U64), ("flushes", _U64), ("instead", _U64),
                ("io_weight", _U64),
                ("large", _U64), ("bases", _U64 * 6),
                *((name, _U64) for name in CALLBACKS),
                ("tsc", _U64), ("tsc_base", _U64), ("tsc_scale", _U64)]


class Native:
    """The routines in memory, bound to one loaded libunicorn.

    *library* is it, from *path*.  Raises OSError, or LookupError with the name of
    what is missing.
    """

    def __init__(self, library: Any, path: str) -> None:
        code = Path(__file__).with_name("native.bin").read_bytes()
        if len(code) > _CODE_PAGES:
            raise OSError("native.bin is longer than its page")
        self._memory = mmap.mmap(-1, _CODE_PAGES + mmap.PAGESIZE)
        self._memory[:len(code)] = code
        base = C.addressof(C.c_char.from_buffer(self._memory))
        offsets = struct.unpack_from(f"<{len(ENTRIES)}H", code)
        #: routine -> address
        self.entry: dict[str, int] = {
            name: base + at for name, at in zip(ENTRIES, offsets, strict=True)}
        words = (_U64 * (1 + len(IMPORTS))).from_buffer(self._memory, _CODE_PAGES)
        for i, name in enumerate(IMPORTS, 1):
            words[i] = _address(library, name)
        self._words = words
        self._contexts: dict[int, Context] = {}
        libc = C.CDLL(None, use_errno=True)
        if libc.mprotect(_P(base), C.c_size_t(_CODE_PAGES), mmap.PROT_READ | mmap.PROT_EXEC):
            raise OSError(f"mprotect: {os.strerror(C.get_errno())}")
        #: libunicorn is loaded where its uc_version is, less that symbol's offset
        found = _linkage(path, (*INTERPOSED, "uc_version"))
        load = _address(library, "uc_version") - found["uc_version"][0]
        for name, routine in INTERPOSED.items():
            slot = found[name][1]
            if not slot:
                raise LookupError(f"no linkage slot for {name}")
            _U64.from_address(load + slot).value = self.entry[routine]

    def add(self, context: Context) -> None:
        """Make the routines know an engine, until `remove`."""
        self._contexts[C.addressof(context)] = context      # its memory must stay
        context.next = self._words[0]
        self._words[0] = C.addressof(context)

    def remove(self, context: Context) -> None:
        """Make them forget it."""
        words, wanted = self._words, C.addressof(context)
        del self._contexts[wanted]
        if words[0] == wanted:
            words[0] = context.next
            return
        at = words[0]
        while at:
            other = Context.from_address(at)
            if other.next == wanted:
                other.next = context.next
                return
            at = other.next


def _address(library: Any, name: str) -> int:
    try:
        found = C.cast(getattr(library, name), _P).value
    except AttributeError:
        raise LookupError(f"no symbol {name}") from None
    assert found is not None
    return found


_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_JMPREL, _DT_PLTRELSZ = 5, 6, 10, 23, 2
_R_X86_64_JUMP_SLOT = 7


def _linkage(path: str, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """For each dynamic symbol of an ELF64 file: (its value, its linkage slot or 0).

    System V ABI, chapters 4 and 5; addresses are relative to where the file is loaded.
    Done by searching for bytes: reading 25,000 symbols one by one takes 50 ms.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        headers, = struct.unpack_from("<Q", image, 0x20)
        size, count = struct.unpack_from("<HH", image, 0x36)
        segments = [struct.unpack_from("<IIQQQQ", image, headers + i * size)
                    for i in range(count)]

        def offset(address: int) -> int:
            for kind, _flags, at, start, _physical, length in segments:
                if kind == _PT_LOAD and start <= address < start + length:
                    return int(address - start + at)
            raise LookupError(f"{path}: nothing is at {address:#x}")

        dynamic = next(at for kind, _flags, at, *_ in segments if kind == _PT_DYNAMIC)
        tags: dict[int, int] = {}
        while True:
            tag, value = struct.unpack_from("<QQ", image, dynamic)
            if tag == 0:
                break
            tags[tag] = value
            dynamic += 16
        strings, symbols = offset(tags[_DT_STRTAB]), offset(tags[_DT_SYMTAB])
        slots, slots_end = offset(tags[_DT_JMPREL]), tags[_DT_PLTRELSZ]
        slots_end += slots
        found = {}
        for name in names:
            text = image.find(b"\0" + name.encode() + b"\0", strings,
                              strings + tags[_DT_STRSZ]) + 1
            if text == 0:
                raise LookupError(f"no symbol {name}")
            at = _find_aligned(image, struct.pack("<I", text - strings), symbols, strings, 24)
            if at < 0:
                raise LookupError(f"no symbol {name}")
            value, = struct.unpack_from("<Q", image, at + 8)
            info = struct.pack("<II", _R_X86_64_JUMP_SLOT, (at - symbols) // 24)
            slot = _find_aligned(image, info, slots + 8, slots_end, 24)
            found[name] = (value, struct.unpack_from("<Q", image, slot - 8)[0] if slot > 0 else 0)
        return found


def _find_aligned(image: mmap.mmap, wanted: bytes, start: int, end: int, step: int) -> int:
    """Where *wanted* is, at a multiple of *step* from *start*; -1 where it is not."""
    at = image.find(wanted, start, end)
    while at >= 0 and (at - start) % step:
        at = image.find(wanted, at + 1, end)
    return at
