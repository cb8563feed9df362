"""The keyboard controller with keyboard and mouse, as firmware and drivers use it."""

from __future__ import annotations

import dataclasses

import pytest

from machine.devices.i8042 import I8042, KEYS, State

OBF, SYSTEM, MOUSE_OBF = 0x01, 0x04, 0x20
ACK, RESEND = 0xFA, 0xFE


class Bench:
    def __init__(self) -> None:
        self.keyboard_irq: list[bool] = []
        self.mouse_irq: list[bool] = []
        self.resets = 0
        self.a20: list[bool] = []
        self.i8042 = I8042(keyboard_irq=self.keyboard_irq.append,
                           mouse_irq=self.mouse_irq.append, reset=self._reset,
                           set_a20=self.a20.append)

    def _reset(self) -> None:
        self.resets += 1

    def command(self, command: int, *data: int) -> list[int]:
        self.i8042.command_write(0, command, 1)
        return self.data(*data)

    def data(self, *data: int) -> list[int]:
        """Write to port 0x60, then read all there is."""
        for byte in data:
            self.i8042.data_write(0, byte, 1)
        return self.drain()

    def mouse(self, *data: int) -> list[int]:
        """Send bytes to the mouse, return all its answers."""
        answers = []
        for byte in data:
            self.i8042.command_write(0, 0xD4, 1)
            self.i8042.data_write(0, byte, 1)
            while self.status() & OBF:
                assert self.status() & MOUSE_OBF
                answers.append(self.i8042.data_read(0, 1))
        return answers

    def status(self) -> int:
        return self.i8042.command_read(0, 1)

    def drain(self) -> list[int]:
        read = []
        while self.status() & OBF:
            read.append(self.i8042.data_read(0, 1))
        return read

    def press(self, *qcodes: str) -> list[int]:
        for qcode in qcodes:
            self.i8042.key(qcode, True)
        return self.drain()

    def release(self, *qcodes: str) -> list[int]:
        for qcode in qcodes:
            self.i8042.key(qcode, False)
        return self.drain()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def set_1(bench: Bench) -> Bench:
    """As firmware leaves it: translated, keyboard interrupt on."""
    bench.command(0x60, 0x61)
    return bench


# -- the controller ------------------------------------------------------------------


def test_status_after_power_on(bench: Bench) -> None:
    assert bench.status() == 0x18
    assert bench.command(0x20) == [0x03]


def test_self_test_passes_and_sets_the_system_flag(bench: Bench) -> None:
    assert bench.command(0xAA) == [0x55]
    assert bench.status() & SYSTEM


def test_both_ports_test_well(bench: Bench) -> None:
    assert bench.command(0xAB) == [0x00]
    assert bench.command(0xA9) == [0x00]


def test_the_input_port_says_unlocked(bench: Bench) -> None:
    assert bench.command(0xC0) == [0x80]


def test_the_mode_byte_reads_back(bench: Bench) -> None:
    bench.command(0x60, 0x47)
    assert bench.command(0x20) == [0x47]


@pytest.mark.parametrize(("off", "on", "bit"), [(0xAD, 0xAE, 0x10), (0xA7, 0xA8, 0x20)])
def test_ports_go_off_and_on_in_the_mode_byte(bench: Bench, off: int, on: int, bit: int) -> None:
    bench.command(off)
    assert bench.command(0x20) == [0x03 | bit]
    bench.command(on)
    assert bench.command(0x20) == [0x03]


def test_the_last_byte_can_be_read_again(bench: Bench) -> None:
    bench.command(0xAA)
    assert bench.i8042.data_read(0, 1) == 0x55
    assert bench.status() & OBF == 0


@pytest.mark.parametrize("command", [0x21, 0x90, 0xA1, 0xB0, 0xE0])
def test_an_unknown_command_is_logged_and_ignored(
        bench: Bench, caplog: pytest.LogCaptureFixture, command: int) -> None:
    assert bench.command(command) == []
    assert f"unknown command 0x{command:02x}" in caplog.text


@pytest.mark.parametrize("command", range(0xF0, 0x100))
def test_pulsing_bit_0_resets_the_machine(bench: Bench, command: int) -> None:
    bench.command(command)
    assert bench.resets == (0 if command & 1 else 1)


def test_the_output_port_resets_and_gates_a20(bench: Bench) -> None:
    assert bench.command(0xD0) == [0xCF]
    bench.command(0xD1, 0xDD)
    assert bench.a20 == [False] and bench.resets == 0
    bench.command(0xD1, 0xDF)
    assert bench.a20 == [False, True]
    bench.command(0xD1, 0xDE)
    assert bench.resets == 1


