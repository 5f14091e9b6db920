"""What the control socket answers: one generator of lines for each kind of request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from ..jobs.errors import DaemonAbsent
from ..jobs.model import Job, job_of
from ..jobs.queue import JobQueue
from ..jobs.shown import shown, shown_body
from ..jobs.subscription import JobChange, Subscription
from ..jobs.wire import Cancel, List, Request, Retry, Show, Status, Submit, Watch, line_of

Lines = AsyncGenerator[bytes]

_PORTION = 200  # jobs in one piece of a list: so the loop stays free between them


def answer(request: Request, queue: JobQueue, status: Callable[[], Mapping[str, Any]]) -> Lines:
    """Answer a request, line by line; what is refused raises as the queue does."""
    match request:
        case Submit():
            return _submit(request, queue)
        case List():
            return _list(request, queue)
        case Show():
            return _show(request, queue)
        case Cancel():
            return _cancel(request, queue)
        case Retry():
            return _retry(request, queue)
        case Watch():
            return _watch(request, queue)
        case Status():
            return _status(queue, status)


async def _submit(request: Submit, queue: JobQueue) -> Lines:
    wanted = job_of(request.work, id=request.id, origin="cli", priority=request.priority)
    job, new = await queue.submit(wanted)
    yield line_of({"end": {"job": shown(job), "new": new}})


async def _list(request: List, queue: JobQueue) -> Lines:
    bodies = await queue.bodies(request.states, request.limit)
    for start in range(0, len(bodies), _PORTION):
        yield await asyncio.to_thread(_items_of, bodies[start : start + _PORTION])
    yield line_of({"end": await queue.counts()})


def _items_of(bodies: list[str]) -> bytes:
    return "".join(f'{{"item":{shown_body(body)}}}\n' for body in bodies).encode()


async def _show(request: Show, queue: JobQueue) -> Lines:
    yield line_of({"end": shown(await queue.get(request.id))})


async def _cancel(request: Cancel, queue: JobQueue) -> Lines:
    yield line_of({"end": shown(await queue.cancel(request.id))})


async def _retry(request: Retry, queue: JobQueue) -> Lines:
    if request.id is not None:
        jobs = [await queue.retry(request.id)]
    else:
        jobs = await queue.retry_failed()
    for start in range(0, len(jobs), _PORTION):
        yield await asyncio.to_thread(_items_of_jobs, jobs[start : start + _PORTION])
    yield line_of({"end": len(jobs)})


def _items_of_jobs(jobs: list[Job]) -> bytes:
    return b"".join(line_of({"item": shown(job, report=False)}) for job in jobs)


async def _status(queue: JobQueue, status: Callable[[], Mapping[str, Any]]) -> Lines:
    counts = await queue.counts()
    yield line_of({"end": {**status(), "jobs": counts, "paused": queue.paused}})


async def _watch(request: Watch, queue: JobQueue) -> Lines:
    with queue.subscribe() as changes:  # before the first look, so that nothing is missed
        first = await _at_first(request.ids, queue)
        for job in first:
            yield await _item_of(JobChange(job, "state"), queue)
        left = None if request.ids is None else {job.id for job in first if not job.ended_for_good}
        async with aclosing(_until_ended(changes, left)) as following:
            async for change in following:
                yield await _item_of(change, queue)
    yield line_of({"end": None})


async def _at_first(ids: tuple[str, ...] | None, queue: JobQueue) -> list[Job]:
    if ids is None:
        return await queue.jobs(("running",))
    return [await queue.get(each) for each in ids]


async def _until_ended(changes: Subscription, left: set[str] | None) -> AsyncGenerator[JobChange]:
    """Pass on the changes of some jobs until the last of them has ended; None: of all, for ever."""
    while left is None or left:
        change = await anext(changes, None)
        if change is None:
            raise DaemonAbsent("the daemon stops")
        if left is None or change.job.id in left:
            yield change
        if left is not None and (change.job.ended_for_good or change.kind == "removed"):
            left.discard(change.job.id)


async def _item_of(change: JobChange, queue: JobQueue) -> bytes:
    item: dict[str, Any] = {"kind": change.kind, "job": shown(change.job, report=False)}
    if change.kind == "state":
        item["counts"] = await queue.counts()
    return line_of({"item": item})
