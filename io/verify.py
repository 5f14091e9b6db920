"""Proving a written file: re-opened, its packets counted, its times and tags compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError

from ..filters.frame import Color
from .errors import VerificationFailed
from .muxing import AnyPacket, is_priming
from .opening import is_cover
from .trial import tags_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

TOLERANCE_SECONDS = Fraction(1, 1000)
_COLOR_TAGS = ("range", "primaries", "trc", "matrix")


@dataclass(frozen=True, slots=True)
class SoundTimes:
    """When a stream of sound is, in seconds."""

    first: Fraction
    """Its first packet that is heard begins."""
    last: Fraction
    """Its last packet begins."""
    end: Fraction
    """Its last packet ends."""

    def after(self, seconds: Fraction) -> SoundTimes:
        """Count from another moment."""
        return SoundTimes(self.first - seconds, self.last - seconds, self.end - seconds)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a finished file must be. None, or an empty mapping: not checked."""

    frames: int | None = None
    last_start_seconds: Fraction | None = None
    """From the start of the first frame to that of the last."""
    duration_seconds: Fraction | None = None
    """Of the video, from the start of the first frame to the end of the last."""
    width: int | None = None
    height: int | None = None
    streams: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many of each kind: ``audio``, ``subtitle``."""
    color: Color | None = None
    """A tag that is None here is not checked."""
    sample_aspect_ratio: Fraction | None = None
    rotation: int | None = None
    sound: SoundTimes | None = None
    """Of the first stream of sound, counted from the start of the first frame."""
    tolerance_seconds: Fraction = TOLERANCE_SECONDS


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    name: str
    wanted: str
    got: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.name}: wanted {self.wanted}, got {self.got}"


@dataclass(slots=True)
class VideoTimes:
    """What the packets of a file's main video say."""

    pts: list[int] = field(default_factory=list[int])
    last_duration: int = 0
    num_without_pts: int = 0
    time_base: Fraction = Fraction(1)
    sound: SoundTimes | None = None

    @property
    def start_seconds(self) -> Fraction:
        """When the first frame begins."""
        return min(self.pts) * self.time_base

    @property
    def duration_seconds(self) -> Fraction:
        """From the start of the first frame to the end of the last."""
        return (max(self.pts) - min(self.pts) + self.last_duration) * self.time_base

    @property
    def num_repeated(self) -> int:
        """Frames that share their pts with another."""
        return len(self.pts) - len(set(self.pts))


def verify_output(path: Path, expected: Expected, *, format: str | None = None) -> list[Finding]:  # noqa: A002
    """Check a finished file.

    Args:
        path: the file, under whatever name.
        expected: what it must be.
        format: the container, where the name does not tell.

    Returns:
        All that was checked.

    Raises:
        VerificationFailed: if anything is not as expected; the text says what, got and wanted.
    """
    findings = check_output(path, expected, format=format)
    failed = [str(finding) for finding in findings if not finding.ok]
    if failed:
        raise VerificationFailed(f"the written file is not what it should be: {'; '.join(failed)}")
    return findings


def check_output(path: Path, expected: Expected, *, format: str | None = None) -> list[Finding]:  # noqa: A002
    """Check a finished file; as :func:`verify_output`, but failures are findings too.

    Raises:
        VerificationFailed: if it cannot be opened at all.
    """
    try:
        with av.open(f"file:{path}", "r", format=format, metadata_errors="replace") as opened:
            stream = _main_video(opened)
            times = read_times(opened, stream)
            findings = _check_times(times, expected) + _check_streams(opened, expected)
        if not times.pts:
            return findings
        with av.open(f"file:{path}", "r", format=format, metadata_errors="replace") as opened:
            return findings + _check_tags(opened, _main_video(opened), expected)
    except (FFmpegError, IndexError, ValueError) as error:
        raise VerificationFailed(f"the written file cannot be read back: {error}") from error


def _main_video(opened: InputContainer) -> VideoStream:
    videos = [stream for stream in opened.streams.video if not is_cover(stream)]
    if not videos:
        raise VerificationFailed("the written file holds no video")
    return videos[0]


