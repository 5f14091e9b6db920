"""What is written down of a contestant: how near the reference its pictures are, how long it took.

Nobody shall win by doing less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paths  # noqa: F401  # finds what is imported next
import torch
from psnr import psnr_db
from rounds import spread_of

Picture = npt.NDArray[np.float32]
"""(3, H, W), R'G'B', [0, 1]."""
EXACT = "exact"
"""In place of a PSNR that is infinite, which JSON does not know."""


def psnr(pictures: Sequence[Picture], references: Sequence[Picture]) -> float | str:
    """Peak signal to noise over all pixels of all pictures, dB, or `EXACT`.

    Raises:
        ValueError: if there are not as many, or of other sizes.
    """
    found = psnr_db(*([torch.from_numpy(one) for one in some] for some in (pictures, references)))
    return EXACT if math.isinf(found) else round(found, 1)


def decibels(written: float | str | None) -> float:
    """Read what `psnr` gave; what was not compared is no picture."""
    if written is None:
        return -math.inf
    return math.inf if written == EXACT else float(written)


def summed_up(samples: Sequence[float], unit: float = 1.0) -> dict[str, Any]:
    """Write times down, with their median and spread, all times `unit`."""
    values = [round(sample * unit, 2) for sample in samples]
    return spread_of(values).model_dump() | {"samples": values}
