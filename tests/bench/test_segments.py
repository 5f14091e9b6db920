"""A short form of the parts of bench/segments.py that no other test repeats."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.scripts import script

segments = script("segments")
faults = script("segments_faults")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_a_run_clearly_or_costs_what_is_spoilt(
    fault: faults.Fault, tmp_path: Path
) -> None:
    checks = faults.rows(tmp_path, [fault])
    if checks[0].got == faults.NOT_MOUNTED:
        pytest.skip(faults.NOT_MOUNTED)
    assert [check for check in checks if not check.ok] == []


@pytest.mark.parametrize("part", ["kills", "trimmed"])
def test_a_part_reaches_its_goals(part: str, tmp_path: Path) -> None:
    outcome = segments.PARTS[part](folder=tmp_path, short=True, dice=random.Random(1))
    assert outcome.ok, outcome
