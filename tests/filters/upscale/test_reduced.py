"""Enlarging by less than the network's own scale gives what enlarging and shrinking gives."""

import pytest
import torch
from support.kernels.upscaling import small_rrdb, small_srvgg

from upframe.filters.upscale.filter import Enlarger, Tiles
from upframe.filters.upscale.network import ReducedSRVGG, can_reduce, resize

CPU = torch.device("cpu")
LESS = [(3, 2), (4, 2), (4, 3)]


@pytest.mark.parametrize(("own", "scale"), LESS)
@pytest.mark.parametrize(("width", "height"), [(2, 1), (1, 1), (2, 3), (9, 7), (40, 31)])
@torch.inference_mode()
def test_at_once_is_enlarged_and_shrunk(width: int, height: int, own: int, scale: int) -> None:
    network = small_srvgg(scale=own)
    x = torch.rand(2, 3, height, width)
    wanted = resize(network(x), width * scale, height * scale)
    result = ReducedSRVGG(network, scale)(x)
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("own", "scale"), LESS)
def test_what_is_flat_stays_flat_up_to_its_edges(own: int, scale: int) -> None:
    network = small_srvgg(scale=own)
    network.body[-1].weight.zero_()
    network.body[-1].bias.fill_(0.25)
    result = Enlarger(network, CPU)(torch.full((3, 6, 5), 0.5), scale)
    torch.testing.assert_close(result, torch.full((3, 6 * scale, 5 * scale), 0.75))


@torch.inference_mode()
def test_tiles_do_not_show() -> None:
    network = ReducedSRVGG(small_srvgg(scale=4), 2)
    x = torch.rand(1, 3, 45, 70)
    torch.testing.assert_close(Tiles(network, 32)(x), network(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_the_whole_way_in_fp32(dtype: torch.dtype) -> None:
    network = small_srvgg(scale=4)
    x = torch.rand(3, 20, 30)
    result = Enlarger(network, CPU, dtype)(x, 2)
    with torch.inference_mode():
        wanted = resize(network(x[None]), 60, 40).clamp(0, 1)[0]
    assert -10 * torch.log10((result - wanted).square().mean()) > 50


def test_only_whole_factors_below_its_own_of_a_compact_network_are_done_at_once() -> None:
    network = small_srvgg(scale=4)
    factors = (1, 1.5, 2, 2.0, 2.5, 3, 3.3, 4, 8)
    assert [scale for scale in factors if can_reduce(network, scale)] == [2, 2, 3]
    assert not can_reduce(small_srvgg(scale=2), 2)
    assert not can_reduce(small_rrdb(scale=4), 2)


@pytest.mark.parametrize("scale", [1, 4])
def test_other_factors_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"scale must be from 2 to 3, got {scale}"):
        ReducedSRVGG(small_srvgg(scale=4), scale)


def test_a_second_scale_needs_no_second_file() -> None:
    enlarger = Enlarger(small_srvgg(scale=4), CPU)
    x = torch.rand(3, 6, 5)
    sizes = [tuple(enlarger(x, scale).shape) for scale in (2, 3, 4, 2)]
    assert sizes == [(3, 12, 10), (3, 18, 15), (3, 24, 20), (3, 12, 10)]


@pytest.mark.needs_cuda
def test_cuda_gives_what_the_cpu_gives() -> None:
    network, x = small_srvgg(16, 4, 4), torch.rand(3, 40, 30)
    result = Enlarger(network, torch.device("cuda", 0))(x, 2)
    torch.testing.assert_close(result.cpu(), Enlarger(network, CPU)(x, 2), rtol=0, atol=1e-4)
