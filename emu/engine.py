"""The only door to libunicorn 2.1.4's insides, and the proof that it is the right one.

Unicorn is QEMU 5.0.1's TCG with the interrupt delivery cut out.  A full PC needs
what its public API does not give: exceptions and interrupts delivered through
the guest's own tables, stops that never tear an instruction, a clock that counts
blocks, MSRs, stores that are slow only where code is.  All of that is reached by
ctypes, through symbols the shared library exports, through fields of its
structures (`emu.layout`), and through native routines that stand in for a few of
its functions (`emu.native`).

Offsets follow the structures' layout in one build.  So `Engine` proves them on
the live engine when it is made (`_prove_…`), and refuses with `UnknownEngine`, in
one line that says what was found, when one is off.

Nothing here has policy: `emu.cpu` decides what a hook does.

Callbacks that run Python are entered from translated code.  A C `longjmp` over
a Python frame would corrupt the interpreter, so Python never calls anything
that can raise a guest exception: the native routines do that after the Python
frame has gone.
"""

from __future__ import annotations

import ctypes as C
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

from emu.layout import (
    CC,
    CPU,
    ENV,
    SEGMENT_SIZE,
    TB,
    TCG_CPU_ENV,
    TEMP_NAME,
    TLB,
    TLB_ENTRY_BITS,
    UC,
)
from emu.mov import store_length
from emu.native import CALLBACKS, Context, Native

__all__ = ["Engine", "EngineError", "UnknownEngine"]

# --- Unicorn's public constants (unicorn/x86_const.py, unicorn_const.py)
_ARCH_X86, _MODE_64 = 4, 8
_HOOK_INTR, _HOOK_INSN, _HOOK_CODE, _HOOK_BLOCK = 1, 2, 4, 8
_HOOK_MEM_WRITE_PROT = 256
_HOOK_INSN_INVALID = 1 << 14
_INS = {"in": 218, "out": 500, "cpuid": 113, "rdtsc": 608, "rdtscp": 609}
_GUARDS = {"in": "guard_in", "out": "guard_out", "cpuid": "guard_insn", "rdtsc": "guard_rdtsc",
           "rdtscp": "guard_rdtscp"}
_CTL_WRITE = 1 << 30
_CTL_USE_EXITS, _CTL_EXITS, _CTL_CPU_MODEL, _CTL_TB_FLUSH, _CTL_TCG_BUFFER_SIZE = 4, 6, 7, 10, 13
_PROT_READ, _PROT_ALL, _PROT_READ_EXEC = 1, 7, 5
_REG_GPR = (35, 38, 40, 37, 44, 36, 43, 39, *range(106, 114))  # RAX RCX RDX RBX RSP RBP RSI RDI R8…
_REG_ST0, _REG_XMM0 = 114, 122
_REG_MSR = 248

#: Bytes of translated code that are kept; when they are full, all of it is forgotten.
#: Unicorn's own bound is 1 GiB, which a guest that keeps changing its code will fill.
CODE_BUFFER_SIZE = 128 << 20

#: interrupt_request's bits (QEMU's CPU_INTERRUPT_*)
INTERRUPT_HARD, INTERRUPT_SMI, INTERRUPT_NMI = 0x002, 0x040, 0x200

_BP_GDB = 0x10
#: Context.tsc
_TSC_ASK, _TSC_COUNTER, _TSC_HOST = 0, 1, 2

# hflags
_HF_INHIBIT_IRQ, _HF_CS32, _HF_TF, _HF_CS64 = 1 << 3, 1 << 4, 1 << 8, 1 << 15

_TR_FLAGS: Final = ENV["tr"] + 20
#: 8-byte fields (the first of ENV's error_code's has exception_is_int in it)
_PAGE_FAULT_TRACES: Final = (ENV["cr"] + 16, ENV["error_code"], ENV["exception_next_eip"],
                             ENV["old_exception"])

_P, _U64, _U32, _INT, _SIZE = C.c_void_p, C.c_uint64, C.c_uint32, C.c_int, C.c_size_t

# What Unicorn's hooks look like in C.  CFUNCTYPE: the guest runs without the GIL.
_IN = C.CFUNCTYPE(_U32, _P, _U32, _INT, _P)
_OUT = C.CFUNCTYPE(None, _P, _U32, _INT, _U32, _P)
_INT_INSN = C.CFUNCTYPE(_INT, _P, _P)
_MEM = C.CFUNCTYPE(C.c_bool, _P, _INT, _U64, _INT, C.c_int64, _P)
_MMIO_READ = C.CFUNCTYPE(_U64, _P, _U64, C.c_uint, _P)
_MMIO_WRITE = C.CFUNCTYPE(None, _P, _U64, C.c_uint, _U64, _P)


class EngineError(Exception):
    """The engine stopped for a reason that no guest should be able to cause.

    `code` is Unicorn's uc_err number, `text` its description, `address` the
    guest's instruction pointer.
    """

    def __init__(self, code: int, text: str, address: int) -> None:
        super().__init__(f"{text} at {address:#x} (uc_err {code})")
        self.code = code
        self.text = text
        self.address = address


