"""The output stage of a live session: an even row of slots, whatever comes in, or does not.

Pictures go out as soon as they are made. Where none comes in time, the last one is repeated, and
after a while a slate is shown; so the output's rate and its timestamps never tell of the input.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from ...filters.frame import Picture
from ...io.live.encoder import LiveEncoder
from ...io.live.publisher import Publisher
from ...io.live.values import Encoded
from .computing import Made
from .delays import Delays
from .expected import Expected
from .grid import Grid, Slot
from .timeline import Timeline

log = logging.getLogger("upframe.live")

Showing = Literal["input", "freeze", "slate", "nothing"]

_LOOK_SECONDS = 0.25
_MAX_SOUND_PACKETS = 4096
"""That wait for their picture: some 80 s."""
_BACKLOG_PICTURES = 2
"""Of input frames, that may wait for the encoder; more, and the compute stage waits."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When the output goes on without the input. All in seconds."""

    patience_seconds: float
    """How late a picture may be, while none is being made, before the last one is repeated."""
    drop_seconds: float
    """Repeats that are later than this are not encoded at all."""
    slate_seconds: float | None
    """After the last picture, from when on the slate is shown; None: never."""


@dataclass(slots=True)
class _Sound:
    data: bytes
    seconds: Fraction
    duration: Fraction


@dataclass(slots=True)
class _Inbox:
    """What has come and waits for the output thread; guarded by the condition of its owner."""

    pictures: deque[Made] = field(default_factory=deque[Made])
    sound: deque[_Sound] = field(default_factory=deque[_Sound])
    ended: bool = False
    dropped: bool = False


