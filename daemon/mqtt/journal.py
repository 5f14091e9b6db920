"""Requests on the disk, from before they are acknowledged until they are answered for good.

The queue's `put_nowait`, which runs on the event loop, only begins this: a write that waits for the
disk there would make everything late. So the broker gets its acknowledgement when the write is
done. While the store takes nothing, nothing is acknowledged: the broker keeps what it has sent,
and sends no more than a hundred.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from ..jobs.errors import StoreBroken
from ..jobs.store import JobStore
from .backoff import Backoff
from .message import Received

log = logging.getLogger("upframe.mqtt.journal")

Result = TypeVar("Result")


class Journal:
    """The messages of a store, written and dropped in a thread of its own."""

    def __init__(self, store: JobStore, backoff: Backoff | None = None) -> None:
        self.trouble: str | None = None
        """Why the store takes nothing at the moment."""
        self.failures = 0
        """Writes that failed since the start."""
        self._store = store
        self._backoff = backoff or Backoff(cap_seconds=30.0)
        self._done: deque[int] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mqtt-journal")

    async def keep(self, received: Received) -> int:
        """Write a message; it is on the disk when this returns, however often it takes."""
        properties = written_properties(received)
        return await self.insist(
            lambda: self._store.journal(received.topic, received.payload, properties)
        )

    async def unanswered(self) -> list[tuple[int, Received]]:
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
            self._backoff.held(seconds=float("inf"))
        self.trouble = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    async def _call(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def written_properties(received: Received) -> bytes:
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


def read_message(topic: str, payload: bytes, properties: bytes, written: float) -> Received:
    """Make a message of what the journal has of it; damaged properties count as none."""
    try:
        kept = cast("dict[str, Any]", json.loads(properties))
        correlation = kept["correlation_data"]
        return Received(
            topic,
            payload,
            response_topic=kept["response_topic"],
            correlation_data=correlation and base64.b64decode(correlation),
            expiry_seconds=kept["expiry_seconds"],
            received=kept["received"],
        )
    except (ValueError, KeyError, TypeError) as error:
        log.warning("the properties of a request in the journal are lost: %s", error)
        return Received(topic, payload, received=written)
