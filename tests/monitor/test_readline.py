"""The line editor: each byte that QEMU's monitor would send, and no other."""

from __future__ import annotations

import pytest

from monitor.readline import HISTORY_SIZE, LINE_SIZE, Completion, Readline

WORDS = ("stats", "status", "stop", "system_wakeup")


class Terminal:
    """A `Readline` whose lines are answered with the next prompt."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.readline = Readline(self.lines.append, self.complete)

    def complete(self, line: str) -> Completion:
        word = line.split(" ")[-1]
        return Completion(len(word), [each for each in WORDS if each.startswith(word)])

    def type(self, keys: bytes) -> bytes:
        out = []
        for key in keys:
            count = len(self.lines)
            out.append(self.readline.feed(bytes((key,))))
            if len(self.lines) > count:
                out.append(self.readline.show_prompt())
        return b"".join(out)

    def line(self, keys: bytes) -> str:
        """The line that *keys* and Enter make."""
        self.type(keys + b"\n")
        return self.lines[-1]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_each_character_draws_the_line_again(terminal: Terminal) -> None:
    assert terminal.type(b"bog") == b"b\x1b[K\x1b[Dbo\x1b[K\x1b[D\x1b[Dbog\x1b[K"


def test_enter_ends_the_line_with_cr_lf(terminal: Terminal) -> None:
    terminal.type(b"c")
    assert terminal.type(b"\r") == b"\r\n(qemu) "
    assert terminal.lines == ["c"]


def test_cr_and_lf_are_two_enters(terminal: Terminal) -> None:
    assert terminal.type(b"\r\n") == b"\r\n(qemu) \r\n(qemu) "
    assert terminal.lines == ["", ""]


def test_delete_draws_the_shorter_line(terminal: Terminal) -> None:
    terminal.type(b"sx")
    assert terminal.type(b"\x7f") == b"\x1b[D\x1b[Ds\x1b[K"


def test_inserting_before_text_steps_the_cursor_back(terminal: Terminal) -> None:
    terminal.type(b"status")
    assert terminal.type(b"\x01") == b"\x1b[D" * 6
    assert terminal.type(b"i") == b"istatus\x1b[K" + b"\x1b[D" * 6


def test_up_on_an_empty_line_draws_the_old_one(terminal: Terminal) -> None:
    terminal.type(b"info status\n")
    assert terminal.type(b"\x1b[A\n") == b"info status\x1b[K\r\n(qemu) "


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (b"ab\x02c", "abc"),  # ^B is no key
        (b"abc\x0bd", "abcd"),  # nor is ^K
        (b"abc\x01\x04", "bc"),
        (b"abc\x04", "abc"),
        (b"abc\x01\x1b[3~", "bc"),
        (b"abc\x1b[D\x1b[DX", "aXbc"),
        (b"abc\x1b[D\x1b[D\x1b[CX", "abXc"),
        (b"abc\x1b[1~X\x1b[4~Y", "XabcY"),
        (b"abc\x1bOHX\x1bOFY", "XabcY"),
        (b"abc\x1b[HX", "abcX"),  # without a number it is no key
        (b"abc\x01X\x05Y", "XabcY"),
        (b"abc\x08\x08", "a"),
        (b"abc\x1b[D\x15", "c"),
        (b"a b c\x17", "a b "),
        (b"a b c \x17", "a b "),
        (b"a b c\x17\x17\x17", ""),
        (b" ab\x17", ""),  # the first column's blank goes with the first word
        (b"  ab\x17", "  "),
        (b"a\x1b[2~b\x1b[12~c\x1bxd", "abcd"),
        (b"a\x1b[1;5Db", "a5Db"),  # modifiers are not understood
        (b"a\x00\x03\x06\x1ab", "ab"),
        (b"\xc3\xa9\x7f", "\udcc3"),  # a byte is a character
        (b"a\x9bDb", "ba"),
    ],
)
def test_keys_edit_the_line(terminal: Terminal, keys: bytes, line: str) -> None:
    assert terminal.line(keys) == line


def test_clearing_the_screen_keeps_the_line(terminal: Terminal) -> None:
    terminal.type(b"ab\x1b[D")
    assert terminal.type(b"\x0c") == b"\x1b[2J\x1b[1;1H(qemu) ab\x1b[K\x1b[D"


def test_a_line_has_a_limit(terminal: Terminal) -> None:
    assert len(terminal.line(b"x" * (LINE_SIZE + 10))) == LINE_SIZE


class TestHistory:
    def test_goes_up_and_down(self, terminal: Terminal) -> None:
        terminal.type(b"a\nb\nc\n")
        assert terminal.line(b"\x10\x10") == "b"
        assert terminal.line(b"\x1b[A\x1b[A\x1b[A\x1b[B") == "c"

    def test_below_the_newest_line_is_an_empty_one(self, terminal: Terminal) -> None:
        terminal.type(b"a\n")
        assert terminal.line(b"\x10\x0e") == ""

    def test_stops_at_the_oldest_line(self, terminal: Terminal) -> None:
        terminal.type(b"a\nb\n")
        assert terminal.line(b"\x10" * 5) == "a"

    def test_a_repeated_line_moves_to_the_end(self, terminal: Terminal) -> None:
        terminal.type(b"a\nb\na\n")
        assert terminal.readline.history.lines == [b"b", b"a"]

    def test_an_empty_line_is_not_kept(self, terminal: Terminal) -> None:
        terminal.type(b"\n \n")
        assert terminal.readline.history.lines == [b" "]

    def test_an_empty_line_keeps_the_place(self, terminal: Terminal) -> None:
        terminal.type(b"a\nb\nc\n" + b"\x10\x10\x15\n")
        assert terminal.line(b"\x10") == "a"

    def test_forgets_the_oldest(self, terminal: Terminal) -> None:
        terminal.type(b"".join(b"%d\n" % number for number in range(HISTORY_SIZE + 2)))
        assert terminal.readline.history.lines[0] == b"2"
        assert len(terminal.readline.history.lines) == HISTORY_SIZE

    def test_repeating_the_last_line_of_a_full_history_keeps_the_place(
        self, terminal: Terminal
    ) -> None:
        terminal.type(b"".join(b"%d\n" % number for number in range(HISTORY_SIZE)))
        terminal.type(b"\x10\n")
        assert terminal.line(b"\x10") == str(HISTORY_SIZE - 2)


class TestTab:
    def test_one_word_is_filled_in_with_a_blank(self, terminal: Terminal) -> None:
        terminal.type(b"sy")
        assert terminal.type(b"\t") == b"\x1b[D\x1b[Dsystem_wakeup \x1b[K"

    def test_several_words_are_listed_and_the_line_is_drawn_again(
        self, terminal: Terminal
    ) -> None:
        terminal.type(b"info stat")
        assert terminal.type(b"\t") == (
            b"\r\nstats     status    \r\n(qemu) info stat\x1b[K"
        )

    def test_what_they_have_in_common_is_filled_in(self, terminal: Terminal) -> None:
        terminal.type(b"sta")
        assert terminal.type(b"\t") == b"\r\nstats     status    \r\n(qemu) stat\x1b[K"

    def test_a_list_fills_the_screen_in_columns(self, terminal: Terminal) -> None:
        assert terminal.type(b"\t") == (
            b"\r\n"
            b"stats          status         stop           system_wakeup  \r\n"
            b"(qemu) s\x1b[K"
        )

    def test_a_long_list_has_several_lines(self) -> None:
        words = [f"word-{number:02d}-{'x' * 20}" for number in range(4)]
        readline = Readline(print, lambda line: Completion(0, words))
        listing = readline.feed(b"\t").split(b"\r\n")
        assert [line.count(b"word") for line in listing] == [0, 2, 2, 1]

    def test_no_word_changes_nothing(self, terminal: Terminal) -> None:
        terminal.type(b"zz")
        assert terminal.type(b"\t") == b""

    def test_only_what_is_before_the_cursor_counts(self, terminal: Terminal) -> None:
        assert terminal.line(b"syX\x1b[D\t") == "system_wakeup X"


def test_a_finished_line_is_handed_over_before_the_next_byte() -> None:
    seen: list[bytes] = []
    readline = Readline(lambda line: seen.append(line.encode()))
    readline.feed(b"a\nb")
    assert seen == [b"a"]
