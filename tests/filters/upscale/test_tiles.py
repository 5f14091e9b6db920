import logging
from collections.abc import Iterator

import pytest
import torch
from support.kernels.upscaling import OutOfMemoryAbove, Wrapped, small_rrdb, small_srvgg
from torch import Tensor

from upframe.filters.device import GIB
from upframe.filters.errors import TooLarge
from upframe.filters.upscale.filter import SMALLEST_EDGE, Tiles
from upframe.filters.upscale.network import Upscaler


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def assert_no_seams(network: Upscaler, x: Tensor, edge: int) -> None:
    cut = Tiles(network, edge)(x)
    assert cut.dtype == torch.float32
    torch.testing.assert_close(cut, network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("edge", [5, 16, 40])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (41, 1), (1, 41), (33, 57)])
def test_srvgg_in_tiles_is_srvgg_in_one_piece(edge: int, width: int, height: int) -> None:
    assert_no_seams(small_srvgg(num_conv=3), torch.rand(1, 3, height, width), edge)


def test_the_published_depth_in_tiles_is_as_in_one_piece() -> None:
    assert_no_seams(small_srvgg(16, num_conv=16, scale=4), torch.rand(1, 3, 90, 110), 32)


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize(("width", "height"), [(131, 50), (97, 98)])
def test_rrdb_of_one_block_in_tiles_is_as_in_one_piece(scale: int, width: int, height: int) -> None:
    """Also where the folding must fall on the same pixels, and where the last tile is padded."""
    assert_no_seams(small_rrdb(scale=scale), torch.rand(1, 3, height, width), 45)


def test_a_frame_that_fits_is_not_cut() -> None:
    network = OutOfMemoryAbove(small_srvgg(), num_pixels=10**9)
    Tiles(network)(torch.rand(1, 3, 90, 120))
    assert network.areas == [90 * 120]


def test_out_of_memory_halves_the_tiles_and_redoes_the_frame(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner = small_srvgg()
    network = OutOfMemoryAbove(inner, num_pixels=60 * 60)
    tiles = Tiles(network)
    x = torch.rand(1, 3, 100, 130)
    with caplog.at_level(logging.WARNING):
        result = tiles(x)
    torch.testing.assert_close(result, inner(x), rtol=0, atol=1e-5)
    assert tiles.num_halved == 2  # 130, 65, 32: tiles see 4 pixels more on each side
    assert "again in tiles of 32 pixels" in caplog.text


def test_out_of_memory_is_remembered() -> None:
    network = OutOfMemoryAbove(small_srvgg(), num_pixels=60 * 60)
    tiles = Tiles(network)
    tiles(torch.rand(1, 3, 100, 130))
    network.areas.clear()
    tiles(torch.rand(1, 3, 100, 130))
    tiles(torch.rand(1, 3, 90, 200))
    assert max(network.areas) <= 60 * 60
    assert tiles.num_halved == 2


def test_what_fits_in_no_tile_is_too_large() -> None:
    tiles = Tiles(OutOfMemoryAbove(small_srvgg(), num_pixels=20 * 20))
    with pytest.raises(TooLarge, match=r"130x100 does not fit .* not even in tiles of 32 pixels"):
        tiles(torch.rand(1, 3, 100, 130))


def test_a_small_frame_that_does_not_fit_is_too_large() -> None:
    tiles = Tiles(OutOfMemoryAbove(small_srvgg(), num_pixels=20))
    with pytest.raises(TooLarge, match="5x6 does not fit"):
        tiles(torch.rand(1, 3, 6, 5))


class Broken(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_other_errors_are_no_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        Tiles(Broken(small_srvgg()))(torch.rand(1, 3, 6, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_decides_about_tiles(dtype: torch.dtype) -> None:
    """On a CPU activations stay below 1 GiB however large the frame is."""
    network = OutOfMemoryAbove(small_srvgg().to(dtype), num_pixels=10**9)
    network.values_per_pixel = 40_000
    Tiles(network)(torch.rand(1, 3, 150, 200))
    assert len(network.areas) > 1
    assert max(network.areas) * network.values_per_pixel * dtype.itemsize <= GIB
    assert max(network.areas) > SMALLEST_EDGE**2


@pytest.mark.parametrize(("width", "height", "is_cut"), [(640, 360, False), (1920, 1080, True)])
def test_a_cpu_takes_only_as_much_at_once_as_its_caches_hold(
    width: int, height: int, is_cut: bool
) -> None:
    """The sizes of the published network, the arithmetic of a small one."""
    network = OutOfMemoryAbove(small_srvgg(2, 0, 1).to(torch.bfloat16), num_pixels=10**9)
    network.values_per_pixel = small_srvgg(64, 16, 4).values_per_pixel
    Tiles(network)(torch.rand(1, 3, 1, 1).expand(1, 3, height, width))
    assert (len(network.areas) > 1) == is_cut


def test_a_wide_margin_is_worth_more_than_a_cache() -> None:
    """Tiles stay many times as large as what they compute twice."""
    network = OutOfMemoryAbove(small_srvgg(2, 0, 1).to(torch.bfloat16), num_pixels=10**9)
    network.values_per_pixel, network.margin = 100, 100
    Tiles(network)(torch.rand(1, 3, 1, 1).expand(1, 3, 1800, 1800))
    assert len(network.areas) == 1


def test_the_users_tile_is_the_most_that_is_given_at_once() -> None:
    network = OutOfMemoryAbove(small_srvgg(), num_pixels=10**9)
    Tiles(network, edge=40)(torch.rand(1, 3, 50, 130))
    assert len(network.areas) == 2 * 4
    assert max(network.areas) <= (40 + 2 * network.margin) ** 2


@pytest.mark.needs_cuda
def test_tiles_on_cuda_are_as_one_piece() -> None:
    network = small_srvgg(16, num_conv=16, scale=4).cuda()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert_no_seams(network, torch.rand(1, 3, 90, 110, device="cuda"), 32)


@pytest.mark.needs_cuda
def test_a_full_cuda_device_halves_the_tiles() -> None:
    """The device's own allocator refuses: half of a frame's activations are all it may hold."""
    network = small_srvgg(64, num_conv=16, scale=4).cuda().half()
    x = torch.rand(1, 3, 1080, 1920, device="cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    # the estimate looks at the device as a whole and does not know this limit
    torch.cuda.set_per_process_memory_fraction(x[0, 0].numel() * 48 * 4 * 1.7 / total)
    try:
        tiles = Tiles(network)
        result = tiles(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tiles.num_halved >= 1
    assert result.shape == (1, 3, 4320, 7680)
