import pytest
import torch
from support.kernels.upscaling import DamagedInHalf, OutOfMemoryAbove, small_rrdb, small_srvgg

from upframe.filters.errors import FilterError, TooLarge
from upframe.filters.upscale.filter import Enlarger

CPU = torch.device("cpu")
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3.3, 8])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 4), (3, 1), (9, 7)])
def test_any_scale_of_any_size(width: int, height: int, scale: float) -> None:
    for network in (small_srvgg(), small_rrdb(scale=2)):
        result = Enlarger(network, CPU)(torch.rand(3, height, width), scale)
        assert result.shape == (3, int(height * scale), int(width * scale))
        assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_are_float32_in_range(dtype: torch.dtype) -> None:
    """A network and a kernel that overshoot are clamped once, at the end."""
    network = small_srvgg()
    network.body[-1].weight.mul_(50)
    result = Enlarger(network, CPU, dtype)(torch.rand(3, 9, 7), 3)
    assert result.dtype == torch.float32
    assert (result.min(), result.max()) == (0, 1)


def test_clamping_comes_after_resizing() -> None:
    """Half-way between -1 and 3 lies 1: clamped before, it would be a half."""
    network = small_srvgg(scale=2)
    network.body[-1].weight.zero_()
    network.body[-1].bias.copy_(torch.tensor([-1.0, 3.0, -1.0, 3.0]).repeat(3))
    result = Enlarger(network, CPU)(torch.zeros(3, 8, 8), 1)
    torch.testing.assert_close(result[:, 2:-2, 2:-2], torch.ones(3, 4, 4), rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_pixels_of_any_dtype_are_taken_as_they_are(dtype: torch.dtype) -> None:
    ones = torch.ones(3, 4, 4, dtype=dtype)
    assert torch.equal(
        Enlarger(small_srvgg(), CPU)(ones, 2), Enlarger(small_srvgg(), CPU)(ones.float(), 2)
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_damage_in_half_precision_is_redone_in_fp32(value: float, dtype: torch.dtype) -> None:
    """With the weights of the file, not with those that were rounded."""
    x = torch.rand(3, 6, 5)
    damaged = Enlarger(DamagedInHalf(small_srvgg(), value), CPU, dtype)
    assert torch.equal(damaged(x, 2), Enlarger(small_srvgg(), CPU)(x, 2))
    damaged(x, 2)
    assert damaged.num_redone_in_fp32 == 2


def test_black_of_a_black_frame_is_not_redone() -> None:
    enlarger = Enlarger(DamagedInHalf(small_srvgg(), 0.0), CPU, torch.bfloat16)
    assert not enlarger(torch.zeros(3, 6, 5), 2).any()
    assert enlarger.num_redone_in_fp32 == 0


def test_black_in_fp32_is_what_the_network_means() -> None:
    network = small_srvgg()
    network.body[-1].weight.zero_()
    network.body[-1].bias.fill_(-2)
    enlarger = Enlarger(network, CPU)
    assert not enlarger(torch.rand(3, 6, 5), 2).any()
    assert enlarger.num_redone_in_fp32 == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_in_fp32_too_is_an_error(dtype: torch.dtype) -> None:
    network = small_srvgg()
    network.body[0].bias[0] = float("nan")
    with pytest.raises(FilterError, match="NaN or Inf in fp32 too, for a frame of 5x6"):
        Enlarger(network, CPU, dtype)(torch.rand(3, 6, 5), 2)


def test_the_callers_network_stays_as_it_is() -> None:
    network = small_srvgg()
    Enlarger(network, CPU, torch.bfloat16)(torch.rand(3, 6, 5), 2)
    assert network.weight.dtype == torch.float32


def test_halvings_are_counted_in_both_precisions() -> None:
    """The network fails on 40x40 as a whole, in bf16 and again in fp32."""
    network = OutOfMemoryAbove(DamagedInHalf(small_srvgg(), 0.0), num_pixels=1599)
    network.margin = 0
    enlarger = Enlarger(network, CPU, torch.bfloat16)
    with pytest.raises(TooLarge):  # 20 is below the smallest tile
        enlarger(torch.rand(3, 40, 40), 2)
    assert enlarger.num_halved == 0
    enlarger(torch.rand(3, 40, 70), 2)
    assert enlarger.num_halved == 2


def test_no_memory_for_the_resized_frame_is_too_large() -> None:
    """The network's own result fits; what follows asks the allocator for more than there can be."""
    with pytest.raises(TooLarge, match="no memory is left on cpu for the enlarged 200x200 frame"):
        Enlarger(small_srvgg(scale=1), CPU)(torch.rand(3, 200, 200), 1e6)


def test_a_frame_whose_result_no_memory_can_hold_is_refused_before_work_starts() -> None:
    enlarger = Enlarger(small_srvgg(scale=4), CPU)
    with pytest.raises(
        TooLarge, match=r"enlarging 200000x100000 to 800000x400000 needs 71\d\d\.\d GiB .* cpu has"
    ):
        enlarger.check_size(200_000, 100_000, 4)
    enlarger.check_size(64, 48, 4)


@pytest.mark.needs_cuda
def test_results_stay_on_the_device() -> None:
    device = torch.device("cuda", 0)
    x = torch.rand(3, 40, 30)
    result = Enlarger(small_srvgg(16, 4, 4), device, torch.float16)(x, 3)
    assert result.device == device
    wanted = Enlarger(small_srvgg(16, 4, 4), CPU)(x, 3)
    torch.testing.assert_close(result.cpu(), wanted, rtol=0, atol=5e-3)
