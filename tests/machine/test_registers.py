"""`info registers` in every mode, against texts that QEMU 10.0.2 printed."""

from __future__ import annotations

import pytest

from machine.registers import info_registers, register_value
from tests.monitor.fake_machine import FakeCpu, FakeSegment

PE, LMA, CS64, SMM, INHIBIT = 1 << 7, 1 << 14, 1 << 15, 1 << 19, 1 << 3
DESCRIPTORS = {"gdt": FakeSegment(0, 0xF08D8, 0x1F, 0), "idt": FakeSegment(0, 0, 0xFFFF, 0)}
FPU = {"fpcw": 0x37F, "fpsw": 0, "fptag": 0xFFFF, "mxcsr": 0x1F80}
DEBUG = {"dr6": 0xFFFF0FF0, "dr7": 0x400}
GENERAL = {
    "rax": 0x11111111, "rbx": 0x22222222, "rcx": 0x33333333, "rdx": 0x44444444,
    "rsi": 0x55555555, "rdi": 0x66666666, "rbp": 0x77777777, "rsp": 0x6FF0,
}

EMPTY_FPU = """\
FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80
FPR0=0000000000000000 0000 FPR1=0000000000000000 0000
FPR2=0000000000000000 0000 FPR3=0000000000000000 0000
FPR4=0000000000000000 0000 FPR5=0000000000000000 0000
FPR6=0000000000000000 0000 FPR7=0000000000000000 0000
"""
EMPTY_XMM = """\
XMM00=0000000000000000 0000000000000000 XMM01=0000000000000000 0000000000000000
XMM02=0000000000000000 0000000000000000 XMM03=0000000000000000 0000000000000000
XMM04=0000000000000000 0000000000000000 XMM05=0000000000000000 0000000000000000
XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 0000000000000000
"""

REAL = """
CPU#0
EAX=11111111 EBX=22222222 ECX=33333333 EDX=44444444
ESI=55555555 EDI=66666666 EBP=77777777 ESP=00006ff0
EIP=0000063b EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0000 00000000 0000ffff 00009300
CS =f000 000f0000 0000ffff 00009b00
SS =0000 00000000 0000ffff 00009300
DS =0000 00000000 0000ffff 00009300
FS =0000 00000000 ffffffff 00cf9300
GS =0000 00000000 0000ffff 00009300
LDT=0000 00000000 0000ffff 00008200
TR =0000 00000000 0000ffff 00008b00
GDT=     000f08d8 0000001f
IDT=     00000000 0000ffff
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000\x20
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000000
""" + EMPTY_FPU + EMPTY_XMM

PROTECTED = """
CPU#0
EAX=11111111 EBX=22222222 ECX=33333333 EDX=44444444
ESI=55555555 EDI=66666666 EBP=77777777 ESP=00006ff0
EIP=000f0709 EFL=00000086 [--S--P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 00000000 ffffffff 00cf9b00 DPL=0 CS32 [-RA]
SS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
DS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
FS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
GS =0010 00000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
LDT=0000 00000000 0000ffff 00008200 DPL=0 LDT
TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS32-busy
GDT=     000f08d8 0000001f
IDT=     00000000 0000ffff
CR0=e0000011 CR2=00000000 CR3=00009000 CR4=00000090
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000\x20
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000000
""" + EMPTY_FPU + EMPTY_XMM

LONG = """
CPU#0
RAX=1111111122222222 RBX=3333333344444444 RCX=5555555566666666 RDX=7777777788888888
RSI=9999999999999999 RDI=aaaaaaaaaaaaaaaa RBP=bbbbbbbbbbbbbbbb RSP=0000000000006ff0
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R11=000000000000000b
R12=000000000000000c R13=000000000000000d R14=000000000000000e R15=000000000000000f
RIP=00000000000f0891 RFL=00000086 [--S--P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0018 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
SS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
DS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
FS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
GS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
LDT=0000 0000000000000000 0000ffff 00008200 DPL=0 LDT
TR =0000 0000000000000000 0000ffff 00008b00 DPL=0 TSS64-busy
GDT=     00000000000f08d8 0000001f
IDT=     0000000000000000 0000ffff
CR0=e0000011 CR2=0000000000000000 CR3=0000000000009000 CR4=000000a0
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000\x20
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000d00
""" + EMPTY_FPU + EMPTY_XMM + """\
XMM08=0000000000000000 0000000000000000 XMM09=0000000000000000 0000000000000000
XMM10=0000000000000000 0000000000000000 XMM11=0000000000000000 0000000000000000
XMM12=0000000000000000 0000000000000000 XMM13=0000000000000000 0000000000000000
XMM14=0000000000000000 0000000000000000 XMM15=0000000000000000 0000000000000000
"""


def real_mode() -> FakeCpu:
    return FakeCpu(
        GENERAL | FPU | DEBUG | {"rip": 0x63B, "eflags": 2, "cr0": 0x60000010},
        DESCRIPTORS
        | {
            "cs": FakeSegment(0xF000, 0xF0000, 0xFFFF, 0x9B00),
            "fs": FakeSegment(0, 0, 0xFFFFFFFF, 0xCF9300),
            "ldt": FakeSegment(0, 0, 0xFFFF, 0x8200),
            "tr": FakeSegment(0, 0, 0xFFFF, 0x8B00),
        },
        halted=True,
    )


