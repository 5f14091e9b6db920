"""Convolutions with fewer multiplications give what plain ones give, within bf16's rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upframe.filters.device import cpu_has
from upframe.filters.native.compiled import kernels
from upframe.filters.native.winograd import Residual, WinogradConv, can_convolve, can_draw, is_fast

SIZES = [(1, 1), (3, 5), (4, 4), (37, 51), (24, 100)]
CHANNELS = [(32, 32), (64, 64), (64, 48), (48, 112), (192, 192)]


@pytest.fixture(autouse=True)
def able() -> None:
    if kernels() is None or not cpu_has("avx512_bf16") or cpu_has("amx_bf16"):
        pytest.skip("no kernels, or not for this CPU")
    assert is_fast()


def layer(num_in: int, num_out: int, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(num_in)
    return nn.Conv2d(num_in, num_out, 3, padding=1, bias=bias, dtype=torch.bfloat16)


def pixels(num: int, channels: int, size: tuple[int, int]) -> Tensor:
    noise = torch.randn(num, channels, *size, generator=torch.Generator().manual_seed(3))
    return noise.to(torch.bfloat16, memory_format=torch.channels_last)


def plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.float()
    return F.conv2d(x.float(), conv.weight.float(), bias, padding=1)


def signal_to_error(found: Tensor, expected: Tensor) -> float:
    error = (found.float() - expected).square().mean() / expected.square().mean()
    return float(-10 * torch.log10(error))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_it_agrees_with_a_plain_convolution(
    channels: tuple[int, int], size: tuple[int, int]
) -> None:
    conv, x = layer(*channels), pixels(2, channels[0], size)
    assert can_convolve(conv)
    found = WinogradConv(conv)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (
        signal_to_error(found, plain(conv, x)) > 36
    )  # dB, of white noise; 37.4 to 42 were measured


@torch.inference_mode()
def test_the_activation_is_prelu_of_each_channel() -> None:
    conv, x = layer(32, 32, bias=False), pixels(1, 32, (20, 30))
    slopes = torch.linspace(-0.5, 1.5, 32)
    found, bare = WinogradConv(conv, slopes)(x), WinogradConv(conv)(x)
    expected = torch.where(bare < 0, bare.float() * slopes[:, None, None], bare.float())
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-6)


@torch.inference_mode()
def test_a_frame_is_the_same_alone_and_in_a_batch_in_any_number_of_threads() -> None:
    conv, x = layer(64, 64), pixels(3, 64, (19, 45))
    fast, threads = WinogradConv(conv), torch.get_num_threads()
    expected = fast(x)
    torch.set_num_threads(1)
    try:
        assert all(
            fast(one[None]).equal(whole[None]) for one, whole in zip(x, expected, strict=True)
        )
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_it_reads_and_writes_some_of_a_pixels_channels_and_no_others(size: tuple[int, int]) -> None:
    conv, wide = layer(64, 32), pixels(1, 128, size)
    before, expected = wide.clone(), WinogradConv(conv)(wide[:, :64])
    WinogradConv(conv).into(wide[:, :64], wide[:, 64:96])
    assert wide[:, 64:96].equal(expected)
    assert wide[:, :64].equal(before[:, :64])
    assert wide[:, 96:].equal(before[:, 96:])


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_residuals_are_added_before_rounding_even_onto_themselves(size: tuple[int, int]) -> None:
    conv, x = layer(32, 32), pixels(1, 32, size)
    near, far = pixels(1, 64, size)[:, 32:], pixels(1, 32, size)
    expected = (WinogradConv(conv)(x).float() * 0.2 + near.float()) * 0.5 + far.float()
    WinogradConv(conv).into(x, far, near=Residual(near, 0.2), far=Residual(far, 0.5))
    torch.testing.assert_close(far.float(), expected, rtol=2**-7, atol=2**-7)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_it_doubles_while_reading(size: tuple[int, int]) -> None:
    conv, x = layer(32, 32), pixels(1, 32, size)
    large = F.interpolate(x, scale_factor=2).contiguous(memory_format=torch.channels_last)
    found = WinogradConv(conv).into(x, torch.empty_like(large), doubled=True)
    assert found.equal(WinogradConv(conv)(large))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_three_channels_are_drawn_in_float32(size: tuple[int, int]) -> None:
    conv, x = layer(64, 3), pixels(1, 64, size)
    assert can_draw(conv)
    found = WinogradConv(conv).drawn(x)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert signal_to_error(found, plain(conv, x)) > 36


@torch.inference_mode()
def test_what_is_no_number_spoils_its_surroundings_only() -> None:
    conv, x = layer(32, 32), pixels(1, 32, (40, 40))
    clean = WinogradConv(conv)(x)
    x[0, :, 18, 18] = float("nan")
    found = WinogradConv(conv)(x)
    assert found[0, :, 17:20, 17:20].isnan().all()
    assert found[..., :12].equal(clean[..., :12])
    assert found[..., 24:].equal(clean[..., 24:])


@pytest.mark.parametrize(
    "conv",
    [
        layer(16, 16),
        layer(32, 40),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, stride=2, padding=1, dtype=torch.bfloat16),
        nn.Conv2d(32, 32, 3, padding=1, groups=2, dtype=torch.bfloat16),
        nn.Conv2d(32, 32, 1, dtype=torch.bfloat16),
    ],
    ids=["few channels", "odd channels", "fp32", "stride", "groups", "1x1"],
)
def test_other_convolutions_are_left_to_torch(conv: nn.Conv2d) -> None:
    assert not can_convolve(conv)
