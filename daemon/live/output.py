"""The output stage of a live session: an even row of slots, whatever the input does.

Pictures go out as soon as they are made. Where none comes in time the last one is repeated, and
after a while a slate is shown; so the output's rate and timestamps do not depend on the input.
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
from ...io.live.clock import LiveClock, positive
from ...io.live.live_encoder import LiveEncoder
from ...io.live.values import Encoded
from ..queues import BlockingQueue, DropOldestQueue, QueueCancelled
from .compute_stage import OutputFrame, StageThread
from .publisher import Publisher

log = logging.getLogger("upframe.live")

T = TypeVar("T")

_REACH = Fraction(3, 4)
"""Of a slot: how far a time may be from the slot that follows from the item before.

More than half of one, so that times that lie near the middle between two slots and jitter a
little do not leave one slot empty and collide in the next, over and over.
"""


@dataclass(frozen=True, slots=True)
class FrameSlot(Generic[T]):
    """One place in the row, and what it shows."""

    index: int
    """Its time is index / rate; without gaps from the first slot on."""
    item: T
    is_repeat: bool
    """Whether an earlier slot showed the item."""


class FrameScheduler(Generic[T]):
    """Assigns an item to every slot, `rate` of them a second, each exactly once and in order.

    A slot is returned as soon as its item comes: nothing is held back.

    Raises:
        ValueError: for a rate that is not positive.
    """

    def __init__(self, rate: Fraction) -> None:
        self._rate = positive(rate)
        self._next = 0
        self._current: tuple[T] | None = None
        self._was_shown = False
        self._before: tuple[Fraction, int] | None = None  # in slots: its time, its index
        self._counts: Counter[str] = Counter()

    @property
    def next_time(self) -> Fraction:
        """Seconds at which the first slot begins that was not returned yet."""
        return self._next / self._rate

    @property
    def counts(self) -> dict[str, int]:
        """Slots `given`, among them `repeated`; items that came `late` or were `surplus`."""
        return {key: self._counts[key] for key in ("given", "repeated", "late", "surplus")}

    def enter(self, time: Fraction, item: T) -> list[FrameSlot[T]]:
        """Put an item in the slot of its time, and repeats of the one before up to there.

        An item that comes too late for its slot is not shown there, but is repeated next: it counts
        as `surplus` if the item before it took the slot, as `late` otherwise. `time` is in seconds
        on the output's time line; the very first one sets where the row starts.
        """
        index = self._index_of(time)
        if self._current is None and not self._counts["given"]:
            self._next = index
        is_second = self._before is not None and index == self._before[1]
        self._before = (time * self._rate, index)
        if index < self._next:
            self._counts["surplus" if is_second else "late"] += 1
            self._current, self._was_shown = (item,), False
            return []
        slots = self._slots_until(index)
        self._current, self._was_shown = (item,), False
        return [*slots, *self._slots_until(index + 1)]

    def fill(self, until: Fraction, item: T | None = None) -> list[FrameSlot[T]]:
        """Return all slots that begin before some seconds; none while there is nothing to repeat.

        An `item` is shown instead of a repeat, and from then on.
        """
        end = math.ceil(until * self._rate)
        if end <= self._next:
            return []
        if item is not None and (self._current is None or self._current[0] is not item):
            self._current, self._was_shown = (item,), False
        return self._slots_until(end)

    def _index_of(self, time: Fraction) -> int:
        """Choose the slot that follows from the item before; if that is far off, the nearest."""
        place = time * self._rate
        if self._before is not None:
            was, went = self._before
            index = went + round(place - was)
            if abs(place - index) <= _REACH:
                return index
        return math.floor(place + Fraction(1, 2))

    def _slots_until(self, end: int) -> list[FrameSlot[T]]:
        if self._current is None:
            return []
        slots: list[FrameSlot[T]] = []
        for index in range(self._next, end):
            slots.append(FrameSlot(index, self._current[0], self._was_shown))
            self._counts["given"] += 1
            self._counts["repeated"] += self._was_shown
            self._was_shown = True
        self._next = max(self._next, end)
        return slots


_MAX_PENDING = 1024
"""Never reached in practice; the oldest beyond it are forgotten."""


class PendingFrames:
    """Frames that have arrived and are no pictures yet; for two threads.

    A frame that is not a picture within the deadline after its arrival is given up: the output goes
    on without it, so that whatever is written keeps to the latency budget.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._frames: deque[tuple[Fraction, float]] = deque(maxlen=_MAX_PENDING)
        self._lock = Lock()

    def add(self, seconds: Fraction, arrived: float) -> None:
        """Add a frame by its time on the output's time line and its arrival (monotonic)."""
        with self._lock:
            self._frames.append((seconds, arrived))

    def done(self, seconds: Fraction) -> None:
        """Remove the frames up to a time, of which there is a picture now."""
        with self._lock:
            while self._frames and self._frames[0][0] <= seconds:
                self._frames.popleft()

    def overdue(self, now: float) -> Fraction | None:
        """Remove the frames whose deadline has passed; return the time of the last, or None."""
        until = None
        with self._lock:
            while self._frames and self._frames[0][1] + self._deadline <= now:
                until = self._frames.popleft()[0]
        return until

    def next_seconds(self, now: float) -> float | None:
        """Return the seconds until the next deadline; None if no frame is pending."""
        with self._lock:
            return self._frames[0][1] + self._deadline - now if self._frames else None


