"""The program at a terminal: the console with its prompt, toolbar, completion and history."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect")

ROOT = Path(__file__).resolve().parents[2]
#: seconds for one step: a busy host is slow, a passing step takes milliseconds
TIMEOUT = 30.0
ROWS, COLUMNS = 24, 100
SUSPENDED = "VM status: paused (suspended)"

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([@-~])|\x1b[=>78]|[\r\n\b\x07]")


class Screen:
    """As much of a terminal as the program uses; what scrolled off the top is kept."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        #: the first row that is still on the screen
        self.top = 0
        #: answers to where the cursor is
        self.answers = ""
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]

    def feed(self, text: str) -> None:
        text = self._rest + text
        cut = text.rfind("\x1b")
        if cut >= 0 and not _CONTROL.match(text, cut):
            text, self._rest = text[:cut], text[cut:]       # a sequence that goes on
        else:
            self._rest = ""
        at = 0
        for control in _CONTROL.finditer(text):
            self._put(text[at:control.start()])
            at = control.end()
            self._act(control.group(2) or control.group(), control.group(1) or "")
        self._put(text[at:])

    def _put(self, text: str) -> None:
        for character in text:
            if self.column == COLUMNS:
                self._act("\r", "")
                self._act("\n", "")
            row = self.rows[self.row]
            row += " " * (self.column + 1 - len(row))
            row[self.column] = character
            self.column += 1

    def _act(self, what: str, parameters: str) -> None:
        number = int(parameters) if parameters.isdecimal() else 0
        if what == "\r":
            self.column = 0
        elif what == "\n":
            self.row += 1
        elif what in ("\b", "D"):
            self.column = max(self.column - max(number, 1), 0)
        elif what == "C":
            self.column = min(self.column + max(number, 1), COLUMNS - 1)
        elif what == "A":
            self.row = max(self.row - max(number, 1), self.top)
        elif what == "B":
            self.row = min(self.row + max(number, 1), self.top + ROWS - 1)
        elif what in ("J", "K"):
            assert number == 0, f"{what} {parameters} is not known here"
            del self.rows[self.row][self.column:]
            if what == "J":
                del self.rows[self.row + 1:]
        elif what == "n":
            self.answers += f"\x1b[{self.row - self.top + 1};{self.column + 1}R"
        else:
            assert what in ("h", "l", "m", "\x07", "q") or what[0] == "\x1b", what
        while len(self.rows) <= self.row:
            self.rows.append([])
        self.top = max(self.top, self.row - ROWS + 1)


class Terminal:
    """Somebody at a terminal, who types and looks at the screen."""

    def __init__(self, state: Path) -> None:
        self._child = pexpect.spawn(
            sys.executable, ["-m", "monitor"], dimensions=(ROWS, COLUMNS), encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state),
                 "TERM": "xterm"})
        self._child.delaybeforesend = None
        self.screen = Screen()
        #: where `line` begins to look
        self._seen = 0

    def _receive(self) -> bool:
        """Take what comes, and answer as terminals do; False at the end."""
        try:
            self.screen.feed(self._child.read_nonblocking(1 << 16, 0.1))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        if self.screen.answers:
            self._child.send(self.screen.answers)
            self.screen.answers = ""
        return True

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + TIMEOUT
        while not condition():
            shown = "\n".join(self.screen.lines)
            assert time.monotonic() < limit, f"{what} does not come:\n{shown}"
            assert self._receive(), f"ended before {what}:\n{shown}"

    def line(self, text: str) -> None:
        """Wait for *text* as a whole line, below the one that was waited for before."""
        self.wait(lambda: text in self.screen.lines[self._seen:], repr(text))
        self._seen = self.screen.lines.index(text, self._seen) + 1

    def prompt(self, typed: str) -> None:
        """Wait until *typed* stands at the prompt."""
        text = f"(qemu) {typed}".rstrip()
        self.wait(lambda: self.screen.lines[self.screen.row] == text, f"the prompt {text!r}")

    def toolbar(self, pattern: str) -> None:
        """Wait for *pattern* on the screen's last line."""
        self.wait(lambda: len(self.screen.rows) == self.screen.top + ROWS
                  and bool(re.fullmatch(pattern, self.screen.lines[-1])), f"toolbar {pattern}")

    def press(self, keys: str) -> None:
        self._child.send(keys)

    def command(self, line: str, *answer: str) -> None:
        """Type *line*; it goes up above the prompt, followed by *answer*."""
        self.press(line + "\r")
        self.line(f"(qemu) {line}")
        for each in answer:
            self.line(each)

    def ended(self) -> int | None:
        """The exit status, when it has left."""
        limit = time.monotonic() + TIMEOUT
        while self._receive():
            assert time.monotonic() < limit, "it does not end"
        self._child.close()
        status: int | None = self._child.exitstatus
        return status


    @property
    def alive(self) -> bool:
        return bool(self._child.isalive())

    def kill(self) -> None:
        self._child.close(force=True)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def terminal(state: Path) -> Iterator[Terminal]:
    terminal = Terminal(state)
    yield terminal
    terminal.kill()


