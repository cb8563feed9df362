"""The x86-64 processor: reset, slices, registers, interrupts, privileged instructions.

`X86Cpu` knows no offset of libunicorn's structures by number and no device.  It
is handed a `Bus` (ports, interrupt acknowledge, time stamp counter) and runs in
slices: `run(budget)` executes up to that many blocks and says why it stopped.

What Unicorn leaves undone is done here: CPUID's policy, RDTSC, what control
registers take.  References: Intel SDM volumes 1 to 3.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from emu.breakpoints import Breakpoints
from emu.engine import INTERRUPT_HARD, INTERRUPT_NMI, INTERRUPT_SMI, Engine
from emu.layout import ENV
from emu.memory import Memory
from emu.models import AMD_ALIASES, WORDS, CpuModel, resolve
from emu.msr import MsrFile, canonical

__all__ = ["Bus", "Segment", "Stop", "X86Cpu"]


class Bus(Protocol):
    """The processor's pins, as the board connects them."""

    def port_read(self, port: int, size: int) -> int: ...
    def port_write(self, port: int, value: int, size: int) -> None: ...
    def acknowledge_interrupt(self) -> int:
        """The interrupt controller's vector, or -1 when it has nothing after all."""
    def time_stamp(self) -> int:
        """The TSC, in cycles."""
    def time_stamp_source(self) -> tuple[int, int] | None:
        """Asked before a slice: (base, cycles per block) when all through it `time_stamp` will be
        base plus the slice's blocks times that, or (base, 0) for base plus the host's monotonic
        clock in ns.  None: neither.  Whoever ends that earlier calls `X86Cpu.ask_time_stamp`.
        """
    def read_cr8(self) -> int:
        """The task priority, 0 to 15."""
    def write_cr8(self, value: int) -> None: ...
    def read_apic_msr(self, number: int) -> int | None:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC's; None: #GP."""
    def write_apic_msr(self, number: int, value: int) -> bool:
        """False: #GP."""
    def set_time_stamp(self, value: int) -> None: ...
    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None:
        """The guest told of its crash by the Hyper-V crash registers."""
    def reference_ns(self) -> int:
        """Virtual time since power-on."""
    def smm_changed(self, active: bool) -> None:
        """SMIACT#: SMRAM is to be seen, or no longer."""


class TraceSink(Protocol):
    """Who is told what the processor does; none of it may change anything."""

    def translated(self, pc: int, size: int, instructions: int, flags: int, cs_base: int,
                   host: int) -> None:
        """A block was translated: *size* bytes at linear *pc*; *flags* as in `hflags`."""
    def executed(self, records: memoryview) -> None:
        """Blocks began: for each 4 words, host code, cs_base, linear RIP, flags."""
    def interrupt(self, vector: int, error_code: int, is_int: int, next_rip: int,
                  hardware: int) -> None:
        """An exception or interrupt is about to be delivered."""
    def smm(self, entered: bool) -> None:
        """An SMI is about to be taken, or RSM has been run."""


class Stop(enum.Enum):
    """Why a slice ended."""

    BUDGET = "budget"            # it ran all the blocks it was given
    KICK = "kick"                # somebody asked for attention
    HALT = "halt"                # HLT, and no interrupt to take
    TRIPLE_FAULT = "triple fault"
    BREAKPOINT = "breakpoint"    # before the instruction at one
    WATCHPOINT = "watchpoint"    # behind the instruction that accessed one


class Segment(NamedTuple):
    """A segment register with its hidden part; *flags* as in a descriptor's second dword."""

    selector: int
    base: int
    limit: int
    flags: int


