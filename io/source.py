"""A container, image sequence, URL or byte stream as a source of pictures.

The stages: open (`decode.demuxer`), read the timestamps ahead (`decode.survey`), decode
(`decode.decoder`), convert to the first frame's form, deinterlace
(`decode.deinterlace`), fix the timestamps (`timestamps`), copy the planes (`pictures.pixels`). The
first picture is decoded on opening, because only it shows everything about a stream.
Long, because a film, a part of it and a segment go this one way.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from typing import BinaryIO, Literal, TypeVar

from av.error import FFmpegError
from av.video.frame import VideoFrame

from ..filters.frame import Picture, StreamInfo, lasting
from .cuts import (
    Cuts,
    FrameIndex,
    KeyFrame,
    Segment,
    Shown,
    cuts_of,
    frames_of,
    index_of,
    packets_of,
    why_not_sought,
)
from .decode.alpha import is_opaque, may_be_opaque
from .decode.decoder import Conformer, Decoded, Hardware, VideoDecoder, log_decoder, open_for_card
from .decode.deinterlace import (
    FIELD_ORDERS,
    FLAGS_FRAMES,
    INTERLACED,
    Deinterlacer,
    FieldOrder,
    FieldSample,
    FieldVerdict,
    field_order_text,
)
from .decode.demuxer import best_video, find_target, open_container
from .decode.dolby_vision import DolbyVision, dolby_vision_of
from .decode.survey import (
    AV_TIME_BASE,
    describe,
    end_of_stream,
    may_have_fields,
    missing_end,
    survey,
)
from .errors import TruncatedMedia, UnsupportedMedia, WrongOption, reason_of
from .part import Part, Window
from .pictures import pixels
from .pictures.metadata import rotation_of
from .root import ConfinedFile
from .timestamps import FilmFixer, RateVerdict, TimestampFixer, header_rate, judge_rate

T = TypeVar("T")
Deinterlace = Literal["auto", "on", "off"]

PEEK_PACKETS = 16
"""Read ahead from a pipe or URL to judge its rate: enough for that, and not a long wait."""
PEEK_BYTES = 32 << 20
_SLACK_FRAMES = 3  # Matroska and AVI round their durations

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at all of a film has shown, which its segments need too."""

    verdict: RateVerdict
    fields: FieldVerdict
    num_frames: int | None
    duration_seconds: Fraction | None


