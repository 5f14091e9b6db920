"""Convolutions by compiled kernels in fp32 or bf16; 3x3 ones with a quarter of the multiplications.

See `winograd.c`.
"""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import groupby
from math import prod
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Residual
from .native import kernels, run, structure

# Weights of 3x3 convolutions for `winograd.c`.
#
# They are transformed in float64. For bf16 each is rounded after the errors of those before it:
# with the 36 values of a kernel come 36 sums of pixels that are much alike where the picture is
# smooth, so that a value can make good most of what rounding another one spoilt. Measured on
# features of RRDBNet that reduces the error of the weights by 2 dB. In fp32 rounding has no visible
# cost.
#
# Source: Frantar et al. 2022, GPTQ, for rounding one after the other by the inverse covariance;
# here the covariance is that of a model, the same for all kernels.

LANES = 16
"""Channels that the kernel processes at once."""
_TOGETHER = {torch.float32: 1, torch.bfloat16: 2}
"""Channels that one instruction multiplies and adds."""
_MOST_VECTORS = 4
"""Of `LANES` outputs, for which there are registers at once."""
_POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_EDGE = 4
_SUMS = 36
_CORRELATION = 0.6
"""Of a pixel and the next one. In features it is 0.84 to 0.94, but what is not smooth counts too.
RRDBNet's results came 0.5 dB closer to fp32 than by plain rounding, on four crops of a film; values
from 0.4 to 0.9 differ by less than chance."""


