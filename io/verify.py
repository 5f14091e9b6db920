"""Verification of a written file: its packets, streams and tags compared with what is expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from ..filters.frame import Color
from .calls import frames_of
from .decode.demuxer import Target, is_cover, open_container
from .decode.survey import end_of_stream
from .encode.packets import AnyPacket, is_priming
from .errors import MediaError, VerificationFailed
from .pictures.metadata import Tags, tags_of
from .pictures.t35 import NalSyntax

_COLOR_TAGS = ("range", "primaries", "trc", "matrix")


@dataclass(frozen=True, slots=True)
class SoundTimes:
    """When an audio stream begins and ends, in seconds."""

    first: Fraction
    """Start of its first audible packet."""
    last: Fraction
    """Start of its last packet."""
    end: Fraction
    """End of its last packet."""

    def after(self, seconds: Fraction) -> SoundTimes:
        """Return the same times relative to another moment."""
        return SoundTimes(self.first - seconds, self.last - seconds, self.end - seconds)


@dataclass(slots=True)
class VideoTimes:
    """What the packets of a file's main video and first audio stream show."""

    pts: list[int] = field(default_factory=list[int])
    last_duration: int = 0
    num_without_pts: int = 0
    time_base: Fraction = Fraction(1)
    num_hidden: int = 0
    """Packets that an edit list cuts off."""
    sound: SoundTimes | None = None
    """Of the first audio stream; None if there is none."""
    is_heard: bool = False
    """Whether a packet of it is audible."""
    num_messages: int = 0
    """T.35 messages in the packets of the video, where these are of H.264 or HEVC."""

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.pts) + self.num_without_pts

    @property
    def start_seconds(self) -> Fraction:
        """When the first frame begins."""
        return min(self.pts) * self.time_base

    @property
    def last_start_seconds(self) -> Fraction:
        """From the start of the first frame to that of the last."""
        return (max(self.pts) - min(self.pts)) * self.time_base

    @property
    def duration_seconds(self) -> Fraction:
        """From the start of the first frame to the end of the last."""
        return self.last_start_seconds + self.last_duration * self.time_base


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that is checked of a file."""

    times: VideoTimes
    num_streams: Counter[str]
    """By kind: ``video``, ``audio``, ``subtitle``, …"""
    width: int
    height: int
    tags: Tags | None
    """None if there is no frame."""
    num_promised: int = 0
    """Number of frames by the header; 0 where it does not say."""


def inspect(target: Target) -> Inspection:
    """Read all packets of a file, and its first frame.

    Raises:
        SourceMissing, UnsupportedMedia: if it cannot be opened.
        VerificationFailed: if it holds no video, or cannot be read to its end.
    """
    try:
        with open_container(target) as opened:
            video = main_video(opened)
            context = video.codec_context
            kinds = Counter(str(stream.type) for stream in opened.streams)
            times = read_times(opened, video)
            width, height, promised = context.width, context.height, video.frames
        tags = None
        if times.num_frames:
            with open_container(target) as opened:
                tags = tags_of(opened, main_video(opened))
    except (FFmpegError, IndexError) as error:
        raise VerificationFailed(f"{target.name} cannot be read back: {error}") from error
    return Inspection(times, kinds, width, height, tags, promised)


def main_video(opened: InputContainer) -> VideoStream:
    """Return the first video stream that is not a cover picture.

    Raises:
        VerificationFailed: if there is none.
    """
    videos = [stream for stream in opened.streams.video if not is_cover(stream)]
    if not videos:
        raise VerificationFailed("the file holds no video")
    return videos[0]


def read_times(opened: InputContainer, video: VideoStream) -> VideoTimes:
    """Demux a file to its end and record when its frames and its first audio stream are."""
    times = VideoTimes(time_base=video.time_base or Fraction(1))
    syntax = NalSyntax.of(video.codec_context)
    sound = opened.streams.audio[:1]
    for packet in opened.demux([video, *sound]):
        if packet.size == 0:
            continue
        if packet.stream_index != video.index:
            _note_sound(times, packet)
        elif packet.is_discard:
            times.num_hidden += 1
        else:
            _note_frame(times, packet)
            times.num_messages += len(syntax.messages(bytes(packet))) if syntax else 0
    end = end_of_stream(opened, video)
    if end is not None and times.pts and end > max(times.pts):
        # with reordered frames of variable duration, a packet's is that of its decoding order
        times.last_duration = end - max(times.pts)
    return times


def _note_sound(times: VideoTimes, packet: AnyPacket) -> None:
    if packet.pts is None:
        return
    tick = packet.time_base or Fraction(1)
    start = packet.pts * tick
    before = times.sound or SoundTimes(start, start, Fraction(0))
    last, end = max(start, before.last), max(start + (packet.duration or 0) * tick, before.end)
    is_first = not times.is_heard and not is_priming(packet, packet.stream)
    first = before.first if times.is_heard else start if is_first else last
    times.sound, times.is_heard = SoundTimes(first, last, end), times.is_heard or is_first


def _note_frame(times: VideoTimes, packet: AnyPacket) -> None:
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None:
        times.num_without_pts += 1
        return
    if not times.pts or pts > max(times.pts[-32:]):
        times.last_duration = packet.duration or 0
    times.pts.append(pts)


def count_decoded(target: Target) -> int:
    """Decode the video of a file to its end; return the number of frames.

    Raises:
        VerificationFailed: if the decoder finds damage.
    """
    count = 0
    try:
        with open_container(target) as opened:
            video = main_video(opened)
            video.thread_type = "AUTO"
            video.codec_context.options = {"err_detect": "crccheck+explode"}
            frames = (frames_of(video.codec_context, packet) for packet in opened.demux(video))
            for frame in chain.from_iterable(frames):
                if frame.is_corrupt:
                    raise VerificationFailed(f"{target.name}: frame {count} is damaged")
                count += 1
    except FFmpegError as error:
        raise VerificationFailed(f"{target.name}: cannot decode frame {count}: {error}") from error
    return count


TOLERANCE_SECONDS = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What a finished file must be; None, or an empty mapping, is not checked."""

    frames: int | None = None
    last_start_seconds: Fraction | None = None
    """From the start of the first frame to that of the last."""
    duration_seconds: Fraction | None = None
    """Of the video, from the start of the first frame to the end of the last."""
    width: int | None = None
    height: int | None = None
    streams: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of each kind: ``audio``, ``subtitle``."""
    empty_streams: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of further ones without a packet, which some containers list, others not."""
    color: Color | None = None
    """A tag that is None is not checked."""
    sample_aspect_ratio: Fraction | None = None
    rotation: int | None = None
    messages: int = 0
    """T.35 messages, at least: captions, HDR10+. An encoder may write some of its own."""
    sound: SoundTimes | None = None
    """Of the first audio stream, relative to the start of the first frame."""
    tolerance_seconds: Fraction = TOLERANCE_SECONDS


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of checking one property."""

    name: str
    wanted: str
    got: str
    ok: bool

    def __str__(self) -> str:
        if self.ok:
            return f"{self.name}: {self.got}"
        return f"{self.name}: wanted {self.wanted}, got {self.got}"


def verify_output(path: Path, expected: ExpectedOutput) -> list[Comparison]:
    """Check a finished file, under whatever name; return all comparisons.

    Raises:
        VerificationFailed: if anything is not as expected; the text says what was got and wanted.
    """
    target = Target(path.name, path, path)
    try:
        findings = check(inspect(target), expected)
    except MediaError as error:
        raise VerificationFailed(f"the written file is no good: {error}") from error
    raise_failed(findings)
    return findings


def raise_failed(findings: list[Comparison]) -> None:
    """Raise VerificationFailed, with what was got and wanted, if any comparison failed."""
    if failed := [str(finding) for finding in findings if not finding.ok]:
        raise VerificationFailed(f"the written file is not what it should be: {'; '.join(failed)}")


def check(got: Inspection, expected: ExpectedOutput) -> list[Comparison]:
    """Compare a file with what is expected."""
    findings = _check_times(got.times, expected)
    if least := expected.messages:
        found = got.times.num_messages
        findings.append(
            Comparison("T.35 messages", f"at least {least}", str(found), found >= least)
        )
    for kind, least in expected.streams.items():
        found, most = got.num_streams[kind], least + expected.empty_streams.get(kind, 0)
        wanted = str(least) if least == most else f"{least} to {most}"
        is_ok = least <= found <= most
        findings.append(Comparison(f"{kind} streams", wanted, str(found), is_ok))
    if expected.width is not None and expected.height is not None:
        size = f"{expected.width}x{expected.height}"
        findings.append(equal("size", size, f"{got.width}x{got.height}"))
    return findings if got.tags is None else findings + _check_tags(got.tags, expected)


def _check_times(times: VideoTimes, expected: ExpectedOutput) -> list[Comparison]:
    findings: list[Comparison] = []
    if expected.frames is not None:
        findings.append(equal("frames", expected.frames, times.num_frames))
    distinct = len(set(times.pts))
    findings.append(equal("frames with a pts of their own", times.num_frames, distinct))
    if not times.pts:
        return [*findings, Comparison("frames", "at least 1", "0", ok=False)]
    tolerance = expected.tolerance_seconds
    if (wanted := expected.last_start_seconds) is not None:
        findings.append(close("last frame at", wanted, times.last_start_seconds, tolerance))
    if (wanted := expected.duration_seconds) is not None:
        # containers round the first start, the last one and the last duration, each by half a tick
        rounded = tolerance * Fraction(3, 2)
        findings.append(close("duration", wanted, times.duration_seconds, rounded))
    if expected.sound is not None:
        findings.append(_check_sound(times, expected.sound, tolerance))
    return findings


def _check_sound(times: VideoTimes, wanted: SoundTimes, tolerance: Fraction) -> Comparison:
    """Measure the offset at the start of the first packet, and at both ends of the last.

    Unless the sound is shifted, one of these is the same in every pair of containers: the number of
    packets before the first audible one depends on how a container marks an encoder's priming, and
    demuxers cut PCM into packets differently.
    """
    got = None
    if times.sound is not None:
        sound = times.sound.after(times.start_seconds)
        shifts = (sound.last - wanted.last, sound.end - wanted.end, sound.first - wanted.first)
        got = wanted.first + min(shifts, key=abs)
    return close("sound offset", wanted.first, got, tolerance)


def _check_tags(tags: Tags, expected: ExpectedOutput) -> list[Comparison]:
    findings = [
        equal(f"color {name}", wanted, getattr(tags.color, name))
        for name in (_COLOR_TAGS if expected.color else ())
        if (wanted := getattr(expected.color, name)) is not None
    ]
    if expected.sample_aspect_ratio is not None:
        aspect = tags.sample_aspect_ratio or 1
        findings.append(equal("sample aspect ratio", expected.sample_aspect_ratio, aspect))
    if expected.rotation is not None:
        findings.append(equal("rotation", expected.rotation, tags.rotation))
    return findings


def equal(name: str, wanted: object, got: object) -> Comparison:
    """Compare two values."""
    return Comparison(name, str(wanted), str(got), wanted == got)


def close(name: str, wanted: Fraction, got: Fraction | None, tolerance: Fraction) -> Comparison:
    """Compare two times in seconds, within a tolerance."""
    ok = got is not None and abs(got - wanted) <= tolerance
    text = "none" if got is None else f"{float(got):.6f} s"
    return Comparison(name, f"{float(wanted):.6f} s", text, ok)
