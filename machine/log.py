"""QEMU's log: `-d item,…`, `-D file`, `-dfilter range,…`, and the monitor's `log`.

What is logged comes from the processor (`in_asm`, `exec`, `cpu`, `int`), from
the board (`cpu_reset`) and from the logger "snooze.guest" (`guest_errors`).  The
lines have QEMU 10.0.2's shapes.  While no item is on, nothing is told to anybody.
"""

from __future__ import annotations

import logging
import os
import re
import select
import struct
import sys
from operator import eq
from typing import TYPE_CHECKING, NamedTuple

from emu.cpu import Segment
from machine.disassembly import ADDRESS_SIZE, Disassembler, Instruction, look
from machine.registers import CC_OP_EFLAGS, LazyFlags, state_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.cpu import X86Cpu

__all__ = ["ITEMS", "Log", "LogError", "check_file", "help_text", "parse_filter", "parse_items",
           "trace_events"]


class LogError(Exception):
    """What was asked for is not possible: one line."""


#: item -> what `help` says; a text in two lines is QEMU's own break
ITEMS = {
    "out_asm": "show generated host assembly code for each compiled TB",
    "in_asm": "show target assembly code for each compiled TB",
    "op": "show micro ops for each compiled TB",
    "op_opt": "show micro ops after optimization",
    "op_ind": "show micro ops before indirect lowering",
    "op_plugin": "show micro ops before plugin injection",
    "int": "show interrupts/exceptions in short format",
    "exec": "show trace before each executed TB (lots of logs)",
    "cpu": "show CPU registers before entering a TB (lots of logs)",
    "fpu": "include FPU registers in the 'cpu' logging",
    "mmu": "log MMU-related activities",
    "pcall": "x86 only: show protected mode far calls/returns/exceptions",
    "cpu_reset": "show CPU state before CPU resets",
    "unimp": "log unimplemented functionality",
    "guest_errors": "log when the guest OS does something invalid (eg accessing a\n"
                    "non-existent register)",
    "page": "dump pages at beginning of user mode emulation",
    "nochain": "do not chain compiled TBs so that \"exec\" and \"cpu\" show\ncomplete traces",
    "plugin": "output from TCG plugins",
    "strace": "log every user-mode syscall, its input, and its result",
    "tid": "open a separate log file per thread; filename must contain '%d'",
    "vpu": "include VPU registers in the 'cpu' logging",
    "invalid_mem": "log invalid memory accesses",
}
#: items that the engine gives no way to see
UNSEEN = frozenset({"out_asm", "op", "op_opt", "op_ind", "op_plugin", "mmu", "pcall"})

_TRACE = "trace:"
_EXEC = "Trace 0: 0x%x [%08x/%016x/%08x/%08x] \n"
# cflags of QEMU's TranslationBlock: what every one has, and what comes with a mode
_CFLAGS, _CF_NO_CHAIN, _CF_ICOUNT, _CF_ONE = 0xFF02_0000, 0x200, 0x2000, 1
_HF_CS32, _HF_TF, _HF_CS64, _HF_RF = 1 << 4, 1 << 8, 1 << 15, 1 << 16
_HF_LMA, _CR0_PE = 1 << 14, 1
_NMI, _DF, _NP, _GP, _PF = 2, 8, 11, 13, 14
#: exceptions that make a double fault when another comes while they are delivered, or it #DF
_SERIOUS = frozenset((0, 8, 10, 11, 12, 13, 14))

