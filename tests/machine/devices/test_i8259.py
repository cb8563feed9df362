"""The interrupt controllers, driven through their ports and inputs alone."""

from __future__ import annotations

import itertools

import pytest

from machine.devices.i8259 import I8259Pair

MASTER, SLAVE = 0x20, 0xA0
EOI, ROTATE_EOI = 0x20, 0xA0
SPECIFIC_EOI, ROTATE_SPECIFIC_EOI, SET_PRIORITY = 0x60, 0xE0, 0xC0
READ_IRR, READ_ISR, POLL = 0x0A, 0x0B, 0x0C
SPECIAL_MASK, NO_SPECIAL_MASK = 0x68, 0x48


class Bench:
    """A pair with its ports at their PC addresses and its INT recorded."""

    def __init__(self, *, icw4: int = 0x01, slave_icw4: int = 0x01) -> None:
        self.levels: list[bool] = []
        self.pic = I8259Pair(output=self.levels.append)
        self.lines = {irq: self.pic.line(irq) for irq in range(16) if irq != 2}
        self.initialise(MASTER, 0x08, icw4)
        self.initialise(SLAVE, 0x70, slave_icw4)

    def initialise(self, port: int, base: int, icw4: int = 0x01, icw1: int = 0x11) -> None:
        self.out(port, icw1)
        self.out(port + 1, base)
        self.out(port + 1, 4 if port == MASTER else 2)
        self.out(port + 1, icw4)

    def out(self, port: int, value: int) -> None:
        if port < 0x80:
            self.pic.master_write(port - MASTER, value, 1)
        elif port < 0x100:
            self.pic.slave_write(port - SLAVE, value, 1)
        else:
            self.pic.elcr_write(port - 0x4D0, value, 1)

    def inp(self, port: int) -> int:
        if port < 0x80:
            return self.pic.master_read(port - MASTER, 1)
        if port < 0x100:
            return self.pic.slave_read(port - SLAVE, 1)
        return self.pic.elcr_read(port - 0x4D0, 1)

    def irr(self, port: int) -> int:
        self.out(port, READ_IRR)
        return self.inp(port)

    def isr(self, port: int) -> int:
        self.out(port, READ_ISR)
        return self.inp(port)

    def pulse(self, irq: int) -> None:
        self.lines[irq](True)
        self.lines[irq](False)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_edge_raises_int_and_is_acknowledged_with_the_base_plus_the_input(bench: Bench) -> None:
    bench.lines[4](True)
    assert bench.levels == [True] and bench.pic.output_level and bench.pic.pending
    assert bench.pic.acknowledge() == 0x0C
    assert bench.levels == [True, False] and not bench.pic.pending
    assert bench.isr(MASTER) == 0x10
    assert bench.irr(MASTER) == 0x00


@pytest.mark.parametrize("irq", [irq for irq in range(16) if irq != 2])
def test_each_input_has_its_vector(bench: Bench, irq: int) -> None:
    bench.lines[irq](True)
    assert bench.pic.acknowledge() == (0x08 + irq if irq < 8 else 0x70 + irq - 8)


@pytest.mark.parametrize("irq", [-1, 2, 16])
def test_there_is_no_line_to_the_cascade_or_beyond(bench: Bench, irq: int) -> None:
    with pytest.raises(ValueError, match="no interrupt input"):
        bench.pic.line(irq)


def test_an_edge_input_needs_a_new_edge_for_a_new_request(bench: Bench) -> None:
    bench.lines[4](True)
    bench.pic.acknowledge()
    bench.out(MASTER, EOI)
    bench.lines[4](True)
    assert not bench.pic.pending
    bench.lines[4](False)
    bench.lines[4](True)
    assert bench.pic.pending


def test_an_edge_request_outlives_the_line(bench: Bench) -> None:
    bench.pulse(3)
    assert bench.irr(MASTER) == 0x08
    assert bench.pic.acknowledge() == 0x0B


