"""Everything the project knows of libunicorn 2.1.4's insides, and the proof of it.

Unicorn is QEMU 5.0.1's TCG with the interrupt delivery cut out.  A full PC needs
what its public API does not give: exceptions and interrupts delivered through
the guest's own tables, stops that never tear an instruction, a clock that counts
blocks, and invalidation of translated code after DMA.  All of that is reached
by ctypes, through symbols the shared library exports and through fields of its
structures whose offsets are in the tables below, and nowhere else.

Offsets follow the structures' layout in one build.  So `Engine` proves every
one of them on the live engine when it is made (`_prove`), and refuses with
`UnknownEngine`, in one line that says what was found, when one is off.

Nothing here has policy: `emu.cpu` decides what a hook does.

Callbacks that run Python are entered from translated code.  A C `longjmp` over
a Python frame would corrupt the interpreter, so Python never calls anything
that can raise a guest exception: native thunks (`_Thunks`) do that after the
Python frame has gone.
"""

from __future__ import annotations

import ctypes as C
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol

__all__ = ["Engine", "EngineError", "UnknownEngine"]

# --- Unicorn's public constants (unicorn/x86_const.py, unicorn_const.py)
_ARCH_X86, _MODE_64 = 4, 8
_HOOK_INTR, _HOOK_INSN, _HOOK_CODE, _HOOK_BLOCK = 1, 2, 4, 8
_HOOK_MEM_WRITE_PROT = 256
_HOOK_INSN_INVALID, _HOOK_EDGE_GENERATED = 1 << 14, 1 << 15
_INS = {"in": 218, "out": 500, "syscall": 699, "sysenter": 700, "cpuid": 113,
        "rdtsc": 608, "rdtscp": 609}
_CTL_WRITE = 1 << 30
_CTL_USE_EXITS, _CTL_EXITS, _CTL_TB_FLUSH, _CTL_TCG_BUFFER_SIZE = 4, 6, 10, 13
_PROT_READ, _PROT_ALL, _PROT_READ_EXEC = 1, 7, 5
_REG_GPR = (35, 38, 40, 37, 44, 36, 43, 39, *range(106, 114))  # RAX RCX RDX RBX RSP RBP RSI RDI R8…
_REG_ST0, _REG_XMM0 = 114, 122
_REG_MSR = 248

# --- CPUX86State: byte offsets (data of cpu_reset's and the MSRs' proofs)
ENV: Final = {
    "regs": 0, "eip": 128, "eflags": 136, "cc_dst": 144, "cc_src": 152, "cc_src2": 160,
    "cc_op": 168, "df": 172, "hflags": 176, "hflags2": 180, "segs": 184, "ldt": 328, "tr": 352,
    "gdt": 376, "idt": 400, "cr": 424, "a20_mask": 496, "efer": 592, "fpstt": 604, "fpuc": 610,
    "mxcsr": 816, "sysenter_cs": 4800, "sysenter_esp": 4808, "sysenter_eip": 4816,
    "star": 4824, "lstar": 4840, "cstar": 4848, "fmask": 4856, "kernelgsbase": 4864,
    "tsc_aux": 4896, "error_code": 5384, "exception_is_int": 5388, "exception_next_eip": 5392,
    "dr": 5400, "old_exception": 5496, "end_reset_fields": 5568,
}
# --- CPUState, CPUClass, uc_struct
_CPU = {"interrupt_request": 28, "env_ptr": 296, "halted": 33176, "exception_index": 33184,
        "uc": 33192, "cc": 33200}
_CC = {"exec_interrupt": 144}
_UC = {"tcg_flush_tlb": 368, "cpu": 440, "count_hook": 1360, "emu_counter": 1368,
       "emu_count": 1376, "stop_request": 1389, "no_exit_request": 2034}
_HOOK_CALLBACK = 40
_TR_FLAGS: Final = ENV["tr"] + 20
#: 8-byte fields (the first of ENV's error_code's has exception_is_int in it)
_PAGE_FAULT_TRACES: Final = (ENV["cr"] + 16, ENV["error_code"], ENV["exception_next_eip"],
                             ENV["old_exception"])

_EXCP_INTERRUPT = 0x10000

#: Bytes of translated code that are kept; when they are full, all of it is forgotten.
#: Unicorn's own bound is 1 GiB, which a guest that keeps changing its code will fill.
CODE_BUFFER_SIZE = 128 << 20

