"""Which networks are measured: their weights, their arithmetic, and the filters made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ...filters.chain import build_filters
from ...filters.device import Runtime
from ...filters.frame import Filter
from ...filters.options import FilterOptions, Policy
from ...filters.weights import REAL_ESRGAN, RIFE, Weights, load_state_dict, resolve_weights
from ..cli.models import describe
from .arithmetic import describe_network, interpolate_flop, upscale_flop_per_pixel
from .frames import Size

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
