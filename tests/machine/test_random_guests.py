"""Guests that make no sense: whatever they do, the machine lives and stays repeatable.

Each seed makes one guest: random bytes as code in one of the processor's modes, with
exception handlers that lead into more of them, or a program of random port and memory-mapped
accesses.  No exception may leave the machine, the process survives, the machine is in a legal
run state, and a second run of the same guest ends with the same fingerprint.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from machine import DeviceSpec, Machine, MachineError, RunState
from tests.asm import asm
from tests.emu.guest import LONG, PROTECTED, TO_USER

MS = 1_000_000
CODE, CODE_END = 0x20000, 0x60000       # random code, and where handlers go on
ENTRY = 0x1000
VARIANTS = ("real", "protected", "user", "long", "long user", "io")
LEGAL = {RunState.PRELAUNCH, RunState.RUNNING, RunState.SUSPENDED, RunState.SHUTDOWN,
         RunState.PAUSED, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR}

#: each port of a device of the board, its neighbours, and the PM block where we put it
PORTS = [*range(0x1E, 0x23), *range(0x3F, 0x45), *range(0x5F, 0x66), 0x70, 0x71, 0x80, 0x91,
         0x92, 0x93, *range(0x9F, 0xA3), 0xB2, 0xB3, 0xE9, *range(0x2F7, 0x301),
         *range(0x3F7, 0x401), *range(0x4CF, 0x4D3), 0x501, 0x502, 0x505, *range(0x50F, 0x51D),
         *range(0xCF7, 0xD01), *range(0xAFDF, 0xAFE5), *range(0x600, 0x640)]
#: RAM, VGA hole, option ROM, shadow, above RAM, the PCI hole, the APICs, the firmware
ADDRESSES = (0x7000, 0x9FFFC, 0xA0000, 0xBFFFE, 0xC0000, 0xDFFFF, 0xF0000, 0xFFFFE, 0x100000,
             0xFFFFFC, 0x1000000, 0xE0000000, 0xFEC00000, 0xFEE00020, 0xFED00000, 0xFFFF0000,
             0xFFFFFFFC)

_TO_LONG_USER = """
        mov     dword [0x2808], 0
        push    qword 0x2b
        push    qword 0x6800
        push    qword 0x2
        push    qword 0x33
        push    qword 0x20000
        iretq
"""
#: 16-bit entry code of each variant; it ends where the random bytes begin
PROLOGUES = {
    "real": "mov sp, 0x7000\nsti\njmp 0x2000:0",
    "protected": PROTECTED + "jmp 0x08:0x20000",
    "user": PROTECTED + TO_USER % 2 + "mov eax, 0x20000\njmp eax",
    "long": PROTECTED + LONG + "mov dword [0x2808], 0\nmov eax, 0x20000\njmp rax",
    "long user": PROTECTED + LONG + _TO_LONG_USER,
    "io": PROTECTED + "sti\njmp 0x08:0x20000",
}
#: what ring 3's exceptions do: back to ring 3, somewhere else
_BACK = """
        imul    eax, [0x5000], 1664525
        add     eax, 1013904223
        mov     [0x5000], eax
        shr     eax, 14
        add     eax, 0x20000
"""
BACK_TO_USER = _BACK + """
        mov     esp, 0x6f00
        push    dword 0x2b
        push    dword 0x6800
        push    dword 2
        push    dword 0x23
        push    eax
        iret
"""
BACK_TO_LONG_USER = _BACK + """
        mov     esp, 0x6f00
        push    qword 0x2b
        push    qword 0x6800
        push    qword 2
        push    qword 0x33
        push    rax
        iretq
"""
#: the io program's interrupt and exception handler
END_OF_INTERRUPT = """
        push    eax
        mov     al, 0x20
        out     0xa0, al
        out     0x20, al
        pop     eax
        iret
