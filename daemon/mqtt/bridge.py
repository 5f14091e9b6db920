"""The node on the broker: starts and connects all parts of this folder.

`connection` keeps a session with the `broker` and sends what is in its outbox; `handler` passes
`requests` through the journal to the jobs and answers them; `states` publishes what jobs and
streams are doing. Here are also the node's own topics, and its device for Home Assistant.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from pydantic_core import from_json

from ...io.redaction import excerpt, one_line, redacted_values
from ..backoff import Backoff
from ..config import Config
from ..errors import UnknownJob
from ..fence import Fence
from ..jobs.api import name_of, to_public_dict
from ..jobs.model import Job, JobProgress, State
from ..jobs.queue import JobChange, JobQueue
from ..jobs.store import ENDED, JobStore, job_of_row
from ..live.status import LiveBoard
from ..tasks import within
from .broker import Session, SubscriptionRefused, address_of
from .connection import BrokerConnection, Outbox, connection_backoff
from .handler import Answers, Journal, RequestHandler
from .requests import MAX_PAYLOAD_BYTES, REPLY_SCHEMA, REQUEST_SCHEMA, json_bytes, request_schemas
from .topics import Command, IncomingMessage, OutgoingMessage, Topics

# The retained states of jobs and live streams, and the progress of jobs, as the store has them.
#
# The broker keeps old states: of a job that ended or was forgotten since, of a stream whose section
# was removed while we were away. After connecting, every state of ours that the broker has
# retained is therefore published again, or cleared. The state of an ended job carries its time to
# live, after which the broker drops it by itself.

REPEAT_SECONDS = 60.0
"""Between two states of a live stream of which only counts and delays have changed."""

_MAX_ENDED = 2000  # announced at a start, the latest; older ones keep what the broker has of them
_MAX_STATE_BYTES = 128 * 1024
_PROGRESS_SECONDS = 1.0
_QUIET_PROGRESS_SECONDS = 10.0
_PROGRESS_STEP = 0.01
"""Of the whole: a smaller step is published only after `_QUIET_PROGRESS_SECONDS`."""
EVENT_SCHEMA = "upframe.event/1"


@dataclass(eq=False)
class JobStates:
    """Follows all jobs, and publishes their states, events and progress."""

    topics: Topics
    queue: JobQueue
    store: JobStore
    outbox: Outbox
    answers: Answers
    """Informed of every job that ends."""
    keep_seconds: float
    """From a job's end until its retained state is cleared."""
    on_change: Callable[[], None]
    """Called with every change."""
    is_up: Callable[[], bool]
    """Returns whether there is a connection."""

    def __post_init__(self) -> None:
        self._clear_at: dict[str, float] = {}
        self._published: dict[str, tuple[float, float]] = {}
        """Of each running job: when its progress was published, and what share of the whole."""

    async def run(self) -> None:
        """Announce all jobs, then follow them, until cancelled."""
        with self.queue.subscribe() as changes:
            for job_id in await asyncio.to_thread(self._to_announce):
                self.announce(job_id)
            async for change in changes:
                with Fence("mqtt", f"news of job {change.job.id}"):
                    self._follow(change)

    async def clear_old(self) -> None:
        """Clear the states of jobs whose time to live has passed, until cancelled."""
        while True:
            await asyncio.sleep(min(self.keep_seconds / 4, 30.0))
            now = time.time()
            for job_id in [known for known, end in self._clear_at.items() if end <= now]:
                del self._clear_at[job_id]
                self.announce(job_id)

    def announce(self, job_id: str) -> None:
        """Publish the state of a job, or clear it where there is to be none."""
        self.outbox.retain(self.topics.state(job_id), partial(self._render, job_id))

    def _to_announce(self) -> list[str]:
        bodies: list[Any] = [from_json(body) for body in self.store.bodies(("queued", "running"))]
        ids: list[str] = [body["id"] for body in bodies]
        oldest = time.time() - self.keep_seconds
        ended = (job_of_row(body, None) for body in self.store.bodies(ENDED, limit=_MAX_ENDED))
        return ids + [job.id for job in ended if job.ended and job.ended.timestamp() > oldest]

    async def _render(self, job_id: str) -> OutgoingMessage:
        topic = self.topics.state(job_id)
        try:
            job = await self.queue.get(job_id)
        except UnknownJob:
            return OutgoingMessage(topic, b"", retain=True)
        left = None
        self._clear_at.pop(job_id, None)
        if job.ended is not None and job.ended_for_good:
            end = job.ended.timestamp() + self.keep_seconds
            left = math.ceil(end - time.time())
            if left <= 0:
                return OutgoingMessage(topic, b"", retain=True)
            self._clear_at[job_id] = end
        return OutgoingMessage(topic, state_payload(job), retain=True, expiry_seconds=left)

    def _follow(self, change: JobChange) -> None:
        job = change.job
        self.on_change()
        if change.kind == "progress":
            self._publish_progress(job)
            return
        self.announce(job.id)
        if job.state != "running":
            self._published.pop(job.id, None)
        if change.kind == "state" and self.is_up():  # later events would push out answers
            payload = json_bytes(redacted_values(event_document(job)))
            self.outbox.post(OutgoingMessage(self.topics.event, payload))
        if job.ended_for_good:
            self.answers.ended(job)

    def _publish_progress(self, job: Job) -> None:
        if not self.is_up():  # it would be outdated by the time that it is sent
            return
        progress, now = job.progress, time.monotonic()
        share = progress.frames / progress.total if progress.total else math.inf
        last, last_share = self._published.get(job.id, (-math.inf, -math.inf))
        is_small = share - last_share < _PROGRESS_STEP
        if now - last < (_QUIET_PROGRESS_SECONDS if is_small else _PROGRESS_SECONDS):
            return
        self._published[job.id] = (now, share)
        payload = json_bytes(progress_document(job.id, progress))
        self.outbox.latest(OutgoingMessage(self.topics.progress(job.id), payload, qos=0))


