"""The node on the broker: starts and connects all parts of this folder.

`connection` keeps a session with the `broker` and sends what is in its outbox; `handler` passes
`requests` through the journal to the jobs and answers them; `states` publishes what jobs and
streams are doing. Here are also the node's own topics, and its device for Home Assistant.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from importlib.metadata import version
from typing import Any, cast

from pydantic_core import from_json

from ...io.redaction import excerpt, one_line, redacted_values
from ..backoff import Backoff
from ..config import Config
from ..fence import Fence
from ..jobs.api import name_of
from ..jobs.model import Job, State
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..live.status import LiveBoard
from ..tasks import within
from .broker import Session, SubscriptionRefused, address_of
from .connection import BrokerConnection, Outbox, connection_backoff
from .handler import Answers, Journal, RequestHandler
from .requests import MAX_PAYLOAD_BYTES, REPLY_SCHEMA, REQUEST_SCHEMA, json_bytes, request_schemas
from .states import JobStates, LiveStates
from .topics import Command, IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.bridge")

METRICS_SECONDS = 60.0
_ACTIVITY_SECONDS, _TROUBLE_SECONDS = 1.0, 60.0
_BIRTH_SECONDS = 2.0
"""At most, by chance, after Home Assistant's start: not all devices shall publish at once."""
_STOP_SECONDS = 8.0

Facts = Callable[[], dict[str, Any]]


