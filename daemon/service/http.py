"""Health and metrics over HTTP: four addresses, GET and HEAD, one answer for each connection.

Small on purpose. It is for probes and Prometheus on the same machine: requests are bounded in
size, time and number, so that nobody can hold up the daemon through it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address

from ..config import HttpConfig, parse_listen
from ..fence import Fence

log = logging.getLogger("upframe.service.http")

_MOST_BYTES = 8192
_MOST_CONNECTIONS = 32
_SECONDS = 5.0
"""For a request to arrive, and for the answer to be taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route gives."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


Route = Callable[[], Awaitable[Answer]]


class HttpServer:
    """Serves routes until `run` is cancelled."""

    def __init__(self, config: HttpConfig, routes: Mapping[str, Route]) -> None:
        self._address = parse_listen(config)
        self._hosts = {"localhost", self._address[0], *(name.lower() for name in config.hosts)}
        self._routes = routes
        self._connections: dict[asyncio.Task[None], None] = {}
        self.port = self._address[1]
        """The real one, once it listens: 0 in the configuration means any free port."""

    async def run(self) -> None:
        """Listen and answer.

        Raises:
            OSError: if the address is taken or not ours.
        """
        host, port = self._address
        server = await asyncio.start_server(self._accept, host, port, limit=_MOST_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        log.info("http: health and metrics on %s:%d", host, self.port)
        try:
            async with server:
                await server.serve_forever()
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one more; where there are too many, the oldest, which only waits, has to go."""
        if len(self._connections) >= _MOST_CONNECTIONS:
            next(iter(self._connections)).cancel()
        connection = asyncio.create_task(self._serve(reader, writer), name="http connection")
        self._connections[connection] = None
        connection.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                answer, only_head = _plain(HTTPStatus.INTERNAL_SERVER_ERROR), False
                with Fence("http", "request", let=(TimeoutError, ConnectionError)):
                    answer, only_head = await self._answer(reader)
                writer.write(_written(answer, with_body=not only_head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError):
            pass  # the other end was too slow, or has gone: its loss
        finally:
            writer.transport.abort()  # where all went well it is closed already

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        """Read a request; give the answer, and whether only its head is wanted."""
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return _plain(HTTPStatus.BAD_REQUEST), False
        first, *headers = request.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST), False
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED), False
        if (wrong := self._wrong_host(headers)) is not None:
            return wrong, method == "HEAD"
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND), method == "HEAD"
        return await route(), method == "HEAD"

    def _wrong_host(self, headers: list[str]) -> Answer | None:
        """Refuse a name that is not ours: a page of somebody else's has bent it to this address."""
        fields = [header.partition(":") for header in headers]
        hosts = [value.strip() for name, _, value in fields if name.strip().lower() == "host"]
        if len(hosts) > 1:
            return _plain(HTTPStatus.BAD_REQUEST)
        host = hosts[0].lower() if hosts else "localhost"
        name = host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]
        with suppress(ValueError):
            ip_address(name)
            return None
        if name.rstrip(".") in self._hosts:
            return None
        text = f"421: got host {name[:80]!a}, wanted an address, localhost or one of [http] hosts\n"
        return Answer(text.encode(), status=HTTPStatus.MISDIRECTED_REQUEST)


def _plain(status: HTTPStatus) -> Answer:
    return Answer(f"{status.value} {status.phrase}\n".encode(), status=status)


def _written(answer: Answer, *, with_body: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return head + answer.body if with_body else head
