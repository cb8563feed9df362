"""The human monitor: its commands, each declared once, and what runs a line of them.

A `Command` says all there is to say about a command: names, arguments, the form
that `help` prints, a description, what Tab offers, and the function that does it.
Help, completion and the reference page (`reference`) are read from there.

Arguments are declared as QEMU does it, `name:kind` separated by commas:

======  =============================================================
kind    what it takes
======  =============================================================
s       a word, or a string in double quotes (escapes ``\\n \\r \\\\ \\' \\"``)
S       all that is left of the line
i       an integer expression of 32 bits (`monitor.expression`)
-x      an option: there or not
======  =============================================================

A ``?`` after s, S and i lets it be left out.  Names are looked up whole: there
are no abbreviations but the aliases.

`execute_line` calls the machine, so it belongs on the machine thread: inside
`machine.post`.  Texts and their quirks are those of QEMU 10.0.2; the descriptions
are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from machine.log import LogError, parse_items, trace_events
from machine.log import help_text as log_help
from machine.registers import info_registers, register_value
from machine.runstate import MachineError, RunState
from monitor.expression import BLANKS, ExpressionError, evaluate
from monitor.keycodes import NUMBERS, QCODES, UNMAPPED
from monitor.readline import Completion
from monitor.target import MachineTarget
from monitor.version import VERSION

__all__ = [
    "COMMANDS",
    "Argument",
    "Call",
    "Command",
    "CommandTable",
    "Session",
    "complete",
    "execute_line",
    "reference",
]

_log = logging.getLogger("snooze.monitor")


@dataclass(frozen=True)
class Argument:
    """One argument of a command, from its declaration."""

    name: str
    kind: Literal["s", "S", "F", "i", "-"]
    optional: bool = False
    #: of an option: its letter
    letter: str = ""


class Call:
    """A command being carried out: its machine, session, and arguments."""

    def __init__(
        self, machine: MachineTarget, session: Session, arguments: Mapping[str, str | int | bool]
    ) -> None:
        self.machine = machine
        self.session = session
        self._arguments = arguments

    @overload
    def text(self, name: str) -> str: ...
    @overload
    def text(self, name: str, default: None) -> str | None: ...
    @overload
    def text(self, name: str, default: str) -> str: ...
    def text(self, name: str, default: str | None = "") -> str | None:
        """An argument of kind s, S or F (a file name)."""
        value = self._arguments.get(name, default)
        assert value is None or isinstance(value, str)
        return value

    def number(self, name: str, default: int) -> int:
        """An argument of kind i, as C's int."""
        value = self._arguments.get(name, default)
        assert isinstance(value, int)
        return value - (value >> 31 << 32) if value >= 0 else value

    def flag(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self._arguments


#: Gives the words that could stand for a begun one, and how much of them is there.
Completer = Callable[[str], Completion]


@dataclass(frozen=True)
class Command:
    """A command of the monitor, all of it."""

    name: str
    summary: str
    #: Does it; returns what is printed.
    handler: Callable[[Call], str]
    aliases: tuple[str, ...] = ()
    #: The arguments: `name:kind`, comma separated.
    arguments: str = ""
    #: How `help` shows the arguments.
    form: str = ""
    #: Argument -> what Tab offers for it.
    completers: Mapping[str, Completer] = field(default_factory=dict)
    #: Of a command that only groups others.
    subcommands: CommandTable | None = None
    #: More for the reference page.
    details: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def label(self) -> str:
        """The name as errors and help print it: `stop|s`."""
        return "|".join(self.names)

    def parsed_arguments(self) -> Iterator[Argument]:
        """The declared arguments, in order."""
        for declaration in filter(None, self.arguments.split(",")):
            name, _, kind = declaration.partition(":")
            match kind[0]:
                case "-":
                    yield Argument(name, "-", True, kind[1])
                case "s" | "S" | "F" | "i" as letter:
                    yield Argument(name, letter, kind[1:] == "?")
                case _:
                    raise ValueError(f"{self.name}: argument kind {kind!r} is not known")


class CommandTable:
    """Commands, in the order of their names."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = tuple(sorted(commands, key=lambda command: command.label))
        self._by_name = {name: command for command in commands for name in command.names}

    def find(self, name: str) -> Command | None:
        """The command of that name or alias."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """Every name and alias."""
        return sorted(self._by_name)

    def extended(self, *commands: Command) -> CommandTable:
        """A table that has *commands* as well."""
        return CommandTable((*self.commands, *commands))


@dataclass
class Session:
    """What a monitor keeps from one line to the next."""

    commands: CommandTable
    version: str = VERSION
    #: The lines typed so far, oldest first; none where nobody types.
    history: Callable[[], Sequence[str]] = tuple
    #: `quit` was given: nothing more is to be printed.
    leaving: bool = False


class _Mistake(Exception):
    """The line cannot be carried out; `str()` is what the monitor prints."""


def execute_line(machine: MachineTarget, line: str, session: Session | None = None) -> str:
    """Carry out *line* on the machine thread; returns what it prints, lines ended by "\\n"."""
    session = session or Session(COMMANDS)
    try:
        found = _find_command(session.commands, line, 0)
        if found is None:
            return ""
        command, at = found
        arguments = _parse_arguments(machine, command, line, at)
    except _Mistake as mistake:
        return str(mistake)
    try:
        return command.handler(Call(machine, session, arguments))
    except MachineError as error:
        return f"Error: {error.desc}\n"


# -- a line's parts


def _skip(line: str, at: int) -> int:
    while at < len(line) and line[at] in BLANKS:
        at += 1
    return at


def _find_command(table: CommandTable, line: str, at: int) -> tuple[Command, int] | None:
    """The command that *line* names at *at*, and where its arguments are; None: an empty line."""
    start = _skip(line, at)
    if start == len(line):
        return None
    end = start
    while end < len(line) and line[end] not in BLANKS + "/":  # x/10i: a format may follow at once
        end += 1
    command = table.find(line[start:end])
    if command is None:
        raise _Mistake(f"unknown command: '{line[:end]}'\n")
    end = _skip(line, end)
    if command.subcommands is not None and end < len(line):
        return _find_command(command.subcommands, line, end)
    return command, end


def _parse_arguments(
    machine: MachineTarget, command: Command, line: str, start: int
) -> dict[str, str | int | bool]:
    values: dict[str, str | int | bool] = {}
    declared = list(command.parsed_arguments())
    at = start
    try:
        for index, argument in enumerate(declared):
            if argument.kind == "-":
                at = _parse_option(command, argument, declared[index + 1 :], line, at, values)
                continue
            at = _skip(line, at)
            if argument.optional and at == len(line):
                continue
            match argument.kind:
                case "i":
                    values[argument.name], at = _parse_integer(machine, command, line, at)
                case "S":
                    if at == len(line):
                        raise _Mistake(f"{command.label}: string expected\n")
                    values[argument.name], at = line[at:], len(line)
                case kind:
                    word = _next_word(line, at)
                    if word is None:
                        what = "filename" if kind == "F" else "string"
                        raise _Mistake(f"{command.label}: {what} expected\n")
                    values[argument.name], at = word
        if _skip(line, at) < len(line):
            raise _Mistake(f"{command.label}: extraneous characters at the end of line\n")
    except _Mistake as mistake:
        name = line[:start].rstrip(BLANKS)
        raise _Mistake(f'{mistake}Try "help {name}" for more information\n') from mistake
    return values


def _parse_option(
    command: Command,
    option: Argument,
    following: Sequence[Argument],
    line: str,
    at: int,
    values: dict[str, str | int | bool],
) -> int:
    """Take *option* if it is next in the line; returns where the line goes on."""
    dash = _skip(line, at)
    if line[dash : dash + 1] != "-":
        return dash
    letter = line[dash + 1 : dash + 2]
    if letter == option.letter:
        values[option.name] = True
        return dash + 2
    if any(letter == other.letter for other in following if other.kind == "-"):
        return at
    # After a lone "-" QEMU prints the string's final NUL, and so loses the newline.
    newline = "\n" if letter else ""
    raise _Mistake(f"{command.label}: unsupported option -{letter}{newline}")


def _parse_integer(
    machine: MachineTarget, command: Command, line: str, at: int
) -> tuple[int, int]:
    try:
        value, at = evaluate(line, lambda name: register_value(machine.cpu, name), at)
    except ExpressionError as error:
        raise _Mistake(f"{error}\n") from error
    if value >> 32:
        raise _Mistake(f"'{command.label}' has failed: integer is for 32-bit values\n")
    return value, at


_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def _next_word(line: str, at: int) -> tuple[str, int] | None:
    """The word or quoted string at *at* and where it ends; None: there is none, or a broken one."""
    at = _skip(line, at)
    if at == len(line):
        return None
    if line[at] != '"':
        end = at
        while end < len(line) and line[end] not in BLANKS:
            end += 1
        return line[at:end], end
    text = ""
    at += 1
    while at < len(line):
        character = line[at]
        at += 1
        if character == '"':
            return text, at
        if character == "\\":
            code = line[at : at + 1]
            at += 1
            if code not in _ESCAPES:
                _log.warning("unsupported escape code: '\\%s'", code)
                return None
            character = _ESCAPES[code]
        text += character
    _log.warning("unterminated string")
    return None


def _words(line: str) -> list[str] | None:
    """All words of *line*, None when one is broken."""
    words: list[str] = []
    at = _skip(line, 0)
    while at < len(line):
        word = _next_word(line, at)
        if word is None:
            return None
        words.append(word[0])
        at = _skip(line, word[1])
    return words


# -- help, completion, and the reference page


def _help_line(command: Command, group: str = "") -> str:
    return f"{group}{command.label} {command.form} -- {command.summary}\n"


def _help_text(table: CommandTable, words: Sequence[str], group: str = "") -> str:
    if not words:
        return "".join(_help_line(command, group) for command in table.commands)
    command = table.find(words[0])
    if command is None:
        return f"unknown command: '{group}{words[0]}'\n"
    if command.subcommands is not None:
        return _help_text(command.subcommands, words[1:], f"{group}{words[0]} ")
    return _help_line(command, group)


def complete(line: str, commands: CommandTable | None = None) -> Completion:
    """What could stand at the end of *line*, the text before the cursor."""
    commands = commands or COMMANDS
    words = _words(line)
    if words is None:
        return Completion()
    if line[-1:] in BLANKS:  # which takes in the empty line
        words.append("")
    return _complete_words(commands, commands, words)


def _complete_words(
    table: CommandTable, commands: CommandTable, words: Sequence[str]
) -> Completion:
    if len(words) == 1:
        return _starting_with(words[0], table.names())
    command = table.find(words[0])
    if command is None:
        return Completion()
    if command.subcommands is not None:
        return _complete_words(command.subcommands, commands, words[1:])
    if command.handler is _help:
        return _complete_words(commands, commands, words[1:])
    positional = [argument for argument in command.parsed_arguments() if argument.kind != "-"]
    before = sum(not word.startswith("-") for word in words[1:-1])
    if before >= len(positional):
        return Completion()
    completer = command.completers.get(positional[before].name)
    return completer(words[-1]) if completer else Completion()


def _starting_with(word: str, choices: Sequence[str]) -> Completion:
    return Completion(len(word), [choice for choice in choices if choice.startswith(word)])


def _one_of(*choices: str) -> Completer:
    return lambda word: _starting_with(word, choices)


def _key_names(word: str) -> Completion:
    return _starting_with(word.rpartition("-")[2], QCODES[1:])


def reference(commands: CommandTable | None = None) -> str:
    """The commands as a page of Markdown."""
    lines = ["# Monitor commands", ""]

    def add(table: CommandTable, group: str) -> None:
        for command in table.commands:
            if command.subcommands is not None:
                add(command.subcommands, f"{command.name} ")
                continue
            lines.append(f"## `{f'{group}{command.label} {command.form}'.rstrip()}`")
            lines.extend(("", f"{command.summary[:1].upper()}{command.summary[1:]}.", ""))
            if command.details:
                lines.extend((command.details, ""))

    add(commands or COMMANDS, "")
    return "\n".join(lines)


# -- what the commands do


def _help(call: Call) -> str:
    words = _words(call.text("name"))
    if words == ["log"]:                # QEMU says what can be logged
        return log_help(with_none=True, option="log")
    return "" if words is None else _help_text(call.session.commands, words)


def _info(call: Call) -> str:
    return _help_text(INFO_COMMANDS, [], "info ")


def _info_history(call: Call) -> str:
    return "".join(f"{number}: '{line}'\n" for number, line in enumerate(call.session.history()))


def _info_registers(call: Call) -> str:
    index = call.number("vcpu", 0)
    if index > 0 and not call.flag("cpustate_all"):
        return f"CPU#{index} not available\n"
    return info_registers(call.machine.cpu)


#: Whose statistics, and whose work gathers them.  There is nothing that does.
_STATS_TARGETS = ("vm", "vcpu", "cryptodev")
_STATS_PROVIDERS = ("kvm", "cryptodev")


def _info_stats(call: Call) -> str:
    target = call.text("target")
    provider = call.text("provider", None)
    if target not in _STATS_TARGETS:
        return f"invalid stats target {target}\n"
    if provider is not None and provider not in _STATS_PROVIDERS:
        return f"invalid stats provider {provider}\n"
    return ""


def _info_status(call: Call) -> str:
    status = call.machine.status
    text = "running" if status.running else "paused"
    if status.singlestep:
        text += " (single step mode)"
    if not status.running and status.state is not RunState.PAUSED:
        text += f" ({status.state.value})"
    return f"VM status: {text}\n"


def _info_version(call: Call) -> str:
    return f"{call.session.version}\n"


def _stop(call: Call) -> str:
    call.machine.stop()
    return ""


def _cont(call: Call) -> str:
    call.machine.cont()
    return ""


def _system_wakeup(call: Call) -> str:
    call.machine.wakeup()
    return ""


def _system_reset(call: Call) -> str:
    call.machine.system_reset()
    return ""


def _system_powerdown(call: Call) -> str:
    call.machine.system_powerdown()
    return ""


def _nmi(call: Call) -> str:
    call.machine.inject_nmi()
    return ""


def _quit(call: Call) -> str:
    call.session.leaving = True
    call.machine.quit()
    return ""


def _one_insn_per_tb(call: Call) -> str:
    option = call.text("option", "on")
    if option not in ("on", "off"):
        return f"unexpected option {option}\n"
    call.machine.one_insn_per_tb = option == "on"
    return ""


def _log_items(call: Call) -> str:
    text = call.text("items")
    items = frozenset() if text == "none" else parse_items(text)
    if items is None:
        return log_help(with_none=True, option="log")
    try:
        call.machine.log.set_items(items)
    except LogError as error:
        return f"{error}\n"
    return "".join(f"warning: trace event '{pattern}' does not exist\n"
                   for pattern in trace_events(text) if pattern != "help")


def _logfile(call: Call) -> str:
    try:
        call.machine.log.set_file(call.text("filename"))
    except LogError as error:
        return f"{error}\n"
    return ""


def _sendkey(call: Call) -> str:
    names = call.text("keys").split("-")
    qcodes: list[str] = []
    for name in names:
        qcode = _qcode(name)
        if qcode is None:
            return f"invalid parameter: {name}\n"
        if qcode != UNMAPPED:  # no key of this keyboard; that something was pressed remains
            qcodes.append(qcode)
    hold_ms = call.number("hold_ms", 0)
    if hold_ms > 0:
        call.machine.send_keys(qcodes, hold_ms)
    else:
        call.machine.send_keys(qcodes)
    return ""


def _qcode(name: str) -> str | None:
    """The QKeyCode of a key's name or number, None for neither."""
    if name == "<":
        return "less"
    if name.startswith("0x"):
        digits = name[2:]
        if not digits or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            return None
        number = int(digits, 16)
        return NUMBERS.get(number, UNMAPPED) if number < 1 << 31 else None
    return name if name in QCODES else None


INFO_COMMANDS = CommandTable(
    [
        Command(
            "history",
            summary="list the lines typed on this monitor",
            handler=_info_history,
        ),
        Command(
            "registers",
            arguments="cpustate_all:-a,vcpu:i?",
            form="[-a|vcpu]",
            summary="print the processor's registers (-a: of every processor)",
            handler=_info_registers,
        ),
        Command(
            "stats",
            arguments="target:s,names:s?,provider:s?",
            form="target [names] [provider]",
            summary="print statistics of the vm or of its vcpu (there is no provider of any)",
            handler=_info_stats,
        ),
        Command(
            "status",
            summary="tell whether the machine runs, and if not, why",
            handler=_info_status,
        ),
        Command(
            "version",
            summary="tell which version of the program this is",
            handler=_info_version,
        ),
    ]
)

#: Every command of the human monitor.
COMMANDS = CommandTable(
    [
        Command(
            "help",
            aliases=("?",),
            arguments="name:S?",
            form="[cmd]",
            summary="list the commands, or explain one",
            handler=_help,
        ),
        Command(
            "info",
            arguments="item:s?",
            form="[subcommand]",
            summary="ask for information",
            handler=_info,
            subcommands=INFO_COMMANDS,
        ),
        Command(
            "stop",
            aliases=("s",),
            summary="stop the machine and its clock",
            handler=_stop,
            details="A suspended guest is remembered to be suspended: after `cont` it still is.",
        ),
        Command(
            "cont",
            aliases=("c",),
            summary="let the machine go on from where it stopped",
            handler=_cont,
        ),
        Command(
            "system_wakeup",
            summary="wake the guest from S3",
            handler=_system_wakeup,
            details="Only while the guest is suspended, and not stopped on top of it.",
        ),
        Command(
            "log",
            arguments="items:s",
            form="item1[,...]",
            summary="activate logging of the specified items",
            handler=_log_items,
            details="`log none` ends it, `log help` lists the items.",
        ),
        Command(
            "logfile",
            arguments="filename:F",
            form="filename",
            summary="output logs to 'filename'",
            handler=_logfile,
        ),
        Command("system_reset", summary="reset the machine", handler=_system_reset),
        Command("system_powerdown", summary="press the power button", handler=_system_powerdown),
        Command(
            "nmi",
            summary="inject an NMI",
            handler=_nmi,
            details="An edge at LINT1 of the local APIC. It is lost while the guest has LINT1 "
            "masked.",
        ),
        Command(
            "one-insn-per-tb",
            arguments="option:s?",
            form="[on|off]",
            summary="translate the guest's code instruction by instruction",
            handler=_one_insn_per_tb,
            completers={"option": _one_of("on", "off")},
            details="Without an argument: on.",
        ),
        Command(
            "sendkey",
            arguments="keys:s,hold_ms:i?",
            form="keys [hold_ms]",
            summary="press keys together (ctrl-alt-delete), let go after hold_ms (100)",
            handler=_sendkey,
            completers={"keys": _key_names},
            details="A key is a name or the hexadecimal number of its scancode (`0x1e`). "
            "A key press wakes the guest from S3.",
        ),
        Command("quit", aliases=("q",), summary="end the machine and the program", handler=_quit),
    ]
)
