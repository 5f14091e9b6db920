"""What can be known before weights are loaded, checked in one place: for runs, jobs and `probe`.

What would fail after hours fails here, with what to change: paths, another writer of the same
output, the stream plan, encoder and muxer with a picture of the real size, losses that are errors,
disk space. Only what can change meanwhile is checked again when the output is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from ...filters.color.convert import output_size
from ...filters.color.matrix import output_color
from ...filters.device import Runtime
from ...filters.frame import StreamInfo
from ...filters.options import FilterOptions
from ...filters.upscale.network import scaled_size
from ...io.decode.decoder import Hardware
from ...io.decode.survey import AV_TIME_BASE
from ...io.encode.encoder import codec_choice, output_pix_fmt
from ...io.errors import SinkFull, SinkRefused, TruncatedMedia
from ...io.extent import segment_end
from ...io.files import is_special, refuse_same_file
from ...io.root import ConfinedFile, by_descriptor
from ...io.sink import check_output, plan_output
from ...io.source import ContainerSource, open_source
from ...io.streams.plan import StreamPlan, plan_streams
from ...io.writer import Trial
from ..specification import ConversionOptions
from .crew import Crew, Setup
from .estimate import Limits
from .memory import picture_bytes
from .space import ExpectedSize, device_of, expected_size, free_bytes, growth, size_text

log = logging.getLogger("upframe.run")

_UNKNOWN_SOUND = 0.1
"""Of the input's bytes, where it does not say how many a copied stream has."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept of a film for a run that is broken off."""

    folder: Path | None = None
    """None: beside the output."""
    resume: bool = True
    """Whether an earlier run is continued; if not, nothing is left behind either."""
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the user asked for, for `upframe resume`."""
    asked: frozenset[str] = frozenset()
    """Which of "device", "precision" and "threads" the user gave: a plan does not decide them."""


_ON_CPU = Runtime(torch.device("cpu"), torch.float32)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one run does, with the names by which this machine reaches input and output."""

    source: str | ConfinedFile
    sink: str
    options: ConversionOptions
    runtime: Runtime = _ON_CPU
    """As the user asked for it; by default that of a check, which computes nothing."""
    place: Path | None = None
    """Path to the sink, as from `opened_place`; None: its name."""
    estimates: Limits = field(default_factory=Limits)
    """For which work the time is estimated before."""
    keep: Keep = field(default_factory=Keep)
    """What is kept if the work is broken off."""
    crew: Callable[[Setup], Crew] | None = None
    """Makes the segments elsewhere; None: this machine does."""

    @property
    def where(self) -> Path:
        """The path by which to write the sink."""
        return self.place or Path(self.sink)

    @property
    def seen_at(self) -> Path:
        """The path by which to look at the source; URLs and image sequences have none."""
        held = None if isinstance(self.source, str) else self.source.descriptor
        return Path(str(self.source)) if held is None else by_descriptor(held)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found: the conversion can begin."""

    source: ContainerSource
    """Open."""
    plan: StreamPlan
    info: StreamInfo
    """Of the pictures to be written."""
    losses: Sequence[str]
    """What the choice of pixel format loses, for people."""
    planned: Sequence[str]
    """All that the output will lose, for people."""
    unsaid: Sequence[str]
    """What of it neither the stream plan nor the choice of the encoder says."""
    size: ExpectedSize
    trial: Trial | None
    """Of encoder and muxer with such pictures."""


@contextmanager
def preflight(
    request: RunRequest,
    device: torch.device | None = None,
    token: str | None = None,
    *,
    announce: bool = True,
    free: Callable[[Path], int | None] = free_bytes,
) -> Generator[Preflight]:
    """Check all that can be known of a conversion before weights are loaded, and open its source.

    Args:
        request: the conversion.
        device: of the filters, for hardware decoders; None: decode by software.
        token: of the owner of the output, see :class:`~upframe.io.files.Owner`.
        announce: whether to log what becomes of each stream of the input, and not only the losses.
        free: returns the free bytes of a folder's file system.

    Raises:
        SourceMissing, UnsupportedMedia: if the input cannot be read.
        TruncatedMedia: if its end is missing.
        SinkRefused: if the output cannot be written so: its path, encoder, options or container, or
            what is lost though losses are errors.
        SinkFull: if there is certainly not enough space.
    """
    options = request.options
    plan = planned(request)
    hardware = Hardware("none" if device is None else options.hwaccel, device or _ON_CPU.device)
    check_paths(request, token)
    lost = plan.warnings
    for line in plan.lines():
        if announce or line in lost:
            log.log(logging.WARNING if line in lost else logging.INFO, "%s", line)
    source = open_source(
        request.source,
        deinterlace=options.deinterlace,
        framerate=options.rate,
        hardware=hardware,
        part=options.part,
    )
    with closing(source):
        check_whole(request, source)
        found = examined(request, source, plan)
        kept = request.keep.folder
        for line in found.unsaid:
            log.warning("%s", line)
        if (warning := check_space(request.where, found.size, free, kept)) is not None:
            log.warning("%s", warning)
        yield found


def planned(request: RunRequest) -> StreamPlan:
    """Plan what becomes of each stream of a source, which the output must not be.

    Raises:
        SameFile: if it is.
        SourceMissing, UnsupportedMedia, SinkRefused: as `plan_streams`.
    """
    options = request.options
    refuse_same_file(request.seen_at, request.where)
    return plan_streams(
        request.source,
        request.sink,
        options.container,
        strict=options.strict_streams,
        audio_codec=options.audio_codec,
        part=options.part,
    )


def check_whole(request: RunRequest, source: ContainerSource) -> None:
    """Refuse a file whose last frames are missing, if they are asked for.

    Raises:
        TruncatedMedia: where the index of an MP4 or the size of a Matroska segment says so.
    """
    part, size, end, path = request.options.part, source.container.size, None, request.seen_at
    if "mp4" in source.container_name.split(",") and source.stream.index_entries:
        last = source.stream.index_entries[-1]
        end = last.pos + last.size
    elif "matroska" in source.container_name and path.is_file():
        end = segment_end(path)
    if end is not None and 0 < size < end and (part is None or part.end is None):
        text = f"truncated: got {size} bytes, wanted at least {end}"
        raise TruncatedMedia(f"{request.source}: {text}")


def check_paths(request: RunRequest, token: str | None = None) -> None:
    """Refuse an output that exists, cannot be written, or is being written by another owner.

    Raises:
        SinkRefused: says which.
    """
    replaces, container = request.options.overwrite, request.options.container
    check_output(request.where, overwrite=replaces, format=container, token=token)


def examined(request: RunRequest, source: ContainerSource, plan: StreamPlan) -> Preflight:
    """Try encoder and muxer with a picture of the real size, and find what will be lost.

    Raises:
        SinkRefused: as `preflight`.
    """
    options, target = request.options, (request.sink, request.options.container)
    made = filtered_info(source.info, options.filters)
    pix_fmt = output_pix_fmt(made, options.encoder, *target)
    info = outgoing_info(source.info, made, pix_fmt)
    cropped = cropped_losses(made, pix_fmt)
    lost = [*source.losses(), *cropped]
    if options.strict_streams and lost:
        raise SinkRefused(f"--strict-streams: {request.source}: {'; '.join(lost)}")
    output = plan_output(info, options.encoder, *target, plan)
    choice = codec_choice(info, options.encoder, *target)
    return Preflight(
        source,
        plan,
        info,
        losses=[*cropped, *choice.losses],
        planned=[*lost, *output.losses],
        unsaid=[*lost, *output.unsaid],
        size=_expected(options, source, plan, info, choice.codec),
        trial=output.trial,
    )


def filtered_info(info: StreamInfo, filters: FilterOptions) -> StreamInfo:
    """Return what the filters make of a source's properties, without loading them."""
    if filters.enable_frame_interpolation:
        factor = 2**filters.frame_interpolation_exp
        info = replace(
            info,
            rate=info.rate and info.rate * factor,
            average_rate=info.average_rate and info.average_rate * factor,
            time_base=info.time_base / factor,
            num_frames=info.num_frames and (info.num_frames - 1) * factor + 1,
        )
    if filters.enable_upscaling:
        width, height = scaled_size(info.width, info.height, filters.upscaling_scale)
        info = replace(info, width=width, height=height)
    return info


