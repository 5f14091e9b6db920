"""The `probe` command: what an input is, what would be done with it, and what that would cost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import cast

from ...filters.chain import Chain, build_filters
from ...filters.color.convert import output_size
from ...filters.device import Runtime
from ...filters.frame import Picture, StreamInfo
from ...filters.options import FilterOptions
from ...filters.upscale.resize import scaled_size
from ...io.encode.encoder import EncoderOptions, output_pix_fmt
from ...io.probe import Probe, probe_source
from ...io.redaction import one_line
from ...io.source import ContainerSource, open_source
from ...io.streams.plan import plan_streams
from ..convert.compute import Compute
from ..specification import ConversionOptions, StreamSpec
from .arguments import (
    add_filter_arguments,
    add_options,
    add_runtime_arguments,
    filter_options_of,
    given_options,
    location,
    runtime_of,
)

SCHEMA = "upframe.probe/1"
ESTIMATE_PICTURES = 5
"""Taken through the real filters for the estimate."""
WARM_UP_PICTURES = 2
"""Of them, not counted: the first closes no gap, the second is each network's first run."""
ESTIMATE_SECONDS = 30.0
"""After this no further picture is begun: a slow machine has shown enough by then."""

_EPILOG = """\
examples:
  upframe probe film.mkv                                 what it is
  upframe probe film.mkv out.mp4                         and what becomes of sound and subtitles
  upframe probe film.mkv --interpolate 1 --upscale 2     and how long that would take here
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the filters would make of an input."""

    num_frames: int | None
    width: int
    height: int
    pix_fmt: str
    rate: Fraction | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was measured, and what follows from it. Encoding is not in it."""

    num_pictures: int
    seconds_per_input_frame: float
    total_seconds: float | None
    """None where the number of frames is not known."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and its arguments."""
    parser.description = (
        "Look at an input: its streams, whether its rate is constant, whether it is "
        "interlaced, turned or HDR. With an output, say what becomes of every stream; with "
        "filters, what comes out and how long it takes, from a few real frames."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "input", type=location, help="a file, URL, or a sequence such as 'in_%%05d.png'"
    )
    parser.add_argument("output", type=location, nargs="?", help="the file that would be written")
    parser.add_argument("--json", action="store_true", help="for machines, on stdout")
    parser.add_argument(
        "--no-estimate", action="store_true", help="load no weights and run no filter"
    )
    add_options(parser, ConversionOptions, "container", "framerate")
    add_options(parser, StreamSpec, "tls_insecure")
    add_filter_arguments(parser)
    add_runtime_arguments(parser)
    parser.set_defaults(command=_command)


def _command(arguments: argparse.Namespace) -> int:
    options = filter_options_of(arguments) if _asks_for_filters(arguments) else None
    plan = None
    rate = arguments.framerate and Fraction(arguments.framerate)
    with closing(open_source(arguments.input, framerate=rate)) as source:
        found = probe_source(source)
        if arguments.output is not None:
            plan = plan_streams(arguments.input, arguments.output, arguments.container)
        pix_fmt = _pix_fmt(source.info, arguments)
        outcome = None if options is None else expect(source.info, options, pix_fmt)
        estimate = None
        if options is not None and not arguments.no_estimate:
            estimate = measure(source, options, runtime_of(arguments), pix_fmt)
    lines = None if plan is None else plan.lines()
    if arguments.json:
        sys.stdout.write(as_json(arguments.input, found, lines, outcome, estimate) + "\n")
    else:
        told = describe(arguments.input, found, lines, outcome, estimate)
        text = "\n".join(map(one_line, told))
        sys.stdout.write(text + "\n")
    return 0


def _asks_for_filters(arguments: argparse.Namespace) -> bool:
    short = (arguments.interpolate, arguments.upscale)
    return any(value is not None for value in short) or bool(
        given_options(arguments, FilterOptions)
    )


def _pix_fmt(info: StreamInfo, arguments: argparse.Namespace) -> str:
    if arguments.output is None:
        return info.pix_fmt
    return output_pix_fmt(
        info, EncoderOptions.model_validate({}), arguments.output, arguments.container
    )


