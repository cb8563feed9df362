"""Breakpoints and watchpoints: the debugger's, and the guest's own debug registers.

The engine stops before an instruction at a breakpoint, and asks here about each
access to a page in which something is watched; then the instruction is run
alone and `hit` is asked what it was.  Nothing costs anything while nothing is
set.  Debug registers: Intel SDM volume 3B, 18.2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Access", "Breakpoints", "Watchpoint"]


class Access(enum.Flag):
    """What a watchpoint is for."""

    READ = 1
    WRITE = 2
    ANY = READ | WRITE


class Watchpoint(NamedTuple):
    """*length* bytes at linear *address*."""

    address: int
    length: int
    access: Access


_PAGE = 0x1000
_DR6_HITS = 0xF
#: DR7's type: instruction, writes, I/O, reads and writes; and its length
_TYPES = (None, Access.WRITE, None, Access.ANY)
_LENGTHS = (1, 2, 8, 4)


def enabled(dr7: int, index: int) -> bool:
    """Whether breakpoint register *index* is on, locally or globally."""
    return bool(dr7 >> 2 * index & 3)


class Breakpoints:
    """All of one processor.

    *insert*(address, on) sets a breakpoint in the engine, *watching*(on) has it
    ask about accesses; both between slices, or from the guest's own write to a
    debug register.  *debug_register*(number) reads one, *set_dr6* writes DR6.
    """

    def __init__(self, insert: Callable[[int, bool], None], watching: Callable[[bool], None],
                 debug_register: Callable[[int], int], set_dr6: Callable[[int], None]) -> None:
        self._insert = insert
        self._watching = watching
        self._dr = debug_register
        self._set_dr6 = set_dr6
        self._code: set[int] = set()
        self._watchpoints: list[Watchpoint] = []
        #: the guest's watched ranges, by debug register
        self._guests: dict[int, Watchpoint] = {}
        self._guests_hit = 0
        #: the debugger's watchpoint that ended the slice, and the address that was accessed
        self.watchpoint_hit: tuple[Watchpoint, int, Access] | None = None
        #: the address of the debugger's breakpoint that ended the slice
        self.breakpoint_hit: int | None = None

    # -- the debugger's
    @property
    def code(self) -> frozenset[int]:
        """Linear addresses of breakpoints."""
        return frozenset(self._code)

    @property
    def watchpoints(self) -> tuple[Watchpoint, ...]:
        return tuple(self._watchpoints)

    def add(self, address: int) -> None:
        """Stop before the instruction at a linear address."""
        if address not in self._code:
            self._code.add(address)
            self._insert(address, True)

    def remove(self, address: int) -> None:
        """KeyError when there is none."""
        self._code.remove(address)
        self._insert(address, False)

    def watch(self, watchpoint: Watchpoint) -> None:
        """Stop after an instruction that accesses these bytes."""
        self._watchpoints.append(watchpoint)
        self._watching(True)

    def unwatch(self, watchpoint: Watchpoint) -> None:
        """ValueError when there is no such one."""
        self._watchpoints.remove(watchpoint)
        self._watching(bool(self._watchpoints or self._guests))

    # -- the guest's
    def debug_registers_changed(self) -> None:
        """DR0-DR3 or DR7 changed, or the processor was reset."""
        dr7 = self._dr(7)
        guests = {}
        if dr7 & 0xFF:
            for i in range(4):
                access = _TYPES[dr7 >> 16 + 4 * i & 3]
                if enabled(dr7, i) and access is not None:
                    length = _LENGTHS[dr7 >> 18 + 4 * i & 3]
                    guests[i] = Watchpoint(self._dr(i) & ~(length - 1), length, access)
        if guests != self._guests:
            self._guests = guests
            self._watching(bool(self._watchpoints or guests))

    # -- what the engine asks
    def page(self, address: int, length: int) -> int:
        """3 when something in these bytes is watched, else 0."""
        end = address + length
        for watched in (*self._watchpoints, *self._guests.values()):
            if watched.address < end and address < watched.address + watched.length:
                return 3
        return 0

    def accessed(self, address: int, length: int, write: bool) -> bool:
        """Whether that is watched; it is remembered for `hit`."""
        access = Access.WRITE if write else Access.READ
        end = address + length
        found = False
        for index, watched in self._guests.items():
            if (access & watched.access and watched.address < end
                    and address < watched.address + watched.length):
                self._guests_hit |= 1 << index
                found = True
        for watched in self._watchpoints:
            if (access & watched.access and watched.address < end
                    and address < watched.address + watched.length):
                self.watchpoint_hit = watched, max(address, watched.address), access
                found = True
        return found

    def hit(self, address: int) -> bool:
        """Stopped before or after an instruction; *address* is linear RIP.

        True: the guest is to get its #DB, DR6 is set.  False: the debugger has it,
        `watchpoint_hit` or `breakpoint_hit` says why.
        """
        dr6 = self._dr(6) & ~_DR6_HITS
        guests, self._guests_hit = self._guests_hit, 0
        if guests:
            self._set_dr6(dr6 | guests)
            return True
        if self.watchpoint_hit is not None:
            return False
        if address in self._code:
            self.breakpoint_hit = address
            return False
        dr7 = self._dr(7)
        hits = 0
        for i in range(4):
            if not dr7 >> 16 + 4 * i & 3 and self._dr(i) == address:
                hits |= 1 << i
        self._set_dr6(dr6 | hits)
        return True
