"""The program's command line: QEMU's options, as far as they exist here.

`OPTIONS` is a table of what there is: it is read by the parser and printed by
`-help`.  The forms, defaults and error texts are QEMU 10's ("Invocation" in its
system emulation manual); descriptions are ours.

`parse` turns the arguments into an `Options`: a `MachineConfig` for the machine, and
lists of character devices and of what is connected to them for the monitors.
It opens nothing: files are opened, and sockets bound, by `monitor.chardev`.

Two grammars for `name=value,...` are in use, as there: `QemuOpts` (a comma in a value
is doubled, the first value may go without its name, `x` alone means x=on with a
warning, `nox` x=off), and the stricter one of -machine and -display.

Imports are few, regular expressions not compiled in advance and classes plain, on
purpose: this runs before the guest's first instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from machine.config import DeviceSpec, MachineConfig

__all__ = ["OPTIONS", "ChardevSpec", "MonitorSpec", "Option", "OptionError", "Options",
           "help_text", "parse"]


class OptionError(Exception):
    """The user's mistake.  `str()` is for stderr, after "PROG: "; *where* is the option."""

    def __init__(self, text: str, where: str | None = None) -> None:
        super().__init__(f"{where}: {text}" if where else text)


class ChardevSpec(NamedTuple):
    """A character device: `-chardev backend,id=…`, or what `-serial` and its like imply."""

    id: str
    #: "null", "file", "stdio", "socket" or "vc"
    backend: str
    params: Mapping[str, str]
    #: the option as the user wrote it, for messages; None for one that is implied
    where: str | None
    #: several front ends share it, told apart by Ctrl-a
    mux: bool = False
    #: the error line that follows when it does not open, for -serial and its like
    failure: str | None = None


class MonitorSpec(NamedTuple):
    """A monitor: `-monitor`, `-qmp`, `-mon`."""

    chardev: str
    #: "readline" (HMP) or "control" (QMP)
    mode: str
    pretty: bool = False
    where: str | None = None


class Options:
    """All that the command line says."""

    def __init__(self) -> None:
        self.machine = MachineConfig()
        self.bios: str | None = None
        #: a file's name; what goes with it
        self.kernel: str | None = None
        self.append = ""
        self.modules: list[str] = []
        self.pidfile: str | None = None
        #: in the order in which they are opened
        self.chardevs: list[ChardevSpec] = []
        self.monitors: list[MonitorSpec] = []
        #: for serial port 0, 1, …: its character device's ID, "" for a port with nothing
        #: on it, None where there is no port
        self.serials: list[str | None] = []
        #: the interactive console on this terminal, with serial port 0's output
        self.console = False
        #: lines for stderr that do not keep the machine from starting
        self.warnings: list[str] = []
        #: text for stdout: print it and exit with 0 (-help, -version, -device help …)
        self.answer: str | None = None
        #: the exit status that goes with it
        self.answer_status = 0


class _Draft:
    """What has been read so far."""

    def __init__(self, prog: str, version: str) -> None:
        self.prog = prog
        self.version = version
        self.options = Options()
        self.display: str | None = None
        self.defaults = True
        self.nographic = False
        #: -monitor or -mon was given, so no default monitor is wanted
        self.monitor_given = False
        #: (text, where) of each -serial
        self.serials: list[tuple[str, str | None]] = []
        self.debugcons: list[tuple[str, str]] = []
        self.mons: list[tuple[dict[str, str], str]] = []
        #: (device, where, id)
        self.devices: list[tuple[DeviceSpec, str, str | None]] = []
        self.icount: dict[str, str] = {}
        self.log_items: tuple[str, str] | None = None

    def warn(self, where: str, text: str) -> None:
        self.options.warnings.append(f"{where}: warning: {text}")


class _Answer(Exception):
    """The option asks for text and nothing else; *failed*: it was also a mistake."""

    def __init__(self, text: str, *, failed: bool = False) -> None:
        super().__init__(text)
        self.failed = failed


class Option(NamedTuple):
    """One row of the table.  *argument* is its form; an empty one: takes none."""

    names: tuple[str, ...]
    argument: str
    help: str
    apply: Callable[[_Draft, str, str], None]


# -- name=value,name=value

def _split(text: str) -> list[tuple[str, str | None]]:
    """At single commas (two of them stand for one): (name, value), or (text, None)
    for what has no `=`.  A name has no comma in it."""
    parts: list[tuple[str, str | None]] = []
    for part in text.replace(",,", "\0").split(","):
        name, equals, value = part.partition("=")
        if equals and "\0" not in name:
            parts.append((name, value.replace("\0", ",")))
        else:
            parts.append((part.replace("\0", ","), None))
    return parts


def _opts(draft: _Draft, text: str, where: str, *, first: str | None = None,
          names: frozenset[str] | None = None, warn: bool = True) -> dict[str, str]:
    """QemuOpts.  *first* is the name that the first value may go without; other names
    than *names* (None: any) are refused."""
    given: dict[str, str] = {}
    for i, (part, assigned) in enumerate(_split(text)):
        name, value = part, assigned or ""
        if assigned is None:
            if i == 0 and first is not None:
                name, value = first, part
            elif part == "":
                continue
            else:
                value = "on"
                if part.startswith("no") and (names is None or part not in names):
                    name, value = part[2:], "off"
                if warn:
                    draft.warn(where, f"short-form boolean option '{part}' deprecated\n"
                                      f"Please use {name}={value} instead")
        if names is not None and name not in names and name != "id":
            raise OptionError(f"Invalid parameter '{name}'", where)
        if name == "id" and not _is_identifier(value):
            raise OptionError("Parameter 'id' expects an identifier\nIdentifiers consist of "
                              "letters, digits, '-', '.', '_', starting with a letter.", where)
        given[name] = value
    return given


