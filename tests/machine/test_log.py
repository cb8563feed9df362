"""The log: which lines there are, how they look, and where they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from machine import Machine
from machine.disassembly import Disassembler
from machine.log import LogError, Range, check_file, help_text, parse_filter, parse_items
from machine.registers import FLAG_LETTERS
from tests.asm import asm

ONE = ["exec", "nochain"]


def run(code: str, folder: Path, items: list[str], *, one: bool = True,
        log_filter: str | None = None) -> list[str]:
    """The log's lines of 16-bit code at 0xf0000, up to its HLT."""
    rom = bytearray(b"\xf4" * 0x10000)
    body = asm(code + "\nhlt", org=0)
    rom[:len(body)] = body
    rom[0xFFF0:0xFFF5] = b"\xea\0\0\0\xf0"
    path = folder / "log"
    machine = Machine(bios=bytes(rom), ram_mb=16, one_insn_per_tb=one, log_file=str(path),
                      log_items=frozenset(items), log_filter=log_filter)
    machine.run_until(lambda: machine.cpu.halted, limit_ns=10**9)
    machine.close()
    return path.read_text().splitlines()


def places(lines: list[str]) -> list[int]:
    """The addresses that `exec` tells."""
    return [int(line.split("/")[1], 16) for line in lines if line.startswith("Trace")]


def test_each_instruction_is_there_once_in_order(tmp_path: Path) -> None:
    lines = run("mov cx, 2\nagain: inc ax\nloop again", tmp_path, ONE)
    assert places(lines) == [0xFFFFFFF0, 0xF0000, 0xF0003, 0xF0004, 0xF0003, 0xF0004, 0xF0006]
    assert lines[1].endswith(" [000f0000/00000000000f0000/00000040/ff020201] ")


def test_the_rounds_of_a_repeated_string_instruction_are_one_execution(tmp_path: Path) -> None:
    lines = run("mov cx, 5\nrep lodsb\nmov cx, 0\nrep lodsb", tmp_path, ONE)
    assert places(lines)[1:] == [0xF0000, 0xF0003, 0xF0005, 0xF0008, 0xF000A]


def test_a_long_repetition_shows_again_once_in_65536_rounds(tmp_path: Path) -> None:
    lines = run("mov ecx, 131075\na32 rep lodsb", tmp_path, ONE)
    assert places(lines)[1:] == [0xF0000, 0xF0006, 0xF0006, 0xF0006, 0xF0009]
    assert [line.split("/")[2] for line in lines[2:5]] == ["00000040", "00010040", "00010040"]


def test_a_jump_to_itself_is_no_repetition(tmp_path: Path) -> None:
    lines = run("mov cx, 3\nself: loop self", tmp_path, ONE)
    assert places(lines)[1:] == [0xF0000, 0xF0003, 0xF0003, 0xF0003, 0xF0005]


def test_a_block_that_jumps_to_its_beginning_is_told_each_time(tmp_path: Path) -> None:
    lines = run("mov cx, 3\njmp again\nagain: inc ax\nloop again", tmp_path, ONE, one=False)
    assert places(lines)[1:] == [0xF0000, 0xF0005, 0xF0005, 0xF0005, 0xF0008]


def test_the_registers_follow_each_line(tmp_path: Path) -> None:
    lines = run("add ax, 2\nnop\nxor ax, ax\nnop", tmp_path, ["exec", "cpu", "nochain"])
    flags = [line for line in lines if line.startswith("CCS=")]
    assert [(line[:12], line.split("CCO=")[1]) for line in flags[1:]] == [
        ("CCS=00000000", "EFLAGS"), ("CCS=00000002", "ADDW"), ("CCS=00000002", "ADDW"),
        ("CCS=00000044", "EFLAGS"), ("CCS=00000044", "EFLAGS")]
    assert len(lines) == 6 * 19


def test_code_is_shown_before_it_is_run_first(tmp_path: Path) -> None:
    lines = run("mov cx, 2\nagain: loop again", tmp_path, ["exec", "in_asm"])
    shown = [line.split(maxsplit=1)[0] for line in lines if line.startswith(("0x", "Trace"))]
    assert shown[2:] == ["0x000f0000:", "Trace", "0x000f0003:", "Trace", "Trace", "0x000f0005:",
                         "Trace"]


