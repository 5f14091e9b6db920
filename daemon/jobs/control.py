"""The control socket: how `upframe jobs` speaks with the daemon. Access is by file permissions."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from ...io.redaction import excerpt
from ..errors import UsageError
from ..fence import Fence
from .model import DaemonAbsent, Job, job_of
from .protocol import (
    REQUEST_BYTES,
    REQUESTS,
    Cancel,
    List,
    Request,
    Retry,
    Show,
    Submit,
    Watch,
    address_of,
    kind_of,
    line_of,
)
from .protocol import Status as ProtocolStatus
from .public import shown, shown_body
from .queue import JobChange, JobQueue, Subscription

log = logging.getLogger("upframe.control")


# What the control socket answers: one generator of lines for each kind of request.

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
        case ProtocolStatus():
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


Status = Callable[[], Mapping[str, Any]]

_OWNER_AND_GROUP = 0o660
_BACKLOG = 64
_CONNECTIONS = 64
"""Served at once; more are told to come back."""


class ControlSocket:
    """Serves a queue on a Unix socket.

    Args:
        path: of the socket, by custom ``<state_dir>/upframe.sock``; a stale one is replaced.
        queue: what is served.
        status: what the daemon says of itself; the counts of jobs are added to it.
    """

    def __init__(self, path: Path, queue: JobQueue, status: Status = dict[str, Any]) -> None:
        self.path = path
        self._queue = queue
        self._status = status
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: if the socket cannot be made, or another daemon listens on it.
        """
        listening, self._inode = await asyncio.to_thread(_listen, self.path)
        self._server = await asyncio.start_unix_server(
            self._greet, sock=listening, limit=REQUEST_BYTES
        )

    async def close(self) -> None:
        """Hang up on everybody and remove the socket. Safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        while self._conversations:
            for conversation in self._conversations:
                conversation.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        await asyncio.to_thread(self._remove)

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # not that of a daemon which came after us
                self.path.unlink()

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._converse(reader, writer), name="control connection")
        self._conversations.add(talk)
        talk.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._conversations) > _CONNECTIONS:
                await _refuse(
                    writer, DaemonAbsent(f"busy with {_CONNECTIONS} clients: try again later")
                )
                return
            while line := await _next_line(reader, writer):
                await self._answer(line, reader, writer)
        except ConnectionError as error:
            log.debug("a client of the control socket hung up: %s", error)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with Fence("control", "request", let=(ConnectionError,)) as fenced:
            try:
                request = REQUESTS.validate_json(line)
                lines = answer(request, self._queue, self._status)
                if isinstance(request, Watch):
                    await _send_until_hung_up(lines, reader, writer)
                else:
                    await _send(lines, writer)
            except ValidationError as error:
                await _refuse(writer, UsageError(_faults_of(error)))
            except Exception as error:
                if kind_of(error) == "internal":
                    raise
                await _refuse(writer, error)
        if fenced.error is not None:
            text = f"an internal error, {type(fenced.error).__name__}; the daemon's log has more"
            await _refuse(writer, RuntimeError(text))


async def _send(lines: AsyncGenerator[bytes], writer: asyncio.StreamWriter) -> None:
    async with aclosing(lines):
        async for line in lines:
            writer.write(line)
            await writer.drain()


async def _send_until_hung_up(
    lines: AsyncGenerator[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send what may take for ever. A client ends it by hanging up, or by saying anything."""
    sending = asyncio.create_task(_send(lines, writer), name="control answer")
    hearing = asyncio.create_task(reader.read(1), name="control client")
    try:
        await asyncio.wait((sending, hearing), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            raise ConnectionResetError("by the client, while it watched")
        await sending
    finally:
        sending.cancel()
        hearing.cancel()
        await asyncio.gather(sending, hearing, return_exceptions=True)


async def _next_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read a request; empty at the end, or after one that is too long to go on from."""
    try:
        return await reader.readline()
    except ValueError:
        await _refuse(writer, UsageError(f"a request has more than {REQUEST_BYTES} bytes"))
        return b""


async def _refuse(writer: asyncio.StreamWriter, error: Exception) -> None:
    text = str(error) or type(error).__name__
    writer.write(line_of({"error": {"kind": kind_of(error), "message": excerpt(text, 4096)}}))
    await writer.drain()


def _faults_of(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)


def _listen(path: Path) -> tuple[socket.socket, int]:
    """Make the socket under another name and rename it: so it never has other permissions.

    Returns:
        The socket, and the number of its inode.
    """
    _make_way(path)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(fresh) as address:
            listening.bind(address)
        fresh.chmod(_OWNER_AND_GROUP)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
        inode = fresh.stat().st_ino
        fresh.rename(path)
    except OSError:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening, inode


def _make_way(path: Path) -> None:
    """Refuse to replace what is not a socket, or is one on which somebody listens."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise OSError(f"{path} is in the way: wanted a socket or nothing")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial, address_of(path) as address:
        trial.setblocking(False)
        try:
            trial.connect(address)
        except ConnectionRefusedError:
            return
        except BlockingIOError:  # it listens, but its line is full
            pass
        raise OSError(f"another daemon listens on {path}")
