"""Character devices: where monitors and serial ports meet the outside world.

A backend carries bytes to and from a file, a terminal or a socket; a *front end* is
what is connected to it: a monitor or a serial port.  Backends follow QEMU's
`-chardev` ("Character device options" in its manual):

    null, vc    nothing comes, and what is written goes nowhere (there is no display)
    file        what is written goes to a file
    stdio       this process's stdin and stdout
    socket      a Unix or TCP socket, listening (server=on) or connecting; one
                client at a time, the next is taken when the first has left
    mux         several front ends on one backend, told apart by Ctrl-a

Life of one: `open` (before the guest starts: files are opened and sockets bound, and a
listening socket with wait=on waits for its first client), then `attach` (the asyncio
loop runs now: input flows), then `close`.

`write` and `offer` may be called from any thread at any time.  Everything else, and all
that is called on the front end, belongs to the loop's thread.

Nobody can make output pile up without limit.  What the guest prints, and what happens
to it, is offered: for a client that does not read it is dropped in the end (QEMU's UART
waits for the client instead; here the guest never waits for anything outside, so that
it runs the same whoever listens).  What answers a client is always sent, but a client
that leaves too much of it unread is not read from either.
"""

from __future__ import annotations

import collections
import logging
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from monitor.options import ChardevSpec

if TYPE_CHECKING:
    import asyncio

__all__ = ["Backend", "ChardevError", "FrontEnd", "MuxBackend", "MuxPort", "open_chardev"]

_log = logging.getLogger("snooze.chardev")

#: Bytes read at once.
CHUNK = 4096
#: Bytes that may wait to be sent before more that is offered is dropped, and before we
#: stop to read from the same client.
UNSENT_LIMIT = 1 << 20
#: Seconds that all output may take to get out at the end.
CLOSE_TIMEOUT_S = 1.0
_MS_PER_S = 1000.0


class ChardevError(Exception):
    """A character device that does not open; `str()` is QEMU's text, without a location."""


class FrontEnd(Protocol):
    """What is connected to a backend."""

    def opened(self) -> None:
        """Somebody is there now."""

    def received(self, data: bytes) -> None:
        """They sent *data*."""

    def closed(self) -> None:
        """They left."""


class Backend(Protocol):
    """One character device."""

    @property
    def filename(self) -> str:
        """As `info chardev` and query-chardev show it."""

    def open(self, report: Callable[[str], None]) -> None:
        """Open it; *report* is given lines of information.  Raises `ChardevError`."""

    def connect(self, front: FrontEnd) -> None:
        """Say who is to be told; once, before `attach`."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen and to tell."""

    def write(self, data: bytes) -> None:
        """Send *data*.  From any thread."""

    def offer(self, data: bytes) -> None:
        """Send *data*, or drop it when too much waits already.  From any thread."""

    def pause(self) -> None:
        """Read no more until `resume`."""

    def resume(self) -> None:
        """Read on."""

    def disconnect(self) -> None:
        """Let the present client go."""

    def close(self) -> None:
        """Get out what was written, and end."""


class NullBackend:
    """Nothing in, nothing out: `null`, and `vc` where there is no display."""

    def __init__(self, kind: str) -> None:
        self.filename = kind

    def open(self, report: Callable[[str], None]) -> None:
        """There is nothing to open."""

    def connect(self, front: FrontEnd) -> None:
        """Nobody ever comes, so nobody has to be told."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing comes in."""

    def write(self, data: bytes) -> None:
        """Gone."""

    offer = write

    def pause(self) -> None:
        """Nothing comes anyway."""

    def resume(self) -> None:
        """Nothing comes still."""

    def disconnect(self) -> None:
        """Nobody is there."""

    def close(self) -> None:
        """There is nothing to close."""


