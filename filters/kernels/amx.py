"""Direct convolutions in bf16 by the matrix tiles of AMX; see `amx.c`.

How fast they are on a CPU with AMX has not been measured yet. The environment variable
``UPFRAME_TILES=emulate`` computes the same without AMX, slowly, for tests (with AVX512-BF16).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .native import kernels, run, structure
from .winograd import (
    PLANES,
    CompiledConv,
    ConvolutionJob,
    Layer,
    in_turns,
    padded_channels,
    stacked,
)

SWITCH = "UPFRAME_TILES"
_PAIRS = 16
"""Of input channels in a tile, each with as many outputs."""
_DEPTH = 2 * _PAIRS


Layers = structure("void *jobs; int count, emulated")
"""The structure of `amx.c`: convolutions, and whether tiles are emulated."""


def is_available(dtype: torch.dtype) -> bool:
    """Return whether the kernel is there, for a dtype, and this CPU and its system have AMX."""
    return dtype == torch.bfloat16 and _works(_is_emulated())


def _is_emulated() -> bool:
    return os.environ.get(SWITCH) == "emulate"


@lru_cache
def _works(emulated: bool) -> bool:
    if not hasattr(kernels(), "upframe_tiles"):  # no library, or an older one, which has all else
        return False
    return run("tiles", Layers(emulated=emulated), is_bf16=True) == 0


class TileConv(CompiledConv):
    """A :class:`~.winograd.CompiledConv` of any number of channels in bf16.

    That is a 3x3 convolution of stride 1 or 2, or a transposed 4x4 one of stride 2.
    """

    def __init__(self, layer: Layer, slopes: Tensor | None = None) -> None:
        super().__init__(layer, slopes)
        self._transposed = isinstance(layer, nn.ConvTranspose2d)
        self._stride = 1 if self._transposed else layer.stride[0]

    @staticmethod
    def fits(layer: Layer) -> bool:
        """See :class:`~.winograd.CompiledConv`."""
        own = (layer.kernel_size, layer.stride, layer.padding)
        if isinstance(layer, nn.ConvTranspose2d):
            plain = (*own, layer.output_padding) == ((4, 4), (2, 2), (1, 1), (0, 0))
        else:
            plain = own in [((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1))]
        plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        return plain and layer.weight.device.type == "cpu" and is_available(layer.weight.dtype)

    @staticmethod
    def fits_rgb(layer: Layer) -> bool:
        """See :class:`~.winograd.CompiledConv`."""
        own = TileConv.fits(layer) and layer.stride == (1, 1)
        return own and layer.out_channels == PLANES

    @staticmethod
    def packed(layer: Layer) -> Tensor:
        """Lay out weights in the order in which the kernel reads them.

        Returns:
            (grids, panels, taps, in / 32, tiles, 16, 16, 2), flat, bf16: of a transposed
            convolution four grids of pixels of the result, in reading order; panels of 32 outputs,
            two tiles, the last maybe of one; pairs of inputs lie together. Channels are filled up
            with zeros.
        """
        weight = layer.weight.detach()
        if isinstance(layer, nn.ConvTranspose2d):
            grids = weight.transpose(0, 1).flip(2, 3).unfold(2, 2, 2).unfold(3, 2, 2)
            # of the reversed kernel, pixels of even rows see rows 0 and 2, the others 1 and 3
            kernels = grids.permute(4, 5, 2, 3, 1, 0).flatten(0, 1).flatten(1, 2)
        else:
            kernels = weight.permute(2, 3, 1, 0).flatten(0, 1)[None]
        num_in, num_out = kernels.shape[2:]
        wide = padded_channels(num_out)
        padded = F.pad(kernels, (0, wide - num_out, 0, -num_in % _DEPTH)).contiguous()
        tiles = padded.view(*kernels.shape[:2], -1, _PAIRS, 2, wide // 16, 16)
        panels = torch.split(tiles.permute(0, 1, 2, 5, 3, 6, 4), 2, 3)
        return torch.cat([panel.flatten(1) for panel in panels], 1).flatten()

    def result_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Return (N, out, H', W')."""
        height, width = (
            2 * size if self._transposed else -(-size // self._stride) for size in x.shape[2:]
        )
        return len(x), self.num_out, height, width

    def job(self, x: Tensor, *, doubled: bool = False) -> ctypes.Structure:
        """See :class:`~.winograd.CompiledConv`."""
        job = super().job(x, doubled=doubled)
        job.in_height, job.in_width = x.shape[2:]
        job.height, job.width = -(-job.height // self._stride), -(-job.width // self._stride)
        job.in_channels = self.num_in + -self.num_in % _DEPTH
        job.made, job.stride, job.transposed = self.num_out, self._stride, self._transposed
        return job

    def _run(self, job: ctypes.Structure) -> None:
        _run_all([job])


class TileStack:
    """Layers one after the other in one call, whose results alternate between two tensors."""

    def __init__(self, layers: Sequence[TileConv]) -> None:
        self._layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        """Run all on (N, C, H, W), channels_last, which stays as it is.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        calls = list(in_turns(self._layers, x))  # tensors must outlive the jobs
        jobs = [layer.job(seen) for layer, seen, _ in calls]
        for job, (layer, _, out) in zip(jobs, calls, strict=True):
            job.output = layer.pixels(out)
        _run_all(jobs)
        return calls[-1][2]


def in_a_row(layers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Chain layers, in one call where all are :class:`TileConv`; see also `stacked`."""
    tiles = [layer for layer in layers if isinstance(layer, TileConv)]
    if len(tiles) == len(layers):
        return TileStack(tiles)
    steps = stacked(layers)
    return lambda x: reduce(lambda y, step: step(y), steps, x)


def _run_all(jobs: Sequence[ctypes.Structure]) -> None:
    array = (ConvolutionJob * len(jobs))(*jobs)
    layers = Layers(ctypes.addressof(array), len(jobs), _is_emulated())
    if run("tiles", layers, is_bf16=True):
        largest = max(jobs, key=lambda job: job.height * job.width)
        raise MemoryError(f"no memory is left to convolve {largest.width}x{largest.height}")
