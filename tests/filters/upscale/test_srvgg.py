import pytest
import torch
from support.kernels.upscaling import small_srvgg
from torch.nn import functional as F

from upframe.filters.upscale.network import add_detail


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_detail_is_added_as_pixel_shuffle_and_nearest_do(scale: int, dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 5, 7)
    detail = torch.rand(2, 3 * scale**2, 5, 7).to(dtype, memory_format=torch.channels_last)
    wanted = F.pixel_shuffle(detail, scale).float() + F.interpolate(x, scale_factor=float(scale))
    result = add_detail(x, detail, scale)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert torch.equal(result, wanted)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (2, 1), (5, 3)])
def test_takes_any_size(width: int, height: int) -> None:
    network = small_srvgg(scale=3)
    assert network(torch.rand(1, 3, height, width)).shape == (1, 3, height * 3, width * 3)


def test_reduced_precision_keeps_the_input_itself_exact() -> None:
    """Only the detail is rounded: without any, the picture comes out as it went in."""
    network = small_srvgg(scale=1)
    network.body[-1].weight.zero_()
    network.body[-1].bias.zero_()
    x = torch.rand(1, 3, 6, 6)
    assert torch.equal(network.to(torch.bfloat16)(x), x)


@pytest.mark.parametrize("num_conv", [0, 1, 5])
def test_sees_exactly_as_far_as_its_margin_says(num_conv: int) -> None:
    network = small_srvgg(num_conv=num_conv, scale=2)
    size = 2 * network.margin + 3
    x = torch.rand(1, 3, size, size)
    changed = x.clone()
    changed[:, :, 0, :] = 1 - changed[:, :, 0, :]
    differs = (network(x) != network(changed)).any(3).any(1)[0]  # by row of the result
    assert differs[: 2 * (network.margin + 1)].any()
    assert not differs[2 * (network.margin + 1) :].any()
