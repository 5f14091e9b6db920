"""A source's other streams, copied beside the encoded video, packet by packet.

The source is opened a second time for them; packets are muxed in step with the video, so that
nothing accumulates and players can stream.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, cast

from av.error import ArgumentError, FFmpegError, InvalidDataError, PatchWelcomeError
from av.stream import Discard

from ..decode.demuxer import best_video, find_target, open_container
from ..encode.containers import Container
from ..encode.packets import (
    AnyPacket,
    DecodingTimes,
    SampleClock,
    add_copied,
    decoded_audio,
    is_priming,
    mux,
    shift_packet,
    tell_block_rate,
)
from ..encode.sound import SoundConverter
from ..errors import reason_of
from ..losses import kept_metadata
from ..part import Window, starts_of
from ..root import ConfinedFile
from ..timecode import KEY as TIMECODE
from ..verify import SoundTimes
from .converter import Converter, copy_of
from .plan import StreamFate, StreamPlan

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import AttachmentStream, Stream

log = logging.getLogger("upframe.io.sink")


def _shifted(chapter: Chapter, origin_seconds: Fraction) -> Chapter:
    """Shift a chapter to a time line that begins at `origin_seconds` of its own."""
    time_base = chapter["time_base"] or Fraction(1, 1000)
    ticks = round(origin_seconds / time_base)
    start, end = max(chapter["start"] - ticks, 0), max(chapter["end"] - ticks, 0)
    return {**chapter, "time_base": time_base, "start": start, "end": end}


@dataclass(slots=True)
class Track:
    """One stream that is copied or converted from source to output."""

    fate: StreamFate
    source: Stream
    target: Stream
    convert: Converter | None = None
    clock: SampleClock | None = None
    """Of copied audio."""
    last_dts: int | None = None
    last_duration: int = 0
    is_drained: bool = False
    num_fixed: int = 0
    num_refused: int = 0
    times: SoundTimes | None = None
    """From its first audible packet on, on the output's time line."""

    def prepare(self, packet: AnyPacket, origin: Fraction, *, heard: bool) -> list[AnyPacket]:
        """Convert a packet where needed, shift it to the output's time line, fix its times."""
        try:
            made = list(self._converted(packet))
        except FFmpegError:  # a damaged packet: lose it, not the job
            self.num_refused += 1
            return []
        return [self._placed(one, origin, heard=heard) for one in made]

    def drain(self, origin: Fraction) -> list[AnyPacket]:
        """Return what is still held; only the first call returns anything."""
        if self.is_drained:
            return []
        self.is_drained = True
        return [self._placed(one, origin, heard=True) for one in self._converted(None)]

    def _converted(self, packet: AnyPacket | None) -> Iterable[AnyPacket]:
        if self.convert is not None:
            return self.convert(packet)
        return () if packet is None else (packet,)

    def _placed(self, packet: AnyPacket, origin: Fraction, *, heard: bool) -> AnyPacket:
        if self.clock is not None:
            self.clock(packet, lambda: self._count_samples(packet))
        if isinstance(self.convert, SoundConverter):
            heard = heard and not self.convert.is_priming(packet)
        if self.fate.conversion is None and self.last_dts is None:
            tell_block_rate(self.target, packet)
        shift_packet(packet, -origin)
        self.fix_times(packet)
        if heard or self.times is not None:
            tick = packet.time_base or Fraction(1)
            start = (packet.pts or 0) * tick
            first = start if self.times is None else self.times.first
            self.times = SoundTimes(first, start, start + (packet.duration or 0) * tick)
        packet.stream = self.target
        return packet

    def _count_samples(self, packet: AnyPacket) -> int:
        """Decode a packet without a duration, as of ALAC in Matroska, to count its samples."""
        try:
            return sum(frame.samples for frame in decoded_audio(self.source, packet))
        except FFmpegError:  # it is damaged: its length stays unknown
            return 0

    def mux(self, output: OutputContainer, packet: AnyPacket) -> None:
        """Mux one packet; one that the muxer refuses is counted and left out."""
        try:
            mux(output, self._plain(packet, output))
        except (ArgumentError, InvalidDataError, PatchWelcomeError):
            self.num_refused += 1

    def _plain(self, packet: AnyPacket, output: OutputContainer) -> AnyPacket:
        """Remove a repeated codec header, as in FLV after a reconnection.

        FFmpeg 8.1 would write it over Matroska's, where it does not fit, and corrupt the file.
        """
        known = getattr(cast("object | None", self.target.codec_context), "extradata", None)
        if not known or not packet.has_sidedata("new_extradata"):
            return packet
        is_known = bytes(packet.get_sidedata("new_extradata")) == known
        if not is_known and output.format.name != "matroska":
            return packet
        plain = copy_of(packet)
        plain.stream = packet.stream
        return plain

    def fix_times(self, packet: AnyPacket) -> None:
        """Set the timestamps that a muxer requires: present, and rising."""
        dts, last = packet.dts if packet.dts is not None else packet.pts, self.last_dts
        if dts is None:
            dts = 0 if last is None else last + max(self.last_duration, 1)
            self.num_fixed += 1
        elif last is not None and dts <= last:
            dts = last + 1
            self.num_fixed += 1
        if packet.pts is not None and packet.pts < dts and (last is None or packet.pts > last):
            dts = packet.pts  # when it is shown is right, when it is decoded was a guess
        packet.dts = dts
        packet.pts = dts if packet.pts is None else max(packet.pts, dts)
        self.last_dts, self.last_duration = dts, packet.duration or 0


