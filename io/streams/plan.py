"""The plan for a source's other streams: what is copied, converted without loss, or left out.

Every decision is tried before any expensive work: the stream's first packets are muxed into the
target's container in memory, and read back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.stream import Discard, Stream

from ..decode.demuxer import best_video, codec_of, find_target, kind_of, open_container
from ..encode.codecs import is_image
from ..encode.containers import Container, container_of
from ..errors import SinkRefused
from ..extent import sample_entries
from ..files import is_special
from ..losses import LossLedger, contents_of, is_chapter_track, name_of
from ..part import Part, Window
from ..redaction import excerpt
from ..root import ConfinedFile
from ..timecode import Timecode, is_timecode, timecode_of
from ..traits import Loss, OpenedFile, Trait
from .converter import Check, Conversion, StreamTrial, sample_packets

Action = Literal["copy", "convert", "attach", "drop"]


@dataclass(frozen=True, slots=True)
class StreamFate:
    """What becomes of one stream of the source."""

    index: int
    """Of the stream in the source."""
    kind: str
    """``audio``, ``subtitle``, ``attachment``, ``data``, ``video`` or ``cover``."""
    codec: str
    action: Action
    conversion: Conversion | None = None
    language: str | None = None
    reason: str = ""
    """Why it is not copied unchanged."""

    @property
    def subject(self) -> str:
        """The stream as traits and people call it: ``audio #1``."""
        return f"{self.kind} #{self.index}"

    def line(self) -> str:
        """Describe it for people: ``audio #1 aac (eng): copied``."""
        language = f" ({self.language})" if self.language and self.language != "und" else ""
        name = f"{self.subject} {self.codec}{language}"
        if self.action in ("copy", "attach"):
            return f"{name}: copied"
        if self.action == "convert" and self.conversion:
            return f"{name}: converted to {self.conversion.codec}, {self.reason}"
        return f"{name}: left out, {self.reason}"

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
    contents: tuple[Trait, ...] = ()
    """What the source holds besides plain pixels and packets."""
    timecode: Timecode | None = None
    """Of the first frame."""
    window: Window | None = None
    """The part of the source that is taken; None for all."""
    strict: bool = False
    """Whether losing anything is an error."""

    @property
    def warnings(self) -> list[str]:
        """What is lost, for people."""
        return [fate.line() for fate in self.fates if fate.loses]

    def lines(self) -> list[str]:
        """Describe what will be done, for people, one line per stream."""
        chapters = [f"{self.num_chapters} chapters: copied"] if self.num_chapters else []
        return [fate.line() for fate in self.fates] + chapters + list(self.notes)

    def kept(self) -> tuple[StreamFate, ...]:
        """Return the streams that the output will have."""
        return tuple(fate for fate in self.fates if fate.action in ("copy", "convert", "attach"))

    def ledger(self, name: str) -> LossLedger:
        """Open the ledger of what an output loses: it is to hold the source's contents.

        But for the codec of what is converted, of which the number of streams is checked.
        """
        converted = {fate.subject for fate in self.fates if fate.conversion}
        return LossLedger(
            name,
            [
                trait
                for trait in self.contents
                if trait.subject not in converted or not trait.kind.startswith("stream ")
            ],
            said=[fate.line() for fate in self.fates if fate.conversion and fate.loses],
            describe=self._describe,
            strict=self.strict,
        )

    def _describe(self, loss: Loss) -> str:
        left_out = (fate for fate in self.fates if fate.action == "drop")
        lines = {fate.subject: fate.line() for fate in left_out}
        return lines.get(loss.trait.subject, str(loss))


