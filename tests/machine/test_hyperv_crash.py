"""The Hyper-V crash registers, from a guest's WRMSR to the event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machine import Machine, RunState
from tests.machine.board_guest import image, run_snooze

CRASH = """
        set_msr 0x40000100, 0x11
        set_msr 0x40000101, 0xffffffffffffffff
        set_msr 0x40000102, 0
        set_msr 0x40000103, 0x8000000000000000
        set_msr 0x40000104, 0x55
        set_msr 0x40000105, 0
        get_msr 0x40000105, RESULT
        set_msr 0x40000105, 0x8000000000000000
        mov     dword [RESULT + 8], 1
.rest:  hlt
        jmp     .rest
"""
INFO = {"type": "hyper-v", "arg1": 0x11, "arg2": (1 << 64) - 1, "arg3": 0, "arg4": 1 << 63,
        "arg5": 0x55}


def crash(**fields: Any) -> tuple[Machine, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    machine = Machine(bios=image(CRASH), ram_mb=16, icount_shift=2, cpu="qemu64,hv-crash",
                      **fields)
    machine.subscribe(lambda event: told.append(dict(event.data or {}))
                      if event.name == "GUEST_PANICKED" else None)
    machine.run_until("GUEST_PANICKED", limit_ns=10**9)
    return machine, told


@pytest.mark.parametrize(("action", "said", "state"), [
    ("pause", "pause", RunState.GUEST_PANICKED), ("shutdown", "poweroff", RunState.SHUTDOWN),
    ("exit-failure", "poweroff", RunState.SHUTDOWN), ("none", "run", RunState.RUNNING)])
def test_the_five_parameters_come_with_the_panic(action: str, said: str, state: RunState) -> None:
    machine, told = crash(panic_action=action)
    try:
        assert told == [{"action": said, "info": INFO}]
        machine.run_until(lambda: False, limit_ns=10**7)
        assert machine.runstate.exit_code == {"exit-failure": 1, "shutdown": 0}.get(
            action, machine.runstate.exit_code)
        if action in ("pause", "none"):
            assert machine.status.state is state
    finally:
        machine.close()


def test_ctl_offers_the_notification_and_a_write_without_it_tells_nothing() -> None:
    machine, told = crash(panic_action="none")
    try:
        machine.run_until(lambda: False, limit_ns=10**7)
        assert len(told) == 1                   # not for the write of 0
        memory = machine.cpu.memory
        assert int.from_bytes(memory.read(0x6000, 8), "little") == 1 << 63
        assert memory.read(0x6008, 1) == b"\1"  # and the guest goes on
    finally:
        machine.close()


def test_the_parameters_are_logged_as_a_guest_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    machine, _told = crash(panic_action="pause", log_items=frozenset({"guest_errors"}),
                           log_file=str(log))
    machine.close()
    assert ("\nHV crash parameters: (0x11 0xffffffffffffffff 0 0x8000000000000000 0x55)\n"
            in log.read_text())


def test_without_the_enlightenment_the_registers_are_not_there() -> None:
    left = run_snooze("""
        gate    13, fault
        xor     ebx, ebx
        mov     ecx, 0x40000105
        rdmsr
        set_msr 0x40000105, 0x8000000000000000
        mov     [RESULT], ebx
        done
fault:  inc     ebx
        add     esp, 4
        add     dword [esp], 2
        iret
""")
    assert left[:4] == (2).to_bytes(4, "little")