def test_a20_has_commands_of_its_own(bench: Bench) -> None:
    bench.command(0xDD)
    assert bench.command(0xD0) == [0xCD]
    bench.command(0xDF)
    assert bench.command(0xD0) == [0xCF]
    assert bench.a20 == [False, True]


def test_bytes_can_be_put_into_the_output_buffer(bench: Bench) -> None:
    bench.i8042.command_write(0, 0xD2, 1)
    bench.i8042.data_write(0, 0x33, 1)
    assert bench.status() & (OBF | MOUSE_OBF) == OBF
    assert bench.drain() == [0x33]
    bench.i8042.command_write(0, 0xD3, 1)
    bench.i8042.data_write(0, 0x44, 1)
    assert bench.status() & (OBF | MOUSE_OBF) == OBF | MOUSE_OBF
    assert bench.drain() == [0x44]
    assert bench.mouse_irq == [True, False]


def test_a_new_command_forgets_the_data_the_last_one_wanted(bench: Bench) -> None:
    bench.command(0x60)
    bench.command(0xAE)
    bench.command(0xD2, 0x77)
    assert bench.command(0x20) == [0x03]


# -- interrupts ------------------------------------------------------------------------


def test_a_key_interrupts_once_for_each_byte(set_1: Bench) -> None:
    set_1.i8042.key("left", True)
    assert set_1.keyboard_irq == [True]
    set_1.i8042.data_read(0, 1)
    assert set_1.keyboard_irq == [True, False, True]
    set_1.i8042.data_read(0, 1)
    assert set_1.keyboard_irq == [True, False, True, False]


def test_no_interrupt_unless_the_mode_byte_says_so(bench: Bench) -> None:
    bench.command(0x60, 0x40)
    bench.i8042.key("a", True)
    assert bench.keyboard_irq == []
    bench.command(0x60)
    bench.i8042.data_write(0, 0x41, 1)
    assert bench.status() & OBF == 0            # command() drained it
    bench.i8042.key("a", False)
    assert bench.keyboard_irq == [True]


def test_keys_wait_while_the_keyboard_is_off(set_1: Bench) -> None:
    set_1.command(0xAD)
    set_1.i8042.key("a", True)
    assert set_1.status() & OBF == 0
    assert set_1.command(0xAE) == [0x1E]


def test_writing_to_the_keyboard_switches_it_on(bench: Bench) -> None:
    bench.command(0xAD)
    assert bench.data(0xEE) == [0xEE]
    assert bench.command(0x20) == [0x03]


def test_keyboard_and_mouse_take_turns(bench: Bench) -> None:
    bench.mouse(0xF4)
    bench.i8042.key("left", True)
    bench.i8042.mouse(1, 0)
    sources = []
    while bench.status() & OBF:
        sources.append("m" if bench.status() & MOUSE_OBF else "k")
        bench.i8042.data_read(0, 1)
    assert "".join(sources) == "kmkmm"


# -- the keyboard ----------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "answer"), [
    ((0xFF,), [ACK, 0xAA]), ((0xF2,), [ACK, 0xAB, 0x83]), ((0xEE,), [0xEE]),
    ((0xF4,), [ACK]), ((0xF5,), [ACK]), ((0xF6,), [ACK]), ((0x00,), [ACK]),
    ((0xED, 0x07), [ACK]), ((0xF3, 0x20), [ACK]), ((0xF0, 0x02), [ACK]),
    ((0xF0, 0x04), [RESEND]), ((0xFA,), [ACK]), ((0x05,), [RESEND]), ((0xF1,), [RESEND]),
])
def test_answers_of_the_keyboard(bench: Bench, sent: tuple[int, ...], answer: list[int]) -> None:
    for byte in sent[:-1]:
        assert bench.data(byte) == [ACK]
    assert bench.data(sent[-1]) == answer


def test_the_id_of_a_translated_keyboard(set_1: Bench) -> None:
    assert set_1.data(0xF2) == [ACK, 0xAB, 0x41]


@pytest.mark.parametrize(("mode", "codes"), [(0x00, [1, 2, 3]), (0x40, [0x43, 0x41, 0x3F])])
def test_the_scan_code_set_can_be_asked_for(bench: Bench, mode: int, codes: list[int]) -> None:
    bench.command(0x60, mode)
    for which, code in zip((1, 2, 3), codes, strict=True):
        bench.data(0xF0)
        assert bench.data(which) == [ACK]
        bench.data(0xF0)
        assert bench.data(0) == [ACK, code]


