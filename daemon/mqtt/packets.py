"""The properties of MQTT 5 packets, as paho writes them, from and to our messages."""

from __future__ import annotations

import time
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .message import Publication, Received

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
