"""Which networks are measured: weights, filters made of them, and how many operations they need.

The operations are those of the network as it was published: 2 for each multiplication with its
addition, of convolutions alone, from the shapes of its checkpoint. A way to compute the same with
fewer operations so shows as a higher rate, and never as less work done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt
from pathlib import Path
from typing import Any, Literal

from clips import Size
from torch import Tensor

from upframe.daemon.cli.models import describe
from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.filters.errors import CheckpointRejected
from upframe.filters.frame import Filter
from upframe.filters.options import FilterOptions, Policy
from upframe.filters.weights import REAL_ESRGAN, RIFE, Weights, load_state_dict, resolve_weights

FilterName = Literal["interpolate", "upscale"]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """One checkpoint of one filter."""

    filter: FilterName
    path: str | None
    """As the model path options take it; None for the default."""
    weights: str
    """Its name, without the folders of this machine."""
    description: str
    state: Mapping[str, Tensor]

    def build(self, amount: float, runtime: Runtime) -> Filter:
        """Load and build the filter; `amount` is the exponent or the scale.

        Raises:
            FilterError: if that cannot be.
        """
        if self.filter == "interpolate":
            options = filter_options(exp=int(amount), interpolation_path=self.path)
        else:
            options = filter_options(scale=amount, upscaling_path=self.path)
        return build_filters(options, runtime)[0].filter

    def flop(self, size: Size, amount: float) -> int:
        """Operations for one source frame."""
        if self.filter == "interpolate":
            return interpolate_flop(self.state, size.width, size.height, int(amount))
        return upscale_flop_per_pixel(self.state) * size.pixels

    def frames(self, amount: float) -> int:
        """Frames that one source frame makes, itself not counted unless it was enlarged."""
        return 2 ** int(amount) - 1 if self.filter == "interpolate" else 1


def find_networks(
    interpolation_path: str | None, upscaling_paths: Iterable[str | None], policy: Policy
) -> Iterator[Network]:
    """Find and read RIFE's weights and those of every upscaler.

    Raises:
        CheckpointRejected: if a file is not a checkpoint of its filter.
        WeightsUnavailable: if weights cannot be had.
    """
    weights = resolve_weights(interpolation_path, RIFE, policy)
    state = _checked_state(weights)
    yield Network("interpolate", interpolation_path, shown_name(weights), "RIFE 4.22.lite", state)
    for path in upscaling_paths:
        weights = resolve_weights(path, REAL_ESRGAN, policy)
        state = _checked_state(weights)
        yield Network("upscale", path, shown_name(weights), describe_network(state), state)


def _checked_state(weights: Weights) -> dict[str, Tensor]:
    describe(weights)  # refuses what no filter takes
    return load_state_dict(weights.path)


def shown_name(weights: Weights) -> str:
    """Name weights without the folders of this machine."""
    return weights.path.name if weights.origin == "local" else weights.name


def shown_path(path: str | None) -> str | None:
    """A model path as it was given, but of a file on this machine only its own name."""
    return path if path is None or not Path(path).exists() else Path(path).name


def filter_options(
    *,
    exp: int | None = None,
    scale: float | None = None,
    interpolation_path: str | None = None,
    upscaling_path: str | None = None,
) -> FilterOptions:
    """Enable the filters of which an exponent or a scale is given."""
    given: dict[str, Any] = {}
    if exp is not None:
        given |= {"enable_frame_interpolation": True, "frame_interpolation_exp": exp}
        given |= {"frame_interpolation_model_path": interpolation_path}
    if scale is not None:
        given |= {"enable_upscaling": True, "upscaling_scale": scale}
        given |= {"upscaling_model_path": upscaling_path}
    return FilterOptions.model_validate(given)


_RIFE_CELLS = (8, 4, 2, 1)
"""Edge of what is one pixel for each block of RIFE 4.22.lite, in pixels."""
_RIFE_MULTIPLE = 32
"""Width and height are padded to a multiple of this at scale 1."""
_BLOCK = re.compile(r"block(\d)\.")
_TIMES_LARGER_IN_RRDB = {"conv_up1": 2, "conv_up2": 4, "conv_hr": 4, "conv_last": 4}
"""The layers of an RRDBNet behind its trunk, and how much larger than that their pictures are."""


def convolution_flop(weight: Tensor) -> int:
    """Operations of a convolution for each of its output pixels, by its weight (out, in, h, w)."""
    return 2 * weight.numel()


def upscale_flop_per_pixel(state: Mapping[str, Tensor]) -> int:
    """Operations of an SRVGGNetCompact or RRDBNet for each pixel of its input.

    Args:
        state: its checkpoint, tensors by name.

    Raises:
        CheckpointRejected: if it is neither.
    """
    weights = _convolutions(state)
    if "conv_first" in weights:
        return int(_rrdb_flop(weights))
    if weights and all(name.startswith("body.") for name in weights):
        return sum(convolution_flop(weight) for weight in weights.values())
    raise CheckpointRejected("the arithmetic of this network is not known")


def interpolate_flop(state: Mapping[str, Tensor], width: int, height: int, exp: int) -> int:
    """Operations of RIFE 4.22.lite for one more source frame: 2^exp - 1 inserted ones.

    The features of a source frame are computed once, for both its gaps. By halving, those of the
    inserted frames between which more are inserted are computed as well.

    Args:
        state: its checkpoint, tensors by name.
        width: of the frames, in pixels; padded to a multiple of 32.
        height: likewise.
        exp: 1 or more.

    Raises:
        CheckpointRejected: if it is no checkpoint of RIFE 4.22.lite.
    """
    weights = _convolutions(state)
    encoder = sum(_rife_flop(n, w) for n, w in weights.items() if n.startswith("encode."))
    blocks = sum(_rife_flop(n, w) for n, w in weights.items() if _BLOCK.match(n))
    if not encoder or not blocks:
        raise CheckpointRejected("the arithmetic of this network is not known")
    pixels = _padded(width) * _padded(height)
    return int(pixels * (encoder * 2 ** (exp - 1) + blocks * (2**exp - 1)))


def _convolutions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of all convolutions, by the names of their layers."""
    bare = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key.removesuffix(".weight"): value
        for key, value in bare.items()
        if key.endswith(".weight") and value.ndim == 4
    }


