"""A file that is played over and over, as one stream without an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from av.packet import Packet
from av.stream import Stream

from upframe.io.live.input_connection import FileConnection
from upframe.io.live.live_input import ConnectedInput


class LoopedFile(ConnectedInput):
    """As `PacedFile`, but after its end the file begins again, its time line going on."""

    def __init__(
        self, source: Path, *, speed: float = 1.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(
            str(source),
            lambda _: _LoopedConnection(str(source), speed=speed, now=now),
            sound=True,
        )


class _LoopedConnection(FileConnection):
    def _demuxed(self, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
        rounds = _Rounds(streams[0].index)
        while True:
            for packet in super()._demuxed(streams):
                rounds.move(packet)
                yield packet
            rounds.restart()
            self.container.seek(0)


class _Rounds:
    """The time line, on which each round is as long as its video."""

    def __init__(self, video_index: int) -> None:
        self._video_index = video_index
        self._extent: tuple[Fraction, Fraction] | None = None  # of the video, start and end
        self._offset = Fraction(0)

    def move(self, packet: Packet[Stream]) -> None:
        """Move a packet to its round; the empty one at the end has no time."""
        base, stamp = packet.time_base, packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return
        if packet.stream_index == self._video_index:
            start = (stamp if packet.pts is None else packet.pts) * base
            end = start + (packet.duration or 0) * base
            before = self._extent or (start, end)
            self._extent = min(before[0], start), max(before[1], end)
        shift = round(self._offset / base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift

    def restart(self) -> None:
        """Begin the next round where this one ends."""
        assert self._extent is not None
        self._offset += self._extent[1] - self._extent[0]
