"""QEMU's log: `-d item,…`, `-D file`, `-dfilter range,…`, and the monitor's `log`.

What is logged comes from the processor (`in_asm`, `exec`, `cpu`, `int`), from
the board (`cpu_reset`) and from the logger "snooze.guest" (`guest_errors`).  The
lines have QEMU 10.0.2's shapes.  While no item is on, nothing is told to anybody.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, TextIO

from machine.registers import state_text

if TYPE_CHECKING:
    from emu.cpu import X86Cpu

__all__ = ["ITEMS", "Log", "LogError", "help_text", "parse_filter", "parse_items"]


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

_EXEC = "Trace 0: 0x%x [%08x/%016x/%08x/%08x] \n"
_CFLAGS, _NO_CHAIN = 0xFF00_0000, 0x0002_0200
_HF_CS32, _HF_CS64 = 1 << 4, 1 << 15
_CR0_PE = 1
_PF = 14


def help_text(with_none: bool = False, option: str = "-d") -> str:
    """What `-d help` and the monitor's `log help` print."""
    lines = ["Log items (comma separated):"]
    if with_none:
        lines.append("none            remove all logs")
    lines += [f"{name:<15} {text}" for name, text in ITEMS.items()]
    lines += ["trace:PATTERN   enable trace events", "",
              f'Use "{option} trace:help" to get a list of trace events.', ""]
    return "\n".join(lines)


def parse_items(text: str) -> frozenset[str] | None:
    """`item,…`; "all" is every item.  None when one is not known."""
    found: set[str] = set()
    for name in text.split(","):
        if name == "all":
            found |= ITEMS.keys()
        elif name.startswith("trace:"):
            continue            # there are no trace events
        elif name in ITEMS:
            found.add(name)
        else:
            return None
    return frozenset(found)


class Range(NamedTuple):
    """Addresses from *low* to *high*, both in it."""

    low: int
    high: int


def parse_filter(text: str) -> tuple[Range, ...]:
    """`start..end`, `start+length`, `start-length`, separated by commas.  Raises LogError."""
    return tuple(_parse_range(part) for part in text.split(","))


def _parse_range(text: str) -> Range:
    for operator in ("..", "+", "-"):
        left, found, right = text.partition(operator)
        if found:
            break
    else:
        raise LogError("Bad range specifier")
    try:
        start = int(left, 0)
    except ValueError:
        raise LogError(f"Invalid number to the left of {operator}") from None
    try:
        other = int(right, 0)
    except ValueError:
        raise LogError(f"Invalid number to the right of {operator}") from None
    if operator == "..":
        low, high = start, other
    elif other == 0:
        raise LogError("Invalid range")
    elif operator == "+":
        low, high = start, start + other - 1
    else:
        low, high = start - (other - 1), start
    if low > high or low < 0:
        raise LogError("Invalid range")
    return Range(low, high)


