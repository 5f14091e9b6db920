"""A network made ready to enlarge pictures: on its device, in tiles, and guarded."""

from __future__ import annotations

import copy
import threading

import torch
from torch import Tensor

from ..device import exact_convolutions, is_out_of_memory
from ..errors import FilterError, TooLarge
from ..guard import is_damaged
from ..memory import GIB, available_bytes
from .network import Upscaler
from .on_cpu import on_cpu
from .reduced import ReducedSRVGG, can_reduce
from .resize import resize, scaled_size
from .srvgg import SRVGGNetCompact
from .tiles import MOST_CPU_BYTES, Tiles


class Enlarger:
    """Enlarges single pictures: the network at its own scale, then bicubic to any other.

    Several threads may call it at the same time.

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
        self._lock = threading.Lock()  # of the counter above, and of what is made once
        self._network = network
        self._precision = precision
        self._tile = tile
        self._tiles: dict[tuple[torch.dtype, float], Tiles] = {}  # made when they are needed

    @property
    def num_halved(self) -> int:
        """How often tiles were halved because memory did not suffice."""
        return sum(tiles.num_halved for tiles in tuple(self._tiles.values()))

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

    def needed_bytes(self, width: int, height: int, scale: float) -> int:
        """Estimate the memory that one picture takes at most: its results and activations."""
        values = width * height * self._network.values_per_pixel
        activations = min(values * self._precision.itemsize, MOST_CPU_BYTES)
        return self._result_bytes(width, height, scale) + activations

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
                enlarged = resize(self._checked(source, scale), *scaled_size(width, height, scale))
                return enlarged.clamp_(0, 1)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TooLarge(
                f"no memory is left on {self.device} for the enlarged {width}x{height} frame"
            ) from error

    def _checked(self, source: Tensor, scale: float) -> Tensor:
        """Run the network; once more in float32 where the result is damaged."""
        result = self._ready(self._precision, scale)(source)
        if not is_damaged(result, source):
            return result
        if self._precision != torch.float32:
            with self._lock:
                self.num_redone_in_fp32 += 1
            result = self._ready(torch.float32, scale)(source)
        # black in float32 is what the network means; NaN and Inf are no picture
        if not torch.isfinite(result).all():
            raise FilterError(
                f"the upscaling network gives NaN or Inf for a {source.shape[3]}x{source.shape[2]} "
                "frame in fp32 too: its weights or the frame are damaged"
            )
        return result

    def _ready(self, precision: torch.dtype, scale: float) -> Tiles:
        """Give the network in a precision, by which it enlarges by `scale` or by its own."""
        at_once = can_reduce(self._network, scale)
        key = precision, scale if at_once else self._network.scale
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = Tiles(self._copied(precision, int(key[1])), self._tile)
            return self._tiles[key]

    def _copied(self, precision: torch.dtype, scale: int) -> Upscaler:
        network: Upscaler = copy.deepcopy(self._network)
        if isinstance(network, SRVGGNetCompact) and scale != network.scale:
            network = ReducedSRVGG(network, scale)
        network.to(self.device, precision)
        # torch's stub of `to` forgets this argument
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.device.type == "cuda":
            from .on_cuda import on_cuda

            return on_cuda(network)
        return on_cpu(network)

    def _result_bytes(self, width: int, height: int, scale: float) -> int:
        """Sum up a frame's results in float32: the network's, resized where needed, clamped."""
        factor = int(scale) if can_reduce(self._network, scale) else self._network.scale
        own = (width * factor, height * factor)
        wanted = scaled_size(width, height, scale)
        num = own[0] * own[1] + (1 if own == wanted else 2) * wanted[0] * wanted[1]
        return num * 3 * torch.float32.itemsize
