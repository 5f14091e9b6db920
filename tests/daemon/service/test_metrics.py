"""Metrics: names and units, counters that follow jobs, and labels with few values."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from upframe.daemon.jobs.model import Job, JobProgress, job_of
from upframe.daemon.service.status import Metrics
from upframe.daemon.specification import ConversionSpec
from upframe.filters.options import FilterOptions

BOTH = FilterOptions.model_validate(
    {"enable_frame_interpolation": True, "enable_upscaling": True, "upscaling_scale": 2}
)
REPORT = {
    "frames_in": 10,
    "frames_out": 19,
    "stages": {
        "decode": {"worked_seconds": 1.5, "waited_seconds": 0},
        "encode": {"worked_seconds": 20.0, "waited_seconds": 0},
    },
}


def job(**changes: Any) -> Job:
    work = ConversionSpec(source="/in/secret.mkv", sink="/out/secret.mkv", filters=BOTH)
    made = job_of(work, id="film-1", origin="watch", created=datetime.now(UTC))
    return made.model_copy(update=changes)


def samples(metrics: Metrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_a_done_job_is_counted_with_its_frames_and_times() -> None:
    metrics = Metrics()
    metrics.follow(job(state="running", progress=JobProgress(stage="streaming", frames=7)))
    assert samples(metrics)["upframe_frames_total{source=watch,stage=encoded}"] == 7
    metrics.follow(job(state="done", report=REPORT))
    found = samples(metrics)
    assert found["upframe_frames_total{source=watch,stage=encoded}"] == 19
    assert found["upframe_frames_total{source=watch,stage=decoded}"] == 10
    assert found["upframe_frames_total{source=watch,stage=interpolated}"] == 9
    assert found["upframe_frames_total{source=watch,stage=upscaled}"] == 19
    assert found["upframe_jobs_total{result=done,source=watch}"] == 1
    assert found["upframe_stage_seconds_sum{stage=encode}"] == 20
    assert found["upframe_stage_seconds_bucket{le=5.0,stage=decode}"] == 1


def test_a_second_attempt_counts_its_frames_anew() -> None:
    metrics = Metrics()
    metrics.follow(job(state="running", progress=JobProgress(frames=7)))
    metrics.follow(job(state="queued"))
    metrics.follow(job(state="running", progress=JobProgress(frames=3)))
    assert samples(metrics)["upframe_frames_total{source=watch,stage=encoded}"] == 10


def test_a_failed_job_is_counted_as_that() -> None:
    metrics = Metrics()
    metrics.follow(job(state="failed"))
    found = samples(metrics)
    assert found["upframe_jobs_total{result=failed,source=watch}"] == 1
    assert not any("upscaled" in name for name in found)


def test_every_state_has_a_value_also_zero() -> None:
    metrics = Metrics()
    metrics.set_jobs({"queued": 4})
    metrics.set_jobs({"running": 1})
    found = samples(metrics)
    states = ("queued", "running", "done", "failed", "cancelled")
    assert [found[f"upframe_jobs{{state={state}}}"] for state in states] == [0, 1, 0, 0, 0]


def test_other_parts_can_add_gauges() -> None:
    metrics = Metrics()
    metrics.set_gauge("watch_files", 3, watch="0", state="waiting")
    metrics.set_gauge("watch_files", 2, watch="0", state="waiting")
    assert samples(metrics)["upframe_watch_files{state=waiting,watch=0}"] == 2


def test_no_label_names_a_job_or_a_path() -> None:
    metrics = Metrics()
    metrics.follow(job(state="running", progress=JobProgress(frames=7)))
    metrics.follow(job(state="done", report=REPORT))
    text = metrics.exposition().decode()
    assert "secret" not in text
    assert "film-1" not in text


def test_names_have_the_prefix_and_counters_end_in_total() -> None:
    for family in text_string_to_metric_families(Metrics().exposition().decode()):
        assert re.match(r"upframe_|process_", family.name), family.name
        if family.type == "counter":
            assert all(re.search(r"_(total|created)$", each.name) for each in family.samples)


def test_it_does_not_grow_with_the_number_of_jobs() -> None:
    metrics = Metrics()
    metrics.follow(job(state="done", report=REPORT))
    before = len(samples(metrics))
    for number in range(500):
        each = job(id=f"job-{number}", state="running", progress=JobProgress(frames=1))
        metrics.follow(each)
        metrics.follow(each.model_copy(update={"state": "done", "report": REPORT}))
    assert len(samples(metrics)) == before
    assert not metrics._frames_seen


def test_totals_are_for_who_cannot_scrape() -> None:
    metrics = Metrics()
    metrics.follow(job(state="done", report=REPORT))
    totals = metrics.totals()
    assert totals["upframe_jobs_total{result=done,source=watch}"] == 1
    assert all(isinstance(value, float) for value in totals.values())
    assert not any("_bucket" in name for name in totals)
