"""Where every live stream stands, for who shows it: `/status`, MQTT, metrics, systemd's line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping

from .status import LiveStatus


class LiveBoard:
    """The latest status of each stream by its name, and news of which of them changed.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, LiveStatus] = {}
        self._last_frames: dict[str, float] = {}
        self._readers: set[_Reader] = set()

    @property
    def statuses(self) -> Mapping[str, LiveStatus]:
        """Of every entry of the configuration, in its order."""
        return self._statuses

    def last_frame(self, name: str) -> float | None:
        """When a stream's latest frame was decoded: seconds since 1970; None before the first."""
        return self._last_frames.get(name)

    def tell(self, status: LiveStatus) -> None:
        """Note where a stream stands."""
        before = self._statuses.get(status.name)
        self._statuses[status.name] = status
        if status.last_frame_age_seconds is not None:
            self._last_frames[status.name] = time.time() - status.last_frame_age_seconds
        if before is None or gist_of(before) != gist_of(status):
            self._spread(status.name)

    def forget(self, name: str) -> None:
        """Note that there is no such stream any more."""
        self._last_frames.pop(name, None)
        if self._statuses.pop(name, None) is not None:
            self._spread(name)

    async def changes(self) -> AsyncGenerator[str]:
        """Give the names of streams that are new, gone or changed in more than their counts.

        Those that are there come first. Who is slow gets each name once.
        """
        reader = _Reader(self._statuses)
        self._readers.add(reader)
        try:
            while True:
                await reader.news.wait()
                reader.news.clear()
                while reader.names:
                    yield reader.names.pop(next(iter(reader.names)))
        finally:
            self._readers.discard(reader)

    def _spread(self, name: str) -> None:
        for reader in self._readers:
            reader.names[name] = name
            reader.news.set()


class _Reader:
    """What one reader has not seen yet, in the order in which it happened."""

    def __init__(self, names: Mapping[str, object]) -> None:
        self.names = {name: name for name in names}
        self.news = asyncio.Event()
        self.news.set()


def gist_of(status: LiveStatus) -> tuple[object, ...]:
    """Take what is worth a message of its own: not counts, delays and memory."""
    sink = status.output_state
    return (
        status.state,
        status.reason,
        status.message,
        status.level,
        status.showing,
        status.input,
        status.output,
        (sink.connected, sink.reason, sink.message, sink.files),
    )
