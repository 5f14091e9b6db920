"""Encoding options as users give them: a value without codecs, cheap to import.

A wrong value is refused wherever options are read, before anything is loaded; what only an encoder
knows about itself, it checks when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationInfo, field_validator

ENCODERS = {
    "h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9", "vp8": "libvpx",
}  # fmt: skip
"""Codecs, and the encoder that each stands for."""
_MEANT = {
    "h264": ("x264", "avc", "avc1", "h.264"), "hevc": ("h265", "x265", "hvc1", "h.265"),
    "av1": ("svtav1", "svt-av1", "aom", "libav1"), "vp9": ("libvp9", "libvpx9", "vpx-vp9"),
}  # fmt: skip
"""What people call a codec that FFmpeg has under another name."""

QUANTISERS = {
    "mpeg4": 3, "msmpeg4": 3, "msmpeg4v2": 3, "mpeg2video": 3, "mpeg1video": 3, "mjpeg": 3,
    "flv": 3, "h263": 3, "h263p": 3, "wmv1": 3, "wmv2": 3,
}  # fmt: skip
"""Default quality of encoders without a crf, which have a quantiser: 1 (best) to 31."""
QUALITIES = {
    "libx264": 18, "libx264rgb": 18, "libx265": 18, "libsvtav1": 20, "libvpx-vp9": 20, "libvpx": 10,
    "h264_nvenc": 19, "hevc_nvenc": 19, "av1_nvenc": 24, "h264_qsv": 19, "hevc_qsv": 19,
    "av1_qsv": 24, "vp9_qsv": 24, "h264_vaapi": 19, "hevc_vaapi": 19, "av1_vaapi": 60,
    "vp9_vaapi": 60,
} | QUANTISERS  # fmt: skip
"""Default quality of encoders of files."""
_RANGES = {
    "libx264": (0, 51), "libx264rgb": (0, 51), "libx265": (0, 51), "libsvtav1": (0, 63),
    "libvpx-vp9": (0, 63), "libvpx": (4, 63), "libaom-av1": (0, 63), "librav1e": (0, 255),
    "av1_vaapi": (1, 255), "vp9_vaapi": (1, 255),
} | dict.fromkeys(QUANTISERS, (1, 31))  # fmt: skip
_HARDWARE = ("_nvenc", "_qsv", "_vaapi")
_DEFAULTS_RANGE = (0, 63)
"""Of the encoders that are taken where none is named."""

_X26X = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
    "placebo",
)  # fmt: skip
_NUMBERS = tuple(map(str, range(-1, 14)))
_OF_STILLS = ("none", "default", "picture", "photo", "drawing", "icon", "text")  # WebP
_PRESETS = {
    "libx264": _X26X, "libx264rgb": _X26X, "libx265": _X26X, "libsvtav1": _NUMBERS,
    "_nvenc": (
        "p1", "p2", "p3", "p4", "p5", "p6", "p7", "default", "slow", "medium", "fast", "hp", "hq",
        "bd", "ll", "llhq", "llhp", "lossless", "losslesshp",
    ),
    "_qsv": _X26X[2:9],
}  # fmt: skip
_HARDWARE_RANGE = (1, 51)


def quality_range(codec: str | None) -> tuple[int, int] | None:
    """Return the best and the worst quality of an encoder; None if only the encoder knows.

    It has a name as users give it; None: any of the encoders that are taken by default.
    """
    if codec is None:
        return _DEFAULTS_RANGE
    name = ENCODERS.get(codec, codec)
    return _RANGES.get(name, _HARDWARE_RANGE if name.endswith(_HARDWARE) else None)


def presets(codec: str | None) -> tuple[str, ...] | None:
    """Return the names of an encoder's presets; None if only the encoder knows. As above."""
    if codec is None:
        return (*_X26X, *_NUMBERS, *_OF_STILLS)
    name = ENCODERS.get(codec, codec)
    return _PRESETS.get(name, _PRESETS.get("_" + name.rpartition("_")[2]))


PipeFormat = Literal["y4m", "nut", "matroska"]
"""Of the streams of a pipe."""


class EncoderOptions(BaseModel, frozen=True, extra="forbid"):
    """How to encode; a field's description is its help text."""

    codec: str | None = Field(
        default=None,
        description="Codec (h264, hevc, av1, vp9) or encoder, by FFmpeg's name. Without it, "
        "libx264 for 8 bit, libx265 to 12, ffv1 above; in WebM libvpx-vp9 and libsvtav1.",
    )
    crf: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Constant quality: lower is better, 18 by default for x264 and x265, 20 for "
        "SVT-AV1 and VP9. A quantiser of 1 to 31 for encoders without it. For JPEG and WebP 0 is "
        "best, 51 worst.",
    )
    preset: str | None = Field(
        default=None,
        description="Speed against size, as the encoder names it: ultrafast … placebo.",
    )
    pix_fmt: str | None = Field(
        default=None,
        description="Pixel format of the output. Without it, that of the input; of RGB in MP4, "
        "MOV and WebM yuv420p, which all players show.",
    )
    options: dict[str, str] = Field(
        default_factory=dict, description="Private options of the encoder, as FFmpeg names them."
    )

    @field_validator("codec")
    @classmethod
    def _suggest_codec(cls, codec: str | None) -> str | None:
        for known, others in _MEANT.items():
            if codec is not None and codec.lower() in others:
                raise ValueError(f"must be FFmpeg's name of a codec (did you mean {known}?)")
        return codec

    @field_validator("crf")
    @classmethod
    def _check_crf(cls, crf: float | None, others: ValidationInfo) -> float | None:
        codec = others.data.get("codec")
        allowed = quality_range(codec)
        if crf is not None and allowed and not allowed[0] <= crf <= allowed[1]:
            raise ValueError(
                f"must be {allowed[0]} to {allowed[1]}{f' for {codec}' if codec else ''}"
            )
        return crf

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, preset: str | None, others: ValidationInfo) -> str | None:
        codec = others.data.get("codec")
        known = presets(codec)
        if preset is not None and known and preset not in known:
            raise ValueError(f"must be one of {', '.join(known)}{f' for {codec}' if codec else ''}")
        return preset


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
