"""HTTP on the control socket and over TCP: uvicorn's HTTP/1.1, with bounds of our own.

uvicorn bounds neither the time nor the size of a request's head, nor the number of connections.
Its `Server` is not used, only its protocol: that class installs signal handlers, wakes ten times a
second and takes 0.3 s to stop. Each connection carries one request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ..config import HttpConfig, parse_listen
from ..fence import Boundary, Fence
from ..jobs import api
from ..jobs.api import ProblemDetails, problem
from ..jobs.client import address_of, fresh_name
from ..jobs.model import Job
from ..jobs.queue import JobQueue, Subscription
from .status import CONTENT_TYPE, Status

# What is served over HTTP: status to everyone who may connect, jobs on the control socket only.
#
# Errors are problem details (RFC 9457), see :mod:`upframe.daemon.jobs.api`.

_JSON = "application/json"
REQUEST_BYTES = 1 << 20
"""Of the body of a request, at most."""
_BODY_SECONDS = 5.0
_PORTION = 200
"""Jobs written at once into a list: the event loop stays free between portions."""

Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")
_OWNER_AND_GROUP = 0o660


def application(
    routes: Sequence[BaseRoute], boundary: Boundary, tcp: HttpConfig | None = None
) -> ASGIApp:
    """Make an application that answers every exception of a route with problem details.

    With `tcp`, browsers can reach it: then it only reads, see `GetOnly`.
    """
    # what is not expected is answered, too, and passed on to the fence
    handlers: dict[Any, Any] = dict.fromkeys((*api.EXPECTED_ERRORS, Exception), _on_error)
    handlers |= {HTTPException: _on_http_error, ClientDisconnect: _on_disconnect}
    starlette = Starlette(routes=list(routes), exception_handlers=handlers)
    starlette.router.redirect_slashes = False
    app = starlette if tcp is None else GetOnly(starlette, tcp)

    async def fenced(scope: Scope, receive: Receive, send: Send) -> None:
        with Fence(boundary, "request"):
            await app(scope, receive, send)

    return fenced


async def _on_error(_: Request, error: Exception) -> Response:
    return _problem_response(api.problem_of(error))


async def _on_http_error(_: Request, error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return _problem_response(api.problem(status, error.detail, code), error.headers)


async def _on_disconnect(_: Request, error: Exception) -> Response:
    return Response()  # to no one


def _problem_response(
    problem: ProblemDetails, headers: Mapping[str, str] | None = None
) -> Response:
    body = problem.model_dump_json(exclude_defaults=True) + "\n"
    return Response(body, problem.status, headers, "application/problem+json")


def _json_response(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    is_model = isinstance(value, BaseModel)
    body = value.model_dump_json() if is_model else json.dumps(value, indent=2, default=str)
    return Response(body + "\n", status, media_type=_JSON)


def status_routes(status: Status) -> list[BaseRoute]:
    """Return the routes that only read."""

    async def healthz(_: Request) -> Response:
        """Answer at all: that is what is asked."""
        return PlainTextResponse(f"{status.phase}\n")

    async def readyz(_: Request) -> Response:
        reason = await status.why_not_ready()
        code = HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE
        return PlainTextResponse(f"{reason or 'ready'}\n", code)

    async def whole(_: Request) -> Response:
        return _json_response(await status.whole())

    async def metrics(_: Request) -> Response:
        return Response(await status.exposition(), media_type=CONTENT_TYPE)

    endpoints = {"healthz": healthz, "readyz": readyz, "status": whole, "metrics": metrics}
    return [Route(f"/{name}", endpoint) for name, endpoint in endpoints.items()]


class GetOnly:
    """Passes on GET and HEAD requests for a host name that is ours.

    A page from elsewhere can make a browser resolve its own name to our address. The name in the
    request is then still that of the page.
    """

    def __init__(self, app: ASGIApp, config: HttpConfig) -> None:
        self._app = app
        host, _ = parse_listen(config)
        self._hosts = {"localhost", host, *(name.lower() for name in config.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            status, allowed = HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}
            text = f"got {request.method[:20]}, wanted GET or HEAD"
            return _problem_response(api.problem(status, text, "method_not_allowed"), allowed)
        host = request.headers.get("host", "localhost").lower()
        name = host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]
        if name.rstrip(".") in self._hosts:
            return None
        with suppress(ValueError):
            ip_address(name)
            return None
        text = f"got host {name[:80]!a}, wanted an address, localhost or one of [http] hosts"
        status = HTTPStatus.MISDIRECTED_REQUEST
        return _problem_response(api.problem(status, text, "misdirected_request"))


class JobRoutes:
    """The routes of the control socket beside those of the status."""

    def __init__(self, queue: JobQueue, check: api.Check = api.unchecked) -> None:
        self._queue = queue
        self._look = check
        self._following: set[Subscription] = set()

    def routes(self) -> list[BaseRoute]:
        """Return them."""
        return [
            Route("/jobs", self._list),
            Route("/jobs", self._submit, methods=["POST"]),
            Route("/jobs/check", self._check, methods=["POST"]),
            Route("/jobs/writer", self._writer, methods=["POST"]),
            Route("/jobs/follow", self._follow, methods=["POST"]),
            Route("/jobs/retry", self._retry, methods=["POST"]),
            Route("/jobs/{id:path}/cancel", self._cancel, methods=["POST"]),
            Route("/jobs/{id:path}/retry", self._retry, methods=["POST"]),
            Route("/jobs/{id:path}", self._show),
        ]

    def end_streams(self) -> None:
        """End the answers to those who follow jobs."""
        for subscription in tuple(self._following):
            subscription.close()

    async def _submit(self, request: Request) -> Response:
        submitted = await api.submit(self._queue, await _body(request, api.NewJob), origin="cli")
        return _json_response(submitted, HTTPStatus.CREATED if submitted.new else HTTPStatus.OK)

    async def _check(self, request: Request) -> Response:
        error = await api.check(self._queue, await _body(request, api.NewJob), self._look)
        return _json_response({"error": error and error.model_dump()})

    async def _writer(self, request: Request) -> Response:
        query = await _body(request, api.WriterQuery)
        return _json_response({"id": await self._queue.writer_of(query.sink)})

    async def _list(self, request: Request) -> Response:
        query = {
            name: request.query_params.getlist(name) if name == "state" else value
            for name, value in request.query_params.items()
        }
        with api.invalid_request():
            wanted = api.JobQuery.model_validate(query)
        bodies = await self._queue.bodies(wanted.state, wanted.limit)
        end = f'"counts":{json.dumps(await self._queue.counts())}'
        return StreamingResponse(_jobs_json(bodies, api.to_public_json, end), 200, None, _JSON)

    async def _show(self, request: Request) -> Response:
        job = await self._queue.get(request.path_params["id"])
        return _json_response(api.to_public_dict(job))

    async def _cancel(self, request: Request) -> Response:
        job = await self._queue.cancel(request.path_params["id"])
        return _json_response(api.to_public_dict(job))

    async def _retry(self, request: Request) -> Response:
        jobs = await api.retry(self._queue, request.path_params.get("id"))

        def write(job: Job) -> str:
            return json.dumps(api.to_public_dict(job, report=False))

        return StreamingResponse(_jobs_json(jobs, write, f'"num":{len(jobs)}'), 200, None, _JSON)

    async def _follow(self, request: Request) -> Response:
        ids = (await _body(request, api.FollowRequest)).ids
        for each in ids or ():
            await self._queue.get(each)  # an unknown one is refused before the stream begins
        return _LineStream(self._events(ids))

    async def _events(self, ids: tuple[str, ...] | None) -> AsyncGenerator[str]:
        with self._queue.subscribe() as changes:
            self._following.add(changes)
            try:
                async with aclosing(api.follow(self._queue, changes, ids)) as events:
                    async for event in events:
                        left_out = {"counts"} if event.counts is None else None
                        yield event.model_dump_json(exclude=left_out) + "\n"
            except api.EXPECTED_ERRORS as error:
                details = api.problem_of(error).model_dump(mode="json")
                yield json.dumps({"problem": details}) + "\n"
            finally:
                self._following.discard(changes)


class _LineStream(StreamingResponse):
    """JSON lines as they come; a line with a `problem` is the last one."""

    def __init__(self, lines: AsyncGenerator[str]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._lines = lines

    async def stream_response(self, send: Send) -> None:
        """Send the lines; whatever ends that also ends what makes them."""
        async with aclosing(self._lines):
            await super().stream_response(send)


async def _jobs_json(
    items: Sequence[Item], write: Callable[[Item], str], end: str
) -> AsyncGenerator[str]:
    """Write ``{"jobs": [...], end}`` in portions, on a thread."""
    yield '{"jobs":['
    for start in range(0, len(items), _PORTION):
        portion = items[start : start + _PORTION]
        texts = await asyncio.to_thread(list, map(write, portion))
        yield ("" if start == 0 else ",\n") + ",\n".join(texts)
    yield f"],{end}}}\n"


async def _body(request: Request, model: type[Model]) -> Model:
    """Read the body of a request, within limits of time and size."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES:
                    raise api.RequestTooLarge(f"a request has more than {REQUEST_BYTES} bytes")
    except TimeoutError:
        raise TimeoutError(f"got no complete request within {_BODY_SECONDS:g} s") from None
    with api.invalid_request():
        return model.model_validate_json(bytes(body))


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
    """Serves an ASGI application within limits; its exceptions are its own concern.

    `end_streams` is called when the server stops, and ends answers that would last for ever.
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
    """Serve on the configured address until cancelled; port 0 is any free one, told to `on_port`.

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


@asynccontextmanager
async def control_socket(
    path: Path, app: ASGIApp, end_streams: Callable[[], None]
) -> AsyncGenerator[None]:
    """Serve an application on a Unix socket within a context; access is by file permissions.

    By custom the path is ``<state_dir>/upframe.sock``; a stale socket is replaced. For
    `end_streams` see `HttpServer`.

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
