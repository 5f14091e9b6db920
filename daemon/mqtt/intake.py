"""Messages as they come in: checked, journaled, acknowledged, done. Nothing ends this loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable

from ..jobs.errors import StoreBroken
from .answers import Answers, Asked
from .commands import Commands
from .journal import Journal
from .message import Received, ReplyTo
from .requests import BadRequest, JobRequest, SubmitRequest, parse
from .topics import BadResponseTopic, Command, Topics

log = logging.getLogger("upframe.mqtt.intake")

_MAX_INBOX = 1000
"""Of QoS 0, which no acknowledgement holds back; of QoS 1 the broker sends a hundred at most."""

Acknowledge = Callable[[], None]


class Intake:
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
        self._inbox: deque[tuple[Command, Received, Acknowledge]] = deque()
        self._filled = asyncio.Event()

    def put(self, command: Command, received: Received, acknowledge: Acknowledge) -> None:
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
                    await self._take(group, *self._inbox.popleft())
                self._filled.clear()

    async def _take(
        self,
        group: asyncio.TaskGroup,
        command: Command,
        received: Received,
        acknowledge: Acknowledge,
    ) -> None:
        if not self._is_fit(command, received):
            acknowledge()  # it could never become a job, so there is nothing to lose
            return
        number = await self._journal.keep(received)
        acknowledge()
        await self._work(group, command, received, number)

    def _is_fit(self, command: Command, received: Received) -> bool:
        """Check a message without touching the disk, and answer it if it is not fit."""
        try:
            self._check(command, received)
        except BadRequest as error:
            self._refuse(Asked(self._reply_to(received)), error)
            return False
        return True

    def _check(self, command: Command, received: Received) -> SubmitRequest | JobRequest:
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
        self, group: asyncio.TaskGroup, command: Command, received: Received, number: int
    ) -> None:
        """Do a request of the journal. Stopping a job takes its time, so that is done beside."""
        doing = self._do(command, received, Asked(self._reply_to(received), number))
        if command == "cancel":
            group.create_task(doing, name=f"mqtt request {number}")
        else:
            await doing

    async def _do(self, command: Command, received: Received, asked: Asked) -> None:
        job_id = None
        while True:
            try:
                request = self._check(command, received)
                job_id = request.id
                await self._refuse_expired(command, received, job_id)
                await self._commands.do(command, request, asked)
                self.counts["taken"] += 1
            except BadRequest as error:
                self._refuse(asked, error)
            except StoreBroken as error:
                await self._journal.wait(error)
                continue
            except Exception as error:  # a request must never end the loop that reads all others
                log.exception("a request failed")
                text = f"{type(error).__name__}: {error}"
                self._refuse(asked, BadRequest("internal", text, job_id=job_id))
            return

    async def _refuse_expired(self, command: Command, received: Received, job_id: str) -> None:
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

    def _reply_to(self, received: Received) -> ReplyTo | None:
        """Tell where an answer goes; a response topic that may not be used counts as none."""
        if received.response_topic is None:
            return None
        try:
            self._topics.check_response(received.response_topic, received.correlation_data)
        except BadResponseTopic:
            return None
        return ReplyTo(received.response_topic, received.correlation_data)