@dataclass(slots=True)
class StreamCopy:
    """Packets of a source's other streams, muxed into an output in step with its video."""

    _tracks: dict[int, Track]
    """The streams, by their index in the source; already added to the output."""
    _packets: Iterator[AnyPacket]
    """In the order in which they are to be muxed."""
    _output: OutputContainer
    """Its header is not written yet."""
    _chapters: Sequence[Chapter] = ()
    """Of the source, on the source's time line."""
    _start_seconds: Fraction | None = None
    """When the source's first kept stream begins."""
    _keeps_priming: bool = False
    """Whether the output can store packets that are decoded but not played."""
    _window: Window | None = None
    """The part of the source that the packets are of; None for all."""
    _hides_start: bool = False
    """Whether the output can hide what sound there is before the part."""
    _origin: Fraction = Fraction(0)
    _waiting: deque[tuple[Track, AnyPacket]] = field(default_factory=deque[tuple[Track, AnyPacket]])
    _broken: str | None = None

    def begin(self, video_start_seconds: Fraction) -> Fraction:
        """Fix the time line, before the header is written, by when the source's first picture is.

        Returns:
            What to subtract from all of the source's times, so that the output begins at 0.
        """
        starts = [video_start_seconds]
        if self._window is not None and self._window.start is not None:
            starts += self._sound_starts(self._window.start)
        elif self._start_seconds is not None:
            starts.append(self._start_seconds)
        self._origin = min(starts)
        if self._chapters:
            self._output.set_chapters([_shifted(one, self._origin) for one in self._chapters])
        return self._origin

    def _sound_starts(self, start: Fraction) -> list[Fraction]:
        """Read ahead for the first packet of each sound; return when each begins to be heard."""
        wanted = {key: track for key, track in self._tracks.items() if track.fate.kind == "audio"}
        ahead, starts = list[AnyPacket](), list[Fraction]()
        while wanted and (packet := self._read()) is not None:
            ahead.append(packet)
            if (seconds := _seconds_of(packet)) is None:
                continue
            if (track := wanted.pop(packet.stream_index, None)) is not None:
                cut = self._hides_start or track.fate.conversion is not None
                starts.append(max(seconds, start) if cut else seconds)
            elif seconds > start + _LOOK_SECONDS:
                break
        self._packets = chain(ahead, self._packets)
        return starts

    def mux_until(self, seconds: Fraction | None) -> None:
        """Mux all packets that are due up to a time on the output's time line; None: all."""
        while (due := self._next()) is not None:
            track, packet = due
            due_seconds = (packet.dts or 0) * (packet.time_base or Fraction(1))
            if seconds is not None and due_seconds > seconds:
                return
            self._waiting.popleft()
            track.mux(self._output, packet)

    def _next(self) -> tuple[Track, AnyPacket] | None:
        """Return the next packet without removing it; read more if none is queued."""
        while not self._waiting:
            if (packet := self._read()) is None:
                for track in self._tracks.values():
                    self._waiting.extend((track, made) for made in track.drain(self._origin))
                return self._waiting[0] if self._waiting else None
            track = self._tracks.get(packet.stream_index)
            # an empty packet marks the end of a stream
            if track is None or packet.size == 0:
                continue
            if self._window is not None and track.fate.kind in ("subtitle", "cover"):
                _clip(packet, self._window, self._origin)
            # a decoder needs its priming, and leaves its samples out
            priming = track.fate.conversion is None and is_priming(packet, track.source)
            if not priming or (self._keeps_priming and track.times is None):
                ready = track.prepare(packet, self._origin, heard=not priming)
                self._waiting.extend((track, made) for made in ready)
        return self._waiting[0]

    def _read(self) -> AnyPacket | None:
        try:
            return next(self._packets, None)
        except FFmpegError as error:
            self._broken = f"the source's other streams end early: {reason_of(error)}"
            self._packets = iter(())
            return None

    def sound_times(self) -> SoundTimes | None:
        """Return when the first audio stream begins and ends, on the output's time line."""
        sound = [track.times for track in self._tracks.values() if track.fate.kind == "audio"]
        return next((times for times in sound if times is not None), None)

    def num_streams(self, kind: str, *, empty: bool = False) -> int:
        """Count the streams of a kind that have packets, or those without any."""
        return sum(
            track.fate.kind == kind and (track.times is None) == empty
            for track in self._tracks.values()
        )

    def without_packets(self) -> set[str]:
        """Return the streams without a packet so far, as a trait's subject names them."""
        return {one.fate.subject for one in self._tracks.values() if one.times is None}

    def warnings(self) -> list[str]:
        """Return what was corrected, for people."""
        found = [self._broken] if self._broken else []
        for track in self._tracks.values():
            name = f"{track.fate.kind} #{track.fate.index}"
            if track.num_fixed:
                found.append(f"{name}: timestamps of {track.num_fixed} packets were corrected")
            if track.num_refused:
                found.append(f"{name}: {track.num_refused} packets were refused and left out")
            if isinstance(track.convert, SoundConverter) and (count := track.convert.num_narrowed):
                found.append(f"{name}: {count} samples had 32 bits, of which 24 were kept")
        return found


