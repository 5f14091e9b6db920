"""The options of all filters in one flat model, as the command line, files and jobs spell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Policy = Literal["auto", "hub", "builtin"]
"""Of weights that no option names: from the hub, or else built in; from the hub, or an error; built
in, without a connection."""
Way = Literal["torch", "compiled", "winograd", "tiles"]
"""How a network is computed on a CPU: by torch alone; by torch's convolutions with compiled code
between; by convolutions with fewer multiplications; by the CPU's matrix unit (AMX)."""
RIFE_ID, REAL_ESRGAN_ID = "elfgum/RIFE-4.22.lite", "ai-forever/Real-ESRGAN"
"""Repositories of the hub with the default weights."""

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def _one_of_scales(scale: float) -> float:
    if scale not in SCALES:
        raise ValueError("must be 0.25, 0.5, 1, 2 or 4")
    return scale


class InterpolateOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the RIFE filter, named as its reference documentation names them."""

    enable_frame_interpolation: bool = Field(
        False, description="Insert 2^exp-1 frames into every gap with RIFE 4.22.lite."
    )
    frame_interpolation_exp: int = Field(
        1,
        ge=1,
        le=6,
        description="How often the frame rate is doubled: 1 makes it 2 times, 6 makes it 64 times.",
    )
    frame_interpolation_scale: Annotated[float, AfterValidator(_one_of_scales)] = Field(
        1.0,
        description="Size at which motion is searched, 0.25, 0.5, 1, 2 or 4: 0.5 for 4K and large "
        "motion, 2 or 4 for small pictures. Smaller is faster.",
    )
    frame_interpolation_model_path: str | None = Field(
        None,
        description="Weights: a file, a folder with flownet.pkl or flownet.safetensors, "
        "a hub repository (owner/name or owner/name:file), or 'builtin'.",
    )
    frame_interpolation_method: Literal["recursive", "direct"] = Field(
        "recursive",
        description="Method: recursive halves every gap exp times, direct computes each moment at "
        "once.",
    )
    scene_detection: bool = Field(
        True, description="Repeat a frame at a cut instead of blending two scenes."
    )


class UpscaleOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the Real-ESRGAN filter, named as its reference documentation names them."""

    enable_upscaling: bool = Field(False, description="Enlarge every frame with Real-ESRGAN.")
    upscaling_scale: float = Field(
        4.0, ge=1, le=8, description="Factor by which frames are enlarged, from 1 to 8."
    )
    upscaling_model_path: str | None = Field(
        None,
        description="Weights: a .pth or .safetensors file of an SRVGGNetCompact or RRDBNet, "
        "a folder with one, a hub repository (owner/name or owner/name:file), or 'builtin'.",
    )
    upscaling_tile: int = Field(
        0,
        ge=0,
        lt=1 << 31,
        description="Edge of the tiles in pixels of the input. 0 lets the free memory decide.",
    )


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

    @property
    def detects_cuts(self) -> bool:
        """Whether frames are compared, so that none is inserted across a cut."""
        return self.enable_frame_interpolation and self.scene_detection

    def with_models(self, renamed: Callable[[str], str]) -> Self:
        """Copy the options, with other names for the weights that they name."""
        names = ("frame_interpolation_model_path", "upscaling_model_path")
        given = {name: renamed(path) for name in names if (path := getattr(self, name)) is not None}
        return self.model_copy(update=given)

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
