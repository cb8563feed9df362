"""The local APIC, driven by its registers with no processor (SDM volume 3A, chapter 11)."""

from __future__ import annotations

import pytest

from machine.clock import Clock
from machine.devices.local_apic import DEFAULT_BASE, LocalApic, State

ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = (
    0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0)
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x320, 0x380, 0x10)
LVTS = range(0x320, 0x380, 0x10)
INITIAL, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
MASKED, LEVEL, REMOTE_IRR = 1 << 16, 1 << 15, 1 << 14
PERIODIC, DEADLINE = 1 << 17, 1 << 18
FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7
SELF, ALL, OTHERS = 1 << 18, 2 << 18, 3 << 18
LOGICAL = 1 << 11
APIC_BASE, TSC_DEADLINE, X2APIC = 0x1B, 0x6E0, 0x800
ENABLE, EXTENDED, BSP = 1 << 11, 1 << 10, 1 << 8
BUS_NS = 10
TSC_AT_ZERO = 1000


class Bench:
    """An APIC that its software has enabled, on a clock that stands where `tick` puts it."""

    def __init__(self, *, enabled: bool = True, x2apic: bool = True, apic_id: int = 0,
                 tsc_deadline: bool = True) -> None:
        self.now = 0
        self.tsc_at_zero = TSC_AT_ZERO
        self.intr = False
        self.edges: list[tuple[str, int]] = []
        self.eois: list[int] = []
        self.pages: list[int | None] = []
        self.accepting = 0
        self.pic_vectors: list[int] = []
        self.clock = Clock(lambda: self.now)

        def edge(name: str) -> None:
            self.edges.append((name, self.now))

        self.apic = LocalApic(
            clock=self.clock, tsc=lambda: self.now + self.tsc_at_zero,
            tsc_ns=lambda value: value - self.tsc_at_zero, output=self._output,
            nmi=lambda: edge("nmi"), smi=lambda: edge("smi"), init=lambda: edge("init"),
            start_up=lambda vector: edge(f"start up {vector:x}"),
            extint=lambda: self.pic_vectors.pop(0), broadcast_eoi=self.eois.append,
            accepting=self._accepting, moved=self.pages.append, apic_id=apic_id, bus_ns=BUS_NS,
            x2apic=x2apic, tsc_deadline=tsc_deadline)
        if enabled:
            self.write(SVR, 0x1FF)

    def _output(self, level: bool) -> None:
        assert level is not self.intr
        self.intr = level

    def _accepting(self) -> None:
        self.accepting += 1

    def read(self, offset: int) -> int:
        return self.apic.mmio_read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.apic.mmio_write(offset, 4, value)

    def rdmsr(self, offset: int) -> int | None:
        return self.apic.read_msr(X2APIC + (offset >> 4))

    def wrmsr(self, offset: int, value: int) -> bool:
        return self.apic.write_msr(X2APIC + (offset >> 4), value)

    def to_x2apic(self) -> Bench:
        assert self.apic.write_msr(APIC_BASE, DEFAULT_BASE | BSP | ENABLE | EXTENDED)
        return self

    def raise_vector(self, *vectors: int, level: bool = False) -> None:
        for vector in vectors:
            assert self.apic.deliver(vector, FIXED, level)

    def take(self) -> int:
        """The processor takes an interrupt."""
        assert self.intr
        return self.apic.acknowledge()

    def vectors(self, register: int) -> set[int]:
        """Which bits are set in ISR, TMR or IRR."""
        return {32 * word + bit for word in range(8) for bit in range(32)
                if self.read(register + 16 * word) >> bit & 1}

    def tick(self, ns: int) -> None:
        """Let *ns* pass, each timer in its turn."""
        end = self.now + ns
        while True:
            deadline = self.clock.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(deadline, self.now)
            self.clock.fire_due()
        self.now = end

    def errors(self) -> int:
        """What ESR shows after a write to it."""
        self.write(ESR, 0)
        return self.read(ESR)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- registers

RESET = {ID: 0, VERSION: 0x50014, TPR: 0, APR: 0, PPR: 0, EOI: 0, LDR: 0, DFR: 0xFFFF_FFFF,
         SVR: 0xFF, **{at + 16 * i: 0 for at in (ISR, TMR, IRR) for i in range(8)}, ESR: 0,
         ICR: 0, ICR_HIGH: 0, **{lvt: MASKED for lvt in LVTS}, INITIAL: 0, CURRENT: 0, DIVIDE: 0}


def used() -> Bench:
    """With something in every register that can hold it."""
    bench = Bench()
    for offset in (ID, LDR, DFR, ICR_HIGH):
        bench.write(offset, 0x1000_0000)
    bench.raise_vector(0x70, 0x90, level=True)
    bench.take()
    bench.write(ICR, SELF | 5)
    bench.errors()
    for offset in LVTS:
        bench.write(offset, MASKED | 0x55)
    bench.write(DIVIDE, 0xB)
    bench.write(INITIAL, 1000)
    bench.write(TPR, 0x20)
    return bench