_LOOK_SECONDS = 1
"""Into a part, for the beginning of its sound."""
_LEAD_SECONDS = Fraction(1, 10)
"""Of sound that is decoded before a part: some codecs need the packets before."""


def _seconds_of(packet: AnyPacket) -> Fraction | None:
    pts = packet.dts if packet.pts is None else packet.pts
    return None if pts is None or not packet.time_base else pts * packet.time_base


def _clip(packet: AnyPacket, window: Window, origin: Fraction) -> None:
    """Clip a subtitle's times to a part; a cover picture is shown from its beginning on."""
    if packet.pts is None or not packet.time_base:
        return
    tick, start = packet.time_base, max(origin, window.start or origin)
    ends = packet.pts + packet.duration if packet.duration else None
    packet.pts = packet.dts = max(packet.pts, math.ceil(start / tick))
    if ends is not None:
        last = ends if window.end is None else min(ends, math.floor(window.end / tick))
        packet.duration = max(1, last - packet.pts)


class _Excerpt:
    """The packets of a part: those that overlap its start, up to the last that begins in it.

    Of a further video, from its first key frame in the part on; of sound that is converted, a
    little more before it.
    """

    def __init__(self, window: Window, tracks: Iterable[Track]) -> None:
        self._window = window
        self._tracks = {track.fate.index: track for track in tracks}
        self._held: dict[int, AnyPacket] = {}  # how long they last is not known yet
        self._keys: dict[int, Fraction] = {}  # of videos, when their first key frame is shown
        self._sounds = {key for key, one in self._tracks.items() if one.fate.kind == "audio"}

    def __call__(self, packets: Iterable[AnyPacket]) -> Iterator[AnyPacket]:
        """Yield the packets of the part, and read no further than where all its sound ends."""
        unfinished = set(self._sounds)
        for packet in packets:
            index, seconds = packet.stream_index, _seconds_of(packet)
            if seconds is None or index not in self._tracks:
                continue
            held = self._held.pop(index, None)
            if held is not None and not self._window.begins_after(seconds):
                if seconds != self._window.start:
                    yield held
                held = None
            if self._window.ends_by(self._due(packet, seconds)):
                unfinished.discard(index)
                if self._sounds and not unfinished:
                    break
            elif self._overlaps(packet, seconds):
                yield packet
        yield from self._held.values()

    def _due(self, packet: AnyPacket, seconds: Fraction) -> Fraction:
        """Return when a packet is needed: of reordered pictures, when it is decoded."""
        kind = self._tracks[packet.stream_index].fate.kind
        if kind == "cover":
            return self._window.start or Fraction(0)
        if kind == "video" and packet.dts is not None and packet.time_base:
            return packet.dts * packet.time_base
        return seconds

    def _overlaps(self, packet: AnyPacket, seconds: Fraction) -> bool:
        window, index = self._window, packet.stream_index
        track, start = self._tracks[index], window.start
        if start is None or track.fate.kind == "cover":
            return True
        if track.fate.kind == "video":
            if index not in self._keys and packet.is_keyframe and not window.begins_after(seconds):
                self._keys[index] = seconds
            return index in self._keys and seconds >= self._keys[index]
        if not window.begins_after(seconds):
            return True
        if not packet.duration or not packet.time_base:
            self._held[index] = packet
            return False
        ends = seconds + packet.duration * packet.time_base
        if isinstance(track.convert, SoundConverter):
            ends += _LEAD_SECONDS
        return ends > start


