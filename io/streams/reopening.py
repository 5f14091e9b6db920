"""The source opened a second time, for its other streams: added to the output, ready to copy."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from av.stream import Discard

from ..decode.opening import best_video, find_target, open_container
from ..encode.containers import Container
from ..encode.muxing import add_copied
from ..encode.pacing import SampleClock
from .conversion import Converter
from .copying import StreamCopy, Track
from .metadata import kept_metadata
from .plan import StreamFate, StreamPlan

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import AttachmentStream, Stream

log = logging.getLogger("upframe.io.sink")

_PICTURES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def open_copy(
    plan: StreamPlan | None, output: OutputContainer, video: Stream
) -> tuple[StreamCopy, InputContainer | None]:
    """Open the plan's source again and add its streams to an output.

    Args:
        plan: what to do; None for nothing at all.
        output: open, its header not written yet.
        video: the encoded video in it.

    Returns:
        What muxes them, and the container to close behind it.

    Raises:
        SourceMissing: if the source has gone meanwhile.
    """
    if plan is None or plan.container is None:
        return StreamCopy([], iter(()), output), None
    found = find_target(plan.source)
    source = open_container(found)
    try:
        main = best_video(source, found.name)
        output.metadata.update(kept_metadata(source.metadata))
        describe(main, video)
        tracks = [
            _add(fate, source, output, plan.container)
            for fate in plan.kept()
            if fate.action != "attach"
        ]
        _attach(plan, source, output)
    except BaseException:
        source.close()
        raise
    copied = [track.source for track in tracks]
    for stream in source.streams:
        stream.discard = Discard.default if stream in copied else Discard.all
    copy = StreamCopy(
        tracks,
        source.demux(copied) if copied else iter(()),
        output,
        chapters=source.chapters() if plan.num_chapters else [],
        start_seconds=_start_of(copied),
        keeps_priming=_keeps_priming(source, plan.container),
    )
    return copy, source


def describe(source: Stream, target: Stream) -> None:
    """Copy language, title, dispositions and other metadata of a stream."""
    target.metadata.update(kept_metadata(source.metadata))
    target.disposition = source.disposition


def _add(
    fate: StreamFate, source: InputContainer, output: OutputContainer, container: Container
) -> Track:
    stream = source.streams[fate.index]
    convert: Converter | None = None
    if fate.conversion is not None:
        target, convert = fate.conversion.add(output, stream)
    else:
        target = add_copied(output, stream)
    describe(stream, target)
    return Track(
        fate, stream, target, convert, _clock_of(stream, container) if convert is None else None
    )


def _clock_of(stream: Stream, target: Container) -> SampleClock | None:
    rounds = target.tick is not None and target.tick >= (stream.time_base or 1)
    if stream.type != "audio" or rounds:  # rounded once, it is rounded for good
        return None
    context = cast("AudioStream", stream).codec_context
    if not context.sample_rate:
        return None
    frame_size = None if context.name.startswith("pcm_") else context.frame_size
    return SampleClock(context.sample_rate, frame_size)


def _attach(plan: StreamPlan, source: InputContainer, output: OutputContainer) -> None:
    """Write fonts and covers, which have no place in time, into Matroska's attachments."""
    for fate in plan.kept():
        if fate.action != "attach":
            continue
        stream = source.streams[fate.index]
        if fate.kind == "cover":
            name, kind = _PICTURES.get(fate.codec, (f"cover.{fate.codec}", f"image/{fate.codec}"))
            data = _cover_of(plan.source, fate.index)
        else:
            name = stream.metadata.get("filename", f"attachment{fate.index}")
            kind = stream.metadata.get("mimetype", "application/octet-stream")
            data = cast("AttachmentStream", stream).data
        made = output.add_attachment(stream.metadata.get("filename", name), kind, data)
        made.metadata.update(kept_metadata(stream.metadata))


def _cover_of(source: str, index: int) -> bytes:
    """Read an attached picture: the one packet of its stream."""
    with open_container(find_target(source)) as opened:
        for packet in opened.demux(opened.streams[index]):
            if packet.size:
                return bytes(packet)
    return b""


def _keeps_priming(source: InputContainer, target: Container) -> bool:
    """MP4 marks priming by an edit list, Matroska by a delay that only Matroska hands on."""
    matroska = ("matroska", "webm")
    both = target.name in matroska and source.format.name.split(",")[0] in matroska
    return target.holds_edit_lists or both


def _start_of(streams: list[Stream]) -> Fraction | None:
    """Tell when the first of the streams of sound begins, in seconds of the source."""
    starts = [
        stream.start_time * stream.time_base
        for stream in streams
        if stream.type == "audio" and stream.start_time is not None and stream.time_base
    ]
    return min(starts, default=None)