def test_registers_after_reset() -> None:
    fresh = Bench(enabled=False)
    assert {offset: fresh.read(offset) for offset in RESET} == RESET
    bench = used()
    assert sum(bench.read(offset) != value for offset, value in RESET.items()) >= 20
    bench.apic.reset()
    assert {offset: bench.read(offset) for offset in RESET} == RESET
    assert bench.apic.state == State()
    assert bench.apic.read_msr(APIC_BASE) == DEFAULT_BASE | BSP | ENABLE
    bench.tick(100_000)
    assert not bench.intr


def test_init_leaves_the_id_and_the_base() -> None:
    bench = used()
    bench.apic.write_msr(APIC_BASE, 0xFED0_0000 | BSP | ENABLE)
    bench.apic.init_reset()
    assert {offset: bench.read(offset) for offset in RESET} == RESET | {ID: 0x1000_0000}
    assert bench.apic.read_msr(APIC_BASE) == 0xFED0_0000 | BSP | ENABLE


def test_init_leaves_x2apic_mode_and_its_logical_id() -> None:
    bench = Bench(apic_id=0x25).to_x2apic()
    bench.apic.init_reset()
    assert bench.rdmsr(LDR) == 0x2_0020
    assert bench.rdmsr(ID) == 0x25


WRITABLE = {ID: 0xFF00_0000, TPR: 0xFF, LDR: 0xFF00_0000, DFR: 0xF000_0000, SVR: 0x1FF,
            ICR_HIGH: 0xFFFF_FFFF, LVT_TIMER: 0x7_00FF, LVT_THERMAL: 0x1_07FF,
            LVT_PERF: 0x1_07FF, LVT_LINT0: 0x1_A7FF, LVT_LINT1: 0x1_A7FF, LVT_ERROR: 0x1_00FF,
            DIVIDE: 0xB}


@pytest.mark.parametrize("offset", sorted(RESET.keys() - {INITIAL, ICR, ESR, EOI}))
def test_writable_bits_hold_what_is_written_and_others_do_not(bench: Bench, offset: int) -> None:
    writable = WRITABLE.get(offset, 0)
    before = bench.read(offset)
    bench.write(offset, 0xFFFF_FFFF)
    assert bench.read(offset) & writable == writable
    assert bench.read(offset) & ~writable == before & ~writable
    bench.write(offset, 0 if offset != SVR else 0x100)
    assert bench.read(offset) & writable == (0 if offset != SVR else 0x100)
    assert bench.errors() == 0


def test_the_icr_holds_all_but_the_delivery_status(bench: Bench) -> None:
    bench.write(ICR, 0xFFFF_FFFF & ~0x7FF | OTHERS | 0x45)
    assert bench.read(ICR) == 0xC_C845


def test_registers_are_32_bits_wide(bench: Bench) -> None:
    """Narrower accesses do nothing; a register is seen in all of its 16 bytes (as in QEMU)."""
    bench.apic.mmio_write(TPR, 1, 0x55)
    bench.apic.mmio_write(TPR, 2, 0x55)
    assert bench.read(TPR) == 0
    bench.apic.mmio_write(TPR + 4, 4, 0x66)
    assert [bench.apic.mmio_read(TPR + at, 4) for at in (0, 4, 8, 12)] == [0x66] * 4
    assert [bench.apic.mmio_read(VERSION, size) for size in (1, 2, 4)] == [0, 0, 0x50014]


@pytest.mark.parametrize("offset", [0, 0x10, 0x40, 0x70, 0xC0, 0x290, 0x2F0, 0x3A0, 0x3F0, 0x400,
                                    0xFF0])
def test_a_reserved_register_is_an_error(bench: Bench, offset: int) -> None:
    assert bench.read(offset) == 0
    assert bench.errors() == 0x80
    assert bench.errors() == 0
    bench.write(offset, 1)
    assert bench.errors() == 0x80


# --- the error status register

def test_esr_shows_what_happened_before_it_was_last_written(bench: Bench) -> None:
    bench.write(ICR, SELF | 0x0F)
    assert bench.read(ESR) == 0
    bench.write(ESR, 0x1234)
    assert bench.read(ESR) == 0x20
    bench.apic.deliver(3, FIXED, False)
    assert bench.read(ESR) == 0x20
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0x40
    bench.write(ESR, 0)
    assert bench.read(ESR) == 0


@pytest.mark.parametrize("vector", [0, 15])
def test_vectors_below_16_are_neither_sent_nor_accepted(bench: Bench, vector: int) -> None:
    assert not bench.apic.deliver(vector, FIXED, False)
    assert not bench.apic.deliver(vector, LOWEST, True)
    bench.write(ICR, SELF | vector)
    assert bench.errors() == 0x60
    assert bench.vectors(IRR) == set()
    bench.raise_vector(16)
    assert bench.vectors(IRR) == {16}


