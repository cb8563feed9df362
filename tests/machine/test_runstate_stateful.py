"""Random monitor commands and guest requests, against a model that says it another way.

The model knows no table and no effects: a state's name, one flag, and a set of
wishes that are granted in one order at each boundary.  Each rule compares
the events; the invariants watch clock, CPU, transitions and pairs of events.
"""

from __future__ import annotations

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from machine.events import Event, EventBus
from machine.runstate import (
    TRANSITIONS,
    Actions,
    Effects,
    MachineError,
    PanicAction,
    RebootAction,
    RunState,
    RunStateManager,
    ShutdownAction,
    ShutdownCause,
    WakeupReason,
    WatchdogAction,
)

LIVE = ("running", "suspended")
#: What a machine in S3 may be stopped into; any other stop request pauses it.
STOPS_OF_S3 = ("paused", "finish-migrate", "save-vm", "restore-vm", "shutdown", "colo")
#: The order in which wishes are granted.
ORDER = ("debug", "suspend", "shutdown", "reset", "wakeup", "powerdown", "stop")


@dataclasses.dataclass
class Model:
    """The machine as its user sees it."""

    state: str = "prelaunch"
    in_s3: bool = False         # the guest is in S3, be the machine stopped or not
    wishes: dict[str, str] = dataclasses.field(default_factory=dict)
    told: list[str] = dataclasses.field(default_factory=list)
    left: bool = False
    reboot: str = "reset"
    shutdown: str = "poweroff"
    panic: str = "shutdown"
    watchdog: str = "reset"

    def stop(self, to: str) -> None:
        if self.state in LIVE:
            self.state = to if not self.in_s3 or to in STOPS_OF_S3 else "paused"
            self.told.append("STOP")

    def start(self) -> None:
        overtaken = self.wishes.pop("stop", None)
        if self.state == "running":
            self.told += ["STOP", "RESUME"] if overtaken else []
        else:
            self.state = "suspended" if self.in_s3 else "running"
            self.told.append("RESUME")

    def reset(self, cause: str) -> None:
        if self.reboot == "shutdown":
            self.wishes["shutdown"] = cause
        else:
            self.wishes["reset"] = cause

    def boundary(self) -> None:
        for wish in ORDER:
            if wish in self.wishes and not self.left:
                if wish == "suspend" and self.state not in LIVE:
                    continue
                getattr(self, "grant_" + wish)(self.wishes.pop(wish))

    def grant_debug(self, _: str) -> None:
        self.stop("debug")

    def grant_suspend(self, _: str) -> None:
        if not self.in_s3 and "wakeup" not in self.wishes:
            self.state, self.in_s3 = "suspended", True
            self.told.append("SUSPEND")

    def grant_shutdown(self, cause: str) -> None:
        self.told.append(f"SHUTDOWN {cause}")
        if self.shutdown == "pause":
            self.stop("shutdown")
        else:
            self.left = True

    def grant_reset(self, cause: str) -> None:
        self.told.append(f"RESET {cause}")
        self.in_s3 = False
        self.wishes.pop("suspend", None)
        if self.state != "running":
            self.state = "prelaunch"

    def grant_wakeup(self, _: str) -> None:
        self.told.append("WAKEUP")

    def grant_powerdown(self, _: str) -> None:
        self.told.append("POWERDOWN")

    def grant_stop(self, to: str) -> None:
        self.stop(to)

    def wake(self) -> None:
        self.state, self.in_s3 = "running", False
        self.wishes["wakeup"] = "yes"


