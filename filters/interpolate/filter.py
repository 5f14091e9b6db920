"""Interpolate: insert 2^exp - 1 frames into every gap between two frames.

A window of two frames slides over the stream. The earlier one leaves when the later one has come,
followed by its in-betweens; the last frame leaves when the stream is flushed, with its full
duration. Where nothing may be blended (a cut, a jump in time) the earlier frame is repeated, so
that N frames always become (N - 1)·2^exp + 1.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..device import GIB, Runtime, available_bytes, exact_convolutions, unless_out_of_memory
from ..errors import FilterError, TooLarge
from ..frame import Counts, Deferred, Frame, Pending, PlannedFilter, StreamInfo, lasting
from ..guard import Verdict
from ..options import InterpolateOptions, Way
from ..weights import RIFE, Weights, load, resolve_weights
from .cpu import engine_on_cpu
from .network import Engine, IFNet, PlainEngine, load_ifnet, pad, padding_multiple

# Fill the gap between two frames: which moments are asked of the network, and in which batches.
#
# `recursive` halves every gap at t = 0.5, `exp` times; all pairs of one round are one batch.
# `direct` asks for every t = k/2^exp; all of them are one batch. A batch that would need much
# memory is computed in parts, and when memory runs out all the same, in smaller parts.

Method = Literal["recursive", "direct"]

_BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**23}
"""Padded pixels in one batch at scale 1: enough to keep the device busy, and no more memory. On
CUDA four pairs of 1920x1080, which plain torch computes in less than 5 GiB."""
_BYTES_PER_PIXEL = (270, 330)
"""Memory for one pair, per padded pixel: at any scale, and times scale². Measured on a CPU in fp32
from 0.5 to 4, where 335, 557, 1591 and 4818 were needed; half precision needs a tenth less."""


class GapFiller:
    """Computes all in-betweens of a gap with one network, in that network's precision."""

    def __init__(
        self, network: IFNet, exp: int, scale: float, method: Method, way: Way | None = None
    ) -> None:
        self._device = network.device
        self._engine = engine_for(network, scale, way)
        self.way: Way | None = self._engine.way
        self._exp = exp
        self._scale = scale
        self._method = method
        pixels = _BATCH_PIXELS.get(network.device.type, _BATCH_PIXELS["cuda"])
        self._batch_pixels = int(pixels / max(1, scale) ** 2)

    def with_exp(self, exp: int) -> GapFiller:
        """Return the same for another exponent; both share the engine and so its weights."""
        other = copy.copy(self)
        other._exp = exp
        return other

    def check_size(self, width: int, height: int) -> None:
        """Make sure that one pair of frames can fit in memory, before any work.

        Raises:
            TooLarge: if it cannot.
        """
        needed = self.needed_bytes(width, height)
        free = available_bytes(self._device)
        if free is not None and needed > free:
            raise TooLarge(
                f"interpolating {width}x{height} at scale {self._scale:g} needs about "
                f"{needed / GIB:.1f} GiB of memory, but {self._device} has "
                f"{free / GIB:.1f} GiB free; a smaller interpolation scale needs less"
            )

    def needed_bytes(self, width: int, height: int) -> int:
        """Estimate the most bytes that one pair of frames needs."""
        multiple = padding_multiple(self._scale)
        padded = (width + -width % multiple) * (height + -height % multiple)
        fixed, growing = _BYTES_PER_PIXEL
        return int(padded * (fixed + growing * self._scale**2))

    def source(self, image: Tensor) -> Tensor:
        """Compute the network's input from one frame, to be kept for both its gaps.

        (C, H, W), float, [0, 1], any device; C is 3, or 4 with alpha → (…, H', W') on the network's
        device, padded; only this filler reads it.

        Raises:
            TooLarge: if it does not fit in memory.
        """
        with torch.inference_mode(), exact_convolutions(self._device):
            image = image.to(self._device, torch.float32)
            multiple = padding_multiple(self._scale)
            return self._sources([pad(image.unsqueeze(0), multiple)[0]])[0]

    def __call__(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        """Compute the in-betweens of two frames.

        Each frame is given by its `source`, and its size without padding in pixels. Returned are
        2^exp - 1 times (C, H, W), fp32, in order of time.

        Raises:
            TooLarge: if not even a single pair fits in memory.
        """
        fill = self._recursive if self._method == "recursive" else self._direct
        with torch.inference_mode(), exact_convolutions(self._device):
            return [image[:, :height, :width] for image in fill(left, right, height, width)]

    def _recursive(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        sources, images = [left, right], list[Tensor]()
        for level in range(self._exp):
            halves = [0.5] * (len(sources) - 1)
            middles = self._middles(sources[:-1], sources[1:], halves)
            images = _alternate(middles, images)
            if level + 1 < self._exp:
                for middle in middles:  # their padding is no part of the picture
                    middle[:, height:] = 0
                    middle[:, :, width:] = 0
                sources = _alternate(sources, self._sources(middles))
        return images

    def _direct(self, left: Tensor, right: Tensor, height: int, width: int) -> list[Tensor]:
        count = 2**self._exp - 1
        times = [index / 2**self._exp for index in range(1, count + 1)]
        return self._middles([left] * count, [right] * count, times)

    def _sources(self, images: list[Tensor]) -> list[Tensor]:
        def sources(part: slice) -> Tensor:
            batch = images[part]  # of a single picture without a copy
            return self._engine.sources(torch.stack(batch) if len(batch) > 1 else batch[0][None])

        return self._in_batches(images, sources)

    def _middles(
        self, lefts: list[Tensor], rights: list[Tensor], times: Sequence[float]
    ) -> list[Tensor]:
        """Compute one in-between per pair, with its padding."""

        def middles(part: slice) -> Tensor:
            return self._engine.middles(lefts[part], rights[part], times[part], self._scale)

        return self._in_batches(lefts, middles)

    def _in_batches(self, items: list[Tensor], compute: Callable[[slice], Tensor]) -> list[Tensor]:
        count, (height, width) = len(items), items[0].shape[-2:]
        results: list[Tensor] = []
        while len(results) < count:
            batch = max(1, self._batch_pixels // (height * width))
            done = len(results)
            part = slice(done, done + batch)
            result = unless_out_of_memory(partial(compute, part))
            if result is not None:
                results += result.unbind()
            elif batch == 1:
                raise TooLarge(f"frames of {width}x{height} (padded) need more memory than is free")
            else:  # the same frames again, in smaller parts, also from now on
                self._batch_pixels = min(batch, count) // 2 * height * width
        return results


def _alternate(outer: list[Tensor], inner: list[Tensor]) -> list[Tensor]:
    """Put one of `inner` between every two of `outer`."""
    merged = outer[:1]
    for between, after in zip(inner, outer[1:], strict=True):
        merged += (between, after)
    return merged


def engine_for(network: IFNet, scale: float, way: Way | None = None) -> Engine:
    """Choose the fastest engine for a network, where it is, in its precision; or that of a way.

    Raises:
        DeviceUnavailable: if a CPU does not have the way.
    """
    if network.device.type == "cpu":
        return engine_on_cpu(network, scale, way)
    if network.device.type == "cuda":
        from .cuda import ProvenEngine, can_use_kernels

        if can_use_kernels(network, scale):
            return ProvenEngine(network, scale)
    return PlainEngine(network)


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
            method: see `GapFiller`.
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
