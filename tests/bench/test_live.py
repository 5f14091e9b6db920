"""A short form of each of the runs in bench/live, against a real camera and a real receiver."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripts import script

changes = script("live/changes")
endurance = script("live/endurance")
outages = script("live/outages")
overload = script("live/overload")
rate = script("live/rate")
receivers = script("live/receivers")
steady = script("live/steady")
timestamps = script("live/timestamps")

pytestmark = pytest.mark.slow

WAIT = 30.0
"""Seconds until somebody is back; the long runs hold it against 5."""


def test_a_camera_that_can_be_kept_up_with_loses_nothing(tmp_path: Path) -> None:
    outcome = steady.measure(tmp_path, **steady.SHORT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_too_large_a_camera_keeps_to_its_budget_and_the_output_to_its_form(tmp_path: Path) -> None:
    outcome = overload.measure(tmp_path, **overload.SHORT, times=4.0, seed=1)
    assert outcome.ok_if_busy, outcome


def test_a_receiver_does_not_notice_that_the_camera_was_away(tmp_path: Path) -> None:
    outcome = outages.measure(tmp_path, **outages.SHORT, cut_seconds=0.0, back_seconds=WAIT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_a_receiver_that_returns_is_published_to_again(tmp_path: Path) -> None:
    outcome = receivers.measure(tmp_path, **receivers.SHORT, back_seconds=WAIT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_a_camera_that_returns_in_another_form_changes_nothing_of_the_output(
    tmp_path: Path,
) -> None:
    outcome = changes.measure(tmp_path, **changes.SHORT, back_seconds=WAIT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_timestamps_that_are_wrong_are_counted_and_do_not_show(tmp_path: Path) -> None:
    outcome = timestamps.measure(tmp_path, **timestamps.SHORT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_picture_and_sound_stay_together(tmp_path: Path) -> None:
    outcome = endurance.measure(tmp_path, **endurance.SHORT, seed=1)
    assert outcome.ok_if_busy, outcome


def test_a_rate_that_this_machine_keeps_up_with_is_found(tmp_path: Path) -> None:
    outcome = rate.measure(tmp_path, old="", new="", **rate.SHORT, seed=1)
    assert outcome.ok_if_busy, outcome
    (trial,) = outcome.details["new"]["trials"]
    assert trial["rate"] == 5.2


def test_rates_are_bisected_to_five_percent_and_none_is_none() -> None:
    tried: list[float] = []

    def holds(asked: float) -> bool:
        tried.append(float(asked))
        return asked <= 20

    found = rate.highest(holds, 8.0, 48.0)
    assert 20 / 1.05 <= found <= 20
    assert len(tried) <= 6
    assert rate.highest(lambda _: False, 8.0, 48.0) == 0
