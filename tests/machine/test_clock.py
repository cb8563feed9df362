"""What the virtual clock and its timers promise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from machine.clock import Clock, Timer


class Source:
    """Raw time that a test moves."""

    def __init__(self, start: int = 1_000) -> None:
        self.ns = start

    def __call__(self) -> int:
        return self.ns


def test_a_clock_begins_at_zero_whatever_its_source_reads() -> None:
    source = Source(123_456)
    clock = Clock(source)
    assert clock.now_ns() == 0
    source.ns += 5
    assert clock.now_ns() == 5


def test_a_frozen_clock_stands_still_and_goes_on_from_there() -> None:
    source = Source()
    clock = Clock(source)
    source.ns += 10
    clock.freeze()
    source.ns += 100
    assert clock.frozen and clock.now_ns() == 10
    clock.thaw()
    assert not clock.frozen and clock.now_ns() == 10
    source.ns += 7
    assert clock.now_ns() == 17


def test_a_second_freeze_or_thaw_changes_nothing() -> None:
    source = Source()
    clock = Clock(source)
    source.ns += 10
    clock.freeze()
    source.ns += 10
    clock.freeze()
    assert clock.now_ns() == 10
    clock.thaw()
    source.ns += 10
    clock.thaw()
    assert clock.now_ns() == 20


def test_a_clock_can_be_set_running_and_frozen() -> None:
    source = Source()
    clock = Clock(source)
    clock.set_ns(1_000_000)
    source.ns += 1
    assert clock.now_ns() == 1_000_001
    clock.freeze()
    clock.set_ns(50)
    source.ns += 99
    assert clock.now_ns() == 50
    clock.thaw()
    source.ns += 1
    assert clock.now_ns() == 51


def recorded(clock: Clock, fired: list[str], name: str) -> Timer:
    return clock.timer(name, lambda: fired.append(name))


def test_timers_fire_in_the_order_of_their_deadlines_then_of_arming() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    late, first, second = (recorded(clock, fired, name) for name in ("late", "first", "second"))
    late.at(20)
    first.at(10)
    second.at(10)
    assert clock.next_deadline() == 10
    source.ns += 20
    assert clock.fire_due() == 3
    assert fired == ["first", "second", "late"]
    assert clock.next_deadline() is None


def test_a_timer_fires_at_its_deadline_not_before_and_once() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    timer = recorded(clock, fired, "t")
    timer.at(10)
    source.ns += 9
    assert clock.fire_due() == 0
    source.ns += 1
    assert clock.fire_due() == 1
    source.ns += 100
    assert clock.fire_due() == 0
    assert timer.deadline is None


def test_a_moved_timer_fires_at_the_new_deadline_only() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    timer = recorded(clock, fired, "t")
    timer.at(10)
    timer.at(30)
    assert clock.next_deadline() == 30
    source.ns += 20
    assert clock.fire_due() == 0
    timer.at(5)
    assert clock.fire_due() == 1
    source.ns += 100
    assert clock.fire_due() == 0


def test_a_cancelled_timer_does_not_fire() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    timer = recorded(clock, fired, "t")
    timer.cancel()
    timer.at(10)
    timer.cancel()
    assert clock.next_deadline() is None
    source.ns += 10
    assert clock.fire_due() == 0 and fired == []


def test_a_timer_cancelled_and_armed_again_fires_once() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    timer = recorded(clock, fired, "t")
    timer.at(10)
    timer.cancel()
    timer.at(10)
    source.ns += 10
    assert clock.fire_due() == 1 and fired == ["t"]


def test_a_callback_that_arms_what_is_due_already_is_served_in_the_same_turn() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[int] = []

    def tick() -> None:
        fired.append(len(fired))
        if len(fired) < 4:
            timer.at(10 * (len(fired) + 1))

    timer = clock.timer("tick", tick)
    timer.at(10)
    source.ns += 35
    assert clock.fire_due() == 3
    assert clock.next_deadline() == 40


def test_deadlines_stand_still_with_a_frozen_clock() -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    recorded(clock, fired, "t").at(10)
    clock.freeze()
    source.ns += 1_000
    assert clock.fire_due() == 0
    clock.thaw()
    source.ns += 9
    assert clock.fire_due() == 0
    source.ns += 1
    assert clock.fire_due() == 1


def test_whoever_runs_the_guest_is_told_of_each_new_deadline() -> None:
    told: list[int] = []
    clock = Clock(Source(), told.append)
    timer = clock.timer("t", lambda: None)
    timer.at(10)
    timer.at(5)
    timer.cancel()
    assert told == [10, 5]


def test_a_guest_that_moves_a_timer_for_ever_uses_no_more_memory() -> None:
    clock = Clock(Source())
    timer = clock.timer("watchdog", lambda: None)
    other = clock.timer("other", lambda: None)
    other.at(7)
    for deadline in range(1_000, 21_000):
        timer.at(deadline)
    assert len(clock._heap) < 200
    assert clock.next_deadline() == 7
    other.cancel()
    assert clock.next_deadline() == 20_999


@given(st.lists(st.tuples(st.sampled_from(["arm", "cancel", "fire"]), st.integers(0, 79),
                          st.integers(0, 50)), max_size=200))
def test_timers_fire_as_a_sorted_list_of_deadlines_would(
        steps: list[tuple[str, int, int]]) -> None:
    source = Source()
    clock = Clock(source)
    fired: list[str] = []
    timers = [recorded(clock, fired, str(i)) for i in range(80)]
    armed: dict[str, tuple[int, int]] = {}
    expected: list[str] = []
    for serial, (step, which, ns) in enumerate(steps):
        if step == "arm":
            timers[which].at(clock.now_ns() + ns)
            armed[str(which)] = (clock.now_ns() + ns, serial)
        elif step == "cancel":
            timers[which].cancel()
            armed.pop(str(which), None)
        else:
            source.ns += ns
            due = sorted((at, name) for name, at in armed.items() if at[0] <= clock.now_ns())
            expected += [name for _, name in due]
            for _, name in due:
                del armed[name]
            assert clock.fire_due() == len(due)
        assert clock.next_deadline() == min((at for at, _ in armed.values()), default=None)
    assert fired == expected
