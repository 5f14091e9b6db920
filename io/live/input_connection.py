"""Connections of live inputs: made by our FFmpeg, by the ffmpeg program, or a file paced like one.

Each yields packets with the moment of their arrival until it ends, by `InputLost`. PyAV's
libraries have no SRT, so the ffmpeg program reads it and copies its packets into NUT, which keeps
timestamps and needs no seeking. Its command line has the URL with the passphrase, which everybody
who may list this user's processes can read; FFmpeg accepts it in no other way.
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
from typing import BinaryIO, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ..child import Child, Waker, with_parent_death
from ..decode.access import LocalFiles
from ..decode.demuxer import find_target, open_container
from ..errors import InputLost, Reason, UnsupportedMedia
from ..limits import limits
from ..web import RemoteFiles
from .address import HLS_READ_SECONDS, LiveAddress
from .failure import lost_by, reason_of_words

_UDP_SECONDS = 5.0
"""For a first answer over UDP, when TCP can be tried too."""


class InputConnection:
    """One connection of a live input from its making to its end; `display` names it to people."""

    container: InputContainer
    is_lossy = False
    """Whether packets get lost silently."""

    def __init__(self, display: str, now: Callable[[], float]) -> None:
        self._display, self._now = display, now
        self._stopped = threading.Event()

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Yield packets of some streams, the video first, and the moment each came, by `now`.

        Raises:
            InputLost: when it ends, for whatever reason.
        """
        demuxed = self.container.demux(*streams)
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                packet = self._next(demuxed)
            except (FFmpegError, OSError, UnsupportedMedia) as error:
                raise self._lost(error, time.monotonic() - began) from error
            if packet is None or packet.size == 0:  # PyAV ends with an empty one
                raise self._ended(time.monotonic() - began)
            yield packet, self._now()
        raise self._as_stopped()

    def stop(self) -> None:
        """End the reading: at once, but by a URL after the next packet or timeout. Thread-safe."""
        self._stopped.set()

    def close(self) -> None:
        """Close the container and what it reads from, on the thread that reads."""
        self.container.close()

    def _next(self, demuxed: Iterator[Packet[Stream]]) -> Packet[Stream] | None:
        return next(demuxed, None)

    def _lost(self, error: Exception, elapsed_seconds: float) -> InputLost:
        raise NotImplementedError

    def _ended(self, elapsed_seconds: float) -> InputLost:
        raise NotImplementedError

    def _as_stopped(self) -> InputLost:
        return InputLost("ended", f"{self._display}: stopped")


class UrlConnection(InputConnection):
    """A connection made by this process's FFmpeg; `lines` receives what was tried.

    Raises:
        InputLost: if it cannot be made.
    """

    def __init__(
        self, address: LiveAddress, lines: deque[str], *, now: Callable[[], float]
    ) -> None:
        super().__init__(address.display, now)
        self._address, self._lines = address, lines
        self.is_lossy = address.protocol in ("rtp", "udp")
        self._pacer = BurstPacer() if address.format == "hls" else None
        self.container = self._connect()

    def _next(self, demuxed: Iterator[Packet[Stream]]) -> Packet[Stream] | None:
        packet = next(demuxed, None)
        if self._pacer is not None and packet is not None:
            wait = self._pacer.wait_seconds(_decoding_time(packet), time.monotonic())
            self._stopped.wait(wait)
        return packet

    def _connect(self) -> InputContainer:
        address = self._address
        if address.transport is None:
            return self._opened({}, address.connect_seconds)
        chosen = address.remembered.transport or address.transport
        if chosen == "auto":  # UDP has the shorter delay, if the network lets it through
            try:
                return self._over("udp", min(_UDP_SECONDS, self._address.connect_seconds))
            except InputLost as error:
                if error.reason not in ("timed-out", "failed", "unsupported"):
                    raise  # TCP would not find it either
                self._lines.append(f"by UDP: {error}; trying TCP")
                if error.reason == "unsupported":  # the server says so: it need not be asked again
                    self._address.remembered.transport = "tcp"
            return self._over("tcp", self._address.connect_seconds)
        return self._over(chosen, address.connect_seconds)

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
            raise lost_by(
                error,
                display=address.display,
                url=address.url,
                elapsed_seconds=time.monotonic() - began,
                limit_seconds=min(seconds, address.read_seconds),
            ) from None  # its text has the URL with the password

    def _lost(self, error: Exception, elapsed_seconds: float) -> InputLost:
        limit = self._address.read_seconds
        return lost_by(
            error, display=self._display, elapsed_seconds=elapsed_seconds, limit_seconds=limit
        )

    def _ended(self, elapsed_seconds: float) -> InputLost:
        if elapsed_seconds >= 0.9 * self._address.read_seconds:
            # RTSP ends without an error after its own timeout
            text = f"{self._display}: nothing came for {elapsed_seconds:.1f} s"
            return InputLost("timed-out", text)
        return InputLost("ended", f"{self._display}: the other end has closed the connection")


