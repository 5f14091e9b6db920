"""Which worker makes which segments next: each once, whatever becomes of the workers."""

from __future__ import annotations

import pytest
from support.scripts import script

from upframe.daemon.convert.schedule import MOST_ATTEMPTS, UNIT_SECONDS, Schedule

bench = script("segments_schedule")


def finished(
    schedule: Schedule, worker: str, unit: tuple[int, ...], began: float, each: float
) -> float:
    """A worker makes its unit, so many seconds a segment; returns when it ends."""
    for number in unit:
        began += each
        schedule.finish(worker, number, began)
    return began


def test_ten_thousand_segments_on_64_workers_that_die_are_each_taken_once() -> None:
    missed = [row for row in bench.rows(bench.Simulation()()) if not row[-1]]
    assert missed == []


@pytest.mark.parametrize(
    ("segments", "workers", "failures"), [(1, 3, 0.0), (40, 1, 0.05), (300, 3, 0.05), (7, 64, 0.2)]
)
def test_every_segment_is_taken_once(segments: int, workers: int, failures: float) -> None:
    made = bench.Simulation(segments, workers, failures)()
    assert dict(made.results) == dict.fromkeys(range(segments), 1)


def test_the_first_unit_is_20_seconds_by_the_estimate_and_the_next_as_measured() -> None:
    schedule = Schedule(dict.fromkeys(range(1000), 30), estimate=0.1)
    assert schedule.take("a", 0.0) == tuple(range(int(UNIT_SECONDS / 3)))
    finished(schedule, "a", (0, 1, 2, 3, 4, 5), 0.0, 2.0)
    assert len(schedule.take("a", 12.0)) == UNIT_SECONDS / 2


def test_by_the_estimate_no_worker_takes_more_than_its_half_of_a_share() -> None:
    schedule = Schedule(dict.fromkeys(range(12), 10), estimate=0.1)
    for worker in "abc":
        schedule.join(worker)
    assert [len(schedule.take(worker, 0.0)) for worker in "abc"] == [2, 1, 1]


def test_without_an_estimate_the_first_unit_is_one_segment_and_the_next_20_seconds() -> None:
    schedule = Schedule(dict.fromkeys(range(1000), 30))
    assert schedule.take("a", 0.0) == (0,)
    schedule.finish("a", 0, 2.0)
    assert schedule.take("a", 2.0) == tuple(range(1, 1 + int(UNIT_SECONDS / 2)))


def test_segments_that_are_apart_are_not_one_unit() -> None:
    schedule = Schedule(dict.fromkeys([0, 1, 3, 4, *range(8, 40, 2)], 1))
    for worker in "ab":
        finished(schedule, worker, schedule.take(worker, 0.0), 0.0, 0.1)
    assert schedule.take("a", 0.1) == (3, 4)
    assert schedule.take("b", 0.1) == (8,)


def test_a_slow_worker_gets_fewer() -> None:
    schedule = Schedule(dict.fromkeys(range(10_000), 1))
    for worker, each in (("fast", 1.0), ("slow", 4.0)):
        finished(schedule, worker, schedule.take(worker, 0.0), 0.0, each)
    assert len(schedule.take("fast", 10.0)) == UNIT_SECONDS
    assert len(schedule.take("slow", 10.0)) == UNIT_SECONDS / 4


def test_the_unit_of_a_dead_worker_goes_to_the_next_one_but_for_what_it_has_answered() -> None:
    schedule = Schedule(dict.fromkeys(range(1000), 1))
    for worker in "ab":
        finished(schedule, worker, schedule.take(worker, 0.0), 0.0, 5.0)
    assert schedule.take("a", 5.0) == (2, 3, 4, 5)
    schedule.finish("a", 2, 10.0)
    assert schedule.lose("a") is None
    assert schedule.take("b", 10.0) == (3, 4, 5, 6)


def test_a_segment_that_ends_every_worker_is_named() -> None:
    schedule = Schedule(dict.fromkeys(range(10), 1))
    for attempt in range(MOST_ATTEMPTS):
        assert schedule.take(attempt, 0.0) == (0,)
        assert schedule.lose(attempt) == (0 if attempt == MOST_ATTEMPTS - 1 else None)


def test_a_straggler_of_the_tail_is_made_twice_and_the_first_result_counts() -> None:
    schedule = Schedule(dict.fromkeys(range(4), 1))
    for worker, number in (("a", 0), ("b", 1)):
        assert schedule.take(worker, 0.0) == (number,)
        schedule.finish(worker, number, 2.0)
    assert (schedule.take("a", 2.0), schedule.take("b", 2.0)) == ((2,), (3,))
    schedule.finish("b", 3, 4.0)
    assert schedule.take("b", 4.0) == ()  # a may be ready at any moment
    assert schedule.take("b", 5.5) == ()
    assert schedule.take("b", 6.5) == (2,)
    assert schedule.finish("b", 2, 8.5)
    assert schedule.left == 0
    assert not schedule.finish("a", 2, 9.0)


def test_a_worker_far_too_slow_for_the_rest_leaves_it_to_the_others() -> None:
    schedule = Schedule(dict.fromkeys(range(6), 1))
    finished(schedule, "fast", schedule.take("fast", 0.0), 0.0, 1.0)
    finished(schedule, "slow", schedule.take("slow", 0.0), 0.0, 100.0)
    assert schedule.take("fast", 100.0) == (2,)
    assert schedule.take("slow", 100.0) == ()
    schedule.lose("fast")  # nobody else is left
    assert schedule.take("slow", 101.0) == (2,)


def test_what_waits_for_an_earlier_segment_is_bounded() -> None:
    """While a worker hangs over the first one, the others make it before they go on."""
    schedule = Schedule(dict.fromkeys(range(10_000), 1))
    assert schedule.take("hangs", 0.0)[0] == 0
    now, waiting, seen = 0.0, 0, list[int]()
    while 0 not in seen:
        unit = schedule.take("works", now)
        assert unit
        seen += unit
        now = finished(schedule, "works", unit, now, 1.0)
        waiting = max(waiting, len(set(seen)))
    assert waiting <= 4 * 2 * UNIT_SECONDS + 2 * UNIT_SECONDS


def test_a_worker_that_is_busy_takes_nothing_more() -> None:
    schedule = Schedule(dict.fromkeys(range(4), 1))
    schedule.take("a", 0.0)
    with pytest.raises(ValueError, match="a works on segment 0"):
        schedule.take("a", 1.0)
    with pytest.raises(ValueError, match="segment 3 is none of those of a"):
        schedule.finish("a", 3, 1.0)