class UnknownEngine(Exception):
    """This build of unicorn is not one that is known to work."""

    def __init__(self, found: str) -> None:
        super().__init__(f"this build of unicorn is not one that is known to work: {found}")
        self.found = found


def _library_path() -> str:
    """The wheel's shared library.

    The binding itself is not imported: it costs 60 ms, and finding it by
    importlib another 5.
    """
    override = os.environ.get("LIBUNICORN_PATH")       # the binding knows it too
    folders = [override] if override else [
        os.path.join(entry, "unicorn", "lib") for entry in sys.path]
    for folder in folders:
        path = os.path.join(folder, "libunicorn.so.2")
        if os.path.exists(path):
            return path
    where = override or "unicorn/lib in the Python path"
    raise UnknownEngine(f"there is no libunicorn.so.2 in {where}")


class _Library:
    """Symbols of libunicorn, typed.  Loaded once in a process.

    `call` releases the GIL (emu_start, which runs the guest); every other
    function is short and is called with the GIL held (PyDLL is cheaper).
    """

    def __init__(self) -> None:
        if os.uname().machine != "x86_64":
            raise UnknownEngine(f"a {os.uname().machine} host; the native thunks are x86-64")
        path = _library_path()
        try:
            self._long = C.CDLL(path)
            self._short = C.PyDLL(path)
        except OSError as error:
            raise UnknownEngine(str(error).replace("\n", " ")) from None
        try:
            self.native = Native(self._short, path)
        except (OSError, LookupError) as error:
            raise UnknownEngine(str(error.args[-1])) from None
        fn = self._function
        self.uc_version = fn("uc_version", _U32, _P, _P)
        self.uc_open = fn("uc_open", _INT, _INT, _INT, _P)
        self.uc_close = fn("uc_close", _INT, _P)
        self.uc_strerror = fn("uc_strerror", C.c_char_p, _INT)
        self.uc_ctl = fn("uc_ctl", _INT)
        self.uc_reg_read = fn("uc_reg_read", _INT, _P, _INT, _P)
        self.uc_reg_write = fn("uc_reg_write", _INT, _P, _INT, _P)
        self.uc_mem_map_ptr = fn("uc_mem_map_ptr", _INT, _P, _U64, _U64, _U32, _P)
        self.uc_mem_unmap = fn("uc_mem_unmap", _INT, _P, _U64, _U64)
        self.uc_mem_protect = fn("uc_mem_protect", _INT, _P, _U64, _U64, _U32)
        self.uc_mmio_map = fn("uc_mmio_map", _INT, _P, _U64, _U64, _P, _P, _P, _P)
        self.uc_hook_add = fn("uc_hook_add", _INT)
        self.uc_hook_del = fn("uc_hook_del", _INT, _P, _SIZE)
        self.uc_vmem_read = fn("uc_vmem_read", _INT, _P, _U64, _U32, _P, _U64)
        self.uc_emu_start = self._function("uc_emu_start", _INT, _P, _U64, _U64, _U64, _SIZE,
                                           library=self._long)
        self.qemu_get_cpu = fn("qemu_get_cpu_x86_64", _P, _P, _INT)
        self.cpu_reset = fn("cpu_reset", None, _P)
        self.cpu_reset_interrupt = fn("cpu_reset_interrupt", None, _P, _INT)
        self.update_cr4 = fn("cpu_x86_update_cr4_x86_64", None, _P, _U32)
        self.tlb_flush = fn("tlb_flush_x86_64", None, _P)
        self.read_eflags = fn("helper_read_eflags_x86_64", _U64, _P)
        self.cpuid = fn("cpu_x86_cpuid_x86_64", None, _P, _U32, _U32, _P, _P, _P, _P)
        self.set_a20 = fn("x86_cpu_set_a20_x86_64", None, _P, _INT)
        self.breakpoint_insert = fn("cpu_breakpoint_insert_x86_64", _INT, _P, _U64, _INT, _P)
        self.breakpoint_remove = fn("cpu_breakpoint_remove_x86_64", _INT, _P, _U64, _INT)
        self.cpu_init = fn("do_cpu_init_x86_64", None, _P)
        self.restore_state = fn("cpu_restore_state_x86_64", C.c_bool, _P, _U64, C.c_bool)
        self.update_hflags = fn("x86_update_hflags_x86_64", None, _P)
        self.tb_invalidate_phys_range = fn("tb_invalidate_phys_range_x86_64", None, _P, _U64, _U64)
        self.ram_addr_from_host = fn("qemu_ram_addr_from_host_x86_64", _U64, _P, _P)

    def _function(self, name: str, result: Any, *args: Any, library: Any = None) -> Any:
        try:
            function = getattr(library or self._short, name)
        except AttributeError:
            raise UnknownEngine(f"it has no symbol {name}") from None
        function.restype = result
        if args:
            function.argtypes = args
        return function

    def address(self, name: str) -> int:
        """The address of a symbol that is only ever called by native code."""
        try:
            found = C.cast(getattr(self._short, name), _P).value
        except AttributeError:
            raise UnknownEngine(f"it has no symbol {name}") from None
        assert found is not None
        return found


_library: _Library | None = None


def _load() -> _Library:
    global _library
    if _library is None:
        _library = _Library()
    return _library


