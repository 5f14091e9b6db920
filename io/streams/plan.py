"""The plan for a source's other streams: what is copied, converted without loss, or left out.

Every decision is tried before any expensive work: the stream's first packets are muxed into the
target's container in memory, and read back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from av.stream import Discard

from ..decode.demuxer import best_video, find_target, is_cover, open_container
from ..encode.codecs import is_image
from ..encode.containers import Container, container_of
from ..encode.packets import AnyPacket
from ..errors import SinkRefused
from ..files import is_special
from ..redaction import excerpt
from ..root import ConfinedFile
from .converter import Conversion, codec_of, conversions_for, mux_trial, sample_packets

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

Action = Literal["copy", "convert", "attach", "drop", "rewrite"]


@dataclass(frozen=True, slots=True)
class StreamFate:
    """What becomes of one stream of the source."""

    index: int
    """Of the stream in the source."""
    kind: str
    """``audio``, ``subtitle``, ``attachment``, ``data``, ``video`` or ``cover``."""
    codec: str
    action: Action
    """``rewrite``: not copied, but written again from the metadata, such as chapter titles."""
    conversion: Conversion | None = None
    language: str | None = None
    reason: str = ""
    """Why it is not copied unchanged."""

    def line(self) -> str:
        """Describe it for people: ``audio #1 aac (eng): copied``."""
        language = f" ({self.language})" if self.language and self.language != "und" else ""
        name = f"{self.kind} #{self.index} {self.codec}{language}"
        if self.action in ("copy", "attach"):
            return f"{name}: copied"
        if self.action == "convert" and self.conversion:
            return f"{name}: converted to {self.conversion.codec}, {self.reason}"
        done = "left out" if self.action == "drop" else "written again"
        return f"{name}: {done}, {self.reason}"

    @property
    def loses(self) -> bool:
        """Whether something of it is lost."""
        lossy = self.conversion is not None and self.conversion.loses is not None
        return self.action == "drop" or lossy


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What becomes of all of a source's streams except the video, and of its chapters."""

    source: str | ConfinedFile
    container: Container | None
    """None for still images."""
    fates: tuple[StreamFate, ...] = ()
    num_chapters: int = 0
    notes: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list[str])
    """What is lost, for people."""

    def lines(self) -> list[str]:
        """Describe what will be done, for people, one line per stream."""
        chapters = [f"{self.num_chapters} chapters: copied"] if self.num_chapters else []
        return [fate.line() for fate in self.fates] + chapters + list(self.notes)

    def kept(self) -> tuple[StreamFate, ...]:
        """Return the streams that the output will have."""
        return tuple(fate for fate in self.fates if fate.action in ("copy", "convert", "attach"))


# Matroska stores pictures and fonts as attachments; other containers have no place for these
_HOLDS_ATTACHMENTS = ("matroska",)


def plan_streams(
    source: str | ConfinedFile,
    target: str,
    format: str | None = None,  # noqa: A002
    *,
    strict: bool = False,
) -> StreamPlan:
    """Decide what becomes of every stream except the video, by trying it.

    Args:
        source: path or URL of the input.
        target: path of the output; its extension selects the container.
        format: container of the output, if not by extension.
        strict: whether losing anything is an error.

    Raises:
        SourceMissing: if the source does not exist.
        UnsupportedMedia: if it holds no video.
        SinkRefused: if the container is unknown, or `strict` and something would be lost.
    """
    container = None if is_image(target, format) else container_of(target, format)
    # whatever is read from a pipe is gone
    if isinstance(source, str) and is_special(Path(source)):
        return StreamPlan(source, None, notes=("input is a pipe: only its video is taken",))
    found = find_target(source)
    with open_container(found) as opened:
        main = best_video(opened, found.name)
        others = [stream for stream in opened.streams if stream.index != main.index]
        fates = tuple(_fates(opened, others, container))
        num_chapters = len(opened.chapters())
    plan = StreamPlan(source, container, fates, *_chapters(num_chapters, container))
    plan.warnings.extend(fate.line() for fate in fates if fate.loses)
    if strict and plan.warnings:
        raise SinkRefused(f"--strict-streams: {Path(target).name}: {'; '.join(plan.warnings)}")
    return plan


def _chapters(count: int, container: Container | None) -> tuple[int, tuple[str, ...]]:
    if not count:
        return 0, ()
    if container is None or not container.holds_chapters:
        where = container.name if container else "a still image"
        return 0, (f"{count} chapters: left out, {where} holds none",)
    return count, ()


def _fates(
    opened: InputContainer, streams: list[Stream], container: Container | None
) -> Iterator[StreamFate]:
    if container is None:
        yield from (_dropped(stream, "a still image holds no other stream") for stream in streams)
        return
    for stream in opened.streams:
        stream.discard = Discard.default if stream in streams else Discard.all
    samples = sample_packets(opened, streams)
    for stream in streams:
        yield _fate(stream, samples.get(stream.index, []), container)


def _fate(stream: Stream, packets: list[AnyPacket], container: Container) -> StreamFate:
    kind = kind_of(stream)
    if kind == "data" and (reason := _rewritten(stream)):
        return _made(stream, "rewrite", reason=reason)
    if kind in ("attachment", "cover") and container.name in _HOLDS_ATTACHMENTS:
        return _made(stream, "attach")
    if kind == "attachment":
        return _dropped(stream, f"{container.name} holds no attachments")
    reason = mux_trial(stream, packets, container)
    if reason is None:
        return _made(stream, "copy")
    for conversion in conversions_for(stream, container):
        if conversion.trial(stream, packets, container) is None:
            loss = f"; {conversion.loses}" if conversion.loses else ", without loss"
            return _made(stream, "convert", conversion=conversion, reason=f"{reason}{loss}")
    return _dropped(stream, reason)


def _rewritten(stream: Stream) -> str | None:
    """Return why a track is not copied that QuickTime and MP4 muxers write themselves."""
    tag = str(getattr(stream, "codec_tag", "") or "")
    name = codec_of(stream)
    if tag == "tmcd" or "timecode" in stream.metadata or name == "none":
        return "a time code track counts the source's frames"
    if name == "bin_data":
        return "chapter titles are written with the chapters"
    return None


def kind_of(stream: Stream) -> str:
    """Return a stream's kind; an attached picture is a ``cover``."""
    if stream.type == "video" and is_cover(cast("VideoStream", stream)):
        return "cover"
    return stream.type


def _made(
    stream: Stream, action: Action, *, conversion: Conversion | None = None, reason: str = ""
) -> StreamFate:
    name, kind = excerpt(codec_of(stream)), kind_of(stream)
    language = stream.language and excerpt(stream.language)
    return StreamFate(stream.index, kind, name, action, conversion, language, excerpt(reason))


def _dropped(stream: Stream, reason: str) -> StreamFate:
    return _made(stream, "drop", reason=reason)
