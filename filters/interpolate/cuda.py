"""The interpolation network on a CUDA card: convolutions, and one kernel between every two blocks.

Where it is first used, a pair of pictures is computed by it, by plain torch and in fp32. Kernels
that cannot be had, that are off by more than plain torch in the same precision, or that are slower
are left alone from then on, with one warning. What comes again in the same size is started as one
CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.cuda import OF_PICTURES, KernelSelfTest, disagrees, mismatch, on_device, slower
from ..kernels.graphs import Graphs
from . import cuda_layers, network
from .cuda_layers import BlockLayers, EncoderLayers
from .network import BLOCK_CELLS, Engine, FlowBlock, IFNet, PlainEngine, Sources, shape_of_all

_COMPARED = 128, 128
"""Rows and columns that are compared: multiples of what any scale wants."""
_TIMED = 640, 1152
"""The most that is timed, and compared with plain torch in the same precision."""
_SHIFT = 2, 5
"""Motion of the pictures that are compared, in pixels, down and right."""
_BLOB = 8
"""Size of their blobs, in pixels."""
_MOST_SIZES = 2
"""Sizes of frames whose graphs are kept."""
_MOST_BYTES = 1 << 31
"""Of device memory for the graphs of one size."""


def can_use_kernels(network: IFNet, scale: float) -> bool:
    """Return whether the kernels do what is asked: fp16, at scales of at most 1."""
    return network.device.type == "cuda" and network.dtype == torch.float16 and scale <= 1


class ProvenEngine:
    """Kernels once they have proved themselves, plain torch otherwise; see :class:`.engine.Engine`.

    The dtype of sources tells which engine made them; they are never mixed.

    Args:
        network: what is right.
        scale: at which it will be used.
    """

    way = None

    def __init__(self, network: IFNet, scale: float) -> None:
        self._network = network
        self._scale = scale
        self._plain = PlainEngine(network)
        self._kernels: KernelEngine | None = None
        self._self_test = KernelSelfTest("frames are interpolated by plain torch")

    def sources(self, images: Tensor) -> Tensor:
        """Compute what is kept of frames, by whom the first of them was found best."""
        height, width = images.shape[2:]
        with on_device(images.device):
            if not self._self_test.passed(lambda: self._trial(height, width)):
                return self._plain.sources(images)
            assert self._kernels is not None
            fits = height * width < cuda_layers.MOST_PIXELS
            return (self._kernels if fits else self._plain).sources(images)

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources, see :meth:`.engine.Engine.middles`."""
        if all(source.dtype != cuda_layers.SOURCE_DTYPE for source in (*lefts, *rights)):
            return self._plain.middles(lefts, rights, times, scale)
        assert self._kernels is not None
        with on_device(lefts[0].device):
            ours = [list(map(self._taken_over, side)) for side in (lefts, rights)]
            return self._kernels.middles(ours[0], ours[1], times, scale)

    def _taken_over(self, source: Tensor) -> Tensor:
        """Return a source as the kernels want it, also where they were found best only after it."""
        if source.dtype == cuda_layers.SOURCE_DTYPE:
            return source
        assert self._kernels is not None
        return self._kernels.sources(source[None, network.NUM_FEATURES :])[0]

    def _trial(self, height: int, width: int) -> str | None:
        """Compute a pair both ways and return why the kernels cannot be used, or None."""
        kernels = KernelEngine(self._network)
        kernels.is_recorded = False
        images = _two_pictures(*_COMPARED, self._network.device)
        exact = PlainEngine(copy.deepcopy(self._network).float())
        fault = mismatch(*(self._middle(e, images) for e in (kernels, self._plain, exact)))
        if fault is None and self._network.device.type == "cuda":
            images = _two_pictures(*_timed(height, width), images.device)
            fast, plain = (partial(self._middle, e, images) for e in (kernels, self._plain))
            fault = disagrees(fast(), plain(), *OF_PICTURES) or slower(fast, plain)
        if fault is None:
            self._kernels, kernels.is_recorded = kernels, True
        return fault

    def _middle(self, engine: Engine, images: Tensor) -> Tensor:
        left, right = (tuple(engine.sources(image[None])) for image in images)
        return engine.middles(left, right, (0.5,), self._scale)


class KernelEngine:
    """`IFNet` with everything between its convolutions in Triton kernels.

    Its sources are groups, see `glue.empty_sources`. At a scale of at most 1.

    Args:
        network: on its device, in fp16.
    """

    is_recorded = True
    """Whether what comes again is started as a CUDA graph, where there are any."""
    way = None

    def __init__(self, network: IFNet) -> None:
        self._has_graphs = network.device.type == "cuda"
        self._encode = EncoderLayers(network.encode)
        blocks = [cast("FlowBlock", block) for block in network.blocks]
        self._blocks = [BlockLayers(b, i, len(blocks)) for i, b in enumerate(blocks)]
        self._graphs = lru_cache(_MOST_SIZES)(self._recorded)

    def sources(self, images: Tensor) -> Tensor:
        """Compute the features of frames and pack them with their pixels."""
        images = images.contiguous()
        count, channels, height, width = images.shape
        size = count, height, width, images.device
        out = cuda_layers.empty_sources(*size, has_alpha=channels == 4)
        cuda_layers.pack(self._encode(images), images, out)
        return out

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources, see :meth:`.engine.Engine.middles`."""
        planes, height, width = shape_of_all([*lefts, *rights])
        channels = 3 + planes - cuda_layers.SOURCE_PLANES
        out = torch.empty((len(lefts), channels, height, width), device=lefts[0].device)
        table = cuda_layers.table_of(lefts, rights, tuple(out), times)
        size = height, width, channels, scale
        if self.is_recorded and self._has_graphs:
            self._graphs(*size)(table)
        else:
            self._compute(*size, table)
        return out

    def _recorded(self, height: int, width: int, channels: int, scale: float) -> Graphs:
        compute = partial(self._compute, height, width, channels, scale)
        return Graphs(compute, most_bytes=_MOST_BYTES)

    def _compute(
        self, height: int, width: int, channels: int, scale: float, table: Tensor
    ) -> Tensor:
        """Write the in-betweens to the addresses in the table; return the last block's output."""
        cell = round(BLOCK_CELLS[0] / scale)
        details = [self._blocks[0](cuda_layers.begin(table, height, width, cell))]
        for block in self._blocks[1:]:
            cell //= 2
            details.append(block(cuda_layers.following(table, details, height, width, cell)))
        cuda_layers.blend(table, details, height, width, cell, channels)
        return details[-1]


def _timed(height: int, width: int) -> tuple[int, int]:
    """Cut a size to at most `_TIMED`, and to multiples valid for any scale."""
    step = _COMPARED[0]
    rows, columns = min(height, _TIMED[0]), min(width, _TIMED[1])
    return max(step, rows - rows % step), max(step, columns - columns % step)


def _two_pictures(height: int, width: int, device: torch.device) -> Tensor:
    """Return (2, 3, H, W): smooth blobs that move."""
    down, right = _SHIFT
    rows, columns = height + down, width + right
    noise = torch.rand(
        (1, 3, rows // _BLOB + 1, columns // _BLOB + 1), generator=torch.Generator().manual_seed(0)
    ).to(device)
    wide = F.interpolate(noise, size=(rows, columns), mode="bilinear")[0]
    return torch.stack((wide[:, down:, right:], wide[:, :height, :width]))