class FileBackend:
    """What is written goes to a file, at once: it can be read while the guest runs."""

    def __init__(self, path: str, append: bool) -> None:
        self.filename = "file"
        self._path = path
        self._append = append
        self._fd = -1
        self._full = False
        self._front: FrontEnd | None = None

    def open(self, report: Callable[[str], None]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        flags |= os.O_APPEND if self._append else os.O_TRUNC
        try:
            self._fd = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise ChardevError(f"Could not open '{self._path}': {error.strerror}") from None

    def connect(self, front: FrontEnd) -> None:
        self._front = front

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._front is not None:
            self._front.opened()

    def write(self, data: bytes) -> None:
        if self._fd < 0 or self._full:
            return
        try:
            while data:
                data = data[os.write(self._fd, data):]
        except OSError as error:
            # The guest cannot be told that the disk is full, but the user can, once.
            self._full = True
            sys.stderr.write(f"{self._path}: {error.strerror}\n")

    offer = write

    def pause(self) -> None:
        """Nothing is read."""

    def resume(self) -> None:
        """Nothing is read."""

    def disconnect(self) -> None:
        """Nobody is there."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Outgoing:
    """Bytes on their way out, from any thread to the one that sends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: collections.deque[bytes] = collections.deque()
        #: bytes given to us and not sent yet, by our count
        self._waiting = 0
        self._dropping = False

    def put(self, data: bytes) -> None:
        with self._lock:
            self._chunks.append(data)
            self._waiting += len(data)

    def offer(self, data: bytes, to: str) -> bool:
        """Take *data*, meant for *to*, unless too much waits; whether it was taken."""
        with self._lock:
            if self._waiting + len(data) <= UNSENT_LIMIT:
                self._chunks.append(data)
                self._waiting += len(data)
                return True
            told, self._dropping = self._dropping, True
        if not told:
            _log.warning("%s: nobody reads what is sent, so output is dropped", to)
        return False

    def take(self) -> bytes | None:
        """What is to be sent next."""
        return self._chunks.popleft() if self._chunks else None

    def sent(self, count: int) -> None:
        """*count* of the bytes taken are gone."""
        with self._lock:
            self._waiting -= count

    def new_client(self) -> None:
        """Somebody else reads now: tell of it again if they do not."""
        self._dropping = False


class StdioBackend:
    """This process's stdin and stdout, each with a thread of its own.

    Threads, because stdin may be a file, which an event loop cannot wait for, and
    because making stdout non-blocking would do so to everyone who shares it.
    """

    def __init__(self, signals: bool) -> None:
        self.filename = "stdio"
        self._signals = signals
        self._front: FrontEnd | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outgoing = _Outgoing()
        self._work = threading.Event()
        self._ending = False
        self._writer: threading.Thread | None = None
        self._reading = threading.Event()
        self._reading.set()
        self._saved: list[Any] | None = None

    def open(self, report: Callable[[str], None]) -> None:
        """It is open.  The threads begin with `attach`, when signals are blocked."""

    def connect(self, front: FrontEnd) -> None:
        self._front = front

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if os.isatty(0):
            self._raw_mode()
        self._writer = threading.Thread(target=self._write_all, name="stdout", daemon=True)
        self._writer.start()
        if self._front is not None:
            self._front.opened()
        threading.Thread(target=self._read_all, name="stdin", daemon=True).start()

    def _raw_mode(self) -> None:
        import termios

        self._saved = termios.tcgetattr(0)
        mode = termios.tcgetattr(0)
        mode[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                     | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        mode[1] |= termios.OPOST
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not self._signals:
            mode[3] &= ~termios.ISIG
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(0, termios.TCSANOW, mode)

    def _read_all(self) -> None:
        loop, front = self._loop, self._front
        assert loop is not None
        if front is None:
            return
        while True:
            self._reading.wait()
            try:
                data = os.read(0, CHUNK)
            except OSError:
                data = b""          # a terminal that was hung up reads as an error
            call: tuple[Any, ...] = (front.received, data) if data else (front.closed,)
            try:
                loop.call_soon_threadsafe(*call)
            except RuntimeError:
                return              # the loop is closed: the program is ending
            if not data:
                return

    def write(self, data: bytes) -> None:
        self._outgoing.put(data)
        self._work.set()

    def offer(self, data: bytes) -> None:
        if self._outgoing.offer(data, self.filename):
            self._work.set()

    def _write_all(self) -> None:
        broken = False
        while True:
            self._work.wait()
            self._work.clear()
            while (chunk := self._outgoing.take()) is not None:
                data = chunk
                try:
                    while data and not broken:
                        data = data[os.write(1, data):]
                except OSError:
                    broken = True   # whoever read it is gone; there is nobody to tell
                self._outgoing.sent(len(chunk))
            if self._ending:
                return

    def pause(self) -> None:
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    def disconnect(self) -> None:
        """stdio stays."""

    def close(self) -> None:
        self._ending = True
        self._work.set()
        if self._writer is not None:
            self._writer.join(CLOSE_TIMEOUT_S)
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSANOW, self._saved)
            self._saved = None


class SocketBackend:
    """A Unix or TCP socket."""

    def __init__(self, *, path: str | None, host: str, port: str, server: bool, wait: bool,
                 reconnect_s: float = 0.0) -> None:
        self._path = path
        self._host = host
        self._port = port
        self._server = server
        self._wait = wait
        self._reconnect_s = reconnect_s
        self._front: FrontEnd | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self._reading = False
        self._paused = False
        self._writing = False
        self._outgoing = _Outgoing()
        #: taken from there, for the client that is here
        self._unsent = bytearray()
        self._scheduled = False
        #: (device, inode) of the socket file that we made
        self._file: tuple[int, int] | None = None
        self.filename = f"disconnected:{self._address()}"

    def _address(self) -> str:
        where = f"unix:{self._path}" if self._path is not None \
            else f"tcp:{_bracketed(self._host)}:{self._port}"
        return where + (",server=on" if self._server else "")

    # -- before the loop runs
    def open(self, report: Callable[[str], None]) -> None:
        if self._server:
            self._listener = self._bind()
            self.filename = f"disconnected:{self._address()}"
            if self._wait:
                report(f"QEMU waiting for connection on: {self.filename}")
                self._adopt(self._listener.accept()[0])
        else:
            try:
                self._adopt(self._dial())
            except ChardevError:
                if not self._reconnect_s:
                    raise

    def _bind(self) -> socket.socket:
        if self._path == "":
            raise ChardevError("Failed to bind socket to : No such file or directory")
        if self._path is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # A socket file that somebody left behind would be in the way.
                if os.path.lexists(self._path):
                    os.unlink(self._path)
                listener.bind(self._path)
            except OSError as error:
                listener.close()
                reason = error.strerror or "path is too long for a Unix socket"
                raise ChardevError(f"Failed to bind socket to {self._path}: {reason}") from None
            status = os.stat(self._path)
            self._file = status.st_dev, status.st_ino
            listener.listen(1)
            return listener
        problem: OSError | None = None
        for family, kind, protocol, _, address in self._resolve(passive=True):
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
            except OSError as error:
                listener.close()
                problem = error
                continue
            name = listener.getsockname()
            self._host, self._port = name[0], str(name[1])
            return listener
        reason = (problem and problem.strerror) or "no address"
        raise ChardevError(f"Failed to find an available port: {reason}")

    def _resolve(self, *, passive: bool) -> list[Any]:
        flags = socket.AI_PASSIVE if passive else 0
        try:
            found = socket.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM,
                                       flags=flags)
        except socket.gaierror as error:
            raise ChardevError(f"address resolution failed for {self._host}:{self._port}: "
                               f"{error.strerror}") from None
        # IPv4 first, as long as nobody asked for the other.
        return sorted(found, key=lambda info: info[0] != socket.AF_INET)

    def _dial(self) -> socket.socket:
        if self._path is not None:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                client.connect(self._path)
            except OSError as error:
                client.close()
                raise ChardevError(
                    f"Failed to connect to '{self._path}': {error.strerror or error}") from None
            return client
        problem: OSError | None = None
        for family, kind, protocol, _, address in self._resolve(passive=False):
            client = socket.socket(family, kind, protocol)
            try:
                client.connect(address)
            except OSError as error:
                client.close()
                problem = error
                continue
            return client
        reason = (problem and problem.strerror) or "no address"
        raise ChardevError(f"Failed to connect to '{self._host}:{self._port}': {reason}")

    def _adopt(self, client: socket.socket) -> None:
        client.setblocking(False)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self.filename = self._address()

    # -- on the loop
    def connect(self, front: FrontEnd) -> None:
        self._front = front

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        if self._client is not None:
            self._begin()
        else:
            self._await_client()
        self._flush()

    def _begin(self) -> None:
        self._paused = False
        self._outgoing.new_client()
        self._read_or_not()
        if self._front is not None:
            self._front.opened()

    def _read_or_not(self) -> None:
        assert self._loop is not None
        # Who does not take the answers is not asked for more.
        wanted = self._client is not None and not self._paused \
            and len(self._unsent) <= UNSENT_LIMIT
        if wanted and not self._reading:
            assert self._client is not None
            self._loop.add_reader(self._client.fileno(), self._readable)
        elif self._reading and not wanted and self._client is not None:
            self._loop.remove_reader(self._client.fileno())
        self._reading = wanted

    def _await_client(self) -> None:
        assert self._loop is not None
        if self._listener is not None:
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener.fileno(), self._acceptable)
        elif self._reconnect_s:
            self._loop.call_later(self._reconnect_s, self._redial)

    def _acceptable(self) -> None:
        assert self._loop is not None and self._listener is not None
        try:
            client = self._listener.accept()[0]
        except OSError:
            return                  # it went away again before we looked
        self._loop.remove_reader(self._listener.fileno())
        self._adopt(client)
        self._begin()

    def _redial(self) -> None:
        if self._client is not None:
            return
        try:
            self._adopt(self._dial())
        except ChardevError:
            self._await_client()    # that is what reconnect means
        else:
            self._begin()

    def _readable(self) -> None:
        assert self._client is not None
        try:
            data = self._client.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""              # a reset connection has ended like any other
        if not data:
            self.disconnect()
        elif self._front is not None:
            self._front.received(data)

    def disconnect(self) -> None:
        client = self._client
        if client is None:
            return
        assert self._loop is not None
        self._flush()
        self._paused = True
        self._read_or_not()
        if self._writing:
            self._loop.remove_writer(client.fileno())
            self._writing = False
        self._client = None
        self._forget_unsent()
        client.close()
        self.filename = f"disconnected:{self._address()}"
        if self._front is not None:
            self._front.closed()
        self._await_client()

    def pause(self) -> None:
        self._paused = True
        self._read_or_not()

    def resume(self) -> None:
        self._paused = False
        self._read_or_not()

    def write(self, data: bytes) -> None:
        self._outgoing.put(data)
        self._wake()

    def offer(self, data: bytes) -> None:
        if self._outgoing.offer(data, self.filename):
            self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is None:
            return                  # `attach` will send it
        if threading.get_ident() == self._thread:
            self._flush()
        elif not self._scheduled:
            # One call for all that is written until the loop gets there.
            self._scheduled = True
            try:
                loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                return              # the loop is closed: the program is ending

    def _flush(self) -> None:
        self._scheduled = False
        self._take()
        if self._client is None:
            self._forget_unsent()   # nobody there: as a serial line without a cable
            return
        if self._writing:
            return
        self._send()
        if self._unsent and self._client is not None:
            assert self._loop is not None
            self._loop.add_writer(self._client.fileno(), self._writable)
            self._writing = True
            self._read_or_not()

    def _take(self) -> None:
        while (data := self._outgoing.take()) is not None:
            self._unsent += data

    def _forget_unsent(self) -> None:
        self._outgoing.sent(len(self._unsent))
        self._unsent.clear()

    def _writable(self) -> None:
        self._send()
        if not self._unsent and self._client is not None and self._writing:
            assert self._loop is not None
            self._loop.remove_writer(self._client.fileno())
            self._writing = False
        self._read_or_not()

    def _send(self) -> None:
        assert self._client is not None
        try:
            while self._unsent:
                count = self._client.send(self._unsent[:1 << 16])
                del self._unsent[:count]
                self._outgoing.sent(count)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The reader will see the end of the connection; what it sent comes first.
            self._forget_unsent()

    def close(self) -> None:
        self._take()
        client, self._client = self._client, None
        if client is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(client.fileno())
                self._loop.remove_writer(client.fileno())
            try:
                if self._unsent:
                    client.settimeout(CLOSE_TIMEOUT_S)
                    client.sendall(self._unsent)
            except OSError:
                pass                # it left before it had read everything
            client.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._unlink()

    def _unlink(self) -> None:
        """Take the socket file away, if it is still ours."""
        if self._path is None or self._file is None:
            return
        try:
            status = os.stat(self._path)
        except OSError:
            return
        if (status.st_dev, status.st_ino) == self._file and stat.S_ISSOCK(status.st_mode):
            os.unlink(self._path)
        self._file = None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_CTRL_A = 0x01
