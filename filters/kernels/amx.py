"""Direct convolutions in bf16 by the matrix tiles of AMX; see `amx.c`.

How fast they are on a CPU with AMX has not been measured yet. The environment variable
``UPFRAME_TILES=emulate`` computes the same without AMX, slowly, for tests (with AVX512-BF16).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from .native import ints, kernels, pointers, run
from .winograd import (
    PLANES,
    CompiledConv,
    ConvolutionJob,
    Layer,
    padded_channels,
    pass_through,
    stacked,
)

SWITCH = "UPFRAME_TILES"
_PAIRS = 16
"""Of input channels in a tile, each with as many outputs."""
_DEPTH = 2 * _PAIRS


class Layers(ctypes.Structure):
    """The structure of `amx.c`: convolutions, and whether tiles are emulated."""

    _fields_: ClassVar = [*pointers("jobs"), *ints("count", "emulated")]


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


def can_convolve(layer: Layer) -> bool:
    """Return whether `TileConv` does what a layer does: of any number of channels."""
    own = (layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, nn.ConvTranspose2d):
        plain = (*own, layer.output_padding) == ((4, 4), (2, 2), (1, 1), (0, 0))
    else:
        plain = own in [((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1))]
    plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    return plain and layer.weight.device.type == "cpu" and is_available(layer.weight.dtype)


def supports_rgb_output(layer: Layer) -> bool:
    """Return whether `TileConv.to_rgb` does what a layer does."""
    return can_convolve(layer) and layer.stride == (1, 1) and layer.out_channels == PLANES


def packed_weights(layer: Layer) -> Tensor:
    """Lay out weights in the order in which the kernel reads them.

    Returns:
        (grids, panels, taps, in / 32, tiles, 16, 16, 2), flat, bf16: of a transposed convolution
        four grids of pixels of the result, in reading order; panels of 32 outputs, two tiles, the
        last maybe of one; pairs of inputs lie together. Channels are filled up with zeros.
    """
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        grids = weight.transpose(0, 1).flip(2, 3).unfold(2, 2, 2).unfold(3, 2, 2)
        # of the reversed kernel, pixels of even rows see rows 0 and 2, the others 1 and 3
        kernels = grids.permute(4, 5, 2, 3, 1, 0).flatten(0, 1).flatten(1, 2)
    else:
        kernels = weight.permute(2, 3, 1, 0).flatten(0, 1)[None]
    num_in, num_out = kernels.shape[2:]
    wide = (*kernels.shape[:2], num_in + -num_in % _DEPTH, padded_channels(num_out))
    padded = kernels.new_zeros(wide)
    padded[:, :, :num_in, :num_out] = kernels
    tiles = padded.view(*wide[:2], -1, _PAIRS, 2, wide[3] // 16, 16).permute(0, 1, 2, 5, 3, 6, 4)
    panels = torch.split(tiles, 2, 3)
    return torch.cat([panel.flatten(1) for panel in panels], 1).flatten()


class TileConv(CompiledConv):
    """A :class:`~.winograd.CompiledConv` where `can_convolve` is true.

    Args:
        layer: bf16; a 3x3 convolution of stride 1 or 2, or a transposed 4x4 one of stride 2.
        slopes: see :class:`~.winograd.CompiledConv`.
    """

    def __init__(self, layer: Layer, slopes: Tensor | None = None) -> None:
        super().__init__(layer, slopes, packed_weights(layer))
        self._transposed = isinstance(layer, nn.ConvTranspose2d)
        self._stride = 1 if self._transposed else layer.stride[0]

    def result_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Return (N, out, H', W')."""
        height, width = (
            2 * size if self._transposed else -(-size // self._stride) for size in x.shape[2:]
        )
        return len(x), self.num_out, height, width

    def job(self, x: Tensor, *, doubled: bool = False) -> ConvolutionJob:
        """See :class:`~.winograd.CompiledConv`."""
        job = super().job(x, doubled=doubled)
        job.in_height, job.in_width = x.shape[2:]
        job.height, job.width = -(-job.height // self._stride), -(-job.width // self._stride)
        job.in_channels = self.num_in + -self.num_in % _DEPTH
        job.made, job.stride, job.transposed = self.num_out, self._stride, self._transposed
        return job

    def _run(self, job: ConvolutionJob) -> None:
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
        held, jobs = [x], list[ConvolutionJob]()
        for layer in self._layers:
            fits = len(held) > 2 and held[-2].shape == layer.result_shape(x)
            out = held[-2] if fits else layer.empty_result(x)
            jobs.append(layer.job(x))
            jobs[-1].output = layer.pixels(out)
            held.append(out)
            x = out
        _run_all(jobs)
        return x


def in_a_row(layers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Chain layers, in one call where all are :class:`TileConv`; see also `stacked`."""
    tiles = [layer for layer in layers if isinstance(layer, TileConv)]
    if len(tiles) == len(layers):
        return TileStack(tiles)
    return partial(pass_through, stacked(layers))


def _run_all(jobs: Sequence[ConvolutionJob]) -> None:
    array = (ConvolutionJob * len(jobs))(*jobs)
    layers = Layers(ctypes.addressof(array), len(jobs), _is_emulated())
    if run("tiles", layers, is_bf16=True):
        largest = max(jobs, key=lambda job: job.height * job.width)
        raise MemoryError(f"no memory is left to convolve {largest.width}x{largest.height}")
