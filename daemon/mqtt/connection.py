"""The connection to the broker, for as long as the daemon lives: kept up, or tried again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from ..backoff import DoublingBackoff
from ..config import MqttConfig
from ..fence import Fence
from ..jobs.model import StoreBroken
from .client import Session, Take
from .credentials import settings_of
from .message import ConnectionLost, LoginRefused, Publication, SubscriptionRefused, TakenOver
from .outbox import Outbox
from .topics import COMMANDS, Topics

log = logging.getLogger("upframe.mqtt.connection")

_PUBLISHERS = 20  # as many as the library has on their way at once
_DRAIN_SECONDS = 1.5
"""For all that waits to be sent when the node stops."""
_WORD_SECONDS = 1.0
"""For its last word."""
_STORE_SECONDS = 1.0
_MANY_SHORT = 3

Phase = Literal["connecting", "connected", "away", "refused", "stopped"]


class _Finished(Exception):
    """Everything was said: the connection may end."""


@dataclass(slots=True)
class Health:
    """How the connection is."""

    phase: Phase = "connecting"
    reason: str | None = None
    """Why there is none."""
    since: float = 0.0
    """Seconds since 1970, of the phase."""
    attempts: int = 0
    connections: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict[str, int])
    """Messages that the broker did not take on the latest connection, by its reason."""


class Connection:
    """Keeps a session with the broker, and sends through it what the outbox holds.

    Args:
        config: read anew for every attempt as far as it names files.
        topics: of the node.
        outbox: what is to be sent.
        take: gets every message.
        on_up: called with every new session, once requests can arrive.
        backoff: the delays between attempts.
    """

    def __init__(
        self,
        config: MqttConfig,
        topics: Topics,
        outbox: Outbox,
        take: Take,
        on_up: Callable[[Session], Awaitable[None]],
        backoff: DoublingBackoff,
    ) -> None:
        self.health = Health(since=time.time())
        self.status: Literal["online", "draining", "stopped"] = "online"
        self._config = config
        self._topics = topics
        self._outbox = outbox
        self._take = take
        self._on_up = on_up
        self._backoff = backoff
        self._said: str | None = None
        self._num_short = 0
        self._outbox.retain(topics.status, self._render_status)

    @property
    def is_up(self) -> bool:
        """Whether requests can arrive."""
        return self.health.phase == "connected"

    def set_status(self, status: Literal["online", "draining", "stopped"]) -> None:
        """Change what the retained status says."""
        self.status = status
        self._outbox.retain(self._topics.status, self._render_status)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connection until told to stop, and end it with the last word."""
        living = asyncio.create_task(self._live(stop), name="mqtt connection")
        stopping = asyncio.create_task(stop.wait(), name="mqtt stop")
        try:
            await asyncio.wait({living, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.is_up:  # it says farewell by itself
                await asyncio.wait({living}, timeout=3 * _DRAIN_SECONDS)
            if living.done():
                living.result()
        finally:
            for task in (living, stopping):
                task.cancel()
            await asyncio.wait({living, stopping})
            self._enter("stopped", None)

    async def _live(self, stop: asyncio.Event) -> None:
        while True:
            self.health.attempts += 1
            try:
                await self._attempt(stop)
            except _Finished:
                return
            except (LoginRefused, SubscriptionRefused, TakenOver) as error:
                await self._pause("refused", error, self._backoff.cap_seconds())
            except ConnectionLost as error:
                await self._pause("away", error, self._backoff.next_seconds())

    async def _pause(self, phase: Phase, error: Exception, seconds: float) -> None:
        """Wait for the next attempt. A reason is said once, until there is another one."""
        self._enter(phase, str(error))
        level = logging.ERROR if phase == "refused" else logging.WARNING
        if str(error) == self._said:
            level = logging.DEBUG
        self._said = str(error)
        log.log(level, "MQTT: %s; the next attempt is in %.1f s", error, seconds)
        await asyncio.sleep(seconds)

    async def _attempt(self, stop: asyncio.Event) -> None:
        settings = await asyncio.to_thread(settings_of, self._config, self._topics)
        async with Session(settings, self._take) as session:
            await session.subscribe([self._topics.command(command) for command in COMMANDS])
            began = time.monotonic()
            self._came_up(session)
            try:
                await self._serve(session, stop)
            finally:
                self._outbox.forget_latest()
                self._went_down(time.monotonic() - began)

    def _came_up(self, session: Session) -> None:
        if self.health.connections and not session.session_present:
            log.warning("the broker has lost what was sent to us meanwhile, if anything was")
        self.health.refusals = session.refusals
        self._outbox.renew()
        self._enter("connected", None)
        self.health.connections += 1
        self._said = None
        log.info("connected to the broker as %s", self._topics.base)

    def _went_down(self, held_seconds: float) -> None:
        self._enter("away", "the connection has ended")
        self._backoff.held(held_seconds)
        self._num_short = self._num_short + 1 if self._backoff.is_short(held_seconds) else 0
        if self._num_short == _MANY_SHORT:  # Mosquitto 2.0 does not say why
            log.error(
                "MQTT: %d connections in a row were ended at once: is there another client "
                "with the prefix %s and the node_id %s?",
                self._num_short,
                self._topics.prefix,
                self._topics.node_id,
            )

    async def _serve(self, session: Session, stop: asyncio.Event) -> None:
        """Read and send until the connection is lost, or everything is said."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(session.lost(), name="mqtt reader")
                group.create_task(self._part(session, stop), name="mqtt farewell")
                group.create_task(self._welcome(session), name="mqtt welcome")
                for number in range(_PUBLISHERS):
                    group.create_task(self._send(session), name=f"mqtt publisher {number}")
        except asyncio.CancelledError:
            if self.status != "stopped":  # else the last word were "online"
                await self._say_farewell(session)
            raise
        except ExceptionGroup as ends:
            raise _main_end_of(ends) from ends

    async def _send(self, session: Session) -> None:
        while True:
            item = None
            try:
                with Fence("mqtt", "state", let=(StoreBroken,)):
                    item = await self._outbox.take()
            except StoreBroken as error:  # what a topic has to say cannot be told just now
                log.warning("a state cannot be published: %s", error)
                await asyncio.sleep(_STORE_SECONDS)
                continue
            if item is None:
                continue
            try:
                await session.publish(item.publication)
            except BaseException:
                self._outbox.returned(item)
                raise
            self._outbox.delivered(item)

    async def _welcome(self, session: Session) -> None:
        await self._on_up(session)

    async def _part(self, session: Session, stop: asyncio.Event) -> None:
        """Send what there is, then the last word, then end."""
        await stop.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._outbox.drained()
        await self._say_farewell(session)
        raise _Finished

    async def _say_farewell(self, session: Session) -> None:
        self.status = "stopped"
        with suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(_WORD_SECONDS):
                await session.publish(self._status_saying("stopped"))

    async def _render_status(self) -> Publication:
        return self._status_saying(self.status)

    def _status_saying(self, status: str) -> Publication:
        return Publication(self._topics.status, status.encode(), retain=True)

    def _enter(self, phase: Phase, reason: str | None) -> None:
        if phase != self.health.phase:
            self.health.since = time.time()
        self.health.phase, self.health.reason = phase, reason


def _main_end_of(ends: ExceptionGroup[Exception]) -> Exception:
    """Choose by which of the ends that came together the connection has ended."""
    _, unexpected = ends.split((_Finished, ConnectionLost))
    if unexpected is not None:
        return ends  # that is for the owner to see
    finished = ends.subgroup(_Finished)
    return (finished or ends).exceptions[0]
