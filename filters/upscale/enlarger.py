"""A network made ready to enlarge pictures: on its device, in tiles, and guarded."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..device import exact_convolutions, is_out_of_memory
from ..errors import FilterError, TooLarge
from ..guard import is_damaged
from ..memory import GIB, available_bytes
from .network import Upscaler
from .resize import resize, scaled_size
from .tiles import Tiles


class Enlarger:
    """Enlarges single pictures: the network at its own scale, then bicubic to any other.

    Args:
        network: in float32; it stays as it is, what computes is a copy.
        device: where to compute, and where the results lie.
        precision: dtype of the convolutions; sums and resizing are in float32.
        tile: the most pixels of a tile's edge; 0 lets memory decide.
    """

    def __init__(
        self,
        network: Upscaler,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        *,
        tile: int = 0,
    ) -> None:
        self.device = device
        self.num_redone_in_fp32 = 0
        self._network = network
        self._tile = tile
        self._tiles = self._ready(precision)
        self._tiles_fp32 = self._tiles if precision == torch.float32 else None  # made if needed

    @property
    def num_halved(self) -> int:
        """How often tiles were halved because memory did not suffice."""
        exact = self._tiles_fp32
        return self._tiles.num_halved + (
            exact.num_halved if exact is not None and exact is not self._tiles else 0
        )

    def check_size(self, width: int, height: int, scale: float) -> None:
        """Make sure that the result alone can fit in memory, before any work.

        Raises:
            TooLarge: if it cannot.
        """
        wanted = scaled_size(width, height, scale)
        needed = self._result_bytes(width, height, scale)
        free = available_bytes(self.device)
        if free is not None and needed > free:
            raise TooLarge(
                f"enlarging {width}x{height} to {wanted[0]}x{wanted[1]} needs "
                f"{needed / GIB:.1f} GiB of memory for a single frame, but {self.device} has "
                f"{free / GIB:.1f} GiB free; ask for a smaller scale"
            )

    def __call__(self, pixels: Tensor, scale: float) -> Tensor:
        """Enlarge a picture.

        Args:
            pixels: (3, H, W), any float dtype and device, [0, 1].
            scale: how much larger, 1 to 8.

        Returns:
            (3, ⌊H·scale⌋, ⌊W·scale⌋), float32, [0, 1], on the device.

        Raises:
            TooLarge: if it does not fit in memory, not even in the smallest tiles.
            FilterError: if the network gives NaN or Inf, in float32 too.
        """
        _, height, width = pixels.shape
        try:
            with torch.inference_mode(), exact_convolutions(self.device):
                source = pixels[None].to(self.device, torch.float32)
                enlarged = resize(self._checked(source), *scaled_size(width, height, scale))
                return torch.clamp(enlarged, 0, 1)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TooLarge(
                f"no memory is left on {self.device} for the enlarged {width}x{height} frame"
            ) from error

    def _checked(self, source: Tensor) -> Tensor:
        """Run the network; once more in float32 where the result is damaged."""
        result = self._tiles(source)
        if not is_damaged(result, source):
            return result
        if self._tiles is not self._tiles_fp32:
            self.num_redone_in_fp32 += 1
            self._tiles_fp32 = self._tiles_fp32 or self._ready(torch.float32)
            result = self._tiles_fp32(source)
        # black in float32 is what the network means; NaN and Inf are no picture
        if not torch.isfinite(result).all():
            raise FilterError(
                f"the upscaling network gives NaN or Inf for a {source.shape[3]}x{source.shape[2]} "
                "frame in fp32 too: its weights or the frame are damaged"
            )
        return result

    def _ready(self, precision: torch.dtype) -> Tiles:
        network = copy.deepcopy(self._network).to(self.device, precision)
        # torch's stub of `to` forgets this argument
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return Tiles(network, self._tile)

    def _result_bytes(self, width: int, height: int, scale: float) -> int:
        """Sum up a frame's results in float32: the network's, resized where needed, clamped."""
        own = (width * self._network.scale, height * self._network.scale)
        wanted = scaled_size(width, height, scale)
        num = own[0] * own[1] + (1 if own == wanted else 2) * wanted[0] * wanted[1]
        return num * 3 * torch.float32.itemsize
