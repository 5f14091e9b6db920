"""Batches that do not fit in memory are computed in parts."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from support.kernels.interpolation import moving
from torch import Tensor, nn

from upframe.filters.errors import TooLarge
from upframe.filters.frame import StreamInfo
from upframe.filters.interpolate.filter import GapFiller, Interpolate
from upframe.filters.interpolate.network import IFNet


class SmallMemory(nn.Conv2d):
    """The first convolution on a machine whose memory holds only so many pairs."""

    def __init__(self, conv: nn.Conv2d, pairs_that_fit: int) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, stride=2, padding=1)
        self.load_state_dict(conv.state_dict())
        self.pairs_that_fit = pairs_that_fit
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        if len(x) > self.pairs_that_fit:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
        return super().forward(x)


def with_small_memory(network: IFNet, pairs_that_fit: int) -> tuple[IFNet, SmallMemory]:
    other = copy.deepcopy(network)
    small = SmallMemory(other.blocks[0].conv0[0], pairs_that_fit)
    other.blocks[0].conv0[0] = small
    return other, small


def fill(network: IFNet, exp: int) -> tuple[GapFiller, list[Tensor]]:
    filler = GapFiller(network, exp, 1, "direct")
    left, right = (filler.source(image) for image in moving(2, 64, 96))
    return filler, filler(left, right, 64, 96)


def test_out_of_memory_halves_the_batch_and_computes_the_same_frames_again(network: IFNet) -> None:
    tight, small = with_small_memory(network, 2)
    filler, found = fill(tight, 3)
    assert small.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    _, expected = fill(network, 3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    small.batches.clear()
    filler(*(filler.source(image) for image in moving(2, 64, 96)), 64, 96)
    assert small.batches == [1] * 7  # it has learnt


def test_a_single_pair_that_does_not_fit_is_too_large(network: IFNet) -> None:
    with pytest.raises(TooLarge, match="96x64"):
        fill(with_small_memory(network, 0)[0], 1)


def test_frames_too_large_for_memory_are_refused_before_any_work(network: IFNet) -> None:
    info = StreamInfo(10**6, 10**6, "yuv420p", Fraction(1, 25))
    with pytest.raises(TooLarge, match=r"1000000x1000000 at scale 1 needs about .* GiB .* free"):
        Interpolate(network).open(info)


def test_other_errors_are_not_taken_for_lack_of_memory(network: IFNet) -> None:
    filler = GapFiller(network, 1, 1, "recursive")
    left = filler.source(torch.zeros(3, 32, 32))
    with pytest.raises(RuntimeError, match=r"[Ss]ize"):
        filler(left, filler.source(torch.zeros(3, 64, 64)), 32, 32)
