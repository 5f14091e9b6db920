"""The adapter over aiomqtt, and that it stays clear of the library's traps."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt import client as paho
from support.servers.mqtt import Broker, broker_in, dynamic_security, free_port, observer_of

from upframe.daemon.config import MqttConfig
from upframe.daemon.mqtt import broker as broker_module
from upframe.daemon.mqtt.broker import (
    BrokerCredentials,
    ConnectionLost,
    LoginRefused,
    OnMessage,
    Session,
    SubscriptionRefused,
    TakenOver,
)
from upframe.daemon.mqtt.topics import IncomingMessage, OutgoingMessage, Topics

TOPIC = "t/commands"


def session_for(
    port: int, inbox: OnMessage, user: str | None = None, password: str | None = None
) -> Session:
    config = MqttConfig(host="127.0.0.1", port=port, session_expiry=3600, username=user)
    return Session(config, Topics("t", "node"), BrokerCredentials(password), inbox)


class Inbox:
    """Takes messages, and acknowledges them if it is told to."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.taken: list[IncomingMessage] = []
        self.acknowledges: list[Callable[[], None]] = []
        self._acknowledge = acknowledge
        self._news = asyncio.Event()

    def __call__(self, received: IncomingMessage, acknowledge: Callable[[], None]) -> None:
        self.taken.append(received)
        self.acknowledges.append(acknowledge)
        if self._acknowledge:
            acknowledge()
        self._news.set()

    async def until(self, count: int) -> list[bytes]:
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                self._news.clear()
                await self._news.wait()
        return [received.payload for received in self.taken]


async def descriptors_settle(at_most: int) -> int:
    """Count the open files once what was just closed is gone."""
    deadline = time.monotonic() + 10
    while _descriptors() > at_most and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return _descriptors()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_message_is_taken_with_all_its_properties(broker: Broker) -> None:
    async def main() -> None:
        inbox = Inbox()
        async with (
            session_for(broker.port, inbox) as session,
            observer_of(broker) as client,
        ):
            await session.subscribe([TOPIC])
            await client.say(TOPIC, b"x", response="me", correlation=b"\0\xff", expiry=60)
            await inbox.until(1)
            (received,) = inbox.taken
            assert (received.topic, received.payload, received.qos) == (TOPIC, b"x", 1)
            assert (received.response_topic, received.correlation_data) == ("me", b"\0\xff")
            assert received.expiry_seconds == 60
            assert not received.retained

    asyncio.run(main())


def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(broker: Broker) -> None:
    async def main() -> None:
        careless, careful = Inbox(acknowledge=False), Inbox()
        async with session_for(broker.port, careless) as session:
            await session.subscribe([TOPIC])
            async with observer_of(broker) as client:
                for payload in (b"1", b"2", b"3"):
                    await client.say(TOPIC, payload)
            await careless.until(3)
            careless.acknowledges[0]()
            await session.publish(OutgoingMessage("t/other", b"x"))  # behind the acknowledgement
        async with session_for(broker.port, careful):
            assert await careful.until(2) == [b"2", b"3"]
        after = Inbox()
        async with session_for(broker.port, after) as session:
            await session.publish(OutgoingMessage("t/other", b"x"))
            assert after.taken == []

    asyncio.run(main())


def test_what_is_sent_while_we_are_away_waits_at_the_broker(broker: Broker) -> None:
    async def main() -> None:
        async with session_for(broker.port, Inbox()) as session:
            await session.subscribe([TOPIC])
        async with observer_of(broker) as client:
            await client.say(TOPIC, b"meanwhile")
        broker.restart()
        inbox = Inbox()
        async with session_for(broker.port, inbox):
            assert await inbox.until(1) == [b"meanwhile"]

    asyncio.run(main())


