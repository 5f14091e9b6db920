"""How fast the filters are, and the whole way around them, on this machine.

    python bench/speed/measure.py filters|pipeline|start|all|table …

One part after the other is measured and becomes one document of results, as JSON and as tables.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal, NoReturn, TypeVar, cast

import paths  # noqa: F401  # finds what is imported next
import torch
from alone import Measurer, Mode, Workload
from clips import Clips, Size, distinct, frames_of, read_pictures
from commands import ProcessFailed
from limits import Convolution, copy_rates, find_best_convolution
from machine import describe
from networks import Network, find_networks
from pipeline import Job, measure_pipeline, measure_start
from results import ConvolutionLimit, Document, FilterFigures, LeftOut, Limits
from rounds import spread_of
from settings import Settings, add_settings, settings_of
from tables import between_markers, figures_text, read_folder, tables_of
from torch import Tensor

from upframe.daemon.convert.report import device_name
from upframe.daemon.errors import UsageError
from upframe.daemon.exits import exit_code_of
from upframe.filters.device import resolve_precision
from upframe.filters.errors import FilterError
from upframe.io.errors import MediaError, SinkRefused, SourceMissing

Part = Literal["filters", "pipeline", "start"]
PARTS: tuple[Part, ...] = ("filters", "pipeline", "start")
T = TypeVar("T")

log = logging.getLogger("upframe.bench")
_MISSED = 1
"""The exit code where a figure is below --at-least; all others are those of `exits`."""

_EPILOG = """\
examples, in the root of a checkout whose upframe is installed:
  python bench/speed/measure.py all --out bench/results
  python bench/speed/measure.py filters --sizes 640x360,1280x720 --precision bf16,fp32
  python bench/speed/measure.py pipeline --clip film.mp4 --at-least 0.92
  python bench/speed/measure.py start --short
  python bench/speed/measure.py table bench/results --write bench/results/README.md

Run it on an idle machine. Real frames, warm-up, interleaved runs; medians with quartiles.
Progress goes to stderr, the figures to stdout.

exit codes: 0 done · 1 the pipeline's ratio is below --at-least · 64 usage · 65, 66 the clip
  69 weights or device not available · 73 the results cannot be written
