"""Answers to requests: at once whether it is taken, and later how the job ended.

They go to the response topic of the request with its correlation data, else to the job's `reply`.
A request that fits no job is told to `error` as well, where an operator sees all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from ..jobs.model import Job
from .journal import Journal
from .message import Publication, ReplyTo
from .outbox import Outbox
from .requests import BadRequest, answer, job_answer
from .topics import Topics

log = logging.getLogger("upframe.mqtt.answers")

_MAX_WAITING = 100
"""Requests for one job that are told its end; a client that asks more often is told the start."""

_FITS_A_JOB = ("conflict", "illegal_change", "timeout")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as far as its answer is concerned."""

    reply_to: ReplyTo | None = None
    """Where it wants its answer."""
    number: int | None = None
    """Its own in the journal."""


class Answers:
    """Sends answers, and knows who waits for the end of which job."""

    def __init__(self, topics: Topics, outbox: Outbox, journal: Journal) -> None:
        self._topics = topics
        self._outbox = outbox
        self._journal = journal
        self._waiting: dict[str, dict[ReplyTo, int | None]] = {}

    @property
    def waiting(self) -> Mapping[str, object]:
        """The jobs whose end somebody wants to hear of."""
        return self._waiting

    def finish(self, asked: Asked, job_id: str, payload: bytes) -> None:
        """Answer for good: the request is dropped from the journal once this has arrived."""
        self._send(asked.reply_to, job_id, payload, asked.number)

    def begin(self, asked: Asked, job_id: str, payload: bytes) -> None:
        """Answer for now."""
        self._send(asked.reply_to, job_id, payload, None)

    def wait_for_end(self, asked: Asked, job_id: str) -> None:
        """Remember to tell how the job ends; a place that asked twice is told once."""
        target = asked.reply_to or ReplyTo(self._topics.reply(job_id))
        waiting = self._waiting.setdefault(job_id, {})
        if target in waiting or len(waiting) >= _MAX_WAITING:
            self._drop(asked.number)
        else:
            waiting[target] = asked.number

    def ended(self, job: Job) -> None:
        """Tell all who wait for it that a job has ended."""
        waiting = self._waiting.pop(job.id, None)
        if waiting:
            payload = job_answer(job)
            for target, number in waiting.items():
                self._send(target, job.id, payload, number)

    def refuse(self, asked: Asked, error: BadRequest) -> None:
        """Answer that a request is not done, and why."""
        problem, job_id = error.problem, error.job_id
        log.info("request %s refused: %s: %s", job_id or "without an id", problem.code, error)
        payload = answer("error", job_id, problem=problem)
        fits_none = problem.code not in _FITS_A_JOB
        if asked.reply_to is not None or job_id is not None:
            self._send(asked.reply_to, job_id or "", payload, None)
        if fits_none or (asked.reply_to is None and job_id is None):
            self._outbox.post(Publication(self._topics.error, payload))
        self._drop(asked.number)

    def _send(self, to: ReplyTo | None, job_id: str, payload: bytes, number: int | None) -> None:
        target = to or ReplyTo(self._topics.reply(job_id))
        publication = Publication(target.topic, payload, correlation_data=target.correlation_data)
        self._outbox.post(publication, None if number is None else lambda: self._drop(number))

    def _drop(self, number: int | None) -> None:
        if number is not None:
            self._journal.drop(number)
