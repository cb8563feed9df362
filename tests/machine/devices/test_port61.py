"""Port 0x61: what is kept, what toggles, what goes through to the timer."""

from __future__ import annotations

from machine.devices.port61 import SystemControlPortB


class Bench:
    def __init__(self) -> None:
        self.gates: list[bool] = []
        self.out2 = False
        self.port = SystemControlPortB(pit_output=lambda: self.out2,
                                       pit_gate=self.gates.append)


def test_the_gate_and_the_data_bit_read_back() -> None:
    bench = Bench()
    for value in (0, 1, 2, 3):
        bench.port.write(0, value, 1)
        assert bench.port.read(0, 1) & 0x0F == value
    assert bench.gates == [False, True, False, True]


def test_other_bits_are_not_kept() -> None:
    bench = Bench()
    bench.port.write(0, 0xFC, 1)
    assert bench.port.read(0, 1) & ~0x10 == 0


def test_refresh_toggles_with_each_read() -> None:
    bench = Bench()
    assert [bench.port.read(0, 1) for _ in range(4)] == [0x10, 0x00, 0x10, 0x00]


def test_bit_5_follows_the_timer() -> None:
    bench = Bench()
    assert bench.port.read(0, 1) & 0x20 == 0
    bench.out2 = True
    assert bench.port.read(0, 1) & 0x20


def test_reset_closes_the_gate_and_keeps_the_data_bit() -> None:
    bench = Bench()
    bench.port.write(0, 3, 1)
    bench.port.reset()
    assert bench.gates[-1] is False
    assert bench.port.read(0, 1) & 3 == 2
