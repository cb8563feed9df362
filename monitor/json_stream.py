"""JSON as QMP speaks it: a lenient reader for a byte stream, and a writer.

The reader takes bytes in any pieces and gives, for every complete value, the
value or what was wrong with it.  It follows RFC 8259 with these differences,
all of which QMP clients rely on:

- nothing separates values: a value ends where it is complete;
- strings may stand in 'single quotes', and \\' is an escape;
- after an error the reader drops bytes until one that cannot stand in the
  middle of a token: a control character, 0xfe, 0xff, or one of [ ] { } : ,
- limits keep a client from using up memory: LIMITS below.

The writer gives ASCII only, `, ` and `: ` between elements, and puts an object's
members in the order in which QEMU's hashed dictionaries hold them, which is the
order clients have seen for years.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

__all__ = ["JsonError", "JsonStream", "MAX_NESTING", "MAX_TOKEN_BYTES", "MAX_TOKENS", "encode",
           "member_order"]

#: Brackets that may be open at once.
MAX_NESTING = 1024
#: Tokens of one value.
MAX_TOKENS = 2 << 20
#: Bytes of one value's tokens, and of a single token.
MAX_TOKEN_BYTES = 64 << 20

INT64_MIN = -(1 << 63)
UINT64_MAX = (1 << 64) - 1


@dataclass(frozen=True)
class JsonError:
    """A value that could not be read.  *desc* is the text for the client."""

    desc: str


class _Kind(Enum):
    PUNCTUATION = auto()
    KEYWORD = auto()
    STRING = auto()
    INTEGER = auto()
    FLOAT = auto()
    ERROR = auto()


_Token = tuple[_Kind, bytes]


class _State(Enum):
    """What the lexer is in the middle of."""

    START = auto()
    DOUBLE_QUOTED = auto()
    DOUBLE_QUOTED_ESCAPE = auto()
    SINGLE_QUOTED = auto()
    SINGLE_QUOTED_ESCAPE = auto()
    KEYWORD = auto()
    MINUS = auto()
    ZERO = auto()
    DIGITS = auto()
    POINT = auto()
    FRACTION = auto()
    EXPONENT = auto()
    EXPONENT_SIGN = auto()
    EXPONENT_DIGITS = auto()
    RECOVERY = auto()


_S = _State
_WHITESPACE = b" \t\r\n"
_STRUCTURE = b"{}[]:,"
_DIGITS = b"0123456789"
_LOWER = b"abcdefghijklmnopqrstuvwxyz"

#: state -> (next state by byte, kind of the token that any other byte ends)
_RULES: dict[_State, tuple[dict[int, _State], _Kind | None]] = {
    _S.MINUS: ({ord("0"): _S.ZERO, **dict.fromkeys(_DIGITS[1:], _S.DIGITS)}, None),
    # A digit after a leading zero is an error, so it must not end the token.  An
    # exponent without a point does, which is a slip of QEMU's grammar.
    _S.ZERO: ({ord("."): _S.POINT}, _Kind.INTEGER),
    _S.DIGITS: ({ord("."): _S.POINT, **dict.fromkeys(b"eE", _S.EXPONENT),
                 **dict.fromkeys(_DIGITS, _S.DIGITS)}, _Kind.INTEGER),
    _S.POINT: (dict.fromkeys(_DIGITS, _S.FRACTION), None),
    _S.FRACTION: ({**dict.fromkeys(b"eE", _S.EXPONENT),
                   **dict.fromkeys(_DIGITS, _S.FRACTION)}, _Kind.FLOAT),
    _S.EXPONENT: ({**dict.fromkeys(b"+-", _S.EXPONENT_SIGN),
                   **dict.fromkeys(_DIGITS, _S.EXPONENT_DIGITS)}, None),
    _S.EXPONENT_SIGN: (dict.fromkeys(_DIGITS, _S.EXPONENT_DIGITS), None),
    _S.EXPONENT_DIGITS: (dict.fromkeys(_DIGITS, _S.EXPONENT_DIGITS), _Kind.FLOAT),
    _S.KEYWORD: (dict.fromkeys(_LOWER, _S.KEYWORD), _Kind.KEYWORD),
}

_START: dict[int, _State] = {
    ord('"'): _S.DOUBLE_QUOTED, ord("'"): _S.SINGLE_QUOTED, ord("-"): _S.MINUS,
    ord("0"): _S.ZERO, **dict.fromkeys(_DIGITS[1:], _S.DIGITS),
    **dict.fromkeys(_LOWER, _S.KEYWORD),
}

_ESCAPED = {_S.DOUBLE_QUOTED_ESCAPE: _S.DOUBLE_QUOTED, _S.SINGLE_QUOTED_ESCAPE: _S.SINGLE_QUOTED}
_ESCAPE = {state: escape for escape, state in _ESCAPED.items()}
_QUOTE = {_S.DOUBLE_QUOTED: ord('"'), _S.SINGLE_QUOTED: ord("'")}

#: Bytes that go on with a string without any meaning of their own.
_STRING_RUN = {
    _S.DOUBLE_QUOTED: re.compile(rb'[^\x00-\x1f"\\\xfe\xff]+'),
    _S.SINGLE_QUOTED: re.compile(rb"[^\x00-\x1f'\\\xfe\xff]+"),
}
_RECOVERY_RUN = re.compile(rb"[^\x00-\x1f\xfe\xff\[\]{}:,]+")


def _in_string(byte: int) -> bool:
    return 0x20 <= byte <= 0xFD


class JsonStream:
    """Bytes in, values out.

    >>> [*JsonStream().feed(b'{"a": 1}{')]
    [{'a': 1}]
    """

    def __init__(self) -> None:
        self._state = _S.START
        self._token = bytearray()
        self._reset_value()

    def _reset_value(self) -> None:
        self._tokens: list[_Token] = []
        self._bytes = 0
        self._braces = 0
        self._brackets = 0

    def feed(self, data: bytes) -> Iterator[Any]:
        """Read on; give each value that *data* completes, or a `JsonError` in its place."""
        for token in self._lex(data):
            result = self._take(token)
            if result:
                yield result[0]

    # -- bytes to tokens
    def _lex(self, data: bytes) -> Iterator[_Token]:
        at = 0
        end = len(data)
        while at < end:
            state = self._state
            byte = data[at]
            if state is _S.START:
                at += 1
                if byte in _WHITESPACE:
                    continue
                if byte in _STRUCTURE:
                    yield _Kind.PUNCTUATION, data[at - 1:at]
                    continue
                self._token.append(byte)
                if byte in _START:
                    self._state = _START[byte]
                else:
                    yield self._stray()
            elif state is _S.RECOVERY:
                run = _RECOVERY_RUN.match(data, at)
                if run:
                    at = run.end()
                else:
                    self._state = _S.START
            elif state in _STRING_RUN:
                run = _STRING_RUN[state].match(data, at)
                if run:
                    self._token += run.group()
                    at = run.end()
                else:
                    at += 1
                    self._token.append(byte)
                    if byte == _QUOTE[state]:
                        yield self._end(_Kind.STRING)
                    elif byte == ord("\\"):
                        self._state = _ESCAPE[state]
                    else:
                        yield self._stray()
            elif state in _ESCAPED:
                at += 1
                self._token.append(byte)
                if _in_string(byte):
                    self._state = _ESCAPED[state]
                else:
                    yield self._stray()
            else:
                following, kind = _RULES[state]
                if byte in following:
                    at += 1
                    self._token.append(byte)
                    self._state = following[byte]
                elif kind is not None and not (state is _S.ZERO and byte in _DIGITS):
                    yield self._end(kind)
                else:
                    at += 1
                    self._token.append(byte)
                    yield self._stray()
            if len(self._token) > MAX_TOKEN_BYTES:
                yield self._end(_Kind.STRING)

    def _end(self, kind: _Kind) -> _Token:
        token = kind, bytes(self._token)
        self._token.clear()
        self._state = _S.START
        return token

    def _stray(self) -> _Token:
        token = self._end(_Kind.ERROR)
        self._state = _S.RECOVERY
        return token

    # -- tokens to values
    def _take(self, token: _Token) -> tuple[Any] | None:
        """Collect *token*; a 1-tuple when it completes a value or breaks one."""
        kind, text = token
        if kind is _Kind.PUNCTUATION:
            self._braces += (text == b"{") - (text == b"}")
            self._brackets += (text == b"[") - (text == b"]")
        problem = None
        if kind is _Kind.ERROR:
            # The text ends at a NUL, as it does for everyone who reads it in C.
            stray = _readable(text.split(b"\0")[0])
            problem = f"JSON parse error, stray '{stray}'"
        elif self._bytes + len(text) + 1 > MAX_TOKEN_BYTES:
            problem = "JSON token size limit exceeded"
        elif len(self._tokens) + 1 > MAX_TOKENS:
            problem = "JSON token count limit exceeded"
        elif self._braces + self._brackets > MAX_NESTING:
            problem = "JSON nesting depth limit exceeded"
        if problem is not None:
            self._reset_value()
            return (JsonError(problem),)
        self._tokens.append(token)
        self._bytes += len(text)
        if (self._braces > 0 or self._brackets > 0) \
                and self._braces >= 0 and self._brackets >= 0:
            return None
        tokens = self._tokens
        self._reset_value()
        try:
            return (_Parser(tokens).value(),)
        except _ParseError as error:
            return (JsonError(f"JSON parse error, {error}"),)


class _ParseError(Exception):
    pass


_KEYWORDS = {b"true": True, b"false": False, b"null": None}
_SIMPLE_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t",
                   "/": "/", "\\": "\\", '"': '"', "'": "'"}


class _Parser:
    """One value's tokens, read with a stack of open containers (no recursion)."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise _ParseError("premature EOI")
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek_is(self, text: bytes) -> bool:
        if self._at >= len(self._tokens):
            raise _ParseError("premature EOI")
        return self._tokens[self._at] == (_Kind.PUNCTUATION, text)

    def value(self) -> Any:
        stack: list[_Open] = []
        while True:
            value, complete = self._begin(stack)
            while complete:
                if not stack:
                    return value
                inner = stack[-1]
                inner.add(value)
                complete = inner.closed_by(self._next())
                if complete:
                    value = stack.pop().container

    def _begin(self, stack: list[_Open]) -> tuple[Any, bool]:
        """Read a literal or an empty container, or open one: (value, is it complete?)."""
        kind, text = self._next()
        if kind is not _Kind.PUNCTUATION or text not in (b"{", b"["):
            return _literal(kind, text), True
        opened = _Open({} if text == b"{" else [])
        if self._peek_is(opened.closing):
            self._next()
            return opened.container, True
        stack.append(opened)
        return None, False