class Log:
    """The log of one machine (emu.cpu.TraceSink).

    *items*, *path* (None: stderr) and *ranges* as the options say.  Raises
    `LogError` for a file that cannot be opened.
    """

    def __init__(self, cpu: X86Cpu, items: frozenset[str] = frozenset(),
                 path: str | None = None, ranges: tuple[Range, ...] = ()) -> None:
        self._cpu = cpu
        self.items: frozenset[str] = frozenset()
        self.ranges = ranges
        self._file: TextIO | None = None
        self._path: str | None = None
        self._written = False
        self._count = 0
        self._cflags = _CFLAGS
        self._disassemblers: dict[int, object] = {}
        self._guest_errors: logging.Handler | None = None
        self.set_file(path)
        self.set_items(items)

    # -- where to, and what
    def set_file(self, path: str | None) -> None:
        """Write to *path* from now on (`%d` in it: this process); None: to stderr."""
        if path is not None and "%" in path:
            before, _, after = path.partition("%")
            if not after.startswith("d") or "%" in after:
                raise LogError(f"Bad logfile template: {path}")
            path = f"{before}{os.getpid()}{after[1:]}"
        elif path is not None and "tid" in self.items:
            raise LogError("Filename template with '%d' required for 'tid'")
        new: TextIO | None = None
        if path is not None:
            try:
                new = open(path, "w", buffering=1 << 16, encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise LogError(f"Error opening logfile {path}: {error.strerror}") from None
        if self._file is not None:
            self._file.close()
        self._file, self._path = new, path

    def set_items(self, items: frozenset[str]) -> None:
        """Log these from now on."""
        self.items = items
        one = self._cpu.one_insn_per_tb
        self._cflags = (_CFLAGS | (_NO_CHAIN if "nochain" in items else 0) | int(one))
        told = items & {"in_asm", "exec", "cpu", "int"}
        self._cpu.set_trace(self if told else None, translated="in_asm" in items,
                            executed="exec" in items, cpu="cpu" in items,
                            interrupts="int" in items)
        logger = logging.getLogger("snooze.guest")
        if "guest_errors" in items and self._guest_errors is None:
            self._guest_errors = _GuestErrors(self)
            self._guest_errors.previous = logger.level      # type: ignore[attr-defined]
            logger.addHandler(self._guest_errors)
            logger.setLevel(logging.WARNING)
            logger.propagate = False
        elif "guest_errors" not in items and self._guest_errors is not None:
            logger.removeHandler(self._guest_errors)
            logger.setLevel(self._guest_errors.previous)    # type: ignore[attr-defined]
            logger.propagate = True
            self._guest_errors = None

    def close(self) -> None:
        """No more, and everything written."""
        self.set_items(frozenset())
        self.set_file(None)

    def write(self, text: str) -> None:
        """Add *text*, lines and all."""
        self._written = True
        (self._file or sys.stderr).write(text)

    def flush(self) -> None:
        """Let others see what has been written: called after each slice."""
        if self._written:
            self._written = False
            (self._file or sys.stderr).flush()

    def _wanted(self, address: int) -> bool:
        return not self.ranges or any(low <= address <= high for low, high in self.ranges)

    # -- what the processor tells (emu.cpu.TraceSink)
    def executed(self, records: memoryview) -> None:
        """`exec`, and with `cpu` the registers."""
        words = records.tolist()
        if self.ranges:
            words = [word for at in range(0, len(words), 4) if self._wanted(words[at + 2])
                     for word in words[at:at + 4]]
            if not words:
                return
        if "exec" in self.items:
            count = len(words) // 4
            line = _EXEC.replace("%08x] ", f"{self._cflags:08x}] ")
            self.write((line * count) % tuple(words))
        if "cpu" in self.items:
            self.write(state_text(self._cpu, cc=True, fpu="fpu" in self.items))

    def translated(self, pc: int, size: int, instructions: int, flags: int, cs_base: int,
                   host: int) -> None:
        """`in_asm`."""
        if not self._wanted(pc):
            return
        code = self._cpu.read_virtual(pc, size)
        mode = 64 if flags & _HF_CS64 else 32 if flags & _HF_CS32 else 16
        lines = ["----------------", "IN: "]
        lines += ([f"0x{pc:08x}:  (not readable)"] if code is None
                  else self._disassemble(code, pc, mode))
        self.write("\n".join(lines) + "\n\n")

    def _disassemble(self, code: bytes, pc: int, mode: int) -> list[str]:
        """One line an instruction, as QEMU's disas/capstone.c prints it."""
        import capstone

        disassembler = self._disassemblers.get(mode)
        if disassembler is None:
            disassembler = capstone.Cs(capstone.CS_ARCH_X86, {
                16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[mode])
            disassembler.syntax = capstone.CS_OPT_SYNTAX_ATT
            self._disassemblers[mode] = disassembler
        lines = []
        done = 0
        for address, size, mnemonic, operands in disassembler.disasm_lite(code, pc):  # type: ignore[attr-defined]
            data = code[done:done + size]
            done += size
            shown = "".join(f"{byte:02x} " for byte in data[:8])
            lines.append(f"0x{address:08x}:  {shown:<24} {mnemonic:<8} {operands}")
            if size > 8:
                lines.append(f"0x{address + 8:08x}:  "
                             + "".join(f"{byte:02x} " for byte in data[8:]))
        if done < len(code):
            lines.append(f"0x{pc + done:08x}:  " + "".join(f"{b:02x} " for b in code[done:]))
        return lines

    def interrupt(self, vector: int, error_code: int, is_int: int, next_rip: int,
                  hardware: int) -> None:
        """`int`: QEMU shows it in protected mode only."""
        cpu = self._cpu
        if hardware:
            self.write(f"Servicing hardware INT=0x{vector:02x}\n")
        if not cpu.read("cr0") & _CR0_PE:
            return
        cs, ss = cpu.segment("cs"), cpu.segment("ss")
        rip = cpu.read("rip")
        tail = (f" CR2={cpu.read('cr2'):016x}" if vector == _PF
                else f" env->regs[R_EAX]={cpu.read('rax'):016x}")
        self.write(f"{self._count:6d}: v={vector:02x} e={error_code:04x} i={is_int}"
                   f" cpl={cpu.read('hflags') & 3} IP={cs.selector:04x}:{rip:016x}"
                   f" pc={cs.base + rip:016x} SP={ss.selector:04x}:{cpu.read('rsp'):016x}{tail}\n"
                   + state_text(cpu, cc=True))
        self._count += 1

    # -- what the board tells
    def reset(self) -> None:
        """`cpu_reset`: just before the processor is reset."""
        if "cpu_reset" in self.items:
            self.write("CPU Reset (CPU 0)\n" + state_text(self._cpu, cc=True, fpu=True))


class _GuestErrors(logging.Handler):
    """Lets what the guest did wrong appear in the log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(record.getMessage() + "\n")
