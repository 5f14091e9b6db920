"""How near two computations of the same picture are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def psnr_db(pictures: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Peak signal-to-noise ratio over all pixels of all pictures, in dB.

    Args:
        pictures: any shapes, float, [0, 1].
        references: as many, of the same shapes.

    Returns:
        10·log10(1 / mean squared difference); infinite where they are identical.

    Raises:
        ValueError: if their number or shapes differ.
    """
    squares, count = 0.0, 0
    for picture, reference in zip(pictures, references, strict=True):
        if picture.shape != reference.shape:
            shapes = f"{tuple(picture.shape)} and {tuple(reference.shape)}"
            raise ValueError(f"pictures must have the same shape, got {shapes}")
        difference = picture.float() - reference.float()
        squares += float(difference.square().sum(dtype=torch.float64))
        count += picture.numel()
    if count == 0:
        raise ValueError("there must be at least one pixel to compare")
    return math.inf if squares == 0 else 10 * math.log10(count / squares)