_AWAY_SECONDS = 0.5
"""By which the video must be late for the pace to restart, since nobody read meanwhile."""


class FileConnection(InputConnection):
    """Reads a file, or a playlist that has ended, and yields each packet when its time has come.

    `speed` is in seconds of the file in a real second, and above 0.

    Raises:
        SourceMissing: if it is not there.
        UnsupportedMedia: if it is no media.
        ValueError: if the speed is not above 0.
    """

    def __init__(self, source: str, *, speed: float, now: Callable[[], float]) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, got {speed}")
        target = find_target(source)
        super().__init__(target.name, now)
        self._speed = speed
        self.container = open_container(target, HLS_READ_SECONDS)

    def packets(self, streams: Sequence[Stream]) -> Iterator[tuple[Packet[Stream], float]]:
        """Yield packets as every connection does; the empty ones at the end flush the decoder."""
        began, first = time.monotonic(), None
        for packet in self._demuxed(streams):
            stamp = _decoding_time(packet)
            if stamp is not None:  # as PyAV's empty packet at the end has none
                first = stamp if first is None else first
                late = self._wait_until(began + float(stamp - first) / self._speed)
                if late > _AWAY_SECONDS and packet.stream_index == streams[0].index:
                    began += late
            yield packet, self._now()
        raise InputLost("ended", f"{self._display}: at its end")

    def _demuxed(self, streams: Sequence[Stream]) -> Iterator[Packet[Stream]]:
        try:
            yield from self.container.demux(*streams)
        except FFmpegError as error:
            what = error.strerror or str(error)
            raise InputLost("failed", f"{self._display}: reading failed: {what}") from error

    def _wait_until(self, moment: float) -> float:
        """Wait; return the seconds by which it was too late for that."""
        late = time.monotonic() - moment
        self._stopped.wait(max(0.0, -late))
        if self._stopped.is_set():
            raise self._as_stopped()
        return late


_LATE_SECONDS = 0.5
"""By which a packet must be late for the pace to restart: the sender, or the network, was slow."""
_JUMP_SECONDS = 5.0
"""From one packet to the next; more is a jump of the sender's clock, not a pause."""


class BurstPacer:
    """Computes how long packets that come in bursts must wait to be as even as a camera's.

    An HLS input comes a segment at a time: seconds of frames at once, then nothing. Unpaced, this
    would look like a stall, and most frames of each burst would be dropped as too old. Paced, it
    is some segments behind the sender, as in every player. A plain value, without a clock.
    """

    def __init__(self) -> None:
        self._anchor: float | None = None  # moment of the timestamp 0
        self._last = 0.0

    def wait_seconds(self, stamp: Fraction | None, now: float) -> float:
        """Return the seconds that a packet has to wait by its decoding timestamp; 0: none."""
        if stamp is None:
            return 0.0
        seconds = float(stamp)
        jumped = abs(seconds - self._last) > _JUMP_SECONDS
        if self._anchor is None or jumped or now - (self._anchor + seconds) > _LATE_SECONDS:
            self._anchor = now - seconds
        self._last = seconds
        return max(0.0, self._anchor + seconds - now)


