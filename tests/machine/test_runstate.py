"""What the run-state manager promises, one rule at a time, with recorded effects."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from machine.events import Event, EventBus
from machine.runstate import (
    LIVE,
    TRANSITIONS,
    Actions,
    Effects,
    HyperVPanicInformation,
    InvalidTransition,
    MachineError,
    PanicAction,
    RebootAction,
    RunState,
    RunStateManager,
    ShutdownAction,
    ShutdownCause,
    Status,
    WakeupReason,
    WatchdogAction,
)

S = RunState
NOT_SUSPENDED = "Unable to wake up: guest is not in suspended state"
NEEDS_RESET = "Resetting the Virtual Machine is required"


class Rig:
    """A manager whose effects, listeners and events land in one list, in order."""

    def __init__(self, *, state: RunState = S.PRELAUNCH, start: bool = True,
                 **kwargs: Any) -> None:
        self.trace: list[str] = []
        self.data: dict[str, dict[str, Any] | None] = {}
        self.wake_enabled: set[WakeupReason] = set()
        note = self.trace.append
        self.bus = EventBus(now_ns=lambda: 0)
        self.bus.subscribe(self._heard)
        self.m = RunStateManager(
            effects=Effects(
                freeze=lambda: note("freeze"),
                thaw=lambda: note("thaw"),
                pause_cpu=lambda: note("pause cpu"),
                resume_cpu=lambda: note("resume cpu"),
                reset_devices=lambda: note("reset"),
                wake_devices=lambda reason: note(f"wake {reason.value}"),
                wake_enabled=lambda reason: reason in self.wake_enabled,
                power_button=lambda: note("button"),
                inject_nmi=lambda: note("nmi"),
                leave=lambda code: note(f"leave {code}"),
            ),
            bus=self.bus, state=state, **kwargs)
        self.m.add_listener(lambda live, state: note(f"listener {live} {state.value}"))
        if start:
            self.m.vm_start()
            self.trace.clear()

    def _heard(self, event: Event) -> None:
        self.trace.append(event.name)
        self.data[event.name] = event.data

    def served(self) -> list[str]:
        """Serve until nothing is pending; what happened since the last look."""
        while self.m.pending:
            self.m.serve()
        trace, self.trace[:] = list(self.trace), []
        return trace

    def events(self) -> list[str]:
        return [name for name in self.served() if name.isupper()]

    def state(self) -> RunState:
        return self.m.state

    def suspend(self) -> None:
        self.m.request_suspend()
        assert self.events() == ["SUSPEND"]


# The vocabulary


def test_the_sixteen_run_states_are_spelled_as_in_qmp() -> None:
    assert [state.value for state in RunState] == (
        "debug inmigrate internal-error io-error paused postmigrate prelaunch finish-migrate "
        "restore-vm running save-vm shutdown suspended watchdog guest-panicked colo").split()


def test_a_run_state_is_its_spelling_in_text_and_json() -> None:
    assert f"{S.GUEST_PANICKED}" == "guest-panicked"
    assert json.dumps({"status": S.SUSPENDED}) == '{"status": "suspended"}'


def test_shutdown_causes_keep_qmps_order_and_spelling() -> None:
    assert [cause.spelling for cause in sorted(ShutdownCause)] == (
        "none host-error host-qmp-quit host-qmp-system-reset host-signal host-ui guest-shutdown "
        "guest-reset guest-panic subsystem-reset snapshot-load").split()


def test_guest_shutdown_to_guest_panic_are_caused_by_the_guest() -> None:
    assert {cause.spelling for cause in ShutdownCause if cause.caused_by_guest} == {
        "guest-shutdown", "guest-reset", "guest-panic"}


def test_actions_begin_as_qemus_do() -> None:
    assert Actions() == Actions(RebootAction.RESET, ShutdownAction.POWEROFF,
                                PanicAction.SHUTDOWN, WatchdogAction.RESET)
    assert [action.value for action in WatchdogAction] == (
        "reset shutdown poweroff pause debug none inject-nmi").split()


def test_status_tells_state_running_and_singlestep() -> None:
    rig = Rig()
    assert rig.m.status() == Status(S.RUNNING, True, False)
    rig.suspend()
    assert rig.m.status(singlestep=True) == Status(S.SUSPENDED, False, True)


# Transitions


#: The specification's table, written out a second time on purpose.
LEGAL = {
    "prelaunch": "running, suspended, inmigrate, finish-migrate",
    "inmigrate": "running, suspended, paused, shutdown, watchdog, guest-panicked, "
                 "internal-error, io-error, finish-migrate, prelaunch, postmigrate, colo",
    "running": "debug, internal-error, io-error, paused, finish-migrate, restore-vm, save-vm, "
               "shutdown, watchdog, guest-panicked, suspended, colo",
    "suspended": "running, paused, finish-migrate, prelaunch, save-vm, restore-vm, shutdown, colo",
    "paused": "running, suspended, finish-migrate, postmigrate, prelaunch, colo",
    "debug": "running, suspended, finish-migrate, prelaunch",
    "internal-error": "paused, finish-migrate, prelaunch",
    "io-error": "running, finish-migrate, prelaunch",
    "postmigrate": "running, suspended, finish-migrate, prelaunch",
    "finish-migrate": "running, suspended, paused, postmigrate, prelaunch, colo, "
                      "internal-error, io-error, shutdown, watchdog, guest-panicked",
    "restore-vm": "running, suspended, prelaunch",
    "save-vm": "running, suspended",
    "shutdown": "paused, finish-migrate, prelaunch, colo",
    "watchdog": "running, finish-migrate, prelaunch, colo",
    "guest-panicked": "running, finish-migrate, prelaunch",
    "colo": "running, prelaunch, shutdown",
}


def test_the_transition_table_is_the_specifications() -> None:
    assert {state.value: {to.value for to in targets} for state, targets in TRANSITIONS.items()} \
        == {state: set(targets.split(", ")) for state, targets in LEGAL.items()}


STOPPED = [state for state in RunState if state not in LIVE]


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(STOPPED, 2)))
def test_set_state_follows_the_table(old: RunState, new: RunState) -> None:
    rig = Rig(state=old, start=False)
    if new.value in LEGAL[old.value].split(", "):
        rig.m.set_state(new)
        assert rig.state() is new
    else:
        with pytest.raises(InvalidTransition):
            rig.m.set_state(new)
        assert rig.state() is old


def test_an_invalid_transition_names_both_states_and_changes_nothing() -> None:
    rig = Rig(state=S.INTERNAL_ERROR, start=False)
    with pytest.raises(InvalidTransition) as caught:
        rig.m.vm_start()
    assert str(caught.value) == "invalid runstate transition: 'internal-error' -> 'running'"
    assert (caught.value.old, caught.value.new) == (S.INTERNAL_ERROR, S.RUNNING)
    assert rig.trace == [] and rig.state() is S.INTERNAL_ERROR


def test_a_refused_stop_changes_nothing() -> None:
    rig = Rig()
    with pytest.raises(InvalidTransition):
        rig.m.vm_stop(S.POSTMIGRATE)
    assert rig.trace == [] and rig.m.running


def test_only_a_replay_goes_from_shutdown_to_running() -> None:
    with pytest.raises(InvalidTransition):
        Rig(state=S.SHUTDOWN, start=False).m.vm_start()
    assert Rig(state=S.SHUTDOWN, replaying=True).m.running


def test_live_is_entered_and_left_by_start_and_stop_only() -> None:
    rig = Rig()
    with pytest.raises(ValueError):
        rig.m.set_state(S.PAUSED)
    with pytest.raises(ValueError):
        rig.m.vm_stop(S.SUSPENDED)
    with pytest.raises(ValueError):
        Rig(state=S.RUNNING, start=False)
    rig.m.stop()
    with pytest.raises(ValueError):
        rig.m.set_state(S.RUNNING)
    assert rig.state() is S.PAUSED


def test_a_request_to_stop_in_no_stopped_state_is_refused() -> None:
    rig = Rig()
    for state in (S.SUSPENDED, S.RUNNING, S.PRELAUNCH):
        with pytest.raises(InvalidTransition):
            rig.m.request_stop(state)
    assert not rig.m.pending


# Stop and start


def test_a_start_resumes_before_it_thaws_and_lets_the_cpu_run_last() -> None:
    rig = Rig(start=False)
    rig.m.cont()
    assert rig.trace == ["RESUME", "thaw", "listener True running", "resume cpu"]
    assert rig.m.running


def test_a_stop_freezes_and_pauses_before_it_is_told() -> None:
    rig = Rig()
    rig.m.stop()
    assert rig.trace == ["freeze", "pause cpu", "listener False paused", "STOP"]
    assert rig.state() is S.PAUSED


def test_a_stop_of_a_stopped_machine_is_nothing() -> None:
    for state in STOPPED:
        rig = Rig(state=state, start=False)
        rig.m.vm_stop(S.PAUSED)
        assert rig.trace == [] and rig.state() is state


def test_cont_of_a_running_machine_is_nothing() -> None:
    rig = Rig()
    rig.m.cont()
    assert rig.trace == []


def test_a_pending_stop_is_told_as_a_pair_when_a_start_overtakes_it() -> None:
    rig = Rig()
    rig.m.request_stop(S.IO_ERROR)
    rig.m.cont()
    assert rig.events() == ["STOP", "RESUME"]
    assert rig.m.running


def test_a_pending_stop_does_not_outlive_a_start() -> None:
    rig = Rig()
    rig.m.stop()
    rig.m.request_stop(S.IO_ERROR)
    rig.m.cont()
    assert rig.events() == ["STOP", "RESUME"]
    assert rig.m.running


def test_a_machine_stopped_and_continued_before_its_wakeup_runs_once_woken() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_wakeup()
    rig.m.stop()
    rig.m.cont()
    assert "resume cpu" not in rig.trace
    assert rig.served()[-3:] == ["wake other", "resume cpu", "WAKEUP"]


@pytest.mark.parametrize("state", [S.INTERNAL_ERROR, S.SHUTDOWN])
def test_cont_asks_for_a_reset_first(state: RunState) -> None:
    rig = Rig(state=state, start=False)
    with pytest.raises(MachineError) as caught:
        rig.m.cont()
    assert caught.value.desc == NEEDS_RESET == str(caught.value)
    assert rig.trace == []


def test_cont_waits_for_a_migration_to_be_finalized() -> None:
    with pytest.raises(MachineError, match="^Migration is not finalized yet$"):
        Rig(state=S.FINISH_MIGRATE, start=False).m.cont()


def test_cont_is_allowed_after_a_panic_a_watchdog_and_a_breakpoint() -> None:
    for state in (S.GUEST_PANICKED, S.WATCHDOG, S.DEBUG, S.IO_ERROR):
        rig = Rig()
        rig.m.request_stop(state)
        assert rig.events() == ["STOP"]
        assert rig.state() is state
        rig.m.cont()
        assert rig.events() == ["RESUME"]
        assert rig.m.running


def test_vm_stop_force_state_enters_the_state_even_when_stopped() -> None:
    rig = Rig()
    rig.m.vm_stop_force_state(S.FINISH_MIGRATE)
    assert rig.events() == ["STOP"]
    rig = Rig()
    rig.m.stop()
    rig.served()
    rig.m.vm_stop_force_state(S.FINISH_MIGRATE)
    assert rig.served() == [] and rig.state() is S.FINISH_MIGRATE


# The remembered suspend


def test_suspending_pauses_tells_enters_and_emits() -> None:
    rig = Rig()
    rig.m.add_suspend_listener(lambda: rig.trace.append(f"about to, {rig.m.state.value}"))
    rig.m.request_suspend()
    assert rig.trace == []
    assert rig.served() == ["pause cpu", "about to, running", "SUSPEND"]
    assert rig.state() is S.SUSPENDED


def test_a_second_suspend_request_is_nothing() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.request_suspend()
    assert not rig.m.pending


def test_suspend_stop_cont_wakeup_as_in_the_specification() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.stop()
    assert rig.served() == ["freeze", "listener False paused", "STOP"]
    assert rig.state() is S.PAUSED and rig.m.was_suspended
    with pytest.raises(MachineError, match=NOT_SUSPENDED):
        rig.m.system_wakeup()
    rig.m.cont()
    assert rig.served() == ["RESUME", "thaw", "listener True suspended"]
    assert rig.state() is S.SUSPENDED and not rig.m.was_suspended
    rig.m.system_wakeup()
    assert rig.served() == ["wake other", "resume cpu", "WAKEUP"]
    assert rig.m.running


def test_a_second_stop_does_not_lose_the_memory() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.stop()
    rig.m.stop()
    assert rig.events() == ["STOP"]
    rig.m.cont()
    assert rig.state() is S.SUSPENDED


def test_cont_while_suspended_is_silent() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.cont()
    assert rig.served() == [] and rig.state() is S.SUSPENDED


def test_cont_while_suspended_does_not_overtake_a_pending_stop() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.request_stop(S.PAUSED)
    rig.m.cont()
    assert rig.events() == ["STOP"] and rig.state() is S.PAUSED and rig.m.was_suspended


def test_stop_and_cont_of_a_running_machine_remember_no_suspend() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_wakeup()
    rig.served()
    rig.m.stop()
    assert not rig.m.was_suspended
    rig.m.cont()
    assert rig.m.running


def test_a_suspend_requested_while_stopped_waits_for_the_start() -> None:
    rig = Rig()
    rig.m.stop()
    rig.m.request_suspend()
    assert not rig.m.pending and rig.events() == ["STOP"]
    assert rig.state() is S.PAUSED
    rig.m.cont()
    assert rig.events() == ["RESUME", "SUSPEND"]
    assert rig.state() is S.SUSPENDED


def test_a_waiting_suspend_ends_with_a_reset() -> None:
    rig = Rig()
    rig.m.stop()
    rig.m.request_suspend()
    rig.m.system_reset()
    rig.served()
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.m.running


def test_a_suspend_asked_for_before_the_wakeup_was_served_is_nothing() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_wakeup()
    rig.m.request_suspend()
    assert rig.events() == ["WAKEUP"] and rig.m.running


# Wakeup


@pytest.mark.parametrize("state", [state for state in RunState if state is not S.SUSPENDED])
def test_the_monitors_wakeup_is_refused_unless_suspended_now(state: RunState) -> None:
    rig = Rig() if state is S.RUNNING else Rig(state=state, start=False)
    with pytest.raises(MachineError) as caught:
        rig.m.system_wakeup()
    assert caught.value.desc == NOT_SUSPENDED
    assert rig.state() is state and not rig.m.pending


@pytest.mark.parametrize("reason", list(WakeupReason))
def test_a_devices_wakeup_is_silent_unless_suspended(reason: WakeupReason) -> None:
    rig = Rig()
    rig.wake_enabled = set(WakeupReason)
    rig.m.request_wakeup(reason)
    rig.suspend()
    rig.m.stop()
    rig.m.request_wakeup(reason)
    assert rig.events() == ["STOP"]
    assert rig.state() is S.PAUSED and rig.m.was_suspended


@pytest.mark.parametrize("reason", [WakeupReason.RTC, WakeupReason.PM_TIMER])
def test_rtc_and_pm_timer_wake_only_when_the_guest_enabled_them(reason: WakeupReason) -> None:
    rig = Rig()
    rig.suspend()
    rig.m.request_wakeup(reason)
    assert rig.served() == [] and rig.state() is S.SUSPENDED
    rig.wake_enabled = {reason}
    rig.m.request_wakeup(reason)
    assert rig.served() == [f"wake {reason.value}", "resume cpu", "WAKEUP"]


def test_a_key_press_always_wakes() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.request_wakeup(WakeupReason.OTHER)
    assert rig.events() == ["WAKEUP"]


def test_running_is_entered_when_the_wakeup_is_requested() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_wakeup()
    assert rig.m.running and rig.trace == []
    with pytest.raises(MachineError):
        rig.m.system_wakeup()


def test_wakeup_listeners_are_told_the_reason_between_reset_and_run() -> None:
    rig = Rig()
    rig.m.add_wakeup_listener(lambda reason: rig.trace.append(f"told {reason.value}"))
    rig.suspend()
    rig.m.system_wakeup()
    assert rig.served() == ["wake other", "told other", "resume cpu", "WAKEUP"]


def test_a_machine_stopped_before_its_wakeup_was_served_is_woken_but_does_not_run() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_wakeup()
    rig.m.stop()
    assert rig.served()[-2:] == ["wake other", "WAKEUP"]
    assert rig.state() is S.PAUSED and not rig.m.was_suspended
    rig.m.cont()
    assert rig.served()[-1] == "resume cpu"


def test_the_guest_can_suspend_again_after_a_wakeup() -> None:
    rig = Rig()
    for _ in range(3):
        rig.suspend()
        rig.m.system_wakeup()
        assert rig.events() == ["WAKEUP"]


# Reset


def test_a_reset_of_a_running_machine_runs_on() -> None:
    rig = Rig()
    rig.m.system_reset()
    assert rig.trace == []
    assert rig.served() == ["reset", "RESET"]
    assert rig.m.running
    assert rig.data["RESET"] == {"guest": False, "reason": "host-qmp-system-reset"}


def test_the_guests_reset_is_told_as_the_guests() -> None:
    rig = Rig()
    rig.m.request_reset(ShutdownCause.GUEST_RESET)
    rig.served()
    assert rig.data["RESET"] == {"guest": True, "reason": "guest-reset"}


@pytest.mark.parametrize(
    "cause", [ShutdownCause.NONE, ShutdownCause.SUBSYSTEM_RESET, ShutdownCause.SNAPSHOT_LOAD])
def test_some_resets_are_not_told(cause: ShutdownCause) -> None:
    rig = Rig()
    rig.m.request_reset(cause)
    assert rig.served() == ["reset"]


@pytest.mark.parametrize("state", [S.PRELAUNCH, S.PAUSED, S.DEBUG, S.INTERNAL_ERROR, S.IO_ERROR,
                                   S.POSTMIGRATE, S.SHUTDOWN, S.WATCHDOG, S.GUEST_PANICKED])
def test_a_reset_while_stopped_is_served_at_once_and_leads_to_prelaunch(state: RunState) -> None:
    rig = Rig(state=state, start=False)
    rig.m.system_reset()
    assert rig.served() == ["reset", "RESET"]
    assert rig.state() is S.PRELAUNCH
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.m.running


@pytest.mark.parametrize("state", [S.INMIGRATE, S.FINISH_MIGRATE])
def test_a_reset_leaves_a_migration_alone(state: RunState) -> None:
    rig = Rig(state=state, start=False)
    rig.m.system_reset()
    assert rig.events() == ["RESET"] and rig.state() is state


def test_a_reset_while_suspended_stops_the_clock_without_a_stop_event() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.system_reset()
    assert rig.served() == ["reset", "RESET", "freeze", "listener False prelaunch"]
    assert rig.state() is S.PRELAUNCH and not rig.m.was_suspended
    with pytest.raises(MachineError, match=NOT_SUSPENDED):
        rig.m.system_wakeup()
    rig.m.cont()
    assert rig.m.running


def test_a_reset_clears_the_remembered_suspend() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.stop()
    rig.m.system_reset()
    rig.served()
    assert rig.state() is S.PRELAUNCH and not rig.m.was_suspended
    rig.m.cont()
    assert rig.m.running


def test_a_reset_that_has_nowhere_to_go_resets_nothing() -> None:
    rig = Rig(state=S.SAVE_VM, start=False)
    rig.m.system_reset()
    with pytest.raises(InvalidTransition):
        rig.m.serve()
    assert rig.trace == [] and rig.state() is S.SAVE_VM


# Reboot = shutdown


def test_no_reboot_makes_a_reset_a_shutdown_of_the_same_cause() -> None:
    rig = Rig(actions=Actions(reboot=RebootAction.SHUTDOWN))
    rig.m.request_reset(ShutdownCause.GUEST_RESET)
    assert rig.events() == ["SHUTDOWN"]
    assert rig.data["SHUTDOWN"] == {"guest": True, "reason": "guest-reset"}
    assert rig.m.exit_code == 0


def test_no_reboot_holds_for_the_monitors_reset_in_s3_too() -> None:
    rig = Rig(actions=Actions(reboot=RebootAction.SHUTDOWN))
    rig.suspend()
    rig.m.system_reset()
    assert rig.events() == ["SHUTDOWN"]
    assert rig.data["SHUTDOWN"] == {"guest": False, "reason": "host-qmp-system-reset"}


def test_no_reboot_lets_a_subsystem_reset_pass() -> None:
    rig = Rig(actions=Actions(reboot=RebootAction.SHUTDOWN))
    rig.m.request_reset(ShutdownCause.SUBSYSTEM_RESET)
    assert rig.served() == ["reset"] and rig.m.exit_code is None


def test_no_reboot_no_shutdown_while_paused_stays_paused() -> None:
    rig = Rig(actions=Actions(reboot=RebootAction.SHUTDOWN, shutdown=ShutdownAction.PAUSE))
    rig.m.stop()
    rig.served()
    rig.m.system_reset()
    assert rig.served() == ["SHUTDOWN"] and rig.state() is S.PAUSED
    rig.m.cont()
    assert rig.m.running


# Shutdown


def test_a_guests_poweroff_is_told_then_leaves_with_0_and_no_stop() -> None:
    rig = Rig()
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
    assert rig.served() == [
        "SHUTDOWN", "freeze", "pause cpu", "listener False shutdown", "leave 0"]
    assert rig.data["SHUTDOWN"] == {"guest": True, "reason": "guest-shutdown"}
    assert rig.m.exit_code == 0


def test_nothing_is_served_after_leaving() -> None:
    rig = Rig()
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
    rig.m.system_reset()
    rig.m.system_powerdown()
    rig.m.request_stop(S.PAUSED)
    assert rig.events() == ["SHUTDOWN"]
    assert not rig.m.pending


def test_no_shutdown_stops_in_shutdown_until_a_reset() -> None:
    rig = Rig(actions=Actions(shutdown=ShutdownAction.PAUSE))
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
    assert rig.events() == ["SHUTDOWN", "STOP"]
    assert rig.state() is S.SHUTDOWN and rig.m.exit_code is None
    with pytest.raises(MachineError, match=NEEDS_RESET):
        rig.m.cont()
    rig.m.stop()
    assert rig.events() == [] and rig.state() is S.SHUTDOWN
    with pytest.raises(MachineError, match=NOT_SUSPENDED):
        rig.m.system_wakeup()
    rig.m.system_powerdown()
    assert rig.events() == ["POWERDOWN"] and rig.state() is S.SHUTDOWN
    rig.m.system_reset()
    assert rig.events() == ["RESET"] and rig.state() is S.PRELAUNCH
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.m.running


@pytest.mark.parametrize("state", ["running", "suspended", "paused", "prelaunch"])
@pytest.mark.parametrize("action", list(ShutdownAction))
def test_quit_leaves_from_anywhere_whatever_the_action(state: str, action: ShutdownAction) -> None:
    rig = Rig(start=state != "prelaunch", actions=Actions(shutdown=action))
    if state == "suspended":
        rig.suspend()
    if state == "paused":
        rig.m.stop()
        rig.served()
    rig.m.quit()
    assert rig.events() == ["SHUTDOWN"]
    assert rig.data["SHUTDOWN"] == {"guest": False, "reason": "host-qmp-quit"}
    assert rig.m.exit_code == 0 and not rig.m.live


def test_a_signal_quits_as_host_signal() -> None:
    rig = Rig()
    rig.m.quit(ShutdownCause.HOST_SIGNAL)
    rig.served()
    assert rig.data["SHUTDOWN"] == {"guest": False, "reason": "host-signal"}


def test_a_device_chooses_the_exit_code() -> None:
    rig = Rig()
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN, exit_code=67)
    assert rig.served()[-1] == "leave 67"
    assert rig.m.exit_code == 67


def test_quit_after_no_shutdown_leaves_with_the_devices_exit_code() -> None:
    rig = Rig(actions=Actions(shutdown=ShutdownAction.PAUSE))
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN, exit_code=67)
    assert rig.events() == ["SHUTDOWN", "STOP"]
    rig.m.quit()
    rig.served()
    assert rig.m.exit_code == 67


def test_s4_is_told_and_then_a_shutdown() -> None:
    rig = Rig()
    rig.m.suspend_disk()
    assert rig.events() == ["SUSPEND_DISK", "SHUTDOWN"]
    assert rig.data["SHUTDOWN"] == {"guest": True, "reason": "guest-shutdown"}


# Powerdown


@pytest.mark.parametrize("state", ["running", "suspended", "suspended and stopped", "prelaunch"])
def test_powerdown_is_told_and_the_button_pressed_in_every_state(state: str) -> None:
    rig = Rig(start=state != "prelaunch")
    if state.startswith("suspended"):
        rig.suspend()
    if state.endswith("stopped"):
        rig.m.stop()
        rig.served()
    before = rig.m.state
    rig.m.system_powerdown()
    assert rig.served() == ["POWERDOWN", "button"]
    assert rig.state() is before


# The order of serving


def test_requests_are_served_in_the_fixed_order() -> None:
    rig = Rig(actions=Actions(shutdown=ShutdownAction.PAUSE))
    rig.m.request_stop(S.IO_ERROR)
    rig.m.request_powerdown()
    rig.m.request_reset(ShutdownCause.GUEST_RESET)
    rig.m.request_suspend()
    assert rig.events() == ["SUSPEND", "RESET", "POWERDOWN"]
    assert rig.state() is S.PRELAUNCH


def test_debug_comes_before_everything() -> None:
    rig = Rig()
    rig.m.request_powerdown()
    rig.m.request_suspend()
    rig.m.request_debug()
    assert rig.events() == ["STOP", "POWERDOWN"]
    assert rig.state() is S.DEBUG
    rig.m.cont()
    assert rig.events() == ["RESUME", "SUSPEND"]


def test_a_stop_comes_after_a_wakeup() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.request_stop(S.PAUSED)
    rig.m.system_wakeup()
    assert rig.events() == ["WAKEUP", "STOP"]
    assert rig.state() is S.PAUSED and not rig.m.was_suspended


def test_each_request_is_served_once() -> None:
    rig = Rig()
    for _ in range(3):
        rig.m.system_powerdown()
    assert rig.events() == ["POWERDOWN"]
    assert not rig.m.pending
    rig.m.serve()
    assert rig.events() == []


def test_the_later_cause_of_two_resets_counts() -> None:
    rig = Rig()
    rig.m.request_reset(ShutdownCause.GUEST_RESET)
    rig.m.system_reset()
    assert rig.events() == ["RESET"]
    assert rig.data["RESET"] == {"guest": False, "reason": "host-qmp-system-reset"}


def test_a_request_made_while_serving_waits_for_the_next_boundary() -> None:
    rig = Rig()
    rig.bus.subscribe(lambda event: rig.m.request_suspend() if event.name == "RESET" else None)
    rig.m.system_reset()
    rig.m.serve()
    assert [name for name in rig.trace if name.isupper()] == ["RESET"]


# Listeners


def test_listeners_start_lowest_first_and_stop_highest_first() -> None:
    rig = Rig(start=False)
    heard: list[tuple[str, bool]] = []

    def add(name: str, priority: int) -> None:
        rig.m.add_listener(lambda live, state: heard.append((name, live)), priority)

    for name, priority in (("b1", 5), ("a", -1), ("c", 9), ("b2", 5)):
        add(name, priority)
    rig.m.vm_start()
    assert heard == [("a", True), ("b1", True), ("b2", True), ("c", True)]
    heard.clear()
    rig.m.stop()
    assert heard == [("c", False), ("b2", False), ("b1", False), ("a", False)]


def test_a_listener_can_be_taken_off() -> None:
    rig = Rig()
    remove = rig.m.add_listener(lambda live, state: rig.trace.append("extra"), 7)
    remove()
    remove()
    rig.m.stop()
    assert "extra" not in rig.trace and "listener False paused" in rig.trace


def test_suspending_and_waking_tell_no_change_of_live() -> None:
    rig = Rig()
    rig.m.request_suspend()
    rig.served()
    rig.m.system_wakeup()
    assert not [line for line in rig.served() if line.startswith("listener")]


# Panic


@pytest.mark.parametrize(
    ("panic", "shutdown", "action", "told", "state", "code"), [
        ("none", "poweroff", "run", [], S.RUNNING, None),
        ("none", "pause", "run", [], S.RUNNING, None),
        ("pause", "poweroff", "pause", ["STOP"], S.GUEST_PANICKED, None),
        ("pause", "pause", "pause", ["STOP"], S.GUEST_PANICKED, None),
        ("shutdown", "poweroff", "poweroff", ["SHUTDOWN"], S.SHUTDOWN, 0),
        ("shutdown", "pause", "pause", ["STOP"], S.GUEST_PANICKED, None),
        ("exit-failure", "poweroff", "poweroff", ["SHUTDOWN"], S.SHUTDOWN, 1),
        ("exit-failure", "pause", "poweroff", ["SHUTDOWN", "STOP"], S.SHUTDOWN, None),
    ])
def test_a_panic_follows_the_panic_action(
        panic: str, shutdown: str, action: str, told: list[str], state: RunState,
        code: int | None) -> None:
    rig = Rig(actions=Actions(panic=PanicAction(panic), shutdown=ShutdownAction(shutdown)))
    rig.m.guest_panicked()
    assert rig.trace == ["GUEST_PANICKED"]
    assert rig.events() == ["GUEST_PANICKED", *told]
    assert rig.data["GUEST_PANICKED"] == {"action": action}
    assert rig.state() is state and rig.m.exit_code == code
    if "SHUTDOWN" in told:
        assert rig.data["SHUTDOWN"] == {"guest": True, "reason": "guest-panic"}


def test_a_panic_that_powers_off_requests_a_stop_as_well() -> None:
    rig = Rig()
    rig.m.guest_panicked()
    rig.m.cont()
    assert rig.events() == ["GUEST_PANICKED", "STOP", "RESUME", "SHUTDOWN"]


def test_only_a_panic_exits_with_failure() -> None:
    rig = Rig(actions=Actions(panic=PanicAction.EXIT_FAILURE))
    rig.m.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)
    rig.served()
    assert rig.m.exit_code == 0


def test_a_hyper_v_panic_carries_and_logs_its_parameters(
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(actions=Actions(panic=PanicAction.NONE))
    rig.m.guest_panicked(HyperVPanicInformation(0x1E, 0, (1 << 64) - 1, 4, 5))
    assert rig.data["GUEST_PANICKED"] == {
        "action": "run",
        "info": {"type": "hyper-v", "arg1": 0x1E, "arg2": 0, "arg3": (1 << 64) - 1,
                 "arg4": 4, "arg5": 5}}
    assert [record.getMessage() for record in caplog.records] == [
        "Guest crashed",
        "\nHV crash parameters: (0x1e 0 0xffffffffffffffff 0x4 0x5)\n"]


def test_a_loaded_crash_kernel_is_told_whatever_the_action(
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(actions=Actions(panic=PanicAction.PAUSE))
    rig.m.guest_crash_loaded()
    assert rig.events() == ["GUEST_CRASHLOADED"]
    assert rig.data["GUEST_CRASHLOADED"] == {"action": "run"}
    assert rig.m.running
    assert [record.getMessage() for record in caplog.records] == ["Guest crash loaded"]


def test_pvshutdown_is_told_and_shuts_down() -> None:
    rig = Rig()
    rig.m.guest_pvshutdown()
    assert rig.events() == ["GUEST_PVSHUTDOWN", "SHUTDOWN"]
    assert rig.data["SHUTDOWN"] == {"guest": True, "reason": "guest-shutdown"}


def test_a_panic_poked_in_s3_pauses_and_the_suspend_is_remembered(
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(actions=Actions(panic=PanicAction.PAUSE))
    rig.suspend()
    rig.m.guest_panicked()
    assert rig.events() == ["GUEST_PANICKED", "STOP"]
    assert rig.state() is S.PAUSED and rig.m.was_suspended
    assert "'suspended' -> 'guest-panicked'" in caplog.text
    rig.m.cont()
    assert rig.state() is S.SUSPENDED


def test_a_panic_while_stopped_changes_no_state() -> None:
    rig = Rig(actions=Actions(panic=PanicAction.PAUSE))
    rig.m.stop()
    rig.m.guest_panicked()
    assert rig.events() == ["STOP", "GUEST_PANICKED"] and rig.state() is S.PAUSED


# Watchdog


@pytest.mark.parametrize(
    ("action", "told", "state", "code"), [
        ("reset", ["RESET"], S.RUNNING, None),
        ("shutdown", ["POWERDOWN"], S.RUNNING, None),
        ("poweroff", [], S.SHUTDOWN, 0),
        ("pause", ["STOP"], S.WATCHDOG, None),
        ("debug", [], S.RUNNING, None),
        ("none", [], S.RUNNING, None),
        ("inject-nmi", [], S.RUNNING, None),
    ])
def test_a_watchdog_follows_the_watchdog_action(
        action: str, told: list[str], state: RunState, code: int | None,
        caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(actions=Actions(watchdog=WatchdogAction(action)))
    rig.m.watchdog_expired()
    assert ("nmi" in rig.trace) == (action == "inject-nmi")
    assert ("watchdog: timer fired" in caplog.text) == (action == "debug")
    assert rig.events() == ["WATCHDOG", *told]
    assert rig.data["WATCHDOG"] == {"action": action}
    assert rig.state() is state and rig.m.exit_code == code
    if action == "reset":
        assert rig.data["RESET"] == {"guest": True, "reason": "guest-reset"}


# Incoming migration and snapshots


def test_stop_and_cont_while_inmigrate_only_say_what_happens_when_it_ends() -> None:
    rig = Rig(state=S.INMIGRATE, start=False)
    rig.m.stop()
    assert rig.m.autostart is False
    rig.m.cont()
    assert rig.m.autostart is True
    assert rig.served() == [] and rig.state() is S.INMIGRATE


@pytest.mark.parametrize(
    ("source", "was_suspended", "autostart", "state", "told", "after_cont"), [
        (S.RUNNING, False, True, S.RUNNING, ["RESUME"], S.RUNNING),
        (S.RUNNING, False, False, S.PAUSED, [], S.RUNNING),
        (S.SUSPENDED, False, True, S.SUSPENDED, ["RESUME"], S.SUSPENDED),
        (S.SUSPENDED, False, False, S.PAUSED, [], S.SUSPENDED),
        (S.PAUSED, True, True, S.PAUSED, [], S.SUSPENDED),
        (S.PAUSED, False, True, S.PAUSED, [], S.RUNNING),
    ])
def test_an_incoming_machine_is_what_it_was_at_the_source(
        source: RunState, was_suspended: bool, autostart: bool, state: RunState,
        told: list[str], after_cont: RunState) -> None:
    rig = Rig(state=S.INMIGRATE, start=False, autostart=autostart)
    rig.m.finish_incoming(source, was_suspended)
    assert rig.events() == told
    assert rig.state() is state
    rig.m.cont()
    assert rig.state() is after_cont


def test_a_source_that_was_suspended_can_be_continued_after_the_migration() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.vm_stop_force_state(S.FINISH_MIGRATE)
    rig.m.set_state(S.POSTMIGRATE)
    assert rig.events() == ["STOP"] and rig.m.was_suspended
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.state() is S.SUSPENDED
    rig.m.system_wakeup()
    assert rig.events() == ["WAKEUP"]


def save(rig: Rig) -> tuple[RunState, bool]:
    """What `savevm` does with the run state."""
    saved = rig.m.state, rig.m.was_suspended
    rig.m.vm_stop(S.SAVE_VM)
    rig.m.vm_resume(saved[0])
    return saved


def load(rig: Rig, saved: tuple[RunState, bool]) -> None:
    """What `loadvm` does with the run state."""
    before = rig.m.state
    rig.m.vm_stop(S.RESTORE_VM)
    rig.m.restore(*saved)
    rig.m.resume_after_load(before)


def test_saving_a_suspended_machine_leaves_it_suspended() -> None:
    rig = Rig()
    rig.suspend()
    assert save(rig) == (S.SUSPENDED, False)
    assert rig.events() == ["STOP", "RESUME"] and rig.state() is S.SUSPENDED


def test_saving_a_machine_stopped_in_s3_is_silent_and_keeps_the_memory() -> None:
    rig = Rig()
    rig.suspend()
    rig.m.stop()
    rig.served()
    assert save(rig) == (S.PAUSED, True)
    assert rig.served() == [] and rig.m.was_suspended


@pytest.mark.parametrize("saved", [(S.SUSPENDED, False), (S.PAUSED, True)])
def test_a_suspended_snapshot_loaded_into_a_running_machine_is_woken(
        saved: tuple[RunState, bool]) -> None:
    rig = Rig()
    load(rig, saved)
    assert rig.events() == ["STOP", "RESUME", "WAKEUP"] and rig.m.running


def test_a_suspended_snapshot_loaded_into_a_paused_machine_waits_for_cont() -> None:
    rig = Rig()
    rig.m.stop()
    rig.served()
    load(rig, (S.SUSPENDED, False))
    assert rig.served() == [] and rig.state() is S.PAUSED
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.state() is S.SUSPENDED


def test_a_suspended_snapshot_loaded_into_a_suspended_machine_stays_suspended() -> None:
    rig = Rig()
    rig.suspend()
    load(rig, (S.SUSPENDED, False))
    assert rig.events() == ["STOP", "RESUME"] and rig.state() is S.SUSPENDED


def test_a_running_snapshot_loaded_into_a_suspended_machine_runs() -> None:
    rig = Rig()
    rig.suspend()
    load(rig, (S.RUNNING, False))
    assert rig.events() == ["STOP", "RESUME"] and rig.m.running


def test_loadvm_at_launch_without_dash_s_wakes_and_with_it_waits() -> None:
    rig = Rig(start=False)
    rig.m.restore(S.SUSPENDED, False)
    rig.m.resume_after_load(S.RUNNING)
    assert rig.events() == ["RESUME", "WAKEUP"] and rig.m.running
    rig = Rig(start=False)
    load(rig, (S.SUSPENDED, False))
    assert rig.served() == [] and rig.state() is S.PRELAUNCH
    rig.m.cont()
    assert rig.state() is S.SUSPENDED


@pytest.mark.parametrize("state", [S.WATCHDOG, S.GUEST_PANICKED, S.IO_ERROR])
def test_a_suspended_snapshot_loaded_after_a_panic_can_be_continued(state: RunState) -> None:
    rig = Rig(state=state, start=False)
    load(rig, (S.SUSPENDED, False))
    assert rig.state() is S.PRELAUNCH
    rig.m.cont()
    assert rig.events() == ["RESUME"] and rig.state() is S.SUSPENDED
    rig = Rig(state=state, start=False)
    load(rig, (S.RUNNING, False))
    assert rig.served() == [] and rig.state() is state


def test_loading_forgets_what_the_old_guest_had_asked_for() -> None:
    rig = Rig()
    rig.m.request_suspend()
    load(rig, (S.RUNNING, False))
    assert rig.events() == ["STOP", "RESUME"] and rig.m.running


def test_a_live_machine_takes_no_saved_state() -> None:
    with pytest.raises(ValueError):
        Rig().m.restore(S.RUNNING, False)


# Failures of those who are told


def test_a_failing_subscriber_comes_out_after_the_change_is_whole() -> None:
    rig = Rig(start=False)
    bad = RuntimeError("subscriber")

    def fail(event: Event) -> None:
        raise bad

    rig.bus.subscribe(fail)
    with pytest.raises(ExceptionGroup) as caught:
        rig.m.cont()
    assert caught.group_contains(RuntimeError, match="subscriber")
    assert rig.m.running
    assert rig.trace == ["RESUME", "thaw", "listener True running", "resume cpu"]


def test_a_failing_listener_stops_neither_the_others_nor_the_stop() -> None:
    rig = Rig()

    def fail(live: bool, state: RunState) -> None:
        raise ZeroDivisionError

    rig.m.add_listener(fail, 100)
    with pytest.raises(ExceptionGroup) as caught:
        rig.m.stop()
    assert caught.group_contains(ZeroDivisionError)
    assert rig.trace[-2:] == ["listener False paused", "STOP"]
    assert rig.state() is S.PAUSED
    # Raised once, and not again.
    rig.m.stop()


def test_a_failure_and_a_failing_effect_both_come_out() -> None:
    rig = Rig()
    rig.bus.subscribe(lambda event: rig.m.set_state(S.RUNNING))

    def broken() -> None:
        raise OSError("button")

    rig.m._effects = rig.m._effects._replace(power_button=broken)
    rig.m.system_powerdown()
    with pytest.raises(ExceptionGroup) as caught:
        rig.m.serve()
    assert caught.group_contains(OSError, match="button")
    assert caught.group_contains(ValueError)