def test_a_level_input_requests_as_long_as_it_is_high(bench: Bench) -> None:
    bench.out(0x4D1, 0x08)                      # IRQ 11
    bench.lines[11](True)
    assert bench.pic.acknowledge() == 0x73
    assert not bench.pic.pending                # in service
    bench.out(SLAVE, EOI)
    bench.out(MASTER, EOI)
    assert bench.pic.pending
    bench.lines[11](False)
    assert bench.irr(SLAVE) == 0


def test_a_level_line_that_falls_in_time_takes_int_down(bench: Bench) -> None:
    bench.out(0x4D0, 0x20)
    bench.lines[5](True)
    bench.lines[5](False)
    assert bench.levels == [True, False]


def test_ltim_makes_every_input_a_level_input(bench: Bench) -> None:
    bench.initialise(MASTER, 0x08, icw1=0x19)
    bench.lines[4](True)
    bench.pic.acknowledge()
    bench.out(MASTER, EOI)
    assert bench.pic.pending
    bench.lines[4](False)
    assert not bench.pic.pending


def test_elcr_keeps_what_can_be_a_level_input(bench: Bench) -> None:
    bench.out(0x4D0, 0xFF)
    bench.out(0x4D1, 0xFF)
    assert (bench.inp(0x4D0), bench.inp(0x4D1)) == (0xF8, 0xDE)


def test_elcr_survives_an_initialisation(bench: Bench) -> None:
    bench.out(0x4D1, 0x0C)
    bench.initialise(SLAVE, 0x70)
    assert bench.inp(0x4D1) == 0x0C


def test_a_mask_holds_the_request_back_until_it_goes(bench: Bench) -> None:
    bench.out(MASTER + 1, 0x10)
    bench.lines[4](True)
    assert bench.levels == [] and bench.irr(MASTER) == 0x10
    assert bench.inp(MASTER + 1) == 0x10
    bench.out(MASTER + 1, 0x00)
    assert bench.levels == [True]


def test_the_lower_input_goes_first_and_blocks_what_is_below(bench: Bench) -> None:
    for irq in (6, 1, 4):
        bench.lines[irq](True)
    vectors = []
    while bench.pic.pending:
        vectors.append(bench.pic.acknowledge())
        assert not bench.pic.pending
        bench.out(MASTER, EOI)
    assert vectors == [0x09, 0x0C, 0x0E]


def test_a_higher_input_interrupts_the_service_of_a_lower_one(bench: Bench) -> None:
    bench.lines[4](True)
    bench.pic.acknowledge()
    bench.lines[0](True)
    assert bench.pic.acknowledge() == 0x08
    assert bench.isr(MASTER) == 0x11
    bench.out(MASTER, EOI)                      # ends the higher one
    assert bench.isr(MASTER) == 0x10


def test_a_specific_eoi_ends_the_named_level(bench: Bench) -> None:
    bench.lines[4](True)
    bench.pic.acknowledge()
    bench.lines[0](True)
    bench.pic.acknowledge()
    bench.out(MASTER, SPECIFIC_EOI | 4)
    assert bench.isr(MASTER) == 0x01


def test_an_eoi_with_nothing_in_service_does_nothing(bench: Bench) -> None:
    bench.out(MASTER, EOI)
    bench.out(MASTER, ROTATE_EOI)
    assert bench.isr(MASTER) == 0
    assert bench.pic.state.first == [0, 0]


def test_the_slave_needs_an_eoi_for_each_chip(bench: Bench) -> None:
    bench.lines[8](True)
    bench.lines[9](True)
    assert bench.pic.acknowledge() == 0x70
    assert (bench.isr(MASTER), bench.isr(SLAVE)) == (0x04, 0x01)
    bench.out(SLAVE, EOI)
    assert not bench.pic.pending                # the master still serves the cascade
    bench.out(MASTER, EOI)
    assert bench.pic.acknowledge() == 0x71


