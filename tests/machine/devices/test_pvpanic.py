"""pvpanic-isa: what the guest can tell and what it is offered."""

from __future__ import annotations

import logging

import pytest

from machine.devices.pvpanic import DEFAULT_IOPORT, PvpanicIsa

QUIET: list[str] = []


class Board:
    def __init__(self, events: int = 7) -> None:
        self.told: list[str] = []
        self.device = PvpanicIsa(
            panicked=lambda: self.told.append("panicked"),
            crash_loaded=lambda: self.told.append("crash loaded"),
            shutdown=lambda: self.told.append("shutdown"), events=events)


@pytest.mark.parametrize("events", [7, 1, 6, 0])
def test_reads_the_events_property(events: int) -> None:
    assert Board(events).device.read(0, 1) == events


def test_offers_all_three_unless_told() -> None:
    device = PvpanicIsa(panicked=lambda: None, crash_loaded=lambda: None, shutdown=lambda: None)
    assert device.read(0, 1) == 7
    assert DEFAULT_IOPORT == 0x505


@pytest.mark.parametrize(("value", "told"), [
    (0x00, QUIET), (0x01, ["panicked"]), (0x02, ["crash loaded"]), (0x04, ["shutdown"]),
    (0x03, ["panicked"]), (0x06, ["crash loaded"]), (0x07, ["panicked"]),
    (0x12, ["crash loaded"]), (0x10, QUIET), (0xF8, QUIET)])
@pytest.mark.parametrize("events", [7, 0])
def test_one_write_is_one_event_even_if_it_is_not_offered(value: int, told: list[str],
                                                          events: int) -> None:
    board = Board(events)
    board.device.write(0, value, 1)
    assert board.told == told


def test_each_write_counts() -> None:
    board = Board()
    board.device.write(0, 2, 1)
    board.device.write(0, 1, 1)
    board.device.write(0, 1, 1)
    assert board.told == ["crash loaded", "panicked", "panicked"]


def test_a_wide_access_is_byte_after_byte() -> None:
    board = Board()
    assert board.device.read(0, 2) == 0x0707
    assert board.device.read(0, 4) == 0x07070707
    board.device.write(0, 0x0102, 2)
    assert board.told == ["crash loaded", "panicked"]


def test_an_unknown_event_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    with caplog.at_level(logging.WARNING, logger="snooze.guest"):
        board.device.write(0, 0x10, 1)
        board.device.write(0, 0xF8, 1)
    assert [record.message for record in caplog.records] == ["pvpanic: unknown event 0x10."]


def test_known_events_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="snooze.guest"):
        Board().device.write(0, 7, 1)
    assert not caplog.records


def test_a_reset_tells_nothing() -> None:
    board = Board()
    board.device.reset()
    assert board.told == QUIET
    assert board.device.read(0, 1) == 7