_GPR = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
_SEGMENTS = {name: ENV["segs"] + 24 * i
             for i, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs"))}
_SEGMENTS |= {name: ENV[name] for name in ("ldt", "tr", "gdt", "idt")}

#: register name -> (index of the 64-bit word) in the CPU state
_WORDS = {name: ENV["regs"] // 8 + i for i, name in enumerate(_GPR)}
_WORDS |= {f"cr{i}": ENV["cr"] // 8 + i for i in (0, 2, 3, 4)}
_WORDS |= {f"dr{i}": ENV["dr"] // 8 + i for i in range(8)}
_WORDS |= {"rip": ENV["eip"] // 8, "efer": ENV["efer"] // 8, "star": ENV["star"] // 8,
           "lstar": ENV["lstar"] // 8, "cstar": ENV["cstar"] // 8, "fmask": ENV["fmask"] // 8,
           "kernelgsbase": ENV["kernelgsbase"] // 8, "pat": ENV["pat"] // 8,
           "cc_src": ENV["cc_src"] // 8, "cc_dst": ENV["cc_dst"] // 8,
           "smbase": ENV["smbase"] // 8, "fs_base": _SEGMENTS["fs"] // 8 + 1,
           "gs_base": _SEGMENTS["gs"] // 8 + 1, "sysenter_esp": ENV["sysenter_esp"] // 8,
           "sysenter_eip": ENV["sysenter_eip"] // 8}
#: the same for 32-bit words
_DWORDS = {"hflags": ENV["hflags"] // 4, "hflags2": ENV["hflags2"] // 4,
           "cc_op": ENV["cc_op"] // 4, "mxcsr": ENV["mxcsr"] // 4, "tsc_aux": ENV["tsc_aux"] // 4,
           "sysenter_cs": ENV["sysenter_cs"] // 4}
#: and for those that Unicorn computes, by its own register numbers
_COMPUTED = {"fpsw": 31, "fpcw": 246, "fptag": 247}

#: how many records of a trace are handed over at a time
TRACE_RECORDS = 8192
_RAX, _RCX, _RDX, _RBX = 0, 1, 2, 3
_EIP, _EFLAGS, _CR4 = ENV["eip"] // 8, ENV["eflags"] // 8, ENV["cr"] // 8 + 4
_CR0, _EFER = ENV["cr"] // 8, ENV["efer"] // 8
_CS_FLAGS = ENV["segs"] // 4 + 11
_DESC_L = 1 << 21
_CS_BASE, _DR = ENV["segs"] // 8 + 4, ENV["dr"] // 8
_HFLAGS, _HFLAGS2 = ENV["hflags"] // 4, ENV["hflags2"] // 4

# hflags (QEMU's cache of the mode)
_HF_CPL, _HF_LMA, _HF_CS64, _HF_SMM = 3, 1 << 14, 1 << 15, 1 << 19
_HF2_NMI = 1 << 2           # NMIs are blocked until IRET
# RFLAGS
_IF = 0x200
_EFER_LME, _EFER_LMA, _EFER_NXE = 1 << 8, 1 << 10, 1 << 11
_CPUID_APIC, _CPUID_SYSCALL = 1 << 9, 1 << 11
_CR0_PE, _CR0_NW, _CR0_CD, _CR0_PG = 1, 1 << 29, 1 << 30, 1 << 31
_CR4_TSD, _CR4_PAE, _CR4_UMIP = 4, 1 << 5, 1 << 11
_GP = 13

#: CR4: (bit, CPUID leaf, register EAX to EDX, the feature's bit that it comes with)
_CR4_BITS = (
    (0, 1, 3, 1), (1, 1, 3, 1), (2, 1, 3, 4), (3, 1, 3, 2), (4, 1, 3, 3), (5, 1, 3, 6),
    (6, 1, 3, 7), (7, 1, 3, 13), (8, 1, 3, 0), (9, 1, 3, 24), (10, 1, 3, 25), (11, 7, 2, 2),
    (12, 7, 2, 16), (13, 1, 2, 5), (14, 1, 2, 6), (16, 7, 1, 0), (17, 1, 2, 17), (18, 1, 2, 26),
    (20, 7, 1, 7), (21, 7, 1, 20), (22, 7, 2, 3))
#: what `Engine.reset` leaves: no guest can load this (LTR of a null selector gives limit 0)
_TR_AFTER_RESET = Segment(0, 0, 0xFFFF, 0x8900)
_CPUID_WORDS = (_RAX, _RBX, _RCX, _RDX)


class X86Cpu:
    """One processor on one engine."""

    def __init__(self, bus: Bus, ram_size: int, model: CpuModel | None = None) -> None:
        self._bus = bus
        self.port_in = bus.port_read
        self.port_out = bus.port_write
        self.acknowledge = bus.acknowledge_interrupt
        self.model = model = model or resolve("qemu64")
        self._engine = Engine(self, model.unicorn)
        self._q, self._d = self._engine.q, self._engine.d
        self._take_model(model)
        self.memory = Memory(self._engine, ram_size)
        #: changed between slices only
        self.breakpoints = Breakpoints(
            insert=self._set_breakpoint, watching=self._engine.watch,
            debug_register=lambda number: self._q[_DR + number], set_dr6=self._set_dr6)
        self._resume_at = -1
        self._smm_sink: TraceSink | None = None
        self._blocks = 0
        self._in_slice = False
        self._kicked = False
        self._stale = False
        self._line = False
        self._a20 = True
        self._cr4_bits = self._known_cr4_bits()
        self.msrs = MsrFile(self, self.has)
        self.reset()

    # -- running
    def run(self, budget: int) -> Stop:
        """Run up to *budget* blocks (instructions with `one_insn_per_tb`).

        Raises `EngineError` when the engine itself gives up, and whatever a
        device raised.
        """
        if self._resume_at >= 0:
            at, self._resume_at = self._resume_at, -1
            if at == self.linear_rip and at in self.breakpoints.code:
                why = self._step_past_breakpoint(at)
                if why is not Stop.BUDGET or budget == 1:
                    return why
                budget -= 1
        engine = self._engine
        if self._stale:
            self._stale = False
            engine.flush_code()
        engine.counter.value = 0
        self._kicked = False
        source = self._bus.time_stamp_source()
        if source is None:
            engine.ask_time_stamp()
        else:
            engine.follow_time_stamp(*source)
        self._in_slice = True
        try:
            counted = engine.run(budget)
        finally:
            self._in_slice = False
            begun = engine.counter.value
            engine.counter.value = 0
            engine.drain_trace()
            self._blocks += begun
        if counted:
            hits = self.breakpoints
            if hits.watchpoint_hit is not None:
                return Stop.WATCHPOINT
            if hits.breakpoint_hit is not None:
                self._resume_at, hits.breakpoint_hit = hits.breakpoint_hit, None
                return Stop.BREAKPOINT
            self._blocks -= 1           # the block it stopped before was counted, not run
            return Stop.BUDGET if begun > budget and not self._kicked else Stop.KICK
        return Stop.HALT if engine.halted.value else Stop.TRIPLE_FAULT

    def _step_past_breakpoint(self, address: int) -> Stop:
        """One instruction, although there is a breakpoint at it."""
        self._set_breakpoint(address, False)
        try:
            return self.step()
        finally:
            self._set_breakpoint(address, True)

    def step(self) -> Stop:
        """Run one instruction, or take one interrupt and run its first: Stop.BUDGET, or why not."""
        self._resume_at = -1
        self._engine.step_next()
        return self.run(1)

    @property
    def linear_rip(self) -> int:
        """CS base plus RIP."""
        return self._q[_CS_BASE] + self._q[_EIP] & 0xFFFF_FFFF_FFFF_FFFF

    def _set_breakpoint(self, address: int, on: bool) -> None:
        self._engine.breakpoint(address, on)
        self._stale = True

    def _set_dr6(self, value: int) -> None:
        self._q[_DR + 6] = value

    def kick(self) -> None:
        """End the present slice soon, from any thread.  May be lost while one is entered."""
        self._kicked = True
        self._engine.kick()

    def ask_time_stamp(self) -> None:
        """The TSC no longer follows what `time_stamp_source` said: ask until the slice ends."""
        self._engine.ask_time_stamp()

    def limit(self, blocks: int) -> None:
        """From inside a slice: end it after at most *blocks* more."""
        engine = self._engine
        limit = engine.counter.value + max(blocks, 0)
        if self._in_slice and limit < engine.limit:
            engine.limit = limit

    @property
    def blocks(self) -> int:
        """Blocks begun since power-on (instructions while `one_insn_per_tb`).

        Each access to a port, MMIO or ROM counts for `io_weight` more.
        """
        return self._blocks + self._engine.counter.value

    @property
    def io_weight(self) -> int:
        """What an access to a port, MMIO or ROM counts for, in blocks; 0 at first."""
        return self._engine.io_weight

    @io_weight.setter
    def io_weight(self, blocks: int) -> None:
        self._engine.io_weight = blocks

    @property
    def in_slice(self) -> bool:
        """Whether the guest is running now (the caller is one of its devices)."""
        return self._in_slice

    @property
    def one_insn_per_tb(self) -> bool:
        """Every instruction is its own unit.  Changed between slices only."""
        return self._engine.one_insn

    @one_insn_per_tb.setter
    def one_insn_per_tb(self, on: bool) -> None:
        self._engine.one_insn = on

    def forget_code(self) -> None:
        """The memory map changed: translate everything anew, from the next block on."""
        self._stale = True
        if self._in_slice:
            self.kick()

    def reset(self) -> None:
        """The RESET pin: the state at the reset vector.  A20, a pin, stays as it is."""
        self._reset(init=False)

    def init(self) -> None:
        """The INIT pin: the reset vector again; FPU, SSE, most MSRs and the TSC stay."""
        self._reset(init=True)

    def _reset(self, *, init: bool) -> None:
        smm = self._d[_HFLAGS] & _HF_SMM
        self._stale |= bool(self._q[_CR4] & _CR4_UMIP)
        self._engine.reset(init=init)
        if init:
            self.msrs.init_reset()
        else:
            self.msrs.reset()
        if self._line:
            self._request(INTERRUPT_HARD)
        self.breakpoints.debug_registers_changed()
        self._resume_at = -1
        if not self._a20:
            self._engine.lib.set_a20(self._engine.cpu, 0)
        if smm:
            self._bus.smm_changed(False)

    def start_up(self, vector: int) -> None:
        """A start-up IPI: real mode at *vector* << 12 (SDM volume 3A, 9.4.4)."""
        self.load_real_mode_segment("cs", vector << 8)
        self._q[_EIP] = 0

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    # -- pins
    def set_interrupt(self, level: bool) -> None:
        """The INTR pin."""
        if level is self._line:
            return
        self._line = level
        if level:
            self._request(INTERRUPT_HARD)
        else:
            self._engine.request[0] &= ~INTERRUPT_HARD

    def raise_nmi(self) -> None:
        """An edge on the NMI pin: remembered until it can be taken."""
        self._request(INTERRUPT_NMI)

    def raise_smi(self) -> None:
        """An edge on the SMI# pin: remembered until it can be taken."""
        self._request(INTERRUPT_SMI)

    def _request(self, kind: int) -> None:
        engine = self._engine
        engine.request[0] |= kind
        if self._in_slice:
            engine.look()

    @property
    def wakeable(self) -> bool:
        """Whether an interrupt is waiting that would be taken (and ends HLT)."""
        request = self._engine.request[0]
        return bool(request & INTERRUPT_HARD and self._q[_EFLAGS] & _IF
                    or request & INTERRUPT_NMI and not self._d[_HFLAGS2] & _HF2_NMI
                    or request & INTERRUPT_SMI and not self._d[_HFLAGS] & _HF_SMM)

    @property
    def halted(self) -> bool:
        """Whether the last instruction run was HLT."""
        return bool(self._engine.halted.value)

    @property
    def interrupts_enabled(self) -> bool:
        return bool(self._q[_EFLAGS] & _IF)

    @property
    def a20(self) -> bool:
        """The A20 gate."""
        return self._a20

    def set_a20(self, level: bool) -> None:
        """The A20M# pin, inverted: with *level* false address bit 20 is 0."""
        if level != self._a20:
            self._a20 = level
            self._engine.lib.set_a20(self._engine.cpu, int(level))
            if self._in_slice:
                self.kick()

    # -- tracing
    def set_trace(self, sink: TraceSink | None, *, translated: bool = False,
                  executed: bool = False, cpu: bool = False, interrupts: bool = False) -> None:
        """Between slices: tell *sink* what happens, as far as it is asked for; None: nothing.

        *cpu*: one record at a time, so that the registers can be read at each.
        """
        engine = self._engine
        engine.tell("translated", sink.translated if sink and translated else None)
        engine.tell("interrupt", sink.interrupt if sink and interrupts else None)
        engine.trace(sink.executed if sink and (executed or cpu) else None,
                     1 if cpu else TRACE_RECORDS)
        self._smm_sink = sink if interrupts else None

    def drain_trace(self) -> None:
        """Hand over what has been run until now, before something else is told."""
        self._engine.drain_trace()

    # -- registers
    def read(self, name: str) -> int:
        """A register by name: rax…r15, rip, eflags, cr0, cr2-cr4, dr0-dr7, efer, hflags, MSRs,
        fpcw, fpsw, fptag, mxcsr.  KeyError for another."""
        if name in _WORDS:
            return self._q[_WORDS[name]]
        if name == "eflags":
            if self._in_slice:
                return int(self._engine.lib.read_eflags(self._engine.env)) & 0xFFFFFFFF
            return self._q[_EFLAGS] & 0xFFFFFFFF
        if name in _DWORDS:
            return self._d[_DWORDS[name]]
        return self._engine.read_register(_COMPUTED[name]) & 0xFFFF

    def write_state(self, name: str, value: int) -> None:
        """Set an MSR that is part of the state, as WRMSR does once it has looked at the value."""
        if name in _DWORDS:
            self._d[_DWORDS[name]] = value
        else:
            changed = self._q[_WORDS[name]] ^ value
            self._q[_WORDS[name]] = value
            if name == "efer" and changed & _EFER_NXE:
                self._engine.flush_tlb()

    def write(self, name: str, value: int) -> None:
        """Set a general register, rip or eflags between slices.  KeyError for another."""
        if name in _GPR or name == "rip":
            self._q[_WORDS[name]] = value & 0xFFFF_FFFF_FFFF_FFFF
        elif name == "eflags":
            self._q[_EFLAGS] = value & 0x3F7FD7 | 2
            self._engine.lib.update_hflags(self._engine.env)
        else:
            raise KeyError(name)

    def segment(self, name: str) -> Segment:
        """es, cs, ss, ds, fs, gs, ldt, tr, gdt or idt."""
        at = _SEGMENTS[name]
        found = Segment(self._d[at // 4], self._q[at // 8 + 1], self._d[at // 4 + 4],
                        self._d[at // 4 + 5])
        if name == "tr" and found == _TR_AFTER_RESET:
            return found._replace(flags=0x8B00)     # as the processor shows it
        return found

    def load_real_mode_segment(self, name: str, selector: int) -> None:
        """Between slices: what MOV Sreg does in real mode."""
        self._load(name, selector, selector << 4, 0xFFFF, self._d[_SEGMENTS[name] // 4 + 5])
        self._engine.lib.update_hflags(self._engine.env)

    def xmm(self, index: int) -> int:
        """XMM register *index* (128 bits)."""
        return self._engine.read_xmm(index)

    def st(self, index: int) -> tuple[int, int]:
        """ST(*index*): (64-bit mantissa, 16-bit sign and exponent)."""
        return self._engine.read_st(index)

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through its page tables, as the supervisor; None where unmapped."""
        return self._engine.read_virtual(address, length)

    def fingerprint(self) -> bytes:
        """The CPU state as bytes, for comparing two deterministic runs."""
        words = [self.read(n) for n in (*_WORDS, "eflags", *_DWORDS)
                 if not n.startswith("cc_")]
        for name in _SEGMENTS:
            words += self.segment(name)
        words += [value for _number, value in sorted(self.msrs.values.items())]
        return b"".join(w.to_bytes(8, "little") for w in words)

    # -- what the engine asks (emu.engine.Handler)
    def wild_base(self, selector: int) -> bool:
        """What LLDT and LTR look at in long mode: a 16-byte descriptor of the GDT."""
        gdt = self.segment("gdt")
        if not selector & ~7 or selector & 4 or (selector | 7) + 8 > gdt.limit:
            return False
        data = self.read_virtual(gdt.base + (selector & ~7), 16)
        if data is None or data[5] & 0x9F not in (0x82, 0x89):
            return False
        return not canonical(int.from_bytes(data[2:5] + data[7:12], "little"))

    def _load(self, name: str, selector: int, base: int, limit: int, flags: int) -> None:
        at = _SEGMENTS[name]
        self._d[at // 4] = selector
        self._q[at // 8 + 1] = base
        self._d[at // 4 + 4] = limit
        self._d[at // 4 + 5] = flags

    def cpuid(self) -> None:
        q = self._q
        values = self.cpuid_leaf(q[_RAX] & 0xFFFF_FFFF, q[_RCX] & 0xFFFF_FFFF)
        for word, value in zip(_CPUID_WORDS, values, strict=True):
            q[word] = value

    def cpuid_leaf(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """What CPUID gives in EAX, EBX, ECX, EDX."""
        if leaf >> 28 == 4 and self.has("hypervisor"):
            return hypervisor_leaf(leaf, self.model)
        eax, ebx, ecx, edx = self._engine.cpuid(leaf, subleaf)
        if leaf in (1, 0x8000_0001):
            base = self._bus.read_apic_msr(0x1B)
            if base is None or not base & 1 << 11:
                edx &= ~_CPUID_APIC
            if (leaf == 0x8000_0001 and self.vendor == "GenuineIntel"
                    and not self._d[_HFLAGS] & _HF_LMA):
                edx &= ~_CPUID_SYSCALL          # Intel has SYSCALL in 64-bit mode only
        elif leaf in (2, 4) and self._shows_level(leaf):
            eax, ebx, ecx, edx = self._intel_caches(leaf, subleaf, (eax, ebx, ecx, edx))
        elif leaf == 0xB and self._shows_level(leaf):
            # one thread (level 0), one core (level 1); EDX: the x2APIC ID
            return 0, int(subleaf < 2), subleaf & 0xFF | (subleaf + 1 << 8 if subleaf < 2 else 0), 0
        elif leaf == 0x8000_0006 and edx == 0 and ecx:
            edx = 0x0040_8140 if self.model.name in ("EPYC", "Dhyana") else 0x0080_8140   # L3
        elif 0x8000_0002 <= leaf <= 0x8000_0004 and "model-id" in self.model.texts:
            at = leaf - 0x8000_0002 << 4
            text = self.model.texts["model-id"].encode()[:47].ljust(48, b"\0")[at:at + 16]
            eax, ebx, ecx, edx = (int.from_bytes(text[i:i + 4], "little") for i in (0, 4, 8, 12))
        return eax, ebx, ecx, edx

    def _shows_level(self, leaf: int) -> bool:
        return leaf <= self._d[ENV["cpuid_level"] // 4]

    def _intel_caches(self, leaf: int, subleaf: int, found: tuple[int, int, int, int],
                      ) -> tuple[int, int, int, int]:
        """Leaves 2 and 4, which AMD does not have, with the L3 that Unicorn leaves out."""
        if self.vendor == "AuthenticAMD":
            return 0, 0, 0, 0
        eax, ebx, ecx, edx = found
        if self.model.name == "Dhyana":
            return found
        if leaf == 2:
            return eax, ebx, 0x4D, edx          # 4DH: L3, 16 MiB, 16 ways
        # 16 MiB, 16 ways, lines of 64 bytes, inclusive, complex indexing
        return (0x163, 0x03C0_003F, 0x3FFF, 6) if subleaf == 3 else found

    def _take_model(self, model: CpuModel) -> None:
        """Make the engine show and translate what *model* says."""
        d, q, at = self._d, self._q, ENV["features"] // 8
        words = model.words({word.number: q[at + word.number] for word in WORDS})
        if "vendor" in model.texts:
            vendor = model.texts["vendor"].encode()
            for i in range(3):
                d[ENV["cpuid_vendor1"] // 4 + i] = int.from_bytes(vendor[4 * i:4 * i + 4], "little")
        self.vendor = b"".join(d[ENV["cpuid_vendor1"] // 4 + i].to_bytes(4, "little")
                               for i in range(3)).decode("latin-1")
        if self.vendor == "AuthenticAMD":
            words[6] |= words[0] & AMD_ALIASES
        for index, value in words.items():
            q[at + index] = value
        d[ENV["cpuid_version"] // 4] = model.version(d[ENV["cpuid_version"] // 4])
        for name in ("level", "xlevel"):
            if name in model.numbers:
                d[ENV["cpuid_" + name] // 4] = model.numbers[name]
        if model.name in ("qemu64", "max") and "level" not in model.numbers:
            d[ENV["cpuid_level"] // 4] = 0xD
        self._features = {name for word in WORDS for bit, name in enumerate(word.names)
                          if words[word.number] >> bit & 1}

    def has(self, feature: str) -> bool:
        """Whether the model has a feature: QEMU's names, and a few groups of them."""
        if feature in ("vendor-amd", "vendor-intel"):
            return self.vendor == {"vendor-amd": "AuthenticAMD",
                                   "vendor-intel": "GenuineIntel"}[feature]
        if feature == "hyperv":
            return bool(self.model.hyperv)
        return feature in self._features or feature in self.model.hyperv

    def _known_cr4_bits(self) -> int:
        """CR4's bits that are not reserved: each comes with a feature."""
        leaves = {leaf: self._engine.cpuid(leaf, 0) for leaf in (1, 7)}
        return sum(1 << bit for bit, leaf, register, feature in _CR4_BITS
                   if leaves[leaf][register] >> feature & 1)

    def rdtsc(self) -> None:
        q = self._q
        if q[_CR4] & _CR4_TSD and self._d[_HFLAGS] & _HF_CPL:
            self._engine.fault(_GP)
            return
        value = self._bus.time_stamp()
        q[_RAX] = value & 0xFFFF_FFFF
        q[_RDX] = value >> 32 & 0xFFFF_FFFF

    def rdmsr(self) -> None:
        q = self._q
        value = self.msrs.read(q[_RCX] & 0xFFFF_FFFF)
        if value is None:
            self._engine.fault(_GP)
        else:
            q[_RAX], q[_RDX] = value & 0xFFFF_FFFF, value >> 32

    def wrmsr(self) -> None:
        q = self._q
        if not self.msrs.write(q[_RCX] & 0xFFFF_FFFF,
                               q[_RAX] & 0xFFFF_FFFF | (q[_RDX] & 0xFFFF_FFFF) << 32):
            self._engine.fault(_GP)

    # -- what the MSRs ask (emu.msr.Processor)
    def time_stamp(self) -> int:
        return self._bus.time_stamp()

    def set_time_stamp(self, value: int) -> None:
        self._bus.set_time_stamp(value)

    def read_apic_msr(self, number: int) -> int | None:
        return self._bus.read_apic_msr(number)

    def write_apic_msr(self, number: int, value: int) -> bool:
        return self._bus.write_apic_msr(number, value)

    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None:
        self._bus.hyperv_crash(args)

    def reference_ns(self) -> int:
        return self._bus.reference_ns()

    def read_cr8(self) -> int:
        return self._bus.read_cr8()

    def write_cr(self, number: int, value: int) -> bool:
        """MOV to CR0, CR3 (with high bits), CR4 and CR8: SDM volume 3A, 2.5."""
        if number == 8:
            if value >> 4:
                self._engine.fault(_GP)
            else:
                self._bus.write_cr8(value)
            return False
        if self._allowed(number, value):
            if number == 4 and (value ^ self._q[_CR4]) & _CR4_UMIP:
                self.forget_code()      # what it refuses is translated as such
            return True
        self._engine.fault(_GP)
        return False

    def _allowed(self, number: int, value: int) -> bool:
        q = self._q
        long_mode = bool(q[_EFER] & _EFER_LMA)
        if number == 0:
            if value >> 32 or (value & _CR0_PG and not value & _CR0_PE
                               or value & _CR0_NW and not value & _CR0_CD):
                return False
            if value & _CR0_PG and not q[_CR0] & _CR0_PG and q[_EFER] & _EFER_LME:
                return bool(q[_CR4] & _CR4_PAE) and not self._d[_CS_FLAGS] & _DESC_L
            return not (long_mode and not value & _CR0_PG and self._d[_HFLAGS] & _HF_CS64)
        if number == 3:
            return not long_mode
        if number == 4:
            return not (value & ~self._cr4_bits or long_mode and not value & _CR4_PAE)
        return True

    def wrote_dr(self, number: int) -> None:
        if number != 6:
            self.breakpoints.debug_registers_changed()

    def smm(self, entered: bool) -> None:
        if self._smm_sink is not None:
            self._smm_sink.smm(bool(entered))
        self._bus.smm_changed(bool(entered))

    def watch_page(self, address: int, length: int) -> int:
        return self.breakpoints.page(address, length)

    def watch(self, address: int, length: int, write: bool) -> bool:
        return self.breakpoints.accessed(address, length, write)

    def debug(self) -> bool:
        return self.breakpoints.hit(self.linear_rip)

    def write_protected(self, address: int, size: int, value: int) -> None:
        self.memory.write_protected(address, value.to_bytes(size, "little"))


def hypervisor_leaf(leaf: int, model: CpuModel) -> tuple[int, int, int, int]:
    """CPUID 0x40000000 and up: as QEMU's TCG, or Hyper-V's when there are enlightenments."""
    hyperv = model.hyperv
    if not hyperv:
        return (0x4000_0001, *_signature("TCGTCGTCGTCG")) if leaf == 0x4000_0000 else (0, 0, 0, 0)
    if leaf == 0x4000_0000:
        return (0x4000_0006, *_signature(model.texts.get("hv-vendor-id", "Microsoft Hv")))
    if leaf == 0x4000_0001:
        return 0x3123_7648, 0, 0, 0                         # "Hv#1"
    if leaf == 0x4000_0002:
        return 0x3839, 0x000A_0000, 0, 0                    # build, version 10.0
    if leaf == 0x4000_0003:                                 # what the guest may use
        eax = sum(bits for name, bits in (("hv-time", 1 << 1 | 1 << 9), ("hv-vpindex", 1 << 6),
                                          ("hv-frequencies", 1 << 11)) if name in hyperv)
        edx = sum(bits for name, bits in (("hv-crash", 1 << 10), ("hv-frequencies", 1 << 8))
                  if name in hyperv)
        return eax | 1 << 5, 0, 0, edx
    if leaf == 0x4000_0004:                                 # what it had better do
        return (1 << 5 if "hv-relaxed" in hyperv else 0, 0xFFFF_FFFF, 0, 0)
    if leaf == 0x4000_0005:
        return 1, 1, 0, 0                                   # virtual and logical processors
    return 0, 0, 0, 0


def _signature(text: str) -> tuple[int, int, int]:
    data = text.encode()[:12].ljust(12, b"\0")
    ebx, ecx, edx = (int.from_bytes(data[i:i + 4], "little") for i in (0, 4, 8))
    return ebx, ecx, edx
