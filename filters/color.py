"""Picture ⇄ Frame: coded planes to R'G'B' in [0, 1] on a device, and back, in fp32.

Every frame of a stream, original or made, takes this one path, so that nothing pulses. There and
back changes no code value of a colour inside the RGB gamut by more than one: unclipped, the round
trip is the identity up to fp32 (see :mod:`.chroma`); a code that rounding put just outside the
gamut is moved back towards the colour it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .chroma import enlarge, phases, shrink
from .frame import Color, Frame, Picture, PixelFormat
from .matrix import (
    arithmetic_matrix,
    arithmetic_range,
    code_scale,
    matrix_warning,
    output_color,
    rgb_to_yuv,
)

__all__ = [
    "ToFrame",
    "ToPicture",
    "arithmetic_matrix",
    "matrix_warning",
    "output_color",
    "output_size",
]


def output_size(width: int, height: int, pix_fmt: str) -> tuple[int, int]:
    """Size of the picture that :class:`ToPicture` makes of a frame: even where chroma is halved."""
    form = PixelFormat.parse(pix_fmt)
    return _rounded(width, form.chroma_shift_x), _rounded(height, form.chroma_shift_y)


def _rounded(size: int, shift: int) -> int:
    return max(size >> shift, 1) << shift


class ToFrame:
    """Coded pictures to frames, fp32, on one device.

    Values outside the RGB gamut are clipped to [0, 1]; those that were outside by more than
    half a code of the picture, so by more than its own rounding, are counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clipped = _Counter()
        self._last: Frame | None = None

    def __call__(self, picture: Picture, *, cut: bool = False, duplicate: bool = False) -> Frame:
        """Convert one picture; `cut` and `duplicate` become the frame's flags.

        Raises:
            UnsupportedPixels: if its colour matrix cannot be undone exactly.
        """
        if duplicate and self._last is not None:
            pixels, alpha = self._last.pixels, self._last.alpha
        else:
            pixels = to_rgb(picture, self._device)
            codes = (1 << PixelFormat.parse(picture.pix_fmt).bit_depth) - 1
            if self._clipped.must_clip(pixels, 0.5 / codes):
                pixels.clamp_(0, 1)
            pixels = pixels.expand(3, -1, -1).contiguous()
            alpha = _alpha_to_float(picture, self._device)
        self._last = Frame(
            pixels,
            picture.pts,
            picture.duration,
            picture.time_base,
            alpha=alpha,
            cut=cut,
            duplicate=duplicate,
        )
        return self._last

    def statistics(self) -> Mapping[str, int]:
        """``clipped_values``: R, G and B values so far outside the gamut that they were clipped."""
        return {"clipped_values": self._clipped.count()}


class ToPicture:
    """Frames to coded pictures on the CPU, rounded to nearest.

    Odd sizes are cropped right and bottom to :func:`output_size`; a single row or column
    that needs a second one is repeated. Alpha is dropped or made opaque as `pix_fmt` wants.

    Args:
        pix_fmt: what the pictures become.
        color: their tags, from :func:`output_color`.

    Raises:
        UnsupportedPixels: if there is no way to write that format or matrix.
    """

    def __init__(self, pix_fmt: str, color: Color) -> None:
        self._form = PixelFormat.parse(pix_fmt)
        self._color = color
        if self._form.family == "yuv":
            rgb_to_yuv(arithmetic_matrix(color, 1, 1))  # refuse before any frame
        self._clipped = _Counter()
        self._last: Picture | None = None

    def __call__(self, frame: Frame) -> Picture:
        """Convert one frame of any float dtype on any device."""
        size = output_size(frame.width, frame.height, self._form.name)
        last = self._last
        if frame.duplicate and last is not None and (last.width, last.height) == size:
            self._last = replace(
                last, pts=frame.pts, duration=frame.duration, time_base=frame.time_base
            )
            return self._last
        pixels = _fitted(frame.pixels.float(), *size)
        if self._clipped.must_clip(pixels, 0.0):
            pixels = pixels.clamp(0, 1)
        planes = from_rgb(pixels, self._form, self._color)
        alpha = self._alpha(frame, *size) if self._form.has_alpha else None
        self._last = Picture(
            planes,
            self._form.name,
            self._color,
            frame.pts,
            frame.duration,
            frame.time_base,
            alpha=alpha,
        )
        return self._last

    def statistics(self) -> Mapping[str, int]:
        """``clipped_values``: values that the filters left outside [0, 1]; add ToFrame's to it."""
        return {"clipped_values": self._clipped.count()}

    def _alpha(self, frame: Frame, width: int, height: int) -> Tensor:
        scale, _ = code_scale(self._form.bit_depth, "pc")
        if frame.alpha is None:
            opaque = torch.full((height, width), scale)
            return _to_codes(opaque, self._form.bit_depth)
        alpha = _fitted(frame.alpha.float(), width, height)[0]
        return _to_codes(alpha * scale, self._form.bit_depth)


