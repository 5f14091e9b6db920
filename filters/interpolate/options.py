"""What a user may ask of frame interpolation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

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
        description="1 doubles the frame rate, 2 makes it 4 times, up to 6: 64 times.",
    )
    frame_interpolation_scale: Annotated[float, AfterValidator(_one_of_scales)] = Field(
        1.0,
        description="Size at which motion is sought, 0.25, 0.5, 1, 2 or 4: 0.5 for 4K and large "
        "motion, 2 or 4 for small pictures; smaller is faster.",
    )
    frame_interpolation_model_path: str | None = Field(
        None,
        description="Weights: a file, a folder with flownet.pkl or flownet.safetensors, "
        "a hub repository (owner/name or owner/name:file), or 'builtin'.",
    )
    frame_interpolation_method: Literal["recursive", "direct"] = Field(
        "recursive",
        description="recursive halves every gap exp times; direct asks for each moment at once.",
    )
    scene_detection: bool = Field(
        True, description="Repeat a frame at a cut instead of blending two scenes."
    )
