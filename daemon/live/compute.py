"""What the compute thread of a live stream does with a frame, at the level it is told."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.color.convert import ToFrame, ToPicture, matrix_warning, output_color, output_size
from ...filters.device import Runtime
from ...filters.frame import Filter, Frame, Picture, PixelFormat, StreamInfo
from ...filters.interpolate.filter import Interpolate
from ...filters.options import FilterOptions
from ...filters.scenes import Scenes
from ...io.live.fit import Method, Scaler
from .levels import Level

log = logging.getLogger("upframe.compute")


# How a picture goes at one level: through the filters in RGB, or on its coded planes alone.


class Way(Protocol):
    """What is done with pictures at one level, one after the other."""

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Take a picture, give those that are ready; see `LiveCompute`."""
        ...

    def flush(self) -> Iterator[Picture]:
        """Give what is held, and remember nothing of it."""
        ...

    def rehearse(self, picture: Picture) -> None:
        """Do all of the work for a picture, whatever it shows, and give nothing."""
        ...

    def forget(self) -> None:
        """Leave no trace of what was rehearsed."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Counters of what was done so far, without those of the filters."""
        ...


class FilteredWay:
    """Through the filters, and where these do not enlarge, to the output's size thereafter.

    Args:
        filters: Opened here. Other ways may have them too, for one goes at a time and is flushed.
        incoming: Of the pictures that come in.
        outgoing: Of the pictures that go out, whatever the level.
        device: Where the filters compute.
        detect_cuts: Whether scene cuts are sought.
    """

    def __init__(
        self,
        filters: Iterable[Filter],
        incoming: StreamInfo,
        outgoing: StreamInfo,
        *,
        device: torch.device,
        detect_cuts: bool,
    ) -> None:
        self._chain = Chain(tuple(filters))
        self._incoming = incoming
        self._chain.open(incoming)
        self._finish = Finish(outgoing, "bicubic")
        self._outgoing = outgoing
        self._device = device
        self._detect_cuts = detect_cuts
        self._scenes = Scenes(detect_cuts)
        self._to_frame = ToFrame(device)
        self._to_picture = ToPicture(outgoing.pix_fmt, outgoing.color)
        self._counts: Counter[str] = Counter()

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Take a picture, give those that are ready."""
        if breaks:
            yield from self.flush()
        marks = self._scenes(picture)
        with torch.inference_mode():
            frame = self._to_frame(picture, cut=marks.cut or breaks, duplicate=marks.duplicate)
        yield from self._pictures(self._chain(frame))

    def flush(self) -> Iterator[Picture]:
        """Give what the filters hold; what comes next is compared with nothing before it."""
        yield from self._pictures(self._chain.flush())
        self._counts.update(self._scenes.statistics())
        self._scenes = Scenes(self._detect_cuts)

    def rehearse(self, picture: Picture) -> None:
        """Run the networks; the pictures should differ, and follow each other closely."""
        with torch.inference_mode():
            frame = self._to_frame(picture)
        for _ in self._pictures(self._chain(frame)):
            pass

    def forget(self) -> None:
        """Begin anew, also with all counters."""
        self._chain.open(self._incoming)
        self._to_frame = ToFrame(self._device)
        self._to_picture = ToPicture(self._outgoing.pix_fmt, self._outgoing.color)

    def statistics(self) -> Mapping[str, int]:
        """Counters of the scenes and the colours."""
        total = Counter(self._counts)
        for stage in (self._scenes, self._to_frame, self._to_picture):
            total.update(stage.statistics())
        return dict(total)

    def _pictures(self, frames: Iterable[Frame]) -> Iterator[Picture]:
        for frame in frames:
            with torch.inference_mode():
                picture = self._to_picture(frame)
            yield self._finish(picture)


class PlanesWay:
    """No filter: coded planes to the output's size and format, each picture for itself.

    Args:
        incoming: Of the pictures that come in.
        outgoing: Of the pictures that go out, whatever the level.
        method: How they are scaled.
    """

    def __init__(self, incoming: StreamInfo, outgoing: StreamInfo, method: Method) -> None:
        self._finish = Finish(outgoing, method)
        self._to_frame = ToFrame(torch.device("cpu"))
        self._to_picture = ToPicture(outgoing.pix_fmt, outgoing.color)
        alike = incoming.format.family == outgoing.format.family
        ranges = incoming.color.range, outgoing.color.range
        self._through_rgb = not alike or ranges[0] != ranges[1] or outgoing.format.has_alpha

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Give the picture."""
        if self._through_rgb:
            with torch.inference_mode():
                picture = self._to_picture(self._to_frame(picture))
        yield self._finish(picture)

    def flush(self) -> Iterator[Picture]:
        """Give nothing: nothing is held."""
        return iter(())

    def rehearse(self, picture: Picture) -> None:
        """Let swscale make its tables."""
        for _ in self(picture, breaks=False):
            pass

    def forget(self) -> None:
        """There is no trace."""

    def statistics(self) -> Mapping[str, int]:
        """Counters of the colours, for pictures that went through them."""
        total: Counter[str] = Counter()
        for stage in (self._to_frame, self._to_picture):
            total.update(stage.statistics())
        return dict(total)


