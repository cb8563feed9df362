"""The JSON reader and writer of QMP."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from monitor.json_stream import JsonError, JsonStream, encode, member_order


def read(*pieces: bytes) -> list[Any]:
    stream = JsonStream()
    return [value for piece in pieces for value in stream.feed(piece)]


def error(text: bytes) -> str:
    (value,) = read(text)
    assert isinstance(value, JsonError)
    return value.desc


def test_values_need_nothing_between_them() -> None:
    assert read(b'{"a": 1}{"b": [true, null]}[]') == [{"a": 1}, {"b": [True, None]}, []]


def test_a_value_may_come_byte_by_byte() -> None:
    text = '{"a": [1, -2.5e3, "x\\n\\u00e9", {"b": false}], "é": null}'.encode()
    assert read(*(text[i:i + 1] for i in range(len(text)))) == [json.loads(text)]


def test_a_number_ends_with_what_follows_it() -> None:
    assert read(b"12") == []
    assert read(b"12", b"3 ") == [123]


def test_single_quotes_are_as_good_as_double_ones() -> None:
    assert read(b"{'a': 'b\"\\'c'}") == [{"a": "b\"'c"}]


@pytest.mark.parametrize(("text", "value"), [
    (b"0 ", 0), (b"-0 ", 0), (b"9223372036854775807 ", 2**63 - 1),
    (b"18446744073709551615 ", 2**64 - 1), (b"18446744073709551616 ", 2.0**64),
    (b"-9223372036854775809 ", -(2.0**63)), (b"0.5 ", 0.5), (b"1e2 ", 100.0)])
def test_integers_have_64_bits(text: bytes, value: float) -> None:
    (got,) = read(text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(("text", "problem"), [
    (b"bogus ", "JSON parse error, invalid keyword 'bogus'"),
    (b"}", "JSON parse error, expecting value"),
    (b'{"a" 1}', "JSON parse error, missing : in object pair"),
    (b'{"a": 1 "b": 2}', "JSON parse error, expected separator in dict"),
    (b"[1 2]", "JSON parse error, expected separator in list"),
    (b"[1,]", "JSON parse error, expecting value"),
    (b'{"a": 1,}', "JSON parse error, expecting value"),
    (b"{1: 2}", "JSON parse error, key is not a string in object"),
    (b'{"a": 1, "a": [}]', "JSON parse error, expecting value"),
    (b'{"a": 1, "a": [2]}', "JSON parse error, duplicate key"),
    (b'{"x": "\\q"}', "JSON parse error, invalid escape sequence in string"),
    (b'"\\ud800"', "JSON parse error, \\ud800 is not a valid Unicode character"),
    (b'"\xed\xa0\x80"', "JSON parse error, invalid UTF-8 sequence in string"),
    (b"01", "JSON parse error, stray '01'"),
    (b"-\n", "JSON parse error, stray '-\n'"),
    (b"\0\n", "JSON parse error, stray ''"),
    (b"TRUE\n", "JSON parse error, stray 'T'"),
    (b"%d\n", "JSON parse error, stray '%'"),
    (b"[" * 1025, "JSON nesting depth limit exceeded")])
def test_what_is_wrong_is_told_as_clients_know_it(text: bytes, problem: str) -> None:
    assert error(text) == problem


def test_after_an_error_the_next_line_is_read_again() -> None:
    values = read(b'{"execute": %s, "x": 1}\n{"a": 1}')
    assert isinstance(values[0], JsonError)
    assert values[-1] == {"a": 1}


def test_0xff_resets_the_reader_in_the_middle_of_a_string() -> None:
    values = read(b'{"a": "unfinished', b'\xff{"b": 2}')
    assert isinstance(values[0], JsonError) and values[1:] == [{"b": 2}]


def test_any_bytes_are_survived_in_any_pieces() -> None:
    dice = random.Random(1)
    alphabet = b'{}[]:,"\'\\u0019-+.eEtruefalsn \n\x00\x1f\x80\xc3\xa9\xf0\x9f\xff%'
    for _ in range(300):
        data = bytes(dice.choice(alphabet) for _ in range(dice.randrange(80)))
        whole = read(data)
        cut = dice.randrange(len(data) + 1)
        assert read(data[:cut], data[cut:]) == whole
        stream = JsonStream()
        list(stream.feed(data))
        assert {"a": 1} in list(stream.feed(b'\xff\n{"a": 1}'))


def test_members_stand_in_the_order_clients_have_always_seen() -> None:
    assert encode({"running": True, "status": "running"}) == \
        '{"status": "running", "running": true}'
    assert encode({"event": "STOP", "timestamp": {"microseconds": 2, "seconds": 1}}) == \
        '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}'
    names = ["return", "id", "error"]
    assert sorted(names, key=member_order) == ["return", "id", "error"]


def test_text_is_ascii_with_capital_hex() -> None:
    assert encode('\x7fé\n"\\/\x01😀\ud800') == \
        '"\\u007F\\u00E9\\n\\"\\\\/\\u0001\\uD83D\\uDE00\\uFFFD"'


def test_floats_are_written_with_all_their_digits() -> None:
    assert encode([0.1, 1e100, 2.5]) == "[0.10000000000000001, 1e+100, 2.5]"


def test_pretty_text_has_one_member_a_line() -> None:
    assert encode({"return": {}, "id": [1, []]}, pretty=True) == (
        '{\n    "return": {\n    },\n    "id": [\n        1,\n        [\n        ]\n    ]\n}')


def test_what_is_nested_as_deep_as_allowed_can_be_written() -> None:
    (value,) = read(b"[" * 1024 + b"]" * 1024)
    assert encode(value) == "[" * 1024 + "]" * 1024


def test_what_is_not_json_is_our_mistake() -> None:
    with pytest.raises(TypeError):
        encode({"x": object()})