def test_the_first_error_interrupts_and_esr_rearms(bench: Bench) -> None:
    bench.write(LVT_ERROR, 0xE0)
    bench.write(ICR, SELF | 1)
    assert bench.take() == 0xE0
    bench.write(EOI, 0)
    bench.apic.deliver(1, FIXED, False)
    assert not bench.intr
    assert bench.errors() == 0x60
    bench.write(ICR, SELF | 1)
    assert bench.take() == 0xE0


def test_an_error_interrupt_with_an_illegal_vector_is_one_more_error(bench: Bench) -> None:
    bench.write(LVT_ERROR, 0x0F)
    bench.write(ICR, SELF | 1)
    assert bench.errors() == 0x60
    assert not bench.intr


# --- priorities

def test_the_highest_vector_comes_first_and_one_of_each(bench: Bench) -> None:
    bench.raise_vector(0x31, 0x95, 0x31, 0x96)
    assert bench.vectors(IRR) == {0x31, 0x95, 0x96}
    assert bench.take() == 0x96
    assert not bench.intr                       # 0x95 is of the same class
    assert (bench.vectors(IRR), bench.vectors(ISR)) == ({0x31, 0x95}, {0x96})
    bench.raise_vector(0xA0)
    assert bench.take() == 0xA0
    bench.write(EOI, 0)                         # of the highest in service
    assert bench.vectors(ISR) == {0x96}
    bench.write(EOI, 0)
    assert bench.take() == 0x95
    bench.raise_vector(0x95)                    # again while in service: waits
    assert not bench.intr
    bench.write(EOI, 0)
    assert [bench.take(), bench.intr] == [0x95, False]
    bench.write(EOI, 0)
    assert bench.take() == 0x31


def test_eoi_with_nothing_in_service_does_nothing(bench: Bench) -> None:
    bench.raise_vector(0x40, level=True)
    bench.write(EOI, 0)
    assert bench.vectors(IRR) == {0x40}
    assert bench.eois == []


@pytest.mark.parametrize(("tpr", "in_service", "ppr"), [
    (0x00, None, 0x00), (0x35, None, 0x35), (0x35, 0x29, 0x35), (0x35, 0x39, 0x35),
    (0x35, 0x49, 0x40), (0x00, 0xFF, 0xF0), (0x0F, 0x10, 0x10)])
def test_processor_priority(bench: Bench, tpr: int, in_service: int | None, ppr: int) -> None:
    if in_service is not None:
        bench.raise_vector(in_service)
        bench.take()
    bench.write(TPR, tpr)
    assert bench.read(PPR) == ppr


def test_the_task_priority_holds_back_its_class_and_those_below(bench: Bench) -> None:
    bench.write(TPR, 0x40)
    bench.raise_vector(0x3F, 0x4F)
    assert not bench.intr
    bench.write(TPR, 0x3F)
    assert bench.take() == 0x4F
    bench.write(EOI, 0)
    assert not bench.intr
    bench.apic.write_cr8(2)
    assert bench.take() == 0x3F


def test_a_raised_task_priority_takes_intr_back(bench: Bench) -> None:
    bench.raise_vector(0x55)
    assert bench.intr
    bench.write(TPR, 0x50)
    assert not bench.intr
    assert bench.vectors(IRR) == {0x55}


def test_cr8_is_the_class_of_the_task_priority(bench: Bench) -> None:
    bench.write(TPR, 0x5A)
    assert bench.apic.read_cr8() == 5
    bench.apic.write_cr8(9)
    assert bench.read(TPR) == 0x90


# --- level and edge

def test_eoi_of_a_level_interrupt_is_broadcast(bench: Bench) -> None:
    bench.raise_vector(0x60, level=True)
    bench.raise_vector(0x80)
    assert bench.vectors(TMR) == {0x60}
    for _ in range(2):
        bench.take()
        bench.write(EOI, 0)
    assert bench.eois == [0x60]
    bench.raise_vector(0x60)
    assert bench.vectors(TMR) == set()
    bench.take()
    bench.write(EOI, 0)
    assert bench.eois == [0x60]


# --- software disable, global disable

def test_disabled_by_software_it_masks_and_holds(bench: Bench) -> None:
    for offset in LVTS:
        bench.write(offset, 0x50)
    bench.raise_vector(0x70)
    bench.write(SVR, 0xFF)
    assert [bench.read(offset) for offset in LVTS] == [MASKED | 0x50] * 6
    assert not bench.intr
    bench.write(LVT_LINT1, 0x400)
    assert bench.read(LVT_LINT1) == MASKED | 0x400
    assert not bench.apic.deliver(0x71, FIXED, False)
    assert bench.vectors(IRR) == {0x70}
    for mode in (NMI, SMI, INIT):
        assert bench.apic.deliver(0, mode, False)
    assert [name for name, _ in bench.edges] == ["nmi", "smi", "init"]
    bench.write(SVR, 0x1FF)
    assert bench.read(LVT_LINT1) == MASKED | 0x400
    assert bench.take() == 0x70


