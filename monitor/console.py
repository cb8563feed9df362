"""The console: the human monitor on the terminal that the program was started from.

What is typed is a command of the human monitor (`monitor.hmp`), with the keys,
the completion menu and the history file of prompt_toolkit.  Above the line that
is being typed there appear the guest's serial output, the machine's events and
the commands' output; below it the run state.  `serial TEXT` types to the guest.

Nothing that the guest sends can move the cursor or change the terminal: all but
printable characters, newline and tab are shown as escapes (``\\x1b``).  No key ends
the machine; only `quit` does.

The terminal stays raw while the console runs, also while output is written
(prompt_toolkit's `run_in_terminal` would not leave it so): in cooked mode a
Ctrl-C would be a signal, and signals end the program.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.renderer import CPR_Support

from machine.events import Event
from machine.runstate import MachineError, MachineLeft
from monitor.hmp import COMMANDS, Call, Command, CommandTable, Session, complete, execute_line
from monitor.readline import PROMPT, History
from monitor.target import MachineTarget
from monitor.version import VERSION

__all__ = ["Console", "history_path", "printable"]

T = TypeVar("T")

HINT = "use 'quit' to leave"

#: How long a line of the guest may stay unfinished before it is shown as it is, seconds.
PARTIAL_LINE_DELAY = 0.1
#: Output of the guest is collected for so long before it is drawn, seconds.
OUTPUT_INTERVAL = 0.02
#: How often the run state is asked for, seconds.
STATUS_INTERVAL = 0.25
#: How often a full serial port is tried again, seconds.
SERIAL_INTERVAL = 0.02
#: A longer line of the guest is broken, characters.
LINE_LIMIT = 4096
#: More of the guest's output than this is not kept for a terminal that is too slow, bytes.
BACKLOG_LIMIT = 1 << 20

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|.|$)", re.DOTALL)
_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "e": b"\x1b", "\\": b"\\"}


def printable(text: str) -> str:
    """*text* with all that could act on a terminal replaced by its escape."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def history_path() -> Path:
    """Where the lines typed are kept: the XDG state directory."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says that a relative path is to be ignored.
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "snooze" / "history"


def _serial_bytes(text: str) -> bytes:
    """What `serial TEXT` sends; raises `MachineError` for an escape that is none."""
    out = bytearray()
    at = 0
    for found in _ESCAPE.finditer(text):
        out += text[at : found.start()].encode("utf-8", "surrogateescape")
        at = found.end()
        code = found.group(1)
        if len(code) == 3:
            out.append(int(code[1:], 16))
        elif code in _ESCAPES:
            out += _ESCAPES[code]
        else:
            raise MachineError(f"unsupported escape code: '\\{code}'")
    return bytes(out + text[at:].encode("utf-8", "surrogateescape"))


class _GuestText:
    """Serial output on its way to lines: decoded, escaped, ended."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self._line = ""
        #: the unfinished line was shown, and the newline with it
        self._shown = False

    @property
    def pending(self) -> bool:
        """Whether there is an unfinished line that is not shown yet."""
        return bool(self._line.strip("\r"))

    def add(self, data: bytes) -> str:
        """The lines that *data* finishes."""
        *lines, self._line = (self._line + self._decode(data)).split("\n")
        out = ""
        for line in lines:
            line = line.rstrip("\r")
            if line or not self._shown:
                out += printable(line) + "\n"
            self._shown = False
        while len(self._line) > LINE_LIMIT:
            out += printable(self._line[:LINE_LIMIT]) + "\n"
            self._line = self._line[LINE_LIMIT:]
        return out

    def flush(self) -> str:
        """The unfinished line, ended."""
        if not self.pending:
            return ""
        line, self._line = self._line.rstrip("\r"), ""
        self._shown = True
        return printable(line) + "\n"


class _HistoryFile(FileHistory):
    """The history file; what cannot be read or written is said once, and done without."""

    def __init__(self, path: Path, complain: Callable[[str], None]) -> None:
        super().__init__(path)
        self._path = path
        self._complain: Callable[[str], None] | None = complain
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._failed(error)

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError as error:
            self._failed(error)
            return []

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string.encode("utf-8", "replace").decode())
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if self._complain is not None:
            why = f"the history is not kept: {self._path}: {error.strerror}"
            self._complain(f"{printable(why)}\n")
            self._complain = None


