"""What is due at a moment: by the frames that took longest lately, whatever the clocks do."""

import random

import pytest

from upframe.io.live.clock import ArrivalOffset


def test_begins_with_the_frame_that_was_placed_by_its_arrival() -> None:
    lead = ArrivalOffset()
    lead.begin(-100.0, 100.0)
    assert lead.seconds == lead.recovered_seconds == -100.0


def test_a_jump_forgets_who_was_late_but_not_where_real_time_is() -> None:
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    lead.note(-0.7, 1.0)
    lead.jump(-0.5, 1.0)
    assert lead.seconds == -0.5
    assert lead.recovered_seconds == pytest.approx(0, abs=0.01)
    lead.jump(3.0, 2.0)
    assert lead.seconds == lead.recovered_seconds == 3


def test_follows_the_longest_way_of_the_last_seconds_and_forgets_it() -> None:
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    for index in range(1, 100):
        lead.note(-0.3 if index == 50 else 0.0, index / 5)
    assert lead.seconds == -0.3
    for index in range(100, 300):
        lead.note(0.0, index / 5)
    assert lead.seconds == 0.0


def test_a_silence_forgets_nothing() -> None:
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    lead.note(-0.2, 1.0)
    lead.note(0.0, 15.0)
    assert lead.seconds == -0.2


def test_a_frame_that_is_late_after_a_silence_says_nothing_of_the_senders_clock() -> None:
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    lead.note(-0.5, 1000.0)
    assert lead.seconds == -0.5
    assert lead.recovered_seconds == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("drift", [-2e-4, 2e-4])
def test_a_days_drift_is_followed(drift: float) -> None:
    chance = random.Random(1)
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    for second in range(1, 86_400):
        lead.note(drift * second - chance.uniform(0, 0.05), float(second))
    assert lead.seconds == pytest.approx(drift * 86_400, abs=0.07)


def test_bursts_as_of_segments_are_in_order() -> None:
    """Six seconds of frames at once: what comes with the next six is not overdue before that."""
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    for segment in range(50):
        for index in range(150):
            lead.note(index / 25, segment * 6.0)
    assert lead.seconds == 0.0


def test_a_sender_that_falls_behind_real_time_is_not_followed_for_long() -> None:
    """Some cameras count frames instead of time, and leave some out."""
    lead = ArrivalOffset()
    lead.begin(0.0, 0.0)
    for index in range(1, 1000):
        lead.note(-0.2 * index / 5, index / 5)
    assert -2.3 < lead.seconds < -1.9
    assert lead.recovered_seconds == pytest.approx(lead.seconds + 2)
