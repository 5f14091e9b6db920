"""What is to be sent, while the broker may be away: of each topic the latest, of answers the last.

Retained topics are not queued but *due*: what they say is made when it is sent, so hours without a
broker cost one message for each topic, and it says what is true by then. Answers and events are
sent in their order and bounded; progress is worth nothing later and only its latest is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from ..jobs.model import StoreBroken
from .message import Publication

MAX_POSTS = 1000
MAX_POST_BYTES = 4 << 20

Kind = Literal["retained", "post", "latest"]

Render = Callable[[], Awaitable[Publication]]
"""Makes the retained message of a topic as it has to be now; an empty one clears the topic."""

Sent = Callable[[], None]
"""Called once a post was delivered, or given up."""


@dataclass(slots=True)
class _Post:
    publication: Publication
    sent: Sent | None


@dataclass(slots=True)
class _Line:
    """What waits for one topic."""

    render: Render | None = None
    due: bool = False
    posts: deque[int] = field(default_factory=deque[int])
    latest: Publication | None = None
    num_posts_in_flight: int = 0
    in_flight: bool = False
    """Another than a post: of these a newer one must not overtake it."""

    @property
    def ready(self) -> bool:
        """Whether there is something that may be sent now."""
        return bool(self.posts) or (self.waiting and not self.in_flight)

    @property
    def waiting(self) -> bool:
        return self.due or self.latest is not None

    @property
    def idle(self) -> bool:
        in_flight = self.in_flight or self.num_posts_in_flight
        return not (self.posts or self.waiting or in_flight or self.render)


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was taken out to be sent; it is to be `delivered` or `returned`."""

    topic: str
    kind: Kind
    publication: Publication
    number: int = 0
    sent: Sent | None = None


@dataclass(slots=True)
class Statistics:
    """Counted since the start."""

    sent: int = 0
    dropped: int = 0
    """Posts that found no room while the broker was away."""


class Outbox:
    """All that waits to be published."""

    def __init__(self, max_posts: int = MAX_POSTS, max_bytes: int = MAX_POST_BYTES) -> None:
        self.statistics = Statistics()
        self._max_posts = max_posts
        self._max_bytes = max_bytes
        self._lines: dict[str, _Line] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._posts: OrderedDict[int, _Post] = OrderedDict()
        self._bytes = 0
        self._number = 0
        self._in_flight = 0
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Count the topics with something to send, those on their way included."""
        return len(self._ready) + self._in_flight

    def retain(self, topic: str, render: Render) -> None:
        """Have a topic published now, and again on every new connection."""
        line = self._lines.setdefault(topic, _Line())
        line.render, line.due = render, True
        self._queue(topic, line)

    def retained(self) -> list[str]:
        """List the topics that are held up to date."""
        return [topic for topic, line in self._lines.items() if line.render is not None]

    def renew(self) -> None:
        """Make all retained topics due: the broker may have lost what it had."""
        for topic, line in self._lines.items():
            if line.render is not None:
                line.due = True
                self._queue(topic, line)

    def post(self, publication: Publication, sent: Sent | None = None) -> None:
        """Have a message sent after those before it; when there are too many, the oldest go."""
        line = self._lines.setdefault(publication.topic, _Line())
        self._number += 1
        self._posts[self._number] = _Post(publication, sent)
        self._bytes += len(publication.payload)
        line.posts.append(self._number)
        self._queue(publication.topic, line)
        while len(self._posts) > self._max_posts or self._bytes > self._max_bytes:
            self._drop_oldest()

    def latest(self, publication: Publication) -> None:
        """Have a message sent in place of the one for the same topic that was not sent yet."""
        line = self._lines.setdefault(publication.topic, _Line())
        line.latest = publication
        self._queue(publication.topic, line)

    def forget_latest(self) -> None:
        """Drop what only makes sense at once, as while there is no connection."""
        for topic, line in list(self._lines.items()):
            line.latest = None
            self._queue(topic, line)

    async def take(self) -> Item:
        """Wait for something to send, by turns of the topics."""
        while True:
            while not self._ready:
                self._changed.clear()
                await self._changed.wait()
            topic, _ = self._ready.popitem(last=False)
            line = self._lines[topic]
            if line.posts:
                return self._taken_post(topic, line)
            return await self._taken(topic, line)

    def _taken_post(self, topic: str, line: _Line) -> Item:
        number = line.posts.popleft()
        post = self._posts.pop(number)
        self._bytes -= len(post.publication.payload)
        line.num_posts_in_flight += 1
        self._in_flight += 1
        self._queue(topic, line)
        return Item(topic, "post", post.publication, number, post.sent)

    async def _taken(self, topic: str, line: _Line) -> Item:
        line.in_flight = True
        self._in_flight += 1
        if not line.due or line.render is None:
            publication, line.latest = line.latest, None
            assert publication is not None  # else the topic were not ready
            return Item(topic, "latest", publication)
        line.due = False
        try:
            return Item(topic, "retained", await line.render())
        except BaseException as error:  # what cannot be written at all is not tried for ever
            line.due = not isinstance(error, Exception) or isinstance(error, StoreBroken)
            self._landed(topic, "retained")
            raise

    def delivered(self, item: Item) -> None:
        """Note that the broker has it. A topic that was cleared is not held any longer."""
        self.statistics.sent += 1
        line = self._lines[item.topic]
        if item.kind == "retained" and not item.publication.payload and not line.due:
            line.render = None
        self._landed(item.topic, item.kind)
        if item.sent is not None:
            item.sent()

    def returned(self, item: Item) -> None:
        """Note that it did not arrive: it goes again, and before what came after it."""
        line = self._lines[item.topic]
        if item.kind == "post":
            self._posts[item.number] = _Post(item.publication, item.sent)
            self._posts.move_to_end(item.number, last=False)
            self._bytes += len(item.publication.payload)
            line.posts = deque(sorted((item.number, *line.posts)))
        line.due = line.due or (item.kind == "retained" and line.render is not None)
        self._landed(item.topic, item.kind)

    async def drained(self) -> None:
        """Wait until everything is sent."""
        while len(self):
            self._changed.clear()
            await self._changed.wait()

    def _landed(self, topic: str, kind: Kind) -> None:
        line = self._lines[topic]
        self._in_flight -= 1
        if kind == "post":
            line.num_posts_in_flight -= 1
        else:
            line.in_flight = False
        self._queue(topic, line)

    def _queue(self, topic: str, line: _Line) -> None:
        """Put a topic where it belongs: to send, in hand, or forgotten."""
        if line.ready:
            self._ready.setdefault(topic)
        else:
            self._ready.pop(topic, None)
        if line.idle:
            self._lines.pop(topic, None)
        self._changed.set()

    def _drop_oldest(self) -> None:
        number, post = self._posts.popitem(last=False)
        topic = post.publication.topic
        self._bytes -= len(post.publication.payload)
        self._lines[topic].posts.remove(number)
        self._queue(topic, self._lines[topic])
        self.statistics.dropped += 1
        if post.sent is not None:
            post.sent()
