"""The parts through which work arrives and is told of: watched folders, MQTT and HTTP.

None of them may take the daemon with it, and each begins anew when its configuration changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..jobs.queue import JobQueue
from ..jobs.store import JobStore
from ..live.board import LiveBoard
from ..watch.watches import Prober, Watches
from .config import Config
from .http import HttpServer
from .lifecycle import Part
from .metrics import Metrics
from .status import Status

if TYPE_CHECKING:
    from ..mqtt.bridge import MqttBridge

log = logging.getLogger("upframe.daemon")

_LOOK_SECONDS = 10.0
"""For the first look at all folders: a share that hangs must not keep the daemon from starting."""
_FAREWELL_SECONDS = 3.0
"""For telling a broker something on the way out."""


class Outside:
    """Begins and ends the parts.

    Args:
        queue: Of the jobs.
        store: Remembers what was seen and received.
        prober: Looks into files.
        status: Is told whom to ask.
        metrics: Counts failures.
        live: Where live streams stand, for the broker.
    """

    def __init__(
        self,
        queue: JobQueue,
        store: JobStore,
        prober: Prober,
        status: Status,
        metrics: Metrics,
        live: LiveBoard,
    ) -> None:
        self._queue = queue
        self._store = store
        self._prober = prober
        self._status = status
        self._live = live
        self._watches: Watches | None = None
        self._bridge: MqttBridge | None = None
        self._parts = {
            name: Part(name, metrics.count_failure) for name in ("watch", "mqtt", "http")
        }
        status.collect.append(self._collect)

    def begin_http(self, config: Config) -> None:
        """Answer probes, from the start on."""
        http = config.http
        if http is not None:
            self._parts["http"].start(lambda: HttpServer(http, self._status.routes()).run())

    async def begin_work(self, config: Config) -> None:
        """Take work, and wait until every folder was looked at once."""
        self._begin_watch(config)
        self._begin_mqtt(config)
        await asyncio.sleep(0)  # lets the watch begin
        if self._watches is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._watches.looked()

    async def change(self, config: Config, parts: Collection[str]) -> None:
        """Begin some parts anew, with another configuration."""
        for name in ("watch", "mqtt", "http"):
            if name in parts:
                if name == "mqtt":  # also since it may go on under another name
                    await self._take_leave()
                await self._parts[name].stop()
        if "watch" in parts:
            self._begin_watch(config)
        if "mqtt" in parts:
            self._begin_mqtt(config)
        if "http" in parts:
            self.begin_http(config)

    async def draining(self) -> None:
        """Tell the broker that no work is begun any more."""
        if self._bridge is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await self._bridge.draining()

    async def end(self, seconds: float = _FAREWELL_SECONDS) -> None:
        """End all parts; the broker hears that it was on purpose, if it listens within a time."""
        await self._parts["watch"].stop()
        await self._take_leave(seconds)
        await self._parts["mqtt"].stop()
        await self._parts["http"].stop()

    async def _take_leave(self, seconds: float = _FAREWELL_SECONDS) -> None:
        if self._bridge is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._bridge.stopped()

    def _begin_watch(self, config: Config) -> None:
        # without any folder too: inputs of earlier jobs may wait for being moved

        async def watch() -> None:
            self._watches = Watches(config, self._queue, self._store, self._prober)
            await self._watches.run()

        self._status.parts["watch"] = self._watch_status
        self._parts["watch"].start(watch)

    def _begin_mqtt(self, config: Config) -> None:
        self._bridge = None
        self._status.parts.pop("mqtt", None)
        if config.mqtt is None:
            return

        async def speak() -> None:
            """Run a new bridge until it ends."""
            from ..mqtt.bridge import MqttBridge  # who has no broker need not load its library

            self._bridge = MqttBridge(
                config,
                self._queue,
                self._store,
                self._status.info,
                self._status.counters,
                live=self._live,
            )
            await self._bridge.run()

        self._status.parts["mqtt"] = self._mqtt_status
        self._parts["mqtt"].start(speak)

    def _watch_status(self) -> list[dict[str, Any]]:
        return [] if self._watches is None else self._watches.status()

    def _mqtt_status(self) -> dict[str, Any]:
        return {} if self._bridge is None else self._bridge.health()

    def _collect(self, metrics: Metrics) -> None:
        for index, watch in enumerate(self._watch_status()):
            labels = {"watch": str(index)}
            text = "Files of a watched folder by what became of them."
            for state in ("waiting", "taken"):
                metrics.set_gauge("watch_files", text, watch[state], state=state, **labels)
            skipped = sum(watch["skipped"].values())
            metrics.set_gauge("watch_files", text, skipped, state="skipped", **labels)
            seconds = watch["last_scan_seconds"]
            if seconds is not None:
                text = "Time that the last scan took."
                metrics.set_gauge("watch_scan_seconds", text, seconds, **labels)
            paused = float(watch["paused"] is not None)
            metrics.set_gauge("watch_paused", "Whether a folder is missing.", paused, **labels)
        if self._bridge is not None:
            _collect_mqtt(self._bridge.health(), metrics)


def _collect_mqtt(health: Mapping[str, Any], metrics: Metrics) -> None:
    connected = bool(health["connected"])
    metrics.set_gauge("mqtt_connected", "Whether the broker is there.", connected)
    messages: dict[tuple[str, str], int] = {
        ("in", name): n for name, n in health["requests"].items()
    }
    messages |= {("out", "sent"): health["published"], ("out", "dropped"): health["dropped"]}
    for (way, result), number in messages.items():
        text = "Messages by direction and what became of them."
        metrics.set_total("mqtt_messages", text, number, dir=way, result=result)
