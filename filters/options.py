"""The options of all filters in one flat model, as the command line, files and jobs spell them."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer, model_validator

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

    @model_serializer(mode="wrap")
    def _leave_out_options_of_disabled_filters(
        self, serialize: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Write what can be read again: an option of a disabled filter is refused there."""
        written: dict[str, Any] = serialize(self)
        for model, switch in _SWITCHES:
            if not getattr(self, switch):
                for name in model.model_fields.keys() - {switch}:
                    written.pop(name, None)
        return written
