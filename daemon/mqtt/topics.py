"""The topics of one node, the messages on them, and where a request may have answers sent."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Literal, get_args

from ...io.redaction import excerpt
from ..config import MqttConfig

Command = Literal["submit", "cancel", "query", "retry"]
COMMANDS: tuple[Command, ...] = get_args(Command)
LATER_COMMANDS: tuple[Command, ...] = ("retry",)
"""Newer than access rules that brokers may have: a node works without them."""

_RESPONSE_MAX_BYTES = 512
_RESPONSE_MAX_LEVELS = 100  # Mosquitto closes the connection over more than 200
_CORRELATION_MAX_BYTES = 1024
_NODE_TOPICS = ("status", "info", "error", "metrics", "event", "activity", "job", "live")


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message from the broker, or from the journal."""

    topic: str
    payload: bytes
    qos: int = 1
    retained: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_seconds: int | None = None
    """What was left of its life when it was received; None: it never expires."""
    received: float = 0.0
    """Seconds since 1970."""

    def expired(self, now: float) -> bool:
        """Return whether its life has ended by `now`."""
        return self.expiry_seconds is not None and now > self.received + self.expiry_seconds


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to the broker."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    correlation_data: bytes | None = None
    expiry_seconds: int | None = None
    """After which the broker drops it by itself."""


class BadResponseTopic(Exception):
    """Answers cannot go where a request wants them."""


@dataclass(eq=False)
class Topics:
    """The topics of one node below ``<prefix>/<node_id>/``."""

    prefix: str
    node_id: str
    """One level, as the prefix."""
    discovery_prefix: str = "homeassistant"
    """Where Home Assistant listens."""
    response_prefixes: tuple[str, ...] = ()
    """Below which answers may be sent; none: anywhere that is not in use."""

    def __post_init__(self) -> None:
        self.base = f"{self.prefix}/{self.node_id}"
        self.status = f"{self.base}/status"
        """Retained, plain text: online, draining, stopped; offline by the Will."""
        self.info = f"{self.base}/info"
        """Retained: what the node is and accepts."""
        self.error = f"{self.base}/error"
        """Requests that fit no job."""
        self.event = f"{self.base}/event"
        """Every change of a job's state, once."""
        self.metrics = f"{self.base}/metrics"
        """Counters, every minute."""
        self.activity = f"{self.base}/activity"
        """Retained: what the node is doing, for Home Assistant."""
        self.states = self.state("+")
        """All :meth:`state` topics, as a filter."""
        self.live_states = self.live_state("+")
        """All :meth:`live_state` topics, as a filter."""
        self.birth = f"{self.discovery_prefix}/status"
        """Where Home Assistant announces that it has started."""

    @classmethod
    def of(cls, config: MqttConfig) -> Topics:
        """Name the topics of a configuration; without a node_id, by the name of the host."""
        host = socket.gethostname().translate(str.maketrans("/+#$", "----")) or "localhost"
        node_id = config.node_id or host
        return cls(config.prefix, node_id, config.discovery_prefix, config.response_prefixes)

    def command(self, command: Command) -> str:
        """Return where requests of one kind arrive."""
        return f"{self.base}/job/{command}"

    def state(self, job_id: str) -> str:
        """Return where a whole job is retained."""
        return f"{self.base}/job/{job_id}/state"

    def live_state(self, name: str) -> str:
        """Return where the state of a live stream is retained."""
        return f"{self.base}/live/{name}/state"

    def progress(self, job_id: str) -> str:
        """Return where the progress of a running job is published."""
        return f"{self.base}/job/{job_id}/progress"

    def reply(self, job_id: str) -> str:
        """Return where answers to requests go that named no response topic."""
        return f"{self.base}/job/{job_id}/reply"

    def command_of(self, topic: str) -> Command | None:
        """Return which command a topic is; None for others."""
        return next((known for known in COMMANDS if self.command(known) == topic), None)

    def named_in_state(self, kind: Literal["job", "live"], topic: str) -> str | None:
        """Return which job's or live stream's state a topic is; None for other topics."""
        match = re.fullmatch(rf"{re.escape(self.base)}/{kind}/([^/]+)/state", topic)
        return match and match[1]

    def check_response(self, topic: str, correlation_data: bytes | None) -> None:
        """Let no request make us publish among our own topics, other nodes' or Home Assistant's.

        Raises:
            BadResponseTopic: for those, for wildcards, ``$…``, and too long ones.
        """
        size, levels = len(topic.encode(errors="replace")), topic.count("/") + 1
        unfit = re.search(r"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff]", topic)
        if not 0 < size <= _RESPONSE_MAX_BYTES or levels > _RESPONSE_MAX_LEVELS or unfit:
            raise BadResponseTopic(
                f"response topic: must be 1 to {_RESPONSE_MAX_BYTES} bytes and at most "
                f"{_RESPONSE_MAX_LEVELS} levels, without wildcards and control characters, got "
                f"{size} bytes, {levels} levels: {excerpt(topic, 80)!r}"
            )
        below = tuple(f"{prefix.rstrip('/')}/" for prefix in self.response_prefixes)
        is_allowed = not below or f"{topic}/".startswith(below)
        if topic.startswith("$") or self._is_taken(topic) or not is_allowed:
            raise BadResponseTopic(f"response topic: {topic} is not for answers, choose your own")
        if len(correlation_data or b"") > _CORRELATION_MAX_BYTES:
            raise BadResponseTopic(
                f"correlation data: at most {_CORRELATION_MAX_BYTES} bytes, "
                f"got {len(correlation_data or b'')}"
            )

    def _is_taken(self, topic: str) -> bool:
        levels = topic.split("/")
        ours = levels[:2] == [self.prefix, self.node_id]
        a_node = levels[0] == self.prefix and len(levels) > 2 and levels[2] in _NODE_TOPICS
        return ours or a_node or levels[0] == self.discovery_prefix
