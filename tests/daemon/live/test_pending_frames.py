"""How long the output waits for frames that have come."""

from __future__ import annotations

from fractions import Fraction

from upframe.daemon.live.output import PendingFrames


def expected_of(*frames: tuple[int, float]) -> PendingFrames:
    expected = PendingFrames(2.0)
    for seconds, arrived in frames:
        expected.add(Fraction(seconds), arrived)
    return expected


def test_nothing_is_overdue_before_its_deadline() -> None:
    expected = expected_of((1, 10.0), (2, 11.0))
    assert expected.overdue(11.9) is None
    assert expected.next_seconds(11.5) == 0.5


def test_all_frames_whose_deadline_has_passed_are_given_up_at_once() -> None:
    expected = expected_of((1, 10.0), (2, 11.0), (3, 12.0))
    assert expected.overdue(13.5) == 2
    assert expected.overdue(13.5) is None
    assert expected.next_seconds(13.5) == 0.5


def test_a_picture_settles_its_frame_and_those_before_it() -> None:
    expected = expected_of((1, 10.0), (2, 11.0), (3, 12.0))
    expected.done(Fraction(5, 2))
    assert expected.overdue(13.9) is None
    expected.done(Fraction(3))
    assert expected.next_seconds(14.0) is None
    assert expected.overdue(100.0) is None
