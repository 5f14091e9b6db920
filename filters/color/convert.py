"""Picture ⇄ Frame: coded planes to R'G'B' in [0, 1] on a device, and back, in fp32.

Original and interpolated frames use the same path, so that nothing pulses. The round trip changes
no code value of a colour inside the RGB gamut by more than one: unclipped, it is the identity up to
fp32 (see :mod:`.planes`); a code that rounding put just outside the gamut is clipped into it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..frame import Color, Deferred, Frame, Pending, Picture, PixelFormat
from .matrix import arithmetic_matrix, code_scale, rgb_to_yuv
from .planes import alpha_to_float, from_rgb, rounding_of, to_codes, to_rgb
from .staging import Download, Transfer, Upload

if TYPE_CHECKING:
    from .cuda import YuvEncoder


class OutsideGamut:
    """Counts values outside [0, 1], from several threads; waits for a device only at the end."""

    def __init__(self) -> None:
        self._count: Tensor | int = 0
        self._outside: Tensor | None = None
        self._stream: torch.cuda.Stream | None = None
        """On which a card counts."""
        self._lock = threading.Lock()

    def must_clip(self, values: Tensor, tolerance: float) -> bool:
        """Count values outside by more than `tolerance`; return whether any may be outside."""
        if values.device.type == "cpu":  # on others, finding out would wait for the device
            low, high = (float(value) for value in values.aminmax())
            if low >= 0 and high <= 1:
                return False
        elif values.is_cuda:
            self._stream = torch.cuda.current_stream(values.device)
        outside = (values < -tolerance).count_nonzero() + (values > 1 + tolerance).count_nonzero()
        with self._lock:
            self._count = self._count + outside
        return True

    def on(self, device: torch.device) -> Tensor:
        """Return the counter that kernels add to: (1,), int64."""
        with self._lock:
            if self._outside is None:
                self._outside = torch.zeros(1, dtype=torch.int64, device=device)
                if device.type == "cuda":
                    self._stream = torch.cuda.current_stream(device)
            return self._outside

    def count(self) -> int:
        """Return the sum so far."""
        with torch.cuda.stream(self._stream):  # without one this changes nothing
            return int(self._count) + (0 if self._outside is None else int(self._outside))


_MOST_STAGED = 16
"""Pictures; more than the queue in front of the conversion holds."""


def output_size(width: int, height: int, pix_fmt: str) -> tuple[int, int]:
    """Size of the picture that :class:`ToPicture` makes of a frame: even where chroma is halved."""
    form = PixelFormat.parse(pix_fmt)
    across, down = form.chroma_shift_x, form.chroma_shift_y
    return max(width >> across, 1) << across, max(height >> down, 1) << down


class ToFrame:
    """Coded pictures to frames, fp32, on one device.

    Values outside the RGB gamut are clipped to [0, 1]. Those that are further outside than half a
    code in each of the picture's components can move them, so not by its rounding alone, are
    counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clipped = OutsideGamut()
        self._last: Frame | None = None
        self._upload = Upload(device)
        self._decoder = None
        if device.type == "cuda":
            from .cuda import YuvDecoder

            self._decoder = YuvDecoder()
        self._staged: OrderedDict[int, tuple[Picture, Transfer]] = OrderedDict()  # by identity

    def stage(self, picture: Picture) -> Picture:
        """Start to copy a picture that will be converted soon; for use by one other thread.

        Returns:
            The same picture.
        """
        if self._device.type == "cuda":
            self._staged[id(picture)] = picture, self._begin(picture)
            while len(self._staged) > _MOST_STAGED:  # never converted
                self._staged.popitem(last=False)
        return picture

    def __call__(self, picture: Picture, *, cut: bool = False, duplicate: bool = False) -> Frame:
        """Convert one picture; `cut` and `duplicate` become the frame's flags.

        Raises:
            UnsupportedPixels: if its colour matrix cannot be undone exactly.
        """
        _, transfer = self._staged.pop(id(picture), (None, None))
        if duplicate and self._last is not None:
            pixels, alpha = self._last.pixels, self._last.alpha
        else:
            picture = self._there(picture, transfer)
            pixels = self._pixels(picture)
            alpha = alpha_to_float(picture, self._device)
        time, t35 = (picture.pts, picture.duration, picture.time_base), picture.t35
        self._last = Frame(pixels, *time, alpha=alpha, cut=cut, duplicate=duplicate, t35=t35)
        return self._last

    def _pixels(self, picture: Picture) -> Tensor:
        tolerance = rounding_of(picture)
        if self._decoder is not None:
            outside = self._clipped.on(self._device)

            def plain() -> Tensor:
                return to_rgb(picture, self._device).clamp_(0, 1)

            if (made := self._decoder(picture, tolerance, outside, plain)) is not None:
                return made
        pixels = to_rgb(picture, self._device)
        if self._clipped.must_clip(pixels, tolerance):
            pixels.clamp_(0, 1)
        return pixels.expand(3, -1, -1).contiguous()

    def _begin(self, picture: Picture) -> Transfer:
        return self._upload((*picture.planes, *(() if picture.alpha is None else (picture.alpha,))))

    def _there(self, picture: Picture, transfer: Transfer | None) -> Picture:
        """Return the same picture with its planes on the device."""
        if self._device.type == "cpu":
            return picture
        planes = (transfer or self._begin(picture)).follow()
        count = len(picture.planes)
        return replace(picture, planes=planes[:count], alpha=(planes[count:] or (None,))[0])

    def statistics(self) -> Mapping[str, int]:
        """``clipped_values``: R, G and B values so far outside the gamut that they were clipped."""
        return {"clipped_values": self._clipped.count()}