def test_enabling_asks_for_what_was_refused() -> None:
    bench = Bench(enabled=False)
    assert bench.accepting == 0
    bench.write(SVR, 0x1FF)
    bench.write(SVR, 0x1FE)
    assert bench.accepting == 1


def test_globally_disabled_its_pins_are_intr_and_nmi(bench: Bench) -> None:
    bench.write(TPR, 0x50)
    assert bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | BSP)
    bench.apic.lint(0, True)
    bench.pic_vectors = [0x21]
    assert bench.take() == 0x21
    bench.apic.lint(0, False)
    assert not bench.intr
    bench.apic.lint(1, True)
    bench.apic.lint(1, True)
    bench.apic.lint(1, False)
    assert [name for name, _ in bench.edges] == ["nmi"]
    assert not bench.apic.matches(0, False)
    assert not bench.apic.matches(0xFF, False)


def test_enabled_again_it_is_as_after_reset() -> None:
    bench = used()
    bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | BSP)
    assert bench.pages == [None]
    bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | BSP | ENABLE)
    assert bench.pages == [None, DEFAULT_BASE]
    assert {offset: bench.read(offset) for offset in RESET} == RESET


# --- LINT0 and LINT1

def test_extint_is_the_virtual_wire_of_the_i8259(bench: Bench) -> None:
    """It has no priority: not TPR nor what is in service holds it back."""
    bench.write(LVT_LINT0, EXTINT << 8)
    bench.write(TPR, 0xFF)
    bench.pic_vectors = [0x0F, 0x20]
    bench.apic.lint(0, True)
    assert bench.take() == 0x0F
    assert bench.intr                       # the i8259 has not let go
    assert bench.take() == 0x20
    bench.apic.lint(0, False)
    assert not bench.intr
    assert bench.vectors(ISR) == set()


@pytest.mark.parametrize("svr", [0x1FF, 0xFF])
def test_extint_waits_while_lint0_is_masked(bench: Bench, svr: int) -> None:
    bench.write(SVR, svr)
    bench.write(LVT_LINT0, EXTINT << 8 | MASKED)
    bench.apic.lint(0, True)
    assert not bench.intr
    bench.write(SVR, 0x1FF)
    bench.write(LVT_LINT0, EXTINT << 8)
    assert bench.intr
    bench.write(LVT_LINT0, MASKED)
    assert not bench.intr


def test_extint_comes_before_the_apic_s_own(bench: Bench) -> None:
    bench.write(LVT_LINT0, EXTINT << 8)
    bench.raise_vector(0xF0)
    bench.pic_vectors = [8]
    bench.apic.lint(0, True)
    assert bench.take() == 8
    bench.apic.lint(0, False)
    assert bench.take() == 0xF0


def test_an_extint_message_is_one_acknowledge_cycle(bench: Bench) -> None:
    """The virtual wire through the I/O APIC."""
    bench.pic_vectors = [0x22]
    assert bench.apic.deliver(0, EXTINT, False)
    assert [bench.take(), bench.intr] == [0x22, False]


@pytest.mark.parametrize("pin", [0, 1])
@pytest.mark.parametrize(("mode", "name"), [(NMI, "nmi"), (SMI, "smi"), (INIT, "init")])
def test_lints_can_be_nmi_smi_and_init(bench: Bench, pin: int, mode: int, name: str) -> None:
    lvt = LVT_LINT0 + 16 * pin
    bench.apic.lint(pin, True)
    bench.apic.lint(pin, False)
    bench.write(lvt, mode << 8)
    assert bench.edges == []
    for level in (True, True, False, True):
        bench.apic.lint(pin, level)
    assert [edge for edge, _ in bench.edges] == [name, name]
    bench.write(lvt, mode << 8 | MASKED)
    bench.apic.lint(pin, False)
    bench.apic.lint(pin, True)
    assert len(bench.edges) == 2


@pytest.mark.parametrize("pin", [0, 1])
def test_lints_can_be_edge_interrupts(bench: Bench, pin: int) -> None:
    bench.write(LVT_LINT0 + 16 * pin, 0x66)
    for level in (True, True, False):
        bench.apic.lint(pin, level)
    assert bench.take() == 0x66
    bench.write(EOI, 0)
    assert not bench.intr
    assert bench.eois == []


def test_lint0_level_comes_again_until_it_is_low(bench: Bench) -> None:
    bench.apic.lint(0, True)
    bench.write(LVT_LINT0, LEVEL | 0x44)
    assert bench.read(LVT_LINT0) == LEVEL | REMOTE_IRR | 0x44
    assert bench.take() == 0x44
    assert not bench.intr
    assert bench.vectors(TMR) == {0x44}
    bench.write(EOI, 0)
    assert bench.take() == 0x44
    bench.apic.lint(0, False)
    assert bench.read(LVT_LINT0) & REMOTE_IRR
    bench.write(EOI, 0)
    assert bench.read(LVT_LINT0) == LEVEL | 0x44
    assert not bench.intr


