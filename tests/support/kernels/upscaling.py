"""Small networks with random weights, and real ones that fail as devices do."""

import torch
from torch import Tensor

from upframe.filters.upscale.network import RRDBNet, SRVGGNetCompact, Upscaler


def small_srvgg(num_feat: int = 8, num_conv: int = 2, scale: int = 2) -> SRVGGNetCompact:
    torch.manual_seed(1)
    network = SRVGGNetCompact(num_feat, num_conv, scale)
    return network.requires_grad_(False).eval()


def small_rrdb(num_feat: int = 8, num_block: int = 1, scale: int = 4) -> RRDBNet:
    torch.manual_seed(1)
    network = RRDBNet(num_feat, num_block, 4, scale)
    return network.requires_grad_(False).eval()


class Wrapped(Upscaler):
    """A network around another one, alike in everything."""

    def __init__(self, inner: Upscaler) -> None:
        super().__init__()
        self.inner = inner
        self.scale, self.margin = inner.scale, inner.margin
        self.multiple, self.values_per_pixel = inner.multiple, inner.values_per_pixel

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class OutOfMemoryAbove(Wrapped):
    """Fails as an allocator does on pictures with more than so many pixels."""

    def __init__(self, inner: Upscaler, num_pixels: int) -> None:
        super().__init__(inner)
        self.num_pixels = num_pixels
        self.areas: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        area = x.shape[2] * x.shape[3]
        self.areas.append(area)
        if area > self.num_pixels:
            raise torch.OutOfMemoryError(f"tried to allocate {area} pixels")
        return self.inner(x)


class DamagedInHalf(Wrapped):
    """Gives a constant instead of a picture unless its weights are float32."""

    def __init__(self, inner: Upscaler, value: float) -> None:
        super().__init__(inner)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        result = self.inner(x)
        return result if self.weight.dtype == torch.float32 else torch.full_like(result, self.value)