def read_times(opened: InputContainer, video: VideoStream) -> VideoTimes:
    """Demux a file to its end and note when its frames and its first sound are."""
    times = VideoTimes(time_base=video.time_base or Fraction(1))
    sound = opened.streams.audio[:1]
    for packet in opened.demux([video, *sound]):
        if packet.size == 0:
            continue
        if packet.stream_index != video.index:
            _note_sound(times, packet)
        elif not packet.is_discard:
            _note_frame(times, packet)
    return times


def _note_sound(times: VideoTimes, packet: AnyPacket) -> None:
    if packet.pts is None:
        return
    tick = packet.time_base or Fraction(1)
    last = packet.pts * tick
    end = last + (packet.duration or 0) * tick
    if times.sound is None or is_priming(packet, packet.stream):
        times.sound = SoundTimes(last, last, end)
    elif end > times.sound.end or last > times.sound.last:
        first = times.sound.first
        times.sound = SoundTimes(first, max(last, times.sound.last), max(end, times.sound.end))


def _note_frame(times: VideoTimes, packet: AnyPacket) -> None:
    pts = packet.pts if packet.pts is not None else packet.dts
    if pts is None:
        times.num_without_pts += 1
        return
    if not times.pts or pts > max(times.pts[-32:]):
        times.last_duration = packet.duration or 0
    times.pts.append(pts)


def _check_times(times: VideoTimes, expected: Expected) -> list[Finding]:
    count = len(times.pts) + times.num_without_pts
    findings: list[Finding] = []
    if expected.frames is not None:
        findings.append(_equal("frames", expected.frames, count))
    findings.append(_equal("frames with a pts of their own", count, len(set(times.pts))))
    if not times.pts:
        return findings
    tolerance = expected.tolerance_seconds
    if expected.last_start_seconds is not None:
        got = (max(times.pts) - min(times.pts)) * times.time_base
        findings.append(_close("last frame at", expected.last_start_seconds, got, tolerance))
    if expected.duration_seconds is not None:
        got = times.duration_seconds
        findings.append(_close("duration", expected.duration_seconds, got, tolerance))
    if expected.sound is not None:
        findings.append(_check_sound(times, expected.sound, tolerance))
    return findings


def _check_sound(times: VideoTimes, wanted: SoundTimes, tolerance: Fraction) -> Finding:
    """Measure the offset at the end of the sound.

    How many packets a demuxer shows before the first sound depends on how the container marks an
    encoder's priming; how it cuts PCM into packets, on its taste. A shift shows at the end too.
    """
    got = None
    if times.sound is not None:
        sound = times.sound.after(times.start_seconds)
        got = wanted.first + min(sound.last - wanted.last, sound.end - wanted.end, key=abs)
    return _close("sound offset", wanted.first, got, tolerance)


def _check_streams(opened: InputContainer, expected: Expected) -> list[Finding]:
    got = Counter(_kind(stream) for stream in opened.streams)
    return [_equal(f"{kind} streams", count, got[kind]) for kind, count in expected.streams.items()]


def _kind(stream: Stream) -> str:
    return str(stream.type)


def _check_tags(opened: InputContainer, stream: VideoStream, expected: Expected) -> list[Finding]:
    tags = tags_of(opened, stream)
    got = stream.codec_context
    findings: list[Finding] = []
    if expected.width is not None and expected.height is not None:
        size = f"{expected.width}x{expected.height}"
        findings.append(_equal("size", size, f"{got.width}x{got.height}"))
    findings.extend(
        _equal(f"color {name}", wanted, getattr(tags.color, name))
        for name in (_COLOR_TAGS if expected.color else ())
        if (wanted := getattr(expected.color, name)) is not None
    )
    if expected.sample_aspect_ratio is not None:
        aspect = tags.sample_aspect_ratio or 1
        findings.append(_equal("sample aspect ratio", expected.sample_aspect_ratio, aspect))
    if expected.rotation is not None:
        findings.append(_equal("rotation", expected.rotation, tags.rotation))
    return findings


def _equal(name: str, wanted: object, got: object) -> Finding:
    return Finding(name, str(wanted), str(got), wanted == got)


def _close(name: str, wanted: Fraction, got: Fraction | None, tolerance: Fraction) -> Finding:
    ok = got is not None and abs(got - wanted) <= tolerance
    shown = "none" if got is None else f"{float(got):.6f} s"
    return Finding(name, f"{float(wanted):.6f} s", shown, ok)
