"""Malformed MQTT messages, control requests and HTTP requests at once, real ones among them.

    python bench/faults/malformed.py [--bad 5000] [--good 50]

Of each of the three as many malformed ones as asked. Correct is: every real one is served, each of
the others is refused and counted, no error of the daemon's own comes of any, its loop is late by
more than 50 ms in one sample of a thousand at most, and it has hardly more memory at the end than
after the first tenth of them.
"""

from __future__ import annotations

import json
import random
import socket
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from broker import persistent_client
from figures import Outcome, at_most, equal, none_of, run_as_script
from lateness import histogram
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from processes import Beside
from support.jobs.daemon import SECONDS, RunningDaemon, free_port, until
from support.servers.mqtt import broker_in
from yard import BASE, ENLARGE, Yard, document, ended_twice, running, shows, some_clips, yard_in

from upframe.daemon.jobs.api import NewJob
from upframe.daemon.jobs.client import DaemonClient, address_of
from upframe.daemon.service.http import REQUEST_BYTES
from upframe.daemon.specification import ConversionSpec

FRAMES = 3
_MOST_MEBIBYTES = 10.0
_MOST_SECONDS = "0.05"
_FEW_SAMPLES, _MANY_SAMPLES = 5, 1000
"""So many may be late in a run of fewer than so many, which has no 99.9th percentile."""
_WINDOW = 20
"""Messages on their way at once."""
_EVERY = 10
"""Malformed requests by the control socket and HTTP to one real one."""
_IDLE = 16
"""Connections that are kept open and say nothing more."""

Message = tuple[str, bytes, str | None]
"""Command, payload, response topic."""


