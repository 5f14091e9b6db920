"""How to encode, as a user says it. A value alone: who only hands it on loads no codec."""

from __future__ import annotations

from pydantic import BaseModel, Field


class EncoderOptions(BaseModel, frozen=True, extra="forbid"):
    """How to encode; a field's description is its help text."""

    codec: str | None = Field(
        default=None,
        description="encoder, FFmpeg's name (libx264 for 8 bit, libx265 to 12, ffv1 above; "
        "libvpx-vp9 and libsvtav1 in WebM)",
    )
    crf: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="constant quality, lower is better (18 for x264 and x265); a quantiser of 1 "
        "to 31 for encoders without it; for JPEG and WebP 0 is best and 51 worst",
    )
    preset: str | None = Field(
        default=None, description="speed against size, as the encoder names it: ultrafast … placebo"
    )
    pix_fmt: str | None = Field(
        default=None, description="pixel format of the output (the input's)"
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="private options of the encoder by name"
    )
