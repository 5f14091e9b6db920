"""Stills and numbered sequences as sinks: PNG, JPEG, WebP, TIFF and BMP, with alpha if possible.

A sequence is written into a hidden folder beside its target, and its files are renamed when all are
complete. The pixels are rotated, since most image formats cannot store a rotation. ICC profile and
EXIF data are carried; pictures are converted to sRGB where the format cannot hold their profile.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import torch
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ..filters.frame import Picture, PixelFormat, StreamInfo
from . import files
from .decode.demuxer import Target
from .encode.codecs import CodecChoice, is_sequence, numbered
from .encode.encoder import EncoderOptions, Encoding, encoding_of, open_codec, still_parameters
from .encode.packets import encoded
from .errors import SinkFull, SinkRefused, VerificationFailed, reason_of
from .losses import LossLedger, contents_of, losses
from .pictures.image_files import HOLDERS, holds_profile, srgb_conversion, with_embedded
from .pictures.pixels import black_frame, frame_of, matrix_of, set_color
from .root import by_descriptor
from .traits import Loss, Trait

log = logging.getLogger("upframe.io.sink")

_FIRST_NUMBER = 1  # as ffmpeg's image2 muxer counts
_BT601, _FULL_RANGE = 5, 2  # FFmpeg's numbers; JFIF knows no other YCbCr (ITU-T T.871, 7)


class ImageSink:
    """Writes each picture as an image file; see :func:`~upframe.io.sink.open_file_sink`."""

    def __init__(
        self,
        target: Path,
        info: StreamInfo,
        encoder: EncoderOptions,
        ledger: LossLedger,
        *,
        overwrite: bool,
        owner: files.Owner | None,
    ) -> None:
        self._target = target
        self._ledger = ledger
        self.info = upright_info(info)
        """What holds for the images."""
        self._overwrite = overwrite
        self._owner = owner
        self._encoding = encoding_of(info, encoder, target, "image2")
        self._folder: Path | None = None
        self._held = -1
        """The folder's descriptor: its name may lead elsewhere later."""
        self._file: files.OutputFile | None = None
        self._published: list[Path] = []
        self.num_images = 0
        self._profile, self._exif = _kept_profile(self._encoding, target), info.exif
        self._to_srgb = None if self._profile else srgb_conversion(info.icc_profile, target.suffix)
        _refuse_several(target, info)
        _open_image_codec(info.width, info.height, self._encoding)
        for line in ledger.plan(still_losses(ledger.wanted, self._encoding, target)):
            log.warning("%s", line)
        self._open()

    def _open(self) -> None:
        if not is_sequence(self._target):
            self._file = files.OutputFile(
                self._target, overwrite=self._overwrite, owner=self._owner
            )
            return
        token = None if self._owner is None else self._owner.token
        check_images(self._target, overwrite=self._overwrite, token=token)
        self._folder = files.partial_path(self._target, token)
        try:
            self._folder.mkdir()
            files.unpublished.add(self._folder)
            self._held = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            files.hold(self._held)
        except OSError as error:
            raise files.write_error(self._target, error) from error

    def write(self, picture: Picture) -> None:
        """Encode the next picture as an image, and check that it can be decoded.

        Raises:
            SinkFull: if it cannot be written.
            SinkRefused: if it is the second one for a single still.
        """
        if self._file is not None and self.num_images:
            raise _one_still(self._target, "more")
        given = self._encoding.info
        picture = upright(picture, given.rotation, hflip=given.hflip)
        if self._to_srgb is not None:
            picture = self._to_srgb(picture)
        data = self._embed(encode_image(picture, self._encoding), picture)
        _check_image(data, picture, self._encoding.choice.codec)
        if not self.num_images and self._ledger.wanted:
            for line in self._ledger.check(contents_of(Target(self._target.name, BytesIO(data)))):
                log.warning("lost, though it was to be kept: %s", line)
        self.num_images += 1
        try:
            self._write(data)
        except OSError as error:
            raise files.write_error(self._target, error) from error

    def losses(self) -> list[str]:
        """Return what the images lose of their source, for people; after the first, as found."""
        return self._ledger.lines()

    def _embed(self, image: bytes, picture: Picture) -> bytes:
        profile, size = self._profile, (picture.width, picture.height)
        try:
            return with_embedded(image, profile, self._exif, *size)
        except ValueError as error:  # the profile alone can be of no harm
            log.warning("EXIF data are left out: %s", error)
            self._exif = None
            return with_embedded(image, profile, None, *size)

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.stream.write(data)
        elif self._folder is not None:
            number = _FIRST_NUMBER - 1 + self.num_images
            name = numbered(self._target, number).name
            with (by_descriptor(self._held) / name).open("xb") as file:  # not through a link
                file.write(data)

    def finish(self) -> None:
        """Rename the images to their final names.

        Raises:
            SinkFull: if they cannot be written.
            SinkRefused: if another file has taken a name.
            VerificationFailed: if there is no image.
        """
        try:
            if not self.num_images:
                raise VerificationFailed(f"got no picture for {self._target}, wanted at least one")
            if self._file is not None:
                self._file.publish()
            elif self._folder is not None:
                self._publish(self._folder)
        except BaseException:
            self.abort()
            raise

    def _publish(self, folder: Path) -> None:
        held = by_descriptor(self._held)
        renames = [
            (folder / name, self._target.with_name(name)) for name in sorted(os.listdir(held))
        ]
        for image, _ in renames:
            files.sync_file(held / image.name)
        files.sync_folder(held)
        if self._owner is not None:
            self._owner.before_publish(renames)
        for image, final in renames:
            files.rename(held / image.name, final, overwrite=self._overwrite)
            self._published.append(final)
        folder.rmdir()
        files.sync_folder(self._target.parent)
        self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            files.unpublished.discard(self._folder)
        self._folder, self._published = None, []
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def abort(self) -> None:
        """Remove what was written. Safe to call twice, and after `finish`."""
        if self._file is not None:
            self._file.discard()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._overwrite:  # an incomplete sequence; replaced files cannot come back
                for image in self._published:
                    image.unlink(missing_ok=True)
        self._forget()