def test_lint0_level_that_goes_before_it_is_taken_can_come_again(bench: Bench) -> None:
    bench.write(LVT_LINT0, LEVEL | 0x44)
    bench.apic.lint(0, True)
    bench.apic.lint(0, False)
    assert not bench.intr
    bench.apic.lint(0, True)
    assert bench.take() == 0x44


# --- interrupt commands

@pytest.mark.parametrize(("command", "outcome"), [
    (SELF | 0x45, 0x45), (ALL | 0x45, 0x45), (OTHERS | 0x45, None), (0x45, 0x45),
    (SELF | LEVEL | 1 << 14 | 0x45, 0x45), (LOWEST << 8 | 0x45, 0x45),
    (ALL | LOWEST << 8 | 0x45, 0x45), (SMI << 8, "smi"), (NMI << 8, "nmi"),
    (NMI << 8 | 0xFF, "nmi"), (SELF | NMI << 8, "nmi"), (ALL | NMI << 8, "nmi"),
    (OTHERS | NMI << 8, None), (INIT << 8 | 1 << 14, "init"),
    (INIT << 8 | LEVEL | 1 << 14, "init"), (INIT << 8 | LEVEL, None),
    (ALL | INIT << 8 | LEVEL, None), (SELF | INIT << 8, "init"), (ALL | INIT << 8, "init"),
    (OTHERS | INIT << 8, None), (SELF | STARTUP << 8 | 0x10, None),
    (STARTUP << 8 | 0x10, None), (3 << 8 | 0x45, None)])
def test_interrupt_commands(bench: Bench, command: int, outcome: object) -> None:
    """To the one processor there is, whose ID is 0; it waits for no start-up message."""
    bench.write(ICR, command)
    got: list[object] = [name for name, _ in bench.edges]
    if bench.intr:
        got.append(bench.take())
    assert got == ([] if outcome is None else [outcome])
    assert bench.vectors(TMR) == set()
    assert bench.errors() == 0


@pytest.mark.parametrize(("dfr", "ldr", "logical", "destination", "named"), [
    (0xF, 0x00, False, 0x03, True), (0xF, 0x00, False, 0x01, False),
    (0xF, 0x00, False, 0xFF, True), (0xF, 0x81, True, 0x80, True),
    (0xF, 0x81, True, 0x7E, False), (0xF, 0x81, True, 0x01, True), (0xF, 0, True, 0x01, False),
    (0xF, 0x00, True, 0xFF, True), (0x0, 0x24, True, 0x24, True), (0x0, 0x24, True, 0x2F, True),
    (0x0, 0x24, True, 0x2B, False), (0x0, 0x24, True, 0x14, False),
    (0x0, 0x24, True, 0xF4, True), (0x0, 0x24, True, 0xFB, False), (0x0, 0x24, True, 0xFF, True),
    (0x0, 0x24, True, 0x00, False)])
def test_destinations(bench: Bench, dfr: int, ldr: int, logical: bool, destination: int,
                      named: bool) -> None:
    bench.write(ID, 3 << 24)
    bench.write(DFR, dfr << 28)
    bench.write(LDR, ldr << 24)
    assert bench.apic.matches(destination, logical) is named
    bench.write(ICR_HIGH, destination << 24 | 0xAB_CDEF)
    bench.write(ICR, 0x45 | (LOGICAL if logical else 0))
    assert bench.intr is named


@pytest.mark.parametrize(("logical", "destination", "named"), [
    (False, 0x25, True), (False, 0x125, False), (False, 0xFF, False), (False, 0xFFFF_FFFF, True),
    (True, 0x2_0020, True), (True, 0x2_FFFF, True), (True, 0x2_FFDF, False),
    (True, 0x1_0020, False), (True, 0x20, False), (True, 0xFFFF_FFFF, True)])
def test_x2apic_destinations(logical: bool, destination: int, named: bool) -> None:
    bench = Bench(apic_id=0x25).to_x2apic()
    assert bench.apic.matches(destination, logical) is named
    assert bench.wrmsr(ICR, destination << 32 | 0x45 | (LOGICAL if logical else 0))
    assert bench.intr is named


# --- the timer

@pytest.mark.parametrize(("code", "divisor"), [
    (0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16), (0b1000, 32), (0b1001, 64),
    (0b1010, 128), (0b1011, 1)])
def test_one_shot(bench: Bench, code: int, divisor: int) -> None:
    bench.write(DIVIDE, code)
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 100)
    assert bench.read(CURRENT) == 100
    bench.tick(40 * divisor * BUS_NS)
    assert bench.read(CURRENT) == 60
    bench.tick(60 * divisor * BUS_NS - 1)
    assert (bench.intr, bench.read(CURRENT)) == (False, 1)
    bench.tick(1)
    assert (bench.take(), bench.read(CURRENT), bench.read(INITIAL)) == (0x50, 0, 100)
    bench.write(EOI, 0)
    bench.tick(1000 * divisor * BUS_NS)
    assert not bench.intr
    assert bench.clock.next_deadline() is None


