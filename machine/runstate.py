"""The life of the machine: its run states, and who may move it from one to the next.

The behaviour is that of QEMU 10's run-state module, stated in the interface
documents `qapi/run-state.json`, `qapi/machine.json` and `qapi/misc.json` of the QEMU
reference, and in the sleeping-state model of the ACPI specification (6.5, chapters
4.8.3 and 16).  In short:

- `RunState` names the sixteen states, `TRANSITIONS` every legal pair.  *Live* are
  running and suspended: the virtual clock ticks and a stop has something to do.
- A stop remembers whether the guest was suspended (`was_suspended`), and a start
  goes back there: a guest in S3 that is stopped and continued is in S3 still.
- What devices and commands ask for is latched and served between slices of guest
  time, always in this order::

      debug -> suspend -> shutdown -> reset -> wakeup -> powerdown -> stop

- Everything that happens is told on the `EventBus`, before the command that caused
  it is answered.

`RunStateManager` does it all through the callables in `Effects`, so it knows no
processor, no device and no clock, and reads no time.  One thread owns it.

Who drives it keeps to three rules: begin with the clock frozen and the CPU paused
(that is what prelaunch and inmigrate are); call `serve` while `pending`, at each
boundary of guest time and *before* a monitor's command runs there; end when
`exit_code` is not None.

Where this module leaves QEMU 10.0.2, on purpose:

- A reset while suspended freezes the clock and tells the listeners that the machine
  stopped (QEMU leaves both as they were, in prelaunch, until the next stop).
- A suspend request that comes while the machine is stopped waits for the start, then is
  served (QEMU enters suspended with its clock frozen, and forgets the stop).  A
  reset, or loading a snapshot, drops it.
- A stop request for a state that suspended may not go to, such as a panic
  poked from the monitor during S3, pauses the machine (QEMU aborts).
- postmigrate -> suspended is legal (QEMU aborts).
- A suspended snapshot loaded into a machine that stopped for a panic, a watchdog or an I/O
  error leaves it in prelaunch, where `cont` leads to suspended (QEMU aborts at `cont`).
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import enum
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from machine import events
from machine.events import EventBus

__all__ = [
    "LIVE",
    "TRANSITIONS",
    "Actions",
    "Effects",
    "GuestPanicAction",
    "HyperVPanicInformation",
    "InvalidTransition",
    "MachineError",
    "MachineLeft",
    "PanicAction",
    "RebootAction",
    "RunState",
    "RunStateManager",
    "ShutdownAction",
    "ShutdownCause",
    "Status",
    "WakeupReason",
    "WatchdogAction",
]

#: What the guest did wrong; `-d guest_errors` shows it.
_guest_log = logging.getLogger("snooze.guest")
_log = logging.getLogger("snooze.machine")


class RunState(enum.StrEnum):
    """QMP's `RunState`; the values are interface."""

    DEBUG = "debug"
    INMIGRATE = "inmigrate"
    INTERNAL_ERROR = "internal-error"
    IO_ERROR = "io-error"
    PAUSED = "paused"
    POSTMIGRATE = "postmigrate"
    PRELAUNCH = "prelaunch"
    FINISH_MIGRATE = "finish-migrate"
    RESTORE_VM = "restore-vm"
    RUNNING = "running"
    SAVE_VM = "save-vm"
    SHUTDOWN = "shutdown"
    SUSPENDED = "suspended"
    WATCHDOG = "watchdog"
    GUEST_PANICKED = "guest-panicked"
    COLO = "colo"


#: The states in which the virtual clock ticks.
LIVE = frozenset({RunState.RUNNING, RunState.SUSPENDED})


def _states(names: str) -> frozenset[RunState]:
    return frozenset(RunState(name) for name in names.split())