def outgoing_info(incoming: StreamInfo, filtered: StreamInfo, pix_fmt: str) -> StreamInfo:
    """Return the properties of the pictures to be written, as `Compute` will make them."""
    width, height = output_size(filtered.width, filtered.height, pix_fmt)
    color = output_color(incoming, width, height, pix_fmt)
    return replace(filtered, width=width, height=height, pix_fmt=pix_fmt, color=color)


def cropped_losses(filtered: StreamInfo, pix_fmt: str) -> list[str]:
    """Return which pixels an output cannot have, since its chroma needs even sizes."""
    size = (filtered.width, filtered.height)
    kept = output_size(*size, pix_fmt)
    if kept == size:
        return []
    return [f"video: {size[0]}x{size[1]} pixels: cropped to {kept[0]}x{kept[1]} for {pix_fmt}"]


def _expected(
    options: ConversionOptions,
    source: ContainerSource,
    plan: StreamPlan,
    info: StreamInfo,
    codec: str,
) -> ExpectedSize:
    total = max(source.container.size, 0)
    whole, taken = (source.container.duration or 0) / AV_TIME_BASE, source.info.duration_seconds
    if options.part is not None and whole and taken:
        total = round(total * min(1.0, float(taken) / whole))
    copied = min(_copied_bytes(source, plan, total), total)
    return expected_size(
        codec,
        options.encoder,
        info.width * info.height * (info.num_frames or 0),
        picture_bytes(info) * 8 / (info.width * info.height),
        (total - copied) * growth(options.filters),
        copied,
    )


