"""The connection to the broker while we live, and what waits to be sent through it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ..backoff import Backoff
from ..config import MqttConfig
from ..errors import StoreBroken
from ..fence import Fence
from ..tasks import within
from . import broker
from .topics import COMMANDS, LATER_COMMANDS, OutgoingMessage, Topics

log = logging.getLogger("upframe.mqtt.connection")

MAX_POSTS = 1000
MAX_POST_BYTES = 4 << 20

Render = Callable[[], Awaitable[OutgoingMessage]]
"""Makes the retained message of a topic as it has to be now; an empty one clears the topic."""
_STORE_SECONDS = 1.0
_STABLE_SECONDS = 60.0


@dataclass(order=True, frozen=True, slots=True)
class Item:
    """A message that was taken out to be sent; it is to be `delivered` or `returned`."""

    number: int
    """Orders the posts; 0 for other messages."""
    message: OutgoingMessage = field(compare=False)
    sent: Callable[[], None] | None = field(default=None, compare=False)
    """Called once a post was delivered, or dropped."""

    @property
    def key(self) -> int | str:
        """What identifies it among those in flight."""
        return self.number or self.message.topic


class Outbox:
    """All that waits to be published, while the broker may be away.

    Retained topics are not queued but *due*: their message is made when it is sent, so hours
    without a broker cost one message for each topic, and it is up to date. Posts, which are answers
    and events, are sent in their order and bounded. Of progress only the latest is kept.
    """

    def __init__(self, max_posts: int = MAX_POSTS, max_bytes: int = MAX_POST_BYTES) -> None:
        self.num_sent = 0
        """Messages since the start."""
        self.num_dropped = 0
        """Posts that found no room while the broker was away."""
        self._max_posts = max_posts
        self._max_bytes = max_bytes
        self._posts: list[Item] = []
        """A heap, so that one that comes back is again before those after it."""
        self._num_bytes = 0
        self._numbers = itertools.count(1)
        self._retained: dict[str, Render] = {}
        self._due: dict[str, Render] = {}
        """By topic, in their order; of a topic that is not retained, such as progress, too."""
        self._in_flight: set[int | str] = set()
        self._is_turn_of_due = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Count the messages to send, those in flight included."""
        return len(self._posts) + len(self._due) + len(self._in_flight)

    def retain(self, topic: str, render: Render) -> None:
        """Publish a topic now, and again on every new connection."""
        self._retained[topic] = self._due[topic] = render
        self._changed.set()

    def renew(self) -> None:
        """Make all retained topics due: the broker may have lost what it had."""
        self._due |= self._retained
        self._changed.set()

    def post(self, message: OutgoingMessage, sent: Callable[[], None] | None = None) -> None:
        """Send a message after those before it; when there are too many, drop the oldest."""
        self._push(Item(next(self._numbers), message, sent))
        while len(self._posts) > self._max_posts or self._num_bytes > self._max_bytes:
            dropped = self._pop()
            self.num_dropped += 1
            if dropped.sent is not None:
                dropped.sent()

    def latest(self, message: OutgoingMessage) -> None:
        """Send a message in place of the one for the same topic that was not sent yet."""

        async def render() -> OutgoingMessage:
            return message

        self._due[message.topic] = render
        self._changed.set()

    def forget_latest(self) -> None:
        """Drop what makes sense only at once, as while there is no connection."""
        for topic in self._due.keys() - self._retained.keys():
            del self._due[topic]
        self._changed.set()

    async def take(self) -> Item:
        """Wait for something to send: posts and other messages take turns.

        Raises:
            StoreBroken: if a message cannot be made now; it stays due.
            Exception: if it cannot be made at all; it is tried again on the next connection.
        """
        while True:
            due = next((topic for topic in self._due if topic not in self._in_flight), None)
            if due is not None and (self._is_turn_of_due or not self._posts):
                self._is_turn_of_due = False
                return await self._take_due(due)
            if self._posts:
                self._is_turn_of_due = True
                post = self._pop()
                self._in_flight.add(post.key)
                return post
            self._changed.clear()
            await self._changed.wait()

    async def _take_due(self, topic: str) -> Item:
        render = self._due.pop(topic)
        self._in_flight.add(topic)
        try:
            return Item(0, await render())
        except BaseException as error:
            if isinstance(error, StoreBroken) or not isinstance(error, Exception):
                self._due.setdefault(topic, render)
            self._land(topic)
            raise

    def delivered(self, item: Item) -> None:
        """Note that the broker has it. A topic that was cleared is not held any longer."""
        self.num_sent += 1
        topic = item.message.topic
        if not item.number and not item.message.payload and topic not in self._due:
            self._retained.pop(topic, None)
        self._land(item.key)
        if item.sent is not None:
            item.sent()

    def returned(self, item: Item) -> None:
        """Note that it did not arrive: it goes again, and before what came after it."""
        topic = item.message.topic
        if item.number:
            self._push(item)
        elif topic in self._retained:
            self._due.setdefault(topic, self._retained[topic])
        self._land(item.key)

    async def drained(self) -> None:
        """Wait until everything is sent."""
        while len(self):
            self._changed.clear()
            await self._changed.wait()

    def _push(self, post: Item) -> None:
        heapq.heappush(self._posts, post)
        self._num_bytes += len(post.message.payload)
        self._changed.set()

    def _pop(self) -> Item:
        post = heapq.heappop(self._posts)
        self._num_bytes -= len(post.message.payload)
        return post

    def _land(self, key: int | str) -> None:
        self._in_flight.discard(key)
        self._changed.set()


