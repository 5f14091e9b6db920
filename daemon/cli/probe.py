"""`upframe probe`: what an input is, what would be done with it, and what that would cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from pydantic_core import to_jsonable_python

from ...filters.chain import build_filters
from ...filters.device import Runtime
from ...filters.errors import WeightsUnavailable
from ...filters.frame import StreamInfo
from ...filters.options import FilterOptions
from ...filters.weights import REAL_ESRGAN, RIFE, resolve_weights
from ...io.cuts import Cuts
from ...io.encode.options import EncoderOptions
from ...io.errors import MediaError
from ...io.part import Part
from ...io.probe import Probe, probe_source
from ...io.redaction import one_line
from ...io.source import ContainerSource, open_source
from ..convert import preflight
from ..convert.compute import FilmCompute
from ..convert.estimate import Estimate, Film, Limits, estimate
from ..convert.memory import Memory, memory_of
from ..convert.resume import film_cuts
from ..jobs.client import writer_here
from ..specification import ConversionOptions, MediaOptions, PartOptions
from .arguments import filter_options_of, given_options, runtime_of, specified, validated

SCHEMA = "upframe.probe/1"
_LIMITS = Limits(least_seconds=0.0, share=1e9)
"""However short the work is, its estimate was asked for."""


@dataclass(frozen=True, slots=True)
class FilteredVideo:
    """What the filters would make of an input."""

    num_frames: int | None
    width: int
    height: int
    pix_fmt: str
    rate: Fraction | None


class ProbeEstimate(Estimate, frozen=True):
    """The estimate, also for each frame of the input."""

    seconds_per_input_frame: float
    total_seconds: float


@dataclass(slots=True)
class ProbeAnswer:
    """All that the command prints; what was not asked for is None."""

    input: str
    probe: Probe
    streams_plan: list[str] | None = None
    losses: list[str] | None = None
    """What the output would lose; None without an output."""
    obstacles: list[str] | None = None
    """Why a run would be refused, or may not have enough space; None without an output."""
    resume: str | None = None
    """From where a run that is broken off is continued; None without an output."""
    result: FilteredVideo | None = None
    estimate: ProbeEstimate | None = None
    no_estimate: str | None = None
    """Why there is none, if filters were asked for."""
    memory: Memory | None = None
    part: str | None = None
    """The part that is taken, of which all that follows tells; None for all."""


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    short = arguments.interpolate is not None or arguments.upscale is not None
    asked = short or given_options(arguments, FilterOptions)
    options = filter_options_of(arguments) if asked else None
    rate = arguments.framerate and Fraction(arguments.framerate)
    part = specified(arguments, PartOptions).part
    opened = open_source(arguments.input, framerate=rate, part=part, to_inspect=True)
    with closing(opened) as source:
        answer = ProbeAnswer(arguments.input, probe_source(source), part=part and str(part))
        wanted, pix_fmt = None, source.info.pix_fmt
        if arguments.output is not None:
            wanted = _wanted(arguments, options)
            plan = preflight.planned(wanted)
            found = preflight.examined(wanted, source, plan)
            pix_fmt, cuts = found.info.pix_fmt, film_cuts(wanted, found)
            answer.streams_plan, answer.losses = plan.lines(), list(found.planned)
            answer.obstacles, answer.resume = list(_obstacles(wanted, found)), _resume(cuts)
        if options is not None:
            answer.result = expect(source.info, options, pix_fmt)
        if options is not None and not arguments.no_estimate:
            media = MediaOptions(filters=options) if wanted is None else wanted.options
            film, runtime = (arguments.input, arguments.output), runtime_of(arguments, several=True)
            try:
                answer.memory, answer.estimate = measure(
                    source, film, media, runtime, pix_fmt, part
                )
                if answer.estimate is None:
                    answer.no_estimate = "wanted a file of several frames that can seek"
            except WeightsUnavailable as error:
                answer.no_estimate = str(error)
    if arguments.json:  # fractions are texts such as 24000/1001
        values = to_jsonable_python(answer, fallback=str)
        text = json.dumps({"schema": SCHEMA, **values}, indent=2)
    else:
        text = "\n".join(map(one_line, describe(answer)))
    sys.stdout.write(text + "\n")
    return 0


def _wanted(arguments: argparse.Namespace, filters: FilterOptions | None) -> preflight.RunRequest:
    """Return what a run would do; without filters it is none that could run."""
    any_filter = FilterOptions.model_validate({"enable_upscaling": True, "upscaling_scale": 1})
    given = given_options(arguments, ConversionOptions) | {"filters": filters or any_filter}
    encoder = validated(EncoderOptions, given_options(arguments, EncoderOptions))
    options = validated(ConversionOptions, given | {"encoder": encoder})
    if filters is None:
        options = options.model_copy(update={"filters": FilterOptions.model_validate({})})
    return preflight.RunRequest(arguments.input, arguments.output, options)


def _obstacles(wanted: preflight.RunRequest, found: preflight.Preflight) -> Iterator[str]:
    """Yield why a run would be refused though all streams are fine."""
    if not wanted.options.overwrite and (text := writer_here(wanted.sink)) is not None:
        yield text
    try:
        preflight.check_paths(wanted)
        preflight.check_whole(wanted, found.source)
        text = preflight.check_space(wanted.where, found.size)
    except MediaError as error:
        text = str(error)
    if text is not None:
        yield text


def _resume(cuts: Cuts) -> str:
    if number := len(cuts.segments):
        return f"in {number} segments; a run that is broken off repeats the one at hand"
    return f"in one piece, which begins anew if it is broken off: {cuts.why_whole or 'it is short'}"


def expect(info: StreamInfo, options: FilterOptions, pix_fmt: str) -> FilteredVideo:
    """Compute number, size and rate of the output frames, without loading anything."""
    made = preflight.outgoing_info(info, preflight.filtered_info(info, options), pix_fmt)
    return FilteredVideo(made.num_frames, made.width, made.height, pix_fmt, made.rate)


def measure(
    source: ContainerSource,
    film: tuple[str, str | None],
    media: MediaOptions,
    runtime: Runtime,
    pix_fmt: str,
    part: Part | None,
) -> tuple[Memory, ProbeEstimate | None]:
    """Measure what a conversion would take, with weights that are on this machine.

    `film` names input and output; without an output, encoding is left out. No `part` means all.

    Raises:
        CheckpointRejected, WeightsUnavailable: if there are no weights to estimate with.
        TooLarge: if a frame does not fit in memory.
    """
    filters = build_filters(_of_files(media.filters, runtime), runtime)
    with closing(FilmCompute(source.info, filters, media, runtime, pix_fmt)) as compute:
        about = source.info, filters, compute, runtime.device
        judged = Film(*film, *about, media, part, runtime.num_at_once)
        memory, made = memory_of(judged), estimate(judged, _LIMITS)
    if made is None:
        return memory, None
    each = made.seconds / (source.info.num_frames or made.frames)
    more = {"seconds_per_input_frame": each, "total_seconds": made.seconds}
    return memory, ProbeEstimate.model_validate(made.model_dump() | more)


def _of_files(options: FilterOptions, runtime: Runtime) -> FilterOptions:
    """Name the files of weights that are here, so that none is fetched.

    Built-in weights do not tell what those take in whose place they are.
    """
    policy = "hub" if runtime.policy == "auto" else runtime.policy
    paths: dict[str, str] = {}
    for filter_name, default in (("frame_interpolation", RIFE), ("upscaling", REAL_ESRGAN)):
        if getattr(options, f"enable_{filter_name}"):
            key = f"{filter_name}_model_path"
            found = resolve_weights(getattr(options, key), default, policy, offline=True)
            paths[key] = str(found.path)
    return options.model_copy(update=paths)


def describe(answer: ProbeAnswer) -> Iterator[str]:
    """Yield the lines of text for users."""
    found, plan = answer.probe, answer.streams_plan
    yield f"{answer.input}: {found.container}{_size(found)}"
    for stream in found.streams:
        words = [stream.type, stream.codec or "", stream.details]
        words += [stream.language or "", "(default)" if stream.is_default else ""]
        yield f"  #{stream.index} {' '.join(word for word in words if word)}"
    if found.num_chapters:
        yield f"  {found.num_chapters} chapters"
    if answer.part is not None:
        yield f"part: {answer.part}"
    yield f"video: {_video(found.info)}"
    for title, text in found.verdicts.lines():
        yield f"  {title:<9}{text}"
    for warning in found.warnings:
        yield f"  warning  {warning}"
    if plan is not None:
        yield "streams:"
        yield from (f"  {line}" for line in plan or ["only the video"])
    if answer.losses is not None:
        yield "losses:"
        yield from (f"  {line}" for line in answer.losses or ["none is known before the work"])
    for obstacle in answer.obstacles or ():
        yield f"obstacle: {obstacle}"
    if answer.resume is not None:
        yield f"made: {answer.resume}"
    if (result := answer.result) is not None:
        frames = "frames" if result.num_frames is None else f"{result.num_frames} frames"
        size = f"{result.width}x{result.height} {result.pix_fmt}"
        yield f"result: {frames} of {size}, {_rate_text(result.rate, None)}"
    if answer.memory is not None:
        yield f"memory: {answer.memory.text}"
    if (made := answer.estimate) is not None:
        each = f"{made.seconds_per_input_frame:.3g} s for each frame of the input"
        text = f"{made.text(datetime.now().astimezone())}, {each}"
        yield f"time: {text} (measured on {made.measured})"
    if answer.no_estimate is not None:
        yield f"time: no estimate: {answer.no_estimate}"


def _size(found: Probe) -> str:
    seconds = found.duration_seconds
    parts = [] if seconds is None else [f"{float(seconds):.3f} s"]
    parts += [] if found.num_bytes is None else [f"{found.num_bytes / 1e6:.1f} MB"]
    return "".join(f", {part}" for part in parts)


def _video(info: StreamInfo) -> str:
    frames = "number of frames unknown" if info.num_frames is None else f"{info.num_frames} frames"
    return f"{info.width}x{info.height}, {_rate_text(info.rate, info.average_rate)}, {frames}"


def _rate_text(rate: Fraction | None, average: Fraction | None) -> str:
    if rate is not None:
        return f"{rate} fps" if rate.denominator == 1 else f"{rate} ({float(rate):.3f}) fps"
    return "variable rate" if average is None else f"variable, {float(average):.3f} fps on average"
