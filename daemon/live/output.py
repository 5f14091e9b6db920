"""The output stage of a live session: an even row of slots, whatever comes in, or does not.

Pictures go out as soon as they are made. Where none comes in time, the last one is repeated, and
after a while a slate is shown; so the output's rate and its timestamps never tell of the input.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from threading import Lock
from typing import Generic, Literal, TypeVar

from ...filters.frame import Picture
from ...io.live.live_encoder import LiveEncoder
from ...io.live.values import Encoded
from ..queues import BlockingQueue, DropOldestQueue, QueueCancelled
from .compute_stage import Made
from .publisher import Publisher
from .timeline import Timeline

log = logging.getLogger("upframe.live")


# The even row of slots that an output consists of, whatever comes in and when.

T = TypeVar("T")

_REACH = Fraction(3, 4)
"""Of a slot: how far a time may be from the slot that follows from the item before.

More than half of one, so that times that lie near the middle between two slots and jitter a
little do not leave one slot empty and meet in the next, over and over.
"""


@dataclass(frozen=True, slots=True)
class FrameSlot(Generic[T]):
    """One place in the row, and what it shows."""

    index: int
    """Its time is index / rate; without holes from the first slot on."""
    item: T
    is_repeat: bool
    """Whether the item was given in an earlier slot."""


@dataclass(slots=True)
class _Shown(Generic[T]):
    item: T
    was_given: bool


class FrameScheduler(Generic[T]):
    """Gives every slot exactly once and in order, an item to each.

    A slot is given as soon as its item comes: nothing is held back.
    """

    def __init__(self, rate: Fraction) -> None:
        """Take the slots per second.

        Raises:
            ValueError: for a rate that is not positive.
        """
        if rate <= 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._rate = rate
        self._next = 0
        self._shown: _Shown[T] | None = None
        self._before: tuple[Fraction, int] | None = None  # in slots: where it was, where it went
        self._counts: Counter[str] = Counter()

    @property
    def next_time(self) -> Fraction:
        """Seconds at which the next slot begins that was not given yet."""
        return self._next / self._rate

    @property
    def counts(self) -> dict[str, int]:
        """So far: slots `given`, among them `repeated`; items that came `late`, or `surplus`."""
        return {key: self._counts[key] for key in ("given", "repeated", "late", "surplus")}

    def enter(self, time: Fraction, item: T) -> list[FrameSlot[T]]:
        """Put an item in the slot of its time, and repeats of the one before up to there.

        An item for whose slot it is too late is not given there, but it is what is repeated next:
        `surplus` where the item before it took the slot, `late` otherwise.

        Args:
            time: Seconds on the output's time line; the very first one sets where the row starts.
            item: What to show from then on.
        """
        index = self._index_of(time)
        if self._shown is None and not self._counts["given"]:
            self._next = index
        is_second = self._before is not None and index == self._before[1]
        self._before = (time * self._rate, index)
        if index < self._next:
            self._counts["surplus" if is_second else "late"] += 1
            self._shown = _Shown(item, was_given=False)
            return []
        slots = self._give_until(index)
        self._shown = _Shown(item, was_given=False)
        return [*slots, *self._give_until(index + 1)]

    def fill(self, until: Fraction, item: T | None = None) -> list[FrameSlot[T]]:
        """Give all slots before a time.

        Args:
            until: Seconds; the slot that begins there is not given.
            item: What to show instead of a repeat, and from then on.

        Returns:
            The slots; none where there is nothing to repeat yet.
        """
        end = math.ceil(until * self._rate)
        if end <= self._next:
            return []
        if item is not None and (self._shown is None or self._shown.item is not item):
            self._shown = _Shown(item, was_given=False)
        return self._give_until(end)

    def _index_of(self, time: Fraction) -> int:
        """Take the slot that follows from the item before; where that is far off, the nearest."""
        place = time * self._rate
        if self._before is not None:
            was, went = self._before
            index = went + round(place - was)
            if abs(place - index) <= _REACH:
                return index
        return math.floor(place + Fraction(1, 2))

    def _give_until(self, end: int) -> list[FrameSlot[T]]:
        if self._shown is None:
            return []
        slots: list[FrameSlot[T]] = []
        for index in range(self._next, end):
            slots.append(FrameSlot(index, self._shown.item, self._shown.was_given))
            self._counts["given"] += 1
            self._counts["repeated"] += self._shown.was_given
            self._shown.was_given = True
        self._next = max(self._next, end)
        return slots


# Frames that have come and are no pictures yet, and how long the output waits for them.

_MAX_FRAMES = 1024
"""There are never as many: of so many the oldest are forgotten."""


class PendingFrames:
    """A value for two threads: one tells what has come, the other what has become of it.

    A frame that is not a picture within the deadline after its arrival is given up: the output goes
    on without it, so that whatever is written keeps to the latency budget.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._frames: deque[tuple[Fraction, float]] = deque(maxlen=_MAX_FRAMES)
        self._lock = Lock()

    def came(self, seconds: Fraction, arrived: float) -> None:
        """Note a frame by its time on the output's time line and its moment (monotonic)."""
        with self._lock:
            self._frames.append((seconds, arrived))

    def shown(self, seconds: Fraction) -> None:
        """Note that a picture of this time is there: nobody waits for it, or those before it."""
        with self._lock:
            while self._frames and self._frames[0][0] <= seconds:
                self._frames.popleft()

    def overdue(self, now: float) -> Fraction | None:
        """Give up the frames whose deadline has passed; the time of the last of them, or None."""
        until = None
        with self._lock:
            while self._frames and self._frames[0][1] + self._deadline <= now:
                until = self._frames.popleft()[0]
        return until

    def next_seconds(self, now: float) -> float | None:
        """Give the time until the next deadline, in seconds; None where nothing is expected."""
        with self._lock:
            return self._frames[0][1] + self._deadline - now if self._frames else None