#: From each state, the states it may be followed by.  Any other pair is our mistake.
#: shutdown -> running, which only a replay may do, is not among them: replay asks
#: `RunStateManager` for it by name (`replaying`).
TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.PRELAUNCH: _states("running suspended inmigrate finish-migrate"),
    RunState.INMIGRATE: _states(
        "running suspended paused shutdown watchdog guest-panicked internal-error io-error "
        "finish-migrate prelaunch postmigrate colo"),
    RunState.RUNNING: _states(
        "debug internal-error io-error paused finish-migrate restore-vm save-vm shutdown "
        "watchdog guest-panicked suspended colo"),
    RunState.SUSPENDED: _states(
        "running paused finish-migrate prelaunch save-vm restore-vm shutdown colo"),
    RunState.PAUSED: _states("running suspended finish-migrate postmigrate prelaunch colo"),
    RunState.DEBUG: _states("running suspended finish-migrate prelaunch"),
    RunState.INTERNAL_ERROR: _states("paused finish-migrate prelaunch"),
    RunState.IO_ERROR: _states("running finish-migrate prelaunch"),
    RunState.POSTMIGRATE: _states("running suspended finish-migrate prelaunch"),
    RunState.FINISH_MIGRATE: _states(
        "running suspended paused postmigrate prelaunch colo internal-error io-error shutdown "
        "watchdog guest-panicked"),
    RunState.RESTORE_VM: _states("running suspended prelaunch"),
    RunState.SAVE_VM: _states("running suspended"),
    RunState.SHUTDOWN: _states("paused finish-migrate prelaunch colo"),
    RunState.WATCHDOG: _states("running finish-migrate prelaunch colo"),
    RunState.GUEST_PANICKED: _states("running finish-migrate prelaunch"),
    RunState.COLO: _states("running prelaunch shutdown"),
}

#: States that a reset leaves alone; from every other it leads to prelaunch.
_KEPT_BY_RESET = frozenset({RunState.RUNNING, RunState.INMIGRATE, RunState.FINISH_MIGRATE})
#: States that only a reset leads out of.
_NEEDS_RESET = frozenset({RunState.INTERNAL_ERROR, RunState.SHUTDOWN})


class ShutdownCause(enum.IntEnum):
    """Why a machine is shut down or reset: QMP's `ShutdownCause`, in its order."""

    NONE = 0
    HOST_ERROR = 1
    HOST_QMP_QUIT = 2
    HOST_QMP_SYSTEM_RESET = 3
    HOST_SIGNAL = 4
    HOST_UI = 5
    GUEST_SHUTDOWN = 6
    GUEST_RESET = 7
    GUEST_PANIC = 8
    SUBSYSTEM_RESET = 9
    SNAPSHOT_LOAD = 10

    @property
    def spelling(self) -> str:
        """The name that QMP gives it, such as "guest-reset"."""
        return self.name.lower().replace("_", "-")

    @property
    def caused_by_guest(self) -> bool:
        """Whether the guest did it: the events' `guest` member."""
        return ShutdownCause.GUEST_SHUTDOWN <= self <= ShutdownCause.GUEST_PANIC


#: Resets of these causes are nobody's business: no RESET event.
_QUIET_RESETS = frozenset(
    {ShutdownCause.NONE, ShutdownCause.SUBSYSTEM_RESET, ShutdownCause.SNAPSHOT_LOAD})


class RebootAction(enum.StrEnum):
    """What a reset request does (`-action reboot=`; shutdown is `-no-reboot`)."""

    RESET = "reset"
    SHUTDOWN = "shutdown"


class ShutdownAction(enum.StrEnum):
    """What a shutdown request does (`-action shutdown=`; pause is `-no-shutdown`)."""

    POWEROFF = "poweroff"
    PAUSE = "pause"


class PanicAction(enum.StrEnum):
    """What a guest's panic does (`-action panic=`)."""

    PAUSE = "pause"
    SHUTDOWN = "shutdown"
    EXIT_FAILURE = "exit-failure"
    NONE = "none"


class WatchdogAction(enum.StrEnum):
    """What an expired watchdog does (`-action watchdog=`)."""

    RESET = "reset"
    SHUTDOWN = "shutdown"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    DEBUG = "debug"
    NONE = "none"
    INJECT_NMI = "inject-nmi"


class GuestPanicAction(enum.StrEnum):
    """What was done about a panic: the `action` of GUEST_PANICKED and GUEST_CRASHLOADED."""

    PAUSE = "pause"
    POWEROFF = "poweroff"
    RUN = "run"


class WakeupReason(enum.StrEnum):
    """What ends S3.  *other* (monitor, key press) always may; the rest the guest enables."""

    OTHER = "other"
    RTC = "rtc"
    PM_TIMER = "pm-timer"


class Status(NamedTuple):
    """QMP's `StatusInfo`.  *singlestep*: one guest instruction per translation block."""

    state: RunState
    running: bool
    singlestep: bool