def protected_mode(code: FakeSegment | None = None) -> FakeCpu:
    data = FakeSegment(0x10, 0, 0xFFFFFFFF, 0xCF9300)
    return FakeCpu(
        GENERAL | FPU | DEBUG
        | {
            "rip": 0xF0709, "eflags": 0x86, "cr0": 0xE0000011, "cr3": 0x9000, "cr4": 0x90,
            "hflags": PE,
        },
        DESCRIPTORS
        | dict.fromkeys(("es", "ss", "ds", "fs", "gs"), data)
        | {
            "cs": code or FakeSegment(8, 0, 0xFFFFFFFF, 0xCF9B00),
            "ldt": FakeSegment(0, 0, 0xFFFF, 0x8200),
            "tr": FakeSegment(0, 0, 0xFFFF, 0x8B00),
        },
        halted=True,
    )


def long_mode() -> FakeCpu:
    cpu = protected_mode(FakeSegment(0x18, 0, 0xFFFFFFFF, 0xAF9B00))
    cpu.registers |= {
        "rax": 0x1111111122222222, "rbx": 0x3333333344444444, "rcx": 0x5555555566666666,
        "rdx": 0x7777777788888888, "rsi": 0x9999999999999999, "rdi": 0xAAAAAAAAAAAAAAAA,
        "rbp": 0xBBBBBBBBBBBBBBBB, "rip": 0xF0891, "cr4": 0xA0, "efer": 0xD00,
        "hflags": PE | LMA | CS64, **{f"r{number}": number for number in range(8, 16)},
    }
    return cpu


def line_of(text: str, start: str) -> str:
    return next(line for line in text.split("\n") if line.startswith(start))


@pytest.mark.parametrize(
    ("cpu", "text"),
    [(real_mode(), REAL), (protected_mode(), PROTECTED), (long_mode(), LONG)],
    ids=["real", "protected", "long"],
)
def test_the_text_is_that_of_qemu(cpu: FakeCpu, text: str) -> None:
    assert info_registers(cpu) == text


def test_compatibility_mode_has_narrow_registers_and_wide_tables() -> None:
    cpu = long_mode()
    cpu.registers["hflags"] = PE | LMA
    text = info_registers(cpu)
    assert line_of(text, "EAX") == "EAX=22222222 EBX=44444444 ECX=66666666 EDX=88888888"
    assert line_of(text, "GDT") == "GDT=     00000000000f08d8 0000001f"
    assert line_of(text, "TR ") == "TR =0000 00000000 0000ffff 00008b00 DPL=0 TSS64-busy"
    assert "XMM08" not in text


def test_the_flags_word() -> None:
    cpu = real_mode()
    cpu.registers |= {"eflags": 0xCD7, "hflags": 3 | INHIBIT | SMM}
    cpu.halted, cpu.a20 = False, False
    assert line_of(info_registers(cpu), "EIP") == (
        "EIP=0000063b EFL=00000cd7 [DOSZAPC] CPL=3 II=1 A20=0 SMM=1 HLT=0"
    )


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (0x0000FA00, "DPL=3 CS16 [-R-]"),
        (0x00409C00, "DPL=0 CS32 [C--]"),
        (0x00009600, "DPL=0 DS16 [EW-]"),
        (0x00008900, "DPL=0 TSS32-avl"),
        (0x00008500, "DPL=0 TaskGate"),
        (0x00001300, ""),  # not present: not explained
    ],
)
def test_descriptors_are_explained(flags: int, text: str) -> None:
    cpu = protected_mode()
    cpu.segments["gs"] = FakeSegment(0x2B, 0, 0xFFFF, flags)
    shown = f"GS =002b 00000000 0000ffff {flags:08x}"
    assert line_of(info_registers(cpu), "GS ") == f"{shown} {text}".rstrip()


def test_floating_point_registers_are_shown_by_their_physical_number() -> None:
    # FNINIT, FLD1, FLDPI, FLDZ: the last one is ST(0), and physical register 5.
    cpu = real_mode()
    cpu.registers |= {"fpsw": 0x2800, "fptag": 0b00_00_01_11_11_11_11_11}
    cpu.stack = {1: (0xC90FDAA22168C235, 0x4000), 2: (1 << 63, 0x3FFF)}
    cpu.xmm_registers = {1: 0x12345678, 2: 0x1234567800000000 << 64}
    text = info_registers(cpu)
    assert line_of(text, "FCW") == "FCW=037f FSW=2800 [ST=5] FTW=e0 MXCSR=00001f80"
    assert line_of(text, "FPR4") == "FPR4=0000000000000000 0000 FPR5=0000000000000000 0000"
    assert line_of(text, "FPR6") == "FPR6=c90fdaa22168c235 4000 FPR7=8000000000000000 3fff"
    assert line_of(text, "XMM00").endswith("XMM01=0000000000000000 0000000012345678")
    assert line_of(text, "XMM02").startswith("XMM02=1234567800000000 0000000000000000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eax", 0x1111111122222222),
        ("sp", 0x6FF0),
        ("fp", 0xBBBBBBBBBBBBBBBB),
        ("eip", 0xF0891),
        ("pc", 0xF0891),
        ("r15", 15),
        ("cs", 0x18),
        ("cs.base", 0),
        ("ds.limit", -1),
        ("rax", None),
        ("r16", None),
        ("cs.", None),
        ("cs.flags", None),
        ("", None),
    ],
)
def test_registers_in_expressions(name: str, value: int | None) -> None:
    assert register_value(long_mode(), name) == value


def test_pc_is_a_linear_address() -> None:
    assert register_value(real_mode(), "pc") == 0xF063B
