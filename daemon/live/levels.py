"""The levels of a live stream: what is given up, step by step, when the machine is too slow.

Each level gives up what the one before it gave up, and one thing more. None changes the output's
size or rate: where a level computes fewer pictures, pictures are repeated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from ...filters.options import FilterOptions
from ..errors import UsageError

Upscaling = Literal["network", "bicubic", "none"]

_EXP_N = re.compile(r"exp-([1-9][0-9]*)$")
_SWITCHES = {"enable_frame_interpolation", "enable_upscaling"}
_ALLOWED = "full, exp, exp-N (N at least 1), no-interpolation, bicubic, half-rate or pass"

_INSERTING = 1.0
"""Work to insert a picture. It is the unit of the other ones."""
_ENLARGING: dict[Upscaling, float] = {"network": 1.0, "bicubic": 0.05, "none": 0.0}
_PASSING = 0.02
_HANDLING = 0.05
"""Colours, scenes and copies, for each picture."""


@dataclass(frozen=True, slots=True)
class Level:
    """What is done with a frame."""

    name: str
    exp: int
    """2^exp - 1 pictures are inserted into every gap; 0: none."""
    upscale: Upscaling
    """How pictures get the output's size; `none` if they have it."""
    half_rate: bool = False
    """Only every second frame is taken."""
    pass_through: bool = False
    """No filter at all; pictures of another size are scaled in the fastest way."""

    @property
    def stride(self) -> int:
        """Input frames for each one that is computed."""
        return 2 if self.half_rate else 1

    def work(self) -> float:
        """Estimate the work on one frame that is computed, relative to that at other levels.

        It is a first guess: the cost of enlarging, compared with inserting, depends on the weights.
        """
        each = _PASSING if self.pass_through else _ENLARGING[self.upscale]
        return (2**self.exp - 1) * _INSERTING + 2**self.exp * (each + _HANDLING)


_MEANINGS = {
    "no-interpolation": "no frames are inserted",
    "bicubic": "frames are enlarged without a network",
    "half-rate": "every second frame of the input is left out",
    "pass": "frames are only resized",
}


def meaning(name: str) -> str:
    """Say what a level does, for people."""
    if match := _EXP_N.match(name):
        return f"frames are inserted with exponent {match[1]}"
    return _MEANINGS.get(name, "all that was asked for")


def parse_levels(names: Sequence[str], filters: FilterOptions) -> tuple[Level, ...]:
    """Make the levels that a user names, from nothing given up to everything.

    `full` is always the first. Names that save nothing with these filters are omitted.

    Args:
        names: full, exp (every smaller exponent, one after the other), exp-N, no-interpolation,
            bicubic, half-rate, pass; in the order in which things are given up.
        filters: of the level that gives up nothing.

    Raises:
        UsageError: if a name is none of these.
    """
    exp = filters.frame_interpolation_exp if filters.enable_frame_interpolation else 0
    levels = [Level("full", exp, "network" if filters.enable_upscaling else "none")]
    smaller = [f"exp-{fewer}" for fewer in range(exp - 1, 0, -1)]
    for name in chain.from_iterable(smaller if name == "exp" else [name] for name in names):
        level = _without(levels[-1], name, filters)
        if replace(level, name="") != replace(levels[-1], name=""):
            levels.append(level)
    return tuple(levels)


def _without(level: Level, name: str, filters: FilterOptions) -> Level:
    """Make the level that gives up one thing more."""
    enlarged: Upscaling = level.upscale
    if level.upscale == "network":  # at scale 1 pictures have the size that is wanted
        enlarged = "none" if filters.upscaling_scale == 1 else "bicubic"
    match name:
        case "full":
            return level
        case "no-interpolation":
            return replace(level, name=name, exp=0)
        case "bicubic":
            return replace(level, name=name, upscale=enlarged)
        case "half-rate":
            return replace(level, name=name, half_rate=True)
        case "pass":
            # each filter is enabled by an option; of the others only `pass` gives any up
            switches = {name for name in type(filters).model_fields if name.startswith("enable_")}
            has_others = any(getattr(filters, name) for name in switches - _SWITCHES)
            saves = enlarged == "bicubic" or has_others
            return replace(level, name=name, exp=0, upscale=enlarged, pass_through=saves)
        case _ if match := _EXP_N.match(name):
            return replace(level, name=name, exp=min(level.exp, int(match[1])))
        case _:
            raise UsageError(f"a level must be {_ALLOWED}, got {name!r}")
