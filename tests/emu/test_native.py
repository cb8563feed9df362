"""The native routines: built from their source, found by name, harmless to other engines."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

import emu
from emu import engine, layout, native
from emu.cpu import Stop
from tests.emu.guest import make, result, start

HERE = Path(emu.__file__).parent


@pytest.mark.skipif(not shutil.which("nasm"), reason="nasm is not installed")
def test_the_binary_is_what_the_source_assembles_to(tmp_path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as include:
        layout._main()
    (tmp_path / "layout.inc").write_text(include.getvalue())
    subprocess.run(["nasm", "-f", "bin", "-i", str(tmp_path) + "/", "-o", str(tmp_path / "out"),
                    str(HERE / "native.asm")], check=True)
    assert (HERE / "layout.inc").read_text() == include.getvalue()
    assert (HERE / "native.bin").read_bytes() == (tmp_path / "out").read_bytes()


def test_a_library_without_a_symbol_is_refused() -> None:
    with pytest.raises(LookupError, match="no symbol no_such_function"):
        native._linkage(engine._library_path(), ("no_such_function",))


def test_an_engine_that_is_not_ours_runs_as_before() -> None:
    """The replaced functions serve every engine of the process."""
    unicorn = pytest.importorskip("unicorn")
    cpu, _ = make()
    other = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    other.mem_map(0x1000, 0x2000)
    other.mem_write(0x1000, bytes.fromhex("48c7c117000000 0f32 48890425 00200000".replace(" ", "")))
    other.reg_write(unicorn.x86_const.UC_X86_REG_RAX, 7)
    other.emu_start(0x1000, 0x1011)
    assert other.mem_read(0x2000, 8) == bytes(8)        # Unicorn's RDMSR reads 0
    start(cpu, "mov dword [0x6000], 5\nhlt")
    assert cpu.run(100) is Stop.HALT
    assert result(cpu) == 5


def test_a_closed_engine_is_forgotten_and_the_others_go_on() -> None:
    cpus = [make()[0] for _ in range(4)]
    for gone in (2, 0, 3):
        cpus[gone].close()
    start(cpus[1], "mov dword [0x6000], 9\nhlt")
    assert cpus[1].run(100) is Stop.HALT
    assert result(cpus[1]) == 9


def test_stores_go_through_when_code_appears_in_a_page_that_was_data() -> None:
    """The page's stores were fast; now they must be noticed, through any address."""
    cpu, _ = make()
    start(cpu, """
        mov     cx, 3
        mov     byte [0x9000], 0x40         ; inc ax
        mov     byte [0x9001], 0xc3
        xor     ax, ax
again:  mov     bx, 0x9000
        call    bx
        mov     byte [0x9000], 0x48         ; dec ax
        call    bx
        call    bx
        mov     byte [0x9000], 0x40
        loop    again
        mov     [0x6000], ax
        hlt
""")
    assert cpu.run(1000) is Stop.HALT
    assert result(cpu) & 0xFFFF == (-3) & 0xFFFF
