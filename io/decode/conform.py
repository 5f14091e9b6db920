"""Frames that change their form in the middle of a stream, made like the first one.

An output has one size, pixel format and shape of its pixels. A frame of another size or shape is
scaled into the first one's, with black bars where it is narrower or lower, so that nothing looks
stretched. Other colour tags and rotations are only counted: an output has one of each, too.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ..pictures.pixels import color_of, form_of, matrix_of, on_cpu
from .deinterlace import FilterChain

_ALIKE = Fraction(3, 100)
"""Shapes that differ by less are one: 720x576 is 4:3 by pixels of 12:11, of 16:15 and of 59:54."""

_CODED_SHAPE = ("mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "vvc", "vc1")
"""Containers without a shape of the pixels of their own, which would hold for the whole track."""


class Conformer:
    """Makes the frames of a stream like its first one, and counts those that were not.

    The stream's decoder says which shape the pixels have; the first frame's is None if unknown.
    """

    def __init__(
        self,
        first: VideoFrame,
        container: InputContainer,
        stream: VideoStream,
        sample_aspect_ratio: Fraction | None,
    ) -> None:
        self._first = first
        self._stream = stream
        self._follows = bool(sample_aspect_ratio) and container.format.name in _CODED_SHAPE
        self._first_ratio = self._ratio = sample_aspect_ratio or Fraction(1)
        self._tags = _tags_of(first)
        self._counts: Counter[str] = Counter()

    def __call__(self, frame: VideoFrame, *, counts: bool = True) -> VideoFrame:
        """Return the frame itself if it is like the first one, else what it becomes."""
        if self._follows and frame.key_frame:
            # the decoder may be ahead of its frames, but a new shape begins with a key frame
            self._ratio = self._stream.codec_context.sample_aspect_ratio or self._ratio
        is_other = form_of(frame) != form_of(self._first)
        if _tags_of(frame) != self._tags:
            self._count_tags(frame, is_other, counts)
        if not is_other and self._ratio == self._first_ratio:
            return frame
        size = Fraction(frame.width * self._first.height, frame.height * self._first.width)
        times_wider = size * self._ratio / self._first_ratio
        if abs(times_wider - 1) <= _ALIKE:
            times_wider = Fraction(1)
        else:
            self._counts["of another shape: shown between black bars"] += counts
        if is_other:
            self._counts["of another size or pixel format: converted"] += counts
        elif times_wider == 1:
            return frame
        return conform(on_cpu(frame), on_cpu(self._first), times_wider)

    def lines(self) -> list[str]:
        """Return how many frames were not like the first one, for people."""
        return [f"{count} frames {what}" for what, count in self._counts.items() if count]

    def _count_tags(self, frame: VideoFrame, is_converted: bool, counts: bool) -> None:
        has, had = color_of(frame), color_of(self._first)
        changed = [("primaries", has.primaries, had.primaries), ("transfer", has.trc, had.trc)]
        if not is_converted:
            changed += [("range", has.range, had.range), ("matrix", has.matrix, had.matrix)]
        if frame.rotation != self._first.rotation:
            changed += [("rotation", str(frame.rotation), str(self._first.rotation))]
        for name, new, old in changed:
            if new is not None and new != old:
                what = f"of {name} {new}: tagged {old or 'unspecified'}, as the first"
                self._counts[what] += counts


def _tags_of(frame: VideoFrame) -> tuple[int, ...]:
    """Return what an output can say only once."""
    color = frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc
    return *color, frame.rotation


def conform(
    frame: VideoFrame, first: VideoFrame, times_wider: Fraction = Fraction(1)
) -> VideoFrame:
    """Convert a frame to the size, pixel format and colour of the first; both on the CPU.

    It is shown `times_wider` than the first one, at the same height; if not 1, bars fill the
    first one's size.
    """
    width = first.width if times_wider >= 1 else _even(first.width * times_wider)
    height = first.height if times_wider <= 1 else _even(first.height / times_wider)
    converted = frame.reformat(
        width,
        height,
        first.format.name,
        src_colorspace=matrix_of(frame),
        dst_colorspace=matrix_of(first),
        src_color_range=frame.color_range,
        dst_color_range=first.color_range,
        interpolation="BICUBIC",
        threads=1,  # with more, swscale writes beyond its slice's end into packed formats
    )
    if times_wider != 1:
        bars = f"{first.width}:{first.height}:(ow-iw)/2:(oh-ih)/2"
        filters = ("pad", bars), ("format", first.format.name)
        chain = FilterChain(converted, Fraction(1, 1000), *filters)
        (converted,) = (*chain(converted), *chain(None))
    converted.pts = frame.pts
    return converted


def _even(size: Fraction) -> int:
    return max(2, round(size / 2) * 2)
