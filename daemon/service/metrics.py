"""Metrics for Prometheus: base units, counters that only grow, few values for each label.

No job id, path or URL is ever a label; of live streams, `source` is the name, of which there are as
many as the configuration has entries. Gauges are set when metrics are requested, and what is gone
then has none; counters follow the changes of jobs.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ...io.live.values import InputState
from ..jobs.model import Job
from ..jobs.store import STATES
from ..live.status import LiveStatus
from ..live.supervisor import LiveSupervisor

CONTENT_TYPE = CONTENT_TYPE_LATEST

_TEXTS = {
    "build_info": "Versions.",
    "config_reloads": "Reloads.",
    "degradation_level": "1 for the level of degradation under load.",
    "end_to_end_latency_seconds": (
        "From a packet's arrival until its frame is written, over the last minute."
    ),
    "frames": "Frames of jobs and live streams.",
    "frames_dropped": "Frames of live streams that were not written, by reason.",
    "internal_errors": (
        "Units of foreign work that an internal error ended, by where they came in."
    ),
    "jobs": "Jobs in each state.",
    "level_changes": "Changes of the level of degradation under load.",
    "mqtt_connected": "Whether the broker is connected.",
    "mqtt_messages": "Messages by direction and what became of them.",
    "part_restarts": "Parts of the daemon that failed and were restarted.",
    "queue_depth": "Frames waiting for a stage.",
    "sink_connected": "Whether the output is connected.",
    "sink_connections": "Connections made to a live output.",
    "source_last_frame_timestamp_seconds": "When the last frame was decoded.",
    "source_reconnects": "Connections to a live input that were lost, by reason.",
    "source_stalls": "Times that a live input was connected but sent no frames.",
    "stream_resident_bytes": "Memory of the processes of a live stream.",
    "stream_restarts": "Workers of a live stream that had to be restarted.",
    "stream_state": "1 for the state of a live stream.",
    "timestamp_discontinuities": "Jumps of a live input's timestamps, by kind.",
    "up": "1 once the models are warm.",
    "watch_files": "Files of a watched folder by what became of them.",
    "watch_paused": "Whether a folder is missing.",
    "watch_scan_seconds": "Duration of the last scan.",
    "work_events": "What happened to attempts.",
    "worker_resident_bytes": "Memory of a worker process.",
}
_ENDED_TEXT = "Jobs that ended."
"""Of the counter `jobs_total`, beside the gauge `jobs`."""
_LATENESS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STAGE_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)


class Metrics:
    """All metrics of one daemon, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # one more series for each, which is of no use here
        # Two, since the library refuses upframe_jobs and upframe_jobs_total in one registry,
        # though the text format, where a counter's name has its suffix, distinguishes them.
        self._gauges = registry = CollectorRegistry()
        self._counters = CollectorRegistry()
        ProcessCollector(registry=registry)
        name, text = "upframe_stage_seconds", "Time that a stage worked on one job."
        self._stage_seconds = Histogram(
            name, text, ["stage"], buckets=_STAGE_BUCKETS, registry=registry
        )
        name, text = "upframe_event_loop_lateness_seconds", "How late the event loop was."
        self.lateness = Histogram(name, text, buckets=_LATENESS_BUCKETS, registry=registry)
        self._gauge_of: dict[str, Gauge] = {}
        self._counter_of: dict[str, Counter] = {}
        self._totals: dict[tuple[str, ...], float] = {}
        self._frames_seen: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        """Remove every gauge that has labels, before those of what is there now are set."""
        for gauge in self._gauge_of.values():
            gauge.clear()
        versions = {"version": version("upframe"), "python": platform.python_version()}
        self.set_gauge("build_info", 1, **versions)

    def follow(self, job: Job) -> None:
        """Count what a change of a job's state or progress means."""
        self._count_encoded(job)
        if not job.ended_for_good:
            return
        self._frames_seen.pop(job.id, None)
        self.count("jobs", source=job.origin, result=job.state)
        if job.state == "done" and job.report is not None:
            self._count_report(job, job.report)

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """Set how many jobs are in each state."""
        for state in STATES:
            self.set_gauge("jobs", counts.get(state, 0), state=state)

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge; made on its first use."""
        gauge = self._gauge_of.get(name)
        if gauge is None:
            full, text = f"upframe_{name}", _TEXTS[name]
            gauge = Gauge(full, text, sorted(labels), registry=self._gauges)
            self._gauge_of[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set(value)

    def count(self, name: str, number: float = 1, **labels: str) -> None:
        """Raise a counter by a number; made on its first use."""
        counter = self._counter_of.get(name)
        if counter is None:
            full, text = f"upframe_{name}_total", _ENDED_TEXT if name == "jobs" else _TEXTS[name]
            counter = Counter(full, text, sorted(labels), registry=self._counters)
            self._counter_of[name] = counter
        (counter.labels(**labels) if labels else counter).inc(number)

    def set_total(self, name: str, value: float, **labels: str) -> None:
        """Raise a counter to the total of another part; the total of a restarted part is added."""
        key = (name, *(labels[label] for label in sorted(labels)))
        before = self._totals.get(key, 0.0)
        self.count(name, value - before if value >= before else value, **labels)
        self._totals[key] = value

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._gauges) + generate_latest(self._counters)

    def totals(self) -> dict[str, float]:
        """Return every counter and gauge by name and labels, for MQTT, which cannot be scraped."""
        found: dict[str, float] = {}
        for metric in (*self._gauges.collect(), *self._counters.collect()):
            if metric.type in ("counter", "gauge") and metric.name.startswith("upframe_"):
                for sample in metric.samples:
                    inner = ",".join(f"{key}={text}" for key, text in sorted(sample.labels.items()))
                    found[f"{sample.name}{{{inner}}}" if inner else sample.name] = sample.value
        return found

    def _count_encoded(self, job: Job) -> None:
        """Count frames while a job runs: a long one would otherwise count at its end."""
        if job.state == "queued":
            self._frames_seen.pop(job.id, None)  # the next attempt starts at 0
            return
        total = job.progress.frames
        if job.state == "done" and job.report is not None:
            total = int(job.report.get("frames_out", total))
        gained = total - self._frames_seen.get(job.id, 0)
        if gained > 0:
            self.count("frames", gained, source=job.origin, stage="encoded")
            self._frames_seen[job.id] = total

    def _count_report(self, job: Job, report: Mapping[str, Any]) -> None:
        arrived, left = int(report.get("frames_in", 0)), int(report.get("frames_out", 0))
        counted = {"decoded": arrived}
        if job.filters.enable_frame_interpolation:
            counted["interpolated"] = max(0, left - arrived)
        if job.filters.enable_upscaling:
            counted["upscaled"] = left
        for stage, frames in counted.items():
            self.count("frames", frames, source=job.origin, stage=stage)
        stages = cast("Mapping[str, Mapping[str, float]]", report.get("stages", {}))
        for stage, times in stages.items():
            self._stage_seconds.labels(stage).observe(times["worked_seconds"])


_STAGES = {
    "decoded": "frames_decoded",
    "interpolated": "frames_inserted",
    "upscaled": "frames_enlarged",
    "encoded": "frames_encoded",
    "repeated": "frames_repeated",
}
_DROPS = {
    "overload": "frames_dropped",
    "half-rate": "frames_skipped",
    "damaged": "frames_damaged",
    "late": "frames_late",
}
_QUANTILES = {"p50": "0.5", "p99": "0.99", "max": "1"}
_JUMPS = "discontinuities_"

Counted = tuple[str, float, dict[str, str]]
"""A counter without prefix and suffix, its value, and its labels beside the source."""


def set_live_metrics(supervisor: LiveSupervisor, metrics: Metrics) -> None:
    """Set the metrics of all live streams as they are now."""
    for name, status in supervisor.board.statuses.items():
        _set_gauges(supervisor, partial(metrics.set_gauge, source=name), name, status)
        restarts = supervisor.num_restarts(name)
        for total, value, labels in (*_counted(status), ("stream_restarts", restarts, {})):
            metrics.set_total(total, value, source=name, **labels)


def _set_gauges(
    supervisor: LiveSupervisor, gauge: Callable[..., None], name: str, status: LiveStatus
) -> None:
    for state in get_args(InputState):
        gauge("stream_state", status.state == state, state=state)
    for level in (*supervisor.levels(name), status.level):
        gauge("degradation_level", status.level == level, level=level)
    gauge("sink_connected", status.output_state.connected)
    gauge("queue_depth", status.waiting_frames, stage="compute")
    gauge("stream_resident_bytes", status.rss_bytes)
    for key, quantile in _QUANTILES.items():
        if key in status.delay_seconds:
            gauge("end_to_end_latency_seconds", status.delay_seconds[key], quantile=quantile)
    if (last := supervisor.board.last_frame(name)) is not None:
        gauge("source_last_frame_timestamp_seconds", last)


def _counted(status: LiveStatus) -> Iterator[Counted]:
    """List the counters of a stream."""
    counts, sink = status.counts, status.output_state
    for stage, key in _STAGES.items():
        yield "frames", counts.get(key, 0), {"stage": stage}
    yield "frames", sink.written, {"stage": "written"}
    for reason, key in _DROPS.items():
        yield "frames_dropped", counts.get(key, 0), {"reason": reason}
    for reason, number in sink.dropped.items():
        yield "frames_dropped", number, {"reason": f"output-{reason}"}
    for reason, number in status.reconnects.items():
        yield "source_reconnects", number, {"reason": reason}
    yield "source_stalls", counts.get("stalls", 0), {}
    for key, number in counts.items():
        if key.startswith(_JUMPS):
            yield "timestamp_discontinuities", number, {"kind": key.removeprefix(_JUMPS)}
    yield "level_changes", counts.get("level_changes", 0), {}
    yield "sink_connections", sink.connections, {}
