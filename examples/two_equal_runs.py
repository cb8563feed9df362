"""Deterministic mode: two runs are equal to the last bit.  It prints:

#: equal after 100 sleeps: True
"""

import firmware
from machine import Machine
from machine.trace import Trace


def run() -> str:
    output = bytearray()
    machine = Machine(bios=firmware.image(), icount_shift=2, ram_mb=16, serials=[output.extend])
    trace = Trace(machine)
    machine.run_until("SUSPEND")
    machine.wakeup()
    machine.run_until(lambda: output.endswith(b"> "))
    machine.serial_receive(0, b"l")             # the firmware's menu: sleep again after each wake
    machine.run_until("SUSPEND")
    for _ in range(100):
        machine.wakeup()
        machine.run_until("SUSPEND")
    return trace.digest()


print("equal after 100 sleeps:", run() == run())
