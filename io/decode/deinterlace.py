"""Interlaced video to one progressive frame per frame, by libavfilter's bwdif.

`send_frame` keeps the number of frames and their timestamps; each frame's second field is
interpolated from its neighbours. Progressive frames between interlaced ones pass as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from av.error import BlockingIOError as NotYet
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame

from ...filters.frame import Picture, StreamInfo
from ..errors import UnsupportedMedia
from ..media import Source
from ..pictures.pixels import frame_of, picture_of

FieldOrder = Literal["progressive", "tt", "bb", "tb", "bt"]

# AVFieldOrder, libavcodec/defs.h
_FIELD_ORDERS: dict[int, FieldOrder] = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}


def field_order_of(number: int) -> FieldOrder | None:
    """Translate `codec_context.field_order`; None where unknown."""
    return _FIELD_ORDERS.get(number)


_FLAGS_FRAMES = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3")


def flags_frames(codec: str) -> bool:
    """Tell whether a codec says of each frame whether it is interlaced, or only of the stream."""
    return codec in _FLAGS_FRAMES


def is_interlaced(field_order: FieldOrder | None, frame: VideoFrame) -> bool:
    """Tell whether a stream needs deinterlacing, by its header or by a frame's flag."""
    return field_order in ("tt", "bb", "tb", "bt") or frame.interlaced_frame


class Deinterlacer:
    """Takes decoded frames, gives as many; the first come out one frame late."""

    def __init__(
        self,
        first: VideoFrame,
        time_base: Fraction,
        *,
        field_order: FieldOrder | None = None,
        every_frame: bool = False,
    ) -> None:
        """Build the graph for frames like the first one.

        Args:
            first: Tells size, pixel format and colour.
            time_base: Of the frames' pts.
            field_order: Which field comes first where the frames themselves do not say.
            every_frame: Also deinterlace frames that are not flagged as interlaced.
        """
        self._time_base = time_base
        parity = "auto"
        if every_frame and field_order in ("tt", "bb", "tb", "bt"):
            # bwdif takes an unflagged frame for bottom field first
            parity = "tff" if field_order[1] == "t" else "bff"
        graph = Graph()
        source = graph.add(
            "buffer",
            f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}"
            f":time_base={time_base}:colorspace={first.colorspace}:range={first.color_range}",
        )
        deint = "all" if every_frame else "interlaced"
        bwdif = graph.add("bwdif", f"mode=send_frame:parity={parity}:deint={deint}")
        sink = graph.add("buffersink")
        graph.link_nodes(source, bwdif, sink).configure()
        self._graph, self._source, self._sink = graph, source, sink

    def __call__(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Take the next frame, give those that are ready."""
        self._source.push(frame)
        return self._ready()

    def flush(self) -> Iterator[VideoFrame]:
        """Give the last frame."""
        self._source.push(None)
        return self._ready()

    def _ready(self) -> Iterator[VideoFrame]:
        while True:
            try:
                frame = self._sink.pull()
            except (NotYet, EndOfFile):
                return
            assert isinstance(frame, VideoFrame)
            if frame.pts is not None and frame.time_base is not None:
                # bwdif counts in half ticks
                frame.pts = int(frame.pts * frame.time_base / self._time_base)
            frame.time_base = self._time_base
            yield frame


# Interlaced pictures of a source without a decoder, deinterlaced to one frame per frame.


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
