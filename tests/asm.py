"""Guest code for tests: NASM source, assembled once and kept in `assembled.json`.

A test names its source; the bytes come from the table, so tests need no
assembler.  Where nasm is installed `tests/test_asm.py` assembles every entry
again and compares.  New or changed sources: run the tests once with
`SNOOZE_ASSEMBLE=1`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

TABLE = Path(__file__).with_name("assembled.json")
_table: dict[str, dict[str, str]] = json.loads(TABLE.read_text()) if TABLE.exists() else {}


def nasm(source: str) -> bytes:
    """What the real assembler makes of *source*."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "guest.asm"
        path.write_text(source)
        subprocess.run(["nasm", "-f", "bin", "-o", f"{folder}/guest.bin", str(path)], check=True)
        return (Path(folder) / "guest.bin").read_bytes()


def asm(body: str, *, bits: int = 16, org: int = 0x1000) -> bytes:
    """The code of *body*, from the table."""
    source = f"bits {bits}\norg {org:#x}\n{body.strip()}\n"
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    entry = _table.get(key)
    if entry is None:
        if not (os.environ.get("SNOOZE_ASSEMBLE") and shutil.which("nasm")):
            raise LookupError(f"not in {TABLE.name}: run the tests once with SNOOZE_ASSEMBLE=1")
        if TABLE.exists():                      # another run may have added to it
            _table.update(json.loads(TABLE.read_text()))
        entry = _table[key] = {"source": source, "code": nasm(source).hex()}
        TABLE.write_text(json.dumps(_table, indent=0, sort_keys=True) + "\n")
    return bytes.fromhex(entry["code"])


def entries() -> dict[str, dict[str, str]]:
    """The whole table: key -> {source, code}."""
    return _table
