"""MQTT, all of it: requests in; answers, states and metrics out; and a broker that comes and goes.

The parts: `connection` keeps a session of `client`, and sends what is in `outbox`; `intake` takes
requests through `journal` to `commands`; `states` follows the jobs, `live_states` the streams;
`answers` remembers who asked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
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
from .connection import BrokerConnection, Outbox, connection_backoff
from .handler import Answers, Commands, Journal, RequestHandler
from .requests import MAX_PAYLOAD_BYTES, REPLY_SCHEMA, REQUEST_SCHEMA, json_bytes, request_schemas
from .session import Session, SubscriptionRefused, address_of
from .states import JobStates, LiveStates
from .topics import IncomingMessage, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.bridge")


# Home Assistant's discovery: one device with what the node does, found without any configuration.
#
# The device message is described in Home Assistant's documentation of MQTT discovery: `dev` and
# `o` are mandatory, and each component has its platform `p` and a `unique_id`. Keys are spelled
# out.

BIRTH = b"online"
"""What Home Assistant says at its birth; then everything is announced again."""


def identifier_of(topics: Topics) -> str:
    """Name the device: only letters, digits, ``_`` and ``-`` may stand in the topic."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{topics.prefix}_{topics.node_id}")


def device_topic(topics: Topics) -> str:
    """Where the device is announced."""
    return f"{topics.discovery_prefix}/device/{identifier_of(topics)}/config"


def device_document(topics: Topics) -> dict[str, Any]:
    """Describe the device with its sensors."""
    identifier = identifier_of(topics)
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


def _sensors(topics: Topics) -> dict[str, dict[str, Any]]:
    working = {
        "state_topic": topics.activity,
        "availability_topic": topics.status,
        # a node that drains is still there
        "availability_template": "{{ 'online' if value in ('online', 'draining') else 'offline' }}",
    }
    counted = {**working, "state_class": "measurement"}
    return {
        "status": {"name": "Status", "state_topic": topics.status, "icon": "mdi:server"},
        "state": {
            **working,
            "name": "State",
            "value_template": "{{ value_json.state }}",
            "icon": "mdi:filmstrip",
        },
        "queue": {
            **counted,
            "name": "Queue",
            "value_template": "{{ value_json.queued }}",
            "unit_of_measurement": "jobs",
            "icon": "mdi:tray-full",
        },
        "progress": {
            **counted,
            "name": "Progress",
            "value_template": "{{ value_json.progress_percent }}",
            "unit_of_measurement": "%",
            "icon": "mdi:progress-clock",
        },
        "fps": {
            **counted,
            "name": "Speed",
            "value_template": "{{ value_json.fps }}",
            "unit_of_measurement": "fps",
            "icon": "mdi:speedometer",
        },
    }


def activity_document(counts: dict[State, int], running: Sequence[Job]) -> dict[str, Any]:
    """Say what the node does: the progress of all running jobs together, and their speed."""
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


METRICS_SECONDS = 60.0
_ACTIVITY_SECONDS = 1.0
_BIRTH_SECONDS = 2.0
"""At most so long after Home Assistant's birth, by chance: not all devices shall speak at once."""
_STOP_SECONDS = 8.0

Facts = Callable[[], dict[str, Any]]


