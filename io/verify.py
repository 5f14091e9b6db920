"""Proving a written file: what it is, against what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ..filters.frame import Color
from .check import Inspection, SoundTimes, VideoTimes, inspect
from .decode.container import Target
from .errors import MediaError, VerificationFailed
from .trial import Tags

TOLERANCE_SECONDS = Fraction(1, 1000)
_COLOR_TAGS = ("range", "primaries", "trc", "matrix")


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
    empty_streams: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many more without a packet; some containers list them, others do not."""
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
        if self.ok:
            return f"{self.name}: {self.got}"
        return f"{self.name}: wanted {self.wanted}, got {self.got}"


def verify_output(path: Path, expected: Expected) -> list[Finding]:
    """Check a finished file.

    Args:
        path: the file, under whatever name.
        expected: what it must be.

    Returns:
        All that was checked.

    Raises:
        VerificationFailed: if anything is not as expected; the text says what, got and wanted.
    """
    target = Target(path.name, path, path)
    try:
        findings = check(inspect(target), expected)
    except MediaError as error:
        raise VerificationFailed(f"the written file is no good: {error}") from error
    raise_failed(findings)
    return findings


def raise_failed(findings: list[Finding]) -> None:
    """Raise if anything is not as it should be.

    Raises:
        VerificationFailed: with all that was got and wanted.
    """
    failed = [str(finding) for finding in findings if not finding.ok]
    if failed:
        raise VerificationFailed(f"the written file is not what it should be: {'; '.join(failed)}")


def check(got: Inspection, expected: Expected) -> list[Finding]:
    """Compare a file with what it must be."""
    findings = _check_times(got.times, expected)
    findings += [
        _check_streams(got.num_streams[kind], kind, count, expected.empty_streams.get(kind, 0))
        for kind, count in expected.streams.items()
    ]
    if expected.width is not None and expected.height is not None:
        size = f"{expected.width}x{expected.height}"
        findings.append(equal("size", size, f"{got.width}x{got.height}"))
    return findings if got.tags is None else findings + _check_tags(got.tags, expected)


def _check_streams(got: int, kind: str, count: int, empty: int) -> Finding:
    wanted = str(count) if not empty else f"{count} to {count + empty}"
    return Finding(f"{kind} streams", wanted, str(got), ok=count <= got <= count + empty)


def _check_times(times: VideoTimes, expected: Expected) -> list[Finding]:
    findings: list[Finding] = []
    if expected.frames is not None:
        findings.append(equal("frames", expected.frames, times.num_frames))
    distinct = len(set(times.pts))
    findings.append(equal("frames with a pts of their own", times.num_frames, distinct))
    if not times.pts:
        return [*findings, Finding("frames", "at least 1", "0", ok=False)]
    tolerance = expected.tolerance_seconds
    if (wanted := expected.last_start_seconds) is not None:
        findings.append(close("last frame at", wanted, times.last_start_seconds, tolerance))
    if (wanted := expected.duration_seconds) is not None:
        findings.append(close("duration", wanted, times.duration_seconds, tolerance))
    if expected.sound is not None:
        findings.append(_check_sound(times, expected.sound, tolerance))
    return findings


def _check_sound(times: VideoTimes, wanted: SoundTimes, tolerance: Fraction) -> Finding:
    """Measure the offset at the start of the first packet, and at both ends of the last.

    One of these is the same in every pair of containers, unless the sound is shifted: how many
    packets a demuxer shows before the first sound depends on how the container marks an encoder's
    priming; how it cuts PCM into packets, on its taste.
    """
    got = None
    if times.sound is not None:
        sound = times.sound.after(times.start_seconds)
        shifts = (sound.last - wanted.last, sound.end - wanted.end, sound.first - wanted.first)
        got = wanted.first + min(shifts, key=abs)
    return close("sound offset", wanted.first, got, tolerance)


def _check_tags(tags: Tags, expected: Expected) -> list[Finding]:
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


def equal(name: str, wanted: object, got: object) -> Finding:
    """Note whether two values are the same."""
    return Finding(name, str(wanted), str(got), wanted == got)


def close(name: str, wanted: Fraction, got: Fraction | None, tolerance: Fraction) -> Finding:
    """Note whether two times, in seconds, are the same within a tolerance."""
    ok = got is not None and abs(got - wanted) <= tolerance
    shown = "none" if got is None else f"{float(got):.6f} s"
    return Finding(name, f"{float(wanted):.6f} s", shown, ok)
