"""The figures that are wanted, and what was got."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from contests import OWN
from quality import decibels

LEAST_PSNR_DB = 50.0
"""Below this to the fp32 reference, upframe's figure does not count."""


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times as fast upframe is to be."""

    contest: str
    over: Literal["reference", "best peer"]
    """The peer's fp32 class as it comes, or the fastest peer of all, whatever its quality."""
    wanted: float


GOALS: tuple[Goal, ...] = (
    Goal("srvgg-320x180", "reference", 3.0),
    Goal("srvgg-320x180", "best peer", 1.15),
    Goal("srvgg-640x360", "reference", 3.0),
    Goal("srvgg-640x360", "best peer", 1.15),
    Goal("rife-640x352", "reference", 3.5),
    Goal("rife-640x360", "reference", 3.5),
    # Of one H100.
    Goal("rife-1920x1080", "reference", 8.0),
    Goal("rife-1920x1080", "best peer", 2.5),
    Goal("srvgg-1920x1080", "best peer", 1.5),
)


def judge(
    results: Iterable[Mapping[str, Any]], goals: Sequence[Goal] = GOALS
) -> Iterator[dict[str, Any]]:
    """Say for every goal whose contest was held whether it is met.

    Args:
        results: what `compare.py` writes of every contest.
        goals: which figures.
    """
    for result in results:
        for goal in goals:
            if goal.contest == result["contest"]:
                yield _judged(goal, result)


def _judged(goal: Goal, result: Mapping[str, Any]) -> dict[str, Any]:
    verdict: dict[str, Any] = {"figure": f"{goal.contest} over {goal.over}", "wanted": goal.wanted}
    ran = [one for one in result["entrants"] if "error" not in one]
    good = [one for one in ran if one["peer"] == OWN and decibels(one["psnr_db"]) >= LEAST_PSNR_DB]
    others = [
        one
        for one in ran
        if one["peer"] != OWN and (goal.over == "best peer" or one["name"] == result["reference"])
    ]
    if not good or not others:
        missing = "peer" if good else f"upframe at {LEAST_PSNR_DB:.0f} dB"
        return verdict | {"got": None, "met": False, "why": f"there is no {missing} to compare"}
    ours, theirs = (min(some, key=lambda one: one["ms"]["median"]) for some in (good, others))
    got = theirs["ms"]["median"] / ours["ms"]["median"]
    return verdict | {
        "got": round(got, 2),
        "met": got >= goal.wanted,
        "of": [ours["name"], theirs["name"]],
    }