def test_an_error_in_taking_stops_no_reading_and_the_message_never_comes_again(
    broker: Broker,
) -> None:
    async def main() -> None:
        inbox = Inbox()

        def take(received: IncomingMessage, acknowledge: Callable[[], None]) -> None:
            if received.payload == b"bad":
                raise ValueError("cannot")
            inbox(received, acknowledge)

        async with (
            session_for(broker.port, take) as session,
            observer_of(broker) as client,
        ):
            await session.subscribe([TOPIC])
            for payload in (b"bad", b"good"):
                await client.say(TOPIC, payload)
            assert await inbox.until(1) == [b"good"]
        again = Inbox()
        async with (
            session_for(broker.port, again),
            observer_of(broker) as client,
        ):
            await client.say(TOPIC, b"later")
            assert await again.until(1) == [b"later"]

    asyncio.run(main())


def test_says_that_there_is_no_broker() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionLost, match="Connection refused"):
            async with session_for(free_port(), Inbox()):
                pass

    asyncio.run(main())


def test_wrong_credentials_are_refused_at_once(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        began = time.monotonic()
        for name in ("nobody", None):
            session = session_for(port, Inbox(), name, name and "wrong")
            with pytest.raises(LoginRefused, match="Not authorized"):
                await session.__aenter__()
        assert time.monotonic() - began < 5

    (tmp_path / "passwords").touch(mode=0o644)
    lines = (f"password_file {tmp_path / 'passwords'}",)
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker.port))


@pytest.mark.parametrize("pause_seconds", [0, 0.1])
def test_tells_when_another_client_has_its_name(pause_seconds: float) -> None:
    connack, taken_over = bytes.fromhex("20 03 00 00 00"), bytes.fromhex("E0 02 8E 00")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(connack)
        await asyncio.sleep(pause_seconds)  # without one both come in one segment
        writer.write(taken_over)  # MQTT 5, 3.14.2.1, which Mosquitto 2.0 does not say
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TakenOver, match="same prefix and node_id"):
                async with asyncio.timeout(10), session_for(port, Inbox()) as session:
                    await session.lost()

    asyncio.run(main())


def test_tells_when_the_broker_is_gone(broker: Broker) -> None:
    async def main() -> None:
        async with session_for(broker.port, Inbox()) as session:
            losing = asyncio.create_task(session.lost())
            await asyncio.to_thread(broker.stop)
            with pytest.raises(ConnectionLost):
                await losing
            with pytest.raises(ConnectionLost):
                await session.publish(OutgoingMessage("t/x", b"x"))

    asyncio.run(main())


def test_the_will_tells_a_death_and_not_a_farewell(broker: Broker) -> None:
    async def main() -> None:
        async with observer_of(broker) as client:
            async with session_for(broker.port, Inbox()):
                pass
            async with session_for(broker.port, Inbox()) as session:
                session.abort()  # as if the process had died
                assert await client.on("t/node/status") == client.heard[0]
        assert [heard.payload for heard in client.heard] == [b"offline"]

    asyncio.run(main())


def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed(broker: Broker) -> None:
    """Else a publisher would live on without its connection, and hold up the next one."""

    async def main() -> None:
        async with session_for(broker.port, Inbox()) as session:
            publishing = asyncio.create_task(session.publish(OutgoingMessage("t/x", b"x")))
            told = session._paho.client.on_publish

            def both(*what: object) -> None:
                told(*what)  # type: ignore[misc, operator]
                publishing.cancel()

            session._paho.client.on_publish = both
            await asyncio.wait({publishing})
            assert publishing.cancelled()

    asyncio.run(main())


async def silent_server(accepted: list[asyncio.StreamWriter]) -> asyncio.Server:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await reader.read()

    return await asyncio.start_server(accept, "127.0.0.1", 0)


def test_giving_up_on_a_silent_broker_leaves_nothing_open() -> None:
    async def main() -> None:
        accepted: list[asyncio.StreamWriter] = []
        server = await silent_server(accepted)
        port = server.sockets[0].getsockname()[1]

        async def attempt() -> None:
            async with session_for(port, Inbox()):
                raise AssertionError("it never answers")

        before = _descriptors()
        tasks = len(asyncio.all_tasks())
        for number in range(5):
            attempting = asyncio.create_task(attempt())
            while len(accepted) == number:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            attempting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempting
        for writer in accepted:
            writer.close()
        assert await descriptors_settle(before) <= before
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) <= tasks
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_giving_up_on_a_host_that_answers_nothing_takes_a_few_seconds() -> None:
    async def main() -> float:
        before = _descriptors()
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.1", 0))
            full.listen(0)  # the kernel drops what comes beyond its queue
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            session = session_for(full.getsockname()[1], Inbox())
            attempting = asyncio.create_task(session.__aenter__())
            await asyncio.sleep(0.2)
            assert not attempting.done()
            began = time.monotonic()
            attempting.cancel()
            await asyncio.wait({attempting})
            assert attempting.cancelled()
        assert await descriptors_settle(before) <= before
        return time.monotonic() - began

    assert asyncio.run(main()) < 4.5


