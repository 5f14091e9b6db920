"""The HTTP server: its answers, and what it does not let itself be held up by."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from upframe.daemon.config import HttpConfig, parse_listen
from upframe.daemon.fence import internal_errors
from upframe.daemon.service import http
from upframe.daemon.service.http import application, serve_tcp

LISTEN = HttpConfig(listen="127.0.0.1:0")


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello\n")


async def not_ready(_: Request) -> Response:
    return PlainTextResponse("starting\n", HTTPStatus.SERVICE_UNAVAILABLE)


async def broken(_: Request) -> Response:
    raise KeyError("a bug")


async def slow(_: Request) -> Response:
    await asyncio.sleep(60)
    return PlainTextResponse("late\n")


async def large(_: Request) -> Response:
    return PlainTextResponse("x" * (64 << 20))


ENDPOINTS = {
    "/healthz": hello,
    "/readyz": not_ready,
    "/broken": broken,
    "/slow": slow,
    "/large": large,
}
ROUTES = [
    *(Route(path, endpoint) for path, endpoint in ENDPOINTS.items()),
    Route("/change", hello, methods=["POST"]),
]


def served(ask: Callable[[int], Awaitable[object]], config: HttpConfig = LISTEN) -> object:
    async def run() -> object:
        port = asyncio.get_running_loop().create_future()
        app = application(ROUTES, "http", config)
        serving = asyncio.create_task(serve_tcp(app, config, port.set_result))
        try:
            return await ask(await port)
        finally:
            serving.cancel()
            await asyncio.wait({serving})

    return asyncio.run(run())


def raw(request: bytes, config: HttpConfig = LISTEN) -> bytes:
    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    answer = served(ask, config)
    assert isinstance(answer, bytes)
    return answer


def test_a_route_answers() -> None:
    async def ask(port: int) -> tuple[int, bytes, str]:
        def get() -> tuple[int, bytes, str]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz?x=1") as answer:
                return answer.status, answer.read(), answer.headers["Content-Type"]

        return await asyncio.to_thread(get)

    assert served(ask) == (200, b"hello\n", "text/plain; charset=utf-8")


def test_a_route_can_say_that_it_is_not_ready() -> None:
    async def ask(port: int) -> tuple[int, bytes]:
        def get() -> tuple[int, bytes]:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz")
            with caught.value as answer:
                return answer.code, answer.read()

        return await asyncio.to_thread(get)

    assert served(ask) == (503, b"starting\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: localhost", b"404 Not Found"),
        (b"POST /healthz HTTP/1.1\r\nHost: localhost", b"405 Method Not Allowed"),
        (b"POST /change HTTP/1.1\r\nHost: localhost", b"405 Method Not Allowed"),
        (b"GET /broken HTTP/1.1\r\nHost: localhost", b"500 Internal Server Error"),
        (b"GET /healthz HTTP/1.1", b"400 Bad Request"),
        (b"GET /healthz", b"400 Bad Request"),
        (b"\xff\xfe\x00", b"400 Bad Request"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1", b"400 Bad Request"),
    ],
)
def test_what_is_wrong_is_answered_with_its_status(request_line: bytes, status: bytes) -> None:
    head, _, body = raw(request_line + b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert b"%d %b" % (problem["status"], problem["title"].encode()) == status
    assert problem["detail"]


def test_a_method_that_is_refused_is_answered_with_those_that_are_not() -> None:
    answer = raw(b"PUT /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"\r\nallow: GET, HEAD\r\n" in answer
    assert b"got PUT, wanted GET or HEAD" in answer


def test_a_bug_in_answering_is_counted() -> None:
    before = internal_errors["http"]
    raw(b"GET /broken HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert internal_errors["http"] == before + 1


NAMED = HttpConfig(listen="127.0.0.1:0", hosts=("Monitor.lan",))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:9310", "localhost.", "127.0.0.1", "127.0.0.1:9310", "[::1]"),
        *("[::1]:9310", "192.0.2.7:80", "monitor.lan", "MONITOR.LAN.:9310"),
    ],
)
def test_it_is_asked_by_addresses_localhost_and_the_names_of_the_configuration(host: str) -> None:
    request = f"GET /healthz HTTP/1.1\r\nX: y\r\nhost:  {host} \r\n\r\n".encode()
    assert raw(request, NAMED).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:9310", "127.0.0.1.evil.example", "localhost.evil.example"),
        *(
            "monitor.lan.evil",
            "",
            ":80",
            "[",
            "[]",
            "[evil]:80",
            "monitor.lan@evil",
            "\xe9\xff",
            "1",
        ),
    ],
)
def test_a_name_that_a_page_has_bent_to_us_is_refused(host: str) -> None:
    request = f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    answer = raw(request, NAMED)
    assert answer.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert b"wanted an address, localhost or one of [http] hosts" in answer


def test_two_hosts_are_none() -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert raw(request).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_head_gives_no_body() -> None:
    head, _, body = raw(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
    assert b"content-length: 6" in head
    assert body == b""


def test_many_idle_connections_hold_up_nobody() -> None:
    async def ask(port: int) -> bytes:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 3)
        for _, end in [*idle, (reader, writer)]:
            end.transport.abort()
        return answer

    answer = served(ask)
    assert isinstance(answer, bytes)
    assert answer.endswith(b"hello\n")


def test_a_client_that_goes_away_ends_nothing() -> None:
    async def ask(port: int) -> bytes:
        for _ in range(3):
            _, gone = await asyncio.open_connection("127.0.0.1", port)
            gone.write(b"GET /hea")
            gone.transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    answer = served(ask)
    assert isinstance(answer, bytes)
    assert answer.endswith(b"hello\n")


def test_a_client_that_only_closed_its_sending_side_is_answered() -> None:
    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    answer = served(ask)
    assert isinstance(answer, bytes)
    assert answer.endswith(b"hello\n")


@pytest.mark.parametrize("request_head", [b"GET /heal", b"GET /slow HTTP/1.0\r\n\r\n"])
def test_a_request_and_its_answer_have_five_seconds(
    request_head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (http.TCP_LIMITS.seconds, http.TCP_LIMITS.connections) == (5, 32)
    monkeypatch.setattr(http, "TCP_LIMITS", http.HttpLimits(32, seconds=0.2, whole=True))
    began = time.monotonic()
    assert raw(request_head) == b""
    assert 0.1 < time.monotonic() - began < 3


def test_an_answer_that_is_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TCP_LIMITS", http.HttpLimits(32, seconds=0.3, whole=True))

    async def ask(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.0\r\n\r\n")
        await asyncio.sleep(1)
        size = 0
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                size += len(data)
        writer.transport.abort()
        return size

    size = served(ask)
    assert isinstance(size, int)
    assert size < 64 << 20


def test_the_newest_of_too_many_requests_is_answered_and_the_oldest_let_go() -> None:
    async def ask(port: int) -> tuple[bytes, bytes]:
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(33)]
        for _, writer in clients[:32]:
            writer.write(b"GET /slow HTTP/1.0\r\n\r\n")
        clients[32][1].write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answers = [await asyncio.wait_for(clients[index][0].read(), 3) for index in (32, 0)]
        for _, writer in clients:
            writer.transport.abort()
        return answers[0], answers[1]

    newest, oldest = served(ask)  # type: ignore[misc]
    assert newest.endswith(b"hello\n")
    assert oldest == b""


def test_signals_stay_with_the_daemon() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def ask(_: int) -> object:
        return signal.getsignal(signal.SIGTERM)

    assert served(ask) == before


def test_ipv6_is_written_in_brackets() -> None:
    assert parse_listen(HttpConfig(listen="[::1]:9310")) == ("::1", 9310)


def test_other_machines_need_leave() -> None:
    with pytest.raises(ValueError, match="allow_remote"):
        parse_listen(HttpConfig(listen="192.0.2.1:9310"))
    allowed = HttpConfig(listen="192.0.2.1:9310", allow_remote=True)
    assert parse_listen(allowed) == ("192.0.2.1", 9310)
