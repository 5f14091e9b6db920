"""`upframe verify`: check a result, alone or against the input that it was made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from ...io.decode.demuxer import find_target
from ...io.encode.codecs import is_image
from ...io.encode.containers import container_of
from ...io.errors import SourceMissing, UnsupportedMedia
from ...io.losses import contents_of, losses
from ...io.redaction import json_text, one_line
from ...io.verify import (
    TOLERANCE_SECONDS,
    Comparison,
    ExpectedOutput,
    Inspection,
    check,
    close,
    count_decoded,
    equal,
    inspect,
    raise_failed,
)

SCHEMA = "upframe.verify/1"
MAX_EXP = 6
"""Largest exponent of frame interpolation."""


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    findings = verify(
        arguments.output,
        against=arguments.against,
        report=_read_report(arguments.report) if arguments.report else None,
        decode=arguments.decode,
    )
    lost: list[str] = []
    if arguments.against:
        pair = (contents_of(find_target(name)) for name in (arguments.against, arguments.output))
        lost = [str(loss) for loss in losses(*pair)]
    if arguments.json:
        answer = {
            "schema": SCHEMA,
            "output": arguments.output,
            "ok": all(finding.ok for finding in findings),
            "findings": [asdict(finding) for finding in findings],
            "losses": lost,
        }
        sys.stdout.write(json_text(answer) + "\n")
    else:
        sys.stdout.writelines(
            f"{'ok' if one.ok else 'BAD':4} {one_line(one)}\n" for one in findings
        )
        sys.stdout.writelines(f"lost {one_line(one)}\n" for one in lost)
    raise_failed(findings)
    return 0


def verify(
    output: str,
    *,
    against: str | None = None,
    report: Mapping[str, Any] | None = None,
    decode: bool = False,
) -> list[Comparison]:
    """Check a finished file, by the one that it was made from and by its run's report where given.

    Returns:
        All that was checked; the caller looks for what is not ok.

    Raises:
        SourceMissing, UnsupportedMedia, TruncatedMedia: if a file cannot be read at all.
        VerificationFailed: if it holds no video, or breaks off.
    """
    found = find_target(output)
    got = inspect(found)
    source = inspect(find_target(against)) if against else None
    expected = expected_of(source) if source else ExpectedOutput()
    if is_image(output):  # upright, and in the matrix and range of its format
        expected = replace(expected, rotation=0, color=None)
    if Path(output).suffix.lower() == ".apng":  # whose delays FFmpeg reads rounded
        drift = got.times.num_frames * container_of(output).drift
        expected = replace(expected, tolerance_seconds=expected.tolerance_seconds + drift)
    findings = check(got, expected)
    if not any(finding.name == "frames" for finding in findings):
        findings.insert(0, _frames(got, source))
    if got.num_promised:
        there = got.times.num_frames + got.times.num_hidden
        findings.append(equal("frames of the header", got.num_promised, there))
    if source is None:  # nothing is known to be expected
        lasts = got.times.duration_seconds if got.times.pts else Fraction(0)
        kinds = ", ".join(f"{count} {kind}" for kind, count in got.num_streams.items())
        size = f"{got.width}x{got.height}"
        facts = {"duration": f"{float(lasts):.6f} s", "size": size, "streams": kinds}
        findings += [Comparison(name, "anything", each, ok=True) for name, each in facts.items()]
    if report is not None:
        findings += _check_report(got, report)
    if decode:
        findings.append(equal("frames that decode", got.times.num_frames, count_decoded(found)))
    return findings


def expected_of(source: Inspection) -> ExpectedOutput:
    """Collect what must be the same in an output as in its input."""
    tags, times = source.tags, source.times
    return ExpectedOutput(
        duration_seconds=times.duration_seconds if times.last_duration else None,
        streams={kind: source.num_streams[kind] for kind in ("audio", "subtitle")},
        color=tags.color if tags else None,
        sample_aspect_ratio=tags.sample_aspect_ratio if tags else None,
        rotation=tags.rotation if tags else None,
        sound=times.sound.after(times.start_seconds) if times.sound and times.pts else None,
        # both ends may be in containers that round to 1 ms
        tolerance_seconds=TOLERANCE_SECONDS,
    )


def _frames(got: Inspection, source: Inspection | None) -> Comparison:
    """Check that N frames became (N-1)·2^exp+1, for whatever exp."""
    count = got.times.num_frames
    if source is None:
        return Comparison("frames", "at least 1", str(count), count > 0)
    gaps = max(source.times.num_frames - 1, 0)
    wanted = [gaps * 2**exp + 1 for exp in range(MAX_EXP + 1)]
    return Comparison("frames", f"one of {wanted}", str(count), count in wanted)


def _check_report(got: Inspection, report: Mapping[str, Any]) -> list[Comparison]:
    output = cast("Mapping[str, Any]", report["output"])
    findings = [equal("frames of the report", report["frames_out"], got.times.num_frames)]
    size = f"{output['width']}x{output['height']}"
    findings.append(equal("size of the report", size, f"{got.width}x{got.height}"))
    if output.get("rate") and len(got.times.pts) > 1:
        rate = Fraction(output["rate"])
        wanted = (len(got.times.pts) - 1) / rate
        tolerance = TOLERANCE_SECONDS + 1 / rate / 10  # a constant rate may jitter this much
        got_seconds = got.times.last_start_seconds
        findings.append(close("last frame at, of the report", wanted, got_seconds, tolerance))
    return findings


def _read_report(path: Path) -> Mapping[str, Any]:
    try:
        report = json.loads(path.read_text())
    except OSError as error:
        raise SourceMissing(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedMedia(f"{path}: not a report: {error}") from error
    if not isinstance(report, dict) or not {"frames_out", "output"} <= report.keys():
        raise UnsupportedMedia(f"{path}: not a report of upframe run")
    return cast("Mapping[str, Any]", report)
