"""How delays are counted."""

from __future__ import annotations

import pytest

from upframe.daemon.live.output import DelayStatistics


def write(delays: DelayStatistics, arrived: float, at: float, index: int = 0) -> None:
    delays.encoded(index, arrived)
    delays.written(index, at)


def test_nothing_written_has_no_delay() -> None:
    delays = DelayStatistics()
    assert delays.recent(10.0) == {}
    assert delays.overall() == {}


def test_quantiles_are_the_nearest_rank() -> None:
    delays = DelayStatistics()
    for index in range(100):
        write(delays, 0.0, (index + 1) / 100)
    assert delays.recent(1.0) == {"p50": 0.5, "p99": 0.99, "max": 1.0}


def test_one_frame_is_all_of_its_quantiles() -> None:
    delays = DelayStatistics()
    write(delays, 1.0, 1.25)
    assert delays.recent(2.0) == {"p50": 0.25, "p99": 0.25, "max": 0.25}


def test_what_is_older_than_a_minute_counts_only_for_the_whole() -> None:
    delays = DelayStatistics()
    write(delays, 0.0, 9.0)
    write(delays, 99.9, 100.0)
    assert delays.recent(100.0)["max"] == pytest.approx(0.1)
    assert delays.overall()["max"] == 9.0
    assert delays.recent(200.0) == {}


def test_quantiles_of_the_whole_are_exact_to_5_ms() -> None:
    delays = DelayStatistics()
    for index in range(1000):
        write(delays, 0.0, (index + 1) / 1000)
    overall = delays.overall()
    assert overall["p50"] == pytest.approx(0.5, abs=0.0051)
    assert overall["p99"] == pytest.approx(0.99, abs=0.0051)
    assert overall["max"] == 1.0


def test_a_delay_beyond_the_histogram_is_its_maximum() -> None:
    delays = DelayStatistics()
    write(delays, 0.0, 1000.0)
    assert delays.overall() == {"p50": 1000.0, "p99": 1000.0, "max": 1000.0}


def test_memory_does_not_grow_with_the_frames_of_a_minute() -> None:
    delays = DelayStatistics()
    for index in range(20_000):
        write(delays, 0.0, index / 1000)
    assert len(delays._recent) <= 60 * 240  # pyright: ignore[reportPrivateUsage]


def test_a_frame_that_is_never_written_has_no_delay() -> None:
    delays = DelayStatistics()
    for index in range(4):
        delays.encoded(2 * index, float(index))
    delays.written(1, 5.0)  # a repeat
    delays.written(4, 5.0)
    delays.written(6, 6.0)
    assert delays.recent(6.0) == {"p50": 3.0, "p99": 3.0, "max": 3.0}


def test_frames_that_nobody_writes_are_forgotten() -> None:
    delays = DelayStatistics()
    for index in range(10_000):
        delays.encoded(index, 0.0)
    assert len(delays._underway) < 5000  # pyright: ignore[reportPrivateUsage]
