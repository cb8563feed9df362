"""One S3 cycle, as a library: no thread, no server.  It prints:

#: asleep: suspended
#: awake: running
"""

import firmware
from machine import Machine

machine = Machine(bios=firmware.image(), icount_shift=2)
machine.run_until("SUSPEND")
print("asleep:", machine.status.state.value)
machine.wakeup()
print("awake:", machine.status.state.value)
