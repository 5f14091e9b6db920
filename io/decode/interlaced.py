"""Interlaced pictures of a source without a decoder, deinterlaced to one frame per frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from av.error import FFmpegError
from av.video.frame import VideoFrame

from ...filters.frame import Picture, StreamInfo
from ..errors import UnsupportedMedia
from ..media import Source
from ..pictures.pixels import frame_of, picture_of
from .deinterlace import Deinterlacer


class DeinterlacedSource:
    """Gives another source's pictures, as many and with the same times, all progressive."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._info = replace(source.info, field_order="progressive")

    @property
    def info(self) -> StreamInfo:
        """What holds for all pictures."""
        return self._info

    def __iter__(self) -> Iterator[Picture]:
        """Give every picture once.

        Raises:
            UnsupportedMedia: if FFmpeg's bwdif does not take the pixel format.
        """
        deinterlacer: Deinterlacer | None = None
        times: deque[Picture] = deque()
        for picture in self._source:
            frame = frame_of(picture)
            deinterlacer = deinterlacer or self._deinterlacer(frame, picture)
            times.append(picture)
            yield from (self._picture(made, times) for made in deinterlacer(frame))
        if deinterlacer is not None:
            yield from (self._picture(made, times) for made in deinterlacer.flush())

    def warnings(self) -> list[str]:
        """What was noticed so far."""
        order = {"tt": "top field first", "bb": "bottom field first"}
        said = order.get(self._source.info.field_order or "", "field order unknown")
        note = f"interlaced ({said}): deinterlaced to one frame per frame"
        return [*self._source.warnings(), note]

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _deinterlacer(self, first: VideoFrame, picture: Picture) -> Deinterlacer:
        order = self._source.info.field_order
        try:
            return Deinterlacer(first, picture.time_base, field_order=order, every_frame=True)
        except (FFmpegError, ValueError) as error:
            raise UnsupportedMedia(f"{picture.pix_fmt} cannot be deinterlaced: {error}") from error

    @staticmethod
    def _picture(frame: VideoFrame, times: deque[Picture]) -> Picture:
        origin = times.popleft()  # one out for one in, in order
        return picture_of(frame, origin.color, origin.pts, origin.duration, origin.time_base)
