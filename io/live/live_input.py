"""A live input: connects, probes, and reads until the connection is lost."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from ..decode.demuxer import best_video
from ..decode.survey import describe
from ..errors import InputLost, Reason, UnsupportedMedia
from ..limits import limits
from ..redaction import redacted
from ..timestamps import RateVerdict
from .address import LiveAddress
from .clock import positive
from .frames import LiveDecoder
from .input_connection import FfmpegConnection, FileConnection, InputConnection, UrlConnection
from .values import DecodedFrame, LiveForm, SoundPacket

_RATE_SECONDS = 1.0
"""How long the probe may continue after the first frame to determine the rate."""

_SLOW_RATE_SECONDS = 4.0
"""The same if hardly anything has come by then."""

_MOST_ERRORS = 100
"""Packets in a row that the decoder refuses, after which it is the wrong decoder."""

_KEPT_LINES = 100

Event = DecodedFrame | SoundPacket
_GOPS_KEPT = 4


class ConnectedInput:
    """What a live address and a paced file have in common.

    Used by one thread, from `connect` to `close`; `stop` may be called by any. For one
    connection: after `InputLost` a new one is made.
    """

    def __init__(
        self, display: str, connect: Callable[[deque[str]], InputConnection], *, sound: bool
    ) -> None:
        self._display = display
        self._make_connection = connect
        self._wants_sound = sound
        self._connection: InputConnection | None = None
        self._decoder: LiveDecoder | None = None
        self._stopped = False
        self._counts: Counter[str] = Counter(frames_decoded=0, frames_damaged=0, packets_corrupt=0)
        self._ready: deque[Event] = deque()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.last_frame_at: float | None = None
        """When the packet of the last undamaged frame came, on the clock of `now`."""

    @property
    def counts(self) -> dict[str, int]:
        """frames_decoded (and yielded), frames_damaged, packets_corrupt."""
        return dict(self._counts)

    @property
    def gop_seconds(self) -> Fraction | None:
        """From keyframe to keyframe, the last time; None until two came."""
        return None if self._decoder is None else self._decoder.gop_seconds

    def connect(self) -> None:
        """Connect, and find the streams.

        Raises:
            InputLost: if that fails, or there is no video.
        """
        connection = self._connection = self._make_connection(self._lines)
        if self._stopped:
            connection.stop()
        self._video = self._best_video(connection.container)
        sound = connection.container.streams.best("audio") if self._wants_sound else None
        self._sound = sound if isinstance(sound, AudioStream) else None
        self._decoder = LiveDecoder(
            self._video, self._sound, lossy=connection.is_lossy, counts=self._counts
        )
        streams = [self._video, *([self._sound] if self._sound else [])]
        self._packets = connection.packets(streams)

    def probe(self, deadline_seconds: float = 10.0) -> LiveForm:
        """Read until the first undamaged frame, within a deadline, and describe the stream by it.

        Raises:
            InputLost: if no frame comes in time, or its format is not supported.
        """
        ends = time.monotonic() + deadline_seconds
        times: list[Fraction] = []
        while (first := self._first_frame()) is None:
            if time.monotonic() > ends:
                codec = self._video.codec_context.name
                what = f"no whole frame of {codec} within {deadline_seconds:g} s"
                raise InputLost("timed-out", f"{self._display}: {what}")
            self._read(times)
        self._ready.remove(first)
        self._ready.appendleft(first)
        rate = self._rate(times)
        try:
            verdict = RateVerdict(rate, rate, "live")
            info = describe(self._video, first.frame, verdict=verdict, field_order="progressive")
        except UnsupportedMedia as error:
            raise InputLost("unsupported", f"{self._display}: {error}") from error
        return LiveForm(
            info=info,
            codec=self._video.codec_context.name,
            gop_seconds=self.gop_seconds,
            sound=self._sound,
        )

    def __iter__(self) -> Iterator[Event]:
        """Yield frames and sound as they come, the probed frame first.

        Raises:
            InputLost: at the end; the iteration never ends otherwise.
        """
        while True:
            while self._ready:
                yield self._ready.popleft()
            self._read(None)

    def stop(self) -> None:
        """End the reading soon: the iteration raises InputLost, "ended". Thread-safe."""
        self._stopped = True
        if self._connection is not None:
            self._connection.stop()

    def close(self) -> None:
        """Close the connection, on the thread that reads. May be called twice."""
        self._ready.clear()
        if self._connection is not None:
            self._connection.close()

    def lines(self) -> list[str]:
        """Return the last 100 messages about the connection, without secrets."""
        return list(self._lines)

    def _best_video(self, container: InputContainer) -> VideoStream:
        try:
            limits().check(container, self._display)
            return best_video(container, self._display, sized=False)
        except UnsupportedMedia as error:
            raise InputLost("unsupported", str(error)) from error

    def _read(self, times: list[Fraction] | None) -> None:
        """Read the next packet into `_ready`, and its time into `times`."""
        assert self._decoder is not None, "connect comes first"
        packet, arrived = next(self._packets)
        is_video = packet.stream_index == self._video.index and packet.size
        if times is not None and is_video and packet.pts is not None:
            times.append(packet.pts * packet.time_base)
        try:
            events = list(self._decoder.take(packet, arrived))
        except (FFmpegError, ValueError) as error:  # the deinterlacer does not accept the format
            raise InputLost("unsupported", f"{self._display}: {error}") from error
        for event in events:
            if isinstance(event, DecodedFrame):
                self.last_frame_at = event.arrived
        self._ready.extend(events)
        if self._decoder.errors_in_a_row >= _MOST_ERRORS:
            reason: Reason = "format-changed" if self._counts["frames_decoded"] else "unsupported"
            what = f"{_MOST_ERRORS} packets in a row are no {self._video.codec_context.name}"
            raise InputLost(reason, f"{self._display}: {what}")

    def _first_frame(self) -> DecodedFrame | None:
        return next((event for event in self._ready if isinstance(event, DecodedFrame)), None)

    def _rate(self, times: list[Fraction]) -> Fraction:
        """Choose the nominal rate; read on until the timestamps determine it."""
        claims = [self._video.codec_context.framerate, self._video.average_rate]
        began = time.monotonic()
        while (agreed := agreed_rate(times, claims)) is None:
            is_slow = len(times) < FEWEST_PACKETS
            limit = _SLOW_RATE_SECONDS if is_slow else _RATE_SECONDS
            if len(times) >= ENOUGH_PACKETS or time.monotonic() - began > limit:
                return nominal_rate(times, claims)
            self._read(times)
        return agreed


class LiveInput(ConnectedInput):
    """One connection to a live address of `find_address`; nothing is opened before `connect`.

    Packets are stamped by `now` (monotonic seconds); those of the sound are yielded if `sound`.
    """

    def __init__(
        self, address: LiveAddress, *, now: Callable[[], float] = time.monotonic, sound: bool = True
    ) -> None:
        kind = FfmpegConnection if address.needs_ffmpeg else UrlConnection
        super().__init__(address.display, partial(kind, address, now=now), sound=sound)


class PacedFile(ConnectedInput):
    """A file, or a playlist that has ended, as a camera would send it: each packet at its time.

    `speed` is in seconds of the file in a real second; to run a whole stream faster, `now` runs as
    much faster. Packets of the sound are yielded if `sound`.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sound: bool = True,
    ) -> None:
        name = str(source)
        connection = partial(FileConnection, name, speed=speed, now=now)
        super().__init__(redacted(name), lambda _: connection(), sound=sound)


