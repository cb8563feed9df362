"""The machine as a library: sleeping, waking, time, requests, its own thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import firmware
from machine import (
    ConfigError,
    DeviceSpec,
    Machine,
    MachineError,
    MachineLeft,
    RunState,
    ShutdownCause,
)
from machine.trace import Trace
from tests.asm import asm

MakeMachine = Callable[..., Machine]

#: `ticking N`: interrupts on, with IRQ 0 each N ticks of the i8254 at `tick`
TICKING = """
%macro ticking 1
        mov     ecx, 0x1b               ; the local APIC off: the i8259 is wired to INTR
        rdmsr
        and     ah, ~8
        wrmsr
        mov     word [0x20 * 4], tick
        mov     word [0x20 * 4 + 2], cs
        mov     al, 0x11                ; the i8259: vectors from 0x20, only IRQ 0
        out     0x20, al
        mov     al, 0x20
        out     0x21, al
        mov     al, 4
        out     0x21, al
        mov     al, 1
        out     0x21, al
        mov     al, 0xfe
        out     0x21, al
        mov     al, 0x34
        out     0x43, al
        mov     al, %1 & 255
        out     0x40, al
        mov     al, %1 >> 8
        out     0x40, al
        sti
%endmacro
"""
WAKES = 0x8014          # where the bundled firmware's demo counts its wakes
DAMAGED = 0x8020
PROMPT = b"> "


@pytest.fixture
def make() -> Iterator[MakeMachine]:
    made: list[Machine] = []

    def build(**fields: Any) -> Machine:
        fields.setdefault("bios", firmware.image())
        fields.setdefault("icount_shift", 2)
        fields.setdefault("ram_mb", 16)
        machine = Machine(**fields)
        made.append(machine)
        return machine

    yield build
    for machine in made:
        if machine._thread is not None and machine._thread.is_alive():
            machine.post(machine.quit)
            machine._thread.join(10)
        machine.close()


def rom(body: str) -> bytes:
    """A 64 KiB ROM with *body* at 0xf000:0, entered from the reset vector."""
    image = bytearray(0x10000)
    code = asm("cli\nxor ax, ax\nmov ds, ax\nmov ss, ax\nmov sp, 0x7000\n" + body, org=0)
    image[:len(code)] = code
    image[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"
    return bytes(image)


def word(machine: Machine, address: int) -> int:
    return int.from_bytes(machine.read_memory(address, 4), "little")


def menu(make: MakeMachine, **fields: Any) -> tuple[Machine, bytearray]:
    """The bundled firmware, woken once and waiting at its menu."""
    output = bytearray()
    machine = make(serials=[output.extend], **fields)
    assert machine.run_until("SUSPEND")
    machine.wakeup()
    assert machine.run_until(lambda: output.endswith(PROMPT))
    return machine, output


def press(machine: Machine, key: str) -> None:
    assert machine.serial_receive(0, key.encode()) == 1


def test_the_run_state_transcript(make: MakeMachine) -> None:
    machine = make()
    assert machine.run_until("SUSPEND")
    seen = [machine.status.state]
    machine.stop()
    seen.append(machine.status.state)
    with pytest.raises(MachineError, match="guest is not in suspended state"):
        machine.wakeup()
    machine.cont()
    seen.append(machine.status.state)
    machine.wakeup()
    seen.append(machine.status.state)
    assert seen == [RunState.SUSPENDED, RunState.PAUSED, RunState.SUSPENDED, RunState.RUNNING]
    assert machine.status.running


def test_ram_survives_a_sleep(make: MakeMachine) -> None:
    machine, output = menu(make)
    assert b"RAM intact (1 wake)" in output
    press(machine, "s")
    assert machine.run_until("SUSPEND")
    machine.wakeup()
    assert machine.run_until(lambda: b"RAM intact (2 wakes)" in output)
    assert (word(machine, WAKES), word(machine, DAMAGED)) == (2, 0)


def test_damaged_ram_is_noticed_by_the_demo(make: MakeMachine) -> None:
    """The demo's proof can fail."""
    output = bytearray()
    machine = make(serials=[output.extend])
    assert machine.run_until("SUSPEND")
    machine.write_memory(0x12345, b"\x00\x01\x02\x03")
    machine.wakeup()
    assert machine.run_until(lambda: b"RAM DAMAGED" in output)


def cycles(make: MakeMachine, count: int, **fields: Any) -> tuple[str, int, int]:
    machine, _ = menu(make, **fields)
    trace = Trace(machine)
    press(machine, "l")
    assert machine.run_until("SUSPEND")
    for _ in range(count):
        machine.wakeup()
        assert machine.run_until("SUSPEND")
    return trace.digest(), word(machine, WAKES), word(machine, DAMAGED)