class SlowContext(ssl.SSLContext):
    """Takes half a second for a connection, without TLS."""

    class Plain(socket.socket):
        def do_handshake(self) -> None:
            time.sleep(0.5)

    def wrap_socket(self, sock: socket.socket, **_: object) -> Plain:  # type: ignore[override]
        return self.Plain(fileno=sock.detach())


def test_a_connection_that_opens_after_the_cancellation_is_closed() -> None:
    async def main() -> None:
        accepted, closed = asyncio.Event(), asyncio.Event()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set()
            await reader.read()
            closed.set()
            writer.close()

        before, tasks = _descriptors(), len(asyncio.all_tasks())
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            config = MqttConfig(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
            credentials = BrokerCredentials(tls=SlowContext(ssl.PROTOCOL_TLS_CLIENT))
            session = Session(config, Topics("t", "node"), credentials, Inbox())
            attempting = asyncio.create_task(session.__aenter__())
            await accepted.wait()
            attempting.cancel()
            await asyncio.wait({attempting})
            assert attempting.cancelled()
            assert not closed.is_set()  # a thread of the library still opens it
            await asyncio.wait_for(closed.wait(), 10)
        assert await descriptors_settle(before) <= before
        assert len(asyncio.all_tasks()) <= tasks

    asyncio.run(main())


def test_leaving_does_not_wait_for_a_broker_that_has_stopped_answering(broker: Broker) -> None:
    async def main() -> None:
        async with session_for(broker.port, Inbox()) as session:
            broker.pause()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.publish(OutgoingMessage("t/x", b"x")), 0.1)
        assert time.monotonic() - began < 5
        broker.resume()

    asyncio.run(main())


def test_a_refused_subscription_is_an_error(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        async with session_for(port, Inbox(), "someone", "admin") as session:
            await session.subscribe(["allowed/topic"])
            with pytest.raises(SubscriptionRefused, match=r"subscribe t/commands \(Not authorized"):
                await session.subscribe(["allowed/topic", TOPIC])

    lines = dynamic_security(tmp_path, "someone", "admin", refused="t/#")
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker.port))


def test_the_libraries_have_the_private_names_that_we_use() -> None:
    """Fails where a version of aiomqtt or paho moves one; `_Paho` says what each is for."""

    async def main() -> None:
        client = aiomqtt.Client("127.0.0.1")._client
        assert type(client) is paho.Client
        assert str(inspect.signature(client._handle_publish)) == "() -> 'MQTTErrorCode'"
        assert {"packet", "command"} <= client._in_packet.keys()
        for callback in ("on_connect", "on_publish", "on_disconnect", "on_message"):
            assert getattr(client, callback) is not None  # aiomqtt's own, which ours call

    asyncio.run(main())


def test_the_private_names_of_the_libraries_stand_in_one_place_of_sixty_lines() -> None:
    tree = ast.parse(inspect.getsource(broker_module))
    place = next(each for each in tree.body if getattr(each, "name", "") == "_Paho")
    assert place.end_lineno - place.lineno < 60  # type: ignore[attr-defined, operator]
    assert private_names_in([place]) == {
        *("_client", "_connected", "_handle_publish", "_in_packet")
    }
    assert private_names_in(each for each in tree.body if each is not place) == set()


def private_names_in(parts: Iterable[ast.AST]) -> set[str]:
    """The private attributes of others."""
    return {
        node.attr
        for part in parts
        for node in ast.walk(part)
        if isinstance(node, ast.Attribute)
        and re.match(r"_[^_]", node.attr)
        and ast.unparse(node.value) != "self"
    }
