"""The chain of filters: a fold over those that the options enable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .device import Runtime, keep_freed_memory
from .frame import Filter, Frame, StreamInfo
from .options import FilterOptions
from .plans import Pending, Planning
from .weights import Weights


@dataclass(frozen=True, slots=True)
class BuiltFilter:
    """A filter with its weights loaded, and where they came from."""

    name: str
    filter: Filter
    weights: Weights | None


def _interpolate(options: FilterOptions, runtime: Runtime) -> BuiltFilter | None:
    if not options.enable_frame_interpolation:
        return None
    from .interpolate.filter import build_interpolate

    built, weights = build_interpolate(options, runtime)
    return BuiltFilter("interpolate", built, weights)


def _upscale(options: FilterOptions, runtime: Runtime) -> BuiltFilter | None:
    if not options.enable_upscaling:
        return None
    from .upscale.filter import build_upscale

    built, weights = build_upscale(options, runtime)
    return BuiltFilter("upscale", built, weights)


# In the order in which frames pass them: interpolating before enlarging is the cheaper order.
REGISTRY: tuple[Callable[[FilterOptions, Runtime], BuiltFilter | None], ...] = (
    _interpolate,
    _upscale,
)


def build_filters(options: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
    """Load the weights of every enabled filter and build them, in order.

    From here on the process computes frames: see :mod:`upframe.filters.device`.

    Raises:
        CheckpointRejected: if a file is not a checkpoint of its filter.
        WeightsUnavailable: if weights cannot be had.
    """
    keep_freed_memory()
    return tuple(built for make in REGISTRY if (built := make(options, runtime)) is not None)


class Chain:
    """Several filters as one. An empty chain passes frames through."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = tuple(filters)

    def open(self, info: StreamInfo) -> StreamInfo:
        """Open every filter with what the one before it gives."""
        for stage in self._filters:
            info = stage.open(info)
        return info

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        """Pass a frame through; frames come out as soon as they are ready."""
        return self._pass((frame,), self._filters)

    @property
    def can_plan(self) -> bool:
        """Whether there are filters, and all of them plan."""
        return bool(self._filters) and all(isinstance(one, Planning) for one in self._filters)

    @property
    def frame_bytes(self) -> int:
        """Memory that a frame takes on its way, estimated; of filters that plan, once open."""
        return sum(one.frame_bytes for one in self._filters if isinstance(one, Planning))

    def plan(self, frame: Frame) -> list[Pending]:
        """Take the next frame where `can_plan`; what comes of it is to be computed by the caller.

        Several threads may compute at the same time, and different frames in any order.
        """
        pending = [Pending.of(frame)]
        for stage in self._filters:
            assert isinstance(stage, Planning)
            pending = [made for one in pending for made in stage.plan(one)]
        return pending

    def flush(self) -> Iterator[Frame]:
        """Flush every filter in order, each through those behind it."""
        for index, stage in enumerate(self._filters):
            yield from self._pass(stage.flush(), self._filters[index + 1 :])

    def statistics(self) -> Mapping[str, int]:
        """All filters' counters; the same name in two of them is added up."""
        total: dict[str, int] = {}
        for stage in self._filters:
            for name, count in stage.statistics().items():
                total[name] = total.get(name, 0) + count
        return total

    @staticmethod
    def _pass(frames: Iterable[Frame], stages: Sequence[Filter]) -> Iterator[Frame]:
        if not stages:
            yield from frames
            return
        for frame in frames:
            yield from Chain._pass(stages[0](frame), stages[1:])
