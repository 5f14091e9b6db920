"""Pictures to another size on their coded planes, by swscale, without a way through RGB.

What the governor falls back to where a network is too slow: no weights, no device, and cheaper
than taking the colours apart and putting them together again.
"""

from __future__ import annotations

from typing import Literal

from av.video.reformatter import Interpolation, VideoReformatter

from ...filters.frame import Picture
from ..pictures.pixels import frame_of, picture_of

Method = Literal["bicubic", "bilinear"]

# Rounded like the reference code: swscale's fast paths are off by up to 2 levels.
_FLAGS = Interpolation.ACCURATE_RND
_METHODS = {"bicubic": Interpolation.BICUBIC, "bilinear": Interpolation.BILINEAR}


class Scaler:
    """Takes pictures of any size and planar format, gives them in one size and, if told, format.

    Used by one thread at a time: swscale's context is kept from picture to picture.
    """

    def __init__(
        self, width: int, height: int, method: Method = "bicubic", pix_fmt: str | None = None
    ) -> None:
        """Remember what to give.

        Args:
            width: Pixels of the luma plane.
            height: Likewise.
            method: How swscale interpolates.
            pix_fmt: Of what is given, where it differs in its bits and chroma alone: YUV where
                YUV comes in, with the same range; None: as it comes in.

        Raises:
            ValueError: if the size is none.
        """
        if width < 1 or height < 1:
            raise ValueError(f"size must be at least 1x1, got {width}x{height}")
        self._width, self._height = width, height
        self._pix_fmt = pix_fmt
        self._method = _METHODS[method] | _FLAGS
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture) -> Picture:
        """Scale a picture; colour, pts, duration and time base stay.

        Raises:
            UnsupportedMedia: if FFmpeg does not have the pixel format.
        """
        pix_fmt = self._pix_fmt or picture.pix_fmt
        size = (picture.width, picture.height)
        if size == (self._width, self._height) and pix_fmt == picture.pix_fmt:
            return picture
        frame = frame_of(picture)
        scaled = self._reformatter.reformat(
            frame,
            self._width,
            self._height,
            pix_fmt,
            interpolation=self._method,
            threads=1,  # the machine's cores are busy with other streams' networks
        )
        return picture_of(scaled, picture.color, picture.pts, picture.duration, picture.time_base)
