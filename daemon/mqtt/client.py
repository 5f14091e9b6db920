"""One connection to a broker, over aiomqtt: the only file that knows the library.

aiomqtt 2.5 has traps that this adapter stays clear of. A client that is entered again returns
before the broker has answered, so there is a new one for every attempt. Its default start wipes the
session that the broker keeps for us. A refused subscription raises nothing. And whatever its queue
is given is acknowledged at once, so acknowledging is left to us: paho, below it, offers that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, cast

import aiomqtt
from paho.mqtt.client import Client as Paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ..fence import Fence
from .credentials import Settings
from .message import (
    ConnectionLost,
    LoginRefused,
    Publication,
    Received,
    SubscriptionRefused,
    TakenOver,
)

log = logging.getLogger("upframe.mqtt.client")


# The properties of MQTT 5 packets, as paho writes them, from and to our messages.

_RECEIVE_MAXIMUM = 100  # unacknowledged messages that the broker may send: bounds our memory
_PACKET_MAX_BYTES = 1 << 20  # larger ones are not even delivered

# MQTT 5, 2.4; version 3 had 4 and 5 for what are 134 and 135 now
_REASONS = {
    4: "bad user name or password",
    5: "not authorised",
    128: "closed without a reason",
    133: "the name of the client is not valid",
    134: "bad user name or password",
    135: "not authorised",
    136: "server unavailable",
    137: "server busy",
    138: "banned",
    139: "the broker is shutting down",
    141: "nothing was heard for too long",
    149: "a packet was too large",
    151: "a quota is exceeded",
    152: "by an administrator",
}


def reason_text(code: int | None) -> str:
    """Say in words what a broker gave as its reason."""
    return _REASONS.get(code or 0, f"reason code {code}")


def received_of(message: Any) -> Received:
    """Read what we need of a message of the library's."""
    properties = message.properties
    return Received(
        topic=message.topic.value,
        payload=bytes(message.payload),
        qos=message.qos,
        retained=bool(message.retain),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation_data=getattr(properties, "CorrelationData", None),
        expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
        received=time.time(),
    )


def connect_properties(session_expiry: int) -> Properties:
    """Ask for a session that lives on without us, and for messages in portions."""
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = session_expiry
    properties.ReceiveMaximum = _RECEIVE_MAXIMUM
    properties.MaximumPacketSize = _PACKET_MAX_BYTES
    return properties


def publish_properties(publication: Publication) -> Properties | None:
    """Describe a message; one that clears a topic has nothing to describe."""
    if not publication.payload:
        return None
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    if publication.payload[:1] == b"{":
        properties.ContentType = "application/json"
    if publication.correlation_data is not None:
        properties.CorrelationData = publication.correlation_data
    if publication.expiry_seconds is not None:
        properties.MessageExpiryInterval = publication.expiry_seconds
    return properties


_TIMEOUT_SECONDS = 10.0
_CONNECT_SECONDS = 3.0  # in a thread that nothing can interrupt, and that an exit waits for
_FAREWELL_SECONDS = 0.5
_LOOK_SECONDS = 0.05
_KEEPALIVE_SECONDS = 20
_LOGIN_CODES = frozenset({4, 5, 134, 135, 138, 140})  # v3 and v5: credentials, authority, banned
_TAKEN_OVER = 142

Take = Callable[[Received, Callable[[], None]], None]
"""Gets every message with what acknowledges it; it must neither raise nor block."""


