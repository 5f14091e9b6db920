"""Encoding options as users give them: a value without codecs, cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

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


SOUND_ENCODERS: Mapping[str, str] = {
    "aac": "aac", "ac3": "ac3", "alac": "alac", "eac3": "eac3", "flac": "flac", "mp2": "mp2",
    "mp3": "libmp3lame", "opus": "libopus", "pcm_s16le": "pcm_s16le", "pcm_s24le": "pcm_s24le",
    "wmav2": "wmav2",
}  # fmt: skip
"""FFmpeg's encoders of the codecs that sound can be encoded with."""


def _check_audio_codec(name: str) -> str:
    """Accept also an encoder's name, such as libopus."""
    known = ("auto", "copy", "none", *SOUND_ENCODERS)
    by_encoder = {encoder: codec for codec, encoder in SOUND_ENCODERS.items()}
    codec = by_encoder.get(name.lower(), name.lower())
    if codec not in known:
        near = ", ".join(get_close_matches(codec, known))
        hint = f"; near it: {near}" if near else ""
        raise ValueError(f"must be one of {', '.join(known)}, got {name!r}{hint}")
    return codec


class SoundOptions(BaseModel, frozen=True, extra="forbid"):
    """What to do with sound."""

    audio_codec: Annotated[str, AfterValidator(_check_audio_codec)] = Field(
        default="auto",
        description="Sound: auto copies it, and encodes what the container cannot hold (as Opus in "
        "WebM, as AAC in most others); copy never encodes; none leaves it out; a codec, such as "
        "aac, ac3, flac, mp3 or opus, encodes all that is not of that codec.",
    )
