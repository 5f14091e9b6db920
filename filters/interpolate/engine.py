"""What a gap is filled with: the same network, computed in the way that its device is best at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from .network import NUM_FEATURES, IFNet, blend


class Engine(Protocol):
    """Computes in-betweens. Sources are its own affair: only it reads what it made."""

    def sources(self, images: Tensor) -> Tensor:
        """Compute what is kept of frames for both their gaps.

        Args:
            images: (N, 3 or 4, H, W), fp32, [0, 1], on the network's device; H and W multiples of
                :func:`.network.padding_multiple`.

        Returns:
            (N, …, H, W), of a dtype and with strides that are the engine's.
        """
        ...

    def middles(
        self,
        lefts: Sequence[Tensor],
        rights: Sequence[Tensor],
        times: Sequence[float],
        scale: float,
    ) -> Tensor:
        """Compute one in-between per pair of sources.

        Args:
            lefts: items of `sources`, one for each of N earlier frames, wherever they lie; the
                same one may come again.
            rights: as many of the later frames.
            times: N moments, (0, 1); 0 is the left frame.
            scale: 0.25, 0.5, 1, 2 or 4; size at which motion is sought.

        Returns:
            (N, C, H, W), fp32.
        """
        ...


class PlainEngine:
    """Torch alone, on any device."""

    def __init__(self, network: IFNet) -> None:
        self._network = network

    def sources(self, images: Tensor) -> Tensor:
        """See :class:`Engine`."""
        return self._network.sources(images)

    def middles(
        self,
        lefts: Sequence[Tensor],
        rights: Sequence[Tensor],
        times: Sequence[float],
        scale: float,
    ) -> Tensor:
        """See :class:`Engine`."""
        pairs = torch.stack([torch.stack(pair) for pair in zip(lefts, rights, strict=True)])
        flow, mask = self._network(pairs, _moved(torch.tensor(times), pairs.device), scale)
        return blend(pairs[:, :, NUM_FEATURES:], flow, mask)


def _moved(times: Tensor, device: torch.device) -> Tensor:
    """Bring a few numbers to a device without waiting for what it does."""
    if device.type == "cuda" and times.device.type == "cpu":
        return times.pin_memory().to(device, non_blocking=True)
    return times
