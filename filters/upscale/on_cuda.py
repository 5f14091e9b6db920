"""The networks as they run on a CUDA card: by kernels of their own where these prove themselves.

Where they are first used, a part of the first frame is computed by both ways and in fp32. Kernels
that cannot be had, that are off by more than the plain way in the same precision, or that are
slower than it are left alone from then on, with one warning. Not yet seen on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..cuda.proof import Proof, far_off, slower
from .compact_on_cuda import FusedReducedSRVGG, FusedSRVGG, can_fuse_body
from .dense_on_cuda import FusedRRDB, can_fuse_blocks
from .network import Upscaler
from .reduced import ReducedSRVGG
from .rrdb import RRDBNet
from .srvgg import SRVGGNetCompact

_COMPARED = 157, 263
"""Rows and columns of the first frame that are compared: no whole number of anything."""
_TIMED = 720, 1280


def on_cuda(network: Upscaler) -> Upscaler:
    """Make a network fast on the CUDA card where it lies, without making it another one.

    Args:
        network: in its dtype, channels lying together; it stays the one that is right.
    """
    build = _fused(network)
    return network if build is None else Proven(network, build)


def _fused(network: Upscaler) -> Callable[[], Upscaler] | None:
    """Find the kernels that can stand for a network; none in fp32, which is exact as it is."""
    if network.weight.dtype == torch.float32:
        return None
    if isinstance(network, SRVGGNetCompact) and can_fuse_body(network.body):
        return partial(FusedSRVGG, network)
    if isinstance(network, ReducedSRVGG) and can_fuse_body(network.body):
        return partial(FusedReducedSRVGG, network)
    if isinstance(network, RRDBNet) and can_fuse_blocks(network):
        return partial(FusedRRDB, network)
    return None


class Proven(Upscaler):
    """A network by kernels, once they have proved themselves on a frame; plain until then.

    Args:
        plain: what is right.
        build: makes the same by kernels.
    """

    def __init__(self, plain: Upscaler, build: Callable[[], Upscaler]) -> None:
        super().__init__()
        self.plain = plain
        self.take_form_of(plain)
        self._build = build
        self._fused: list[Upscaler] = []  # a list, for modules are no attributes to hide
        self._proof = Proof(f"{type(plain).__name__} is computed by plain torch")

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        if self._proof.holds(lambda: self._trial(x)):
            return self._fused[0](x)
        return self.plain(x)

    def _trial(self, x: Tensor) -> str | None:
        """Compute a part of a frame by both ways, and say what speaks against the kernels."""
        fused = self._build()
        part = x[:1, :, : _COMPARED[0], : _COMPARED[1]]
        exact = copy.deepcopy(self.plain).float()(part)
        fault = far_off(fused(part), self.plain(part), exact)
        if fault is None and x.device.type == "cuda":
            part = x[:1, :, : _TIMED[0], : _TIMED[1]]
            fault = slower(lambda: fused(part), lambda: self.plain(part))
        if fault is None:
            self._fused.append(self._build())  # the tried one has recorded graphs of the part
        return fault