class Session:
    """One connection, from CONNECT to DISCONNECT: an asynchronous context manager.

    Args:
        settings: of the connection.
        take: gets every message that arrives, from the very first on.

    Raises:
        LoginRefused: on entering, if the broker refuses us.
        ConnectionLost: on entering, if there is no broker.
    """

    def __init__(self, settings: Settings, take: Take) -> None:
        self._client = aiomqtt.Client(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.password,
            logger=logging.getLogger("upframe.mqtt.paho"),
            identifier=settings.identifier,
            queue_type=_queue_type(self._arrived),
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(settings.will.topic, settings.will.payload, settings.will.qos, True),
            timeout=_TIMEOUT_SECONDS,
            keepalive=_KEEPALIVE_SECONDS,
            clean_start=False,
            properties=connect_properties(settings.session_expiry),
            tls_context=settings.tls,
            # else each acknowledgement might wait 40 ms for the kernel's of what went before
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self._client.pending_calls_threshold = 1000  # we bound them ourselves
        self._paho: Paho = self._client._client  # pyright: ignore[reportPrivateUsage]
        self._paho.manual_ack_set(True)
        self._paho.connect_timeout = _CONNECT_SECONDS
        self._listen_in()
        self.session_present = False
        """Whether the broker had kept what was sent to us since the last time."""
        self.refusals: Counter[str] = Counter()
        """Messages of ours that the broker did not want, by its reason."""
        self._take = take
        self._open = True  # messages come with the broker's first answer already

    async def __aenter__(self) -> Self:
        entering = asyncio.create_task(self._client.__aenter__(), name="mqtt connect")
        # The library throws away a loss that comes together with the broker's first answer
        lost = self._client._disconnected  # pyright: ignore[reportPrivateUsage]
        try:
            await asyncio.shield(entering)
            if lost.done():
                lost.result()
        except asyncio.CancelledError:
            await self._give_up(entering)
            raise
        except aiomqtt.MqttError as error:
            self._abort()
            raise _refusal(error) from error
        except BaseException:
            self._abort()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._client.__aexit__(None, None, None)
        except (aiomqtt.MqttError, TimeoutError) as failure:
            log.debug("disconnecting: %s", failure)
        finally:
            self._abort()
            _retrieve(self._client._disconnected)  # pyright: ignore[reportPrivateUsage]

    async def _give_up(self, entering: asyncio.Task[Any]) -> None:
        """End an attempt; a thread of the library may be connecting, and opens a socket yet."""
        entering.add_done_callback(self._gave_up)
        for _ in range(round(_TIMEOUT_SECONDS / _LOOK_SECONDS)):
            if entering.done() or self._paho.socket() is not None:
                break
            await asyncio.wait({entering}, timeout=_LOOK_SECONDS)
        await asyncio.wait({entering}, timeout=_LOOK_SECONDS)  # lets the thread finish with it
        entering.cancel()
        await asyncio.wait({entering}, timeout=_LOOK_SECONDS)

    def _gave_up(self, entering: asyncio.Task[Any]) -> None:
        _retrieve(entering)
        self._abort()

    async def subscribe(self, topics: Sequence[str], *, retained: bool = False) -> None:
        """Ask for topics, and wait until the broker has granted them.

        Args:
            topics: with our own messages left out.
            retained: also what the broker has kept there; such messages come at QoS 0.

        Raises:
            SubscriptionRefused: if it does not grant one of them.
            ConnectionLost: if the connection ends.
        """
        qos = 0 if retained else 1
        options = SubscribeOptions(
            qos=qos,
            noLocal=True,
            # so that a request that was sent as retained shows it also when it comes fresh
            retainAsPublished=True,
            retainHandling=0 if retained else 2,
        )
        granted = await self._within(self._client.subscribe([(topic, options) for topic in topics]))
        codes = [code if isinstance(code, int) else code.value for code in granted]
        refused = [
            f"{topic} ({reason_text(code)})"
            for topic, code in zip(topics, codes, strict=True)
            if code >= 128 or code < qos
        ]
        if refused:
            raise SubscriptionRefused(f"the broker refuses to subscribe {', '.join(refused)}")

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions. What was on its way has arrived when this returns.

        Raises:
            ConnectionLost: if the connection ends.
        """
        await self._within(self._client.unsubscribe(list(topics)))

    async def publish(self, publication: Publication) -> None:
        """Send a message; with QoS 1, wait until the broker has it.

        Raises:
            ConnectionLost: if the connection ends before.
        """
        await self._within(
            self._client.publish(
                publication.topic,
                publication.payload,
                publication.qos,
                publication.retain,
                publish_properties(publication),
            )
        )

    async def lost(self) -> None:
        """Wait for the end of the connection.

        Raises:
            ConnectionLost: when it is there.
        """
        try:
            async for _ in self._client.messages:  # its queue stays empty: `take` gets them all
                pass
        except aiomqtt.MqttError as error:
            raise _loss(error) from error
        raise ConnectionLost("the connection has ended")

    async def _within(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Make a call of the library, so that a cancellation ends it in any case.

        The library waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation
        that comes in the same moment as the answer.
        """
        calling = asyncio.create_task(call, name="mqtt call")
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            calling.add_done_callback(_retrieve)
            calling.cancel()
            raise
        except (aiomqtt.MqttError, ValueError) as error:  # paho: ValueError once it is closed
            raise _loss(error) from error

    def _listen_in(self) -> None:
        """Hear what aiomqtt keeps to itself, and let no packet end the connection."""
        on_connect, on_publish = self._paho.on_connect, self._paho.on_publish

        def connected(*told: Any) -> None:
            self.session_present = told[2].session_present
            cast("Any", on_connect)(*told)

        def published(*told: Any) -> None:
            if told[3].is_failure:
                self._refused(reason_text(told[3].value))
            cast("Any", on_publish)(*told)

        self._paho.on_connect, self._paho.on_publish = connected, published
        library = cast("Any", self._paho)
        handle = library._handle_publish

        def publish_handled() -> int:
            packet, command = library._in_packet["packet"], library._in_packet["command"]
            with Fence("mqtt", "packet"):
                return handle()
            # the library ends the connection over a property with U+FEFF, which brokers let pass
            if qos := command >> 1 & 3:
                topic_end = 2 + int.from_bytes(packet[:2])
                library.ack(int.from_bytes(packet[topic_end : topic_end + 2]), qos)
            return 0

        library._handle_publish = publish_handled

    def _refused(self, reason: str) -> None:
        self.refusals[reason] += 1
        if self.refusals[reason] == 1:
            log.error("the broker does not take all that we publish: %s", reason)

    def _arrived(self, message: aiomqtt.Message) -> None:
        waits = message.qos > 0

        def acknowledge() -> None:
            nonlocal waits
            if self._open and waits:
                waits = False
                self._paho.ack(message.mid, message.qos)

        with Fence("mqtt", "message") as fenced:
            self._take(received_of(message), acknowledge)
        if fenced.error is not None:  # else it would come again at every connection
            acknowledge()

    def _abort(self) -> None:
        """Close the socket whatever state the library is in."""
        self._open = False
        left: Any = self._paho.socket()
        if left is None:
            return
        try:
            left.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("shutting the socket down: %s", error)
        # reads the end of the stream, upon which paho closes the socket and its callbacks
        self._paho.loop_read()


def _queue_type(arrived: Callable[[aiomqtt.Message], None]) -> type[asyncio.Queue[aiomqtt.Message]]:
    class HandingQueue(asyncio.Queue[aiomqtt.Message]):
        """Hands every message on as it comes, to be journaled and then acknowledged."""

        def put_nowait(self, item: aiomqtt.Message) -> None:
            arrived(item)

    return HandingQueue


def _refusal(error: aiomqtt.MqttError) -> Exception:
    code = _code_of(error)
    if isinstance(error, aiomqtt.exceptions.MqttConnectError) and code in _LOGIN_CODES:
        return LoginRefused(f"the broker refuses us: {reason_text(code)}")
    if code == _TAKEN_OVER:
        return _loss(error)
    return ConnectionLost(f"cannot connect: {error}")


def _loss(error: Exception) -> ConnectionLost:
    cause = error.__cause__ or error
    code = _code_of(cause)
    if code == _TAKEN_OVER:
        return TakenOver("another client has connected under the same prefix and node_id")
    return ConnectionLost(f"connection lost: {cause if code is None else reason_text(code)}")


def _code_of(error: BaseException) -> int | None:
    code = error.rc if isinstance(error, aiomqtt.MqttCodeError) else None
    return code.value if isinstance(code, ReasonCode) else code


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Look at a result that nobody awaits any more, or asyncio would complain."""
    if task.done() and not task.cancelled():
        task.exception()
