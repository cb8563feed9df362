"""What the event bus promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machine import events
from machine.events import EVENTS, Event, EventBus


def test_an_event_carries_name_data_and_the_time_it_was_emitted() -> None:
    bus = EventBus(now_ns=lambda: 1_700_000_000_123_456_789)
    heard: list[Event] = []
    bus.subscribe(heard.append)
    bus.emit("RESET", {"guest": True, "reason": "guest-reset"})
    bus.emit("STOP")
    assert heard == [
        Event("RESET", {"guest": True, "reason": "guest-reset"}, 1_700_000_000, 123_456),
        Event("STOP", None, 1_700_000_000, 123_456)]


def test_an_event_cannot_be_changed() -> None:
    event = Event("STOP", None, 0, 0)
    with pytest.raises(AttributeError):
        event.name = "RESUME"  # type: ignore[misc]


def test_subscribers_are_told_in_the_order_they_came() -> None:
    bus = EventBus()
    heard: list[str] = []
    bus.subscribe(lambda event: heard.append("first"))
    bus.subscribe(lambda event: heard.append("second"))
    bus.emit("STOP")
    assert heard == ["first", "second"]


def test_who_unsubscribed_hears_no_more() -> None:
    bus = EventBus()
    heard: list[Event] = []
    unsubscribe = bus.subscribe(heard.append)
    bus.emit("STOP")
    unsubscribe()
    unsubscribe()
    bus.emit("RESUME")
    assert [event.name for event in heard] == ["STOP"]


def test_one_callback_subscribed_twice_is_two_subscriptions() -> None:
    bus = EventBus()
    heard: list[Event] = []
    first = bus.subscribe(heard.append)
    bus.subscribe(heard.append)
    bus.emit("STOP")
    assert len(heard) == 2
    first()
    bus.emit("RESUME")
    assert len(heard) == 3


def test_who_is_unsubscribed_during_a_delivery_is_not_reached_any_more() -> None:
    bus = EventBus()
    heard: list[str] = []
    undo: list[Callable[[], None]] = []
    bus.subscribe(lambda event: undo[0]())
    undo.append(bus.subscribe(lambda event: heard.append("gone")))
    bus.subscribe(lambda event: heard.append("here"))
    bus.emit("STOP")
    assert heard == ["here"]


def test_who_subscribes_during_a_delivery_hears_the_next_event_first() -> None:
    bus = EventBus()
    heard: list[str] = []

    def late(event: Event) -> None:
        heard.append(event.name)

    def once(event: Event) -> None:
        leave()
        bus.subscribe(late)

    leave = bus.subscribe(once)
    bus.emit("STOP")
    bus.emit("RESUME")
    assert heard == ["RESUME"]


def test_a_failing_subscriber_does_not_silence_the_others_and_is_not_swallowed() -> None:
    bus = EventBus()
    heard: list[str] = []

    def fail(error: Exception) -> Callable[[Event], None]:
        def callback(event: Event) -> None:
            raise error
        return callback

    one, two = ValueError("one"), KeyError("two")
    bus.subscribe(fail(one))
    bus.subscribe(lambda event: heard.append(event.name))
    bus.subscribe(fail(two))
    with pytest.raises(ExceptionGroup) as caught:
        bus.emit("STOP")
    assert heard == ["STOP"]
    assert caught.value.exceptions == (one, two)
    assert "STOP" in str(caught.value)
    with pytest.raises(ExceptionGroup):
        bus.emit("RESUME")
    assert heard == ["STOP", "RESUME"]


def test_every_constant_is_in_the_table_under_its_own_name() -> None:
    constants = {name for name in events.__all__ if name.isupper() and name != "EVENTS"}
    assert constants == set(EVENTS)
    assert all(getattr(events, name) == name for name in constants)


def test_only_watchdog_events_are_limited_to_one_a_second() -> None:
    assert {name: kind.interval_ns for name, kind in EVENTS.items() if kind.interval_ns} == {
        "WATCHDOG": 1_000_000_000}