def asleep(terminal: Terminal) -> None:
    """Until the bundled firmware's first sleep."""
    terminal.line("snooze: suspending to RAM; wake me (system_wakeup in the monitor)")
    # That is said before it sleeps; the toolbar tells when it does.
    terminal.toolbar(r" suspended  \d+\.\d\d s")


def leave(terminal: Terminal) -> None:
    terminal.press("quit\r")
    assert terminal.ended() == 0


def test_the_run_state_transcript(terminal: Terminal) -> None:
    asleep(terminal)
    terminal.command("info status", SUSPENDED)
    terminal.command("stop", "[STOP]")
    terminal.command("info status", "VM status: paused")
    terminal.command("system_wakeup",
                     "Error: Unable to wake up: guest is not in suspended state")
    terminal.command("cont", "[RESUME]")
    terminal.command("info status", SUSPENDED)
    terminal.command("system_wakeup")
    terminal.line("snooze: resumed, RAM intact (1 wake)")
    terminal.command("info status", "VM status: running")
    leave(terminal)
    shown = terminal.screen.lines
    assert sum("Error" in line for line in shown) == 1
    assert "[WAKEUP]" in shown and "Traceback (most recent call last):" not in shown


def test_the_guest_s_lines_come_above_the_prompt(terminal: Terminal) -> None:
    asleep(terminal)
    terminal.press("info st")                       # half a line stands there while it wakes
    terminal.prompt("info st")
    terminal.press("\x01\x0b")                      # Ctrl-A, Ctrl-K: away with it
    terminal.prompt("")
    terminal.command("system_wakeup")
    terminal.press("info s")
    terminal.line("snooze: resumed, RAM intact (1 wake)")
    terminal.prompt("info s")                       # drawn again, below
    terminal.press("tatus\r")
    terminal.line("VM status: running")
    leave(terminal)


def test_tab_completes_a_command(terminal: Terminal) -> None:
    asleep(terminal)
    terminal.press("system_w\t")
    terminal.prompt("system_wakeup")
    terminal.press("\r")
    terminal.line("(qemu) system_wakeup")
    terminal.line("[WAKEUP]")
    terminal.press("info sta\t")                    # there are two of that kind
    terminal.prompt("info stat")
    terminal.wait(lambda: [line.strip() for line in terminal.screen.lines[
        terminal.screen.row + 1:terminal.screen.row + 3]] == ["stats", "status"], "the menu")
    terminal.press("us")
    terminal.prompt("info status")
    terminal.press("\r")
    terminal.line("(qemu) info status")
    terminal.line("VM status: running")
    leave(terminal)


def test_ctrl_c_and_ctrl_d_do_not_end_it(terminal: Terminal) -> None:
    asleep(terminal)
    for key in "\x03", "\x04":
        terminal.press(key)
        terminal.line("use 'quit' to leave")
    terminal.press("rubbish")
    terminal.prompt("rubbish")
    terminal.press("\x03")                          # takes the line away
    terminal.line("use 'quit' to leave")
    terminal.command("info status", SUSPENDED)
    assert terminal.alive
    leave(terminal)


def test_the_toolbar_shows_the_run_state(terminal: Terminal) -> None:
    asleep(terminal)
    terminal.command("stop")
    terminal.toolbar(r" paused  \d+\.\d\d s")
    terminal.command("cont")
    terminal.toolbar(r" suspended  \d+\.\d\d s")
    terminal.command("one-insn-per-tb on")
    terminal.toolbar(r" suspended  \d+\.\d\d s  one-insn-per-tb")
    terminal.command("one-insn-per-tb off")
    terminal.command("system_wakeup")
    terminal.toolbar(r" running  \d+\.\d\d s")
    leave(terminal)


def test_lines_are_remembered_from_one_run_to_the_next(terminal: Terminal, state: Path) -> None:
    asleep(terminal)
    terminal.command("info status", SUSPENDED)
    leave(terminal)
    assert "+info status\n" in (state / "snooze" / "history").read_text()
    again = Terminal(state)
    try:
        asleep(again)
        again.press("\x1b[A")                       # up: quit
        again.prompt("quit")
        again.press("\x1b[A")                       # up once more
        again.prompt("info status")
        again.press("\r")
        again.line("(qemu) info status")
        again.line(SUSPENDED)
        leave(again)
    finally:
        again.kill()


def test_what_is_typed_before_the_prompt_is_there_is_not_lost(terminal: Terminal) -> None:
    terminal.press("info name\rquit\r")
    assert terminal.ended() == 0
    assert "(qemu) info name" in terminal.screen.lines


def test_the_terminal_is_left_as_it_was(state: Path) -> None:
    shell: Any = pexpect.spawn(
        "/bin/sh", ["-c", f"{sys.executable} -m monitor; echo status $?; stty -a"],
        dimensions=(ROWS, COLUMNS), encoding="utf-8", timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state)})
    try:
        shell.expect_exact("wake me")
        shell.send("quit\r")
        shell.expect_exact("status 0")
        shell.expect(pexpect.EOF)
        modes = shell.before.split()
        assert {"echo", "icanon", "isig", "opost"} <= set(modes)
    finally:
        shell.close(force=True)
