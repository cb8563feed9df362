"""`make bench`: our speed beside qemu-system-x86_64's, measured in the same run.

Every figure is a ratio to a peer on the same machine at the same time: the two
take turns, and the medians are printed.  Whole processes are timed; a rate is
the difference between a long and a short run, so that start-up cancels out.
Without a qemu-system-x86_64 only our own column is printed.

    python -m tests.bench [start] [speed] [events] [s3]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import firmware
from machine import Machine
from tests.asm import asm

QEMU = shutil.which("qemu-system-x86_64")
SNOOZE = [sys.executable, "-m", "monitor"]
EXIT_DEVICE = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
PLAIN = ["-M", "pc", "-m", "32", "-nodefaults", "-no-user-config",
         "-display", "none"]
ROUNDS = 3

#: name -> (the loop, its instructions a turn, turns of a long run); ECX counts down.  In real mode:
LOOPS = {
    "integer": ("dec ecx\njnz again", 2, 400_000_000),
    "register": ("add eax, ecx\nxor edx, eax\nlea ebx, [eax + edx * 2]\nrol ebx, 3\n"
                 "sub esi, ebx\ndec ecx\njnz again", 7, 100_000_000),
    "load and store": ("add eax, ecx\nmov [0x500], eax\nmov ebx, [0x500]\ndec ecx\njnz again",
                       5, 20_000_000),
}


#: 32-bit protected mode with an IDT, then the body, again and again: its work is a real one's
PROTECTED_LOOP = """
        mov     ax, cs
        mov     ds, ax
        o32 lgdt [gdtr]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        jmp     dword 8:0xf0000 + protected
        align   8
gdt:    dq      0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   dw      23
        dd      0xf0000 + gdt
idtr:   dw      0x7ff
        dd      0x2000
        bits    32
protected:
        mov     ax, 0x10
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     esp, 0x7000
        mov     edi, 0x2000
        mov     ecx, 256
fill:   mov     eax, 0x80000 + handler
        stosd
        mov     eax, 0xf8e00
        stosd
        loop    fill
        lidt    [0xf0000 + idtr]
        mov     dword [0xfee000f0], 0x1ff
        mov     ecx, 0x11223344
        sti
"""
#: the same in 32-bit protected mode
PROTECTED_LOOPS = {
    "memory (adds all over 8 MiB)": (
        "imul ebx, ebx, 1103515245\nadd ebx, 12345\nmov eax, ebx\nshr eax, 4\nand eax, 0x7ffffc\n"
        "add [eax + 0x400000], ebx\ndec ecx\njnz again", 8, 40_000_000),
    "copy (4 KiB, word by word)": (
        "mov esi, 0x400000\nmov edi, 0x500000\nmov edx, 1024\n"
        "copy: mov eax, [esi]\nmov [edi], eax\nadd esi, 4\nadd edi, 4\ndec edx\njnz copy\n"
        "dec ecx\njnz again", 6 * 1024 + 5, 60_000),
    "calls (a call, a return, the stack)": (
        "call twice\ndec ecx\njnz again\njmp finish\ntwice: push ecx\ncall once\npop ecx\nret\n"
        "once: ret\nfinish:", 8, 50_000_000),
}
#: name -> (set-up and loop, events a turn, turns)
EVENTS = {
    "exceptions (#UD and IRET)": (PROTECTED_LOOP + "jmp again\nhandler: add dword [esp], 2\niret\n"
                                  "again: ud2\ndec ecx\njnz again", 1, 1_000_000),
    "interrupts (self-IPI, EOI and IRET)": (
        PROTECTED_LOOP + "jmp again\nhandler: mov dword [0xfee000b0], 0\niret\n"
        "again: mov dword [0xfee00300], 0x44040\nnop\ndec ecx\njnz again", 1, 200_000),
    "port reads (i8042 status)": ("mov ecx, 0x11223344\nagain: in al, 0x64\ndec ecx\njnz again",
                                  1, 1_000_000),
}


def rom(turns: int, body: str) -> bytes:
    """A 64 KiB ROM that goes *turns* times through *body* and ends the emulator."""
    return finished(turns, "cli\nxor ax, ax\nmov ds, ax\nmov ecx, 0x11223344\nagain:\n" + body)


def finished(turns: int, body: str) -> bytes:
    """A 64 KiB ROM of *body*, in which 0x11223344 stands for *turns*."""
    code = asm(body + "\nmov al, 0\nout 0xf4, al\nhlt", org=0)
    code = code.replace((0x11223344).to_bytes(4, "little"), turns.to_bytes(4, "little"))
    image = bytearray(0x10000)
    image[:len(code)] = code
    image[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"      # jmp 0xf000:0
    return bytes(image)


def seconds(command: list[str]) -> float:
    """How long the process takes; it must end by isa-debug-exit with value 0."""
    began = time.perf_counter()
    status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            check=False).returncode
    took = time.perf_counter() - began
    if status != 1:
        raise SystemExit(f"{command[0]} ended with {status}: {' '.join(command)}")
    return took


def first_instruction(command: list[str], folder: Path) -> float:
    """From the start of the process until the guest's first OUT has arrived in a file."""
    image, output = folder / "first.rom", folder / "first.out"
    if not image.exists():
        image.write_bytes(bytes(0xFFF0) + b"\xe6\xe9\xf4".ljust(16, b"\0"))   # out 0xe9, al; hlt
    output.write_bytes(b"")
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *PLAIN, "-bios", str(image), "-chardev", f"file,id=d,path={output}",
         "-device", "isa-debugcon,iobase=0xe9,chardev=d"], stdin=subprocess.DEVNULL)
    try:
        while output.stat().st_size == 0:
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.0005)
        return time.perf_counter() - began
    finally:
        process.kill()
        process.wait()