@dataclasses.dataclass
class Actions:
    """What to do about what the guest does; `set-action` changes it at any time."""

    reboot: RebootAction = RebootAction.RESET
    shutdown: ShutdownAction = ShutdownAction.POWEROFF
    panic: PanicAction = PanicAction.SHUTDOWN
    watchdog: WatchdogAction = WatchdogAction.RESET


class HyperVPanicInformation(NamedTuple):
    """The five crash parameters of a Hyper-V enlightened guest (MSRs 0x40000100-104), uint64."""

    arg1: int
    arg2: int
    arg3: int
    arg4: int
    arg5: int

    def qapi(self) -> dict[str, Any]:
        """As QMP's `GuestPanicInformation`."""
        return {"type": "hyper-v", **self._asdict()}


class MachineError(Exception):
    """A command that the machine refuses; *desc* is the one line for who gave it."""

    def __init__(self, desc: str) -> None:
        super().__init__(desc)
        self.desc = desc


class MachineLeft(MachineError):
    """The machine has left, so nobody carries out a command any more."""

    def __init__(self) -> None:
        super().__init__("the machine has left")


class InvalidTransition(Exception):
    """A change of state that `TRANSITIONS` does not list.  Nothing was changed."""

    def __init__(self, old: RunState, new: RunState) -> None:
        super().__init__(f"invalid runstate transition: '{old.value}' -> '{new.value}'")
        self.old = old
        self.new = new


class Effects(NamedTuple):
    """What the manager does to the rest of the machine.

    `freeze`/`thaw` are called when live begins and ends, `pause_cpu` and `resume_cpu` when
    running does; each must bear being called again.  While the CPU is paused no
    timer of the virtual clock may fire, even though in S3 the clock ticks.
    """

    #: Stop, and start again, the virtual clock with all that reads it: PM timer, TSC, timers.
    freeze: Callable[[], None]
    thaw: Callable[[], None]
    #: Keep the CPU, and the timers of the virtual clock, from running; let them run.
    pause_cpu: Callable[[], None]
    resume_cpu: Callable[[], None]
    #: Reset every device and the CPU.
    reset_devices: Callable[[], None]
    #: The same the S3 way: RAM, and what the chipset keeps over S3, survive; the chipset
    #: shows the reason (WAK_STS and the reason's own bit).
    wake_devices: Callable[[WakeupReason], None]
    #: Has the guest let *reason* (rtc, pm-timer) wake it?  Not asked about other.
    wake_enabled: Callable[[WakeupReason], bool]
    #: Press the power button: PWRBTN_STS and SCI when PWRBTN_EN is set.
    power_button: Callable[[], None]
    #: Raise the CPU's NMI (watchdog=inject-nmi).
    inject_nmi: Callable[[], None]
    #: The machine ends with this exit code; `RunStateManager.exit_code` is set already.
    leave: Callable[[int], None]


#: Told (live now?, the state just entered).
StateListener = Callable[[bool, RunState], None]


