"""RRDBNet without copies computes what torch alone computes, as far as bf16 goes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from upframe.filters.native.winograd import is_fast
from upframe.filters.upscale.dense_on_cpu import DenseOnCpu
from upframe.filters.upscale.on_cpu import on_cpu
from upframe.filters.upscale.rrdb import RRDBNet

SIZES = [(1, 1), (1, 7), (5, 1), (13, 22), (33, 47)]


@pytest.fixture
def able() -> None:
    if not is_fast():
        pytest.skip("no kernels, or not for this CPU")


def network(scale: int = 4, num_feat: int = 32, num_grow: int = 32) -> RRDBNet:
    torch.manual_seed(scale)
    made = RRDBNet(num_feat, 1, num_grow, scale).requires_grad_(False)
    # torch's stub of `to` forgets this argument
    return made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def picture(num: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(num, 3, *size, generator=torch.Generator().manual_seed(1))


def fast(plain: RRDBNet) -> DenseOnCpu:
    made = on_cpu(copy.deepcopy(plain).to(torch.bfloat16))
    assert isinstance(made, DenseOnCpu)
    return made


@torch.inference_mode()
@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_as_close_to_fp32_as_bf16_goes(scale: int, size: tuple[int, int]) -> None:
    plain, x = network(scale), picture(1, size)
    exact, torchs = plain(x), copy.deepcopy(plain).to(torch.bfloat16)(x)
    found = fast(plain)(x)
    assert found.shape == exact.shape
    assert found.dtype == torch.float32
    limit = 4 * (torchs - exact).square().mean() + exact.square().mean() * 10**-4.5
    assert (found - exact).square().mean() < limit


@torch.inference_mode()
@pytest.mark.usefixtures("able")
def test_a_frame_is_the_same_alone_and_in_a_batch_in_any_number_of_threads() -> None:
    made, x, threads = fast(network()), picture(2, (19, 30)), torch.get_num_threads()
    expected = made(x)
    torch.set_num_threads(1)
    try:
        assert torch.cat([made(x[:1]), made(x[1:])]).equal(expected)
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
@pytest.mark.usefixtures("able")
def test_bands_of_the_tail_do_not_show() -> None:
    made, x = fast(network()), picture(1, (70, 1100))
    whole, part = made(x), made(x[..., :96])
    inner = 4 * (96 - made.margin - 4)
    torch.testing.assert_close(whole[..., :inner], part[..., :inner], rtol=0, atol=1e-2)


@pytest.mark.usefixtures("able")
def test_it_takes_the_form_of_the_plain_one() -> None:
    plain = network(2)
    made = fast(plain)
    assert (made.scale, made.margin, made.multiple) == (plain.scale, plain.margin, plain.multiple)
    assert made.weight.dtype == torch.bfloat16


def test_fp32_is_left_to_torch() -> None:
    plain = network()
    assert on_cpu(plain) is plain


def test_channels_that_the_kernel_does_not_take_are_left_to_torch() -> None:
    odd = network(num_grow=20).to(torch.bfloat16)
    assert on_cpu(odd) is odd