@dataclass(eq=False)
class MqttBridge:
    """The node on the broker; raises ValueError if the configuration has no `mqtt` section."""

    config: Config
    """With an `mqtt` section."""
    queue: JobQueue
    """Where requests become jobs, and whose changes are published."""
    store: JobStore
    """Below the queue; keeps requests until they are answered."""
    info: Facts
    """Returns what the node is: version, device, models. Must not block."""
    metrics: Facts
    """Returns counters by name. Must not block."""
    _: KW_ONLY
    live: LiveBoard = field(default_factory=LiveBoard)
    """The states of live streams."""
    troubles: Callable[[], list[str]] = list[str]
    """Returns what an operator should look at, beside failed jobs. Must not block."""
    backoff: Backoff = field(default_factory=connection_backoff)
    """Of the attempts to connect."""
    metrics_seconds: float = METRICS_SECONDS
    """From one publication of the metrics to the next."""

    def __post_init__(self) -> None:
        if self.config.mqtt is None:
            raise ValueError("the configuration has no [mqtt] section")
        self._mqtt = mqtt = self.config.mqtt
        self.topics = topics = Topics.of(mqtt)
        self._outbox = outbox = Outbox()
        self._connection = BrokerConnection(
            mqtt, topics, outbox, self._accept, self._welcome, self.backoff
        )
        self._journal = Journal(self.store)
        answers = Answers(topics, outbox, self._journal)
        self._handler = RequestHandler(topics, self.queue, self.config, self._journal, answers)
        self._active = asyncio.Event()
        self._jobs = JobStates(
            topics,
            self.queue,
            self.store,
            outbox,
            answers,
            keep_seconds=max(mqtt.state_keep_seconds, 1.0),  # so that its end is seen
            on_change=self._active.set,
            is_up=lambda: self._connection.is_up,
        )
        self._streams = LiveStates(topics, outbox, self.live, on_change=self._note_streams)
        self._shown, self._gone = set[str](), set[str]()
        """Streams that the device has, and those that Home Assistant may still know of it."""
        self._looked, self._born = asyncio.Event(), asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.Event | None = None
        outbox.retain(topics.info, self._render_info)

    async def run(self) -> None:
        """Do everything until :meth:`stopped` is called."""
        self._running = ended = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                named = self._parts().items()
                parts = [group.create_task(part, name=f"mqtt {name}") for name, part in named]
                await self._connection.run(self._stopping)
                for part in parts:
                    part.cancel()
        finally:
            await self._journal.flush()
            if self._stopping.is_set():
                self._journal.close()
            ended.set()

    def _parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        parts: dict[str, Coroutine[Any, Any, None]] = {
            "requests": self._handler.run(),
            "journal": self._journal.run(),
            "states": self._jobs.run(),
            "clearing": self._jobs.clear_old(),
            "streams": self._streams.run(),
            "stream states": self._streams.repeat(),
            "metrics": self._publish_metrics(),
        }
        if self._mqtt.discovery:
            parts |= {"activity": self._publish_activity(), "discovery": self._announce_device()}
        return parts

    async def draining(self) -> None:
        """Publish that no new work begins; requests are still accepted, for the next start."""
        self._connection.set_status("draining")

    async def stopped(self) -> None:
        """Send what there is, publish that the node has stopped, and end :meth:`run`."""
        self._stopping.set()
        if self._running is None:
            self._journal.close()
            return
        await within(_STOP_SECONDS, self._running.wait())

    def health(self) -> dict[str, Any]:
        """Return how the connection is, and what was counted since the start."""
        return {
            **self._connection.health(),
            "broker": address_of(self._mqtt),
            "node": self.topics.base,
            "requests": dict(self._handler.counts),
            "published": self._outbox.num_sent,
            "dropped": self._outbox.num_dropped,
            "waiting": len(self._outbox),
            "store_failures": self._journal.failures,
            "store_trouble": self._journal.trouble,
        }

    def _accept(self, message: IncomingMessage, acknowledge: Callable[[], None]) -> None:
        """Pass a message on: a request, an old state of ours, or Home Assistant's start."""
        command = self.topics.command_of(message.topic)
        if command is not None:
            self._handler.put(command, message, acknowledge)
            return
        acknowledge()
        is_old = message.retained and bool(message.payload)
        job_id = self.topics.named_in_state("job", message.topic)
        stream = self.topics.named_in_state("live", message.topic)
        if job_id is not None and is_old:
            self._jobs.announce(job_id)
        elif stream is not None and is_old:
            self._streams.announce(stream)
        elif message.topic == device_topic(self.topics) and is_old:
            self._gone |= announced_streams(message.payload)
        elif message.topic == self.topics.birth and message.payload == b"online":
            self._born.set()

    async def _welcome(self, session: Session) -> None:
        """Look, on a new connection, at what the broker has retained of ours."""
        retained = [self.topics.states, self.topics.live_states]
        if self._mqtt.discovery:
            await _subscribed(session, self.topics.birth)
            retained.append(device_topic(self.topics))
        for topic in retained:  # at QoS 0, so that all has arrived once the subscription is granted
            if await _subscribed(session, topic, retained=True):
                await session.unsubscribe([topic])
        self._looked.set()

    async def _render_info(self) -> OutgoingMessage:
        jobs = self.config.jobs
        document = {
            "schemas": {"request": [REQUEST_SCHEMA], "reply": REPLY_SCHEMA},
            "limits": {
                "payload_bytes": MAX_PAYLOAD_BYTES,
                "roots": [str(root) for root in jobs.roots],
                "allowed_schemes": list(jobs.allowed_schemes),
            },
            "requests": await asyncio.to_thread(request_schemas),
        }
        payload = json_bytes(redacted_values(document | self.info()))
        return OutgoingMessage(self.topics.info, payload, retain=True)

    def _note_streams(self) -> None:
        self._active.set()
        if set(self.live.statuses) != self._shown:
            self._born.set()

    async def _render_device(self) -> OutgoingMessage:
        self._gone |= self._shown
        self._shown = set(self.live.statuses)
        gone = sorted(self._gone - self._shown)
        payload = json_bytes(device_document(self.topics, self.live.statuses, gone))
        return OutgoingMessage(device_topic(self.topics), payload, retain=True)

    async def _render_activity(self) -> OutgoingMessage:
        counts, running = await self.queue.counts(), await self.queue.jobs(("running",))
        failed = await self.queue.jobs(("failed",), 1)
        document = activity_document(counts, running, failed, self.troubles())
        payload = json_bytes(redacted_values(document))
        return OutgoingMessage(self.topics.activity, payload, retain=True)

    async def _publish_metrics(self) -> None:
        while True:
            if self._connection.is_up:
                with Fence("mqtt", "metrics"):
                    payload = json_bytes(redacted_values(self.metrics()))
                    self._outbox.latest(OutgoingMessage(self.topics.metrics, payload, qos=0))
            await asyncio.sleep(self.metrics_seconds)

    async def _publish_activity(self) -> None:
        while True:
            self._active.clear()
            self._outbox.retain(self.topics.activity, self._render_activity)
            await asyncio.sleep(_ACTIVITY_SECONDS)
            # at last for other troubles than those of jobs and streams
            await within(_TROUBLE_SECONDS, self._active.wait())

    async def _announce_device(self) -> None:
        await self._looked.wait()  # else it would replace the message that names what is gone
        while True:
            self._outbox.retain(device_topic(self.topics), self._render_device)
            await self._born.wait()
            self._born.clear()
            await asyncio.sleep(random.random() * _BIRTH_SECONDS)


