"""The compiled kernels compute what torch alone computes."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from support.kernels.interpolation import moving
from torch import Tensor

from upframe.filters.interpolate.cpu import FusedIFNet
from upframe.filters.interpolate.filter import engine_for
from upframe.filters.interpolate.network import Engine, IFNet, PlainEngine
from upframe.filters.kernels.native import kernels


@pytest.fixture(autouse=True)
def compiled() -> None:
    if kernels() is None:
        assert os.environ.get("UPFRAME_REQUIRE_NATIVE") != "1", "the kernels were not compiled"
        pytest.skip("the kernels were not compiled")


def middles(
    engine: Engine, images: Tensor, scale: float = 1, times: tuple[float, ...] = (0.5,)
) -> Tensor:
    with torch.inference_mode():
        left, right = (engine.sources(image.unsqueeze(0)) for image in images)
        return engine.middles([left[0]] * len(times), [right[0]] * len(times), times, scale)


def pictures(channels: int = 3, height: int = 64, width: int = 96) -> Tensor:
    images = torch.stack(list(moving(2, height, width)))
    return torch.cat((images, images[:, :1] ** 2), 1)[:, :channels]


@pytest.mark.parametrize("scale", [1, 0.5, 0.25])
@pytest.mark.parametrize("channels", [3, 4])
def test_fp32_agrees_with_torch(network: IFNet, scale: float, channels: int) -> None:
    images = pictures(channels, 128, 256)
    found = middles(FusedIFNet(network), images, scale, (0.5, 0.125, 0.75))
    expected = middles(PlainEngine(network), images, scale, (0.5, 0.125, 0.75))
    assert found.shape == (3, channels, 128, 256)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)  # 6e-5 was measured


def test_bf16_agrees_with_torch_as_far_as_bf16_goes(network: IFNet) -> None:
    half = copy.deepcopy(network).to(torch.bfloat16)
    images = pictures()
    exact = middles(PlainEngine(network), images)
    torchs = (middles(PlainEngine(half), images) - exact).square().mean()
    ours = (middles(FusedIFNet(half), images) - exact).square().mean()
    assert ours < 10 * torchs  # weights of chance; real ones lose 2 dB, see the golden cases


def test_the_smallest_frames_work(network: IFNet) -> None:
    images = pictures(3, 32, 32)
    found = middles(FusedIFNet(network), images)
    torch.testing.assert_close(found, middles(PlainEngine(network), images), rtol=0, atol=5e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_motion_that_is_no_number_reads_nothing_outside_the_frames(
    network: IFNet, value: float
) -> None:
    broken = copy.deepcopy(network)
    for block in broken.blocks:
        block.lastconv.bias.data[:16] = value
    assert middles(FusedIFNet(broken), pictures()).shape == (1, 3, 64, 96)


def test_the_number_of_threads_changes_nothing(network: IFNet) -> None:
    images, threads = pictures(), torch.get_num_threads()
    one, two = FusedIFNet(network), FusedIFNet(network)
    expected = middles(one, images)
    torch.set_num_threads(1)
    try:
        found = middles(two, images)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_frames_of_two_sizes_are_refused(network: IFNet) -> None:
    engine = FusedIFNet(network)
    left = tuple(engine.sources(pictures()[:1]))
    right = tuple(engine.sources(pictures(3, 32, 32)[:1]))
    with pytest.raises(RuntimeError, match="sizes differ"):
        engine.middles(left, right, (0.5,), 1)


def test_larger_scales_are_left_to_torch(network: IFNet) -> None:
    assert isinstance(engine_for(network, 2), PlainEngine)
    assert isinstance(engine_for(network, 1), FusedIFNet)
