from pathlib import Path

import pytest
import torch
from support.kernels.upscaling import small_rrdb
from torch.nn import functional as F

from upframe.filters.upscale.checkpoint import load_upscaler
from upframe.filters.upscale.filter import Tiles
from upframe.filters.upscale.network import pad_to_multiple
from upframe.filters.weights import load_state_dict


@pytest.mark.parametrize("scale", [4, 2, 1])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 1), (1, 3), (3, 2), (5, 4), (7, 9)])
def test_takes_any_size(scale: int, width: int, height: int) -> None:
    result = small_rrdb(scale=scale)(torch.rand(1, 3, height, width))
    assert result.shape == (1, 3, height * scale, width * scale)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


@pytest.mark.parametrize(("scale", "multiple"), [(2, 2), (1, 4)])
def test_folding_pads_by_reflection_and_crops(scale: int, multiple: int) -> None:
    network = small_rrdb(scale=scale)
    x = torch.rand(1, 3, 7, 9)
    padded = F.pad(x, (0, -9 % multiple, 0, -7 % multiple), "reflect")
    wanted = network(padded)[:, :, : 7 * scale, : 9 * scale]
    assert torch.equal(network(x), wanted)


def test_padding_repeats_the_border_where_there_is_nothing_to_reflect() -> None:
    x = torch.tensor([[1.0, 2.0]]).expand(1, 3, 1, 2)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 3, 4, 4)
    assert (padded[0, 0] == torch.tensor([1.0, 2.0, 2.0, 2.0])).all()


def test_padding_leaves_a_multiple_alone() -> None:
    x = torch.rand(1, 3, 4, 8)
    assert pad_to_multiple(x, 4) is x


def test_bands_of_the_tail_do_not_show() -> None:
    """A wide picture is finished in bands of rows, a part of it in one: both are the same."""
    network = small_rrdb(num_feat=2)
    x = torch.rand(1, 3, 70, 3000)
    whole = network(x)
    part = network(x[:, :, :, :100])
    inner = 4 * (100 - network.margin)
    torch.testing.assert_close(whole[..., :inner], part[..., :inner], rtol=0, atol=1e-6)


def test_one_block_is_seen_to_its_full_depth() -> None:
    """15 convolutions, one before and one behind them, and the tail's two pixels."""
    assert small_rrdb(num_block=1).margin == 19
    assert small_rrdb(num_block=1, scale=2).margin == 38
    assert small_rrdb(num_block=1, scale=1).margin == 76


def test_seams_of_tiles_are_below_one_level(data: Path) -> None:
    """On noise, where what is far away changes most."""
    state = load_state_dict(data / "weights" / "RealESRGAN_x4plus_anime_6B.pth")
    network = load_upscaler(state)
    x = torch.rand(1, 3, 12, 200)
    with torch.inference_mode():
        whole, cut = network(x).clamp(0, 1), Tiles(network, edge=100)(x).clamp(0, 1)
    assert not torch.equal(cut, whole)  # it was cut, and inside the receptive field
    assert (cut - whole).abs().max() < 1 / 255
