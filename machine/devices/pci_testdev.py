"""QEMU's pci-testdev (docs/specs/pci-testdev.rst): a function that counts writes.

BAR 0 is 4 KiB of memory, BAR 1 256 ports.  Both begin with the header of the test
that was chosen last, by writing its number (0 to 2) to byte 0 of either:

======  ====================================================================
offset  header (little endian; reads of no test, and past the name, give 0)
======  ====================================================================
0       the test's number: 0 to 2 in memory, 3 to 5 by ports
1       how wide a write is counted: 1 byte
4       32 bits: where writes are counted
8       which value is counted
c       32 bits: how many were
10      the test's name, ending in 0
======  ====================================================================

The tests: "no-eventfd" counts; "wildcard-eventfd" and "datamatch-eventfd" hand a
write (of any value; of the value) to an event of the host's instead, so that it
is not counted.  Accesses wider than a byte arrive as bytes, but an event is
matched with the access as it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from machine.devices.pci import PciFunction
from machine.devices.pci import State as PciState

__all__ = ["MEMORY_SIZE", "PORTS_SIZE", "PciTestdev", "State"]

VENDOR_ID, DEVICE_ID = 0x1B36, 0x0005
CLASS_CODE = 0x00FF00                   # other
MEMORY_SIZE, PORTS_SIZE = 0x1000, 0x100
_NAMES = ("no-eventfd", "wildcard-eventfd", "datamatch-eventfd")
_COUNTED, _IGNORED = 0xFA, 0xCE


class _Test(NamedTuple):
    number: int
    name: str
    offset: int
    #: the value that is counted, or that sets the event off; None for any
    data: int | None
    event: bool
    #: how wide an access sets the event off: bytes, or None for any
    event_size: int | None

    def header(self, count: int) -> bytes:
        return (bytes((self.number, 1, 0, 0)) + self.offset.to_bytes(4, "little")
                + bytes((_IGNORED if self.data is None else _COUNTED, 0, 0, 0))
                + count.to_bytes(4, "little") + self.name.encode() + b"\0")


def _tests() -> tuple[_Test, ...]:
    tests = []
    for number in range(6):
        name, ports = _NAMES[number % 3], number >= 3
        wildcard = name == "wildcard-eventfd"
        tests.append(_Test(
            number, f"{'portio' if ports else 'mmio'}-{name}",
            (PORTS_SIZE if ports else MEMORY_SIZE) // 2 + number,
            None if wildcard else _COUNTED, name != "no-eventfd",
            None if wildcard and not ports else 1))
    return tuple(tests)


TESTS = _tests()


@dataclass
class State(PciState):
    #: the test that runs, or -1; what it has counted
    current: int = -1
    count: int = 0
    #: how often an event was set off
    events: int = 0


class PciTestdev(PciFunction):
    """*map_memory* and *map_ports* are told where the BARs are (None: nowhere)."""

    state: State

    def __init__(self, *, map_memory: Callable[[int | None], None],
                 map_ports: Callable[[int | None], None]) -> None:
        super().__init__(State(), vendor_id=VENDOR_ID, device_id=DEVICE_ID,
                         class_code=CLASS_CODE)
        self.add_bar(0, MEMORY_SIZE, on_map=map_memory)
        self.add_bar(1, PORTS_SIZE, io=True, on_map=map_ports)

    def reset(self) -> None:
        super().reset()
        self.state.current = -1

    def memory_read(self, offset: int, size: int) -> int:
        return self._read(offset, size)

    def memory_write(self, offset: int, size: int, value: int) -> None:
        self._write(offset, value, size, ports=False)

    def ports_read(self, offset: int, size: int) -> int:
        return self._read(offset, size)

    def ports_write(self, offset: int, value: int, size: int) -> None:
        self._write(offset, value, size, ports=True)

    def _read(self, offset: int, size: int) -> int:
        state = self.state
        if state.current < 0:
            return 0
        header = TESTS[state.current].header(state.count)
        return int.from_bytes(header[offset:offset + size], "little")

    def _write(self, offset: int, value: int, size: int, *, ports: bool) -> None:
        state = self.state
        if state.current >= 0:
            test = TESTS[state.current]
            if (test.event and ports == (test.number >= 3) and offset == test.offset
                    and test.event_size in (None, size) and test.data in (None, value)):
                state.events += 1
                return
        for i, byte in enumerate(value.to_bytes(size, "little")):
            self._write_byte(offset + i, byte, ports)

    def _write_byte(self, offset: int, value: int, ports: bool) -> None:
        state = self.state
        if offset == 0:
            state.current = -1
            if value < 3:
                state.current = value + 3 * ports
                state.count = 0
        elif state.current >= 0:
            test = TESTS[state.current]
            if offset == test.offset and test.data in (None, value):
                state.count = state.count + 1 & 0xFFFF_FFFF
