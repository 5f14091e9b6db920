"""The loss ledger: what a source holds and its output does not.

Both files are read, so the ledger lists what the output was found to lack, not what somebody
thought of. What a trial output lacks is said before the work; what the finished one lacks is found
when it is verified. Modules that know a concept describe it by traits, see `traits`.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideData
from av.stream import Discard, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .calls import frames_of
from .decode.alpha import alpha_traits
from .decode.demuxer import Target, best_video, codec_of, kind_of, open_container
from .decode.dolby_vision import dolby_vision_traits
from .errors import SinkRefused, VerificationFailed
from .extent import mp4_index, sample_entries
from .part import Window
from .pictures.image_files import Embedded, embedded_in, embedded_traits, read_embedded
from .pictures.metadata import make_harmless, view_traits
from .redaction import excerpt
from .timecode import is_timecode, timecode_traits
from .traits import Loss, OpenedFile, Trait

FIRST_FRAMES = 8
"""Of the video, searched for side data: captions begin a few frames after the film."""


def contents_of(target: Target, window: Window | None = None) -> tuple[Trait, ...]:
    """List everything that a file, or a part of it, holds besides plain pixels and packets.

    Raises:
        SourceMissing, UnsupportedMedia: if it cannot be opened, or holds no video.
    """
    with open_container(target) as container:
        video = best_video(container, target.name)
        chapter_tracks = {stream.index for stream in container.streams if is_chapter_track(stream)}
        embedded, opened = _beginning(target, container, video, window)
        found: list[Trait] = []
        found += stream_traits(opened, chapter_tracks)
        found += chapter_traits(opened, window)
        found += timecode_traits(opened, window)
        found += alpha_traits(target, opened)
        found += embedded_traits(embedded)
        found += view_traits(opened)
        found += dolby_vision_traits(opened)
        found += side_data_traits(opened, {trait.kind for trait in found})
        return tuple(found)


def _beginning(
    target: Target, container: InputContainer, video: VideoStream, window: Window | None
) -> tuple[Embedded | None, OpenedFile]:
    embedded = None if target.still is None else target.still.embedded
    first, frames, wanted = None, list[VideoFrame](), 1 if target.images else FIRST_FRAMES
    video.thread_type = "AUTO"
    start = None if window is None else window.ticks(video.time_base or Fraction(1))[0]
    if start is not None and not target.images:
        with suppress(FFmpegError, OSError):  # it cannot seek: what it begins with must suffice
            container.seek(start, stream=video)
    with suppress(FFmpegError, MemoryError):  # who converts the file will say it
        for packet in container.demux(video):
            if first is None:
                first, embedded = packet, embedded or embedded_in(container, packet)
                if embedded is None and video.codec_context.name == "png":  # of a film
                    embedded = read_embedded(bytes(packet))
            make_harmless(packet, video.codec_context)
            decoded = frames_of(video.codec_context, packet)
            frames += [one for one in decoded if start is None or (one.pts or start) >= start]
            if len(frames) >= wanted:
                break
    return embedded, OpenedFile(target.path, container, video, tuple(frames[:wanted]), first)


def losses(source: Iterable[Trait], output: Collection[Trait]) -> list[Loss]:
    """List what of a source its output does not have, or has otherwise.

    Traits are compared by kind and value, whatever their order. Of a stream that is missing only
    the stream is listed, not its tags.
    """
    left = Counter((trait.kind, trait.value) for trait in output)
    texts = {(trait.kind, trait.value): trait.text for trait in output}
    missing: list[Trait] = []
    for trait in source:
        if left[trait.kind, trait.value]:
            left[trait.kind, trait.value] -= 1
        else:
            missing.append(trait)
    found = [Loss(trait, _became(trait, left, texts)) for trait in missing]
    streams = {trait for trait in missing if trait.kind.startswith("stream ")}
    gone = {trait.subject for trait in streams}
    return [loss for loss in found if loss.trait in streams or loss.trait.subject not in gone]


def _became(trait: Trait, left: Counter[tuple[str, str]], texts: dict[tuple[str, str], str]) -> str:
    """Take one of the same kind out of those that are left, if there is one, and describe it."""
    for key in left:
        if key[0] == trait.kind and left[key]:
            left[key] -= 1
            return f"became {texts[key]}"
    return "not kept"


@dataclass(slots=True)
class LossLedger:
    """What one output loses: as planned before the work, then as found after it."""

    name: str
    """Of the output, for people."""
    wanted: Sequence[Trait] = ()
    """The traits of the source."""
    said: Sequence[str] = ()
    """Losses that no trait shows, and of which people were told."""
    describe: Callable[[Loss], str] = str
    """Describes a loss for people; only those that it leaves as they are, are not told."""
    strict: bool = False
    """Whether a loss is an error."""
    _losses: Sequence[Loss] = ()

    def plan(self, planned: Iterable[Loss], said: Collection[str] = ()) -> list[str]:
        """Note what will be lost; return what of it people are still to be told.

        Losses are `planned` by traits, or `said` in other ways, for people.

        Raises:
            SinkRefused: if anything is lost that must not be.
        """
        self._losses = list(planned)
        new = [*said, *(str(loss) for loss in self._losses if self.describe(loss) == str(loss))]
        self.said = [*self.said, *said]
        if self.strict and (lines := self.lines()):
            raise SinkRefused(f"--strict-streams: {self.name}: {'; '.join(lines)}")
        return new

    def check(self, output: Collection[Trait], empty: Collection[str] = ()) -> list[str]:
        """Compare the finished output with the source; return what is lost that was not planned.

        The `empty` subjects are no loss: streams without a packet, which some muxers leave out.

        Raises:
            VerificationFailed: if anything is lost that must not be.
        """
        planned = {loss.trait for loss in self._losses}
        found = losses(self.wanted, output)
        self._losses = [loss for loss in found if loss.trait.subject not in empty]
        lost = [self.describe(loss) for loss in self._losses if loss.trait not in planned]
        if lost and self.strict:
            raise VerificationFailed(f"--strict-streams: {self.name}: {'; '.join(lost)}")
        return lost

    def lines(self) -> list[str]:
        """Return all losses known so far, for people."""
        return [*self.said, *map(self.describe, self._losses)]


# Metadata that describe the old file, or are written by the muxer; of MXF and AVI, beginning with
# `application_platform`: identities of the old file and of the program that wrote it.
_STALE = re.compile(
    r"(encoder|encoded_by_ffmpeg|major_brand|minor_version|compatible_brands|duration|vendor_id"
    r"|rotate|timecode|number_of_frames|number_of_bytes|bps|source_id|_statistics_writing_app"
    r"|_statistics_writing_date_utc|_statistics_tags|application_platform|company_name|data_type"
    r"|modification_date|product_name|product_version(_num)?|toolkit_version(_num)?|track_name"
    r"|file_package_name|material_package_name|software|uid)(-...)?|\w+_(uid|umid|ul)",
    re.IGNORECASE | re.DOTALL,
)
# Metadata that only say by what a track is played, repeat the file's, or are traits of their own.
_TECHNICAL = {"handler_name", "creation_time", "alpha_mode", "stereo_mode", "filename", "mimetype"}


def kept_metadata(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata that describe the content rather than the file.

    Matroska's tags may end in a language: ``DURATION-eng`` is as stale as ``DURATION``.
    """
    return {key: value for key, value in tags.items() if not _STALE.fullmatch(key)}


