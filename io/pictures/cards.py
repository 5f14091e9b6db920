"""Decoded frames that lie on an NVIDIA card; see :mod:`..decode.hardware`.

Not yet seen on a GPU.
"""

from __future__ import annotations

import torch
from av.video.frame import VideoFrame
from torch import Tensor

_SHIFT = {"nv12": 0, "p010le": 6}
"""Bits below the value."""


def is_on_card(frame: VideoFrame) -> bool:
    """Tell whether a frame's pixels lie on a card."""
    return frame.format.name == "cuda"


def pix_fmt_of(frame: VideoFrame) -> str:
    """Name the pixel format of a frame wherever it lies: ``nv12`` for one on a card."""
    format_on_card = frame.sw_format if is_on_card(frame) else None
    return frame.format.name if format_on_card is None else format_on_card.name


def on_cpu(frame: VideoFrame) -> VideoFrame:
    """Bring a frame to the CPU's memory, if it is not there."""
    if not is_on_card(frame):
        return frame
    brought = frame.reformat(format=pix_fmt_of(frame))
    brought.pts = frame.pts
    return brought


def can_stay(frame: VideoFrame) -> bool:
    """Tell whether :func:`planes_on_card` knows what a frame is made of."""
    return is_on_card(frame) and pix_fmt_of(frame) in _SHIFT


def planes_on_card(frame: VideoFrame) -> list[Tensor]:
    """Copy Y, U and V out of a frame on a card: (H, W) each, uint8 or uint16, there.

    The copies are complete when this returns: the decoder needs the frame's memory back.
    """
    shift = _SHIFT[pix_fmt_of(frame)]
    luma, chroma = (torch.from_dlpack(plane) for plane in frame.planes[:2])
    planes = [_values(part, shift) for part in (luma, chroma[..., 0], chroma[..., 1])]
    # FFmpeg works on the default stream, so what is put on it comes after the decoding
    torch.cuda.current_stream(luma.device).synchronize()
    return planes


def _values(words: Tensor, shift: int) -> Tensor:
    """Copy code values into memory of their own; torch shifts no uint16, so shift as int32."""
    if not shift:
        return words.clone(memory_format=torch.contiguous_format)
    return ((words.to(torch.int32) & 0xFFFF) >> shift).to(torch.uint16)