async def _subscribed(session: Session, topic: str, *, retained: bool = False) -> bool:
    """Subscribe to what requests do not need; return whether the broker allows it."""
    try:
        await session.subscribe([topic], retained=retained)
    except SubscriptionRefused as error:
        log.info("%s: states of what ended long ago may stay there", error)
        return False
    return True


# Home Assistant's discovery: one device with what the node is doing, found without configuration.
#
# The device message is described in Home Assistant's documentation of MQTT discovery, and read by
# its version 2024.12 and later: `dev` and `o` are mandatory, and each component has its platform
# `p` and a `unique_id`; one with its platform alone is removed.

_SENSORS = {
    "state": ("State", "filmstrip", "value_json.state", None),
    "queue": ("Queue", "tray-full", "value_json.queued", "jobs"),
    "progress": ("Progress", "progress-clock", "value_json.progress_percent", "%"),
    "fps": ("Speed", "speedometer", "value_json.fps", "fps"),
    "failed": ("Failed", "alert-circle-outline", "value_json.failed", "jobs"),
    "last_error": ("Last error", "message-alert", "value_json.last_error or 'none'", None),
}
"""Title, icon, value by the activity, unit."""
_BUTTONS: dict[str, tuple[str, str, Command, str]] = {
    "retry": ("Retry failed jobs", "replay", "retry", "failed"),
    "cancel": ("Cancel running jobs", "cancel", "cancel", "running"),
}
"""Title, icon, command, state of the jobs that it is about."""
_STREAM = "live_"
_LAST_ERROR_CHARACTERS = 250
"""Home Assistant's states have 255 at most."""


def device_topic(topics: Topics) -> str:
    """Return where the device is announced."""
    return f"{topics.discovery_prefix}/device/{_identifier_of(topics)}/config"


def device_document(
    topics: Topics, streams: Iterable[str] = (), gone: Iterable[str] = ()
) -> dict[str, Any]:
    """Describe the device with its sensors and buttons.

    Args:
        topics: of the node.
        streams: names of the live streams.
        gone: names of those that exist no longer.
    """
    identifier, here = _identifier_of(topics), version("upframe")
    components = {
        name: {"p": "sensor", "unique_id": f"{identifier}_{name}", **component}
        for name, component in _components(topics, streams).items()
    }
    return {
        "dev": {
            "identifiers": [identifier],
            "name": f"upframe {topics.node_id}",
            "manufacturer": "upframe",
            "model": "video interpolation and enlargement",
            "sw_version": here,
        },
        "o": {"name": "upframe", "sw_version": here},
        "cmps": components | {f"{_STREAM}{name}": {"p": "sensor"} for name in gone},
        "qos": 1,
    }


