"""The compiled steps of the compact network compute what torch alone computes."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from upframe.filters.kernels.native import kernels
from upframe.filters.upscale.cpu import CompactOnCpu, on_cpu
from upframe.filters.upscale.network import ReducedSRVGG, SRVGGNetCompact, Upscaler

SIZES = [(1, 1), (1, 7), (5, 1), (2, 2), (33, 47)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if kernels() is None:
        assert os.environ.get("UPFRAME_REQUIRE_NATIVE") != "1", "the kernels were not compiled"
        pytest.skip("the kernels were not compiled")


def network(scale: int, features: int = 24) -> SRVGGNetCompact:
    torch.manual_seed(scale)
    made = SRVGGNetCompact(features, 2, scale).requires_grad_(False)
    for layer in made.body:
        if isinstance(layer, nn.PReLU):
            layer.weight.data.uniform_(-1, 1.5)
    # torch's stub of `to` forgets this argument
    return made.to(memory_format=torch.channels_last)


def both(plain: Upscaler, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    fast = on_cpu(plain)
    assert isinstance(fast, CompactOnCpu)
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return fast(x), plain(x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("features", [24, 32])  # by torch, and by fewer multiplications
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_fp32_agrees_with_torch(scale: int, features: int, size: tuple[int, int]) -> None:
    found, expected = both(network(scale, features), size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [2, 3])
def test_reduced_it_agrees_with_torch(scale: int, size: tuple[int, int]) -> None:
    found, expected = both(ReducedSRVGG(network(4), scale), size)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("reduced", [False, True])
def test_bf16_agrees_with_torch_as_far_as_bf16_goes(reduced: bool) -> None:
    plain = network(4)
    half: Upscaler = network(4)
    if reduced:
        plain, half = ReducedSRVGG(plain, 2), ReducedSRVGG(half, 2)
    half.to(torch.bfloat16)
    found, torchs = both(half, (33, 47))
    _, exact = both(plain, (33, 47))
    assert (found - exact).square().mean() < 1.2 * (torchs - exact).square().mean()


def test_channels_that_the_kernels_do_not_take_are_left_to_torch() -> None:
    odd = network(2, features=12)
    assert on_cpu(odd) is odd


def test_values_that_are_no_number_stay_so() -> None:
    plain = network(2)
    fast = on_cpu(plain)
    x = torch.full((1, 3, 4, 4), float("nan"))
    with torch.inference_mode():
        assert fast(x).isnan().all()
