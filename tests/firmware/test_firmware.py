"""The bundled ROM: that it is what its source makes, and what it does on the real QEMU.

The real machine is the judge here: the ROM runs under `qemu-system-x86_64` with
QMP and the serial port on socket pairs, and guest RAM either saved by QMP's
`pmemsave` or shared through a file.  Where nasm or QEMU is missing the tests that need
it are skipped.
"""

from __future__ import annotations

import json
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

import firmware
from tests.asm import asm

QEMU = shutil.which("qemu-system-x86_64")
NASM = shutil.which("nasm")
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
needs_nasm = pytest.mark.skipif(NASM is None, reason="nasm is not installed")

T = TypeVar("T")

TIMEOUT = 10.0  # seconds for one step; a busy host is slow, a passing step takes milliseconds
PROMPT = "\r\n> "
EBDA = 0x9C000
STATE = 0x8010  # "SNZE", wakes, spin counter, loop mode, wakes with damaged RAM (os.inc)
PATTERN = 0x10000


class Qemu:
    """One QEMU with the ROM.  Events and serial text are kept until waited for."""

    def __init__(self, *args: str, ram_mb: int = 8) -> None:
        assert QEMU is not None
        self._qmp, qmp_end = socket.socketpair()
        self._serial, serial_end = socket.socketpair()
        self._qmp_bytes = b""
        self._serial_text = ""
        self._replies: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        with qmp_end, serial_end:
            self.process = subprocess.Popen(
                [QEMU, "-M", "pc,accel=tcg", "-m", str(ram_mb), "-S", "-nodefaults",
                 "-no-user-config", "-display", "none", "-bios", str(firmware.IMAGE),
                 "-chardev", f"socket,id=qmp,fd={qmp_end.fileno()}",
                 "-mon", "chardev=qmp,mode=control",
                 "-chardev", f"socket,id=com1,fd={serial_end.fileno()}",
                 "-serial", "chardev:com1", *args],
                pass_fds=(qmp_end.fileno(), serial_end.fileno()))
        # QEMU drops the events of the time before this, and the ROM is at its first suspend
        # within milliseconds: hence -S, and the start only now.
        self.command("qmp_capabilities")
        self.command("cont")

    def __enter__(self) -> Qemu:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self._qmp.close()
        self._serial.close()

    def _until(self, what: str, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + TIMEOUT
        alive = True
        while (found := look()) is None:
            left = max(deadline - time.monotonic(), 0)
            ready = select.select([self._qmp, self._serial], [], [], left)[0]
            if not ready or not alive:
                pytest.fail(f"no {what}; events {self._events}, serial {self._serial_text!r}")
            if self._serial in ready:
                self._serial_text += self._receive(self._serial).decode("ascii")
            if self._qmp in ready:
                data = self._receive(self._qmp)
                alive = bool(data)
                self._take_messages(data)
        return found

    @staticmethod
    def _receive(end: socket.socket) -> bytes:
        try:
            return end.recv(65536)
        except ConnectionResetError:  # QEMU has gone
            return b""

    def _take_messages(self, data: bytes) -> None:
        *lines, self._qmp_bytes = (self._qmp_bytes + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "event" in message:
                self._events.append(message)
            elif "QMP" not in message:
                self._replies.append(message)

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute a QMP command and return what it returned."""
        request = {"execute": name, "arguments": arguments}
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        reply = self._until(f"reply to {name}",
                            lambda: self._replies.pop(0) if self._replies else None)
        assert "return" in reply, reply
        return reply["return"]

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the event, dropping those before it; its data."""
        def look() -> dict[str, Any] | None:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name:
                    return dict(event.get("data", {}))
            return None
        return self._until(f"event {name}", look)

    def text(self, end: str) -> str:
        """Wait for serial text; all of it up to and with *end*."""
        def look() -> str | None:
            head, found, tail = self._serial_text.partition(end)
            if not found:
                return None
            self._serial_text = tail
            return head + found
        return self._until(f"serial text {end!r}", look)

    def unread(self) -> str:
        """Serial text that has come and nobody has waited for."""
        return self._serial_text

    def type(self, letter: str) -> None:
        self._serial.sendall(letter.encode("ascii"))

    def wake(self) -> None:
        """Wait for S3 and end it."""
        self.event("SUSPEND")
        self.command("system_wakeup")
        self.event("WAKEUP")

    def to_menu(self) -> str:
        """Go through a boot's own suspend; the serial text up to the menu's prompt."""
        self.wake()
        return self.text(PROMPT)

    def memory(self, address: int, length: int, path: Path) -> bytes:
        """Guest-physical memory, by way of a file at *path*."""
        self.command("pmemsave", val=address, size=length, filename=str(path))
        return path.read_bytes()


def shared_ram(path: Path, ram_mb: int = 8) -> list[str]:
    """QEMU options that make guest RAM the file at *path*."""
    return ["-object", f"memory-backend-file,id=ram,size={ram_mb}M,mem-path={path},share=on",
            "-machine", "memory-backend=ram"]


def write_ram(path: Path, address: int, data: bytes) -> None:
    with path.open("r+b") as ram:
        ram.seek(address)
        ram.write(data)


def read_state(ram: bytes, base: int) -> tuple[int, int, int, int]:
    """The demo OS's wakes, spin counter, loop mode and damaged wakes."""
    magic, wakes, spin, loop, errors = struct.unpack_from("<4s4I", ram, STATE - base)
    assert magic == b"SNZE"
    return wakes, spin, loop, errors


# --- the image ------------------------------------------------------------------------------


@needs_nasm
def test_image_is_what_the_source_makes(tmp_path: Path) -> None:
    assert NASM is not None
    rebuilt = tmp_path / "snooze.rom"
    subprocess.run([NASM, "-w+all", "-w+error", "-f", "bin", "-o", str(rebuilt),
                    firmware.SOURCE.name], cwd=firmware.SOURCE.parent, check=True)
    assert rebuilt.read_bytes() == firmware.image()


def test_image_is_64_kib_with_a_far_jump_at_the_reset_vector() -> None:
    rom = firmware.image()
    assert len(rom) == 0x10000
    opcode, _, segment = struct.unpack_from("<BHH", rom, 0xFFF0)
    assert (opcode, segment) == (0xEA, 0xF000)


# --- booting, S3 ----------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("ram_mb", [1, 15, 128, 4096])
def test_boot_names_the_ram_and_a_wake_finds_it_intact(ram_mb: int) -> None:
    with Qemu(ram_mb=ram_mb) as qemu:
        text = qemu.to_menu()
        assert text.startswith("\r\nsnooze firmware ")
        assert f": {ram_mb} MiB RAM," in text.split("\r\n")[1]
        assert "WAKE 1\r\nsnooze: resumed, RAM intact (1 wake)\r\n" in text
        assert text.replace("\r\n", "").isprintable()  # every line ends with CR LF
        qemu.type("s")
        text = qemu.to_menu()
        assert "WAKE 2\r\nsnooze: resumed, RAM intact (2 wakes)\r\n" in text
        assert "snooze firmware" not in text


@needs_qemu
def test_ram_damaged_during_s3_is_told(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    with Qemu(*shared_ram(ram)) as qemu:
        qemu.event("SUSPEND")
        last = PATTERN + 0xFFFF
        write_ram(ram, last, bytes([ram.read_bytes()[last] ^ 0x10]))
        qemu.command("system_wakeup")
        assert "snooze: resumed, RAM DAMAGED (1 wake)\r\n" in qemu.text(PROMPT)
        assert read_state(ram.read_bytes(), 0) == (1, 0, 0, 1)
        qemu.type("s")
        assert "snooze: resumed, RAM intact (2 wakes)\r\n" in qemu.to_menu()


@needs_qemu
def test_wake_goes_through_the_facs_waking_vector(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    with Qemu(*shared_ram(ram)) as qemu:
        qemu.to_menu()
        facs = ram.read_bytes().index(b"FACS\x40\x00\x00\x00", EBDA)
        qemu.type("s")
        qemu.event("SUSPEND")
        qemu.text("\r\nsnooze: suspending")
        qemu.text("\r\n")
        # Another entry, not at a multiple of 16, that sends its CS (MOV DX,0x3f8; MOV AX,CS) and
        # its IP (CALL to the next instruction; POP AX), its DS and its ES, then halts.
        code = bytes.fromhex("baf803 8cc8 ee 88e0 ee e80000 58 ee 88e0 ee 8cd8 ee 88e0 ee"
                             "8cc0 ee 88e0 ee f4 ebfd")
        entry = 0x54325
        write_ram(ram, entry, code)
        write_ram(ram, facs + 12, struct.pack("<I", entry))
        qemu.command("system_wakeup")
        offset = (entry & 0xF) + 12
        qemu.text(struct.pack("<HHHH", entry >> 4, offset, 0, 0).decode("ascii"))


@needs_qemu
def test_wake_without_a_waking_vector_boots(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    with Qemu(*shared_ram(ram)) as qemu:
        qemu.event("SUSPEND")
        facs = ram.read_bytes().index(b"FACS\x40\x00\x00\x00", EBDA)
        write_ram(ram, facs + 12, bytes(4))
        qemu.command("system_wakeup")
        qemu.text("woken from S3 without a waking vector, booting\r\n")
        assert "RAM intact (1 wake)" in qemu.to_menu()


@needs_qemu
def test_reset_during_s3_is_a_boot_and_not_a_wake() -> None:
    with Qemu() as qemu:
        qemu.event("SUSPEND")
        qemu.command("system_reset")
        qemu.event("RESET")
        qemu.command("cont")
        text = qemu.to_menu()
        assert "snooze firmware: reset during S3" in text
        assert "RAM intact (1 wake)" in text
        qemu.type("r")
        assert "reset during S3" not in qemu.to_menu()  # told once


@needs_qemu
def test_loop_verifies_counts_and_suspends_silently_until_a_reset(tmp_path: Path) -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.type("l")
        qemu.text("until a reset\r\n")
        for _ in range(50):
            qemu.wake()
        qemu.event("SUSPEND")
        assert qemu.unread() == ""
        low = qemu.memory(STATE, 20, tmp_path / "state")
        assert read_state(low, STATE) == (51, 0, 1, 0)
        qemu.command("system_reset")
        qemu.command("cont")
        assert "RAM intact (1 wake)" in qemu.to_menu()


@needs_qemu
def test_loop_ends_when_ram_is_damaged(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    with Qemu(*shared_ram(ram)) as qemu:
        qemu.to_menu()
        qemu.type("l")
        qemu.wake()
        qemu.event("SUSPEND")
        write_ram(ram, PATTERN, b"\0\0\0\0")
        qemu.command("system_wakeup")
        assert "RAM DAMAGED (3 wakes)" in qemu.text(PROMPT)


# --- the menu -------------------------------------------------------------------------------


@needs_qemu
def test_every_reset_letter_resets() -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        for letter in "rk9t":
            qemu.type(letter)
            assert qemu.event("RESET") == {"guest": True, "reason": "guest-reset"}
            assert f"{letter}\r\nsnooze: resetting\r\n" in qemu.text("snooze firmware ")
            assert "RAM intact (1 wake)" in qemu.to_menu()


@needs_qemu
@pytest.mark.parametrize(("letter", "options", "events"), [
    ("o", [], [("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]),
    ("4", [], [("SUSPEND_DISK", {}),
               ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})]),
    ("p", ["-device", "pvpanic"],
     [("GUEST_PANICKED", {"action": "poweroff"}),
      ("SHUTDOWN", {"guest": True, "reason": "guest-panic"})]),
])
def test_letters_that_end_the_machine(letter: str, options: list[str],
                                      events: list[tuple[str, dict[str, Any]]]) -> None:
    with Qemu(*options) as qemu:
        qemu.to_menu()
        qemu.type(letter)
        for name, data in events:
            assert qemu.event(name) == data
        assert qemu.process.wait(TIMEOUT) == 0


@needs_qemu
def test_letters_that_come_back_to_the_prompt() -> None:
    with Qemu("-device", "pvpanic", "-action", "panic=none") as qemu:
        menu = qemu.to_menu()
        menu = menu[menu.index("\r\n\r\n") + 4:]
        qemu.type("c")
        assert qemu.event("GUEST_CRASHLOADED") == {"action": "run"}
        qemu.text(PROMPT)
        qemu.type("p")
        assert qemu.event("GUEST_PANICKED") == {"action": "run"}
        qemu.text(PROMPT)
        qemu.type("?\r\n")  # the line end that a person types is no letter
        assert qemu.text(PROMPT) == "?\r\n\r\n" + menu
        qemu.type("x")
        assert qemu.text(PROMPT) == "x\r\nsnooze: no such letter, ? shows them" + PROMPT


@needs_qemu
def test_panic_letters_say_when_there_is_no_pvpanic() -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.type("pc")
        assert "snooze: no pvpanic at port 0x505" in qemu.text(PROMPT)
        assert "snooze: no pvpanic at port 0x505" in qemu.text(PROMPT)


@needs_qemu
def test_spin_counts_in_ram(tmp_path: Path) -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.type("n")
        qemu.text("for ever\r\n")
        seen = []
        for _ in range(2):
            time.sleep(0.05)
            seen.append(read_state(qemu.memory(STATE, 20, tmp_path / "state"), STATE)[1])
        assert 0 < seen[0] < seen[1]


@needs_qemu
def test_halt_halts_with_interrupts_off() -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.type("h")
        qemu.text("halted with interrupts off\r\n")
        time.sleep(0.05)
        registers = qemu.command("human-monitor-command", **{"command-line": "info registers"})
        assert "HLT=1" in registers
        flags = int(registers.partition("EFL=")[2].split()[0], 16)
        assert not flags & 0x200


@needs_qemu
def test_cpu_exception_is_one_line_and_the_end() -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.type("u")
        qemu.text("\r\nsnooze: CPU exception 0x06 #UD at 0800:")
        assert len(qemu.text("\r\n")) == 6


@needs_qemu
def test_nmi_is_told_and_returns() -> None:
    with Qemu() as qemu:
        qemu.to_menu()
        qemu.command("inject-nmi")
        qemu.text("\r\nsnooze: CPU exception 0x02 NMI at 0800:")
        qemu.type("?")
        qemu.text(PROMPT)


@needs_qemu
def test_key_press_wakes() -> None:
    with Qemu() as qemu:
        qemu.event("SUSPEND")
        qemu.command("send-key", keys=[{"type": "qcode", "data": "spc"}])
        qemu.event("WAKEUP")
        assert "RAM intact (1 wake)" in qemu.text(PROMPT)


@needs_qemu
def test_board_without_piix4_is_told_apart() -> None:
    with Qemu("-M", "q35") as qemu:
        qemu.text("no PIIX4 at 00:01.3: this firmware wants an i440FX PC (-M pc)\r\n")


def ends_with(program: str, kernel: bytes, folder: Path) -> int:
    """The exit status of *program*, snooze or QEMU, when our firmware boots *kernel*."""
    file = folder / "kernel"
    file.write_bytes(kernel)
    command = [sys.executable, "-m", "monitor"] if program == "snooze" else [program]
    return subprocess.run(
        [*command, "-nodefaults", "-no-user-config", "-display", "none", "-bios",
         str(firmware.IMAGE), "-device", "isa-debug-exit,iobase=0xf4,iosize=0x4", "-m", "16",
         "-kernel", str(file)],
        stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False).returncode


#: A Multiboot kernel that orders by the shutdown byte how to go on, and resets the processor alone.
INIT_KERNEL = """
        dd      0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        dd      0x100000, 0x100000, 0, 0, entry
runs    equ     0x2000
entry:  inc     byte [runs]
        mov     al, 0x10
        cmp     byte [runs], 1
        jne     over                            ; booted anew
        mov     esi, stub
        mov     edi, 0x1000
        mov     ecx, stub_end - stub
        rep     movsb
        mov     dword [0x467], 0x01000000       ; 0100:0000
        mov     al, 0x0f
        out     0x70, al
        mov     al, {code}
        out     0x71, al
        mov     dword [0xfee00310], 0
        mov     dword [0xfee00300], 0x4500      ; INIT
stop:   hlt
        jmp     stop
over:   out     0xf4, al
        jmp     stop
        bits    16
stub:   mov     al, 0x0f                        ; the order is taken
        out     0x70, al
        in      al, 0x71
        or      al, 0x20
        out     0xf4, al
        hlt
stub_end:
"""


@pytest.mark.parametrize(("code", "exit_code"), [(0x0A, 0x20), (0x05, 0x20), (0x00, 0x10)])
@pytest.mark.parametrize("program", [pytest.param(QEMU, marks=needs_qemu), "snooze"])
def test_after_an_init_the_shutdown_byte_says_where_to_go_on(
        program: str, code: int, exit_code: int, tmp_path: Path) -> None:
    kernel = asm(INIT_KERNEL.format(code=code), bits=32, org=0x100000)
    assert ends_with(program, kernel, tmp_path) == exit_code << 1 | 1


#: A Multiboot kernel that goes back to real mode and waits for the clock's third tick.
TICK_KERNEL = """
        dd      0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        dd      0x100000, 0x100000, 0, 0, entry
entry:  mov     esi, low
        mov     edi, 0x1000
        mov     ecx, low_end - low
        rep     movsb
        lgdt    [gdtr]
        lidt    [idtr]
        jmp     8:0x1000
gdtr:   dw      gdt_end - gdt - 1
        dd      gdt
idtr:   dw      0x3ff
        dd      0
gdt:    dq      0, 0x00009b000000ffff, 0x000093000000ffff
gdt_end:
        bits    16
low:    mov     ax, 0x10
        mov     ds, ax
        mov     ss, ax
        mov     eax, cr0
        and     al, 0xfe
        mov     cr0, eax
        jmp     0:0x1000 + real - low
real:   xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7000
.wait:  sti
        hlt
        mov     eax, [0x46c]
        cmp     al, 3
        jb      .wait
        out     0xf4, al
low_end:
"""


@pytest.mark.parametrize("program", [pytest.param(QEMU, marks=needs_qemu), "snooze"])
def test_the_clock_ticks_for_a_kernel_in_real_mode(program: str, tmp_path: Path) -> None:
    assert ends_with(program, asm(TICK_KERNEL, bits=32, org=0x100000), tmp_path) == 3 << 1 | 1


# --- the ACPI tables in guest RAM -----------------------------------------------------------


class AcpiTables:
    """What an operating system finds in the first MiB *ram*; each step asserts its check sum."""

    def __init__(self, ram: bytes) -> None:
        self._ram = ram
        ebda = int.from_bytes(ram[0x40E:0x410], "little") << 4
        places = [at for area in (range(ebda, ebda + 1024, 16), range(0xE0000, 0x100000, 16))
                  for at in area if ram[at:at + 8] == b"RSD PTR "]
        assert [ram[at:at + 36] for at in places] == 2 * [ram[places[0]:places[0] + 36]]
        assert places[0] < 0xA0000 and places[1] >= 0xF0000     # for those who look there only
        self.rsdp = ram[places[0]:places[0] + 36]
        assert sum(self.rsdp[:20]) % 256 == 0
        assert sum(self.rsdp) % 256 == 0
        self.rsdt = self.table(b"RSDT", struct.unpack_from("<I", self.rsdp, 16)[0])
        self.xsdt = self.table(b"XSDT", struct.unpack_from("<Q", self.rsdp, 24)[0])
        self.entries = [entry[0] for entry in struct.iter_unpack("<I", self.rsdt[36:])]
        self.x_entries = [entry[0] for entry in struct.iter_unpack("<Q", self.xsdt[36:])]
        self.fadt = self.table(b"FACP", self.entries[0])
        self.facs_address, dsdt = struct.unpack_from("<II", self.fadt, 36)
        self.dsdt = self.table(b"DSDT", dsdt)
        length: int = struct.unpack_from("<I", ram, self.facs_address + 4)[0]
        self.facs = ram[self.facs_address:self.facs_address + length]

    def table(self, signature: bytes, address: int) -> bytes:
        """The table at *address*, its signature and check sum verified."""
        length: int = struct.unpack_from("<I", self._ram, address + 4)[0]
        table = self._ram[address:address + length]
        assert table[:4] == signature
        assert len(table) == length >= 36
        assert sum(table) % 256 == 0
        return table

    def sleep_packages(self) -> dict[str, list[int]]:
        """The DSDT's definition block, which may hold nothing but packages of small integers."""
        aml = self.dsdt[36:]
        found: dict[str, list[int]] = {}
        while aml:
            assert aml[:2] == b"\x08\\", aml  # NameOp, root
            name = aml[2:6].decode("ascii")
            assert aml[6] == 0x12  # PackageOp
            length = aml[7]
            assert length < 0x40  # PkgLength of one byte
            body, aml = aml[8:7 + length], aml[7 + length:]
            count, body = body[0], body[1:]
            values = []
            while body:
                size = 2 if body[0] == 0x0A else 1  # BytePrefix
                assert size == 2 or body[0] in (0, 1)  # ZeroOp, OneOp
                values.append(body[size - 1])
                body = body[size:]
            assert len(values) == count
            found[name] = values
        return found


@pytest.fixture(scope="module")
def low_ram(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first MiB of a machine of 1 MiB that sleeps after its boot."""
    if QEMU is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    with Qemu(ram_mb=1) as qemu:
        qemu.event("SUSPEND")
        return qemu.memory(0, 0x100000, tmp_path_factory.mktemp("ram") / "low")


def test_ebda_is_beyond_base_memory_and_tells_its_size(low_ram: bytes) -> None:
    base_kib = int.from_bytes(low_ram[0x413:0x415], "little")
    ebda = int.from_bytes(low_ram[0x40E:0x410], "little") << 4
    assert ebda == base_kib * 1024 == EBDA
    assert ebda + low_ram[ebda] * 1024 == 0xA0000


def test_root_tables_agree(low_ram: bytes) -> None:
    tables = AcpiTables(low_ram)
    assert tables.rsdp[15] == 2
    assert struct.unpack_from("<I", tables.rsdp, 20)[0] == 36
    assert tables.entries == tables.x_entries
    assert len(tables.entries) == 2


def test_the_madt_has_the_processor_the_io_apic_and_the_overrides(low_ram: bytes) -> None:
    tables = AcpiTables(low_ram)
    madt = tables.table(b"APIC", tables.entries[1])
    assert sum(madt) & 0xFF == 0
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    found, at = [], 44
    while at < len(madt):
        found.append(madt[at:at + madt[at + 1]])
        at += madt[at + 1]
    assert [entry[0] for entry in found] == [0, 1, 2, 2, 2, 2, 2, 4]
    assert found[0][2:] == bytes.fromhex("0000 01000000")
    assert struct.unpack("<II", found[1][4:]) == (0xFEC00000, 0)
    overrides = [struct.unpack("<BIH", entry[3:]) for entry in found[2:7]]
    assert overrides == [(0, 2, 0), (5, 5, 13), (9, 9, 13), (10, 10, 13), (11, 11, 13)]
    assert found[7][2:] == b"\xff\0\0\1"


def test_all_tables_lie_in_the_ebda(low_ram: bytes) -> None:
    tables = AcpiTables(low_ram)
    for table in (tables.rsdp, tables.rsdt, tables.xsdt, tables.fadt, tables.dsdt, tables.facs):
        assert EBDA <= low_ram.index(table, 0x80000) < 0xA0000 - len(table)


def test_fadt_describes_the_piix4(low_ram: bytes) -> None:
    fadt = AcpiTables(low_ram).fadt
    assert fadt[8] == 3 and len(fadt) == 244
    sci, smi_cmd, enable, disable = struct.unpack_from("<HIBB", fadt, 46)
    assert (sci, smi_cmd, enable, disable) == (9, 0xB2, 0xF1, 0xF0)
    blocks = struct.unpack_from("<8I", fadt, 56)
    assert blocks == (0x600, 0, 0x604, 0, 0, 0x608, 0xAFE0, 0)
    assert tuple(fadt[88:94]) == (4, 2, 0, 4, 4, 0)
    # The generic addresses: address space I/O, as wide as the lengths say, the same ports.
    widths = (32, 0, 16, 0, 0, 32, 32, 0)
    for place, port, width in zip(range(148, 244, 12), blocks, widths, strict=True):
        space, bits, offset, _, address = struct.unpack_from("<BBBBQ", fadt, place)
        assert (space, bits, offset, address) == (1 if port else 0, width, 0, port)
    assert struct.unpack_from("<QQ", fadt, 132) == struct.unpack_from("<II", fadt, 36)
    flags = struct.unpack_from("<I", fadt, 112)[0]
    assert flags & 1 << 10  # RESET_REG_SUP
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 0x06)


def test_facs_is_aligned_and_its_vector_is_the_operating_systems(low_ram: bytes) -> None:
    tables = AcpiTables(low_ram)
    assert tables.facs[:4] == b"FACS"
    assert len(tables.facs) == 64
    assert tables.facs_address % 64 == 0
    vector = struct.unpack_from("<I", tables.facs, 12)[0]
    assert 0x8000 <= vector < 0x10000


def test_dsdt_holds_the_sleep_types(low_ram: bytes) -> None:
    assert AcpiTables(low_ram).sleep_packages() == {
        "_S3_": [1, 1, 0, 0], "_S4_": [2, 2, 0, 0], "_S5_": [0, 0, 0, 0]}
