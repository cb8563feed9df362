"""Every example runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")),
                         ids=lambda path: str(path.name))
def test_the_example_runs_and_prints_what_it_promises(example: Path) -> None:
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    promised = [line.split("#: ", 1)[1] for line in example.read_text().splitlines()
                if line.startswith("#: ")]
    assert promised
    assert done.stdout.splitlines() == promised