class Finish:
    """The output's size, pixel format, colour tags and time base, on coded planes.

    Args:
        outgoing: Of what is given; its colours are coded as those of what comes in.
        method: How pictures of another size are scaled.
    """

    def __init__(self, outgoing: StreamInfo, method: Method) -> None:
        self._outgoing = outgoing
        self._scale = Scaler(outgoing.width, outgoing.height, method, outgoing.pix_fmt)

    def __call__(self, picture: Picture) -> Picture:
        """Make a picture one of the output's."""
        ticks = picture.time_base / self._outgoing.time_base
        picture = self._scale(picture)
        if ticks == 1 and picture.color == self._outgoing.color:
            return picture
        return replace(
            picture,
            color=self._outgoing.color,
            pts=int(picture.pts * ticks),
            duration=int(picture.duration * ticks),
            time_base=self._outgoing.time_base,
        )


_NEW = 2
"""Pictures of a rehearsal for which something is new: the next one is the first that counts."""
_MOST_REHEARSED = 6
_REHEARSAL_SECONDS = 0.3
"""After which a rehearsal ends, if it has seen enough."""
_GRAY, _GRAY_STEP = 96, 16
"""Code values of 8 bits; inside every range."""


class LiveCompute:
    """Pictures in, pictures of one size, format and time base out, whatever the level.

    Weights are loaded once; all levels share the networks. One thread at a time calls it, but for
    `statistics`.

    Args:
        info: Of the pictures that come in; `rate` is the nominal rate.
        filters: What is done where nothing is given up.
        runtime: Where and how precisely.
        levels: From `parse_levels` of the same `filters`; the first is in force.
        pix_fmt: Of the pictures that go out; None: as they come in.
        build: Loads the weights, or gives filters that were kept.

    Raises:
        FilterError: if weights cannot be had or are no weights of the filter, a size is too large,
            or a pixel format cannot be computed with.
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
    ) -> None:
        self._incoming = info
        self.filters = build(filters, runtime)
        """With where their weights came from."""
        self.info = self._outgoing(pix_fmt or info.pix_fmt)
        """Of the pictures that go out: size, format, rate and time base never change."""
        self._detect_cuts = filters.enable_frame_interpolation and filters.scene_detection
        self._stages: dict[tuple[str, int], Filter] = {}  # by name and exponent
        self._ways: dict[Level, Way] = {}
        for level in levels:
            self._ways[level] = self._way(level, runtime.device)
        self._level = levels[0]
        self._skip_next = False
        self._skipped = 0

    @property
    def level(self) -> Level:
        """The one in force."""
        return self._level

    def skips(self, *, breaks: bool = False) -> bool:
        """Tell whether the next frame is to be dropped before work; ask once for every frame.

        Args:
            breaks: As the frame would be given to `__call__`: such a frame is never dropped.
        """
        skip = self._skip_next and not breaks
        self._skip_next = self._level.half_rate and not skip
        self._skipped += skip
        return skip

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Take the next picture, give those that are ready, in order of time.

        Args:
            picture: As `info` was told to the constructor.
            breaks: Nothing may be interpolated between it and the one before; what is held comes
                out first.

        Raises:
            FilterError: if the picture cannot be computed.
        """
        return self._ways[self._level](picture, breaks=breaks)

    def flush(self) -> Iterator[Picture]:
        """Give what is held, at the end or when no next picture is near; it may go on after."""
        return self._ways[self._level].flush()

    def switch(self, level: Level) -> Iterator[Picture]:
        """Work at another level from the next picture on; give what was held at this one.

        Raises:
            KeyError: if it is none of the levels of the constructor.
        """
        same = self._ways[level] is self._ways[self._level]
        held = () if same else tuple(self.flush())
        self._level, self._skip_next = level, False
        return iter(held)

    def warm_up(
        self, *, most_seconds: float = 5.0, now: Callable[[], float] = time.monotonic
    ) -> dict[str, float]:
        """Run every level's networks before the first frame does, and measure them.

        Begins with the level that gives up most. To be called before the first picture.

        Args:
            most_seconds: After which no further level is begun.
            now: Monotonic seconds.

        Returns:
            Seconds that one frame takes, by the level's name, for `Governor.expect`; levels that
            were not reached are missing.
        """
        costs: dict[str, float] = {}
        begun = now()
        for level, way in reversed(self._ways.items()):
            left = most_seconds - (now() - begun)
            if left < 0:
                break
            costs[level.name] = self._rehearse(way, left, now)
        return costs

    def statistics(self) -> Mapping[str, int]:
        """Counters of all levels together, and ``skipped``: frames that `skips` said to drop."""
        total = Counter(skipped=self._skipped)
        for counted in (*self._stages.values(), *set(self._ways.values())):
            total.update(counted.statistics())
        return dict(total)

    def _outgoing(self, pix_fmt: str) -> StreamInfo:
        info = self._incoming
        out = Chain([built.filter for built in self.filters]).open(info)
        width, height = output_size(out.width, out.height, pix_fmt)
        color = output_color(info, width, height, pix_fmt)
        if warning := matrix_warning(info, color):
            log.warning("%s", warning)
        return replace(
            out, width=width, height=height, pix_fmt=pix_fmt, color=color, num_frames=None
        )

    def _way(self, level: Level, device: torch.device) -> Way:
        """Make the way of a level, or find that of another that differs only in its stride."""
        for other, way in self._ways.items():
            if replace(other, name=level.name, half_rate=level.half_rate) == level:
                return way
        filters = list(self._filters(level))
        if not filters:
            method = "bilinear" if level.pass_through else "bicubic"
            return PlanesWay(self._incoming, self.info, method)
        cuts = self._detect_cuts and level.exp > 0
        return FilteredWay(filters, self._incoming, self.info, device=device, detect_cuts=cuts)

    def _filters(self, level: Level) -> Iterator[Filter]:
        for built in self.filters:
            if built.name == "interpolate" and level.exp:
                yield self._stage(built, level.exp)
            elif built.name == "upscale" and level.upscale == "network":
                yield self._stage(built, 0)

    def _stage(self, built: BuiltFilter, exp: int) -> Filter:
        """Find a filter's variant, made once: levels that have the same one share its counters."""
        stage = built.filter
        if isinstance(stage, Interpolate):
            stage = stage.with_exp(exp)
        return self._stages.setdefault((built.name, exp), stage)

    def _rehearse(self, way: Way, most_seconds: float, now: Callable[[], float]) -> float:
        """Give the seconds of a frame: the least of those for which nothing is new."""
        times: list[float] = []
        while len(times) < _MOST_REHEARSED and sum(times) <= most_seconds:
            picture = self._gray(len(times))
            begun = now()
            way.rehearse(picture)
            times.append(now() - begun)
            if len(times) > _NEW and sum(times) > _REHEARSAL_SECONDS:
                break
        way.forget()
        return min(times[_NEW:] or times[-1:])

    def _gray(self, index: int) -> Picture:
        """Make a picture as they will come in, one interval after that of the index before."""
        info, form = self._incoming, PixelFormat.parse(self._incoming.pix_fmt)
        code = (_GRAY + _GRAY_STEP * index) << (form.bit_depth - 8)
        dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
        planes = [
            torch.full(form.plane_size(info.width, info.height, plane)[::-1], code, dtype=dtype)
            for plane in range(form.num_planes)
        ]
        alpha = planes[0].clone() if form.has_alpha else None
        step = round(1 / ((info.rate or 25) * info.time_base))
        return Picture(
            tuple(planes),
            info.pix_fmt,
            info.color,
            index * step,
            step,
            info.time_base,
            alpha=alpha,
        )
