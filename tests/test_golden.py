"""Transcripts of the real QEMU 10.0.2, where they are at hand, replayed against our program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CAPTURE = ROOT.parent / "shared" / "golden" / "capture.py"
#: those that work today; each issue adds its own
AREAS = ["runstate/*-pc", "clock/*-pc", "clock/run-*", "clock/s3-*", "insn/*",
         "guest/debug-exit*", "guest/hlt-cli", "guest/ud-loop", "hmp/readline", "hmp/sendkey",
         "hmp/quit-q", "hmp/abbreviations-run",
         "qmp/greeting", "qmp/syntax", "qmp/pipelined"]


@pytest.mark.slow
@pytest.mark.skipif(not CAPTURE.exists(), reason="the transcripts are not at hand")
def test_the_transcripts_of_the_real_qemu_are_played_without_a_difference() -> None:
    snooze = Path(sys.executable).with_name("snooze")
    command = str(snooze) if snooze.exists() else shutil.which("snooze")
    if command is None:
        pytest.skip("the package is not installed: no snooze command")
    done = subprocess.run(
        [sys.executable, str(CAPTURE), "--check", "-j", "2", "--timeout", "30",
         "--qemu", command, *AREAS],
        capture_output=True, text=True, env={**os.environ}, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