#: a record of emu.cpu.TraceSink.executed
_RECORD = struct.Struct("32s")
_WORDS = struct.Struct("<4Q")
_PC = 2
#: how many lines are kept ready, and how many bytes wait to be written
_LINES, _BUFFER = 1 << 16, 1 << 16
#: QEMU runs a repeated string instruction in a loop, and sees to interrupts once in so many rounds
_REP_ROUNDS = 1 << 16
_REPEATS = (0xF2, 0xF3)
_STRING_OPCODES = frozenset((*range(0x6C, 0x70), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
#: opcodes after which the same instruction may come next: those that go elsewhere
_BRANCHES = frozenset((
    *range(0x70, 0x80), 0x9A, 0xC2, 0xC3, 0xCA, 0xCB, *range(0xCC, 0xD0), *range(0xE0, 0xE4),
    *range(0xE8, 0xEC), 0xF1, 0xFF, 0x0F05, 0x0F07, 0x0F0B, 0x0F34, 0x0F35,
    *range(0x0F80, 0x0F90), 0x0FAA, 0x0FB9, 0x0FFF))
#: POPF, SAHF, IRET, CMC, CLC, STC, SYSRET, RSM
_FLAG_LOADERS = frozenset((0x9D, 0x9E, 0xCF, 0xF5, 0xF8, 0xF9, 0x0F07, 0x0FAA))
_ARITHMETIC = 0x8D5
#: what strtoull(…, 0) takes
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_64_BITS = (1 << 64) - 1

_log = logging.getLogger("snooze.machine")


def help_text(with_none: bool = False, option: str = "-d") -> str:
    """What `-d help` and the monitor's `log help` print."""
    lines = ["Log items (comma separated):"]
    if with_none:
        lines.append("none            remove all logs")
    lines += [f"{name:<15} {text}" for name, text in ITEMS.items()]
    lines += ["trace:PATTERN   enable trace events", "",
              f'Use "{option} trace:help" to get a list of trace events.', "", ""]
    return "\n".join(lines)


def parse_items(text: str) -> frozenset[str] | None:
    """`item,…`; "all" is every item.  None when one is not known."""
    found: set[str] = set()
    for name in text.split(","):
        if name == "all":
            found |= ITEMS.keys()
        elif name.startswith(_TRACE) and name != _TRACE:
            continue
        elif name in ITEMS:
            found.add(name)
        else:
            return None
    return frozenset(found)


def trace_events(text: str) -> list[str]:
    """The patterns of `trace:PATTERN` in `item,…`: there is no event that one could mean."""
    return [name.removeprefix(_TRACE) for name in text.split(",") if name.startswith(_TRACE)]


class Range(NamedTuple):
    """Addresses from *low* to *high*, both in it."""

    low: int
    high: int


def parse_filter(text: str) -> tuple[Range, ...]:
    """`start..end`, `start+length`, `start-length`, separated by commas; nothing is no filter.

    Raises LogError.
    """
    return tuple(_parse_range(part) for part in text.split(",")) if text else ()


def _parse_range(text: str) -> Range:
    for operator in ("-", "+", ".."):
        left, found, right = text.partition(operator)
        if found:
            break
    else:
        raise LogError("Bad range specifier")
    start = _number(left)
    if start is None:
        raise LogError(f"Invalid number to the left of {operator}")
    other = _number(right)
    if other is None:
        raise LogError(f"Invalid number to the right of {operator}")
    low, high = start, other
    if operator == "+":
        high = start + other - 1 & _64_BITS
    elif operator == "-":
        low, high = start - (other - 1) & _64_BITS, start
    if low > high:
        raise LogError("Invalid range")
    return Range(low, high)


def _number(text: str) -> int | None:
    """64 bits, as C reads them: hexadecimal, octal or decimal."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, digits = found.groups()
    value = int(digits, 8 if digits[0] == "0" and digits[1:2] not in ("x", "X") else 0)
    if value > _64_BITS:
        return None
    return -value & _64_BITS if sign == "-" else value


def check_file(path: str | None, items: frozenset[str]) -> None:
    """Raises LogError for a name that will not do (`%d` in it: this process)."""
    if path is not None and "%" in path:
        _, _, after = path.partition("%")
        if not after.startswith("d") or "%" in after:
            raise LogError(f"Bad logfile template: {path}")
    elif "tid" in items:
        raise LogError("Filename template with '%d' required for 'tid'")


class Log:
    """The log of one machine (emu.cpu.TraceSink).

    *items*, *path* (None: stderr) and *ranges* as the options say; *counted* in
    deterministic mode.  Raises `LogError` for a file that cannot be opened.
    """

    def __init__(self, cpu: X86Cpu, items: frozenset[str] = frozenset(),
                 path: str | None = None, ranges: tuple[Range, ...] = (), *,
                 counted: bool = False) -> None:
        self._cpu = cpu
        self.items: frozenset[str] = frozenset()
        self.ranges = ranges
        self._counted = counted
        #: where it goes: a file descriptor of ours, -1 for stderr
        self._file = -1
        self._path: str | None = None
        self._name = "stderr"
        self._waiting: list[bytes] = []
        self._size = 0
        self._failed = False
        self._count = 0
        self._cflags = _CFLAGS
        self._lines = _Lines(self)
        #: records of instructions that do not jump -> the count's mask where one repeats itself
        self._repeated: dict[bytes, int] = {}
        #: with one-insn-per-tb: address -> what `in_asm` shows once it is run
        self._translated: dict[int, bytes] = {}
        self._shown: set[tuple[int, int, bytes]] = set()
        self._last, self._last_flags, self._last_key = -1, 0, b""
        self._rounds = 0
        #: with `cpu`: the flags as they were last told, and computed
        self._kept: tuple[LazyFlags | None, int] = None, 0
        self._flag_loaders: set[bytes] = set()
        self._loaded = False
        self._fault_at, self._fault = -1, 0
        self._disassembler = Disassembler()
        self._guest_errors: _GuestErrors | None = None
        self.set_file(path)
        self.set_items(items)

    # -- where to, and what
    def set_file(self, path: str | None) -> None:
        """Write to *path* from now on (`%d` in it: this process); None: to stderr."""
        check_file(path, frozenset())
        new, template = -1, path
        if path is not None:
            path = path.replace("%d", str(os.getpid()))
            try:
                new = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise LogError(f"Error opening logfile {path}: {error.strerror}") from None
        self.flush()
        if self._file >= 0:
            os.close(self._file)
        self._file, self._path, self._name = new, template, path or "stderr"
        self._failed = False

    def set_items(self, items: frozenset[str]) -> None:
        """Log these from now on.  Raises LogError when they need another kind of file name."""
        check_file(self._path, items)
        self.items = items
        one = self._cpu.one_insn_per_tb
        self._cflags = (_CFLAGS | (_CF_NO_CHAIN if one or "nochain" in items else 0)
                        | (_CF_ICOUNT if self._counted else 0) | (_CF_ONE if one else 0))
        self._forget_lines()
        told = items & {"in_asm", "exec", "cpu", "int"}
        self._cpu.set_trace(self if told else None, translated="in_asm" in items,
                            executed="exec" in items, cpu="cpu" in items,
                            interrupts="int" in items)
        if "guest_errors" in items and self._guest_errors is None:
            self._guest_errors = _GuestErrors(self)
        elif "guest_errors" not in items and self._guest_errors is not None:
            self._guest_errors.close()
            self._guest_errors = None

    def close(self) -> None:
        """No more, and everything written."""
        self.set_items(frozenset())
        self.set_file(None)

    def tell(self, text: str) -> None:
        """Add *text* behind what has been run until now."""
        self._cpu.drain_trace()
        self._write(text)

    def _write(self, text: str) -> None:
        self._put(text.encode("utf-8", "replace"))

    def _put(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Let others see what has been written: called after each slice."""
        if not self._size:
            return
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if self._failed:
            return
        try:
            if self._file >= 0:
                _write(self._file, data)
            elif sys.stderr is not None:
                _write(sys.stderr.fileno(), data)
        except OSError as error:
            self._failed = True     # until another file is named
            _log.warning("the log ends here: cannot write to %s: %s",
                         self._name, error.strerror or error)

    def _wanted(self, address: int) -> bool:
        return not self.ranges or any(low <= address <= high for low, high in self.ranges)

    # -- what the processor tells (emu.cpu.TraceSink)
    def executed(self, records: memoryview) -> None:
        """`exec`, and with `cpu` the registers: then the records come one by one."""
        keys = [key for key, in _RECORD.iter_unpack(records)]
        if len(self._lines) >= _LINES:
            self._forget_lines()
        if "cpu" in self.items:
            for key in keys:
                self._executed_cpu(key)
            return
        lines = [*map(self._lines.__getitem__, keys)]
        places = records[_PC::4].tolist()
        if places[0] == self._last or True in map(eq, places, places[1:]):
            lines = [*self._once(keys, places)]
        self._last, self._last_flags = places[-1], records[-1]
        self._put(b"".join(lines))

    def _executed_cpu(self, key: bytes) -> None:
        line = self._lines[key]
        _, _, place, flags = _WORDS.unpack(key)
        again = place == self._last and key in self._repeated
        self._last, self._last_flags = place, flags
        lazy = self._lazy_flags()
        self._loaded = key in self._flag_loaders
        if again:
            mask = self._repeated[key]
            left = self._cpu.read("rcx") & mask
            if not mask or not self._counted and (left % _REP_ROUNDS != 1 or left == 1):
                return
            line = self._with_rf(key)
        self._put(line)
        if self._wanted(place):
            self._write(state_text(self._cpu, lazy=lazy, fpu="fpu" in self.items, rf=again or None))

    def _lazy_flags(self) -> LazyFlags:
        """With one-insn-per-tb the engine has the flags computed before it tells of an instruction:
        as they were kept before, unless another instruction has made them since."""
        now = LazyFlags.of(self._cpu)
        kept, flags = self._kept
        if (kept is not None and not self._loaded and self._cpu.read("cc_op") == CC_OP_EFLAGS
                and now.source == flags and now.result == kept.result):
            return kept
        self._kept = now, self._cpu.read("eflags") & _ARITHMETIC
        return now

    def learn(self, record: bytes) -> tuple[bytes, bytes]:
        """What the first time of a record adds, and its line, empty where there is to be none."""
        host, cs_base, pc, flags = _WORDS.unpack(record)
        mask, loads = self._look_at(pc, flags)
        # a whole block may end with a jump to its beginning
        if (mask if not self._cpu.one_insn_per_tb else mask is not None) and not flags & _HF_TF:
            self._repeated[record] = mask or 0
        if loads:
            self._flag_loaders.add(record)
        if "exec" not in self.items or not self._wanted(pc):
            line = b""
        else:
            line = (_EXEC % (host, cs_base, pc, flags, self._cflags)).encode()
        return self._translated.pop(pc, b""), line

    def _forget_lines(self) -> None:
        self._lines.clear()
        self._repeated.clear()
        self._shown.clear()
        self._flag_loaders.clear()

    def _look_at(self, pc: int, flags: int) -> tuple[int | None, bool]:
        """What a string instruction with REP there uses of RCX, 0 for another instruction, None
        for one that may jump to itself; and whether it loads the flags."""
        code = (self._cpu.read_virtual(pc, 15)
                or self._cpu.read_virtual(pc, 0x1000 - (pc & 0xFFF)) or b"")
        bits = _bits(flags)
        seen = look(code[:15], bits)
        if seen is None:
            return None, False
        if seen.opcode in _STRING_OPCODES and not seen.prefixes.isdisjoint(_REPEATS):
            if ADDRESS_SIZE in seen.prefixes:
                bits = 16 if bits == 32 else 32
            return (1 << bits) - 1, False
        return None if seen.opcode in _BRANCHES else 0, seen.opcode in _FLAG_LOADERS

    def _once(self, keys: list[bytes], places: list[int]) -> Iterator[bytes]:
        """The lines, with each instruction once.

        One that stored to code of its own block is begun again.  The rounds of a
        repeated string instruction are one execution in QEMU, or, when they are
        counted, several, with RF set from the second on.
        """
        last = self._last
        for key, place in zip(keys, places, strict=True):
            if place == last and key in self._repeated:
                self._rounds += 1
                if self._counted and self._repeated[key]:
                    yield self._with_rf(key)
                self._last_key = key
                continue
            if self._rounds > _REP_ROUNDS and not self._counted:
                # the last round found nothing left to do
                yield self._with_rf(self._last_key) * ((self._rounds - 3) // _REP_ROUNDS)
            last, self._rounds = place, 1
            yield self._lines[key]

    def _with_rf(self, key: bytes) -> bytes:
        host, cs_base, pc, flags = _WORDS.unpack(key)
        return self._lines[key] and (
            _EXEC % (host, cs_base, pc, flags | _HF_RF, self._cflags)).encode()

    def translated(self, pc: int, size: int, instructions: int, flags: int, cs_base: int,
                   host: int) -> None:
        """`in_asm`."""
        code = self._cpu.read_virtual(pc, size)
        if code is None:
            blocks = [Instruction(pc, b"", (f"0x{pc:08x}:  (not readable)",))]
        else:
            blocks = [*self._disassembler.instructions(code, pc, _bits(flags))]
        if not self._cpu.one_insn_per_tb:
            blocks = [Instruction(pc, b"", tuple(line for each in blocks for line in each.lines))]
        told = []
        self._cpu.drain_trace()
        for at, data, lines in blocks:
            text = "\n".join(("----------------", "IN: ", *lines, "", ""))
            if not self._wanted(at):
                continue
            if data and "exec" in self.items:
                # each by itself, and when it is run first: there it is a block
                if (at, flags, data) not in self._shown:
                    self._shown.add((at, flags, data))
                    self._translated[at] = text.encode()
            else:
                told.append(text)
        self._write("".join(told))

    def interrupt(self, vector: int, error_code: int, is_int: int, next_rip: int,
                  hardware: int) -> None:
        """`int`: what is delivered shows in protected mode only."""
        cpu = self._cpu
        text = ""
        if hardware:
            if vector != _NMI:
                text = f"Servicing hardware INT=0x{vector:02x}\n"
        elif not is_int:
            text = self._raised(vector)
        if cpu.read("cr0") & _CR0_PE:
            cs, ss = cpu.segment("cs"), cpu.segment("ss")
            rip = cpu.read("rip")
            tail = (f" CR2={cpu.read('cr2'):016x}" if vector == _PF
                    else f" env->regs[R_EAX]={cpu.read('rax'):016x}")
            text += (f"{self._count:6d}: v={vector:02x} e={error_code:04x} i={is_int}"
                     f" cpl={cpu.read('hflags') & 3} IP={cs.selector:04x}:{rip:016x}"
                     f" pc={cs.base + rip:016x} SP={ss.selector:04x}:{cpu.read('rsp'):016x}{tail}\n"
                     + self._state(hide_rf=not (is_int or hardware or self._last_flags & _HF_RF)))
            self._count += 1
        self.tell(text)

    def _state(self, hide_rf: bool = False) -> str:
        """*hide_rf*: the engine has set it already, for what a fault is to push."""
        return state_text(self._cpu, lazy=self._lazy_flags() if "cpu" in self.items else None,
                          rf=False if hide_rf else None)

    def _raised(self, vector: int) -> str:
        """What QEMU says where an exception may meet one that is being delivered."""
        # Nothing has run since the last one was to be delivered: that failed.
        at, old = self._cpu.blocks, self._fault
        if at != self._fault_at or old not in _SERIOUS:
            old = -1
        new = vector if vector != _DF or old == -1 else self._second_fault(old)
        self._fault_at, self._fault = at, vector
        return f"check_exception old: 0x{old & 0xFFFF_FFFF:x} new 0x{new:x}\n"

    def _second_fault(self, first: int) -> int:
        """Which exception the delivery of *first* made: it is told as a double fault only."""
        cpu = self._cpu
        idt, long_mode = cpu.segment("idt"), bool(cpu.read("hflags") & _HF_LMA)
        size = 16 if long_mode else 8
        gate = cpu.read_virtual(idt.base + size * first, 8)
        if size * first + size - 1 > idt.limit:
            return _GP
        if gate is None:
            return _PF
        if gate[5] & 0x1F not in ((14, 15) if long_mode else (5, 6, 7, 14, 15)):
            return _GP
        return _GP if gate[5] & 0x80 else _NP

    def smm(self, entered: bool) -> None:
        """`int`: just before an SMI is taken, and just after RSM."""
        self.tell(("SMM: enter\n" if entered else "SMM: after RSM\n")
                  + self._state())

    # -- what the board tells
    def power_on(self) -> None:
        """`cpu_reset`: QEMU resets a processor whose state is all zeros first."""
        if "cpu_reset" in self.items:
            self.tell("CPU Reset (CPU 0)\n" + state_text(_Zeros(), fpu=True))

    def reset(self) -> None:
        """`cpu_reset`: just before the processor is reset."""
        if "cpu_reset" in self.items:
            self.tell("CPU Reset (CPU 0)\n" + state_text(self._cpu, fpu=True))

    def triple_fault(self) -> None:
        """The delivery of a double fault failed."""
        if "int" in self.items:
            self.tell(f"check_exception old: 0x8 new 0x{self._second_fault(_DF):x}\n")
        if "cpu_reset" in self.items:
            self.tell("Triple fault\n")


class _Zeros:
    """A processor that has never been reset (machine.registers.CpuTarget)."""

    halted, a20 = False, False

    def read(self, _name: str, /) -> int:
        return 0

    def segment(self, _name: str, /) -> Segment:
        return Segment(0, 0, 0, 0)

    def xmm(self, _index: int, /) -> int:
        return 0

    def st(self, _index: int, /) -> tuple[int, int]:
        return 0, 0


class _Lines(dict[bytes, bytes]):
    """Record -> its line, made when it is asked for first."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def __missing__(self, record: bytes) -> bytes:
        first, line = self._log.learn(record)
        self[record] = line
        return first + line


class _GuestErrors(logging.Handler):
    """Lets what the guest did wrong appear in the log, and nowhere else, until `close`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._logger = logging.getLogger("snooze.guest")
        self._level = self._logger.level
        self._logger.addHandler(self)
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        end = "\n" if getattr(record, "newline", True) else ""
        self._log.tell(record.getMessage() + end)

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)
        self._logger.propagate = True
        super().close()


def _bits(flags: int) -> int:
    """Of the code of a block with these flags: 16, 32 or 64."""
    return 64 if flags & _HF_CS64 else 32 if flags & _HF_CS32 else 16


def _write(file: int, data: bytes) -> None:
    """All of it, also where it has to wait for a reader.  Raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(file, left):]
        except BlockingIOError:
            select.select([], [file], [])
