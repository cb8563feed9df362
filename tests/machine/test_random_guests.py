"""Guests that make no sense: whatever they do, the machine lives and stays repeatable.

No exception may leave the machine, the process survives, the machine is in a legal run
state, and a second run of the same guest ends with the same fingerprint.
"""

from __future__ import annotations

import os

import pytest

from tests.machine.random_guests import MS, VARIANTS, live


@pytest.mark.slow
def test_a_hundred_random_guests_leave_the_machine_well() -> None:
    for seed in range(100):
        once = live(seed, MS // 25)
        if seed // len(VARIANTS) % 3 == 0:
            assert once == live(seed, MS // 25), seed


@pytest.mark.slow
def test_more_random_guests_leave_the_machine_well() -> None:
    """Longer runs, each twice; SNOOZE_SEEDS=N for more than a CI run has time for."""
    for seed in range(1000, 1000 + int(os.environ.get("SNOOZE_SEEDS", "120"))):
        assert live(seed, MS // 10) == live(seed, MS // 10), seed
