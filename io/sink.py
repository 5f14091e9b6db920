"""The sink for files: pictures in, a complete and verified media file out, or nothing at all.

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
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.error import FFmpegError
from av.video.frame import PictureType

from ..filters.frame import Picture, StreamInfo
from .decode.demuxer import Target
from .decode.survey import AV_TIME_BASE
from .encode.codecs import is_image, is_sequence
from .encode.containers import Container, container_of
from .encode.encoder import EncoderOptions, Encoding, codec_choice, open_encoder
from .encode.packets import EncoderTimeline, encoded, fix_dts, mux
from .errors import SinkFull, SinkRefused, reason_of
from .extent import append_to_video_entry
from .files import OutputFile, Owner, check_target, refuse_writer, write_error
from .images import ImageSink, check_images, still_losses, try_image
from .losses import LossLedger, contents_of, losses
from .pictures.metadata import Tags, tags_of
from .pictures.pixels import black_frame, frame_of
from .pictures.png import delayed
from .pictures.profiles import srgb_conversion
from .pictures.t35 import CARRIED_KINDS, MessageWriter
from .root import by_descriptor
from .streams.plan import StreamPlan
from .streams.tracks import open_copy
from .traits import Loss, Trait
from .verify import TOLERANCE_SECONDS, ExpectedOutput, verify_output

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

log = logging.getLogger("upframe.io.sink")

_MUXER_BUFFER_BYTES = 1 << 18
_COPIED_KINDS = ("audio", "subtitle")


def open_file_sink(
    target: Path,
    info: StreamInfo,
    encoder: EncoderOptions,
    *,
    plan: StreamPlan | None = None,
    overwrite: bool = False,
    format: str | None = None,  # noqa: A002
    owner: Owner | None = None,
    trial: Trial | None = None,
) -> FileSink | ImageSink:
    """Open a sink for a media file, a still image or a numbered sequence, by the target's name.

    Args:
        target: where the output shall be; it appears there when it is complete.
        info: what holds for all pictures; its pix_fmt is that of `output_pix_fmt`.
        encoder: the user's options.
        plan: what becomes of the source's other streams; None for none.
        overwrite: whether an existing output may be replaced.
        format: container, if not by the name's extension.
        owner: marks the temporary files, and is notified before they are renamed.
        trial: of the same settings, with losses that were logged; None: it is made here.

    Raises:
        SinkRefused: if the target, container, encoder or one of its options is unsuitable, or if
            the plan is strict and something will be lost.
    """
    ledger = LossLedger(target.name) if plan is None else plan.ledger(target.name)
    if is_image(target, format):
        return ImageSink(target, info, encoder, ledger, overwrite=overwrite, owner=owner)
    container = container_of(target, format)
    file = OutputFile(target, overwrite=overwrite, owner=owner)
    return FileSink(file, container, info, encoder, plan, ledger, trial)


def check_output(
    target: Path,
    *,
    overwrite: bool,
    format: str | None = None,  # noqa: A002
    token: str | None = None,
) -> None:
    """Refuse a target that could not be written, as :func:`open_file_sink` does, before any work.

    Raises:
        SinkRefused: if it exists, is a folder, or its folder is missing or not writable, or if
            another process is writing it.
    """
    refuse_writer(target, token)
    if is_image(target, format) and is_sequence(target):
        check_images(target, overwrite=overwrite, token=token)
    else:
        check_target(target, overwrite=overwrite, token=token)


class FileSink:
    """Encodes pictures into one media file; see :func:`open_file_sink`."""

    def __init__(
        self,
        file: OutputFile,
        container: Container,
        info: StreamInfo,
        encoder: EncoderOptions,
        plan: StreamPlan | None,
        ledger: LossLedger,
        trial: Trial | None = None,
    ) -> None:
        self._container = container
        self.info = info
        """What holds for the pictures of the output."""
        self._open_things = ExitStack()
        self._last: Picture | None = None
        self._ledger = ledger
        self._file = file
        try:
            self._to_srgb = srgb_conversion(info.icc_profile, container.name)
            self._open(encoder, plan, trial)
        except BaseException:
            self.abort()
            raise

    def _open(self, encoder: EncoderOptions, plan: StreamPlan | None, tried: Trial | None) -> None:
        target, info, container = self._file.target, self.info, self._container
        if container.needs_seek and not self._file.stream.seekable():
            raise SinkRefused(f"{container.name} cannot be written to {target}, which cannot seek")
        choice = codec_choice(info, encoder, target, container.name)
        encoding = Encoding(info, encoder, choice, container)
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
        self._open_things.callback(_close_quietly, output)
        self._encoder = open_encoder(output, encoding)
        self._timeline = EncoderTimeline(self._encoder.timing, info.time_base)
        self._messages = MessageWriter(self._encoder.stream.codec_context)
        self._copy, source = open_copy(plan, output, self._encoder.stream)
        if source is not None:
            self._open_things.callback(source.close)

    def write(self, picture: Picture) -> None:
        """Encode the next picture and mux what is due.

        Raises:
            SinkFull: if it cannot be written.
            ReaderGone: if the target is a FIFO, and its reader has closed it.
        """
        if self._last is not None:
            self._encode(self._last)
        self._last = picture

    def _encode(self, picture: Picture, *, closing: bool = False) -> None:
        if not self._timeline.num_pictures:
            origin = self._copy.begin(picture.pts * self.info.time_base)
            self._encoder.stream.time_base = self._timeline.begin(picture, origin)
        frame = frame_of(picture if self._to_srgb is None else self._to_srgb(picture))
        frame.pts, frame.duration = self._timeline.enter(picture)
        self._messages.enter(frame.pts, picture.t35)
        frame.time_base = self._encoder.timing.time_base
        if closing and self._container.holds_edit_lists:
            # MP4 keeps no durations but the distances of dts: only a frame that is decoded last
            # can last longer than the others
            frame.pict_type = PictureType.I
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with self._errors_named("encode into"):
            packets = list(map(self._messages, encoded(self._encoder.stream, frame)))
            closes = frame is None and self._container.holds_edit_lists
            for left, packet in zip(range(len(packets), 0, -1), packets, strict=True):
                due_seconds = self._timeline.leave(packet, closes_mp4=closes and left == 1)
                if self._container.name == "apng":
                    seconds = (packet.duration or 0) * (packet.time_base or Fraction(0))
                    packet.update(delayed(bytes(packet), seconds))
                self._copy.mux_until(due_seconds)
                mux(self._output, packet)

    @contextmanager
    def _errors_named(self, what: str) -> Generator[None]:
        try:
            yield
        except FFmpegError as error:
            raise SinkFull(f"cannot {what} {self._file.target}: {error}") from error
        except OSError as error:
            raise write_error(self._file.target, error) from error

    def finish(self) -> None:
        """Drain the encoder, complete and verify the file, and rename it.

        Raises:
            SinkFull: if it cannot be written.
            SinkRefused: if another file has taken its name meanwhile.
            VerificationFailed: if it is not what was written, or, with a strict plan, if something
                is lost; it is removed then.
        """
        try:
            if self._last is not None:
                self._encode(self._last, closing=True)
            self._mux(None)
            self._complete()
            if not self._file.direct:
                verify_output(self._written, self._expected())
                self._check_losses()
            self._file.publish()
        finally:
            self.abort()
        self._report()

    def _check_losses(self) -> None:
        if self._ledger.wanted:
            found = contents_of(Target(self._written.name, self._written, self._written))
            for line in self._ledger.check(found, self._copy.without_packets()):
                log.warning("lost, though it was to be kept: %s", line)

    def losses(self) -> list[str]:
        """Return what the output loses of its source, for people; once it is finished, as found."""
        return self._ledger.lines()

    def _complete(self) -> None:
        with self._errors_named("complete"):
            self._copy.mux_until(None)
            self._output.close()
            if self._container.holds_edit_lists and self.info.view_boxes:
                self._file.stream.flush()
                append_to_video_entry(self._written, self.info.view_boxes)
        self._file.close()

    def _expected(self) -> ExpectedOutput:
        sound = self._copy.sound_times()
        if not self._container.tells_pts:
            sound = None
        timeline = self._timeline
        tells_end = self._container.holds_durations or self._one_frame_long()
        if self._container.name == "apng" and timeline.num_pictures == 1:
            tells_end = False  # a plain PNG
        return ExpectedOutput(
            frames=timeline.num_pictures,
            last_start_seconds=timeline.last_start_seconds,
            duration_seconds=timeline.duration_seconds if tells_end else None,
            width=self.info.width,
            height=self.info.height,
            streams={kind: self._copy.num_streams(kind) for kind in _COPIED_KINDS},
            empty_streams={
                kind: self._copy.num_streams(kind, empty=True) for kind in _COPIED_KINDS
            },
            color=self._held.color,
            sample_aspect_ratio=self._held.sample_aspect_ratio,
            rotation=self._held.rotation,
            messages=self._messages.num_written,
            sound=sound.after(timeline.start_seconds) if sound else None,
            tolerance_seconds=max(TOLERANCE_SECONDS, self._container.tick or Fraction(0))
            + timeline.num_pictures * self._container.drift,
        )

    def _one_frame_long(self) -> bool:
        """Return whether the last frame lasts as long as all others, as a reader assumes."""
        fine = self._container.tick is None or self._container.tick < TOLERANCE_SECONDS
        lasts = self._timeline.duration_seconds - self._timeline.last_start_seconds
        return fine and self.info.rate is not None and lasts * self.info.rate == 1

    def _report(self) -> None:
        if count := self._timeline.num_rounded:
            ticks = self._encoder.timing.time_base
            log.warning("%d timestamps were rounded to %s s: the codec's limit", count, ticks)
        for line in self._copy.warnings():
            log.warning("%s", line)

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


def _close_quietly(output: OutputContainer) -> None:
    with suppress(OSError, ValueError, FFmpegError):  # the file is discarded
        output.close()


# The trial: one black picture, and the first second of the other streams, are written in memory
# before the work starts. What would fail after hours fails at once, and what is lost is known.

_TRIAL_SECONDS = Fraction(1)
_TRIAL_PIXELS = 1 << 26
"""Of the largest picture that is tried before the work: 8192x8192. With it, FFmpeg's encoders take
1 to 2 GiB; of larger ones a part is tried, and the whole when the sink is opened."""
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
    """Write a small file with the real settings, and read it back.

    Args:
        encoding: of the pictures.
        plan: what becomes of the source's other streams; None for none.
        wanted: what the output shall hold.

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


