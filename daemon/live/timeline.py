"""The output clock of a session, shared by who reads the input and who fills the output."""

from __future__ import annotations

from fractions import Fraction
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...io.live.clock import LiveClock, PlacedFrame
    from ...io.live.values import DecodedFrame, SoundPacket


class Timeline:
    """A `LiveClock` that any thread may ask."""

    def __init__(self, clock: LiveClock) -> None:
        self._clock = clock
        self._lock = Lock()
        self.time_base = clock.time_base
        """Seconds a tick of what `place` gives."""

    def connected(self, rate: Fraction, *, now: float) -> None:
        """Begin a connection whose frames come at a nominal rate."""
        with self._lock:
            self._clock.connected(rate, now=now)

    def place(self, arrival: DecodedFrame) -> PlacedFrame:
        """Give a frame its place on the output's time line."""
        with self._lock:
            return self._clock.place(
                arrival.seconds, arrival.arrived, after_loss=arrival.after_loss
            )

    def sound(self, packet: SoundPacket) -> Fraction | None:
        """Give a packet of sound its time, in seconds; None where it has none."""
        with self._lock:
            return self._clock.sound(packet.seconds, packet.arrived)

    def due(self, now: float) -> Fraction:
        """Give the output time, in seconds, that a frame would have that came at this moment."""
        with self._lock:
            return self._clock.due(now)

    def advance(self, to: Fraction) -> None:
        """Say that the output was filled up to a time; whatever comes gets a later one."""
        with self._lock:
            self._clock.advance(to)

    def counts(self) -> dict[str, int]:
        """Give discontinuities by kind."""
        with self._lock:
            return dict(self._clock.counts)
