"""Jobs that are let in as time goes by, each by its way: folder, MQTT, command line."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from processes import Beside
from support.servers.mqtt import Broker
from yard import BASE, Yard, arrive, document, publish, submit_by_command

WAYS = ("watch", "mqtt", "cli")


class Arrivals:
    """Jobs that are let in as time goes by, each by its way."""

    def __init__(
        self,
        yard: Yard,
        broker: Broker,
        clips: list[Path],
        ways: list[str],
        filters: Mapping[str, Any],
    ) -> None:
        self.yard = yard
        self.broker = broker
        self.clips = clips
        self.ways = ways
        self.filters = filters
        self.command_runs = 0
        self._released = 0
        self._due: dict[str, queue.SimpleQueue[int | None]] = {
            way: queue.SimpleQueue() for way in WAYS
        }
        self._feeders = [Beside(f"arrivals by {way}", self._feed, way) for way in WAYS]

    def clip(self, index: int) -> Path:
        return self.clips[index % len(self.clips)]

    def sink(self, index: int) -> Path:
        folder = self.yard.watched if self.ways[index] == "watch" else self.yard.asked
        return folder / f"job{index}.mp4"

    def release(self, *, up_to: int) -> None:
        """Let in all jobs below a number."""
        for index in range(self._released, min(up_to, len(self.ways))):
            self._due[self.ways[index]].put(index)
            self._released = index + 1

    def end(self) -> None:
        """Wait until all have been handed over."""
        for way in WAYS:
            self._due[way].put(None)
        for feeder in self._feeders:
            feeder.join()

    def _feed(self, way: str) -> None:
        while (index := self._due[way].get()) is not None:
            name, clip, sink = f"job{index}", self.clip(index), self.sink(index)
            if way == "watch":
                arrive(clip, self.yard.input / sink.name)
            elif way == "mqtt":
                publish(self.broker, f"{BASE}/job/submit", document(name, clip, sink, self.filters))
            else:
                file = self.yard.folder / "upframe.toml"
                self.command_runs += submit_by_command(file, name, clip, sink, self.filters)
