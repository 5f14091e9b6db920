"""A live input: connected to, probed, and read until it is lost; then a new one takes its place.

The stages, each in its own file: the address (`address`), the connection (`connection`; `srt` for
what a child process reads; `paced` for a file), frames with their times (`frames`, `damage`), the
nominal rate (`rate`), and what holds them together (`reading`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from ...filters.frame import StreamInfo
from ..decode.access import LocalFiles
from ..decode.container import best_video
from ..decode.form import describe
from ..errors import InputLost, UnsupportedMedia
from ..limits import limits
from ..network import RemoteFiles
from ..timestamps import RateVerdict
from .address import LiveAddress
from .failure import cut_off, not_connected
from .frames import Frames
from .paced_file import FileConnection, Pacer, decoding_time
from .rate import ENOUGH_PACKETS, FEWEST_PACKETS, agreed_rate, nominal_rate
from .srt import ChildConnection
from .values import Arrival, LiveForm, SoundPacket

# One connection of a live input: packets with the moment they came, until it is over.

_UDP_SECONDS = 5.0
"""For a first answer by UDP, where TCP can be tried too."""


class Connection(Protocol):
    """What a live input reads from."""

    @property
    def container(self) -> InputContainer:
        """The open container."""
        ...

    @property
    def is_lossy(self) -> bool:
        """Whether packets get lost on the way without a word."""
        ...

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came; ends by InputLost."""
        ...

    def stop(self) -> None:
        """End the reading, from any thread; at the latest after the address's read_seconds."""
        ...

    def close(self) -> None:
        """Let go of all, by the thread that reads. Safe to call twice."""
        ...


class UrlConnection:
    """A connection that this process's FFmpeg makes by itself."""

    def __init__(
        self, address: LiveAddress, *, now: Callable[[], float], lines: deque[str]
    ) -> None:
        """Connect.

        Args:
            address: Where to.
            now: Monotonic seconds, for the arrival of packets.
            lines: Gets what was tried.

        Raises:
            InputLost: if that does not work.
        """
        self._address = address
        self._now = now
        self._stopped = threading.Event()
        self._lines = lines
        self.is_lossy = address.protocol in ("rtp", "udp")
        self._pacer = Pacer() if address.format == "hls" else None
        self.container = self._connect()

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came.

        Raises:
            InputLost: at its end, in whatever way.
        """
        demuxed = self.container.demux(*streams)
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                packet = next(demuxed, None)
            except (FFmpegError, OSError, UnsupportedMedia) as error:
                raise self._cut_off(error, began) from error
            if packet is None or packet.size == 0:  # PyAV ends with an empty one
                raise self._ended(time.monotonic() - began)
            if self._pacer is not None:
                wait = self._pacer.wait_seconds(decoding_time(packet), time.monotonic())
                self._stopped.wait(wait)
            yield packet, self._now()
        raise InputLost("ended", f"{self._address.shown}: stopped")

    def stop(self) -> None:
        """End the reading after the next packet, or the time-out."""
        self._stopped.set()

    def close(self) -> None:
        """Close the container."""
        self.container.close()

    def _connect(self) -> InputContainer:
        address = self._address
        if address.transport is None:
            return self._opened({}, address.connect_seconds)
        chosen = address.remembered.transport or address.transport
        if chosen == "auto":
            return self._udp_then_tcp()
        return self._over(chosen, address.connect_seconds)

    def _udp_then_tcp(self) -> InputContainer:
        """UDP has the shorter delay, where the network lets it through."""
        try:
            return self._over("udp", min(_UDP_SECONDS, self._address.connect_seconds))
        except InputLost as error:
            if error.reason not in ("timed-out", "failed", "unsupported"):
                raise  # TCP would not find it either
            self._lines.append(f"by UDP: {error}; trying TCP")
            if error.reason == "unsupported":  # the server's word: it need not be asked again
                self._address.remembered.transport = "tcp"
        return self._over("tcp", self._address.connect_seconds)

    def _over(self, transport: str, seconds: float) -> InputContainer:
        container = self._opened({"rtsp_transport": transport}, seconds)
        self._address.remembered.transport = "udp" if transport == "udp" else "tcp"
        self._lines.append(f"connected by {transport.upper()}")
        self.is_lossy = transport == "udp"
        return container

    def _opened(self, options: dict[str, str], seconds: float) -> InputContainer:
        address = self._address
        began = time.monotonic()
        local = address.protocol == "file"
        files = LocalFiles(Path(address.url.removeprefix("file:"))) if local else None
        try:
            return av.open(
                address.url if files is None else files.url,
                "r",
                format=address.format,
                options={**address.options, **options, **limits().options},
                metadata_errors="replace",
                timeout=(seconds, address.read_seconds),
                io_open=files or RemoteFiles.of(address.url, address.read_seconds),
            )
        except (FFmpegError, OSError, ValueError, UnsupportedMedia) as error:
            raise not_connected(
                error,
                shown=address.shown,
                url=address.url,
                elapsed_seconds=time.monotonic() - began,
                limit_seconds=min(seconds, address.read_seconds),
            ) from None  # its text has the URL with the password

    def _cut_off(self, error: Exception, began: float) -> InputLost:
        return cut_off(
            error,
            shown=self._address.shown,
            elapsed_seconds=time.monotonic() - began,
            limit=self._address.read_seconds,
        )

    def _ended(self, elapsed_seconds: float) -> InputLost:
        shown, limit = self._address.shown, self._address.read_seconds
        if elapsed_seconds >= 0.9 * limit:  # RTSP ends plainly by a time-out of its own
            return InputLost("timed-out", f"{shown}: nothing came for {elapsed_seconds:.1f} s")
        return InputLost("ended", f"{shown}: the other end has closed the connection")


# What every live input does once it has a connection: probe it, read it until it is lost.

_RATE_SECONDS = 1.0
"""How long the probe may go on for the rate's sake after the first frame."""

