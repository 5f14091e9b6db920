"""The adapter over aiomqtt, and that it stays clear of the library's traps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers.mqtt import Broker, broker_in, dynamic_security, free_port, observer_of

from upframe.daemon.mqtt.client import Session
from upframe.daemon.mqtt.credentials import Settings
from upframe.daemon.mqtt.message import (
    ConnectionLost,
    LoginRefused,
    Publication,
    Received,
    SubscriptionRefused,
    TakenOver,
)

TOPIC = "t/commands"
WILL = Publication("t/status", b"offline", retain=True)


def settings_for(port: int, **others: object) -> Settings:
    given: dict[str, object] = {
        "host": "127.0.0.1",
        "port": port,
        "identifier": "t-node",
        "session_expiry": 3600,
        "will": WILL,
    }
    return Settings(**(given | others))  # type: ignore[arg-type]


class Inbox:
    """Takes messages, and acknowledges them if it is told to."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.taken: list[Received] = []
        self.acknowledges: list[Callable[[], None]] = []
        self._acknowledge = acknowledge
        self._news = asyncio.Event()

    def __call__(self, received: Received, acknowledge: Callable[[], None]) -> None:
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
            Session(settings_for(broker.port), inbox) as session,
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
        async with Session(settings_for(broker.port), careless) as session:
            await session.subscribe([TOPIC])
            async with observer_of(broker) as client:
                for payload in (b"1", b"2", b"3"):
                    await client.say(TOPIC, payload)
            await careless.until(3)
            careless.acknowledges[0]()
            await session.publish(Publication("t/other", b"x"))  # behind the acknowledgement
        async with Session(settings_for(broker.port), careful):
            assert await careful.until(2) == [b"2", b"3"]
        after = Inbox()
        async with Session(settings_for(broker.port), after) as session:
            await session.publish(Publication("t/other", b"x"))
            assert after.taken == []

    asyncio.run(main())


def test_what_is_sent_while_we_are_away_waits_at_the_broker(broker: Broker) -> None:
    async def main() -> None:
        async with Session(settings_for(broker.port), Inbox()) as session:
            await session.subscribe([TOPIC])
        async with observer_of(broker) as client:
            await client.say(TOPIC, b"meanwhile")
        broker.restart()
        inbox = Inbox()
        async with Session(settings_for(broker.port), inbox):
            assert await inbox.until(1) == [b"meanwhile"]

    asyncio.run(main())


def test_an_error_in_taking_stops_no_reading_and_the_message_never_comes_again(
    broker: Broker,
) -> None:
    async def main() -> None:
        inbox = Inbox()

        def take(received: Received, acknowledge: Callable[[], None]) -> None:
            if received.payload == b"bad":
                raise ValueError("cannot")
            inbox(received, acknowledge)

        async with (
            Session(settings_for(broker.port), take) as session,
            observer_of(broker) as client,
        ):
            await session.subscribe([TOPIC])
            for payload in (b"bad", b"good"):
                await client.say(TOPIC, payload)
            assert await inbox.until(1) == [b"good"]
        again = Inbox()
        async with (
            Session(settings_for(broker.port), again),
            observer_of(broker) as client,
        ):
            await client.say(TOPIC, b"later")
            assert await again.until(1) == [b"later"]

    asyncio.run(main())


def test_says_that_there_is_no_broker() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionLost, match="Connection refused"):
            async with Session(settings_for(free_port()), Inbox()):
                pass

    asyncio.run(main())


def test_wrong_credentials_are_refused_at_once(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        began = time.monotonic()
        for name in ("nobody", None):
            settings = settings_for(port, username=name, password=name and "wrong")
            with pytest.raises(LoginRefused, match="not authorised"):
                await Session(settings, Inbox()).__aenter__()
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
            settings = settings_for(server.sockets[0].getsockname()[1])
            with pytest.raises(TakenOver, match="same prefix and node_id"):
                async with asyncio.timeout(10), Session(settings, Inbox()) as session:
                    await session.lost()

    asyncio.run(main())


def test_tells_when_the_broker_is_gone(broker: Broker) -> None:
    async def main() -> None:
        async with Session(settings_for(broker.port), Inbox()) as session:
            losing = asyncio.create_task(session.lost())
            await asyncio.to_thread(broker.stop)
            with pytest.raises(ConnectionLost):
                await losing
            with pytest.raises(ConnectionLost):
                await session.publish(Publication("t/x", b"x"))

    asyncio.run(main())


def test_the_will_tells_a_death_and_not_a_farewell(broker: Broker) -> None:
    async def main() -> None:
        async with observer_of(broker) as client:
            async with Session(settings_for(broker.port), Inbox()):
                pass
            async with Session(settings_for(broker.port), Inbox()) as session:
                session._abort()  # as if the process had died
                assert await client.on("t/status") == client.heard[0]
        assert [heard.payload for heard in client.heard] == [b"offline"]

    asyncio.run(main())


def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed(broker: Broker) -> None:
    """Else a publisher would live on without its connection, and hold up the next one."""

    async def main() -> None:
        async with Session(settings_for(broker.port), Inbox()) as session:
            publishing = asyncio.create_task(session.publish(Publication("t/x", b"x")))
            told = session._paho.on_publish

            def both(*what: object) -> None:
                told(*what)  # type: ignore[misc, operator]
                publishing.cancel()

            session._paho.on_publish = both
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
            async with Session(settings_for(port), Inbox()):
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
            session = Session(settings_for(full.getsockname()[1]), Inbox())
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


def test_leaving_does_not_wait_for_a_broker_that_has_stopped_answering(broker: Broker) -> None:
    async def main() -> None:
        async with Session(settings_for(broker.port), Inbox()) as session:
            broker.pause()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.publish(Publication("t/x", b"x")), 0.1)
        assert time.monotonic() - began < 5
        broker.resume()

    asyncio.run(main())


def test_a_refused_subscription_is_an_error(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        settings = settings_for(port, username="someone", password="admin")
        async with Session(settings, Inbox()) as session:
            await session.subscribe(["allowed/topic"])
            with pytest.raises(SubscriptionRefused, match=r"subscribe t/commands \(not authorised"):
                await session.subscribe(["allowed/topic", TOPIC])

    lines = dynamic_security(tmp_path, "someone", "admin", refused="t/#")
    with broker_in(tmp_path / "broker", lines=lines, open_to_all=False) as broker:
        asyncio.run(main(broker.port))
