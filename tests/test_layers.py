"""The layers: imports go down only, and offsets into libunicorn stay in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "emu": {"emu"},
    "machine": {"machine", "emu"},
    "monitor": {"monitor", "machine", "emu", "firmware"},
    "firmware": {"firmware"},
}
OURS = set(MAY_IMPORT)


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= ({f"{node.module}.{alias.name}" for alias in node.names}
                      if node.module == "machine.devices" else {node.module})
    return names


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_imports_go_down_only(layer: str) -> None:
    wrong = {str(path.relative_to(ROOT)): name
             for path in (ROOT / layer).rglob("*.py") for name in imports(path)
             if name.split(".")[0] in OURS - MAY_IMPORT[layer]}
    assert wrong == {}


def test_a_device_imports_no_other_device_and_not_the_machine() -> None:
    allowed = {"machine.clock", "machine.ports", "machine.wiring",
               "machine.devices.pci"}       # the bus that PCI functions are written for
    wrong = {path.name: name
             for path in (ROOT / "machine" / "devices").glob("*.py") for name in imports(path)
             if name.split(".")[0] in OURS and name not in allowed}
    assert wrong == {}


def test_only_the_engine_knows_libunicorn() -> None:
    users = {path.name for layer in OURS for path in (ROOT / layer).rglob("*.py")
             if "unicorn" in imports(path) or "libunicorn.so" in path.read_text()}
    assert users == {"engine.py"}
