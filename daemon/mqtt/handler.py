"""Messages as they come in: checked, journaled, acknowledged, done. Nothing ends this loop."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from ..backoff import STORE_STEPS, Backoff
from ..config import Config
from ..errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from ..fence import Fence
from ..jobs import api
from ..jobs.api import to_public_dict
from ..jobs.model import Confinement, Job
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..specification import ConversionSpec, part_of
from .connection import Outbox
from .requests import (
    BadRequest,
    ErrorCode,
    JobRequest,
    Refused,
    SubmitRequest,
    answer,
    confined_work,
    confinement,
    job_answer,
    parse,
)
from .topics import BadResponseTopic, Command, IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.intake")


# Requests on the disk, from before they are acknowledged until they are answered for good.
#
# The queue's `put_nowait`, which runs on the event loop, only begins this: a write that waits for
# the disk there would make everything late. So the broker gets its acknowledgement when the write
# is done. While the store takes nothing, nothing is acknowledged: the broker keeps what it has
# sent, and sends no more than a hundred.

Result = TypeVar("Result")


class Journal:
    """The messages of a store, written and dropped in a thread of its own."""

    def __init__(self, store: JobStore, backoff: Backoff | None = None) -> None:
        self.trouble: str | None = None
        """Why the store takes nothing at the moment."""
        self.failures = 0
        """Writes that failed since the start."""
        self._store = store
        self._backoff = backoff or Backoff(STORE_STEPS)
        self._done: deque[int] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mqtt-journal")

    async def keep(self, received: IncomingMessage) -> int:
        """Write a message; it is on the disk when this returns, however often it takes."""
        properties = written_properties(received)
        return await self.insist(
            lambda: self._store.journal(received.topic, received.payload, properties)
        )

    async def unanswered(self) -> list[tuple[int, IncomingMessage]]:
        """Read what was kept and not dropped, the oldest first, with its numbers."""
        rows = await self.insist(self._store.journaled)
        return [
            (row.number, read_message(row.topic, row.payload, row.properties, row.received))
            for row in rows
        ]

    def drop(self, number: int) -> None:
        """Have a message forgotten, since it was answered for good."""
        self._done.append(number)
        self._filled.set()

    async def run(self) -> None:
        """Forget what was answered, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self.flush()

    async def flush(self) -> None:
        """Forget what was answered so far; where that fails, the next start answers it again."""
        while self._done:
            number = self._done.popleft()
            try:
                await self._call(lambda number=number: self._store.unjournal(number))
            except StoreBroken as error:
                log.warning("request %d stays in the journal: %s", number, error)

    async def insist(self, call: Callable[[], Result]) -> Result:
        """Try until the store does it."""
        while True:
            try:
                result = await self._call(call)
            except StoreBroken as error:
                await self.wait(error)
            else:
                self._note_success()
                return result

    async def wait(self, error: StoreBroken) -> None:
        """Say that the store fails, and wait a while: the longer, the longer it has failed."""
        self.failures += 1
        self.trouble = str(error)
        log.error("requests wait, unacknowledged: the store takes nothing: %s", error)
        await asyncio.sleep(self._backoff.next_seconds())

    def _note_success(self) -> None:
        if self.trouble is not None:
            log.info("the store takes requests again")
            self._backoff.reset()
        self.trouble = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    async def _call(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def written_properties(received: IncomingMessage) -> bytes:
    """Write what is kept of a message beside topic and payload; :func:`read_message` reads it."""
    correlation = received.correlation_data
    return json.dumps(
        {
            "response_topic": received.response_topic,
            "correlation_data": correlation and base64.b64encode(correlation).decode(),
            "expiry_seconds": received.expiry_seconds,
            "received": received.received,
        }
    ).encode()


def read_message(topic: str, payload: bytes, properties: bytes, written: float) -> IncomingMessage:
    """Make a message of what the journal has of it; damaged properties count as none."""
    try:
        kept = cast("dict[str, Any]", json.loads(properties))
        correlation = kept["correlation_data"]
        return IncomingMessage(
            topic,
            payload,
            response_topic=kept["response_topic"],
            correlation_data=correlation and base64.b64decode(correlation),
            expiry_seconds=kept["expiry_seconds"],
            received=kept["received"],
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the properties of a request in the journal are lost: %s", error)
        return IncomingMessage(topic, payload, received=written)


# Answers to requests: at once whether it is taken, and later how the job ended.
#
# They go to the response topic of the request with its correlation data, else to the job's
# `reply`. A request that fits no job is told to `error` as well, where an operator sees all of
# them.

_MAX_WAITING = 100
"""Requests for one job that are told its end; a client that asks more often is told the start."""

_FITS_A_JOB = ("conflict", "illegal_change", "timeout")


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the answers to a request go."""

    topic: str
    correlation_data: bytes | None = None


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
            self._outbox.post(OutgoingMessage(self._topics.error, payload))
        self._drop(asked.number)

    def _send(self, to: ReplyTo | None, job_id: str, payload: bytes, number: int | None) -> None:
        target = to or ReplyTo(self._topics.reply(job_id))
        publication = OutgoingMessage(
            target.topic, payload, correlation_data=target.correlation_data
        )
        self._outbox.post(publication, None if number is None else lambda: self._drop(number))

    def _drop(self, number: int | None) -> None:
        if number is not None:
            self._journal.drop(number)


# What requests do: submit, cancel and query jobs.

_FIRST_ANSWER_SECONDS = 0.7
"""A client shall hear within a second that its request has arrived."""


class Commands:
    """Does requests, and has them answered.

    Raises:
        BadRequest: from :meth:`do`, if a request cannot be done.
        StoreBroken: from :meth:`do`, if the store fails.
    """

    def __init__(self, queue: JobQueue, config: Config, answers: Answers) -> None:
        self._queue = queue
        self._config = config
        self._answers = answers

    async def do(self, command: Command, request: SubmitRequest | JobRequest, asked: Asked) -> None:
        """Do one request."""
        try:
            if isinstance(request, SubmitRequest):
                await self._submit(request, asked)
            elif command == "cancel":
                await self._cancel(request.id, asked)
            else:
                await self._query(request.id, asked)
        except (UnknownJob, Conflict, IllegalChange, TimeoutError) as error:
            problem = api.problem_of(error)
            code, retryable = cast("ErrorCode", problem.code), problem.code == "timeout"
            raise BadRequest(
                code, problem.detail, job_id=request.id, retryable=retryable
            ) from error

    async def knows(self, job_id: str) -> bool:
        """Tell whether there is a job of an id."""
        try:
            await api.show(self._queue, job_id)
        except UnknownJob:
            return False
        return True

    async def _submit(self, request: SubmitRequest, asked: Asked) -> None:
        work = part_of(request, ConversionSpec)
        try:
            work, to = await asyncio.to_thread(self._confine, work)
        except Refused as error:
            raise BadRequest("refused", str(error), job_id=request.id) from error
        new = api.NewJob(id=request.id, work=work, priority=request.priority)
        submitted = await api.submit(self._queue, new, origin="mqtt", confined=to)
        await self._answer_submitted(submitted.job, asked)

    def _confine(self, work: ConversionSpec) -> tuple[ConversionSpec, Confinement]:
        work = confined_work(work, self._config.jobs)
        return work, confinement(work, self._config.jobs, self._config.state_dir)

    async def _answer_submitted(self, job: Job, asked: Asked) -> None:
        if job.ended_for_good:
            self._answers.finish(asked, job.id, job_answer(job))
            return
        self._answers.begin(asked, job.id, job_answer(job))
        self._answers.wait_for_end(asked, job.id)
        job = await api.show(self._queue, job.id)
        if job.ended_for_good:  # between the two, so that nobody else has told it
            self._answers.ended(job)

    async def _cancel(self, job_id: str, asked: Asked) -> None:
        cancelling = asyncio.create_task(api.cancel(self._queue, job_id), name=f"cancel {job_id}")
        try:
            await asyncio.wait({cancelling}, timeout=_FIRST_ANSWER_SECONDS)
            if not cancelling.done():
                running = await api.show(self._queue, job_id)
                self._answers.begin(
                    asked, job_id, answer("accepted", job_id, to_public_dict(running))
                )
            job = await cancelling
        finally:
            cancelling.cancel()
        self._answers.finish(asked, job_id, answer("done", job_id, to_public_dict(job)))

    async def _query(self, job_id: str, asked: Asked) -> None:
        job = await api.show(self._queue, job_id)
        self._answers.finish(asked, job_id, answer("done", job_id, to_public_dict(job)))


_MAX_INBOX = 1000
"""Of QoS 0, which no acknowledgement holds back; of QoS 1 the broker sends a hundred at most."""

Acknowledge = Callable[[], None]


class RequestHandler:
    """Takes the messages of command topics, one after the other."""

    def __init__(
        self, topics: Topics, journal: Journal, commands: Commands, answers: Answers
    ) -> None:
        self.counts: Counter[str] = Counter()
        """Requests since the start: `taken`, or the code of the error."""
        self._topics = topics
        self._journal = journal
        self._commands = commands
        self._answers = answers
        self._inbox: deque[tuple[Command, IncomingMessage, Acknowledge]] = deque()
        self._filled = asyncio.Event()

    def put(self, command: Command, received: IncomingMessage, acknowledge: Acknowledge) -> None:
        """Take a message from the connection, without waiting for anything."""
        if len(self._inbox) < _MAX_INBOX:
            self._inbox.append((command, received, acknowledge))
            self._filled.set()
        elif received.qos == 0:
            self._refuse(Asked(self._reply_to(received)), self._busy())
        # else it stays unacknowledged, and the broker sends it again after the next connection

    async def run(self) -> None:
        """First do what the last life left unanswered, then what comes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, received in await self._journal.unanswered():
                command = self._topics.command_of(received.topic)
                if command is None:  # the node had another name then
                    self._journal.drop(number)
                    continue
                await self._work(group, command, received, number)
            while True:
                await self._filled.wait()
                while self._inbox:
                    command, received, acknowledge = self._inbox.popleft()
                    with Fence("mqtt", f"{command} request") as fenced:
                        await self._take(group, command, received, acknowledge)
                    if fenced.error is not None:
                        acknowledge()
                        self._give_up(fenced.error, received, None, None)
                self._filled.clear()

    async def _take(
        self,
        group: asyncio.TaskGroup,
        command: Command,
        received: IncomingMessage,
        acknowledge: Acknowledge,
    ) -> None:
        try:  # without touching the disk
            self._check(command, received)
        except BadRequest as error:
            self._refuse(Asked(self._reply_to(received)), error)
            acknowledge()  # it could never become a job, so there is nothing to lose
            return
        number = await self._journal.keep(received)
        acknowledge()
        await self._work(group, command, received, number)

    def _check(self, command: Command, received: IncomingMessage) -> SubmitRequest | JobRequest:
        request = parse(command, received.payload)
        if received.retained:
            text = "retained requests are not done: publish without the retain flag"
            raise BadRequest("retained", text, job_id=request.id)
        if received.response_topic is not None:
            try:
                self._topics.check_response(received.response_topic, received.correlation_data)
            except BadResponseTopic as error:
                raise BadRequest("invalid", str(error), job_id=request.id) from error
        return request

    async def _work(
        self, group: asyncio.TaskGroup, command: Command, received: IncomingMessage, number: int
    ) -> None:
        """Do a request of the journal. Stopping a job takes its time, so that is done beside."""
        doing = self._do(command, received, number)
        if command == "cancel":
            group.create_task(doing, name=f"mqtt request {number}")
        else:
            await doing

    async def _do(self, command: Command, received: IncomingMessage, number: int) -> None:
        job_id = None
        with Fence("mqtt", f"{command} request") as fenced:
            asked = Asked(self._reply_to(received), number)
            while True:
                try:
                    request = self._check(command, received)
                    job_id = request.id
                    await self._refuse_expired(command, received, job_id)
                    await self._commands.do(command, request, asked)
                    self.counts["taken"] += 1
                except BadRequest as error:
                    error.job_id = error.job_id or job_id
                    self._refuse(asked, error)
                except StoreBroken as error:
                    await self._journal.wait(error)
                    continue
                return
        if fenced.error is not None:
            self._give_up(fenced.error, received, number, job_id)

    def _give_up(
        self, error: Exception, received: IncomingMessage, number: int | None, job_id: str | None
    ) -> None:
        """Answer, if that can be done, that handling a request failed; forget it in any case."""
        with Fence("mqtt", "answer"):  # without the error's text: it may be what cannot be told
            text = f"an internal error, {type(error).__name__}; the node's log has more of it"
            asked = Asked(self._reply_to(received), number)
            self._refuse(asked, BadRequest("internal", text, job_id=job_id))
        if number is not None:
            self._journal.drop(number)

    async def _refuse_expired(
        self, command: Command, received: IncomingMessage, job_id: str
    ) -> None:
        if not received.expired(time.time()):
            return
        if command == "submit" and await self._commands.knows(job_id):
            return  # it was taken in time; now it is about its answer only
        text = f"its message expiry of {received.expiry_seconds} s was over before it was read"
        raise BadRequest("expired", text, job_id=job_id)

    def _refuse(self, asked: Asked, error: BadRequest) -> None:
        self.counts[error.problem.code] += 1
        self._answers.refuse(asked, error)

    def _busy(self) -> BadRequest:
        text = f"{_MAX_INBOX} requests wait already; QoS 1 would have waited at the broker"
        return BadRequest("busy", text, retryable=True)

    def _reply_to(self, received: IncomingMessage) -> ReplyTo | None:
        """Tell where an answer goes; a response topic that may not be used counts as none."""
        if received.response_topic is None:
            return None
        try:
            self._topics.check_response(received.response_topic, received.correlation_data)
        except BadResponseTopic:
            return None
        return ReplyTo(received.response_topic, received.correlation_data)
