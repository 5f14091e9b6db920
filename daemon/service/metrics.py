"""What Prometheus can ask for. Base units, counters that only grow, and few values for each label.

No job id, path or URL is ever a label. Gauges are set when somebody asks; counters follow the
changes of jobs.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..jobs.model import Job

CONTENT_TYPE = CONTENT_TYPE_LATEST

_STATES = ("queued", "running", "done", "failed", "cancelled")
_LATENESS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)


class Metrics:
    """All metrics of one daemon, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # one more series for each, of use to nobody here
        # Two, since the client's registry would not hold upframe_jobs beside upframe_jobs_total;
        # in the text format, where a counter's name has its suffix, they are two names.
        self._gauges = registry = CollectorRegistry()
        self._counters = counters = CollectorRegistry()
        ProcessCollector(registry=registry)
        build = Gauge("upframe_build_info", "What runs.", ["version", "python"], registry=registry)
        build.labels(version("upframe"), platform.python_version()).set(1)
        self.up = Gauge("upframe_up", "1 once the models are warm, 0 before.", registry=registry)
        self.jobs = Gauge("upframe_jobs", "Jobs in each state.", ["state"], registry=registry)
        self.jobs_total = Counter(
            "upframe_jobs_total", "Jobs that ended.", ["source", "result"], registry=counters
        )
        self.frames_total = Counter(
            "upframe_frames_total",
            "Frames of jobs and live streams.",
            ["source", "stage"],
            registry=counters,
        )
        self.stage_seconds = Histogram(
            "upframe_stage_seconds",
            "Time that a stage worked on one job.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.lateness = Histogram(
            "upframe_event_loop_lateness_seconds",
            "How late the event loop was.",
            buckets=_LATENESS_BUCKETS,
            registry=registry,
        )
        self.part_restarts_total = Counter(
            "upframe_part_restarts_total",
            "Parts of the daemon that failed and were begun again.",
            ["part"],
            registry=counters,
        )
        self.reloads_total = Counter(
            "upframe_config_reloads_total", "Reloads.", ["result"], registry=counters
        )
        self._more: dict[str, Gauge] = {}
        self._totals: dict[str, Counter] = {}
        self._totals["frames"] = self.frames_total  # live streams count theirs in it too
        self._raised: dict[tuple[str, ...], float] = {}
        self._shown: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
        self._frames_seen: dict[str, int] = {}

    def follow(self, job: Job) -> None:
        """Take note of a change of a job's state or progress."""
        self._count_encoded(job)
        if not job.ended_for_good:
            return
        self._frames_seen.pop(job.id, None)
        self.jobs_total.labels(job.origin, job.state).inc()
        if job.state == "done" and job.report is not None:
            self._count_report(job, job.report)

    def count_failure(self, part: str) -> None:
        """Count that a part failed and begins again."""
        self.part_restarts_total.labels(part).inc()

    def count_reload(self, result: str) -> None:
        """Count a reload: `changed` or `refused`."""
        self.reloads_total.labels(result).inc()

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """Set how many jobs are in each state."""
        for state in _STATES:
            self.jobs.labels(state).set(counts.get(state, 0))

    def set_gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        """Set a gauge of another part, named by its owner."""
        gauge = self._more.get(name)
        if gauge is None:
            gauge = Gauge(f"upframe_{name}", text, sorted(labels), registry=self._gauges)
            self._more[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set(value)
        self._shown.add((name, tuple(sorted(labels.items()))))

    def set_total(self, name: str, text: str, value: float, **labels: str) -> None:
        """Set a counter of another part; where that part began anew, it counts on."""
        counter = self._totals.get(name)
        if counter is None:
            full = f"upframe_{name}_total"
            counter = Counter(full, text, sorted(labels), registry=self._counters)
            self._totals[name] = counter
        key = (name, *(labels[label] for label in sorted(labels)))
        before = self._raised.get(key, 0.0)
        (counter.labels(**labels) if labels else counter).inc(
            value - before if value >= before else value
        )
        self._raised[key] = value

    def forget(self, **labels: str) -> None:
        """Drop the gauges of another part that have these labels: what they tell of is gone."""
        gone = {each for each in self._shown if labels.items() <= dict(each[1]).items()}
        for name, known in gone:
            self._more[name].remove(*(value for _, value in known))
        self._shown -= gone

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._gauges) + generate_latest(self._counters)

    def totals(self) -> dict[str, float]:
        """Every counter and gauge by name and labels, for who cannot scrape, such as MQTT."""
        return {
            _flat_name(sample.name, sample.labels): sample.value
            for metric in (*self._gauges.collect(), *self._counters.collect())
            if metric.type in ("counter", "gauge") and metric.name.startswith("upframe_")
            for sample in metric.samples
        }

    def _count_encoded(self, job: Job) -> None:
        """Count frames as they are reported, since a long job would else count at its end."""
        if job.state == "queued":
            self._frames_seen.pop(job.id, None)  # the next attempt begins anew
            return
        total = job.progress.frames
        if job.state == "done" and job.report is not None:
            total = int(job.report.get("frames_out", total))
        gained = total - self._frames_seen.get(job.id, 0)
        if gained > 0:
            self.frames_total.labels(job.origin, "encoded").inc(gained)
            self._frames_seen[job.id] = total

    def _count_report(self, job: Job, report: Mapping[str, Any]) -> None:
        arrived, left = int(report.get("frames_in", 0)), int(report.get("frames_out", 0))
        counted = {"decoded": arrived}
        if job.filters.enable_frame_interpolation:
            counted["interpolated"] = max(0, left - arrived)
        if job.filters.enable_upscaling:
            counted["upscaled"] = left
        for stage, frames in counted.items():
            self.frames_total.labels(job.origin, stage).inc(frames)
        stages = cast("Mapping[str, Mapping[str, float]]", report.get("stages", {}))
        for stage, times in stages.items():
            self.stage_seconds.labels(stage).observe(times["worked_seconds"])


def _flat_name(name: str, labels: Mapping[str, str]) -> str:
    inner = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name