def transform_weights(weight: Tensor) -> Tensor:
    """Turn (out, in, 3, 3), fp32 or bf16, by G g G^T, into what the kernel reads, of its dtype.

    Channels are filled up with zeros, out to a multiple of 16. The outputs of a panel lie together,
    see `panel_of`.

    Returns:
        (36, in * out): in fp32 (in, panel) for each panel, one after the other. In bf16 in is
        filled up to a multiple of 32, of which first come the even ones, then the odd ones, and
        pairs of them lie together: (in/2, panel, 2).
    """
    num_out, num_in = weight.shape[:2]
    matrix, together = _weights_matrix(), _TOGETHER[weight.dtype]
    kernels = weight.double().permute(2, 3, 1, 0).reshape(9, -1)
    exact = torch.kron(matrix, matrix) @ kernels
    values = _rounded(exact) if weight.dtype == torch.bfloat16 else exact
    groups = -(-num_in // (LANES * together))
    padded = weight.new_zeros(_SUMS, groups * LANES * together, padded_channels(num_out))
    padded[:, :num_in, :num_out] = values.view(_SUMS, num_in, num_out)
    split = padded.view(_SUMS, groups, LANES, together, -1).transpose(2, 3)
    ordered = split.reshape(_SUMS, -1, together, padded_channels(num_out))
    panels = torch.split(ordered, panel_of(padded_channels(num_out)), 3)
    return torch.cat([panel.transpose(2, 3).flatten(1) for panel in panels], 1)


def padded_channels(num_out: int) -> int:
    """Round a number of outputs up to what the kernel accepts."""
    return num_out + -num_out % LANES


def panel_of(num_out: int) -> int:
    """Choose how many outputs make a panel, for which a thread has registers.

    Where one does not do it is an even number of panels, for threads to share.
    """
    vectors = num_out // LANES
    panels = 1 if vectors <= _MOST_VECTORS else 2 * -(-vectors // (2 * _MOST_VECTORS))
    return -(-vectors // panels) * LANES


def _rounded(values: Tensor) -> Tensor:
    """Round (36, n) to bf16, kept in float64."""
    shares = _shares()
    values = values.clone()
    for index in range(_SUMS):
        exact = values[index].clone()
        values[index] = exact.to(torch.bfloat16).double()
        values[index + 1 :].addr_(shares[index, index + 1 :], values[index] - exact)
    return values


@lru_cache(maxsize=1)
def _shares() -> Tensor:
    """How the error of a value goes over to those after it: (36, 36), float64."""
    distance = torch.arange(_EDGE + 2, dtype=torch.float64)
    pixels = _CORRELATION ** (distance[:, None] - distance).abs()
    to_sums, to_pixels = _sums_matrix(), _pixels_matrix()
    along = (to_pixels.T @ to_pixels) * (to_sums @ pixels @ to_sums.T)
    inverse = np.linalg.inv(torch.kron(along, along).numpy())
    upper = torch.tensor(np.linalg.cholesky(inverse).T.tolist(), dtype=torch.float64)
    return upper / upper.diagonal()[:, None]


def _weights_matrix() -> Tensor:
    """Toom-Cook's matrix for three weights: (6, 3), float64."""
    scales = [prod(point - other for other in _others(point)) for point in _POINTS]
    rows = [
        [p**power / scale for power in range(3)] for p, scale in zip(_POINTS, scales, strict=True)
    ]
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def _sums_matrix() -> Tensor:
    """Toom-Cook's matrix for six pixels: (6, 6), float64, as in the kernel."""
    rows = [[*_product(_others(point)), 0.0] for point in _POINTS]
    return torch.tensor([*rows, _product(_POINTS)], dtype=torch.float64)


def _pixels_matrix() -> Tensor:
    """Toom-Cook's matrix for four results: (4, 6), float64, as in the kernel."""
    columns = [[point**power for power in range(_EDGE)] for point in _POINTS]
    return torch.tensor([*columns, [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).T


def _others(point: float) -> list[float]:
    return [other for other in _POINTS if other != point]


def _product(roots: Sequence[float]) -> list[float]:
    """Multiply out (x - root) of all roots: factors, lowest power first."""
    return np.poly(roots)[::-1].tolist()


_FEWEST_CHANNELS = {torch.float32: 16, torch.bfloat16: 32}
"""With fewer, turning costs what multiplying saves."""
PLANES = 3
Layer = nn.Conv2d | nn.ConvTranspose2d


_Pixels = structure("void *values; int64 step")
_Residual = structure("pixels to; float gain", pixels=_Pixels)
ConvolutionJob = structure(
    "pixels input; void *weights, *bias, *slopes; pixels output; void *picture; residual near, far;"
    "int present, images, height, width, in_channels, out_channels, panel, doubled, narrow;"
    "void *input_rows, *output_rows; int made, in_height, in_width, stride, transposed",
    pixels=_Pixels,
    residual=_Residual,
)
"""The structure of `convolution.h`."""
_Stack = structure("void *jobs; int count")
"""The structure of `winograd.c`."""


@lru_cache
def is_available(dtype: torch.dtype) -> bool:
    """Return whether the kernel is there and this CPU has what it needs."""
    if kernels() is None or dtype not in _FEWEST_CHANNELS:
        return False
    job = ConvolutionJob(in_channels=LANES, out_channels=LANES)
    return run("convolve", job, is_bf16=dtype == torch.bfloat16) == 0


def _is_plain(layer: Layer, channels: int) -> bool:
    dtype = layer.weight.dtype
    if layer.weight.device.type != "cpu" or not is_available(dtype):
        return False
    plain = (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
    return plain and channels >= _FEWEST_CHANNELS[dtype]


class CompiledConv(ABC):
    """A convolution and its activation by a compiled kernel.

    The layer is one that it `fits`, in fp32 or bf16, as are inputs and outputs; `slopes` are of
    PReLU, (out,); None: no activation.
    """

    def __init__(self, layer: Layer, slopes: Tensor | None = None) -> None:
        self.num_in, self.num_out = layer.in_channels, layer.out_channels
        self.dtype = layer.weight.dtype
        self._weights = self.packed(layer)
        wide = (0, padded_channels(self.num_out) - self.num_out)
        bias = torch.zeros(self.num_out) if layer.bias is None else layer.bias.detach().float()
        self._bias = F.pad(bias, wide)
        self._slopes = None if slopes is None else F.pad(slopes.detach().float(), wide)

    @staticmethod
    @abstractmethod
    def fits(layer: Layer) -> bool:
        """Return whether this does what a layer does, and that is worth a try."""

    @staticmethod
    @abstractmethod
    def fits_rgb(layer: Layer) -> bool:
        """Return whether `to_rgb` does what a layer does."""

    @staticmethod
    @abstractmethod
    def packed(layer: Layer) -> Tensor:
        """Lay out weights in the order in which the kernel reads them."""

    def __call__(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W), channels_last, into (N, out, H', W') of the same kind.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        return self.into(x, self.empty_result(x))

    def empty_result(self, x: Tensor) -> Tensor:
        """Allocate what the convolution of x fills: `result_shape`, channels_last."""
        return torch.empty(
            self.result_shape(x), dtype=self.dtype, memory_format=torch.channels_last
        )

    def result_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Return (N, out, H', W')."""
        return len(x), self.num_out, x.shape[2], x.shape[3]

    def into(self, x: Tensor, out: Tensor, *residuals: Residual, doubled: bool = False) -> Tensor:
        """Convolve into `out`, which may be some channels of a larger tensor.

        Plain: ``y = prelu(conv(x))``, then for each ``y = y * residual.gain + residual.to``,
        rounded once.

        Args:
            x: (N, in, H, W), channels_last, may be some of more.
            out: (N, out, H, W), likewise; not what is read, but a residual may be it.
            *residuals: at most two.
            doubled: whether x stands for squares of two by two equal pixels; out is twice as large.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        job = self.job(x, doubled=doubled)
        job.output = self.pixels(out)
        for name, residual in zip(("near", "far"), residuals, strict=False):
            setattr(job, name, _Residual(self.pixels(residual.to), residual.gain))
        self._run(job)
        return out

    def to_rgb(self, x: Tensor) -> Tensor:
        """Turn (N, in, H, W), channels_last, into (N, 3, H, W), float32.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        result = torch.empty(len(x), PLANES, *x.shape[2:])
        job = self.job(x)
        job.picture = result.data_ptr()
        self._run(job)
        return result

    def job(self, x: Tensor, *, doubled: bool = False) -> ctypes.Structure:
        """Describe a call that lacks an output; x must outlive it."""
        return ConvolutionJob(
            input=self.pixels(x),
            weights=self._weights.data_ptr(),
            bias=self._bias.data_ptr(),
            slopes=None if self._slopes is None else self._slopes.data_ptr(),
            present=self.num_in,
            images=len(x),
            height=x.shape[2] << doubled,
            width=x.shape[3] << doubled,
            out_channels=len(self._bias),
            doubled=doubled,
        )

    @abstractmethod
    def _run(self, job: ctypes.Structure) -> None: ...

    def pixels(self, x: Tensor) -> ctypes.Structure:
        """Return addresses and strides of (N, C, H, W), whose rows are adjacent."""
        num, channels, height, width = x.shape
        assert x.dtype == self.dtype
        assert channels == 1 or x.stride(1) == 1
        step = x.stride(3) if width > 1 else x.stride(2) if height > 1 else x.stride(0)
        assert height == 1 or x.stride(2) == width * step
        assert num == 1 or x.stride(0) == height * width * step
        return _Pixels(x.data_ptr(), step)


class WinogradConv(CompiledConv):
    """3x3 in fp32 or bf16, see :class:`CompiledConv`."""

    narrow = False
    """Whether fp32 is computed with AVX2 even where there is AVX-512, to compare both."""

    @staticmethod
    def fits(layer: Layer) -> bool:
        """Return whether the kernel does what a layer does, on enough channels."""
        channels = layer.in_channels, layer.out_channels
        return not any(count % LANES for count in channels) and _is_plain(layer, min(channels))

    @staticmethod
    def fits_rgb(layer: Layer) -> bool:
        """See :class:`CompiledConv`."""
        fits = layer.in_channels % LANES == 0 and layer.out_channels == PLANES
        return fits and _is_plain(layer, layer.in_channels)

    @staticmethod
    def packed(layer: Layer) -> Tensor:
        """See `transform_weights`."""
        return transform_weights(layer.weight.detach())

    def job(self, x: Tensor, *, doubled: bool = False) -> ctypes.Structure:
        """See :class:`CompiledConv`."""
        job = super().job(x, doubled=doubled)
        job.in_channels = self._weights.shape[1] // job.out_channels
        job.panel = panel_of(job.out_channels)
        job.narrow = self.narrow
        return job

    def _run(self, job: ctypes.Structure) -> None:
        if run("convolve", job, is_bf16=self.dtype == torch.bfloat16):
            raise MemoryError(f"no memory is left to convolve {job.width}x{job.height}")


class WinogradStack:
    """Layers one after the other, the same as layer after layer.

    A single thread computes strip after strip through all layers, so that results in between stay
    in the caches. Several would wait for each other after every layer of every strip, which costs
    more than it saves where other work takes a core from one of them: they compute whole layers.
    """

    def __init__(self, layers: Sequence[WinogradConv]) -> None:
        self._layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        """Run all on (N, C, H, W), channels_last, which stays as it is.

        Raises:
            MemoryError: if there is none for the strips.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        return self._whole(x) if torch.get_num_threads() > 1 else self._in_strips(x)

    def _whole(self, x: Tensor) -> Tensor:
        out = x
        for layer, seen, out in in_turns(self._layers, x):
            layer.into(seen, out)
        return out

    def _in_strips(self, x: Tensor) -> Tensor:
        last = self._layers[-1]
        result = last.empty_result(x)
        for one, out in zip(torch.split(x, 1), torch.split(result, 1), strict=True):
            jobs = [layer.job(one[:, :1]) for layer in self._layers]
            for job, layer in zip(jobs, self._layers, strict=True):
                job.input = _Pixels(None, layer.num_in)
                job.output = _Pixels(None, layer.num_out)
            jobs[0].input, jobs[-1].output = self._layers[0].pixels(one), last.pixels(out)
            array = (ConvolutionJob * len(jobs))(*jobs)
            stack = _Stack(ctypes.addressof(array), len(jobs))
            if run("stack", stack, is_bf16=last.dtype == torch.bfloat16):
                raise MemoryError(f"no memory is left to convolve {x.shape[3]}x{x.shape[2]}")
        return result


_Conv = TypeVar("_Conv", bound=CompiledConv)


def in_turns(layers: Sequence[_Conv], x: Tensor) -> Iterator[tuple[_Conv, Tensor, Tensor]]:
    """Return what each of several layers reads and fills: two tensors in turns where possible.

    From 400x300 pixels on, 64 channels in fp32 are more than the allocator keeps: each new tensor
    would be pages that the system has to clear.
    """
    held = [x]
    for layer in layers:
        fits = len(held) > 2 and held[-2].shape == layer.result_shape(held[-1])
        held = [*held[-2:], held[-2] if fits else layer.empty_result(held[-1])]
        yield layer, held[-2], held[-1]


def stacked(layers: Iterable[Callable[[Tensor], Tensor]]) -> list[Callable[[Tensor], Tensor]]:
    """Replace each run of several :class:`WinogradConv` by a :class:`WinogradStack`."""
    found: list[Callable[[Tensor], Tensor]] = []
    for is_own, group in groupby(layers, lambda layer: isinstance(layer, WinogradConv)):
        own = list(group)
        joined = is_own and len(own) > 1
        found += [WinogradStack(cast("list[WinogradConv]", own))] if joined else own
    return found


# Direct convolutions in bf16 by the matrix tiles of AMX; see `amx.c`.
#
# How fast they are on a CPU with AMX has not been measured yet. The environment variable
# ``UPFRAME_TILES=emulate`` computes the same without AMX, slowly, for tests (with AVX512-BF16).

SWITCH = "UPFRAME_TILES"
_PAIRS = 16
"""Of input channels in a tile, each with as many outputs."""
_DEPTH = 2 * _PAIRS


Layers = structure("void *jobs; int count, emulated")
"""The structure of `amx.c`: convolutions, and whether tiles are emulated."""


def has_tiles(dtype: torch.dtype) -> bool:
    """Return whether the kernel is there, for a dtype, and this CPU and its system have AMX."""
    return dtype == torch.bfloat16 and _works(_is_emulated())


def _is_emulated() -> bool:
    return os.environ.get(SWITCH) == "emulate"


@lru_cache
def _works(emulated: bool) -> bool:
    if not hasattr(kernels(), "upframe_tiles"):  # no library, or an older one, which has all else
        return False
    return run("tiles", Layers(emulated=emulated), is_bf16=True) == 0


class TileConv(CompiledConv):
    """A `CompiledConv` of any number of channels in bf16.

    That is a 3x3 convolution of stride 1 or 2, or a transposed 4x4 one of stride 2.
    """

    def __init__(self, layer: Layer, slopes: Tensor | None = None) -> None:
        super().__init__(layer, slopes)
        self._transposed = isinstance(layer, nn.ConvTranspose2d)
        self._stride = 1 if self._transposed else layer.stride[0]

    @staticmethod
    def fits(layer: Layer) -> bool:
        """See `CompiledConv`."""
        own = (layer.kernel_size, layer.stride, layer.padding)
        if isinstance(layer, nn.ConvTranspose2d):
            plain = (*own, layer.output_padding) == ((4, 4), (2, 2), (1, 1), (0, 0))
        else:
            plain = own in [((3, 3), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1))]
        plain = plain and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        return plain and layer.weight.device.type == "cpu" and has_tiles(layer.weight.dtype)

    @staticmethod
    def fits_rgb(layer: Layer) -> bool:
        """See `CompiledConv`."""
        own = TileConv.fits(layer) and layer.stride == (1, 1)
        return own and layer.out_channels == PLANES

    @staticmethod
    def packed(layer: Layer) -> Tensor:
        """Lay out weights in the order in which the kernel reads them.

        Returns:
            (grids, panels, taps, in / 32, tiles, 16, 16, 2), flat, bf16: of a transposed
            convolution four grids of pixels of the result, in reading order; panels of 32 outputs,
            two tiles, the last maybe of one; pairs of inputs lie together. Channels are filled up
            with zeros.
        """
        weight = layer.weight.detach()
        if isinstance(layer, nn.ConvTranspose2d):
            grids = weight.transpose(0, 1).flip(2, 3).unfold(2, 2, 2).unfold(3, 2, 2)
            # of the reversed kernel, pixels of even rows see rows 0 and 2, the others 1 and 3
            kernels = grids.permute(4, 5, 2, 3, 1, 0).flatten(0, 1).flatten(1, 2)
        else:
            kernels = weight.permute(2, 3, 1, 0).flatten(0, 1)[None]
        num_in, num_out = kernels.shape[2:]
        wide = padded_channels(num_out)
        padded = F.pad(kernels, (0, wide - num_out, 0, -num_in % _DEPTH)).contiguous()
        tiles = padded.view(*kernels.shape[:2], -1, _PAIRS, 2, wide // 16, 16)
        panels = torch.split(tiles.permute(0, 1, 2, 5, 3, 6, 4), 2, 3)
        return torch.cat([panel.flatten(1) for panel in panels], 1).flatten()

    def result_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Return (N, out, H', W')."""
        height, width = (
            2 * size if self._transposed else -(-size // self._stride) for size in x.shape[2:]
        )
        return len(x), self.num_out, height, width

    def job(self, x: Tensor, *, doubled: bool = False) -> ctypes.Structure:
        """See `CompiledConv`."""
        job = super().job(x, doubled=doubled)
        job.in_height, job.in_width = x.shape[2:]
        job.height, job.width = -(-job.height // self._stride), -(-job.width // self._stride)
        job.in_channels = self.num_in + -self.num_in % _DEPTH
        job.made, job.stride, job.transposed = self.num_out, self._stride, self._transposed
        return job

    def _run(self, job: ctypes.Structure) -> None:
        _run_all([job])


class TileStack:
    """Layers one after the other in one call, whose results alternate between two tensors."""

    def __init__(self, layers: Sequence[TileConv]) -> None:
        self._layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        """Run all on (N, C, H, W), channels_last, which stays as it is.

        Raises:
            MemoryError: if there is none for a few tiles.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        calls = list(in_turns(self._layers, x))  # tensors must outlive the jobs
        jobs = [layer.job(seen) for layer, seen, _ in calls]
        for job, (layer, _, out) in zip(jobs, calls, strict=True):
            job.output = layer.pixels(out)
        _run_all(jobs)
        return calls[-1][2]


def in_a_row(layers: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """Chain layers, in one call where all are :class:`TileConv`; see also `stacked`."""
    tiles = [layer for layer in layers if isinstance(layer, TileConv)]
    if len(tiles) == len(layers):
        return TileStack(tiles)
    steps = stacked(layers)
    return lambda x: reduce(lambda y, step: step(y), steps, x)


def _run_all(jobs: Sequence[ctypes.Structure]) -> None:
    array = (ConvolutionJob * len(jobs))(*jobs)
    layers = Layers(ctypes.addressof(array), len(jobs), _is_emulated())
    if run("tiles", layers, is_bf16=True):
        largest = max(jobs, key=lambda job: job.height * job.width)
        raise MemoryError(f"no memory is left to convolve {largest.width}x{largest.height}")