@dataclass(frozen=True, slots=True, eq=False)
class _Coded:
    """Planes on their way to the CPU, and their width and height."""

    transfer: Transfer
    size: tuple[int, int]


class ToPicture:
    """Frames to coded pictures on the CPU, rounded to nearest.

    Odd sizes are cropped right and bottom to :func:`output_size`; a single row or column that needs
    a second one is repeated. Alpha is dropped or made opaque as `pix_fmt` wants. Their tags are
    from :func:`output_color`.

    Raises:
        UnsupportedPixels: if there is no way to write that format or matrix.
    """

    def __init__(self, pix_fmt: str, color: Color) -> None:
        self._form = PixelFormat.parse(pix_fmt)
        self._color = color
        if self._form.family != "rgb":
            rgb_to_yuv(arithmetic_matrix(color, 1, 1))  # refuse before any frame
        self._clipped = OutsideGamut()
        self._download = Download()
        self._encoder: YuvEncoder | None = None  # made where frames lie on a CUDA card
        self._last: Deferred[_Coded] | None = None

    def __call__(self, frame: Frame) -> Picture:
        """Convert one frame of any float dtype on any device."""
        return self.plan(Pending.of(frame))()

    def begin(self, pending: Pending) -> Callable[[], Picture]:
        """Compute and convert the next frame; the device goes on while its planes are copied.

        Returns:
            A function that waits for the copy and returns the picture. A frame whose check
            replaces it is converted again by that.
        """
        coded, finish = self._planned(pending)
        coded.begun()
        return finish

    def plan(self, pending: Pending) -> Callable[[], Picture]:
        """Take the next frame, in order, and leave the work to who calls what is returned."""
        return self._planned(pending)[1]

    def _planned(self, pending: Pending) -> tuple[Deferred[_Coded], Callable[[], Picture]]:
        before = self._last if pending.duplicate else None
        coded = self._last = pending.frame.then(lambda frame: self._coded(frame, before))
        return coded, lambda: self._picture(coded().transfer, pending.frame())

    def _coded(self, frame: Frame, before: Deferred[_Coded] | None) -> _Coded:
        """Start to copy a frame's planes to the CPU, or reuse those of the frame it repeats."""
        size = output_size(frame.width, frame.height, self._form.name)
        if before is not None and (last := before.begun()).size == size:
            return last
        return _Coded(self._download(self._codes(frame, *size)), size)

    def _codes(self, frame: Frame, width: int, height: int) -> tuple[Tensor, ...]:
        """Code a frame on its device: its planes, and alpha where the format has it."""
        pixels = _fitted(frame.pixels, width, height)
        planes = self._planes(pixels) if pixels.is_cuda else self._plain_planes(pixels)
        return (*planes, self._alpha(frame, width, height)) if self._form.has_alpha else planes

    def _planes(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if self._encoder is None:
            from .cuda import YuvEncoder

            self._encoder = YuvEncoder()
        made = self._encoder(pixels, self._form, self._color, self._clipped.on(pixels.device))
        return self._plain_planes(pixels) if made is None else made

    def _plain_planes(self, pixels: Tensor) -> tuple[Tensor, ...]:
        pixels = pixels.float()
        if self._clipped.must_clip(pixels, 0.0):
            pixels = pixels.clamp(0, 1)
        return from_rgb(pixels, self._form, self._color)

    def _picture(self, transfer: Transfer, frame: Frame) -> Picture:
        planes, count = transfer.wait(), self._form.num_planes
        alpha, time = planes[count:] or (None,), (frame.pts, frame.duration, frame.time_base)
        return Picture(planes[:count], self._form.name, self._color, *time, alpha[0], t35=frame.t35)

    def statistics(self) -> Mapping[str, int]:
        """``clipped_values``: values that the filters left outside [0, 1]; add ToFrame's to it."""
        return {"clipped_values": self._clipped.count()}

    def _alpha(self, frame: Frame, width: int, height: int) -> Tensor:
        scale, _ = code_scale(self._form.bit_depth, "pc")
        if frame.alpha is None:
            opaque = torch.full((height, width), scale)
            return to_codes(opaque, self._form.bit_depth)
        alpha = _fitted(frame.alpha.float(), width, height)[0]
        return to_codes(alpha * scale, self._form.bit_depth)


def _fitted(pixels: Tensor, width: int, height: int) -> Tensor:
    """Crop right and bottom, or repeat the border, to a size."""
    pixels = pixels[:, :height, :width]
    if pixels.shape[1] < height:
        pixels = torch.cat((pixels, pixels[:, -1:]), 1)
    if pixels.shape[2] < width:
        pixels = torch.cat((pixels, pixels[:, :, -1:]), 2)
    return pixels
