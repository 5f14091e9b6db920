"""HTTP on the control socket and over TCP: uvicorn's HTTP/1.1, with bounds of our own.

uvicorn bounds neither the time nor the size of a request's head, nor the number of connections.
Its `Server` is not used, only its protocol: that class installs signal handlers, wakes ten times a
second and takes 0.3 s to stop. Each connection carries one request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ..config import HttpConfig, parse_listen
from ..jobs.api import problem
from ..jobs.client import address_of, fresh_name

log = logging.getLogger("upframe.service.http")

_HEAD_END = re.compile(rb"\n\r?\n")
_BACKLOG = 128
_CLOSE_SECONDS = 1.0
"""For the requests that are being answered when the server stops."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a client may take from a server."""

    connections: int
    seconds: float = 5.0
    """For the head of a request to arrive."""
    head_bytes: int = 8192
    whole: bool = False
    """The time is for the answer too, so a new client may take the place of the oldest."""


TCP_LIMITS = HttpLimits(connections=32, whole=True)
CONTROL_LIMITS = HttpLimits(connections=64)


class HttpServer:
    """Serves an ASGI application within limits.

    Args:
        app: the application; exceptions are its own concern.
        limits: of connections and requests.
        end_streams: called when the server stops; ends answers that would last for ever.
    """

    def __init__(
        self, app: ASGIApp, limits: HttpLimits, end_streams: Callable[[], None] = lambda: None
    ) -> None:
        self.limits = limits
        self._end_streams = end_streams
        self._config = uvicorn.Config(
            app,
            http=H11Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="critical",  # what fails in the application is logged there
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"connection", b"close"), (b"cache-control", b"no-store")]
        self._connections: dict[_Connection, None] = {}

    async def start(self, **where: Any) -> int:
        """Begin to serve on a `host` and `port`, or on a bound `sock`, closed with the server.

        Returns:
            The port, for TCP.

        Raises:
            OSError: if the address is in use or not ours.
        """
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self, self._config, self._state), backlog=_BACKLOG, **where
        )
        address: Any = self._server.sockets[0].getsockname()
        return address[1] if where.get("port") is not None else 0

    async def close(self) -> None:
        """Stop listening, let short answers end, close every connection."""
        self._server.close()
        self._end_streams()
        for connection in [each for each in self._connections if not each.answering]:
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_CLOSE_SECONDS)
        for connection in self._state.connections.copy():
            connection.transport.abort()
        tasks = self._state.tasks.copy()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def admit(self, connection: _Connection) -> None:
        """Count a new connection; where there are too many, close the oldest idle one for it."""
        if len(self._connections) >= self.limits.connections:
            whole = self.limits.whole
            waiting = (each for each in self._connections if whole or not each.answering)
            if (oldest := next(waiting, None)) is None:
                text = f"busy with {self.limits.connections} clients: try again later"
                connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE, text, "absent")
                return
            del self._connections[oldest]
            oldest.transport.abort()
        self._connections[connection] = None

    def forget(self, connection: _Connection) -> None:
        """Count a connection no longer."""
        self._connections.pop(connection, None)


class _Connection(H11Protocol):
    """One connection: holds a request back until its head is complete and within the limits."""

    def __init__(self, server: HttpServer, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self.answering = False
        """Whether the head of a request has arrived."""
        self._server = server
        self._limits = server.limits
        self._head = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._limits.seconds, transport.abort)
        self._server.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._server.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.answering:
            super().data_received(data)
            return
        self._head += data
        end = _HEAD_END.search(self._head, max(0, len(self._head) - len(data) - 2))
        if (end.end() if end else len(self._head)) > self._limits.head_bytes:
            text = f"got a head of more than {self._limits.head_bytes} bytes"
            self.refuse(HTTPStatus.BAD_REQUEST, text, "too_large")
        elif end:
            self.answering = True
            if not self._limits.whole:
                self._timer.cancel()
            super().data_received(bytes(self._head))

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer a client that only closed its sending side, where the answer has a time limit."""
        return self.answering and self._limits.whole

    def send_400_response(self, msg: str) -> None:
        text = f"got no HTTP/1.1 request, wanted one: {msg}"
        self.refuse(HTTPStatus.BAD_REQUEST, text, "invalid")

    def refuse(self, status: HTTPStatus, detail: str, code: str) -> None:
        """Answer instead of the application, if it has not begun to, and close the connection."""
        body = problem(status, detail, code).model_dump_json(exclude_defaults=True).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        if not getattr(self.cycle, "response_started", False):  # there is none before a request
            self.transport.write(head.encode() + body)
        self.transport.close()


async def serve_tcp(
    app: ASGIApp, config: HttpConfig, on_port: Callable[[int], None] = lambda _: None
) -> None:
    """Serve on the configured address until cancelled; port 0 is any free one.

    Args:
        app: the application.
        config: with the address.
        on_port: called with the port once the server listens.

    Raises:
        OSError: if the address is in use or not ours.
    """
    host, port = parse_listen(config)
    server = HttpServer(app, TCP_LIMITS)
    port = await server.start(host=host, port=port)
    log.info("http: health and metrics on %s:%d", host, port)
    on_port(port)
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()


_OWNER_AND_GROUP = 0o660


@asynccontextmanager
async def control_socket(
    path: Path, app: ASGIApp, end_streams: Callable[[], None]
) -> AsyncGenerator[None]:
    """Serve an application on a Unix socket within a context; access is by file permissions.

    Args:
        path: of the socket, by custom ``<state_dir>/upframe.sock``; a stale one is replaced.
        app: the application.
        end_streams: called when the server stops; ends answers that would last for ever.

    Raises:
        OSError: if the socket cannot be made, or another daemon listens on it.
    """
    listening, inode = await asyncio.to_thread(_listen, path)
    server = HttpServer(app, CONTROL_LIMITS, end_streams)
    await server.start(sock=listening)
    try:
        yield
    finally:
        await server.close()
        await asyncio.to_thread(_remove, path, inode)


def _remove(path: Path, inode: int) -> None:
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:  # not that of a daemon started after us
            path.unlink()


def _listen(path: Path) -> tuple[socket.socket, int]:
    """Make the socket, with its inode, under another name: so it never has other permissions."""
    _refuse_occupied(path)
    fresh = path.with_name(fresh_name(path.name))
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(fresh) as address:
            listening.bind(address)
        fresh.chmod(_OWNER_AND_GROUP)
        listening.listen(_BACKLOG)
        inode = fresh.stat().st_ino
        fresh.rename(path)
    except OSError:
        listening.close()
        fresh.unlink(missing_ok=True)
        raise
    return listening, inode


def _refuse_occupied(path: Path) -> None:
    """Refuse to replace a file that is no socket, or a socket on which a process listens."""
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
        except BlockingIOError:  # a process listens, but its backlog is full
            pass
        raise OSError(f"another daemon listens on {path}")
