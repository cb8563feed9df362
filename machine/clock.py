"""Virtual time: a clock with a deadline heap, and the two sources it can run on.

Every device timer, the TSC and the PM timer read one `Clock`.  A clock counts
nanoseconds from the machine's power-on; it can be frozen (a stopped machine)
and thawed, and what it counts comes from a *source*:

- `WallSource`: the host's monotonic clock (for people);
- anything else callable, such as executed blocks times a constant
  (deterministic mode; see `machine.machine`).

`Clock.timer` makes a named timer; `Timer.at` arms it at an absolute deadline in
nanoseconds.  Timers fire from `fire_due`, in the order of their deadlines, and
where two are equal in the order they were armed.  Only the thread that owns the
machine touches a clock.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

__all__ = ["Clock", "Timer", "NS_PER_SECOND"]

NS_PER_SECOND = 1_000_000_000


class Timer:
    """One named deadline of a clock.  Made by `Clock.timer`."""

    __slots__ = ("name", "deadline", "_callback", "_clock", "_serial")

    def __init__(self, clock: Clock, name: str, callback: Callable[[], None]) -> None:
        self.name = name
        self.deadline: int | None = None
        self._clock = clock
        self._callback = callback
        self._serial = 0

    def at(self, deadline_ns: int) -> None:
        """Arm (or move) the timer to fire once at *deadline_ns* of its clock."""
        self._clock._arm(self, deadline_ns)

    def cancel(self) -> None:
        """Disarm.  Nothing happens when it was not armed."""
        self.deadline = None

    def __repr__(self) -> str:
        return f"Timer({self.name!r}, deadline={self.deadline})"


class Clock:
    """Nanoseconds since power-on, freezable, with timers.

    *source* gives raw nanoseconds that never run backwards.  *on_arm* is told
    each newly armed deadline, so that whoever runs a slice of guest time can
    end it early.
    """

    def __init__(
        self,
        source: Callable[[], int] = time.monotonic_ns,
        on_arm: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._on_arm = on_arm
        self._offset = -source()
        self._frozen_at: int | None = None
        # Moved and cancelled timers leave their old entries behind, until these come
        # to the top or `_arm` finds the heap doubled since it was last swept.
        self._heap: list[tuple[int, int, Timer]] = []
        self._sweep_at = 64
        self._armed = 0

    def now_ns(self) -> int:
        """The present reading, in nanoseconds."""
        if self._frozen_at is not None:
            return self._frozen_at
        return self._source() + self._offset

    @property
    def offset_ns(self) -> int:
        """What is added to the source while the clock is not frozen."""
        return self._offset

    @property
    def frozen(self) -> bool:
        return self._frozen_at is not None

    def freeze(self) -> None:
        """Stop counting.  A second freeze changes nothing."""
        if self._frozen_at is None:
            self._frozen_at = self.now_ns()

    def thaw(self) -> None:
        """Count on from where `freeze` stopped."""
        if self._frozen_at is not None:
            self._offset = self._frozen_at - self._source()
            self._frozen_at = None

    def set_ns(self, now_ns: int) -> None:
        """Make the clock read *now_ns*: a jump over idle time, or a restored state."""
        if self._frozen_at is not None:
            self._frozen_at = now_ns
        else:
            self._offset = now_ns - self._source()

    def timer(self, name: str, callback: Callable[[], None]) -> Timer:
        """A new timer, not armed yet, that calls *callback* when it falls due."""
        return Timer(self, name, callback)

    def next_deadline(self) -> int | None:
        """The earliest armed deadline, or None."""
        heap = self._heap
        while heap:
            if self._valid(heap[0]):
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def fire_due(self) -> int:
        """Call every timer whose deadline has come; return how many there were.

        What falls due meanwhile waits for the next call: a timer that comes faster than
        it can be served must not keep the guest from running.
        """
        fired = 0
        now = self.now_ns()
        while True:
            deadline = self.next_deadline()
            if deadline is None or deadline > now:
                return fired
            timer = heapq.heappop(self._heap)[2]
            timer.deadline = None
            timer._callback()
            fired += 1

    @staticmethod
    def _valid(entry: tuple[int, int, Timer]) -> bool:
        deadline, serial, timer = entry
        return timer.deadline == deadline and timer._serial == serial

    def _arm(self, timer: Timer, deadline_ns: int) -> None:
        self._armed += 1
        timer.deadline = deadline_ns
        timer._serial = self._armed
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if self._valid(entry)]
            heapq.heapify(self._heap)
            self._sweep_at = max(64, 2 * len(self._heap))
        heapq.heappush(self._heap, (deadline_ns, self._armed, timer))
        if self._on_arm is not None:
            self._on_arm(deadline_ns)
