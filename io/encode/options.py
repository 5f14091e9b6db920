"""Encoding options as users give them: a value without codecs, cheap to import."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

PipeFormat = Literal["y4m", "nut", "matroska"]
"""Of the streams of a pipe."""


class EncoderOptions(BaseModel, frozen=True, extra="forbid"):
    """How to encode; a field's description is its help text."""

    codec: str | None = Field(
        default=None,
        description="Encoder, by FFmpeg's name. Without it, libx264 for 8 bit, libx265 to 12, ffv1 "
        "above; in WebM libvpx-vp9 and libsvtav1.",
    )
    crf: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Constant quality: lower is better, 18 by default for x264 and x265. A "
        "quantiser of 1 to 31 for encoders without it. For JPEG and WebP 0 is best, 51 worst.",
    )
    preset: str | None = Field(
        default=None,
        description="Speed against size, as the encoder names it: ultrafast … placebo.",
    )
    pix_fmt: str | None = Field(
        default=None, description="Pixel format of the output. Without it, that of the input."
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="Private options of the encoder, as FFmpeg names them."
    )
