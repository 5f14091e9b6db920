"""The memory that a film needs, against what is free: what cannot fit is refused before any work.

Each filter refuses what not one of its frames leaves room for; this adds the pictures around it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from pydantic import BaseModel, Field

from ...filters.chain import Chain
from ...filters.device import GIB, available_bytes
from ...filters.errors import TooLarge
from ...filters.frame import StreamInfo
from ...filters.kernels.cuda import on_stream
from ...filters.upscale.filter import Upscale
from ...io.encode.codecs import is_image
from ...io.errors import SinkRefused
from ...io.probe import held_pictures
from .estimate import Film
from .pipeline import CHANNEL_BYTES, CHANNEL_PICTURES

_RGB_BYTES = 3 * torch.float32.itemsize
_CODED_PICTURES = 8
"""In an encoder beside those that it takes before its first packet: references, and of threads."""
_CODED_SIZE = 4
"""Of a picture in an encoder, times its planes: 2.5 to 5.6 in x264, x265, SVT-AV1 and libvpx."""


class Memory(BaseModel, frozen=True):
    """The memory of a film."""

    needed_bytes: int = Field(
        description="Of filters and pictures, at most, where the filters compute."
    )
    encoder_bytes: int = Field(0, description="Of the encoder, about.")
    free_bytes: int | None
    lanes: int = Field(description="Frames that are computed at the same time.")
    tile: int | None = Field(description="Edge of the upscaler's tiles in pixels; null: whole.")

    @property
    def text(self) -> str:
        """The memory in a few words."""
        free = "" if self.free_bytes is None else f" of {self.free_bytes / GIB:.1f} free"
        tile = "" if self.tile is None else f", tiles of {self.tile} pixels"
        coding = self.encoder_bytes and f", about {self.encoder_bytes / GIB:.1f} for the encoder"
        return f"up to {self.needed_bytes / GIB:.1f} GiB of memory{free}{coding or ''}{tile}"


def memory_of(film: Film, free: Callable[[torch.device], int | None] = available_bytes) -> Memory:
    """Judge the memory of a film.

    Raises:
        TooLarge: if not even one frame at a time fits.
    """
    info, device, compute = film.info, film.device, film.compute
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
    most = lanes * Chain(one.filter for one in film.filters).frame_bytes + queued * on_cpu
    upscalers = [one.filter for one in film.filters if isinstance(one.filter, Upscale)]
    with on_stream("compute", device):  # where the network is copied to a card
        tile = upscalers[0].tile_edge(info.width, info.height) if upscalers else None
    return Memory(
        needed_bytes=max(most, least),
        encoder_bytes=_encoder_bytes(film),
        free_bytes=room,
        lanes=lanes,
        tile=tile,
    )


def _encoder_bytes(film: Film) -> int:
    out, options = film.compute.info, film.options
    if film.sink is None or is_image(film.sink, options.container):
        return 0
    try:
        held = held_pictures(out, options.encoder, film.sink, options.container)
    except SinkRefused:  # such as of small pictures
        held = 0
    return (held + _CODED_PICTURES) * _CODED_SIZE * picture_bytes(out)


def picture_bytes(info: StreamInfo) -> int:
    """Return the memory of one picture's planes, alpha included."""
    form = info.format
    planes = [*range(form.num_planes), *([0] if form.has_alpha else [])]
    sizes = (form.plane_size(info.width, info.height, plane) for plane in planes)
    return sum(map(prod, sizes)) * (1 if form.bit_depth == 8 else 2)
