"""The compute stage of a live session: the newest frames first of all, and never behind.

It takes frames from the queue, which has dropped what is too old before any work was spent
on it; tells the governor what each frame took; and does as the governor says from the next on.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from ...filters.errors import FilterError, TooLarge
from ...filters.frame import Picture, StreamInfo
from ...io.live.fit import FrameFitter
from ...io.pictures.pixels import picture_of
from ..queues import DropOldestQueue
from .compute import LiveCompute
from .governor import Governor
from .levels import Level

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

log = logging.getLogger("upframe.live")


_MAX_FAILED = 50
"""Frames in a row that could not be filtered: then something else is wrong."""
_MAX_ARRIVALS = 256
_COST_KEPT = 0.8
"""Of what a frame has cost, for the next one: a single fast frame is no promise."""
_END_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A decoded frame that waits for work."""

    frame: VideoFrame
    pts: int
    """On the output's time line, in ticks of its time base."""
    arrived: float
    """Monotonic seconds when its packet came."""
    breaks: int
    """How often the input's time line has broken up to this frame: the same, if not since."""
    sample_aspect_ratio: Fraction | None = None
    """Of the frame's pixels; None where its stream does not say."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A picture for the output."""

    picture: Picture
    seconds: Fraction
    """On the output's time line."""
    arrived: float | None
    """When the packet came that it shows; None for one that was inserted."""


class Computing:
    """Runs the compute thread of a session."""

    def __init__(
        self,
        compute: LiveCompute,
        governor: Governor,
        queue: DropOldestQueue[Waiting],
        model: StreamInfo,
        *,
        give: Callable[[Made], None],
        interval_seconds: Callable[[], float],
        hold_seconds: float,
        deadline_seconds: float,
        now: Callable[[], float],
        speed: float,
        changed: Callable[[], None],
    ) -> None:
        """Take the parts.

        Args:
            compute: what is done with a frame.
            governor: at which level.
            queue: of frames that wait.
            model: what every frame is made like before.
            give: takes the pictures, and may wait.
            interval_seconds: between input frames, as they come lately.
            hold_seconds: after so much silence, what is held for the next frame goes out.
            deadline_seconds: from a frame's arrival to its picture.
            now: monotonic seconds, of which `speed` pass in a second.
            speed: see there.
            changed: called when the level has changed, or the thread has ended.
        """
        assert model.rate is not None
        self.failure: BaseException | None = None
        self.handled_pts = -1
        """Of the latest frame that nothing more will come of before the next one."""
        self.flushed = True
        """Whether nothing is held for the next frame."""
        self._compute = compute
        self._governor = governor
        self._queue = queue
        self._fit = FrameFitter(model)
        self._model = model
        self._duration = max(1, round(1 / (model.rate * model.time_base)))
        self._give_on = give
        self._interval_seconds = interval_seconds
        self._hold_seconds = hold_seconds
        self._deadline_seconds = deadline_seconds
        self._now = now
        self._speed = speed
        self._changed = changed
        self._counts: Counter[str] = Counter()
        self._arrivals: dict[Fraction, float] = {}
        self._breaks = 0
        self._dropped = 0
        self._cost_seconds = 0.0
        self._failed_in_a_row = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upframe-compute", daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def end(self) -> None:
        """Take what waits, and no more; then everything that is held goes out."""
        self._ending.set()
        self._queue.close()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread. Whether it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Give the filters' counters, `frames_dropped` before work, and `frames_failed`."""
        return dict(self._counts + Counter(self._compute.statistics()))

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._flush()
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
        finally:
            self._changed()

    def _step(self) -> bool:
        """Take one frame, or see that none comes. Whether to go on."""
        timeout = _END_LOOK_SECONDS if self.flushed else self._hold_seconds
        item = self._queue.take(timeout / self._speed)
        if item is None:
            if self._ending.is_set():
                return False
            self._flush()
            return True
        item = self._fresh(item)
        if not self._compute.skips(breaks=item.breaks != self._breaks):
            self._work_on(item)
        self.handled_pts = item.pts
        return True

    def _fresh(self, item: Waiting) -> Waiting:
        """Pass over frames that could not be pictures in time, as long as newer ones wait.

        A frame's picture comes out when the one after it was worked on: after twice the cost.
        """
        oldest = self._now() + 2 * self._cost_seconds - self._deadline_seconds
        while item.arrived < oldest and len(self._queue):
            newer = self._queue.take(0)
            if newer is None:
                break
            item = newer
            self._counts["frames_dropped"] += 1
        return item

    def _work_on(self, item: Waiting) -> None:
        began, waited = self._now(), 0.0
        try:
            picture = self._picture(item)
            waited = self._give(self._compute(picture, breaks=item.breaks != self._breaks))
            self._failed_in_a_row = 0
        except TooLarge:
            raise
        except FilterError as error:
            self._failed(error)
        self.flushed = False
        self._breaks = item.breaks
        now = self._now()
        self._tell_drops(now)
        busy = now - began - waited
        self._cost_seconds = max(busy, _COST_KEPT * self._cost_seconds)
        level = self._governor.computed(
            now,
            busy_seconds=busy,
            interval_seconds=self._interval_seconds(),
            waiting_seconds=self._queue.oldest_age,
        )
        if level is not None:
            self._switch(level)

    def _picture(self, item: Waiting) -> Picture:
        model = self._model
        frame = self._fit(item.frame, item.sample_aspect_ratio)
        picture = picture_of(frame, model.color, item.pts, self._duration, model.time_base)
        if len(self._arrivals) >= _MAX_ARRIVALS:  # pictures that never came out
            self._arrivals.clear()
        self._arrivals[item.pts * model.time_base] = item.arrived
        return picture

    def _failed(self, error: FilterError) -> None:
        """Leave one frame out; the output repeats the one before it."""
        self._counts["frames_failed"] += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row > _MAX_FAILED:
            raise error
        if self._failed_in_a_row == 1:
            log.warning("a frame cannot be filtered, it is left out: %s", error)

    def _switch(self, level: Level) -> None:
        history = self._governor.history
        log.info("level %s: %s", level.name, history[-1].reason if history else "")
        self._give(self._compute.switch(level))
        self._cost_seconds = 0.0
        self._changed()

    def _tell_drops(self, now: float) -> None:
        dropped = self._queue.dropped + self._counts["frames_dropped"]
        for _ in range(dropped - self._dropped):
            self._governor.dropped(now)
        self._dropped = dropped

    def _flush(self) -> None:
        if not self.flushed:
            self._give(self._compute.flush())
            self.flushed = True

    def _give(self, pictures: Iterable[Picture]) -> float:
        """Hand pictures on as they are made. Seconds that the output kept us waiting."""
        waited = 0.0
        for picture in pictures:
            seconds = picture.pts * picture.time_base
            began = self._now()
            self._give_on(Made(picture, seconds, self._arrivals.pop(seconds, None)))
            waited += self._now() - began
        return waited
