"""pvpanic on the ISA bus: by one port the guest's kernel tells that it died.

Follows QEMU's docs/specs/pvpanic.rst.

====  ======================================================
port  access
====  ======================================================
505   read: the events that the device offers (bits as below)
      write: an event
====  ======================================================

bit 0  panicked: the guest is dead and wants the host to act
bit 1  crash loaded: it crashed, and a kexec crash kernel will run
bit 2  shutdown: an orderly shutdown, to be told apart from a crash

One write is one event: the lowest known bit counts.  The *events* property hides
bits from reads only; a write of a hidden event acts all the same, as in QEMU.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from machine.wiring import Notify

__all__ = ["DEFAULT_IOPORT", "PvpanicIsa", "State"]

_log = logging.getLogger("snooze.guest")

DEFAULT_IOPORT = 0x505
PANICKED, CRASH_LOADED, SHUTDOWN = 0x01, 0x02, 0x04
KNOWN = PANICKED | CRASH_LOADED | SHUTDOWN
REPEATED = 0x01010101


@dataclass
class State:
    """Nothing: the device remembers nothing."""


class PvpanicIsa:
    """*panicked*, *crash_loaded*, *shutdown*: called for the guest's event."""

    def __init__(self, *, panicked: Notify, crash_loaded: Notify, shutdown: Notify,
                 events: int = KNOWN) -> None:
        self.state = State()
        self._offered = events & 0xFF
        self._actions = (
            (PANICKED, panicked),
            (CRASH_LOADED, crash_loaded),
            (SHUTDOWN, shutdown),
        )
        self._complained = False

    def reset(self) -> None:
        """Nothing to do."""

    def read(self, offset: int, size: int) -> int:
        return self._offered * REPEATED & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        for _ in range(size):
            self._event(value & 0xFF)
            value >>= 8

    def _event(self, event: int) -> None:
        if event & ~KNOWN and not self._complained:
            # Once only: a guest in its death throes may repeat itself for ever.
            _log.warning("pvpanic: unknown event %#x.", event)
            self._complained = True
        for bit, action in self._actions:
            if event & bit:
                action()
                return
