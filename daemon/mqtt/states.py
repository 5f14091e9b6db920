"""Every job's retained state and its progress, held as the store has them.

The broker is the place where old truths survive: a state that was published in a former life, of a
job that ended or was forgotten since. So after connecting we look at what it holds of ours, and
what has no place there any more is cleared. An ended job's state carries its time to live, by
which the broker drops it even if nobody is there to clear it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from pydantic_core import from_json

from ...io.redaction import redacted_values
from ..errors import UnknownJob
from ..fence import Fence
from ..jobs.api import to_public_dict
from ..jobs.database import job_of_row
from ..jobs.model import Job
from ..jobs.queue import JobChange, JobQueue
from ..jobs.store import ENDED, JobStore
from ..live.status import LiveBoard
from .connection import Outbox
from .handler import Answers
from .requests import json_bytes
from .topics import OutgoingMessage, Topics

_MAX_ENDED = 2000  # announced at a start, the latest; older ones keep what the broker has of them
_MAX_STATE_BYTES = 128 * 1024
_PROGRESS_SECONDS = 1.0
_QUIET_PROGRESS_SECONDS = 10.0
_PROGRESS_STEP = 0.01
"""Of the whole: less is told only after `_QUIET_PROGRESS_SECONDS`."""

EVENT_SCHEMA = "upframe.event/1"


class JobStates:
    """Follows all jobs, and tells the broker."""

    def __init__(
        self,
        topics: Topics,
        queue: JobQueue,
        store: JobStore,
        outbox: Outbox,
        answers: Answers,
        *,
        keep_seconds: float,
        on_change: Callable[[], None],
        is_up: Callable[[], bool],
    ) -> None:
        self._topics = topics
        self._queue = queue
        self._store = store
        self._outbox = outbox
        self._answers = answers
        self._keep_seconds = max(keep_seconds, 1.0)  # the end of a job shall be seen at all
        self._on_change = on_change
        self._is_up = is_up
        self._clear_at: dict[str, float] = {}
        self._told: dict[str, tuple[float, float]] = {}
        """Of each running job: when progress was told, and how much of the whole it was."""

    async def run(self) -> None:
        """Announce all jobs, then follow them, until cancelled."""
        async with self._queue.subscribe() as changes:
            for job_id in await asyncio.to_thread(self._to_announce):
                self._announce(job_id)
            async for change in changes:
                with Fence("mqtt", f"news of job {change.job.id}"):
                    self._follow(change)

    async def clear_old(self) -> None:
        """Clear the states of jobs whose time to live is over, until cancelled."""
        while True:
            await asyncio.sleep(min(self._keep_seconds / 4, 30.0))
            now = time.time()
            for job_id in [known for known, end in self._clear_at.items() if end <= now]:
                del self._clear_at[job_id]
                self._announce(job_id)

    def seen(self, job_id: str) -> None:
        """Note that the broker holds a state of ours, which may be wrong or too old."""
        self._announce(job_id)

    def _to_announce(self) -> list[str]:
        bodies: list[Any] = [from_json(body) for body in self._store.bodies(("queued", "running"))]
        oldest = time.time() - self._keep_seconds
        for body in self._store.bodies(ENDED, limit=_MAX_ENDED):
            job = job_of_row(body, None)
            if job.ended is not None and job.ended.timestamp() > oldest:
                bodies.append({"id": job.id})
        return [body["id"] for body in bodies]

    def _announce(self, job_id: str) -> None:
        self._outbox.retain(self._topics.state(job_id), partial(self._render, job_id))

    async def _render(self, job_id: str) -> OutgoingMessage:
        """Make a job's retained state as it is now; an empty one where there is to be none."""
        topic = self._topics.state(job_id)
        try:
            job = await self._queue.get(job_id)
        except UnknownJob:
            return OutgoingMessage(topic, b"", retain=True)
        left = None
        if job.ended is not None and job.ended_for_good:
            self._clear_at[job_id] = job.ended.timestamp() + self._keep_seconds
            left = math.ceil(self._clear_at[job_id] - time.time())
            if left <= 0:
                del self._clear_at[job_id]
                return OutgoingMessage(topic, b"", retain=True)
        else:
            self._clear_at.pop(job_id, None)
        return OutgoingMessage(topic, state_payload(job), retain=True, expiry_seconds=left)

    def _follow(self, change: JobChange) -> None:
        job = change.job
        self._on_change()
        if change.kind == "progress":
            self._tell_progress(job)
            return
        self._announce(job.id)
        if job.state != "running":
            self._told.pop(job.id, None)
        if change.kind == "state":
            self._tell_event(job)
        if job.ended_for_good:
            self._answers.ended(job)

    def _tell_progress(self, job: Job) -> None:
        if not self._is_up():  # it would be old by the time that it is sent
            return
        progress, now = job.progress, time.monotonic()
        share = progress.frames / progress.total if progress.total else math.inf
        told_at, told = self._told.get(job.id, (-math.inf, -math.inf))
        if now - told_at < _PROGRESS_SECONDS:
            return
        if share - told < _PROGRESS_STEP and now - told_at < _QUIET_PROGRESS_SECONDS:
            return
        self._told[job.id] = (now, share)
        payload = json_bytes({"id": job.id, **progress.model_dump(mode="json")})
        self._outbox.latest(OutgoingMessage(self._topics.progress(job.id), payload, qos=0))

    def _tell_event(self, job: Job) -> None:
        if (
            not self._is_up()
        ):  # states tell what is; events that nobody heard would push out answers
            return
        document = {
            "schema": EVENT_SCHEMA,
            "type": job.state,
            "id": job.id,
            "attempts": job.attempts,
            "time": time.time(),
        }
        self._outbox.post(OutgoingMessage(self._topics.event, json_bytes(document)))


def state_payload(job: Job) -> bytes:
    """Write a whole job; without its report where that would be more than a broker may take."""
    payload = json_bytes(to_public_dict(job))
    if len(payload) > _MAX_STATE_BYTES:
        payload = json_bytes(to_public_dict(job, report=False))
    return payload


# Every live stream's retained state, on each change and now and then, held as the board has it.
#
# As with jobs, the broker is where old truths survive: the state of a stream whose entry went
# while nobody was connected is seen after connecting, and cleared.

REPEAT_SECONDS = 60.0
"""Counts and delays change all the time; so often they are told without another reason."""


class LiveStates:
    """Follows all live streams, and tells the broker."""

    def __init__(
        self,
        topics: Topics,
        outbox: Outbox,
        board: LiveBoard,
        *,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        self._topics = topics
        self._outbox = outbox
        self._board = board
        self._repeat_seconds = repeat_seconds

    async def run(self) -> None:
        """Tell of every stream, then of every change, until cancelled."""
        async with aclosing(self._board.changes()) as changes:
            async for name in changes:
                self._announce(name)

    async def repeat(self) -> None:
        """Tell of every stream now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._repeat_seconds)
            for name in self._board.statuses:
                self._announce(name)

    def seen(self, name: str) -> None:
        """Note that the broker holds a state of ours, which may be of a stream that is gone."""
        self._announce(name)

    def _announce(self, name: str) -> None:
        self._outbox.retain(self._topics.live_state(name), partial(self._render, name))

    async def _render(self, name: str) -> OutgoingMessage:
        """Make a stream's retained state as it is now; an empty one where there is no stream."""
        status = self._board.statuses.get(name)
        payload = b"" if status is None else json_bytes(redacted_values(status.to_json()))
        return OutgoingMessage(self._topics.live_state(name), payload, retain=True)