def rate(command: list[str], folder: Path, name: str, one_insn: bool) -> float:
    """Instructions per second of one loop."""
    body, per_turn, turns = {**LOOPS, **PROTECTED_LOOPS}[name]
    if one_insn:
        turns //= 10
    accel = ["-accel", "tcg,one-insn-per-tb=on" if one_insn else "tcg"]
    took = []
    for count in (turns // 20, turns):
        path = folder / "loop.rom"
        path.write_bytes(rom(count, body) if name in LOOPS else
                         finished(count, PROTECTED_LOOP + "handler: cli\nagain:\n" + body))
        took.append(seconds([*command, *PLAIN, *accel, *EXIT_DEVICE, "-bios", str(path)]))
    return (turns - turns // 20) * per_turn / (took[1] - took[0])


def events(command: list[str], folder: Path, name: str) -> float:
    """Events per second of one of EVENTS."""
    body, per_turn, turns = EVENTS[name]
    took = []
    for count in (turns // 10, turns):
        path = folder / f"events-{count}.rom"
        path.write_bytes(finished(count, body))
        took.append(seconds([*command, *PLAIN, *EXIT_DEVICE, "-bios", str(path)]))
    return (turns - turns // 10) * per_turn / (took[1] - took[0])


def logged(command: list[str], folder: Path, turns: int = 500_000) -> float:
    """Lines of `-d exec` per second, with one-insn-per-tb, into a file."""
    took, lines = [], []
    for count in (turns // 10, turns):
        path, log = folder / f"log-{count}.rom", folder / "exec.log"
        path.write_bytes(rom(count, LOOPS["integer"][0]))
        took.append(seconds([*command, *PLAIN, "-accel", "tcg,one-insn-per-tb=on", *EXIT_DEVICE,
                             "-d", "exec,nochain", "-D", str(log), "-bios", str(path)]))
        with log.open("rb") as file:
            lines.append(sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")))
    return (lines[1] - lines[0]) / (took[1] - took[0])


def compare(what: str, unit: str, ours: Callable[[], float],
            theirs: Callable[[], float] | None, scale: float = 1.0, digits: int = 1) -> None:
    """Take turns, and print one row: ours, QEMU's, and the ratio of the medians."""
    mine, peer = [], []
    for _ in range(ROUNDS):
        mine.append(ours())
        if theirs is not None:
            peer.append(theirs())
    a = statistics.median(mine) / scale
    row = f"{what:44} {a:10.{digits}f}"
    if peer:
        b = statistics.median(peer) / scale
        row += f" {b:10.{digits}f} {a / b:7.2f}"
    else:
        row += f" {'-':>10} {'-':>7}"
    print(f"{row}  {unit}", flush=True)


class Qmp:
    """Just enough of a QMP client to put a guest to sleep and wake it."""

    def __init__(self, command: list[str], image: Path, folder: Path) -> None:
        path, serial = folder / "qmp", folder / "serial"
        for each in (path, serial):
            each.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*command, *PLAIN, "-bios", str(image),
             "-serial", f"unix:{serial},server=on,wait=off",
             "-qmp", f"unix:{path},server=on,wait=off", "-S"], stdin=subprocess.DEVNULL)
        self.serial = connect(serial)
        self.socket = connect(path)
        self.file = self.socket.makefile("rb")
        json.loads(self.file.readline())
        self.execute("qmp_capabilities")

    def execute(self, name: str) -> None:
        self.socket.sendall(json.dumps({"execute": name}).encode() + b"\n")

    def wait_event(self, name: str) -> None:
        while json.loads(self.file.readline()).get("event") != name:
            pass

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.close()
        self.serial.close()


def connect(path: Path) -> socket.socket:
    end = time.monotonic() + 10
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def start_loop_over_qmp(qmp: Qmp) -> None:
    """Boot the bundled firmware, let its demo suspend once, then choose the menu's loop."""
    qmp.execute("cont")
    qmp.wait_event("SUSPEND")
    qmp.execute("system_wakeup")
    seen = b""
    while b"> " not in seen:
        seen += qmp.serial.recv(4096)
    qmp.serial.sendall(b"l")
    qmp.wait_event("SUSPEND")


def s3_over_qmp(command: list[str], folder: Path, cycles: int = 300) -> float:
    """S3 cycles per second: system_wakeup, wait for SUSPEND, again."""
    image = folder / "snooze.rom"
    image.write_bytes(firmware.image())
    qmp = Qmp(command, image, folder)
    try:
        start_loop_over_qmp(qmp)
        began = time.perf_counter()
        for _ in range(cycles):
            qmp.execute("system_wakeup")
            qmp.wait_event("SUSPEND")
        return cycles / (time.perf_counter() - began)
    finally:
        qmp.close()


def looping_machine() -> tuple[Machine, bytearray]:
    """A deterministic machine in the firmware's loop mode, suspended."""
    output = bytearray()
    machine = Machine(bios=firmware.image(), icount_shift=2, ram_mb=16, serials=[output.extend])
    assert machine.run_until("SUSPEND")
    machine.wakeup()
    assert machine.run_until(lambda: b"> " in output)
    machine.serial_receive(0, b"l")
    assert machine.run_until("SUSPEND")
    return machine, output


def s3_as_library(cycles: int = 1000) -> float:
    machine, _ = looping_machine()
    began = time.perf_counter()
    for _ in range(cycles):
        machine.wakeup()
        assert machine.run_until("SUSPEND")
    took = time.perf_counter() - began
    machine.close()
    return cycles / took


def main(wanted: list[str]) -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)     # an installed program has its bytecode
    chosen = set(wanted) or {"speed", "events", "s3", "start"}
    qemu = [QEMU] if QEMU else None
    print(f"{'':44} {'snooze':>10} {'QEMU':>10} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "start" in chosen:
            compare("process start to first guest instruction", "ms",
                    lambda: first_instruction(SNOOZE, folder),
                    (lambda: first_instruction(qemu, folder)) if qemu else None, 0.001)
        if "speed" in chosen:
            for one_insn in (False, True):
                for loop in (*LOOPS, *PROTECTED_LOOPS):
                    mode = "one-insn-per-tb" if one_insn else "free-running"

                    def ours(loop: str = loop, one: bool = one_insn) -> float:
                        return rate(SNOOZE, folder, loop, one)

                    def theirs(loop: str = loop, one: bool = one_insn) -> float:
                        assert qemu is not None
                        return rate(qemu, folder, loop, one)

                    compare(f"{loop} loop, {mode}", "M instructions/s", ours,
                            theirs if qemu else None, 1e6)
        if "events" in chosen:
            for event in EVENTS:

                def our_events(event: str = event) -> float:
                    return events(SNOOZE, folder, event)

                def their_events(event: str = event) -> float:
                    assert qemu is not None
                    return events(qemu, folder, event)

                compare(event, "thousand/s", our_events, their_events if qemu else None, 1e3)
            compare("lines of -d exec, one-insn-per-tb", "thousand/s",
                    lambda: logged(SNOOZE, folder),
                    (lambda: logged(qemu, folder)) if qemu else None, 1e3)
        if "s3" in chosen:
            compare("S3 cycles over QMP, wall clock", "cycles/s",
                    lambda: s3_over_qmp(SNOOZE, folder),
                    (lambda: s3_over_qmp(qemu, folder)) if qemu else None)
            compare("S3 cycles as a library, deterministic", "cycles/s", s3_as_library,
                    (lambda: s3_over_qmp(qemu, folder)) if qemu else None)


if __name__ == "__main__":
    main(sys.argv[1:])
