"""The figures that are wanted, what was got, and the lines that are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from contests import OWN

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
    # Of one H100; not yet seen on a GPU.
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


def decibels(written: float | str) -> float:
    """Read PSNR as `quality.rounded` wrote it."""
    return math.inf if written == "exact" else float(written)


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of a contest's table in Markdown, the fastest first, failures last."""
    yield "| who | ms | quartiles | times the reference | PSNR, dB | peak MiB | note |"
    yield "|---|---|---|---|---|---|---|"
    ran = [one for one in result["entrants"] if "error" not in one]
    reference = next((one for one in ran if one["name"] == result["reference"]), None)
    for one in sorted(ran, key=lambda one: one["ms"]["median"]):
        ms = one["ms"]
        times = reference["ms"]["median"] / ms["median"] if reference else math.nan
        low, high = ms["quartiles"]
        yield (
            f"| {one['name']} | {ms['median']:.1f} | {low:.1f} to {high:.1f} | {times:.2f} "
            f"| {one['psnr_db']} | {one['peak_mib']:.0f} | {one['note']} |"
        )
    for one in result["entrants"]:
        if "error" in one:
            yield f"| {one['name']} | failed | | | | | {one['error']} |"
