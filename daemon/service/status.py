"""The state of the daemon: a line for systemd, JSON for `/status`, health, lines of the log."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal, cast, get_args

from ...io.child import rss_bytes_of
from ...io.redaction import redacted, redacted_values
from ..errors import StoreBroken
from ..fence import Boundary, internal_errors
from ..jobs.api import name_of
from ..jobs.model import Job
from ..jobs.queue import JobChange, JobQueue
from .metrics import Metrics

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
