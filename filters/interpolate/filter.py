"""Interpolate: insert 2^exp - 1 frames into every gap between two frames.

A window of two frames slides over the stream. The earlier one leaves when the later one has come,
followed by its in-betweens; the last frame leaves when the stream is flushed, with its full
duration. Where nothing may be blended (a cut, a jump in time) the earlier frame is repeated, so
that N frames always become (N - 1)·2^exp + 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..device import Runtime
from ..errors import FilterError
from ..frame import Counts, Deferred, Frame, Pending, PlannedFilter, StreamInfo, lasting
from ..guard import Verdict
from ..options import InterpolateOptions, Way
from ..weights import RIFE, Weights, load, resolve_weights
from .checkpoint import load_ifnet
from .gap import GapFiller, Method
from .network import IFNet

# The relation of two neighbouring frames: motion, a cut, a jump in time, or the same.

_GAP_SECONDS = Fraction(1, 4)
_GAP_INTERVALS = 4
"""A step in time longer than both is a jump, not motion."""
_GAP_SECONDS_AT_UNKNOWN_RATE = Fraction(1)

Reason = Literal["repeated_at_cuts", "repeated_at_gaps", "repeated_at_duplicates"]
"""Why a gap is filled without the network; also the name of the counter."""


def longest_step(average_rate: Fraction | None) -> Fraction:
    """Return the longest step in time, in seconds, that may still be motion."""
    if not average_rate:
        return _GAP_SECONDS_AT_UNKNOWN_RATE
    return max(_GAP_SECONDS, _GAP_INTERVALS / average_rate)


def reason_to_repeat(left: Frame, right: Frame, longest: Fraction) -> Reason | None:
    """Return why nothing may, or need, be computed between two frames; None if it must be."""
    if right.cut:
        return "repeated_at_cuts"
    step = right.pts - left.pts
    if step <= 0 or step * right.time_base > longest:
        return "repeated_at_gaps"
    # frames on a card were compared when they were read: to compare them here waits for the card
    same = right.duplicate or (not right.pixels.is_cuda and _same_pixels(left, right))
    return "repeated_at_duplicates" if same else None


def ticks_between(left: Frame, right: Frame) -> int:
    """Return the ticks from one in-between to the next, in a time base 2^exp times finer.

    That is (p1 - p0)/2^exp, exact. Where time stands still or jumps back, the repeats share the
    earlier frame's own duration.
    """
    step = right.pts - left.pts
    return step if step > 0 else max(left.duration, 1)


def check_alike(left: Frame, right: Frame) -> None:
    """Make sure that two frames belong to the same stream.

    Raises:
        ValueError: if size, time base, or having alpha differ.
    """
    for name in ("width", "height", "time_base"):
        expected, found = getattr(left, name), getattr(right, name)
        if found != expected:
            raise ValueError(f"{name} must be {expected} as in the frame before, got {found}")
    if (left.alpha is None) != (right.alpha is None):
        raise ValueError("either every frame must have alpha or none, got one with and one without")


def _same_pixels(left: Frame, right: Frame) -> bool:
    same = left.alpha is None or right.alpha is None or torch.equal(left.alpha, right.alpha)
    return same and torch.equal(left.pixels, right.pixels)


COUNTERS = ("inserted", *get_args(Reason), "redone_in_fp32")


@dataclass(slots=True, eq=False)
class _Held:
    """A frame of the window, and its encoding by the network, used for both its gaps."""

    frame: Frame
    source: Deferred[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Between:
    """The in-betweens of a gap, (3 or 4, H, W), and whether they are damaged."""

    images: list[Tensor]
    verdict: Verdict


class Interpolate(PlannedFilter):
    """The RIFE filter, for one stream at a time. Build it with `build_interpolate`."""

    def __init__(
        self,
        network: IFNet,
        *,
        exact: IFNet | None = None,
        exp: int = 1,
        scale: float = 1.0,
        method: Method = "recursive",
        way: Way | None = None,
    ) -> None:
        """Configure the filter.

        Args:
            network: computes the in-betweens, on its device and in its precision.
            exact: the same in fp32, for results that are damaged; None if `network` is in fp32.
            exp: 2^exp - 1 frames are inserted into every gap.
            scale: 0.25, 0.5, 1, 2 or 4; size at which motion is sought.
            method: see :mod:`upframe.filters.interpolate.gap`.
            way: how `network` is computed on a CPU, the fastest if None; `exact` is left to torch.

        Raises:
            DeviceUnavailable: if this CPU does not have that way.
        """
        self._factor = 2**exp
        self._fill = GapFiller(network, exp, scale, method, way)
        self._fill_exactly = exact and GapFiller(exact, exp, scale, method, "torch")
        self.way: Way | None = self._fill.way
        self._begin(longest_step(None))

    def _begin(self, longest: Fraction) -> None:
        self._longest_step = longest
        self._held: _Held | None = None
        self._counts = Counts(COUNTERS)

    def with_exp(self, exp: int) -> Interpolate:
        """Copy the filter for another exponent. Both share the network, nothing else."""
        other = copy.copy(self)
        other._factor = 2**exp
        other._fill = self._fill.with_exp(exp)
        other._fill_exactly = self._fill_exactly and self._fill_exactly.with_exp(exp)
        other._begin(longest_step(None))
        return other

    def open(self, info: StreamInfo) -> StreamInfo:
        """Begin a stream; frames and counters of the one before are dropped.

        Raises:
            TooLarge: if two of its frames cannot fit in memory.
        """
        self._fill.check_size(info.width, info.height)
        self.frame_bytes = self._fill.needed_bytes(info.width, info.height)
        self._begin(longest_step(info.average_rate))
        return replace(
            info,
            rate=info.rate and info.rate * self._factor,
            average_rate=info.average_rate and info.average_rate * self._factor,
            time_base=info.time_base / self._factor,
            num_frames=info.num_frames and (info.num_frames - 1) * self._factor + 1,
        )

    def plan(self, pending: Pending) -> Sequence[Pending]:
        """Accept the next frame and return the one before it and their in-betweens.

        Raises:
            ValueError: if its size, time base or having alpha differ from the frame before.
            TooLarge: from the frames, if they do not fit in memory.
            FilterError: likewise, if the network gives NaN or Inf, in fp32 too.
        """
        frame = pending.frame()
        source = Deferred(lambda: self._fill.source(_image(frame)))
        left, self._held = self._held, _Held(frame, source)
        if left is None:
            return ()
        check_alike(left.frame, frame)
        return self._gap(left, self._held)

    def flush(self) -> Iterable[Frame]:
        """Return the last frame; it keeps its whole duration."""
        last, self._held = self._held, None
        if last is None:
            return ()
        return (self._timed(last.frame, 0, last.frame.duration * self._factor),)

    def statistics(self) -> Mapping[str, int]:
        """Count frames: ``inserted`` by the network, ``redone_in_fp32`` of these, and repeats.

        Repeats are ``repeated_at_cuts``, ``repeated_at_gaps`` or, between two equal frames,
        ``repeated_at_duplicates``.
        """
        return self._counts.all()

    def _gap(self, left: _Held, right: _Held) -> list[Pending]:
        frame = left.frame
        reason = reason_to_repeat(frame, right.frame, self._longest_step)
        if reason == "repeated_at_duplicates":
            right.source = left.source
            right.frame = replace(right.frame, duplicate=True)
        step = ticks_between(frame, right.frame)
        first = Pending.of(self._timed(frame, 0, step))
        if reason is None:
            return [first, *self._inserted(left, right, step)]
        self._counts.add(reason, self._factor - 1)
        repeat = replace(frame, cut=False, duplicate=True, t35=lasting(frame.t35))
        moments = range(1, self._factor)
        return [first, *(Pending.of(self._timed(repeat, k * step, step)) for k in moments)]

    def _inserted(self, left: _Held, right: _Held, step: int) -> list[Pending]:
        between = Deferred(
            lambda: self._between(left, right), lambda found: self._checked(found, left, right)
        )
        moments = range(1, self._factor)
        made = (between.then(partial(self._made, left.frame, index, step)) for index in moments)
        return [Pending(frame, duplicate=False) for frame in made]

    def _made(self, left: Frame, index: int, step: int, found: _Between) -> Frame:
        # sampling may leave the range by a rounding error
        image = found.images[index - 1].clamp(0, 1).to(left.pixels.device, left.pixels.dtype)
        alpha = None if left.alpha is None else image[3:]
        between = replace(left, pixels=image[:3], alpha=alpha, t35=lasting(left.t35))
        return self._timed(replace(between, cut=False, duplicate=False), index * step, step)

    def _between(self, left: _Held, right: _Held) -> _Between:
        """Compute the in-betweens. A frame is encoded once, for both its gaps."""
        images = self._fill(left.source(), right.source(), left.frame.height, left.frame.width)
        self._counts.add("inserted", len(images))
        pixels = left.frame.pixels, right.frame.pixels
        return _Between(images, Verdict([image[:3] for image in images], *pixels))

    def _checked(self, found: _Between, left: _Held, right: _Held) -> _Between:
        """Compute damaged in-betweens again in fp32."""
        if not found.verdict():
            return found
        if self._fill_exactly is not None:
            self._counts.add("redone_in_fp32", len(found.images))
            exact = [self._fill_exactly.source(_image(held.frame)) for held in (left, right)]
            size = left.frame.height, left.frame.width
            found = replace(found, images=self._fill_exactly(exact[0], exact[1], *size))
        # black in fp32 is what the network means; NaN and Inf are no picture
        if not all(torch.isfinite(image).all() for image in found.images):
            raise FilterError(f"the network gave NaN or Inf after {left.frame!r}, in fp32 too")
        return found

    def _timed(self, frame: Frame, ticks: int, duration: int) -> Frame:
        """Move a frame into the finer time base, `ticks` of which it comes later."""
        pts, time_base = frame.pts * self._factor + ticks, frame.time_base / self._factor
        return replace(frame, pts=pts, duration=duration, time_base=time_base)


def build_interpolate(options: InterpolateOptions, runtime: Runtime) -> tuple[Interpolate, Weights]:
    """Load the weights that the options name and build the filter.

    Raises:
        CheckpointRejected: if they are not a RIFE 4.22.lite checkpoint.
        WeightsUnavailable: if they are not available.
    """
    weights = resolve_weights(
        options.frame_interpolation_model_path, RIFE, runtime.policy, most_bytes=runtime.most_bytes
    )
    network, exact = load_networks(weights, runtime.device, runtime.precision)
    exp, scale = options.frame_interpolation_exp, options.frame_interpolation_scale
    method, way = options.frame_interpolation_method, runtime.ways.get("interpolate")
    built = Interpolate(network, exact=exact, exp=exp, scale=scale, method=method, way=way)
    return built, weights


def load_networks(
    weights: Weights, device: torch.device, precision: torch.dtype
) -> tuple[IFNet, IFNet | None]:
    """Load a network in a precision, and the same in fp32 where that is another.

    Raises:
        CheckpointRejected: if the file is not a RIFE 4.22.lite checkpoint.
    """
    exact = load(weights, load_ifnet).to(device)
    if precision == torch.float32:
        return exact, None
    return copy.deepcopy(exact).to(precision), exact


def _image(frame: Frame) -> Tensor:
    return frame.pixels if frame.alpha is None else torch.cat((frame.pixels, frame.alpha))
