from __future__ import annotations

import json
from io import StringIO

import pytest

from upframe.daemon.convert.pipeline import Flow
from upframe.daemon.convert.progress import LineDisplay, Snapshot, display_for, snapshot_of

SNAPSHOT = Snapshot(10, 19, 100, 12.0, 2.0, 40.5, "compute")


def test_json_lines_are_one_object_each_and_end_with_end() -> None:
    stream = StringIO()
    display = display_for("json", stream)
    display.show(SNAPSHOT, ended=False)
    display.show(SNAPSHOT, ended=True)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["progress"] for event in events] == ["continue", "end"]
    assert events[0]["frame"] == 19
    assert events[0]["total"] == 100
    assert events[0]["limiting_stage"] == "compute"


def test_a_stream_that_is_no_terminal_gets_lines() -> None:
    stream = StringIO()
    display = display_for("auto", stream)
    display.show(SNAPSHOT, ended=False)
    display.show(SNAPSHOT, ended=True)  # a summary follows
    assert isinstance(display, LineDisplay)
    expected = "upframe: frame 19/100, 2.00 fps, 0:40 left, slowest step: filters\n"
    assert stream.getvalue() == expected


def test_the_bar_shows_the_same_text() -> None:
    stream = StringIO()
    display = display_for("bar", stream)
    display.show(SNAPSHOT, ended=True)
    assert "slowest step: filters" in stream.getvalue()


def test_silence_is_silent() -> None:
    stream = StringIO()
    display_for("none", stream).show(SNAPSHOT, ended=True)
    assert stream.getvalue() == ""


def test_no_eta_is_given_before_the_rate_is_known() -> None:
    assert snapshot_of(Flow(), 100).eta_seconds is None


def test_the_rate_is_counted_from_the_first_frame() -> None:
    flow = Flow()
    flow.began -= 20
    flow.first_frame_seconds = 10
    flow.frames_out = 21
    snapshot = snapshot_of(flow, 41)
    assert snapshot.fps == pytest.approx(2, rel=0.01)
    assert snapshot.eta_seconds == pytest.approx(10, rel=0.01)


def test_a_stream_of_unknown_length_has_no_eta() -> None:
    flow = Flow()
    flow.began -= 20
    flow.first_frame_seconds = 10
    flow.frames_out = 21
    assert snapshot_of(flow, None).eta_seconds is None


def test_the_stage_that_works_most_limits() -> None:
    flow = Flow()
    flow.stages["encode"].worked_seconds = 3
    flow.stages["compute"].worked_seconds = 2
    assert flow.limiting_stage == "encode"
