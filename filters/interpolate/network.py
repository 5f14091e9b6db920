"""IFNet, the network of RIFE 4.22.lite: from two frames and a moment to motion and a mask.

Method: Huang et al. 2022, Real-Time Intermediate Flow Estimation for Video Frame Interpolation.
Four blocks refine one estimate from coarse to fine; each sees both frames and their features,
warped by the motion found so far.

The module is made for inference: a residual step leaky(conv(x)·beta + x) is one convolution,
because `checkpoint` folds beta and the identity into its weights, and the input channels lie in
the order in which they are computed here. Convolutions run in the dtype of the weights
and channels_last; flow, mask, sampling and blending stay in fp32.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointRejected
from ..options import Way

# Geometry: padding, resizing between block sizes, warping; in fp32, for a flow of some hundred
# pixels in half precision would be wrong by half a pixel.
#
# Resizing by 1/s, bilinear with align_corners=False and s = 2, 4, 8, …, reads of every s x s cell
# only the four pixels in its middle, here called its *taps*, and averages them. So a warp whose
# result is resized at once needs computing at the taps only: the same arithmetic, 4/s² of the
# work.

_GRIDS_KEPT = 16
"""Sampling grids kept: four block sizes for a few picture sizes."""
_PREFIX = "module."


def padding_multiple(scale: float) -> int:
    """Return what padded sizes must be a multiple of, in pixels: 32, or 32/scale for scale < 1.

    The coarsest block works at 1/(8·`scale`) and halves that twice.
    """
    return round(32 / min(scale, 1.0))


def pad(image: Tensor, multiple: int) -> Tensor:
    """Pad (N, C, H, W) with zeros, right and below, until H and W are multiples of `multiple`."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def shape_of_all(sources: list[Tensor]) -> torch.Size:
    """Return the common shape; kernels use one shape for all and would read beyond a smaller one.

    Raises:
        RuntimeError: if one has another.
    """
    shapes = {source.shape for source in sources}
    if len(shapes) != 1:
        raise RuntimeError(f"sizes differ: {sorted(map(tuple, shapes))}")
    return shapes.pop()


def resize(image: Tensor, factor: float) -> Tensor:
    """Resize (N, C, H, W) by `factor`, bilinear with half-pixel centres and no antialiasing."""
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)


def rescale(image: Tensor, cell: float, next_cell: float) -> Tensor:
    """Resample (N, C, H, W) from cells of `cell` pixels to cells of `next_cell` pixels.

    Means: resized by `cell` to full size, then by 1/`next_cell`. Where the second step reads taps,
    these never lie across a pixel centre of the coarse picture, so that both steps are one resize.
    """
    if next_cell >= 1:
        return resize(image, cell / next_cell)
    return resize(resize(image, cell), 1 / next_cell)


