"""A source and a sink in memory, and moving pictures to put in them, for anybody's tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from upframe.filters.frame import Color, Picture, PixelFormat, StreamInfo


class ListSource:
    """A :class:`~upframe.io.media.Source` of pictures that are there already."""

    def __init__(
        self,
        info: StreamInfo,
        pictures: Sequence[Picture],
        *,
        warnings: Sequence[str] = (),
        error: BaseException | None = None,
    ) -> None:
        """Take what it is to give.

        Args:
            info: What holds for all pictures.
            pictures: In order.
            warnings: What `warnings` is to say.
            error: Raised after the last picture, as of an input that ends too early.
        """
        self._info = info
        self._pictures = tuple(pictures)
        self._warnings = list(warnings)
        self._error = error
        self.closed = False

    @property
    def info(self) -> StreamInfo:
        """What holds for all pictures."""
        return self._info

    def __iter__(self) -> Iterator[Picture]:
        """Give the pictures, then raise the error if there is one."""
        yield from self._pictures
        if self._error is not None:
            raise self._error

    def warnings(self) -> list[str]:
        """Give what it was told to say."""
        return list(self._warnings)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class ListSink:
    """A :class:`~upframe.io.media.Sink` that keeps what it is given."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.finished = False
        self.aborted = False

    def write(self, picture: Picture) -> None:
        """Keep a picture."""
        if self.finished or self.aborted:
            raise ValueError("the sink has ended, it takes no more pictures")
        self.pictures.append(picture)

    def finish(self) -> None:
        """Remember that it was finished."""
        self.finished = True

    def abort(self) -> None:
        """Forget the pictures."""
        self.aborted = True
        self.pictures.clear()


def stream_info(
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    *,
    rate: Fraction | None = Fraction(25),
    time_base: Fraction | None = None,
    color: Color | None = None,
    num_frames: int | None = None,
) -> StreamInfo:
    """Describe a stream as :func:`moving_pictures` makes it: one tick is one frame by default."""
    return StreamInfo(
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        time_base=time_base or 1 / (rate or Fraction(25)),
        rate=rate,
        average_rate=rate,
        color=color or Color(),
        num_frames=num_frames,
        duration_seconds=None if rate is None or num_frames is None else num_frames / rate,
    )


def moving_pictures(
    num: int = 12,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    *,
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    color: Color | None = None,
) -> list[Picture]:
    """Make pictures of a bright disc that moves across a ramp, each different from all others.

    Args:
        num: How many.
        width: Pixels.
        height: Pixels.
        pix_fmt: Planar, as :class:`~upframe.filters.frame.PixelFormat` parses it.
        rate: Frames per second.
        time_base: Seconds in a tick; one frame if not given.
        pts: In ticks, instead of a constant rate; the last frame lasts as long as the one before.
        color: Tags; none if not given.
    """
    time_base = time_base or 1 / rate
    if pts is None:
        pts = [round(index / rate / time_base) for index in range(num + 1)]
    else:
        pts = [*pts, 2 * pts[-1] - pts[-2] if len(pts) > 1 else pts[-1] + 1]
    return [
        Picture(
            planes=_planes(index, width, height, PixelFormat.parse(pix_fmt)),
            pix_fmt=pix_fmt,
            color=color or Color(),
            pts=start,
            duration=end - start,
            time_base=time_base,
            alpha=_alpha(width, height, PixelFormat.parse(pix_fmt)),
        )
        for index, (start, end) in enumerate(pairwise(pts))
    ]


def _planes(index: int, width: int, height: int, form: PixelFormat) -> tuple[Tensor, ...]:
    planes: list[Tensor] = []
    for plane in range(form.num_planes):
        w, h = form.plane_size(width, height, plane)
        y = torch.linspace(0, 1, h).view(-1, 1)  # (h, 1)
        x = torch.linspace(0, 1, w).view(1, -1)  # (1, w)
        ramp = 0.25 + 0.25 * x + 0.1 * plane * y
        disc = ((x - 0.1 - 0.03 * index) ** 2 + (y - 0.5) ** 2 < 0.06).float()
        planes.append(_coded(ramp + 0.2 * disc + 0.004 * index, form))
    return tuple(planes)


def _alpha(width: int, height: int, form: PixelFormat) -> Tensor | None:
    if not form.has_alpha:
        return None
    return _coded(torch.linspace(0, 1, width).expand(height, width), form)


def _coded(values: Tensor, form: PixelFormat) -> Tensor:
    """Turn [0, 1] into code values, clear of both ends of the limited range."""
    peak = (1 << form.bit_depth) - 1
    codes = (values.clamp(0, 1) * peak).round().to(torch.int32)
    return codes.to(torch.uint8 if form.bit_depth == 8 else torch.uint16)
