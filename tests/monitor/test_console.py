"""The console on the terminal, with keys from a pipe and a terminal made of a string."""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from machine.runstate import RunState
from monitor.console import BACKLOG_LIMIT, HINT, Console, history_path, printable
from tests.monitor.fake_machine import FakeMachine

LIMIT = 3.0
ERASE_DOWN = "\x1b[J"
ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A console that runs, and what it drew."""

    def __init__(self, console: Console, keys: PipeInput, drawn: io.StringIO) -> None:
        self.console = console
        self._keys = keys
        self._drawn = drawn

    @property
    def raw(self) -> str:
        return self._drawn.getvalue()

    @property
    def text(self) -> str:
        """Without the escape sequences."""
        return ESCAPE_SEQUENCE.sub("", self.raw)

    @property
    def lines(self) -> list[str]:
        """What was written in whole lines; the prompt was erased before each."""
        lines = (line.rpartition(ERASE_DOWN)[2] for line in self.raw.split("\r\n"))
        return [ESCAPE_SEQUENCE.sub("", line) for line in lines]

    def type(self, keys: str) -> None:
        self._keys.send_text(keys)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition():
                await asyncio.sleep(0.005)

    async def shows(self, text: str) -> None:
        try:
            await self.until(lambda: text in self.text)
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in {self.text!r}") from None


@asynccontextmanager
async def running(
    machine: FakeMachine, history: Path, *, wait: bool = True
) -> AsyncIterator[tuple[Screen, asyncio.Task[None]]]:
    drawn = io.StringIO()
    with create_pipe_input() as keys:
        output = Vt100_Output(
            drawn, lambda: Size(rows=24, columns=80), term="xterm", enable_cpr=False
        )
        with create_app_session(input=keys, output=output):
            console = Console(machine, "1.2.3", history)
            task = asyncio.ensure_future(console.run())
            screen = Screen(console, keys, drawn)
            if wait:
                await screen.shows("(qemu)")
            try:
                yield screen, task
            finally:
                task.cancel()
                await asyncio.wait({task})


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history"


def test_greets_and_prompts(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            await screen.shows("snooze 1.2.3 monitor - type 'help' for more information\r\n")

    asyncio.run(scenario())


def test_a_line_is_a_monitor_command(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type("stop\rinfo status\r")
            await screen.shows("VM status: paused\r\n")
            assert "(qemu) info status" in screen.lines
            assert machine.calls == ["stop"]

    asyncio.run(scenario())


def test_quit_ends_it(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, task):
            screen.type("quit\r")
            await asyncio.wait_for(task, LIMIT)
            assert machine.calls == ["quit"]

    asyncio.run(scenario())


def test_it_ends_when_the_machine_leaves(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, task):
            screen.console.serial_output(b"the last words")
            machine.left = True
            await asyncio.wait_for(task, LIMIT)
            assert "the last words" in screen.lines

    asyncio.run(scenario())


def test_it_ends_at_once_when_the_machine_is_gone(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        machine.left = True
        async with running(machine, history, wait=False) as (_, task):
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(scenario())


def test_cancelling_shows_what_the_guest_wrote(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, task):
            screen.console.serial_output(b"bye\r\nunfinished")
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert screen.lines[-3:] == ["bye", "unfinished", ""]

    asyncio.run(scenario())


def test_a_failure_of_ours_is_not_hidden(
    machine: FakeMachine, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        monkeypatch.setattr(machine, "stop", broken)
        async with running(machine, history) as (screen, task):
            screen.type("stop\r")
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(task, LIMIT)

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_no_key_leaves(machine: FakeMachine, history: Path, key: str) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, task):
            screen.type(key)
            await screen.shows(HINT)
            screen.type("info status\r")
            await screen.shows("VM status: running\r\n")
            assert not task.done()
            assert machine.calls == []

    asyncio.run(scenario())


def test_ctrl_c_drops_the_line(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type("system_re\x03stop\r")
            await screen.until(lambda: machine.calls != [])
            assert machine.calls == ["stop"]

    asyncio.run(scenario())


def test_ctrl_d_deletes_within_a_line(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type("xstop\x01\x04\r")
            await screen.until(lambda: machine.calls != [])
            assert machine.calls == ["stop"]
            assert HINT not in screen.text

    asyncio.run(scenario())


def test_tab_completes(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type("system_w\t")
            await screen.shows("system_wakeup")
            screen.type("\r")
            await screen.until(lambda: machine.calls == ["wakeup"])

    asyncio.run(scenario())


def test_the_toolbar_shows_the_run_state(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type("one-insn-per-tb\r")
            await screen.until(lambda: "one-insn-per-tb" in screen.console.toolbar)
            assert screen.console.toolbar == " running  1.50 s  one-insn-per-tb"
            machine.state = RunState.SUSPENDED
            await screen.until(lambda: screen.console.toolbar.startswith(" suspended "))

    asyncio.run(scenario())


def test_events_are_told(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, task):
            machine.emit("SUSPEND")
            machine.emit("RESET", {"guest": True, "reason": "guest-reset"})
            await screen.shows("[RESET guest=true reason=guest-reset]")
            assert "[SUSPEND]" in screen.lines
        await asyncio.wrap_future(machine.post(lambda: None))
        assert machine.subscribers == []

    asyncio.run(scenario())


def test_what_is_logged_is_told(machine: FakeMachine, history: Path) -> None:
    async def scenario() -> None:
        async with running(machine, history) as (screen, _):
            screen.type('sendkey "a\r')
            await screen.shows("sendkey: string expected\r\n")
            assert "unterminated string" in screen.lines
        assert logging.getLogger("snooze").propagate
        assert logging.getLogger("snooze").handlers == []

    asyncio.run(scenario())


class TestGuestOutput:
    def test_comes_in_whole_lines(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                for part in (b"one\r", b"\ntw", b"o\r\n"):
                    screen.console.serial_output(part)
                await screen.shows("two\r\n")
                assert "one" in screen.lines

        asyncio.run(scenario())

    def test_an_unfinished_line_is_shown_after_a_while(
        self, machine: FakeMachine, history: Path
    ) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.console.serial_output(b"login: ")
                await screen.shows("login: \r\n")
                screen.console.serial_output(b"\r\nPassword: \r\n")
                await screen.shows("Password: \r\n")
                at = screen.lines.index("login: ")
                assert screen.lines[at : at + 2] == ["login: ", "Password: "]  # no line between

        asyncio.run(scenario())

    def test_cannot_act_on_the_terminal(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.console.serial_output(
                    b"\x1b]0;evil\x07\x1b[2J\x08a\rb\xc2\x9b\xff\xe2\x80\xae\xc3\xa9\tz\n"
                )
                await screen.shows(
                    r"\x1b]0;evil\x07\x1b[2J\x08a\rb\x9b\xff\u202e" + "é\tz\r\n"
                )
                assert "\x07" not in screen.raw
                assert "\x1b[2J" not in screen.raw

        asyncio.run(scenario())

    def test_does_not_disturb_the_line_being_typed(
        self, machine: FakeMachine, history: Path
    ) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.type("info sta")
                await screen.shows("info sta")
                screen.console.serial_output(b"hello\n")
                await screen.shows("hello\r\n")
                screen.type("tus\r")
                await screen.shows("VM status: running\r\n")

        asyncio.run(scenario())

    def test_keeps_its_place_among_events(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.console.serial_output(b"before\n")
                machine.emit("STOP")
                screen.console.serial_output(b"after\n")
                await screen.shows("after\r\n")
                shown = [line for line in screen.lines if line in ("before", "[STOP]", "after")]
                assert shown == ["before", "[STOP]", "after"]

        asyncio.run(scenario())

    def test_before_the_console_runs_is_kept(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            with create_pipe_input() as keys, create_app_session(input=keys):
                drawn = io.StringIO()
                output = Vt100_Output(drawn, lambda: Size(rows=24, columns=80), enable_cpr=False)
                with create_app_session(input=keys, output=output):
                    console = Console(machine, "1.2.3", history)
                    console.serial_output(b"early\n")
                    task = asyncio.ensure_future(console.run())
                    screen = Screen(console, keys, drawn)
                    await screen.shows("early\r\n")
                    task.cancel()
                    await asyncio.wait({task})

        asyncio.run(scenario())

    def test_a_flood_is_cut(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.console.serial_output(b"x\n" * (BACKLOG_LIMIT // 2) + b"end\n")
                await screen.shows("end\r\n")
                assert "[4 bytes of the guest's output left out]" in screen.lines

        asyncio.run(scenario())


class TestTypingToTheGuest:
    def test_serial_sends_text_and_escapes(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.type("serial ls -l\\n\\x03\\e\\\\é\r")
                await screen.until(lambda: len(machine.serial) > 0)
                assert machine.serial == b"ls -l\n\x03\x1b\\\xc3\xa9"

        asyncio.run(scenario())

    def test_what_has_no_room_waits(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                machine.room = 2
                screen.type("serial abc\rserial def\rinfo status\r")
                await screen.shows("VM status: running\r\n")
                assert machine.serial == b"ab"
                machine.room = 100
                await screen.until(lambda: machine.serial == b"abcdef")

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        ("line", "ports", "text"),
        [
            ("serial \\q", 1, "Error: unsupported escape code: '\\q'"),
            ("serial", 1, "serial: string expected"),
            ("serial x", 0, "Error: there is no serial port"),
        ],
    )
    def test_mistakes_are_told(
        self, machine: FakeMachine, history: Path, line: str, ports: int, text: str
    ) -> None:
        async def scenario() -> None:
            machine.serial_ports = ports
            async with running(machine, history) as (screen, _):
                screen.type(f"{line}\r")
                await screen.shows(text + "\r\n")
                assert machine.serial == b""

        asyncio.run(scenario())

    def test_is_in_the_help_of_the_console(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.type("help serial\r")
                await screen.shows("serial text -- type text to the guest's first serial port")

        asyncio.run(scenario())


class TestHistory:
    def test_lasts_from_one_run_to_the_next(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.type("info version\r")
                await screen.shows("1.2.3\r\n")
            assert "info version" in history.read_text()
            async with running(machine, history) as (screen, _):
                screen.type("\x10")
                await screen.shows("info version")

        asyncio.run(scenario())

    def test_info_history_is_of_this_run(self, machine: FakeMachine, history: Path) -> None:
        async def scenario() -> None:
            async with running(machine, history) as (screen, _):
                screen.type("stop\rinfo history\r")
                await screen.shows("0: 'stop'\r\n1: 'info history'\r\n")

        asyncio.run(scenario())

    def test_that_cannot_be_kept_is_complained_about_once(
        self, machine: FakeMachine, tmp_path: Path
    ) -> None:
        in_the_way = tmp_path / "file"
        in_the_way.write_text("")

        async def scenario() -> None:
            async with running(machine, in_the_way / "history") as (screen, _):
                screen.type("stop\rcont\rinfo status\r")
                await screen.shows("VM status: running\r\n")
                assert screen.text.count("the history is not kept: ") == 1

        asyncio.run(scenario())

    def test_is_in_the_state_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
        assert history_path() == Path("/somewhere/state/snooze/history")
        monkeypatch.setenv("XDG_STATE_HOME", "relative")
        monkeypatch.setenv("HOME", "/home/somebody")
        assert history_path() == Path("/home/somebody/.local/state/snooze/history")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x00\x1b\x7f", r"\x00\x1b\x7f"),
        ("\r", r"\r"),
        ("\udce9", r"\udce9"),
        ("ö€", "ö€"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
