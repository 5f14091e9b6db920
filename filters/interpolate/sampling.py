"""Geometry of the interpolation network: padding, resizing between block sizes, warping.

Everything here runs in fp32, whatever the convolutions use: a flow of some hundred pixels in half
precision would be wrong by half a pixel (see `reference/performance.md`, precision pitfalls).

Resizing by 1/s, bilinear with align_corners=False and s = 2, 4, 8, …, reads of every s x s cell
only the four pixels in its middle, here called its *taps*, and averages them. So a warp whose
result is resized at once needs computing at the taps only: the same arithmetic, 4/s² of the work.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_GRIDS_KEPT = 16
"""Sampling grids kept: four block sizes for a few picture sizes."""


def padding_multiple(scale: float) -> int:
    """Give what padded sizes must be a multiple of, in pixels: 32, or 32/scale for scale < 1.

    The coarsest block works at 1/(8·`scale`) and halves that twice.
    """
    return round(32 / min(scale, 1.0))


def pad(image: Tensor, multiple: int) -> Tensor:
    """Pad (N, C, H, W) with zeros, right and below, until H and W are multiples of `multiple`."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def shape_of_all(sources: list[Tensor]) -> torch.Size:
    """Give the shape that all have; kernels, which are told one, would read beyond a smaller one.

    Raises:
        RuntimeError: if one has another.
    """
    shapes = {source.shape for source in sources}
    if len(shapes) != 1:
        raise RuntimeError(f"sizes differ: {sorted(map(tuple, shapes))}")
    return shapes.pop()


def resize(image: Tensor, factor: float) -> Tensor:
    """Resize (N, C, H, W) by `factor`, bilinear with half-pixel centres and no antialiasing."""
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)


def rescale(image: Tensor, cell: float, next_cell: float) -> Tensor:
    """Take (N, C, H, W) from a block with cells of `cell` pixels to one with `next_cell`.

    Means: resized by `cell` to full size, then by 1/`next_cell`. Where the second step reads taps,
    these never lie across a pixel centre of the coarse picture, so that both steps are one resize.
    """
    if next_cell >= 1:
        return resize(image, cell / next_cell)
    return resize(resize(image, cell), 1 / next_cell)


def taps(image: Tensor, cell: float) -> Tensor:
    """Give the pixels of (N, C, H, W) that a resize by 1/`cell` reads.

    Returns:
        (N, C, 2H/cell, 2W/cell); for `cell` <= 2 those are all, and it is `image`.
    """
    if cell <= 2:
        return image
    size, (count, channels, height, width) = int(cell), image.shape
    cells = image.view(count, channels, height // size, size, width // size, size)
    middle = slice(size // 2 - 1, size // 2 + 1)
    return cells[:, :, :, middle, :, middle].reshape(
        count, channels, 2 * height // size, 2 * width // size
    )


def merge_taps(image: Tensor, cell: float) -> Tensor:
    """Finish a resize by 1/`cell` of what was computed at the taps; see `taps`."""
    return resize(image, 1 / min(cell, 2))


@lru_cache(maxsize=_GRIDS_KEPT)
def _grid(height: int, width: int, cell: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the places of the taps, (1, 2, h, w), and pixels to grid units, (1, 2, 1, 1): x, y."""
    ys = torch.linspace(-1, 1, height, dtype=torch.float64, device=device)
    xs = torch.linspace(-1, 1, width, dtype=torch.float64, device=device)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    places = taps(torch.stack((x, y)).unsqueeze(0).float(), cell)
    to_grid = torch.tensor((2 / (width - 1), 2 / (height - 1)), device=device)
    return places, to_grid.view(1, 2, 1, 1)


def warp(image: Tensor, flow: Tensor, cell: float = 1) -> Tensor:
    """Sample at every tap what lies where the flow points; borders repeat.

    Args:
        image: (N, C, H, W), fp32; H and W at least 2.
        flow: (N, 2, h, w), fp32, pixels of `image`; channel 0 right, channel 1 down; at the taps
            of `cell` (see `taps`), which for `cell` <= 2 are all pixels.
        cell: edge of a cell in pixels.

    Returns:
        (N, C, h, w), fp32.

    Source: Jaderberg et al. 2015, Spatial Transformer Networks, eq. 5.
    """
    places, to_grid = _grid(image.shape[2], image.shape[3], cell, image.device)
    grid = torch.addcmul(places, flow, to_grid).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
