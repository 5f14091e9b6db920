"""Lanes: groups of work at the same time, results in order, threads that are shared and given back.

How much faster that is, is measured by the benchmark.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.media.fakes import moving_pictures, stream_info

from upframe.daemon.convert.compute import Compute, Lanes, lanes_for, num_lanes
from upframe.filters.chain import Chain, build_filters
from upframe.filters.device import Runtime
from upframe.filters.errors import FilterError
from upframe.filters.frame import Picture
from upframe.filters.options import FilterOptions

CPU = torch.device("cpu")
SECONDS = 20


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Let torch have more threads than one lane needs, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_what_was_handed_in_first_comes_first_whoever_is_done_first() -> None:
    second_done = threading.Event()
    lanes: Lanes[str] = Lanes(2, 2)

    def first() -> str:
        assert second_done.wait(SECONDS)
        return "first"

    def second() -> str:
        second_done.set()
        return "second"

    made = [*lanes([first, lambda: "still first"]), *lanes([second])]
    assert [*made, *lanes.settle()] == ["first", "still first", "second"]
    lanes.close()


def test_as_many_groups_as_there_are_lanes_are_computed_at_the_same_time() -> None:
    together = threading.Barrier(3)
    lanes: Lanes[int] = Lanes(3, 3)
    for _ in range(3):
        assert list(lanes([partial(together.wait, SECONDS)])) == []
    assert sorted(lanes.settle()) == [0, 1, 2]
    lanes.close()


def test_no_more_groups_are_on_their_way_than_keep_every_lane_at_work() -> None:
    lanes: Lanes[int] = Lanes(2, 2)
    given = [list(lanes([lambda index=index: index])) for index in range(6)]
    assert given == [[], [], [], [0], [1], [2]]
    assert list(lanes.settle()) == [3, 4, 5]
    lanes.close()


def test_a_group_without_work_is_none() -> None:
    lanes: Lanes[int] = Lanes(2, 2)
    assert list(lanes([])) == []
    assert list(lanes.settle()) == []
    lanes.close()


def test_what_is_not_taken_when_settling_stays() -> None:
    lanes: Lanes[int] = Lanes(2, 2)
    assert list(lanes([lambda: 1, lambda: 2])) == []
    assert next(lanes.settle()) == 1
    assert list(lanes.settle()) == [2]
    lanes.close()


def test_an_error_comes_in_its_place_and_as_it_was_raised() -> None:
    def fail() -> str:
        raise FilterError("this frame cannot be computed")

    lanes: Lanes[str] = Lanes(2, 2)
    assert list(lanes([lambda: "before", fail, lambda: "after"])) == []
    settled = lanes.settle()
    assert next(settled) == "before"
    with pytest.raises(FilterError, match="this frame"):
        next(settled)
    lanes.close()


def test_closing_ends_the_threads_and_drops_what_was_not_begun() -> None:
    inside, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    lanes: Lanes[None] = Lanes(1, 1)

    def begun() -> None:
        inside.set()
        assert go_on.wait(SECONDS)
        done.append("begun")

    assert list(lanes([begun, lambda: done.append("not begun")])) == []
    assert list(lanes([lambda: done.append("nor this")])) == []
    assert inside.wait(SECONDS)
    closing = threading.Thread(target=lanes.close)
    closing.start()
    while not lanes.is_closing:
        closing.join(0.01)
    go_on.set()
    closing.join(SECONDS)
    assert done == ["begun"]
    with pytest.raises(RuntimeError, match="closed"):
        list(lanes([begun]))
    assert not any(thread.name.startswith("upframe-lane") for thread in threading.enumerate())


@pytest.mark.usefixtures("four_threads")
def test_who_begins_alone_has_all_threads_and_who_comes_to_it_its_share() -> None:
    begun, go_on = threading.Event(), threading.Event()
    lanes: Lanes[int] = Lanes(2, 4)

    def alone() -> int:
        begun.set()
        assert go_on.wait(SECONDS)
        return torch.get_num_threads()

    def beside() -> int:
        go_on.set()
        return torch.get_num_threads()

    assert list(lanes([alone])) == []
    assert begun.wait(SECONDS)
    assert list(lanes([beside])) == []
    assert list(lanes.settle()) == [4, 2]
    lanes.close()


@pytest.mark.usefixtures("four_threads")
def test_after_closing_torch_has_its_threads_also_in_new_ones() -> None:
    lanes: Lanes[int] = Lanes(4, 4)
    for _ in range(4):
        list(lanes([torch.get_num_threads]))
    lanes.close()
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), found) == (4, [4])


def test_lanes_are_as_many_as_threads_and_memory_allow() -> None:
    assert num_lanes(1, 1) == 1
    assert num_lanes(2, 1) == 2
    assert num_lanes(64, 1) == 4
    assert num_lanes(64, 1 << 50) == 1


def test_only_filters_that_plan_on_a_cpu_with_several_threads_have_lanes() -> None:
    assert lanes_for(Chain([]), CPU) is None  # there is nothing to plan
    assert lanes_for(Chain([]), torch.device("cuda")) is None


def _made(threads: int) -> tuple[list[Picture], dict[str, int]]:
    """Interpolate and enlarge a few pictures, one of them twice."""
    info = stream_info()
    options = FilterOptions(
        enable_frame_interpolation=True,
        frame_interpolation_model_path="builtin",
        enable_upscaling=True,
        upscaling_scale=2,
        upscaling_model_path="builtin",
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    built = build_filters(options, Runtime(CPU, torch.float32, "local"))
    compute = Compute(info, [one.filter for one in built], pix_fmt=info.pix_fmt, device=CPU)
    pictures = moving_pictures(6)
    pictures[3] = replace(pictures[2], pts=pictures[3].pts)
    made = [result for picture in pictures for result in compute(picture)]
    made += compute.flush()
    torch.set_num_threads(before)
    return made, dict(compute.statistics())


def test_a_film_is_the_same_in_lanes_as_without() -> None:
    alone, counted_alone = _made(1)
    laned, counted = _made(3)
    assert counted == counted_alone
    assert len(laned) == len(alone) == 11
    for a, b in zip(alone, laned, strict=True):
        assert (a.pts, a.duration, a.time_base) == (b.pts, b.duration, b.time_base)
        for one, other in zip(a.planes, b.planes, strict=True):
            # sums in another order may round the other way
            assert (one.int() - other.int()).abs().max() <= 1
    assert not any(thread.name.startswith("upframe-lane") for thread in threading.enumerate())