class Handler(Protocol):
    """What the processor does at an instruction that Unicorn leaves to us.

    Any of these may call `Engine.fault` to make the instruction raise an
    exception in the guest instead.
    """

    def port_in(self, port: int, size: int) -> int: ...
    def port_out(self, port: int, value: int, size: int) -> None: ...
    def acknowledge(self) -> int:
        """The vector of the interrupt to take now, or -1 for none after all."""
    def cpuid(self) -> None: ...
    def rdtsc(self) -> None:
        """RDTSC and RDTSCP, whose RCX is set without asking."""
    def rdmsr(self) -> None: ...
    def wrmsr(self) -> None: ...
    def read_cr8(self) -> int: ...
    def write_cr(self, number: int, value: int) -> bool:
        """Whether Unicorn is to go on with the write."""
    def wrote_dr(self, number: int) -> None:
        """A debug register was written."""
    def smm(self, entered: bool) -> None:
        """Just before an SMI is taken, and just after RSM."""
    def wild_base(self, selector: int) -> bool:
        """Whether a TSS or LDT's descriptor has a base that is not canonical."""
    def watch_page(self, address: int, length: int) -> int:
        """Which accesses in a page to ask `watch` about: 1 reads, 2 writes."""
    def watch(self, address: int, length: int, write: bool) -> bool:
        """Whether the access is watched: the instruction ends, then `debug` is asked."""
    def debug(self) -> bool:
        """A breakpoint or a watchpoint: raise #DB in the guest, or (False) end the slice."""
    def write_protected(self, address: int, size: int, value: int) -> None: ...