def measure(folder: Path, *, bad: int, good: int, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        (clip,) = some_clips(yard, FRAMES)
        kinds: Counter[str] = Counter()
        messages = [wrong(yard, clip, chance, kinds) for _ in range(bad)]
        for index in range(good):
            request = document(f"good{index}", clip, yard.asked / f"good{index}.mp4", ENLARGE)
            place = chance.randrange(len(messages) + 1)
            messages.insert(place, ("submit", json.dumps(request).encode(), None))
        port = free_port()
        config = yard.config(broker) | {"http": {"listen": f"127.0.0.1:{port}"}}
        with running(yard, config) as daemon, persistent_client(broker) as client:
            daemon.port = port
            before = histogram(daemon)
            control = ControlCaller(daemon, yard, clip, bad, good, random.Random(seed + 1))
            http = HttpCaller(port, bad, random.Random(seed + 2))
            beside = [Beside("control", control.run), Beside("http", http.run)]
            resident: list[int] = []
            for number, message in enumerate(messages):
                send(client, *message)
                if number % _WINDOW == _WINDOW - 1:
                    unreadable(client)
                    until(lambda n=number: requests(daemon) > n - _WINDOW, "messages read")
                if number % max(1, len(messages) // 10) == 0:
                    resident.append(daemon.status()["resident_bytes"])
            until(lambda: requests(daemon) == len(messages), "all messages read")
            for each in beside:
                each.join()
            yard.until_ended(2 * good)
            resident.append(daemon.status()["resident_bytes"])
            after = histogram(daemon)
            late = {bound: number - before[bound] for bound, number in after.items()}
            callers = (control, http)
            return judged(yard, daemon, kinds, resident, bad, good, late, callers)


def requests(daemon: RunningDaemon) -> int:
    """How many messages the daemon has read."""
    return sum(daemon.status()["mqtt"]["requests"].values())


def send(client: Any, command: str, payload: bytes, response: str | None) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    if response is not None:
        properties.ResponseTopic = response
    client.publish(f"{BASE}/job/{command}", payload, qos=1, properties=properties)


def unreadable(client: Any) -> None:
    """Send what the library below the daemon cannot read, and brokers let pass."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("mark", "\ufeff")
    client.publish(f"{BASE}/job/submit", b"{}", qos=1, properties=properties)


class ControlCaller:
    """Sends malformed requests to the control socket, submits jobs and lists them in between."""

    def __init__(
        self,
        daemon: RunningDaemon,
        yard: Yard,
        clip: Path,
        bad: int,
        good: int,
        chance: random.Random,
    ) -> None:
        self.sent: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        """Of the errors that came back; `none` where none was waited for."""
        self.served = self.not_served = 0
        self._address = daemon.socket
        self._client = DaemonClient(daemon.socket)
        self._bad, self._good, self._chance = bad, good, chance
        self._work = {"source": str(clip), "filters": ENLARGE}
        self._folder = yard.asked

    def run(self) -> None:
        for number in range(self._bad):
            if number % max(1, self._bad // self._good) == 0 and self.submitted < self._good:
                self._submit()
            if number % _EVERY == 0:
                self._count_served("counts" in self._client.jobs(None, 1))
            self._send_wrong()
        while self.submitted < self._good:
            self._submit()

    submitted = 0

    def _submit(self) -> None:
        name = f"asked{self.submitted}"
        self.submitted += 1
        work = ConversionSpec.model_validate(
            self._work | {"sink": str(self._folder / f"{name}.mp4")}
        )
        answer = self._client.submit(NewJob(id=name, work=work))
        self._count_served(answer["new"] is True)

    def _count_served(self, served: bool) -> None:
        self.served += served
        self.not_served += not served

    def _send_wrong(self) -> None:
        kind = self._chance.choice(list(_WRONG_CONTROL_REQUESTS))
        if kind == "too long" and self._chance.random() > 0.1:  # a megabyte each
            kind = "noise"
        self.sent[kind] += 1
        request = _WRONG_CONTROL_REQUESTS[kind](self._chance)
        answer = b""
        with closing(socket.socket(socket.AF_UNIX)) as end, suppress(ConnectionError):
            end.settimeout(SECONDS)
            with address_of(self._address) as address:
                end.connect(address)
            with suppress(BrokenPipeError):  # refused before it was sent whole
                end.sendall(request)
            if kind != "half":
                while data := end.recv(1 << 16):
                    answer += data
        body = answer.partition(b"\r\n\r\n")[2]
        self.codes[json.loads(body).get("code", "no error") if body else "none"] += 1


class HttpCaller:
    """Sends malformed requests by HTTP, real ones between, and leaves connections open."""

    def __init__(self, port: int, bad: int, chance: random.Random) -> None:
        self.sent: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        """Of the answers to malformed ones; `none` where the connection was just closed."""
        self.served = self.not_served = 0
        self._port, self._bad, self._chance = port, bad, chance

    def run(self) -> None:
        idle: deque[socket.socket] = deque()
        for number in range(self._bad):
            kind = self._chance.choice(list(_WRONG_REQUESTS))
            self.sent[kind] += 1
            self.statuses[self._status_of(_WRONG_REQUESTS[kind](self._chance))] += 1
            if number % _EVERY == 0:
                path = self._chance.choice(("healthz", "readyz", "status", "metrics"))
                real = f"GET /{path} HTTP/1.1\r\nHost: localhost:{self._port}\r\n\r\n"
                served = self._status_of(real.encode()) == "200"
                self.served += served
                self.not_served += not served
                idle.append(self._opened())
                idle[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost:"[: self._chance.randrange(28)])
                if len(idle) > _IDLE:
                    idle.popleft().close()
        for end in idle:
            end.close()

    def _opened(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), SECONDS)

    def _status_of(self, request: bytes) -> str:
        answer = b""
        with closing(self._opened()) as end, suppress(ConnectionError):
            end.sendall(request)
            end.shutdown(socket.SHUT_WR)
            while data := end.recv(1 << 16):
                answer += data
        return answer[9:12].decode("latin-1") or "none"


def judged(
    yard: Yard,
    daemon: RunningDaemon,
    kinds: Counter[str],
    resident: list[int],
    bad: int,
    good: int,
    late: dict[str, int],
    callers: tuple[ControlCaller, HttpCaller],
) -> Outcome:
    control, http = callers
    mqtt = daemon.status()["mqtt"]
    counted = dict(mqtt["requests"])
    states = Counter(job.state for job in yard.jobs())
    names = [f"{kind}{index}" for kind in ("good", "asked") for index in range(good)]
    wrong_outputs = [
        name
        for name in names
        if getattr(shows(yard.asked / f"{name}.mp4"), "frames", None) != FRAMES
    ]
    grown = (resident[-1] - resident[1]) / 2**20
    samples = late["+Inf"]
    most_late = _FEW_SAMPLES if samples < _MANY_SAMPLES else samples / 1000
    marks = (bad + good) // _WINDOW
    checks = [
        equal("MQTT: good ones taken", counted.pop("taken", 0), good),
        equal("MQTT: malformed ones counted", sum(counted.values()), bad),
        equal("MQTT: connections to the broker", mqtt["connections"], 1),
        equal("control: real ones not served", control.not_served, 0),
        equal("control: malformed ones sent", sum(control.codes.values()), bad),
        none_of("control: others than refused", set(control.codes) - _REFUSALS),
        equal("HTTP: real ones not served", http.not_served, 0),
        equal("HTTP: malformed ones sent", sum(http.statuses.values()), bad),
        none_of("HTTP: others than refused", set(http.statuses) - _REFUSING_STATUSES),
        equal("jobs by state", dict(states), {"done": 2 * good}),
        none_of("outputs missing or wrong", wrong_outputs),
        none_of("jobs done twice", ended_twice(yard)),
        equal("errors of the daemon's own", internal_errors(daemon), {"mqtt": marks}),
        at_most("samples later than 50 ms", samples - late[_MOST_SECONDS], most_late, "(0.1 %)"),
        at_most("memory gained since the first tenth", grown, _MOST_MEBIBYTES, "MiB"),
        none_of("leftovers", yard.leftovers()),
        equal("exit of the daemon", daemon.stop(), 0),
    ]
    details = {
        "MQTT refused as": counted,
        "MQTT sent": dict(kinds),
        "MQTT unreadable for the library": marks,
        "control refused as": dict(control.codes),
        "control sent": dict(control.sent),
        "control real ones": control.served,
        "HTTP refused as": dict(http.statuses),
        "HTTP sent": dict(http.sent),
        "HTTP real ones": http.served,
        "samples of lateness": samples,
        "share that was at most so late, %": {
            f"{bound} s": round(100 * number / samples, 3) for bound, number in late.items()
        },
        "resident MiB": [round(each / 2**20, 1) for each in resident],
    }
    return Outcome(checks, details)


def internal_errors(daemon: RunningDaemon) -> dict[str, int]:
    """What the daemon counts as errors of its own, by where the work came in."""
    lines = daemon.get("/metrics").decode().splitlines()
    name = 'upframe_internal_errors_total{boundary="'
    found = [line.removeprefix(name).split('"} ') for line in lines if line.startswith(name)]
    return {boundary: round(float(number)) for boundary, number in found if float(number)}


Good = dict[str, Any]


def wrong(yard: Yard, clip: Path, chance: random.Random, kinds: Counter[str]) -> Message:
    """Make a message of which no job may come."""
    name = f"bad{chance.getrandbits(40):x}"
    request = document(name, clip, yard.asked / f"{name}.mp4", ENLARGE)
    kind = chance.choice(list(_WRONG))
    kinds[kind] += 1
    made = _WRONG[kind](request, chance)
    command = chance.choice(("submit", "submit", "submit", "cancel", "query"))
    if isinstance(made, dict):  # for the others it may be a good one but for its job
        return ("submit", json.dumps(made).encode(), None)
    if kind == "bad response topic":
        deep, ours = "a/" * 250, f"{BASE}/status"
        return ("submit", made, chance.choice(("$SYS/a", ours, "upframe/other/error", deep)))
    return (command, made, None)


def _without(request: Good, chance: random.Random) -> Good:
    key = chance.choice(("source", "sink", "filters"))  # one without an id is given one
    return {name: value for name, value in request.items() if name != key}


def _wrong_type(request: Good, chance: random.Random) -> Good:
    key = chance.choice(("id", "source", "sink", "filters"))
    wrong: list[object] = [17, [], [[1]], True, {"a": {}}, -1.5]
    return request | {key: chance.choice(wrong if key == "id" else [*wrong, None])}


def _cut(request: Good, chance: random.Random) -> bytes:
    whole = json.dumps(request).encode()
    return whole[: chance.randrange(len(whole))]


def _flipped(request: Good, chance: random.Random) -> bytes:
    """A byte that UTF-8 never has."""
    whole = bytearray(json.dumps(request).encode())
    whole[chance.randrange(len(whole))] = chance.choice((0xFF, 0xC0, 0xFE))
    return bytes(whole)


_WRONG: dict[str, Callable[[Good, random.Random], Good | bytes]] = {
    "noise": lambda _, chance: chance.randbytes(chance.randrange(2, 2000)) + b"\xff",
    "not UTF-8": _flipped,
    "cut off": _cut,
    "no object": lambda _, chance: chance.choice((b"[]", b"7", b'"submit"', b"null", b"", b" ")),
    "deeply nested": lambda _, chance: b"[" * chance.randrange(1000, 30_000),
    "too large": lambda request, _: request | {"source": "/" + "a" * 70_000},
    "unknown schema": lambda request, chance: (
        request | {"schema": chance.choice(("upframe.job/2", "x", None, 1, ["upframe.job/1"]))}
    ),
    "key missing": _without,
    "key too many": lambda request, _: request | {"sourze": "/a"},
    "wrong type": _wrong_type,
    "bad id": lambda request, chance: (
        request | {"id": chance.choice(("", "a/b", "../x", "+", "#", "a" * 65, "a\u0000", " "))}
    ),
    "outside the roots": lambda request, chance: (
        request | {"sink": chance.choice(("/etc/x.mp4", "/tmp/../x.mp4", "relative.mp4"))}
    ),
    "refused scheme": lambda request, _: request | {"source": "ftp://user:secret@host/a.mp4"},
    "no filter": lambda request, _: request | {"filters": {}},
    "unknown filter": lambda request, _: request | {"filters": {"enable_magic": True}},
    "number out of range": lambda request, chance: (
        request | {"filters": {**ENLARGE, "upscaling_scale": chance.choice((0, -1, 1e300, 99))}}
    ),
    "NaN": lambda request, _: json.dumps(request | {"priority": float("nan")}).encode(),
    "bad response topic": lambda request, _: json.dumps(request).encode(),
    "no scheme": lambda request, chance: (
        request | chance.choice(({"id": "r2 ://"}, {"source": "://x"}, {"sink": "é://x"}))
    ),
    "no address": lambda request, chance: (
        request | {"source": chance.choice(("file://[/x", "file:///%ff", "file://a:b/x", "/a\0"))}
    ),
    "many digits": lambda request, chance: (
        request | chance.choice(({"framerate": "9" * 5000}, {"priority": 10**1000}))
    ),
}

_REFUSALS = {
    *("none", "invalid", "too_large", "unknown_job", "not_found", "method_not_allowed"),
}


def _posted(body: bytes, path: str = "/jobs") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _got(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


_WRONG_CONTROL_REQUESTS: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda chance: chance.randbytes(chance.randrange(2, 2000)) + b"\r\n\r\n",
    "noise in a body": lambda chance: _posted(
        chance.randbytes(chance.randrange(2, 2000)) + b"\xff"
    ),
    "not UTF-8": lambda chance: _posted(
        b'{"ids": ["' + chance.choice((b"\xff", b"\xc0")) + b'"]}', "/jobs/follow"
    ),
    "cut off": lambda chance: _posted(b'{"id": "nobody"}'[: chance.randrange(16)]),
    "no object": lambda chance: _posted(chance.choice((b"[]", b"7", b'"show"', b"null", b" "))),
    "deeply nested": lambda chance: _posted(b'{"id": ' + b"[" * chance.randrange(1000, 30_000)),
    "unknown request": lambda chance: chance.choice((_posted(b"", "/reboot"), _got("/reboot"))),
    "other method": lambda chance: chance.choice((b"PUT", b"get", b"TRACE")) + _got("/jobs")[3:],
    "key missing": lambda chance: _posted(chance.choice((b"{}", b'{"id": "a"}'))),
    "key too many": lambda _: _got("/jobs?depth=1"),
    "wrong type": lambda chance: _posted(
        b'{"id": %s, "work": 1}' % chance.choice((b"1", b"[]", b"{}"))
    ),
    "number out of range": lambda chance: _got(
        f"/jobs?limit={chance.choice(('-1', '1e400', '9' * 4000, 'NaN'))}"
    ),
    "half a surrogate": lambda _: _posted(b'{"ids": ["\\ud800"]}', "/jobs/follow"),
    "unknown job": lambda chance: chance.choice(
        (
            _got("/jobs/nobody%00%20://"),
            *(_posted(b"", f"/jobs/no/{a}") for a in ("cancel", "retry")),
        )
    ),
    "too long": lambda _: _posted(b"x" * (REQUEST_BYTES + 1000)),
    "long head": lambda chance: _got("/jobs/" + "x" * chance.randrange(9000, 90_000)),
    "half": lambda _: _posted(b'{"id": "nobody", ')[:-10],
}

_REFUSING_STATUSES = {"400", "404", "405", "421", "none"}
_LINE = b"GET /healthz HTTP/1.1\r\n"
_WRONG_REQUESTS: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda chance: chance.randbytes(chance.randrange(1, 4000)),
    "noise with an end": lambda chance: chance.randbytes(chance.randrange(1, 4000)) + b"\r\n\r\n",
    "nothing": lambda _: b"",
    "without an end": lambda chance: _LINE + b"a: b\r\n" * chance.randrange(500),
    "large head": lambda chance: _LINE + b"a: b\r\n" * chance.randrange(2000, 9000) + b"\r\n",
    "long line": lambda chance: b"GET /" + b"a" * chance.randrange(9000, 90_000) + b"\r\n\r\n",
    "other method": lambda chance: (
        chance.choice((b"POST", b"get", b"\xff", b"CONNECT")) + _LINE[3:] + b"\r\n"
    ),
    "other version": lambda chance: (
        b"GET / " + chance.choice((b"HTTP/2", b"HTTP/", b"HTTP", b"")) + b"\r\n\r\n"
    ),
    "unknown path": lambda chance: (
        b"GET %s HTTP/1.1\r\n\r\n" % chance.choice((b"/\xe9", b"/../status", b"//", b"*", b"/%00"))
    ),
    "foreign host": lambda chance: (
        _LINE + b"Host: %s\r\n\r\n" % chance.choice((b"evil.example", b"[", b"\xff", b"", b"a:b:c"))
    ),
    "two hosts": lambda _: _LINE + b"Host: localhost\r\nhost: localhost\r\n\r\n",
    "body": lambda chance: (
        b"POST /status HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n"
        + chance.randbytes(3000)
    ),
    "several at once": lambda _: (b"PUT /status HTTP/1.1\r\n\r\n" + _LINE + b"\r\n") * 50,
}


if __name__ == "__main__":
    run_as_script("malformed", __doc__, measure, bad=5000, good=50)
