"""QMP, the machine protocol: JSON objects in both directions over a character device.

    server  {"QMP": {"version": {...}, "capabilities": ["oob"]}}
    client  {"execute": "qmp_capabilities"}
    server  {"return": {}}
    client  {"execute": "stop", "id": 1}
    server  {"timestamp": {...}, "event": "STOP"}
    server  {"return": {}, "id": 1}

Events that a command causes come before its reply; commands are answered in their
order.  `COMMANDS` is the table of them, with their arguments.  The protocol is
QEMU's ("QEMU Machine Protocol Specification" in its interoperability manual), to the
order of members and the text of errors, so that its clients work.

The server lives on the event loop's thread.  A command is a call posted to the machine
thread; its result, and every event, comes back as a call on the loop, so the order
in which the machine did things is the order in which clients read of them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from machine.config import MachineConfig
from machine.events import EVENTS, Event
from machine.runstate import (
    Actions,
    MachineError,
    MachineLeft,
    PanicAction,
    RebootAction,
    ShutdownAction,
    WatchdogAction,
)
from monitor.json_stream import JsonError, JsonStream, encode, member_order
from monitor.keycodes import NUMBERS, QCODES, UNMAPPED
from monitor.target import MachineTarget
from monitor.version import VERSION

if TYPE_CHECKING:
    import asyncio

    from monitor.chardev import Backend

__all__ = ["COMMANDS", "Argument", "Command", "QmpError", "QmpServer", "QmpSession"]

#: Requests that may wait for their turn before no more are read.
QUEUE_LIMIT = 8


class _ActionsOwner(Protocol):
    @property
    def actions(self) -> Actions: ...


class QmpTarget(MachineTarget, Protocol):
    """The machine, with what only QMP asks for."""

    @property
    def config(self) -> MachineConfig: ...
    @property
    def runstate(self) -> _ActionsOwner: ...


class QmpError(Exception):
    """A command's failure: the error object's class and description."""

    def __init__(self, desc: str, kind: str = "GenericError") -> None:
        super().__init__(desc)
        self.kind = kind


# -- arguments

#: (value, path for messages about its type, name for messages about its value) -> value
Visit = Callable[[Any, str, str], Any]


@dataclass(frozen=True)
class Argument:
    """One member of a command's arguments, or of an object in them."""

    name: str
    visit: Visit
    optional: bool = False


def _wrong_type(path: str, expected: str) -> QmpError:
    return QmpError(f"Invalid parameter type for '{path}', expected: {expected}")


def _string(value: Any, path: str, name: str) -> Any:
    if not isinstance(value, str):
        raise _wrong_type(path, "string")
    return value


def _integer(value: Any, path: str, name: str) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(path, "integer")
    return value


def _enum(values: frozenset[str]) -> Visit:
    def visit(value: Any, path: str, name: str) -> Any:
        if _string(value, path, name) not in values:
            raise QmpError(f"Parameter '{name}' does not accept value '{value}'")
        return value
    return visit


def _array(element: Visit) -> Visit:
    def visit(value: Any, path: str, name: str) -> Any:
        if not isinstance(value, list):
            raise _wrong_type(path, "array")
        # An element has no name of its own, and messages show it as C prints that.
        return [element(each, f"{path}[{i}]", "null") for i, each in enumerate(value)]
    return visit


def _members(given: Mapping[str, Any], arguments: tuple[Argument, ...],
             prefix: str = "") -> dict[str, Any]:
    result = {}
    for argument in arguments:
        path = prefix + argument.name
        if argument.name in given:
            result[argument.name] = argument.visit(given[argument.name], path, argument.name)
        elif not argument.optional:
            raise QmpError(f"Parameter '{path}' is missing")
    for name in given:
        if not any(argument.name == name for argument in arguments):
            raise QmpError(f"Parameter '{prefix}{name}' is unexpected")
    return result


_KEY_TYPE = Argument("type", _enum(frozenset({"number", "qcode"})))
_KEY_DATA = {"number": Argument("data", _integer),
             "qcode": Argument("data", _enum(frozenset(QCODES)))}


