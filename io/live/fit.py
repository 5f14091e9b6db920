"""Conversion of decoded frames to the form of a stream, by swscale, without R'G'B'."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from ...filters.frame import Color, Picture, PixelFormat, StreamInfo
from ..pictures.pixels import (
    color_of,
    frame_of,
    matrix_of,
    picture_of,
    planar_pix_fmt,
    rows_of,
    set_tags,
)

_HARDLY = 2
"""Pixels of a bar that is too thin to keep."""


class FrameFitter:
    """Converts frames to a stream's size, pixel format and colour. For one thread at a time.

    A camera whose settings change keeps the output's form: its frames are scaled with their
    aspect ratio, and padded with black.
    """

    def __init__(self, model: StreamInfo) -> None:
        self._model = model
        self._form = model.format
        self._reformatter = VideoReformatter()

    def __call__(
        self, frame: VideoFrame, sample_aspect_ratio: Fraction | None = None
    ) -> VideoFrame:
        """Convert a frame; one that has the model's form is returned as it is. Times stay.

        An unknown aspect ratio of pixels is like the model's if it has the model's size, else
        square.
        """
        is_as_large = (frame.width, frame.height) == (self._model.width, self._model.height)
        usual = self._model.sample_aspect_ratio if is_as_large else None
        pixel_aspect = sample_aspect_ratio or usual or Fraction(1)
        if self._is_alike(frame, pixel_aspect):
            return frame
        width, height = self._inner_size(frame, pixel_aspect)
        fitted = self._scaled(frame, width, height)
        if (width, height) != (self._model.width, self._model.height):
            fitted = self._padded(fitted)
        set_tags(fitted, self._model.color)
        fitted.pts, fitted.time_base = frame.pts, frame.time_base
        fitted.duration = frame.duration
        return fitted

    def _is_alike(self, frame: VideoFrame, pixel_aspect: Fraction) -> bool:
        given, wanted = color_of(frame), self._model.color
        return (
            (frame.width, frame.height) == (self._model.width, self._model.height)
            and planar_pix_fmt(frame.format.name) == self._model.pix_fmt
            and _range_of(given, self._form) == _range_of(wanted, self._form)
            and (None in (given.matrix, wanted.matrix) or given.matrix == wanted.matrix)
            and pixel_aspect == (self._model.sample_aspect_ratio or 1)
        )

    def _inner_size(self, frame: VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
        """Return the picture's size in the model's pixels, in whole chroma samples."""
        model = self._model
        across = frame.width * pixel_aspect / (model.sample_aspect_ratio or 1)
        scale = min(model.width / across, Fraction(model.height, frame.height))
        return (
            _near(across * scale, model.width, 1 << self._form.chroma_shift_x),
            _near(frame.height * scale, model.height, 1 << self._form.chroma_shift_y),
        )

    def _scaled(self, frame: VideoFrame, width: int, height: int) -> VideoFrame:
        probe = VideoFrame(2, 2, self._model.pix_fmt)
        set_tags(probe, self._model.color)  # converts the model's colours to FFmpeg's numbers
        matrices = [matrix_of(frame), matrix_of(probe)]
        if None in matrices and self._form.family == "yuv" and _form_of(frame).family != "rgb":
            matrices = [None, None]  # one of them is unknown
        return self._reformatter.reformat(
            frame,
            width,
            height,
            self._model.pix_fmt,
            src_colorspace=matrices[0],
            dst_colorspace=matrices[1],
            src_color_range=_RANGES[_range_of(color_of(frame), _form_of(frame))],
            dst_color_range=_RANGES[_range_of(self._model.color, self._form)],
            interpolation=_METHODS["bicubic"] | _FLAGS,
            threads=1,
        )

    def _padded(self, inner: VideoFrame) -> VideoFrame:
        model, form = self._model, self._form
        frame = VideoFrame(model.width, model.height, model.pix_fmt)
        left = (model.width - inner.width) // 2 >> form.chroma_shift_x << form.chroma_shift_x
        top = (model.height - inner.height) // 2 >> form.chroma_shift_y << form.chroma_shift_y
        dtype = "u1" if form.bit_depth == 8 else "<u2"
        for index, source in enumerate(inner.planes):
            is_chroma = form.family == "yuv" and index in (1, 2)
            x = left >> form.chroma_shift_x if is_chroma else left
            y = top >> form.chroma_shift_y if is_chroma else top
            rows, values = rows_of(frame, index, dtype), rows_of(inner, index, dtype)
            rows[:] = self._black(index)
            rows[y : y + source.height, x : x + source.width] = values[:, : source.width]
        return frame

    def _black(self, index: int) -> int:
        """Return the code value of black in one of FFmpeg's planes; opaque in the fourth."""
        form, scale = self._form, 1 << (self._form.bit_depth - 8)
        if index >= form.num_planes:
            return (1 << form.bit_depth) - 1
        if form.family == "yuv" and index:
            return 128 * scale
        return 16 * scale if _range_of(self._model.color, form) == "tv" else 0


_RANGES = {"tv": 1, "pc": 2}


def _range_of(color: Color, form: PixelFormat) -> str:
    return "pc" if form.family == "rgb" else color.range or "tv"


def _form_of(frame: VideoFrame) -> PixelFormat:
    return PixelFormat.parse(planar_pix_fmt(frame.format.name))


def _near(wanted: Fraction, whole: int, multiple: int) -> int:
    """Round to whole chroma samples; fill the frame if the bars would be too thin."""
    size = max(multiple, round(wanted / multiple) * multiple)
    return whole if whole - size < max(_HARDLY, multiple) or size > whole else size


Method = Literal["bicubic", "bilinear"]

# Rounded like the reference code: swscale's fast paths differ by up to 2 levels.
_FLAGS = Interpolation.ACCURATE_RND
_METHODS = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}


@dataclass(eq=False)
class Scaler:
    """Converts the coded planes of pictures to one size and, optionally, pixel format.

    The governor falls back to it where a network is too slow. For one thread at a time, since
    swscale's context is kept from picture to picture.

    Raises:
        ValueError: for a size below 1x1.
    """

    width: int
    height: int
    """Pixels of the luma plane, as the width."""
    method: Method = "bicubic"
    """How swscale interpolates."""
    pix_fmt: str | None = None
    """Of the result, which may differ in bit depth and chroma alone: YUV of YUV, with the same
    range; None: unchanged."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size must be at least 1x1, got {self.width}x{self.height}")
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture) -> Picture:
        """Scale a picture; colour, pts, duration and time base stay.

        Raises:
            UnsupportedMedia: if FFmpeg does not have the pixel format.
        """
        pix_fmt = self.pix_fmt or picture.pix_fmt
        got = (picture.width, picture.height, picture.pix_fmt)
        if got == (self.width, self.height, pix_fmt):
            return picture
        frame = frame_of(picture)
        scaled = self._reformatter.reformat(
            frame,
            self.width,
            self.height,
            pix_fmt,
            interpolation=_METHODS[self.method] | _FLAGS,
            threads=1,  # the cores compute other streams' networks
        )
        return picture_of(scaled, picture.color, picture.pts, picture.duration, picture.time_base)
