"""The state of the daemon: a line for systemd, JSON for `/status`, health, lines of the log."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import platform
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal, cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ...io.child import rss_bytes_of
from ...io.live.values import InputState
from ...io.redaction import redacted, redacted_values
from ..errors import StoreBroken
from ..fence import Boundary, internal_errors
from ..jobs.api import name_of
from ..jobs.model import Job
from ..jobs.queue import JobChange, JobQueue
from ..jobs.store import STATES
from ..live.status import LiveStatus
from ..live.supervisor import LiveSupervisor

# Metrics for Prometheus: base units, counters that only grow, few values for each label.
#
# No job id, path or URL is ever a label; of live streams, `source` is the name, of which there are
# as many as the configuration has entries. Gauges are set when metrics are requested, and what is
# gone then has none; counters follow the changes of jobs.

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
_QUANTILES = {"p50": "0.5", "p99": "0.99", "max": "1"}


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
_JUMPS = "discontinuities_"

Counted = tuple[str, float, dict[str, str]]
"""A counter without prefix and suffix, its value, and its labels beside the source."""


def set_live_metrics(supervisor: LiveSupervisor, metrics: Metrics) -> None:
    """Set the metrics of all live streams as they are now."""
    for name, status in supervisor.board.statuses.items():
        gauge = partial(metrics.set_gauge, source=name)
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
        restarts = supervisor.num_restarts(name)
        for total, value, labels in (*_counted(status), ("stream_restarts", restarts, {})):
            metrics.set_total(total, value, source=name, **labels)


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


log = logging.getLogger("upframe.jobs")

Phase = Literal["starting", "ready", "draining", "stopped"]

_PERIOD_SECONDS = 0.02
_WINDOW = 30_000
"""Samples for percentiles: ten minutes."""
_RECENT = 250
_NAMED = 2
"""Running jobs, and streams without input, that the status line names."""
_LISTED = 100
"""Running jobs that `/status` lists."""
_LISTED_FILES = 1000
"""Of each folder: those that wait and have failed come first."""
_SHOWN = {"id", "source", "sink", "attempts", "progress"}
_PROOF_SECONDS, _ANSWER_SECONDS = 10.0, 2.0


class JobEventLog:
    """Logs when jobs begin, are done or are cancelled.

    Failures are logged where it is decided what follows from them.
    """

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def note(self, change: JobChange) -> None:
        """Log a change if it is one of these."""
        job = change.job
        if change.kind != "state":
            return
        event, text, begun = "", "", self._begun.pop(job.id, None)
        if job.state == "running":
            self._begun[job.id] = job.attempts
            if begun != job.attempts:
                event, text = "begun", f"begun: {redacted(job.source)} → {redacted(job.sink)}"
        elif job.state == "done":
            event, text = "done", f"done: {job.sink}"
            report = job.report or {}
            frames, seconds = report.get("frames_out"), report.get("seconds")
            if frames is not None and seconds:
                text += f", {frames} frames in {seconds:.1f} s"
        elif job.state == "cancelled":
            event = text = "cancelled"
        if text:
            fields = {"job_id": job.id, "event": f"job-{event}", "source": redacted(job.source)}
            log.info("%s", redacted(text), extra=fields)


class LoopLag:
    """Measures how late the event loop is, by a timer that reads the clock when its turn comes.

    Lateness is what every coroutine waits beyond its time: for a blocking call, a long computation,
    a library that holds the GIL. Its 99.9th percentile must stay under 50 ms.
    """

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        self._observe = observe
        self._seen: deque[float] = deque(maxlen=_WINDOW)
        self._maximum = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + _PERIOD_SECONDS
            await asyncio.sleep(_PERIOD_SECONDS)
            lateness = max(0.0, time.monotonic() - due)
            self._seen.append(lateness)
            self._maximum = max(self._maximum, lateness)
            if self._observe is not None:
                self._observe(lateness)

    @property
    def recent_seconds(self) -> float:
        """The worst of the last five seconds."""
        return max(islice(reversed(self._seen), _RECENT), default=0.0)

    def statistics(self) -> dict[str, float]:
        """Return quantiles of the last ten minutes and the maximum since the start, in seconds.

        Takes some milliseconds.
        """
        ordered = sorted(self._seen) or [0.0]
        # of each, the smallest value that is at least as large as this share of all
        places = {"p50": math.ceil(0.5 * len(ordered)), "p99.9": math.ceil(0.999 * len(ordered))}
        return {name: ordered[place - 1] for name, place in places.items()} | {"max": self._maximum}


class Status:
    """Collects the state of the parts of the daemon on request."""

    def __init__(self, queue: JobQueue, metrics: Metrics, lag: LoopLag) -> None:
        self.phase: Phase = "starting"
        self.doing = "starting"
        """While starting or draining: what takes the time."""
        self.parts: dict[str, Callable[[], Any]] = {}
        """By name: `watch`, `mqtt`, `workers`, `live`."""
        self.files: Callable[[], Awaitable[list[list[dict[str, Any]]]]] | None = None
        """Lists the files of each watched folder."""
        self.facts: dict[str, Any] = {}
        """What `info` has beside version and start: devices, models, limits."""
        self.collect: list[Callable[[Metrics], None]] = []
        """Called before metrics are read, to set gauges."""
        self.counts: Mapping[str, int] = {}
        """Of jobs in each state, at most a second old while the daemon runs."""
        self.running: list[Job] = []
        self.store_trouble: str | None = None
        self._proof: asyncio.Task[str | None] | None = None
        self._proof_due = 0.0
        self._queue = queue
        self._metrics = metrics
        self._lag = lag
        self._began = time.monotonic()
        self._started = datetime.now(UTC)

    async def refresh(self) -> None:
        """Read the jobs. While the store cannot be read, the former values stay."""
        try:
            counts = await self._queue.counts()
            running = counts.get("running", 0)
            self.running = await self._queue.jobs(("running",), _LISTED) if running else []
            self.counts = {str(state): number for state, number in counts.items()}
            self.store_trouble = None
        except StoreBroken as error:
            if self.store_trouble is None:
                log.error("%s", error)
            self.store_trouble = str(error)

    def line(self) -> str:
        """Return one line for `systemctl status`."""
        counts, running = self.counts, self.running
        named = ", ".join(_short(job) for job in running[:_NAMED])
        named += ", …" if len(running) > _NAMED else ""
        text = f"{counts.get('running', 0)} running" + (f" ({named})" if named else "")
        text += f", {counts.get('queued', 0)} queued"
        text += f", {failed} failed" if (failed := counts.get("failed", 0)) else ""
        text += "".join(f"; {trouble}" for trouble in self.troubles())
        return text if self.phase == "ready" else f"{self.doing}; {text}"

    async def whole(self) -> dict[str, Any]:
        """Return everything, as `/status` shows it."""
        await self.refresh()
        lateness = self._lag.statistics()
        answer = {
            "version": version("upframe"),
            "phase": self.phase,
            "doing": self.doing,
            "paused": self._queue.paused,
            "pid": os.getpid(),
            "started": self._started.isoformat(timespec="seconds"),
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "resident_bytes": rss_bytes_of(os.getpid()),
            "loop_lateness_seconds": {name: round(each, 4) for name, each in lateness.items()},
            **{name: read() for name, read in self.parts.items()},
            "watch": await self._folders(),
            "store_trouble": self.store_trouble,
            "jobs": self.counts,
            "running": [job.model_dump(mode="json", include=_SHOWN) for job in self.running],
        }
        return cast("dict[str, Any]", redacted_values(answer))

    async def _folders(self) -> list[dict[str, Any]]:
        """Return each watched folder with the files that wait, failed or were skipped, and why."""
        files = await self.files() if self.files else []
        return [
            {**state, "files": all_[:_LISTED_FILES], "files_left_out": len(all_[_LISTED_FILES:])}
            for state, all_ in zip(self._part("watch"), files, strict=False)
        ]

    def info(self) -> dict[str, Any]:
        """Return what senders of work should know and does not change while the daemon runs."""
        return {
            "version": version("upframe"),
            "started": self._started.isoformat(timespec="seconds"),
            **self.facts,
        }

    def counters(self) -> dict[str, float]:
        """Return every counter and gauge of ours."""
        self._collect()
        return self._metrics.totals()

    async def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        await self.refresh()
        self._collect()
        return self._metrics.exposition()

    async def why_not_ready(self) -> str | None:
        """Return what keeps the daemon from accepting jobs; None while it is ready.

        The store is written to find out, but not more often than every `_PROOF_SECONDS`.
        """
        if self.phase != "ready":
            return self.phase
        now = time.monotonic()
        if self._proof is None or (self._proof.done() and now >= self._proof_due):
            self._proof_due = now + _PROOF_SECONDS
            self._proof = asyncio.create_task(self._prove(), name="prove the store")
        await asyncio.wait({self._proof}, timeout=_ANSWER_SECONDS)
        if self._proof.done():
            return self._proof.result()
        return f"{self._queue.store.path}: no answer within {_ANSWER_SECONDS:g} s"

    async def _prove(self) -> str | None:
        try:
            await self._queue.prove()
        except StoreBroken as error:
            log.error("not ready: %s", error)
            return str(error)
        return None

    def _collect(self) -> None:
        self._metrics.begin()
        self._metrics.set_gauge("up", self.phase == "ready")
        self._metrics.set_jobs(self.counts)
        for boundary in get_args(Boundary):
            number = internal_errors[boundary]
            self._metrics.set_total("internal_errors", number, boundary=boundary)
        for collect in self.collect:
            collect(self._metrics)

    def troubles(self) -> list[str]:
        """List what an operator should look at, beside failed jobs."""
        found: list[str] = []
        if self.store_trouble is not None:
            found.append("the jobs cannot be read")
        mqtt, watches, streams = (self._part(name) for name in ("mqtt", "watch", "live"))
        if mqtt and not mqtt.get("connected"):
            found.append("no MQTT broker")
        if paused := sum(1 for watch in watches if watch.get("paused")):
            found.append(f"{paused} of {len(watches)} watches paused")
        away = [each for each in streams if each["state"] not in ("running", "disabled")]
        found += [f"{stream['name']} {stream['state']}" for stream in away[:_NAMED]]
        found += [f"{stream['name']} too slow" for stream in streams if stream.get("warning")]
        if len(away) > _NAMED:
            found.append(f"{len(away)} of {len(streams)} streams without input")
        return found

    def _part(self, name: str) -> Any:
        return self.parts[name]() if name in self.parts else []


def _short(job: Job) -> str:
    progress = job.progress
    if not progress.total:
        return f"{name_of(job)} {progress.stage}"
    return f"{name_of(job)} {100 * progress.frames // progress.total} %"
