"""The file of an output: encoded video beside the copied streams, muxed, verified and renamed.

Encoder and muxer are tried on one picture before the work starts, which also shows the tags that
the container loses. Copied streams are muxed in step with the video, so that memory stays flat.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from ..filters.frame import StreamInfo
from .decode.demuxer import Target
from .decode.survey import AV_TIME_BASE
from .encode.containers import Container
from .encode.encoder import EncoderOptions, Encoding, encoding_of, open_encoder
from .encode.packets import AnyPacket, EncoderTimeline, encoded, fix_dts, mux
from .errors import SinkFull, SinkRefused, reason_of
from .extent import append_to_video_entry
from .files import OutputFile, write_error
from .losses import LossLedger, contents_of, losses
from .pictures.metadata import Tags, tags_of
from .pictures.pixels import black_frame
from .pictures.png import delayed
from .pictures.t35 import CARRIED_KINDS
from .root import by_descriptor
from .streams.plan import StreamPlan
from .streams.tracks import open_copy
from .traits import Loss, Trait
from .verify import TOLERANCE_SECONDS, ExpectedOutput, verify_output

log = logging.getLogger("upframe.io.sink")

_COPIED_KINDS = ("audio", "subtitle")
_MUXER_BUFFER_BYTES = 1 << 18
_TRIAL_SECONDS = Fraction(1)


class MediaWriter:
    """Muxes encoded video beside the copied streams; verifies and publishes the file."""

    def __init__(
        self,
        file: OutputFile,
        encoding: Encoding,
        plan: StreamPlan | None,
        ledger: LossLedger,
        trial: Trial | None = None,
    ) -> None:
        self._container = encoding.container
        self._info = encoding.info
        self._open_things = ExitStack()
        self._ledger = ledger
        self._file = file
        try:
            self._open(encoding, plan, trial)
        except BaseException:
            self.abort()
            raise

    def _open(self, encoding: Encoding, plan: StreamPlan | None, tried: Trial | None) -> None:
        target, container = self._file.target, self._container
        if container.needs_seek and not self._file.stream.seekable():
            raise SinkRefused(f"{container.name} cannot be written to {target}, which cannot seek")
        trial = tried or try_output(encoding, plan, self._ledger.wanted)
        plan = trial.plan
        self._held = trial.tags
        for line in self._ledger.plan(trial.losses, trial.lost_tags):
            if tried is None:
                log.warning("%s", line)
        # by its descriptor: its name may lead elsewhere by the time it is verified
        self._written = by_descriptor(os.dup(self._file.stream.fileno()))
        self._open_things.callback(os.close, int(self._written.name))
        self._output = output = open_output(self._file, container, self._ledger.wanted)
        self._open_things.callback(close_quietly, output)
        self.encoder = open_encoder(output, encoding)
        self.timeline = EncoderTimeline(self.encoder.timing, self._info.time_base)
        self._copy, source = open_copy(plan, output, self.encoder.stream)
        if source is not None:
            self._open_things.callback(source.close)

    def begin(self, pts: int) -> None:
        """Fix the time line; `pts` is that of the first picture."""
        origin = self._copy.begin(pts * self._info.time_base)
        self.encoder.stream.time_base = self.timeline.begin(pts, origin)

    def mux(self, packet: AnyPacket, *, is_last: bool = False) -> None:
        """Mux the next packet of the video, its times as the encoder gives them, and what is due.

        Raises:
            FFmpegError, OSError: if it cannot be written; see `errors_named`.
        """
        closes = is_last and self._container.holds_edit_lists
        due_seconds = self.timeline.leave(packet, closes_mp4=closes)
        if self._container.name == "apng":
            seconds = (packet.duration or 0) * (packet.time_base or Fraction(0))
            packet.update(delayed(bytes(packet), seconds))
        self._copy.mux_until(due_seconds)
        mux(self._output, packet)

    @contextmanager
    def errors_named(self, what: str) -> Generator[None]:
        """Translate errors while `what` is done to the target.

        Raises:
            SinkFull, ReaderGone: see `FileSink.write`.
        """
        try:
            yield
        except FFmpegError as error:
            raise SinkFull(f"cannot {what} {self._file.target}: {error}") from error
        except OSError as error:
            raise write_error(self._file.target, error) from error

    def finish(self, num_messages: int) -> None:
        """Complete, verify and rename the file; see `FileSink.finish`.

        Its video must have `num_messages` T.35 messages.
        """
        with self.errors_named("complete"):
            self._copy.mux_until(None)
            self._output.close()
            self._amend()
        self._file.close()
        if not self._file.direct:
            self._verify(num_messages)
        self._file.publish()
        self._report()

    def _amend(self) -> None:
        """Add to the file what no muxer of FFmpeg writes."""
        if self._container.holds_edit_lists and self._info.view_boxes:
            self._file.stream.flush()
            append_to_video_entry(self._written, self._info.view_boxes)

    def _report(self) -> None:
        if count := self.timeline.num_rounded:
            ticks = self.encoder.timing.time_base
            log.warning("%d timestamps were rounded to %s s: the codec's limit", count, ticks)
        for line in self._copy.warnings():
            log.warning("%s", line)

    def _verify(self, num_messages: int) -> None:
        verify_output(self._written, self._expected(num_messages))
        if self._ledger.wanted:
            found = contents_of(Target(self._written.name, self._written, self._written))
            for line in self._ledger.check(found, self._copy.without_packets()):
                log.warning("lost, though it was to be kept: %s", line)

    def losses(self) -> list[str]:
        """Return what the output loses of its source, for people; once it is finished, as found."""
        return self._ledger.lines()

    def _expected(self, num_messages: int) -> ExpectedOutput:
        timeline, container, copy = self.timeline, self._container, self._copy
        sound = copy.sound_times() if container.tells_pts else None
        tells_end = container.holds_durations or self._one_frame_long()
        if container.name == "apng" and timeline.num_pictures == 1:
            tells_end = False  # a plain PNG
        return ExpectedOutput(
            frames=timeline.num_pictures,
            last_start_seconds=timeline.last_start_seconds,
            duration_seconds=timeline.duration_seconds if tells_end else None,
            width=self._info.width,
            height=self._info.height,
            streams={kind: copy.num_streams(kind) for kind in _COPIED_KINDS},
            empty_streams={kind: copy.num_streams(kind, empty=True) for kind in _COPIED_KINDS},
            color=self._held.color,
            sample_aspect_ratio=self._held.sample_aspect_ratio,
            rotation=self._held.rotation,
            messages=num_messages,
            sound=sound.after(timeline.start_seconds) if sound else None,
            tolerance_seconds=max(TOLERANCE_SECONDS, container.tick or Fraction(0))
            + timeline.num_pictures * container.drift,
        )

    def _one_frame_long(self) -> bool:
        """Return whether the last frame lasts as long as all others, as a reader assumes."""
        fine = self._container.tick is None or self._container.tick < TOLERANCE_SECONDS
        lasts = self.timeline.duration_seconds - self.timeline.last_start_seconds
        return fine and self._info.rate is not None and lasts * self._info.rate == 1

    def abort(self) -> None:
        """Stop and remove what was written. Safe to call twice, and after `finish`."""
        self._file.discard()  # first, since a muxer with a closed file writes no trailer
        self._open_things.close()


def open_output(file: OutputFile, container: Container, wanted: Sequence[Trait]) -> OutputContainer:
    """Open a muxer on an output file.

    Raises:
        SinkRefused: if there is no such muxer.
    """
    try:
        return av.open(
            file.stream,
            "w",
            format=container.name,
            container_options=muxer_options(container, wanted),
            buffer_size=_MUXER_BUFFER_BYTES,
        )
    except (ValueError, FFmpegError) as error:
        raise SinkRefused(f"cannot write {container.name} to {file.target}: {error}") from error


def muxer_options(container: Container, wanted: Sequence[Trait]) -> dict[str, str]:
    """Return the muxer's options: dispositions as in the source, offsets finer than 1 ms, all tags.

    MP4's usual place for tags, which all players read, holds only the usual ones. Those of phones,
    such as com.apple.quicktime.make, have another, which replaces it.
    """
    if container.name in ("matroska", "webm"):
        return {"default_mode": "passthrough"}
    if container.holds_edit_lists:
        options = {"movie_timescale": "90000"}  # in which edit lists are counted; else 1000
        if any(trait.kind.startswith("tag com.") for trait in wanted):
            options["movflags"] = "use_metadata_tags"
        return options
    return {}


def close_quietly(output: OutputContainer) -> None:
    """Close a muxer whose file is discarded, whatever it says."""
    with suppress(OSError, ValueError, FFmpegError):
        output.close()


# The trial: one black picture, and the first second of the other streams, are written in memory
# before the work starts. What would fail after hours fails at once, and what is lost is known.

_BOXES = {"stereo3d": b"st3d", "spherical": b"sv3d"}  # of MP4, by what they hold


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a small file of the same settings."""

    tags: Tags
    """Of its video."""
    plan: StreamPlan | None = None
    """What became of the other streams: without a time code that the container does not hold."""
    lost_tags: tuple[str, ...] = ()
    """Tags of the pictures that it does not have, for people."""
    losses: tuple[Loss, ...] = ()
    """Traits that the source has and it has not."""


