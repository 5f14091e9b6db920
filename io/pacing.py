"""The encoder's clock: in which ticks pictures are counted on their way through encoder and muxer.

Timestamps stay exact wherever encoder and container can hold them; where not, they are rounded to
the nearest tick, kept strictly rising, and counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..filters.frame import StreamInfo
from .containers import Container
from .muxing import AnyPacket

_MAX_DENOMINATOR = (1 << 31) - 1  # FFmpeg's rationals are pairs of int32
# MPEG-4 part 2 counts ticks in 16 bits (ISO/IEC 14496-2, vop_time_increment_resolution)
_MAX_BY_CODEC = {"mpeg4": 65_535, "msmpeg4": 65_535, "msmpeg4v2": 65_535}
# These codecs have one of a few frame rates in the bitstream, and no other time
_RATE_ONLY = ("mpeg1video", "mpeg2video", "dnxhd", "gif")
_FINE = 90_000  # ticks per second, where a time base must be rounded


@dataclass(frozen=True, slots=True)
class Pace:
    """In which time base to encode, and at which rate players are told to expect frames."""

    time_base: Fraction
    """Seconds in one tick of the encoder."""
    rate: Fraction
    """Frames per second: exact where constant, else the average."""
    exact: bool
    """Whether every timestamp of the source is a whole number of ticks."""


def choose_pace(info: StreamInfo, codec: str, container: Container) -> Pace:
    """Choose the time base of an encoder, exact where it can be."""
    rate = info.rate or info.average_rate or Fraction(25)
    if codec in _RATE_ONLY and codec != "gif":
        return Pace(1 / rate, rate, exact=info.rate is not None)
    if container.constant_rate_only:
        return Pace(1 / rate, rate, exact=info.rate is not None)
    limit = _MAX_BY_CODEC.get(codec, _MAX_DENOMINATOR)
    if codec == "gif":
        return Pace(Fraction(1, 100), rate, exact=(info.time_base * 100).denominator == 1)
    if info.time_base.denominator <= limit and info.time_base.numerator <= limit:
        return Pace(info.time_base, rate, exact=True)
    if info.rate and info.rate.numerator <= limit:
        return Pace(1 / info.rate, rate, exact=True)
    return Pace(Fraction(1, min(limit, _FINE)), rate, exact=False)


class EncoderClock:
    """Turns a picture's pts into the encoder's ticks, counted from the first picture.

    Args:
        pace: the encoder's time base.
        time_base: of the pictures.
    """

    def __init__(self, pace: Pace, time_base: Fraction) -> None:
        self._scale = time_base / pace.time_base
        self._first: int | None = None
        self._last = -1
        self.num_rounded = 0
        """Timestamps that were no whole number of ticks."""

    @property
    def first(self) -> int:
        """The pts of the first picture, in its own ticks."""
        return self._first or 0

    def __call__(self, pts: int, duration: int) -> tuple[int, int]:
        """Give pts and duration in ticks of the encoder; pts rise strictly.

        The end of a picture is rounded, not its length, so that errors do not add up.
        """
        if self._first is None:
            self._first = pts
        exact = (pts - self._first) * self._scale
        ticks = max(_nearest(exact), self._last + 1)
        self.num_rounded += exact.denominator != 1
        self._last = ticks
        end = _nearest((pts - self._first + duration) * self._scale)
        return ticks, max(end - ticks, 1)


def shift_packet(packet: AnyPacket, offset_seconds: Fraction) -> None:
    """Move a packet in time, in ticks fine enough to do so exactly where FFmpeg can."""
    if not offset_seconds or not packet.time_base:
        return
    common = common_time_base(packet.time_base, offset_seconds)
    scale = int(packet.time_base / common)
    shift = _nearest(offset_seconds / common)
    if packet.pts is not None:
        packet.pts = packet.pts * scale + shift
    if packet.dts is not None:
        packet.dts = packet.dts * scale + shift
    if packet.duration is not None:
        packet.duration *= scale
    packet.time_base = common


def common_time_base(time_base: Fraction, offset: Fraction) -> Fraction:
    """Find ticks in which both whole ticks of `time_base` and `offset` seconds are whole.

    Where these would be too fine for FFmpeg, `time_base` itself.
    """
    if offset == 0:
        return time_base
    denominator = math.lcm(time_base.denominator, offset.denominator)
    numerator = math.gcd(
        time_base.numerator * (denominator // time_base.denominator),
        abs(offset.numerator) * (denominator // offset.denominator),
    )
    common = Fraction(numerator, denominator)
    return common if common.denominator <= _MAX_DENOMINATOR else time_base


def _nearest(ticks: Fraction) -> int:
    """Round half up; Fraction's own rounding to even would make steps uneven."""
    return math.floor(ticks + Fraction(1, 2))
