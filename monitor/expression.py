"""Integer expressions in HMP arguments: `sendkey a 2*50`, `x $eip+4`.

::

    sum     = logic { ("+" | "-") logic }
    logic   = product { ("&" | "|" | "^") product }
    product = unary { ("*" | "/" | "%") unary }
    unary   = ("+" | "-" | "~") unary | "(" sum ")" | "'" character "'"
            | "$" register | number

So `&`, `|` and `^` bind tighter than `+`, and alike.  A number is C's: decimal,
0x hexadecimal, 0 octal.  Values are 64 bits, signed where it makes a difference.
Grammar and messages are those of QEMU 10.0.2's monitor.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["BLANKS", "ExpressionError", "evaluate"]

#: What separates words on a command line: C's isspace().
BLANKS = " \t\n\v\f\r"

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_NAME = re.compile(r"[A-Za-z0-9_.]*")
_MASK = (1 << 64) - 1
_SIGN = 1 << 63


class ExpressionError(Exception):
    """The text is no expression; `str()` is the line that says why."""


def evaluate(
    text: str, register: Callable[[str], int | None], at: int = 0
) -> tuple[int, int]:
    """The value of the expression in *text* at *at*, and where it ends.

    The value is signed, 64 bits.  *register* gives a register's value, None for a
    name that it does not know.  What follows the expression is the caller's, but
    for blanks, which are skipped.
    """
    parser = _Parser(text, at, register)
    value = parser.sum()
    return value, parser.at


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value & _SIGN else value


class _Parser:
    def __init__(self, text: str, at: int, register: Callable[[str], int | None]) -> None:
        self.text = text
        self.at = at
        self._register = register
        self._skip()

    def _skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in BLANKS:
            self.at += 1

    def _next(self) -> str:
        """The character at hand, "" at the end."""
        return self.text[self.at : self.at + 1]

    def _take(self, count: int = 1) -> None:
        self.at += count
        self._skip()

    def sum(self) -> int:
        value = self._logic()
        while (operator := self._next()) and operator in "+-":
            self._take()
            operand = self._logic()
            value = _signed(value + operand if operator == "+" else value - operand)
        return value

    def _logic(self) -> int:
        value = self._product()
        while (operator := self._next()) and operator in "&|^":
            self._take()
            operand = self._product()
            if operator == "&":
                value &= operand
            elif operator == "|":
                value |= operand
            else:
                value ^= operand
        return value

    def _product(self) -> int:
        value = self._unary()
        while (operator := self._next()) and operator in "*/%":
            self._take()
            operand = self._unary()
            if operator == "*":
                value = _signed(value * operand)
                continue
            if operand == 0:
                raise ExpressionError("division by zero")
            quotient = abs(value) // abs(operand)  # C rounds towards zero
            if (value < 0) != (operand < 0):
                quotient = -quotient
            value = _signed(quotient if operator == "/" else value - quotient * operand)
        return value

    def _unary(self) -> int:
        character = self._next()
        if character == "":
            raise ExpressionError("unexpected end of expression")
        if character in "+-~":
            self._take()
            operand = self._unary()
            if character == "+":
                return operand
            return _signed(-operand if character == "-" else ~operand)
        if character == "(":
            self._take()
            value = self.sum()
            if self._next() != ")":
                raise ExpressionError("')' expected")
            self._take()
            return value
        if character == "'":
            return self._character()
        if character == "$":
            return self._register_value()
        return self._number()

    def _character(self) -> int:
        self.at += 1
        character = self._next()
        if character == "":
            raise ExpressionError("character constant expected")
        self.at += 1
        if self._next() != "'":
            raise ExpressionError("missing terminating ' character")
        self._take()
        return ord(character)

    def _register_value(self) -> int:
        found = _NAME.match(self.text, self.at + 1)
        name = found.group() if found else ""
        value = self._register(name)
        if value is None:
            raise ExpressionError("unknown register")
        self._take(1 + len(name))
        return _signed(value)

    def _number(self) -> int:
        found = _NUMBER.match(self.text, self.at)
        if not found:
            raise ExpressionError(f"invalid char '{self._next()}' in expression")
        digits = found.group()
        if digits[:2] in ("0x", "0X"):
            value = int(digits, 16)
        else:
            value = int(digits, 8 if digits[0] == "0" else 10)
        if value > _MASK:
            raise ExpressionError("number too large")
        self._take(len(digits))
        return _signed(value)