class RunStates(RuleBasedStateMachine):
    """The manager, its model, and what must be true of both at any time."""

    @initialize()
    def power_on(self) -> None:
        self.model = Model()
        self.told: list[str] = []
        self.ticking = self.cpu = False
        self.rtc_enabled = False
        self.announced_live = False
        self.seen = RunState.PRELAUNCH
        self.live_told = False
        bus = EventBus(now_ns=lambda: 0)
        bus.subscribe(self.heard)
        self.m = RunStateManager(
            effects=Effects(
                freeze=lambda: self.clock(False), thaw=lambda: self.clock(True),
                pause_cpu=lambda: self.processor(False), resume_cpu=lambda: self.processor(True),
                reset_devices=self.look, wake_devices=lambda reason: self.look(),
                wake_enabled=lambda reason: self.rtc_enabled and reason == "rtc",
                power_button=self.look, inject_nmi=self.look, leave=lambda code: self.look()),
            bus=bus, actions=Actions())
        self.m.add_listener(self.changed)

    def look(self) -> None:
        """No invalid transition, however short the state between two."""
        new = self.m.state
        assert new is self.seen or new in TRANSITIONS[self.seen], (self.seen, new)
        self.seen = new

    def clock(self, ticking: bool) -> None:
        assert ticking != self.ticking
        self.ticking = ticking
        self.look()

    def processor(self, running: bool) -> None:
        self.cpu = running
        if running:
            assert self.ticking and self.m.running
        self.look()

    def changed(self, live: bool, state: RunState) -> None:
        assert live != self.live_told and state is self.m.state
        assert live == (state in LIVE) == self.ticking
        self.live_told = live
        self.look()

    def heard(self, event: Event) -> None:
        self.look()
        self.told.append(f"{event.name} {event.data['reason']}" if event.name in (
            "SHUTDOWN", "RESET") and event.data else event.name)
        if event.name == "RESUME":
            assert not self.announced_live, "RESUME of what was not stopped"
            self.announced_live = True
        elif event.name == "STOP":
            assert self.announced_live, "STOP of what was stopped"
            self.announced_live = False
        elif event.name == "RESET" and self.m.state is RunState.SUSPENDED:
            self.announced_live = False

    # Monitors

    @precondition(lambda self: not self.model.left)
    @rule()
    def stop(self) -> None:
        self.m.stop()
        self.model.stop("paused")

    @precondition(lambda self: not self.model.left)
    @rule()
    def cont(self) -> None:
        if self.model.state == "shutdown":
            self.refused(self.m.cont, "Resetting the Virtual Machine is required")
        else:
            self.m.cont()
            if self.model.state != "suspended":
                self.model.start()

    @precondition(lambda self: not self.model.left)
    @rule()
    def system_wakeup(self) -> None:
        if self.model.state == "suspended":
            self.m.system_wakeup()
            self.model.wake()
        else:
            self.refused(self.m.system_wakeup,
                         "Unable to wake up: guest is not in suspended state")

    def refused(self, command: object, desc: str) -> None:
        assert callable(command)
        before = self.m.state
        try:
            command()
        except MachineError as error:
            assert error.desc == desc
            assert self.m.state is before
        else:
            raise AssertionError(f"not refused: {desc}")

    @precondition(lambda self: not self.model.left)
    @rule()
    def system_reset(self) -> None:
        self.m.system_reset()
        self.model.reset("host-qmp-system-reset")

    @precondition(lambda self: not self.model.left)
    @rule()
    def system_powerdown(self) -> None:
        self.m.system_powerdown()
        self.model.wishes["powerdown"] = "yes"

    @precondition(lambda self: not self.model.left)
    @rule()
    def quit(self) -> None:
        self.m.quit()
        self.model.shutdown = "poweroff"
        self.model.wishes["shutdown"] = "host-qmp-quit"

    @precondition(lambda self: not self.model.left)
    @rule(reboot=st.sampled_from(RebootAction), shutdown=st.sampled_from(ShutdownAction),
          panic=st.sampled_from(PanicAction), watchdog=st.sampled_from(WatchdogAction))
    def set_action(self, reboot: RebootAction, shutdown: ShutdownAction, panic: PanicAction,
                   watchdog: WatchdogAction) -> None:
        self.m.actions = Actions(reboot, shutdown, panic, watchdog)
        self.model.reboot, self.model.shutdown = reboot.value, shutdown.value
        self.model.panic, self.model.watchdog = panic.value, watchdog.value

    @precondition(lambda self: not self.model.left and not self.m.pending)
    @rule()
    def savevm(self) -> None:
        before = self.m.state
        self.m.vm_stop(RunState.SAVE_VM)
        self.m.vm_resume(before)
        if self.model.state in LIVE:
            self.model.told += ["STOP", "RESUME"]

    @precondition(lambda self: not self.model.left and not self.m.pending)
    @rule(state=st.sampled_from(["running", "suspended", "paused"]), in_s3=st.booleans())
    def loadvm(self, state: str, in_s3: bool) -> None:
        before = self.m.state
        self.m.vm_stop(RunState.RESTORE_VM)
        self.m.restore(RunState(state), in_s3)
        self.m.resume_after_load(before)
        self.model.in_s3 = in_s3 or state == "suspended"
        self.model.wishes.pop("suspend", None)
        if before.value in LIVE:
            self.model.told += ["STOP", "RESUME"]
            self.model.state = "suspended" if self.model.in_s3 else "running"
            if before is RunState.RUNNING and self.model.in_s3:
                self.model.wake()
        elif self.model.in_s3 and before.value in ("watchdog", "guest-panicked", "io-error"):
            self.model.state = "prelaunch"

    # The guest and its devices; a device can be poked while the machine is stopped as well

    @precondition(lambda self: not self.model.left)
    @rule()
    def guest_suspends(self) -> None:
        self.m.request_suspend()
        if self.model.state != "suspended":
            self.model.wishes["suspend"] = "yes"

    @precondition(lambda self: not self.model.left)
    @rule(cause=st.sampled_from([ShutdownCause.GUEST_SHUTDOWN, ShutdownCause.HOST_UI]))
    def shuts_down(self, cause: ShutdownCause) -> None:
        self.m.request_shutdown(cause)
        self.model.wishes["shutdown"] = cause.spelling

    @precondition(lambda self: not self.model.left)
    @rule()
    def guest_resets(self) -> None:
        self.m.request_reset(ShutdownCause.GUEST_RESET)
        self.model.reset("guest-reset")

    @precondition(lambda self: not self.model.left)
    @rule()
    def guest_panics(self) -> None:
        self.m.guest_panicked()
        self.model.told.append("GUEST_PANICKED")
        if self.model.panic != "none":
            self.model.wishes["stop"] = "guest-panicked"
        if self.model.panic == "exit-failure" or (
                self.model.panic == "shutdown" and self.model.shutdown == "poweroff"):
            self.model.wishes["shutdown"] = "guest-panic"

    @precondition(lambda self: not self.model.left)
    @rule()
    def watchdog_bites(self) -> None:
        self.m.watchdog_expired()
        self.model.told.append("WATCHDOG")
        if self.model.watchdog == "reset":
            self.model.reset("guest-reset")
        elif self.model.watchdog == "shutdown":
            self.model.wishes["powerdown"] = "yes"
        elif self.model.watchdog == "poweroff":
            self.model.left = True
        elif self.model.watchdog == "pause":
            self.model.wishes["stop"] = "watchdog"

    @precondition(lambda self: not self.model.left)
    @rule()
    def breakpoint_is_hit(self) -> None:
        self.m.request_debug()
        self.model.wishes["debug"] = "yes"

    @precondition(lambda self: not self.model.left)
    @rule()
    def disk_fails(self) -> None:
        self.m.request_stop(RunState.IO_ERROR)
        self.model.wishes["stop"] = "io-error"

    @precondition(lambda self: not self.model.left)
    @rule(reason=st.sampled_from(WakeupReason), enabled=st.booleans())
    def something_wakes(self, reason: WakeupReason, enabled: bool) -> None:
        self.rtc_enabled = enabled
        self.m.request_wakeup(reason)
        if self.model.state == "suspended" and (
                reason.value == "other" or reason.value == "rtc" and enabled):
            self.model.wake()

    # Time

    @precondition(lambda self: not self.model.left)
    @rule()
    def boundary(self) -> None:
        self.m.serve()
        self.model.boundary()

    @precondition(lambda self: self.model.left)
    @rule()
    def another_machine(self) -> None:
        self.m.serve()
        self.power_on()

    # What is always true

    @invariant()
    def the_model_agrees(self) -> None:
        assert self.told == self.model.told
        assert (self.m.exit_code is not None) == self.model.left
        if not self.model.left:
            assert self.m.state.value == self.model.state
            guest_in_s3 = self.m.was_suspended or self.m.state is RunState.SUSPENDED
            assert guest_in_s3 == self.model.in_s3
            assert self.m.pending == any(
                wish != "suspend" or self.model.state in LIVE for wish in self.model.wishes)

    @invariant()
    def no_transition_was_invalid(self) -> None:
        self.look()

    @invariant()
    def the_clock_ticks_when_live_and_only_then(self) -> None:
        assert self.ticking == self.m.live == self.live_told

    @invariant()
    def the_cpu_runs_when_running_and_woken_and_only_then(self) -> None:
        assert self.cpu == (self.m.running and "wakeup" not in self.model.wishes)

    @invariant()
    def who_only_hears_events_knows_whether_the_machine_is_stopped(self) -> None:
        if not self.model.left:
            assert self.announced_live == self.m.live

    @invariant()
    def nothing_is_pending_after_leaving(self) -> None:
        if self.model.left:
            assert not self.m.pending


RunStates.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True)
TestRunStates = RunStates.TestCase
