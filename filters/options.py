"""The options of all filters in one flat model, as the command line, files and jobs spell them."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, model_validator

from .interpolate.options import InterpolateOptions
from .upscale.options import UpscaleOptions

_SWITCHES: tuple[tuple[type[BaseModel], str], ...] = (
    (InterpolateOptions, "enable_frame_interpolation"),
    (UpscaleOptions, "enable_upscaling"),
)


class FilterOptions(InterpolateOptions, UpscaleOptions, BaseModel, frozen=True, extra="forbid"):
    """Every option of every filter; a field's description is its help text."""

    @property
    def any_enabled(self) -> bool:
        """Whether there is a filter to run."""
        return any(getattr(self, switch) for _, switch in _SWITCHES)

    @model_validator(mode="after")
    def _refuse_options_of_disabled_filters(self) -> Self:
        for model, switch in _SWITCHES:
            idle = self.model_fields_set & (model.model_fields.keys() - {switch})
            if idle and not getattr(self, switch):
                raise ValueError(f"{', '.join(sorted(idle))}: given, but {switch} is not")
        return self