"""


def random_code(rng: random.Random) -> bytes:
    """Random bytes; often without HLT and CLI, which end too many guests early."""
    code = rng.randbytes(CODE_END - CODE)
    if rng.random() < 0.7:
        code = code.replace(b"\xf4", b"\x90").replace(b"\xfa", b"\xfb")
    return code


def random_accesses(rng: random.Random) -> bytes:
    """32-bit code: some hundred random IN, OUT, loads and stores, over and over."""
    out = bytearray()
    for _ in range(400):
        kind = rng.random()
        value = rng.choice((rng.getrandbits(32), rng.getrandbits(8), 0, 0xFFFFFFFF))
        out += b"\xb8" + value.to_bytes(4, "little")                    # mov eax, imm32
        if kind < 0.06:         # PCI configuration, mostly of functions that are there
            address = 0x80000000 | rng.choice((0, 8, 0xB, 0x10)) << 8 | rng.randrange(0, 256, 4)
            out += b"\xb8" + address.to_bytes(4, "little")
            out += b"\x66\xba\xf8\x0c\xef"                              # mov dx, 0xcf8; out dx, eax
            out += b"\xb8" + rng.choice((value, 0x601, 1)).to_bytes(4, "little")
            out += b"\x66\xba\xfc\x0c" + rng.choice((b"\xef", b"\xed", b"\x66\xef", b"\xee"))
        elif kind < 0.85:
            port = rng.choice(PORTS) if rng.random() < 0.9 else rng.getrandbits(16)
            out += b"\x66\xba" + port.to_bytes(2, "little")             # mov dx, imm16
            out += rng.choice((b"\xee", b"\xee", b"\x66\xef", b"\xef",  # out
                               b"\xec", b"\xec", b"\x66\xed", b"\xed"))
        elif kind < 0.98:
            address = rng.choice(ADDRESSES)
            if rng.random() < 0.2:
                address = rng.randrange(0x80000, 1 << 32)
            out += rng.choice((b"\xa2", b"\xa3", b"\x66\xa3", b"\xa0", b"\xa1", b"\x66\xa1"))
            out += address.to_bytes(4, "little")
        else:
            out += rng.choice((b"\xf4", b"\xfb", b"\xfa", b"\xfb\xf4"))
    return bytes(out) + b"\xe9" + (-(len(out) + 5)).to_bytes(4, "little", signed=True)


def gates(rng: random.Random, wide: bool, targets: Callable[[], int], attributes: int) -> bytes:
    """An IDT of 2 KiB."""
    out = bytearray()
    for _ in range(128 if wide else 256):
        at = targets()
        if rng.random() < 0.03:
            out += rng.randbytes(16 if wide else 8)
            continue
        out += (at & 0xFFFF).to_bytes(2, "little") + (0x18 if wide else 8).to_bytes(2, "little")
        out += bytes((0, attributes)) + (at >> 16).to_bytes(2, "little")
        if wide:
            out += bytes(8)
    return bytes(out)


def build(seed: int) -> Machine:
    """The guest of *seed*."""
    rng = random.Random(seed)
    variant = VARIANTS[seed % len(VARIANTS)]
    bios = bytearray(rng.randbytes(0x10000))
    bios[0xFFF0:0xFFF5] = b"\xea" + ENTRY.to_bytes(2, "little") + b"\0\0"
    devices = [DeviceSpec("pvpanic", {}), DeviceSpec("isa-debugcon", {})]
    if rng.random() < 0.2:
        devices.append(DeviceSpec("isa-debug-exit", {}))
    machine = Machine(
        bios=bytes(bios), ram_mb=rng.choice((1, 1, 1, 2, 2, 3, 16)), icount_shift=2,
        devices=devices, one_insn_per_tb=rng.random() < 0.1, serials=[lambda data: None],
        reboot_action=rng.choice(("reset", "reset", "shutdown")),
        shutdown_action="pause", panic_action=rng.choice(("pause", "none", "shutdown")))
    store = machine.write_memory
    store(CODE, random_accesses(rng) if variant == "io" else random_code(rng))

    def anywhere() -> int:
        return rng.randrange(CODE, CODE_END)

    if variant == "real":
        store(0, b"".join(rng.getrandbits(15).to_bytes(2, "little") + b"\x00\x20"
                          for _ in range(256)))
    elif variant == "io":
        store(0x4000, asm(END_OF_INTERRUPT, bits=32, org=0x4000))
        store(0x2000, gates(rng, False, lambda: 0x4000, 0x8E))
    elif variant.endswith("user"):
        wide = variant == "long user"
        store(0x4000, asm(BACK_TO_LONG_USER, bits=64, org=0x4000) if wide
              else asm(BACK_TO_USER, bits=32, org=0x4000))
        store(0x5000, rng.randbytes(4))
        store(0x2000, gates(rng, wide, lambda: 0x4000, rng.choice((0x8E, 0xEE))))
    else:
        store(0x2000, gates(rng, variant == "long", anywhere, 0x8E))
    if variant.endswith("user"):
        store(0x2868, rng.randbytes(0x700))                             # the I/O bitmap
    store(ENTRY, asm(PROLOGUES[variant], org=ENTRY))
    return machine


def live(seed: int, duration_ns: int) -> bytes:
    """Run the guest of *seed*, with a little prodding, and tell what became of it."""
    machine = build(seed)
    rng = random.Random(~seed)
    states = []
    try:
        for _ in range(4):
            machine.run_for(duration_ns // 4)
            state = machine.status.state
            assert state in LEGAL, state
            assert machine.status.running == (state is RunState.RUNNING)
            states.append(state.value)
            if machine.runstate.exit_code is not None:
                break
            prod = rng.choice(("wakeup", "cont", "stop", "powerdown", "reset", "key", "serial"))
            if prod == "wakeup" and state is RunState.SUSPENDED:
                machine.wakeup()
            elif prod == "cont" or state is RunState.PAUSED:
                try:
                    machine.cont()
                except MachineError:
                    assert state in (RunState.SHUTDOWN, RunState.INTERNAL_ERROR)
            elif prod == "stop":
                machine.stop()
            elif prod == "powerdown":
                machine.system_powerdown()
            elif prod == "reset" and rng.random() < 0.3:
                machine.system_reset()
            elif prod == "key":
                machine.send_keys(["a", "ctrl"])
            elif prod == "serial":
                machine.serial_receive(0, b"x" * rng.randrange(20))
        return ",".join(states).encode() + machine.fingerprint()
    finally:
        machine.close()


def test_a_hundred_random_guests_leave_the_machine_well() -> None:
    for seed in range(100):
        once = live(seed, MS // 25)
        if seed // len(VARIANTS) % 3 == 0:
            assert once == live(seed, MS // 25), seed


@pytest.mark.slow
def test_more_random_guests_leave_the_machine_well() -> None:
    """Longer runs, each twice; SNOOZE_SEEDS=N for more than a CI run has time for."""
    for seed in range(1000, 1000 + int(os.environ.get("SNOOZE_SEEDS", "120"))):
        assert live(seed, MS // 10) == live(seed, MS // 10), seed
