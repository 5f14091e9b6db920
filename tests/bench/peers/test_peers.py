"""What compares peers counts, chooses and loads rightly; no peer is needed for that."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.scripts import script

install = script("peers/install")
contests = script("peers/contests")
lineup = script("peers/lineup")
neighbours = script("peers/neighbours")
pages = script("peers/pages")
pins = script("peers/pins")
quality = script("peers/quality")
verdicts = script("peers/verdicts")


def entrant(name: str, peer: str, median: float, psnr_db: float | str) -> dict[str, Any]:
    ms = {"median": median, "low": median - 1, "high": median + 1}
    return {"name": name, "peer": peer, "ms": ms, "psnr_db": psnr_db, "peak_mib": 7, "note": ""}


# ----------------------------------------------------------------------------------- quality


def test_equal_pictures_are_exact_in_json_and_better_than_any_figure() -> None:
    black = np.zeros((3, 2, 2), np.float32)
    assert quality.psnr([black + np.float32(0.1), black], [black] * 2) == 23.0
    assert quality.psnr([black], [black]) == "exact"
    assert quality.decibels("exact") > quality.decibels(140.2) > quality.decibels(None)


def test_times_are_written_with_their_median_and_spread() -> None:
    written = quality.summed_up([0.003, 0.001, 0.002], unit=1000)
    assert (written["median"], written["low"], written["high"]) == (2, 1.5, 2.5)
    assert written["samples"] == [3, 1, 2]


# ---------------------------------------------------------------------------------- verdicts


def test_a_goal_over_the_reference_takes_only_that_peer() -> None:
    result = {
        "contest": "c",
        "reference": "theirs fp32",
        "entrants": [
            entrant("ours", "upframe", 100, 60.0),
            entrant("theirs fp32", "p", 300, "exact"),
            entrant("theirs bf16", "p", 120, 40.0),
        ],
    }
    reference, best = verdicts.judge(
        [result], [verdicts.Goal("c", "reference", 3), verdicts.Goal("c", "best peer", 1.25)]
    )
    assert (reference["got"], reference["met"]) == (3, True)
    assert (best["got"], best["met"], best["of"]) == (1.2, False, ["ours", "theirs bf16"])


def test_what_is_fast_and_poor_does_not_count_as_ours() -> None:
    result = {
        "contest": "c",
        "reference": "theirs",
        "entrants": [
            entrant("ours bf16", "upframe", 10, 49.9),
            entrant("ours fp32", "upframe", 100, 90.0),
            entrant("theirs", "p", 150, "exact"),
        ],
    }
    (verdict,) = verdicts.judge([result], [verdicts.Goal("c", "reference", 2)])
    assert (verdict["got"], verdict["met"], verdict["of"][0]) == (1.5, False, "ours fp32")


def test_without_anyone_to_compare_a_goal_is_missed() -> None:
    failed = {"name": "theirs", "peer": "p", "error": "not installed", "note": ""}
    result = {"contest": "c", "reference": "theirs", "entrants": [failed]}
    (verdict,) = verdicts.judge([result], [verdicts.Goal("c", "reference", 2)])
    assert (verdict["got"], verdict["met"]) == (None, False)
    assert "no upframe at 50 dB" in verdict["why"]


def test_the_table_has_the_fastest_first_and_failures_last() -> None:
    failed = {"name": "broken", "peer": "p", "error": "no such library", "note": ""}
    slow, fast = entrant("slow", "p", 300, "exact"), entrant("fast", "upframe", 100, 60.0)
    result = {"contest": "c", "reference": "slow", "entrants": [failed, slow, fast]}
    assert list(pages.table(result))[2:] == [
        "| fast | 100.0 | 99.0 to 101.0 | 3.00 | 60.0 | 7 |  |",
        "| slow | 300.0 | 299.0 to 301.0 | 1.00 | exact | 7 |  |",
        "| broken | failed | | | | | no such library |",
    ]


def test_a_results_page_has_every_contest_program_and_figure() -> None:
    ran = {"name": "ours", "seconds": {"median": 3, "low": 2, "high": 4}, "frames_out": 5}
    page = "\n".join(
        pages.markdown(
            {
                "machine": {"processor": "a processor", "torch": "2"},
                "threads": 2,
                "clip": "clip.mp4",
                "share_of_other_processes": 0.5,
                "counts": False,
                "note": "busy",
                "contests": [{"contest": "c", "reference": "x", "entrants": []}],
                "programs": [
                    {
                        "program": "enlarge",
                        "frames_in": 5,
                        "entrants": [
                            ran | {"luma_psnr_to_upframe_db": "exact"},
                            {"name": "theirs", "error": "not there"},
                        ],
                    }
                ],
                "figures": [{"figure": "c over x", "wanted": 3, "got": 2.5, "met": False}],
            }
        )
    )
    assert "**busy**" in page
    assert "this does not count" in page
    assert "#### c\n" in page
    assert "| ours | 3.0 | 2.0 to 4.0 | 5 | exact |" in page
    assert "| theirs | failed | | | not there |" in page
    assert "| c over x | 3 | 2.5 | no |" in page


# --------------------------------------------------------------------------------- the line-up


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_names_in_a_contest_differ_and_the_reference_takes_part(kind: str) -> None:
    for contest in contests.CONTESTS[kind]:
        names = [entry.name for entry in lineup.entries(contest, kind)]
        assert len(set(names)) == len(names)
        assert lineup.REFERENCE in names


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_is_compiled_can_be_left_out_and_the_reference_stays(kind: str) -> None:
    for contest in contests.CONTESTS[kind]:
        everyone = lineup.entries(contest, kind)
        quick = lineup.chosen(everyone, [""], compiled=False)
        left_out = [entry.name for entry in everyone if entry not in quick]
        assert left_out
        assert all(name.startswith("torch compiled") for name in left_out)
        few = lineup.chosen(everyone, ["upframe"], compiled=True)
        assert {entry.peer for entry in few} >= {"upframe"}
        assert lineup.REFERENCE in {entry.name for entry in few}
        assert len(few) < len(everyone)


def test_psnr_is_to_true_fp32_where_that_takes_part() -> None:
    assert lineup.quality_reference([lineup.REFERENCE, lineup.EXACT]) == lineup.EXACT
    assert lineup.quality_reference([lineup.REFERENCE]) == lineup.REFERENCE


def test_every_peer_is_installed_at_one_version() -> None:
    requirements = [one for peer in pins.PEERS for one in peer.requirements]
    assert [one for one in requirements if one.count("==") != 1] == []


# --------------------------------------------------------------------------- installation


def test_what_cannot_be_installed_is_recorded_with_its_error(tmp_path: Path) -> None:
    pip = ["sh", "-c", 'echo "no $*" >&2; exit 1', "pip"]
    outcome = install.install(pip, pins.Peer("ghost", ("ghost==1",), with_dependencies=False))
    assert outcome["wanted"] == "ghost==1"
    assert outcome["error"].endswith("--no-deps ghost==1")
    assert "error" not in install.install(["true"], pins.Peer("there", ("there==1",)))
    json.dumps(outcome)


# ------------------------------------------------------------------------------ the machine


def test_the_processors_time_is_read_in_seconds() -> None:
    total, busy = neighbours.busy_seconds(
        "cpu  100 20 30 400 50 6 7 8 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    )
    assert math.isclose(total / busy, 621 / 171)