def test_periodic_keeps_its_beat(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, PERIODIC | 0x50)
    bench.write(INITIAL, 10)
    for _ in range(3):
        bench.tick(9 * BUS_NS)
        assert (bench.intr, bench.read(CURRENT)) == (False, 1)
        bench.tick(BUS_NS)
        assert (bench.take(), bench.read(CURRENT)) == (0x50, 10)
        bench.write(EOI, 0)


def test_periods_that_nobody_served_are_one_interrupt(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, PERIODIC | 0x50)
    bench.write(INITIAL, 10)
    bench.now += 55 * BUS_NS                # the machine was late
    bench.clock.fire_due()
    assert (bench.take(), bench.read(CURRENT)) == (0x50, 5)
    bench.write(EOI, 0)
    bench.tick(4 * BUS_NS)
    assert not bench.intr
    bench.tick(BUS_NS)
    assert bench.intr


def test_initial_count_zero_stops_the_timer(bench: Bench) -> None:
    bench.write(LVT_TIMER, PERIODIC | 0x50)
    bench.write(INITIAL, 10)
    bench.write(INITIAL, 0)
    assert bench.read(CURRENT) == 0
    bench.tick(1_000_000)
    assert not bench.intr


def test_a_new_initial_count_begins_anew(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 100)
    bench.tick(99 * BUS_NS)
    bench.write(INITIAL, 50)
    bench.tick(49 * BUS_NS)
    assert (bench.intr, bench.read(CURRENT)) == (False, 1)
    bench.tick(BUS_NS)
    assert bench.intr


def test_a_count_goes_on_at_a_new_speed(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 100)
    bench.tick(40 * BUS_NS)
    bench.write(DIVIDE, 1)                  # by 4
    assert bench.read(CURRENT) == 60
    bench.tick(4 * 59 * BUS_NS)
    assert (bench.intr, bench.read(CURRENT)) == (False, 1)
    bench.tick(4 * BUS_NS)
    assert bench.intr


def test_a_masked_timer_counts_and_needs_nobody_s_attention(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, MASKED | 0x50)
    bench.write(INITIAL, 100)
    assert bench.clock.next_deadline() is None
    bench.tick(40 * BUS_NS)
    assert bench.read(CURRENT) == 60
    bench.write(LVT_TIMER, 0x50)
    bench.tick(59 * BUS_NS)
    assert not bench.intr
    bench.tick(BUS_NS)
    assert bench.intr


@pytest.mark.parametrize("mode", [0, PERIODIC])
def test_what_ended_while_masked_does_not_interrupt_later(bench: Bench, mode: int) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, mode | MASKED | 0x50)
    bench.write(INITIAL, 100)
    bench.tick(230 * BUS_NS)
    bench.write(LVT_TIMER, mode | 0x50)
    assert not bench.intr
    assert bench.read(CURRENT) == (70 if mode else 0)
    bench.tick(69 * BUS_NS)
    assert not bench.intr
    bench.tick(BUS_NS)
    assert bench.intr is bool(mode)


def test_masking_on_the_fly_holds_the_interrupt_not_the_count(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, PERIODIC | 0x50)
    bench.write(INITIAL, 100)
    bench.tick(50 * BUS_NS)
    bench.write(LVT_TIMER, PERIODIC | MASKED | 0x50)
    bench.tick(75 * BUS_NS)
    assert (bench.intr, bench.read(CURRENT)) == (False, 75)
    bench.write(SVR, 0xFF)
    bench.write(SVR, 0x1FF)
    assert bench.read(CURRENT) == 75


def test_one_shot_becomes_periodic_in_flight_and_back(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 100)
    bench.tick(50 * BUS_NS)
    bench.write(LVT_TIMER, PERIODIC | 0x51)
    bench.tick(50 * BUS_NS)
    assert bench.take() == 0x51
    bench.write(EOI, 0)
    bench.tick(50 * BUS_NS)
    bench.write(LVT_TIMER, 0x52)
    bench.tick(50 * BUS_NS)
    assert bench.take() == 0x52
    bench.write(EOI, 0)
    bench.write(LVT_TIMER, PERIODIC | 0x53)     # the count has ended: not again by itself
    bench.tick(1000 * BUS_NS)
    assert not bench.intr


def test_reset_stops_the_timer(bench: Bench) -> None:
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 1)
    bench.apic.reset()
    bench.write(SVR, 0x1FF)
    bench.tick(1_000_000)
    assert not bench.intr