def is_chapter_track(stream: Stream) -> bool:
    """Return whether a track holds the titles of chapters, as the video's ``chap`` reference says.

    FFmpeg makes chapters of such a text track, and marks it as not to be read. So ask before any
    stream's `discard` is set.
    """
    return stream.type == "data" and stream.discard == Discard.all


def name_of(stream: Stream, path: Path | None) -> str:
    """Return a stream's codec; of data that FFmpeg has no name for, what its file calls it."""
    name = codec_of(stream)
    if stream.type == "data" and name in ("bin_data", "unknown") and path is not None:
        entries = sample_entries(mp4_index(path))
        return entries[stream.index] if stream.index < len(entries) else name
    return name


def stream_traits(opened: OpenedFile, chapter_tracks: set[int]) -> Iterator[Trait]:
    """Yield all streams except the video, time codes and the tracks of chapters; and all tags."""
    yield from _tags("file", "", opened.container.metadata)
    for stream in opened.container.streams:
        kind = kind_of(stream)
        if stream.index == opened.video.index:
            yield from _tags("video", "video ", stream.metadata, _TECHNICAL)
            continue
        name = name_of(stream, opened.path)
        if stream.index in chapter_tracks or is_timecode(stream, name):
            continue
        subject = f"{kind} #{stream.index}"
        language = stream.language and excerpt(stream.language)
        spoken = f" ({language})" if language and language != "und" else ""
        yield Trait(subject, f"stream {kind}", f"{excerpt(name)}{spoken}", codec_of(stream))
        yield from _tags(subject, f"{kind} ", stream.metadata, _TECHNICAL)


def _tags(
    subject: str, prefix: str, metadata: Mapping[str, str], technical: Collection[str] = ()
) -> Iterator[Trait]:
    for key, value in kept_metadata(metadata).items():
        name = key.lower()
        if name in technical or not value or (name, value) == ("language", "und"):
            continue
        text = f"tag {excerpt(key, 60)} '{excerpt(value, 80)}'"
        yield Trait(subject, f"{prefix}tag {excerpt(name, 60)}", text, value)


