"""Messages as this room knows them, whatever library carries them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker, or from the journal."""

    topic: str
    payload: bytes
    qos: int = 1
    retained: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_seconds: int | None = None
    """What was left of its life when it was received; None: it lives for ever."""
    received: float = 0.0
    """Seconds since 1970."""

    def expired(self, now: float) -> bool:
        """Tell whether its sender has given it up by `now`."""
        return self.expiry_seconds is not None and now > self.received + self.expiry_seconds


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to the broker."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    correlation_data: bytes | None = None
    expiry_seconds: int | None = None
    """After which the broker drops it by itself."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the answers to a request go."""

    topic: str
    correlation_data: bytes | None = None


# What can go wrong between us and the broker, and who acts on it.
#
# ConnectionLost              no connection, or none any more: try again after a while
#   TakenOver                 another client has our name: try again late, or the two fight for ever
# LoginRefused                wrong credentials or no authority: say it once, try again late
# SubscriptionRefused         no authority to read requests: as LoginRefused


class ConnectionLost(Exception):
    """There is no connection, or none any more: try again later."""


class TakenOver(ConnectionLost):
    """Another client has connected under our name."""


class LoginRefused(Exception):
    """The broker knows us and does not want us: trying soon again is of no use."""


class SubscriptionRefused(Exception):
    """The broker does not let us read where requests arrive."""