_PICTURES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def open_copy(
    plan: StreamPlan | None, output: OutputContainer, video: Stream, *, on_trial: bool = False
) -> tuple[StreamCopy, InputContainer | None]:
    """Open the plan's source again and add its streams to an output beside its encoded video.

    The header of the output is not written yet; `video` is the encoded video in it. On trial,
    packets of the source's beginning will do where a part is taken. Without a plan nothing is
    added. Returned are the copy, and the container to close after it.

    Raises:
        SourceMissing: if the source has disappeared.
    """
    if plan is None or plan.container is None:
        return StreamCopy({}, iter(()), output), None
    found = find_target(plan.source)
    source = open_container(found)
    try:
        main = best_video(source, found.name)
        output.metadata.update(kept_metadata(source.metadata))
        describe(main, video)
        for tag in ("alpha_mode", "ALPHA_MODE"):  # the muxer writes that of the encoded video
            video.metadata.pop(tag, None)
        if (code := plan.timecode) is not None:
            video.metadata[TIMECODE] = str(code.at(video.average_rate or code.rate))
        tracks = [
            _add(fate, source, output, plan.container, plan.window)
            for fate in plan.kept()
            if fate.action != "attach"
        ]
        _attach(plan, source, output)
    except BaseException:
        source.close()
        raise
    copied = [track.source for track in tracks]
    for stream in source.streams:
        stream.discard = Discard.default if stream in copied else Discard.all
    packets: Iterator[AnyPacket] = source.demux(copied) if copied else iter(())
    chapters = source.chapters() if plan.num_chapters else []
    if (window := plan.window) is not None:
        chapters = window.chapters(chapters)
        packets = packets if on_trial else _Excerpt(window, tracks)(packets)
    copy = StreamCopy(
        {track.fate.index: track for track in tracks},
        packets,
        output,
        chapters,
        min(starts_of(one for one in copied if one.type == "audio"), default=None),
        _keeps_priming(source, plan.container),
        None if on_trial else window,
        plan.container.holds_edit_lists,
    )
    return copy, source


def describe(source: Stream, target: Stream) -> None:
    """Copy language, title, dispositions and other metadata of a stream."""
    target.metadata.update(kept_metadata(source.metadata))
    target.disposition = source.disposition


def _add(
    fate: StreamFate,
    source: InputContainer,
    output: OutputContainer,
    container: Container,
    window: Window | None,
) -> Track:
    stream = source.streams[fate.index]
    convert: Converter | None = None
    clock = None
    if fate.conversion is not None:
        target, convert = fate.conversion.add(output, stream, container)
        if isinstance(convert, SoundConverter) and window is not None:
            convert.begins_seconds = window.start
    else:
        target, clock = add_copied(output, stream, unlisted=True), _clock_of(stream, container)
        if fate.kind == "video":
            per_second = (stream.average_rate or 0) * (stream.time_base or 0)
            convert = DecodingTimes(round(1 / per_second) if per_second else 0)
    describe(stream, target)
    return Track(fate, stream, target, convert, clock)


def _clock_of(stream: Stream, target: Container) -> SampleClock | None:
    rounds = target.tick is not None and target.tick >= (stream.time_base or 1)
    if stream.type != "audio" or rounds:  # rounded once, it is rounded for good
        return None
    context = cast("AudioStream", stream).codec_context
    if not context.sample_rate:
        return None
    frame_size = None if context.name.startswith("pcm_") else context.frame_size
    return SampleClock(context.sample_rate, frame_size)


def _attach(plan: StreamPlan, source: InputContainer, output: OutputContainer) -> None:
    """Write fonts and covers, which have no timestamps, as Matroska's attachments."""
    for fate in plan.kept():
        if fate.action != "attach":
            continue
        stream = source.streams[fate.index]
        if fate.kind == "cover":
            name, kind = _PICTURES.get(fate.codec, (f"cover.{fate.codec}", f"image/{fate.codec}"))
            data = _cover_of(plan.source, fate.index)
        else:
            name = stream.metadata.get("filename", f"attachment{fate.index}")
            kind = stream.metadata.get("mimetype", "application/octet-stream")
            data = cast("AttachmentStream", stream).data
        made = output.add_attachment(stream.metadata.get("filename", name), kind, data)
        made.metadata.update(kept_metadata(stream.metadata))


def _cover_of(source: str | ConfinedFile, index: int) -> bytes:
    """Read an attached picture: the one packet of its stream."""
    with open_container(find_target(source)) as opened:
        packets = opened.demux(opened.streams[index])
        return next((bytes(packet) for packet in packets if packet.size), b"")


def _keeps_priming(source: InputContainer, target: Container) -> bool:
    """MP4 marks priming by an edit list, Matroska by a delay that only Matroska preserves."""
    matroska = ("matroska", "webm")
    both = target.name in matroska and source.format.name.split(",")[0] in matroska
    return target.holds_edit_lists or both
