"""What is served over HTTP: status to everyone who may connect, jobs on the control socket only.

Errors are problem details (RFC 9457), see :mod:`upframe.daemon.jobs.api`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..config import HttpConfig, parse_listen
from ..fence import Boundary, Fence
from ..jobs import api
from ..jobs.api import ProblemDetails
from ..jobs.model import Job
from ..jobs.queue import JobQueue, Subscription
from .metrics import CONTENT_TYPE
from .status import Status

_JSON = "application/json"
REQUEST_BYTES = 1 << 20
"""Of the body of a request, at most."""
_BODY_SECONDS = 5.0
_PORTION = 200
"""Jobs written at once into a list: the event loop stays free between portions."""

Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")


def application(
    routes: Sequence[BaseRoute], boundary: Boundary, tcp: HttpConfig | None = None
) -> ASGIApp:
    """Make an application that answers every exception of a route with problem details.

    Args:
        routes: what it serves.
        boundary: where its requests come in.
        tcp: the configuration, where browsers can reach it: then it only reads, see `GetOnly`.
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