DEFAULT_RATE = Fraction(25)
"""If nothing determines the rate."""

MIN_RATE, MAX_RATE = Fraction(1, 10), Fraction(240)
"""Frames per second that a claim may be without any timestamps."""

ENOUGH_PACKETS = 12
"""So many timestamps that jitter by a tenth of a frame determine the rate to one per cent."""

FEWEST_PACKETS = 4
"""Fewer determine nothing."""

_NEAR = Fraction(1, 25)
"""Of the measured rate: a claim within that is confirmed."""

_WHOLE = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 100, 120)
_PLAIN = (*(Fraction(rate) for rate in _WHOLE), Fraction(15, 2), Fraction(25, 2))
_NTSC = tuple(Fraction(rate * 1000, 1001) for rate in (24, 30, 60))
_STANDARD = (*_PLAIN, *_NTSC)

_EVEN = Fraction(1, 100)
"""Of an interval: timestamps that jitter by more do not distinguish 29.97 from 30."""


def agreed_rate(times: Sequence[Fraction], claims: Sequence[Fraction | None]) -> Fraction | None:
    """Return the rate that all claims name, if the first few timestamps confirm it."""
    claim, measured = claims[0] if claims else None, measured_rate(times)
    if not claim or claim not in _STANDARD or any(other != claim for other in claims):
        return None
    return claim if measured is not None and _is_near(claim, measured) else None


