"""The topics of one node, and which topics a request may have answers sent to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ...io.redaction import excerpt

Command = Literal["submit", "cancel", "query"]
COMMANDS: tuple[Command, ...] = get_args(Command)

_RESPONSE_MAX_BYTES = 512
_RESPONSE_MAX_LEVELS = 100  # Mosquitto hangs up over more than 200
_CORRELATION_MAX_BYTES = 1024
_NODE_TOPICS = ("status", "info", "error", "metrics", "event", "activity", "job", "live")


class BadResponseTopic(Exception):
    """Answers cannot go where a request wants them."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one node below ``<prefix>/<node_id>/``."""

    prefix: str
    node_id: str
    discovery_prefix: str = "homeassistant"
    response_prefixes: tuple[str, ...] = ()
    """Below which answers may be sent; none: anywhere that is not taken."""

    @property
    def base(self) -> str:
        """What they all begin with, without the slash."""
        return f"{self.prefix}/{self.node_id}"

    @property
    def status(self) -> str:
        """Retained, plain text: online, draining, stopped; offline by the Will."""
        return f"{self.base}/status"

    @property
    def info(self) -> str:
        """Retained: what we are and take."""
        return f"{self.base}/info"

    @property
    def error(self) -> str:
        """Requests that fit no job."""
        return f"{self.base}/error"

    @property
    def event(self) -> str:
        """Every change of a job's state, once."""
        return f"{self.base}/event"

    @property
    def metrics(self) -> str:
        """Counters, every minute."""
        return f"{self.base}/metrics"

    @property
    def activity(self) -> str:
        """Retained: what the node does just now, for Home Assistant."""
        return f"{self.base}/activity"

    @property
    def states(self) -> str:
        """All :meth:`state` topics, as a filter."""
        return f"{self.base}/job/+/state"

    @property
    def live_states(self) -> str:
        """All :meth:`live_state` topics, as a filter."""
        return f"{self.base}/live/+/state"

    @property
    def birth(self) -> str:
        """Where Home Assistant says that it has begun."""
        return f"{self.discovery_prefix}/status"

    def command(self, command: Command) -> str:
        """Where requests of one kind arrive."""
        return f"{self.base}/job/{command}"

    def state(self, job_id: str) -> str:
        """Retained: a whole job."""
        return f"{self.base}/job/{job_id}/state"

    def live_state(self, name: str) -> str:
        """Retained: where a live stream stands."""
        return f"{self.base}/live/{name}/state"

    def progress(self, job_id: str) -> str:
        """Where a running job stands."""
        return f"{self.base}/job/{job_id}/progress"

    def reply(self, job_id: str) -> str:
        """Answers to requests that named no response topic."""
        return f"{self.base}/job/{job_id}/reply"

    def command_of(self, topic: str) -> Command | None:
        """Tell which command a topic is; None: none."""
        return next((known for known in COMMANDS if self.command(known) == topic), None)

    def job_of_state(self, topic: str) -> str | None:
        """Tell whose state a topic is; None: nobody's."""
        return self._named_in("job", topic)

    def live_of_state(self, topic: str) -> str | None:
        """Tell which live stream's state a topic is; None: none's."""
        return self._named_in("live", topic)

    def _named_in(self, kind: str, topic: str) -> str | None:
        start, end = f"{self.base}/{kind}/", "/state"
        if not (topic.startswith(start) and topic.endswith(end)):
            return None
        name = topic[len(start) : -len(end)]
        return name if name and "/" not in name else None

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
        if topic.startswith("$") or self._is_taken(topic) or not self._is_allowed(topic):
            raise BadResponseTopic(f"response topic: {topic} is not for answers, choose your own")
        if len(correlation_data or b"") > _CORRELATION_MAX_BYTES:
            raise BadResponseTopic(
                f"correlation data: at most {_CORRELATION_MAX_BYTES} bytes, "
                f"got {len(correlation_data or b'')}"
            )

    def _is_allowed(self, topic: str) -> bool:
        below = (f"{prefix.rstrip('/')}/" for prefix in self.response_prefixes)
        return not self.response_prefixes or f"{topic}/".startswith(tuple(below))

    def _is_taken(self, topic: str) -> bool:
        levels = topic.split("/")
        ours = levels[:2] == [self.prefix, self.node_id]
        a_node = levels[0] == self.prefix and len(levels) > 2 and levels[2] in _NODE_TOPICS
        return ours or a_node or levels[0] == self.discovery_prefix
