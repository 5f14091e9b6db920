"""`upframe doctor`: what this machine has, what it lacks, and whether the main job would run."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..filters.chain import Runtime
from ..filters.device import resolve_device, resolve_precision
from ..filters.errors import FilterError
from ..filters.options import FilterOptions
from ..io.demo.clip import write_demo_clip
from ..io.errors import MediaError
from .checks.finding import Finding, fail, ok, warn
from .checks.live import describe_live
from .checks.machine import describe_machine
from .checks.media import describe_media
from .checks.weights import describe_hub, describe_weights
from .exits import Exit
from .run import RunRequest, run

_MARKS = {"ok": "OK", "warn": "warn", "fail": "FAIL"}
_SMALL_JOB = {"enable_frame_interpolation": True, "enable_upscaling": True, "upscaling_scale": 2}
_EPILOG = """\
Every line is OK, warn (something is missing that only some work needs) or FAIL (the main job,
making a video smoother and larger, cannot run here). Without --online no network is asked.

exit codes: 0 the main job runs · 69 it does not
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Offer the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "doctor",
        help="what this machine has, and whether the main job runs",
        description="Look at versions, devices, memory, codecs and weights, then make a tiny "
        "video smoother and larger to see whether that works.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--online", action="store_true", help="also ask the hub if it answers")
    parser.set_defaults(command=_command)


def _command(arguments: argparse.Namespace) -> int:
    findings = examine(online=bool(arguments.online))
    sys.stdout.write(as_json(findings) if arguments.json else as_text(findings))
    return Exit.OK if main_job_runs(findings) else Exit.UNAVAILABLE


def examine(*, online: bool = False) -> list[Finding]:
    """Look at everything; without `online`, no network is asked."""
    checks: list[Callable[[], Iterable[Finding]]] = [
        describe_machine,
        describe_media,
        describe_live,
        describe_weights,
    ]
    if online:
        checks.append(describe_hub)
    checks.append(_try_main_job)
    return [finding for check in checks for finding in check()]


def main_job_runs(findings: Iterable[Finding]) -> bool:
    """Whether nothing that was found stands in the way of the main job."""
    return all(finding.verdict != "fail" for finding in findings)


def as_text(findings: list[Finding]) -> str:
    """One line for each finding: verdict, name, text."""
    width = max(len(finding.name) for finding in findings)
    lines = [
        f"{_MARKS[found.verdict]:<5} {found.name:<{width}}  {found.text}" for found in findings
    ]
    return "\n".join(lines) + "\n"


def as_json(findings: list[Finding]) -> str:
    """All findings as one object; ``ok`` tells whether the main job runs."""
    document = {
        "schema": "upframe.doctor/1",
        "ok": main_job_runs(findings),
        "findings": [finding.as_dict() for finding in findings],
    }
    return json.dumps(document, indent=2) + "\n"


def _try_main_job() -> Iterable[Finding]:
    """Interpolate and enlarge three small frames with sound, from file to file."""
    name = "main job"
    try:
        with tempfile.TemporaryDirectory(prefix="upframe-doctor-") as folder:
            report = run(_small_request(Path(folder)), announce=False)
    except (MediaError, FilterError, OSError) as error:
        yield fail(name, f"does not run: {error}")
        return
    if report.frames_out != 5:
        yield fail(name, f"3 frames became {report.frames_out}, not 5")
        return
    yield ok(
        name,
        f"3 frames became {report.frames_out}, {report.output.width}x{report.output.height}, "
        f"in {report.seconds:.1f} s",
        seconds=report.seconds,
    )
    if report.warnings:
        yield warn(name, "; ".join(report.warnings))


def _small_request(folder: Path) -> RunRequest:
    source = folder / "source.mp4"
    write_demo_clip(source, width=64, height=48, rate=Fraction(10), num_frames=3)
    device = resolve_device()
    return RunRequest(
        source=str(source),
        sink=str(folder / "result.mp4"),
        filters=FilterOptions.model_validate(_SMALL_JOB),
        runtime=Runtime(device, resolve_precision("auto", device), "builtin"),
    )
