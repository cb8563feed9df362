"""The debug console."""

from __future__ import annotations

from machine.devices.debugcon import DEFAULT_IOBASE, DebugCon
from machine.ports import PortBus


def test_prints_each_byte() -> None:
    out: list[bytes] = []
    console = DebugCon(write=out.append)
    for byte in b"Hi\n\xff":
        console.write(0, byte, 1)
    assert b"".join(out) == b"Hi\n\xff"


def test_reads_e9_unless_told() -> None:
    assert DebugCon(write=lambda data: None).read(0, 1) == 0xE9
    assert DebugCon(write=lambda data: None, readback=0x42).read(0, 1) == 0x42


def test_a_wide_access_reaches_it_with_one_byte() -> None:
    out: list[bytes] = []
    console = DebugCon(write=out.append)
    ports = PortBus()
    ports.add(0x402, 1, console.read, console.write)
    ports.write(0x402, 0x4243, 2)
    ports.write(0x402, 0x44454647, 4)
    ports.write(0x401, 0x4849, 2)
    assert out == [b"C", b"G", b"H"]
    assert ports.read(0x402, 2) == 0xFFE9
    assert ports.read(0x402, 4) == 0xFFFFFFE9
    assert ports.read(0x401, 4) == 0xFFFFE9FF


def test_a_reset_changes_nothing() -> None:
    out: list[bytes] = []
    console = DebugCon(write=out.append)
    console.reset()
    console.write(0, 0x41, 1)
    assert out == [b"A"]


def test_default_port() -> None:
    assert DEFAULT_IOBASE == 0xE9
