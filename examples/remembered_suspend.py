"""A guest that is stopped in S3 sleeps on after `cont`.  It prints:

#: stop: paused
#: refused: Unable to wake up: guest is not in suspended state
#: cont: suspended
#: wakeup: running
#: events: SUSPEND STOP RESUME WAKEUP
"""

import firmware
from machine import Machine, MachineError

machine = Machine(bios=firmware.image(), icount_shift=2)
events: list[str] = []
machine.subscribe(lambda event: events.append(event.name))
machine.run_until("SUSPEND")
machine.stop()
print("stop:", machine.status.state.value)
try:
    machine.wakeup()
except MachineError as error:
    print("refused:", error)
machine.cont()
print("cont:", machine.status.state.value)
machine.wakeup()
print("wakeup:", machine.status.state.value)
print("events:", *events)