def test_the_leds_are_kept(bench: Bench) -> None:
    bench.data(0xED)
    bench.data(0x05)
    assert bench.i8042.state.leds == 5


def test_a_disabled_keyboard_sends_no_keys(bench: Bench) -> None:
    bench.data(0xF5)
    assert bench.press("a") == []
    bench.data(0xF4)
    assert bench.press("a") == [0x1C]


def test_a_keyboard_reset_drops_waiting_keys_and_selects_set_2(bench: Bench) -> None:
    bench.data(0xF0)
    bench.data(0x03)
    bench.i8042.key("a", True)
    assert bench.data(0xFF) == [ACK, 0xAA]
    assert bench.press("left") == [0xE0, 0x6B]


def test_an_answer_goes_before_waiting_keys(bench: Bench) -> None:
    bench.i8042.key("left", True)
    assert bench.data(0xED, 0x00) == [ACK, 0xE0, 0x6B]


SCAN_CODES = {
    #            set 1               set 2               set 3
    "a":        ("1e 9e",            "1c f0 1c",         "1c f0 1c"),
    "ret":      ("1c 9c",            "5a f0 5a",         "5a f0 5a"),
    "esc":      ("01 81",            "76 f0 76",         "08 f0 08"),
    "f7":       ("41 c1",            "83 f0 83",         "37 f0 37"),
    "shift_r":  ("36 b6",            "59 f0 59",         "59 f0 59"),
    "ctrl_r":   ("e0 1d e0 9d",      "e0 14 e0 f0 14",   "58 f0 58"),
    "delete":   ("e0 53 e0 d3",      "e0 71 e0 f0 71",   "64 f0 64"),
    "kp_enter": ("e0 1c e0 9c",      "e0 5a e0 f0 5a",   "79 f0 79"),
    "power":    ("e0 5e e0 de",      "e0 37 e0 f0 37",   ""),
    "print":    ("e0 2a e0 37 e0 b7 e0 aa", "e0 12 e0 7c e0 f0 7c e0 f0 12", "57 f0 57"),
    "pause":    ("e1 1d 45 e1 9d c5", "e1 14 77 e1 f0 14 f0 77", "62 f0 62"),
    "lang1":    ("72",               "",                 ""),
}


@pytest.mark.parametrize("qcode", SCAN_CODES)
@pytest.mark.parametrize("which", [1, 2, 3])
def test_scan_codes(bench: Bench, qcode: str, which: int) -> None:
    bench.command(0x60, 0x00)
    bench.data(0xF0)
    bench.data(which)
    codes = bench.press(qcode) + bench.release(qcode)
    assert bytes(codes) == bytes.fromhex(SCAN_CODES[qcode][which - 1])


def test_translation_turns_set_2_into_set_1_for_every_key(bench: Bench) -> None:
    plain = Bench()
    plain.command(0x60, 0x00)
    plain.data(0xF0)
    plain.data(1)
    bench.command(0x60, 0x40)
    only_in_set_1 = set()
    for qcode in sorted(KEYS):
        translated = bench.press(qcode) + bench.release(qcode)
        expected = plain.press(qcode) + plain.release(qcode)
        if translated != expected:
            assert translated == []             # set 2 does not have this key
            only_in_set_1.add(qcode)
    assert len(only_in_set_1) == 23
    assert {"menu", "copy", "f16", "f24", "lang1"} <= only_in_set_1


@pytest.mark.parametrize(("held", "qcode", "codes"), [
    ("alt", "sysrq", "b8 38 54 d4 b8 38"),
    ("alt_r", "print", "e0 b8 e0 38 54 d4 e0 b8 e0 38"),
    ("ctrl", "pause", "e0 46 e0 c6"),
    ("shift", "print", "e0 37 e0 b7"),
])
def test_keys_that_depend_on_a_modifier(set_1: Bench, held: str, qcode: str, codes: str) -> None:
    set_1.press(held)
    assert bytes(set_1.press(qcode) + set_1.release(qcode)) == bytes.fromhex(codes)
    set_1.release(held)
    assert bytes(set_1.press(qcode) + set_1.release(qcode)) != bytes.fromhex(codes)


def test_ctrl_alt_delete_as_the_monitor_sends_it(set_1: Bench) -> None:
    assert set_1.press("ctrl", "alt", "delete") == [0x1D, 0x38, 0xE0, 0x53]
    assert set_1.release("delete", "alt", "ctrl") == [0xE0, 0xD3, 0xB8, 0x9D]


