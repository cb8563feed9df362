"""`Machine`: a PC as a library.

    machine = Machine(bios=firmware.image(), icount_shift=2)
    machine.run_until("SUSPEND")
    machine.wakeup()
    machine.run_until("WAKEUP")

One thread owns a machine: the caller's, or the one that `start_thread` makes.
`run_until` and the thread run the same loop: serve what was posted and what was
latched, fire due timers, run the processor to the next deadline, see why it
stopped.  Other threads use `post` and nothing else.

Two clock modes.  Wall clock: virtual time is the host's monotonic time, less
the time the machine was stopped.  Deterministic (`icount_shift`): virtual time
is the number of executed blocks times a constant, plus jumps over idle time, so
two runs with the same input are equal to the last bit.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from emu.cpu import Stop, X86Cpu
from emu.engine import EngineError
from emu.models import ModelError, resolve
from machine.clock import NS_PER_SECOND, Clock
from machine.config import MachineConfig
from machine.events import Event, EventBus
from machine.log import Log, LogError, check_file, parse_filter
from machine.pc import ConfigError, PcBoard
from machine.ports import PortBus
from machine.runstate import (
    Actions,
    Effects,
    HyperVPanicInformation,
    MachineError,
    MachineLeft,
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

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["Machine"]

_log = logging.getLogger("snooze.machine")
_T = TypeVar("_T")

#: deterministic mode: virtual nanoseconds a block takes at `icount_shift` 0 (about four
#: instructions of 2**shift ns each)
BLOCK_NS = 4
#: deterministic mode: what the wall clock reads at power-on unless -rtc base says
DETERMINISTIC_EPOCH_NS = 1_767_225_600 * NS_PER_SECOND      # 2026-01-01T00:00:00Z
#: wall-clock mode: a slice is sized to last about this long, so that requests from other
#: threads and due timers never wait longer
SLICE_NS = 1_000_000
#: wall-clock mode: the shortest slice, in blocks.  It is longer than an interrupt handler with its
#: port accesses, so that a guest whose timer is always due still gets on with its work
SHORTEST_SLICE = 1000
#: deterministic mode: the longest slice, in blocks, when no timer is armed
LONGEST_SLICE = 1 << 20
#: an access to a port or to MMIO takes about half a microsecond here: deterministic mode counts
#: it for so much time (or polling a timer would take hours, and a guest that polls would see
#: time run away from its user's), wall-clock mode for so many blocks
IO_NS = 500
IO_WEIGHT = 100
#: how long a key is held down, in ms
DEFAULT_HOLD_MS = 100


class Machine:
    """A PC that can be put to sleep.

    *config* or the fields of `MachineConfig` by name.  Raises `ConfigError` for
    a configuration that cannot be built, `emu.engine.UnknownEngine` for a
    libunicorn that is not known to work.
    """

    def __init__(self, config: MachineConfig | None = None, **fields: Any) -> None:
        if config is None:
            config = MachineConfig(**fields)
        elif fields:
            raise TypeError("a MachineConfig or its fields, not both")
        if config.machine_type != "pc":
            raise ConfigError("unsupported machine type")
        self.config = config
        self._block_ns = 0
        if config.icount_shift is not None:
            self._block_ns = BLOCK_NS << config.icount_shift
        self._idle_ns = 0
        self._posted: collections.deque[tuple[Callable[[], Any], Future[Any]]] = collections.deque()
        self._attention = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._rate = 0.02                   # wall-clock mode: blocks per nanosecond, measured

        self.ports = PortBus()
        self.port_read = self.ports.read    # emu.cpu.Bus
        self.port_write = self.ports.write
        try:
            model = resolve(config.cpu)
        except ModelError as error:
            raise ConfigError(str(error)) from None
        self.cpu = X86Cpu(self, config.ram_mb << 20, model)
        self._tsc_offset = 0
        if self.deterministic:
            self.cpu.io_weight = -(-IO_NS // self._block_ns)
            self.clock = Clock(self._counted_ns, self._deadline_armed)
            #: the clock of the RTC: unlike the virtual clock its timers fire in S3
            self.rtc_clock = Clock(self._counted_ns, self._deadline_armed)
            event_time = self._deterministic_time_ns
        else:
            self.cpu.io_weight = IO_WEIGHT
            self.clock = Clock(time.monotonic_ns, self._deadline_armed)
            self.rtc_clock = self.clock if config.rtc_clock == "vm" else Clock(
                time.monotonic_ns, self._deadline_armed)
            event_time = time.time_ns
        self.events = EventBus(event_time)
        self._cpu_running = False
        self.runstate = RunStateManager(
            effects=Effects(
                freeze=self._freeze, thaw=self._thaw, pause_cpu=self._pause_cpu,
                resume_cpu=self._resume_cpu,
                reset_devices=lambda: self.board.reset(),
                wake_devices=lambda reason: self.board.wake(reason),
                wake_enabled=lambda reason: self.board.pm.wake_enabled(reason.value),
                power_button=lambda: self.board.pm.power_button(),
                inject_nmi=lambda: self.board.inject_nmi(), leave=self._leave),
            bus=self.events, actions=_actions(config))
        self.board = PcBoard(config, self.cpu, self.ports, self.clock, self.rtc_clock,
                             self._rtc_base_ns(config.rtc_base), self.runstate,
                             self.time_stamp, lambda tsc: tsc - self._tsc_offset)
        try:
            check_file(config.log_file, config.log_items)
            self.log = Log(self.cpu, path=config.log_file,
                           ranges=parse_filter(config.log_filter or ""),
                           counted=self.deterministic)
        except LogError as error:
            raise ConfigError(str(error)) from None
        self.board.before_reset = self.log.reset
        self._acknowledge = self.board.local_apic.acknowledge
        self.runstate.add_suspend_listener(self.board.suspended)
        self._freeze()
        self.cpu.one_insn_per_tb = config.one_insn_per_tb
        self.log.set_items(config.log_items)
        self.log.power_on()
        self.board.reset()
        if config.start:
            self.runstate.vm_start()

    # -- the public face
    @property
    def deterministic(self) -> bool:
        """Whether virtual time is counted from executed blocks."""
        return self._block_ns > 0

    @property
    def status(self) -> Status:
        """The run state, as `query-status` tells it."""
        return self.runstate.status(self.cpu.one_insn_per_tb)

    def stop(self) -> None:
        """`stop`: pause, remembering a suspend."""
        self.runstate.stop()
        self._serve_latched()

    def cont(self) -> None:
        """`cont`.  Raises `MachineError` where only a reset leads on."""
        self.runstate.cont()
        self._serve_latched()

    def wakeup(self) -> None:
        """`system_wakeup`.  Raises `MachineError` unless the guest is suspended now."""
        self.runstate.system_wakeup()
        self._serve_latched()

    def system_reset(self) -> None:
        """`system_reset`."""
        self.runstate.system_reset()
        self._serve_latched()

    def system_powerdown(self) -> None:
        """`system_powerdown`: press the power button."""
        self.runstate.system_powerdown()
        self._serve_latched()

    def inject_nmi(self) -> None:
        """`nmi`: an edge at the local APIC's LINT1; nothing, while firmware has that masked."""
        self.board.inject_nmi()

    def quit(self, cause: ShutdownCause = ShutdownCause.HOST_QMP_QUIT) -> None:
        """`quit`, or (with another *cause*) a signal: the machine leaves."""
        self.runstate.quit(cause)
        self._serve_latched()

    @property
    def one_insn_per_tb(self) -> bool:
        """Whether every instruction is its own unit (between slices only)."""
        return self.cpu.one_insn_per_tb

    @one_insn_per_tb.setter
    def one_insn_per_tb(self, on: bool) -> None:
        self.cpu.one_insn_per_tb = on
        self.log.set_items(self.log.items)          # its lines tell

    def send_keys(self, qcodes: list[str], hold_ms: int = DEFAULT_HOLD_MS) -> None:
        """Press the keys in order and release them *hold_ms* of virtual time later.

        A key wakes the guest from S3; while the machine is stopped it is lost.
        Raises `MachineError` for a name that is no QKeyCode.
        """
        for qcode in qcodes:
            if not self.board.keyboard.is_key(qcode):
                raise MachineError(f"invalid parameter: {qcode}")
        if not self.runstate.live:
            return
        self.runstate.request_wakeup(WakeupReason.OTHER)
        self._serve_latched()
        for qcode in qcodes:
            self.board.keyboard.key(qcode, True)

        def release() -> None:
            for qcode in reversed(qcodes):
                self.board.keyboard.key(qcode, False)

        self.clock.timer("key release", release).at(self.clock.now_ns() + hold_ms * 1_000_000)

    def serial_receive(self, index: int, data: bytes) -> int:
        """Hand *data* to serial port *index*; how many bytes it took."""
        return self.board.serials[index].receive(data)

    def serial_room(self, index: int) -> int:
        """How many bytes serial port *index* would take now."""
        return self.board.serials[index].can_receive()

    def on_serial_room(self, index: int, callback: Callable[[], None] | None) -> None:
        """Have *callback* called when serial port *index* has room for input again.

        That is in the middle of a register access of the guest: *callback* must not
        touch the machine, but it may `post`.
        """
        self.board.serials[index].on_can_receive = callback

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Hear every event, on the thread that owns the machine; returns the way out."""
        return self.events.subscribe(callback)

    def read_memory(self, address: int, length: int) -> bytes:
        """Guest-physical memory."""
        return self.cpu.memory.read(address, length)

    def write_memory(self, address: int, data: bytes) -> None:
        """Store to guest-physical memory."""
        self.cpu.memory.write(address, data)

    def fingerprint(self) -> bytes:
        """A digest of processor, RAM and virtual time: equal machines, equal bytes."""
        import hashlib

        digest = hashlib.blake2b(self.cpu.fingerprint(), digest_size=16)
        digest.update(self.clock.now_ns().to_bytes(16, "little"))
        digest.update(memoryview(self.cpu.memory.ram))
        return digest.digest()

    # -- running
    def run_until(self, target: str | Callable[[], bool], *, limit_ns: int | None = None) -> bool:
        """Run on this thread until *target*: an event's name, or a predicate.

        A predicate is asked between slices.  Gives False when the machine cannot
        go on (stopped, left, or idle for ever) or *limit_ns* of virtual time
        have passed; the machine is then where it was when that happened.
        """
        reached = False
        condition = target if callable(target) else None
        end = None if limit_ns is None else self.clock.now_ns() + limit_ns

        def heard(event: Event) -> None:
            nonlocal reached
            reached = reached or event.name == target

        unsubscribe = self.subscribe(heard) if condition is None else None
        try:
            while True:
                self._serve()
                if reached or condition is not None and condition():
                    return True
                if self.runstate.exit_code is not None:
                    return False
                if end is not None and self.clock.now_ns() >= end:
                    return False
                if not self._step(end, wait=False):
                    return False
        finally:
            if unsubscribe is not None:
                unsubscribe()

    def run_for(self, duration_ns: int) -> bool:
        """Run for that much virtual time; False when the machine stopped before."""
        end = self.clock.now_ns() + duration_ns
        return self.run_until(lambda: self.clock.now_ns() >= end, limit_ns=duration_ns)

    def start_thread(self) -> None:
        """Give the machine to a thread of its own, until it leaves."""
        from concurrent.futures import Future

        if self._thread is not None:
            raise RuntimeError("the machine has a thread already")
        self.exited: Future[int] = Future()
        self._thread = threading.Thread(target=self._thread_main, name="machine", daemon=True)
        self._thread.start()

    def post(self, function: Callable[[], _T]) -> Future[_T]:
        """From any thread: have *function* called by the machine's thread.

        It runs between two slices, what it latched is served, and then the
        future has its result.  After the machine has left the future fails with
        `MachineLeft`.
        """
        from concurrent.futures import Future

        future: Future[_T] = Future()
        self._posted.append((function, future))
        self._attention.set()
        self.cpu.kick()
        if self._closed:
            self._refuse_posted()
        return future

    def close(self) -> None:
        """Free the engine, end the log.  The machine cannot be used afterwards."""
        self.log.close()
        self.cpu.close()

    # -- the loop
    def _thread_main(self) -> None:
        try:
            while True:
                self._serve()
                if self.runstate.exit_code is not None:
                    break
                self._step(None, wait=True)
            result = self.runstate.exit_code
        except BaseException as error:      # noqa: BLE001 - it reaches whoever waits for the end
            self._closed = True
            self._refuse_posted()
            self.exited.set_exception(error)
            return
        self._closed = True
        self._refuse_posted()
        self.log.flush()
        self.exited.set_result(result)

    def _refuse_posted(self) -> None:
        while self._posted:
            _function, future = self._posted.popleft()
            if not future.done():
                future.set_exception(MachineLeft())

    def _serve(self) -> None:
        """Between slices: latched requests, then what other threads posted."""
        self._serve_latched()
        while self._posted and self.runstate.exit_code is None:
            function, future = self._posted.popleft()
            try:
                result = function()
                self._serve_latched()
            except BaseException as error:      # noqa: BLE001 - it is the poster's
                future.set_exception(error)
            else:
                future.set_result(result)

    def _serve_latched(self) -> None:
        """Serve requests until none is left: serving one may ask for another."""
        while self.runstate.pending:
            self.runstate.serve()

    def _step(self, end: int | None, *, wait: bool) -> bool:
        """One slice of guest time, or a wait for something to do.

        False when nothing can ever happen without somebody's help, unless
        *wait*: then the thread sleeps until it is helped.
        """
        if not self._cpu_running:
            return self._rest(wait)
        self.clock.fire_due()
        if self.rtc_clock is not self.clock:
            self.rtc_clock.fire_due()
        if self.runstate.pending:
            return True
        self.board.serve_init()
        deadline = self._deadline(end)
        if self.cpu.halted and not self.cpu.wakeable:
            if self.deterministic and end is None and not self.cpu.interrupts_enabled:
                deadline = None         # no timer can end this halt: do not race through time
            return self._idle(None if deadline is None else deadline - self.clock.now_ns(), wait)
        try:
            why = self.cpu.run(self._budget(deadline))
        except EngineError as error:
            _log.error("the processor cannot go on: %s", error)
            self.runstate.vm_stop(RunState.INTERNAL_ERROR)
            return True
        self.log.flush()
        if why is Stop.BUDGET:
            self._measure()
        elif why in (Stop.BREAKPOINT, Stop.WATCHPOINT):
            self.runstate.vm_stop(RunState.DEBUG)
        elif why is Stop.TRIPLE_FAULT:
            self.log.triple_fault()
            self.runstate.request_reset(ShutdownCause.GUEST_RESET)
        return True

    def _deadline(self, end: int | None) -> int | None:
        """The next virtual time at which something happens."""
        times = [t for t in (self.clock.next_deadline(), self._rtc_deadline(), end)
                 if t is not None]
        return min(times, default=None)

    def _rtc_deadline(self) -> int | None:
        """The RTC clock's next deadline on the virtual clock's scale."""
        if self.rtc_clock is self.clock:
            return None
        deadline = self.rtc_clock.next_deadline()
        if deadline is None:
            return None
        return deadline - self.rtc_clock.now_ns() + self.clock.now_ns()

    def _budget(self, deadline: int | None) -> int:
        """How many blocks to run before looking again."""
        if self.deterministic:
            if deadline is None:
                return LONGEST_SLICE
            left = deadline - self.clock.now_ns()
            return min(max(-(-left // self._block_ns), 1), LONGEST_SLICE)
        self._slice_began = time.monotonic_ns()
        left = SLICE_NS
        if deadline is not None:
            left = min(max(deadline - self.clock.now_ns(), 1000), SLICE_NS)
        self._slice_blocks = max(int(left * self._rate), SHORTEST_SLICE)
        return self._slice_blocks

    def _measure(self) -> None:
        """Wall-clock mode: learn from a whole slice how long blocks take."""
        if not self.deterministic:
            took = max(time.monotonic_ns() - self._slice_began, 1)
            rate = self._slice_blocks / took
            self._rate = min(max((self._rate * 3 + rate) / 4, 0.0005), 2.0)

    def _rest(self, wait: bool) -> bool:
        """The CPU does not run: stopped, or in S3, where only the RTC's alarm goes off."""
        deadline = None
        if self.runstate.state is RunState.SUSPENDED and self.rtc_clock is not self.clock:
            self.rtc_clock.fire_due()
            if self.runstate.pending:
                return True
            if self.board.pm.wake_enabled("rtc"):
                deadline = self.rtc_clock.next_deadline()
        if deadline is None:
            # Nothing will wake the guest.  Deterministic time stands still meanwhile: it
            # may not depend on how long somebody takes to type.
            if wait:
                self._sleep(self._until_rtc())
            return wait
        return self._idle(deadline - self.rtc_clock.now_ns(), wait)

    def _until_rtc(self) -> int | None:
        """Wall-clock mode: how long the RTC of a suspended guest can be left alone, in ns."""
        if self.deterministic or self.runstate.state is not RunState.SUSPENDED:
            return None
        deadline = self.rtc_clock.next_deadline()
        return None if deadline is None else deadline - self.rtc_clock.now_ns()

    def _idle(self, left: int | None, wait: bool) -> bool:
        """Nothing runs: pass, or jump over, the *left* ns until something happens."""
        if left is None:
            if wait:
                self._sleep(None)
            return wait
        if self.deterministic:
            self._pass(left)
        else:
            self._sleep(left)
        return True

    def _sleep(self, ns: int | None) -> None:
        """Wait that long, or until somebody posts."""
        if not self._posted:
            self._attention.wait(None if ns is None else max(ns, 0) / NS_PER_SECOND)
        self._attention.clear()

    # -- time
    def _counted_ns(self) -> int:
        """Deterministic mode's raw time: executed blocks, and idle time jumped over."""
        return self.cpu.blocks * self._block_ns + self._idle_ns

    def _pass(self, ns: int) -> None:
        """Deterministic mode: let *ns* of idle time go by at once."""
        self._idle_ns += max(ns, 0)

    def _deterministic_time_ns(self) -> int:
        return DETERMINISTIC_EPOCH_NS + self._counted_ns()

    def _deadline_armed(self, deadline_ns: int) -> None:
        """A device armed a timer while the guest runs: shorten the slice to it."""
        cpu = self.cpu
        if cpu.in_slice:
            left = deadline_ns - self.clock.now_ns()
            if self.deterministic:
                cpu.limit(-(-left // self._block_ns))
            else:
                cpu.limit(int(max(left, 0) * self._rate))

    def _rtc_base_ns(self, base: str) -> int:
        """What the RTC reads at power-on, in ns since 1970 of the guest's zone."""
        now = self._deterministic_time_ns() if self.deterministic else time.time_ns()
        if base == "utc":
            return now
        if base == "localtime":
            offset = 0 if self.deterministic else time.localtime(now // NS_PER_SECOND).tm_gmtoff
            return now + offset * NS_PER_SECOND
        import datetime

        moment = datetime.datetime.fromisoformat(base)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        return int(moment.timestamp()) * NS_PER_SECOND

    # -- the processor's pins (emu.cpu.Bus)
    def time_stamp(self) -> int:
        """The TSC: 1 GHz."""
        return self.clock.now_ns() + self._tsc_offset & 0xFFFF_FFFF_FFFF_FFFF

    def time_stamp_source(self) -> tuple[int, int] | None:
        """What the TSC follows in the slice that begins."""
        if self.clock.frozen:
            return None
        if self.deterministic:
            return self.time_stamp(), self._block_ns
        return self.clock.offset_ns + self._tsc_offset, 0

    def set_time_stamp(self, value: int) -> None:
        """WRMSR to the TSC."""
        self._tsc_offset = value - self.clock.now_ns()
        self.cpu.ask_time_stamp()
        self.board.local_apic.tsc_changed()

    def reference_ns(self) -> int:
        """The Hyper-V reference time."""
        return self.clock.now_ns()

    def acknowledge_interrupt(self) -> int:
        """The acknowledge cycle."""
        return self._acknowledge()

    def read_cr8(self) -> int:
        """The task priority."""
        return self.board.local_apic.read_cr8()

    def write_cr8(self, value: int) -> None:
        """The task priority."""
        self.board.local_apic.write_cr8(value)

    def read_apic_msr(self, number: int) -> int | None:
        """The local APIC's MSRs."""
        return self.board.local_apic.read_msr(number)

    def write_apic_msr(self, number: int, value: int) -> bool:
        """The local APIC's MSRs."""
        return self.board.local_apic.write_msr(number, value)

    def smm_changed(self, active: bool) -> None:
        """SMIACT#."""
        self.board.smm_changed(active)

    def hyperv_crash(self, args: tuple[int, int, int, int, int]) -> None:
        """The guest tells of its crash by the Hyper-V registers."""
        self.runstate.guest_panicked(HyperVPanicInformation(*args))
        self.cpu.kick()

    # -- what the run-state manager does to us
    def _freeze(self) -> None:
        self.clock.freeze()
        self.cpu.ask_time_stamp()
        if self.deterministic:
            self.rtc_clock.freeze()

    def _thaw(self) -> None:
        self.clock.thaw()
        self.rtc_clock.thaw()

    def _pause_cpu(self) -> None:
        self._cpu_running = False
        self.log.flush()
        self.cpu.kick()

    def _resume_cpu(self) -> None:
        self._cpu_running = True

    def _leave(self, exit_code: int) -> None:
        _log.debug("leaving with exit code %d", exit_code)


def _actions(config: MachineConfig) -> Actions:
    return Actions(reboot=RebootAction(config.reboot_action),
                   shutdown=ShutdownAction(config.shutdown_action),
                   panic=PanicAction(config.panic_action),
                   watchdog=WatchdogAction(config.watchdog_action))