def taps(image: Tensor, cell: float) -> Tensor:
    """Return the pixels of (N, C, H, W) that a resize by 1/`cell` reads.

    Returns:
        (N, C, 2H/cell, 2W/cell); for `cell` <= 2 those are all, and it is `image`.
    """
    if cell <= 2:
        return image
    size, (count, channels, height, width) = int(cell), image.shape
    cells = image.view(count, channels, height // size, size, width // size, size)
    middle = slice(size // 2 - 1, size // 2 + 1)
    return cells[:, :, :, middle, :, middle].reshape(
        count, channels, 2 * height // size, 2 * width // size
    )


def merge_taps(image: Tensor, cell: float) -> Tensor:
    """Finish a resize by 1/`cell` of what was computed at the taps; see `taps`."""
    return resize(image, 1 / min(cell, 2))


@lru_cache(maxsize=_GRIDS_KEPT)
def _grid(height: int, width: int, cell: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places of the taps, (1, 2, h, w), and pixels to grid units, (1, 2, 1, 1): x, y."""
    ys = torch.linspace(-1, 1, height, dtype=torch.float64, device=device)
    xs = torch.linspace(-1, 1, width, dtype=torch.float64, device=device)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    places = taps(torch.stack((x, y)).unsqueeze(0).float(), cell)
    to_grid = torch.tensor((2 / (width - 1), 2 / (height - 1)), device=device)
    return places, to_grid.view(1, 2, 1, 1)


def warp(image: Tensor, flow: Tensor, cell: float = 1) -> Tensor:
    """Sample at every tap what lies where the flow points; borders repeat.

    Args:
        image: (N, C, H, W), fp32; H and W at least 2.
        flow: (N, 2, h, w), fp32, pixels of `image`; channel 0 right, channel 1 down; at the taps
            of `cell` (see `taps`), which for `cell` <= 2 are all pixels.
        cell: edge of a cell in pixels.

    Returns:
        (N, C, h, w), fp32.

    Source: Jaderberg et al. 2015, Spatial Transformer Networks, eq. 5.
    """
    places, to_grid = _grid(image.shape[2], image.shape[3], cell, image.device)
    grid = torch.addcmul(places, flow, to_grid).permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


SLOPE = 0.2
"""Of every LeakyReLU."""
BLOCK_CHANNELS = (192, 128, 64, 32)
BLOCK_CELLS = (8, 4, 2, 1)
"""Edge of what is one pixel for a block, in pixels at scale 1."""
NUM_RESIDUALS = 8
NUM_FEATURES = 4
"""Channels that `FeatureEncoder` returns."""
SOURCE_CHANNELS = NUM_FEATURES + 3
"""Input of blocks for one frame: its features, then R, G, B."""
FLOW_CHANNELS = 4
"""x, y that move the left frame, then x, y that move the right one; pixels."""
STATE_CHANNELS = 9
"""Mask logit, then 8 features that a block hands to the next."""
OUT_CHANNELS = FLOW_CHANNELS + STATE_CHANNELS
FIRST_CHANNELS = 2 * SOURCE_CHANNELS + 1
NEXT_CHANNELS = 2 * SOURCE_CHANNELS + STATE_CHANNELS + 1 + FLOW_CHANNELS


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, SLOPE)


def as_convolution(last: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Rewrite a transposed 4x4 convolution of stride 2 as a convolution with four output pixels.

    Returns:
        Its weight, (4 * out, in, 3, 3), and its bias.
    """
    inputs, outputs = last.weight.shape[:2]
    weight = last.weight.new_zeros(2, 2, outputs, inputs, 3, 3)
    taps = ((0, -1, 3), (0, 0, 1), (1, 0, 2), (1, 1, 0))  # side of the pixel, offset, kernel's row
    for down, dy, ky in taps:
        for right, dx, kx in taps:
            weight[down, right, :, :, dy + 1, dx + 1] = last.weight.detach()[:, :, ky, kx].T
    assert last.bias is not None
    return weight.view(4 * outputs, inputs, 3, 3), last.bias.detach().repeat(4)


class FeatureEncoder(nn.Module):
    """Features of a single frame, at its full size."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn0 = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.cnn1 = nn.Conv2d(16, 16, 3, padding=1)
        self.cnn2 = nn.Conv2d(16, 16, 3, padding=1)
        self.cnn3 = nn.ConvTranspose2d(16, NUM_FEATURES, 4, stride=2, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Turn (N, 3, H, W), H and W even, dtype of the weights, into (N, 4, H, W)."""
        x = _leaky(self.cnn0(image))  # (N, 16, H/2, W/2)
        x = _leaky(self.cnn2(_leaky(self.cnn1(x))))
        return self.cnn3(x)  # (N, 4, H, W)


class FlowBlock(nn.Module):
    """One refinement: everything known at some size to a change of the flow and a new state."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        halved = nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1)
        again = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.conv0 = nn.ModuleList((halved, again))
        self.convblock = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(NUM_RESIDUALS)
        )
        self.lastconv = nn.ConvTranspose2d(channels, 4 * out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (N, in, h, w), dtype of the weights, into (N, out, h, w), fp32."""
        for conv in (*self.conv0, *self.convblock):
            x = _leaky(conv(x))  # (N, c, h/4, w/4) in the end
        x = self.lastconv(x)  # (N, 4·out, h/2, w/2)
        return F.pixel_shuffle(x, 2).float().contiguous()  # (N, out, h, w)


class IFNet(nn.Module):
    """Four blocks and the encoder. Build it with `checkpoint.load_ifnet`."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = FeatureEncoder()
        inputs = (FIRST_CHANNELS, *[NEXT_CHANNELS] * 3)
        outputs = (*[OUT_CHANNELS] * 3, FLOW_CHANNELS + 1)  # features of the last are not computed
        self.blocks = nn.ModuleList(map(FlowBlock, inputs, BLOCK_CHANNELS, outputs))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the convolutions."""
        return self.encode.cnn0.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encode.cnn0.weight.device

    def sources(self, image: Tensor) -> Tensor:
        """Put the features of padded frames before their channels.

        (N, C, H, W), fp32, [0, 1]: R, G, B, and alpha where C is 4 → (N, 4 + C, H, W), fp32.
        """
        features = self.encode(self._input(image[:, :3]))
        return torch.cat((features.float(), image), 1)

    def forward(self, pairs: Tensor, timestep: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Find where the pixels of an in-between come from.

        Args:
            pairs: (N, 2, >=7, H, W), fp32: `sources` of the left and the right frame; H and W
                multiples of 32, and of 32/`scale`.
            timestep: (N,), fp32, (0, 1): 0 is the left frame.
            scale: 0.25, 0.5, 1, 2 or 4; size at which motion is sought.

        Returns:
            The flow, (N, 4, H, W), pixels, and the mask's logit, (N, 1, H, W); both fp32.
        """
        first = BLOCK_CELLS[0] / scale
        x = resize(pairs[:, :, :SOURCE_CHANNELS].flatten(1, 2), 1 / first)  # side by side
        y = cast("Tensor", self.blocks[0](self._input(x, _plane(timestep, x))))
        flow = resize(y[:, :FLOW_CHANNELS] * first, first)
        state, cell = y[:, FLOW_CHANNELS:], first
        for block in list(self.blocks)[1:]:
            x = self._next_input(pairs, flow, rescale(state, cell, cell / 2), timestep, cell / 2)
            y, cell = cast("Tensor", block(x)), cell / 2
            flow = flow + resize(y[:, :FLOW_CHANNELS] * cell, cell)
            state = y[:, FLOW_CHANNELS:]
        return flow, resize(state[:, :1], cell)

    def _next_input(
        self, pairs: Tensor, flow: Tensor, state: Tensor, timestep: Tensor, cell: float
    ) -> Tensor:
        flow = taps(flow, cell)
        warped = _warp_pairs(pairs[:, :, :SOURCE_CHANNELS], flow, cell)
        warped = merge_taps(warped.flatten(1, 2), cell)
        return self._input(
            warped, state, _plane(timestep, state), merge_taps(flow, cell) * (1 / cell)
        )

    def _input(self, *parts: Tensor) -> Tensor:
        """Put (N, c, h, w) side by side, in the dtype and layout of the convolutions."""
        count, _, height, width = parts[0].shape
        x = torch.empty(
            (count, sum(part.shape[1] for part in parts), height, width),
            dtype=self.dtype,
            device=self.device,
            memory_format=torch.channels_last,
        )
        start = 0
        for part in parts:  # twice as fast as torch.cat and a conversion
            x[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return x


def _plane(timestep: Tensor, like: Tensor) -> Tensor:
    return timestep.view(-1, 1, 1, 1).expand(-1, 1, *like.shape[-2:])


def _warp_pairs(pairs: Tensor, flow: Tensor, cell: float = 1) -> Tensor:
    """Warp both sides of (N, 2, C, H, W) by their half of (N, 4, h, w), in one sampling."""
    count, _, channels, _, _ = pairs.shape
    halves = flow.reshape(2 * count, 2, *flow.shape[-2:])
    return warp(pairs.flatten(0, 1), halves, cell).view(count, 2, channels, *flow.shape[-2:])


def blend(pairs: Tensor, flow: Tensor, mask: Tensor) -> Tensor:
    """Move both frames to the moment between them and mix them by the mask.

    Pairs are (N, 2, C, H, W), fp32, of any channels, the flow is (N, 4, H, W), in pixels, the mask
    (N, 1, H, W), a logit; large shows the left frame. Returned is (N, C, H, W), fp32.
    """
    left, right = _warp_pairs(pairs, flow).unbind(1)
    return torch.lerp(right, left, torch.sigmoid(mask))


# The ways to run the network: plain torch, or the kernels of `cpu` and `cuda`.

Sources = Sequence[Tensor]
"""Items of what an engine's `sources` returned."""


class Engine(Protocol):
    """Computes in-betweens in the fastest way of a device. Its sources are only for itself."""

    @property
    def way(self) -> Way | None:
        """On a CPU."""
        ...

    def sources(self, images: Tensor) -> Tensor:
        """Compute what is kept of frames for both their gaps.

        (N, 3 or 4, H, W), fp32, [0, 1], on the network's device, H and W multiples of
        :func:`padding_multiple` → (N, …, H, W), of a dtype and with strides that are the engine's.
        """
        ...

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """Compute one in-between per pair of sources.

        Args:
            lefts: items of `sources`, one for each of N earlier frames, wherever they lie; the
                same one may come again.
            rights: as many of the later frames.
            times: N moments, (0, 1); 0 is the left frame.
            scale: 0.25, 0.5, 1, 2 or 4; size at which motion is sought.

        Returns:
            (N, C, H, W), fp32.
        """
        ...


class PlainEngine:
    """Torch alone, on any device."""

    way: Way = "torch"

    def __init__(self, network: IFNet) -> None:
        self._network = network

    def sources(self, images: Tensor) -> Tensor:
        """See :class:`Engine`."""
        return self._network.sources(images)

    def middles(
        self, lefts: Sources, rights: Sources, times: Sequence[float], scale: float
    ) -> Tensor:
        """See :class:`Engine`."""
        pairs = torch.stack([torch.stack(pair) for pair in zip(lefts, rights, strict=True)])
        flow, mask = self._network(pairs, _moved(torch.tensor(times), pairs.device), scale)
        return blend(pairs[:, :, NUM_FEATURES:], flow, mask)


def _moved(times: Tensor, device: torch.device) -> Tensor:
    """Bring a few numbers to a device without waiting for what it does."""
    if device.type == "cuda" and times.device.type == "cpu":
        return times.pin_memory().to(device, non_blocking=True)
    return times


# Recognise a checkpoint of RIFE 4.22.lite by its keys and shapes, and build the network of it.
#
# Versions of RIFE share their names; the shapes alone tell them apart. So loading is strict, and a
# checkpoint of another version is refused with what was found and what was expected.

logger = logging.getLogger(__name__)

_OURS = re.compile(r"encode(?:\.|$)|block[^.]")
_FAULTS_NAMED = 3
"""Keys that a refusal names."""

# Of our input channels, which ones of the checkpoint they are. There: left and right image,
# left and right features, timestep[, mask, 8 features, flow]. Here: features and image of the
# left frame, of the right frame[, mask, 8 features], timestep[, flow].
_SIDES = (6, 7, 8, 9, 0, 1, 2, 10, 11, 12, 13, 3, 4, 5)
_FIRST_ORDER = [*_SIDES, 14]
_NEXT_ORDER = [*_SIDES, *range(15, 24), 14, *range(24, 28)]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Return every key of a checkpoint, without ``module.``, and its shape."""
    with torch.device("meta"):
        network = IFNet()
    shapes: dict[str, tuple[int, ...]] = {}
    for key, value in network.state_dict().items():
        name = _theirs(key)
        if name.endswith(".conv.weight"):
            shapes[name.replace("conv.weight", "beta")] = (1, len(value), 1, 1)
        shapes[name] = tuple(value.shape)
    last = f"block{len(BLOCK_CHANNELS) - 1}.lastconv.0"
    shapes[f"{last}.weight"] = (BLOCK_CHANNELS[-1], 4 * OUT_CHANNELS, 4, 4)
    shapes[f"{last}.bias"] = (4 * OUT_CHANNELS,)
    return shapes


def _theirs(key: str) -> str:
    """Return the name in a checkpoint of a weight or bias of `IFNet`."""
    key = re.sub(r"^blocks\.(\d)", r"block\1", key)
    key = re.sub(r"(conv0\.\d|lastconv)\.", r"\1.0.", key)
    return re.sub(r"(convblock\.\d)\.", r"\1.conv.", key)


def load_ifnet(state: Mapping[str, Tensor]) -> IFNet:
    """Build the network of a state dict, in fp32, on the CPU, ready for inference.

    Keys are with or without ``module.``; any float dtype.

    Raises:
        CheckpointRejected: if it is not a checkpoint of RIFE 4.22.lite.
    """
    bare = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    ours = {key: value for key, value in bare.items() if _OURS.match(key)}
    ignored = sorted({key.partition(".")[0] for key in bare.keys() - ours.keys()})
    _check(ours)
    if ignored:
        logger.info(
            "ignored parts of the checkpoint that only training needs: %s", ", ".join(ignored)
        )
    network = IFNet()
    floats = {key: value.float() for key, value in ours.items()}
    network.load_state_dict(
        {key: _folded(key, floats, value.shape) for key, value in network.state_dict().items()}
    )
    network.requires_grad_(False).eval()
    # torch's annotations leave this argument out
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportUnknownVariableType]


def _check(ours: Mapping[str, Tensor]) -> None:
    expected = expected_shapes()
    faults = [
        f"{key} should be {shape}, found {tuple(ours[key].shape) if key in ours else 'nothing'}"
        for key, shape in expected.items()
        if key not in ours or tuple(ours[key].shape) != shape
    ]
    faults += [
        f"{key} should not be there, found {tuple(ours[key].shape)}"
        for key in ours
        if key not in expected
    ]
    if not faults:
        return
    more = f"; and {len(faults) - _FAULTS_NAMED} more" if len(faults) > _FAULTS_NAMED else ""
    raise CheckpointRejected(
        f"not a RIFE 4.22.lite checkpoint: {'; '.join(faults[:_FAULTS_NAMED])}{more}"
    )


def _folded(key: str, state: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """Bring checked weights into the form of a weight or bias of `IFNet`."""
    name = _theirs(key)
    value = state[name]
    if key.endswith(".conv0.0.weight"):
        return value[:, _FIRST_ORDER if key.startswith("blocks.0.") else _NEXT_ORDER]
    if ".convblock." in key:
        beta = state[re.sub(r"conv\.\w+$", "beta", name)]
        value = value * beta.view(-1, *[1] * (value.ndim - 1))
        if value.ndim == 4:
            value[:, :, 1, 1].diagonal().add_(1)  # the + x of the residual step
    # of the last block less is computed; pixel_shuffle(2) makes every channel of four
    return value[tuple(map(slice, shape))]