def _rrdb_flop(weights: Mapping[str, Tensor]) -> Fraction:
    """The trunk works on the input folded by 2 for a scale of 2, and by 4 for a scale of 1."""
    folded_pixels = Fraction(3, weights["conv_first"].shape[1])
    return folded_pixels * sum(
        convolution_flop(weight) * _TIMES_LARGER_IN_RRDB.get(name, 1) ** 2
        for name, weight in weights.items()
    )


def _rife_flop(name: str, weight: Tensor) -> Fraction:
    """Operations of a layer for each pixel of the padded frame.

    Every block and the encoder halve their picture with a first convolution; a block does so with
    a second, too. A transposed convolution works per pixel of what it takes.
    """
    block = _BLOCK.match(name)
    edge = 2 if block is None else _RIFE_CELLS[int(block[1])] * _block_stride(name)
    return Fraction(convolution_flop(weight), edge**2)


def _block_stride(name: str) -> int:
    return 2 if ".conv0.0." in name else 4


def _padded(size: int) -> int:
    return -(-size // _RIFE_MULTIPLE) * _RIFE_MULTIPLE


def describe_network(state: Mapping[str, Tensor]) -> str:
    """Name an upscaling network and its size, as ``SRVGGNetCompact 64f16c x4``."""
    weights = _convolutions(state)
    if "conv_first" in weights:
        blocks = {name.split(".")[1] for name in weights if name.startswith("body.")}
        features, channels = weights["conv_first"].shape[:2]
        return f"RRDBNet {features}f{len(blocks)}b x{4 // isqrt(channels // 3)}"
    names = sorted(weights, key=lambda name: int(name.rpartition(".")[2]))
    features = weights[names[0]].shape[0]
    scale = isqrt(weights[names[-1]].shape[0] // 3)
    return f"SRVGGNetCompact {features}f{len(names) - 2}c x{scale}"
