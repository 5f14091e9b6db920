"""The sink for files: pictures in, a complete and verified media file out, or nothing at all.

An output is planned before the work starts: what it would lose is said then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import av
from av.video.frame import PictureType

from ..filters.frame import Picture, StreamInfo
from .encode.codecs import is_image, is_sequence
from .encode.encoder import EncoderOptions, Encoding, encoding_of
from .encode.packets import encoded
from .files import OutputFile, Owner, check_target, refuse_writer
from .images import ImageSink, check_images, still_losses, try_image
from .losses import LossLedger
from .pictures.image_files import srgb_conversion
from .pictures.pixels import frame_of
from .pictures.t35 import MessageWriter
from .streams.plan import StreamPlan
from .writer import MediaWriter, Trial, try_output

_TRIAL_PIXELS = 1 << 26
"""Of the largest picture that is tried before the work: 8192x8192. With it, FFmpeg's encoders take
1 to 2 GiB; of larger ones a part is tried, and the whole when the sink is opened."""


def open_file_sink(
    target: Path,
    info: StreamInfo,
    encoder: EncoderOptions,
    *,
    plan: StreamPlan | None = None,
    overwrite: bool = False,
    format: str | None = None,
    owner: Owner | None = None,
    trial: Trial | None = None,
) -> FileSink | ImageSink:
    """Open a sink for a media file, a still image or a numbered sequence, by the target's name.

    It appears under its name when it is complete. `info`, whose pix_fmt is that of
    `output_pix_fmt`, holds for all pictures. Without a plan there are no other streams. The
    container is by the name's extension unless `format` names it. The owner marks the temporary
    files, and is notified before they are renamed. A trial is of the same settings, with losses
    that were logged; None: it is made here.

    Raises:
        SinkRefused: if the target, container, encoder or one of its options is unsuitable, or if
            the plan is strict and something will be lost.
    """
    ledger = LossLedger(target.name) if plan is None else plan.ledger(target.name)
    if is_image(target, format):
        return ImageSink(target, info, encoder, ledger, overwrite=overwrite, owner=owner)
    encoding = encoding_of(info, encoder, target, format)
    file = OutputFile(target, overwrite=overwrite, owner=owner)
    media = MediaWriter(file, encoding, plan, ledger, trial)
    # MP4 keeps no durations but the distances of dts
    return FileSink(media, encoding, lengthens_last=encoding.container.holds_edit_lists)


def check_output(
    target: Path, *, overwrite: bool, format: str | None = None, token: str | None = None
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
    """Encodes pictures into one media file; see :func:`open_file_sink`.

    Where it `lengthens_last`, the last frame must be decoded last to last longer than the others.
    """

    def __init__(self, media: MediaWriter, encoding: Encoding, *, lengthens_last: bool) -> None:
        self.info = encoding.info
        """What holds for the pictures of the output."""
        self._media = media
        self._last: Picture | None = None
        self._lengthens_last = lengthens_last
        try:
            self._to_srgb = srgb_conversion(self.info.icc_profile, encoding.container.name)
            self._messages = MessageWriter(media.encoder.stream.codec_context)
        except BaseException:
            self.abort()
            raise

    def write(self, picture: Picture) -> None:
        """Encode the next picture and mux what is due.

        Raises:
            SinkFull: if it cannot be written.
            ReaderGone: if the target is a FIFO, and its reader has closed it.
        """
        if self._last is not None:
            self._encode(self._last)
        self._last = picture

    def _encode(self, picture: Picture, *, is_intra: bool = False) -> None:
        media = self._media
        if not media.timeline.num_pictures:
            media.begin(picture.pts)
        frame = frame_of(picture if self._to_srgb is None else self._to_srgb(picture))
        frame.pts, frame.duration = media.timeline.enter(picture.pts, picture.duration)
        self._messages.enter(frame.pts, picture.t35)
        frame.time_base = media.encoder.timing.time_base
        if is_intra:
            frame.pict_type = PictureType.I
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        with self._media.errors_named("encode into"):
            packets = list(map(self._messages, encoded(self._media.encoder.stream, frame)))
            for left, packet in zip(range(len(packets), 0, -1), packets, strict=True):
                self._media.mux(packet, is_last=frame is None and left == 1)

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
                self._encode(self._last, is_intra=self._lengthens_last)
            self._mux(None)
            self._media.finish(self._messages.num_written)
        finally:
            self.abort()

    def losses(self) -> list[str]:
        """Return what the output loses of its source, for people; once it is finished, as found."""
        return self._media.losses()

    def abort(self) -> None:
        """Stop and remove what was written. Safe to call twice, and after `finish`."""
        self._media.abort()


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
    format: str | None,
    plan: StreamPlan,
) -> PlannedOutput:
    """Find what an output will lose, and try it with a black picture, without opening a sink.

    Arguments are those of :func:`open_file_sink`.

    Raises:
        SinkRefused: if the encoder or the container refuses the pictures, or if something is lost
            and the plan is strict.
    """
    encoding, tried = encoding_of(info, options, target, format), info
    choice, ledger = encoding.choice, plan.ledger(Path(target).name)
    if is_image(target, format):
        if info.width * info.height <= _TRIAL_PIXELS:
            try_image(Path(target), encoding)
        ledger.plan(still_losses(ledger.wanted, encoding, Path(target)), choice.losses)
        return PlannedOutput(ledger.lines(), [], None)
    while tried.width * tried.height > _TRIAL_PIXELS:
        tried = replace(tried, width=tried.width // 4 * 2, height=tried.height // 4 * 2)
    trial = try_output(replace(encoding, info=tried), plan, ledger.wanted)
    new = ledger.plan(trial.losses, [*choice.losses, *trial.lost_tags])
    unsaid = [line for line in new if line not in choice.losses] if tried == info else []
    return PlannedOutput(ledger.lines(), unsaid, trial if tried == info else None)