def announced_streams(payload: bytes) -> set[str]:
    """Return the streams that a device message has, or removes; none of another text."""
    with suppress(ValueError, LookupError, TypeError):
        names = cast("dict[str, object]", from_json(payload)["cmps"])
        return {name.removeprefix(_STREAM) for name in names if name.startswith(_STREAM)}
    return set()


def activity_document(
    counts: dict[State, int],
    running: Sequence[Job],
    failed: Sequence[Job] = (),
    troubles: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe what the node is doing, and what is amiss.

    Args:
        counts: jobs in each state.
        running: jobs, of whose progress it is the sum.
        failed: the latest one, if any has.
        troubles: what an operator should look at, beside failed jobs.
    """
    known = [job.progress for job in running if job.progress.total]
    frames = sum(progress.frames for progress in known)
    total = sum(progress.total or 0 for progress in known)
    return {
        "state": "working" if running else "idle",
        "queued": counts["queued"],
        "running": len(running),
        "progress_percent": round(min(100.0, 100 * frames / total), 1) if total else 0.0,
        "fps": round(sum(job.progress.fps for job in running), 2),
        "failed": counts["failed"],
        "last_error": _last_error(failed[0]) if failed else None,
        "problem": bool(counts["failed"] or troubles),
        "troubles": list(troubles),
    }


def _last_error(job: Job) -> str:
    message = job.error.message if job.error else "failed"
    return excerpt(f"{name_of(job)}: {one_line(message)}", _LAST_ERROR_CHARACTERS)


def _identifier_of(topics: Topics) -> str:
    """Name the device: a topic may have only letters, digits, ``_`` and ``-`` there."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{topics.prefix}_{topics.node_id}")


def _components(topics: Topics, streams: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Describe everything by name; its platform is `sensor` unless it says otherwise."""
    found: dict[str, dict[str, Any]] = {}
    for name, (title, icon, value, unit) in _SENSORS.items():
        found[name] = _sensor(title, icon, topics.activity, value)
        if unit is not None:
            found[name] |= {"unit_of_measurement": unit, "state_class": "measurement"}
    problem = _sensor("Problem", "alert", topics.activity, "'ON' if value_json.problem else 'OFF'")
    problem |= _attributes(topics.activity, "failed", "last_error", "troubles")
    found["problem"] = {**problem, "p": "binary_sensor", "device_class": "problem"}
    for name, (title, icon, command, state) in _BUTTONS.items():
        found[name] = {
            "p": "button",
            "name": title,
            "icon": f"mdi:{icon}",
            "command_topic": topics.command(command),
            "payload_press": json_bytes({"state": state}).decode(),
        }
    for stream in streams:
        topic = topics.live_state(stream)
        found[f"{_STREAM}{stream}"] = {
            **_sensor(f"Stream {stream}", "cctv", topic, "value_json.state"),
            **_attributes(topic, "level", "as_asked", "warning", "reason", "message"),
        }
    for component in found.values():  # a node that drains is still there
        available = "{{ 'online' if value in ('online', 'draining') else 'offline' }}"
        component |= {"availability_topic": topics.status, "availability_template": available}
    status = {"name": "Status", "state_topic": topics.status, "icon": "mdi:server"}
    return {"status": status, **found}


def _sensor(title: str, icon: str, topic: str, value: str) -> dict[str, Any]:
    template = f"{{{{ {value} }}}}"
    look = {"name": title, "icon": f"mdi:{icon}"}
    return {**look, "state_topic": topic, "value_template": template}


def _attributes(topic: str, *keys: str) -> dict[str, str]:
    """Show some values of a topic beside the state."""
    chosen = ", ".join(f"'{key}': value_json.{key}" for key in keys)
    template = f"{{{{ {{{chosen}}} | tojson }}}}"
    return {"json_attributes_topic": topic, "json_attributes_template": template}
