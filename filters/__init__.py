"""Filters: plain calls from frames to frames. They never wait, read no clock and open no video.

Every name loads on first use, so that who needs only the options, or an error, loads no torch, and
who needs only the values loads no network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .interpolate.batch import interpolate_frames
    from .upscale.batch import upscale_frames

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

_ELSEWHERE = {
    "interpolate_frames": ".interpolate.batch",
    "upscale_frames": ".upscale.batch",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, ".frame"), __name__), name)