class _Open:
    """A container that is being read."""

    __slots__ = ("container", "closing", "key", "awaits_colon")

    def __init__(self, container: list[Any] | dict[str, Any]) -> None:
        self.container = container
        self.closing = b"}" if isinstance(container, dict) else b"]"
        self.key: str | None = None
        self.awaits_colon = False

    def add(self, value: Any) -> None:
        """Take the next value: an element, a member's key, or a member's value."""
        if isinstance(self.container, list):
            self.container.append(value)
        elif self.key is None:
            if not isinstance(value, str):
                raise _ParseError("key is not a string in object")
            self.key = value
            self.awaits_colon = True
        else:
            if self.key in self.container:
                raise _ParseError("duplicate key")
            self.container[self.key] = value
            self.key = None

    def closed_by(self, token: _Token) -> bool:
        """Take the token after a value; True when it closes the container."""
        if self.awaits_colon:
            if token != (_Kind.PUNCTUATION, b":"):
                raise _ParseError("missing : in object pair")
            self.awaits_colon = False
            return False
        if token == (_Kind.PUNCTUATION, self.closing):
            return True
        if token != (_Kind.PUNCTUATION, b","):
            where = "dict" if isinstance(self.container, dict) else "list"
            raise _ParseError(f"expected separator in {where}")
        return False