def try_output(encoding: Encoding, plan: StreamPlan | None, wanted: Sequence[Trait]) -> Trial:
    """Write a small file with the real settings, and read it back; `wanted`: what it shall hold.

    Raises:
        SinkRefused: if the encoder or the container refuses it.
        SourceMissing: if the source has disappeared.
    """
    info, choice, container = encoding.info, encoding.choice, encoding.container
    written, lost, settings = BytesIO(), list[Loss](), muxer_options(container, wanted)
    try:
        with av.open(written, "w", format=container.name, container_options=settings) as output:
            encoder = open_encoder(output, encoding)
            unseen = _try_streams(plan, output, encoder.stream)
            frame = black_frame(info.width, info.height, choice.coded_pix_fmt)
            for given in (frame, None):
                for packet in encoded(encoder.stream, given):
                    fix_dts(packet, 0)
                    mux(output, packet)
        written.seek(0)
        with av.open(written, "r") as opened:
            tags = tags_of(opened, opened.streams.video[0])
        if wanted:
            written.seek(0)
            lost = losses(wanted, contents_of(Target("the trial", written)))
    except (FFmpegError, IndexError, MemoryError) as error:
        if plan is not None and plan.timecode is not None:  # such as of 256 frames a second in MP4
            return try_output(encoding, replace(plan, timecode=None), wanted)
        raise SinkRefused(
            f"{choice.codec} in {container.name} cannot be written at {info.width}x{info.height} "
            f"{choice.coded_pix_fmt}: {reason_of(error)}"
        ) from error
    said = f"{container.name} with {choice.codec} does not carry"
    promised = promised_kinds(encoding)
    shown = [loss for loss in lost if loss.trait.subject not in unseen]
    return Trial(
        tags,
        plan,
        tuple(f"{said} {tag}" for tag in lost_tags(info, tags)),
        tuple(loss for loss in shown if loss.trait.kind not in promised),
    )