_MUX_HELP = ("C-a h    print this help", "C-a x    exit emulator",
             "C-a c    switch between console and monitor", "C-a C-a  sends C-a")


class MuxPort:
    """One front end's share of a mux: a `Backend` to it."""

    def __init__(self, mux: MuxBackend) -> None:
        self._mux = mux
        self.front: FrontEnd | None = None
        #: called when input comes here again; for a monitor, to show its prompt
        self.focused: Callable[[], None] | None = None

    @property
    def filename(self) -> str:
        return "mux"

    def open(self, report: Callable[[str], None]) -> None:
        """The mux is opened for all of its ports."""

    def connect(self, front: FrontEnd) -> None:
        self.front = front

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The mux is attached for all of its ports."""

    def write(self, data: bytes) -> None:
        self._mux.backend.write(data)

    def offer(self, data: bytes) -> None:
        self._mux.backend.offer(data)

    def pause(self) -> None:
        self._mux.pause(self)

    def resume(self) -> None:
        self._mux.resume(self)

    def disconnect(self) -> None:
        self._mux.backend.disconnect()

    def close(self) -> None:
        """The mux is closed for all of its ports."""


class MuxBackend:
    """Several front ends on one backend.  Input goes to one of them; Ctrl-a c moves on.

    What any of them writes goes out.  A front end hears `opened` when input first
    comes to it: a monitor's banner waits until somebody looks.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._ports: list[MuxPort] = []
        self._focus = -1
        self._here = False
        self._greeted: set[int] = set()
        self._escaped = False
        self._quit: Callable[[], None] | None = None
        self._program = "QEMU"

    @property
    def filename(self) -> str:
        return self.backend.filename

    def port(self) -> MuxPort:
        """A place for one more front end.  The last has the input in the beginning."""
        port = MuxPort(self)
        self._ports.append(port)
        return port

    def on_quit(self, callback: Callable[[], None], program: str) -> None:
        """What Ctrl-a x does."""
        self._quit = callback
        self._program = program

    def open(self, report: Callable[[str], None]) -> None:
        self.backend.open(report)

    def connect(self, front: FrontEnd) -> None:
        raise AssertionError("a mux is connected to by its ports")

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self.backend.connect(self)
        self.backend.attach(loop)

    def write(self, data: bytes) -> None:
        self.backend.write(data)

    def offer(self, data: bytes) -> None:
        self.backend.offer(data)

    def pause(self, port: MuxPort | None = None) -> None:
        if port is None or self._is_focused(port):
            self.backend.pause()

    def resume(self, port: MuxPort | None = None) -> None:
        if port is None or self._is_focused(port):
            self.backend.resume()

    def disconnect(self) -> None:
        self.backend.disconnect()

    def close(self) -> None:
        self.backend.close()

    def _is_focused(self, port: MuxPort) -> bool:
        return 0 <= self._focus < len(self._ports) and self._ports[self._focus] is port

    # -- as the backend's front end
    def opened(self) -> None:
        self._here = True
        self._greeted.clear()
        self._focus = len(self._ports) - 2
        self._next()

    def closed(self) -> None:
        self._here = False
        for i in sorted(self._greeted):
            front = self._ports[i].front
            if front is not None:
                front.closed()
        self._greeted.clear()

    def received(self, data: bytes) -> None:
        plain = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == _CTRL_A:
                    plain.append(byte)
                    continue
                self._pass_on(plain)
                self._command(byte)
            elif byte == _CTRL_A:
                self._escaped = True
            else:
                plain.append(byte)
        self._pass_on(plain)

    def _pass_on(self, plain: bytearray) -> None:
        front = self._ports[self._focus].front if self._ports else None
        if plain and front is not None:
            front.received(bytes(plain))
        plain.clear()

    def _command(self, byte: int) -> None:
        if byte in b"h?":
            self.write(b"\n\r" + "".join(line + "\n\r" for line in _MUX_HELP).encode())
        elif byte == ord("c"):
            self._next()
        elif byte == ord("x") and self._quit is not None:
            self.write(f"{self._program}: Terminated\n\r".encode())
            self._quit()

    def _next(self) -> None:
        if not self._ports:
            return
        # A port that was full must not keep the others from being heard.
        self.backend.resume()
        self._focus = (self._focus + 1) % len(self._ports)
        port = self._ports[self._focus]
        if self._focus not in self._greeted:
            self._greeted.add(self._focus)
            if port.front is not None:
                port.front.opened()
        elif port.focused is not None:
            port.focused()


