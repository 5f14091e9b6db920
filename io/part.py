"""A part of a film: between two times that count from the film's start, as FFmpeg's ``-ss`` does.

Times are written in FFmpeg's syntax, and compared as exactly as FFmpeg does: to the microsecond.
So a frame's time as ffprobe prints it is that frame, however its container counts.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .errors import WrongOption

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.container.core import Chapter
    from av.stream import Stream

_MICROSECONDS = 1_000_000
_HALF = Fraction(1, 2)
_MAX_CHARACTERS = 40
_CLOCK = re.compile(r"(-?)(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:\.\d*)?)", re.ASCII)
_SECONDS = re.compile(r"(-?)(\d+(?:\.\d*)?|\.\d+)(s|ms|us)?", re.ASCII)
_UNITS = {"us": _MICROSECONDS, "ms": 1000}


def parse_time(text: str) -> Fraction:
    """Read a time in FFmpeg's syntax, in seconds.

    It is ``[-][HH:]MM:SS[.m...]`` or ``[-]S[.m...][s|ms|us]``.

    Raises:
        ValueError: if it is none.

    Source: ffmpeg-utils, "Time duration".
    """
    short = text if len(text) <= _MAX_CHARACTERS else ""
    if clock := _CLOCK.fullmatch(short):
        sign, hours, minutes, seconds = clock.groups()
        value = (int(hours or 0) * 60 + int(minutes)) * 60 + Fraction(seconds)
    elif plain := _SECONDS.fullmatch(short):
        sign, number, unit = plain.groups()
        value = Fraction(number) / _UNITS.get(unit, 1)
    else:
        wanted = "must be a time such as 90, 1:30, 00:01:30.5 or 90500ms"
        raise ValueError(f"{wanted}, got {text[:_MAX_CHARACTERS]!r}")
    return -value if sign else value


@dataclass(frozen=True, slots=True)
class Part:
    """From one time to another, in seconds from the film's start: start <= time < end."""

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    """None: the film's end."""

    def __str__(self) -> str:
        end = "the end" if self.end is None else f"{_decimal(self.end)} s"
        return f"from {_decimal(self.start)} s to {end}"

    def on(self, container: InputContainer) -> Window:
        """Place the part on the time line of a source."""
        begins = film_start(container)
        start = begins + self.start if self.start else None
        return Window(start, None if self.end is None else begins + self.end)

    def refused(self, name: str, num_frames: int | None, seconds: Fraction | None) -> WrongOption:
        """Return the error for a part without a frame of a film, by what is known of the film."""
        known = [f"has {num_frames} frame{'s' * (num_frames != 1)}"] if num_frames else []
        known += [] if seconds is None else [f"lasts {float(seconds):.3f} s"]
        film = f": the film {' and '.join(known)}" if known else ""
        return WrongOption(f"{name}: the part {self} holds no frame{film}")


def _decimal(seconds: Fraction) -> str:
    return f"{float(seconds):.6f}".rstrip("0").rstrip(".")


def film_start(container: InputContainer) -> Fraction:
    """Return when the first stream begins, in seconds; exactly, where FFmpeg tells microseconds."""
    told = Fraction(container.start_time or 0, _MICROSECONDS)
    starts = starts_of(container.streams)
    return min((one for one in starts if abs(one - told) * _MICROSECONDS < 1), default=told)


def starts_of(streams: Iterable[Stream]) -> Iterator[Fraction]:
    """Yield when streams begin, in seconds, as far as that is known."""
    for stream in streams:
        if stream.start_time is not None and stream.time_base:
            yield stream.start_time * stream.time_base


@dataclass(frozen=True, slots=True)
class Window:
    """A part on the time line of its source, in seconds."""

    start: Fraction | None
    """None: the part has the film's beginning, whatever the times there are."""
    end: Fraction | None
    """None: it has the film's end."""

    def begins_after(self, seconds: Fraction) -> bool:
        """Return whether a time lies before the part."""
        return self.start is not None and _micros(seconds) < _micros(self.start)

    def ends_by(self, seconds: Fraction) -> bool:
        """Return whether a time lies at the part's end or after it."""
        return self.end is not None and _micros(seconds) >= _micros(self.end)

    def ticks(self, time_base: Fraction) -> tuple[int | None, int | None]:
        """Return the first tick of the part, and the first after it; None where it is unbounded."""
        start, end = (
            None if edge is None else math.ceil((_micros(edge) - _HALF) / _MICROSECONDS / time_base)
            for edge in (self.start, self.end)
        )
        return start, end

    def bounds(self, times: Sequence[int], time_base: Fraction) -> tuple[int, int]:
        """Return which of rising pts lie in the part: the first, and the one behind the last."""
        start, end = self.ticks(time_base)
        begin = 0 if start is None else bisect_left(times, start)
        return begin, len(times) if end is None else bisect_left(times, end)

    def count(self, first: int, step: Fraction, total: int, time_base: Fraction) -> int:
        """Return how many of a film's `total` frames lie in the part, if the rate is constant.

        The `first` frame's pts and the `step` between frames are in ticks.
        """
        start, end = (
            None if edge is None else math.ceil((edge - first - _HALF) / step)
            for edge in self.ticks(time_base)
        )
        return max(0, min(total, total if end is None else end) - max(0, start or 0))

    def seconds(self, begins: Fraction, ends: Fraction, shown: Fraction | None) -> Fraction:
        """Return how long the part's pictures last, if the film is shown from `begins` to `ends`.

        `shown` is when the part's first picture is; None if unknown.
        """
        start = begins if self.start is None else max(begins, self.start)
        end = ends if self.end is None else min(ends, self.end)
        return max(Fraction(0), end - (start if shown is None else shown))

    def chapters(self, chapters: Sequence[Chapter]) -> list[Chapter]:
        """Return the chapters that overlap the part, their times clipped to it."""
        return [cut for one in chapters if (cut := self._cut(one)) is not None]

    def _cut(self, chapter: Chapter) -> Chapter | None:
        tick = chapter["time_base"] or Fraction(1, 1000)
        begins, ends = chapter["start"] * tick, chapter["end"] * tick
        passed = self.begins_after(ends if begins == ends else ends - Fraction(1, _MICROSECONDS))
        if passed or self.ends_by(begins):
            return None
        start, end = chapter["start"], chapter["end"]
        start = start if self.start is None else max(start, round(self.start / tick))
        end = end if self.end is None else min(end, round(self.end / tick))
        return {**chapter, "time_base": tick, "start": start, "end": end}


def _micros(seconds: Fraction) -> int:
    return math.floor(seconds * _MICROSECONDS + _HALF)
