"""The human monitor's commands, and connections to it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from machine.runstate import RunState
from monitor.expression import ExpressionError, evaluate
from monitor.hmp import COMMANDS, Command, CommandTable, Session, complete, execute_line, reference
from monitor.hmp_session import HmpSession
from monitor.keycodes import NUMBERS, QCODES
from tests.monitor.fake_machine import FakeMachine

NO_REGISTERS: dict[str, int] = {}


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


def hint(name: str) -> str:
    return f'Try "help {name}" for more information\n'


class TestMistakes:
    @pytest.mark.parametrize(
        ("line", "text"),
        [
            ("", ""),
            ("  ", ""),
            ("bogus", "unknown command: 'bogus'\n"),
            ("bogus arg", "unknown command: 'bogus'\n"),
            ("  bogus", "unknown command: '  bogus'\n"),
            ("bogus/x", "unknown command: 'bogus'\n"),
            ("/", "unknown command: ''\n"),
            ("st", "unknown command: 'st'\n"),
            ("Stop", "unknown command: 'Stop'\n"),
            ("stop|s", "unknown command: 'stop|s'\n"),
            ("info bogus x", "unknown command: 'info bogus'\n"),
            ("  info   bogus x", "unknown command: '  info   bogus'\n"),
            ("info/status", "unknown command: 'info'\n"),
            ("info Status", "unknown command: 'info Status'\n"),
            ("info status;", "unknown command: 'info status;'\n"),
            ('"info" status', "unknown command: '\"info\"'\n"),
            ("stop now", "stop|s: extraneous characters at the end of line\n" + hint("stop")),
            ("q x", "quit|q: extraneous characters at the end of line\n" + hint("q")),
            ("s/", "stop|s: extraneous characters at the end of line\n" + hint("s")),
            (
                "info status x",
                "status: extraneous characters at the end of line\n" + hint("info status"),
            ),
            (
                "info  status  x",
                "status: extraneous characters at the end of line\n" + hint("info  status"),
            ),
            ("sendkey", "sendkey: string expected\n" + hint("sendkey")),
            ('sendkey "a', "sendkey: string expected\n" + hint("sendkey")),
            ('sendkey "a\\x"', "sendkey: string expected\n" + hint("sendkey")),
            ("sendkey a x", "invalid char 'x' in expression\n" + hint("sendkey")),
            ("sendkey a 1+", "unexpected end of expression\n" + hint("sendkey")),
            (
                "sendkey a -1",
                "'sendkey' has failed: integer is for 32-bit values\n" + hint("sendkey"),
            ),
            (
                "sendkey a 10 20",
                "sendkey: extraneous characters at the end of line\n" + hint("sendkey"),
            ),
            (
                "info registers -x",
                "registers: unsupported option -x\n" + hint("info registers"),
            ),
            ("info registers -", "registers: unsupported option -" + hint("info registers")),
            ("info registers -ax", "invalid char 'x' in expression\n" + hint("info registers")),
            ("info stats", "stats: string expected\n" + hint("info stats")),
            ("one-insn-per-tb bogus", "unexpected option bogus\n"),
            ('one-insn-per-tb ""', "unexpected option \n"),
        ],
    )
    def test_are_told_as_qemu_does(self, machine: FakeMachine, line: str, text: str) -> None:
        assert execute_line(machine, line) == text
        assert machine.calls == []

    def test_broken_quotes_are_logged(
        self, machine: FakeMachine, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "snooze.monitor"):
            execute_line(machine, 'sendkey "a')
            execute_line(machine, 'sendkey "a\\q"')
        assert caplog.messages == ["unterminated string", "unsupported escape code: '\\q'"]

    def test_the_machine_s_refusal_is_an_error_line(self, machine: FakeMachine) -> None:
        machine.refusal = "Unable to wake up: guest is not in suspended state"
        assert execute_line(machine, "system_wakeup") == (
            "Error: Unable to wake up: guest is not in suspended state\n"
        )

    def test_a_string_argument_is_declared_and_required(self, machine: FakeMachine) -> None:
        table = CommandTable(
            [Command("watchdog_action", "", lambda call: call.text("action"), (), "action:s")]
        )
        assert execute_line(machine, "watchdog_action", Session(table)) == (
            "watchdog_action: string expected\n" + hint("watchdog_action")
        )
        assert execute_line(machine, 'watchdog_action "a\\"b"', Session(table)) == 'a"b'


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("stop", "stop"),
        ("s", "stop"),
        ("cont", "cont"),
        ("  c  ", "cont"),
        ("system_wakeup", "wakeup"),
        ("system_reset", "system_reset"),
        ("system_powerdown", "system_powerdown"),
        ("nmi", "inject_nmi"),
        ("quit", "quit"),
        ("q", "quit"),
    ],
)
def test_a_command_calls_the_machine_and_prints_nothing(
    machine: FakeMachine, line: str, call: str
) -> None:
    assert execute_line(machine, line) == ""
    assert machine.calls == [call]


@pytest.mark.parametrize(
    ("state", "singlestep", "text"),
    [
        (RunState.RUNNING, False, "running"),
        (RunState.RUNNING, True, "running (single step mode)"),
        (RunState.PAUSED, False, "paused"),
        (RunState.SUSPENDED, False, "paused (suspended)"),
        (RunState.PRELAUNCH, True, "paused (single step mode) (prelaunch)"),
        (RunState.GUEST_PANICKED, False, "paused (guest-panicked)"),
    ],
)
def test_info_status(machine: FakeMachine, state: RunState, singlestep: bool, text: str) -> None:
    machine.state, machine.one_insn_per_tb = state, singlestep
    assert execute_line(machine, "info status") == f"VM status: {text}\n"


@pytest.mark.parametrize(
    ("line", "on"), [("one-insn-per-tb", True), ("one-insn-per-tb on", True)]
)
def test_one_insn_per_tb_goes_on_and_off(machine: FakeMachine, line: str, on: bool) -> None:
    assert execute_line(machine, line) == ""
    assert machine.one_insn_per_tb is on
    assert execute_line(machine, "one-insn-per-tb off") == ""
    assert machine.one_insn_per_tb is False


class TestSendkey:
    @pytest.mark.parametrize(
        ("arguments", "keys"),
        [
            ("a", (["a"], 100)),
            ("ctrl-alt-delete", (["ctrl", "alt", "delete"], 100)),
            ("a 250", (["a"], 250)),
            ("a 2*(100+$r8)", (["a"], 200)),
            ("a 0", (["a"], 100)),
            ("a 0xffffffff", (["a"], 100)),  # -1: not a time to hold
            ("<", (["less"], 100)),
            ("<-a", (["less", "a"], 100)),
            ("0x1e-0xcb", (["a", "left"], 100)),
            ("0xfff-a", (["a"], 100)),
            ("unmapped", ([], 100)),  # types nothing, but wakes
            ('"ret"', (["ret"], 100)),
        ],
    )
    def test_presses(
        self, machine: FakeMachine, arguments: str, keys: tuple[list[str], int]
    ) -> None:
        assert execute_line(machine, f"sendkey {arguments}") == ""
        assert machine.calls == [keys]

    @pytest.mark.parametrize(
        ("keys", "shown"),
        [
            ("bogus", "bogus"),
            ("a-bogus", "bogus"),
            ("-", ""),
            ("a-", ""),
            ("A", "A"),
            ("0x", "0x"),
            ("0xg", "0xg"),
            ("0x80000000", "0x80000000"),
            ("ctrl_l", "ctrl_l"),
        ],
    )
    def test_refuses_what_is_no_key(self, machine: FakeMachine, keys: str, shown: str) -> None:
        assert execute_line(machine, f"sendkey {keys}") == f"invalid parameter: {shown}\n"
        assert machine.calls == []

    def test_every_number_has_a_name(self) -> None:
        assert set(NUMBERS.values()) <= set(QCODES)


class TestInfo:
    def test_registers(self, machine: FakeMachine) -> None:
        text = execute_line(machine, "info registers")
        assert text.startswith("\nCPU#0\nEAX=00000000 ")
        assert execute_line(machine, "info registers -a") == text
        assert execute_line(machine, "info registers 0") == text
        assert execute_line(machine, "info registers 1") == "CPU#1 not available\n"

    def test_version(self, machine: FakeMachine) -> None:
        session = Session(COMMANDS, "1.2.3")
        assert execute_line(machine, "info version", session) == "1.2.3\n"

    def test_history_is_the_session_s(self, machine: FakeMachine) -> None:
        assert execute_line(machine, "info history") == ""
        session = Session(COMMANDS, history=lambda: ["stop", "info history"])
        assert execute_line(machine, "info history", session) == "0: 'stop'\n1: 'info history'\n"

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ("vm", ""),
            ("vm a kvm", ""),
            ("bogus", "invalid stats target bogus\n"),
            ("vm a b", "invalid stats provider b\n"),
        ],
    )
    def test_stats(self, machine: FakeMachine, arguments: str, text: str) -> None:
        assert execute_line(machine, f"info stats {arguments}") == text


class TestHelp:
    @pytest.mark.parametrize(
        ("line", "start"),
        [
            ("help stop", "stop|s  -- "),
            ("help s", "stop|s  -- "),
            ("? ?", "help|? [cmd] -- "),
            ("help stop x", "stop|s  -- "),
            ('help "stop"', "stop|s  -- "),
            ("help sendkey", "sendkey keys [hold_ms] -- "),
            ("help one-insn-per-tb", "one-insn-per-tb [on|off] -- "),
            ("help info status", "info status  -- "),
            ("help info registers x", "info registers [-a|vcpu] -- "),
        ],
    )
    def test_of_one_command_is_one_line(
        self, machine: FakeMachine, line: str, start: str
    ) -> None:
        text = execute_line(machine, line)
        assert text.startswith(start)
        assert text.count("\n") == 1
        assert len(text) > len(start) + 10

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("help bogus", "bogus"),
            ("help info bogus x", "info bogus"),
            ("help/stop", "/stop"),
            ('help ""', ""),
        ],
    )
    def test_of_no_command(self, machine: FakeMachine, line: str, name: str) -> None:
        assert execute_line(machine, line) == f"unknown command: '{name}'\n"

    def test_lists_every_command_by_name(self, machine: FakeMachine) -> None:
        lines = execute_line(machine, "help").splitlines()
        assert [line.split(" ")[0] for line in lines] == [
            "cont|c", "help|?", "info", "log", "logfile", "nmi", "one-insn-per-tb", "quit|q",
            "sendkey", "stop|s", "system_powerdown", "system_reset", "system_wakeup",
        ]
        assert "info [subcommand] -- " in execute_line(machine, "help")

    def test_info_alone_lists_what_there_is(self, machine: FakeMachine) -> None:
        text = execute_line(machine, "info")
        assert [line.split(" ")[1] for line in text.splitlines()] == [
            "history", "registers", "stats", "status", "version",
        ]
        assert execute_line(machine, "help info") == text

    def test_broken_quotes_give_nothing(self, machine: FakeMachine) -> None:
        assert execute_line(machine, 'help "stop') == ""

    def test_the_reference_page_has_every_command(self) -> None:
        page = reference()
        for command in COMMANDS.commands:
            if command.subcommands is None:
                assert f"## `{command.label}" in page
        assert "## `info registers [-a|vcpu]`" in page
        assert "## `sendkey keys [hold_ms]`" in page


@pytest.mark.parametrize(
    ("line", "typed", "words"),
    [
        ("system_w", 8, ["system_wakeup"]),
        ("s", 1, ["s", "sendkey", "stop", "system_powerdown", "system_reset", "system_wakeup"]),
        ("info stat", 4, ["stats", "status"]),
        ('info "reg"', 3, ["registers"]),
        ("info ", 0, ["history", "registers", "stats", "status", "version"]),
        ("help sto", 3, ["stop"]),
        ("help info ver", 3, ["version"]),
        ("help stop ", 0, []),
        ("stop ", 0, []),
        ("stop", 4, ["stop"]),
        ("bogus s", 0, []),
        ("sendkey ctrl-al", 2, ["alt", "alt_r"]),
        ("sendkey a b", 0, []),
        ("one-insn-per-tb o", 1, ["off", "on"]),
        ('"sto', 0, []),
    ],
)
def test_completion(line: str, typed: int, words: list[str]) -> None:
    completion = complete(line)
    assert sorted(completion.words) == words
    if words:
        assert completion.typed == typed


def test_the_empty_line_completes_to_every_name() -> None:
    assert "?" in complete("").words
    assert "quit" in complete("").words


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1+2*3", 7),
            ("(1+2)*3", 9),
            ("4+3&1", 5),  # & before +
            ("3&2*3", 2),  # and after *
            ("1|6&2", 2),  # | and & alike
            ("6&3|8^1", 11),
            ("7-3-2", 2),
            ("-7/2", -3),
            ("-7%3", -1),
            ("~0", -1),
            ("+-+1", -1),
            ("4 - -1", 5),
            ("0x1F", 31),
            ("010", 8),
            ("'a'", 97),
            ("'''", 39),
            ("0xffffffffffffffff", -1),
            ("$one + 1", 2),
            ("0x7fffffffffffffff+1", -(1 << 63)),
        ],
    )
    def test_values(self, text: str, value: int) -> None:
        assert evaluate(text, {"one": 1}.get) == (value, len(text))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "unexpected end of expression"),
            ("1+", "unexpected end of expression"),
            ("(1", "')' expected"),
            ("1/0", "division by zero"),
            ("x", "invalid char 'x' in expression"),
            ("$bogus", "unknown register"),
            ("'", "character constant expected"),
            ("'ab'", "missing terminating ' character"),
            ("18446744073709551616", "number too large"),
        ],
    )
    def test_mistakes(self, text: str, message: str) -> None:
        with pytest.raises(ExpressionError) as error:
            evaluate(text, NO_REGISTERS.get)
        assert str(error.value) == message

    @pytest.mark.parametrize(("text", "end"), [("1 2", 2), ("08", 1), ("0x", 1), ("1<<2", 1)])
    def test_what_follows_is_left(self, text: str, end: int) -> None:
        assert evaluate(text, NO_REGISTERS.get)[1] == end


class Connection:
    """The other side of an `HmpSession`."""

    def __init__(self, machine: FakeMachine) -> None:
        self.out = bytearray()
        self.closed = False
        self.session = HmpSession(machine, self._receive, self._close, "1.2.3")

    def _receive(self, data: bytes) -> None:
        self.out += data

    def _close(self) -> None:
        self.closed = True

    async def answer(self, *chunks: bytes) -> bytes:
        """What comes back for *chunks*."""
        self.out.clear()
        for chunk in chunks:
            self.session.feed(chunk)
        await asyncio.wait_for(self.session.drain(), 5)
        return bytes(self.out)


class TestConnection:
    def test_greets(self, machine: FakeMachine) -> None:
        connection = Connection(machine)
        connection.session.start()
        assert connection.out == (
            b"snooze 1.2.3 monitor - type 'help' for more information\r\n(qemu) "
        )

    def test_answers_with_cr_lf_and_a_prompt(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            out = await Connection(machine).answer(b"info status\n")
            assert out.endswith(b"info status\x1b[K\r\nVM status: running\r\n(qemu) ")

        asyncio.run(scenario())

    def test_answers_keys_that_come_early_in_order(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            connection = Connection(machine)
            out = await connection.answer(b"s\ninf", b"o status\nc", b"\nx")
            assert b"s\x1b[K\r\n(qemu) i\x1b[K" in out
            assert b"\r\nVM status: paused\r\n(qemu) c\x1b[K\r\n(qemu) x\x1b[K" in out
            assert machine.calls == ["stop", "cont"]

        asyncio.run(scenario())

    def test_after_quit_there_is_nothing_more(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            connection = Connection(machine)
            out = await connection.answer(b"q\nstop\n")
            assert out == b"q\x1b[K\r\n"
            assert await connection.answer(b"stop\n") == b""
            assert machine.calls == ["quit"]

        asyncio.run(scenario())

    def test_is_closed_when_the_machine_has_left(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            connection = Connection(machine)
            machine.left = True
            assert await connection.answer(b"s\ns\n") == b"s\x1b[K\r\n"
            assert connection.closed

        asyncio.run(scenario())

    def test_has_its_own_history(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            first, second = Connection(machine), Connection(machine)
            await first.answer(b"bogus\n")
            out = await second.answer(b"info history\n")
            assert out.endswith(b"\r\n0: 'info history'\r\n(qemu) ")

        asyncio.run(scenario())

    def test_bytes_that_are_no_text_come_back_as_they_were(self, machine: FakeMachine) -> None:
        async def scenario() -> None:
            out = await Connection(machine).answer(b"\xe9x\n")
            assert out.endswith(b"\r\nunknown command: '\xe9x'\r\n(qemu) ")

        asyncio.run(scenario())

    def test_our_own_failure_is_reported_and_the_session_goes_on(
        self, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken() -> None:
            raise ZeroDivisionError

        async def scenario() -> None:
            failures: list[object] = []
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
            monkeypatch.setattr(machine, "stop", broken)
            connection = Connection(machine)
            out = await connection.answer(b"s\ninfo status\n")
            assert [type(failure) for failure in failures] == [ZeroDivisionError]
            assert out.endswith(b"VM status: running\r\n(qemu) ")

        asyncio.run(scenario())