def _copied_bytes(source: ContainerSource, plan: StreamPlan, total: int) -> int:
    """Estimate the bytes of the streams that the output will have."""
    seconds = float(source.info.duration_seconds or 0)
    num_bytes = 0.0
    for fate in plan.kept():
        if fate.kind == "audio":
            context = source.container.streams[fate.index].codec_context
            rate = cast("int | None", getattr(context, "bit_rate", None))
            num_bytes += rate * seconds / 8 if rate and seconds else total * _UNKNOWN_SOUND
    return round(num_bytes)


def check_space(
    target: Path,
    size: ExpectedSize,
    free: Callable[[Path], int | None] = free_bytes,
    kept: Path | None = None,
) -> str | None:
    """Refuse an output that certainly does not fit, or its segments.

    Returns:
        A warning if there may be too little space.

    Raises:
        SinkFull: says how much is wanted, and how much is free.
    """
    if is_special(target):
        return None
    folder, warning = target.parent, None
    wanted = [(folder, size.expected, size.least, "the output and its temporary files")]
    if kept is not None and device_of(kept.parent) != device_of(folder):
        video, least = size.video, size.least_video
        wanted = [
            (folder, video + size.copied, least + size.copied, "the output"),
            (kept.parent, video, least, "its segments"),
        ]
    for where, expected, least, what in wanted:
        left = free(where)
        if left is None or left >= expected:
            continue
        text = f"got {size_text(left)} free in {where}, wanted about {size_text(expected)} for "
        text, advice = f"{text}{what}", "free some, or choose another folder or a smaller output"
        if left < least:
            raise SinkFull(f"{text}, at the very least {size_text(least)}: {advice}")
        warning = warning or f"{text}: it may not be enough; {advice}"
    return warning
