"""Requests: checked, journaled, acknowledged, done and answered. Nothing ends their loop."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from ..backoff import STORE_STEPS, Backoff
from ..config import Config
from ..errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from ..fence import Fence
from ..jobs import api
from ..jobs.api import to_public_dict
from ..jobs.model import Job, new_id
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..specification import ConversionSpec, part_of
from .connection import Outbox
from .requests import (
    BadRequest,
    ErrorCode,
    Refused,
    Request,
    SubmitRequest,
    answer,
    confined_work,
    confinement,
    job_answer,
    parse,
    with_id,
)
from .topics import BadResponseTopic, Command, IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.intake")

Result = TypeVar("Result")


class Journal:
    """Requests on the disk, from before they are acknowledged until they are answered for good.

    Written and dropped in a thread of its own, so that the loop never waits for the disk. While the
    store fails, nothing is acknowledged: the broker keeps what it has sent, and sends no more than
    a hundred.
    """

    def __init__(self, store: JobStore) -> None:
        self.trouble: str | None = None
        """Why the store fails at the moment."""
        self.failures = 0
        """Calls of the store that failed since the start."""
        self._store = store
        self._backoff = Backoff(STORE_STEPS)
        self._done: deque[int] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mqtt-journal")

    async def keep(self, message: IncomingMessage) -> int:
        """Write a message, and return its number once it is on the disk, however long it takes."""
        row = message.topic, message.payload, written_properties(message)
        return await self._insist(lambda: self._store.journal(*row))

    async def unanswered(self) -> list[tuple[int, IncomingMessage]]:
        """Read what was kept and not dropped, with its numbers, the oldest first."""
        rows = await self._insist(self._store.journaled)
        return [
            (row.number, read_message(row.topic, row.payload, row.properties, row.received))
            for row in rows
        ]

    def drop(self, number: int | None) -> None:
        """Have a message removed, since it was answered for good; None: it was never kept."""
        if number is not None:
            self._done.append(number)
            self._filled.set()

    async def run(self) -> None:
        """Remove what was answered, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self.flush()

    async def flush(self) -> None:
        """Remove what was answered so far; where that fails, the next start answers it again."""
        while self._done:
            number = self._done.popleft()
            try:
                await self._call(lambda number=number: self._store.unjournal(number))
            except StoreBroken as error:
                log.warning("request %d stays in the journal: %s", number, error)

    async def wait(self, error: StoreBroken) -> None:
        """Log that the store fails, and wait: longer, the longer it has failed."""
        self.failures += 1
        self.trouble = str(error)
        log.error("requests wait, unacknowledged: the store fails: %s", error)
        await asyncio.sleep(self._backoff.next_seconds())

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    async def _insist(self, call: Callable[[], Result]) -> Result:
        while True:
            try:
                result = await self._call(call)
            except StoreBroken as error:
                await self.wait(error)
                continue
            if self.trouble is not None:
                log.info("the store works again")
                self._backoff.reset()
                self.trouble = None
            return result

    async def _call(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


_KEPT = ("response_topic", "expiry_seconds", "received")


def written_properties(message: IncomingMessage) -> bytes:
    """Write what is kept beside topic and payload; :func:`read_message` reads it."""
    kept: dict[str, Any] = {name: getattr(message, name) for name in _KEPT}
    correlation = message.correlation_data
    kept["correlation_data"] = correlation and base64.b64encode(correlation).decode()
    return json.dumps(kept).encode()


def read_message(topic: str, payload: bytes, properties: bytes, written: float) -> IncomingMessage:
    """Make a message of a row of the journal; damaged properties count as none."""
    try:
        row = cast("dict[str, Any]", json.loads(properties))
        kept, correlation = {name: row[name] for name in _KEPT}, row["correlation_data"]
        kept["correlation_data"] = correlation and base64.b64decode(correlation)
        return IncomingMessage(topic, payload, **kept)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the properties of a request in the journal are lost: %s", error)
        return IncomingMessage(topic, payload, received=written)


_MAX_WAITING = 100
"""Requests for one job that are answered at its end; further ones only when they arrive."""

_FITS_A_JOB = ("conflict", "illegal_change", "timeout")


@dataclass(frozen=True, slots=True)
class Requester:
    """Who has sent a request, and where answers go."""

    number: int | None = field(default=None, compare=False)
    """Of the request in the journal."""
    topic: str | None = None
    """Its response topic; None: answers go to the job's `reply`."""
    correlation_data: bytes | None = None


@dataclass(eq=False)
class Answers:
    """Sends answers: at once whether a request is accepted, and later how its job ended.

    A request that fits no job is answered on the `error` topic as well, where an operator sees all
    of them.
    """

    topics: Topics
    outbox: Outbox
    journal: Journal

    def __post_init__(self) -> None:
        self._waiting: dict[str, list[Requester]] = {}
        """By job: who is to have an answer at its end."""

    def finish(self, requester: Requester, job_id: str, payload: bytes) -> None:
        """Answer for good: the request leaves the journal once the broker has the answer."""
        topic = requester.topic or self.topics.reply(job_id)
        message = OutgoingMessage(topic, payload, correlation_data=requester.correlation_data)
        self.outbox.post(message, lambda: self.journal.drop(requester.number))

    def finish_all(self, requester: Requester, jobs: Sequence[Job]) -> None:
        """Answer a request about all jobs of a state; without a response topic, nowhere."""
        if requester.topic is None:
            self.journal.drop(requester.number)
        else:
            self.finish(requester, "", answer("done", None, {"jobs": [job.id for job in jobs]}))

    def begin(self, requester: Requester, job_id: str, payload: bytes) -> None:
        """Answer for now."""
        self.finish(replace(requester, number=None), job_id, payload)

    def wait_for_end(self, requester: Requester, job_id: str) -> None:
        """Answer again when the job ends; a place that asked twice is answered once."""
        waiting = self._waiting.setdefault(job_id, [])
        if requester in waiting or len(waiting) >= _MAX_WAITING:
            self.journal.drop(requester.number)
        else:
            waiting.append(requester)

    def ended(self, job: Job) -> None:
        """Answer all who wait for the end of a job."""
        if waiting := self._waiting.pop(job.id, None):
            payload = job_answer(job)
            for requester in waiting:
                self.finish(requester, job.id, payload)

    def refuse(self, requester: Requester, error: BadRequest) -> None:
        """Answer that a request is not done, and why."""
        problem, job_id = error.problem, error.job_id
        log.info("request %s refused: %s: %s", job_id or "without an id", problem.code, error)
        payload = answer("error", job_id, problem=problem)
        is_anonymous = requester.topic is None and job_id is None
        if not is_anonymous:
            self.begin(requester, job_id or "", payload)
        if is_anonymous or problem.code not in _FITS_A_JOB:
            self.outbox.post(OutgoingMessage(self.topics.error, payload))
        self.journal.drop(requester.number)


_MAX_INBOX = 1000
"""Of QoS 0, which no acknowledgement holds back; of QoS 1 the broker sends a hundred at most."""
_FIRST_ANSWER_SECONDS = 0.7
"""A client shall hear within a second that its request has arrived."""


@dataclass(eq=False)
class RequestHandler:
    """Handles the messages of command topics, one after the other."""

    topics: Topics
    queue: JobQueue
    config: Config
    journal: Journal
    answers: Answers

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Requests since the start: `taken`, or the code of the error."""
        self._inbox: deque[tuple[Command, IncomingMessage, Callable[[], None]]] = deque()
        self._filled = asyncio.Event()

    def put(
        self, command: Command, message: IncomingMessage, acknowledge: Callable[[], None]
    ) -> None:
        """Accept a message from the connection, without waiting for anything."""
        if len(self._inbox) < _MAX_INBOX:
            self._inbox.append((command, message, acknowledge))
            self._filled.set()
        elif message.qos == 0:
            text = f"{_MAX_INBOX} requests wait already; QoS 1 would have waited at the broker"
            self._refuse(self._requester(message), BadRequest("busy", text, retryable=True))
        # else it stays unacknowledged, and the broker sends it again after the next connection

    async def run(self) -> None:
        """Do what is unanswered since the last start, then what comes, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number, message in await self.journal.unanswered():
                command = self.topics.command_of(message.topic)
                if command is None:  # the node had another name then
                    self.journal.drop(number)
                else:
                    await self._work(group, command, message, number)
            while True:
                await self._filled.wait()
                self._filled.clear()
                while self._inbox:
                    command, message, acknowledge = self._inbox.popleft()
                    kept = await self._keep(command, message)
                    acknowledge()
                    if kept is not None:
                        await self._work(group, command, *kept)

    async def _keep(
        self, command: Command, message: IncomingMessage
    ) -> tuple[IncomingMessage, int] | None:
        """Check a new request; return what the journal has of it, and its number there.

        None: it is refused. An id that is made here is the same when the journal is read again.
        """
        with Fence("mqtt", f"{command} request") as fenced:
            try:
                request = self._check(command, message)
                if isinstance(request, SubmitRequest) and request.id is None:
                    named = with_id(message.payload, new_id(request.source))
                    message = replace(message, payload=named)
                    self._check(command, message)
                return message, await self.journal.keep(message)
            except BadRequest as error:  # it never touches the disk
                self._refuse(self._requester(message), error)
        if fenced.error is not None:
            self._give_up(fenced.error, message, None, None)
        return None

    def _check(self, command: Command, message: IncomingMessage) -> Request:
        request = parse(command, message.payload)
        if message.retained:
            text = "retained requests are not done: publish without the retain flag"
            raise BadRequest("retained", text, job_id=request.id)
        if message.response_topic is not None:
            try:
                self.topics.check_response(message.response_topic, message.correlation_data)
            except BadResponseTopic as error:
                raise BadRequest("invalid", str(error), job_id=request.id) from error
        return request

    async def _work(
        self, group: asyncio.TaskGroup, command: Command, message: IncomingMessage, number: int
    ) -> None:
        """Do a request of the journal, concurrently if it waits for a job or a watched folder."""
        handling = self._handle(command, message, number)
        if command in ("cancel", "retry"):
            group.create_task(handling, name=f"mqtt request {number}")
        else:
            await handling

    async def _handle(self, command: Command, message: IncomingMessage, number: int) -> None:
        job_id = None
        with Fence("mqtt", f"{command} request") as fenced:
            requester = self._requester(message, number)
            while True:
                try:
                    request = self._check(command, message)
                    job_id = request.id
                    await self._do(command, request, message, requester)
                    self.counts["taken"] += 1
                except BadRequest as error:
                    error.job_id = error.job_id or job_id
                    self._refuse(requester, error)
                except Refused as error:
                    self._refuse(requester, BadRequest("refused", str(error), job_id=job_id))
                except (UnknownJob, Conflict, IllegalChange, TimeoutError) as error:
                    code, text = cast("ErrorCode", api.problem_of(error).code), str(error)
                    late = code == "timeout"
                    self._refuse(requester, BadRequest(code, text, job_id=job_id, retryable=late))
                except StoreBroken as error:
                    await self.journal.wait(error)
                    continue
                return
        if fenced.error is not None:
            self._give_up(fenced.error, message, number, job_id)

    async def _do(
        self, command: Command, request: Request, message: IncomingMessage, requester: Requester
    ) -> None:
        if message.expired(time.time()) and not await self._is_known_submission(request):
            text = f"its message expiry of {message.expiry_seconds} s was over before it was read"
            raise BadRequest("expired", text)
        if request.id is None:
            self.answers.finish_all(requester, await self._change_all(command))
        elif isinstance(request, SubmitRequest):
            await self._submit(request.id, request, requester)
        elif command == "cancel":
            await self._cancel(request.id, requester)
        else:
            is_retry = command == "retry"
            job = await (self.queue.retry if is_retry else self.queue.get)(request.id)
            self.answers.finish(requester, job.id, answer("done", job.id, to_public_dict(job)))

    async def _change_all(self, command: Command) -> list[Job]:
        """Queue every failed job again, or cancel all that run; return those that were changed."""
        if command == "retry":
            return await api.retry(self.queue)
        cancelled = list[Job]()
        for job in await self.queue.jobs(("running",)):
            with suppress(UnknownJob, IllegalChange, TimeoutError):  # it has just ended, or will
                cancelled.append(await self.queue.cancel(job.id))
        return cancelled

    async def _is_known_submission(self, request: Request) -> bool:
        """Return whether it was accepted in time, so that only its answer is late."""
        try:
            await self.queue.get(str(request.id))
        except UnknownJob:
            return False
        return isinstance(request, SubmitRequest)

    async def _submit(self, job_id: str, request: SubmitRequest, requester: Requester) -> None:
        asked, config = part_of(request, ConversionSpec), self.config
        work = await asyncio.to_thread(confined_work, asked, config.jobs)
        to = await asyncio.to_thread(confinement, work, config.jobs, config.state_dir)
        new = api.NewJob(id=job_id, work=work, priority=request.priority)
        job = (await api.submit(self.queue, new, origin="mqtt", confined=to)).job
        if job.ended_for_good:
            self.answers.finish(requester, job.id, job_answer(job))
            return
        self.answers.begin(requester, job.id, job_answer(job))
        self.answers.wait_for_end(requester, job.id)
        job = await self.queue.get(job.id)
        if job.ended_for_good:  # between the two, when nothing was waiting for it
            self.answers.ended(job)

    async def _cancel(self, job_id: str, requester: Requester) -> None:
        cancelling = asyncio.create_task(self.queue.cancel(job_id), name=f"cancel {job_id}")
        try:
            await asyncio.wait({cancelling}, timeout=_FIRST_ANSWER_SECONDS)
            if not cancelling.done():
                job = await self.queue.get(job_id)
                payload = answer("accepted", job_id, to_public_dict(job))
                self.answers.begin(requester, job_id, payload)
            job = await cancelling
        finally:
            cancelling.cancel()
        self.answers.finish(requester, job_id, answer("done", job_id, to_public_dict(job)))

    def _give_up(
        self, error: Exception, message: IncomingMessage, number: int | None, job_id: str | None
    ) -> None:
        """Answer, if possible, that handling a request failed; forget it in any case."""
        with Fence("mqtt", "answer"):  # without the error's text, which may be what fails
            text = f"an internal error, {type(error).__name__}; the node's log has more of it"
            requester = self._requester(message, number)
            self._refuse(requester, BadRequest("internal", text, job_id=job_id))
        self.journal.drop(number)

    def _refuse(self, requester: Requester, error: BadRequest) -> None:
        self.counts[error.problem.code] += 1
        self.answers.refuse(requester, error)

    def _requester(self, message: IncomingMessage, number: int | None = None) -> Requester:
        """Return who has sent a message; a response topic that may not be used counts as none."""
        topic, correlation_data = message.response_topic, message.correlation_data
        if topic is not None:
            with suppress(BadResponseTopic):
                self.topics.check_response(topic, correlation_data)
                return Requester(number, topic, correlation_data)
        return Requester(number)