class Engine:
    """One libunicorn x86 engine with its CPU, proven and hooked.

    Public views on the live CPU state (`ENV` has the byte offsets):

    - `q`: the state as 64-bit words, `d`: as 32-bit words (memoryviews);
    - `request`: interrupt_request, as word 0; `halted`, `counter`: single fields.
    """

    def __init__(self, handler: Handler, model: int) -> None:
        """*model* is Unicorn's number of a CPU model."""
        lib = self.lib = _load()
        handle = _P()
        self._check(lib.uc_open(_ARCH_X86, _MODE_64, C.byref(handle)))
        assert handle.value is not None
        self.handle = handle.value
        self.failure: BaseException | None = None
        self._keep: list[Any] = []
        self._mapped: dict[int, Any] = {}
        #: (host code's address, size) -> how long that store to MMIO is, until a flush
        self._stores: dict[tuple[int, int], int] = {}
        self._flushes = 0
        self._ctl(_CTL_WRITE | 1 << 26 | _CTL_CPU_MODEL, _INT(model))
        self._ctl(_CTL_WRITE | 1 << 26 | _CTL_TCG_BUFFER_SIZE, _U32(CODE_BUFFER_SIZE))
        self._ctl(_CTL_WRITE | 1 << 26 | _CTL_USE_EXITS, _INT(1))
        self._ctl(_CTL_WRITE | 2 << 26 | _CTL_EXITS, _P(None), _SIZE(0))
        self._known = False
        try:
            self._locate()
            self._prove_registers()
            self._prove_reset()
            self._hook(handler)
            self._prove_code()
        except BaseException:
            self.close()
            raise

    # -- construction
    def _check(self, error: int) -> None:
        if error:
            raise EngineError(error, self.lib.uc_strerror(error).decode(), 0)

    def _ctl(self, control: int, *args: Any) -> None:
        self._check(self.lib.uc_ctl(_P(self.handle), _INT(control), *args))

    def _locate(self) -> None:
        """Find CPUState and env, and prove the fields that lead there."""
        lib, uc = self.lib, self.handle
        version = lib.uc_version(None, None)
        if version >> 16 != 0x0201:
            raise UnknownEngine(f"version {version >> 24}.{version >> 16 & 255}")
        value = _U64()
        lib.uc_reg_read(uc, _REG_GPR[0], C.byref(value))   # Unicorn initialises lazily
        cpu = lib.qemu_get_cpu(uc, -1)
        if not cpu or _peek64(uc + UC["cpu"]) != cpu:
            raise UnknownEngine("the CPU is not where uc_struct should point")
        self.cpu = cpu
        if _peek64(cpu + CPU["uc"]) != uc:
            raise UnknownEngine("CPUState does not point back to its engine")
        self.env = _peek64(cpu + CPU["env_ptr"])
        if not cpu < self.env < cpu + 0x20000:
            raise UnknownEngine("CPUState.env_ptr does not point into the CPU")
        self._class = _peek64(cpu + CPU["cc"])
        for slot, name in (("cpu_exec_interrupt", "x86_cpu_exec_interrupt_x86_64"),
                           ("debug_excp_handler", "breakpoint_handler_x86_64")):
            if _peek64(self._class + CC[slot]) != lib.address(name):
                raise UnknownEngine(f"CPUClass.{slot} is elsewhere")
        if _peek64(self._class + CC["do_unaligned_access"]):
            raise UnknownEngine("CPUClass.do_unaligned_access is elsewhere")
        size = ENV["end"]
        view = memoryview((C.c_char * size).from_address(self.env)).cast("B")
        self.b = view
        self.q = view.cast("Q")
        self.d = view.cast("I")
        self.request = memoryview((C.c_char * 4).from_address(
            cpu + CPU["interrupt_request"])).cast("B").cast("I")
        self.halted = _U32.from_address(cpu + CPU["halted"])
        self.counter = _U64.from_address(cpu + CPU["icount_extra"])
        self._bound = _U64.from_address(cpu + CPU["icount_budget"])
        self._cflags_next_tb = _U32.from_address(cpu + CPU["cflags_next_tb"])
        self._exception_index = C.c_int32.from_address(cpu + CPU["exception_index"])
        self._mem_io_pc = _U64.from_address(cpu + CPU["mem_io_pc"])
        self._stop_request = C.c_uint8.from_address(uc + UC["stop_request"])
        self._no_exit_request = C.c_uint8.from_address(uc + UC["no_exit_request"])
        self.context = Context(uc=uc, tcg=_peek64(uc + UC["tcg_ctx"]), cpu=cpu, env=self.env)
        text = _peek64(self.context.tcg + _peek64(self.context.tcg + TCG_CPU_ENV) + TEMP_NAME)
        if _peek64(text) & 0xFFFF_FFFF != int.from_bytes(b"env\0", "little"):
            raise UnknownEngine("TCGContext.cpu_env is elsewhere")
        for mode in range(3):
            mask = _peek64(self.env + TLB["mask"] + 16 * mode) >> TLB_ENTRY_BITS
            if not 0 < mask < 1 << 24 or mask & (mask + 1):
                raise UnknownEngine(f"the TLB's mask reads {mask:#x}")

    # -- proofs
    def _prove_registers(self) -> None:
        lib, uc, q = self.lib, self.handle, self.q
        for i, register in enumerate(_REG_GPR):
            mark = 0xA5A5_0000_1234_0000 + i * 0x1111
            lib.uc_reg_write(uc, register, C.byref(_U64(mark)))
            if q[ENV["regs"] // 8 + i] != mark:
                raise UnknownEngine(f"register {i} is not at env+{8 * i}")
            q[i] = 0
        for name, (number, width) in _MSR_PROOF.items():
            mark = 0x1234_5678_9ABC & ((1 << 8 * width) - 1)
            self.write_msr(number, mark)
            if int.from_bytes(self.b[ENV[name]:ENV[name] + width], "little") != mark:
                raise UnknownEngine(f"MSR {number:#x} ({name}) is not at env+{ENV[name]}")
            self.write_msr(number, 0)

    def _prove_reset(self) -> None:
        lib = self.lib
        self.request[0] = 0xFFFF_FFFF
        lib.cpu_reset_interrupt(self.cpu, -1)
        if self.request[0]:
            raise UnknownEngine("interrupt_request is elsewhere")
        lib.cpu_reset(self.cpu)
        dr = ENV["dr"] // 8
        found = (self.q[dr + 6], self.q[dr + 7], self.d[ENV["old_exception"] // 4],
                 self.q[ENV["eip"] // 8], self.d[ENV["segs"] // 4 + 6], self.q[ENV["eflags"] // 8],
                 self.d[ENV["mxcsr"] // 4], self.q[ENV["idt"] // 8 + 1])
        if found != (0xFFFF0FF0, 0x400, 0xFFFF_FFFF, 0xFFF0, 0xF000, 2, 0x1F80, 0):
            raise UnknownEngine("after cpu_reset the state reads "
                                + " ".join(f"{v:#x}" for v in found))
        leaf = self.cpuid(1, 0)
        if (self.d[ENV["cpuid_version"] // 4] != leaf[0]
                or self.d[ENV["features"] // 4] | 1 << 9 != leaf[3] | 1 << 9):
            raise UnknownEngine("the CPUID words are elsewhere")
        lib.update_cr4(self.env, 0)     # cpu_reset leaves 0x50200 there
        if self.q[ENV["cr"] // 8] != 0x6000_0010 or self.q[ENV["cr"] // 8 + 4] != 0:
            raise UnknownEngine("CR0 or CR4 is elsewhere")

    def _prove_code(self) -> None:
        """Run a few instructions: counting, RDMSR, HLT, and what `translated` is told.

        The page is unmapped again before any real RAM is mapped, which also keeps
        Unicorn from giving two later RAM blocks the same internal address.
        """
        lib, uc = self.lib, self.handle
        page = mmap.mmap(-1, 0x1000)
        # mov ecx, 0x17; rdmsr; jmp behind; mov [0xf1000], al; hlt
        page[0:17] = bytes.fromhex("66b917000000 0f32 eb00 67a200100f00 f4")
        host = C.addressof(C.c_char.from_buffer(page))
        base = 0xF0000      # CS base of a reset CPU is 0xffff0000: run with base 0xf0000
        self._check(lib.uc_mem_map_ptr(uc, base, 0x1000, _PROT_ALL, host))
        self.q[(ENV["segs"] + SEGMENT_SIZE + 8) // 8] = base
        io_pcs: list[int] = []
        self.map_mmio(base + 0x1000, 0x1000, lambda *_: 0,
                      lambda *_: io_pcs.append(self._mem_io_pc.value))
        hflags = self.d[ENV["hflags"] // 4]
        asked: list[int] = []
        blocks: list[tuple[int, ...]] = []
        kept = self.context.rdmsr, self.context.translated
        rdmsr = CALLBACKS["rdmsr"](lambda: asked.append(self.q[1]))
        translated = CALLBACKS["translated"](lambda *block: blocks.append(block))
        self.context.rdmsr = C.cast(rdmsr, _P).value or 0
        self.context.translated = C.cast(translated, _P).value or 0
        self.q[ENV["eip"] // 8] = 0
        self.run(1)
        found = (self.counter.value, self.q[ENV["eip"] // 8], self._stop_request.value,
                 self.halted.value, asked)
        if found != (2, 10, 1, 0, [0x17]):
            raise UnknownEngine(f"after one counted block with RDMSR the engine says {found}")
        if [block[:5] for block in blocks] != [(base, 10, 3, hflags, base),
                                               (base + 10, 7, 2, hflags, base)]:
            raise UnknownEngine(f"the translated blocks are {blocks}")
        if C.string_at(blocks[0][5], 3) != b"\x48\x8b\x85":
            raise UnknownEngine("a block does not begin as it should")
        hashed = base ^ base >> 6
        slot = CPU["tb_jmp_cache"] + 8 * (hashed >> 6 & 0xFC0 | hashed & 0x3F)
        if _peek64(_peek64(self.cpu + slot) + TB["pc"]) != base:
            raise UnknownEngine("tb_jmp_cache is elsewhere")
        self.counter.value = 0
        if self.run(5) or self.halted.value != 1 or self._exception_index.value != -1:
            raise UnknownEngine("HLT does not leave halted == 1")
        if [at - blocks[1][5] < 0x200 for at in io_pcs] != [True] or io_pcs[0] < blocks[1][5]:
            raise UnknownEngine(f"a store to memory-mapped I/O came from {io_pcs}")
        self.counter.value = 0
        self.context.rdmsr, self.context.translated = kept
        self._check(lib.uc_mem_unmap(uc, base, 0x1000))
        self.unmap(base + 0x1000, 0x1000)
        self.flush_code()
        self.reset()

    # -- hooks
    def _add_hook(self, kind: int, callback: int, user_data: int | None = None,
                  begin: int = 1, end: int = 0, insn: int | None = None) -> int:
        hook = _SIZE()
        args: list[Any] = [_P(self.handle), C.byref(hook), _INT(kind), _P(callback),
                           _P(user_data), _U64(begin), _U64(end)]
        if insn is not None:
            args.append(_INT(insn))
        self._check(self.lib.uc_hook_add(*args))
        return hook.value

    def _hook(self, handler: Handler) -> None:
        native, context = self.lib.native, self.context
        at = C.addressof(context)
        for name, prototype, function in self._instructions(handler):
            target = prototype(function)
            data = (_U64 * 2)(C.cast(target, _P).value or 0, at)
            self._keep += [target, data]
            guard = _GUARDS[name]
            self._add_hook(_HOOK_INSN, native.entry[guard], C.addressof(data), insn=_INS[name])
        self._add_hook(_HOOK_INTR, native.entry["deliver"], at)
        self._add_hook(_HOOK_INSN_INVALID, native.entry["deliver_invalid"], at)

        def on_write_protected(_uc: int, _kind: int, address: int, size: int, value: int,
                               _data: int) -> bool:
            try:
                handler.write_protected(address, size, value & ((1 << 8 * size) - 1))
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)
            return True

        protected = _MEM(on_write_protected)
        self._keep.append(protected)
        self._add_hook(_HOOK_MEM_WRITE_PROT, C.cast(protected, _P).value or 0)

        for name, otherwise in (("acknowledge", -1), ("rdmsr", None), ("wrmsr", None),
                                ("read_cr8", 0), ("write_cr", 0), ("wrote_dr", None),
                                ("smm", None), ("watch_page", 0), ("debug", 0),
                                ("wild_base", 0)):
            self._callback(name, getattr(handler, name), otherwise)
        unaligned = 0

        def watch(address: int, length: int, flags: int) -> bool:
            """QEMU 5.0 tells of a store that is not aligned in two pieces, as if it always
            crossed a page: N bytes at its address, where N is not positive when it does not,
            then as many at the page's beginning as lie before its end."""
            nonlocal unaligned
            if length >> 63:
                unaligned = address
                return False
            if unaligned and address == unaligned & ~0xFFF and flags & 2:
                length -= unaligned - address
                address, unaligned = unaligned, 0
            return handler.watch(address, length, bool(flags & 2))

        self._callback("watch", watch, 0)
        _U64.from_address(self._class + CC["cpu_exec_interrupt"]).value = \
            native.entry["exec_interrupt"]
        _U64.from_address(self._class + CC["debug_excp_handler"]).value = native.entry["debug"]
        _U64.from_address(self._class + CC["do_unaligned_access"]).value = \
            native.entry["unaligned"]
        _U64.from_address(self._class + CC["asidx_from_attrs"]).value = 0    # or an SMI crashes
        native.add(context)
        self._known = True
        self._one_insn = False
        self._trace_buffer: Any = None
        self._executed: Callable[[memoryview], None] | None = None
        self._install_counter()

    def _callback(self, name: str, function: Callable[..., Any] | None,
                  otherwise: int | None = None) -> None:
        """Let the native routines call *function*; *otherwise* is what it gives when it raised."""
        if function is None:
            setattr(self.context, name, 0)
            return
        wanted = function

        def call(*args: int) -> Any:
            try:
                return wanted(*args)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)
                return otherwise

        target = CALLBACKS[name](call)
        self._keep.append(target)
        setattr(self.context, name, C.cast(target, _P).value or 0)

    def _instructions(self, handler: Handler) -> list[tuple[str, Any, Callable[..., Any]]]:
        """The hooked instructions, each with its C type and a Python function that cannot raise."""
        fail = self._fail
        port_in, port_out = handler.port_in, handler.port_out

        def on_in(_uc: int, port: int, size: int, _data: int) -> int:
            try:
                return port_in(port, size)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                fail(error)
                return 0

        def on_out(_uc: int, port: int, size: int, value: int, _data: int) -> None:
            try:
                port_out(port, value, size)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                fail(error)

        def plain(function: Callable[[], None]) -> Callable[[int, int], int]:
            def call(_uc: int, _data: int) -> int:
                try:
                    function()
                except BaseException as error:  # noqa: BLE001 - raised again by run()
                    fail(error)
                return 1                        # done: skip Unicorn's own
            return call

        return [("in", _IN, on_in), ("out", _OUT, on_out),
                ("cpuid", _INT_INSN, plain(handler.cpuid)),
                ("rdtsc", _INT_INSN, plain(handler.rdtsc)),
                ("rdtscp", _INT_INSN, plain(handler.rdtsc))]

    def _fail(self, error: BaseException) -> None:
        """Keep an exception of a callback and end the slice; `run` raises it."""
        if self.failure is None:
            self.failure = error
        self.kick()

    def _install_counter(self) -> None:
        """Count blocks inline, or each instruction by a hook, or either with a trace.

        no_exit_request: without it a stop may tear a read-modify-write.
        """
        self._no_exit_request.value = 1
        tracing = self._trace_buffer is not None
        self.context.patch = not self._one_insn and not tracing
        self._count_hook = self._add_hook(
            _HOOK_CODE if self._one_insn else _HOOK_BLOCK,
            self.lib.native.entry["trace" if tracing else "count"], C.addressof(self.context))

    def _change_counter(self) -> None:
        self._check(self.lib.uc_hook_del(self.handle, self._count_hook))
        self._install_counter()
        self.flush_code()

    def trace(self, executed: Callable[[memoryview], None] | None, records: int = 4096) -> None:
        """Between slices: hand records of what is run to *executed*, up to *records* at a time.

        A record is four words of 64 bits: host code, cs_base, linear RIP, flags of the
        block.  With `one_insn` each instruction has one.  None: no more.
        """
        self.drain_trace()
        self._executed = executed
        self._trace_buffer = None
        if executed is None:
            self._callback("traced", None)
        else:
            self._trace_buffer = (_U64 * (4 * records))()
            self._callback("traced", self.drain_trace)
            at = C.addressof(self._trace_buffer)
            self.context.trace, self.context.trace_end = at, at + 32 * records
        self._change_counter()

    def drain_trace(self) -> None:
        """Hand over the records there are."""
        buffer, executed = self._trace_buffer, self._executed
        if buffer is None or executed is None:
            return
        at = C.addressof(buffer)
        length = self.context.trace - at
        if length:
            self.context.trace = at
            executed(memoryview(buffer).cast("B")[:length].cast("Q"))

    def tell(self, name: str, function: Callable[..., None] | None) -> None:
        """Call *function* at each "translated" block or "interrupt"; None: no more."""
        self._callback(name, function)

    # -- running
    @property
    def one_insn(self) -> bool:
        """Whether every instruction is a unit of its own."""
        return self._one_insn

    @one_insn.setter
    def one_insn(self, on: bool) -> None:
        if on != self._one_insn:
            self._one_insn = on
            self._change_counter()

    def run(self, budget: int) -> bool:
        """Run up to *budget* (at least 1) blocks, or instructions with `one_insn`.

        Gives whether the counter ended the run.  Otherwise it was HLT
        (`halted` is 1) or a triple fault (`halted` is 0).  Raises what a
        callback raised, or `EngineError`.
        """
        self.halted.value = 0
        self.context.limit = budget
        self.context.request = 0
        self._bound.value = budget
        error = self.lib.uc_emu_start(self.handle, self.q[16], 0, 0, 0)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if error:
            raise EngineError(error, self.lib.uc_strerror(error).decode(), self.q[16])
        return bool(self._stop_request.value)

    def kick(self) -> None:
        """End the slice at the next block (instruction).  From any thread.

        Lost when it comes while a slice is just being entered: whoever kicks from
        another thread also leaves a note that is read before each slice, and
        slices are short.
        """
        self.context.limit = 0
        self._bound.value = 0

    @property
    def limit(self) -> int:
        """What the counter may reach in this slice."""
        return int(self.context.limit)

    @limit.setter
    def limit(self, count: int) -> None:
        self.context.limit = count
        self._bound.value = count

    @property
    def io_weight(self) -> int:
        """What an access to a port, to memory-mapped I/O or to ROM adds to the block counter:
        each takes as long as many blocks, and one block can make hundreds.
        """
        return int(self.context.io_weight)

    @io_weight.setter
    def io_weight(self, blocks: int) -> None:
        self.context.io_weight = blocks

    def follow_time_stamp(self, base: int, per_block: int) -> None:
        """Let RDTSC give *base* plus *per_block* cycles for each block of the counter, or (0)
        plus the host's monotonic clock in ns, without asking the handler.
        """
        self.context.tsc_base = base & 0xFFFF_FFFF_FFFF_FFFF
        self.context.tsc_scale = per_block
        self.context.tsc = _TSC_COUNTER if per_block else _TSC_HOST

    def ask_time_stamp(self) -> None:
        """Let RDTSC ask the handler, as at first."""
        self.context.tsc = _TSC_ASK

    def look(self) -> None:
        """From inside a slice: have interrupt_request looked at before the next block."""
        self.context.request = 1
        self._bound.value = 0

    def fault(self, vector: int, error_code: int = 0) -> None:
        """Let the instruction now being handled raise exception *vector* in the guest."""
        self.context.fault_error = error_code
        self.context.fault = 0x100 | vector

    # -- state
    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Unicorn's own CPUID: EAX, EBX, ECX, EDX."""
        out = (_U32 * 4)()
        at = C.addressof(out)
        self.lib.cpuid(self.env, leaf, subleaf, at, at + 4, at + 8, at + 12)
        return out[0], out[1], out[2], out[3]

    def reset(self, *, init: bool = False) -> None:
        """The processor's RESET, or INIT, which leaves FPU, SSE and most MSRs."""
        (self.lib.cpu_init if init else self.lib.cpu_reset)(self.cpu)
        self.q[ENV["xcr0"] // 8] = 1        # x87; reset leaves what a user program would find
        self.lib.update_cr4(self.env, 0)
        self.d[_TR_FLAGS // 4] = 0x8900     # busy, as reset leaves it, an inner ring would abort
        self.request[0] = 0
        self.halted.value = 0
        self.lib.tlb_flush(self.cpu)

    def read_msr(self, number: int) -> int:
        """An MSR by Unicorn's own RDMSR (unknown ones read 0)."""
        pair = _Msr(number, 0)
        self._check(self.lib.uc_reg_read(self.handle, _REG_MSR, C.byref(pair)))
        return int(pair.value)

    def write_msr(self, number: int, value: int) -> None:
        """An MSR by Unicorn's own WRMSR."""
        pair = _Msr(number, value)
        self._check(self.lib.uc_reg_write(self.handle, _REG_MSR, C.byref(pair)))

    def read_xmm(self, index: int) -> int:
        """XMM register *index* as a 128-bit number."""
        buffer = (C.c_uint8 * 16)()
        self._check(self.lib.uc_reg_read(self.handle, _REG_XMM0 + index, buffer))
        return int.from_bytes(bytes(buffer), "little")

    def read_st(self, index: int) -> tuple[int, int]:
        """ST(*index*) as (64-bit mantissa, 16-bit sign and exponent)."""
        buffer = (C.c_uint8 * 10)()
        self._check(self.lib.uc_reg_read(self.handle, _REG_ST0 + index, buffer))
        raw = bytes(buffer)
        return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")

    def read_register(self, number: int) -> int:
        """A register of at most 64 bits by Unicorn's own number (x87 control words)."""
        value = _U64()
        self._check(self.lib.uc_reg_read(self.handle, number, C.byref(value)))
        return value.value

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through the guest's own page tables, or None where unmapped.

        Unicorn would use the current privilege; this reads as the supervisor.
        """
        buffer = C.create_string_buffer(length)
        hflags = ENV["hflags"] // 4
        saved = self.d[hflags]
        self.d[hflags] = saved & ~3
        # A page that is not there leaves a page fault's traces: CR2, and an old_exception that
        # would make the guest's next fault a double fault.
        fields = [(at, bytes(self.b[at:at + 8])) for at in _PAGE_FAULT_TRACES]
        kept = self._exception_index.value
        error = self.lib.uc_vmem_read(self.handle, address, _PROT_READ, buffer, length)
        for at, content in fields:
            self.b[at:at + 8] = content
        self._exception_index.value = kept
        self.d[hflags] = saved
        return None if error else buffer.raw

    # -- debugging
    def breakpoint(self, address: int, on: bool) -> None:
        """Ask `debug` before the instruction at a linear address, or no longer."""
        if on:
            self.lib.breakpoint_insert(self.cpu, address, _BP_GDB, None)
        else:
            self.lib.breakpoint_remove(self.cpu, address, _BP_GDB)

    def flush_tlb(self) -> None:
        """Forget every translation of an address."""
        self.lib.tlb_flush(self.cpu)

    def watch(self, on: bool) -> None:
        """Ask `watch_page` at each page that is touched first, `watch` in those it names."""
        self.context.watching = on
        self.lib.tlb_flush(self.cpu)

    def step_next(self) -> None:
        """Between slices: make the next block one of a single instruction."""
        self._cflags_next_tb.value = 1

    # -- memory
    def map_memory(self, address: int, length: int, host: int, *, rom: bool) -> None:
        """Map *length* bytes at host address *host*; a ROM's writes go to `write_protected`."""
        self._check(self.lib.uc_mem_map_ptr(self.handle, address, length, _PROT_ALL, host))
        if rom:     # mapping it read-only at once would let writes through
            self._check(self.lib.uc_mem_protect(self.handle, address, length, _PROT_READ_EXEC))

    def map_mmio(self, address: int, length: int, read: Callable[[int, int], int],
                 write: Callable[[int, int, int], None]) -> None:
        """Let *read*(offset, size) and *write*(offset, size, value) answer a range.

        Each access counts for `io_weight` blocks more.
        """
        context = self.context

        def on_read(_uc: int, offset: int, size: int, _data: int) -> int:
            try:
                return read(offset, size)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)
                return 0

        def on_write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            try:
                write(offset, size, value)
                if context.request:
                    self._end_store(size)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)

        callbacks = (_MMIO_READ(on_read), _MMIO_WRITE(on_write))
        at, entry = C.addressof(self.context), self.lib.native.entry
        data = [(_U64 * 2)(C.cast(each, _P).value or 0, at) for each in callbacks]
        self._check(self.lib.uc_mmio_map(
            self.handle, address, length, entry["mmio_read"], C.addressof(data[0]),
            entry["mmio_write"], C.addressof(data[1])))
        self._mapped[address] = callbacks, data

    def _end_store(self, size: int) -> None:
        """A store of *size* bytes made an interrupt wait: take it behind that instruction.

        QEMU 10 lets the access be the last of its block; here the instruction is
        skipped that has nothing left to do, if it is a plain MOV.  (Behind others
        the interrupt waits for the end of the block.)
        """
        context = self.context
        hflags, at = self.d[ENV["hflags"] // 4], self._mem_io_pc.value
        if not at or hflags & (_HF_INHIBIT_IRQ | _HF_TF) or context.replaying:
            return
        if context.flushes != self._flushes:        # other code may be at these places now
            self._flushes = context.flushes
            self._stores.clear()
        length = self._stores.get((at, size))
        if length is None:
            length = self._stores[at, size] = self._store_length(at, hflags, size)
        context.leave = length

    def _store_length(self, at: int, hflags: int, size: int) -> int:
        """Of the guest's instruction that host code at *at* belongs to (emu.mov)."""
        d, q = self.d, self.q
        eip, cc_op = ENV["eip"] // 8, ENV["cc_op"] // 4
        kept = q[eip], d[cc_op]
        if not self.lib.restore_state(self.cpu, at, True):
            return 0
        bits = 64 if hflags & _HF_CS64 else 32 if hflags & _HF_CS32 else 16
        linear = q[ENV["segs"] // 8 + SEGMENT_SIZE // 8 + 1] + q[eip]
        linear &= 0xFFFF_FFFF_FFFF_FFFF if bits == 64 else 0xFFFF_FFFF
        q[eip], d[cc_op] = kept
        code = self.read_virtual(linear, 15) or self.read_virtual(linear, -linear & 0xFFF)
        return store_length(code, bits, size) if code else 0

    def unmap(self, address: int, length: int) -> None:
        """Take a mapping away.  Its callbacks are kept: one may be running."""
        self._check(self.lib.uc_mem_unmap(self.handle, address, length))
        if address in self._mapped:
            self._keep.append(self._mapped.pop(address))
        self.lib.tlb_flush(self.cpu)

    def invalidate(self, host: int, length: int) -> None:
        """Forget code translated from *length* bytes of RAM at host address *host*."""
        at = self.lib.ram_addr_from_host(self.handle, host)
        if at != 0xFFFF_FFFF_FFFF_FFFF:
            self.lib.tb_invalidate_phys_range(self.handle, at, at + length)

    def flush_code(self) -> None:
        """Forget every translated block."""
        self._ctl(_CTL_WRITE | _CTL_TB_FLUSH)

    def close(self) -> None:
        """Free the engine.  It cannot be used afterwards."""
        if self.handle:
            if self._known:
                self.lib.native.remove(self.context)
            self.lib.uc_close(self.handle)
            self.handle = 0


class _Msr(C.Structure):
    _fields_ = [("rid", _U32), ("value", _U64)]


#: env field -> (MSR, width in bytes): `_prove_registers` writes each through Unicorn
_MSR_PROOF: Final = {
    "sysenter_cs": (0x174, 2), "sysenter_esp": (0x175, 8), "sysenter_eip": (0x176, 8),
    "star": (0xC0000081, 8), "lstar": (0xC0000082, 8), "cstar": (0xC0000083, 8),
    "fmask": (0xC0000084, 8), "kernelgsbase": (0xC0000102, 8), "tsc_aux": (0xC0000103, 4),
}


def _peek64(address: int) -> int:
    """The word at *address*, which an unproven offset may have led to: read without faulting."""
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            word = memory.read(8)
    except (OSError, ValueError, OverflowError):
        word = b""
    if len(word) != 8:
        raise UnknownEngine(f"a pointer leads to {address:#x}, where there is nothing")
    return int.from_bytes(word, "little")