def try_image(target: Path, encoding: Encoding) -> None:
    """Encode a black picture as an image, before any work.

    Raises:
        SinkRefused: if a still would hold several pictures, or the encoder refuses them.
    """
    info, choice = upright_info(encoding.info), encoding.choice
    _refuse_several(target, info)
    codec = _open_image_codec(info.width, info.height, encoding)
    try:
        encoded(codec, black_frame(info.width, info.height, choice.coded_pix_fmt))
        encoded(codec, None)
    except (FFmpegError, MemoryError) as error:
        raise SinkRefused(
            f"{choice.codec} cannot encode {info.width}x{info.height}: {reason_of(error)}"
        ) from error


def _refuse_several(target: Path, info: StreamInfo) -> None:
    if not is_sequence(target) and (info.num_frames or 1) > 1:
        raise _one_still(target, str(info.num_frames))


def still_losses(wanted: Sequence[Trait], encoding: Encoding, target: Path) -> list[Loss]:
    """Return what of a source's traits an image file does not hold."""
    has_exif = encoding.info.exif is not None and target.suffix.lower() in HOLDERS
    kept = {"alpha"} if encoding.has_alpha else set[str]()
    kept |= {"icc"} if _kept_profile(encoding, target) is not None else set()
    kept |= {"exif"} if has_exif else set()
    return [loss for loss in losses(wanted, ()) if loss.trait.kind not in kept]


def _kept_profile(encoding: Encoding, target: Path) -> bytes | None:
    gray = PixelFormat.parse(encoding.choice.pix_fmt).family == "gray"
    profile = encoding.info.icc_profile
    return profile if profile and holds_profile(target.suffix, profile, gray=gray) else None


def _one_still(target: Path, got: str) -> SinkRefused:
    pattern = f"{target.stem}_%05d{target.suffix}"
    return SinkRefused(
        f"{target} holds one picture, got {got} frames; wanted a numbered name such as {pattern}"
    )


def check_images(target: Path, *, overwrite: bool, token: str | None = None) -> None:
    """Refuse a numbered sequence as :func:`~upframe.io.files.check_target` does a file."""
    files.check_target(numbered(target, _FIRST_NUMBER), overwrite=True, token=token)
    if not overwrite and (taken := _taken(target)):
        raise SinkRefused(f"output exists: {taken} (use --overwrite)")