def test_the_slave_stands_between_irq_1_and_irq_3(bench: Bench) -> None:
    for irq in (3, 15, 1):
        bench.lines[irq](True)
    order = []
    while bench.pic.pending:
        vector = bench.pic.acknowledge()
        order.append(vector)
        if vector >= 0x70:
            bench.out(SLAVE, EOI)
        bench.out(MASTER, EOI)
    assert order == [0x09, 0x77, 0x0B]


def test_the_slave_mask_takes_its_request_from_the_processor(bench: Bench) -> None:
    bench.lines[10](True)
    bench.out(SLAVE + 1, 0xFF)
    # the master has latched the edge of the cascade: what comes is spurious
    assert bench.pic.acknowledge() == 0x77
    assert bench.isr(SLAVE) == 0 and bench.isr(MASTER) == 0x04


def test_an_acknowledge_without_a_request_is_spurious(bench: Bench) -> None:
    assert bench.pic.acknowledge() == 0x0F
    assert bench.isr(MASTER) == 0


def test_special_fully_nested_mode_lets_the_slave_interrupt_itself() -> None:
    for icw4, nests in ((0x01, False), (0x11, True)):
        bench = Bench(icw4=icw4)
        bench.lines[12](True)
        bench.pic.acknowledge()
        bench.lines[8](True)
        assert bench.pic.pending is nests


def test_special_mask_mode_lets_lower_inputs_through(bench: Bench) -> None:
    bench.lines[3](True)
    bench.pic.acknowledge()
    bench.lines[6](True)
    bench.out(MASTER + 1, 0x08)
    assert not bench.pic.pending
    bench.out(MASTER, SPECIAL_MASK)
    assert bench.pic.pending
    assert bench.pic.acknowledge() == 0x0E
    bench.out(MASTER, SPECIFIC_EOI | 6)
    bench.lines[6](False)
    bench.lines[6](True)
    bench.out(MASTER, NO_SPECIAL_MASK)
    assert not bench.pic.pending


def test_automatic_eoi_leaves_nothing_in_service() -> None:
    bench = Bench(icw4=0x03)
    bench.lines[4](True)
    bench.pic.acknowledge()
    assert bench.isr(MASTER) == 0
    bench.lines[7](True)
    assert bench.pic.pending


def test_rotation_in_automatic_eoi_serves_in_turn() -> None:
    bench = Bench(icw4=0x03)
    bench.out(MASTER, 0x80)
    vectors = []
    for _ in range(4):
        for irq in (0, 1):
            bench.pulse(irq)
        vectors.append(bench.pic.acknowledge())
    assert vectors == [0x08, 0x09, 0x08, 0x09]
    bench.out(MASTER, 0x00)
    bench.out(MASTER, SET_PRIORITY | 7)
    vectors = []
    for _ in range(3):
        bench.pulse(0)
        bench.pulse(1)
        vectors.append(bench.pic.acknowledge())
    assert vectors == [0x08, 0x08, 0x08]


def test_a_slave_in_automatic_eoi_delivers_all_that_wait() -> None:
    bench = Bench(icw4=0x03, slave_icw4=0x03)
    for irq in (8, 11, 13):
        bench.pulse(irq)
    assert [bench.pic.acknowledge() for _ in range(3)] == [0x70, 0x73, 0x75]
    assert not bench.pic.pending


def test_rotate_on_eoi_makes_the_served_input_the_last(bench: Bench) -> None:
    bench.lines[3](True)
    bench.pic.acknowledge()
    bench.out(MASTER, ROTATE_EOI)
    bench.pulse(3)
    bench.pulse(4)
    assert bench.pic.acknowledge() == 0x0C


def test_rotate_on_specific_eoi(bench: Bench) -> None:
    bench.lines[5](True)
    bench.pic.acknowledge()
    bench.out(MASTER, ROTATE_SPECIFIC_EOI | 5)
    assert bench.isr(MASTER) == 0
    bench.pulse(5)
    bench.pulse(7)
    assert bench.pic.acknowledge() == 0x0F


