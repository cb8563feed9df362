"""The QMP server, on a machine that only remembers what it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from machine.config import MachineConfig
from machine.events import Event
from machine.runstate import Actions, MachineError, MachineLeft, RunState, Status
from monitor.chardev import Backend
from monitor.qmp import QUEUE_LIMIT, QmpServer, QmpSession, QmpTarget


class FakeMachine:
    """Serves what is posted at once, or when it is told to (`serve`)."""

    def __init__(self) -> None:
        self.config = MachineConfig(name="golden")
        self.runstate = SimpleNamespace(actions=Actions())
        self.one_insn_per_tb = False
        self.state = RunState.RUNNING
        self.calls: list[Any] = []
        self.tell: Callable[[Event], None] = lambda event: None
        self.held: list[Callable[[], None]] | None = None

    @property
    def status(self) -> Status:
        return Status(self.state, self.state is RunState.RUNNING, self.one_insn_per_tb)

    def post(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        if self.held is None:
            run()
        else:
            self.held.append(run)
        return future

    def serve(self) -> None:
        held, self.held = self.held or [], None
        for run in held:
            run()

    def event(self, name: str, data: dict[str, Any] | None = None) -> None:
        self.tell(Event(name, data, 1, 2))

    def stop(self) -> None:
        self.state = RunState.PAUSED
        self.event("STOP")

    def cont(self) -> None:
        self.state = RunState.RUNNING
        self.event("RESUME")

    def wakeup(self) -> None:
        raise MachineError("Unable to wake up: guest is not in suspended state")

    def system_reset(self) -> None:
        raise RuntimeError("a bug")

    def send_keys(self, qcodes: list[str], hold_ms: int = 100) -> None:
        self.calls.append((qcodes, hold_ms))

    def quit(self) -> None:
        self.event("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})


class FakeBackend:
    def __init__(self) -> None:
        self.text = ""
        self.paused = False

    def offer(self, data: bytes) -> None:
        self.write(data)

    def write(self, data: bytes) -> None:
        self.text += data.decode("ascii")

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Wire:
    """A client's end."""

    def __init__(self, *, pretty: bool = False) -> None:
        self.machine = FakeMachine()
        self.backend = FakeBackend()
        self.server = QmpServer(cast(QmpTarget, self.machine))
        self.machine.tell = self.server.event
        self.server.start(asyncio.get_running_loop())
        self.session: QmpSession = self.server.session(cast(Backend, self.backend), pretty=pretty)
        self.session.opened()

    async def raw(self, data: bytes) -> str:
        """Send *data*; the text that came."""
        self.backend.text = ""
        self.session.received(data)
        await self.settle()
        return self.backend.text

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def send(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        text = await self.raw("".join(map(json.dumps, requests)).encode())
        return [json.loads(line) for line in text.splitlines()]

    async def error(self, command: str, arguments: dict[str, Any] | None = None) -> str:
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        (reply,) = await self.send(request)
        assert reply["error"]["class"] == "GenericError"
        return cast(str, reply["error"]["desc"])

    async def ready(self) -> Wire:
        await self.send({"execute": "qmp_capabilities"})
        return self


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


def test_the_greeting_and_a_reply_byte_for_byte() -> None:
    async def story() -> None:
        wire = Wire()
        assert wire.backend.text.startswith('{"QMP": {"version": {"qemu": {"micro": ')
        assert wire.backend.text.endswith('"capabilities": ["oob"]}}\r\n')
        assert await wire.raw(b'{"execute": "qmp_capabilities"}') == '{"return": {}}\r\n'
        assert await wire.raw(b"{'execute': 'query-status', 'id': [1, {'x': null}]}") == (
            '{"return": {"status": "running", "singlestep": false, "running": true}, '
            '"id": [1, {"x": null}]}\r\n')
    run(story)


def test_pretty_output_breaks_lines() -> None:
    async def story() -> None:
        wire = Wire(pretty=True)
        assert await wire.raw(b'{"execute": "qmp_capabilities"}') == \
            '{\r\n    "return": {\r\n    }\r\n}\r\n'
    run(story)


def test_nothing_works_before_negotiation_and_no_event_is_sent() -> None:
    async def story() -> None:
        wire = Wire()
        for command in ("query-status", "foo"):
            (reply,) = await wire.send({"execute": command})
            assert reply == {"error": {
                "class": "CommandNotFound",
                "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}
        wire.backend.text = ""
        wire.machine.stop()
        await wire.settle()
        assert wire.backend.text == ""
    run(story)


def test_negotiation_happens_once() -> None:
    async def story() -> None:
        wire = Wire()
        assert await wire.error("qmp_capabilities", {"enable": ["foo"]}) == \
            "Parameter 'null' does not accept value 'foo'"
        assert await wire.error("qmp_capabilities", {"enable": [1]}) == \
            "Invalid parameter type for 'enable[0]', expected: string"
        assert await wire.send({"execute": "qmp_capabilities",
                                "arguments": {"enable": ["oob"]}}) == [{"return": {}}]
        (reply,) = await wire.send({"execute": "qmp_capabilities"})
        assert reply["error"] == {
            "class": "CommandNotFound",
            "desc": "Capabilities negotiation is already complete, command ignored"}
    run(story)


def test_events_come_before_the_reply_of_the_command_that_caused_them() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        text = await wire.raw(b'{"execute": "stop"}{"execute": "query-status"}'
                              b'{"execute": "cont"}{"execute": "quit"}')
        assert text.splitlines() == [
            '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}',
            '{"return": {}}',
            '{"return": {"status": "paused", "singlestep": false, "running": false}}',
            '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}',
            '{"return": {}}',
            '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", '
            '"data": {"guest": false, "reason": "host-qmp-quit"}}',
            '{"return": {}}']
    run(story)


@pytest.mark.parametrize(("request_", "problem"), [
    ("[]", "QMP input must be a JSON object"),
    ("null", "QMP input must be a JSON object"),
    ("{}", "QMP input lacks member 'execute'"),
    ('{"execute": 1}', "QMP input member 'execute' must be a string"),
    ('{"execute": "stop", "foo": 1}', "QMP input member 'foo' is unexpected"),
    ('{"execute": "stop", "arguments": []}', "QMP input member 'arguments' must be an object"),
    ('{"exec-oob": "stop"}', "QMP input member 'exec-oob' is unexpected"),
    ('{"execute": "stop",}', "JSON parse error, expecting value")])
def test_a_malformed_request_is_answered(request_: str, problem: str) -> None:
    async def story() -> None:
        wire = await Wire().ready()
        (line,) = (await wire.raw(request_.encode() + b"\n")).splitlines()
        assert json.loads(line) == {"error": {"class": "GenericError", "desc": problem}}
    run(story)


def test_arguments_are_checked_and_named() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        assert await wire.error("stop", {"x": None}) == "Parameter 'x' is unexpected"
        hmc = "human-monitor-command"
        assert await wire.error(hmc) == "Parameter 'command-line' is missing"
        assert await wire.error(hmc, {"command-line": 5}) == \
            "Invalid parameter type for 'command-line', expected: string"
        assert await wire.error(hmc, {"command-line": "", "cpu-index": 3}) == \
            "Parameter 'cpu-index' expects a CPU number"
        assert await wire.error(hmc, {"command-line": "", "cpu-index": True}) == \
            "Invalid parameter type for 'cpu-index', expected: integer"
        assert await wire.error("set-action", {"panic": "bogus"}) == \
            "Parameter 'panic' does not accept value 'bogus'"
        assert await wire.error("send-key", {"keys": "a"}) == \
            "Invalid parameter type for 'keys', expected: array"
        assert await wire.error("send-key", {"keys": [{"data": "a"}]}) == \
            "Parameter 'keys[0].type' is missing"
        assert await wire.error("send-key", {"keys": [{"type": "qcode", "data": "bogus"}]}) == \
            "Parameter 'data' does not accept value 'bogus'"
    run(story)


def test_an_unknown_command_has_an_error_class_of_its_own() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        assert await wire.send({"execute": "foo", "id": 7}) == [{"id": 7, "error": {
            "class": "CommandNotFound", "desc": "The command foo has not been found"}}]
    run(story)


def test_what_the_machine_refuses_is_an_error() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        assert await wire.error("system_wakeup") == \
            "Unable to wake up: guest is not in suspended state"
    run(story)


def test_a_bug_of_ours_is_answered_and_shown_and_the_server_goes_on() -> None:
    shown: list[dict[str, Any]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, what: shown.append(what))
        wire = await Wire().ready()
        assert "a bug" in await wire.error("system_reset")
        assert (await wire.send({"execute": "query-name"})) == [{"return": {"name": "golden"}}]
    run(story)
    assert [str(what["exception"]) for what in shown] == ["a bug"]


def test_set_action_changes_what_is_named_and_nothing_else() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        await wire.send({"execute": "set-action",
                         "arguments": {"reboot": "shutdown", "watchdog": "none"}})
        actions = wire.machine.runstate.actions
        assert (actions.reboot, actions.shutdown, actions.panic, actions.watchdog) == \
            ("shutdown", "poweroff", "shutdown", "none")
    run(story)


def test_keys_go_by_name_and_by_number() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        keys = [{"type": "qcode", "data": "ctrl"}, {"type": "number", "data": 0x1E},
                {"type": "number", "data": 99999}]
        await wire.send({"execute": "send-key", "arguments": {"keys": keys}})
        await wire.send({"execute": "send-key", "arguments": {"keys": [], "hold-time": 5}})
        assert wire.machine.calls == [(["ctrl", "a"], 100), ([], 5)]
    run(story)


def test_out_of_band_requests_are_refused_at_once_and_never_queued() -> None:
    async def story() -> None:
        wire = Wire()
        await wire.send({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})
        wire.machine.held = []
        replies = await wire.send({"execute": "stop", "id": 1}, {"exec-oob": "stop", "id": 2})
        assert [(r["id"], r["error"]["desc"]) for r in replies] == [
            (2, "The command stop does not support OOB")]
        wire.machine.serve()
        await wire.settle()
        assert '"id": 1' in wire.backend.text
    run(story)


def test_a_client_that_floods_is_not_read_until_its_commands_are_done() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        wire.machine.held = []
        await wire.raw(b'{"execute": "query-status"}' * (QUEUE_LIMIT + 2))
        assert wire.backend.paused
        wire.machine.serve()
        await wire.settle()
        assert not wire.backend.paused
        assert wire.backend.text.count("running") == 2 * (QUEUE_LIMIT + 2)
    run(story)


def test_the_next_client_negotiates_anew_and_gets_none_of_the_last_ones_replies() -> None:
    async def story() -> None:
        wire = await Wire().ready()
        wire.machine.held = []
        await wire.raw(b'{"execute": "stop"}{"execute": "unfinished')
        wire.session.closed()
        wire.session.opened()
        wire.backend.text = ""
        wire.machine.serve()
        await wire.settle()
        assert wire.backend.text == ""
        (reply,) = await wire.send({"execute": "query-status"})
        assert reply["error"]["class"] == "CommandNotFound"
    run(story)


def test_watchdog_events_are_limited_and_the_latest_of_those_held_is_sent(
        monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        wire = await Wire().ready()
        later: list[Callable[[], None]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later",
                            lambda delay, call: later.append(call))
        wire.backend.text = ""
        for action in ("pause", "none", "reset"):
            wire.machine.event("WATCHDOG", {"action": action})
        wire.machine.event("STOP")
        await wire.settle()
        assert [json.loads(line).get("data") for line in wire.backend.text.splitlines()] == [
            {"action": "pause"}, None]
        later.pop(0)()
        assert wire.backend.text.count("WATCHDOG") == 2 and '"reset"' in wire.backend.text
        later.pop(0)()
        assert later == [] and wire.backend.text.count("WATCHDOG") == 2
    run(story)


def test_a_command_behind_quit_is_not_answered() -> None:
    async def story() -> None:
        wire = await Wire().ready()

        def refuse(function: Callable[[], Any]) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(MachineLeft())
            return future

        wire.machine.post = refuse  # type: ignore[method-assign]
        assert await wire.raw(b'{"execute": "query-status"}') == ""
    run(story)