def try_encoder(options: EncoderOptions, format: str, sizes: Sequence[tuple[int, int]]) -> None:
    """Write a picture of 8 bits with an encoder into a container, in memory; one size is enough.

    Raises:
        SinkRefused: why the last one does not work.
    """
    for size in sizes:
        info = StreamInfo(*size, "yuv420p", Fraction(1, 25), rate=Fraction(25))
        made = encoding_of(info, options, "", format)
        with suppress(SinkRefused) if size != sizes[-1] else nullcontext():
            pictures = replace(info, pix_fmt=made.choice.pix_fmt)
            try_output(replace(made, info=pictures), None, ())
            return


def promised_kinds(encoding: Encoding) -> set[str]:
    """Return the kinds of traits that come with the real pictures, so that no trial shows them.

    Whether they came is found when the output is verified.
    """
    boxes = encoding.info.view_boxes if encoding.container.holds_edit_lists else b""
    kinds = {kind for kind, name in _BOXES.items() if name in boxes}
    kinds |= {"alpha"} if encoding.has_alpha else set()
    return kinds | CARRIED_KINDS.get(av.Codec(encoding.choice.codec, "w").canonical_name, set())


def _try_streams(plan: StreamPlan | None, output: OutputContainer, video: VideoStream) -> set[str]:
    """Mux the beginning of the other streams; return which of them have no packet there."""
    copy, source = open_copy(plan, output, video, on_trial=True)
    if source is None:
        return set()
    try:
        copy.begin(Fraction(source.start_time or 0, AV_TIME_BASE))
        copy.mux_until(_TRIAL_SECONDS)
    finally:
        source.close()
    return copy.without_packets()


def lost_tags(wanted: StreamInfo, got: Tags) -> list[str]:
    """List the wanted tags that are missing or different in a file; None is not compared."""
    lost: list[str] = []
    for name in ("range", "primaries", "trc", "matrix", "chroma_location"):
        want, have = getattr(wanted.color, name), getattr(got.color, name)
        if want is not None and want != have and not _is_implied(name, want, wanted):
            lost.append(f"color {name} {want} (it says {have})")
    if (aspect := wanted.sample_aspect_ratio or 1) != (got.sample_aspect_ratio or 1):
        lost.append(f"the sample aspect ratio {aspect} (it says {got.sample_aspect_ratio})")
    if (wanted.rotation, wanted.hflip) != (got.rotation, got.hflip):
        mirrored = ", mirrored" if wanted.hflip else ""
        lost.append(f"the rotation of {wanted.rotation} degrees{mirrored}")
    if wanted.mastering_display and got.mastering_display is None:
        lost.append("the HDR10 mastering display")
    if wanted.content_light and got.content_light is None:
        lost.append("the HDR10 light levels")
    return lost


def _is_implied(name: str, want: str, wanted: StreamInfo) -> bool:
    """Return whether players assume a tag's value anyway: limited range, left chroma siting."""
    if name == "chroma_location":
        return want == "left" or not wanted.format.chroma_shift_x
    return name == "range" and want == ("tv" if wanted.format.family == "yuv" else "pc")
