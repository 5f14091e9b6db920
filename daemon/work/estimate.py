"""How much a job will write, by a rule of thumb, and how much room there is. Everything blocks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...filters.options import FilterOptions
from ..jobs.model import Work

_MARGIN_BYTES = 64 << 20
_PIXELS_POWER = 0.75
"""Bit rate at equal quality grows with the 0.75th power of the pixels in a frame."""
_RATE_POWER = 0.5
"""And about with the root of the frames in a second: in-betweens are cheap to predict."""


def expected_bytes(work: Work) -> int:
    """Estimate what a job will write, from the size of its source.

    A source whose size is not known counts as nothing.
    """
    return round(source_bytes(work.source) * growth(work.filters)) + _MARGIN_BYTES


def growth(filters: FilterOptions) -> float:
    """Estimate how many times larger a file becomes."""
    factor = 1.0
    if filters.enable_upscaling:
        factor *= (filters.upscaling_scale**2) ** _PIXELS_POWER
    if filters.enable_frame_interpolation:
        factor *= (2**filters.frame_interpolation_exp) ** _RATE_POWER
    return factor


def source_bytes(source: str) -> int:
    """Tell the size of a file, or of all files of a numbered sequence; 0 for anything else."""
    path = Path(source)
    try:
        if path.is_file():
            return path.stat().st_size
        start, percent, _ = path.name.partition("%")
        if not percent or "://" in source:
            return 0
        with os.scandir(path.parent) as entries:
            alike = (entry for entry in entries if entry.name.startswith(start))
            return sum(entry.stat().st_size for entry in alike if entry.name.endswith(path.suffix))
    except OSError:  # the job itself will say what is wrong with its source
        return 0


def free_bytes(folder: Path) -> int | None:
    """Tell the room that is left for us on a folder's file system; None where nobody knows."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
