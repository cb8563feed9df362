"""The line editor of an HMP connection: bytes of keys in, bytes for the terminal out.

It is what QEMU's monitor does, sequence for sequence, because programs that
drive an HMP socket (and the transcripts of them) see each byte.  There is no
I/O in it.

====================  =====================================================
key                   what it does
====================  =====================================================
^A, Home              to the start of the line
^E, End               to the end of the line
left, right           one character
^D, Delete            delete under the cursor
^H, DEL               delete before the cursor
^W                    delete the word before the cursor
^U                    delete from the start of the line to the cursor
^P, up; ^N, down      older, newer line of the history
^I (Tab)              complete
^L                    clear the screen
^J, ^M                finish the line
====================  =====================================================

After each key the line is drawn again only when its text has changed: back to
its first column with one ``ESC [ D`` a character, the text, ``ESC [ K``; then
the cursor goes to its place by single steps.  A byte is a character: what is
not ASCII is neither understood nor changed.

Reference: ECMA-48 (CUB, CUF, EL, ED, CUP); QEMU 10.0.2's behaviour.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["HISTORY_SIZE", "LINE_SIZE", "PROMPT", "Completion", "History", "Readline"]

PROMPT = "(qemu) "
#: Bytes that a line can hold; more are dropped.
LINE_SIZE = 4095
#: Lines that are remembered.
HISTORY_SIZE = 64

SCREEN_WIDTH = 80
COLUMN_MINIMUM = 10
COLUMN_GAP = 2
COMPLETIONS_SHOWN = 256

CURSOR_LEFT = b"\x1b[D"
CURSOR_RIGHT = b"\x1b[C"
ERASE_TO_END = b"\x1b[K"
CLEAR_SCREEN = b"\x1b[2J\x1b[1;1H"
NEWLINE = b"\r\n"

_BLANKS = b" \t\n\v\f\r"


@dataclass(frozen=True)
class Completion:
    """What could stand at the cursor: the words, and how much of them is there already."""

    typed: int = 0
    words: Sequence[str] = ()


class History:
    """The finished lines, oldest first; a line is there once."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        #: The line that up and down have brought back, or None.
        self.position: int | None = None

    def add(self, line: bytes) -> None:
        """Remember *line* as the newest."""
        # Both of these leave the place in the history as it is, the second one
        # only because the full history has nothing to move.
        if not line or self.lines[HISTORY_SIZE - 1 :] == [line]:
            return
        self.position = None
        if line in self.lines:
            self.lines.remove(line)
        self.lines.append(line)
        del self.lines[:-HISTORY_SIZE]

    def older(self) -> bytes | None:
        """The line before the present one, None when there is none."""
        position = len(self.lines) if self.position is None else self.position
        if position == 0:
            return None
        self.position = position - 1
        return self.lines[self.position]

    def newer(self) -> bytes | None:
        """The line after the present one; after the newest an empty one."""
        if self.position is None:
            return None
        if self.position + 1 < len(self.lines):
            self.position += 1
            return self.lines[self.position]
        self.position = None
        return b""


class _Escape(enum.Enum):
    """Where in an escape sequence the input is."""

    NONE = enum.auto()
    ESC = enum.auto()
    CSI = enum.auto()
    SS3 = enum.auto()