WINDOW_SECONDS = 60.0
_SHARES = {"p50": 0.50, "p99": 0.99, "max": 1.0}
_STEP_SECONDS = 0.005
_NUM_STEPS = 20_001
"""Of the histogram: 100 s, and the last one for all longer delays."""
_MAX_KEPT = 60 * 240
"""Frames in the window: a minute at 240 a second."""
_MAX_UNDERWAY = 4096
"""Frames that were encoded and are not known to be written."""


class DelayStatistics:
    """Measures the delay from a packet's arrival to its frame's being written. Thread-safe.

    The last minute is kept frame by frame, for the status; the whole run as a histogram of fixed
    size, for the report.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MAX_KEPT)
        self._steps: Counter[int] = Counter()
        self._underway: deque[tuple[int, float]] = deque(maxlen=_MAX_UNDERWAY)
        self._max_seconds = 0.0
        self._lock = Lock()

    def encoded(self, index: int, arrived: float) -> None:
        """Note that the frame of a slot is under way, which `arrived` then (monotonic)."""
        with self._lock:
            self._underway.append((index, arrived))

    def written(self, index: int, at: float) -> None:
        """Note that a slot was written at a moment; unwritten ones before it are lost."""
        with self._lock:
            while self._underway and self._underway[0][0] <= index:
                encoded, arrived = self._underway.popleft()
                if encoded == index:
                    delay = max(0.0, at - arrived)
                    self._recent.append((at, delay))
                    self._steps[min(_NUM_STEPS - 1, int(delay / _STEP_SECONDS))] += 1
                    self._max_seconds = max(self._max_seconds, delay)

    def recent(self, now: float) -> dict[str, float]:
        """Return p50, p99 and max of the last minute in seconds; empty if nothing was written."""
        with self._lock:
            while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
                self._recent.popleft()
            delays = sorted(delay for _, delay in self._recent)
        shares = _SHARES.items() if delays else ()
        return {key: round(delays[_rank(share, len(delays))], 4) for key, share in shares}

    def overall(self) -> dict[str, float]:
        """Return p50, p99 and max of the whole run in seconds; quantiles rounded up to 5 ms."""
        with self._lock:
            shares = _SHARES.items() if self._steps else ()
            return {key: self._quantile(share) for key, share in shares}

    def _quantile(self, share: float) -> float:
        left = _rank(share, self._steps.total())
        longest = round(self._max_seconds, 4)
        for step, count in sorted(self._steps.items()):
            if left < count and step < _NUM_STEPS - 1:
                return min(round((step + 1) * _STEP_SECONDS, 4), longest)
            left -= count
        return longest


def _rank(share: float, count: int) -> int:
    """Return the index of a quantile among `count` sorted values: the nearest rank, from 0."""
    return min(count - 1, max(0, -int(-share * count // 1) - 1))


PlacedSound = tuple[bytes, Fraction, Fraction]
"""A packet's data, its time on the output's time line and its duration, in seconds."""

Showing = Literal["input", "freeze", "slate", "nothing"]

_LOOK_SECONDS = 0.25
_MAX_SOUND_PACKETS = 4096
"""That wait for their picture: about 80 s."""
_BACKLOG_FRAMES = 2
"""Input frames whose pictures may wait for the encoder; with more the compute stage waits."""


@dataclass(frozen=True, slots=True)
class OutputTiming:
    """When the output goes on without the input. All in seconds."""

    patience_seconds: float
    """How late a picture may be, while none is being made, before the last one is repeated."""
    drop_seconds: float
    """Repeats that are later than this are not encoded at all."""
    slate_seconds: float | None
    """From when on, after the last picture, the slate is shown; None: never."""


@dataclass(eq=False, kw_only=True)
class OutputStage(StageThread):
    """Encodes the pictures, and what fills the slots between; the first slot is the first one's."""

    encoder: LiveEncoder
    """Used by this thread alone."""
    publisher: Publisher
    """Accepts its packets, and never blocks."""
    clock: LiveClock
    """Knows which time is due."""
    delays: DelayStatistics
    """Receives the slot in which each frame goes out."""
    pending: PendingFrames
    """Knows which frames are still to come."""
    timing: OutputTiming
    rate: Fraction
    """Slots per second."""
    slate: Picture
    """Shown while there is no input."""
    num_slots: int | None
    """After which the output is complete; None: never."""
    pictures_per_frame: int
    """Pictures that are made of one input frame."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_flight: Callable[[], bool] = lambda: False
        """Whether a frame waits for work, or is worked on; set before the start."""
        self.showing: Showing = "nothing"
        self.complete = threading.Event()
        """Set once all slots were encoded."""
        self._scheduler: FrameScheduler[OutputFrame] = FrameScheduler(self.rate)
        self._slate = OutputFrame(self.slate, Fraction(0), None)
        self._pictures: BlockingQueue[OutputFrame] = BlockingQueue(
            max(2, _BACKLOG_FRAMES * self.pictures_per_frame)
        )
        self._sound: DropOldestQueue[PlacedSound] = DropOldestQueue(_MAX_SOUND_PACKETS)
        self._early_sound: PlacedSound | None = None
        self._counts: Counter[str] = Counter()
        self._last_time: Fraction | None = None

    def put(self, picture: OutputFrame) -> None:
        """Accept a picture; waits while too many wait for the encoder. Thread-safe."""
        with suppress(QueueCancelled):
            self._pictures.put(picture)

    def put_sound(self, *packet: *PlacedSound) -> None:
        """Accept a packet of sound for a time on the output's time line. Thread-safe."""
        self._sound.put(packet)

    def end(self) -> None:
        """Write what has come, and end."""
        self._pictures.close()

    def cancel(self) -> None:
        """End at once; a thread that waits to put something is released."""
        self._pictures.cancel()

    def counts(self) -> dict[str, int]:
        """Return frames_encoded, frames_repeated, frames_late, frames_surplus, frames_left_out."""
        scheduled = self._scheduler.counts
        total = {f"frames_{name}": scheduled[name] for name in ("repeated", "late", "surplus")}
        if dropped := self._sound.dropped:
            total["sound_dropped"] = dropped
        return {"frames_encoded": 0, **total, **self._counts}

    def seconds(self) -> float:
        """Return the length of the output so far."""
        return self._counts["frames_encoded"] / float(self.rate)

    def _work(self) -> None:
        wait = _LOOK_SECONDS
        try:
            while (pictures := self._pictures.take_all(wait / self.context.speed)) is not None:
                for picture in pictures:
                    self.pending.done(picture.seconds)
                    self._encode_all(self._scheduler.enter(picture.seconds, picture))
                    self._last_time = picture.seconds
                    self._set_showing("input")
                wait = self._fill()
                self._publish_sound()
            self._publish(self.encoder.flush())
        except BaseException:
            self.cancel()
            raise

    def _fill(self) -> float:
        """Repeat, or show the slate, in slots whose time has passed; return the next wait."""
        if self._last_time is None:
            return _LOOK_SECONDS
        now, in_flight = self.context.now(), self.in_flight()
        timing = self.timing
        overdue = self.pending.overdue(now)
        until = Fraction(0) if overdue is None else overdue + 1 / self.rate
        if not in_flight:
            until = max(until, self.clock.due(now) - Fraction(timing.patience_seconds))
        missing = self._scheduler.next_time - until
        if missing > 0:
            after = None if in_flight else float(missing)
            waits = (_LOOK_SECONDS, after, self.pending.next_seconds(now))
            return max(0.0, min(wait for wait in waits if wait is not None))
        slate_from = until
        if timing.slate_seconds is not None and not in_flight:
            slate_from = self._last_time + Fraction(timing.slate_seconds)
        frozen = self._scheduler.fill(min(until, slate_from))
        covered = self._scheduler.fill(until, self._slate)
        self._encode_all(frozen)
        self._encode_all(covered)
        self.clock.advance(self._scheduler.next_time)
        if not in_flight:
            self._set_showing("slate" if covered else "freeze" if frozen else self.showing)
        return float(1 / self.rate)

    def _set_showing(self, showing: Showing) -> None:
        if showing != self.showing:
            self.showing = showing
            self.context.changed()

    def _encode_all(self, slots: Iterable[FrameSlot[OutputFrame]]) -> None:
        for slot in slots:
            if self.num_slots is not None and slot.index >= self.num_slots:
                self.complete.set()
                self.context.changed()
                return
            late = self.clock.due(self.context.now()) - slot.index / self.rate
            if slot.is_repeat and late > self.timing.drop_seconds:  # it would delay what follows
                self._counts["frames_left_out"] += 1
            else:
                self._encode(slot)

    def _encode(self, slot: FrameSlot[OutputFrame]) -> None:
        picture, keyframe = slot.item, self.publisher.wants_keyframe
        packets = self.encoder(picture.picture, slot.index, keyframe=keyframe)
        self._counts["frames_encoded"] += 1
        if picture.arrived is not None and not slot.is_repeat:
            self.delays.encoded(slot.index, picture.arrived)
        self._publish(packets)

    def _publish(self, packets: Iterable[Encoded]) -> None:
        for packet in packets:
            self.publisher.give(packet)

    def _publish_sound(self) -> None:
        """Publish the sound of the slots that have gone out, and of the time before."""
        if self._last_time is None:
            return
        until = self._scheduler.next_time
        while (sound := self._early_sound or self._sound.take(0)) is not None:
            if sound[1] >= until:
                self._early_sound = sound
                return
            self._early_sound = None
            self.publisher.give(self.encoder.sound_packet(*sound))
