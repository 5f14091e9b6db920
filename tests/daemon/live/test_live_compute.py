"""Levels change what is computed, and nothing else: size, format and time line stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import count, permutations

import pytest
import torch
from support.live.pictures import (
    CPU,
    HEIGHT,
    INFO,
    RUNTIME,
    WIDTH,
    computed,
    feed,
    live,
    options,
    picture,
    seconds,
)

from upframe.daemon.convert.compute import Compute
from upframe.daemon.live.compute_stage import LiveCompute
from upframe.daemon.live.levels import Level, parse_levels
from upframe.daemon.specification import DEFAULT_LEVELS
from upframe.filters import chain
from upframe.filters.chain import BuiltFilter, Chain, build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import Frame, Picture, StreamInfo
from upframe.filters.options import FilterOptions


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[LiveCompute, dict[str, Level]]]:
    compute, levels = live(options())
    yield compute, levels
    compute.close()


@pytest.fixture
def compute(both: tuple[LiveCompute, dict[str, Level]]) -> Iterator[LiveCompute]:
    """One for all tests of this file, for weights take their time to load."""
    yield both[0]
    list(both[0].switch("full"))
    list(both[0].flush())


@pytest.fixture
def levels(both: tuple[LiveCompute, dict[str, Level]]) -> dict[str, Level]:
    return both[1]


def test_the_output_is_told_once_for_all_levels(compute: LiveCompute) -> None:
    info = compute.info
    assert (info.width, info.height, info.pix_fmt) == (2 * WIDTH, 2 * HEIGHT, "yuv420p")
    assert (info.rate, info.average_rate) == (120, 120)
    assert info.num_frames is None


@pytest.mark.parametrize(
    ("name", "per_frame"),
    [("full", 4), ("exp-1", 2), ("no-interpolation", 1), ("bicubic", 1), ("pass", 1)],
)
def test_pictures_are_of_the_output_at_every_level_and_evenly_spaced(
    compute: LiveCompute, levels: dict[str, Level], name: str, per_frame: int
) -> None:
    list(compute.switch(name))
    pictures = [*feed(compute, range(3)), *compute.flush()]
    step = Fraction(1, 30 * per_frame)
    assert seconds(pictures) == [index * step for index in range(2 * per_frame + 1)]
    for out in pictures:
        assert (out.width, out.height) == (compute.info.width, compute.info.height)
        assert (out.pix_fmt, out.time_base) == (compute.info.pix_fmt, compute.info.time_base)
        assert out.color == compute.info.color


def test_full_is_what_a_file_gets() -> None:
    filters = options(exp=1)
    built = Chain(made.filter for made in build_filters(filters, RUNTIME))
    for_files = Compute(INFO, {"full": built}, pix_fmt="yuv420p", device=CPU)
    wanted = [out for index in range(3) for out in for_files(picture(index))]
    wanted += for_files.flush()
    compute, _ = live(filters)
    found = [*feed(compute, range(3)), *compute.flush()]
    assert seconds(found) == seconds(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert all(map(torch.equal, one.planes, other.planes))


def test_every_frame_comes_out_once_however_levels_change(
    compute: LiveCompute, levels: dict[str, Level]
) -> None:
    """Each pair of levels meets, in both orders; nothing held is lost or comes twice."""
    found: list[Picture] = []
    index = 0
    for pair in permutations(("full", "exp-1", "no-interpolation", "pass"), 2):
        for name in pair:
            found += compute.switch(name)
            found += feed(compute, range(index, index + 2))
            index += 2
    found += compute.flush()
    times = seconds(found)
    assert times == sorted(set(times))
    assert {Fraction(number, 30) for number in range(index)} <= set(times)


def test_levels_that_differ_in_their_rate_alone_keep_what_is_held() -> None:
    filters = options(exp=1, scale=None)
    full, half = parse_levels(["half-rate"], filters)
    compute = LiveCompute(INFO, filters, RUNTIME, levels=(full, half))
    feed(compute, [0])
    assert list(compute.switch("half-rate")) == []
    assert seconds(feed(compute, [1])) == [0, Fraction(1, 60)]


def test_nothing_is_inserted_before_a_break_and_what_was_held_comes_first(
    compute: LiveCompute,
) -> None:
    feed(compute, [0])
    inserted = compute.statistics()["inserted"]
    after = picture(1, pts=900_000)
    assert seconds(computed(compute, after, breaks=True)) == [0]
    assert seconds(compute.flush()) == [10]
    assert compute.statistics()["inserted"] == inserted


def test_a_flush_lets_go_and_the_next_frame_begins_anew(compute: LiveCompute) -> None:
    feed(compute, [0])
    assert seconds(compute.flush()) == [0]
    assert list(compute.flush()) == []
    assert feed(compute, [5]) == []
    assert seconds(compute.flush()) == [Fraction(5, 30)]


def test_a_cut_is_repeated_into_and_not_blended(compute: LiveCompute) -> None:
    feed(compute, [0])
    other = replace(picture(1), planes=picture(300).planes)
    dark = replace(other, planes=(other.planes[0] // 8, *other.planes[1:]))
    before = compute.statistics()["repeated_at_cuts"]
    assert len(computed(compute, dark)) == 4
    assert compute.statistics()["repeated_at_cuts"] == before + 3


def test_cuts_are_not_sought_where_the_user_does_not_want_them() -> None:
    compute, _ = live(options(exp=1, scale=None, scene_detection=False))
    feed(compute, [0])
    flat = replace(picture(1), planes=tuple(plane // 8 for plane in picture(1).planes))
    computed(compute, flat)
    assert compute.statistics()["inserted"] == 1


@pytest.mark.parametrize("name", ["bicubic", "half-rate", "pass"])
def test_no_network_runs_where_it_was_given_up(
    compute: LiveCompute, levels: dict[str, Level], name: str
) -> None:
    list(compute.switch(name))
    before = compute.statistics()
    feed(compute, range(3))
    after = compute.statistics()
    assert (after["inserted"], after["upscaled"]) == (before["inserted"], before["upscaled"])


def test_bicubic_before_the_interpolation_is_given_up_keeps_inserting() -> None:
    filters = options(exp=1)
    levels = parse_levels(["bicubic"], filters)
    compute = LiveCompute(INFO, filters, RUNTIME, levels=levels)
    list(compute.switch("bicubic"))
    pictures = [*feed(compute, range(2)), *compute.flush()]
    assert [(out.width, out.height) for out in pictures] == [(2 * WIDTH, 2 * HEIGHT)] * 3
    assert compute.statistics()["inserted"] == 1
    assert compute.statistics()["upscaled"] == 0


def test_half_rate_skips_every_second_frame_but_none_that_breaks(
    compute: LiveCompute, levels: dict[str, Level]
) -> None:
    assert not any(compute.skips() for _ in range(4))
    list(compute.switch("half-rate"))
    before = compute.statistics()["skipped"]
    assert [compute.skips() for _ in range(5)] == [False, True, False, True, False]
    assert [compute.skips(breaks=index == 0) for index in range(3)] == [False, True, False]
    list(compute.switch("full"))
    assert not any(compute.skips() for _ in range(4))
    assert compute.statistics()["skipped"] == before + 3


def test_weights_are_loaded_once_for_all_levels() -> None:
    loaded: list[BuiltFilter] = []

    def build(filters: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
        loaded.extend(build_filters(filters, runtime))
        return tuple(loaded)

    filters = options(exp=3)
    levels = parse_levels(DEFAULT_LEVELS, filters)
    compute = LiveCompute(INFO, filters, RUNTIME, levels=levels, build=build)
    assert [built.name for built in loaded] == ["interpolate", "upscale"]
    assert compute.filters == tuple(loaded)


class Inverted:
    """A filter that is a plain call."""

    def open(self, info: StreamInfo) -> StreamInfo:
        return info

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        yield replace(frame, pixels=1 - frame.pixels)

    def flush(self) -> tuple[()]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {}


def test_a_filter_that_is_only_in_the_registry_works_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every level but the one that gives up all filters."""
    filters = options(exp=1)
    plain, levels = live(filters)
    third = BuiltFilter("inverted", Inverted(), None)
    monkeypatch.setattr(chain, "REGISTRY", (*chain.REGISTRY, lambda *_: third))
    compute, _ = live(filters)
    assert compute.filters[-1] is third
    for level in levels.values():
        found, wanted = list[Picture](), list[Picture]()
        for each, pictures in ((compute, found), (plain, wanted)):
            pictures += each.switch(level.name)
            pictures += feed(each, range(3))
            pictures += each.flush()
        assert seconds(found) == seconds(wanted)
        luma = found[0].planes[0].float().mean() + wanted[0].planes[0].float().mean()
        if level.pass_through:
            assert all(map(torch.equal, found[0].planes, wanted[0].planes))
        else:
            assert luma == pytest.approx(16 + 235, abs=2)


def test_warming_up_measures_each_level_and_leaves_no_trace() -> None:
    filters = options(exp=1)
    cold, _ = live(filters)
    warm, levels = live(filters)
    costs = warm.warm_up(most_seconds=60)
    assert set(costs) == set(levels)
    assert costs["full"] > costs["bicubic"] > 0
    assert warm.statistics() == dict.fromkeys(warm.statistics(), 0)
    assert list(warm.flush()) == []
    pairs = zip(feed(warm, range(3)), feed(cold, range(3)), strict=True)
    assert all(all(map(torch.equal, one.planes, other.planes)) for one, other in pairs)
    assert warm.statistics() == cold.statistics()


def test_warming_up_stops_where_there_is_no_time_left() -> None:
    clock = count()
    compute, _ = live(options(), now=lambda: float(next(clock)))
    costs = compute.warm_up(most_seconds=20)
    assert "pass" in costs
    assert "full" not in costs


def test_without_filters_pictures_pass_untouched() -> None:
    compute, levels = live(options(exp=0, scale=None))
    assert list(levels) == ["full", "half-rate"]
    source = picture(0)
    assert computed(compute, source) == [source]
    assert compute.warm_up()["full"] < 1