_SLOW_RATE_SECONDS = 4.0
"""The same where hardly anything came by then."""

_MOST_ERRORS = 100
"""Packets in a row that the decoder refuses, after which it is the wrong decoder."""

_KEPT_LINES = 100

Event = Arrival | SoundPacket


class ConnectedInput:
    """What a live address and a file paced as one have in common.

    Used by one thread, from `connect` to `close`; `stop` may come from any. Made for one
    connection: after `InputLost` a new one is made.
    """

    def __init__(
        self,
        shown: str,
        connect: Callable[[deque[str]], Connection],
        *,
        sound: bool,
    ) -> None:
        self._shown = shown
        self._make_connection = connect
        self._wants_sound = sound
        self._connection: Connection | None = None
        self._frames: Frames | None = None
        self._stopped = False
        self._counts: Counter[str] = Counter(frames_decoded=0, frames_damaged=0, packets_corrupt=0)
        self._ready: deque[Event] = deque()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.last_frame_at: float | None = None
        """When the packet of the last whole frame came, on the clock of `now`."""

    @property
    def counts(self) -> dict[str, int]:
        """frames_decoded (and given), frames_damaged, packets_corrupt."""
        return dict(self._counts)

    @property
    def gop_seconds(self) -> Fraction | None:
        """From keyframe to keyframe, the last time; None until two came."""
        return None if self._frames is None else self._frames.gop_seconds

    def connect(self) -> None:
        """Connect, and find the streams.

        Raises:
            InputLost: if that does not work, or there is no video.
        """
        connection = self._connection = self._make_connection(self._lines)
        if self._stopped:
            connection.stop()
        self._video = self._best_video(connection.container)
        self._sound = _best_sound(connection.container) if self._wants_sound else None
        self._frames = Frames(
            self._video, self._sound, lossy=connection.is_lossy, counts=self._counts
        )
        streams = [self._video, *([self._sound] if self._sound else [])]
        self._packets = connection.packets(streams)

    def probe(self, deadline_seconds: float = 10.0) -> LiveForm:
        """Read until the first whole frame, which tells what the stream is.

        Args:
            deadline_seconds: How long that may take.

        Raises:
            InputLost: if none comes in time, or it is none that we can work on.
        """
        ends = time.monotonic() + deadline_seconds
        times: list[Fraction] = []
        while (first := self._first_arrival()) is None:
            if time.monotonic() > ends:
                raise self._nothing_decoded(deadline_seconds)
            self._read(times)
        self._ready.remove(first)
        self._ready.appendleft(first)
        return self._form(first, self._rate(times))

    def __iter__(self) -> Iterator[Event]:
        """Give frames and sound as they come, the probed frame first.

        Raises:
            InputLost: at the end, which is the only way that it ends.
        """
        while True:
            while self._ready:
                yield self._ready.popleft()
            self._read(None)

    def stop(self) -> None:
        """End the reading soon, from any thread; the iteration ends by InputLost, "ended"."""
        self._stopped = True
        if self._connection is not None:
            self._connection.stop()

    def close(self) -> None:
        """Let go of the connection. Safe to call twice, by the thread that reads."""
        self._ready.clear()
        if self._connection is not None:
            self._connection.close()

    def lines(self) -> list[str]:
        """Give what the connection said, for people and without secrets; the last 100."""
        return list(self._lines)

    def _best_video(self, container: InputContainer) -> VideoStream:
        try:
            limits().check(container, self._shown)
            return best_video(container, self._shown, sized=False)
        except UnsupportedMedia as error:
            raise InputLost("unsupported", str(error)) from error

    def _read(self, times: list[Fraction] | None) -> None:
        """Take the next packet; what it makes waits in `_ready`."""
        assert self._frames is not None, "connect comes first"
        packet, arrived = next(self._packets)
        if times is not None and packet.stream_index == self._video.index and packet.size:
            times.extend(_time_of(packet))
        try:
            events = list(self._frames.take(packet, arrived))
        except (FFmpegError, ValueError) as error:  # the deinterlacer does not take the format
            raise InputLost("unsupported", f"{self._shown}: {error}") from error
        for event in events:
            if isinstance(event, Arrival):
                self.last_frame_at = event.arrived
        self._ready.extend(events)
        if self._frames.errors_in_a_row >= _MOST_ERRORS:
            raise self._undecodable()

    def _first_arrival(self) -> Arrival | None:
        return next((event for event in self._ready if isinstance(event, Arrival)), None)

    def _rate(self, times: list[Fraction]) -> Fraction:
        """Decide on the rate: what the stream claims, once its timestamps say so or not."""
        claims = [self._video.codec_context.framerate, self._video.average_rate]
        began = time.monotonic()
        while (agreed := agreed_rate(times, claims)) is None:
            is_slow = len(times) < FEWEST_PACKETS
            limit = _SLOW_RATE_SECONDS if is_slow else _RATE_SECONDS
            if len(times) >= ENOUGH_PACKETS or time.monotonic() - began > limit:
                return nominal_rate(times, claims)
            self._read(times)
        return agreed

    def _form(self, first: Arrival, rate: Fraction) -> LiveForm:
        assert self._connection is not None
        return LiveForm(
            info=self._info(self._connection.container, first, rate),
            codec=self._video.codec_context.name,
            gop_seconds=self.gop_seconds,
            sound=self._sound,
        )

    def _info(self, container: InputContainer, first: Arrival, rate: Fraction) -> StreamInfo:
        try:
            info = describe(
                container,
                self._video,
                first.frame,
                verdict=RateVerdict(rate, rate, "live"),
                field_order="progressive",
                seen=None,
                num_images=None,
                path=None,
            )
        except UnsupportedMedia as error:
            raise InputLost("unsupported", f"{self._shown}: {error}") from error
        return replace(info, num_frames=None, duration_seconds=None)

    def _nothing_decoded(self, seconds: float) -> InputLost:
        codec = self._video.codec_context.name
        return InputLost(
            "timed-out", f"{self._shown}: no whole frame of {codec} within {seconds:g} s"
        )

    def _undecodable(self) -> InputLost:
        codec = self._video.codec_context.name
        return InputLost(
            "format-changed" if self._counts["frames_decoded"] else "unsupported",
            f"{self._shown}: {_MOST_ERRORS} packets in a row are no {codec}",
        )


