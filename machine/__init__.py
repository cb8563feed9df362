"""The machine: board, run states, clock and devices.  `Machine` is the whole of it as a library."""

from __future__ import annotations

from machine.config import DeviceSpec, MachineConfig
from machine.events import Event
from machine.machine import Machine
from machine.pc import ConfigError
from machine.runstate import MachineError, MachineLeft, RunState, ShutdownCause, Status

__all__ = ["ConfigError", "DeviceSpec", "Event", "Machine", "MachineConfig", "MachineError",
           "MachineLeft", "RunState", "ShutdownCause", "Status"]