class _LogLines(logging.Handler):
    """What the program logs, as lines above the prompt: stderr is the same terminal."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(f"{printable(self.format(record))}\n")


class _CommandCompleter(Completer):
    """The monitor's completion, for prompt_toolkit."""

    def __init__(self, commands: CommandTable) -> None:
        self._commands = commands

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        completion = complete(document.text_before_cursor, self._commands)
        for word in sorted(completion.words):
            yield Completion(word, start_position=-completion.typed)


class Console:
    """The interactive monitor.

    `serial_output` may be called from any thread, also before and after `run`;
    `run` belongs to the event loop and returns when the machine has left.
    *history* is the file that keeps the lines typed.
    """

    def __init__(
        self, machine: MachineTarget, version: str = VERSION, history: Path | None = None
    ) -> None:
        self._machine = machine
        self._version = version
        serial = Command(
            "serial",
            arguments="text:S",
            form="text",
            summary=r"type text to the guest's first serial port (\n \r \t \e \\ \xHH)",
            handler=self._serial,
            details="Only on the console. Nothing is added to the text: end it with `\\n` "
            "where the guest waits for Enter.",
        )
        self._session = Session(COMMANDS.extended(serial), version, self._lines_typed)
        self._typed = History()
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        #: The line below the prompt: run state, virtual time, modes.
        self.toolbar = ""
        self._guest = _GuestText()

        self._lock = threading.Lock()  # over the next five
        self._output = bytearray()
        self._dropped = 0
        self._notices: list[tuple[int, str]] = []  # (bytes of output before it, text)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = False

        self._output_waits = asyncio.Event()
        self._input_waits = asyncio.Event()
        #: for the guest, and not taken yet; belongs to the machine thread
        self._input = bytearray()
        self._prompt: PromptSession[str] = PromptSession(
            PROMPT,
            completer=_CommandCompleter(self._session.commands),
            complete_while_typing=False,
            history=_HistoryFile(history or history_path(), self._notice),
            key_bindings=self._keys(),
            bottom_toolbar=lambda: self.toolbar,
            reserve_space_for_menu=4,
            erase_when_done=True,
        )

    # -- from any thread

    def serial_output(self, data: bytes) -> None:
        """Show what the guest wrote on its serial port."""
        with self._lock:
            self._output += data
            excess = len(self._output) - BACKLOG_LIMIT
            if excess > 0:
                del self._output[:excess]
                self._dropped += excess
                self._notices = [(max(at - excess, 0), text) for at, text in self._notices]
            self._wake()

    def _notice(self, text: str) -> None:
        """Show *text*, whole lines, after the guest's output so far."""
        with self._lock:
            self._notices.append((len(self._output), text))
            self._wake()

    def _wake(self) -> None:
        """With the lock held: have the loop look at what is there."""
        if self._loop is not None and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._output_waits.set)

    def _event(self, event: Event) -> None:
        members = "".join(
            f" {key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in (event.data or {}).items()
        )
        self._notice(f"[{event.name}{members}]\n")

    # -- on the event loop

    async def run(self) -> None:
        """Serve the terminal until the machine has left.

        Returns also when the terminal is gone.  May be cancelled; what the guest
        wrote until then is shown.
        """
        log, handler = logging.getLogger("snooze"), _LogLines(self._notice)
        propagated, log.propagate = log.propagate, False
        log.addHandler(handler)
        try:
            await self._serve()
        finally:
            log.removeHandler(handler)
            log.propagate = propagated

    async def _serve(self) -> None:
        self._notice(f"snooze {self._version} monitor - type 'help' for more information\n")
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._wake()
        try:
            unsubscribe = await self._on_machine(lambda: self._machine.subscribe(self._event))
        except MachineLeft:  # it has left before we came
            self._finish()
            return
        work = [
            asyncio.ensure_future(each)
            for each in (
                self._prompt.prompt_async(handle_sigint=False),
                self._run_lines(),
                self._feed_serial(),
                self._watch_status(),
                self._show_output(),
            )
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            self._finish()
            self._machine.post(unsubscribe)  # refused when it has left; then all is well, too
        for task in work:
            # The machine has left, or the terminal is gone (EOFError).
            if not task.cancelled() and not isinstance(task.exception(), (MachineLeft, EOFError)):
                task.result()

    def _finish(self) -> None:
        with self._lock:
            self._loop = None
        self._write(self._collect() + self._guest.flush())

    def _on_machine(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.wrap_future(self._machine.post(function))

    async def _run_lines(self) -> None:
        """Carry out the lines typed, until `quit`."""
        while not self._session.leaving:
            line = await self._lines.get()
            self._typed.add(line.encode("utf-8", "surrogateescape"))
            self._notice(f"{PROMPT}{printable(line)}\n")
            text = await self._on_machine(partial(self._execute, line))
            if text:
                self._notice(printable(text))
            self._input_waits.set()
            if not self._session.leaving:
                await self._update_status()

    def _execute(self, line: str) -> str:
        return execute_line(self._machine, line, self._session)

    async def _watch_status(self) -> None:
        while True:
            await self._update_status()
            await asyncio.sleep(STATUS_INTERVAL)

    async def _update_status(self) -> None:
        status, now_ns = await self._on_machine(
            lambda: (self._machine.status, self._machine.clock.now_ns())
        )
        text = f" {status.state.value}  {now_ns / 1e9:.2f} s"
        if status.singlestep:
            text += "  one-insn-per-tb"
        if text != self.toolbar:
            self.toolbar = text
            self._prompt.app.invalidate()

    async def _feed_serial(self) -> None:
        """Give the serial port what it had no room for, as it gets some."""
        while True:
            await self._input_waits.wait()
            self._input_waits.clear()
            while await self._on_machine(self._give):
                await asyncio.sleep(SERIAL_INTERVAL)

    async def _show_output(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PARTIAL_LINE_DELAY if self._guest.pending else None):
                    await self._output_waits.wait()
            except TimeoutError:
                self._write(self._guest.flush())
                continue
            self._output_waits.clear()
            self._write(self._collect())
            await asyncio.sleep(OUTPUT_INTERVAL)

    def _collect(self) -> str:
        """All that waits to be shown, as text for the terminal."""
        with self._lock:
            output, self._output = self._output, bytearray()
            notices, self._notices = self._notices, []
            dropped, self._dropped = self._dropped, 0
            self._woken = False
        text = ""
        if dropped:
            text += f"{self._guest.flush()}[{dropped} bytes of the guest's output left out]\n"
        start = 0
        for end, notice in notices:
            text += self._guest.add(bytes(output[start:end])) + self._guest.flush() + notice
            start = end
        return text + self._guest.add(bytes(output[start:]))

    def _write(self, text: str) -> None:
        """Put *text*, whole lines, above the prompt."""
        if not text:
            return
        app = self._prompt.app
        if app.is_running:
            app.renderer.erase()
        app.output.write_raw(text.replace("\n", "\r\n"))
        app.output.flush()
        if app.is_running:
            # Where we are on the screen now; the toolbar is drawn only when that is known,
            # so the answer, where there is one, is waited for to draw.
            app.renderer.request_absolute_cursor_position()
            if app.renderer.cpr_support is not CPR_Support.SUPPORTED:
                app.invalidate()

    def _lines_typed(self) -> list[str]:
        return [line.decode("utf-8", "surrogateescape") for line in self._typed.lines]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
        def enter(event: KeyPressEvent) -> None:
            """Hand the line over; the prompt stays."""
            buffer = event.current_buffer
            for line in buffer.text.split("\n"):
                self._lines.put_nowait(line)
            buffer.append_to_history()
            buffer.reset()

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:
            event.app.layout.focus(DEFAULT_BUFFER)  # out of a search
            event.current_buffer.reset()
            self._notice(f"{HINT}\n")

        @keys.add("c-d", filter=Condition(lambda: not self._prompt.default_buffer.text))
        def end_of_file(event: KeyPressEvent) -> None:
            self._notice(f"{HINT}\n")

        return keys

    # -- on the machine thread

    def _serial(self, call: Call) -> str:
        self._input += _serial_bytes(call.text("text"))
        self._give()
        return ""

    def _give(self) -> int:
        """Offer the waiting input to the guest; how many bytes of it still wait."""
        if self._input:
            try:
                taken = self._machine.serial_receive(0, bytes(self._input))
            except IndexError as error:
                self._input.clear()
                raise MachineError("there is no serial port") from error
            del self._input[:taken]
        return len(self._input)
