"""The memory that a film needs, against what is free: what cannot fit is refused before any work.

Each filter refuses what not one of its frames leaves room for; this adds the pictures around it.
What the encoder holds is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from pydantic import BaseModel, Field

from ...filters.chain import BuiltFilter, Chain
from ...filters.device import GIB, available_bytes
from ...filters.errors import TooLarge
from ...filters.frame import StreamInfo
from ...filters.kernels.cuda import on_stream
from ...filters.upscale.filter import Upscale
from .compute import Compute
from .pipeline import CHANNEL_BYTES, CHANNEL_PICTURES

_RGB_BYTES = 3 * torch.float32.itemsize


class Memory(BaseModel, frozen=True):
    """The memory of a film's filters and pictures, without the encoder's."""

    needed_bytes: int = Field(description="At most, where the filters compute.")
    free_bytes: int | None
    lanes: int = Field(description="Frames that are computed at the same time.")
    tile: int | None = Field(description="Edge of the upscaler's tiles in pixels; null: whole.")

    @property
    def text(self) -> str:
        """The memory in a few words."""
        free = "" if self.free_bytes is None else f" of {self.free_bytes / GIB:.1f} free"
        tile = "" if self.tile is None else f", tiles of {self.tile} pixels"
        return f"up to {self.needed_bytes / GIB:.1f} GiB of memory{free}{tile}"


def memory_of(
    info: StreamInfo,
    filters: Sequence[BuiltFilter],
    compute: Compute,
    device: torch.device,
    free: Callable[[torch.device], int | None] = available_bytes,
) -> Memory:
    """Judge the memory of a film with pictures of `info`, whose filters `compute` has opened.

    Raises:
        TooLarge: if not even one frame at a time fits.
    """
    out, on_cpu = compute.info, device.type == "cpu"
    pictures = picture_bytes(info), picture_bytes(out)
    # one each in a queue, and one each in the stages at its ends
    least = (info.width * info.height + out.width * out.height) * _RGB_BYTES
    least += 2 * sum(pictures) if on_cpu else 0
    room = free(device)
    if room is not None and least > room:
        raise TooLarge(
            f"{info.width}x{info.height} to {out.width}x{out.height} needs at least "
            f"{least / GIB:.1f} GiB of memory, one frame at a time, but {device} has "
            f"{room / GIB:.1f} GiB free; ask for a smaller --upscaling-scale, or free some"
        )
    lanes = max(1, compute.max_in_flight - 1)
    queued = sum(max(each, min(each * CHANNEL_PICTURES, CHANNEL_BYTES)) for each in pictures)
    most = lanes * Chain(one.filter for one in filters).frame_bytes + queued * on_cpu
    upscalers = [one.filter for one in filters if isinstance(one.filter, Upscale)]
    with on_stream("compute", device):  # where the network is copied to a card
        tile = upscalers[0].tile_edge(info.width, info.height) if upscalers else None
    return Memory(needed_bytes=max(most, least), free_bytes=room, lanes=lanes, tile=tile)


def picture_bytes(info: StreamInfo) -> int:
    """Return the memory of one picture's planes, alpha included."""
    form = info.format
    planes = [*range(form.num_planes), *([0] if form.has_alpha else [])]
    sizes = (form.plane_size(info.width, info.height, plane) for plane in planes)
    return sum(map(prod, sizes)) * (1 if form.bit_depth == 8 else 2)