_NUM_PUBLISHERS = 20  # as many as the library has on their way at once
_DRAIN_SECONDS = 1.5  # for all that waits to be sent when the node stops
_STATUS_SECONDS = 1.0  # for its last status
_SHORT_SECONDS = 5.0
"""For which a connection must hold to be more than none."""
_MANY_SHORT = 3

Phase = Literal["connecting", "connected", "away", "refused", "stopped"]


def connection_backoff() -> Backoff:
    """Return the delays between attempts to connect to a broker."""
    return Backoff(parts=(0.0, 1.0), good_seconds=_STABLE_SECONDS, fair_seconds=_SHORT_SECONDS)


@dataclass(eq=False)
class BrokerConnection:
    """Keeps a session with the broker, and sends through it what the outbox holds."""

    config: MqttConfig
    """The files that it names are read for every attempt."""
    topics: Topics
    outbox: Outbox
    on_message: broker.OnMessage
    """Called with every message."""
    on_session: Callable[[broker.Session], Coroutine[Any, Any, None]]
    """Run with every new session, once requests can arrive."""
    backoff: Backoff
    """The delays between attempts."""

    def __post_init__(self) -> None:
        self.status: Literal["online", "draining", "stopped"] = "online"
        self._logged_reason: str | None = None
        self._num_short = 0
        self._phase: Phase = "connecting"
        self._reason: str | None = None
        self._since = time.time()
        self._num_attempts = self._num_connections = 0
        self._refusals: Mapping[str, int] = {}
        self.outbox.retain(self.topics.status, self._render_status)

    @property
    def is_up(self) -> bool:
        """Whether requests can arrive."""
        return self._phase == "connected"

    def health(self) -> dict[str, Any]:
        """Return how the connection is, since when (seconds since 1970), and what was counted."""
        return {
            "connected": self.is_up,
            "state": self._phase,
            "reason": self._reason,
            "since": self._since,
            "attempts": self._num_attempts,
            "connections": self._num_connections,
            "refused": dict(self._refusals),
        }

    def set_status(self, status: Literal["online", "draining"]) -> None:
        """Change the retained status."""
        self.status = status
        self.outbox.retain(self.topics.status, self._render_status)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connection until `stop` is set, and end it with the status `stopped`."""
        keeping = asyncio.create_task(self._keep(stop), name="mqtt connection")
        stopping = asyncio.create_task(stop.wait(), name="mqtt stop")
        try:
            await asyncio.wait({keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.is_up:  # it ends by itself
                await asyncio.wait({keeping}, timeout=3 * _DRAIN_SECONDS)
            if keeping.done():
                keeping.result()
        finally:
            for task in (keeping, stopping):
                task.cancel()
            await asyncio.wait({keeping, stopping})
            self._enter("stopped", None)

    async def _keep(self, stop: asyncio.Event) -> None:
        while self.status != "stopped":
            self._num_attempts += 1
            try:
                await self._attempt(stop)
            except (broker.LoginRefused, broker.SubscriptionRefused, broker.TakenOver) as error:
                await self._pause("refused", error, self.backoff.longest_seconds())
            except broker.ConnectionLost as error:
                await self._pause("away", error, self.backoff.next_seconds())

    async def _pause(self, phase: Phase, error: Exception, seconds: float) -> None:
        """Wait for the next attempt. A reason is logged once, until there is another one."""
        if self.status == "stopped":
            return
        self._enter(phase, str(error))
        level = logging.ERROR if phase == "refused" else logging.WARNING
        if str(error) == self._logged_reason:
            level = logging.DEBUG
        self._logged_reason = str(error)
        log.log(level, "MQTT: %s; the next attempt is in %.1f s", error, seconds)
        await asyncio.sleep(seconds)

    async def _attempt(self, stop: asyncio.Event) -> None:
        credentials = await asyncio.to_thread(broker.read_credentials, self.config)
        async with broker.Session(
            self.config, self.topics, credentials, self.on_message
        ) as session:
            await _unless_lost(session, self._subscribe(session))
            began = time.monotonic()
            self._note_connected(session)
            try:
                await self._serve(session, stop)
            finally:
                self.outbox.forget_latest()
                self._note_ended(time.monotonic() - began)

    async def _subscribe(self, session: broker.Session) -> None:
        older = [self.topics.command(each) for each in COMMANDS if each not in LATER_COMMANDS]
        await session.subscribe(older)
        for command in LATER_COMMANDS:
            try:
                await session.subscribe([self.topics.command(command)])
            except broker.SubscriptionRefused as error:
                log.warning("MQTT: %s: this request cannot be made", error)

    def _note_connected(self, session: broker.Session) -> None:
        if self._num_connections and not session.session_present:
            log.warning("the broker has lost what was sent to us meanwhile, if anything was")
        self._refusals = session.refusals
        self.outbox.renew()
        self._enter("connected", None)
        self._num_connections += 1
        self._logged_reason = None
        log.info("connected to the broker as %s", self.topics.base)

    def _note_ended(self, held_seconds: float) -> None:
        self._enter("away", "the connection has ended")
        self.backoff.held(held_seconds)
        self._num_short = self._num_short + 1 if held_seconds < _SHORT_SECONDS else 0
        if self._num_short == _MANY_SHORT:  # Mosquitto 2.0 gives no reason
            text = "MQTT: %d connections in a row ended at once: is there another client as %s?"
            log.error(text, self._num_short, self.topics.base)

    async def _serve(self, session: broker.Session, stop: asyncio.Event) -> None:
        """Read and send until the connection is lost, or everything is sent after `stop`."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(session.lost(), name="mqtt reader"),
                    group.create_task(self.on_session(session), name="mqtt welcome"),
                ]
                for number in range(_NUM_PUBLISHERS):
                    publisher = self._send(session)
                    tasks.append(group.create_task(publisher, name=f"mqtt publisher {number}"))
                await stop.wait()
                await within(_DRAIN_SECONDS, self.outbox.drained())
                await self._publish_stopped(session)
                for task in tasks:
                    task.cancel()
        except asyncio.CancelledError:
            if self.status != "stopped":  # else the retained status would stay "online"
                await self._publish_stopped(session)
            raise
        except ExceptionGroup as ends:
            lost, unexpected = ends.split(broker.ConnectionLost)
            raise unexpected or (lost or ends).exceptions[0] from ends

    async def _send(self, session: broker.Session) -> None:
        while True:
            item = None
            try:
                with Fence("mqtt", "state", let=(StoreBroken,)):
                    item = await self.outbox.take()
            except StoreBroken as error:
                log.warning("a state cannot be published: %s", error)
                await asyncio.sleep(_STORE_SECONDS)
            if item is None:
                continue
            try:
                await session.publish(item.message)
            except BaseException:
                self.outbox.returned(item)
                raise
            self.outbox.delivered(item)

    async def _publish_stopped(self, session: broker.Session) -> None:
        self.status = "stopped"
        with suppress(broker.ConnectionLost):
            await within(_STATUS_SECONDS, session.publish(await self._render_status()))

    async def _render_status(self) -> OutgoingMessage:
        return OutgoingMessage(self.topics.status, self.status.encode(), retain=True)

    def _enter(self, phase: Phase, reason: str | None) -> None:
        if phase != self._phase:
            self._since = time.time()
        self._phase, self._reason = phase, reason


async def _unless_lost(session: broker.Session, work: Coroutine[Any, Any, None]) -> None:
    """Do some work; the end of the connection ends it, which the library would not notice."""
    try:
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(session.lost(), name="mqtt reader")
            await work
            reader.cancel()
    except ExceptionGroup as ends:
        raise ends.exceptions[0] from ends
