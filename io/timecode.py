"""Time codes: the hour, minute, second and frame that a file gives to its first picture.

A time code counts frames in whole seconds of 24, 25, 30, … frames, also where there are slightly
fewer. At 30000/1001 and 60000/1001 it may follow the clock by dropping numbers, never frames: the
first two (or four) of every minute except every tenth. Source: SMPTE ST 12-1:2014, 5.2 and 12.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.stream import Stream

from .extent import mp4_index
from .part import Window
from .traits import OpenedFile, Trait

KEY = "timecode"
"""FFmpeg's name of the metadata, of a file or of a stream; Matroska writes it in capitals."""

_TEXT = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.,])(\d{2,3})$")
# QuickTime File Format, "Timecode sample description": reserved, reference, flags, then the
# time scale and the duration of one frame
_TMCD = re.compile(rb"stsd.{12}tmcd.{16}(.{4})(.{4})", re.DOTALL)
_DROPPING = (Fraction(30_000, 1001), Fraction(60_000, 1001))
_SAME_RATE = Fraction(1, 100)
_TIME_TOLERANCE = Fraction(1, 1_000_000)


@dataclass(frozen=True, slots=True)
class Timecode:
    """The time code of a first frame."""

    hours: int
    minutes: int
    seconds: int
    frames: int
    is_drop: bool
    """Whether it drops numbers, so that it follows the clock; written with ``;``."""
    rate: Fraction
    """Frames per second that it counts; the nearest whole number of them makes a second."""

    @classmethod
    def parse(cls, text: str, rate: Fraction) -> Timecode | None:
        """Parse ``01:02:03:04`` or ``01:02:03;04``; None if it is neither."""
        if (match := _TEXT.match(text.strip())) is None:
            return None
        hours, minutes, seconds, separator, frames = match.groups()
        drops = separator != ":"
        return cls(int(hours), int(minutes), int(seconds), int(frames), drops, rate)

    def __str__(self) -> str:
        separator = ";" if self.is_drop else ":"
        return f"{self.hours:02}:{self.minutes:02}:{self.seconds:02}{separator}{self.frames:02}"

    @property
    def second(self) -> str:
        """The start by the clock's second and the share of it, which no rate changes."""
        share = Fraction(self.frames, _whole(self.rate))
        return f"{self.hours:02}:{self.minutes:02}:{self.seconds:02} + {share} s"

    def at(self, rate: Fraction) -> Timecode:
        """Return the code of the same start at another rate, dropping numbers if that rate does."""
        count = _whole(rate)
        drops = self.is_drop and any(abs(rate - one) < _SAME_RATE for one in _DROPPING)
        frames = min(self.frames * count // _whole(self.rate), count - 1)
        if drops and self.seconds == 0 and self.minutes % 10:
            frames = max(frames, count // 15)  # the smaller numbers do not exist
        return Timecode(self.hours, self.minutes, self.seconds, frames, drops, rate)

    def later(self, num_frames: int) -> Timecode:
        """Return the code of a frame further on; after 24 hours it begins again."""
        whole = _whole(self.rate)
        dropped = whole // 15 if self.is_drop else 0
        minutes = self.hours * 60 + self.minutes
        count = (minutes * 60 + self.seconds) * whole + self.frames + num_frames
        count -= dropped * (minutes - minutes // 10)
        a_minute, ten_minutes = 60 * whole - dropped, 600 * whole - 9 * dropped
        count %= 144 * ten_minutes
        tens, rest = divmod(count, ten_minutes)
        if rest >= dropped:
            count += dropped * (9 * tens + (rest - dropped) // a_minute)
        else:
            count += dropped * 9 * tens
        seconds, frames = divmod(count, whole)
        minutes, seconds = divmod(seconds, 60)
        return Timecode(*divmod(minutes, 60), seconds, frames, self.is_drop, self.rate)


def _whole(rate: Fraction) -> int:
    return max(round(rate), 1)


def timecode_of(opened: OpenedFile, window: Window | None = None) -> Timecode | None:
    """Return a file's time code: that of its video, else of the file, else of a track for it.

    With a window it is that of the first frame of the part.
    """
    places = [opened.video, opened.container, *opened.container.streams.data]
    text = next((text for place in places if (text := _told(place.metadata))), None)
    if text is None:
        return None
    rate = None if opened.path is None else _counted_rate(opened.path)
    video = opened.video
    shown = video.average_rate or video.guessed_rate or Fraction(25)
    code = Timecode.parse(text, rate or shown)
    if code is None or window is None or window.start is None:
        return code
    begins = (video.start_time or 0) * (video.time_base or Fraction(1))
    counted = shown if _whole(shown) == _whole(code.rate) else code.rate
    return code.later(max(0, math.ceil((window.start - begins - _TIME_TOLERANCE) * counted)))


def is_timecode(stream: Stream, name: str) -> bool:
    """Return whether a data track holds nothing but a time code, unlike some cameras' telemetry.

    FFmpeg reads a time code out of that, too. `name` is the track's sample entry in QuickTime and
    MP4, ``unknown`` elsewhere.
    """
    is_told = stream.type == "data" and _told(stream.metadata) is not None
    return is_told and name in ("tmcd", "unknown")


def _told(metadata: Mapping[str, str]) -> str | None:
    return next((value for key, value in metadata.items() if key.lower() == KEY), None)


def _counted_rate(path: Path) -> Fraction | None:
    """Return the frames per second that a QuickTime or MP4 time code track counts."""
    if (match := _TMCD.search(mp4_index(path))) is None:
        return None
    scale, lasts = (int.from_bytes(number) for number in match.groups())
    return Fraction(scale, lasts) if scale and lasts else None


def timecode_traits(opened: OpenedFile, window: Window | None = None) -> Iterator[Trait]:
    """Yield the time code, if there is one."""
    if (code := timecode_of(opened, window)) is not None:
        yield Trait("video", "timecode", f"time code {code}", code.second)