class ContainerSource:
    """A :class:`~upframe.io.media.Source` of the best video stream of a container.

    Args:
        target: What to read: a path, URL, ``frame_%05d.png``, ``*.png`` or binary stream.
        format: FFmpeg's name of the container, where the data do not show it.
        deinterlace: ``auto`` where the pixels of a few frames show combs, else where the stream or
            a frame is marked as interlaced.
        framerate: Of images and raw streams, which have no timestamps; 25 if None.
        timeout_seconds: Longest wait for a URL to open, and for each read.
        hardware: What may decode besides software.
        part: Which pictures to yield; None for all.
        to_inspect: Whether it may be video whose pictures are not what they seem.
        segment: Yield its pictures only and, if it is not the last one, one past its end: as a
            source of the whole film, or of the part, yields them.
        seen: `ContainerSource.seen` of that source, so that the film is not looked at again.

    Raises:
        SourceMissing: if it does not exist, or may not be read.
        UnsupportedMedia: if it holds no video that can be decoded, or only Dolby's player knows
            its colours.
        WrongOption: if a frame rate is given, and the input has its own; or if the part holds no
            frame.
        TruncatedMedia: if it ends before its first frame, or is an MP4 without its index.
    """

    def __init__(
        self,
        target: str | BinaryIO | ConfinedFile,
        *,
        format: str | None = None,
        deinterlace: Deinterlace = "auto",
        framerate: Fraction | None = None,
        timeout_seconds: float | None = 10.0,
        hardware: Hardware | None = None,
        part: Part | None = None,
        to_inspect: bool = False,
        segment: Segment | None = None,
        seen: Seen | None = None,
    ) -> None:
        self._target = found = find_target(target, format_name=format, framerate=framerate)
        self._segment = segment
        self.before: list[Picture] = []
        """Of a segment, the pictures before it, in order."""
        self._seen = seen
        self._part = part
        self._ended_early = False
        self._deinterlace: Deinterlace = deinterlace
        self._deinterlacer: Deinterlacer[tuple[int | None, int]] | None = None
        self.info: StreamInfo
        """What holds for all pictures, by the first frame; after deinterlacing, if there is any."""
        self._conformer: Conformer | None = None
        self._notes: list[str] = []
        self._drops_alpha = False
        """Whether the decoder reports alpha though every pixel is opaque."""
        self.is_interlaced = False
        """By its pixels, header or first frame, whether or not it was deinterlaced."""
        self.dolby_vision: DolbyVision | None = None
        self._survey = None if seen else survey(found, fields=deinterlace != "off")
        self.container = open_container(found, timeout_seconds)
        """To inspect its other streams."""
        try:
            if hardware is not None and deinterlace != "on":  # which runs on the CPU
                self.container = open_for_card(self.container, found, hardware)
            self._open()
            self._go_to(*self._wanted())
            self._begin()
            self._check(framerate, to_inspect)
        except FFmpegError as error:
            self.close()
            raise UnsupportedMedia(f"{found.name}: {reason_of(error)}") from error
        except BaseException:
            self.close()
            raise

    def _check(self, framerate: Fraction | None, to_inspect: bool) -> None:
        name, dolby_vision = self._target.name, self.dolby_vision
        if framerate not in (None, self.stream.average_rate, self.stream.base_rate):
            raise WrongOption(f"{name} has its own rate; one is given for images, raw streams")
        if dolby_vision is not None and not dolby_vision.is_plain and not to_inspect:
            raise UnsupportedMedia(
                f"{name}: {dolby_vision} has no base layer that can be shown without Dolby's "
                "player: its colours would be green and violet; wanted a profile with one, such as "
                "8.1"
            )

    def _open(self) -> None:
        self.stream = stream = best_video(self.container, self._target.name)
        stream.thread_type = "AUTO"
        self._time_base = stream.time_base or Fraction(1, 90_000)
        self.field_order: FieldOrder | None = FIELD_ORDERS.get(stream.codec_context.field_order)
        self._has_fields = self.field_order in INTERLACED
        part = self._part
        self._window = Window(None, None) if part is None else part.on(self.container)
        self._limits = self._window.ticks(self._time_base)
        self._decoder = self._decoder_from(None)
        seen = self._seen
        self.verdict = self._judge() if seen is None else seen.verdict
        self.fields = self._judge_fields() if seen is None else seen.fields
        if self.verdict.holes:
            self._notes.append(f"timestamps: {self.verdict.evidence}")
        if part is not None and seen is None and self._part_frames() == 0:
            raise self._no_frame(part)
        self._decoder.step = self._step()
        self._decoded = self._frames()
        if (first := next(self._decoded, None)) is None:
            packets = f"{self._decoder.num_packets} packets of {stream.codec_context.name}"
            raise UnsupportedMedia(f"{self._target.name}: no frame could be decoded from {packets}")
        self._first_pts = first[1]
        self._decoded = chain([first], self._decoded)

    def _decoder_from(self, lead: KeyFrame | None) -> VideoDecoder:
        """Make a decoder that begins at a key frame, or with the film."""
        segment, (start, end) = self._segment, self._limits
        if segment is not None:
            # what is missing before the film's first frame counts as well
            start = segment.first_pts if segment.number or lead else start
            end = segment.last_pts + 1
        return VideoDecoder(
            self.container,
            self.stream,
            self._target.name,
            packets=lead and packets_of(self.container, self.stream, lead),
            num_skipped=lead.num_before if lead else 0,
            counted=(start, end),
            judges=segment is None,
        )

    def _step(self) -> Fraction | None:
        """Return how many ticks a frame lasts, if the rate is constant."""
        rate = self.verdict.rate
        return None if rate is None else 1 / (rate * self._time_base)

    def _wanted(self) -> tuple[Sequence[KeyFrame], int]:
        """Return where decoding may begin, and from which pts on frames are needed."""
        if self._segment is not None:
            return self._segment.leads, self._segment.first_pts
        start, first = self._limits[0], self._first_pts
        if start is None or first is None or start <= first:
            return (), 0
        index = self._indexed(start)
        leads = () if isinstance(index, str) else index.leads(self._bounds(index.pts)[0])
        return (() if why_not_sought(self._target, leads[:1]) else leads), start

    def _go_to(self, leads: Sequence[KeyFrame], needed_pts: int) -> None:
        """Decode again from before a frame, with the form of the film's first frame."""
        for lead in leads:
            self._decoder.close()
            self._decoder = self._decoder_from(lead)
            self._decoder.step = self._step()
            self._deinterlacer, self._decoded = None, self._frames()
            if self._decoder.begins_whole(lead.pts, needed_pts):
                break

    def _begin(self) -> None:
        """Set up what comes behind the decoder, and make the first picture."""
        container, stream, decoder = self.container, self.stream, self._decoder
        rate, field_rate = self.verdict.rate, self.verdict.field_rate
        self._film = None
        if field_rate is not None:
            self._film = FilmFixer(self._time_base, field_rate, rate, self._first_pts)
        self._timeline = TimestampFixer(
            self._time_base,
            rate,
            # without `self`: a cycle would keep the frames until the garbage collector runs
            end_of_stream=lambda: (
                end_of_stream(container, stream)
                if len(stream.index_entries) <= decoder.num_skipped + decoder.num_packets
                else None  # not all was read
            ),
        )
        self._pictures = self._run()
        self._first = next(self._pictures, None)
        if self._first is None and self._part is not None:
            raise self._no_frame(self._part)

    @property
    def seen(self) -> Seen:
        """What the look at the film has shown, for sources of its segments."""
        return Seen(self.verdict, self.fields, self.info.num_frames, self.info.duration_seconds)

    def cuts(self, segment_frames: int | None = None) -> Cuts:
        """Divide the film into segments of so many frames at least, by their size if None.

        Reads all of its packets.
        """
        index = self._indexed(self._limits[1])
        if isinstance(index, str):
            return Cuts(why_whole=index)
        begin, end = self._bounds(index.pts)
        return cuts_of(self._target, index, segment_frames or index.least, begin, end)

    def _indexed(self, until: int | None) -> FrameIndex | str:
        """Read which frames there are, at least up to a pts, or why they cannot be counted."""
        if self._decoder.described is not None:
            return "its alpha is a stream of its own"
        return index_of(self._target, self._first_pts, until)

    def _bounds(self, times: list[int]) -> tuple[int, int]:
        """Return which frames the part has: the first one, and the one behind the last."""
        return self._window.bounds(self.verdict.evened(times, self._time_base), self._time_base)

    @property
    def num_damaged(self) -> int:
        """How many frames were damaged so far, of the segment or of the film."""
        return self._decoder.num_damaged

    @property
    def container_name(self) -> str:
        """FFmpeg's name of the container; of a picture that FFmpeg does not read, its format."""
        still = self._target.still
        return self.container.format.name if still is None else still.format

    def __iter__(self) -> Iterator[Picture]:
        """Yield every picture once.

        Raises:
            TruncatedMedia: after the last whole picture of an input that ends too early.
            UnsupportedMedia: if too much of it is damaged.
        """
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._pictures

    def warnings(self) -> list[str]:
        """Return the problems noticed and corrected so far."""
        return [*self._notes, *self.losses(), *self._decoder.lines(), *self._timeline.fixes.lines()]

    def losses(self) -> list[str]:
        """Return what of the pictures was not kept as it was so far, for people."""
        return [
            *([self._film.line] if self._film is not None else []),
            *(self._conformer.lines() if self._conformer is not None else []),
        ]

    def close(self) -> None:
        """Release the file and the decoder."""
        if hasattr(self, "_pictures"):
            self._pictures.close()
        if hasattr(self, "_decoder"):
            self._decoder.close()
            self._decoded = iter(())  # a cycle
        self.container.close()

    def _judge(self) -> RateVerdict:
        claimed = [self.stream.average_rate, self.stream.base_rate]
        claimed += [self.stream.codec_context.framerate]
        if self._survey is not None:
            return self._survey.judge(self._time_base, claimed)
        seen = self._decoder.peek(PEEK_PACKETS, PEEK_BYTES)
        if len(seen) < 2:
            return header_rate(claimed)
        return judge_rate(seen, self._time_base, candidates=claimed).of_excerpt()

    def _judge_fields(self) -> FieldVerdict:
        """Judge by the frames that the survey has decoded, or by those read ahead."""
        if self._survey is not None:
            return self._survey.fields.judge(self.field_order)
        sample = FieldSample()
        if self._deinterlace != "off" and may_have_fields(self.stream):
            sample.add(self.stream, self._decoder.peeked_frames())
        return sample.judge(self.field_order)

    def _run(self) -> Generator[Picture]:
        frames = self._shown()
        fixed = self._timeline.run(frames if self._film is None else self._film.run(frames))
        chosen = self._chosen(fixed)
        if self._segment is not None:
            chosen = frames_of(
                self._target.name, chosen, self._segment,
                lambda one: self.before.append(self._picture(one)),
            )  # fmt: skip
        yield from map(self._picture, chosen)
        if self._segment is None and not self._ended_early:
            self._check_end()

    def _picture(self, entry: tuple[tuple[VideoFrame, int | None, bool], int, int]) -> Picture:
        (frame, _, repeats), pts, duration = entry
        picture = pixels.picture_of(frame, self.info.color, pts, duration, self._time_base)
        # a frame in place of a damaged one has the captions of none
        picture = replace(picture, t35=lasting(picture.t35)) if repeats else picture
        return pixels.without_alpha(picture) if self._drops_alpha else picture

    def _shown(self) -> Iterator[tuple[Shown, int | None, int]]:
        before = None
        for frame, pts, duration in self._decoded:
            yield (frame, pts, frame is before), pts, duration
            before = frame

    def _chosen(self, frames: Iterator[tuple[T, int, int]]) -> Iterator[tuple[T, int, int]]:
        """Yield the frames of the part; its last one lasts no longer than the part."""
        start, end = self._limits
        for frame, pts, duration in frames:
            self._end = pts + duration
            if end is not None and pts >= end:
                self._ended_early = True
                return
            if start is None or pts >= start:
                yield frame, pts, duration if end is None else min(duration, end - pts)
        if self._segment is not None:
            self._check_end()  # rather than that frames are missing

    def _check_end(self) -> None:
        self._decoder.check()
        path, cut = self._target.path, self._decoder.cut_packet
        promised = missing_end(
            path,
            self.container,
            self.stream,
            num_packets=self._decoder.num_skipped + self._decoder.num_packets,
            until=getattr(self, "_end", 0) * self._time_base,
            slack=_SLACK_FRAMES / (self.verdict.average_rate or Fraction(1)),
        )
        if path is not None and self.container.format.name == "yuv4mpegpipe":  # FFmpeg drops it
            cut = cut or path.stat().st_size > self._decoder.end_byte
        if promised is None and not cut:
            return
        num_frames = self._decoder.num_skipped + self._decoder.num_frames
        got = f"{self._target.name}: truncated: got {num_frames} whole frames"
        raise TruncatedMedia(
            f"{got}, the header promised {promised}"
            if promised is not None
            else f"{got}, the input ends inside the next one"
        )

    def _frames(self) -> Iterator[tuple[VideoFrame, int | None, int]]:
        for decoded in self._decoder:
            yield from self._progressive(self._alike(decoded))
        if self._deinterlacer is not None:
            yield from ((frame, *times) for frame, times in self._deinterlacer.flush())

    def _alike(self, decoded: Decoded) -> Decoded:
        """Convert a frame to the first one's form."""
        frame = decoded.frame
        if self._conformer is None:
            self._describe(frame)
            aspect = self.info.sample_aspect_ratio
            self._conformer = Conformer(frame, self.container, self.stream, aspect)
            return decoded
        conformed = self._conformer(frame, counts=self._decoder.counts(decoded.pts))
        return decoded if conformed is frame else replace(decoded, frame=conformed)

    def _describe(self, first: VideoFrame) -> None:
        log_decoder(self._target.name, self.stream, first)
        still = self._target.still
        embedded = self._decoder.embedded if still is None else still.embedded
        self._notes += [] if embedded is None else embedded.notes
        self.dolby_vision = dolby_vision_of(self._target.path, first)
        described = self._decoder.described or first
        info = describe(self.stream, described, self.verdict, self.field_order, embedded)
        if self._target.num_images:
            info = replace(info, exif=None)  # each has its own
        pix_fmt = pixels.planar_pix_fmt(pixels.pix_fmt_of(first))
        self._drops_alpha = may_be_opaque(self.stream, first) and is_opaque(self._target)
        if self._drops_alpha:
            pix_fmt = pixels.opaque_pix_fmt(pix_fmt)
        if (known := self._seen) is not None:
            count, seconds = known.num_frames, known.duration_seconds
        elif self._part is not None:
            count, seconds = self._part_frames(), self._part_seconds()
        else:
            count, seconds = self._num_frames(), self._duration_seconds()
        self.info = replace(info, pix_fmt=pix_fmt, num_frames=count, duration_seconds=seconds)
        by_pixels = self.fields.kind if self._deinterlace == "auto" else "as flagged"
        flagged = self._has_fields or first.interlaced_frame
        self.is_interlaced = by_pixels == "interlaced" or (by_pixels != "progressive" and flagged)
        if by_pixels == "progressive":
            self.info = replace(self.info, field_order="progressive")
            self._notes.append(self.fields.text(is_interlaced=False))
        if converted := pixels.conversion_warning(pixels.pix_fmt_of(first)):
            self._notes.append(converted)
        angle = rotation_of(described)[2]
        if angle % 90 > 1 and angle % 90 < 89:
            self._notes.append(f"turned by {angle:.1f} degrees: took {self.info.rotation}")

    def _num_frames(self) -> int | None:
        seen = self._survey
        if seen is not None and seen.complete and self.field_order in (None, "progressive"):
            return seen.num_packets or None
        # a packet of an interlaced stream may be one field only
        return self._target.num_images or self.stream.frames or None

    def _part_times(self) -> list[int] | None:
        """Return the pts of the part's frames; None if it is unknown which there are."""
        seen = self._survey
        if seen is None or seen.span is None:
            return None
        times = self.verdict.evened(sorted(seen.runs[0]), self._time_base)
        begin, end = self._window.bounds(times, self._time_base)
        return times[begin:end]

    def _part_frames(self) -> int | None:
        """Return the number of the part's frames; None if unknown."""
        times, step, total = self._part_times(), self._step(), self._num_frames()
        if times is not None and (not times or self.field_order in (None, "progressive")):
            return len(times)
        if step is None or total is None:
            return None
        return self._window.count(self.stream.start_time or 0, step, total, self._time_base)

    def _part_seconds(self) -> Fraction | None:
        """Return how long the part's pictures last; None if unknown."""
        times, whole = self._part_times(), self._duration_seconds()
        begins = (self.stream.start_time or 0) * self._time_base
        shown = times[0] * self._time_base if times else None
        return None if whole is None else self._window.seconds(begins, begins + whole, shown)

    def _no_frame(self, part: Part) -> WrongOption:
        count = self._num_frames() or self._decoder.num_frames
        return part.refused(self._target.name, count, self._duration_seconds())

    def _duration_seconds(self) -> Fraction | None:
        seen, stream, rate = self._survey, self.stream, self.verdict.rate
        if (count := self._target.num_images) and rate:
            return count / rate
        if seen is not None and seen.span is not None:
            return seen.seconds(self.container, stream, rate)
        if stream.duration:
            return stream.duration * self._time_base
        total = self.container.duration
        return Fraction(total, AV_TIME_BASE) if total else None

    def _progressive(self, decoded: Decoded) -> Iterator[tuple[VideoFrame, int | None, int]]:
        frame = decoded.frame
        if self._deinterlacer is None and self._wants_deinterlacing(frame):
            self._start_deinterlacing(pixels.on_cpu(frame))
        if self._deinterlacer is None:
            yield frame, decoded.pts, decoded.duration
            return
        times = decoded.pts, decoded.duration  # the decoder's, not the filter's
        yield from ((done, *of) for done, of in self._deinterlacer(pixels.on_cpu(frame), times))

    def _wants_deinterlacing(self, frame: VideoFrame) -> bool:
        if self._deinterlace != "auto":
            return self._deinterlace == "on"
        if self.fields.kind != "as flagged":
            return self.is_interlaced
        return self._has_fields or frame.interlaced_frame

    def _start_deinterlacing(self, frame: VideoFrame) -> None:
        self._deinterlacer = Deinterlacer(
            frame,
            self._time_base,
            field_order=self.fields.order,
            every_frame=self._deinterlace == "on"
            or self.fields.kind == "interlaced"
            or not (frame.interlaced_frame or self.stream.codec_context.name in FLAGS_FRAMES),
            is_order_measured=self.fields.measured is not None,
        )
        self.info = replace(self.info, field_order="progressive")
        said = field_order_text(self.fields.order)
        note = f"interlaced ({said}): deinterlaced to one frame per frame"
        if self._deinterlace == "on":
            note = f"deinterlaced to one frame per frame as asked ({said})"
        elif self.fields.kind == "interlaced" or self.fields.is_telecined:
            note = self.fields.text(is_interlaced=True)
        if note not in self._notes:  # a segment begins again
            self._notes.append(note)
            logger.info("%s: %s", self._target.name, note)


open_source = ContainerSource
