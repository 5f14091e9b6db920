"""Callers of a served control socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.jobs.queues import a_queue

from upframe.daemon.jobs.control import ControlSocket
from upframe.daemon.jobs.protocol import SOCKET_NAME, address_of
from upframe.daemon.jobs.queue import JobQueue


class Caller:
    """One connection to the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        """Send a request and return all messages of its answer."""
        self.say(request)
        messages = [await self.hear()]
        while "item" in messages[-1]:
            messages.append(await self.hear())
        return messages

    def say(self, request: dict[str, Any] | bytes) -> None:
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.writer.write(line + b"\n")

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            line = await self.reader.readline()
        assert line, "hung up"
        return json.loads(line)


class Served:
    """A queue with its control socket, and everybody who is connected."""

    def __init__(self, path: Path, queue: JobQueue) -> None:
        self.path = path
        self.queue = queue
        self.control = ControlSocket(path, queue, lambda: {"version": "1.2"})
        self._callers: list[Caller] = []

    async def call(self) -> Caller:
        with address_of(self.path) as address:
            caller = Caller(*await asyncio.open_unix_connection(address, limit=1 << 24))
        self._callers.append(caller)
        return caller

    async def ask(self, request: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        return await (await self.call()).ask(request)

    async def hang_up(self) -> None:
        for caller in self._callers:
            caller.writer.close()
            await asyncio.gather(caller.writer.wait_closed(), return_exceptions=True)


def served(folder: Path, use: Callable[[Served], Awaitable[None]]) -> None:
    async def run(queue: JobQueue) -> None:
        serving = Served(folder / SOCKET_NAME, queue)
        async with asyncio.timeout(20), serving.control:
            await use(serving)
            await serving.hang_up()
        await queue.close()

    with a_queue(folder) as queue:
        asyncio.run(run(queue))
