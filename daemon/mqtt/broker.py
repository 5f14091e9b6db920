"""One session with the broker, over aiomqtt, and the credentials for it.

aiomqtt 2.5 has traps that `Session` avoids. A client that is entered again returns before the
broker has answered, so every attempt makes a new one. Its default start deletes the session that
the broker keeps for us. A refused subscription raises nothing. What it does not offer at all is in
`_Paho`, together with every private name that we use.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import secrets
import socket
import ssl
import stat
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

import aiomqtt
from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ..config import MqttConfig
from ..fence import Fence
from .topics import IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.client")

OnMessage = Callable[[IncomingMessage, Callable[[], None]], None]
"""Accepts a message and what acknowledges it; must neither raise nor block."""
_DISCONNECT_SECONDS = 0.5
_KEEPALIVE_SECONDS = 20


class ConnectionLost(Exception):
    """There is no connection, or no longer: try again later."""


class TakenOver(ConnectionLost):
    """Another client has connected under our name: try again late, or the two fight for ever."""


class LoginRefused(Exception):
    """The broker does not accept our credentials, or they cannot be read: try again late."""


class SubscriptionRefused(Exception):
    """The broker does not let us read a topic."""


# Who we are to the broker. The files are read for every attempt, so that a changed password or
# certificate needs no restart.

CREDENTIAL = "mqtt-password"
"""The name in systemd's LoadCredential."""

_PORT = 1883
_TLS_PORT = 8883


@dataclass(frozen=True, slots=True)
class BrokerCredentials:
    """What the configuration names and files hold."""

    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


def address_of(config: MqttConfig) -> str:
    """Return host and port of the broker."""
    return f"{config.host}:{_port_of(config)}"


def read_credentials(config: MqttConfig) -> BrokerCredentials:
    """Read the password and the certificates. Blocks: reads files.

    Raises:
        LoginRefused: if a file cannot be used, or there is a password without a user.
    """
    password = read_password(config)
    if password is not None and config.username is None:
        raise LoginRefused("mqtt: there is a password, but no username")
    return BrokerCredentials(password, _tls_context(config) if _uses_tls(config) else None)


def read_password(config: MqttConfig) -> str | None:
    """Read the password from its file or from systemd's credential; None if there is none.

    Raises:
        LoginRefused: if it cannot be read, or every user of the machine may read it.
    """
    path = config.password_file
    if path is None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        path = Path(folder) / CREDENTIAL if folder else None
        if path is None or not path.exists():
            return None
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
        if mode & stat.S_IRWXO:
            raise LoginRefused(f"{path}: mode {mode:04o} lets everybody read it: chmod o= {path}")
        return content.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise LoginRefused(f"{path}: the password cannot be read: {error}") from error


def _uses_tls(config: MqttConfig) -> bool:
    return config.tls or config.tls_ca is not None or config.tls_cert is not None


def _port_of(config: MqttConfig) -> int:
    return config.port or (_TLS_PORT if _uses_tls(config) else _PORT)


