"""Changes of jobs as they happen, for who follows them: the latest of each job, never a backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from .model import Job

ChangeKind = Literal["state", "progress", "removed"]


@dataclass(frozen=True, slots=True)
class JobChange:
    """A job as it is now, and what about it has changed."""

    job: Job
    kind: ChangeKind


class Subscription:
    """Follows all jobs: an asynchronous iterator, and a context manager that ends it.

    A slow reader misses what was overtaken: of each job only the latest is kept, and a change of
    state is not hidden by the progress that comes after it.
    """

    def __init__(self, on_close: Callable[[Subscription], None]) -> None:
        self._on_close = on_close
        self._waiting: dict[str, JobChange] = {}
        self._filled = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Count the jobs with a change that was not read yet."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobChange:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        await asyncio.sleep(0)  # others on the loop go first, however much is waiting here
        return self._waiting.pop(next(iter(self._waiting)))

    def put(self, change: JobChange) -> None:
        """Take the next change; what is not read yet of the same job is overtaken by it."""
        if self._closed:
            return
        before = self._waiting.get(change.job.id)
        if before is not None and before.kind == "state" and change.kind == "progress":
            change = JobChange(change.job, "state")
        self._waiting[change.job.id] = change
        self._filled.set()

    def close(self) -> None:
        """End the iteration after what is waiting. Safe to call twice."""
        self._closed = True
        self._filled.set()
        self._on_close(self)
