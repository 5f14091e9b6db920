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
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from ...io.redaction import redacted_values
from ..backoff import Backoff
from ..config import Config
from ..fence import Fence
from ..jobs.model import Job, State
from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..live.status import LiveBoard
from .broker import Session, SubscriptionRefused, address_of
from .connection import BrokerConnection, Outbox, connection_backoff
from .handler import Answers, Journal, RequestHandler
from .requests import MAX_PAYLOAD_BYTES, REPLY_SCHEMA, REQUEST_SCHEMA, json_bytes, request_schemas
from .states import JobStates, LiveStates
from .topics import IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.bridge")

METRICS_SECONDS = 60.0
_ACTIVITY_SECONDS = 1.0
_BIRTH_SECONDS = 2.0
"""At most, by chance, after Home Assistant's start: not all devices shall publish at once."""
_STOP_SECONDS = 8.0

Facts = Callable[[], dict[str, Any]]


class MqttBridge:
    """The node on the broker.

    Args:
        config: with an `mqtt` section.
        queue: where requests become jobs, and whose changes are published.
        store: below the queue; keeps requests until they are answered.
        info: returns what the node is: version, device, models. Must not block.
        metrics: returns counters by name. Must not block.
        live: the states of live streams; None: there are none.
        backoff: of the attempts to connect.
        metrics_seconds: from one publication of the metrics to the next.

    Raises:
        ValueError: if the configuration has no `mqtt` section.
    """

    def __init__(
        self,
        config: Config,
        queue: JobQueue,
        store: JobStore,
        info: Facts,
        metrics: Facts,
        *,
        live: LiveBoard | None = None,
        backoff: Backoff | None = None,
        metrics_seconds: float = METRICS_SECONDS,
    ) -> None:
        if config.mqtt is None:
            raise ValueError("the configuration has no [mqtt] section")
        self._config = config
        self._mqtt = config.mqtt
        self.topics = topics = Topics.of(config.mqtt)
        self._queue = queue
        self._info, self._metrics, self._metrics_seconds = info, metrics, metrics_seconds
        self._outbox = outbox = Outbox()
        backoff = backoff or connection_backoff()
        self._connection = BrokerConnection(
            config.mqtt, topics, outbox, self._accept, self._welcome, backoff
        )
        self._journal = Journal(store)
        answers = Answers(topics, outbox, self._journal)
        self._handler = RequestHandler(topics, queue, config, self._journal, answers)
        self._active = asyncio.Event()
        self._jobs = JobStates(
            topics,
            queue,
            store,
            outbox,
            answers,
            keep_seconds=max(config.mqtt.state_keep_seconds, 1.0),  # so that its end is seen
            on_change=self._active.set,
            is_up=lambda: self._connection.is_up,
        )
        self._streams = LiveStates(topics, outbox, live or LiveBoard())
        self._born = asyncio.Event()
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
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._running.wait()

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
        elif message.topic == self.topics.birth and message.payload == b"online":
            self._born.set()

    async def _welcome(self, session: Session) -> None:
        """Look, on a new connection, at what the broker has retained of ours."""
        # at QoS 0, so that all has arrived once the subscription is granted
        for topics in (self.topics.states, self.topics.live_states):
            if await _subscribed(session, topics, retained=True):
                await session.unsubscribe([topics])
        if self._mqtt.discovery:
            await _subscribed(session, self.topics.birth)

    async def _render_info(self) -> OutgoingMessage:
        jobs = self._config.jobs
        document = {
            "schemas": {"request": [REQUEST_SCHEMA], "reply": REPLY_SCHEMA},
            "limits": {
                "payload_bytes": MAX_PAYLOAD_BYTES,
                "roots": [str(root) for root in jobs.roots],
                "allowed_schemes": list(jobs.allowed_schemes),
            },
            "requests": await asyncio.to_thread(request_schemas),
        }
        payload = json_bytes(redacted_values(document | self._info()))
        return OutgoingMessage(self.topics.info, payload, retain=True)

    async def _render_device(self) -> OutgoingMessage:
        payload = json_bytes(device_document(self.topics))
        return OutgoingMessage(device_topic(self.topics), payload, retain=True)

    async def _render_activity(self) -> OutgoingMessage:
        counts, running = await self._queue.counts(), await self._queue.jobs(("running",))
        payload = json_bytes(activity_document(counts, running))
        return OutgoingMessage(self.topics.activity, payload, retain=True)

    async def _publish_metrics(self) -> None:
        while True:
            if self._connection.is_up:
                with Fence("mqtt", "metrics"):
                    payload = json_bytes(redacted_values(self._metrics()))
                    self._outbox.latest(OutgoingMessage(self.topics.metrics, payload, qos=0))
            await asyncio.sleep(self._metrics_seconds)

    async def _publish_activity(self) -> None:
        while True:
            self._active.clear()
            self._outbox.retain(self.topics.activity, self._render_activity)
            await asyncio.sleep(_ACTIVITY_SECONDS)
            await self._active.wait()

    async def _announce_device(self) -> None:
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
# The device message is described in Home Assistant's documentation of MQTT discovery: `dev` and
# `o` are mandatory, and each component has its platform `p` and a `unique_id`.

