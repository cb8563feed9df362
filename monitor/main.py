"""The program: `snooze [options]`.

Threads: the machine has its own; monitors and sockets live on an asyncio loop in the
main thread; one more waits for signals, and stdin and stdout have one each when they are
used.  The machine is called by `Machine.post`, and calls back by
`loop.call_soon_threadsafe`, and that is all that threads share.

The order at the start matters to people: options are checked first, then character
devices are opened in their order (a listening socket waits for its client there),
then the machine is built and started, and only then what takes long to import is
imported.  At the end all output is flushed before the process leaves with the
machine's exit code.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from monitor.chardev import Backend, ChardevError, MuxBackend, MuxPort, open_chardev
from monitor.options import OptionError, Options, parse
from monitor.version import VERSION

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from machine import Machine
    from machine.multiboot import Kernel
    from monitor.hmp_session import HmpSession
    from monitor.qmp import QmpServer

__all__ = ["main"]

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
#: A firmware image is a whole number of these.
_BIOS_UNIT = 0x10000


def main(argv: list[str] | None = None) -> int:
    """Run the program with *argv* (the program's name first); its exit status."""
    _hold_standard_descriptors()
    arguments = sys.argv if argv is None else argv
    prog = program_name(arguments[0])
    # Until the machine runs, Ctrl-C just ends us.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options = parse(arguments[1:], prog=prog, version=VERSION,
                        terminal=os.isatty(0) and os.isatty(1))
        for line in options.warnings:
            _tell(prog, line)
        if options.answer is not None:
            return _print(options.answer) or options.answer_status
        _set_up_logging(prog)
        return _Program(prog, options).run()
    except OptionError as error:
        for line in str(error).split("\0"):
            _tell(prog, line)
        return 1


def _hold_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr was closed, or a socket would come there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)      # the lowest free number, which is this one


def _set_up_logging(prog: str) -> None:
    import logging

    class Lines(logging.Formatter):
        """Ours begin with our name; what a line of the monitor had wrong is QEMU's, and bare."""

        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return text if record.name == "snooze.monitor" else f"{prog}: {text}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    # What a guest does wrong is shown to who asks for it, and nobody can ask yet.
    logging.getLogger("snooze.guest").setLevel(logging.CRITICAL)


def program_name(argv0: str) -> str:
    """What messages begin with: the last part of how we were called."""
    name = os.path.basename(argv0)
    if name == "__main__.py":
        # `python -m monitor`: as for any program, what stood first on the command line.
        return os.path.basename(sys.orig_argv[0])
    return name


