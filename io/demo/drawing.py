"""Drawing with tensors: shapes by their signed distance, noise by hashing, colours by web codes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

OVERSAMPLING = 3
"""Samples along each edge of a pixel; shapes are softened over one sample."""


@contextmanager
def one_thread() -> Generator[None]:
    """Compute in one thread for a while.

    Drawing is many small steps. Shared between threads, each ends in a wait for the other thread,
    which on a busy machine takes far longer than the step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rgb(code: int) -> Tensor:
    """A web colour as (3, 1, 1)."""
    return torch.tensor([code >> 16, code >> 8 & 255, code & 255])[:, None, None] / 255


def solid(code: int, like: Tensor) -> Tensor:
    """One web colour for all samples of `like`: (3, H, W)."""
    return rgb(code).expand(3, *like.shape)


def mix(first: Tensor, second: Tensor, amount: Tensor) -> Tensor:
    """Go from the first to the second by an amount in [0, 1]."""
    return first + (second - first) * amount


def inside(distance: Tensor, pixel: float) -> Tensor:
    """Coverage in [0, 1] of a shape, by its signed distance: negative inside, unit as `pixel`."""
    return (0.5 - distance * OVERSAMPLING / pixel).clamp(0, 1)


def step(value: Tensor, low: float, high: float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high` (the cubic Hermite step)."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def noise(x: Tensor, y: Tensor, octaves: int) -> Tensor:
    """Value noise in [0, 1]: random numbers at whole coordinates, smooth between, some octaves."""
    total, weight = torch.zeros_like(x), 0.0
    for octave in range(octaves):
        share = 0.5**octave
        total += share * _value_noise(x * 2**octave + 17 * octave, y * 2**octave)
        weight += share
    return total / weight


def _value_noise(x: Tensor, y: Tensor) -> Tensor:
    column, row = torch.floor(x), torch.floor(y)
    across, down = step(x - column, 0, 1), step(y - row, 0, 1)
    upper = mix(_hash(column, row), _hash(column + 1, row), across)
    lower = mix(_hash(column, row + 1), _hash(column + 1, row + 1), across)
    return mix(upper, lower, down)


def _hash(column: Tensor, row: Tensor) -> Tensor:
    """A number in [0, 1) for every pair of whole numbers, by mixing their bits."""
    bits = column.to(torch.int64) * 374761393 + row.to(torch.int64) * 668265263
    bits = (bits ^ (bits >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((bits ^ (bits >> 16)) & 0xFFFF).float() / 65536
