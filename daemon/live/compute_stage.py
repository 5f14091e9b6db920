"""The compute stage of a live session: at the level that the governor chooses, and never behind.

It takes frames from a queue that has dropped the too old ones before any work was spent on them,
reports to the governor what each frame cost, and changes the level when the governor says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING

import torch

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.device import Runtime
from ...filters.errors import FilterError, TooLarge
from ...filters.frame import Filter, Picture, PixelFormat, StreamInfo
from ...filters.interpolate.filter import Interpolate
from ...filters.options import FilterOptions
from ...io.live.fit import FrameFitter, Scaler
from ...io.pictures.pixels import picture_of
from ..convert.compute import Compute
from ..queues import DropOldestQueue
from .governor import Governor
from .levels import Level

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

log = logging.getLogger("upframe.live")


_NEW = 2
"""Pictures of a rehearsal for which something is new: the next one is the first that counts."""
_REHEARSAL_SECONDS = 0.3
"""After which a rehearsal ends, if it has seen enough."""
_FILLS = 3
"""Times that all lanes are filled in a rehearsal."""
_FILL_SECONDS = 1.0
"""After which that ends."""
_GRAY, _GRAY_STEP = 96, 16
"""Code values of 8 bits, inside every range. A larger step would be a cut."""
_MOST_REHEARSED = 6
_MAX_ARRIVALS = 256
_END_LOOK_SECONDS = 0.1


class LiveCompute(Compute):
    """A compute whose pictures have one size, format and time base at every level.

    Weights are loaded once; all levels share the networks.

    Args:
        info: of the incoming pictures; `rate` is the nominal rate.
        filters: of the level that gives up nothing.
        runtime: device and precision.
        levels: from `parse_levels` of the same `filters`; the first is in force.
        pix_fmt: of the outgoing pictures; None: that of the incoming ones.
        build: loads the weights, or returns filters that were kept.
        now: clock of the costs, in seconds.

    Raises:
        FilterError: if weights are not available or of another network, a size is too large, or a
            pixel format cannot be computed with.
    """

    def __init__(
        self,
        info: StreamInfo,
        filters: FilterOptions,
        runtime: Runtime,
        *,
        levels: Sequence[Level],
        pix_fmt: str | None = None,
        build: Callable[[FilterOptions, Runtime], tuple[BuiltFilter, ...]] = build_filters,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.filters = build(filters, runtime)
        """With the origin of their weights."""
        super().__init__(
            info,
            chains_of(self.filters, levels),
            pix_fmt=pix_fmt or info.pix_fmt,
            device=runtime.device,
            detect_cuts=filters.detects_cuts,
            now=now,
        )
        self.info = replace(self.info, num_frames=None)
        self._now = now
        self._by_name = {level.name: level for level in levels}
        self._level = levels[0]
        size, pix_fmt = (self.info.width, self.info.height), self.info.pix_fmt
        self._scalers = (Scaler(*size, "bicubic", pix_fmt), Scaler(*size, "bilinear", pix_fmt))
        alike = info.format.family == self.info.format.family
        same_range = info.color.range == self.info.color.range
        self._keeps_coded = alike and same_range and not self.info.format.has_alpha
        self._skip_next = False
        self._num_skipped = 0

    def skips(self, *, breaks: bool = False) -> bool:
        """Return whether to drop the next frame, called once for each; never one that `breaks`."""
        skip = self._skip_next and not breaks
        self._skip_next = self._level.half_rate and not skip
        self._num_skipped += skip
        return skip

    def switch(self, level: str) -> list[Picture]:
        """Compute at another level from the next picture on; returns what is held at this one."""
        held = super().switch(level)
        self._level, self._skip_next = self._by_name[level], False
        return held

    def warm_up(self, *, most_seconds: float = 5.0) -> dict[str, float]:
        """Run every level's networks before the first frame does, and measure them.

        Begins with the level that gives up most. To be called before the first picture. After
        `most_seconds` no further level is begun.

        Returns:
            Seconds that one frame takes, by the level's name, for `Governor.expect`, without the
            levels that were not reached.
        """
        costs: dict[str, float] = {}
        first, begun = self._level.name, self._now()
        for name in reversed(self._by_name):
            left = most_seconds - (self._now() - begun)
            if left < 0:
                break
            self.switch(name)
            costs[name] = self._rehearse(left)
        self.switch(first)
        self.restart()
        return costs

    def statistics(self) -> Mapping[str, int]:
        """Return the counters of all levels, and ``skipped``: frames that `skips` dropped."""
        return {**super().statistics(), "skipped": self._num_skipped}

    def _finish(self, picture: Picture) -> Picture:
        """Bring a picture to the output's size, pixel format, colour tags and time base."""
        picture = self._scalers[self._level.pass_through](picture)
        ticks = picture.time_base / self.info.time_base
        if ticks == 1 and picture.color == self.info.color:
            return picture
        return replace(
            picture,
            color=self.info.color,
            pts=int(picture.pts * ticks),
            duration=int(picture.duration * ticks),
            time_base=self.info.time_base,
        )

    def _rehearse(self, most_seconds: float) -> float:
        """Return the seconds of a frame: the least of those for which nothing is new."""
        times: list[float] = []
        while len(times) < _MOST_REHEARSED and sum(times) <= most_seconds:
            picture = self._gray(len(times))
            begun = self._now()
            for _ in chain(self(picture), self.settle()):
                pass
            times.append(self._now() - begun)
            if len(times) > _NEW and sum(times) > _REHEARSAL_SECONDS:
                break
        cost = min(times[_NEW:] or times[-1:])
        left = most_seconds - sum(times)
        if self.max_in_flight > 1 and cost * self.max_in_flight <= left:
            self._fill_lanes(len(times), min(left, _FILL_SECONDS))
        for _ in self.flush():
            pass
        return cost

    def _fill_lanes(self, index: int, most_seconds: float) -> None:
        """Compute as many pictures at once as there may be, so that memory does not grow later.

        What lanes need together depends on which of their steps coincide: hence repeatedly.
        """
        ends = self._now() + most_seconds
        for picture in range(index, index + _FILLS * self.max_in_flight):
            if self._now() >= ends:
                return
            for _ in self(self._gray(picture)):
                pass

    def _gray(self, index: int) -> Picture:
        """Make a picture like the incoming ones, one interval after that of the index before."""
        info, form = self._incoming, PixelFormat.parse(self._incoming.pix_fmt)
        code = (_GRAY + _GRAY_STEP * (index % 2)) << (form.bit_depth - 8)
        dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
        planes = [
            torch.full(form.plane_size(info.width, info.height, plane)[::-1], code, dtype=dtype)
            for plane in range(form.num_planes)
        ]
        alpha = planes[0].clone() if form.has_alpha else None
        step = round(1 / ((info.rate or 25) * info.time_base))
        times = index * step, step, info.time_base
        return Picture(tuple(planes), info.pix_fmt, info.color, *times, alpha=alpha)


