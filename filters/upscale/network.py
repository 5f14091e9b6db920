"""What the tiles and the filter know about an enlarging network."""

from __future__ import annotations

from torch import Tensor, nn


class Upscaler(nn.Module):
    """Base of the networks: R'G'B' in, R'G'B' `scale` times as large out.

    A subclass sets the attributes and writes `forward`, which takes (N, 3, H, W) float32 of any
    size, [0, 1], and gives (N, 3, H * scale, W * scale) float32, not clamped. Convolutions are
    computed in the dtype of the weights.
    """

    scale: int
    """Pixels of the result for each of the input, in each direction."""
    margin: int
    """Pixels of the input beyond its own edge that a tile must see to fit its neighbours."""
    multiple: int
    """Tiles must begin at a multiple of this."""
    values_per_pixel: int
    """The most activation values that are alive at once, for each pixel of the input."""

    def take_form_of(self, other: Upscaler) -> None:
        """Set the attributes to those of the network that this one stands for."""
        self.scale, self.margin = other.scale, other.margin
        self.multiple, self.values_per_pixel = other.multiple, other.values_per_pixel

    @property
    def weight(self) -> Tensor:
        """Any one weight: its dtype and device are those of the network."""
        return next(self.parameters())