def _key(value: Any, path: str, name: str) -> Any:
    """A KeyValue: its type says what its data is."""
    if not isinstance(value, dict):
        raise _wrong_type(path, "object")
    known = {k: v for k, v in value.items() if k == "type"}
    kind = _members(known, (_KEY_TYPE,), path + ".")["type"]
    return _members(value, (_KEY_TYPE, _KEY_DATA[kind]), path + ".")


# -- commands: each runs on the machine thread

@dataclass(frozen=True)
class Command:
    """One command.  *run* is given the machine and the checked arguments."""

    name: str
    run: Callable[[QmpTarget, dict[str, Any]], Any]
    arguments: tuple[Argument, ...] = ()


def _query_status(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    status = machine.status
    return {"status": status.state.value, "singlestep": status.singlestep,
            "running": status.running}


def version_info() -> dict[str, Any]:
    """QMP's VersionInfo."""
    major, minor, micro = (int(part) for part in VERSION.split(".")[:3])
    return {"qemu": {"micro": micro, "minor": minor, "major": major},
            "package": f"snooze {VERSION}"}


def _query_version(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    return version_info()


def _query_commands(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    return [{"name": command.name} for command in COMMANDS.values()]


def _query_name(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    name = machine.config.name
    return {} if name is None else {"name": name}


def _query_uuid(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    return {"UUID": machine.config.uuid}


def _simple(method: str) -> Callable[[QmpTarget, dict[str, Any]], Any]:
    def run(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
        getattr(machine, method)()
        return {}
    return run


def _human_monitor_command(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    from monitor import hmp

    if arguments.get("cpu-index", 0) != 0:
        raise QmpError("Parameter 'cpu-index' expects a CPU number")
    text = hmp.execute_line(machine, arguments["command-line"])
    return text.replace("\n", "\r\n")


def _send_key(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    named = (key["data"] if key["type"] == "qcode" else NUMBERS.get(key["data"], UNMAPPED)
             for key in arguments["keys"])
    qcodes = [qcode for qcode in named if qcode != UNMAPPED]
    hold_ms = arguments.get("hold-time", 0)
    if hold_ms > 0:
        machine.send_keys(qcodes, hold_ms)
    else:
        machine.send_keys(qcodes)
    return {}


def _set_action(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    actions = machine.runstate.actions
    if "reboot" in arguments:
        actions.reboot = RebootAction(arguments["reboot"])
    if "shutdown" in arguments:
        actions.shutdown = ShutdownAction(arguments["shutdown"])
    if "panic" in arguments:
        actions.panic = PanicAction(arguments["panic"])
    if "watchdog" in arguments:
        actions.watchdog = WatchdogAction(arguments["watchdog"])
    return {}


def _watchdog_set_action(machine: QmpTarget, arguments: dict[str, Any]) -> Any:
    return _set_action(machine, {"watchdog": arguments["action"]})


_WATCHDOG_ACTION = _enum(frozenset(WatchdogAction))

COMMANDS: dict[str, Command] = {command.name: command for command in (
    # The session answers this one itself.
    Command("qmp_capabilities", lambda machine, arguments: {},
            (Argument("enable", _array(_enum(frozenset({"oob"}))), optional=True),)),
    Command("query-commands", _query_commands),
    Command("query-version", _query_version),
    Command("query-name", _query_name),
    Command("query-uuid", _query_uuid),
    Command("query-status", _query_status),
    Command("query-current-machine", lambda machine, arguments: {"wakeup-suspend-support": True}),
    Command("query-target", lambda machine, arguments: {"arch": "x86_64"}),
    Command("stop", _simple("stop")),
    Command("cont", _simple("cont")),
    Command("system_wakeup", _simple("wakeup")),
    Command("system_reset", _simple("system_reset")),
    Command("system_powerdown", _simple("system_powerdown")),
    Command("inject-nmi", _simple("inject_nmi")),
    Command("quit", _simple("quit")),
    Command("set-action", _set_action, (
        Argument("reboot", _enum(frozenset(RebootAction)), optional=True),
        Argument("shutdown", _enum(frozenset(ShutdownAction)), optional=True),
        Argument("panic", _enum(frozenset(PanicAction)), optional=True),
        Argument("watchdog", _WATCHDOG_ACTION, optional=True))),
    Command("watchdog-set-action", _watchdog_set_action, (
        Argument("action", _WATCHDOG_ACTION),)),
    Command("send-key", _send_key, (
        Argument("keys", _array(_key)),
        Argument("hold-time", _integer, optional=True))),
    Command("human-monitor-command", _human_monitor_command, (
        Argument("command-line", _string),
        Argument("cpu-index", _integer, optional=True))),
)}


# -- a connection

class QmpSession:
    """One QMP monitor: the front end of a character device, client after client."""

    def __init__(self, server: QmpServer, backend: Backend, *, pretty: bool) -> None:
        self._server = server
        self._backend = backend
        self._pretty = pretty
        self._client = 0
        self._forget()

    def _forget(self) -> None:
        self._stream = JsonStream()
        self._queue: collections.deque[Any] = collections.deque()
        self._busy = False
        self._paused = False
        self._oob = False
        #: capabilities are negotiated: commands may come, and events are sent
        self.ready = False

    # -- FrontEnd
    def opened(self) -> None:
        self._client += 1
        self._forget()
        self._send({"QMP": {"version": version_info(), "capabilities": ["oob"]}})

    def closed(self) -> None:
        self._client += 1           # what is under way has nobody to answer any more
        self._forget()

    def received(self, data: bytes) -> None:
        client = self._client
        for request in self._stream.feed(data):
            if self._is_oob(request):
                self._send(self._reply(request, self._refused(request)))
            else:
                self._queue.append(request)
        self._serve()
        if len(self._queue) >= QUEUE_LIMIT and client == self._client:
            self._paused = True
            self._backend.pause()

    # -- requests
    def _is_oob(self, request: Any) -> bool:
        return self._oob and isinstance(request, dict) \
            and "exec-oob" in request and "execute" not in request

    def _serve(self) -> None:
        """Answer what waits, until a command has to be waited for."""
        while self._queue and not self._busy:
            request = self._queue.popleft()
            try:
                command, arguments = self._check(request)
                if command.name == "qmp_capabilities":
                    self._negotiate(arguments)
                    self._send(self._reply(request, {"return": {}}))
                    continue
            except QmpError as error:
                self._send(self._reply(request, _failure(error)))
                continue
            self._busy = True
            self._server.run(command, arguments, self._answer(request))
        if self._paused and not self._queue:
            self._paused = False
            self._backend.resume()

    def _answer(self, request: Any) -> Callable[[dict[str, Any]], None]:
        client = self._client

        def answer(result: dict[str, Any]) -> None:
            if client != self._client:
                return
            self._send(self._reply(request, result))
            self._busy = False
            self._serve()
        return answer

    def _refused(self, request: Any) -> dict[str, Any]:
        """The answer to an out-of-band request: no command of ours can be one."""
        try:
            command, _ = self._check(request)
            raise QmpError(f"The command {command.name} does not support OOB")
        except QmpError as error:
            return _failure(error)

    def _check(self, request: Any) -> tuple[Command, dict[str, Any]]:
        """The command and its checked arguments; raises `QmpError`."""
        if isinstance(request, JsonError):
            raise QmpError(request.desc)
        if not isinstance(request, dict):
            raise QmpError("QMP input must be a JSON object")
        verb = None
        for name in sorted(request, key=member_order):
            value = request[name]
            if name == "execute" or name == "exec-oob" and self._oob:
                if not isinstance(value, str):
                    raise QmpError(f"QMP input member '{name}' must be a string")
                if verb is not None:
                    raise QmpError(f"QMP input member '{name}' clashes with '{verb}'")
                verb = name
            elif name == "arguments":
                if not isinstance(value, dict):
                    raise QmpError("QMP input member 'arguments' must be an object")
            elif name != "id":
                raise QmpError(f"QMP input member '{name}' is unexpected")
        if verb is None:
            raise QmpError("QMP input lacks member 'execute'")
        command = COMMANDS.get(request[verb])
        if not self.ready and (command is None or command.name != "qmp_capabilities"):
            raise QmpError("Expecting capabilities negotiation with 'qmp_capabilities'",
                           "CommandNotFound")
        if command is None:
            raise QmpError(f"The command {request[verb]} has not been found", "CommandNotFound")
        if verb == "exec-oob":
            raise QmpError(f"The command {command.name} does not support OOB")
        return command, _members(request.get("arguments", {}), command.arguments)

    def _negotiate(self, arguments: dict[str, Any]) -> None:
        if self.ready:
            raise QmpError("Capabilities negotiation is already complete, command ignored",
                           "CommandNotFound")
        self._oob = "oob" in arguments.get("enable", [])
        self.ready = True

    # -- output
    def send_event(self, event: Event) -> None:
        """Tell the client, if it has negotiated."""
        if not self.ready:
            return
        message: dict[str, Any] = {
            "timestamp": {"seconds": event.seconds, "microseconds": event.microseconds},
            "event": event.name}
        if event.data is not None:
            message["data"] = event.data
        # A client that reads nothing misses events, whole ones, in the end.
        self._backend.offer(self._encoded(message))

    def _reply(self, request: Any, result: dict[str, Any]) -> dict[str, Any]:
        if isinstance(request, dict) and "id" in request:
            return {**result, "id": request["id"]}
        return result

    def _send(self, message: dict[str, Any]) -> None:
        self._backend.write(self._encoded(message))

    def _encoded(self, message: dict[str, Any]) -> bytes:
        text = encode(message, pretty=self._pretty)
        return (text.replace("\n", "\r\n") + "\r\n").encode()


def _failure(error: QmpError) -> dict[str, Any]:
    return {"error": {"class": error.kind, "desc": str(error)}}


class QmpServer:
    """What the sessions share: the machine, and its events."""

    def __init__(self, machine: QmpTarget) -> None:
        self._machine = machine
        self._sessions: list[QmpSession] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        #: rate-limited events that were sent lately, with the latest that had to wait
        self._limited: dict[str, Event | None] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to tell of events.  What happened before, no client could have heard:
        none has negotiated yet."""
        self._loop = loop

    def session(self, backend: Backend, *, pretty: bool = False) -> QmpSession:
        """A monitor on *backend*."""
        session = QmpSession(self, backend, pretty=pretty)
        self._sessions.append(session)
        return session

    def event(self, event: Event) -> None:
        """The machine's subscriber: called on the machine thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._deliver, event)

    def _deliver(self, event: Event) -> None:
        kind = EVENTS.get(event.name)
        if kind is not None and kind.interval_ns:
            if event.name in self._limited:
                self._limited[event.name] = event
                return
            self._open_again(event.name, kind.interval_ns)
        for session in self._sessions:
            session.send_event(event)

    def _open_again(self, name: str, interval_ns: int) -> None:
        assert self._loop is not None
        self._limited[name] = None

        def expire() -> None:
            held = self._limited.pop(name)
            if held is not None:
                self._deliver(held)

        self._loop.call_later(interval_ns / 1e9, expire)

    def run(self, command: Command, arguments: dict[str, Any],
            answer: Callable[[dict[str, Any]], None]) -> None:
        """Run *command* on the machine thread; *answer* is called on the loop."""
        loop = self._loop
        assert loop is not None

        def done(future: Future[Any]) -> None:
            # Called on the machine thread: after the command's events, before the next one's.
            loop.call_soon_threadsafe(finish, future)

        def finish(future: Future[Any]) -> None:
            try:
                result = {"return": future.result()}
            except QmpError as error:
                result = _failure(error)
            except MachineLeft:
                return              # a command behind `quit`: nobody is there to answer it
            except MachineError as error:
                result = _failure(QmpError(error.desc))
            except Exception as error:
                # Ours, not the client's: it is told so, and so is whoever runs us.
                answer(_failure(QmpError(f"internal error: {error!r}")))
                raise
            answer(result)

        self._machine.post(lambda: command.run(self._machine, arguments)).add_done_callback(done)