def chains_of(built: Sequence[BuiltFilter], levels: Iterable[Level]) -> dict[str, Chain]:
    """Make the chain of each level, by name; levels with the same filters share one.

    A level gives up in-betweens, the enlarging network or all filters: any other filter is in
    force at every level but that one.
    """
    variants: dict[int, Filter] = {}  # of the interpolation, by exponent
    chains: dict[tuple[int, ...], Chain] = {}

    def at_level(one: BuiltFilter, level: Level) -> Filter | None:
        if level.pass_through or (one.name == "upscale" and level.upscale != "network"):
            return None
        if not isinstance(one.filter, Interpolate):
            return one.filter
        if level.exp and level.exp not in variants:
            variants[level.exp] = one.filter.with_exp(level.exp)
        return variants.get(level.exp)

    def chain_of(level: Level) -> Chain:
        filters = [each for one in built if (each := at_level(one, level)) is not None]
        return chains.setdefault(tuple(map(id, filters)), Chain(filters))

    return {level.name: chain_of(level) for level in levels}


_MAX_FAILED = 50
"""Frames in a row that could not be filtered: then something else is wrong."""
_COST_KEPT = 0.8
"""Of a frame's cost, for the next one: a single fast frame is no promise."""
_OVERLAP_SHARE = 0.5
"""Of the deadline: frames are computed at the same time where even the last one takes less."""


