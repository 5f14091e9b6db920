"""Decoding by an NVIDIA card, whose frames stay there: no pixel crosses to the CPU and back.

Only for formats with the same result either way: progressive 4:2:0 of 8 or 10 bits. Anything else,
and whatever the card refuses, is decoded in software, which is logged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..errors import MediaError
from ..pictures.pixels import is_on_card
from .alpha import is_tagged
from .deinterlace import FIELD_ORDERS
from .demuxer import Target, best_video, open_container

HardwareName = Literal["none", "auto", "cuda"]

_CODED = ("yuv420p", "yuv420p10le")
"""Pixel formats that a card decodes to the same values: as nv12 and p010le."""
_EXTRA_SURFACES = "8"
"""Beyond the codec's reference frames: its caller holds the first and the last frame."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Which hardware may decode, beside software."""

    name: HardwareName
    """``none``; ``auto`` where `device` is a card; ``cuda``, with a warning where it cannot."""
    device: torch.device
    """Where the pictures are processed."""


logger = logging.getLogger(__name__)


def open_for_card(container: InputContainer, target: Target, wanted: Hardware) -> InputContainer:
    """Open an input again for decoding by a card, if possible; its container is closed then."""
    device = wanted.device
    if wanted.name == "none" or (wanted.name == "auto" and device.type != "cuda"):
        return container
    if (fault := _fault(container, target, device)) is None:
        card = HWAccel("cuda", device.index or 0, allow_software_fallback=True, is_hw_owned=True)
        try:
            accelerated = open_container(target, hwaccel=card)
        except MediaError as error:
            fault = f"the card cannot be used: {error.__cause__ or error}"
        else:
            context = best_video(accelerated, target.name).codec_context
            if context.is_hwaccel:
                container.close()
                context.options = {**context.options, "extra_hw_frames": _EXTRA_SURFACES}
                return accelerated
            accelerated.close()
            fault = f"it does not support {context.name}"
    level = logging.INFO if wanted.name == "auto" else logging.WARNING
    logger.log(level, "%s: decoded by software, not by the card: %s", target.name, fault)
    return container


def log_decoder(name: str, stream: VideoStream, first: VideoFrame) -> None:
    """Log what decoded the first frame, if a card was to: it may not support the profile."""
    if stream.codec_context.is_hwaccel:
        fault = "software: the card does not support its profile"
        logger.info("%s: decoded by %s", name, "the card" if is_on_card(first) else fault)


def _fault(container: InputContainer, target: Target, device: torch.device) -> str | None:
    """Return why a card should not decode an input; None if it may."""
    if device.type != "cuda":
        return f"frames are needed on {device}"
    if target.path is None or target.num_images is not None:
        return "it is not a file that can be opened twice"
    stream = best_video(container, target.name)
    context = stream.codec_context
    if is_tagged(stream):
        return "it has alpha"
    if context.pix_fmt not in _CODED:
        return f"the pixel format is {context.pix_fmt}, not {' or '.join(_CODED)}"
    if FIELD_ORDERS.get(context.field_order) not in (None, "progressive"):
        return "it is interlaced"
    return None
