"""The state of live streams: one value each, for the log, `/status`, MQTT and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from ...io.errors import Reason
from ...io.live.values import InputState, OutputState


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """A live stream at one moment. All texts are without secrets."""

    name: str
    state: InputState = "connecting"
    since: str = ""
    """When it entered the state: UTC, ISO 8601."""
    reason: Reason | None = None
    """Why the input was lost the last time, or could not be connected to."""
    message: str = ""
    """The same for people."""
    level: str = "full"
    """The governor's level."""
    as_asked: float | None = None
    """Share of the frames of the last minute that are what was asked for; None at first."""
    warning: str = ""
    """What an operator should know, for people: that the machine is too slow."""
    input: dict[str, Any] = field(default_factory=dict[str, Any])
    """url, and once probed: width, height, rate, codec, pix_fmt, sound."""
    output: dict[str, Any] = field(default_factory=dict[str, Any])
    """url, width, height, rate, codec."""
    output_state: OutputState = field(default_factory=OutputState)
    showing: str = "input"
    """What the output shows: `input`, `freeze`, `slate` or `nothing` (before the first frame)."""
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """Since the start: frames_decoded, frames_damaged, frames_dropped (before work),
    frames_as_asked, frames_reduced (by a level), frames_inserted, frames_enlarged,
    frames_encoded, frames_repeated, frames_late, stalls,
    level_changes, and discontinuities_KIND."""
    reconnects: dict[Reason, int] = field(default_factory=dict[Reason, int])
    """Of the input, by the reason for which the connection before was lost."""
    delay_seconds: dict[str, float] = field(default_factory=dict[str, float])
    """From a packet's arrival to its frame's being written: p50, p99, max of the last minute."""
    waiting_frames: int = 0
    """Decoded frames that wait for the compute stage."""
    last_frame_age_seconds: float | None = None
    rss_bytes: int = 0
    """Of this process and its children."""

    @property
    def news(self) -> tuple[object, ...]:
        """What is reported at once when it changes: not counts, delays and memory."""
        sink = self.output_state
        return (self.state, self.reason, self.message, self.level, bool(self.warning),
                self.showing, self.input, self.output, sink.connected, sink.reason, sink.message,
                sink.files)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def status_of(document: dict[str, Any]) -> LiveStatus:
    """Read what `to_json` returned; raise ValueError for anything else."""
    try:
        sink = dict(document.get("output_state", {}))
        sink["files"] = tuple(sink.get("files", ()))
        whole: dict[str, Any] = {**document, "output_state": OutputState(**sink)}
        return LiveStatus(**whole)
    except TypeError as error:
        raise ValueError(f"got no status: {error}") from error


STILL_SECONDS = 60.0
"""Without a new picture, while frames come in, after which a stream counts as hung."""


class StallDetector:
    """Measures for how long frames have come in without a new picture going out.

    A driver may never return from a call. Then statuses and frames still come, and the output
    repeats its last picture. A plain value, without a clock.
    """

    def __init__(self) -> None:
        self._pictures = 0
        self._since: float | None = None
        self._arrived = 0

    @property
    def began(self) -> bool:
        """Whether a first picture has gone out."""
        return self._pictures > 0

    def seconds(self, status: LiveStatus, now: float) -> float:
        """Note a status; return the seconds without progress, 0 if there is nothing to do."""
        counts = status.counts
        arrived = counts.get("frames_decoded", 0)
        pictures = counts.get("frames_encoded", 0) - counts.get("frames_repeated", 0)
        pictures += counts.get("frames_left_out", 0)  # counted as repeats, and never encoded
        idle = status.state != "running" or arrived == self._arrived
        if self._since is None or pictures != self._pictures or idle:
            self._since, self._pictures = now, pictures
        self._arrived = arrived
        return now - self._since


K = TypeVar("K", bound=str)

_MOST_FILES = 10
"""Recordings that are remembered, the latest."""


def accumulate_counters(before: LiveStatus | None, status: LiveStatus) -> LiveStatus:
    """Add the counters of a stream's earlier workers to those of its current one."""
    if before is None:
        return status
    old, new = before.output_state, status.output_state
    sink = replace(
        new,
        connections=old.connections + new.connections,
        written=old.written + new.written,
        dropped=_sum(old.dropped, new.dropped),
        files=(*old.files, *new.files)[-_MOST_FILES:],
    )
    return replace(
        status,
        counts=_sum(before.counts, status.counts),
        reconnects=_sum(before.reconnects, status.reconnects),
        output_state=sink,
    )


def _sum(one: Mapping[K, int], other: Mapping[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


class LiveBoard:
    """The latest status of each stream by its name, and news of which of them changed.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, LiveStatus] = {}
        """Of every entry of the configuration, in its order."""
        self._last_frames: dict[str, float] = {}
        self._readers: list[tuple[dict[str, None], asyncio.Event]] = []
        """What each has not seen yet, in the order in which it happened."""

    def last_frame(self, name: str) -> float | None:
        """When a stream's latest frame was decoded: seconds since 1970; None before the first."""
        return self._last_frames.get(name)

    def update(self, status: LiveStatus) -> None:
        """Store the status of a stream."""
        before = self.statuses.get(status.name)
        self.statuses[status.name] = status
        if status.last_frame_age_seconds is not None:
            self._last_frames[status.name] = time.time() - status.last_frame_age_seconds
        if before is None or before.news != status.news:
            self._notify(status.name)

    def forget(self, name: str) -> None:
        """Remove a stream that exists no longer."""
        self._last_frames.pop(name, None)
        if self.statuses.pop(name, None) is not None:
            self._notify(name)

    async def changes(self) -> AsyncGenerator[str]:
        """Yield the names of streams that are new, gone or changed in more than their counts.

        Existing ones come first. A slow reader gets each name once.
        """
        names, news = dict.fromkeys(self.statuses), asyncio.Event()
        news.set()
        self._readers.append((names, news))
        try:
            while True:
                await news.wait()
                news.clear()
                while names:
                    names.pop(name := next(iter(names)))
                    yield name
        finally:
            self._readers.remove((names, news))

    def _notify(self, name: str) -> None:
        for names, news in self._readers:
            names[name] = None
            news.set()