def test_set_priority_names_the_lowest(bench: Bench) -> None:
    bench.out(MASTER, SET_PRIORITY | 3)
    for irq in (0, 3, 4, 7):
        bench.pulse(irq)
    order = []
    while bench.pic.pending:
        order.append(bench.pic.acknowledge() - 8)
        bench.out(MASTER, EOI)
    assert order == [4, 7, 0, 3]


@pytest.mark.parametrize(("lowest", "serviced", "asking"), list(itertools.product(
    range(8), (0, 4, 7), (1, 4, 6))))
def test_rotated_priorities_nest_by_distance(lowest: int, serviced: int, asking: int) -> None:
    bench = Bench()
    bench.lines[serviced](True)
    bench.pic.acknowledge()
    bench.lines[serviced](False)
    bench.out(MASTER, SET_PRIORITY | lowest)
    bench.lines[asking](True)

    def rank(irq: int) -> int:
        return (irq - lowest - 1) % 8

    assert bench.pic.pending == (rank(asking) < rank(serviced))


def test_a_poll_acknowledges_and_tells_the_input(bench: Bench) -> None:
    bench.lines[5](True)
    bench.out(MASTER, POLL)
    assert bench.inp(MASTER) == 0x85
    assert bench.isr(MASTER) == 0x20
    assert bench.levels == [True, False]


def test_a_poll_byte_comes_from_either_port_and_only_once(bench: Bench) -> None:
    bench.out(MASTER + 1, 0x40)
    bench.lines[1](True)
    bench.out(MASTER, POLL)
    assert bench.inp(MASTER + 1) == 0x81
    assert bench.inp(MASTER + 1) == 0x40


def test_a_poll_with_nothing_to_tell_is_zero(bench: Bench) -> None:
    bench.out(SLAVE, POLL)
    assert bench.inp(SLAVE) == 0


def test_icw1_clears_what_was_set_up(bench: Bench) -> None:
    bench.out(MASTER + 1, 0xFF)
    bench.out(MASTER, SET_PRIORITY | 3)
    bench.lines[4](True)
    bench.out(MASTER, 0x11)
    assert bench.inp(MASTER) == 0               # IRR, whatever was selected before
    assert bench.inp(MASTER + 1) == 0
    assert bench.pic.state.first[0] == 0


def test_icw1_without_icw4_ends_after_icw3(bench: Bench) -> None:
    bench.out(MASTER, 0x10)
    bench.out(MASTER + 1, 0x20)
    bench.out(MASTER + 1, 0x04)
    bench.out(MASTER + 1, 0xA5)                 # OCW1 already
    assert bench.inp(MASTER + 1) == 0xA5


def test_a_single_chip_has_no_icw3(bench: Bench) -> None:
    bench.out(MASTER, 0x12)
    bench.out(MASTER + 1, 0x20)
    bench.out(MASTER + 1, 0xA5)
    assert bench.inp(MASTER + 1) == 0xA5


def test_the_vector_base_has_five_bits(bench: Bench) -> None:
    bench.initialise(MASTER, 0x37)
    bench.lines[0](True)
    assert bench.pic.acknowledge() == 0x30


def test_a_line_that_was_high_at_icw1_makes_no_edge(bench: Bench) -> None:
    bench.lines[4](True)
    bench.initialise(MASTER, 0x08)
    assert not bench.pic.pending
    bench.lines[4](False)
    bench.lines[4](True)
    assert bench.pic.pending


def test_reset_drops_int_and_the_elcr(bench: Bench) -> None:
    bench.out(0x4D0, 0xF8)
    bench.lines[5](True)
    bench.pic.reset()
    assert bench.levels == [True, False]
    assert bench.inp(0x4D0) == 0
    assert not bench.pic.pending and bench.irr(MASTER) == 0


def test_int_is_told_only_when_it_changes(bench: Bench) -> None:
    for irq in (1, 3, 4):
        bench.lines[irq](True)
        bench.lines[irq](True)
    assert bench.levels == [True]