def test_a_thousand_sleeps_leave_the_same_trace_twice(make: MakeMachine) -> None:
    first = cycles(make, 1000)
    assert first == cycles(make, 1000)
    assert first[1:] == (1001, 0)


def test_a_different_run_leaves_a_different_trace(make: MakeMachine) -> None:
    assert cycles(make, 3)[0] != cycles(make, 4)[0]


def test_one_insn_mode_sleeps_and_wakes_the_same_way_twice(make: MakeMachine) -> None:
    first = cycles(make, 20, one_insn_per_tb=True)
    assert first == cycles(make, 20, one_insn_per_tb=True)
    assert first[1:] == (21, 0)


def test_each_reset_of_the_menu_boots_again(make: MakeMachine) -> None:
    for key in "rk9t":
        machine, output = menu(make)
        output.clear()
        press(machine, key)
        assert machine.run_until("RESET"), key
        assert machine.run_until("SUSPEND"), key
        assert b"snooze firmware" in output, key


@pytest.mark.parametrize(("key", "event", "state"), [
    ("o", "SHUTDOWN", RunState.SHUTDOWN), ("4", "SUSPEND_DISK", RunState.SHUTDOWN),
    ("p", "GUEST_PANICKED", RunState.GUEST_PANICKED)])
def test_what_the_guest_asks_for_becomes_an_event_and_a_state(
        make: MakeMachine, key: str, event: str, state: RunState) -> None:
    machine, _ = menu(make, shutdown_action="pause", panic_action="pause",
                      devices=[DeviceSpec("pvpanic", {})])
    press(machine, key)
    assert machine.run_until(event)
    machine.run_until(lambda: machine.status.state is state, limit_ns=10**9)
    assert machine.status.state is state


def test_power_off_ends_the_run(make: MakeMachine) -> None:
    machine, _ = menu(make)
    press(machine, "o")
    assert not machine.run_until("WAKEUP")
    assert machine.runstate.exit_code == 0


