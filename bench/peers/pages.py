"""A result as Markdown.

python bench/peers/pages.py bench/results/peers-cpu.json
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of a contest's table in Markdown, the fastest first, failures last."""
    yield "| who | ms | quartiles | times the reference | PSNR, dB | peak MiB | note |"
    yield "|---|---|---|---|---|---|---|"
    ran = [one for one in result["entrants"] if "error" not in one]
    reference = next((one for one in ran if one["name"] == result["reference"]), None)
    for one in sorted(ran, key=lambda one: one["ms"]["median"]):
        ms = one["ms"]
        times = reference["ms"]["median"] / ms["median"] if reference else math.nan
        yield (
            f"| {one['name']} | {ms['median']:.1f} | {ms['low']:.1f} to {ms['high']:.1f} "
            f"| {times:.2f} | {one['psnr_db']} | {one['peak_mib']:.0f} | {one['note']} |"
        )
    for one in result["entrants"]:
        if "error" in one:
            yield f"| {one['name']} | failed | | | | | {one['error']} |"


def markdown(document: Mapping[str, Any]) -> Iterator[str]:
    """Give the lines of everything that `compare.py` has found."""
    machine = document["machine"]
    yield f"{machine['processor']}; {document['threads']} threads; torch {machine['torch']};"
    others = document["share_of_other_processes"]
    yield f"frames of {document['clip']}; share of other processes {others:.2f}."
    if not document.get("counts", True):
        yield "**The machine was not idle: this does not count.**"
    if document["note"]:
        yield f"**{document['note']}**"
    for result in document["contests"]:
        yield from ("", f"#### {result['contest']}", "", *table(result))
    for work in document["programs"]:
        yield from ("", f"#### {work['program']}, {work['frames_in']} frames", "", *_programs(work))
    yield from ("", "| figure | wanted | got | met |", "|---|---|---|---|")
    for one in document["figures"]:
        met = "yes" if one["met"] else "no"
        yield f"| {one['figure']} | {one['wanted']} | {one['got']} | {met} |"


def _programs(work: Mapping[str, Any]) -> Iterator[str]:
    yield "| program | seconds | quartiles | frames out | luma PSNR to upframe's, dB |"
    yield "|---|---|---|---|---|"
    for one in work["entrants"]:
        if "error" in one:
            yield f"| {one['name']} | failed | | | {one['error']} |"
            continue
        seconds, quality = one["seconds"], one["luma_psnr_to_upframe_db"]
        spread = f"{seconds['low']:.1f} to {seconds['high']:.1f}"
        yield (
            f"| {one['name']} | {seconds['median']:.1f} | {spread} | {one['frames_out']} "
            f"| {quality} |"
        )


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print("\n".join(markdown(json.loads(Path(path).read_text()))))
