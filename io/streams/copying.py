"""Copying a source's other streams beside the encoded video, packet by packet.

Packets come from an iterator (a second opening of the source, or later a queue that a demuxer
feeds) and are muxed in step with the video, so that nothing piles up and players can stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from av.error import ArgumentError, FFmpegError

from ..check.inspection import SoundTimes
from ..encode.muxing import AnyPacket, decoded_audio, is_priming, mux
from ..encode.pacing import SampleClock, shift_packet
from .conversion import Converter
from .metadata import shifted_chapters
from .plan import StreamFate

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream


@dataclass(slots=True)
class Track:
    """One stream on its way from source to output."""

    fate: StreamFate
    source: Stream
    target: Stream
    convert: Converter | None = None
    clock: SampleClock | None = None
    """Of sound that is copied."""
    last_dts: int | None = None
    last_duration: int = 0
    num_mended: int = 0
    num_refused: int = 0
    first_seconds: Fraction | None = None
    """When its first packet to be heard begins, on the output's time line."""
    last_seconds: Fraction | None = None
    """When its last packet begins."""
    end_seconds: Fraction | None = None
    """When that ends."""

    def prepare(
        self, packet: AnyPacket, origin: Fraction, *, heard: bool = True
    ) -> list[AnyPacket]:
        """Convert a packet where needed, put it on the output's time line, mend its times."""
        try:
            made = list(self.convert(packet)) if self.convert else [packet]
        except FFmpegError:  # a damaged packet: lose it, not the job
            self.num_refused += 1
            return []
        return [self._placed(one, origin, heard=heard) for one in made]

    def drain(self, origin: Fraction) -> list[AnyPacket]:
        """Give what the converter still holds. Only the first call gives anything."""
        if self.convert is None:
            return []
        convert, self.convert = self.convert, None
        return [self._placed(one, origin, heard=True) for one in convert(None)]

    def _placed(self, packet: AnyPacket, origin: Fraction, *, heard: bool) -> AnyPacket:
        if self.clock is not None:
            self.clock(packet, lambda: self._count_samples(packet))
        shift_packet(packet, -origin)
        self.mend(packet)
        if self.first_seconds is None and heard:
            self.first_seconds = (packet.pts or 0) * (packet.time_base or Fraction(1))
        tick = packet.time_base or Fraction(1)
        self.last_seconds = (packet.pts or 0) * tick
        self.end_seconds = self.last_seconds + (packet.duration or 0) * tick
        packet.stream = self.target
        return packet

    def _count_samples(self, packet: AnyPacket) -> int:
        """Decode a packet that says nothing of its length; ALAC in Matroska is like that."""
        try:
            return sum(frame.samples for frame in decoded_audio(self.source, packet))
        except FFmpegError:  # whoever plays it will hear the damage; its length stays unknown
            return 0

    def time_of(self, packet: AnyPacket) -> Fraction:
        """Tell when a packet is due, in seconds."""
        return (packet.dts or 0) * (packet.time_base or Fraction(1))

    def mux(self, output: OutputContainer, packet: AnyPacket) -> None:
        """Mux one packet; one that the muxer refuses is counted and left out."""
        try:
            mux(output, packet)
        except ArgumentError:
            self.num_refused += 1

    def mend(self, packet: AnyPacket) -> None:
        """Give a packet the timestamps that a muxer insists on: there, and rising."""
        dts = packet.dts if packet.dts is not None else packet.pts
        expected = 0 if self.last_dts is None else self.last_dts + max(self.last_duration, 1)
        if dts is None:
            dts = expected
            self.num_mended += 1
        elif self.last_dts is not None and dts <= self.last_dts:
            dts = self.last_dts + 1
            self.num_mended += 1
        packet.dts = dts
        if packet.pts is None or packet.pts < dts:
            packet.pts = dts
        self.last_dts, self.last_duration = dts, packet.duration or 0