def test_tsc_deadline(bench: Bench) -> None:
    deadline = bench.tsc_at_zero + 500
    assert bench.apic.write_msr(TSC_DEADLINE, deadline)
    assert bench.apic.read_msr(TSC_DEADLINE) == 0       # in another mode
    bench.write(LVT_TIMER, DEADLINE | 0x58)
    bench.write(INITIAL, 10)
    assert (bench.read(INITIAL), bench.read(CURRENT)) == (0, 0)
    bench.apic.write_msr(TSC_DEADLINE, deadline)
    bench.tick(499)
    assert (bench.intr, bench.apic.read_msr(TSC_DEADLINE)) == (False, deadline)
    bench.tick(1)
    assert (bench.take(), bench.apic.read_msr(TSC_DEADLINE)) == (0x58, 0)
    bench.write(EOI, 0)
    bench.tick(10_000)
    assert not bench.intr


def test_a_tsc_deadline_in_the_past_comes_at_once(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x58)
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero)
    assert bench.take() == 0x58


def test_a_tsc_deadline_can_be_moved_and_taken_back(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x58)
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero + 500)
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero + 900)
    bench.tick(899)
    assert not bench.intr
    bench.apic.write_msr(TSC_DEADLINE, 0)
    bench.tick(1000)
    assert not bench.intr


def test_a_masked_tsc_deadline_passes(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | MASKED | 0x58)
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero + 500)
    bench.tick(600)
    assert (bench.intr, bench.apic.read_msr(TSC_DEADLINE)) == (False, 0)


def test_writing_the_tsc_moves_its_deadline(bench: Bench) -> None:
    bench.write(LVT_TIMER, DEADLINE | 0x58)
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero + 500)
    bench.tsc_at_zero += 400
    bench.apic.tsc_changed()
    bench.tick(100)
    assert bench.take() == 0x58


@pytest.mark.parametrize("mode", [0, PERIODIC])
def test_changing_to_or_from_tsc_deadline_disarms(bench: Bench, mode: int) -> None:
    bench.write(LVT_TIMER, mode | 0x50)
    bench.write(INITIAL, 100)
    bench.write(LVT_TIMER, DEADLINE | 0x50)
    assert bench.read(CURRENT) == 0
    bench.apic.write_msr(TSC_DEADLINE, bench.tsc_at_zero + 500)
    bench.write(LVT_TIMER, mode | 0x50)
    assert bench.apic.read_msr(TSC_DEADLINE) == 0
    bench.tick(1_000_000)
    assert not bench.intr


def test_without_the_feature_there_is_no_tsc_deadline() -> None:
    bench = Bench(tsc_deadline=False)
    assert bench.apic.read_msr(TSC_DEADLINE) is None
    assert not bench.apic.write_msr(TSC_DEADLINE, 1)
    bench.write(LVT_TIMER, DEADLINE | 0x50)
    assert bench.read(LVT_TIMER) == 0x50
    bench.to_x2apic()
    assert not bench.wrmsr(LVT_TIMER, DEADLINE | 0x50)


def test_a_frozen_clock_freezes_the_timer(bench: Bench) -> None:
    bench.write(DIVIDE, 0xB)
    bench.write(LVT_TIMER, 0x50)
    bench.write(INITIAL, 100)
    bench.tick(50 * BUS_NS)
    bench.clock.freeze()
    bench.now += 1_000_000
    bench.clock.fire_due()
    assert (bench.intr, bench.read(CURRENT)) == (False, 50)
    bench.clock.thaw()
    assert (bench.intr, bench.read(CURRENT)) == (False, 50)


# --- IA32_APIC_BASE and x2APIC mode

OFF, XAPIC, X2 = BSP, BSP | ENABLE, BSP | ENABLE | EXTENDED


@pytest.mark.parametrize(("start", "target", "fine"), [
    (XAPIC, XAPIC, True), (XAPIC, X2, True), (XAPIC, OFF, True), (OFF, OFF, True),
    (OFF, XAPIC, True), (OFF, X2, False), (X2, X2, True), (X2, OFF, True), (X2, XAPIC, False),
    (OFF, BSP | EXTENDED, False), (XAPIC, BSP | EXTENDED, False), (X2, BSP | EXTENDED, False),
    (XAPIC, XAPIC | 1, False), (XAPIC, XAPIC | 1 << 7, False), (XAPIC, XAPIC | 1 << 9, False),
    (XAPIC, XAPIC | 1 << 40, False), (XAPIC, XAPIC | 1 << 63, False)])
def test_transitions_of_the_mode(start: int, target: int, fine: bool) -> None:
    """SDM volume 3A, 11.12.5, figure 11-27."""
    bench = Bench()
    assert start == XAPIC or bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | start)
    assert bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | target) is fine
    assert bench.apic.read_msr(APIC_BASE) == DEFAULT_BASE | (target if fine else start)


def test_without_the_feature_there_is_no_x2apic() -> None:
    bench = Bench(x2apic=False)
    assert not bench.apic.write_msr(APIC_BASE, DEFAULT_BASE | X2)
    assert bench.rdmsr(VERSION) is None


def test_the_page_moves_and_is_not_there_in_x2apic_mode(bench: Bench) -> None:
    bench.apic.write_msr(APIC_BASE, 0x1_FED0_0000 | XAPIC)
    bench.apic.write_msr(APIC_BASE, 0x1_FED0_0000 | X2)
    bench.apic.reset()
    assert bench.pages == [0x1_FED0_0000, None, DEFAULT_BASE]


