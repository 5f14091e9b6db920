"""What becomes of what a reader gives: frames get their place in time and wait for work."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from ...io.live.sound import KeptSound
from ...io.live.values import Arrival, LiveForm, SoundPacket
from .computing import Waiting
from .leaky import Leaky
from .timeline import Timeline

log = logging.getLogger("upframe.live")

_FORGETTING = 0.1
"""Weight of the latest interval in their mean."""
_LONGEST_INTERVALS = 4.0
"""Of the nominal interval; a longer one is a gap, and says nothing of the pace."""


class SoundSink(Protocol):
    """Takes packets of sound, with their time and duration in seconds."""

    def __call__(self, data: bytes, seconds: Fraction, duration: Fraction) -> None:
        """Take one."""
        ...


@dataclass(frozen=True, slots=True)
class Gate:
    """Where frames and sound go, once the output is there."""

    timeline: Timeline
    queue: Leaky[Waiting]
    expect: Callable[[Fraction, float], None]
    """Is told the time and the moment of each frame before it waits."""
    sound: SoundSink | None
    """None: the output has none."""


class Intake:
    """Takes the frames of one connection after the other; the `Receiver` of all readers.

    Frames that come before the output is there are passed over, for live ones would be old by
    then; a file waits.
    """

    def __init__(
        self, *, wants_sound: bool, now: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        """Take how to begin.

        Args:
            wants_sound: whether to keep what the first connection's sound is like.
            now: monotonic seconds.
            changed: called when the first connection was probed.
        """
        self.first: LiveForm | None = None
        """What the first connection is like; the output is made for it."""
        self.kept_sound: KeptSound | None = None
        self.placed_pts = -1
        """Of the latest frame."""
        self.waits = False
        """Whether the input can wait for the output, as a file can; set before it is read."""
        self._wants_sound = wants_sound
        self._now = now
        self._not_before = float("-inf")  # frames that were there before the output
        self._changed = changed
        self._gate: Gate | None = None
        self._decided = threading.Event()
        self._form: LiveForm | None = None
        self._is_connected = False
        self._takes_sound = False
        self._breaks = 0
        self._interval = 0.0
        self._counts: Counter[str] = Counter()

    def open(self, gate: Gate) -> None:
        """Let frames in, from now on."""
        self._gate = gate
        self._decided.set()

    def close(self) -> None:
        """Let nothing in any more; a reader that waits goes on."""
        self._gate = None
        self._decided.set()

    def formed(self, form: LiveForm) -> bool:
        """Take what a connection is like, and wait for the output where the input can."""
        self._form, self._is_connected = form, False
        kept = self.kept_sound
        self._takes_sound = form.sound is not None and (kept is None or kept.is_like(form.sound))
        if form.sound is not None and not self._takes_sound:
            log.warning("the sound is another now, and is left out")
        if self.first is None:
            if form.sound is not None and self._wants_sound:
                self.kept_sound = KeptSound(form.sound)
            self.first = form
            self._changed()
        if self.waits:
            self._decided.wait()
            self._not_before = self._now()
            return self._gate is not None
        return True

    def frame(self, arrival: Arrival) -> None:
        """Give a frame its place in time; it waits for work, or is dropped for a newer one."""
        gate, form = self._gate, self._form
        if gate is None or form is None:
            return
        if not self._is_connected:
            self._connect(gate, form, arrival.arrived)
        if arrival.arrived < self._not_before:
            arrival = replace(arrival, arrived=self._not_before)
        placed = gate.timeline.place(arrival)
        self._breaks += placed.breaks
        if placed.late:
            self._counts["frames_late"] += 1
            return
        if not placed.breaks:
            self._measure((placed.pts - self.placed_pts) * gate.timeline.time_base)
        self.placed_pts = placed.pts
        gate.expect(placed.pts * gate.timeline.time_base, arrival.arrived)
        waiting = Waiting(
            arrival.frame,
            placed.pts,
            arrival.arrived,
            self._breaks,
            arrival.sample_aspect_ratio,
        )
        gate.queue.put(waiting, arrival.arrived)

    def sound(self, packet: SoundPacket) -> None:
        """Give a packet of sound its time, by the picture's."""
        gate = self._gate
        if gate is None or gate.sound is None or not self._is_connected or not self._takes_sound:
            return
        seconds = gate.timeline.sound(packet)
        if seconds is None:
            self._counts["sound_dropped"] += 1
        else:
            gate.sound(packet.data, seconds, packet.duration_seconds)

    def interval_seconds(self) -> float:
        """Give the time between frames, as they come lately."""
        return self._interval

    def counts(self) -> dict[str, int]:
        """Frames and packets of sound that have no place in time, or none any more."""
        return dict(self._counts)

    def _connect(self, gate: Gate, form: LiveForm, now: float) -> None:
        rate = form.info.rate or Fraction(25)
        gate.timeline.connected(rate, now=now)
        self._interval = float(1 / rate)
        self._is_connected = True

    def _measure(self, step: Fraction) -> None:
        assert self._form is not None
        nominal = float(1 / (self._form.info.rate or Fraction(25)))
        if 0 < step <= _LONGEST_INTERVALS * nominal:
            self._interval += _FORGETTING * (float(step) - self._interval)
