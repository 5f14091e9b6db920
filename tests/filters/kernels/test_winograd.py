"""Convolutions with fewer multiplications give what plain ones give, within rounding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upframe.filters.device import cpu_has
from upframe.filters.kernels.cpu_convolution import (
    Residual,
    WinogradConv,
    WinogradStack,
    is_available,
)
from upframe.filters.kernels.native import kernels

SIZES = [(1, 1), (3, 5), (4, 4), (37, 51), (24, 100)]
CHANNELS = [(32, 32), (64, 64), (64, 48), (48, 112), (192, 192)]


class Kind(NamedTuple):
    """A kind of tiles that the kernel knows."""

    name: str
    dtype: torch.dtype
    narrow: bool
    flags: tuple[str, ...]
    least: float
    """Signal to error, dB, of white noise."""
    rounding: float

    def __call__(self, conv: nn.Conv2d, slopes: Tensor | None = None) -> WinogradConv:
        made = WinogradConv(conv, slopes)
        made.narrow = self.narrow
        return made

    def layer(self, num_in: int, num_out: int, *, bias: bool = True) -> nn.Conv2d:
        torch.manual_seed(num_in)
        return nn.Conv2d(num_in, num_out, 3, padding=1, bias=bias, dtype=self.dtype)

    def pixels(self, num: int, channels: int, size: tuple[int, int]) -> Tensor:
        noise = torch.randn(num, channels, *size, generator=torch.Generator().manual_seed(3))
        return noise.to(self.dtype, memory_format=torch.channels_last)


KINDS = [
    Kind("bf16", torch.bfloat16, False, ("avx512_bf16",), 36, 2**-7),  # 37.4 to 42 were measured
    Kind("fp32", torch.float32, False, ("avx2",), 115, 2e-6),  # 117 to 124
    Kind("fp32, narrow", torch.float32, True, ("avx2",), 115, 2e-6),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    wanted: Kind = request.param
    if kernels() is None or not cpu_has(*wanted.flags):
        pytest.skip("no kernels, or not for this CPU")
    assert is_available(wanted.dtype)
    return wanted


def plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x.double(), conv.weight.double(), bias, padding=1)


def signal_to_error(found: Tensor, expected: Tensor) -> float:
    error = (found.double() - expected).square().mean() / expected.square().mean()
    return float(-10 * torch.log10(error))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_it_agrees_with_a_plain_convolution(
    kind: Kind, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    conv, x = kind.layer(*channels), kind.pixels(2, channels[0], size)
    assert WinogradConv.fits(conv)
    found = kind(conv)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert signal_to_error(found, plain(conv, x)) > kind.least


@torch.inference_mode()
def test_large_values_lose_no_more_than_small_ones(kind: Kind) -> None:
    conv, x = kind.layer(64, 64, bias=False), kind.pixels(1, 64, (37, 51)) * 1e4
    assert signal_to_error(kind(conv)(x), plain(conv, x)) > kind.least


@torch.inference_mode()
def test_a_loud_spot_spoils_little_around_it(kind: Kind) -> None:
    conv, x = kind.layer(64, 64), kind.pixels(1, 64, (37, 51))
    x[0, :, 18, 18] = 1e4
    expected = plain(conv, x)
    error = (kind(conv)(x).double() - expected).abs().amax()
    assert error < 2 * kind.rounding * expected.abs().amax()


@torch.inference_mode()
def test_the_activation_is_prelu_of_each_channel(kind: Kind) -> None:
    conv, x = kind.layer(32, 32, bias=False), kind.pixels(1, 32, (20, 30))
    slopes = torch.linspace(-0.5, 1.5, 32)
    found, bare = kind(conv, slopes)(x), kind(conv)(x)
    expected = torch.where(bare < 0, bare.float() * slopes[:, None, None], bare.float())
    torch.testing.assert_close(found.float(), expected, rtol=kind.rounding, atol=1e-6)


@torch.inference_mode()
@pytest.mark.parametrize("channels", [(64, 64), (32, 192)])
@pytest.mark.parametrize("size", [(19, 45), (120, 130)])
def test_a_frame_is_the_same_alone_and_in_a_batch_in_any_number_of_threads(
    kind: Kind, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    conv, x = kind.layer(*channels), kind.pixels(3, channels[0], size)
    fast, threads = kind(conv), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        expected = fast(x)
        torch.set_num_threads(1)
        assert all(
            fast(one[None]).equal(whole[None]) for one, whole in zip(x, expected, strict=True)
        )
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("num_layers", [2, 9, 30])
@pytest.mark.parametrize("size", [(1, 1), (37, 51), (101, 643), (96, 640)])
def test_layers_in_strips_give_what_they_give_one_by_one(
    kind: Kind, threads: int, num_layers: int, size: tuple[int, int]
) -> None:
    slopes, before = torch.linspace(-0.5, 1.5, 32), torch.get_num_threads()
    layers = [kind(kind.layer(32, 32), slopes) for _ in range(num_layers - 1)]
    layers.append(kind(kind.layer(32, 48)))
    x = kind.pixels(2, 32, size)
    expected = kept = x.clone(memory_format=torch.preserve_format)
    for layer in layers:
        expected = layer(expected)
    try:
        torch.set_num_threads(threads)
        assert WinogradStack(layers)(x).equal(expected)
    finally:
        torch.set_num_threads(before)
    assert x.equal(kept)


@torch.inference_mode()
def test_two_threads_may_use_one_layer_at_once(kind: Kind) -> None:
    fast, inputs = kind(kind.layer(64, 64)), kind.pixels(2, 64, (60, 70)).split(1)
    expected = [fast(x) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fast, inputs * 8))
    assert all(one.equal(other) for one, other in zip(found, expected * 8, strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_it_reads_and_writes_some_of_a_pixels_channels_and_no_others(
    kind: Kind, size: tuple[int, int]
) -> None:
    conv, wide = kind.layer(64, 32), kind.pixels(2, 128, size)
    before, expected = wide.clone(), kind(conv)(wide[:, :64])
    kind(conv).into(wide[:, :64], wide[:, 64:96])
    assert wide[:, 64:96].equal(expected)
    assert wide[:, :64].equal(before[:, :64])
    assert wide[:, 96:].equal(before[:, 96:])


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_residuals_are_added_before_rounding_even_onto_themselves(
    kind: Kind, size: tuple[int, int]
) -> None:
    conv, x = kind.layer(32, 32), kind.pixels(2, 32, size)
    near, far = kind.pixels(2, 64, size)[:, 32:], kind.pixels(2, 32, size)
    expected = (kind(conv)(x).float() * 0.2 + near.float()) * 0.5 + far.float()
    kind(conv).into(x, far, Residual(near, 0.2), Residual(far, 0.5))
    torch.testing.assert_close(far.float(), expected, rtol=kind.rounding, atol=kind.rounding)


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_it_doubles_while_reading(kind: Kind, size: tuple[int, int]) -> None:
    conv, x = kind.layer(32, 32), kind.pixels(2, 32, size)
    large = F.interpolate(x, scale_factor=2).contiguous(memory_format=torch.channels_last)
    found = kind(conv).into(x, torch.empty_like(large), doubled=True)
    assert found.equal(kind(conv)(large))


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES)
def test_three_channels_are_drawn_in_float32(kind: Kind, size: tuple[int, int]) -> None:
    conv, x = kind.layer(64, 3), kind.pixels(2, 64, size)
    assert WinogradConv.fits_rgb(conv)
    found = kind(conv).to_rgb(x)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert signal_to_error(found, plain(conv, x)) > kind.least


@torch.inference_mode()
def test_what_is_no_number_spoils_its_surroundings_only(kind: Kind) -> None:
    conv, x = kind.layer(32, 32), kind.pixels(1, 32, (40, 40))
    clean = kind(conv)(x)
    x[0, :, 18, 18] = float("nan")
    found = kind(conv)(x)
    assert found[0, :, 17:20, 17:20].isnan().all()
    assert found[..., :12].equal(clean[..., :12])
    assert found[..., 24:].equal(clean[..., 24:])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 3, padding=1, dtype=torch.bfloat16),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.Conv2d(32, 40, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, dtype=torch.float64),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 32, 3, padding=1, groups=2),
        nn.Conv2d(32, 32, 1),
    ],
    ids=["few in bf16", "few", "odd channels", "fp64", "stride", "groups", "1x1"],
)
def test_other_convolutions_are_left_to_torch(conv: nn.Conv2d) -> None:
    assert not WinogradConv.fits(conv)