READABLE = {ID, VERSION, TPR, PPR, LDR, SVR, *range(0x100, 0x290, 0x10), ICR, *LVTS, INITIAL,
            CURRENT, DIVIDE}
WRITABLE_MSRS = {TPR: 0xFF, EOI: 0, SVR: 0x1FF, ESR: 0, LVT_TIMER: 0x7_10FF,
                 LVT_THERMAL: 0x1_17FF, LVT_PERF: 0x1_17FF, LVT_LINT0: 0x1_F7FF,
                 LVT_LINT1: 0x1_F7FF, LVT_ERROR: 0x1_10FF, INITIAL: 0xFFFF_FFFF, DIVIDE: 0xB}


@pytest.mark.parametrize("offset", range(0, 0x1000, 0x10))
def test_x2apic_registers_that_can_be_read(offset: int) -> None:
    assert Bench().rdmsr(offset) is None            # in xAPIC mode
    bench = Bench().to_x2apic()
    assert (bench.rdmsr(offset) is not None) is (offset in READABLE)


@pytest.mark.parametrize("offset", sorted(set(range(0, 0x410, 0x10)) - {ICR, 0x3F0}))
def test_x2apic_registers_that_can_be_written(offset: int) -> None:
    """What is read-only or reserved is a general protection fault."""
    allowed = WRITABLE_MSRS.get(offset)
    assert not Bench().wrmsr(offset, 0)             # in xAPIC mode
    for bit in range(64):
        bench = Bench().to_x2apic()
        assert bench.wrmsr(offset, 1 << bit) is (allowed is not None
                                                 and bool(allowed >> bit & 1)), bit
    if allowed is not None:
        assert Bench().to_x2apic().wrmsr(offset, 0)


@pytest.mark.parametrize("bit", range(64))
def test_reserved_bits_of_the_x2apic_icr(bit: int) -> None:
    reserved = bit in (12, 13, 16, 17) or 20 <= bit < 32
    assert Bench().to_x2apic().wrmsr(ICR, OTHERS | 0x40 | 1 << bit) is not reserved


def test_the_x2apic_icr_is_one_register() -> None:
    bench = Bench().to_x2apic()
    assert bench.wrmsr(ICR, 0x1234_5678_0000_0045)
    assert bench.rdmsr(ICR) == 0x1234_5678_0000_0045


def test_self_ipi() -> None:
    bench = Bench().to_x2apic()
    assert bench.wrmsr(0x3F0, 0x61)
    assert bench.take() == 0x61
    assert not bench.wrmsr(0x3F0, 0x100)
    assert bench.rdmsr(0x3F0) is None
    assert bench.wrmsr(0x3F0, 0x0F)
    assert bench.wrmsr(ESR, 0)
    assert bench.rdmsr(ESR) == 0x20


@pytest.mark.parametrize(("apic_id", "ldr"), [(0, 1), (5, 0x20), (0x25, 0x2_0020)])
def test_x2apic_ids_are_fixed_and_the_logical_one_follows(apic_id: int, ldr: int) -> None:
    bench = Bench(apic_id=apic_id)
    bench.write(ID, 0x7700_0000)
    bench.write(LDR, 0x8800_0000)
    bench.write(TPR, 0x30)
    bench.to_x2apic()
    assert (bench.rdmsr(ID), bench.rdmsr(LDR), bench.rdmsr(TPR)) == (apic_id, ldr, 0x30)
    assert bench.rdmsr(SVR) == 0x1FF


# --- fuzz

def test_random_accesses_keep_the_output_true() -> None:
    """INTR is high exactly while something can be taken, whatever software does."""
    import random

    dice = random.Random(7)
    offsets = [*RESET, ICR, ICR, EOI, EOI, TPR, SVR]
    for _ in range(30):
        bench = Bench()
        for _ in range(300):
            offset = dice.choice(offsets)
            value = dice.getrandbits(32)
            if offset == SVR:
                value |= 0x100 if dice.random() < 0.8 else 0
            if offset == INITIAL:
                value &= 0xFF
            bench.write(offset, value)
            bench.apic.lint(dice.randrange(2), dice.random() < 0.5)
            bench.tick(dice.randrange(2000))
            if bench.intr and dice.random() < 0.7:
                bench.pic_vectors = [0x20]
                assert 0 <= bench.apic.acknowledge() < 0x100
            pending = bench.vectors(IRR)
            priority = bench.read(PPR) >> 4
            lint0 = bench.read(LVT_LINT0)
            extint = bench.apic.state.pins[0] and not lint0 & MASKED and lint0 >> 8 & 7 == EXTINT
            enabled = bool(bench.read(SVR) & 0x100)
            assert bench.intr is bool(
                extint or bench.apic.state.extint
                or enabled and any(vector >> 4 > priority for vector in pending))
