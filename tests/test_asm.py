"""The table of assembled guests is what nasm makes of its sources."""

from __future__ import annotations

import shutil

import pytest

from tests import asm


@pytest.mark.skipif(shutil.which("nasm") is None, reason="needs nasm")
def test_each_assembled_guest_is_what_nasm_makes_of_its_source() -> None:
    wrong = [key for key, entry in asm.entries().items()
             if asm.nasm(entry["source"]).hex() != entry["code"]]
    assert wrong == []