class RunStateManager:
    """The state machine.  See the module's head for what it promises and wants.

    *state* is where it begins: prelaunch, or inmigrate for `-incoming`.  *autostart*:
    whether it runs once an incoming migration ends (False with `-S`; `stop` and `cont`
    change it meanwhile).  *replaying* allows shutdown -> running.

    An exception out of an event's subscriber or a listener is kept until the change of state
    is whole, and comes out of the call that made it as an `ExceptionGroup`.
    """

    def __init__(
        self,
        *,
        effects: Effects,
        bus: EventBus,
        actions: Actions | None = None,
        state: RunState = RunState.PRELAUNCH,
        autostart: bool = True,
        replaying: bool = False,
    ) -> None:
        if state in LIVE:
            raise ValueError(f"a machine does not begin {state.value}")
        self.actions = actions if actions is not None else Actions()
        self.autostart = autostart
        self.replaying = replaying
        #: The exit code once the machine has left, else None.
        self.exit_code: int | None = None
        self._effects = effects
        self._bus = bus
        self._state = state
        self._was_suspended = False

        self._debug_requested = False
        self._suspend_requested = False
        self._shutdown_requested: ShutdownCause | None = None
        self._reset_requested: ShutdownCause | None = None
        self._wakeup_requested: WakeupReason | None = None
        self._powerdown_requested = False
        self._stop_requested: RunState | None = None
        # A device's exit code outlives a shutdown that only paused: `quit` gives it.
        self._shutdown_exit_code = 0

        self._listeners: list[tuple[int, int, StateListener]] = []
        self._listeners_added = 0
        self._suspend_listeners: list[Callable[[], None]] = []
        self._wakeup_listeners: list[Callable[[WakeupReason], None]] = []
        self._depth = 0
        self._failures: list[Exception] = []

    # What is

    @property
    def state(self) -> RunState:
        return self._state

    @property
    def running(self) -> bool:
        return self._state is RunState.RUNNING

    @property
    def live(self) -> bool:
        """Whether the virtual clock ticks: running or suspended."""
        return self._state in LIVE

    @property
    def was_suspended(self) -> bool:
        """Whether a start leads to suspended.  Saved with the state; see `restore`."""
        return self._was_suspended

    @property
    def pending(self) -> bool:
        """Whether `serve` has something to do."""
        return self.exit_code is None and (
            self._debug_requested
            or (self._suspend_requested and self.live)
            or self._shutdown_requested is not None
            or self._reset_requested is not None
            or self._wakeup_requested is not None
            or self._powerdown_requested
            or self._stop_requested is not None)

    def status(self, singlestep: bool = False) -> Status:
        """What `query-status` answers."""
        return Status(state=self._state, running=self.running, singlestep=singlestep)

    # Who wants to know

    def add_listener(self, callback: StateListener, priority: int = 0) -> Callable[[], None]:
        """Call *callback* with each end and begin of live.

        A start is told to the lowest *priority* first, a stop to the highest: what was
        started last is stopped first.  Suspending and waking are no such change.
        Returns what takes the listener off again.
        """
        self._listeners_added += 1
        entry = (priority, self._listeners_added, callback)
        bisect.insort(self._listeners, entry, key=lambda each: each[:2])

        def remove() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return remove

    def add_suspend_listener(self, callback: Callable[[], None]) -> None:
        """Call *callback* when the guest is about to enter S3, its CPU paused already."""
        self._suspend_listeners.append(callback)

    def add_wakeup_listener(self, callback: Callable[[WakeupReason], None]) -> None:
        """Call *callback* with the reason after devices were woken, before the CPU runs."""
        self._wakeup_listeners.append(callback)

    # What devices and commands ask for: latched, served at the next boundary

    def request_debug(self) -> None:
        """A breakpoint was hit: stop(debug)."""
        self._debug_requested = True

    def request_suspend(self) -> None:
        """The guest set SLP_EN with S3's SLP_TYP.  In S3 already: nothing."""
        if self._state is not RunState.SUSPENDED:
            self._suspend_requested = True

    def suspend_disk(self) -> None:
        """The guest asks for S4: SUSPEND_DISK now, then a shutdown."""
        with self._whole():
            self._emit(events.SUSPEND_DISK)
            self.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)

    def request_shutdown(self, cause: ShutdownCause, exit_code: int | None = None) -> None:
        """Shut down, as the shutdown action says.  A device's *exit_code* wins over 0."""
        if exit_code is not None:
            self._shutdown_exit_code = exit_code
        self._shutdown_requested = cause

    def request_reset(self, cause: ShutdownCause) -> None:
        """Reset, or with reboot=shutdown shut down (a subsystem's reset stays one)."""
        if (self.actions.reboot == RebootAction.SHUTDOWN
                and cause is not ShutdownCause.SUBSYSTEM_RESET):
            self.request_shutdown(cause)
        else:
            self._reset_requested = cause

    def request_wakeup(self, reason: WakeupReason) -> None:
        """A device's wake event: nothing unless suspended now and the guest enabled *reason*."""
        if self._state is RunState.SUSPENDED and (
                reason == WakeupReason.OTHER or self._effects.wake_enabled(reason)):
            self._enter(RunState.RUNNING)
            self._wakeup_requested = reason

    def request_powerdown(self) -> None:
        """The power button, asked for by a monitor or a watchdog."""
        self._powerdown_requested = True

    def request_stop(self, state: RunState) -> None:
        """Stop into *state*, which a running machine must be able to enter."""
        if state in LIVE or state not in TRANSITIONS[RunState.RUNNING]:
            raise InvalidTransition(RunState.RUNNING, state)
        self._stop_requested = state

    def guest_panicked(self, info: HyperVPanicInformation | None = None) -> None:
        """The guest reports that it crashed; what follows is the panic action's."""
        self._log_guest("Guest crashed")
        panic, shutdown = self.actions.panic, self.actions.shutdown
        if panic == PanicAction.NONE:
            action = GuestPanicAction.RUN
        elif panic == PanicAction.PAUSE or (
                panic == PanicAction.SHUTDOWN and shutdown == ShutdownAction.PAUSE):
            action = GuestPanicAction.PAUSE
        else:
            action = GuestPanicAction.POWEROFF
        with self._whole():
            self._emit_panic(events.GUEST_PANICKED, action, info)
            if action is not GuestPanicAction.RUN:
                self.request_stop(RunState.GUEST_PANICKED)
            if action is GuestPanicAction.POWEROFF:
                self.request_shutdown(ShutdownCause.GUEST_PANIC)
        if info is not None:
            parameters = " ".join(
                f"{value:#x}" if value else "0" for value in info)
            self._log_guest(f"\nHV crash parameters: ({parameters})\n")

    def guest_crash_loaded(self, info: HyperVPanicInformation | None = None) -> None:
        """The guest crashed and its crash kernel will run: told, nothing else."""
        self._log_guest("Guest crash loaded")
        with self._whole():
            self._emit_panic(events.GUEST_CRASHLOADED, GuestPanicAction.RUN, info)

    def guest_pvshutdown(self) -> None:
        """The guest asks pvpanic for an orderly shutdown."""
        with self._whole():
            self._emit(events.GUEST_PVSHUTDOWN)
            self.request_shutdown(ShutdownCause.GUEST_SHUTDOWN)

    def watchdog_expired(self) -> None:
        """A watchdog was not fed: WATCHDOG, then the watchdog action."""
        action = self.actions.watchdog
        with self._whole():
            self._emit(events.WATCHDOG, {"action": action.value})
            if action == WatchdogAction.RESET:
                self.request_reset(ShutdownCause.GUEST_RESET)
            elif action == WatchdogAction.SHUTDOWN:
                self.request_powerdown()
            elif action == WatchdogAction.POWEROFF:
                # At once, and without a SHUTDOWN.
                self._leave(0)
            elif action == WatchdogAction.PAUSE:
                self.request_stop(RunState.WATCHDOG)
            elif action == WatchdogAction.DEBUG:
                _log.warning("watchdog: timer fired")
            elif action == WatchdogAction.INJECT_NMI:
                self._effects.inject_nmi()

    # The commands

    def stop(self) -> None:
        """`stop`: to paused; while inmigrate, do not start when the migration ends."""
        if self._state is RunState.INMIGRATE:
            self.autostart = False
        else:
            self.vm_stop(RunState.PAUSED)

    def cont(self) -> None:
        """`cont`: start; nothing while suspended; while inmigrate, start when it ends."""
        if self._state in _NEEDS_RESET:
            raise MachineError("Resetting the Virtual Machine is required")
        if self._state is RunState.SUSPENDED:
            return
        if self._state is RunState.FINISH_MIGRATE:
            raise MachineError("Migration is not finalized yet")
        if self._state is RunState.INMIGRATE:
            self.autostart = True
        else:
            self.vm_start()

    def system_wakeup(self) -> None:
        """`system_wakeup`: refused unless suspended now, so also while stopped after it."""
        if self._state is not RunState.SUSPENDED:
            raise MachineError("Unable to wake up: guest is not in suspended state")
        self.request_wakeup(WakeupReason.OTHER)

    def system_reset(self) -> None:
        """`system_reset`."""
        self.request_reset(ShutdownCause.HOST_QMP_SYSTEM_RESET)

    def system_powerdown(self) -> None:
        """`system_powerdown`."""
        self.request_powerdown()

    def quit(self, cause: ShutdownCause = ShutdownCause.HOST_QMP_QUIT) -> None:
        """`quit`, or a signal: shut down and leave, whatever the shutdown action was."""
        self.actions.shutdown = ShutdownAction.POWEROFF
        self.request_shutdown(cause)

    # Stop and start

    def vm_stop(self, state: RunState) -> None:
        """Stop into *state* when live, remembering a suspend; else nothing."""
        with self._whole():
            self._halt(state, announce=True)

    def vm_stop_force_state(self, state: RunState) -> None:
        """Stop into *state*, and enter it even when the machine was stopped before."""
        if self.live:
            self.vm_stop(state)
        else:
            self.set_state(state)

    def vm_start(self) -> None:
        """Start into running, or suspended when that is what was stopped.

        When live already: a pending stop is dropped and told as STOP and RESUME.
        """
        stop_pending = self._stop_requested is not None
        with self._whole():
            if self.live:
                self._stop_requested = None
                if stop_pending:
                    self._emit(events.STOP)
                    self._emit(events.RESUME)
                return
            target = RunState.SUSPENDED if self._was_suspended else RunState.RUNNING
            self._check(target)
            self._stop_requested = None
            self._emit(events.RESUME)
            self._effects.thaw()
            self._enter(target)
            self._tell_listeners(True)
            self._was_suspended = False
            # A guest that is still to be woken runs once it was.
            if target is RunState.RUNNING and self._wakeup_requested is None:
                self._effects.resume_cpu()

    def vm_resume(self, state: RunState) -> None:
        """Go back to *state* after a stop for some work: start when it was live."""
        if state in LIVE:
            self.vm_start()
        else:
            self.set_state(state)

    def set_state(self, state: RunState) -> None:
        """Go from one stopped state to another.  The same one: nothing."""
        if self.live or state in LIVE:
            raise ValueError(f"from {self._state.value} to {state.value} takes a stop or a start")
        self._enter(state)

    # Saved states

    def restore(self, state: RunState, was_suspended: bool) -> None:
        """Take over the memory of a saved machine (the machine itself stays stopped).

        *state* and *was_suspended* are those at the time it was saved.  What the guest had
        asked for before the load is forgotten.
        """
        if self.live:
            raise ValueError("a live machine takes no saved state")
        self._was_suspended = was_suspended or state is RunState.SUSPENDED
        self._suspend_requested = False
        self._wakeup_requested = None

    def resume_after_load(self, state: RunState) -> None:
        """After a snapshot was loaded into a machine that was in *state*.

        A machine that was running runs again: a guest that was saved suspended is woken.
        (For `-loadvm`, *state* is running, or prelaunch with `-S`.)
        """
        if (self._was_suspended and state not in LIVE | _NEEDS_RESET
                and RunState.SUSPENDED not in TRANSITIONS[state]):
            state = RunState.PRELAUNCH
        with self._whole():
            self.vm_resume(state)
            if state is RunState.RUNNING:
                self.request_wakeup(WakeupReason.OTHER)

    def finish_incoming(self, state: RunState, was_suspended: bool) -> None:
        """An incoming migration is complete; *state* and *was_suspended* are the source's.

        What was live there starts here, or is paused when `autostart` says so.
        """
        self.restore(state, was_suspended)
        if state not in LIVE:
            self.set_state(state)
        elif self.autostart:
            self.vm_start()
        else:
            self.set_state(RunState.PAUSED)

    # Serving

    def serve(self) -> None:
        """Serve what is latched, each once, in the fixed order.

        What serving one asks of an earlier one waits for the next call: see `pending`.
        """
        if not self.pending:
            return
        with self._whole():
            if self._debug_requested:
                self._debug_requested = False
                self._stop_on_request(RunState.DEBUG)
            if self._suspend_requested and self.live:
                self._suspend_requested = False
                # Not woken yet is suspended still.
                if self.running and self._wakeup_requested is None:
                    self._suspend()
            if self._shutdown_requested is not None:
                shutdown, self._shutdown_requested = self._shutdown_requested, None
                if self._shutdown(shutdown):
                    return
            if self._reset_requested is not None:
                reset, self._reset_requested = self._reset_requested, None
                self._reset(reset)
            if self._wakeup_requested is not None:
                reason, self._wakeup_requested = self._wakeup_requested, None
                self._wake(reason)
            if self._powerdown_requested:
                self._powerdown_requested = False
                self._emit(events.POWERDOWN)
                self._effects.power_button()
            if self._stop_requested is not None:
                state, self._stop_requested = self._stop_requested, None
                self._stop_on_request(state)

    def _stop_on_request(self, state: RunState) -> None:
        """Stop into *state*, or into paused where suspended may not be followed by it.

        A request is not ours to refuse: in S3 a monitor can poke a panic device.
        """
        if self._state is RunState.SUSPENDED and state not in TRANSITIONS[self._state]:
            _log.warning("%s, so paused", InvalidTransition(self._state, state))
            state = RunState.PAUSED
        self._halt(state, announce=True)

    def _suspend(self) -> None:
        self._effects.pause_cpu()
        self._tell(self._suspend_listeners)
        self._enter(RunState.SUSPENDED)
        self._emit(events.SUSPEND)

    def _shutdown(self, cause: ShutdownCause) -> bool:
        """Announce, then pause or leave; whether it left."""
        self._emit_cause(events.SHUTDOWN, cause)
        if self.actions.shutdown == ShutdownAction.PAUSE:
            self._halt(RunState.SHUTDOWN, announce=True)
            return False
        exit_code = self._shutdown_exit_code
        if exit_code == 0 and cause is ShutdownCause.GUEST_PANIC:
            exit_code = 1 if self.actions.panic == PanicAction.EXIT_FAILURE else 0
        self._leave(exit_code)
        return True

    def _reset(self, cause: ShutdownCause) -> None:
        target = self._state if self._state in _KEPT_BY_RESET else RunState.PRELAUNCH
        self._check(target)
        self._effects.reset_devices()
        if cause not in _QUIET_RESETS:
            self._emit_cause(events.RESET, cause)
        self._suspend_requested = False
        if self._state is RunState.SUSPENDED:
            # The end of live without a STOP: the RESET says it.
            self._halt(target, announce=False)
        else:
            self._enter(target)
        self._was_suspended = False

    def _wake(self, reason: WakeupReason) -> None:
        self._effects.wake_devices(reason)
        self._tell(self._wakeup_listeners, reason)
        if self.running:
            self._effects.resume_cpu()
        self._emit(events.WAKEUP)

    def _leave(self, exit_code: int) -> None:
        self._halt(RunState.SHUTDOWN, announce=False)
        self.exit_code = exit_code
        self._effects.leave(exit_code)

    def _halt(self, state: RunState, *, announce: bool) -> None:
        """The end of live, in the one order there is.  When not live: nothing."""
        if not self.live:
            return
        if state in LIVE:
            raise ValueError(f"{state.value} is no state to stop in")
        self._check(state)
        ran = self.running
        self._was_suspended = not ran
        self._enter(state)
        self._effects.freeze()
        if ran:
            self._effects.pause_cpu()
        self._tell_listeners(False)
        if announce:
            self._emit(events.STOP)

    def _check(self, state: RunState) -> None:
        if state is self._state or state in TRANSITIONS[self._state]:
            return
        if (self.replaying and self._state is RunState.SHUTDOWN
                and state is RunState.RUNNING):
            return
        raise InvalidTransition(self._state, state)

    def _enter(self, state: RunState) -> None:
        self._check(state)
        self._state = state

    # Telling

    def _tell_listeners(self, live: bool) -> None:
        callbacks = [callback for _, _, callback in self._listeners]
        self._tell(callbacks if live else callbacks[::-1], live, self._state)

    def _tell(self, callbacks: list[Any], *arguments: object) -> None:
        for callback in list(callbacks):
            try:
                callback(*arguments)
            except Exception as failure:
                self._failures.append(failure)

    def _emit(self, name: str, data: dict[str, Any] | None = None) -> None:
        try:
            self._bus.emit(name, data)
        except ExceptionGroup as group:
            self._failures.append(group)

    def _emit_cause(self, name: str, cause: ShutdownCause) -> None:
        self._emit(name, {"guest": cause.caused_by_guest, "reason": cause.spelling})

    def _emit_panic(self, name: str, action: GuestPanicAction,
                    info: HyperVPanicInformation | None) -> None:
        data: dict[str, Any] = {"action": action.value}
        if info is not None:
            data["info"] = info.qapi()
        self._emit(name, data)

    def _log_guest(self, text: str) -> None:
        # QEMU ends none of these with a newline of its own; a handler that wants
        # its log byte for byte adds none where the record says newline=False.
        _guest_log.warning("%s", text, extra={"newline": False})

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Let failures of subscribers and listeners out when the outermost call is done."""
        self._depth += 1
        try:
            yield
        except Exception as error:
            if self._depth == 1 and self._failures:
                raise self._group(error) from None
            raise
        finally:
            self._depth -= 1
        if self._depth == 0 and self._failures:
            raise self._group()

    def _group(self, *first: Exception) -> ExceptionGroup[Exception]:
        failures, self._failures = self._failures, []
        return ExceptionGroup(f"on the way to {self._state.value}", [*first, *failures])