def plan_streams(
    source: str | ConfinedFile,
    target: str,
    format: str | None = None,
    *,
    strict: bool = False,
    audio_codec: str = "auto",
    part: Part | None = None,
) -> StreamPlan:
    """Decide what becomes of every stream except the video, by trying it.

    The container is by the target's extension unless `format` names it. If `strict`, losing
    anything is an error. For `audio_codec` see `SoundOptions`; no part means all.

    Raises:
        SourceMissing: if the source does not exist.
        UnsupportedMedia: if it holds no video.
        SinkRefused: if the container is unknown or cannot hold the codec that `audio_codec` names,
            or if `strict` and something would be lost.
    """
    container = None if is_image(target, format) else container_of(target, format)
    # whatever is read from a pipe is gone
    if isinstance(source, str) and is_special(Path(source)):
        return StreamPlan(source, None, notes=("input is a pipe: only its video is taken",))
    found = find_target(source)
    with open_container(found) as opened:
        main = best_video(opened, found.name)
        window = None if part is None else part.on(opened)
        others = [stream for stream in opened.streams if stream.index != main.index]
        fates = tuple(_fates(opened, others, container, found.path, audio_codec))
        chapters = opened.chapters() if window is None else window.chapters(opened.chapters())
        timecode = timecode_of(OpenedFile(found.path, opened, main, ()), window)
    num_chapters, notes = _chapters(len(chapters), container)
    plan = StreamPlan(
        source,
        container,
        fates,
        num_chapters,
        notes if part is None else (*notes, f"only the part {part}"),
        contents=contents_of(found, window),
        timecode=timecode,
        window=window,
        strict=strict,
    )
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
    opened: InputContainer,
    streams: list[Stream],
    container: Container | None,
    path: Path | None,
    audio_codec: str,
) -> Iterator[StreamFate]:
    """Decide on all streams but those that chapters and time code are written from."""
    names = {stream.index: name_of(stream, path) for stream in streams}
    streams = [
        stream
        for stream in streams
        if not (is_chapter_track(stream) or is_timecode(stream, names[stream.index]))
    ]
    if container is None:
        yield from (_dropped(stream, "a still image holds no other stream") for stream in streams)
        return
    for stream in opened.streams:
        stream.discard = Discard.default if stream in streams else Discard.all
    samples = sample_packets(opened, streams)
    for stream in streams:
        name, packets = names[stream.index], samples.get(stream.index, [])
        fate = _fate(StreamTrial(stream, packets, container, audio_codec), name)
        yield replace(fate, codec=excerpt(name))


def _fate(trial: StreamTrial, name: str) -> StreamFate:
    stream, container = trial.stream, trial.container
    kind, audio_codec = kind_of(stream), trial.audio_codec
    # Matroska stores pictures and fonts as attachments; other containers have no place for these
    if kind in ("attachment", "cover") and container.name == "matroska":
        return _made(stream, "attach")
    if kind == "attachment":
        return _dropped(stream, f"{container.name} holds no attachments")
    if kind == "audio" and audio_codec == "none":
        return _dropped(stream, "as --audio-codec none asks")
    check = _data_check(trial, name) if kind == "data" else None
    if (reason := trial.why_not_copied(check)) is None:
        return _made(stream, "copy")
    failed = ""
    for conversion in trial.conversions():
        if (failed := trial.why_not_converted(conversion)) is None:
            loss = f"; {conversion.loses}" if conversion.loses else ", without loss"
            return _made(stream, "convert", conversion=conversion, reason=f"{reason}{loss}")
    if kind == "audio" and audio_codec not in ("auto", "copy"):
        raise SinkRefused(f"--audio-codec {audio_codec}: audio #{stream.index}: {failed or reason}")
    return _dropped(stream, reason)


def _data_check(trial: StreamTrial, name: str) -> Check:
    """Return a check of a trial file for what muxers do to data without complaint.

    They may write it under another name, by which no program finds it, or change its packets.
    """
    payloads, container = [bytes(packet) for packet in trial.packets], trial.container
    renamed = name != codec_of(trial.stream)

    def check(written: BytesIO) -> str | None:
        if renamed and name not in sample_entries(written.getvalue()):
            return f"{container.name} does not keep that it is {name}"
        written.seek(0)
        with av.open(written, "r", metadata_errors="replace") as opened:
            tracks = opened.streams.data
            came = [bytes(packet) for packet in opened.demux(tracks) if packet.size]
        kept = all(payload in came for payload in payloads)
        return None if kept else f"{container.name} does not keep its packets"

    return check


def _made(
    stream: Stream, action: Action, *, conversion: Conversion | None = None, reason: str = ""
) -> StreamFate:
    name, kind = excerpt(codec_of(stream)), kind_of(stream)
    language = stream.language and excerpt(stream.language)
    return StreamFate(stream.index, kind, name, action, conversion, language, excerpt(reason))


def _dropped(stream: Stream, reason: str) -> StreamFate:
    return _made(stream, "drop", reason=reason)
