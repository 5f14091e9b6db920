"""Filters: plain calls from frames to frames. They never wait, read no clock and open no video.

`interpolate_frames` and `upscale_frames` load on first use, so that who only needs the values
loads no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .frame import (
    Color,
    ContentLight,
    Filter,
    Frame,
    MasteringDisplay,
    Picture,
    PixelFormat,
    StreamInfo,
)

if TYPE_CHECKING:
    from .interpolate.library import interpolate_frames
    from .upscale.library import upscale_frames

__all__ = [
    "Color",
    "ContentLight",
    "Filter",
    "Frame",
    "MasteringDisplay",
    "Picture",
    "PixelFormat",
    "StreamInfo",
    "interpolate_frames",
    "upscale_frames",
]


def __getattr__(name: str) -> Any:
    if name == "interpolate_frames":
        from .interpolate.library import interpolate_frames

        return interpolate_frames
    if name == "upscale_frames":
        from .upscale.library import upscale_frames

        return upscale_frames
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