def test_key_names(bench: Bench) -> None:
    for name in ("a", "ret", "spc", "kp_enter", "meta_l", "f24", "lang2", "sysrq"):
        assert bench.i8042.is_key(name)
    for name in ("", "A", "enter", "unmapped", "0x1e"):
        assert not bench.i8042.is_key(name)
    assert len(KEYS) == 161
    with pytest.raises(ValueError, match="no key named 'enter'"):
        bench.i8042.key("enter", True)


def test_a_full_keyboard_drops_what_comes(bench: Bench) -> None:
    assert len(bench.press(*["a"] * 40)) == 16
    assert bench.press("b") == [0x32]


# -- the mouse ---------------------------------------------------------------------------


def test_the_mouse_resets(bench: Bench) -> None:
    assert bench.mouse(0xFF) == [ACK, 0xAA, 0x00]
    assert bench.mouse(0xE9) == [ACK, 0x00, 2, 100]
    assert bench.mouse(0xF2) == [ACK, 0x00]


def test_mouse_settings_are_told_in_its_status(bench: Bench) -> None:
    assert bench.mouse(0xE8, 3, 0xF3, 40, 0xF4, 0xE7, 0xF0) == [ACK] * 7
    assert bench.mouse(0xE9) == [ACK, 0x70, 3, 40]
    bench.mouse(0xF5, 0xE6, 0xEA)
    assert bench.mouse(0xE9) == [ACK, 0x00, 3, 40]
    bench.mouse(0xF6)
    assert bench.mouse(0xE9) == [ACK, 0x00, 2, 100]


@pytest.mark.parametrize(("rates", "kind"), [((200, 100, 80), 3), ((200, 200, 80), 4),
                                             ((100, 200, 80), 0)])
def test_three_rates_reveal_the_wheel(bench: Bench, rates: tuple[int, ...], kind: int) -> None:
    for rate in rates:
        bench.mouse(0xF3, rate)
    assert bench.mouse(0xF2) == [ACK, kind]


def test_wrap_mode_echoes(bench: Bench) -> None:
    assert bench.mouse(0xEE) == [ACK]
    assert bench.mouse(0x55, 0xF2) == [0x55, 0xF2]
    assert bench.mouse(0xEC) == [ACK]
    assert bench.mouse(0xF2) == [ACK, 0x00]


def test_an_unknown_mouse_command_has_no_answer(bench: Bench) -> None:
    assert bench.mouse(0x00) == []


def test_movement_is_sent_when_the_mouse_is_enabled(bench: Bench) -> None:
    bench.i8042.mouse(5, 5)
    assert bench.drain() == []
    bench.mouse(0xF4)
    bench.i8042.mouse(5, 3, 0, 1)
    assert bench.drain() == [0x29, 5, 0xFD]     # down is negative; left button
    bench.i8042.mouse(-1, 0)
    assert bench.drain() == [0x18, 0xFF, 0]
    assert bench.mouse_irq[-1] is False and True in bench.mouse_irq


def test_a_long_way_is_several_packets(bench: Bench) -> None:
    bench.mouse(0xF4)
    bench.i8042.mouse(300, 0)
    packets = bench.drain()
    assert packets[1::3] == [127, 127, 46]


def test_the_wheel_is_a_fourth_byte(bench: Bench) -> None:
    for rate in (200, 100, 80):
        bench.mouse(0xF3, rate)
    bench.mouse(0xF4)
    bench.i8042.mouse(0, 0, -1)
    assert bench.drain() == [0x08, 0, 0, 0xFF]


def test_a_remote_mouse_waits_to_be_polled(bench: Bench) -> None:
    bench.mouse(0xF4, 0xF0)
    bench.i8042.mouse(7, -2, 0, 2)
    assert bench.drain() == []
    assert bench.mouse(0xEB) == [ACK, 0x0A, 7, 2]


# -- life cycle ----------------------------------------------------------------------------


def test_reset_empties_and_opens_everything(set_1: Bench) -> None:
    set_1.command(0xDD)
    set_1.mouse(0xF4)
    set_1.i8042.key("a", True)
    set_1.i8042.reset()
    assert set_1.status() == 0x18
    assert set_1.keyboard_irq[-1] is False
    assert set_1.a20[-1] is True
    assert set_1.command(0x20) == [0x03]
    assert set_1.resets == 0


def test_state_put_in_place_goes_on_where_it_was(set_1: Bench) -> None:
    set_1.i8042.key("delete", True)
    other = Bench()
    other.i8042.state = State(**dataclasses.asdict(set_1.i8042.state))
    assert other.drain() == [0xE0, 0x53]
    assert other.keyboard_irq == [False, True, False]