def _taken(target: Path) -> Path | None:
    """Return an existing file of the sequence's names, if any."""
    first = numbered(target, _FIRST_NUMBER)
    if first.exists():
        return first
    start, end = map(re.escape, (target.name[: target.name.index("%")], target.suffix))
    names = re.compile(rf"{start}\d+{end}", re.DOTALL)
    found = (path for path in sorted(target.parent.iterdir()) if names.fullmatch(path.name))
    return next(found, None)


def _check_image(data: bytes, picture: Picture, codec: str) -> None:
    """Refuse an encoded image that does not decode to one picture of the right size."""
    wanted = f"one picture of {picture.width}x{picture.height}"
    try:
        with av.open(BytesIO(data), "r") as opened:
            sizes = [f"{frame.width}x{frame.height}" for frame in opened.decode(video=0)]
    except (FFmpegError, IndexError) as error:
        raise VerificationFailed(f"{codec} wrote no image: wanted {wanted}, {error}") from error
    if sizes != [f"{picture.width}x{picture.height}"]:
        raise VerificationFailed(f"{codec} wrote no such image: wanted {wanted}, got {sizes}")


def upright_info(info: StreamInfo) -> StreamInfo:
    """Return what holds for pictures after :func:`upright`."""
    size = (info.width, info.height) if info.rotation % 180 == 0 else (info.height, info.width)
    return replace(info, width=size[0], height=size[1], rotation=0, hflip=False)


def upright(picture: Picture, rotation: int, *, hflip: bool) -> Picture:
    """Rotate the pixels as a player would show them: mirrored first, then counter-clockwise.

    By 90 and 270 degrees only if the chroma is subsampled equally both ways.
    """
    if not rotation and not hflip:
        return picture

    def turn(plane: torch.Tensor) -> torch.Tensor:
        mirrored = plane.flip(1) if hflip else plane
        return mirrored.rot90(rotation // 90, (0, 1)).contiguous()

    alpha = None if picture.alpha is None else turn(picture.alpha)
    return replace(picture, planes=tuple(map(turn, picture.planes)), alpha=alpha)


def encode_image(picture: Picture, encoding: Encoding) -> bytes:
    """Encode one picture as an image file; return its bytes.

    Raises:
        SinkFull: if the encoder fails.
    """
    codec, choice = _open_image_codec(picture.width, picture.height, encoding), encoding.choice
    frame = _coded_frame(picture, choice)
    frame.pts = 0
    try:
        packets = encoded(codec, frame) + encoded(codec, None)
    except FFmpegError as error:
        raise SinkFull(f"{choice.codec} cannot encode {picture}: {error}") from error
    return b"".join(bytes(packet) for packet in packets)


def _coded_frame(picture: Picture, choice: CodecChoice) -> VideoFrame:
    frame = frame_of(picture)
    if choice.codec != "mjpeg":
        return frame.reformat(format=choice.coded_pix_fmt, threads=1)
    matrix = matrix_of(frame)
    return frame.reformat(
        format=choice.coded_pix_fmt,
        src_colorspace=matrix,
        dst_colorspace=None if matrix is None else _BT601,
        src_color_range=frame.color_range or 1,
        dst_color_range=_FULL_RANGE,
    )


def _open_image_codec(width: int, height: int, encoding: Encoding) -> VideoCodecContext:
    info, choice = encoding.info, encoding.choice
    codec = cast("VideoCodecContext", VideoCodecContext.create(choice.codec, "w"))
    codec.width, codec.height = width, height
    codec.pix_fmt = choice.coded_pix_fmt
    codec.time_base = Fraction(1, 25)
    turned = info.rotation or info.hflip  # which moves the chroma samples
    set_color(codec, replace(info.color, chroma_location=None) if turned else info.color)
    if choice.codec == "mjpeg":
        codec.color_range = _FULL_RANGE
    if info.sample_aspect_ratio:
        codec.sample_aspect_ratio = info.sample_aspect_ratio
    codec.options = codec.options | still_parameters(choice.codec, encoding.options)
    open_codec(codec)
    return codec
