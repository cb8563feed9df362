"""The machine's event bus: what happened, told in order to whoever subscribed.

An `Event` is a name, its data as JSON values (or None where it has none) and the
host's time when it was emitted.  The names, the members of each event's data and
the limits on how often one may be sent are those of QMP (QEMU 10's
`qapi/run-state.json` and `qapi/machine.json`); they are the table `EVENTS`, which
monitors and the documentation read.

A bus belongs to the thread that owns the machine: subscribers are called on it,
in the order they subscribed, before `emit` returns.  A subscriber that raises
stops neither the machine's other subscribers nor is it forgotten: everybody is told
first, then `emit` raises one `ExceptionGroup` of all that was raised.  (The
run-state manager finishes the change of state it announced before it lets such a
group through.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
    "EVENTS",
    "Event",
    "EventBus",
    "EventType",
    "GUEST_CRASHLOADED",
    "GUEST_PANICKED",
    "GUEST_PVSHUTDOWN",
    "MEMORY_FAILURE",
    "POWERDOWN",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
    "SUSPEND",
    "SUSPEND_DISK",
    "WAKEUP",
    "WATCHDOG",
]

SHUTDOWN = "SHUTDOWN"
POWERDOWN = "POWERDOWN"
RESET = "RESET"
STOP = "STOP"
RESUME = "RESUME"
SUSPEND = "SUSPEND"
SUSPEND_DISK = "SUSPEND_DISK"
WAKEUP = "WAKEUP"
WATCHDOG = "WATCHDOG"
GUEST_PANICKED = "GUEST_PANICKED"
GUEST_CRASHLOADED = "GUEST_CRASHLOADED"
GUEST_PVSHUTDOWN = "GUEST_PVSHUTDOWN"
MEMORY_FAILURE = "MEMORY_FAILURE"


class EventType(NamedTuple):
    """What an event of one name carries.

    *members* of its data (`?` behind the name: may be missing); *interval_ns*:
    a monitor sends at most one in so many nanoseconds, 0 for no limit.  The bus
    itself holds nothing back.
    """

    members: tuple[str, ...] = ()
    interval_ns: int = 0


#: Every run-state event, by name.
EVENTS: Mapping[str, EventType] = {
    SHUTDOWN: EventType(("guest", "reason")),
    POWERDOWN: EventType(),
    RESET: EventType(("guest", "reason")),
    STOP: EventType(),
    RESUME: EventType(),
    SUSPEND: EventType(),
    SUSPEND_DISK: EventType(),
    WAKEUP: EventType(),
    WATCHDOG: EventType(("action",), interval_ns=1_000_000_000),
    GUEST_PANICKED: EventType(("action", "info?")),
    GUEST_CRASHLOADED: EventType(("action", "info?")),
    GUEST_PVSHUTDOWN: EventType(),
    MEMORY_FAILURE: EventType(("recipient", "action", "flags")),
}


class Event(NamedTuple):
    """One thing that happened; *seconds* and *microseconds* since the epoch."""

    name: str
    data: dict[str, Any] | None
    seconds: int
    microseconds: int


class EventBus:
    """Tells every subscriber every event, in order.

    *now_ns* gives the host's time in nanoseconds since the epoch, for the time
    stamps.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._subscribers: dict[object, Callable[[Event], None]] = {}

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call *callback* for each event from now on.

        Returns what ends the subscription; calling that twice is harmless.  One
        callback subscribed twice is called twice.
        """
        key = object()
        self._subscribers[key] = callback

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def emit(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Tell everybody that *name* happened.

        Who subscribes during the delivery hears the next event first; who is
        unsubscribed during it and was not reached yet hears nothing more.

        Raises `ExceptionGroup` with what subscribers raised, after all were told.
        """
        seconds, ns = divmod(self._now_ns(), 1_000_000_000)
        event = Event(name, data, seconds, ns // 1000)
        failures: list[Exception] = []
        for key, callback in list(self._subscribers.items()):
            if key not in self._subscribers:
                continue
            try:
                callback(event)
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise ExceptionGroup(f"event {name}: subscribers failed", failures)
