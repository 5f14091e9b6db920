"""How near a picture is to what the reference computes: nobody shall win by doing less."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
"""(3, H, W), R'G'B', [0, 1]."""


def psnr(pictures: Sequence[Picture], references: Sequence[Picture]) -> float:
    """Peak signal to noise over several pictures at once, dB, peak 1; infinite where equal.

    Raises:
        ValueError: if there are not as many, or of other sizes.
    """
    errors, number = 0.0, 0
    for picture, reference in zip(pictures, references, strict=True):
        if picture.shape != reference.shape:
            raise ValueError(f"a picture must be {reference.shape}, got {picture.shape}")
        difference = picture.astype(np.float64) - reference
        errors += float(np.square(difference).sum())
        number += difference.size
    if number == 0:
        raise ValueError("there is no picture to compare")
    return math.inf if errors == 0 else 10 * math.log10(number / errors)


def rounded(decibels: float) -> float | str:
    """Write PSNR for JSON, which knows no infinity."""
    return "exact" if math.isinf(decibels) else round(decibels, 1)