_P, _U64, _U32, _INT, _SIZE = C.c_void_p, C.c_uint64, C.c_uint32, C.c_int, C.c_size_t

# What Unicorn's hooks look like in C.  CFUNCTYPE: the guest runs without the GIL.
_IN = C.CFUNCTYPE(_U32, _P, _U32, _INT, _P)
_OUT = C.CFUNCTYPE(None, _P, _U32, _INT, _U32, _P)
_INT_INSN = C.CFUNCTYPE(_INT, _P, _P)
_ACKNOWLEDGE = C.CFUNCTYPE(_INT)
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
    def port_out(self, port: int, size: int, value: int) -> None: ...
    def acknowledge(self) -> int:
        """The vector of the interrupt to take now, or -1 for none after all."""
    def syscall(self) -> None: ...
    def sysenter(self) -> None: ...
    def cpuid(self) -> None: ...
    def rdtsc(self) -> None: ...
    def rdtscp(self) -> None: ...
    def write_protected(self, address: int, size: int, value: int) -> None: ...


class _Code:
    """A page of native code: x86-64, System V calling convention.

    Written while it is writable, then made executable (never both).
    """

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._base = C.addressof(C.c_char.from_buffer(self._page))
        self._used = 0

    def add(self, code: bytes) -> int:
        """Store one routine; its address."""
        at = self._used
        self._page[at:at + len(code)] = code
        self._used = (at + len(code) + 15) & ~15
        return self._base + at

    def seal(self) -> None:
        """No more routines: the page becomes read-only and executable."""
        libc = C.CDLL(None, use_errno=True)
        if libc.mprotect(_P(self._base), _SIZE(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC):
            raise UnknownEngine(f"mprotect: {os.strerror(C.get_errno())}")


def _imm64(value: int) -> bytes:
    return struct.pack("<Q", value)


#: a TSS that is there: P, and bit 0 of the type, which every TSS type has.  With a task register
#: that holds none (LTR of a null selector) Unicorn would abort the process at the way to an inner
#: ring.  The null task register's limit, 0, makes it #TS instead.
_TSS_THERE = 0x8100


def _code_deliver(do_interrupt: int, env: int) -> bytes:
    """UC_HOOK_INTR (uc, intno, user_data=CPUState*): deliver, which may longjmp away.

    Unicorn has moved RIP behind a software interrupt by now.  It is put back, so
    that a fault of the delivery names the instruction: two bytes, one for INT3
    and INTO (vectors 3 and 4; the rare forms CD 03 and CD 04 are a byte off).
    """
    rewind = (b"\x48\x8b\x88" + struct.pack("<I", ENV["exception_next_eip"]) +  # mov rcx, next
              b"\x8d\x56\xfd\x83\xfa\x02"                    # lea edx, [rsi-3]; cmp edx, 2
              b"\x48\x19\xd2"                              # sbb rdx, rdx
              b"\x48\x83\xe9\x02\x48\x29\xd1"              # sub rcx, 2; sub rcx, rdx
              b"\x48\x89\x88" + struct.pack("<I", ENV["eip"]))  # mov [eip], rcx
    return (b"\x48\x89\xd7"                                  # mov rdi, rdx
            b"\x48\xb8" + _imm64(env) +                     # mov rax, env
            b"\x81\x88" + struct.pack("<II", _TR_FLAGS, _TSS_THERE) +  # or dword [tr.flags], …
            b"\x83\xb8" + struct.pack("<I", ENV["exception_is_int"]) + b"\x00"  # cmp dword, 0
            b"\x74" + bytes([len(rewind)]) + rewind +       # je past it
            b"\x48\xb8" + _imm64(do_interrupt) + b"\xff\xe0")  # mov rax, fn; jmp rax


def _code_deliver_invalid(do_interrupt: int, env: int) -> bytes:
    """UC_HOOK_INSN_INVALID (uc, user_data=CPUState*): deliver #UD, return true."""
    return (b"\x48\x89\xf7"                                  # mov rdi, rsi
            b"\x48\xb8" + _imm64(env) +                     # mov rax, env
            b"\x81\x88" + struct.pack("<II", _TR_FLAGS, _TSS_THERE) +  # or dword [tr.flags], …
            b"\x48\xb8" + _imm64(do_interrupt) +            # mov rax, fn
            b"\x50\xff\xd0\x59"                             # push rax; call rax; pop rcx
            b"\xb8\x01\x00\x00\x00\xc3")                     # mov eax, 1; ret


def _code_guarded(callback: int, fault: int, env: int, raise_exception: int) -> bytes:
    """Call a Python callback, then raise the guest exception it asked for, if any.

    *fault* is the address of {u32 vector | 0x100, u32 error_code}; 0 means none.
    """
    raising = (b"\x89\xd6\x81\xe6\xff\x00\x00\x00"           # mov esi, edx; and esi, 0xff
               b"\x8b\x51\x04"                               # mov edx, [rcx+4]
               b"\xc7\x01\x00\x00\x00\x00"                   # mov dword [rcx], 0
               b"\x48\xbf" + _imm64(env) +                   # mov rdi, env
               b"\x48\xb8" + _imm64(raise_exception) + b"\xff\xe0")  # mov rax, fn; jmp rax
    return (b"\x48\x83\xec\x08"                              # sub rsp, 8
            b"\x48\xb8" + _imm64(callback) + b"\xff\xd0"      # mov rax, callback; call rax
            b"\x48\x83\xc4\x08"                              # add rsp, 8
            b"\x48\xb9" + _imm64(fault) +                   # mov rcx, fault
            b"\x8b\x11\x85\xd2\x75\x01\xc3" + raising)       # mov edx,[rcx]; test; jnz +1; ret


def _code_exec_interrupt(env: int, acknowledge: int, hardirq: int) -> bytes:
    """CPUClass.cpu_exec_interrupt (cpu, interrupt_request): take a hardware interrupt.

    Asked at each turn of TCG's main loop while interrupt_request is not 0, so
    the tests that mostly say no (IF clear, STI/MOV SS shadow) are native.  The
    Python acknowledge cycle has returned before the delivery can fault.
    """
    deny = b"\x31\xc0\xc3"                                   # xor eax, eax; ret
    take = (b"\x48\x83\xec\x08"                              # sub rsp, 8
            b"\x48\xb8" + _imm64(acknowledge) + b"\xff\xd0"   # mov rax, ack; call rax
            b"\x48\x83\xc4\x08"                              # add rsp, 8
            b"\x85\xc0\x79\x03" + deny +                    # test eax, eax; jns over deny
            b"\x48\xbf" + _imm64(env) +                     # mov rdi, env
            b"\x81\x8f" + struct.pack("<II", _TR_FLAGS, _TSS_THERE) +  # or dword [tr.flags], …
            b"\x89\xc6\xba\x01\x00\x00\x00"                  # mov esi, eax; mov edx, 1
            b"\x48\xb8" + _imm64(hardirq) +                 # mov rax, hardirq
            b"\x50\xff\xd0\x59"                             # push rax; call rax; pop rcx
            b"\xb8\x01\x00\x00\x00\xc3")                     # mov eax, 1; ret
    return (b"\x40\xf6\xc6\x02\x75\x03" + deny +            # test sil, HARD; jnz over deny
            b"\x48\xb8" + _imm64(env) +                     # mov rax, env
            b"\xf7\x80" + struct.pack("<II", ENV["eflags"], 0x200) +   # test dword [eflags], IF
            b"\x75\x03" + deny +
            b"\xf7\x80" + struct.pack("<II", ENV["hflags"], 8) +   # test dword [hflags], INHIBIT
            b"\x74\x03" + deny + take)


def _code_count(counter: int, stop: int, cpu: int, loop_exit: int) -> bytes:
    """UC_HOOK_CODE (uc, address, size, user_data): count an instruction, or leave before it.

    *counter* is the address of emu_counter, which emu_count follows.  Everything is in
    the CPU state before this hook, so the processor's loop can be left at once;
    Unicorn's own way, a check after each hook, takes a third of the time.
    """
    leave = (b"\x48\x83\xec\x08"                             # sub rsp, 8
             b"\x48\xb8" + _imm64(stop) + b"\xff\xd0"         # mov rax, uc_emu_stop; call rax
             b"\x48\x83\xc4\x08"                             # add rsp, 8
             b"\x48\xbf" + _imm64(cpu) +                    # mov rdi, cpu
             b"\xc7\x87" + struct.pack("<II", _CPU["exception_index"], _EXCP_INTERRUPT) +
             b"\x48\xb8" + _imm64(loop_exit) + b"\xff\xe0")   # mov rax, cpu_loop_exit; jmp rax
    return (b"\x48\xb8" + _imm64(counter) +                 # mov rax, counter
            b"\x48\x8b\x08\x48\xff\xc1\x48\x89\x08"         # mov rcx,[rax]; inc rcx; mov [rax],rcx
            b"\x48\x3b\x48\x08\x77\x01\xc3" + leave)         # cmp rcx, [rax+8]; ja leave; ret


class Engine:
    """One libunicorn x86 engine with its CPU, proven and hooked.

    Public views on the live CPU state (`ENV` has the byte offsets):

    - `q`: the state as 64-bit words, `d`: as 32-bit words (memoryviews);
    - `interrupt_request`, `halted`, `counter`, `budget`: single fields.
    """

    def __init__(self, handler: Handler) -> None:
        lib = self.lib = _load()
        handle = _P()
        self._check(lib.uc_open(_ARCH_X86, _MODE_64, C.byref(handle)))
        assert handle.value is not None
        self.handle = handle.value
        self.failure: BaseException | None = None
        #: what an access to a port, to memory-mapped I/O or to ROM adds to the block counter:
        #: each takes as long as many blocks, and one block can make hundreds
        self.io_weight = 0
        self._keep: list[Any] = []
        self._mapped: dict[int, Any] = {}
        self._ctl(_CTL_WRITE | 1 << 26 | _CTL_TCG_BUFFER_SIZE, _U32(CODE_BUFFER_SIZE))
        self._ctl(_CTL_WRITE | 1 << 26 | _CTL_USE_EXITS, _INT(1))
        self._ctl(_CTL_WRITE | 2 << 26 | _CTL_EXITS, _P(None), _SIZE(0))
        self._locate()
        self._prove()
        self._hook(handler)

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
        if not cpu or _peek64(uc + _UC["cpu"]) != cpu:
            raise UnknownEngine("the CPU is not where uc_struct should point")
        self.cpu = cpu
        if _peek64(cpu + _CPU["uc"]) != uc:
            raise UnknownEngine("CPUState does not point back to its engine")
        self.env = _peek64(cpu + _CPU["env_ptr"])
        if not cpu < self.env < cpu + 0x20000:
            raise UnknownEngine("CPUState.env_ptr does not point into the CPU")
        slot = _peek64(cpu + _CPU["cc"]) + _CC["exec_interrupt"]
        if _peek64(slot) != lib.address("x86_cpu_exec_interrupt_x86_64"):
            raise UnknownEngine("CPUClass.cpu_exec_interrupt is elsewhere")
        self._exec_interrupt_slot = _U64.from_address(slot)
        size = ENV["end_reset_fields"]
        view = memoryview((C.c_char * size).from_address(self.env)).cast("B")
        self.b = view
        self.q = view.cast("Q")
        self.d = view.cast("I")
        self.interrupt_request = _U32.from_address(cpu + _CPU["interrupt_request"])
        self.halted = _U32.from_address(cpu + _CPU["halted"])
        self.counter = _U64.from_address(uc + _UC["emu_counter"])
        self.budget = _U64.from_address(uc + _UC["emu_count"])
        self._stop_request = C.c_uint8.from_address(uc + _UC["stop_request"])
        self._no_exit_request = C.c_uint8.from_address(uc + _UC["no_exit_request"])
        self._count_hook = _U64.from_address(uc + _UC["count_hook"])

    def _prove(self) -> None:
        """Prove every offset on the live engine, or refuse."""
        self._prove_registers()
        self._prove_reset()
        self._prove_counting()

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
        self.interrupt_request.value = 0xFFFF_FFFF
        lib.cpu_reset_interrupt(self.cpu, -1)
        if self.interrupt_request.value:
            raise UnknownEngine("interrupt_request is elsewhere")
        lib.cpu_reset(self.cpu)
        dr = ENV["dr"] // 8
        found = (self.q[dr + 6], self.q[dr + 7], self.d[ENV["old_exception"] // 4],
                 self.q[ENV["eip"] // 8], self.d[ENV["segs"] // 4 + 6], self.q[ENV["eflags"] // 8],
                 self.d[ENV["mxcsr"] // 4], self.q[ENV["idt"] // 8 + 1])
        if found != (0xFFFF0FF0, 0x400, 0xFFFF_FFFF, 0xFFF0, 0xF000, 2, 0x1F80, 0):
            raise UnknownEngine("after cpu_reset the state reads "
                                + " ".join(f"{v:#x}" for v in found))
        lib.update_cr4(self.env, 0)     # cpu_reset leaves 0x50200 there
        if self.q[ENV["cr"] // 8] != 0x6000_0010 or self.q[ENV["cr"] // 8 + 4] != 0:
            raise UnknownEngine("CR0 or CR4 is elsewhere")

    def _prove_counting(self) -> None:
        """Run three NOPs and HLT: emu_counter, halted, and the count callback's pointer.

        The page is unmapped again before any real RAM is mapped, which also keeps
        Unicorn from giving two later RAM blocks the same internal address.
        """
        lib, uc = self.lib, self.handle
        page = mmap.mmap(-1, 0x1000)
        page[0:4] = b"\x90\x90\x90\xf4"
        host = C.addressof(C.c_char.from_buffer(page))
        base = 0xF0000      # CS base of a reset CPU is 0xffff0000: run with base 0xf0000
        self._check(lib.uc_mem_map_ptr(uc, base, 0x1000, _PROT_ALL, host))
        code = ENV["segs"] // 8 + 4
        self.q[code] = base
        self.halted.value = 0
        self._check(lib.uc_emu_start(uc, 0, 0, 0, 2))
        if (self.counter.value, self.budget.value, self.q[ENV["eip"] // 8],
                self._stop_request.value, self.halted.value) != (3, 2, 2, 1, 0):
            raise UnknownEngine(
                f"after two counted NOPs emu_counter is {self.counter.value}, emu_count "
                f"{self.budget.value}, eip {self.q[ENV['eip'] // 8]:#x}")
        hook = self._count_hook.value
        if not hook:
            raise UnknownEngine("count_hook is elsewhere")
        self._count_callback = _peek64(hook + _HOOK_CALLBACK)
        self._check(lib.uc_emu_start(uc, 2, 0, 0, 0))     # count=0 removes the hook again
        if self._count_hook.value or self.halted.value != 1 or self._stop_request.value:
            raise UnknownEngine("HLT does not leave halted == 1")
        if C.c_int32.from_address(self.cpu + _CPU["exception_index"]).value != -1:
            raise UnknownEngine("exception_index is elsewhere")
        self._check(lib.uc_mem_unmap(uc, base, 0x1000))
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
        lib = self.lib
        code = self._code = _Code()
        self._fault = (C.c_uint32 * 2)()
        fault = C.addressof(self._fault)
        raise_exception = lib.address("raise_exception_err_x86_64")
        do_interrupt = lib.address("x86_cpu_do_interrupt_x86_64")

        def guarded(prototype: Any, function: Callable[..., Any]) -> int:
            callback = prototype(function)
            self._keep.append(callback)
            target = C.cast(callback, _P).value
            assert target is not None
            return code.add(_code_guarded(target, fault, self.env, raise_exception))

        for name, prototype, function in self._instructions(handler):
            self._add_hook(_HOOK_INSN, guarded(prototype, function), insn=_INS[name])
        self._add_hook(_HOOK_INTR, code.add(_code_deliver(do_interrupt, self.env)),
                       self.cpu)
        self._add_hook(_HOOK_INSN_INVALID,
                       code.add(_code_deliver_invalid(do_interrupt, self.env)), self.cpu)

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

        def on_acknowledge() -> int:
            try:
                return handler.acknowledge()
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)
                return -1

        acknowledge = _ACKNOWLEDGE(on_acknowledge)
        self._keep.append(acknowledge)
        self._exec_interrupt_slot.value = code.add(_code_exec_interrupt(
            self.env, C.cast(acknowledge, _P).value or 0,
            lib.address("do_interrupt_x86_hardirq_x86_64")))
        self._count_instruction = code.add(_code_count(
            self.handle + _UC["emu_counter"], lib.address("uc_emu_stop"), self.cpu,
            lib.address("cpu_loop_exit_x86_64")))
        code.seal()
        # A store through another mapping of a page must not leave old code running:
        # dirty tracking is per virtual address, so every new block flushes the TLB.
        flush = _peek64(self.handle + _UC["tcg_flush_tlb"])
        self._add_hook(_HOOK_EDGE_GENERATED, flush)
        self._one_insn = False
        self._install_counter()

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
                port_out(port, size, value)
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
                ("syscall", _INT_INSN, plain(handler.syscall)),
                ("sysenter", _INT_INSN, plain(handler.sysenter)),
                ("cpuid", _INT_INSN, plain(handler.cpuid)),
                ("rdtsc", _INT_INSN, plain(handler.rdtsc)),
                ("rdtscp", _INT_INSN, plain(handler.rdtscp))]

    def _fail(self, error: BaseException) -> None:
        """Keep an exception of a callback and end the slice; `run` raises it."""
        if self.failure is None:
            self.failure = error
        self.kick()

    def _install_counter(self) -> None:
        """Count blocks by Unicorn's own callback, or instructions by ours.

        no_exit_request: without it a stop may tear a read-modify-write.
        """
        self._no_exit_request.value = 1
        kind, callback = ((_HOOK_CODE, self._count_instruction) if self._one_insn
                          else (_HOOK_BLOCK, self._count_callback))
        self._count_hook.value = self._add_hook(kind, callback)

    # -- running
    @property
    def one_insn(self) -> bool:
        """Whether every instruction is a unit of its own."""
        return self._one_insn

    @one_insn.setter
    def one_insn(self, on: bool) -> None:
        if on != self._one_insn:
            self._check(self.lib.uc_hook_del(self.handle, self._count_hook.value))
            self._one_insn = on
            self._install_counter()
            self.flush_code()

    def run(self, budget: int) -> bool:
        """Run up to *budget* (at least 1) blocks, or instructions with `one_insn`.

        Gives whether the counter ended the run.  Otherwise it was HLT
        (`halted` is 1) or a triple fault (`halted` is 0).  Raises what a
        callback raised, or `EngineError`.
        """
        self.halted.value = 0
        error = self.lib.uc_emu_start(self.handle, self.q[16], 0, 0, budget)
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
        self.budget.value = 0

    def fault(self, vector: int, error_code: int = 0) -> None:
        """Let the instruction now being handled raise exception *vector* in the guest."""
        self._fault[1] = error_code
        self._fault[0] = 0x100 | vector

    # -- state
    def reset(self) -> None:
        """The processor's reset, without the devices around it."""
        self.lib.cpu_reset(self.cpu)
        self.lib.update_cr4(self.env, 0)
        self.d[_TR_FLAGS // 4] = 0x8900     # busy, as reset leaves it, an inner ring would abort
        self.interrupt_request.value = 0
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
        index = _U32.from_address(self.cpu + _CPU["exception_index"])
        kept = index.value
        error = self.lib.uc_vmem_read(self.handle, address, _PROT_READ, buffer, length)
        for at, content in fields:
            self.b[at:at + 8] = content
        index.value = kept
        self.d[hflags] = saved
        return None if error else buffer.raw

    # -- memory
    def map_memory(self, address: int, length: int, host: int, *, rom: bool) -> None:
        """Map *length* bytes at host address *host*; a ROM's writes go to `write_protected`."""
        self._check(self.lib.uc_mem_map_ptr(self.handle, address, length, _PROT_ALL, host))
        if rom:     # mapping it read-only at once would let writes through
            self._check(self.lib.uc_mem_protect(self.handle, address, length, _PROT_READ_EXEC))

    def map_mmio(self, address: int, length: int, read: Callable[[int, int], int],
                 write: Callable[[int, int, int], None]) -> None:
        """Let *read*(offset, size) and *write*(offset, size, value) answer a range."""

        def on_read(_uc: int, offset: int, size: int, _data: int) -> int:
            try:
                return read(offset, size)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)
                return 0

        def on_write(_uc: int, offset: int, size: int, value: int, _data: int) -> None:
            try:
                write(offset, size, value)
            except BaseException as error:      # noqa: BLE001 - raised again by run()
                self._fail(error)

        callbacks = (_MMIO_READ(on_read), _MMIO_WRITE(on_write))
        self._check(self.lib.uc_mmio_map(self.handle, address, length,
                                         C.cast(callbacks[0], _P), None,
                                         C.cast(callbacks[1], _P), None))
        self._mapped[address] = callbacks

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