def _keyval(text: str, where: str, first: str) -> dict[str, str]:
    """The strict grammar: every parameter has its `=`."""
    given: dict[str, str] = {}
    for i, (part, assigned) in enumerate(_split(text)):
        name, value = part, assigned or ""
        if assigned is None:
            if i > 0:
                if part == "":
                    continue
                raise OptionError(f"Expected '=' after parameter '{part}'", where)
            name, value = first, part
        given[name] = value
    return given


def _is_identifier(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z][-A-Za-z0-9._]*", text) is not None


def _is_on(value: str, name: str, where: str | None) -> bool:
    if value in ("on", "yes", "true", "y"):
        return True
    if value in ("off", "no", "false", "n"):
        return False
    raise OptionError(f"Parameter '{name}' expects 'on' or 'off'", where)


_INTEGER = r"\s*[-+]?(0[xX][0-9a-fA-F]+|[0-9]+)"


def _integer(value: str) -> int | None:
    """As strtoll(…, 0) reads it: decimal, 0octal, 0xhex; None for anything else."""
    if not re.fullmatch(_INTEGER, value):
        return None
    digits = value.strip().lstrip("+-")
    try:
        number = int(digits, 8 if digits.startswith("0") and digits.isdigit() else 0)
    except ValueError:
        return None
    return -number if value.strip().startswith("-") else number


_SUFFIXES = {"": 1 << 20, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
             "p": 1 << 50, "e": 1 << 60}
_SIZE = r"(\d+(?:\.\d*)?|0[xX][0-9a-fA-F]+)([bkmgtpeBKMGTPE]?)"


def _size_in_mb(text: str, where: str) -> int:
    """-m's size; without a suffix it is in MiB."""
    if re.fullmatch(r"-\d+", text):
        raise OptionError(f"Value '{text}' is out of range for parameter 'size'", where)
    match = re.fullmatch(_SIZE, text)
    if not match:
        raise OptionError(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, "
            "T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.", where)
    number, suffix = match.groups()
    value = int(number, 16) if number[:2] in ("0x", "0X") else float(number)
    size = int(value * _SUFFIXES[suffix.lower()])
    return (size + (1 << 20) - 1) >> 20


# -- the machine

#: -machine's properties, with the values that are true of this machine; None: any on|off.
_MACHINE_PROPERTIES: dict[str, tuple[str, ...] | None] = {
    "accel": ("tcg",), "acpi": ("on",), "graphics": None, "hpet": ("off",), "i8042": ("on",),
    "pit": ("on",), "rtc": ("on",), "sata": ("off",), "smm": ("on", "off", "auto"), "usb": ("off",),
    "vmport": ("off", "auto"), "dump-guest-core": None, "mem-merge": None,
}
#: Properties that QEMU hands to KVM: under TCG it takes any value and does nothing with it.
_KVM_PROPERTIES = frozenset({"kernel-irqchip", "kvm-shadow-mem"})
_MACHINES = ("pc", "pc-i440fx-10.0")
_MACHINE_CLASS = "pc-i440fx-10.0-machine"


def _machine(draft: _Draft, text: str, where: str) -> None:
    given = {name.replace("_", "-"): value
             for name, value in _keyval(text, where, "type").items()}
    kind = given.pop("type", "pc")
    if kind in ("help", "?"):
        raise _Answer("Supported machines are:\n"
                      "pc                   Standard PC (i440FX + PIIX, 1996) "
                      "(alias of pc-i440fx-10.0)\n"
                      "pc-i440fx-10.0       Standard PC (i440FX + PIIX, 1996) (default)\n")
    if kind not in _MACHINES:
        raise OptionError(f'unsupported machine type: "{kind}"\n'
                          "Use -machine help to list supported machines")
    for name, value in given.items():
        if name in _KVM_PROPERTIES:
            continue
        if name not in _MACHINE_PROPERTIES:
            raise OptionError(f"Property '{_MACHINE_CLASS}.{name}' not found")
        allowed = _MACHINE_PROPERTIES[name]
        if name == "accel":
            if not any(each == "tcg" for each in value.split(":")):
                raise OptionError(f"invalid accelerator {value.split(':')[0]}")
        elif allowed is None:
            _is_on(value, name, None)
        elif value not in allowed:
            if "auto" not in allowed:
                value = "on" if _is_on(value, name, None) else "off"
            if value not in allowed:
                raise OptionError(f"Parameter '{name}' does not accept value '{value}'")
    draft.options.machine.machine_type = "pc"
    if "smm" in given:          # an option that says nothing of it leaves an earlier one's
        smm = given["smm"]
        draft.options.machine.smm = smm == "auto" or _is_on(smm, "smm", None)


