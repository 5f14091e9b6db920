"""Callers of a served control socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from support.jobs.queues import a_queue, control_socket

from upframe.daemon.jobs.client import SOCKET_NAME, address_of
from upframe.daemon.jobs.queue import JobQueue


class Caller:
    """One connection to the socket, by HTTP/1.0: an answer ends with the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, method: str, path: str, body: object = None) -> None:
        """Send a request; what is no `bytes` is written as JSON."""
        content = body if isinstance(body, bytes) else b"" if body is None else _json(body)
        head = f"{method} {path} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)

    async def status(self) -> int:
        """Read the head of an answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1])

    async def line(self) -> dict[str, Any]:
        """Read the next line of an answer."""
        async with asyncio.timeout(10):
            line = await self.reader.readline()
        assert line, "hung up"
        return json.loads(line)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request and return the status and the value of its answer."""
        self.say(method, path, body)
        return await self.status(), json.loads(await self.reader.read())


def _json(body: object) -> bytes:
    return json.dumps(body).encode()


class Served:
    """A queue with its control socket, and everybody who is connected."""

    def __init__(self, path: Path, queue: JobQueue) -> None:
        self.path = path
        self.queue = queue
        self.control = AsyncExitStack()
        """Closing it ends the control socket."""
        self._callers: list[Caller] = []

    async def call(self) -> Caller:
        with address_of(self.path) as address:
            caller = Caller(*await asyncio.open_unix_connection(address, limit=1 << 24))
        self._callers.append(caller)
        return caller

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return await (await self.call()).ask(method, path, body)

    async def serves(self) -> bool:
        """Whether an ordinary request is answered."""
        return (await self.ask("GET", "/status"))[0] == 200

    async def following(self, ids: list[str] | None = None) -> Caller:
        """A caller that follows jobs, once it is accepted."""
        caller = await self.call()
        caller.say("POST", "/jobs/follow", {"ids": ids})
        assert await caller.status() == 200
        return caller

    async def hang_up(self) -> None:
        for caller in self._callers:
            caller.writer.close()
            await asyncio.gather(caller.writer.wait_closed(), return_exceptions=True)


def served(folder: Path, use: Callable[[Served], Awaitable[None]]) -> None:
    async def run(queue: JobQueue) -> None:
        serving = Served(folder / SOCKET_NAME, queue)
        async with asyncio.timeout(20), serving.control as control:
            await control.enter_async_context(control_socket(serving.path, queue))
            await use(serving)
            await serving.hang_up()
        await queue.close()

    with a_queue(folder) as queue:
        asyncio.run(run(queue))
