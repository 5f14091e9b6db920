"""The options of all filters in one flat model, as the command line, files and jobs spell them."""

from __future__ import annotations

from pydantic import BaseModel

from .interpolate.options import InterpolateOptions
from .upscale.options import UpscaleOptions


class FilterOptions(InterpolateOptions, UpscaleOptions, BaseModel, frozen=True, extra="forbid"):
    """Every option of every filter; a field's description is its help text."""

    @property
    def any_enabled(self) -> bool:
        """Whether there is a filter to run."""
        return self.enable_frame_interpolation or self.enable_upscaling
