"""The program as a process, talked to as people and tools do: sockets, pipes, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from monitor.version import VERSION
from tests.asm import asm

ROOT = Path(__file__).resolve().parents[2]
#: seconds for one step: a busy host is slow, a passing step takes milliseconds
TIMEOUT = 30.0
BANNER = f"snooze {VERSION} monitor - type 'help' for more information\r\n(qemu) ".encode()
PROMPT = b"(qemu) "
SUSPENDED = b"VM status: paused (suspended)\r\n"


class Client:
    """The other end of one of the program's sockets."""

    def __init__(self, path: Path, alive: Callable[[], bool]) -> None:
        limit = time.monotonic() + TIMEOUT
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(TIMEOUT)
            try:
                self.socket.connect(str(path))
                break
            except OSError:             # not bound yet, or bound and not listening yet
                self.socket.close()
                if not alive() or time.monotonic() > limit:
                    raise
                time.sleep(0.005)
        self._kept = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, end: bytes) -> bytes:
        """All that comes up to and with *end*."""
        while end not in self._kept:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(f"closed while waiting for {end!r}, after {self._kept!r}")
            self._kept += data
        at = self._kept.index(end) + len(end)
        out, self._kept = self._kept[:at], self._kept[at:]
        return out

    def rest(self) -> bytes:
        """All that comes until the program closes."""
        while data := self.socket.recv(1 << 16):
            self._kept += data
        return self._kept

    # -- HMP
    def hmp(self, line: str) -> bytes:
        """What the monitor answers, byte for byte, its echo of *line* left out."""
        self.send(line.encode() + b"\n")
        echo, answer = self.until(b"\r\n"), self.until(PROMPT)
        assert re.sub(rb"\x1b\[[0-9]*[A-Z]", b"", echo).endswith(line.encode() + b"\r\n")
        return answer.removesuffix(PROMPT)

    # -- QMP
    def message(self) -> dict[str, Any]:
        line = self.until(b"\r\n")
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def qmp(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        """The messages up to the reply to *command*, without their time stamps."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self.send(json.dumps(request).encode())
        messages = [self.message()]
        while "event" in messages[-1]:
            messages.append(self.message())
        for each in messages:
            each.pop("timestamp", None)
        return messages

    def negotiate(self) -> Client:
        assert list(self.message()) == ["QMP"]
        assert self.qmp("qmp_capabilities") == [{"return": {}}]
        return self

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name; others in between are passed over."""
        while (message := self.message()).get("event") != name:
            assert "event" in message
        message.pop("timestamp")
        return message


class Program:
    """A running `python -m monitor`, with a folder for its sockets."""

    def __init__(self, folder: Path, *arguments: str, bios: bytes | None = None,
                 **popen: Any) -> None:
        self.folder = folder
        options = ["-display", "none", "-m", "16"]
        if bios is not None:
            (folder / "rom").write_bytes(bios)
            options += ["-bios", str(folder / "rom")]
        popen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                 "stderr": subprocess.PIPE, **popen}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "monitor", *options,
             *(each.replace("{DIR}", str(folder)) for each in arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, **popen)

    def client(self, name: str) -> Client:
        return Client(self.folder / name, lambda: self.process.poll() is None)

    def ended(self) -> tuple[int, str]:
        """Exit status, and stderr without our name before each line."""
        _, errors = self.process.communicate(timeout=TIMEOUT)
        name = re.escape(os.path.basename(sys.executable))
        return self.process.returncode, re.sub(rf"(?m)^{name}: ", "", errors.decode())

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


Start = Callable[..., Program]