class StreamCopy:
    """Packets of a source's other streams, muxed into an output in step with its video.

    Args:
        tracks: the streams, already added to the output.
        packets: in the order in which they shall be muxed; from a file, or a queue.
        output: the container that they go to; its header is not written yet.
        chapters: of the source, on the source's time line.
        start_seconds: when the source's first kept stream begins.
        keeps_priming: whether the output can hold packets that are decoded but not shown.
    """

    def __init__(
        self,
        tracks: list[Track],
        packets: Iterator[AnyPacket],
        output: OutputContainer,
        *,
        chapters: list[Chapter] | None = None,
        start_seconds: Fraction | None = None,
        keeps_priming: bool = False,
    ) -> None:
        self._tracks = {track.fate.index: track for track in tracks}
        self._packets = packets
        self._output = output
        self._chapters = chapters or []
        self._start_seconds = start_seconds
        self._keeps_priming = keeps_priming
        self._origin = Fraction(0)
        self._waiting: deque[tuple[Track, AnyPacket]] = deque()
        self._broken: str | None = None

    def begin(self, video_start_seconds: Fraction) -> Fraction:
        """Fix the time line once the first picture is there, before the header is written.

        Args:
            video_start_seconds: of the first picture, on the source's time line.

        Returns:
            What to subtract from all of the source's times, so that the output begins at 0.
        """
        starts = [video_start_seconds]
        if self._start_seconds is not None:
            starts.append(self._start_seconds)
        self._origin = min(starts)
        if self._chapters:
            self._output.set_chapters(shifted_chapters(self._chapters, self._origin))
        return self._origin

    def mux_until(self, seconds: Fraction) -> None:
        """Mux all packets that are due up to a time on the output's time line."""
        while (due := self._next()) is not None:
            track, packet = due
            if track.time_of(packet) > seconds:
                return
            self._waiting.popleft()
            track.mux(self._output, packet)

    def mux_rest(self) -> None:
        """Mux all that is left."""
        while (due := self._next()) is not None:
            self._waiting.popleft()
            track, packet = due
            track.mux(self._output, packet)

    def _next(self) -> tuple[Track, AnyPacket] | None:
        """Give the next packet without taking it; read on where none waits."""
        while not self._waiting:
            packet = self._read()
            if packet is None:
                self._drain_converters()
                return self._waiting[0] if self._waiting else None
            track = self._tracks.get(packet.stream_index)
            # an empty packet is the demuxer's way to say that a stream has ended
            if track is None or packet.size == 0:
                continue
            priming = is_priming(packet, track.source)
            if priming and not (self._keeps_priming and track.first_seconds is None):
                continue
            self._waiting.extend(
                (track, made) for made in track.prepare(packet, self._origin, heard=not priming)
            )
        return self._waiting[0]

    def _read(self) -> AnyPacket | None:
        try:
            return next(self._packets, None)
        except FFmpegError as error:
            self._broken = f"the source's other streams end early: {error.strerror or error}"
            self._packets = iter(())
            return None

    def _drain_converters(self) -> None:
        for track in self._tracks.values():
            self._waiting.extend((track, made) for made in track.drain(self._origin))

    def sound_times(self) -> SoundTimes | None:
        """Tell when the first stream of sound begins and ends, on the output's time line."""
        for track in self._tracks.values():
            first, last, end = track.first_seconds, track.last_seconds, track.end_seconds
            if track.fate.kind != "audio":
                continue
            if first is not None and last is not None and end is not None:
                return SoundTimes(first, last, end)
        return None

    def num_streams(self, kind: str, *, empty: bool = False) -> int:
        """Count the streams of a kind that got packets, or those that got none."""
        return sum(
            track.fate.kind == kind and (track.first_seconds is None) == empty
            for track in self._tracks.values()
        )

    def warnings(self) -> list[str]:
        """Say what was mended, for people."""
        found = [self._broken] if self._broken else []
        for track in self._tracks.values():
            name = f"{track.fate.kind} #{track.fate.index}"
            if track.num_mended:
                found.append(f"{name}: timestamps of {track.num_mended} packets were mended")
            if track.num_refused:
                found.append(f"{name}: {track.num_refused} packets were refused and left out")
        return found
