"""A real Mosquitto on a port of its own, and a client that remembers all it hears."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
MOSQUITTO = shutil.which("mosquitto", path=_PATH)
DEADLINE_SECONDS = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A Mosquitto that keeps its data in a folder, and can be stopped and started again."""

    def __init__(self, folder: Path, *, lines: tuple[str, ...] = (), open_to_all: bool = True):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.lines = lines
        self.open_to_all = open_to_all
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            "\n".join(
                (
                    "per_listener_settings false",
                    "persistence true",
                    f"persistence_location {self.folder}/",
                    "autosave_interval 1",
                    "log_type all",
                    "set_tcp_nodelay true",
                    f"allow_anonymous {str(self.open_to_all).lower()}",
                    f"listener {self.port} 127.0.0.1",
                    *self.lines,
                    "",
                )
            )
        )
        if MOSQUITTO is None:
            pytest.skip("mosquitto is not installed")
        user = () if os.geteuid() else ("user root",)
        config.write_text("\n".join((config.read_text(), *user, "")))
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._await_port()

    def _await_port(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"mosquitto has ended:\n{self.log}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError("mosquitto does not listen")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Let it save what it has, and end.

        Mosquitto forgets a signal that comes between its first listening and its main loop.
        """
        process, self._process = self._process, None
        deadline = time.monotonic() + DEADLINE_SECONDS
        while process is not None and process.poll() is None:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(2.0)
            assert time.monotonic() < deadline, "mosquitto does not end"

    def pause(self) -> None:
        """Let it answer nothing, as behind a broken line."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.stop()
        self.start()

    def lose_everything(self) -> None:
        """Start again as a new one, without sessions and retained messages."""
        self.stop()
        (self.folder / "mosquitto.db").unlink(missing_ok=True)
        self.start()


@contextmanager
def broker_in(folder: Path, **options: object) -> Iterator[Broker]:
    broker = Broker(folder, **options)  # type: ignore[arg-type]
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that lets in everybody on this machine."""
    with broker_in(tmp_path / "broker") as started:
        yield started


@dataclass(frozen=True)
class Heard:
    """A message that the observer got."""

    topic: str
    payload: bytes
    retained: bool
    correlation_data: bytes | None
    at: float


class Observer:
    """A client that hears everything below its filter, and can say something itself."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.heard: list[Heard] = []
        self._news = asyncio.Event()

    async def listen(self) -> None:
        async for message in self.client.messages:
            properties = message.properties
            self.heard.append(
                Heard(
                    message.topic.value,
                    bytes(message.payload),
                    bool(message.retain),
                    getattr(properties, "CorrelationData", None),
                    asyncio.get_running_loop().time(),
                )
            )
            self._news.set()

    def all(self, topic: str) -> list[Heard]:
        return [heard for heard in self.heard if heard.topic == topic]

    async def until(self, wanted: Callable[[list[Heard]], object], what: str = "") -> None:
        """Wait until what was heard is as wanted."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not wanted(self.heard):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            heard = "\n".join(f"{one.topic} {one.payload[:300]!r}" for one in self.heard[-40:])
            raise AssertionError(f"not heard: {what}; but:\n{heard}") from None

    async def on(self, topic: str, payload: bytes | None = None) -> Heard:
        """Wait for a message on a topic."""

        def found(heard: list[Heard]) -> list[Heard]:
            return [
                one
                for one in heard
                if one.topic == topic and (payload is None or one.payload == payload)
            ]

        await self.until(found, f"{topic} {payload!r}")
        return found(self.heard)[-1]

    async def say(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        retain: bool = False,
        response: str | None = None,
        correlation: bytes | None = None,
        expiry: int | None = None,
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if response is not None:
            properties.ResponseTopic = response
        if correlation is not None:
            properties.CorrelationData = correlation
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        await self.client.publish(topic, payload, qos, retain, properties)


@asynccontextmanager
async def observer_of(
    broker: Broker, *filters: str, identifier: str | None = None, **options: object
) -> AsyncIterator[Observer]:
    """A client of the broker that has subscribed; `#` unless told otherwise."""
    client = aiomqtt.Client(
        "127.0.0.1",
        broker.port,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=identifier is None,
        **options,  # type: ignore[arg-type]
    )
    async with client:
        observer = Observer(client)
        listening = asyncio.create_task(observer.listen(), name="observer")
        try:
            for topic in filters or ("#",):
                await client.subscribe(topic, 1)
            yield observer
        finally:
            listening.cancel()
            await asyncio.wait({listening})


async def retained_of(broker: Broker, topic: str = "#") -> dict[str, bytes]:
    """What the broker holds just now."""
    async with observer_of(broker, topic) as observer:
        await observer.client.unsubscribe(topic)  # what is retained comes before this is answered
        while len(observer.client.messages):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # the last one is in the listener's hands
        return {one.topic: one.payload for one in observer.heard if one.retained}


def dynamic_security(folder: Path, user: str, password: str, refused: str) -> tuple[str, ...]:
    """Lines for a broker that lets one user in, who may subscribe to all but one filter."""
    plugins = sorted(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("Mosquitto's dynamic security plugin is not installed")
    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    access = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
    config = {
        "defaultACLAccess": dict.fromkeys(access, True),
        "clients": [
            {
                "username": user,
                "password": base64.b64encode(digest).decode(),
                "salt": base64.b64encode(salt).decode(),
                "iterations": 101,
                "roles": [{"rolename": "writer"}],
            }
        ],
        "groups": [],
        "roles": [
            {
                "rolename": "writer",
                "acls": [{"acltype": "subscribePattern", "topic": refused, "allow": False}],
            }
        ],
    }
    path = folder / "security.json"
    path.write_text(json.dumps(config))
    return (f"plugin {plugins[0]}", f"plugin_opt_config_file {path}")