def test_a_filter_leaves_addresses_out(tmp_path: Path) -> None:
    lines = run("nop\nnop\nnop", tmp_path, ONE, log_filter="0xf0001+1")
    assert places(lines) == [0xF0001]


def test_a_reset_shows_a_processor_of_zeros_first(tmp_path: Path) -> None:
    lines = run("nop", tmp_path, ["cpu_reset"])
    assert [at for at, line in enumerate(lines) if line == "CPU Reset (CPU 0)"][:2] == [0, 28]
    assert "A20=0" in lines[3]
    assert "FTW=ff" in lines[19]


def test_a_full_disk_ends_the_log_and_not_the_guest(caplog: pytest.LogCaptureFixture) -> None:
    rom = bytearray(b"\x90" * 0x10000)
    rom[0xFFF0:0xFFF5] = b"\xea\0\0\0\xf0"
    machine = Machine(bios=bytes(rom), ram_mb=16, log_file="/dev/full", icount_shift=0,
                      log_items=frozenset(ONE), one_insn_per_tb=True)
    assert machine.run_for(50_000)
    machine.close()
    assert caplog.messages == [
        "the log ends here: cannot write to /dev/full: No space left on device"]


@pytest.mark.parametrize(("text", "ranges"), [
    ("", ()), ("0x10..0x20", (Range(0x10, 0x20),)), ("010+2", (Range(8, 9),)),
    ("0x20-0x10,5..5", (Range(0x11, 0x20), Range(5, 5))), ("0x10.. 0x20", (Range(0x10, 0x20),))])
def test_a_filter_is_read_as_qemu_does(text: str, ranges: tuple[Range, ...]) -> None:
    assert parse_filter(text) == ranges


@pytest.mark.parametrize(("text", "problem"), [
    ("5", "Bad range specifier"), ("5..", "Invalid number to the right of .."),
    ("-5..7", "Invalid number to the left of -"), ("0x10 ..1", "Invalid number to the left of .."),
    ("0x5-0x3..0x9", "Invalid number to the right of -"), ("2..1", "Invalid range"),
    ("5+0", "Invalid range"), ("0x1000+0xffffffffffffffff", "Invalid range"),
    ("0b1..2", "Invalid number to the left of ..")])
def test_a_bad_filter_is_refused_in_qemus_words(text: str, problem: str) -> None:
    with pytest.raises(LogError, match="^" + problem.replace(".", r"\.") + "$"):
        parse_filter(text)


def test_items_are_known_by_name() -> None:
    assert parse_items("exec,int") == frozenset({"exec", "int"})
    assert parse_items("trace:x,exec") == frozenset({"exec"})
    assert parse_items("exec,") is None
    assert parse_items("trace:") is None
    assert help_text().endswith('to get a list of trace events.\n\n')


def test_a_log_for_each_thread_needs_a_template() -> None:
    check_file("/tmp/x%d", frozenset({"tid"}))
    for path in (None, "/tmp/x"):
        with pytest.raises(LogError, match="Filename template with '%d' required"):
            check_file(path, frozenset({"tid"}))
    with pytest.raises(LogError, match="Bad logfile template"):
        check_file("/tmp/%d%d", frozenset())


def test_the_direction_flag_comes_first() -> None:
    assert "".join(letter for _bit, letter in FLAG_LETTERS) == "DOSZAPC"


@pytest.mark.parametrize(("code", "bits", "lines"), [
    ("ebfe", 16, ["0x000f8000:  eb fe                    jmp      0x8000"]),
    ("92", 32, ["0x000f8000:  92                       xchgl    %edx, %eax"]),
    ("d00a", 32, ["0x000f8000:  d0 0a                    rorb     $1, (%edx)"]),
    ("d40a", 32, ["0x000f8000:  d4 0a                    aam      "]),
    ("48b8ffffffffffffffff", 64, ["0x000f8000:  48 b8 ff ff ff ff ff ff  movabsq  "
                                  "$0xffffffffffffffff, %rax", "0x000f8008:  ff ff"]),
    ("48c7c0ffffffff", 64, ["0x000f8000:  48 c7 c0 ff ff ff ff     movq     $-1, %rax"]),
    ("16", 64, ["0x000f8000:  16                       .byte    0x16"]),
])
def test_instructions_look_as_in_debians_qemu(code: str, bits: int, lines: list[str]) -> None:
    found = Disassembler().instructions(bytes.fromhex(code), 0xF8000, bits)
    assert [line for each in found for line in each.lines] == lines