def test_isa_debug_exit_gives_the_exit_code(make: MakeMachine) -> None:
    machine = make(bios=rom("mov al, 0x21\nout 0xf4, al\nhlt"),
                   devices=[DeviceSpec("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})])
    assert not machine.run_until("WAKEUP")
    assert machine.runstate.exit_code == 0x43


def test_a_stopped_machine_does_not_see_time_pass(make: MakeMachine) -> None:
    machine = make(icount_shift=None, bios=rom("again: jmp again"))
    machine.run_for(5_000_000)
    machine.stop()
    before = (machine.clock.now_ns(), machine.time_stamp())
    time.sleep(0.05)
    assert (machine.clock.now_ns(), machine.time_stamp()) == before
    began = time.monotonic_ns()
    machine.cont()
    assert machine.clock.now_ns() - before[0] <= time.monotonic_ns() - began


def test_a_suspended_machine_sees_time_pass_until_it_is_stopped(make: MakeMachine) -> None:
    machine = make(icount_shift=None)
    assert machine.run_until("SUSPEND")
    before = machine.clock.now_ns()
    time.sleep(0.02)
    asleep = machine.clock.now_ns()
    assert asleep - before >= 20_000_000
    machine.stop()
    stopped = machine.clock.now_ns()
    time.sleep(0.02)
    assert machine.clock.now_ns() == stopped


def test_the_timer_interrupts_a_halted_guest_in_virtual_time(make: MakeMachine) -> None:
    """The PIT at 100 Hz, HLT between the ticks: a hundred of them are one second."""
    machine = make(bios=rom(TICKING + """
        ticking 11932
again:  hlt
        jmp     again
tick:   inc     dword [0x500]
        mov     al, 0x20
        out     0x20, al
        iret
"""))
    began = time.perf_counter()
    machine.run_for(10_000_000_000)
    assert 998 <= word(machine, 0x500) <= 1001
    assert time.perf_counter() - began < 5      # it jumps over the idle time


def test_a_timer_that_is_always_due_does_not_keep_the_guest_from_its_work(
        make: MakeMachine) -> None:
    machine = make(icount_shift=None, bios=rom(TICKING + """
        mov     ebx, 1000000
        ticking 2                       ; 600,000 interrupts per second
work:   dec     ebx
        jnz     work
        mov     byte [0x500], 1
        cli
        hlt
tick:   push    ax
        mov     byte [0x501], 1
        mov     al, 0x20
        out     0x20, al
        out     0x80, al
        pop     ax
        iret
        """))
    assert machine.run_until(lambda: machine.read_memory(0x500, 1) == b"\1",
                             limit_ns=10_000_000_000)
    assert machine.read_memory(0x501, 1) != b"\0"


def test_an_rtc_alarm_wakes_the_guest_in_virtual_time(make: MakeMachine) -> None:
    """rtcwake: alarm two hours on, RTC_EN, S3; deterministic mode jumps there."""
    machine = make(bios=rom("""
        mov     eax, 0x80000b40         ; PMBA := 0x600, PMIOSE
        mov     dx, 0xcf8
        out     dx, eax
        mov     dx, 0xcfc
        mov     eax, 0x601
        out     dx, eax
        mov     dx, 0xcf8
        mov     eax, 0x80000b80
        out     dx, eax
        mov     dx, 0xcfc
        mov     al, 1
        out     dx, al
        mov     dx, 0x600               ; awake again? WAK_STS
        in      ax, dx
        test    ax, 0x8000
        jnz     awake
        mov     ax, 0x0001              ; the alarm: 02:00:00
        call    store
        mov     ax, 0x0003
        call    store
        mov     ax, 0x0205
        call    store
        mov     ax, 0x220b              ; AIE, 24 h
        call    store
        mov     dx, 0x602               ; RTC_EN
        mov     ax, 0x0400
        out     dx, ax
        mov     dx, 0x604
        mov     ax, 0x2400
        out     dx, ax
        jmp     $
awake:  mov     [0x500], ax
        hlt
store:  out     0x70, al                ; AL index, AH value
        mov     al, ah
        out     0x71, al
        ret
"""))
    assert machine.run_until("SUSPEND")
    began = time.perf_counter()
    assert machine.run_until("WAKEUP")
    assert time.perf_counter() - began < 5
    assert machine.run_until(lambda: word(machine, 0x500) != 0)
    assert word(machine, 0x500) & 0xFFFF == 0x8401
    assert 7199 <= machine.clock.now_ns() / 1e9 <= 7201


def test_deterministic_time_stands_still_in_a_sleep_that_nothing_ends(make: MakeMachine) -> None:
    machine = make()
    machine.start_thread()
    while machine.post(lambda: machine.status.state).result(5) is not RunState.SUSPENDED:
        time.sleep(0.001)
    before = machine.post(machine.clock.now_ns).result(5)
    time.sleep(0.1)
    assert machine.post(machine.clock.now_ns).result(5) == before


def test_a_key_wakes_the_guest(make: MakeMachine) -> None:
    machine = make()
    assert machine.run_until("SUSPEND")
    machine.send_keys(["a"])
    assert machine.status.state is RunState.RUNNING


def test_a_key_does_not_wake_a_stopped_machine(make: MakeMachine) -> None:
    machine = make()
    assert machine.run_until("SUSPEND")
    machine.stop()
    machine.send_keys(["a"])
    machine.cont()
    assert machine.status.state is RunState.SUSPENDED


def test_prelaunch_runs_nothing(make: MakeMachine) -> None:
    machine = make(start=False)
    assert not machine.run_until("SUSPEND")
    assert machine.status.state is RunState.PRELAUNCH
    assert machine.cpu.blocks == 0
    machine.cont()
    assert machine.run_until("SUSPEND")


def test_run_until_gives_up_where_nothing_can_happen(make: MakeMachine) -> None:
    machine = make(bios=rom("hlt"))
    assert not machine.run_until("SUSPEND")
    assert machine.status.state is RunState.RUNNING


def test_running_into_a_hole_is_an_internal_error(make: MakeMachine) -> None:
    machine = make(bios=rom("jmp 0xa000:0"))
    assert not machine.run_until("SUSPEND")
    assert machine.status.state is RunState.INTERNAL_ERROR
    with pytest.raises(MachineError, match="Resetting the Virtual Machine is required"):
        machine.cont()


def test_shadow_ram_shows_what_pam_says(make: MakeMachine) -> None:
    """Copy the ROM at 0xf0000 onto itself with reads from ROM and writes to RAM; then read RAM."""
    machine = make(bios=rom("""
        mov     eax, 0x80000058
        mov     dx, 0xcf8
        out     dx, eax
        mov     dx, 0xcfd               ; PAM0
        mov     al, 0x20                ; reads ROM, writes RAM
        out     dx, al
        mov     ax, 0xf000
        mov     ds, ax
        mov     ebx, [0x8000]
        mov     dword [0x8000], 0x12345678
        mov     ecx, [0x8000]           ; still ROM
        xor     si, si
copy:   lodsw
        mov     [si - 2], ax
        cmp     si, 0x1000
        jb      copy
        mov     si, 0xff00
copy2:  lodsw
        mov     [si - 2], ax
        test    si, si
        jnz     copy2
        mov     dx, 0xcfd
        mov     al, 0x30                ; RAM
        out     dx, al
        mov     esi, [0x8000]
        mov     al, 0x10                ; RAM, read-only
        out     dx, al
        mov     dword [0x8000], 0
        mov     edi, [0x8000]
        hlt
"""))
    machine.run_until("SUSPEND")
    cpu = machine.cpu
    assert cpu.read("rbx") & 0xFFFFFFFF == cpu.read("rcx") & 0xFFFFFFFF == 0
    assert cpu.read("rsi") & 0xFFFFFFFF == 0x12345678
    assert cpu.read("rdi") & 0xFFFFFFFF == 0x12345678


def test_the_machines_thread_serves_posts_between_slices(make: MakeMachine) -> None:
    machine = make(icount_shift=None, bios=rom("again: inc dword [0x500]\njmp again"))
    machine.start_thread()
    assert machine.post(lambda: machine.status.state).result(5) is RunState.RUNNING
    limit = time.monotonic() + 5
    while not machine.post(lambda: word(machine, 0x500)).result(5):
        assert time.monotonic() < limit     # the posts must leave the guest its slices
    machine.post(machine.stop).result(5)
    count = machine.post(lambda: word(machine, 0x500)).result(5)
    time.sleep(0.02)
    assert machine.post(lambda: word(machine, 0x500)).result(5) == count > 0
    machine.post(machine.cont).result(5)
    with pytest.raises(MachineError):
        machine.post(machine.wakeup).result(5)


def test_a_request_is_served_soon_while_the_guest_spins_or_polls(make: MakeMachine) -> None:
    for body in ("again: jmp again", "mov dx, 0x3fd\nagain: in al, dx\njmp again"):
        machine = make(icount_shift=None, bios=rom(body))
        machine.start_thread()
        worst = 0.0
        for _ in range(200):
            began = time.perf_counter()
            machine.post(lambda: None).result(5)
            worst = max(worst, time.perf_counter() - began)
        assert worst < 1
        machine.post(machine.quit).result(5)


def test_a_machine_that_has_left_refuses_posts(make: MakeMachine) -> None:
    machine = make()
    machine.start_thread()
    machine.post(lambda: machine.quit(ShutdownCause.HOST_SIGNAL)).result(5)
    assert machine.exited.result(5) == 0
    with pytest.raises(MachineLeft):
        machine.post(lambda: None).result(5)


def test_events_come_before_the_post_that_caused_them_resolves(make: MakeMachine) -> None:
    machine = make(icount_shift=None)
    heard: list[str] = []
    machine.subscribe(lambda event: heard.append(event.name))
    machine.start_thread()
    machine.post(machine.stop).add_done_callback(lambda _: heard.append("reply"))
    machine.post(lambda: None).result(5)
    assert heard.index("STOP") < heard.index("reply")


def test_what_cannot_be_built_is_refused_in_one_line(make: MakeMachine) -> None:
    for fields in ({"bios": None}, {"bios": b""}, {"machine_type": "q36"},
                   {"devices": [DeviceSpec("warp-drive", {})]}):
        with pytest.raises(ConfigError) as caught:
            make(**fields)
        assert str(caught.value) and "\n" not in str(caught.value)


def test_serial_input_that_does_not_fit_is_refused_and_not_lost(make: MakeMachine) -> None:
    machine, _ = menu(make)
    machine.stop()
    room = machine.serial_room(0)
    assert machine.serial_receive(0, b"?" * (room + 10)) == room


@pytest.mark.parametrize("icount_shift", [2, None])
def test_the_time_stamp_never_runs_backwards_however_it_is_read(
        make: MakeMachine, icount_shift: int | None) -> None:
    """RDTSC is answered natively, RDMSR by Python; a stop and a write of the TSC lie between."""
    machine = make(icount_shift=icount_shift, bios=rom("""
        xor     esi, esi                ; the last time stamp, in EDI:ESI
        xor     edi, edi
        xor     ebp, ebp                ; how many were read
again:  rdtsc
        call    compare
        mov     ecx, 0x10
        rdmsr
        call    compare
        cmp     ebp, 400000
        jb      again
        mov     dword [0x500], 1
        mov     ecx, 0x10
        xor     eax, eax
        mov     edx, 0x1000
        wrmsr
        rdtsc
        mov     [0x504], edx
        rdmsr
        mov     [0x508], edx
        hlt
compare:
        cmp     edx, edi
        ja      .well
        jb      .bad
        cmp     eax, esi
        jb      .bad
.well:  mov     edi, edx
        mov     esi, eax
        inc     ebp
        ret
.bad:   mov     dword [0x500], 2
        hlt
"""))
    stopped = 0
    while not word(machine, 0x500) and machine.run_for(2_000_000):
        machine.stop()
        frozen = machine.time_stamp()
        time.sleep(0.001)
        assert machine.time_stamp() == frozen
        machine.cont()
        stopped += 1
    machine.run_for(1_000_000)
    assert stopped
    assert [word(machine, at) for at in (0x500, 0x504, 0x508)] == [1, 0x1000, 0x1000]
