"""SRVGGNetCompact: a plain stack of convolutions at the input's size that adds detail to it.

Source: Wang et al. 2021, Real-ESRGAN; the compact network of its release 0.2.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .network import Upscaler


class SRVGGNetCompact(Upscaler):
    """Convolutions with PReLU, then each pixel's detail is laid out as a square of pixels.

    Args:
        num_feat: channels between the convolutions.
        num_conv: convolutions from `num_feat` to `num_feat`; one more comes before and behind.
        scale: 1 or more.
    """

    def __init__(self, num_feat: int, num_conv: int, scale: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for num_in in (3, *[num_feat] * num_conv):
            layers += [nn.Conv2d(num_in, num_feat, 3, padding=1), nn.PReLU(num_feat)]
        layers.append(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)
        self.scale = scale
        self.margin = num_conv + 2  # each convolution sees one pixel further: tiles are exact
        self.multiple = 1
        # a layer's input and output; behind the last one also the float32 result
        self.values_per_pixel = max(2 * num_feat, num_feat + 3 * scale**2) + 6 * scale**2

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (N, 3, H, W) float32; see :class:`Upscaler`."""
        detail = self.body(x.to(self.weight.dtype, memory_format=torch.channels_last))
        return add_detail(x, detail, self.scale)  # detail: (N, 3 * scale², H, W)


def add_detail(x: Tensor, detail: Tensor, scale: int) -> Tensor:
    """Enlarge x to squares of equal pixels and add to each pixel its own detail.

    The same as ``pixel_shuffle(detail) + interpolate(x, mode="nearest")``, in one pass and with
    the sum in float32 whatever the detail was computed in.

    Args:
        x: (N, 3, H, W), float32.
        detail: (N, 3 * scale², H, W), any float dtype and memory format.
        scale: edge of the squares.

    Returns:
        (N, 3, H * scale, W * scale), float32, contiguous.
    """
    num, channels, height, width = x.shape
    result = x.new_empty(num, channels, height * scale, width * scale)
    squares = detail.view(num, channels, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    out = result.view(num, channels, height, scale, width, scale)
    torch.add(squares, x[:, :, :, None, :, None], out=out)
    return result
