"""Two installations are measured in turns, and compared by more than their medians."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.scripts import BENCH, script

turns = script("turns")
rounds = script("rounds")

_PRINTS_ITS_NAME = """
import json, sys
log, out = sys.argv[1], sys.argv[sys.argv.index("--out") + 1]
open(log, "a").write(sys.argv[2] + "\\n")
start = {"size": "64x48", "header_seconds": {"median": 1.0}, "first_frame_seconds": {"median": 2.0}}
json.dump({"filters": [], "pipeline": [], "start": [start]}, open(out, "w"))
"""


def test_each_command_has_its_turn_and_the_order_changes(tmp_path: Path) -> None:
    program = tmp_path / "measure.py"
    program.write_text(_PRINTS_ITS_NAME)
    log = tmp_path / "log"
    commands = {name: f"{sys.executable} {program} {log} {name}" for name in ("old", "new")}
    found = turns.in_turns(commands, ["start"], 3)
    assert log.read_text().split() == ["old", "new", "new", "old", "old", "new"]
    assert found["new"] == {"start 64x48 header, s": [1] * 3, "start 64x48 first frame, s": [2] * 3}


def test_every_time_of_real_results_is_a_figure() -> None:
    names = [
        name
        for file in ("speed-filters-cpu", "speed-pipeline-cpu", "speed-start-cpu")
        for name, value in turns.figures_of(
            json.loads((BENCH / "results" / f"{file}.json").read_text())
        )
        if value > 0
    ]
    assert "interpolate flownet.pkl 320x180 bf16 exp 1, ms" in names
    assert "pipeline 640x360 bf16 pipe to pipe, s" in names
    assert "start 640x360 first frame, s" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("new", "worse"),
    [
        ([1.0, 1.01, 1.02], False),  # less than 3 % slower
        ([1.10, 1.11, 1.12], True),
        ([0.80, 1.11, 1.12], False),  # spreads over the old one's median
        ([0.5, 0.5, 0.5], False),
    ],
)
def test_worse_is_slower_beyond_the_spread(new: list[float], worse: bool) -> None:
    old = rounds.spread_of([0.99, 1.0, 1.01])
    assert turns.is_worse(old, rounds.spread_of(new), 0.03) == worse


def test_a_figure_that_one_of_them_lacks_is_left_out() -> None:
    rows = turns.compare({"a": [1.0], "b": [1.0]}, {"b": [2.0], "c": [1.0]}, 0.03)
    assert [(row["figure"], row["ok"]) for row in rows] == [("b", False)]
