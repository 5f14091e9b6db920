"""The retained states of jobs and live streams, and the progress of jobs, as the store has them.

The broker keeps old states: of a job that ended or was forgotten since, of a stream whose section
was removed while we were away. After connecting, every state of ours that the broker has
retained is therefore published again, or cleared. The state of an ended job carries its time to
live, after which the broker drops it by itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import from_json

from ...io.redaction import redacted_values
from ..errors import UnknownJob
from ..fence import Fence
from ..jobs.api import name_of, to_public_dict
from ..jobs.model import Job, JobProgress
from ..jobs.queue import JobChange, JobQueue
from ..jobs.store import ENDED, JobStore, job_of_row
from ..live.status import LiveBoard
from .connection import Outbox
from .handler import Answers
from .requests import json_bytes
from .topics import OutgoingMessage, Topics

EVENT_SCHEMA = "upframe.event/1"
REPEAT_SECONDS = 60.0
"""Between two states of a live stream of which only counts and delays have changed."""

_MAX_ENDED = 2000  # announced at a start, the latest; older ones keep what the broker has of them
_MAX_STATE_BYTES = 128 * 1024
_PROGRESS_SECONDS = 1.0
_QUIET_PROGRESS_SECONDS = 10.0
_PROGRESS_STEP = 0.01
"""Of the whole: a smaller step is published only after `_QUIET_PROGRESS_SECONDS`."""


@dataclass(eq=False)
class JobStates:
    """Follows all jobs, and publishes their states, events and progress."""

    topics: Topics
    queue: JobQueue
    store: JobStore
    outbox: Outbox
    answers: Answers
    """Informed of every job that ends."""
    keep_seconds: float
    """From a job's end until its retained state is cleared."""
    on_change: Callable[[], None]
    """Called with every change."""
    is_up: Callable[[], bool]
    """Returns whether there is a connection."""

    def __post_init__(self) -> None:
        self._clear_at: dict[str, float] = {}
        self._published: dict[str, tuple[float, float]] = {}
        """Of each running job: when its progress was published, and what share of the whole."""

    async def run(self) -> None:
        """Announce all jobs, then follow them, until cancelled."""
        with self.queue.subscribe() as changes:
            for job_id in await asyncio.to_thread(self._to_announce):
                self.announce(job_id)
            async for change in changes:
                with Fence("mqtt", f"news of job {change.job.id}"):
                    self._follow(change)

    async def clear_old(self) -> None:
        """Clear the states of jobs whose time to live has passed, until cancelled."""
        while True:
            await asyncio.sleep(min(self.keep_seconds / 4, 30.0))
            now = time.time()
            for job_id in [known for known, end in self._clear_at.items() if end <= now]:
                del self._clear_at[job_id]
                self.announce(job_id)

    def announce(self, job_id: str) -> None:
        """Publish the state of a job, or clear it where there is to be none."""
        self.outbox.retain(self.topics.state(job_id), partial(self._render, job_id))

    def _to_announce(self) -> list[str]:
        bodies: list[Any] = [from_json(body) for body in self.store.bodies(("queued", "running"))]
        ids: list[str] = [body["id"] for body in bodies]
        oldest = time.time() - self.keep_seconds
        ended = (job_of_row(body, None) for body in self.store.bodies(ENDED, limit=_MAX_ENDED))
        return ids + [job.id for job in ended if job.ended and job.ended.timestamp() > oldest]

    async def _render(self, job_id: str) -> OutgoingMessage:
        topic = self.topics.state(job_id)
        try:
            job = await self.queue.get(job_id)
        except UnknownJob:
            return OutgoingMessage(topic, b"", retain=True)
        left = None
        self._clear_at.pop(job_id, None)
        if job.ended is not None and job.ended_for_good:
            end = job.ended.timestamp() + self.keep_seconds
            left = math.ceil(end - time.time())
            if left <= 0:
                return OutgoingMessage(topic, b"", retain=True)
            self._clear_at[job_id] = end
        return OutgoingMessage(topic, state_payload(job), retain=True, expiry_seconds=left)

    def _follow(self, change: JobChange) -> None:
        job = change.job
        self.on_change()
        if change.kind == "progress":
            self._publish_progress(job)
            return
        self.announce(job.id)
        if job.state != "running":
            self._published.pop(job.id, None)
        if change.kind == "state" and self.is_up():  # later events would push out answers
            payload = json_bytes(redacted_values(event_document(job)))
            self.outbox.post(OutgoingMessage(self.topics.event, payload))
        if job.ended_for_good:
            self.answers.ended(job)

    def _publish_progress(self, job: Job) -> None:
        if not self.is_up():  # it would be outdated by the time that it is sent
            return
        progress, now = job.progress, time.monotonic()
        share = progress.frames / progress.total if progress.total else math.inf
        last, last_share = self._published.get(job.id, (-math.inf, -math.inf))
        is_small = share - last_share < _PROGRESS_STEP
        if now - last < (_QUIET_PROGRESS_SECONDS if is_small else _PROGRESS_SECONDS):
            return
        self._published[job.id] = (now, share)
        payload = json_bytes(progress_document(job.id, progress))
        self.outbox.latest(OutgoingMessage(self.topics.progress(job.id), payload, qos=0))


def event_document(job: Job) -> dict[str, Any]:
    """Describe a change of a job's state."""
    return {
        "schema": EVENT_SCHEMA,
        "type": job.state,
        "id": job.id,
        "name": name_of(job),
        "reason": job.error.message if job.error else job.waits_for,
        "attempts": job.attempts,
        "time": time.time(),
    }


def progress_document(job_id: str, progress: JobProgress) -> dict[str, Any]:
    """Describe the progress of a job."""
    return {"id": job_id, **progress.model_dump(mode="json")}


def state_payload(job: Job) -> bytes:
    """Write a whole job; without its report where that would be too much for a broker."""
    payload = json_bytes(to_public_dict(job))
    if len(payload) > _MAX_STATE_BYTES:
        payload = json_bytes(to_public_dict(job, report=False))
    return payload


@dataclass(eq=False)
class LiveStates:
    """Follows all live streams, and publishes their states."""

    topics: Topics
    outbox: Outbox
    board: LiveBoard
    repeat_seconds: float = REPEAT_SECONDS
    on_change: Callable[[], None] = lambda: None
    """Called with every change."""

    async def run(self) -> None:
        """Announce every stream, then every change, until cancelled."""
        async with aclosing(self.board.changes()) as changes:
            async for name in changes:
                self.announce(name)
                self.on_change()

    async def repeat(self) -> None:
        """Announce every stream at regular intervals, until cancelled."""
        while True:
            await asyncio.sleep(self.repeat_seconds)
            for name in self.board.statuses:
                self.announce(name)

    def announce(self, name: str) -> None:
        """Publish the state of a stream, or clear it where there is no such stream."""
        self.outbox.retain(self.topics.live_state(name), partial(self._render, name))

    async def _render(self, name: str) -> OutgoingMessage:
        status = self.board.statuses.get(name)
        payload = b"" if status is None else json_bytes(redacted_values(status.to_json()))
        return OutgoingMessage(self.topics.live_state(name), payload, retain=True)
