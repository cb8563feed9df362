"""A running hash of what a machine does, to compare two deterministic runs.

Each event adds its name, its data, the virtual time, the number of executed
blocks and the whole state of the processor at that moment.  `digest` adds the
RAM.  Two runs that differ anywhere a guest could see differ here, and the list
of hashes by event says from which event on.
"""

from __future__ import annotations

import hashlib

from machine.events import Event
from machine.machine import Machine

__all__ = ["Trace"]


class Trace:
    """The trace of *machine* from now on."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._hash = hashlib.blake2b(digest_size=16)
        #: after each event: (name, hash so far)
        self.steps: list[tuple[str, str]] = []
        machine.subscribe(self._heard)

    def _heard(self, event: Event) -> None:
        machine = self._machine
        fields = (event.name, sorted((event.data or {}).items()), machine.clock.now_ns(),
                  machine.cpu.blocks)
        self._hash.update(repr(fields).encode())
        self._hash.update(machine.cpu.fingerprint())
        self.steps.append((event.name, self._hash.hexdigest()))

    def digest(self) -> str:
        """The hash of all events so far and of the machine as it is now."""
        whole = self._hash.copy()
        whole.update(self._machine.fingerprint())
        return whole.hexdigest()
