"""Exceptions and interrupts of every kind in every mode: by the book, and beside QEMU."""

from __future__ import annotations

import pytest

from tests.differential.guests import (
    LONG,
    PROTECTED,
    REAL,
    Event,
    rom,
    run_qemu_guest,
    run_snooze_guest,
)
from tests.differential.scenarios import SCENARIOS, Scenario
from tests.differential.test_differential import needs_qemu

_BODIES = {mode: [scenario.body for scenario in SCENARIOS if scenario.mode == mode]
           for mode in (REAL, PROTECTED, LONG)}


def image(scenario: Scenario) -> bytes:
    bodies = _BODIES[scenario.mode]
    return rom(scenario.mode, bodies, bodies.index(scenario.body))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.name))
def test_exceptions_are_as_the_manual_says(scenario: Scenario) -> None:
    expected = scenario.expected.strip().splitlines()
    triple_fault = expected[-1:] == ["triple fault"]
    events, ended = run_snooze_guest(image(scenario))
    wanted = [Event.parse(line) for line in expected if line != "triple fault"]
    wrong = [f"{i}: {event}, not {line}" for i, (event, line) in
             enumerate(zip(events, wanted, strict=False)) if not line.fits(event)]
    assert not wrong
    assert [event.vector for event in events] == [line.vector for line in wanted]
    assert ended != triple_fault


@needs_qemu
@pytest.mark.parametrize("scenario", [scenario for scenario in SCENARIOS if not scenario.differs],
                         ids=lambda scenario: str(scenario.name))
def test_exceptions_are_as_qemus(scenario: Scenario) -> None:
    assert run_snooze_guest(image(scenario)) == run_qemu_guest(image(scenario))