HMP = ("-monitor", "unix:{DIR}/hmp,server=on,wait=off")
QMP = ("-qmp", "unix:{DIR}/qmp,server=on,wait=off")
SERIAL = ("-serial", "unix:{DIR}/serial,server=on,wait=off")
#: the serial port's text from the very beginning
SERIAL_WAIT = ("-serial", "unix:{DIR}/serial,server=on,wait=on")
NO_SERIAL = ("-serial", "none")


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []
    # Not pytest's folder: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="snooze") as folder:
        def begin(*arguments: str, **more: Any) -> Program:
            programs.append(Program(Path(folder), *arguments, **more))
            return programs[-1]

        yield begin
        for program in programs:
            with program.process as process:
                if process.poll() is None:
                    process.kill()


def rom(body: str) -> bytes:
    """A 64 KiB ROM with *body* at 0xf000:0, entered from the reset vector."""
    image = bytearray(0x10000)
    code = asm(body, org=0)
    image[:len(code)] = code
    image[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"
    return bytes(image)


def menu(program: Program, hmp: Client, serial: Client) -> None:
    """Wake the bundled firmware from its first sleep, to its menu."""
    serial.until(b"wake me")
    while hmp.hmp("info status") != SUSPENDED:
        time.sleep(0.005)
    assert hmp.hmp("system_wakeup") == b""
    serial.until(b"> ")


def eventually(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


# -- the run states

def test_the_run_state_transcript_over_hmp(start: Start) -> None:
    program = start(*HMP, *SERIAL_WAIT)
    serial, hmp = program.client("serial"), program.client("hmp")
    with serial, hmp:
        assert hmp.until(PROMPT) == BANNER
        serial.until(b"wake me")
        eventually(lambda: hmp.hmp("info status") == SUSPENDED)
        assert hmp.hmp("stop") == b""
        assert hmp.hmp("info status") == b"VM status: paused\r\n"
        assert hmp.hmp("system_wakeup") == (
            b"Error: Unable to wake up: guest is not in suspended state\r\n")
        assert hmp.hmp("cont") == b""
        assert hmp.hmp("info status") == SUSPENDED
        assert hmp.hmp("system_wakeup") == b""
        assert b"RAM intact (1 wake)" in serial.until(b"wake)\r\n")
        assert hmp.hmp("info status") == b"VM status: running\r\n"
        assert hmp.hmp("bogus") == b"unknown command: 'bogus'\r\n"
        hmp.send(b"quit\n")
        assert hmp.rest().endswith(b"quit\x1b[K\r\n")
    assert program.ended()[0] == 0


def test_the_run_state_transcript_over_qmp(start: Start) -> None:
    program = start("-S", *QMP, *NO_SERIAL)
    with program.client("qmp") as qmp:
        greeting = qmp.message()["QMP"]
        assert greeting["capabilities"] == ["oob"]
        assert greeting["version"]["package"] == f"snooze {VERSION}"
        assert qmp.qmp("query-status")[0]["error"]["class"] == "CommandNotFound"
        qmp.qmp("qmp_capabilities")

        def status(name: str, running: bool) -> None:
            (reply,) = qmp.qmp("query-status")
            assert list(reply["return"].items()) == [
                ("status", name), ("singlestep", False), ("running", running)]

        status("prelaunch", False)
        assert qmp.qmp("cont") == [{"event": "RESUME"}, {"return": {}}]
        assert qmp.event("SUSPEND") == {"event": "SUSPEND"}
        status("suspended", False)
        assert qmp.qmp("stop") == [{"event": "STOP"}, {"return": {}}]
        status("paused", False)
        assert qmp.qmp("system_wakeup") == [{"error": {
            "class": "GenericError",
            "desc": "Unable to wake up: guest is not in suspended state"}}]
        assert qmp.qmp("cont") == [{"event": "RESUME"}, {"return": {}}]
        status("suspended", False)
        assert qmp.qmp("system_wakeup") == [{"event": "WAKEUP"}, {"return": {}}]
        status("running", True)
        assert qmp.qmp("human-monitor-command", **{"command-line": "info status"}) == [
            {"return": "VM status: running\r\n"}]
        qmp.send(b'{"execute": "quit", "id": 7} {"execute": "query-status", "id": 8}')
        *events, last = [json.loads(line) for line in qmp.rest().splitlines()]
    assert {each.get("event") for each in events} <= {"SHUTDOWN", None}
    replies = [each for each in [*events, last] if "return" in each]
    assert replies == [{"return": {}, "id": 7}], "what stands behind quit is not answered"
    shutdown = next(each for each in [*events, last] if each.get("event") == "SHUTDOWN")
    assert shutdown["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert program.ended() == (0, "")


def test_the_real_qmp_client_works(start: Start) -> None:
    qmp_module = pytest.importorskip("qemu.qmp")
    program = start("-S", *QMP, *NO_SERIAL)
    program.client("qmp").socket.close()            # it listens now

    async def story() -> None:
        client = qmp_module.QMPClient("test")
        await client.connect(str(program.folder / "qmp"))
        assert await client.execute("query-status") == {
            "status": "prelaunch", "singlestep": False, "running": False}
        with client.listener(("SUSPEND", "STOP", "RESUME", "WAKEUP")) as listener:
            await client.execute("cont")
            assert (await listener.get())["event"] == "RESUME"
            assert (await listener.get())["event"] == "SUSPEND"
            await client.execute("stop")
            assert [each["event"] for each in listener.clear()] == ["STOP"]
            with pytest.raises(qmp_module.ExecuteError, match="guest is not in suspended state"):
                await client.execute("system_wakeup")
            await client.execute("cont")
            await client.execute("system_wakeup")
            assert [each["event"] for each in listener.clear()] == ["RESUME", "WAKEUP"]
        assert (await client.execute("query-status"))["status"] == "running"
        assert client.greeting.QMP.capabilities == ["oob"]
        await client.execute("quit")
        with contextlib.suppress(EOFError):
            await client.disconnect()

    asyncio.run(asyncio.wait_for(story(), TIMEOUT))
    assert program.ended() == (0, "")


# -- how it ends

def test_no_reboot_turns_a_reset_into_the_end(start: Start) -> None:
    program = start("-no-reboot", *HMP, *QMP, *SERIAL_WAIT)
    serial = program.client("serial")
    with program.client("hmp") as hmp, program.client("qmp") as qmp, serial:
        hmp.until(PROMPT)
        qmp.negotiate()
        menu(program, hmp, serial)
        serial.send(b"r")
        assert qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-reset"}
    assert program.ended()[0] == 0


def test_no_shutdown_keeps_the_machine_after_power_off(start: Start) -> None:
    program = start("-no-shutdown", *HMP, *QMP, *SERIAL_WAIT)
    serial = program.client("serial")
    with program.client("hmp") as hmp, program.client("qmp") as qmp, serial:
        hmp.until(PROMPT)
        qmp.negotiate()
        menu(program, hmp, serial)
        serial.send(b"o")
        assert qmp.event("SHUTDOWN")["data"] == {"guest": True, "reason": "guest-shutdown"}
        assert qmp.event("STOP") == {"event": "STOP"}
        assert hmp.hmp("info status") == b"VM status: paused (shutdown)\r\n"
        assert hmp.hmp("cont") == b"Error: Resetting the Virtual Machine is required\r\n"
        hmp.send(b"q\n")
    assert program.ended()[0] == 0


@pytest.mark.parametrize("value", [0, 0x21])
def test_isa_debug_exit_says_the_exit_status(start: Start, value: int) -> None:
    body = f"mov al, {value}\nmov dx, 0x501\nout dx, al\nhlt"
    program = start("-device", "isa-debug-exit", *NO_SERIAL, "-monitor", "none", bios=rom(body))
    assert program.ended() == (value << 1 | 1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_orderly_end(start: Start, number: signal.Signals) -> None:
    program = start("-S", *QMP, *NO_SERIAL)
    with program.client("qmp") as qmp:
        qmp.negotiate()
        program.process.send_signal(number)
        assert qmp.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-signal"}
        assert qmp.rest() == b""
    status, errors = program.ended()
    assert status == 0
    assert re.fullmatch(rf"terminating on signal {number.value} from pid {os.getpid()} \(.+\)\n",
                        errors)
    assert not (program.folder / "qmp").exists()


def test_an_unknown_option_is_one_line_and_1(start: Start) -> None:
    assert start("-frobnicate").ended() == (1, "-frobnicate: invalid option\n")


# -- where bytes go

def test_the_serial_port_in_a_file(start: Start) -> None:
    program = start("-serial", "file:{DIR}/log", *QMP)
    with program.client("qmp") as qmp:
        qmp.negotiate()
        log = program.folder / "log"
        eventually(lambda: b"wake me" in log.read_bytes())
        qmp.qmp("quit")
    assert program.ended() == (0, "")
    assert log.read_bytes().startswith(b"\r\nsnooze firmware")


def test_serial_port_and_monitor_share_pipes(start: Start) -> None:
    program = start("-nographic", stdin=subprocess.PIPE)
    stdin, stdout = program.process.stdin, program.process.stdout
    assert stdin is not None and stdout is not None
    with Pipe(stdout.fileno()) as pipe:
        assert pipe.until(b"wake me").startswith(b"\r\nsnooze firmware")
        os.write(stdin.fileno(), b"\x01c")
        pipe.until(BANNER)
        os.write(stdin.fileno(), b"system_wakeup\n")
        assert b"RAM intact (1 wake)" in pipe.guest_until(b"this menu\r\n\r\n> ")
        os.write(stdin.fileno(), b"info status\n")
        pipe.until(b"VM status: running\r\n(qemu) ")
        os.write(stdin.fileno(), b"\x01x")
        assert b"Terminated" in pipe.until(b"Terminated\n\r")
    assert program.ended()[0] == 0


@pytest.mark.parametrize("closed", ["at its end", "closed"])
def test_a_monitor_on_stdin_that_is_closed_leaves_the_machine_alone(
        start: Start, closed: str) -> None:
    more: dict[str, Any] = {"preexec_fn": lambda: os.close(0)} if closed == "closed" else {}
    program = start("-S", "-monitor", "stdio", *QMP, *NO_SERIAL, **more)
    stdout = program.process.stdout
    assert stdout is not None
    with program.client("qmp") as qmp, Pipe(stdout.fileno()) as pipe:
        qmp.negotiate()
        assert pipe.until(PROMPT) == BANNER
        time.sleep(0.05)
        assert qmp.qmp("query-status")[0]["return"]["status"] == "prelaunch"
        qmp.qmp("quit")
    assert program.ended() == (0, "")


class Pipe(Client):
    """The program's stdout or stderr, read like a socket."""

    def __init__(self, fd: int, timeout: float = TIMEOUT) -> None:
        self._fd = fd
        self._timeout = timeout
        self._kept = b""
        os.set_blocking(fd, False)

    def __exit__(self, *_: object) -> None:
        """Whoever opened it closes it."""

    def _more(self, limit: float) -> None:
        assert time.monotonic() < limit, self._kept
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            time.sleep(0.005)
            return
        assert data, self._kept
        self._kept += data

    def guest_until(self, end: bytes) -> bytes:
        """What the guest writes up to *end*: the monitor's prompt may come anywhere in it."""
        limit = time.monotonic() + self._timeout
        while end not in (text := self._kept.replace(PROMPT, b"")):
            self._more(limit)
        self._kept = b""
        return text

    def until(self, end: bytes) -> bytes:
        limit = time.monotonic() + self._timeout
        while end not in self._kept:
            self._more(limit)
        at = self._kept.index(end) + len(end)
        out, self._kept = self._kept[:at], self._kept[at:]
        return out


# -- clients that come, go, and misbehave

def test_clients_come_and_go(start: Start) -> None:
    program = start("-S", *HMP, *QMP, *NO_SERIAL)
    for _ in range(3):
        with program.client("hmp") as hmp:
            assert hmp.until(PROMPT) == BANNER
            hmp.send(b"info sta")           # left unfinished
        with program.client("qmp") as qmp:
            qmp.negotiate()                 # each client anew
            qmp.send(b'{"execute": ')
    with program.client("hmp") as hmp:
        assert hmp.until(PROMPT) == BANNER
        assert hmp.hmp("info status") == b"VM status: paused (prelaunch)\r\n"
        hmp.send(b"quit\n")
    assert program.ended() == (0, "")


def test_garbage_kills_nothing(start: Start) -> None:
    garbage = bytes((i * 7919 >> 3) % 256 for i in range(20000))
    program = start("-S", *HMP, *QMP, *NO_SERIAL)
    for name in ("hmp", "qmp"):
        with program.client(name) as client:
            client.send(garbage)
            client.socket.shutdown(socket.SHUT_WR)
            client.rest()
    with program.client("qmp") as qmp:
        qmp.negotiate()
        qmp.send(b"\xff\xfe{]}" + b"[" * 5000 + b"\n\xff{'execute': 'query-status', 'id': 1}")
        while qmp.message().get("id") != 1:
            pass
    with program.client("qmp") as qmp:
        qmp.negotiate()
        qmp.send(b'{"execute": "quit"}')
        qmp.rest()
    status, errors = program.ended()
    assert status == 0 and "Traceback" not in errors


def test_broken_quotes_are_told_on_stderr_as_qemu_does(start: Start) -> None:
    program = start("-S", *HMP, *NO_SERIAL, stderr=subprocess.PIPE)
    with program.client("hmp") as hmp:
        hmp.until(PROMPT)
        assert hmp.hmp('sendkey "a').startswith(b"sendkey: string expected\r\n")
        hmp.send(b"quit\n")
        hmp.rest()
    _, errors = program.process.communicate(timeout=TIMEOUT)
    assert errors == b"unterminated string\n"


@pytest.mark.slow
def test_a_client_that_never_reads_does_not_fill_our_memory(start: Start) -> None:
    prints = "mov dx, 0x3f8\nmov al, 'x'\nagain: out dx, al\njmp again"
    program = start("-S", *HMP, *SERIAL, bios=rom(prints))
    with program.client("serial"), program.client("hmp") as hmp:
        hmp.until(PROMPT)
        before = program.memory()
        assert hmp.hmp("cont") == b""
        # As much as it takes until the limit is reached and said, and then some more.
        stderr = program.process.stderr
        assert stderr is not None
        assert Pipe(stderr.fileno(), 200).until(b"\n").endswith(
            b"/serial,server=on: nobody reads what is sent, so output is dropped\n")
        os.set_blocking(stderr.fileno(), True)
        time.sleep(0.5)
        assert program.memory() - before < 8 << 20
        assert hmp.hmp("info status") == b"VM status: running\r\n"
        hmp.send(b"quit\n")
        hmp.rest()
    status, errors = program.ended()
    assert (status, errors) == (0, ""), "it is said once"


def test_commands_that_come_faster_than_they_are_done_are_all_answered(start: Start) -> None:
    program = start("-S", *HMP, *NO_SERIAL)
    with program.client("hmp") as hmp:
        hmp.until(PROMPT)
        count = 2000
        hmp.send(b"info name\n" * (count // 2) + b"info status\n" * (count // 2) + b"quit\n")
        answers = hmp.rest()
    assert answers.count(b"VM status: paused (prelaunch)\r\n(qemu) ") == count // 2
    assert program.ended() == (0, "")


def test_an_unknown_unicorn_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "libunicorn.so.2").write_bytes(b"not a library")
    done = subprocess.run(
        [sys.executable, "-m", "monitor", "-display", "none"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIBUNICORN_PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False)
    assert done.returncode == 1
    assert "this build of unicorn is not one that is known to work: " in done.stderr
    assert done.stderr.count("\n") == 1