# How late frames are: from a packet's arrival to the moment its frame is written.
#
# The last minute is kept frame by frame, for the status; the whole run as a histogram of fixed
# size, for the report.

WINDOW_SECONDS = 60.0
_STEP_SECONDS = 0.005
_NUM_STEPS = 20_001
"""Of the histogram: 100 s, and the last for all that is more."""
_MAX_KEPT = 60 * 240
"""Frames in the window, at most: a minute at 240 a second."""
_MAX_UNDERWAY = 4096
"""Frames that were encoded, and of which nobody has said that they are written."""


class DelayStatistics:
    """Takes the delay of each frame, gives quantiles. Any thread may call it."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MAX_KEPT)
        self._steps = [0] * _NUM_STEPS
        self._count = 0
        self._underway: deque[tuple[int, float]] = deque(maxlen=_MAX_UNDERWAY)
        self._max_seconds = 0.0
        self._lock = Lock()

    def given(self, index: int, arrived: float) -> None:
        """Note that a frame is on its way.

        Args:
            index: of its slot; rises from call to call.
            arrived: monotonic seconds when its packet came.
        """
        with self._lock:
            self._underway.append((index, arrived))

    def written(self, index: int, at: float) -> None:
        """Note that a slot was written; those before it that were not are lost.

        Args:
            index: of the slot, in which there need not be a new frame.
            at: monotonic seconds.
        """
        with self._lock:
            while self._underway and self._underway[0][0] <= index:
                given, arrived = self._underway.popleft()
                if given == index:
                    self._take(max(0.0, at - arrived), at)

    def _take(self, delay: float, at: float) -> None:
        self._recent.append((at, delay))
        self._steps[min(_NUM_STEPS - 1, int(delay / _STEP_SECONDS))] += 1
        self._count += 1
        self._max_seconds = max(self._max_seconds, delay)

    def recent(self, now: float) -> dict[str, float]:
        """Give p50, p99 and max of the last minute, in seconds; empty where nothing was written."""
        with self._lock:
            while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
                self._recent.popleft()
            delays = sorted(delay for _, delay in self._recent)
        if not delays:
            return {}
        return {
            "p50": round(delays[_rank(0.50, len(delays))], 4),
            "p99": round(delays[_rank(0.99, len(delays))], 4),
            "max": round(delays[-1], 4),
        }

    def overall(self) -> dict[str, float]:
        """Give p50, p99 and max of the whole run, in seconds; quantiles rounded up to 5 ms."""
        with self._lock:
            if not self._count:
                return {}
            return {
                "p50": self._quantile(0.50),
                "p99": self._quantile(0.99),
                "max": round(self._max_seconds, 4),
            }

    def _quantile(self, share: float) -> float:
        left = _rank(share, self._count)
        longest = round(self._max_seconds, 4)
        for step, count in enumerate(self._steps[:-1]):
            if left < count:
                return min(round((step + 1) * _STEP_SECONDS, 4), longest)
            left -= count
        return longest


def _rank(share: float, count: int) -> int:
    """Place of a quantile among `count` sorted values: the nearest rank, counted from 0."""
    return min(count - 1, max(0, -int(-share * count // 1) - 1))


Showing = Literal["input", "freeze", "slate", "nothing"]

_LOOK_SECONDS = 0.25
_MAX_SOUND_PACKETS = 4096
"""That wait for their picture: some 80 s."""
_BACKLOG_PICTURES = 2
"""Of input frames, that may wait for the encoder; more, and the compute stage waits."""


@dataclass(frozen=True, slots=True)
class OutputTiming:
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


class OutputStage:
    """Runs the output thread of a session."""

    def __init__(
        self,
        encoder: LiveEncoder,
        publisher: Publisher,
        timeline: Timeline,
        delays: DelayStatistics,
        expected: PendingFrames,
        pace: OutputTiming,
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
        self._grid: FrameScheduler[Made] = FrameScheduler(rate)
        self._rate = rate
        self._slate = Made(slate, Fraction(0), None)
        self._num_slots = num_slots
        self._pictures: BlockingQueue[Made] = BlockingQueue(
            max(2, _BACKLOG_PICTURES * pictures_per_frame)
        )
        self._sound: DropOldestQueue[_Sound] = DropOldestQueue(_MAX_SOUND_PACKETS)
        self._early_sound: _Sound | None = None
        self._now = now
        self._speed = speed
        self._changed = changed
        self._counts: Counter[str] = Counter()
        self._last_time: Fraction | None = None
        self._thread = threading.Thread(target=self._run, name="upframe-output", daemon=True)

    def start(self) -> None:
        """Begin to give slots, from the first picture on."""
        self._thread.start()

    def give(self, made: Made) -> None:
        """Take a picture; waits while too many wait for the encoder. Of any thread."""
        with suppress(QueueCancelled):
            self._pictures.put(made)

    def sound(self, data: bytes, seconds: Fraction, duration: Fraction) -> None:
        """Take a packet of sound for a time on the output's time line. Of any thread."""
        self._sound.put(_Sound(data, seconds, duration))

    def end(self) -> None:
        """Give what has come, and end."""
        self._pictures.close()

    def drop(self) -> None:
        """End at once; whoever waits to give something is let go."""
        self._pictures.cancel()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread. Whether it has ended, or never began."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Give frames_encoded, frames_repeated, frames_late, frames_surplus, frames_left_out."""
        grid = self._grid.counts
        total = {f"frames_{name}": grid[name] for name in ("repeated", "late", "surplus")}
        if dropped := self._sound.dropped:
            total["sound_dropped"] = dropped
        return {"frames_encoded": 0, **total, **self._counts}

    def seconds(self) -> float:
        """Give the length of the output so far."""
        return self._counts["frames_encoded"] / float(self._rate)

    def _run(self) -> None:
        try:
            wait = _LOOK_SECONDS
            while (pictures := self._pictures.take_all(wait / self._speed)) is not None:
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

    def _show(self, slots: Iterable[FrameSlot[Made]]) -> None:
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

    def _encode(self, slot: FrameSlot[Made]) -> None:
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
        while (sound := self._early_sound or self._sound.take(0)) is not None:
            if sound.seconds >= until:
                self._early_sound = sound
                return
            self._early_sound = None
            packet = self._encoder.sound_packet(sound.data, sound.seconds, sound.duration)
            self._publisher.give(packet)
