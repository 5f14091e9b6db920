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