class MqttBridge:
    """The node on the broker.

    Args:
        config: with an `mqtt` section.
        queue: where requests become jobs, and where their changes are told.
        store: below the queue; keeps requests until they are answered.
        info: tells what the node is: version, device, models. Must not block.
        metrics: tells counters by name. Must not block.
        live: where live streams stand; None: there are none.
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
        self._journal = Journal(store)
        self._answers = Answers(topics, outbox, self._journal)
        commands = Commands(queue, config, self._answers)
        self._handler = RequestHandler(topics, self._journal, commands, self._answers)
        self._active = asyncio.Event()
        self._states = JobStates(
            topics,
            queue,
            store,
            outbox,
            self._answers,
            keep_seconds=config.mqtt.state_keep_seconds,
            on_change=self._active.set,
            is_up=lambda: self._connection.is_up,
        )
        self._streams = LiveStates(topics, outbox, live or LiveBoard())
        self._connection = BrokerConnection(
            config.mqtt, topics, outbox, self._take, self._welcome, backoff or connection_backoff()
        )
        self._born = asyncio.Event()
        self._stopping = asyncio.Event()
        self._running: asyncio.Event | None = None
        outbox.retain(topics.info, self._render_info)

    async def run(self) -> None:
        """Do everything until :meth:`stopped` is called; may be called again after a failure."""
        self._running = ended = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                parts = [
                    group.create_task(part, name=f"mqtt {name}")
                    for name, part in self._parts().items()
                ]
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
            "intake": self._handler.run(),
            "journal": self._journal.run(),
            "states": self._states.run(),
            "clearing": self._states.clear_old(),
            "streams": self._streams.run(),
            "stream states": self._streams.repeat(),
            "metrics": self._tell_metrics(),
        }
        if self._mqtt.discovery:
            parts |= {"activity": self._tell_activity(), "discovery": self._announce_device()}
        return parts

    async def draining(self) -> None:
        """Say that the node takes up no new work; requests are still taken, for the next start."""
        self._connection.set_status("draining")

    async def stopped(self) -> None:
        """Send what there is, say that the node has stopped, and end :meth:`run`."""
        self._stopping.set()
        if self._running is None:
            self._journal.close()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await self._running.wait()

    def health(self) -> dict[str, Any]:
        """Tell how the connection is, and what was counted since the start."""
        health = self._connection.health
        return {
            "connected": self._connection.is_up,
            "state": health.phase,
            "reason": health.reason,
            "since": health.since,
            "broker": address_of(self._mqtt),
            "node": self.topics.base,
            "attempts": health.attempts,
            "connections": health.connections,
            "requests": dict(self._handler.counts),
            "published": self._outbox.num_sent,
            "dropped": self._outbox.num_dropped,
            "refused": dict(health.refusals),
            "waiting": len(self._outbox),
            "store_failures": self._journal.failures,
            "store_trouble": self._journal.trouble,
        }

    def _take(self, received: IncomingMessage, acknowledge: Callable[[], None]) -> None:
        """Take a message from the connection: a request, an old state of ours, or a birth."""
        command = self.topics.command_of(received.topic)
        if command is not None:
            self._handler.put(command, received, acknowledge)
            return
        acknowledge()
        is_old = received.retained and bool(received.payload)
        job_id = self.topics.job_of_state(received.topic)
        stream = self.topics.live_of_state(received.topic)
        if job_id is not None and is_old:
            self._states.seen(job_id)
        elif stream is not None and is_old:
            self._streams.seen(stream)
        elif received.topic == self.topics.birth and received.payload == BIRTH:
            self._born.set()

    async def _welcome(self, session: Session) -> None:
        """Look, on a new connection, at what the broker has kept of ours; listen for births."""
        # QoS 0, so it has all arrived when the subscription is over
        for topics in (self.topics.states, self.topics.live_states):
            if await _allowed(session.subscribe([topics], retained=True)):
                await session.unsubscribe([topics])
        if self._mqtt.discovery:
            await _allowed(session.subscribe([self.topics.birth]))

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

    async def _tell_metrics(self) -> None:
        while True:
            if self._connection.is_up:
                with Fence("mqtt", "metrics"):
                    payload = json_bytes(redacted_values(self._metrics()))
                    self._outbox.latest(OutgoingMessage(self.topics.metrics, payload, qos=0))
            await asyncio.sleep(self._metrics_seconds)

    async def _tell_activity(self) -> None:
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


async def _allowed(call: Awaitable[None]) -> bool:
    """Do without a subscription that is not needed for requests."""
    try:
        await call
    except SubscriptionRefused as error:
        log.info("%s: states of what ended long ago may stay there", error)
        return False
    return True