def open_chardev(spec: ChardevSpec) -> Backend:
    """The backend that *spec* describes, not opened yet.  Raises `ChardevError`."""
    backend = _backend(spec)
    return MuxBackend(backend) if spec.mux else backend


def _on(spec: ChardevSpec, name: str, default: bool) -> bool:
    return spec.params.get(name, "on" if default else "off") in ("on", "yes", "true", "y")


def _backend(spec: ChardevSpec) -> Backend:
    params = spec.params
    if spec.backend in ("null", "vc"):
        return NullBackend(spec.backend)
    if spec.backend == "file":
        return FileBackend(params["path"], _on(spec, "append", False))
    if spec.backend == "stdio":
        # On a mux Ctrl-C is for the guest: Ctrl-a x ends the program.
        return StdioBackend(_on(spec, "signal", not spec.mux))
    if spec.backend == "socket":
        server = _on(spec, "server", False)
        reconnect = float(params.get("reconnect", 0)) \
            or float(params.get("reconnect-ms", 0)) / _MS_PER_S
        return SocketBackend(
            path=params.get("path"), host=params.get("host", ""), port=params.get("port", ""),
            server=server, wait=server and _on(spec, "wait", True), reconnect_s=reconnect)
    raise ChardevError(f"'{spec.backend}' is not a valid char driver name")
