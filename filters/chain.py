"""The chain of filters: a fold over those that the options enable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from .device import Runtime, keep_freed_memory
from .frame import Filter, Frame, Pending, PlannedFilter, StreamInfo
from .options import FilterOptions, Way
from .weights import Weights, warn_of_builtin


@dataclass(frozen=True, slots=True)
class BuiltFilter:
    """A filter with its weights loaded, and their origin."""

    name: str
    filter: Filter
    weights: Weights | None
    way: Way | None = None
    """How its network is computed on a CPU."""


def _interpolate(options: FilterOptions, runtime: Runtime) -> BuiltFilter | None:
    if not options.enable_frame_interpolation:
        return None
    from .interpolate.filter import build_interpolate

    built, weights = build_interpolate(options, runtime)
    return BuiltFilter("interpolate", built, weights, built.way)


def _upscale(options: FilterOptions, runtime: Runtime) -> BuiltFilter | None:
    if not options.enable_upscaling:
        return None
    from .upscale.filter import build_upscale

    built, weights = build_upscale(options, runtime)
    return BuiltFilter("upscale", built, weights, built.way)


# In the order in which frames pass them: interpolating before enlarging is the cheaper order.
REGISTRY: tuple[Callable[[FilterOptions, Runtime], BuiltFilter | None], ...] = (
    _interpolate,
    _upscale,
)


def build_filters(options: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
    """Load the weights of every enabled filter and build them, in order.

    From here on the process computes frames: see :mod:`upframe.filters.device`.

    Raises:
        DeviceUnavailable: if a network cannot be computed here by the way that is given for it.
        CheckpointRejected: if a file is not a checkpoint of its filter.
        WeightsUnavailable: if weights are not available.
    """
    keep_freed_memory()
    filters = tuple(built for make in REGISTRY if (built := make(options, runtime)) is not None)
    warn_of_builtin(built.weights for built in filters if built.weights is not None)
    return filters


class Chain:
    """Several filters as one. An empty chain passes frames through.

    Filters that plan are computed where their frames are asked for, the others at once.
    """

    def __init__(self, filters: Iterable[Filter]) -> None:
        self.filters = tuple(filters)

    def open(self, info: StreamInfo) -> StreamInfo:
        """Open every filter with what the one before it returns."""
        for stage in self.filters:
            info = stage.open(info)
        return info

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        """Pass a frame through; frames are computed as they are iterated."""
        return (pending.frame() for pending in self.plan(frame))

    def flush(self) -> Iterator[Frame]:
        """Flush every filter in order, each through those behind it."""
        return (pending.frame() for pending in self.plan_flush())

    def plan(self, frame: Frame) -> Iterator[Pending]:
        """Pass a frame through; what comes of it is computed by the thread that asks for it.

        Iterate it before the next call. Frames may then be computed in any order.
        """
        return _planned((Pending.of(frame),), self.filters)

    def plan_flush(self) -> Iterator[Pending]:
        """Do the same for what the filters hold."""
        for index, stage in enumerate(self.filters):
            held = (Pending.of(frame) for frame in stage.flush())
            yield from _planned(held, self.filters[index + 1 :])

    @property
    def has_plans(self) -> bool:
        """Whether some of the work can be done in several threads."""
        return any(isinstance(one, PlannedFilter) for one in self.filters)

    @property
    def frame_bytes(self) -> int:
        """Memory for the work on one frame, estimated, of filters that plan; known once open."""
        return sum(one.frame_bytes for one in self.filters if isinstance(one, PlannedFilter))


def _planned(pending: Iterable[Pending], stages: Sequence[Filter]) -> Iterator[Pending]:
    for stage in stages:
        pending = chain.from_iterable(map(partial(_plan, stage), pending))
    return iter(pending)


def _plan(stage: Filter, pending: Pending) -> Iterable[Pending]:
    if isinstance(stage, PlannedFilter):
        return stage.plan(pending)
    return map(Pending.of, stage(pending.frame()))
