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

from upframe.daemon.convert.compute import Compute, Lanes, SharedClock, lanes_for, num_lanes
from upframe.filters.chain import Chain, build_filters
from upframe.filters.device import Runtime
from upframe.filters.errors import FilterError
from upframe.filters.frame import Picture, StreamInfo
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


def test_settling_ends_as_soon_as_something_else_waits_and_what_is_computed_stays() -> None:
    waits, go_on = threading.Event(), threading.Event()
    lanes: Lanes[str] = Lanes(2, 2)

    def slow() -> str:
        assert go_on.wait(SECONDS)
        return "slow"

    assert list(lanes([lambda: "quick", slow])) == []
    settled = lanes.settle(waits.is_set)
    assert next(settled) == "quick"
    threading.Timer(0.05, waits.set).start()
    assert list(settled) == []
    go_on.set()
    assert list(lanes.settle(waits.is_set)) == []
    assert [*lanes([lambda: "next"]), *lanes.settle()] == ["slow", "next"]
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


def test_what_comes_after_an_error_is_not_lost_but_the_rest_of_its_group_is() -> None:
    def fail() -> str:
        raise FilterError("this frame cannot be computed")

    lanes: Lanes[str] = Lanes(2, 2)
    assert [*lanes([fail, lambda: "with it"]), *lanes([lambda: "after"])] == []
    with pytest.raises(FilterError, match="this frame"):
        next(lanes.settle())
    assert len(lanes) == 1
    assert list(lanes.settle()) == ["after"]
    assert len(lanes) == 0
    lanes.close()


def test_works_at_the_same_time_share_what_passes() -> None:
    times = iter([0.0, 2.0, 4.0, 10.0, 20.0, 21.0])
    clock = SharedClock(lambda: next(times))
    first, second = clock.start(), clock.start()
    assert (clock.stop(first), clock.stop(second)) == (3.0, 7.0)
    third = clock.start()
    assert clock.stop(third) == 1.0


def test_groups_cost_their_share_of_the_time_and_what_their_frames_had_cost_before() -> None:
    together = threading.Barrier(2)
    times = iter(range(100))
    lanes: Lanes[int] = Lanes(2, 2, SharedClock(lambda: float(next(times))))
    for _ in range(2):
        assert list(lanes([partial(together.wait, SECONDS)], 10.0)) == []
    assert sorted(lanes.settle()) == [0, 1]
    assert sum(lanes.costs) == 20.0 + 3.0
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


def test_threads_end_with_lanes_that_were_not_closed() -> None:
    lanes: Lanes[int] = Lanes(2, 2)
    assert [*lanes([lambda: 1]), *lanes.settle()] == [1]
    threads = [thread for thread in threading.enumerate() if "upframe-lane" in thread.name]
    assert threads
    del lanes
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("is_steady", "shares"), [(False, [4, 2]), (True, [2, 2])])
def test_who_begins_alone_has_all_threads_unless_pixels_must_be_the_same_at_each_run(
    is_steady: bool, shares: list[int]
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    lanes: Lanes[int] = Lanes(2, 4, is_steady=is_steady)

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
    assert list(lanes.settle()) == shares
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
    levels = {"full": Chain(one.filter for one in built)}
    compute = Compute(info, levels, pix_fmt=info.pix_fmt, device=CPU)
    pictures = moving_pictures(6)
    pictures[3] = replace(pictures[2], pts=pictures[3].pts)
    made = [result for picture in pictures for result in compute(picture)]
    made += compute.flush()
    compute.close()
    torch.set_num_threads(before)
    return made, dict(compute.statistics())


def _levels() -> tuple[dict[str, Chain], StreamInfo]:
    """Interpolate, twice the same, or nothing."""
    options = FilterOptions(
        enable_frame_interpolation=True, frame_interpolation_model_path="builtin"
    )
    built = build_filters(options, Runtime(CPU, torch.float32, "local"))
    full = Chain(one.filter for one in built)
    return {"full": full, "half-rate": full, "none": Chain([])}, stream_info()


@pytest.mark.usefixtures("four_threads")
def test_a_level_that_is_left_gives_what_it_holds_and_one_with_the_same_chain_keeps_it() -> None:
    levels, info = _levels()
    compute = Compute(info, levels, pix_fmt=info.pix_fmt, device=CPU)
    first, second, third, fourth, fifth = moving_pictures(5)
    made = [*compute(first), *compute.switch("half-rate"), *compute(second), *compute.settle()]
    assert [out.pts for out in made] == [0, 1]
    assert [out.pts for out in compute.switch("none")] == [2]
    made = [*compute(third), *compute.settle(), *compute.switch("full")]
    assert [(out.pts, out.time_base) for out in made] == [(third.pts, info.time_base)]
    made = [*compute(fourth), *compute(fifth, breaks=True), *compute.flush()]
    assert [out.pts for out in made] == [2 * fourth.pts, 2 * fifth.pts]
    assert compute.statistics()["inserted"] == 1
    with pytest.raises(KeyError):
        compute.switch("bicubic")
    compute.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_every_picture_has_its_cost_and_a_restart_forgets(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    levels, info = _levels()
    compute = Compute(info, levels, pix_fmt=info.pix_fmt, device=CPU)
    for picture in moving_pictures(4):
        list(compute(picture))
    list(compute.settle())
    costs = compute.take_costs()
    assert len(costs) == 4
    assert max(costs) > 0
    assert compute.take_costs() == []
    list(compute.flush())
    assert compute.take_costs() == []
    compute.restart()
    assert set(compute.statistics().values()) == {0}
    compute.close()
    torch.set_num_threads(before)


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
