"""Connections of live inputs: made by this FFmpeg, by the ffmpeg program, or a file paced as one.

Each gives packets with the moment of their arrival until it ends, by `InputLost`.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..child import Child, Waker
from ..decode.access import LocalFiles
from ..decode.demuxer import find_target, open_container
from ..errors import InputLost, Reason, UnsupportedMedia
from ..limits import limits
from ..parent_death import with_parent_death
from ..web import RemoteFiles
from .address import LiveAddress
from .failure import cut_off, not_connected, reason_of_words

# One connection of a live input: packets with the moment they came, until it is over.

_UDP_SECONDS = 5.0
"""For a first answer by UDP, where TCP can be tried too."""


class InputConnection(Protocol):
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
        self._pacer = BurstPacer() if address.format == "hls" else None
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


class BurstPacer:
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


PROGRAM = "ffmpeg"

_END_SECONDS = 2.0
_NO_KEYFRAME = "dimensions not set"
"""What the program says where it has not seen a keyframe and so does not know the size."""

_LONGEST_LOOK = 0.8
"""Of the time that connecting may take."""

_OPTIONS = {"fpsprobesize": "0", "probesize": "32"}
"""Of our own demuxer: NUT's header tells all."""


class FfmpegConnection:
    """A connection that the ffmpeg program makes; Python reads its packets from a pipe."""

    is_lossy = False  # SRT sends again what was lost; what came too late its demuxer marks

    def __init__(
        self, address: LiveAddress, *, now: Callable[[], float], lines: deque[str]
    ) -> None:
        """Start the program and wait for its first packets.

        Args:
            address: What it is to read.
            now: Monotonic seconds, for the arrival of packets.
            lines: Gets what it says on stderr.

        Raises:
            InputLost: if it is not there, or cannot connect.
        """
        self._address, self._now = address, now
        self._lines = lines
        command = self._command()
        self._waker = Waker()
        self._child = Child(command, self._waker, text=False)
        self._pipe = _ChildPipe(self._child)
        self._ended = False
        try:
            self.container = self._opened()
        except BaseException:
            self._end()
            raise

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Give packets of some streams and the monotonic second each came.

        Raises:
            InputLost: at its end, in whatever way.
        """
        demuxed = self.container.demux(*streams)
        while not self._pipe.stopped:
            self._pipe.ends_at = time.monotonic() + self._address.read_seconds
            try:
                packet = next(demuxed, None)
            except (FFmpegError, OSError) as error:
                raise self._lost("connection lost", "failed") from error
            if packet is None or packet.size == 0:
                if self._pipe.stopped:
                    break
                raise self._lost("connection lost", "ended")
            yield packet, self._now()
        raise InputLost("ended", f"{self._address.shown}: stopped")

    def stop(self) -> None:
        """End the child, and with it the reading, at once."""
        self._pipe.stopped = True
        self._waker.wake()

    def close(self) -> None:
        """Close the container, end the child and wait for it."""
        self.container.close()
        self._end()

    def _command(self) -> list[str]:
        program = shutil.which(PROGRAM)
        if program is None:
            raise InputLost(
                "unsupported",
                f"{self._address.shown}: {self._address.protocol} needs the program {PROGRAM}, "
                "which is not there",
            )
        command = [program, "-nostdin", "-hide_banner", "-loglevel", "warning"]
        look = round(self._address.remembered.look_seconds * 1e6)
        command += ["-analyzeduration", str(look), "-fpsprobesize", "0"]
        command += ["-rw_timeout", self._address.options["rw_timeout"]]
        command += ["-i", self._address.url, "-map", "0:v:0", "-map", "0:a:0?", "-c", "copy"]
        command += ["-flush_packets", "1", "-f", "nut", "-"]
        return with_parent_death(command)

    def _opened(self) -> InputContainer:
        self._pipe.ends_at = time.monotonic() + self._address.connect_seconds
        try:
            return av.open(cast("BinaryIO", self._pipe), "r", format="nut", options=_OPTIONS)
        except (FFmpegError, OSError) as error:
            raise self._lost("not connected", "failed") from error

    def _lost(self, what: str, otherwise: Reason) -> InputLost:
        """Let the program end, and take its word for why, where it has one."""
        self._end()
        if any(_NO_KEYFRAME in line for line in self._lines):
            self._look_longer()
        said = "; ".join(list(self._lines)[-3:])
        reason = reason_of_words(said)
        if self._pipe.timed_out:
            reason, said = "timed-out", "nothing came in time"
        elif reason == "failed":
            reason = otherwise
        why = said or "the other end has closed it"
        return InputLost(reason, f"{self._address.shown}: {what}: {why}")

    def _look_longer(self) -> None:
        longest = _LONGEST_LOOK * self._address.connect_seconds
        remembered = self._address.remembered
        remembered.look_seconds = min(2 * remembered.look_seconds, longest)

    def _end(self) -> None:
        """End the program gently, then by force, and keep its last lines. Safe to call twice."""
        child = self._child
        if child.returncode is None:
            child.signal(signal.SIGTERM)
            ends = time.monotonic() + _END_SECONDS
            while child.returncode is None and (left := ends - time.monotonic()) > 0:
                child.turn(left)
        child.close()
        self._waker.close()
        if not self._ended:
            self._lines.extend(child.tail.lines())
            self._ended = True


class _ChildPipe:
    """The stdout of a child as PyAV takes it, with a moment at which waiting ends."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.ends_at = 0.0
        self.stopped = False
        """Set by another thread to end the reading."""
        self.timed_out = False
        """Whether the waiting has ended, and not the pipe."""

    def read(self, size: int) -> bytes:
        """Return what is there, up to `size` bytes, waiting for the first; none at the end."""
        while not (data := self._child.read(size)) and not self._child.stdout_ended:
            left = self.ends_at - time.monotonic()
            if self.stopped:
                break
            if left <= 0:
                self.timed_out = True  # an error would be printed for each try of the demuxer
                break
            self._child.turn(left)
        return data