def _tell(prog: str, line: str) -> None:
    """One line for stderr, as it is: not lost when stderr is closed, just not told."""
    try:
        sys.stderr.write(f"{prog}: {line}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


def _print(text: str) -> int:
    if sys.stdout is None:
        return 0                    # it was closed when we were started
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # `snooze -help | head`.  What is left in the buffer must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


class _Deferred:
    """Where the guest's output waits until the console is there (its import takes long)."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._lock = threading.Lock()
        self._to: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._to is None:
                self._waiting.append(data)
                return
        self._to(data)

    def connect(self, to: Callable[[bytes], None]) -> None:
        with self._lock:
            for data in self._waiting:
                to(data)
            self._waiting.clear()
            self._to = to


class _Program:
    """One run: what is open, and how it ends."""

    def __init__(self, prog: str, options: Options) -> None:
        self.prog = prog
        self.options = options
        self.backends: dict[str, Backend] = {}
        self.console_output = _Deferred()

    def run(self) -> int:
        try:
            self._open_chardevs()
            self._write_pidfile()
            # Before any thread begins, so that all of them have the signals blocked and
            # only the one that waits for them gets them.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            machine = self._build()
            return self._run(machine)
        finally:
            for backend in self.backends.values():
                backend.close()
            self._remove_pidfile()

    # -- before the machine runs
    def _open_chardevs(self) -> None:
        for spec in self.options.chardevs:
            where = f"{spec.where}: " if spec.where else ""

            def report(line: str, where: str = where) -> None:
                _tell(self.prog, f"{where}info: {line}")

            try:
                backend = open_chardev(spec)
                backend.open(report)
            except ChardevError as error:
                lines = [f"{where}{error}"]
                if spec.failure and not spec.failure.startswith("parse error"):
                    lines.append(where + spec.failure)
                raise OptionError("\0".join(lines)) from None
            self.backends[spec.id] = backend

    def _write_pidfile(self) -> None:
        path = self.options.pidfile
        if path is None:
            return
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            self.options.pidfile = None
            raise OptionError(f"cannot create PID file: Could not create '{path}': "
                              f"{error.strerror}") from None

    def _remove_pidfile(self) -> None:
        if self.options.pidfile is not None:
            try:
                os.unlink(self.options.pidfile)
            except FileNotFoundError:
                return              # somebody was faster

    def _build(self) -> Machine:
        import firmware
        from emu.engine import EngineError, UnknownEngine
        from machine import ConfigError, Machine

        config = self.options.machine
        config.bios = firmware.image() if self.options.bios is None \
            else self._read_bios(self.options.bios)
        if self.options.kernel is not None:
            config.kernel = self._read_kernel(self.options.kernel)
            config.kernel_rom = firmware.multiboot()
        config.chardevs = {name: each.offer for name, each in self.backends.items()}
        # On a mux the last to come has the input first: the serial port, if there is one.
        self.monitor_ports = [self._port(spec.chardev) for spec in self.options.monitors]
        self.ports: list[Backend | None] = []
        for name in self.options.serials:
            port = self._port(name) if name else None
            self.ports.append(port)
            if name is None:
                config.serials.append(None)
            elif port is not None:
                config.serials.append(port.offer)
            elif self.options.console and len(config.serials) == 0:
                config.serials.append(self.console_output.write)
            else:
                config.serials.append(_discard)
        try:
            return Machine(config)
        except (ConfigError, EngineError, UnknownEngine) as error:
            raise OptionError(str(error)) from None
        except OSError as error:
            # Guest memory is mapped from the host, and the host may not have that much.
            raise OptionError(f"cannot set up guest memory 'pc.ram': {error.strerror}") from None

    def _read_bios(self, path: str) -> bytes:
        try:
            with open(path, "rb") as file:
                image = file.read()
        except OSError:
            image = b""
        if not image or len(image) % _BIOS_UNIT:
            raise OptionError(f"could not load PC BIOS '{path}'")
        return image

    def _read_kernel(self, name: str) -> Kernel:
        """The kernel with its modules: `-initrd` has FILE[ ARGUMENTS],…, a comma twice for one."""
        from machine.multiboot import Kernel, Module

        try:
            with open(name, "rb") as file:
                image = file.read()
        except OSError as error:
            raise OptionError(
                f"could not open kernel file '{name}': {error.strerror}") from None
        modules = []
        for line in self.options.modules:
            path = line.split(" ", 1)[0]
            try:
                with open(path, "rb") as file:
                    modules.append(Module(line, file.read()))
            except OSError:
                raise OptionError(f"Failed to open file '{path}'") from None
        return Kernel(name, image, self.options.append, tuple(modules))

    def _port(self, name: str) -> Backend:
        """The character device, or a place of one's own on it when it is a mux."""
        backend = self.backends[name]
        return backend.port() if isinstance(backend, MuxBackend) else backend

    # -- while it runs
    def _run(self, machine: Machine) -> int:
        threading.Thread(target=_await_signals, args=(machine, self.prog), name="signals",
                         daemon=True).start()
        machine.start_thread()
        import asyncio

        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(self._serve(machine, loop))
        finally:
            for backend in self.backends.values():
                backend.close()
            loop.close()

    async def _serve(self, machine: Machine, loop: asyncio.AbstractEventLoop) -> int:
        import asyncio

        qmp = self._connect_monitors(machine)
        for i, port in enumerate(self.ports):
            if port is not None:
                # The machine counts only the ports that are there.
                index = i - self.options.serials[:i].count(None)
                port.connect(_SerialFrontEnd(machine, loop, index, port))
        if qmp is not None:
            qmp.start(loop)
        for backend in self.backends.values():
            if isinstance(backend, MuxBackend):
                backend.on_quit(lambda: _expect(machine.post(machine.quit)), self.prog)
            backend.attach(loop)
        exited = asyncio.wrap_future(machine.exited)
        if self.options.console:
            await self._run_console(machine, exited)
        status = await exited
        # Commands that the machine left behind will not be finished any more.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return status

    def _connect_monitors(self, machine: Machine) -> QmpServer | None:
        server: QmpServer | None = None
        for spec, port in zip(self.options.monitors, self.monitor_ports, strict=True):
            if spec.mode == "control":
                from monitor.qmp import QmpServer

                if server is None:
                    server = QmpServer(machine)
                    _subscribe(machine, server)
                port.connect(server.session(port, pretty=spec.pretty))
            else:
                front = _HmpFrontEnd(machine, port)
                port.connect(front)
                if isinstance(port, MuxPort):
                    port.focused = front.focused
        return server

    async def _run_console(self, machine: Machine, exited: asyncio.Future[int]) -> None:
        import asyncio

        from monitor.console import Console

        console = Console(machine, VERSION)
        self.console_output.connect(console.serial_output)
        task = asyncio.ensure_future(console.run())
        ends: set[asyncio.Future[Any]] = {task, exited}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        if not exited.done():
            _expect(machine.post(machine.quit))


def _discard(data: bytes) -> None:
    """A serial port with nothing plugged in."""


def _subscribe(machine: Machine, server: QmpServer) -> None:
    _expect(machine.post(lambda: machine.subscribe(server.event)))


class _HmpFrontEnd:
    """An HMP monitor on a character device: a session for each client."""

    def __init__(self, machine: Machine, backend: Backend) -> None:
        self._machine = machine
        self._backend = backend
        self._session: HmpSession | None = None

    def opened(self) -> None:
        from monitor.hmp_session import HmpSession

        self._session = HmpSession(self._machine, self._backend.write,
                                   self._backend.disconnect, VERSION,
                                   self._backend.pause, self._backend.resume)
        self._session.start()

    def received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.feed(data)

    def closed(self) -> None:
        self._session = None

    def focused(self) -> None:
        """A mux turned to us again: show where we are."""
        self._backend.write(b"\r\n(qemu) ")


class _SerialFrontEnd:
    """A serial port's input: bytes wait here until the guest's UART has room."""

    #: bytes that may wait before no more are read
    LIMIT = 4096

    def __init__(self, machine: Machine, loop: asyncio.AbstractEventLoop, index: int,
                 backend: Backend) -> None:
        self._machine = machine
        self._loop = loop
        self._index = index
        self._backend = backend
        # The next three belong to the machine thread.
        self._waiting = bytearray()
        self._posted = False
        self._full = False
        _expect(machine.post(self._watch))

    def _watch(self) -> None:
        self._machine.on_serial_room(self._index, self._room)

    # -- on the loop
    def opened(self) -> None:
        """The line is simply there: a UART does not hear of it."""

    def closed(self) -> None:
        """What came before still goes in."""

    def received(self, data: bytes) -> None:
        _expect(self._machine.post(lambda: self._arrived(data)))

    # -- on the machine thread
    def _arrived(self, data: bytes) -> None:
        self._waiting += data
        self._give()
        if len(self._waiting) > self.LIMIT and not self._full:
            self._full = True
            self._loop.call_soon_threadsafe(self._backend.pause)

    def _room(self) -> None:
        # Posted, because the device is in the middle of a register access.
        if self._waiting and not self._posted:
            self._posted = True
            _expect(self._machine.post(self._give))

    def _give(self) -> None:
        self._posted = False
        if self._waiting:
            taken = self._machine.serial_receive(self._index, bytes(self._waiting))
            del self._waiting[:taken]
        if self._full and len(self._waiting) <= self.LIMIT:
            self._full = False
            self._loop.call_soon_threadsafe(self._backend.resume)


def _expect(future: Future[Any]) -> None:
    """Nobody waits for *future*: a failure of it is ours, and must be seen."""
    import traceback

    from machine import MachineLeft

    def check(done: Future[Any]) -> None:
        error = done.exception()
        # A machine that has left in the meantime says so, and that is all right.
        if error is not None and not isinstance(error, MachineLeft):
            traceback.print_exception(error)

    future.add_done_callback(check)


def _await_signals(machine: Machine, prog: str) -> None:
    """The signal thread: SIGINT, SIGTERM and SIGHUP end the machine in an orderly way."""
    from machine import ShutdownCause

    while True:
        info = signal.sigwaitinfo(_SIGNALS)
        # A terminal's Ctrl-C comes from no process.
        sender = f" from pid {info.si_pid} ({_command_of(info.si_pid)})" if info.si_pid else ""
        _tell(prog, f"terminating on signal {info.si_signo}{sender}")
        _expect(machine.post(lambda: machine.quit(ShutdownCause.HOST_SIGNAL)))


def _command_of(pid: int) -> str:
    """How process *pid* was called."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read().split(b"\0")[0]) or "<unknown process>"
    except OSError:
        return "<unknown process>"
