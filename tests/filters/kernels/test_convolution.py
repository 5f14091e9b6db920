"""The kernels of convolutions against torch in fp32; without a card in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.kernels.devices import kernel_device
from torch import Tensor, nn

from upframe.filters.kernels.convolution import (
    Convolution,
    FirstConvolution,
    Residual,
    empty_channels_last,
    fits,
)
from upframe.filters.upscale.network import add_detail

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Triton's own, of its next version


def layer_of(num_in: int, num_out: int, device: torch.device) -> nn.Conv2d:
    layer = nn.Conv2d(num_in, num_out, 3, padding=1).requires_grad_(False)
    return layer.to(device, torch.float16)


def random_image(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    image = torch.randn(1, channels, height, width, device=device, dtype=torch.float16)
    return image.contiguous(memory_format=torch.channels_last)


def plain(layer: nn.Conv2d, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return F.conv2d(x.float(), layer.weight.float(), layer.bias.float(), padding=1)


def assert_close(result: Tensor, wanted: Tensor) -> None:
    """Half precision rounds a value of 4 by 1/512 at the most."""
    assert result.shape == wanted.shape
    assert (result.float() - wanted).abs().max() <= 1 / 256


@pytest.mark.parametrize(("num_in", "num_out"), [(64, 64), (32, 32), (96, 32), (32, 12)])
def test_a_convolution_with_its_activation(num_in: int, num_out: int) -> None:
    device = kernel_device()
    layer, x = layer_of(num_in, num_out, device), random_image(num_in, 5, 19, device)
    slope = torch.rand(num_out, device=device)
    out = empty_channels_last(num_out, 5, 19, x)
    result = Convolution(layer, slope).into(x, out)
    assert_close(result, F.prelu(plain(layer, x), slope))


@pytest.mark.parametrize("height", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("channels", [32, 64])
def test_any_number_of_rows_is_done_in_turns_of_three(channels: int, height: int) -> None:
    device = kernel_device()
    layer, x = layer_of(channels, 16, device), random_image(channels, height, 5, device)
    out = empty_channels_last(16, height + 1, 5, x).fill_(7)
    Convolution(layer, 0.2).into(x, out[:, :, :height])
    assert_close(out[:, :, :height], F.leaky_relu(plain(layer, x), 0.2))
    assert (out[:, :, height:] == 7).all()


def test_slices_of_one_tensor_are_read_and_written_and_residuals_added() -> None:
    device = kernel_device()
    layer = layer_of(32, 32, device)
    whole, far = random_image(96, 4, 7, device), random_image(32, 4, 7, device)
    before = whole.clone()
    near = Residual(whole[:, :32], 0.2)
    Convolution(layer, 0.2).into(whole[:, 32:64], whole[:, 64:], near, Residual(far, 0.5))
    assert torch.equal(whole[:, :64], before[:, :64])
    y = F.leaky_relu(plain(layer, before[:, 32:64]), 0.2) * 0.2 + before[:, :32]
    assert_close(whole[:, 64:], y * 0.5 + far)


def test_a_residual_may_be_where_the_result_goes() -> None:
    device = kernel_device()
    layer, x, out = layer_of(32, 32, device), *(random_image(32, 3, 5, device) for _ in range(2))
    wanted = plain(layer, x) * 0.2 + out
    Convolution(layer, None).into(x, out, Residual(out, 0.2))
    assert_close(out, wanted)


def test_every_pixel_may_stand_for_a_square() -> None:
    device = kernel_device()
    layer, x = layer_of(32, 32, device), random_image(32, 3, 5, device)
    out = Convolution(layer, 0.2).into(x, empty_channels_last(32, 6, 10, x), doubled=True)
    assert_close(out, F.leaky_relu(plain(layer, F.interpolate(x, scale_factor=2.0)), 0.2))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_details_are_laid_out_on_the_picture(scale: int) -> None:
    device = kernel_device()
    layer, x = layer_of(32, 3 * scale**2, device), random_image(32, 4, 9, device)
    base = torch.rand(1, 3, 6, 12, device=device)[:, :, 1:5, 2:11]  # as a tile is cut out
    out = torch.full((1, 3, 4 * scale, 9 * scale), float("nan"), device=device)
    result = Convolution(layer, None).with_detail(x, base, out, scale)
    assert_close(result, add_detail(base, plain(layer, x), scale))


def test_the_first_convolution_takes_a_picture_as_it_lies() -> None:
    device = kernel_device()
    layer, slope = layer_of(3, 32, device), torch.rand(32, device=device)
    x = torch.rand(1, 3, 7, 13, device=device)[:, :, 1:6, 1:12]
    out = FirstConvolution(layer, slope)(x, empty_channels_last(32, 5, 11, layer.weight))
    assert_close(out, F.prelu(plain(layer, x.half()), slope))


def test_only_what_the_kernels_know_fits() -> None:
    assert fits(nn.Conv2d(64, 48, 3, padding=1))
    assert not fits(nn.Conv2d(24, 24, 3, padding=1))
    assert not fits(nn.Conv2d(64, 256, 3, padding=1))
    assert not fits(nn.Conv2d(64, 64, 3, padding=1, bias=False))


@pytest.mark.needs_cuda
@pytest.mark.parametrize(("num_in", "num_out"), [(64, 64), (64, 32), (160, 32), (192, 64)])
def test_whole_frames_on_a_card(num_in: int, num_out: int) -> None:
    device = kernel_device()
    layer, x = layer_of(num_in, num_out, device), random_image(num_in, 541, 963, device)
    out = Convolution(layer, 0.2).into(x, empty_channels_last(num_out, 541, 963, x))
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert_close(out, F.leaky_relu(plain(layer, x), 0.2))
