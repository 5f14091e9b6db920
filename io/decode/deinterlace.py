"""Interlaced video: found by its flags and its pixels, made progressive by libavfilter's bwdif.

Flags are often wrong: progressive film in an interlaced stream, or combs in frames that lost their
flags. So libavfilter's idet judges the pixels of a few frames. It compares how well the lines of a
frame fit between each other (d), and the lines of the frames around it between them, separately for
the fields that are a field's time away in one field order (a) and those of the other order (b). A
frame is interlaced if a and b differ, progressive if both are larger than d. idet compares only one
of them with d, so a second one sees the frames without their first line, which swaps them.

bwdif's `send_frame` keeps the number of frames and their timestamps; each frame's second field is
interpolated from its neighbours. Progressive frames between interlaced ones are left unchanged.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, Literal, TypeVar

from av.error import BlockingIOError as NotYet
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import Picture
from ..calls import calling
from ..errors import UnsupportedMedia
from ..media import Source
from ..pictures.pixels import form_of, frame_of, picture_of

FieldOrder = Literal["progressive", "tt", "bb", "tb", "bt"]

INTERLACED: tuple[FieldOrder, ...] = ("tt", "bb", "tb", "bt")

FIELD_ORDERS: dict[int, FieldOrder] = {1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}
"""By `codec_context.field_order`: AVFieldOrder, libavcodec/defs.h."""
FLAGS_FRAMES = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "wmv3")
"""Codecs that mark each frame as interlaced or not, rather than the stream."""
_FEWEST_JUDGED = 8
"""Frames with motion; fewer prove nothing against the flags."""
_FEW = Fraction(1, 10)
"""Of the frames judged: so many may be misjudged."""
_COMBED = Fraction(1, 5)
"""Of the frames judged: more are interlaced, or telecined (two frames of five)."""
_CLEAR = 16
"""Frames judged alike: no need to look at more."""
_MOST_COLUMNS = 640
"""In the middle of a frame; a comb needs all lines, but not all columns."""
_FOUND = "lavfi.idet"
_IDET = "intl_thres=1.4:prog_thres=1.1"
"""By how much they must differ. Captions and edges in a fade exceed idet's own 1.04."""

T = TypeVar("T")


def field_order_text(order: str | None) -> str:
    """Describe which field is coded first, for people."""
    first = {"t": "top field first", "b": "bottom field first"}
    return first.get((order or " ")[0], "field order unknown")


@dataclass(frozen=True, slots=True)
class FieldVerdict:
    """Whether a stream is interlaced, by its flags and its pixels."""

    header: FieldOrder | None = None
    """By the stream's header."""
    kind: Literal["as flagged", "progressive", "interlaced"] = "as flagged"
    """What the pixels show, if they contradict the flags."""
    measured: FieldOrder | None = None
    """The order that the pixels show, if they contradict the header or it gives none."""
    is_telecined: bool = False
    """Whether the pixels show film with a field repeated for every second frame."""
    evidence: str = ""
    """Such as ``by the pixels of 96 frames (idet: tff 90, progressive 6)``; empty if none."""

    @property
    def order(self) -> FieldOrder | None:
        """Which field comes first."""
        return self.measured or self.header

    def text(self, *, is_interlaced: bool) -> str:
        """Describe for people what is found, why, and what is done about it.

        `is_interlaced` is the decision, in which the flags have their part.
        """
        by = f" {self.evidence}" if self.evidence else ""
        if self.kind == "progressive":
            return f"progressive{by}, flagged as interlaced: kept as it is"
        if not is_interlaced:
            is_known = self.evidence or self.header == "progressive"
            return f"progressive{by}" if is_known else "progressive, as it seems"
        what = "telecined film" if self.is_telecined else "interlaced"
        said = ""
        if self.kind == "interlaced":
            said = ", flagged as progressive"
        elif self.measured is not None and self.header in INTERLACED:
            said = f", the header says {field_order_text(self.header)}"
        done = "deinterlaced to one frame per frame"
        return f"{what}, {field_order_text(self.order)}{by}{said}: {done}"


