"""The video's way through the encoder in time: ticks going in, durations and seconds coming out."""

from __future__ import annotations

from fractions import Fraction

from ...filters.frame import Picture
from .muxing import AnyPacket
from .pacing import EncoderClock, Pace, common_time_base, mend_dts, shift_packet


class Placement:
    """Follows pictures through the encoder: their ticks going in, their seconds coming out."""

    def __init__(self, pace: Pace, time_base: Fraction) -> None:
        self._pace = pace
        self._time_base = time_base
        self._clock = EncoderClock(pace, time_base)
        self._durations: dict[int, int] = {}
        self._first_dts: int | None = None
        self.start_seconds = Fraction(0)
        """Of the first picture, on the output's time line."""
        self.num_pictures = 0

    def begin(self, picture: Picture, origin_seconds: Fraction) -> Fraction:
        """Place the first picture on the output's time line; give the muxer's time base."""
        self.start_seconds = picture.pts * self._time_base - origin_seconds
        return common_time_base(self._pace.time_base, self.start_seconds)

    def enter(self, picture: Picture) -> tuple[int, int]:
        """Give the next picture's pts and duration in ticks of the encoder."""
        ticks, duration = self._clock(picture.pts, picture.duration)
        self._durations[ticks] = duration
        self.num_pictures += 1
        return ticks, duration

    def leave(self, packet: AnyPacket, *, closes_mp4: bool = False) -> Fraction:
        """Give a coded packet its duration and place.

        Args:
            packet: of the encoder, in the order in which it gives them.
            closes_mp4: whether it is the very last one, and goes to an MP4 or a MOV. They keep no
                durations but the distances of dts; for a track to last as long as its pictures,
                its last sample must reach to their end.

        Returns:
            When it is due, in seconds on the output's time line.
        """
        mend_dts(packet, self._clock.last)
        if self._first_dts is None:
            self._first_dts = packet.dts or 0
        if packet.pts is not None:
            packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            if closes_mp4 and packet.dts is not None:
                packet.duration = self._clock.end - packet.pts
                packet.dts = max(packet.dts, packet.pts + self._first_dts)
        shift_packet(packet, self.start_seconds)
        return (packet.dts or 0) * (packet.time_base or self._pace.time_base)

    @property
    def last_start_seconds(self) -> Fraction:
        """From the start of the first picture to that of the last."""
        return self._clock.last * self._pace.time_base

    @property
    def duration_seconds(self) -> Fraction:
        """From the start of the first picture to the end of the last."""
        return self._clock.end * self._pace.time_base

    @property
    def num_rounded(self) -> int:
        """Timestamps that the encoder's ticks cannot hold exactly."""
        return self._clock.num_rounded