def to_rgb(picture: Picture, device: torch.device) -> Tensor:
    """Decode a picture's planes to R'G'B', not clipped.

    Returns:
        (3, H, W), or (1, H, W) for gray, fp32, on `device`; inside the gamut it is in [0, 1].
    """
    form = PixelFormat.parse(picture.pix_fmt)
    if form.family == "yuv":
        return _yuv_to_rgb(picture, form, device)
    scale, offset = code_scale(form.bit_depth, arithmetic_range(picture.color, form))
    planes = torch.stack([plane.to(device).float() for plane in picture.planes])
    return planes.sub_(offset).div_(scale)


def _yuv_to_rgb(picture: Picture, form: PixelFormat, device: torch.device) -> Tensor:
    """Luma plus what the colour differences add to it, made before they are enlarged."""
    name = arithmetic_matrix(picture.color, picture.width, picture.height)
    forward, offset = _yuv_codes(name, form, picture.color)
    inverse = forward.inverse()  # its first column, luma, is the same for R, G and B
    chroma = torch.stack([plane.to(device).float() for plane in picture.planes[1:]])
    rgb = _transform(chroma, inverse[:, 1:], -(inverse @ offset))
    across, down = phases(picture.color.chroma_location)
    if form.chroma_shift_y:
        rgb = enlarge(rgb, picture.height, -2, down)
    if form.chroma_shift_x:
        rgb = enlarge(rgb, picture.width, -1, across)
    return rgb.add_(picture.planes[0].to(device).float(), alpha=float(inverse[0, 0]))


def from_rgb(pixels: Tensor, form: PixelFormat, color: Color) -> tuple[Tensor, ...]:
    """Encode R'G'B' to planes on the CPU.

    Args:
        pixels: (3, H, W), fp32, [0, 1]; even sizes where chroma is halved.
        form: the planes to make.
        color: how; what it leaves open is taken from the size.
    """
    height, width = pixels.shape[1:]
    name = arithmetic_matrix(color, width, height)
    if form.family == "rgb":
        scale, offset = code_scale(form.bit_depth, arithmetic_range(color, form))
        return tuple(_to_codes(pixels * scale + offset, form.bit_depth))
    codes = _transform(pixels, *_yuv_codes(name, form, color))
    if form.family == "gray":
        return (_to_codes(codes[0], form.bit_depth),)
    chroma = codes[1:]
    across, down = phases(color.chroma_location)
    if form.chroma_shift_y:
        chroma = shrink(chroma, -2, down)
    if form.chroma_shift_x:
        chroma = shrink(chroma, -1, across)
    return tuple(_to_codes(plane, form.bit_depth) for plane in (codes[0], *chroma))


def _yuv_codes(name: str, form: PixelFormat, color: Color) -> tuple[Tensor, Tensor]:
    """R'G'B' to YUV code values: a matrix (3, 3) and an offset (3,), float64."""
    color_range = arithmetic_range(color, form)
    luma = code_scale(form.bit_depth, color_range)
    chroma = code_scale(form.bit_depth, color_range, chroma=True)
    scale, offset = torch.tensor((luma, chroma, chroma), dtype=torch.float64).unbind(1)
    return rgb_to_yuv(name) * scale[:, None], offset


def _transform(planes: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """``matrix @ planes + offset`` for every pixel."""
    matrix, offset = matrix.to(planes), offset.to(planes)
    flat = torch.addmm(offset[:, None], matrix, planes.flatten(1))
    return flat.view(len(matrix), *planes.shape[1:])


def _to_codes(values: Tensor, bit_depth: int) -> Tensor:
    """Round to nearest inside the container's codes, on the CPU; writes into `values`."""
    codes = values.round_().clamp_(0, (1 << bit_depth) - 1)
    return codes.to(torch.uint8 if bit_depth == 8 else torch.uint16).cpu()


def _alpha_to_float(picture: Picture, device: torch.device) -> Tensor | None:
    if picture.alpha is None:
        return None
    scale, _ = code_scale(PixelFormat.parse(picture.pix_fmt).bit_depth, "pc")
    return picture.alpha.to(device).float().div_(scale)[None]


def _fitted(pixels: Tensor, width: int, height: int) -> Tensor:
    """Crop right and bottom, or repeat the border, to a size."""
    pixels = pixels[:, :height, :width]
    if pixels.shape[1] < height:
        pixels = torch.cat((pixels, pixels[:, -1:]), 1)
    if pixels.shape[2] < width:
        pixels = torch.cat((pixels, pixels[:, :, -1:]), 2)
    return pixels


class _Counter:
    """Counts values outside [0, 1]; waits for a device only when asked for the sum."""

    def __init__(self) -> None:
        self._count: Tensor | int = 0

    def must_clip(self, values: Tensor, tolerance: float) -> bool:
        """Count what is outside by more than `tolerance`; tell whether anything may be at all."""
        if values.device.type == "cpu":  # on others, finding out would wait for the device
            low, high = (float(value) for value in values.aminmax())
            if low >= 0 and high <= 1:
                return False
        self._count += (values < -tolerance).count_nonzero()
        self._count += (values > 1 + tolerance).count_nonzero()
        return True

    def count(self) -> int:
        return int(self._count)