def _literal(kind: _Kind, text: bytes) -> Any:
    if kind is _Kind.KEYWORD:
        if text not in _KEYWORDS:
            raise _ParseError(f"invalid keyword '{text.decode()}'")
        return _KEYWORDS[text]
    if kind is _Kind.STRING:
        return _string(text)
    if kind is _Kind.INTEGER:
        # Far more digits than 64 bits have are a float, and need no exact value.
        number = int(text) if len(text) <= 20 else None
        if number is not None and INT64_MIN <= number <= UINT64_MAX:
            return number
        return float(text)
    if kind is _Kind.FLOAT:
        return float(text)
    raise _ParseError("expecting value")


#: What UTF-8's rules take together, whether it is a character or not.
_SEQUENCE = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc\xfd][\x80-\xbf]{0,5}|[\x80-\xff]")


def _readable(text: bytes) -> str:
    """*text* with one U+FFFD for each sequence that is no character."""
    def replace(match: re.Match[bytes]) -> bytes:
        try:
            match.group().decode()
        except UnicodeDecodeError:
            return b"\0" if match.group() == b"\xc0\x80" else "\ufffd".encode()
        return match.group()

    return _SEQUENCE.sub(replace, text).decode()


_PLAIN = re.compile(r"[^\\]+")
_HEX4 = re.compile(r"[0-9a-fA-F]{4}")