def nominal_rate(times: Sequence[Fraction], claims: Iterable[Fraction | None]) -> Fraction:
    """Choose the nominal rate: what the stream claims, if its timestamps confirm it.

    Cameras claim rates that they do not keep (25 in the bitstream, 15 on the wire), and FFmpeg's
    estimate from a few jittering timestamps is no usual rate. `times` are of some consecutive
    packets, in seconds, in any order; `claims` are from the headers, the most exact first. Returned
    are frames per second: a claim, else a usual rate near the measured one, else that.
    """
    known = [claim for claim in claims if claim]
    measured = measured_rate(times)
    if measured is None:
        plausible = (claim for claim in known if MIN_RATE <= claim <= MAX_RATE)
        return next(plausible, DEFAULT_RATE)
    for claim in known:
        if _is_near(claim, measured) and (claim in _STANDARD or claim.denominator <= 2):
            return claim
    usual = min(_STANDARD if _is_even(times) else _PLAIN, key=lambda rate: abs(rate - measured))
    if _is_near(usual, measured):
        return usual
    return measured.limit_denominator(100)


def measured_rate(times: Sequence[Fraction]) -> Fraction | None:
    """Measure frames per second by their times; None if these do not suffice."""
    gaps = _gaps(times)
    return len(gaps) / sum(gaps, Fraction(0)) if gaps else None


def _gaps(times: Sequence[Fraction]) -> list[Fraction]:
    """Return the intervals between packets without losses and bursts; none if too few."""
    rising = sorted(times)
    gaps = [after - before for before, after in pairwise(rising) if after > before]
    if len(gaps) < FEWEST_PACKETS - 1:
        return []
    usual = median(gaps)
    return [gap for gap in gaps if usual / 2 < gap < usual * 3 / 2]


def _is_even(times: Sequence[Fraction]) -> bool:
    gaps = _gaps(times)
    return bool(gaps) and max(gaps) - min(gaps) <= _EVEN * min(gaps)


def _is_near(claim: Fraction, measured: Fraction) -> bool:
    return abs(claim - measured) <= _NEAR * measured


_STALLED_SECONDS, _STALLED_INTERVALS = 1.0, 8
_LOST_SECONDS, _LOST_GOPS, _LOST_INTERVALS = 10.0, 3, 20


@dataclass(eq=False)
class StallRule:
    """Judges silence by the stream's own rate and keyframe interval.

    Silence means no decoded frame: bytes may arrive meanwhile. After damage there is nothing
    to show before the next keyframe, so a silence of one group of pictures is normal; a
    fixed limit would reconnect to a slow source over and over.

    Raises:
        ValueError: for a rate that is not positive.
    """

    rate: Fraction
    """Nominal frames per second."""
    gop_seconds: Fraction | None
    """From keyframe to keyframe; None if not yet known."""
    given_seconds: float | None = None
    """The user's limit, instead of the stream's own one."""

    def __post_init__(self) -> None:
        self._interval = float(1 / positive(self.rate))
        self._gops: deque[float] = deque(maxlen=_GOPS_KEPT)
        if self.gop_seconds is not None:
            self.observed(self.gop_seconds)

    @property
    def stalled_seconds(self) -> float:
        """Silence after which the connection is stalled."""
        return min(max(_STALLED_SECONDS, _STALLED_INTERVALS * self._interval), self.lost_seconds)

    @property
    def lost_seconds(self) -> float:
        """Silence after which the connection is given up."""
        if self.given_seconds is not None:
            return self.given_seconds
        gop = max(self._gops, default=0.0)
        return max(_LOST_SECONDS, _LOST_GOPS * gop, _LOST_INTERVALS * self._interval)

    def judge(self, silent_seconds: float) -> Literal["running", "stalled", "lost"]:
        """Judge by the seconds since the last decoded frame, or since connecting."""
        if silent_seconds >= self.lost_seconds:
            return "lost"
        return "stalled" if silent_seconds >= self.stalled_seconds else "running"

    def observed(self, gop_seconds: Fraction | float) -> None:
        """Note the seconds between two keyframes; the longest of the last few counts."""
        self._gops.append(float(gop_seconds))