def _memory(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="size",
                  names=frozenset({"size", "slots", "maxmem"}))
    if "slots" in given and _integer(given["slots"]) is None:
        raise OptionError("Parameter 'slots' expects a number", where)
    if "size" in given:
        draft.options.machine.ram_mb = _size_in_mb(given["size"], where) or 128
    maximum = _size_in_mb(given["maxmem"], where) if "maxmem" in given else None
    if maximum is not None and maximum < draft.options.machine.ram_mb:
        raise OptionError(
            f"invalid value of maxmem: maximum memory size ({maximum << 20:#x}) must be at least "
            f"the initial memory size ({draft.options.machine.ram_mb << 20:#x})")


def _cpu(draft: _Draft, text: str, where: str) -> None:
    from emu.models import ModelError, help_text, resolve

    if text in ("help", "?"):
        raise _Answer(help_text())
    try:
        model = resolve("qemu64" if text == "default" else text)
    except ModelError as error:
        raise OptionError("\0".join([*(f"warning: {text}" for text in error.warnings),
                                     str(error)])) from None
    draft.options.machine.cpu = "qemu64" if text == "default" else text
    for warning in model.warnings:
        draft.options.warnings.append(f"warning: {warning}")


def _accel(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="accel")
    kind = given.pop("accel", "tcg")
    if kind in ("help", "?"):
        raise _Answer("Accelerators supported in QEMU binary:\ntcg\n")
    if kind != "tcg":
        raise OptionError(f"invalid accelerator {kind}", where)
    for name, value in given.items():
        if name == "one-insn-per-tb":
            draft.options.machine.one_insn_per_tb = _is_on(value, name, where)
        elif name == "thread":
            # One processor, one thread: both of QEMU's settings mean the same here.
            if value not in ("single", "multi"):
                raise OptionError(f"Invalid 'thread' setting {value}", where)
        elif name == "tb-size":
            if _integer(value) is None:
                raise OptionError("Parameter 'tb-size' expects uint64", where)
        else:
            raise OptionError(f"Property 'tcg-accel.{name}' not found", where)


#: What -icount auto means here: a fixed rate keeps a run repeatable.
ICOUNT_AUTO_SHIFT = 2
_MAX_ICOUNT_SHIFT = 10


def _icount(draft: _Draft, text: str, where: str) -> None:
    draft.icount.update(_opts(draft, text, where, first="shift",
                              names=frozenset({"shift", "align", "sleep"})))
    for name in ("align", "sleep"):
        if name in draft.icount:
            _is_on(draft.icount[name], name, where)
    if "shift" not in draft.icount:
        if "align" in draft.icount and _is_on(draft.icount["align"], "align", where):
            raise OptionError("Please specify shift option when using align", where)
        return
    text = draft.icount["shift"]
    shift = ICOUNT_AUTO_SHIFT if text == "auto" else _integer(text)
    if shift is None or not 0 <= shift <= _MAX_ICOUNT_SHIFT:
        raise OptionError("icount: Invalid shift value", where)
    draft.options.machine.icount_shift = shift


_DATE = r"(\d{1,4})-(\d{1,2})-(\d{1,2})(?:T(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?"


def _rtc(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, names=frozenset({"base", "clock", "driftfix"}))
    machine = draft.options.machine
    base = given.get("base")
    if base in ("utc", "localtime"):
        machine.rtc_base = base
    elif base is not None:
        machine.rtc_base = _date(base)
    clock = given.get("clock", machine.rtc_clock)
    if clock not in ("host", "rt", "vm"):
        raise OptionError(f"invalid option value '{clock}'")
    machine.rtc_clock = clock
    if given.get("driftfix", "none") not in ("none", "slew"):
        raise OptionError(f"invalid option value '{given['driftfix']}'")


def _date(text: str) -> str:
    import datetime

    bad = OptionError("invalid datetime format\n"
                      "valid formats: '2006-06-17T16:01:21' or '2006-06-17'")
    match = re.fullmatch(_DATE, text)
    if not match:
        raise bad
    try:
        year, month, day, hour, minute, second = (int(group or 0) for group in match.groups())
        date = datetime.datetime(year, month, day, hour, minute, second)
    except ValueError:
        raise bad from None
    return date.isoformat()


#: What each action may be (QMP's RebootAction and its like).
_ACTIONS = {
    "reboot": ("reset", "shutdown"),
    "shutdown": ("poweroff", "pause"),
    "panic": ("pause", "shutdown", "exit-failure", "none"),
    "watchdog": ("reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"),
}


def _action(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, names=frozenset(_ACTIONS))
    for name, value in given.items():
        _set_action(draft, name, value, where)


def _set_action(draft: _Draft, name: str, value: str, where: str) -> None:
    if value not in _ACTIONS[name]:
        raise OptionError(f"Parameter '{name}' does not accept value '{value}'", where)
    setattr(draft.options.machine, f"{name}_action", value)


def _name(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="guest",
                  names=frozenset({"guest", "process", "debug-threads"}))
    draft.options.machine.name = given.get("guest", draft.options.machine.name)


