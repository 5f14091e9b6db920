"""Calls of a blocking store from the event loop, on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class Offload:
    """Runs calls on threads, and what was begun to its end.

    One thread writes, so that changes are told in the order in which they were made. The threads
    are our own, so that no hanging scan of a network share keeps a change from being recorded.
    """

    def __init__(self) -> None:
        self._writing = ThreadPoolExecutor(1, "job-store-writes")
        self._reading = ThreadPoolExecutor(2, "job-store-reads")
        self._unfinished: set[asyncio.Task[Any]] = set()

    async def read(self, call: Callable[[], Result]) -> Result:
        """Run a call that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, call)

    async def write(self, call: Callable[[], Result], tell: Callable[[Result], None]) -> Result:
        """Make a change and tell it on the loop; both happen even if the caller is cancelled."""

        async def run() -> Result:
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._writing, call)
            tell(result)
            return result

        return await asyncio.shield(self.begin(run(), "write to the job store"))

    def begin(self, work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Start a task that :meth:`close` waits for."""
        task = asyncio.create_task(work, name=name)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    async def close(self) -> None:
        """Wait for what was begun, and end the threads."""
        while self._unfinished:
            await asyncio.gather(*self._unfinished, return_exceptions=True)
        self._writing.shutdown(wait=False)
        self._reading.shutdown(wait=False)
