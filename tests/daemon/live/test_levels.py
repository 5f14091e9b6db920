"""What the names of levels mean for the filters that are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from upframe.daemon.errors import UsageError
from upframe.daemon.live.levels import Level, parse_levels
from upframe.daemon.specification import DEFAULT_LEVELS
from upframe.filters.options import FilterOptions


def filters(*, exp: int = 0, scale: float | None = None) -> FilterOptions:
    options: dict[str, Any] = {}
    if exp:
        options |= {"enable_frame_interpolation": True, "frame_interpolation_exp": exp}
    if scale:
        options |= {"enable_upscaling": True, "upscaling_scale": scale}
    return FilterOptions.model_validate(options)


def names(*given: str, exp: int = 2, scale: float | None = 2) -> list[str]:
    return [level.name for level in parse_levels(given, filters(exp=exp, scale=scale))]


def test_the_defaults_give_up_one_thing_after_the_other() -> None:
    assert parse_levels(DEFAULT_LEVELS, filters(exp=3, scale=2)) == (
        Level("full", 3, "network"),
        Level("exp-2", 2, "network"),
        Level("exp-1", 1, "network"),
        Level("no-interpolation", 0, "network"),
        Level("bicubic", 0, "bicubic"),
        Level("half-rate", 0, "bicubic", half_rate=True),
        Level("pass", 0, "bicubic", half_rate=True, pass_through=True),
    )


@pytest.mark.parametrize(
    ("exp", "scale", "expected"),
    [
        (1, 2, ["full", "no-interpolation", "bicubic", "half-rate", "pass"]),
        (2, None, ["full", "exp-1", "no-interpolation", "half-rate"]),
        (0, 2, ["full", "bicubic", "half-rate", "pass"]),
        (0, 1, ["full", "bicubic", "half-rate"]),
        (0, None, ["full", "half-rate"]),
    ],
)
def test_what_saves_nothing_is_left_out(exp: int, scale: float | None, expected: list[str]) -> None:
    assert names(*DEFAULT_LEVELS, exp=exp, scale=scale) == expected


def test_the_order_is_the_users() -> None:
    levels = parse_levels(["half-rate", "bicubic", "exp"], filters(exp=2, scale=3))
    assert levels[1:] == (
        Level("half-rate", 2, "network", half_rate=True),
        Level("bicubic", 2, "bicubic", half_rate=True),
        Level("exp-1", 1, "bicubic", half_rate=True),
    )


def test_a_single_exponent_may_be_named() -> None:
    assert names("exp-1", "no-interpolation", exp=4) == ["full", "exp-1", "no-interpolation"]
    assert names("exp-4", "exp-7", exp=4) == ["full"]


def test_a_level_that_repeats_another_is_left_out() -> None:
    assert names("exp-1", "exp", "exp-1", "bicubic", "bicubic") == ["full", "exp-1", "bicubic"]


def test_full_is_always_the_first() -> None:
    assert names("pass") == ["full", "pass"]
    assert names("bicubic", "full") == ["full", "bicubic"]
    assert names() == ["full"]


@pytest.mark.parametrize("name", ["exp-0", "exp-", "half", "Full", "", "exp-1x", "exp--1"])
def test_an_unknown_name_is_refused_with_those_that_are_allowed(name: str) -> None:
    with pytest.raises(UsageError, match=r"full, exp, exp-N .* or pass, got"):
        names("bicubic", name)


def test_an_unknown_name_is_refused_also_where_it_would_save_nothing() -> None:
    with pytest.raises(UsageError, match="'nothing'"):
        names("nothing", exp=0, scale=None)


def test_each_level_is_less_work_than_the_one_before() -> None:
    levels = parse_levels(DEFAULT_LEVELS, filters(exp=3, scale=2))
    works = [level.work() / level.stride for level in levels]
    assert works == sorted(works, reverse=True)
    assert len(set(works)) == len(works)