class Outgoing:
    """Runs the output thread of a session."""

    def __init__(
        self,
        encoder: LiveEncoder,
        publisher: Publisher,
        timeline: Timeline,
        delays: Delays,
        expected: Expected,
        pace: Pace,
        *,
        rate: Fraction,
        slate: Picture,
        num_slots: int | None,
        pictures_per_frame: int,
        now: Callable[[], float],
        speed: float,
        changed: Callable[[], None],
    ) -> None:
        """Take the parts.

        Args:
            encoder: of this thread alone.
            publisher: takes its packets, and never blocks.
            timeline: tells what is due.
            delays: is told in which slot a frame goes out.
            expected: knows what is still to come.
            pace: see there.
            rate: of the slots.
            slate: shown where there is no input.
            num_slots: after which the output is complete; None: never.
            pictures_per_frame: how many pictures an input frame becomes.
            now: monotonic seconds, of which `speed` pass in a second.
            speed: see there.
            changed: called when there is something new to see of the output.
        """
        self.failure: BaseException | None = None
        self.in_flight: Callable[[], bool] = lambda: False
        """Tells whether a frame waits for work, or is worked on; set before the start."""
        self.showing: Showing = "nothing"
        self.complete = threading.Event()
        """Whether all slots have been given."""
        self._encoder = encoder
        self._publisher = publisher
        self._timeline = timeline
        self._delays = delays
        self._expected = expected
        self._pace = pace
        self._grid: Grid[Made] = Grid(rate)
        self._rate = rate
        self._slate = Made(slate, Fraction(0), None)
        self._num_slots = num_slots
        self._capacity = max(2, _BACKLOG_PICTURES * pictures_per_frame)
        self._now = now
        self._speed = speed
        self._changed = changed
        self._counts: Counter[str] = Counter()
        self._last_time: Fraction | None = None
        self._inbox = _Inbox()
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="upframe-output", daemon=True)

    def start(self) -> None:
        """Begin to give slots, from the first picture on."""
        self._thread.start()

    def give(self, made: Made) -> None:
        """Take a picture; waits while too many wait for the encoder. Of any thread."""
        with self._condition:
            self._condition.wait_for(
                lambda: len(self._inbox.pictures) < self._capacity or self._inbox.dropped
            )
            if not self._inbox.dropped:
                self._inbox.pictures.append(made)
                self._condition.notify_all()

    def sound(self, data: bytes, seconds: Fraction, duration: Fraction) -> None:
        """Take a packet of sound for a time on the output's time line. Of any thread."""
        with self._condition:
            if len(self._inbox.sound) >= _MAX_SOUND_PACKETS:
                self._inbox.sound.popleft()
                self._counts["sound_dropped"] += 1
            self._inbox.sound.append(_Sound(data, seconds, duration))

    def end(self) -> None:
        """Give what has come, and end."""
        with self._condition:
            self._inbox.ended = True
            self._condition.notify_all()

    def drop(self) -> None:
        """End at once; whoever waits to give something is let go."""
        with self._condition:
            self._inbox.dropped = self._inbox.ended = True
            self._inbox.pictures.clear()
            self._condition.notify_all()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread. Whether it has ended, or never began."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def has_backlog(self) -> bool:
        """Tell whether pictures wait for the encoder."""
        return bool(self._inbox.pictures)

    def counts(self) -> dict[str, int]:
        """Give frames_encoded, frames_repeated, frames_late, frames_surplus, frames_left_out."""
        grid = self._grid.counts
        total = {f"frames_{name}": grid[name] for name in ("repeated", "late", "surplus")}
        return {"frames_encoded": 0, **total, **self._counts}

    def seconds(self) -> float:
        """Give the length of the output so far."""
        return self._counts["frames_encoded"] / float(self._rate)

    def _run(self) -> None:
        try:
            wait = _LOOK_SECONDS
            while (pictures := self._taken(wait)) is not None:
                for made in pictures:
                    self._enter(made)
                wait = self._fill()
                self._give_sound()
            self._give_all(self._encoder.flush())
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
            self.drop()
        finally:
            self._changed()

    def _taken(self, wait_seconds: float) -> list[Made] | None:
        """Wait for pictures, not longer than told; None at the end."""
        inbox = self._inbox
        with self._condition:
            self._condition.wait_for(
                lambda: inbox.pictures or inbox.ended, wait_seconds / self._speed
            )
            if inbox.dropped or (inbox.ended and not inbox.pictures):
                return None
            pictures = list(inbox.pictures)
            inbox.pictures.clear()
            self._condition.notify_all()
            return pictures

    def _enter(self, made: Made) -> None:
        self._expected.shown(made.seconds)
        self._show(self._grid.enter(made.seconds, made))
        self._last_time = made.seconds
        self._see("input")

    def _fill(self) -> float:
        """Repeat, or show the slate, where a slot's time has passed. Seconds until the next."""
        if self._last_time is None:
            return _LOOK_SECONDS
        now, in_flight = self._now(), self.in_flight()
        pace = self._pace
        overdue = self._expected.overdue(now)
        until = Fraction(0) if overdue is None else overdue + 1 / self._rate
        if not in_flight:
            until = max(until, self._timeline.due(now) - Fraction(pace.patience_seconds))
        missing = self._grid.next_time - until
        if missing > 0:
            return self._wait_seconds(now, None if in_flight else float(missing))
        slate_from = until
        if pace.slate_seconds is not None and not in_flight:
            slate_from = self._last_time + Fraction(pace.slate_seconds)
        frozen = self._grid.fill(min(until, slate_from))
        covered = self._grid.fill(until, self._slate)
        self._show(frozen)
        self._show(covered)
        self._timeline.advance(self._grid.next_time)
        if not in_flight:
            self._see("slate" if covered else "freeze" if frozen else self.showing)
        return float(1 / self._rate)

    def _wait_seconds(self, now: float, missing: float | None) -> float:
        """Wait until the next slot is missing, or the next frame overdue."""
        waits = (_LOOK_SECONDS, missing, self._expected.next_seconds(now))
        return max(0.0, min(wait for wait in waits if wait is not None))

    def _see(self, showing: Showing) -> None:
        if showing != self.showing:
            self.showing = showing
            self._changed()

    def _show(self, slots: Iterable[Slot[Made]]) -> None:
        for slot in slots:
            if self._num_slots is not None and slot.index >= self._num_slots:
                self.complete.set()
                self._changed()
                return
            if slot.is_repeat and self._is_hopeless(slot.index):
                self._counts["frames_left_out"] += 1
                continue
            self._encode(slot)

    def _is_hopeless(self, index: int) -> bool:
        """Tell whether a repeat is so late that it would only hold up what comes after it."""
        late = self._timeline.due(self._now()) - index / self._rate
        return late > self._pace.drop_seconds

    def _encode(self, slot: Slot[Made]) -> None:
        made = slot.item
        packets = self._encoder(made.picture, slot.index, keyframe=self._publisher.wants_keyframe)
        self._counts["frames_encoded"] += 1
        if made.arrived is not None and not slot.is_repeat:
            self._delays.given(slot.index, made.arrived)
        self._give_all(packets)

    def _give_all(self, packets: Iterable[Encoded]) -> None:
        for packet in packets:
            self._publisher.give(packet)

    def _give_sound(self) -> None:
        """Give the sound that belongs to slots that have gone out, and that before it."""
        if self._last_time is None:
            return
        until = self._grid.next_time
        ready: list[_Sound] = []
        with self._condition:
            sound = self._inbox.sound
            while sound and sound[0].seconds < until:
                ready.append(sound.popleft())
        for one in ready:
            self._publisher.give(self._encoder.sound_packet(one.data, one.seconds, one.duration))
