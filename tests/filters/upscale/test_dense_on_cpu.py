"""RRDBNet without copies computes what torch alone computes, as far as rounding goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from upframe.filters.kernels.cpu_convolution import is_available
from upframe.filters.upscale.cpu import DenseOnCpu, on_cpu
from upframe.filters.upscale.network import RRDBNet

NOISE = {torch.bfloat16: 10**-4.5, torch.float32: 10**-11}
"""Of rounding, to the signal; in fp32 10^-12 was measured."""
SIZES = [(1, 1), (1, 7), (5, 1), (13, 22), (33, 47)]


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    if not is_available(request.param):
        pytest.skip("no kernels, or not for this CPU")
    return request.param


def network(scale: int = 4, num_feat: int = 32, num_grow: int = 32) -> RRDBNet:
    torch.manual_seed(scale)
    made = RRDBNet(num_feat, 1, num_grow, scale).requires_grad_(False)
    # torch's stub of `to` forgets this argument
    return made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def picture(num: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(1))


def fast(plain: RRDBNet, dtype: torch.dtype) -> DenseOnCpu:
    made = on_cpu(copy.deepcopy(plain).to(dtype))
    assert isinstance(made, DenseOnCpu)
    return made


@torch.inference_mode()
@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_as_close_to_torch_as_its_dtype_goes(
    dtype: torch.dtype, scale: int, size: tuple[int, int]
) -> None:
    plain, x = network(scale), picture(1, size)
    exact, torchs = plain(x), copy.deepcopy(plain).to(dtype)(x)
    found = fast(plain, dtype)(x)
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    limit = 4 * (torchs - exact).square().mean() + exact.square().mean() * NOISE[dtype]
    assert (found - exact).square().mean() < limit


@torch.inference_mode()
def test_a_frame_is_the_same_alone_and_in_a_batch_in_any_number_of_threads(
    dtype: torch.dtype,
) -> None:
    made, x, threads = fast(network(), dtype), picture(2, (19, 30)), torch.get_num_threads()
    expected = made(x)
    torch.set_num_threads(1)
    try:
        assert torch.cat([made(x[:1]), made(x[1:])]).equal(expected)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def test_bands_of_the_tail_do_not_show(dtype: torch.dtype) -> None:
    made, x = fast(network(), dtype), picture(1, (70, 1100))
    whole, part = made(x), made(x[..., :96])
    inner = 4 * (96 - made.margin - 4)
    torch.testing.assert_close(whole[..., :inner], part[..., :inner], rtol=0, atol=1e-2)


def test_it_takes_the_form_of_the_plain_one(dtype: torch.dtype) -> None:
    plain = network(2)
    made = fast(plain, dtype)
    assert (made.scale, made.margin, made.multiple) == (plain.scale, plain.margin, plain.multiple)
    assert made.weight.dtype == dtype


def test_channels_that_the_kernel_does_not_take_are_left_to_torch() -> None:
    odd = network(num_grow=20)
    assert on_cpu(odd) is odd
    half = odd.to(torch.bfloat16)
    assert on_cpu(half) is half
