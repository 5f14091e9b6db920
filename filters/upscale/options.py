"""What a user may ask of enlarging."""

from __future__ import annotations

from pydantic import BaseModel, Field


class UpscaleOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the Real-ESRGAN filter, named as its reference documentation names them."""

    enable_upscaling: bool = Field(False, description="Enlarge every frame with Real-ESRGAN.")
    upscaling_scale: float = Field(
        4.0, ge=1, le=8, description="How much larger, any number from 1 to 8."
    )
    upscaling_model_path: str | None = Field(
        None,
        description="Weights: a .pth or .safetensors file of an SRVGGNetCompact or RRDBNet, "
        "a folder with one, a hub repository (owner/name or owner/name:file), or 'builtin'.",
    )
    upscaling_tile: int = Field(
        0, ge=0, description="Edge of the tiles in pixels of the input; 0 lets memory decide."
    )
