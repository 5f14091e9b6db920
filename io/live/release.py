"""Packets that come in bursts, let go at the pace of their timestamps.

An HLS input comes a segment at a time: seconds of frames at once, then nothing. Let through as it
comes, it would look like a stall, and most frames of each burst would be dropped as too old. Let go
one by one it is as even as any camera, some segments behind the sender, as every player is.
"""

from __future__ import annotations

from fractions import Fraction

from av.packet import Packet
from av.stream import Stream

_LATE_SECONDS = 0.5
"""By which a packet must be late for the pace to begin anew: the sender, or the way, was slow."""
_JUMP_SECONDS = 5.0
"""From one packet to the next, more is a jump of the sender's clock, not a pause."""


class Pacer:
    """Tells when packets are due. A plain value: it is told the time, and waits for nothing."""

    def __init__(self) -> None:
        self._anchor: float | None = None  # moment of the timestamp 0
        self._last = 0.0

    def wait_seconds(self, stamp: Fraction | None, now: float) -> float:
        """Tell how long a packet has to wait.

        Args:
            stamp: its decoding timestamp, seconds; None where it has none.
            now: monotonic seconds.

        Returns:
            Seconds; 0 where it goes at once.
        """
        if stamp is None:
            return 0.0
        seconds = float(stamp)
        jumped = abs(seconds - self._last) > _JUMP_SECONDS
        if self._anchor is None or jumped or now - (self._anchor + seconds) > _LATE_SECONDS:
            self._anchor = now - seconds
        self._last = seconds
        return max(0.0, self._anchor + seconds - now)


def decoding_time(packet: Packet[Stream]) -> Fraction | None:
    """Give when a packet is to be decoded, in seconds of its sender's clock."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else stamp * packet.time_base