def expect(info: StreamInfo, options: FilterOptions, pix_fmt: str) -> Outcome:
    """Tell number, size and rate of the frames that come out, without loading anything."""
    width, height, frames, rate = info.width, info.height, info.num_frames, info.rate
    if options.enable_frame_interpolation:
        factor = 2**options.frame_interpolation_exp
        frames = frames and (frames - 1) * factor + 1
        rate = rate and rate * factor
    if options.enable_upscaling:
        width, height = scaled_size(width, height, options.upscaling_scale)
    return Outcome(frames, *output_size(width, height, pix_fmt), pix_fmt, rate)


def measure(
    source: ContainerSource, options: FilterOptions, runtime: Runtime, pix_fmt: str
) -> Estimate | None:
    """Take the first few pictures through the real filters.

    Returns:
        None where there is only one picture: it warms up the filters and tells nothing more.

    Raises:
        CheckpointRejected, WeightsUnavailable: if there are no weights to estimate with.
        TooLarge: if a frame does not fit in memory.
    """
    filters = build_filters(options, runtime)
    compute = Compute(
        source.info,
        {"full": Chain(built.filter for built in filters)},
        pix_fmt=pix_fmt,
        device=runtime.device,
        detect_cuts=options.scene_detection,
    )
    with closing(compute):
        taken = list(_timed(compute, islice(source, ESTIMATE_PICTURES)))
    seconds = taken[WARM_UP_PICTURES:] or taken[1:]
    if not seconds:
        return None
    each = sum(seconds) / len(seconds)
    frames = source.info.num_frames
    return Estimate(len(seconds), each, None if frames is None else each * frames)


def _timed(compute: Compute, pictures: Iterator[Picture]) -> Iterator[float]:
    """Give the seconds each picture took; planes on the CPU mean that the device is done."""
    begun = time.monotonic()
    for picture in pictures:
        start = time.monotonic()
        for _ in chain(compute(picture), compute.settle()):
            pass
        yield time.monotonic() - start
        if time.monotonic() - begun > ESTIMATE_SECONDS:
            return


def describe(
    name: str,
    found: Probe,
    plan: list[str] | None,
    outcome: Outcome | None,
    estimate: Estimate | None,
) -> Iterator[str]:
    """Say it for people, line by line."""
    yield f"{name}: {found.container}{_size(found)}"
    for stream in found.streams:
        words = [stream.type, stream.codec or "", stream.details]
        words += [stream.language or "", "(default)" if stream.is_default else ""]
        yield f"  #{stream.index} {' '.join(word for word in words if word)}"
    if found.num_chapters:
        yield f"  {found.num_chapters} chapters"
    yield f"video: {_video(found.info)}"
    for title, text in found.verdicts.lines():
        yield f"  {title:<9}{text}"
    for warning in found.warnings:
        yield f"  warning  {warning}"
    if plan is not None:
        yield "streams:"
        yield from (f"  {line}" for line in plan or ["only the video"])
    if outcome is not None:
        yield f"result: {_result(outcome)}"
    if estimate is not None:
        yield f"time: {_cost(estimate)}"


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


def _result(outcome: Outcome) -> str:
    frames = "frames" if outcome.num_frames is None else f"{outcome.num_frames} frames"
    size = f"{outcome.width}x{outcome.height} {outcome.pix_fmt}"
    return f"{frames} of {size}, {_rate_text(outcome.rate, None)}"


def _cost(estimate: Estimate) -> str:
    each = f"{estimate.seconds_per_input_frame:.3g} s for each frame of the input"
    measured = f"measured on {estimate.num_pictures}, without encoding"
    if estimate.total_seconds is None:
        return f"{each} ({measured})"
    minutes, seconds = divmod(round(estimate.total_seconds), 60)
    return f"about {minutes // 60}:{minutes % 60:02}:{seconds:02} in all, {each} ({measured})"


def as_json(
    name: str,
    found: Probe,
    plan: list[str] | None,
    outcome: Outcome | None,
    estimate: Estimate | None,
) -> str:
    """Say it for machines: one object, fractions as text such as ``24000/1001``."""
    parts = {"input": name, "probe": found, "streams_plan": plan, "result": outcome}
    plain = {key: _plain(value) for key, value in {**parts, "estimate": estimate}.items()}
    return json.dumps({"schema": SCHEMA, **plain}, indent=2)


def _plain(value: object) -> object:
    """Turn dataclasses, tuples and fractions into what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return {key: _plain(entry) for key, entry in entries.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in cast("Sequence[object]", value)]
    return str(value) if isinstance(value, Fraction) else value