"""
_HELP = {
    "filters": "each filter alone, in every precision",
    "pipeline": "from file to file and from pipe to pipe, against the filters alone",
    "start": "from the start of the process to the first frame out",
    "all": "all of these",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that ends with the exit code for usage, not argparse's 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    log.setLevel(logging.INFO)
    try:
        arguments = make_parser().parse_args(words)
        return int(arguments.action(arguments))
    except (UsageError, MediaError, FilterError, KeyboardInterrupt) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return int(exit_code_of(error))


def make_parser() -> Parser:
    parser = Parser(
        description="Measure the filters alone, and the whole way around them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(required=True, metavar="PART")
    for part, text in _HELP.items():
        one = parts.add_parser(part, help=text, description=f"Measure {text}.")
        add_settings(one)
        _add_results(one)
        one.set_defaults(action=_measure, part=part)
    table = parts.add_parser("table", help="all results of a folder as one page of tables")
    table.add_argument("folder", type=Path, metavar="DIR", help="with the JSON files")
    table.add_argument(
        "--write", type=Path, metavar="FILE", help="put it between the marks in this file"
    )
    table.set_defaults(action=_table)
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--out", type=Path, metavar="PATH", help="a JSON file, or a folder for it")
    group.add_argument("--json", action="store_true", help="print JSON, not a table")
    group.add_argument(
        "--at-least",
        type=float,
        metavar="RATIO",
        help="end with code 1 where filters alone over file to file, or over pipe to pipe, is less",
    )


def _measure(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments)
    parts: tuple[Part, ...] = PARTS if arguments.part == "all" else (arguments.part,)
    if arguments.at_least is not None and "pipeline" not in parts:
        raise UsageError("--at-least is for the pipeline: measure.py pipeline, or all")
    target = _target(cast("Path | None", arguments.out), settings, cast("str", arguments.part))
    document = run_benchmark(settings, parts)
    if target is not None:
        document.write(target)
    as_json = document.model_dump_json(indent=2, by_alias=True) + "\n"
    sys.stdout.write(as_json if arguments.json else figures_text(document))
    missed = arguments.at_least is not None and misses(document, arguments.at_least)
    return _MISSED if missed else 0


def _target(out: Path | None, settings: Settings, part: str) -> Path | None:
    """The file to write; refused before anything is measured where it cannot be written.

    Raises:
        SinkRefused: if its folder does not exist.
    """
    if out is None:
        return None
    folder, name = (out, None) if out.is_dir() else (out.parent, out.name)
    if not folder.is_dir():
        raise SinkRefused(f"cannot write the results to {out}: there is no folder {folder}")
    return folder / (name or f"speed-{part}-{slug(settings.device)}.json")


def misses(document: Document, at_least: float) -> bool:
    """Return, and report on stderr, whether a ratio is below the wanted one or was not measured."""
    ratios = [one.ratio for one in document.pipeline]
    ratios += [one.pipe.ratio for one in document.pipeline if one.pipe is not None]
    worst = min(ratios, default=0.0)
    if worst >= at_least and ratios:
        return False
    sys.stderr.write(f"upframe: ratio {worst:.3f}, wanted at least {at_least:g}\n")
    return True


def _table(arguments: argparse.Namespace) -> int:
    folder = cast("Path", arguments.folder)
    if not folder.is_dir():
        raise SourceMissing(f"{folder} is not a folder")
    text = tables_of(read_folder(folder))
    if arguments.write is None:
        sys.stdout.write(text)
        return 0
    page = cast("Path", arguments.write)
    try:
        page.write_text(between_markers(page.read_text(), text))
    except ValueError as error:
        raise UsageError(f"{page}: {error}") from error
    except OSError as error:
        raise SinkRefused(f"cannot write {page}: {error.strerror}") from error
    return 0


def run_benchmark(settings: Settings, parts: Sequence[Part]) -> Document:
    """Measure, one part after the other.

    Raises:
        MediaError: if the clip cannot be read, or nothing can be written to the temporary folder.
        FilterError: if weights or the device are not available.
        UsageError: if the clip is too short, or nothing moves in it.
    """
    began, at = time.monotonic(), datetime.now(UTC)
    machine = describe()  # before: its load is that of others
    with tempfile.TemporaryDirectory(prefix="upframe-bench-") as folder:
        run = _Run(settings, Path(folder))
        limits, filters = run.filters() if "filters" in parts else (None, [])
        pipeline = list(run.cases("pipeline", measure_pipeline)) if "pipeline" in parts else []
        start = list(run.cases("start", measure_start)) if "start" in parts else []
    return Document(
        schema="upframe.bench/1",
        began=at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        machine=machine,
        device=device_name(settings.device),
        clip=run.clips.name,
        settings=settings.as_dict(),
        limits=limits,
        filters=filters,
        pipeline=pipeline,
        start=start,
        left_out=run.left_out,
    )


@dataclass
class _Run:
    """What the parts share."""

    settings: Settings
    folder: Path
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    def __post_init__(self) -> None:
        settings = self.settings
        sizes = (*settings.sizes, *settings.pipeline_sizes)
        self.clips = Clips(self.folder, settings.clip, sizes, settings.pipeline_frames)

    def filters(self) -> tuple[Limits, list[FilterFigures]]:
        """Every network at every size, the small ones first."""
        settings = self.settings
        networks = list(
            find_networks(settings.interpolation_path, settings.upscaling_paths, settings.policy)
        )
        sizes = sorted(settings.sizes, key=lambda size: size.pixels)
        log.info("the limits of the device")
        picture = frames_of(read_pictures(self.clips.at(sizes[0]), 1)[1], settings.device)[0]
        best = self._convolutions(picture.pixels)
        copies = copy_rates(settings.device, short=settings.short)
        measurer = Measurer(best, median(copies), settings.repeats, settings.budget_seconds)
        figures: list[FilterFigures] = []
        for size in sizes:
            workload = self._workload(size)
            for network in networks:
                log.info("%s %s at %s", network.filter, network.description, size)
                figures += measurer.measure(network, self._modes(network), workload)
        self.left_out += measurer.left_out
        limits = Limits(
            convolutions=[_limit_of(one) for one in best.values()],
            copy_gb_per_second=spread_of(copies, 1e-9),
        )
        return limits, figures

    def cases(self, name: str, measure: Callable[[Job, Size], T]) -> Iterator[T]:
        """Measure at every size of the pipeline; what fails there is left out, with its reason."""
        job = Job(self.settings, self.clips, self.folder)
        for size in self.settings.pipeline_sizes:
            log.info("%s at %s", name, size)
            try:
                yield measure(job, size)
            except (FilterError, ProcessFailed) as error:
                self.left_out.append(LeftOut(what=f"{name} {size}", reason=str(error)))

    def _convolutions(self, picture: Tensor) -> dict[str, Convolution]:
        found: dict[str, Convolution] = {}
        for name in self.settings.precisions:
            best = self._best_convolution(picture, name)
            if best is None:
                self.left_out.append(
                    LeftOut(what=f"convolution {name}", reason="torch has none on the device")
                )
            else:
                found[name] = best
        return found

    def _best_convolution(self, picture: Tensor, name: str) -> Convolution | None:
        device = self.settings.device
        dtype = resolve_precision(name, device)
        return find_best_convolution(picture, device, name, dtype, short=self.settings.short)

    def _workload(self, size: Size) -> Workload:
        info, pictures = read_pictures(self.clips.at(size))
        moving = distinct(pictures, self.settings.filter_frames)
        if len(moving) < 2:
            raise UsageError(f"in {self.clips.name} nothing moves: no two frames differ")
        device = self.settings.device
        return Workload(size, info, frames_of(moving, device), device, self.settings.policy)

    def _modes(self, network: Network) -> list[Mode]:
        is_exp = network.filter == "interpolate"
        amounts = self.settings.exps if is_exp else self.settings.scales
        precisions = self.settings.precisions
        return [Mode(name, float(amount), is_exp) for name in precisions for amount in amounts]


def _limit_of(one: Convolution) -> ConvolutionLimit:
    seconds = median(one.run(1) for _ in range(5))
    return ConvolutionLimit(
        precision=one.precision,
        size=one.size,
        layout=one.layout,
        gflop_per_second=one.flop / seconds / 1e9,
    )


def slug(device: torch.device) -> str:
    """Name a device for a file: ``cpu``, ``nvidia-h100-80gb-hbm3``."""
    words = "".join(c if c.isalnum() else " " for c in device_name(device).lower()).split()
    return "-".join(words)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # as in the command, whose full collections leave out what was imported
    sys.exit(main())