def _string(text: bytes) -> str:
    try:
        # NUL may come as two bytes, the way "modified UTF-8" writes it.
        whole = text.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        return _string_with_bad_bytes(text)
    return _unescape(whole)


def _string_with_bad_bytes(text: bytes) -> str:
    # What comes first in the string is told first.
    _unescape(text.decode(errors="replace").split("\ufffd", 1)[0] + '"')
    raise _ParseError("invalid UTF-8 sequence in string")


def _unescape(whole: str) -> str:
    end = len(whole) - 1
    parts = []
    at = 1
    while at < end:
        run = _PLAIN.match(whole, at, end)
        if run:
            if any(map(_is_noncharacter, filter("\ufdcf".__lt__, run.group()))):
                raise _ParseError("invalid UTF-8 sequence in string")
            parts.append(run.group())
            at = run.end()
            continue
        letter = whole[at + 1]
        if letter == "u":
            char, at = _unicode_escape(whole, at)
            parts.append(char)
        elif letter in _SIMPLE_ESCAPES:
            parts.append(_SIMPLE_ESCAPES[letter])
            at += 2
        else:
            raise _ParseError("invalid escape sequence in string")
    return "".join(parts)


def _is_noncharacter(char: str) -> bool:
    code = ord(char)
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def _unicode_escape(whole: str, at: int) -> tuple[str, int]:
    """The character of the \\u escape at *at* (two of them for a surrogate pair)."""
    first = _HEX4.match(whole, at + 2)
    code = int(first.group(), 16) if first else -1
    after = at + 6
    if 0xD800 <= code <= 0xDBFF and whole[after:after + 2] == "\\u":
        second = _HEX4.match(whole, after + 2)
        low = int(second.group(), 16) if second else -1
        if 0xDC00 <= low <= 0xDFFF:
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            after += 6
    if code < 0 or 0xD800 <= code <= 0xDFFF or _is_noncharacter(chr(code)):
        told = _readable(whole[at:at + 6].encode(errors="replace")[:6])
        raise _ParseError(f"{told} is not a valid Unicode character")
    return chr(code), after


# -- the writer

def member_order(name: str) -> int:
    """Where QEMU's dictionaries hold a member: the bucket, of 512, of its name."""
    data = name.encode()
    value = 0x238F13AF * len(data) & 0xFFFFFFFF
    for i, byte in enumerate(data):
        value = value + (byte << i * 5 % 24) & 0xFFFFFFFF
    return (1103515243 * value + 12345 & 0xFFFFFFFF) % 512


_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f-\U0010ffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
          "\t": "\\t"}


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF or _is_noncharacter(char):
        code = 0xFFFD
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04X}\\u{0xDC00 + (code & 0x3FF):04X}"
    return f"\\u{code:04X}"


def encode(value: Any, *, pretty: bool = False) -> str:
    """*value* as JSON text; *pretty* puts each member on a line of its own.

    Takes None, bool, int, float, str, list and dict (with str keys).
    """
    return "".join(_pieces(value, "\n" if pretty else None))


def _quote(text: str) -> str:
    return '"' + _TO_ESCAPE.sub(_escape, text) + '"'


def _pieces(value: Any, newline: str | None) -> Iterator[str]:
    # A stack, not recursion: a client may send an "id" nested as deep as MAX_NESTING.
    stack: list[tuple[Iterator[tuple[str, Any]], str]] = []
    while True:
        if isinstance(value, list | dict):
            members = iter([("", each) for each in value] if isinstance(value, list) else
                           [(_quote(name) + ": ", value[name])
                            for name in sorted(value, key=member_order)])
            opening, closing = "[]" if isinstance(value, list) else "{}"
            yield opening
            stack.append((members, closing))
            separator = ""
        else:
            yield _scalar(value)
            separator = "," if newline is not None else ", "
        while stack:
            members, closing = stack[-1]
            member = next(members, None)
            indent = "" if newline is None else newline + "    " * len(stack)
            if member is not None:
                name, value = member
                yield separator + indent + name
                break
            stack.pop()
            yield closing if newline is None else newline + "    " * len(stack) + closing
            separator = "," if newline is not None else ", "
        else:
            return


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.17g}"
    raise TypeError(f"not a JSON value: {value!r}")
