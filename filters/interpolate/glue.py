"""What lies between the convolutions of the interpolation network, on a CUDA card.

Launches the kernels of `glue_kernels` over whole batches of pairs. Not yet seen on a GPU.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from .network import FLOW_CHANNELS, OUT_CHANNELS, SOURCE_CHANNELS

GROUP = 4
"""Values of 16 bits that travel as one of 64."""
SOURCE_DTYPE = torch.int64
SOURCE_PLANES = 2
"""Of a frame: features; R, G, B and alpha. A third is there, unused, where alpha counts."""
DETAIL_ORDER = (*range(FLOW_CHANNELS + 1), -1, -1, -1, *range(FLOW_CHANNELS + 1, OUT_CHANNELS))
"""What a block gives for a pixel, of flow, mask, features; -1 are zeros."""
LAST_CHANNELS = 8
"""Of these the last block gives only flow, mask and zeros."""
_RIGHT = range(SOURCE_CHANNELS, 2 * SOURCE_CHANNELS)
_LEFT = range(SOURCE_CHANNELS)
FIRST_ORDER = (*_LEFT, 14, *_RIGHT, -1)
"""Of the first block's input channels as `network` has them, how they lie here."""
NEXT_ORDER = (*_LEFT, 23, *_RIGHT, 14, *range(15, 23), *range(24, 28), -1, -1, -1, -1)
"""The same of the other blocks' input: the moment and the mask fill up R, G, B."""
MOST_PIXELS = 1 << 28
"""Of a padded frame: the kernels count within it in 32 bits."""
_TILE = (32, 4)
"""Pixels of a program, across and down."""
_INTERPRETED_TILE = (128, 32)
"""The same where Triton's interpreter runs the kernels, on a CPU, for tests."""


class Kernels(Protocol):
    """The module `glue_kernels`, whose functions are called as ``kernel[grid](…)``."""

    pack: Any
    begin: Any
    following: Any
    blend: Any


@cache
def kernels() -> Kernels:
    """Import the kernels.

    Raises:
        ImportError: where Triton is missing.
    """
    from . import glue_kernels as module

    return cast("Kernels", module)


def empty_sources(
    count: int, height: int, width: int, device: torch.device, *, has_alpha: bool
) -> Tensor:
    """Make room for frames: (N, 2, H, W) groups, or (N, 3, H, W) where alpha counts."""
    planes = SOURCE_PLANES + has_alpha
    return torch.empty((count, planes, height, width), dtype=SOURCE_DTYPE, device=device)


def pack(features: Tensor, images: Tensor, out: Tensor) -> None:
    """Fill `empty_sources`.

    Args:
        features: (N, 16, H/2, W/2), halves, channels lying together: four pixels of four.
        images: (N, 3 or 4, H, W), fp32, contiguous, [0, 1].
        out: what is filled.
    """
    count, channels, height, width = images.shape
    out[:, 0] = groups(features).view(count, height, width)
    grid, tile = _tiled(height, width, count, images.device)
    kernels().pack[grid](images, out, height, width, out.shape[1], CHANNELS=channels, **tile)


def table_of(
    lefts: Sequence[Tensor], rights: Sequence[Tensor], out: Sequence[Tensor], times: Sequence[float]
) -> Tensor:
    """Tell the kernels of a batch of pairs: one row of addresses and bits each.

    The frames and the result are read and written wherever they lie, at every start of a graph
    elsewhere. They must live until the kernels are done, which tensors do that were allocated on
    the stream where these run.
    """
    places = (_addresses(lefts), _addresses(rights), _addresses(out), map(_bits, times))
    rows = list(zip(*places, strict=True))
    # copied from pinned memory, nobody waits; torch keeps it until the copy is done
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=lefts[0].is_cuda)
    return table.to(lefts[0].device, non_blocking=True)


def begin(table: Tensor, height: int, width: int, cell: int) -> Tensor:
    """Give the first block's input, (N, 16, H/cell, W/cell), halves, channels lying together."""
    out = _empty(table, height // cell, width // cell, len(FIRST_ORDER))
    grid, tile = _tiled(height // cell, width // cell, len(table), table.device)
    kernels().begin[grid](table, out, height, width, CELL=cell, **tile)
    return _as_channels(out)


def following(
    table: Tensor, details: Sequence[Tensor], height: int, width: int, cell: int
) -> Tensor:
    """Give a later block's input, (N, 32, H/cell, W/cell), halves, channels lying together.

    Args:
        table: see `table_of`.
        details: what one to three blocks before have given, (N, 64, h/2, w/2) each.
        height: of the padded frames, pixels.
        width: of the padded frames, pixels.
        cell: of the block.
    """
    out = _empty(table, height // cell, width // cell, len(NEXT_ORDER))
    grid, tile = _tiled(height // cell, width // cell, len(table), table.device)
    kernels().following[grid](
        table, *_three(details), out, height, width, CELL=cell, BLOCKS=len(details), **tile
    )
    return _as_channels(out)


def blend(
    table: Tensor, details: Sequence[Tensor], height: int, width: int, cell: int, channels: int
) -> None:
    """Write the in-betweens where the table says.

    Args:
        table: see `table_of`; what is written is (C, H, W), fp32.
        details: what the four blocks have given.
        height: of the padded frames, pixels.
        width: of the padded frames, pixels.
        cell: of the last block.
        channels: 3, or 4 with alpha.
    """
    before, last = _three(details[:3]), groups(details[3])
    grid, tile = _tiled(height, width, len(table), table.device)
    kernels().blend[grid](table, *before, last, height, width, CELL=cell, CHANNELS=channels, **tile)


def groups(x: Tensor) -> Tensor:
    """See (N, C, H, W) halves, channels lying together, as (N, H, W, C/4) groups."""
    return x.permute(0, 2, 3, 1).contiguous().view(torch.int64)


def _as_channels(x: Tensor) -> Tensor:
    """See (N, H, W, C/4) groups as (N, C, H, W) halves."""
    return x.view(torch.float16).permute(0, 3, 1, 2)


def _empty(table: Tensor, high: int, wide: int, channels: int) -> Tensor:
    shape = (len(table), high, wide, channels // GROUP)
    return torch.empty(shape, dtype=torch.int64, device=table.device)


def _tiled(
    height: int, width: int, count: int, device: torch.device
) -> tuple[tuple[int, int], dict[str, int]]:
    """Give the number of programs and what each is told of its pixels."""
    across, down = _TILE if device.type == "cuda" else _INTERPRETED_TILE
    grid = -(-width // across) * -(-height // down), count
    return grid, {"TILE_X": across, "TILE_Y": down, "num_warps": 4}


def _three(details: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Fill up with what is not read."""
    seen = [groups(detail) for detail in details]
    return (*seen, *seen[-1:] * (3 - len(seen)))


def _bits(value: float) -> int:
    """Give the bits of a float32 as an integer."""
    return int.from_bytes(struct.pack("<f", value), "little")


def _addresses(items: Sequence[Tensor]) -> list[int]:
    """Find where each item begins, which may be the same for all."""
    return [item.data_ptr() for item in items]