def _uuid(draft: _Draft, text: str, where: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise OptionError("failed to parse UUID string: wrong format", where)
    draft.options.machine.uuid = text.lower()


# -- devices

#: property -> C type, of each device that -device knows
DEVICES: dict[str, dict[str, str]] = {
    "isa-debug-exit": {"iobase": "uint32_t", "iosize": "uint32_t"},
    "isa-debugcon": {"chardev": "str", "iobase": "uint32_t", "readback": "uint32_t"},
    "isa-serial": {"chardev": "str", "index": "uint32_t"},
    "pc-testdev": {},
    "pci-testdev": {"addr": "str"},
    "pvpanic": {"events": "uint8_t", "ioport": "uint16_t"},
}

#: where `-device help` says that they are; ISA where nothing is said
_BUSES = {"pci-testdev": 'PCI, desc "PCI Test Device"'}

#: What -global knows beside them: devices that the board has anyway.
#: ICH9-LPC is the other board's: known, and without effect.
_BOARD_DEVICES: dict[str, dict[str, str]] = {
    "ICH9-LPC": {"disable_s3": "uint8_t", "disable_s4": "uint8_t", "s4_val": "uint8_t"},
    "PIIX4_PM": {"disable_s3": "uint8_t", "disable_s4": "uint8_t", "s4_val": "uint8_t"},
}

_LIMITS = {"uint8_t": 1 << 8, "uint16_t": 1 << 16, "uint32_t": 1 << 32}


#: device 0 to 1f, function 0 to 7
_PCI_ADDRESS = re.compile(r"(0*[01]?[0-9a-fA-F])(\.0*[0-7])?")


def _property_problem(name: str, kind: str, value: str, not_a_number: str) -> str | None:
    if kind == "str":
        return None
    number = _integer(value)
    if number is None:
        return f"Parameter '{name}' expects {not_a_number}"
    if not 0 <= number < _LIMITS[kind]:
        return f"Parameter '{name}' expects {kind}"
    return None


def _device(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="driver")
    driver = given.pop("driver", "")
    if driver in ("help", "?"):
        raise _Answer("".join(f'name "{name}", bus {_BUSES.get(name, "ISA")}\n'
                              for name in sorted(DEVICES)))
    if driver not in DEVICES:
        raise OptionError(f"'{driver}' is not a valid device model name", where)
    known = DEVICES[driver]
    if "help" in given or "?" in given:
        raise _Answer(f"There are no options for {driver}.\n" if not known else
                      f"{driver} options:\n" + "".join(
            f"  {name}=<{kind.removesuffix('_t')}>\n" for name, kind in known.items()))
    identity = given.pop("id", None)
    if identity is not None and any(other == identity for _, _, other in draft.devices):
        raise OptionError(f"Duplicate ID '{identity}' for device", where)
    for name, value in given.items():
        if name not in known:
            raise OptionError(f"Property '{driver}.{name}' not found", where)
        problem = _property_problem(name, known[name], value, "integer")
        if name == "addr" and not _PCI_ADDRESS.fullmatch(value):
            problem = f"Property '{driver}.addr' doesn't take value '{value}'"
        if problem:
            raise OptionError(problem, where)
    draft.devices.append((DeviceSpec(driver, given, where), where, identity))


def _global(draft: _Draft, text: str, where: str) -> None:
    match = re.match(r"([^.=,]+)\.([^=]+)=(.*)", text, re.DOTALL)
    if match:
        driver, name, value = match.groups()
    else:
        given = _opts(draft, text, where, names=frozenset({"driver", "property", "value"}))
        driver, name, value = (given.get(k, "") for k in ("driver", "property", "value"))
    known = {**_BOARD_DEVICES, **DEVICES}.get(driver)
    if known is None:
        draft.options.warnings.append(
            f"warning: global {driver}.{name} has invalid class name")
        return
    trouble = f"can't apply global {driver}.{name}={value}: "
    if name not in known:
        raise OptionError(f"{trouble}Property '{driver}.{name}' not found")
    problem = _property_problem(name, known[name], value, "uint64")
    if problem:
        raise OptionError(trouble + problem)
    draft.options.machine.globals.append((driver, name, value))


# -- character devices

#: -chardev's backends, with the parameters of each; the values of these are on|off:
_ON_OFF = frozenset({"append", "mux", "server", "signal", "wait"})
_BACKENDS: dict[str, frozenset[str]] = {
    "file": frozenset({"path", "append"}),
    "null": frozenset(),
    "socket": frozenset({"path", "host", "port", "server", "wait", "reconnect", "reconnect-ms",
                         "ipv4", "ipv6", "nodelay", "to"}),
    "stdio": frozenset({"signal"}),
    "vc": frozenset({"width", "height", "cols", "rows"}),
}
_ANY_BACKEND = frozenset({"backend", "mux"})
#: QEMU accepts any backend's parameter for every backend.
_CHARDEV_NAMES = frozenset(_ANY_BACKEND.union(*_BACKENDS.values()))


def _add_chardev(draft: _Draft, spec: ChardevSpec) -> None:
    if any(other.id == spec.id for other in draft.options.chardevs):
        raise OptionError(f"Duplicate ID '{spec.id}' for chardev", spec.where)
    if spec.backend == "stdio" and any(
            other.backend == "stdio" for other in draft.options.chardevs):
        raise OptionError("cannot use stdio by multiple character devices", spec.where)
    draft.options.chardevs.append(spec)


def _check_chardev(backend: str, params: Mapping[str, str], where: str | None) -> None:
    for name, value in params.items():
        if name in _ON_OFF:
            _is_on(value, name, where)
    if backend == "file" and "path" not in params:
        raise OptionError("chardev: file: no filename given", where)
    if backend != "socket":
        return
    server = _is_on(params.get("server", "off"), "server", where)
    if "host" in params and "port" not in params:
        raise OptionError("chardev: socket: no port given", where)
    if "path" not in params and "host" not in params:
        raise OptionError("Unable to parse FD number ", where)
    if "wait" in params and not server:
        raise OptionError("'wait' option is incompatible with socket in client connect mode",
                          where)
    for name in ("reconnect", "reconnect-ms"):
        if name in params and server:
            raise OptionError(f"'{name}' option is incompatible with socket in server listen mode",
                              where)


def _chardev(draft: _Draft, text: str, where: str) -> None:
    if text in ("help", "?"):
        raise _Answer("Available chardev backend types: \n"
                      + "".join(f"  {name}\n" for name in _BACKENDS))
    given = _opts(draft, text, where, first="backend", names=_CHARDEV_NAMES)
    identity = given.pop("id", None)
    backend = given.pop("backend", None)
    if identity is None:
        raise OptionError("chardev: no id specified", where)
    if backend is None:
        raise OptionError(f'chardev: "{identity}" missing backend', where)
    if backend not in _BACKENDS:
        raise OptionError(f"'{backend}' is not a valid char driver name", where)
    _check_chardev(backend, given, where)
    mux = _is_on(given.pop("mux", "off"), "mux", where)
    _add_chardev(draft, ChardevSpec(identity, backend, given, where, mux=mux))


def _compat(draft: _Draft, label: str, text: str, where: str | None,
            failure: str) -> str | None:
    """A device in the old style (`stdio`, `unix:path,server`, `mon:stdio`, `chardev:id`):
    the ID of its character device; None for `none`."""
    if text.startswith("chardev:"):
        return text.removeprefix("chardev:")
    mux = text.startswith("mon:")
    text = text.removeprefix("mon:")
    failed = OptionError(failure, where)
    kind, _, rest = text.partition(":")
    params: dict[str, str] = {}
    if text in ("null", "stdio") or kind == "vc":
        backend = kind
    elif kind == "file" and ":" in text:
        backend = "file"
        params["path"] = rest
    elif kind == "unix" and ":" in text or kind == "tcp":
        backend = "socket"
        address, comma, others = rest.partition(",")
        if kind == "unix":
            if not address:
                raise _both("Unable to parse FD number ", failure, where)
            params["path"] = address
        else:
            host, colon, port = address.rpartition(":")
            if not colon:
                raise failed
            params.update(host=host, port=port)
        if comma:
            try:
                params.update(_opts(draft, others, where or "", warn=False, names=_CHARDEV_NAMES))
            except OptionError as error:
                raise _joined(error, failure, where) from None
    else:
        raise _both(f"'{text}' is not a valid char driver", failure, where)
    try:
        _check_chardev(backend, params, where)
    except OptionError as error:
        raise _joined(error, failure, where) from None
    _add_chardev_or(draft, ChardevSpec(label, backend, params, where, mux=mux, failure=failure))
    if mux:
        draft.options.monitors.append(MonitorSpec(label, "readline", where=where))
    return label


def _joined(error: OptionError, failure: str, where: str | None) -> OptionError:
    """Two errors, each on a line of its own that begins with the program's name."""
    line = f"{where}: {failure}" if where else failure
    return OptionError(f"{error}\0{line}")


def _both(text: str, failure: str, where: str | None) -> OptionError:
    return _joined(OptionError(text, where), failure, where)


def _add_chardev_or(draft: _Draft, spec: ChardevSpec) -> None:
    try:
        _add_chardev(draft, spec)
    except OptionError as error:
        if spec.failure and not spec.failure.startswith("parse error"):
            raise _joined(error, spec.failure, spec.where) from None
        raise


def _monitor_like(mode: str, pretty: bool) -> Callable[[_Draft, str, str], None]:
    def apply(draft: _Draft, text: str, where: str) -> None:
        if mode == "readline":
            draft.monitor_given = True
            if text == "none":
                return
        if text.startswith("chardev:"):
            draft.mons.append(({"chardev": text.removeprefix("chardev:"), "mode": mode,
                                "pretty": "on" if pretty else "off"}, where))
            return
        label = f"compat_monitor{_compat_monitors(draft)}"
        muxed = text.startswith("mon:")
        _compat(draft, label, text, where, f"parse error: {text}")
        if not (muxed and mode == "readline"):
            draft.options.monitors.append(MonitorSpec(label, mode, pretty, where))
    return apply


def _compat_monitors(draft: _Draft) -> int:
    return sum(spec.id.startswith("compat_monitor") for spec in draft.options.chardevs)


def _mon(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="chardev",
                  names=frozenset({"chardev", "mode", "pretty"}))
    draft.mons.append((given, where))
    draft.monitor_given = True


def _log_items(draft: _Draft, text: str, where: str) -> None:
    draft.log_items = text, where           # the last one counts


def _finish_log(draft: _Draft) -> None:
    from machine.log import UNSEEN, help_text, parse_items, trace_events

    if draft.log_items is None:
        return
    text, where = draft.log_items
    items = parse_items(text)
    if items is None:
        raise _Answer(help_text(), failed=True)
    for pattern in trace_events(text):
        if pattern == "help":
            raise _Answer("")               # there are none
        draft.options.warnings.append(f"warning: trace event '{pattern}' does not exist")
    draft.options.machine.log_items = items
    for name in sorted(items & UNSEEN):
        draft.warn(where, f"nothing is logged for '{name}'")


def _log_file(draft: _Draft, text: str, where: str) -> None:
    draft.options.machine.log_file = text


def _log_filter(draft: _Draft, text: str, where: str) -> None:
    from machine.log import LogError, parse_filter

    try:
        parse_filter(text)
    except LogError as error:
        raise OptionError(str(error), where) from None
    draft.options.machine.log_filter = text


def _kernel(draft: _Draft, text: str, where: str) -> None:
    draft.options.kernel = text


def _append(draft: _Draft, text: str, where: str) -> None:
    draft.options.append = text


def _initrd(draft: _Draft, text: str, where: str) -> None:
    draft.options.modules = [part.replace("\0", ",")
                             for part in text.replace(",,", "\0").split(",")]


def _smp(draft: _Draft, text: str, where: str) -> None:
    given = _opts(draft, text, where, first="cpus",
                  names=frozenset({"cpus", "maxcpus", "sockets", "dies", "clusters", "modules",
                                   "cores", "threads", "books", "drawers"}))
    for name, value in given.items():
        count = _integer(value)
        if count is None:
            raise OptionError(f"Parameter 'smp.{name}' expects integer")
        if count < 1:
            raise OptionError(
                "Invalid CPU topology: CPU topology parameters must be greater than zero")
        if count > 1:
            raise OptionError(f"-smp {text}: there is only one processor")


def _vnc(draft: _Draft, text: str, where: str) -> None:
    if text != "none":
        raise OptionError("VNC is not supported", where)


def _serial(draft: _Draft, text: str, where: str) -> None:
    draft.serials.append((text, where))


def _debugcon(draft: _Draft, text: str, where: str) -> None:
    draft.debugcons.append((text, where))


def _display(draft: _Draft, text: str, where: str) -> None:
    given = _keyval(text, where, "type")
    kind = given.pop("type", "")
    if kind in ("help", "?"):
        raise _Answer("Available display backend types:\nnone\n")
    if kind != "none":
        raise OptionError(f"Parameter 'type' does not accept value '{kind}'", where)
    for name in given:
        raise OptionError(f"Parameter '{name}' is unexpected", where)
    draft.display = kind


# -- the rest

def _set(name: str, value: object) -> Callable[[_Draft, str, str], None]:
    def apply(draft: _Draft, text: str, where: str) -> None:
        setattr(draft, name, value)
    return apply


def _not_started(draft: _Draft, text: str, where: str) -> None:
    draft.options.machine.start = False


def _set_fixed_action(name: str, value: str) -> Callable[[_Draft, str, str], None]:
    def apply(draft: _Draft, text: str, where: str) -> None:
        _set_action(draft, name, value, where)
    return apply


def _set_watchdog_action(draft: _Draft, text: str, where: str) -> None:
    _set_action(draft, "watchdog", text, where)


def _keep_bios(draft: _Draft, text: str, where: str) -> None:
    draft.options.bios = text


def _keep_pidfile(draft: _Draft, text: str, where: str) -> None:
    draft.options.pidfile = text


def _ignore(draft: _Draft, text: str, where: str) -> None:
    """There is no configuration file to leave out."""


def _version_line(draft: _Draft) -> str:
    return f"snooze emulator version {draft.version}\n"


def _help(draft: _Draft, text: str, where: str) -> None:
    raise _Answer(_version_line(draft) + help_text(draft.prog))


def _version(draft: _Draft, text: str, where: str) -> None:
    raise _Answer(_version_line(draft))


OPTIONS: tuple[Option, ...] = (
    Option(("h", "help"), "", "list the options and exit", _help),
    Option(("version",), "", "tell the version and exit", _version),
    Option(("machine", "M"), "[type=]pc[,prop=value...]", "the board ('help' lists them)",
           _machine),
    Option(("cpu",), "MODEL[,+FEATURE][,-FEATURE][,FEATURE=on|off]",
           "the processor ('help' lists models and features)", _cpu),
    Option(("accel",), "tcg[,one-insn-per-tb=on|off]",
           "how guest code is run; one-insn-per-tb ends a block after each instruction", _accel),
    Option(("m",), "[size=]N[M|G]", "guest memory, in MiB without a suffix (128)", _memory),
    Option(("bios",), "FILE", "the firmware image, instead of the one that comes along",
           _keep_bios),
    Option(("kernel",), "FILE", "a Multiboot kernel to boot", _kernel),
    Option(("append",), "TEXT", "the kernel's command line", _append),
    Option(("initrd",), "FILE[ ARGS][,FILE...]", "the kernel's modules", _initrd),
    Option(("smp",), "[cpus=]N", "how many processors there are (1)", _smp),
    Option(("S",), "", "do not start the guest: wait for 'cont'", _not_started),
    Option(("d",), "ITEM[,...]", "log these ('help' lists them)", _log_items),
    Option(("D",), "FILE", "write the log there instead of to stderr", _log_file),
    Option(("dfilter",), "RANGE[,...]", "log these addresses only: START..END, START+LENGTH",
           _log_filter),
    Option(("icount",), "[shift=]N|auto[,sleep=on|off][,align=on|off]",
           "deterministic time: 2^N ns for each guest instruction", _icount),
    Option(("rtc",), "[base=utc|localtime|DATE][,clock=host|rt|vm]",
           "what the guest's CMOS clock shows, and what drives it", _rtc),
    Option(("device",), "DRIVER[,prop=value...]",
           "one more device ('help' lists them; 'DRIVER,help' its properties)", _device),
    Option(("global",), "DRIVER.PROP=VALUE", "set a property of every device of a kind",
           _global),
    Option(("name",), "NAME", "what the guest is called", _name),
    Option(("uuid",), "UUID", "the guest's UUID", _uuid),
    Option(("chardev",), "BACKEND,id=ID[,mux=on|off][,...]",
           "a character device: null, stdio, file,path=F, vc,\n"
           "socket,path=F|host=H,port=P[,server=on|off][,wait=on|off]", _chardev),
    Option(("serial",), "DEV", "a serial port (repeat for more): none, null, vc, stdio,\n"
           "mon:stdio, file:F, unix:F[,server=on][,wait=off], tcp:H:P[,...], chardev:ID", _serial),
    Option(("debugcon",), "DEV", "a debug console at port 0xe9", _debugcon),
    Option(("monitor",), "DEV", "an HMP monitor there (DEV as for -serial)",
           _monitor_like("readline", False)),
    Option(("qmp",), "DEV", "a QMP monitor there", _monitor_like("control", False)),
    Option(("qmp-pretty",), "DEV", "the same, one member a line",
           _monitor_like("control", True)),
    Option(("mon",), "[chardev=]ID[,mode=readline|control][,pretty=on|off]",
           "a monitor on a -chardev", _mon),
    Option(("display",), "none", "no display (there is none)", _display),
    Option(("vnc",), "none", "no VNC server (there is none)", _vnc),
    Option(("nographic",), "", "serial port and monitor on stdio; Ctrl-a h helps",
           _set("nographic", True)),
    Option(("nodefaults",), "", "no serial port and no monitor unless asked for",
           _set("defaults", False)),
    Option(("no-user-config",), "", "no configuration file (there is none)", _ignore),
    Option(("no-reboot",), "", "a reset ends the program",
           _set_fixed_action("reboot", "shutdown")),
    Option(("no-shutdown",), "", "a shutdown only stops the guest",
           _set_fixed_action("shutdown", "pause")),
    Option(("action",), "reboot=...,shutdown=...,panic=...,watchdog=...",
           "what to do then: reboot=reset|shutdown, shutdown=poweroff|pause,\n"
           "panic=pause|shutdown|exit-failure|none, watchdog=reset|shutdown|\n"
           "poweroff|inject-nmi|pause|debug|none", _action),
    Option(("watchdog-action",), "ACTION", "the same as -action watchdog=ACTION",
           _set_watchdog_action),
    Option(("pidfile",), "FILE", "write the process ID there", _keep_pidfile),
)

_BY_NAME = {name: option for option in OPTIONS for name in option.names}


def help_text(prog: str) -> str:
    """The table, for people."""
    lines = [f"usage: {prog} [options]", "", "The options are QEMU's and mean the same.", ""]
    for option in OPTIONS:
        names = " or ".join("-" + name for name in option.names)
        lines.append(f"{names} {option.argument}".rstrip())
        lines.extend(16 * " " + line for line in option.help.split("\n"))
    return "\n".join(lines) + "\n"


# -- all of it

def parse(arguments: Sequence[str], *, prog: str, version: str, terminal: bool) -> Options:
    """Read the command line.

    *terminal*: stdin and stdout are one, so that the console may be the default.
    Raises `OptionError`; several lines in it that each want the program's name in front
    are separated by a NUL.  Warnings come back in the result, or, when it fails, in front
    of the error in the same way.
    """
    draft = _Draft(prog, version)
    try:
        _read(draft, list(arguments))
        _complete(draft, terminal)
    except _Answer as answer:
        draft.options.answer = str(answer)
        draft.options.answer_status = int(answer.failed)
    except OptionError as error:
        if draft.options.warnings:
            raise OptionError("\0".join([*draft.options.warnings, str(error)])) from None
        raise
    return draft.options


def _read(draft: _Draft, arguments: list[str]) -> None:
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        at += 1
        if not argument.startswith("-"):
            # QEMU takes it for a disk image.  There are no disks yet.
            raise OptionError(f"{argument}: disk images are not supported")
        name = argument[2:] if argument.startswith("--") else argument[1:]
        option = _BY_NAME.get(name)
        if option is None:
            raise OptionError("invalid option", argument)
        text = ""
        where = argument
        if option.argument:
            if at >= len(arguments):
                raise OptionError("requires an argument", argument)
            text = arguments[at]
            at += 1
            where = f"{argument} {text}"
        option.apply(draft, text, where)


def _complete(draft: _Draft, terminal: bool) -> None:
    """Defaults, and what refers to something else on the command line."""
    _finish_log(draft)
    if draft.options.kernel is None:
        for name, wanted in (("append", draft.options.append), ("initrd", draft.options.modules)):
            if wanted:
                raise OptionError(f"-{name} only allowed with -kernel option")
    options = draft.options
    chosen = draft.monitor_given or draft.serials or draft.nographic or draft.display \
        or options.monitors or draft.mons
    if draft.defaults and not chosen and terminal:
        options.console = True
        options.serials = [""]
    elif draft.defaults:
        if draft.nographic:
            if not draft.serials and not draft.monitor_given:
                draft.serials.append(("mon:stdio", None))
            elif not draft.serials:
                draft.serials.append(("stdio", None))
            elif not draft.monitor_given:
                _monitor_on_stdio(draft)
        elif not draft.serials:
            draft.serials.append(("vc", None))
    for given, where in draft.mons:
        _connect_monitor(draft, given, where)
    for i, (text, serial_where) in enumerate(draft.serials):
        if text == "none":
            # Takes no port's place: the next one is still the first.
            continue
        failure = f"could not connect serial device to character backend '{text}'"
        label = _compat(draft, f"serial{i}", text, serial_where, failure)
        if label is not None:
            _require_chardev(draft, label, OptionError(failure, serial_where))
        options.serials.append(label)
    _limit_serials(options)
    for text, where in draft.debugcons:
        label = _compat(draft, "debugcon", text, where, f"invalid character backend '{text}'")
        if text.startswith("chardev:"):
            raise OptionError("Property 'isa-debugcon.chardev' can't find value 'debugcon'", where)
        if label is not None:
            draft.devices.append((DeviceSpec("isa-debugcon", {"chardev": label}), where, None))
    _add_devices(draft)
    _check_users(draft)


def _monitor_on_stdio(draft: _Draft) -> None:
    label = f"compat_monitor{_compat_monitors(draft)}"
    if any(spec.backend == "stdio" for spec in draft.options.chardevs) or any(
            text.endswith("stdio") for text, _ in draft.serials):
        raise OptionError("cannot use stdio by multiple character devices")
    _add_chardev(draft, ChardevSpec(label, "stdio", {}, None))
    draft.options.monitors.append(MonitorSpec(label, "readline"))


def _require_chardev(draft: _Draft, label: str, error: OptionError) -> None:
    if not any(spec.id == label for spec in draft.options.chardevs):
        raise error


def _connect_monitor(draft: _Draft, given: dict[str, str], where: str) -> None:
    label = given.get("chardev")
    mode = given.get("mode", "readline")
    pretty = _is_on(given.get("pretty", "off"), "pretty", where)
    if mode not in ("readline", "control"):
        raise OptionError(f"Parameter 'mode' does not accept value '{mode}'", where)
    if mode == "readline" and "pretty" in given and pretty:
        raise OptionError("'pretty' is not compatible with HMP monitors", where)
    if label is None:
        raise OptionError("Parameter 'chardev' is missing", where)
    _require_chardev(draft, label, OptionError(f'chardev "{label}" not found', where))
    draft.options.monitors.append(MonitorSpec(label, mode, pretty, where))


MAX_SERIALS = 4


def _limit_serials(options: Options) -> None:
    if len(options.serials) > MAX_SERIALS:
        # QEMU leaves the others out without a word.
        del options.serials[MAX_SERIALS:]


def _add_devices(draft: _Draft) -> None:
    options = draft.options
    for spec, where, _ in draft.devices:
        label = spec.props.get("chardev")
        shown = "serial" if spec.driver == "isa-serial" else spec.driver
        if label is not None:
            _require_chardev(draft, label, OptionError(
                f"Property '{shown}.chardev' can't find value '{label}'", where))
        if spec.driver == "isa-debugcon" and label is None:
            raise OptionError("Can't create debugcon device, empty char device", where)
        if spec.driver == "isa-serial":
            _add_isa_serial(options, spec, label, where)
        else:
            options.machine.devices.append(spec)


def _add_isa_serial(options: Options, spec: DeviceSpec, label: str | None, where: str) -> None:
    index = _integer(spec.props.get("index", str(len(options.serials)))) or 0
    if index >= MAX_SERIALS:
        raise OptionError(
            f"Max. supported number of ISA serial ports is {MAX_SERIALS}.", where)
    while len(options.serials) <= index:
        options.serials.append(None)
    if options.serials[index] is None:
        options.serials[index] = label or ""


def _check_users(draft: _Draft) -> None:
    """One character device, one user (unless it is a mux)."""
    options = draft.options
    shared = {spec.id for spec in options.chardevs if spec.mux}
    used: set[str] = set()

    def take(label: str, problem: str, where: str | None) -> None:
        if label in used and label not in shared:
            raise OptionError(problem, where)
        used.add(label)

    for monitor in options.monitors:
        take(monitor.chardev, f"chardev '{monitor.chardev}' is already in use", monitor.where)
    for i, label in enumerate(options.serials):
        if label:
            where = draft.serials[i][1] if i < len(draft.serials) else None
            take(label, f"chardev '{label}' is already in use", where)
    for spec, where, _ in draft.devices:
        label = spec.props.get("chardev")
        if label is not None and spec.driver != "isa-serial":
            take(label, f"Property '{spec.driver}.chardev' can't take value '{label}': "
                        f"chardev '{label}' is already in use", where)
