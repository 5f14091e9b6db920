"""The Triton kernels of interpolation against torch; without a card in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
from support.kernels.devices import kernel_device
from support.kernels.interpolation import moving
from support.scripts import script
from torch import Tensor

from upframe.filters.interpolate import cuda
from upframe.filters.interpolate.cuda import (
    BlockLayers,
    EncoderLayers,
    FastestLayer,
    KernelEngine,
    ProvenEngine,
)
from upframe.filters.interpolate.network import Engine, IFNet, PlainEngine

psnr = script("psnr")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Triton's own, of its next version
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, where half precision overflows
]


@pytest.fixture
def half(network: IFNet) -> IFNet:
    return copy.deepcopy(network).to(kernel_device(), torch.float16)


def pictures(channels: int = 3, height: int = 32, width: int = 64) -> Tensor:
    images = torch.stack(moving(2, height, width, 3))
    images = torch.cat((images, images[:, :1] ** 2), 1)[:, :channels]
    return images.contiguous().to(kernel_device())


def middles(
    engine: Engine, images: Tensor, scale: float = 1, times: tuple[float, ...] = (0.5,)
) -> Tensor:
    with torch.inference_mode():
        left, right = (engine.sources(image.unsqueeze(0)) for image in images)
        return engine.middles([left[0]] * len(times), [right[0]] * len(times), times, scale)


@pytest.mark.parametrize(
    ("scale", "channels", "size", "times"),
    [(1, 4, (32, 64), (0.5, 0.125)), (0.5, 3, (64, 64), (0.75,)), (0.25, 3, (128, 128), (0.5,))],
)
def test_in_betweens_are_as_near_to_fp32_as_those_of_torch(
    half: IFNet,
    scale: float,
    channels: int,
    size: tuple[int, int],
    times: tuple[float, ...],
) -> None:
    images = pictures(channels, *size)
    exact = middles(PlainEngine(copy.deepcopy(half).float()), images, scale, times)
    torchs = psnr.psnr_db([middles(PlainEngine(half), images, scale, times)], [exact])
    found = middles(KernelEngine(half), images, scale, times)
    assert found.dtype == torch.float32
    assert found.shape == (len(times), channels, *size)
    ours = psnr.psnr_db([found], [exact])
    assert ours >= 60  # dB; 74 to 97 were measured
    assert ours >= torchs - 3  # twice the mean square


def test_colours_are_kept_to_a_hundredth_of_a_step_of_8_bits(half: IFNet) -> None:
    images = torch.rand(2, 4, 32, 64)
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])
    with torch.inference_mode():
        source = KernelEngine(half).sources(images.to(kernel_device())).cpu()
    squares = source[:, 1].reshape(2, 16, 32, 4).view(torch.int16).view(2, 16, 32, 2, 2, 4)
    found = (squares.permute(0, 5, 1, 3, 2, 4).reshape(2, 4, 32, 64).double() + 32768) / 65535
    assert (found - images).abs().max() <= 0.51 / 65535
    assert (found[:, :, 0, :2] == torch.tensor([0.0, 1.0])).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -60000.0])
def test_motion_that_is_no_number_reads_nothing_outside_the_frames(
    half: IFNet, value: float
) -> None:
    broken = copy.deepcopy(half)
    for block in broken.blocks:
        block.lastconv.bias.data[:16] = value
    assert middles(KernelEngine(broken), pictures()).shape == (1, 3, 32, 64)


def test_layers_with_their_activation_give_what_two_steps_give(half: IFNet) -> None:
    device = kernel_device()

    def compare(layers: list[FastestLayer], x: Tensor) -> None:
        for layer in layers:
            wanted, found = layer.plain(x), layer.kernel(x)
            assert found.stride() == wanted.stride()
            error = (found.float() - wanted.float()).square().mean()
            assert error <= 1e-6 * wanted.float().square().mean()
            x = wanted

    with torch.inference_mode():
        compare(EncoderLayers(half.encode).layers, torch.rand(2, 4, 12, 20, device=device))
        for index, block in enumerate(half.blocks):
            layers = BlockLayers(block, index, len(half.blocks)).layers
            x = torch.rand(2, 12, 20, 32 if index else 16, device=device).half()
            compare([*layers[:3], layers[-1]], x.permute(0, 3, 1, 2))


def test_kernels_that_agree_are_taken(half: IFNet) -> None:
    with torch.inference_mode():
        assert ProvenEngine(half, 1).sources(pictures()).dtype == cuda.SOURCE_DTYPE


@pytest.mark.parametrize("channels", [3, 4])
def test_kernels_that_are_found_best_between_two_frames_take_the_first_one_over(
    half: IFNet, channels: int
) -> None:
    images = pictures(channels)
    engine = ProvenEngine(half, 1)
    with torch.inference_mode():
        left, right = PlainEngine(half).sources(images[:1]), engine.sources(images[1:])
        assert left.dtype != right.dtype == cuda.SOURCE_DTYPE
        found = engine.middles([left[0]], [right[0]], (0.5,), 1)
    assert torch.equal(found, middles(KernelEngine(half), images))


def test_frames_of_two_sizes_are_refused(half: IFNet) -> None:
    engine = KernelEngine(half)
    with torch.inference_mode():
        left = tuple(engine.sources(pictures()[:1]))
        right = tuple(engine.sources(pictures(3, 32, 32)[:1]))
    with pytest.raises(RuntimeError, match="sizes differ"):
        engine.middles(left, right, (0.5,), 1)