class FieldSample:
    """What idet finds in the pixels of a few frames, separately for flagged and other frames."""

    def __init__(self) -> None:
        self.flagged: Counter[str] = Counter()
        self.unflagged: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        """Of all: ``top``, ``bottom`` if that field is the one of the frame before."""

    @property
    def num_frames(self) -> int:
        """Frames looked at, also those that show nothing."""
        return self.flagged.total() + self.unflagged.total()

    @property
    def is_clear(self) -> bool:
        """Whether enough frames were judged, and all alike."""
        both = self.flagged + self.unflagged
        return _judged(both) >= _CLEAR and _combed(both) in (0, _judged(both))

    def add(self, stream: VideoStream, frames: Iterable[VideoFrame]) -> None:
        """Judge consecutive frames of a stream, up to the first one of another form."""
        header = FIELD_ORDERS.get(stream.codec_context.field_order) in INTERLACED
        all_flagged = header and stream.codec_context.name not in FLAGS_FRAMES
        flags: deque[bool] = deque()
        both: list[FilterChain] = []
        try:
            for frame in frames:
                both = both or [_idet(frame, skip) for skip in (0, 1)]
                if not both[0].accepts(frame):
                    break
                flags.append(all_flagged or frame.interlaced_frame)
                self._count(flags, *(chain(frame) for chain in both))
            self._count(flags, *(chain(None) for chain in both))
        except (FFmpegError, ValueError):  # a pixel format that libavfilter does not convert
            return

    def _count(self, flags: deque[bool], *both: Iterator[VideoFrame]) -> None:
        for frame, other in zip(*both, strict=True):
            kind, mirrored = (
                each.metadata[f"{_FOUND}.single.current_frame"] for each in (frame, other)
            )
            if kind == "progressive" and mirrored != "progressive":
                kind = "undetermined"
            (self.flagged if flags.popleft() else self.unflagged)[kind] += 1
            self.repeated[frame.metadata[f"{_FOUND}.repeated.current_frame"]] += 1

    def judge(self, header: FieldOrder | None) -> FieldVerdict:
        """Decide, given the header's order; flags count, unless pixels of enough frames differ."""
        both = self.flagged + self.unflagged
        if _judged(both) < _FEWEST_JUDGED:
            return FieldVerdict(header)
        order = _order_of(both)
        is_known = order is not None and header in INTERLACED and header[1] == order[1]
        counts = ", ".join(f"{kind} {number}" for kind, number in both.most_common())
        said = FieldVerdict(
            header,
            measured=None if is_known else order,
            is_telecined=self._is_telecined(),
            evidence=f"by the pixels of {both.total()} frames (idet: {counts})",
        )
        if order is not None and _share_combed(self.unflagged) >= _COMBED:
            return replace(said, kind="interlaced")
        if _judged(self.flagged) >= _FEWEST_JUDGED and _share_combed(self.flagged) <= _FEW:
            return replace(said, kind="progressive")
        return said

    def _is_telecined(self) -> bool:
        """Return whether of five frames two are combed and two repeat a field: 3:2 pulldown."""
        least = self.num_frames * _FEW
        repeated = min(self.repeated["top"], self.repeated["bottom"])
        return repeated >= least and _FEW < _share_combed(self.flagged + self.unflagged) < 1 - _FEW


def _combed(counts: Counter[str]) -> int:
    return counts["tff"] + counts["bff"]


def _judged(counts: Counter[str]) -> int:
    return _combed(counts) + counts["progressive"]


def _share_combed(counts: Counter[str]) -> Fraction:
    """Return the share of combed frames; 0 where too few could be judged."""
    judged = _judged(counts)
    return Fraction(_combed(counts), judged) if judged >= _FEWEST_JUDGED else Fraction(0)


def _order_of(counts: Counter[str]) -> FieldOrder | None:
    """Return the field order that nearly all combed frames agree on, if they are enough."""
    top, bottom = counts["tff"], counts["bff"]
    if top + bottom < _FEWEST_JUDGED or min(top, bottom) > (top + bottom) * _FEW:
        return None
    return "tt" if top > bottom else "bb"


def _idet(frame: VideoFrame, num_skipped: int) -> FilterChain:
    """Build an idet for frames like this one, without their first lines."""
    columns, lines = min(frame.width, _MOST_COLUMNS), frame.height - num_skipped
    crop = f"w={columns}:h={lines}:y={num_skipped}:exact=1"
    filters = ("crop", crop), ("format", "gray"), ("idet", _IDET)
    return FilterChain(frame, Fraction(1, 1000), *filters)


class FilterChain:
    """Filters of libavfilter, one behind the other, for frames like the first one."""

    def __init__(
        self, first: VideoFrame, time_base: Fraction, *filters: tuple[str, str | None]
    ) -> None:
        """Link filters, each given by name and arguments, for pts that count in `time_base`."""
        self._form = form_of(first)
        graph = Graph()
        source = graph.add(
            "buffer",
            f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}"
            f":time_base={time_base}:colorspace={first.colorspace}:range={first.color_range}",
        )
        nodes = [graph.add(name, arguments) for name, arguments in filters]
        sink = graph.add("buffersink")
        graph.link_nodes(source, *nodes, sink).configure()
        self._graph, self._source, self._sink = graph, source, sink

    def accepts(self, frame: VideoFrame) -> bool:
        """Return whether a frame has the size and pixel format of the first one."""
        return form_of(frame) == self._form

    def __call__(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Accept a frame, or the end, and yield those that are ready."""
        with calling("decode: libavfilter"):
            self._source.push(frame)
        while True:
            try:
                with calling("decode: libavfilter"):
                    made = self._sink.pull()
            except (NotYet, EndOfFile):
                return
            assert isinstance(made, VideoFrame)
            yield made


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
        is_order_measured: bool = False,
    ) -> None:
        """Build the graph for frames like the first one, whose pts count in `time_base`.

        `field_order` says which field comes first where the frames themselves do not, or rather
        than they if it `is_order_measured`. With `every_frame` unflagged ones are deinterlaced too.
        """
        self._time_base = time_base
        self._items: deque[T] = deque()
        parity = "auto"
        if (every_frame or is_order_measured) and field_order in INTERLACED:
            # bwdif takes an unflagged frame for bottom field first
            parity = "tff" if field_order[1] == "t" else "bff"
        deint = "all" if every_frame else "interlaced"
        arguments = f"mode=send_frame:parity={parity}:deint={deint}"
        self._chain = FilterChain(first, time_base, ("bwdif", arguments))

    def accepts(self, frame: VideoFrame) -> bool:
        """Return whether a frame has the size and pixel format of the first one."""
        return self._chain.accepts(frame)

    def __call__(self, frame: VideoFrame, item: T) -> Iterator[tuple[VideoFrame, T]]:
        """Accept the next frame and yield those that are ready."""
        self._items.append(item)
        return self._ready(self._chain(frame))

    def flush(self) -> Iterator[tuple[VideoFrame, T]]:
        """Yield the last frame."""
        return self._ready(self._chain(None))

    def _ready(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[VideoFrame, T]]:
        for frame in frames:
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