@dataclass(frozen=True, slots=True, eq=False)
class QueuedFrame:
    """A decoded frame that waits for work."""

    frame: VideoFrame
    pts: int
    """On the output's time line, in ticks of its time base."""
    arrived: float
    """Monotonic seconds when its packet came."""
    breaks: int
    """Number of breaks of the input's time line up to this frame."""
    sample_aspect_ratio: Fraction | None = None
    """Of the frame's pixels; None if its stream does not say."""


@dataclass(frozen=True, slots=True, eq=False)
class OutputFrame:
    """A picture for the output."""

    picture: Picture
    seconds: Fraction
    """On the output's time line."""
    arrived: float | None
    """When the packet came that it shows; None for one that was inserted."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all stages share."""

    now: Callable[[], float]
    """Monotonic seconds, of which `speed` pass in a real second."""
    speed: float
    changed: Callable[[], None]
    """Called, from any thread, when the session should look at the stages."""


@dataclass(eq=False, kw_only=True)
class StageThread:
    """A stage of a session, on a thread of its own."""

    context: SessionContext

    def __post_init__(self) -> None:
        self.failure: BaseException | None = None
        """What ended the thread; raised again by the session, which ends with it."""
        name = type(self).__name__.removesuffix("Stage").lower()
        self._thread = threading.Thread(target=self._run, name=f"upframe-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; return whether it has ended, or was never started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error
        finally:
            self.context.changed()

    def _work(self) -> None:
        raise NotImplementedError


@dataclass(eq=False, kw_only=True)
class ComputeStage(StageThread):
    """Computes the frames that wait; says through the context when the level has changed."""

    compute: LiveCompute
    """Computes the frames; closed at the end."""
    governor: Governor
    """Chooses the level."""
    queue: DropOldestQueue[QueuedFrame]
    """Of frames that wait."""
    model: StreamInfo
    """The form that every frame is brought to first."""
    give: Callable[[OutputFrame], None]
    """Accepts the pictures, and may wait."""
    interval_seconds: Callable[[], float]
    """Returns the current time between input frames."""
    hold_seconds: float
    """After so much silence, what is held for the next frame goes out."""
    deadline_seconds: float
    """From a frame's arrival to its picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.model.rate is not None
        self.handled_pts = -1
        """Of the latest frame all of whose pictures went out that need no next frame."""
        self.flushed = True
        """Whether nothing is held for the next frame."""
        self._fit = FrameFitter(self.model)
        self._fit_seconds = 0.0
        self._duration = max(1, round(1 / (self.model.rate * self.model.time_base)))
        self._counts: Counter[str] = Counter()
        self._arrivals: dict[Fraction, float] = {}
        self._breaks = 0
        self._num_dropped = 0
        self._cost_seconds = 0.0
        self._failed_in_a_row = 0
        self._ending = threading.Event()

    def end(self) -> None:
        """Compute the frames that wait, and no more; then everything that is held goes out."""
        self._ending.set()
        self.queue.close()

    def counts(self) -> dict[str, int]:
        """Return the filters' counters and frames_dropped, _failed, _as_asked and _reduced."""
        return dict(self._counts + Counter(self.compute.statistics()))

    def _work(self) -> None:
        with closing(self.compute):
            while self._step():
                pass
            self._flush()

    def _step(self) -> bool:
        """Handle one frame, or a silence; return whether to go on."""
        timeout = _END_LOOK_SECONDS if self.flushed else self.hold_seconds
        item = self.queue.take(timeout / self.context.speed)
        if item is None:
            if self._ending.is_set():
                return False
            self._flush()
            return True
        item = self._fresh(item)
        breaks = item.breaks != self._breaks
        if not self.compute.skips(breaks=breaks):
            self._begin(item, breaks=breaks)
        settled = self._settle()
        self._report()
        if settled:
            self.handled_pts = item.pts
        return True

    def _fresh(self, item: QueuedFrame) -> QueuedFrame:
        """Pass over frames that could not be pictures in time, as long as newer ones wait.

        A frame's picture is complete when the frame after it was computed: after twice the cost,
        and that of all in flight.
        """
        ahead = (self.compute.num_in_flight + 2) * self._cost_seconds
        oldest = self.context.now() + ahead - self.deadline_seconds
        while item.arrived < oldest and len(self.queue):
            newer = self.queue.take(0)
            if newer is None:
                break
            item = newer
            self._counts["frames_dropped"] += 1
        return item

    def _begin(self, item: QueuedFrame, *, breaks: bool) -> None:
        if breaks:
            self._settle(everything=True)
        is_full = self.governor.level.name == "full"
        self._counts["frames_as_asked" if is_full else "frames_reduced"] += 1
        began = self.context.now()
        with self._leaving_out_failed():
            picture = self._picture(item)
            self._fit_seconds = self.context.now() - began
            self._pass_on(self.compute(picture, breaks=breaks))
        self.flushed = False
        self._breaks = item.breaks

    def _settle(self, *, everything: bool = False) -> bool:
        """Pass on what is being computed, while nothing else waits. Whether nothing is left."""
        until = None if everything else self._overlaps
        while self.compute.num_in_flight and not (until and until()):
            with self._leaving_out_failed():
                self._pass_on(self.compute.settle(until))
        return not self.compute.num_in_flight

    def _overlaps(self) -> bool:
        """Whether the next frame waits, and may be begun before the others are done."""
        longest = (self.compute.max_in_flight + 1) * self._cost_seconds
        return len(self.queue) > 0 and longest <= _OVERLAP_SHARE * self.deadline_seconds

    def _report(self) -> None:
        """Report to the governor what the frames cost, and do as it says."""
        now = self.context.now()
        dropped = self.queue.dropped + self._counts["frames_dropped"]
        for _ in range(dropped - self._num_dropped):
            self.governor.dropped(now)
        self._num_dropped = dropped
        for cost in self.compute.take_costs():
            self._failed_in_a_row = 0
            busy = cost + self._fit_seconds
            self._cost_seconds = max(busy, _COST_KEPT * self._cost_seconds)
            level = self.governor.computed(
                now,
                busy_seconds=busy,
                interval_seconds=self.interval_seconds(),
                waiting_seconds=self.queue.oldest_age,
            )
            if level is not None:
                self._switch(level)
                return

    def _switch(self, level: Level) -> None:
        history = self.governor.history
        log.info("level %s: %s", level.name, history[-1].reason if history else "")
        self._settle(everything=True)
        self._pass_on(self.compute.switch(level.name))
        self._cost_seconds = 0.0
        self.context.changed()

    def _flush(self) -> None:
        if not self.flushed:
            self._settle(everything=True)
            self._pass_on(self.compute.flush())
            self.flushed = True

    def _picture(self, item: QueuedFrame) -> Picture:
        model = self.model
        frame = self._fit(item.frame, item.sample_aspect_ratio)
        picture = picture_of(frame, model.color, item.pts, self._duration, model.time_base)
        if len(self._arrivals) >= _MAX_ARRIVALS:  # pictures that never came out
            self._arrivals.clear()
        self._arrivals[item.pts * model.time_base] = item.arrived
        return picture

    def _pass_on(self, pictures: Iterable[Picture]) -> None:
        """Pass pictures to the output as they are computed."""
        for picture in pictures:
            seconds = picture.pts * picture.time_base
            self.give(OutputFrame(picture, seconds, self._arrivals.pop(seconds, None)))

    @contextmanager
    def _leaving_out_failed(self) -> Generator[None]:
        """Leave a frame out that cannot be computed; the output repeats the one before it."""
        try:
            yield
        except TooLarge:
            raise
        except FilterError as error:
            self._counts["frames_failed"] += 1
            self._failed_in_a_row += 1
            if self._failed_in_a_row > _MAX_FAILED:
                raise
            if self._failed_in_a_row == 1:
                log.warning("a frame cannot be filtered, it is left out: %s", error)
