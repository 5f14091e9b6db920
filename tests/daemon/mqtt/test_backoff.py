"""Delays grow, are scattered, and shrink again."""

import itertools

from upframe.daemon.backoff import DoublingBackoff


def test_doubles_from_one_second_to_sixty() -> None:
    backoff = DoublingBackoff(chance=lambda: 1.0)
    delays = [backoff.next_seconds() for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_chance_takes_any_part_of_a_delay() -> None:
    parts = itertools.cycle((0.0, 0.25))
    backoff = DoublingBackoff(chance=lambda: next(parts))
    assert [backoff.next_seconds() for _ in range(4)] == [0, 0.5, 0, 2]


def test_is_random_unless_told_otherwise() -> None:
    delays = {DoublingBackoff(first_seconds=60).next_seconds() for _ in range(100)}
    assert len(delays) > 90
    assert all(0 <= delay <= 60 for delay in delays)


def test_a_stable_connection_starts_it_anew_and_a_short_one_shortens_it() -> None:
    backoff = DoublingBackoff(chance=lambda: 1.0)
    for _ in range(5):
        backoff.next_seconds()
    backoff.held(4)  # no better than none
    assert backoff.limit_seconds == 32
    backoff.held(5)
    assert backoff.limit_seconds == 8
    backoff.held(60)
    assert backoff.limit_seconds == 1


def test_where_trying_soon_is_of_no_use_it_waits_near_the_cap() -> None:
    assert DoublingBackoff(chance=lambda: 0.0).cap_seconds() == 30
    assert DoublingBackoff(chance=lambda: 1.0).cap_seconds() == 60