def _decoding_time(packet: Packet[Stream]) -> Fraction | None:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else stamp * packet.time_base


PROGRAM = "ffmpeg"

_END_SECONDS = 2.0
_NO_KEYFRAME = "dimensions not set"
"""Printed by the program if it has not seen a keyframe and so does not know the size."""

_LONGEST_LOOK = 0.8
"""Share of the time that connecting may take."""

_OPTIONS = {"fpsprobesize": "0", "probesize": "32"}
"""Of our own demuxer, for which NUT's header suffices."""


class FfmpegConnection(InputConnection):
    """A connection made by the ffmpeg program, whose packets are read from a pipe.

    SRT sends lost packets again, and its demuxer flags what came too late: it is not lossy.
    `lines` receives what the program prints on stderr.

    Raises:
        InputLost: if there is no such program, or it cannot connect.
    """

    def __init__(
        self, address: LiveAddress, lines: deque[str], *, now: Callable[[], float]
    ) -> None:
        super().__init__(address.display, now)
        self._address, self._lines = address, lines
        command = self._command()
        self._waker = Waker()
        self._child = Child(command, self._waker, text=False)
        self._pipe = _ChildPipe(self._child, self._stopped)
        self._is_reaped = False
        try:
            self.container = self._opened()
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """End the program, and with it the reading, at once. Thread-safe."""
        super().stop()
        self._waker.wake()

    def close(self) -> None:
        """Close the container, end the program and wait for it."""
        super().close()
        self._end()

    def _next(self, demuxed: Iterator[Packet[Stream]]) -> Packet[Stream] | None:
        self._pipe.ends_at = time.monotonic() + self._address.read_seconds
        return next(demuxed, None)

    def _lost(self, error: Exception, elapsed_seconds: float) -> InputLost:
        return self._why("connection lost", "failed")

    def _ended(self, elapsed_seconds: float) -> InputLost:
        stopped = self._stopped.is_set()
        return self._as_stopped() if stopped else self._why("connection lost", "ended")

    def _command(self) -> list[str]:
        program = shutil.which(PROGRAM)
        if program is None:
            needs = f"{self._address.protocol} needs the program {PROGRAM}, which is not there"
            raise InputLost("unsupported", f"{self._display}: {needs}")
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
            raise self._why("not connected", "failed") from error

    def _why(self, what: str, otherwise: Reason) -> InputLost:
        """End the program, and find the reason in what it printed."""
        self._end()
        if any(_NO_KEYFRAME in line for line in self._lines):
            remembered, longest = self._address.remembered, self._address.connect_seconds
            remembered.look_seconds = min(2 * remembered.look_seconds, _LONGEST_LOOK * longest)
        said = "; ".join(list(self._lines)[-3:])
        reason = reason_of_words(said)
        if self._pipe.timed_out:
            reason, said = "timed-out", "nothing came in time"
        elif reason == "failed":
            reason = otherwise
        why = said or "the other end has closed it"
        return InputLost(reason, f"{self._display}: {what}: {why}")

    def _end(self) -> None:
        """End the program gently, then by force, and keep its last lines. Safe to call twice."""
        self._child.signal(signal.SIGTERM)
        self._child.close(_END_SECONDS)
        self._waker.close()
        if not self._is_reaped:
            self._lines.extend(self._child.tail.lines())
            self._is_reaped = True


class _ChildPipe:
    """The stdout of a child in PyAV's form, with a moment at which waiting ends."""

    def __init__(self, child: Child, stopped: threading.Event) -> None:
        self._child, self._stopped = child, stopped
        self.ends_at = 0.0
        self.timed_out = False
        """Whether the waiting has ended, and not the pipe."""

    def read(self, size: int) -> bytes:
        """Return what is there, up to `size` bytes, waiting for the first; none at the end."""
        while not (data := self._child.read(size)) and not self._child.stdout_ended:
            left = self.ends_at - time.monotonic()
            if self._stopped.is_set():
                break
            if left <= 0:
                self.timed_out = True  # an error would be printed for each try of the demuxer
                break
            self._child.turn(left)
        return data