def _tls_context(config: MqttConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LoginRefused(f"mqtt: the certificates cannot be used: {error}") from error
    if config.tls_insecure:
        log.warning("mqtt.tls_insecure: anybody can pretend to be the broker and read everything")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = _ClosingSocket
    return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself if the handshake fails, since paho does not."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


_RECEIVE_MAXIMUM = 100  # unacknowledged messages that the broker may send: bounds our memory
_PACKET_MAX_BYTES = 1 << 20  # larger ones are not even delivered
_TIMEOUT_SECONDS = 10.0
_CONNECT_SECONDS = 3.0  # in a thread that nothing can interrupt, and that an exit waits for
_UNANSWERED = "the connection was closed before the broker answered"
_NO_TLS = re.compile("WRONG_VERSION|UNEXPECTED_EOF|RECORD_LAYER|PACKET_LENGTH|reset by peer")
"""In OpenSSL's errors, where the other side does not talk TLS at all."""
_LOGIN_CODES = frozenset({134, 135, 138, 140})  # MQTT 5, 2.4: credentials, authority, banned
_TAKEN_OVER = 142


class _Paho:
    """What aiomqtt does not offer, by the paho client below it; all private names are here.

    `_client` is that client: to acknowledge what is in the journal, not what is queued; to learn of
    a kept session, refused messages and early disconnections, at which `_connected` would wait; and
    to close what a thread still opens after a cancellation. `_handle_publish`, `_in_packet`: paho
    ends the connection over U+FEFF in a property, which brokers let pass, each time.
    """

    def __init__(self, client: aiomqtt.Client, on_refusal: Callable[[str], None]) -> None:
        self.session_present, self.is_open, self._is_connecting = False, True, True
        self.disconnection: ReasonCode | None = None
        self.client = paho = cast("Any", client._client)  # pyright: ignore[reportPrivateUsage]
        loop, connect, handle = asyncio.get_running_loop(), paho.connect, paho._handle_publish
        on_connect, on_publish, on_disconnect = paho.on_connect, paho.on_publish, paho.on_disconnect

        def connect_in_thread(*given: Any) -> None:
            try:
                connect(*given)
            finally:
                loop.call_soon_threadsafe(self._connect_ended)

        def connected(*given: Any) -> None:
            self.session_present = given[2].session_present
            on_connect(*given)

        def published(*given: Any) -> None:
            if given[3].is_failure:
                on_refusal(str(given[3]))
            on_publish(*given)

        def disconnected(*given: Any) -> None:
            self.disconnection = given[3]
            if self.is_open and not (answered := cast("Any", client)._connected).done():
                answered.set_exception(aiomqtt.MqttError(_UNANSWERED))
            if self.is_open:  # else nothing would retrieve the error that aiomqtt stores
                on_disconnect(*given)

        def publish_handled() -> int:
            packet, qos = paho._in_packet["packet"], paho._in_packet["command"] >> 1 & 3
            with Fence("mqtt", "packet"):
                return handle()
            end = 2 + int.from_bytes(packet[:2])  # of the topic; then the identifier, where QoS > 0
            return paho.ack(int.from_bytes(packet[end : end + 2]), qos) if qos else 0

        paho.connect, paho._handle_publish = connect_in_thread, publish_handled
        paho.on_connect, paho.on_publish, paho.on_disconnect = connected, published, disconnected

    def abort(self) -> None:
        """Close the socket, in whatever state the library is; if a thread opens it, after that."""
        self.is_open = False
        if not self._is_connecting and (left := self.client.socket()) is not None:
            with suppress(OSError):
                left.shutdown(socket.SHUT_RDWR)
            self.client.loop_read()  # reads the end of the stream, and paho closes the socket

    def _connect_ended(self) -> None:
        self._is_connecting = False
        if not self.is_open:
            self.abort()


class Session:
    """One connection, from CONNECT to DISCONNECT: an asynchronous context manager.

    Every call raises ConnectionLost when the connection ends. The retained status of the node of
    `topics` becomes `offline` if we die. `on_message` is called with every message that arrives,
    from the very first on. A trial connects beside the node's own session, and leaves nothing
    behind.

    Raises:
        LoginRefused: on entering, if the broker refuses us.
        ConnectionLost: on entering, if there is no broker.
    """

    def __init__(
        self,
        config: MqttConfig,
        topics: Topics,
        credentials: BrokerCredentials,
        on_message: OnMessage,
        *,
        trial: bool = False,
    ) -> None:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if trial else config.session_expiry
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        properties.MaximumPacketSize = _PACKET_MAX_BYTES
        self._client = aiomqtt.Client(
            config.host,
            _port_of(config),
            username=config.username,
            password=credentials.password,
            logger=logging.getLogger("upframe.mqtt.paho"),
            identifier=f"{topics.prefix}-{topics.node_id}" + f"-{secrets.token_hex(4)}" * trial,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=None if trial else aiomqtt.Will(topics.status, b"offline", 1, True),
            timeout=math.inf,  # see `_answered`
            keepalive=_KEEPALIVE_SECONDS,
            clean_start=trial,
            properties=properties,
            tls_context=credentials.tls,
            # else each acknowledgement might wait 40 ms for the kernel's of what went before
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        self._client.pending_calls_threshold = 1000  # the outbox bounds them
        self._paho = _Paho(self._client, self._count_refusal)
        self._paho.client.manual_ack_set(True)
        self._paho.client.connect_timeout = _CONNECT_SECONDS
        self._paho.client.on_message = self._accept
        self._on_message, self._config = on_message, config
        self.refusals: Counter[str] = Counter()
        """Messages of ours that the broker did not accept, by its reason."""

    @property
    def session_present(self) -> bool:
        """Whether the broker had kept what was sent to us since the last connection."""
        return self._paho.session_present

    async def __aenter__(self) -> Self:
        try:
            async with _answered("cannot connect"):
                await self._client.__aenter__()
                if self._paho.disconnection is not None:
                    raise aiomqtt.MqttCodeError(self._paho.disconnection)
        except ConnectionLost as error:
            self.abort()
            raise type(error)(f"{error}{_tls_hint(self._config, str(error))}") from error
        except BaseException:
            self.abort()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            with suppress(ConnectionLost, aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(_DISCONNECT_SECONDS):
                    if self._paho.is_open:
                        await self._client.__aexit__(None, None, None)
                        await self.lost()  # retrieves an error that nothing has waited for
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the connection without a DISCONNECT."""
        self._paho.abort()

    async def subscribe(self, topics: Sequence[str], *, retained: bool = False) -> None:
        """Subscribe to topics, and wait until the broker has granted them.

        Messages that we publish there ourselves do not come; those that the broker has retained
        come, at QoS 0, if `retained`.

        Raises:
            SubscriptionRefused: if it does not grant one of them.
        """
        qos = 0 if retained else 1
        options = SubscribeOptions(
            qos=qos,
            noLocal=True,
            # so that a request that was sent as retained shows it also when it comes fresh
            retainAsPublished=True,
            retainHandling=0 if retained else 2,
        )
        async with _answered():
            granted = await self._client.subscribe([(topic, options) for topic in topics])
        refused = [
            f"{topic} ({code})"
            for topic, code in zip(topics, granted, strict=True)
            if isinstance(code, ReasonCode) and (code.is_failure or code.value < qos)
        ]
        if refused:
            raise SubscriptionRefused(f"the broker refuses to subscribe {', '.join(refused)}")

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions. What was on its way has arrived when this returns."""
        async with _answered():
            await self._client.unsubscribe(list(topics))

    async def publish(self, message: OutgoingMessage) -> None:
        """Send a message; with QoS 1, wait until the broker has it."""
        properties = Properties(PacketTypes.PUBLISH)
        if message.payload:  # one that clears a topic has nothing to describe
            properties.PayloadFormatIndicator = 1
        if message.payload[:1] == b"{":
            properties.ContentType = "application/json"
        if message.correlation_data is not None:
            properties.CorrelationData = message.correlation_data
        if message.expiry_seconds is not None:
            properties.MessageExpiryInterval = message.expiry_seconds
        async with _answered():
            await self._client.publish(
                message.topic, message.payload, message.qos, message.retain, properties
            )

    async def lost(self) -> None:
        """Wait for the end of the connection."""
        try:
            async for _ in self._client.messages:  # stays empty: `_accept` gets them all
                pass
        except aiomqtt.MqttError as error:
            raise _error_of(error, "connection lost") from error

    def _count_refusal(self, reason: str) -> None:
        self.refusals[reason] += 1
        if self.refusals[reason] == 1:
            log.error("the broker does not accept all that we publish: %s", reason)

    def _accept(self, _client: object, _data: object, message: MQTTMessage) -> None:
        """Pass a message on at once, so that it is acknowledged once it is in the journal."""
        waits = message.qos > 0

        def acknowledge() -> None:
            nonlocal waits
            if self._paho.is_open and waits:
                waits = False
                self._paho.client.ack(message.mid, message.qos)

        with Fence("mqtt", "message") as fenced:
            self._on_message(_incoming(message), acknowledge)
        if fenced.error is not None:  # else it would come again at every connection
            acknowledge()


async def try_login(config: MqttConfig, seconds: float = 5.0) -> None:
    """Connect to the broker as configured and leave, beside a node that may be connected.

    Raises:
        LoginRefused: if password, user or certificates are wrong.
        ConnectionLost: if there is no broker.
    """
    address, credentials = address_of(config), read_credentials(config)
    topics = Topics.of(config)
    try:
        async with (
            asyncio.timeout(seconds),
            Session(config, topics, credentials, lambda _, __: None, trial=True),
        ):
            pass
    except TimeoutError as error:
        raise ConnectionLost(f"no answer from {address} within {seconds:g} s") from error
    except LoginRefused as error:
        text = f"{address}: {error}; see mqtt.username and mqtt.password_file"
        raise LoginRefused(text) from error
    except ConnectionLost as error:
        raise _explained(error, config) from error


def _explained(error: Exception, config: MqttConfig) -> Exception:
    """Say what is wrong with a connection, by the error of the system below it."""
    address, cause = address_of(config), error.__cause__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = cause.verify_message
        return LoginRefused(f"{address}: its certificate is not trusted: {reason}; see mqtt.tls_ca")
    if isinstance(cause, socket.gaierror):
        return ConnectionLost(f"{config.host}: no such host is known ({cause.strerror}): mqtt.host")
    if isinstance(cause, ConnectionRefusedError):
        return ConnectionLost(f"{address}: nothing listens there: is the broker running?")
    return ConnectionLost(f"{address}: {error}")


def _incoming(message: MQTTMessage) -> IncomingMessage:
    properties = message.properties
    return IncomingMessage(
        topic=message.topic,
        payload=bytes(message.payload),
        qos=message.qos,
        retained=message.retain,
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation_data=getattr(properties, "CorrelationData", None),
        expiry_seconds=getattr(properties, "MessageExpiryInterval", None),
        received=time.time(),
    )


@asynccontextmanager
async def _answered(trouble: str = "connection lost") -> AsyncGenerator[None]:
    """Bound a call of the library in time, and translate its errors.

    aiomqtt would wait by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that
    comes in the same moment as the answer.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            yield
    except TimeoutError as error:
        raise ConnectionLost(f"{trouble}: no answer within {_TIMEOUT_SECONDS:g} s") from error
    except (aiomqtt.MqttError, ValueError) as error:  # paho: ValueError once it is closed
        raise _error_of(error, trouble) from error


def _tls_hint(config: MqttConfig, reason: str) -> str:
    """Ask for the port where one side seems to use TLS and the other not; empty otherwise."""
    if not _uses_tls(config) and _UNANSWERED in reason:
        return f"; does port {_port_of(config)} want TLS (tls = true)?"
    if _uses_tls(config) and _NO_TLS.search(reason):
        return f"; is port {_port_of(config)} one without TLS (usual with TLS: {_TLS_PORT})?"
    return ""


def _error_of(error: Exception, trouble: str) -> Exception:
    cause = error.__cause__ or error
    reason = cause.rc if isinstance(cause, aiomqtt.MqttCodeError) else None
    if not isinstance(reason, ReasonCode):
        return ConnectionLost(f"{trouble}: {cause}")
    if reason.value == _TAKEN_OVER:
        return TakenOver("another client has connected under the same prefix and node_id")
    if isinstance(cause, aiomqtt.exceptions.MqttConnectError) and reason.value in _LOGIN_CODES:
        return LoginRefused(f"the broker refuses us: {reason}")
    return ConnectionLost(f"{trouble}: {reason}")