_SENSORS = {
    "state": ("State", "filmstrip", "state", None),
    "queue": ("Queue", "tray-full", "queued", "jobs"),
    "progress": ("Progress", "progress-clock", "progress_percent", "%"),
    "fps": ("Speed", "speedometer", "fps", "fps"),
}
"""Title, icon, key of the activity, unit."""


def device_topic(topics: Topics) -> str:
    """Return where the device is announced."""
    return f"{topics.discovery_prefix}/device/{_identifier_of(topics)}/config"


def device_document(topics: Topics) -> dict[str, Any]:
    """Describe the device with its sensors."""
    identifier = _identifier_of(topics)
    here = version("upframe")
    return {
        "dev": {
            "identifiers": [identifier],
            "name": f"upframe {topics.node_id}",
            "manufacturer": "upframe",
            "model": "video interpolation and enlargement",
            "sw_version": here,
        },
        "o": {"name": "upframe", "sw_version": here},
        "cmps": {
            name: {"p": "sensor", "unique_id": f"{identifier}_{name}", **sensor}
            for name, sensor in _sensors(topics).items()
        },
        "qos": 1,
    }


def activity_document(counts: dict[State, int], running: Sequence[Job]) -> dict[str, Any]:
    """Describe what the node is doing: the progress of all running jobs together, and the speed."""
    known = [job.progress for job in running if job.progress.total]
    frames = sum(progress.frames for progress in known)
    total = sum(progress.total or 0 for progress in known)
    return {
        "state": "working" if running else "idle",
        "queued": counts["queued"],
        "running": len(running),
        "progress_percent": round(min(100.0, 100 * frames / total), 1) if total else 0.0,
        "fps": round(sum(job.progress.fps for job in running), 2),
    }


def _identifier_of(topics: Topics) -> str:
    """Name the device: a topic may have only letters, digits, ``_`` and ``-`` there."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{topics.prefix}_{topics.node_id}")


def _sensors(topics: Topics) -> dict[str, dict[str, Any]]:
    sensors: dict[str, dict[str, Any]] = {
        "status": {"name": "Status", "state_topic": topics.status, "icon": "mdi:server"}
    }
    # a node that drains is still there
    available = "{{ 'online' if value in ('online', 'draining') else 'offline' }}"
    for name, (title, icon, key, unit) in _SENSORS.items():
        sensors[name] = {
            "name": title,
            "icon": f"mdi:{icon}",
            "state_topic": topics.activity,
            "value_template": f"{{{{ value_json.{key} }}}}",
            "availability_topic": topics.status,
            "availability_template": available,
        }
        if unit is not None:
            sensors[name] |= {"unit_of_measurement": unit, "state_class": "measurement"}
    return sensors
