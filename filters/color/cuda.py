"""Colours by kernels on a CUDA card: a picture is read once, and what goes out is written once.

The first picture of a stream is also computed by plain torch and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial

import torch
from torch import Tensor

from ..frame import Color, Picture, PixelFormat
from ..kernels.convolution import Band, band_of, identity
from ..kernels.cuda import GuardedKernels, KernelSelfTest
from .planes import Phase, codes_of_rgb, downsample, from_rgb, phases, rgb_of_codes, upsample

_ROWS, _COLUMNS = 4, 256
"""Pixels of a program."""
_TRIED = 512
"""Rows and columns of a frame that are compared with plain torch."""
_MOST_OFF = 1e-5
"""Largest difference of R, G or B that the order of sums in fp32 explains."""
_MOST_TIPPED = 1e-3
"""Share of codes so close to a half that they may be rounded the other way."""


_kernels = cache(partial(GuardedKernels, f"{__package__}.cuda_kernels"))


class YuvDecoder:
    """Coded YUV planes to R'G'B'."""

    def __init__(self) -> None:
        self._self_test = KernelSelfTest("colours are decoded by plain torch")
        self._band = cache(_enlarging)

    def __call__(
        self, picture: Picture, tolerance: float, outside: Tensor, plain: Callable[[], Tensor]
    ) -> Tensor | None:
        """Decode a picture whose planes lie on the card.

        Args:
            picture: any; the result is None where the kernels do not support its family.
            tolerance: how far a value may be outside [0, 1] without being counted.
            outside: (1,), int64; what is outside is added to it.
            plain: returns (3, H, W), clipped, by plain torch.

        Returns:
            (3, H, W), float32, [0, 1]; None where `plain` must do it.
        """
        form = PixelFormat.parse(picture.pix_fmt)
        if form.family != "yuv":
            return None
        if not self._self_test.passed(lambda: _off(self._made(picture, form), plain())):
            return None
        return self._made(picture, form, tolerance, outside)

    def _made(
        self,
        picture: Picture,
        form: PixelFormat,
        tolerance: float = 0.0,
        outside: Tensor | None = None,
    ) -> Tensor:
        luma = picture.planes[0].contiguous()
        planes = picture.planes[1:]
        # torch.stack does not support uint16
        chroma = planes[0].new_empty(len(planes), *planes[0].shape)
        for one, plane in zip(chroma, planes, strict=True):
            one.copy_(plane)
        height, width = luma.shape
        across, down = phases(picture.color.chroma_location)
        if form.chroma_shift_y:
            chroma = _along(chroma, self._band(chroma.shape[1], height, down, luma.device), -2)
        if form.chroma_shift_x:
            band = self._band(chroma.shape[2], width, across, luma.device)
        else:
            band = self._band(width, width, "first", luma.device)
        table = _table(rgb_of_codes, form, picture.color, width, height, luma.device)
        out = torch.empty(3, height, width, device=luma.device)
        if outside is None:
            outside = torch.zeros(1, dtype=torch.int64, device=luma.device)
        _kernels().decoded[_grid(width, height)](
            luma, chroma, out, band.starts, band.weights, table, outside, tolerance,
            chroma.shape[2], width, height,
            TAPS=band.num_taps, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
        return out


class YuvEncoder:
    """R'G'B' to coded YUV planes."""

    def __init__(self) -> None:
        self._self_test = KernelSelfTest("colours are encoded by plain torch")
        self._band = cache(_halving)

    def __call__(
        self, pixels: Tensor, form: PixelFormat, color: Color, outside: Tensor
    ) -> tuple[Tensor, ...] | None:
        """Encode a frame that lies on the card; see :func:`~.planes.from_rgb`.

        Args:
            pixels: (3, H, W), any float dtype and strides.
            form: the result is None where the kernels do not support its family.
            color: how; what it leaves open is taken from the size.
            outside: (1,), int64; values outside [0, 1], which are clipped, are added to it.

        Returns:
            The planes, on the card; None where plain torch must do it.
        """
        if form.family != "yuv":
            return None
        if pixels.stride(2) != 1:
            pixels = pixels.contiguous()
        if not self._self_test.passed(lambda: self._trial(pixels, form, color)):
            return None
        return self._made(pixels, form, color, outside)

    def _trial(self, pixels: Tensor, form: PixelFormat, color: Color) -> str | None:
        """Compare a part of a frame with plain torch: a second whole one may not fit."""
        part = pixels[:, :_TRIED, :_TRIED]
        scrap = torch.zeros(1, dtype=torch.int64, device=pixels.device)
        plain = from_rgb(part.float().clamp(0, 1), form, color)
        for index, (ours, theirs) in enumerate(
            zip(self._made(part, form, color, scrap), plain, strict=True)
        ):
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
                return f"plane {index} is {tuple(ours.shape)} {ours.dtype}"
            away = (ours.int() - theirs.int()).abs()
            if int(away.amax()) > 1 or float((away > 0).float().mean()) > _MOST_TIPPED:
                return f"codes of plane {index} are off by up to {int(away.amax())}"
        return None

    def _made(
        self, pixels: Tensor, form: PixelFormat, color: Color, outside: Tensor
    ) -> tuple[Tensor, ...]:
        height, width = pixels.shape[1:]
        codes = torch.uint8 if form.bit_depth == 8 else torch.uint16
        top = float((1 << form.bit_depth) - 1)
        luma = torch.empty(height, width, dtype=codes, device=pixels.device)
        is_whole = not form.chroma_shift_x
        chroma = luma.new_empty(2, height, width, dtype=codes if is_whole else torch.float32)
        table = _table(codes_of_rgb, form, color, width, height, pixels.device)
        _kernels().coded[_grid(width, height)](
            pixels, luma, chroma, table, outside, pixels.stride(1), pixels.stride(0),
            width, height, top, CODES=is_whole, ROWS=_ROWS, COLUMNS=_COLUMNS,
        )  # fmt: skip
        across, down = phases(color.chroma_location)
        if form.chroma_shift_y:
            chroma = _along(chroma, self._band(height, down, luma.device), -2)
        if form.chroma_shift_x:
            band = self._band(width, across, luma.device)
            chroma = _along(chroma, band, -1, codes=codes, top=top)
        return luma, *chroma.unbind()


def _enlarging(size: int, results: int, phase: Phase, device: torch.device) -> Band:
    if size == results:
        return identity(size, device)
    return band_of(lambda samples: upsample(samples, results, -1, phase), size, device)


def _halving(size: int, phase: Phase, device: torch.device) -> Band:
    return band_of(partial(downsample, dim=-1, phase=phase), size, device)


def _along(
    planes: Tensor, band: Band, dim: int, *, codes: torch.dtype = torch.float32, top: float = 0.0
) -> Tensor:
    """Apply a band to an axis of planes (P, H, W), and round to codes where these are wanted."""
    count, height, width = planes.shape
    size = len(band.starts)
    shape = (count, size, width) if dim == -2 else (count, height, size)
    out = torch.empty(shape, dtype=codes, device=planes.device)
    _kernels().along[(*_grid(shape[2], shape[1]), count)](
        planes, out, band.starts, band.weights, width, height * width, shape[2], shape[1], top,
        TAPS=band.num_taps, DOWN=dim == -2, CODES=codes != torch.float32,
        ROWS=_ROWS, COLUMNS=_COLUMNS,
    )  # fmt: skip
    return out


def _grid(width: int, height: int) -> tuple[int, int]:
    return -(-width // _COLUMNS), -(-height // _ROWS)


@lru_cache(maxsize=64)  # a copy for each frame would wait for the device
def _table(
    constants_of: Callable[[PixelFormat, Color, int, int], tuple[Tensor, Tensor]],
    form: PixelFormat,
    color: Color,
    width: int,
    height: int,
    device: torch.device,
) -> Tensor:
    """Put a matrix (3, 3) and what is added to its rows side by side: (3, 4), float32."""
    matrix, constants = constants_of(form, color, width, height)
    return torch.cat((matrix, constants[:, None]), 1).float().to(device)


def _off(made: Tensor, plain: Tensor) -> str | None:
    difference = float((made - plain).abs().amax())
    return None if difference <= _MOST_OFF else f"R, G or B is off by {difference:.2g}"
