"""Plans: made in order, computed by whoever asks, and the same as what calls give."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from upframe.filters.chain import Chain, build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import (
    Counts,
    Deferred,
    Filter,
    Frame,
    Pending,
    PlannedFilter,
    StreamInfo,
)
from upframe.filters.options import FilterOptions

CPU = torch.device("cpu")
TICK = Fraction(1, 25)
INFO = StreamInfo(64, 48, "yuv420p", TICK, rate=Fraction(25), average_rate=Fraction(25))


def chain(exp: int = 1, scale: float = 2) -> Chain:
    return Chain(both_filters(exp, scale))


def both_filters(exp: int = 1, scale: float = 2) -> list[Filter]:
    options = FilterOptions(
        enable_frame_interpolation=True,
        frame_interpolation_exp=exp,
        frame_interpolation_model_path="builtin",
        enable_upscaling=True,
        upscaling_scale=scale,
        upscaling_model_path="builtin",
    )
    built = build_filters(options, Runtime(CPU, torch.float32, "local"))
    return [one.filter for one in built]


def counted(chain: Chain) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in chain.filters:
        total.update(one.statistics())
    return total


def frames(*, alpha: bool = False) -> list[Frame]:
    """Motion, a repeated frame, motion again, a cut."""
    generator = torch.Generator().manual_seed(1)
    row = torch.rand(3, 48, 96, generator=generator)
    shapes = torch.rand(1, 48, 64, generator=generator) if alpha else None
    places = (0, 2, 2, 4, 20)
    return [
        Frame(
            row[:, :, place : place + 64].contiguous(),
            pts,
            1,
            TICK,
            alpha=shapes,
            cut=place == 20,
            duplicate=pts == 2,
        )
        for pts, place in enumerate(places)
    ]


def test_a_deferred_value_is_computed_once_and_lets_go_of_its_sources() -> None:
    asked: list[int] = []

    def compute() -> int:
        asked.append(1)
        return 7

    value = Deferred(compute)
    assert value.peek() is None
    assert (value(), value(), value.peek(), asked) == (7, 7, 7, [1])


def test_a_value_is_checked_once_by_who_wants_it_checked() -> None:
    checked: list[int] = []

    def check(value: int) -> int:
        checked.append(value)
        return value + 1

    value = Deferred(lambda: 7, check)
    assert (value.begun(), value.begun(), checked) == (7, 7, [])
    assert (value(), value(), value.begun(), checked) == (8, 8, 8, [7])


@pytest.mark.parametrize("replaced", [False, True])
def test_what_was_made_of_a_value_is_made_again_only_where_the_check_replaces_that(
    replaced: bool,
) -> None:
    made: list[str] = []

    def make(value: str) -> str:
        made.append(value)
        return value.upper()

    source = Deferred(lambda: "bad", lambda value: "good" if replaced else value)
    last = source.then(make).then(lambda value: value + "!")
    assert last.begun() == "BAD!"
    assert last() == ("GOOD!" if replaced else "BAD!")
    assert made == ["bad", "good"][: 1 + replaced]


def test_a_check_that_fails_is_made_again() -> None:
    results = iter([0, 2])
    value = Deferred(lambda: 4, lambda value: value // next(results))
    with pytest.raises(ZeroDivisionError):
        value()
    assert value() == 2


def test_who_asks_while_a_value_is_computed_gets_that_value() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def compute() -> object:
        inside.set()
        assert go_on.wait(10)
        return object()

    value = Deferred(compute)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(value)
        assert inside.wait(10)
        second = threads.submit(value)
        go_on.set()
        assert first.result(10) is second.result(10)


def test_what_could_not_be_computed_is_tried_again() -> None:
    results = iter([0, 2])
    value = Deferred(lambda: 1 // next(results))
    with pytest.raises(ZeroDivisionError):
        value()
    assert value() == 0


def test_counts_from_several_threads_are_all_there() -> None:
    counts = Counts(("seen", "never"))
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(lambda: [counts.add("seen") for _ in range(1000)])
    assert counts.all() == {"seen": 4000, "never": 0}


@pytest.mark.parametrize("exp", [1, 2])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_plan_gives_what_calls_give_in_whatever_order_it_is_computed(
    exp: int, alpha: bool
) -> None:
    called = chain(exp)
    called.open(INFO)
    expected = [made for frame in frames(alpha=alpha) for made in called(frame)]
    planned = chain(exp)
    planned.open(INFO)
    assert planned.has_plans
    plans = [plan for frame in frames(alpha=alpha) for plan in planned.plan(frame)]
    with torch.inference_mode():
        backwards = [plan.frame() for plan in reversed(plans)]
    for made, plan, wanted in zip(reversed(backwards), plans, expected, strict=True):
        assert plan.duplicate == made.duplicate == wanted.duplicate
        assert (made.pts, made.duration, made.cut) == (wanted.pts, wanted.duration, wanted.cut)
        torch.testing.assert_close(made.pixels, wanted.pixels)
        torch.testing.assert_close(made.alpha, wanted.alpha)
    assert counted(planned) == counted(called)
    assert counted(planned)["reused"] > 0


def test_planning_computes_nothing() -> None:
    planned = chain()
    planned.open(INFO)
    for frame in frames():
        planned.plan(frame)
    counts = counted(planned)
    assert (counts["inserted"], counts["upscaled"]) == (0, 0)


def test_frames_need_more_memory_the_larger_they_are() -> None:
    one = chain()
    one.open(INFO)
    small = one.frame_bytes
    one.open(StreamInfo(640, 360, "yuv420p", TICK))
    assert 640 * 360 * 100 < one.frame_bytes < 640 * 360 * 5000
    assert one.frame_bytes > 10 * small > 0


class Inverted:
    """A filter that is a plain call, and counts them."""

    def open(self, info: StreamInfo) -> StreamInfo:
        self.calls = 0
        return info

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        self.calls += 1
        yield replace(frame, pixels=1 - frame.pixels)

    def flush(self) -> tuple[()]:
        return ()

    def statistics(self) -> dict[str, int]:
        return {"inverted": self.calls}


def test_only_filters_that_plan_have_work_for_several_threads() -> None:
    assert not isinstance(Inverted(), PlannedFilter)
    assert not Chain([Inverted()]).has_plans
    assert not Chain([]).has_plans
    assert chain().has_plans


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_plain_call_may_stand_anywhere_among_filters_that_plan(place: int) -> None:
    made = both_filters()
    mixed = Chain([*made[:place], Inverted(), *made[place:]])
    mixed.open(INFO)
    assert mixed.has_plans
    plans = [plan for frame in frames() for plan in mixed.plan(frame)]
    plans += mixed.plan_flush()
    assert [plan.frame().pts for plan in plans] == list(range(9))
    assert counted(mixed)["inverted"] == (5 if place == 0 else 9)
    if place == 2:
        plain = Chain(made)
        plain.open(INFO)
        wanted = [made for frame in frames() for made in plain(frame)] + list(plain.flush())
        for plan, frame in zip(plans, wanted, strict=True):
            torch.testing.assert_close(plan.frame().pixels, 1 - frame.pixels)


def test_a_frame_that_is_there_is_pending_as_it_is() -> None:
    (frame,) = frames()[2:3]
    pending = Pending.of(frame)
    assert pending.frame() is frame
    assert pending.duplicate
