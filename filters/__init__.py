"""Filters: plain calls from frames to frames. They never wait, read no clock and open no video.

Every name is loaded on first use: a program that needs only the options, or an error, loads no
torch, and one that needs only the values loads no network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import (
        batch_upscale_frames,
        interpolate_frames,
        interpolate_video_tensor,
        upscale_frames,
        upscale_tensor,
    )
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

__all__ = [
    "Color",
    "ContentLight",
    "Filter",
    "Frame",
    "MasteringDisplay",
    "Picture",
    "PixelFormat",
    "StreamInfo",
    "batch_upscale_frames",
    "interpolate_frames",
    "interpolate_video_tensor",
    "upscale_frames",
    "upscale_tensor",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".frame" if name[0].isupper() else ".batch", __name__), name)