def event_document(job: Job) -> dict[str, Any]:
    """Describe a change of a job's state."""
    return {
        "schema": EVENT_SCHEMA,
        "type": job.state,
        "id": job.id,
        "name": name_of(job),
        "reason": job.error.message if job.error else job.waits_for,
        "attempts": job.attempts,
        "time": time.time(),
    }


def progress_document(job_id: str, progress: JobProgress) -> dict[str, Any]:
    """Describe the progress of a job."""
    return {"id": job_id, **progress.model_dump(mode="json")}


def state_payload(job: Job) -> bytes:
    """Write a whole job; without its report where that would be too much for a broker."""
    payload = json_bytes(to_public_dict(job))
    if len(payload) > _MAX_STATE_BYTES:
        payload = json_bytes(to_public_dict(job, report=False))
    return payload


@dataclass(eq=False)
class LiveStates:
    """Follows all live streams, and publishes their states."""

    topics: Topics
    outbox: Outbox
    board: LiveBoard
    repeat_seconds: float = REPEAT_SECONDS
    on_change: Callable[[], None] = lambda: None
    """Called with every change."""

    async def run(self) -> None:
        """Announce every stream, then every change, until cancelled."""
        async with aclosing(self.board.changes()) as changes:
            async for name in changes:
                self.announce(name)
                self.on_change()

    async def repeat(self) -> None:
        """Announce every stream at regular intervals, until cancelled."""
        while True:
            await asyncio.sleep(self.repeat_seconds)
            for name in self.board.statuses:
                self.announce(name)

    def announce(self, name: str) -> None:
        """Publish the state of a stream, or clear it where there is no such stream."""
        self.outbox.retain(self.topics.live_state(name), partial(self._render, name))

    async def _render(self, name: str) -> OutgoingMessage:
        status = self.board.statuses.get(name)
        payload = b"" if status is None else json_bytes(redacted_values(status.to_json()))
        return OutgoingMessage(self.topics.live_state(name), payload, retain=True)


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
    """Describe the device with its sensors and buttons; live streams exist or are `gone`."""
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

    Its progress is the sum of the running jobs'; `failed` is the latest one, if any has. An
    operator should look at `troubles` beside it.
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