def try_encoder(
    options: EncoderOptions,
    format: str,  # noqa: A002
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Write a picture of 8 bits with an encoder into a container, in memory.

    Args:
        options: of the encoder.
        format: the container.
        sizes: of the picture; one that works is enough.

    Raises:
        SinkRefused: why the last one does not work.
    """
    container = container_of("", format)
    for size in sizes:
        info = StreamInfo(*size, "yuv420p", Fraction(1, 25), rate=Fraction(25))
        choice = codec_choice(info, options, "", format)
        with suppress(SinkRefused) if size != sizes[-1] else nullcontext():
            made = replace(info, pix_fmt=choice.pix_fmt)
            try_output(Encoding(made, options, choice, container), None, ())
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


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """What is known of an output before the work."""

    losses: list[str]
    """What it will lose of its source, for people."""
    unsaid: list[str]
    """Those that neither the stream plan nor the choice of the encoder says, nor a sink will."""
    trial: Trial | None
    """For `open_file_sink`; None where it has to make its own: of images, and huge pictures."""


def plan_output(
    info: StreamInfo,
    options: EncoderOptions,
    target: str | Path,
    format: str | None,  # noqa: A002
    plan: StreamPlan,
) -> PlannedOutput:
    """Find what an output will lose, and try it with a black picture, without opening a sink.

    Args:
        info: of the pictures; its pix_fmt is that of `output_pix_fmt`.
        options: of the encoder.
        target: where the output shall be.
        format: container, if not by the name's extension.
        plan: what becomes of the source's other streams.

    Raises:
        SinkRefused: if the encoder or the container refuses the pictures, or if something is lost
            and the plan is strict.
    """
    choice = codec_choice(info, options, target, format)
    ledger = plan.ledger(Path(target).name)
    if is_image(target, format):
        encoding = Encoding(info, options, choice, Container("image2"))
        if info.width * info.height <= _TRIAL_PIXELS:
            try_image(Path(target), encoding)
        ledger.plan(still_losses(ledger.wanted, encoding, Path(target)), choice.losses)
        return PlannedOutput(ledger.lines(), [], None)
    tried, container = info, container_of(target, format)
    while tried.width * tried.height > _TRIAL_PIXELS:
        tried = replace(tried, width=tried.width // 4 * 2, height=tried.height // 4 * 2)
    trial = try_output(Encoding(tried, options, choice, container), plan, ledger.wanted)
    new = ledger.plan(trial.losses, [*choice.losses, *trial.lost_tags])
    unsaid = [line for line in new if line not in choice.losses] if tried == info else []
    return PlannedOutput(ledger.lines(), unsaid, trial if tried == info else None)


def lost_tags(wanted: StreamInfo, got: Tags) -> list[str]:
    """List the wanted tags that are missing or different in a file; None is not compared."""
    lost: list[str] = []
    for name in ("range", "primaries", "trc", "matrix", "chroma_location"):
        want, have = getattr(wanted.color, name), getattr(got.color, name)
        if want is not None and want != have and not _is_implied(name, want, wanted):
            lost.append(f"color {name} {want} (it says {have})")
    aspect = wanted.sample_aspect_ratio or 1
    if aspect != (got.sample_aspect_ratio or 1):
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
