"""Moving frames, checkpoints and a plainly written network for the tests of interpolation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upframe.filters.frame import Frame, StreamInfo
from upframe.filters.interpolate.filter import Interpolate
from upframe.filters.interpolate.network import IFNet, expected_shapes

TIME_BASE = Fraction(1, 25)


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """(3, H, W), smooth random blobs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, height // 8 + 2, width // 8 + 2), generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 1)


def moving(count: int, height: int = 64, width: int = 96, step: int = 2) -> list[Tensor]:
    """A texture that moves `step` pixels to the left from frame to frame."""
    wide = texture(height, width + step * count)
    return [wide[:, :, step * i : step * i + width].contiguous() for i in range(count)]


def as_frames(images: Iterable[Tensor], alpha: bool = False) -> list[Frame]:
    """Frames one tick of 1/25 s apart."""
    return [
        Frame(
            image,
            pts,
            1,
            TIME_BASE,
            alpha=image.mean(0, keepdim=True) if alpha else None,
        )
        for pts, image in enumerate(images)
    ]


def info_of(frames: list[Frame], rate: Fraction | None = Fraction(25)) -> StreamInfo:
    first = frames[0]
    return StreamInfo(
        first.width,
        first.height,
        "gbrp",
        first.time_base,
        rate=rate,
        average_rate=rate,
        num_frames=len(frames),
    )


def run(
    built: Interpolate, frames: list[Frame], rate: Fraction | None = Fraction(25)
) -> list[Frame]:
    """Everything that comes out for some frames."""
    built.open(info_of(frames, rate))
    out = [result for frame in frames for result in built(frame)]
    return [*out, *built.flush()]


@contextmanager
def counted_calls(module: nn.Module) -> Iterator[list[int]]:
    """The batch sizes with which a network, or its encoder, begins: whatever engine runs it."""
    calls: list[int] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(len(inputs[0]))

    handle = _first_convolution(module).register_forward_pre_hook(note)
    yield calls
    handle.remove()


def _first_convolution(module: nn.Module) -> nn.Conv2d:
    within = module.blocks if isinstance(module, IFNet) else module
    return next(each for each in within.modules() if isinstance(each, nn.Conv2d))


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint of random weights that keep signals near 1 and make flows of a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, shape in expected_shapes().items():
        values = torch.randn(shape, generator=generator)
        if key.endswith("beta"):
            state[key] = 0.5 + 0.1 * values
        elif key.endswith("bias"):
            state[key] = 0.1 * values
        else:
            inputs = values[0].numel() if "lastconv" not in key and "cnn3" not in key else shape[0]
            state[key] = values / inputs**0.5
    return state


def plain_ifnet(
    state: dict[str, Tensor], left: Tensor, right: Tensor, timestep: float, scale: float
) -> Tensor:
    """The network in the plainest words: everything at full size, nothing folded or left out.

    Takes padded (N, 3, H, W) frames, gives the padded in-between.
    """
    f0, f1 = _plain_encode(state, left), _plain_encode(state, right)
    time = torch.full_like(left[:, :1], timestep)
    warped0, warped1 = left, right
    parts = [left, right, f0, f1, time]
    flow = mask = features = None
    for index, cell in enumerate((8, 4, 2, 1)):
        if flow is not None and mask is not None and features is not None:
            g0, g1 = _plain_warp(f0, flow[:, :2]), _plain_warp(f1, flow[:, 2:])
            parts = [warped0, warped1, g0, g1, time, mask, features]
        change = _plain_block(state, f"block{index}", torch.cat(parts, 1), flow, cell / scale)
        flow = change[:, :4] if flow is None else flow + change[:, :4]
        mask, features = change[:, 4:5], change[:, 5:]
        warped0, warped1 = _plain_warp(left, flow[:, :2]), _plain_warp(right, flow[:, 2:])
    assert mask is not None
    return warped0 * torch.sigmoid(mask) + warped1 * (1 - torch.sigmoid(mask))


def _plain_encode(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for index, stride in enumerate((2, 1, 1)):
        name = f"encode.cnn{index}"
        x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding=1)
        x = F.leaky_relu(x, 0.2)
    weight, bias = state["encode.cnn3.weight"], state["encode.cnn3.bias"]
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)


def _plain_block(
    state: dict[str, Tensor], name: str, x: Tensor, flow: Tensor | None, cell: float
) -> Tensor:
    x = _plain_resize(x, 1 / cell)
    if flow is not None:
        x = torch.cat((x, _plain_resize(flow, 1 / cell) / cell), 1)
    for part in (f"{name}.conv0.0.0", f"{name}.conv0.1.0"):
        x = F.conv2d(x, state[f"{part}.weight"], state[f"{part}.bias"], stride=2, padding=1)
        x = F.leaky_relu(x, 0.2)
    for index in range(8):
        part = f"{name}.convblock.{index}"
        y = F.conv2d(x, state[f"{part}.conv.weight"], state[f"{part}.conv.bias"], padding=1)
        x = F.leaky_relu(y * state[f"{part}.beta"] + x, 0.2)
    weight, bias = state[f"{name}.lastconv.0.weight"], state[f"{name}.lastconv.0.bias"]
    x = F.pixel_shuffle(F.conv_transpose2d(x, weight, bias, stride=2, padding=1), 2)
    x = _plain_resize(x, cell)
    return torch.cat((x[:, :4] * cell, x[:, 4:]), 1)


def _plain_resize(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _plain_warp(image: Tensor, flow: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid_x = (x + flow[:, 0]) * 2 / (width - 1) - 1
    grid_y = (y + flow[:, 1]) * 2 / (height - 1) - 1
    grid = torch.stack((grid_x, grid_y), -1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)