def _best_sound(container: InputContainer) -> AudioStream | None:
    best = container.streams.best("audio")
    return best if isinstance(best, AudioStream) else None


def _time_of(packet: Packet[Stream]) -> list[Fraction]:
    return [] if packet.pts is None else [packet.pts * packet.time_base]


class LiveInput(ConnectedInput):
    """One connection to a live address."""

    def __init__(
        self,
        address: LiveAddress,
        *,
        now: Callable[[], float] = time.monotonic,
        sound: bool = True,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: From :func:`~upframe.io.live.address.find_address`.
            now: Monotonic seconds, for the arrival of packets.
            sound: Whether the sound is passed along.
        """

        def connect(lines: deque[str]) -> Connection:
            if address.needs_ffmpeg:
                return ChildConnection(address, now=now, lines=lines)
            return UrlConnection(address, now=now, lines=lines)

        super().__init__(address.shown, connect, sound=sound)


class PacedFile(ConnectedInput):
    """A file as a camera would send it: each packet at its time."""

    def __init__(
        self,
        path: Path,
        *,
        loop: bool = False,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        sound: bool = True,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path: The file.
            loop: Whether it begins anew at its end, its time line going on.
            speed: Seconds of the file in a real second.
            now: For the arrival of packets. To run a whole stream faster, let it run as much
                faster as `speed` says.
            sound: Whether the sound is passed along.
        """

        def connect(_: deque[str]) -> Connection:
            return FileConnection(path, loop=loop, speed=speed, now=now)

        super().__init__(str(path), connect, sound=sound)
