"""Jobs, stores and a served queue for tests."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from upframe.daemon.jobs.client import SOCKET_NAME
from upframe.daemon.jobs.model import Job, JobError, State, job_of
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import STORE_NAME, JobStore, insert
from upframe.daemon.service import http
from upframe.daemon.service.http import JobRoutes, application, status_routes
from upframe.daemon.service.status import LoopLag, Metrics, Status
from upframe.daemon.specification import ConversionSpec, Origin

Result = TypeVar("Result")

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FAILURE = JobError(code=65, message="no frame could be decoded", retryable=False, detail="moov?")
SECRET = "rtsp://user:geheim@camera/1"
"""A source whose password nobody may see."""

_WAYS: dict[State, tuple[State, ...]] = {
    "queued": (),
    "running": ("running",),
    "done": ("running", "done"),
    "failed": ("running", "failed"),
    "cancelled": ("cancelled",),
}


def a_work(name: str = "film", **fields: Any) -> ConversionSpec:
    given: dict[str, Any] = {
        "source": f"/in/{name}.mp4",
        "sink": f"/out/{name}.mp4",
        "filters": {"enable_frame_interpolation": True, "frame_interpolation_exp": 1},
    }
    return ConversionSpec.model_validate(given | fields)


def a_job(
    name: str = "film",
    *,
    minute: float = 0,
    priority: int = 0,
    origin: Origin = "cli",
    key: str | None = None,
    **fields: Any,
) -> Job:
    """A queued job, created some minutes after noon."""
    return job_of(
        a_work(name, **fields),
        id=name,
        origin=origin,
        idempotency_key=key,
        priority=priority,
        created=NOON + timedelta(minutes=minute),
    )


def fill(path: Path, jobs: Iterable[Job]) -> None:
    """Write jobs past the store that is open on a file: it would wait for the disk at each."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for job in jobs:
            insert(connection, job)


@contextmanager
def opened(folder: Path) -> Generator[JobStore]:
    with JobStore(folder / STORE_NAME) as store:
        yield store


@contextmanager
def a_queue(folder: Path) -> Generator[JobQueue]:
    """A queue to use inside one `asyncio.run`, closed by the test or by nobody."""
    with opened(folder) as store:
        yield JobQueue(store)


def with_queue(folder: Path, use: Callable[[JobQueue], Awaitable[None]]) -> None:
    """Run a test of the queue on an event loop."""

    async def run(queue: JobQueue) -> None:
        async with asyncio.timeout(20):
            await use(queue)
            await queue.close()

    with a_queue(folder) as queue:
        asyncio.run(run(queue))


async def claimed(queue: JobQueue, name: str = "film") -> Job:
    """A running job."""
    await queue.submit(a_job(name))
    job = await queue.claim()
    assert job is not None
    return job


def put(store: JobStore, name: str, state: State = "queued", **fields: object) -> None:
    """Bring a new job into a state."""
    store.add(a_job(name))
    for step in _WAYS[state]:
        store.change(name, step, **(fields if step == state else {}))


class Turns:
    """Counts how often the event loop comes round while this is entered."""

    num = 0

    async def __aenter__(self) -> Turns:
        self._turning = asyncio.create_task(self._turn(), name="turns")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._turning.cancel()
        await asyncio.gather(self._turning, return_exceptions=True)

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.num += 1


def control_socket(path: Path, queue: JobQueue) -> AbstractAsyncContextManager[None]:
    """The control socket of a queue, as the daemon makes it."""
    jobs = JobRoutes(queue)
    routes = status_routes(Status(queue, Metrics(), LoopLag()))
    app = application([*jobs.routes(), *routes], "control")
    return http.control_socket(path, app, jobs.end_streams)


class ServedQueue:
    """A queue behind its control socket, on an event loop in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / SOCKET_NAME
        self.store = JobStore(folder / STORE_NAME)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> ServedQueue:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.store.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.queue = JobQueue(self.store)
        async with control_socket(self.socket, self.queue):
            self._ready.set()
            await self._stopping.wait()
        await self.queue.close()
