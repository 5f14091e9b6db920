"""What a CUDA card computes is the same network, its channels in another order."""

from __future__ import annotations

import copy
import logging
import sys

import pytest
import torch
import torch.nn.functional as F
from support.kernels.interpolation import moving
from torch import Tensor

from upframe.filters.interpolate import cuda
from upframe.filters.interpolate.cuda import (
    BlockLayers,
    EncoderLayers,
    ProvenEngine,
    can_use_kernels,
)
from upframe.filters.interpolate.network import IFNet


def together(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def test_features_of_four_pixels_lie_together(network: IFNet) -> None:
    images = torch.rand(2, 4, 24, 40)
    with torch.inference_mode():
        found = EncoderLayers(network.encode)(images)  # (N, 16, H/2, W/2)
        wanted = network.encode(together(images[:, :3]))
    squares = F.pixel_unshuffle(wanted, 2).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(found, squares, rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", range(4))
def test_a_block_reads_and_gives_channels_in_groups_of_four(network: IFNet, index: int) -> None:
    block = network.blocks[index]
    order = cuda.NEXT_ORDER if index else cuda.FIRST_ORDER
    x = torch.rand(2, len(order), 16, 24)
    theirs = torch.empty(2, max(order) + 1, 16, 24)
    for place, channel in enumerate(order):
        if channel >= 0:  # what fills up may be anything
            theirs[:, channel] = x[:, place]
    with torch.inference_mode():
        found = BlockLayers(block, index, 4)(together(x))
        wanted = F.pixel_unshuffle(block(together(theirs)), 2).unflatten(1, (-1, 4))
    each = found.unflatten(1, (4, -1)).transpose(1, 2)  # (N, channels, 4 pixels, h/2, w/2)
    for place, channel in enumerate(cuda.DETAIL_ORDER[: each.shape[1]]):
        expected = wanted[:, channel] if channel >= 0 else torch.zeros_like(each[:, 0])
        torch.testing.assert_close(each[:, place], expected, rtol=0, atol=1e-4)


def test_pairs_are_told_by_where_they_lie() -> None:
    sources = cuda.empty_sources(3, 4, 6, torch.device("cpu"), has_alpha=False)
    out = torch.empty(2, 3, 4, 6)
    table = cuda.table_of(sources[:-1], sources[1:], out, [0.5, 0.25])
    assert table[:, 0].tolist() == [sources[0].data_ptr(), sources[1].data_ptr()]
    assert table[:, 1].tolist() == [sources[1].data_ptr(), sources[2].data_ptr()]
    assert table[:, 2].tolist() == [out[0].data_ptr(), out[1].data_ptr()]
    assert table[:, 3].to(torch.int32).view(torch.float32).tolist() == [0.5, 0.25]
    same = cuda.table_of([sources[0]] * 2, sources[1:], out, [0.5, 0.25])
    assert same[:, 0].tolist() == [sources.data_ptr()] * 2


def test_without_triton_the_kernels_are_left_alone_with_one_warning(
    network: IFNet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{cuda.__package__}.cuda_kernels"  # other tests may have imported it
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(name, raising=False)
    cuda.glue_kernels.cache_clear()
    half = copy.deepcopy(network).half()
    images = torch.stack(moving(2, 32, 64))
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        for engine in (ProvenEngine(half, 1), ProvenEngine(half, 1)):
            left, right = (tuple(engine.sources(image[None])) for image in images)
            middle = engine.middles(left, right, (0.5,), 1)
            pairs = torch.stack((half.sources(images[:1]), half.sources(images[1:])), 1)
            assert torch.equal(left[0], pairs[0, 0])
            assert middle.shape == (1, 3, 32, 64)
    warnings = [each.getMessage() for each in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith("frames are interpolated by plain torch: ModuleNotFoundError")


def test_only_fp16_on_cuda_at_scales_of_at_most_1_is_for_the_kernels(network: IFNet) -> None:
    assert not can_use_kernels(network, 1)
    assert not can_use_kernels(copy.deepcopy(network).half(), 1)