def chapter_traits(opened: OpenedFile, window: Window | None = None) -> Iterator[Trait]:
    """Yield the chapters, if there are any: their number and titles."""
    chapters = opened.container.chapters()
    chapters = chapters if window is None else window.chapters(chapters)
    titles = [one["metadata"].get("title", "") for one in chapters]
    if titles:
        named = f" ({excerpt(', '.join(filter(None, titles)), 80)})" if any(titles) else ""
        yield Trait("file", "chapters", f"{len(titles)} chapters{named}", "\n".join(titles))


# What :func:`upframe.io.pictures.metadata.tags_of` reads, or that tells of the encoder's work only.
_CHECKED_ELSEWHERE = {
    "DISPLAYMATRIX", "MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL", "MOTION_VECTORS",
    "VIDEO_ENC_PARAMS", "VIDEO_HINT", "REGIONS_OF_INTEREST", "SPHERICAL", "STEREO3D",
}  # fmt: skip
_SIDE_DATA = {
    "A53_CC": ("a53 captions", "closed captions (A53)"),
    "DYNAMIC_HDR_PLUS": ("hdr10+", "HDR10+"),
    "DYNAMIC_HDR_VIVID": ("hdr vivid", "HDR Vivid"),
    "DOVI_RPU_BUFFER": ("dolby vision", "Dolby Vision"),
    "DOVI_METADATA": ("dolby vision", "Dolby Vision"),
    "ICC_PROFILE": ("icc", "ICC profile"),
    "AFD": ("afd", "active format description"),
    "PANSCAN": ("panscan", "pan and scan"),
    "GOP_TIMECODE": ("gop timecode", "time codes of MPEG-2's groups"),
    "S12M_TIMECODE": ("frame timecode", "time codes of frames (SMPTE ST 12)"),
    "FILM_GRAIN_PARAMS": ("film grain", "film grain parameters"),
    "SEI_UNREGISTERED": ("user data", "user data (SEI)"),
    "AMBIENT_VIEWING_ENVIRONMENT": ("ambient", "ambient viewing environment"),
    # kinds of FFmpeg 8.1 that PyAV 18 has no name for, by their number
    "28": ("lcevc", "LCEVC enhancement"),
    "29": ("view", "a second view (MV-HEVC)"),
    "30": ("reference displays", "3D reference displays"),
    "31": ("exif", "EXIF"),
}
_UUID_BYTES = 16
_BANNERS = (b"x264 - core", b"x265 (build", b"Lavc")
"""What user data begin with, after their UUID, that only name the encoder and its options."""


def side_data_traits(opened: OpenedFile, known: set[str]) -> Iterator[Trait]:
    """Yield each kind of side data of the first frames, unless its kind is among `known`."""
    names = dict.fromkeys(name for frame in opened.frames for name in side_data_names(frame))
    if "timecode" in known:  # which MPEG-2 repeats
        known = known | {"gop timecode"}
    for name in names:
        kind, text = _SIDE_DATA.get(name, (f"side data {name.lower()}", f"side data {name}"))
        if name not in _CHECKED_ELSEWHERE and kind not in known:
            known = known | {kind}
            yield Trait("frames", kind, text)


def side_data_names(frame: VideoFrame) -> list[str]:
    """List the kinds of a frame's side data that say something, as PyAV calls them.

    One that PyAV has no name for hides all others: only its number is known then.
    """
    try:
        # typed as a dict of motion vectors, but really a sequence of every kind there is
        entries = list(cast("Iterable[SideData]", frame.side_data))
    except ValueError as error:
        return re.findall(r"^\d+", str(error))
    return [
        name for entry in entries if not _says_nothing(name := entry.type.name, bytes(entry), frame)
    ]


def _says_nothing(name: str, data: bytes, frame: VideoFrame) -> bool:
    """Return whether side data are the encoder's banner, or what MPEG-2 repeats in every file."""
    if name == "SEI_UNREGISTERED":
        return data[_UUID_BYTES:].startswith(_BANNERS)
    if name == "GOP_TIMECODE":
        # 25 bits (ISO/IEC 13818-2, 6.3.8), of which 24 is the drop frame flag, and 12 always set
        return not int.from_bytes(data[:4], "little") & 0xFFEFFF
    if name == "PANSCAN":  # AVPanScan: an identifier, width and height in 1/16, three positions
        _, width, height, *positions = struct.unpack_from("<3i6h", data)
        whole = 16 * frame.width, 16 * frame.height
        return (width, height) in ((0, 0), whole) and not any(positions)
    return False
