"""docs/monitor.md is what the commands' declarations say."""

from __future__ import annotations

import os
from pathlib import Path

from monitor.hmp import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "monitor.md"


def test_the_page_of_monitor_commands_is_up_to_date() -> None:
    """After changing a command, run this once with SNOOZE_DOCS=1."""
    if os.environ.get("SNOOZE_DOCS"):
        PAGE.write_text(reference())
    assert PAGE.read_text() == reference()
