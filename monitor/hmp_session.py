"""One HMP connection: a terminal's bytes in, the monitor's bytes out.

A connection begins with the banner and a prompt.  Keys go through `Readline`;
each finished line is carried out on the machine thread, its output sent with CR
LF ends, then the next prompt.  A line is finished before the next key is looked
at, so keys that come early are answered in order.  After `quit` there is no
prompt any more, and when the machine has left the connection is closed.

Bytes that are not UTF-8 pass through unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from machine.runstate import MachineLeft
from monitor.hmp import COMMANDS, Session, complete, execute_line
from monitor.readline import Readline
from monitor.target import MachineTarget
from monitor.version import VERSION

__all__ = ["HmpSession"]

#: Bytes that may wait to be answered before no more are read.
INPUT_LIMIT = 4096


def _nothing() -> None:
    """For who has no flow to control."""


class HmpSession:
    """One connection of the human monitor.

    *send* takes the bytes for the other side, *close* ends the connection, *pause*
    asks for no more input until *resume*; all are called on the event loop's thread.
    """

    def __init__(
        self,
        machine: MachineTarget,
        send: Callable[[bytes], None],
        close: Callable[[], None],
        version: str = VERSION,
        pause: Callable[[], None] = _nothing,
        resume: Callable[[], None] = _nothing,
    ) -> None:
        self._machine = machine
        self._send = send
        self._close = close
        self._pause = pause
        self._resume = resume
        self._paused = False
        self._readline = Readline(self._line_finished, lambda line: complete(line, COMMANDS))
        self._session = Session(COMMANDS, version, self._history)
        self._finished: str | None = None
        self._ended = False
        self._input = bytearray()
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Greet the other side."""
        banner = (
            f"snooze {self._session.version} monitor - type 'help' for more information\r\n"
        )
        self._send(banner.encode() + self._readline.show_prompt())

    def feed(self, data: bytes) -> None:
        """Take what the other side sent, on the event loop's thread.

        It is answered in order, as the machine gets round to the commands in it.
        """
        if self._ended or self._session.leaving:
            return
        self._input += data
        if len(self._input) > INPUT_LIMIT and not self._paused:
            self._paused = True
            self._pause()
        self._begin()

    async def drain(self) -> None:
        """Wait until all that was fed has been answered."""
        while self._work is not None:
            await asyncio.wait({self._work})

    def _begin(self) -> None:
        if self._input and self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._answer())
            self._work.add_done_callback(self._answered)

    def _answered(self, work: asyncio.Task[None]) -> None:
        self._work = None
        if self._paused and not self._input:
            self._paused = False
            self._resume()
        self._begin()  # what came after the last look, or stood behind a command that failed
        if not work.cancelled() and (error := work.exception()) is not None:
            work.get_loop().call_exception_handler(
                {"message": "the monitor failed", "exception": error, "task": work}
            )

    async def _answer(self) -> None:
        echo = bytearray()
        while self._input:
            byte = self._input.pop(0)
            echo += self._readline.feed(bytes((byte,)))
            if self._finished is not None:
                line, self._finished = self._finished, None
                self._flush(echo)
                await self._execute(line)
                if self._ended or self._session.leaving:
                    self._input.clear()
        self._flush(echo)

    def _line_finished(self, line: str) -> None:
        self._finished = line

    def _history(self) -> list[str]:
        lines = self._readline.history.lines
        return [line.decode("utf-8", "surrogateescape") for line in lines]

    def _flush(self, echo: bytearray) -> None:
        if echo:
            self._send(bytes(echo))
            echo.clear()

    async def _execute(self, line: str) -> None:
        try:
            text = await asyncio.wrap_future(
                self._machine.post(lambda: execute_line(self._machine, line, self._session))
            )
        except MachineLeft:
            self._ended = True
            self._close()
            return
        out = text.replace("\n", "\r\n").encode("utf-8", "surrogateescape")
        if not self._session.leaving:
            out += self._readline.show_prompt()
        if out:
            self._send(out)
