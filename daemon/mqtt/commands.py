"""What requests do: submit, cancel and query jobs."""

from __future__ import annotations

import asyncio

from ..jobs.errors import Conflict, IllegalChange, UnknownJob
from ..jobs.model import Job, Work, job_of
from ..jobs.queue import JobQueue
from ..jobs.shown import shown
from ..service.config import JobsConfig
from .answers import Answers, Asked
from .confinement import Refused, confined_work
from .requests import BadRequest, JobRequest, SubmitRequest, answer, job_answer
from .topics import Command

_FIRST_ANSWER_SECONDS = 0.7
"""A client shall hear within a second that its request has arrived."""


class Commands:
    """Does requests, and has them answered.

    Raises:
        BadRequest: from :meth:`do`, if a request cannot be done.
        StoreBroken: from :meth:`do`, if the store fails.
    """

    def __init__(self, queue: JobQueue, jobs: JobsConfig, answers: Answers) -> None:
        self._queue = queue
        self._jobs = jobs
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
        except UnknownJob as error:
            raise BadRequest("unknown_job", str(error), job_id=request.id) from error
        except IllegalChange as error:
            raise BadRequest("illegal_change", str(error), job_id=request.id) from error
        except TimeoutError as error:
            raise BadRequest("timeout", str(error), job_id=request.id, retryable=True) from error

    async def knows(self, job_id: str) -> bool:
        """Tell whether there is a job of an id."""
        try:
            await self._queue.get(job_id)
        except UnknownJob:
            return False
        return True

    async def _submit(self, request: SubmitRequest, asked: Asked) -> None:
        work = Work.model_validate({name: getattr(request, name) for name in Work.model_fields})
        try:
            work = await asyncio.to_thread(confined_work, work, self._jobs)
            job, _ = await self._queue.submit(
                job_of(work, id=request.id, origin="mqtt", priority=request.priority)
            )
        except Refused as error:
            raise BadRequest("refused", str(error), job_id=request.id) from error
        except Conflict as error:
            raise BadRequest("conflict", str(error), job_id=request.id) from error
        await self._answer_submitted(job, asked)

    async def _answer_submitted(self, job: Job, asked: Asked) -> None:
        if job.ended_for_good:
            self._answers.finish(asked, job.id, job_answer(job))
            return
        self._answers.begin(asked, job.id, job_answer(job))
        self._answers.wait_for_end(asked, job.id)
        job = await self._queue.get(job.id)
        if job.ended_for_good:  # between the two, so that nobody else has told it
            self._answers.ended(job)

    async def _cancel(self, job_id: str, asked: Asked) -> None:
        cancelling = asyncio.create_task(self._queue.cancel(job_id), name=f"cancel {job_id}")
        try:
            await asyncio.wait({cancelling}, timeout=_FIRST_ANSWER_SECONDS)
            if not cancelling.done():
                running = await self._queue.get(job_id)
                self._answers.begin(asked, job_id, answer("accepted", job_id, shown(running)))
            job = await cancelling
        finally:
            cancelling.cancel()
        self._answers.finish(asked, job_id, answer("done", job_id, shown(job)))

    async def _query(self, job_id: str, asked: Asked) -> None:
        job = await self._queue.get(job_id)
        self._answers.finish(asked, job_id, answer("done", job_id, shown(job)))
