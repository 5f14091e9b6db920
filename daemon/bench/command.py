"""`upframe bench`: how fast the filters are, and the whole way around them, on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

from ...io.errors import SinkRefused, SourceMissing
from ..errors import UsageError
from .results import Document
from .runner import PARTS, Part, run_benchmark, slug
from .settings import Settings, add_settings, settings_of
from .table import between_markers, figures_text, read_folder, tables_of

_MISSED = 1
"""The exit code where a figure is below --at-least; all others are those of `exits`."""

_EPILOG = """\
examples:
  upframe bench all --out bench/results
  upframe bench filters --sizes 640x360,1280x720 --precision bf16,fp32
  upframe bench pipeline --clip film.mp4 --interpolate 1 --upscale 2 --at-least 0.92
  upframe bench start --short
  upframe bench table bench/results --write bench/results/README.md

Run it on a machine that does nothing else. Real frames, warm-up, interleaved runs; medians with
quartiles. Progress goes to stderr, the figures to stdout.

exit codes: 0 done · 1 the pipeline's ratio is below --at-least · 64 usage · 65, 66 the clip
  69 weights or device not to be had · 73 the results cannot be written
"""
_HELP = {
    "filters": "each filter alone, in every precision",
    "pipeline": "from file to file and from pipe to pipe, against the filters alone",
    "start": "from the start of the process to the first frame out",
    "all": "all of these",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and its arguments."""
    parser.description = "Measure the filters alone and the whole way around them."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(required=True, metavar="PART")
    for part, text in _HELP.items():
        one = actions.add_parser(part, help=text, description=f"Measure {text}.")
        add_settings(one)
        _add_results(one)
        one.set_defaults(command=_measure, part=part)
    table = actions.add_parser("table", help="all results of a folder as one page of tables")
    table.add_argument("folder", type=Path, metavar="DIR", help="with the JSON files")
    table.add_argument(
        "--write", type=Path, metavar="FILE", help="put it between the marks in this file"
    )
    table.set_defaults(command=_table)


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
        raise UsageError("--at-least is for the pipeline: upframe bench pipeline, or all")
    target = _target(cast("Path | None", arguments.out), settings, cast("str", arguments.part))
    document = run_benchmark(settings, parts)
    if target is not None:
        document.write(target)
    shown = document.model_dump_json(indent=2, by_alias=True) + "\n"
    sys.stdout.write(shown if arguments.json else figures_text(document))
    missed = arguments.at_least is not None and misses(document, arguments.at_least)
    return _MISSED if missed else 0


def _target(out: Path | None, settings: Settings, part: str) -> Path | None:
    """The file to write; refused before anything is measured where that cannot be.

    Raises:
        SinkRefused: if its folder is not there.
    """
    if out is None:
        return None
    folder, name = (out, None) if out.is_dir() else (out.parent, out.name)
    if not folder.is_dir():
        raise SinkRefused(f"cannot write the results to {out}: there is no folder {folder}")
    return folder / (name or f"speed-{part}-{slug(settings.device)}.json")


def misses(document: Document, at_least: float) -> bool:
    """Tell, also on stderr, whether a ratio is below what is wanted, or was not measured at all."""
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
