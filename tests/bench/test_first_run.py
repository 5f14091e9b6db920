"""The script for the first minutes on a card, without one: its parts and its limits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.scripts import BENCH

SCRIPT = BENCH / "cuda" / "first_run.sh"


def first_run(
    folder: Path, *parts: str, python: str = "true", seconds: int = 0
) -> tuple[int, list[str], str]:
    """Return its exit code, the parts that were begun, and what it said at the end."""
    told = {"OUT": str(folder), "SITE": str(folder / "site"), "PYTHON": python}
    done = subprocess.run(
        ["bash", SCRIPT, *parts],
        env=os.environ | told | {"SECONDS": str(seconds)},
        capture_output=True,
        text=True,
        check=False,
    )
    begun = [line[4:] for line in done.stdout.splitlines() if line.startswith("=== ")]
    return done.returncode, begun, (done.stderr or done.stdout).splitlines()[-1]


def test_only_the_parts_asked_for_are_run_in_their_order(tmp_path: Path) -> None:
    assert first_run(tmp_path, "rrdb", "info")[:2] == (0, ["rrdb", "info"])
    everything = first_run(tmp_path)[1]
    assert everything[:3] == ["nvidia-smi", "info", "tests"]
    assert len(everything) == 11


def test_a_part_that_there_is_not_is_refused_before_any_is_run(tmp_path: Path) -> None:
    code, begun, said = first_run(tmp_path, "info", "nothing")
    assert (code, begun) == (64, [])
    assert said.startswith("no such part: nothing; parts are nvidia-smi info tests")


def test_a_part_that_fails_does_not_end_the_others_and_is_named(tmp_path: Path) -> None:
    code, begun, said = first_run(tmp_path, "info", "rife", python="false")
    assert (code, begun, said) == (1, ["info", "rife"], "failed or left out: info rife")


@pytest.mark.parametrize(("seconds", "is_begun"), [(440, True), (451, False)])
def test_no_part_begins_after_450_seconds(tmp_path: Path, seconds: int, is_begun: bool) -> None:
    code, begun, _ = first_run(tmp_path, "info", seconds=seconds)
    assert (code == 0, begun == ["info"]) == (is_begun, is_begun)
