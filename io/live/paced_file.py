"""A file read at the pace of its timestamps, as a live input sends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..decode.container import find_target, open_container
from ..errors import InputLost, UnsupportedMedia

_AWAY_SECONDS = 0.5
"""By which the video must be late for the pace to begin anew, as nobody was there to take it."""


class FileConnection:
    """Gives a file's packets, each when its time has come."""

    is_lossy = False

    def __init__(self, path: Path, *, loop: bool, speed: float, now: Callable[[], float]) -> None:
        """Open the file.

        Raises:
            SourceMissing: if it is not there.
            UnsupportedMedia: if it is no media.
            ValueError: if the speed is not above 0.
        """
        if speed <= 0:
            raise ValueError(f"speed must be above 0, got {speed}")
        self._path, self._loop, self._speed, self._now = path, loop, speed, now
        self._stopped = threading.Event()
        self.container: InputContainer = open_container(find_target(str(path)))

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams, the video first, and the moment of each, by `now`.

        Raises:
            InputLost: at the end of the file ("ended"), or where it is stopped.
        """
        began, span = time.monotonic(), _Span(streams[0].index)
        while True:
            for packet in self._run(streams):
                due = span.take(packet)
                if due is not None:
                    late = self._wait_until(began + float(due) / self._speed)
                    if late > _AWAY_SECONDS and packet.stream_index == streams[0].index:
                        began += late
                yield packet, self._now()
            if not self._loop:
                raise InputLost("ended", f"{self._path}: at its end")
            span.begin_anew(self._path)
            self.container.seek(0)

    def stop(self) -> None:
        """End the reading at once."""
        self._stopped.set()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _run(self, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
        """Demux to the end; the empty packets there ask for what the decoder holds."""
        try:
            yield from self.container.demux(*streams)
        except FFmpegError as error:
            what = error.strerror or str(error)
            raise InputLost("failed", f"{self._path}: reading failed: {what}") from error

    def _wait_until(self, moment: float) -> float:
        """Wait; give the seconds by which it is too late for that."""
        late = time.monotonic() - moment
        self._stopped.wait(max(0.0, -late))
        if self._stopped.is_set():
            raise InputLost("ended", f"{self._path}: stopped")
        return late


class _Span:
    """The time line of a file that is played again and again, each round as long as its video."""

    def __init__(self, video_index: int) -> None:
        self._video_index = video_index
        self._first: Fraction | None = None
        self._shown: tuple[Fraction, Fraction] | None = None  # of the video, start and end
        self._offset = Fraction(0)

    def take(self, packet: Packet[Stream]) -> Fraction | None:
        """Move a packet to its round; give when it is due, seconds from the very first one.

        None where that cannot be told.
        """
        base, stamp = packet.time_base, packet.dts if packet.dts is not None else packet.pts
        if stamp is None:  # PyAV's empty packet at the end, too
            return None
        if self._first is None:
            self._first = stamp * base
        if packet.stream_index == self._video_index:
            self._show(packet, stamp)
        due = stamp * base - self._first + self._offset
        shift = round(self._offset / base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift
        return due

    def begin_anew(self, path: Path) -> None:
        """Begin the next round where this one ends."""
        if self._shown is None or self._shown[0] >= self._shown[1]:
            raise UnsupportedMedia(f"{path}: has no timestamps, wanted some to repeat it by")
        self._offset += self._shown[1] - self._shown[0]

    def _show(self, packet: Packet[Stream], stamp: int) -> None:
        start = (stamp if packet.pts is None else packet.pts) * packet.time_base
        end = start + (packet.duration or 0) * packet.time_base
        before = self._shown or (start, end)
        self._shown = min(before[0], start), max(before[1], end)


# Packets that come in bursts, let go at the pace of their timestamps.
#
# An HLS input comes a segment at a time: seconds of frames at once, then nothing. Let through as
# it comes, it would look like a stall, and most frames of each burst would be dropped as too old.
# Let go one by one it is as even as any camera, some segments behind the sender, as every player
# is.

_LATE_SECONDS = 0.5
"""By which a packet must be late for the pace to begin anew: the sender, or the way, was slow."""
_JUMP_SECONDS = 5.0
"""From one packet to the next, more is a jump of the sender's clock, not a pause."""


class Pacer:
    """Tells when packets are due. A plain value: it is told the time, and waits for nothing."""

    def __init__(self) -> None:
        self._anchor: float | None = None  # moment of the timestamp 0
        self._last = 0.0

    def wait_seconds(self, stamp: Fraction | None, now: float) -> float:
        """Tell how long a packet has to wait.

        Args:
            stamp: its decoding timestamp, seconds; None where it has none.
            now: monotonic seconds.

        Returns:
            Seconds; 0 where it goes at once.
        """
        if stamp is None:
            return 0.0
        seconds = float(stamp)
        jumped = abs(seconds - self._last) > _JUMP_SECONDS
        if self._anchor is None or jumped or now - (self._anchor + seconds) > _LATE_SECONDS:
            self._anchor = now - seconds
        self._last = seconds
        return max(0.0, self._anchor + seconds - now)


def decoding_time(packet: Packet[Stream]) -> Fraction | None:
    """Give when a packet is to be decoded, in seconds of its sender's clock."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else stamp * packet.time_base