class Readline:
    """One line editor.

    *on_line* is called with each finished line, from within `feed`, before the
    next byte is looked at.  *complete* is asked what could follow the text
    that stands before the cursor.
    """

    def __init__(
        self,
        on_line: Callable[[str], None],
        complete: Callable[[str], Completion] | None = None,
        prompt: str = PROMPT,
    ) -> None:
        self.history = History()
        self.prompt = prompt.encode()
        self._on_line = on_line
        self._complete = complete
        self._line = bytearray()
        self._cursor = 0
        self._shown = b""
        self._shown_cursor = 0
        self._escape = _Escape.NONE
        self._parameter = 0
        self._keys: dict[int, Callable[[], bytes]] = {
            0x01: self._home,
            0x04: self._delete,
            0x05: self._end,
            0x08: self._backspace,
            0x09: self._tab,
            0x0A: self._finish,
            0x0C: self._clear_screen,
            0x0D: self._finish,
            0x0E: self._newer,
            0x10: self._older,
            0x15: self._delete_to_start,
            0x17: self._delete_word,
            0x7F: self._backspace,
        }
        self._csi_keys: dict[int, Callable[[], bytes]] = {
            ord("A"): self._older,
            ord("B"): self._newer,
            ord("C"): self._right,
            ord("D"): self._left,
            ord("E"): self._newer,
            ord("F"): self._older,
            ord("~"): self._tilde,
        }
        self._ss3_keys: dict[int, Callable[[], bytes]] = {
            ord("F"): self._end,
            ord("H"): self._home,
        }
        self._tilde_keys: dict[int, Callable[[], bytes]] = {
            1: self._home,
            3: self._delete,
            4: self._end,
        }

    def show_prompt(self) -> bytes:
        """Begin a line: the prompt, with what is already typed after the next key."""
        self._shown = b""
        self._shown_cursor = 0
        return self.prompt

    def feed(self, data: bytes) -> bytes:
        """Take keys; returns what the terminal is to be sent."""
        out = []
        for byte in data:
            out.append(self._key(byte))
            out.append(self._draw())
        return b"".join(out)

    # -- keys

    def _key(self, byte: int) -> bytes:
        state, self._escape = self._escape, _Escape.NONE
        if state is _Escape.NONE:
            return self._plain_key(byte)
        if state is _Escape.ESC:
            if byte == ord("["):
                self._escape = _Escape.CSI
                self._parameter = 0
            elif byte == ord("O"):
                self._escape = _Escape.SS3
            return b""
        if state is _Escape.CSI:
            if ord("0") <= byte <= ord("9"):
                self._parameter = self._parameter * 10 + byte - ord("0")
                self._escape = _Escape.CSI
                return b""
            action = self._csi_keys.get(byte)
        else:
            action = self._ss3_keys.get(byte)
        return action() if action else b""

    def _plain_key(self, byte: int) -> bytes:
        action = self._keys.get(byte)
        if action:
            return action()
        if byte == 0x1B:
            self._escape = _Escape.ESC
        elif byte == 0x9B:  # CSI as one byte, so this byte of UTF-8 text is lost
            self._escape = _Escape.CSI
            self._parameter = 0
        elif byte >= 0x20:
            self._insert(bytes((byte,)))
        return b""

    def _tilde(self) -> bytes:
        action = self._tilde_keys.get(self._parameter)
        return action() if action else b""

    def _insert(self, text: bytes) -> None:
        text = text[: LINE_SIZE - len(self._line)]
        self._line[self._cursor : self._cursor] = text
        self._cursor += len(text)

    def _home(self) -> bytes:
        self._cursor = 0
        return b""

    def _end(self) -> bytes:
        self._cursor = len(self._line)
        return b""

    def _left(self) -> bytes:
        self._cursor = max(self._cursor - 1, 0)
        return b""

    def _right(self) -> bytes:
        self._cursor = min(self._cursor + 1, len(self._line))
        return b""

    def _delete(self) -> bytes:
        del self._line[self._cursor : self._cursor + 1]
        return b""

    def _backspace(self) -> bytes:
        if self._cursor:
            self._cursor -= 1
            del self._line[self._cursor]
        return b""

    def _delete_to_start(self) -> bytes:
        del self._line[: self._cursor]
        self._cursor = 0
        return b""

    def _delete_word(self) -> bytes:
        start = max(self._cursor - 1, 0)
        while start > 0 and self._line[start] in _BLANKS:
            start -= 1
        while start > 0 and self._line[start] not in _BLANKS:
            start -= 1
        # The first column is never asked: a blank there goes with the first word.
        if start > 0:
            start += 1
        del self._line[start : self._cursor]
        self._cursor = start
        return b""

    def _older(self) -> bytes:
        return self._replace(self.history.older())

    def _newer(self) -> bytes:
        return self._replace(self.history.newer())

    def _replace(self, line: bytes | None) -> bytes:
        if line is not None:
            self._line[:] = line
            self._cursor = len(line)
        return b""

    def _clear_screen(self) -> bytes:
        return CLEAR_SCREEN + self.show_prompt()

    def _finish(self) -> bytes:
        line = bytes(self._line)
        self.history.add(line)
        self._line.clear()
        self._cursor = 0
        self._shown = b""
        self._shown_cursor = 0
        self._on_line(line.decode("utf-8", "surrogateescape"))
        return NEWLINE

    def _tab(self) -> bytes:
        if self._complete is None:
            return b""
        before = bytes(self._line[: self._cursor]).decode("utf-8", "surrogateescape")
        completion = self._complete(before)
        words = sorted(completion.words)[:COMPLETIONS_SHOWN]
        if not words:
            return b""
        if len(words) == 1:
            word = words[0]
            self._insert(word[completion.typed :].encode())
            if not word.endswith("/"):
                self._insert(b" ")
            return b""
        prefix = words[0]
        while not words[-1].startswith(prefix):
            prefix = prefix[:-1]
        self._insert(prefix[completion.typed :].encode())
        return NEWLINE + _columns(words) + self.show_prompt()

    # -- the terminal

    def _draw(self) -> bytes:
        out = bytearray()
        if self._shown != self._line:
            out += CURSOR_LEFT * self._shown_cursor + self._line + ERASE_TO_END
            self._shown = bytes(self._line)
            self._shown_cursor = len(self._line)
        steps = self._cursor - self._shown_cursor
        out += CURSOR_RIGHT * steps if steps > 0 else CURSOR_LEFT * -steps
        self._shown_cursor = self._cursor
        return bytes(out)


def _columns(words: Sequence[str]) -> bytes:
    """*words* in as many columns as the screen takes, each line ended."""
    width = min(max(max(map(len, words)) + COLUMN_GAP, COLUMN_MINIMUM), SCREEN_WIDTH)
    per_line = SCREEN_WIDTH // width
    out = bytearray()
    for start in range(0, len(words), per_line):
        out += "".join(word.ljust(width) for word in words[start : start + per_line]).encode()
        out += NEWLINE
    return bytes(out)
