"""Interlaced video to one progressive frame per frame, by libavfilter's bwdif.

`send_frame` keeps the number of frames and their timestamps; each frame's second field is
interpolated from its neighbours. Progressive frames between interlaced ones are left unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Generic, Literal, TypeVar

from av.error import BlockingIOError as NotYet
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame

from ...filters.frame import Picture
from ..errors import UnsupportedMedia
from ..media import Source
from ..pictures.pixels import frame_of, picture_of

FieldOrder = Literal["progressive", "tt", "bb", "tb", "bt"]

INTERLACED: tuple[FieldOrder, ...] = ("tt", "bb", "tb", "bt")

# AVFieldOrder, libavcodec/defs.h
_FIELD_ORDERS: dict[int, FieldOrder] = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}

_FLAGS_FRAMES = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3")

T = TypeVar("T")


def field_order_of(number: int) -> FieldOrder | None:
    """Translate `codec_context.field_order`; None where unknown."""
    return _FIELD_ORDERS.get(number)


def field_order_text(order: str | None) -> str:
    """Describe which field is coded first, for people."""
    first = {"t": "top field first", "b": "bottom field first"}
    return first.get((order or " ")[0], "field order unknown")


def flags_frames(codec: str) -> bool:
    """Return whether a codec marks each frame as interlaced or not, rather than the stream."""
    return codec in _FLAGS_FRAMES


def is_interlaced(field_order: FieldOrder | None, frame: VideoFrame) -> bool:
    """Return whether a stream needs deinterlacing, by its header or by a frame's flag."""
    return field_order in INTERLACED or frame.interlaced_frame


class Deinterlacer(Generic[T]):
    """Deinterlaces frames, one out for one in; the first comes out one frame late.

    An item passed with each frame, such as its times, comes out with the same frame.
    """

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
            first: Determines size, pixel format and colour.
            time_base: Of the frames' pts.
            field_order: Which field comes first where the frames themselves do not say.
            every_frame: Also deinterlace frames that are not flagged as interlaced.
        """
        self._time_base = time_base
        self._items: deque[T] = deque()
        parity = "auto"
        if every_frame and field_order in INTERLACED:
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

    def __call__(self, frame: VideoFrame, item: T) -> Iterator[tuple[VideoFrame, T]]:
        """Accept the next frame and yield those that are ready."""
        self._items.append(item)
        self._source.push(frame)
        return self._ready()

    def flush(self) -> Iterator[tuple[VideoFrame, T]]:
        """Yield the last frame."""
        self._source.push(None)
        return self._ready()

    def _ready(self) -> Iterator[tuple[VideoFrame, T]]:
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
            yield frame, self._items.popleft()


class DeinterlacedSource:
    """Yields the pictures of a source without a decoder, as many, all progressive."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.info = replace(source.info, field_order="progressive")
        """What holds for all pictures."""

    def __iter__(self) -> Iterator[Picture]:
        """Yield every picture once.

        Raises:
            UnsupportedMedia: if FFmpeg's bwdif does not accept the pixel format.
        """
        deinterlacer: Deinterlacer[Picture] | None = None
        for picture in self._source:
            frame = frame_of(picture)
            deinterlacer = deinterlacer or self._deinterlacer(frame, picture)
            yield from (_timed_as(*made) for made in deinterlacer(frame, picture))
        if deinterlacer is not None:
            yield from (_timed_as(*made) for made in deinterlacer.flush())

    def warnings(self) -> list[str]:
        """Return the problems noticed so far."""
        said = field_order_text(self._source.info.field_order)
        note = f"interlaced ({said}): deinterlaced to one frame per frame"
        return [*self._source.warnings(), note]

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _deinterlacer(self, first: VideoFrame, picture: Picture) -> Deinterlacer[Picture]:
        order = self._source.info.field_order
        try:
            return Deinterlacer(first, picture.time_base, field_order=order, every_frame=True)
        except (FFmpegError, ValueError) as error:
            raise UnsupportedMedia(f"{picture.pix_fmt} cannot be deinterlaced: {error}") from error


def _timed_as(frame: VideoFrame, origin: Picture) -> Picture:
    return picture_of(frame, origin.color, origin.pts, origin.duration, origin.time_base)
