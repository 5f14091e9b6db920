"""Compare the speed of two installations, by the same measurements in turns.

    python bench/turns.py --old "/opt/old/bin/upframe bench" \\
        --new ".venv/bin/python bench/speed/measure.py" -- filters --sizes 320x180,640x360

Each command measures the part that is named behind ``--``, with its options, once a round, in an
order that changes. Installations up to version 0.1.0 measure by `upframe bench PART`, later ones by
`bench/speed/measure.py` of their checkout; both write the same results. Ends with 1 where a figure
of the new one is slower by more than `--worse` and the medians lie outside each other's quartiles.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import describe
from rounds import Spread, spread_of

Readings = Mapping[str, Sequence[float]]


def figures_of(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The times in a document of results, by name; less is better."""
    for one in document["filters"]:
        much = f"x{one['scale']:g}" if one["exp"] is None else f"exp {one['exp']}"
        name = f"{one['filter']} {one['weights']} {one['size']} {one['precision']} {much}"
        yield f"{name}, ms", one["ms"]["median"]
    for one in document["pipeline"]:
        name = f"pipeline {one['size']} {one['precision']}"
        yield f"{name} filters alone, s", one["filters_seconds"]["median"]
        yield f"{name} file to file, s", one["file_seconds"]["median"]
        if one["pipe"] is not None:
            yield f"{name} pipe to pipe, s", one["pipe"]["flow_seconds"]["median"]
    for one in document["start"]:
        name = f"start {one['size']}"
        yield f"{name} header, s", one["header_seconds"]["median"]
        yield f"{name} first frame, s", one["first_frame_seconds"]["median"]


def in_turns(commands: Mapping[str, str], words: Sequence[str], rounds: int) -> dict[str, Readings]:
    """Measure once a round with each command; readings by command and figure."""
    found: dict[str, defaultdict[str, list[float]]] = {
        name: defaultdict(list[float]) for name in commands
    }
    with tempfile.TemporaryDirectory(prefix="upframe-turns-") as folder:
        out = Path(folder) / "speed.json"
        for number in range(rounds):
            order = list(commands.items())
            for name, command in order if number % 2 == 0 else reversed(order):
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                whole = [*shlex.split(command), *words, "--out", str(out)]
                subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
                for figure, value in figures_of(json.loads(out.read_text())):
                    found[name][figure].append(value)
    return {name: dict(readings) for name, readings in found.items()}


def is_worse(old: Spread, new: Spread, worse: float) -> bool:
    """Whether the new one is slower by more than that, beyond what the readings spread."""
    return new.median > old.median * (1 + worse) and new.median > old.high and old.median < new.low


def compare(old: Readings, new: Readings, worse: float) -> list[dict[str, Any]]:
    """One row for each figure that both have."""
    rows: list[dict[str, Any]] = []
    for figure in old:
        if figure not in new:
            continue
        before, after = spread_of(old[figure]), spread_of(new[figure])
        rows.append(
            {
                "figure": figure,
                "old": before.model_dump(),
                "new": after.model_dump(),
                "new_over_old": after.median / before.median,
                "ok": not is_worse(before, after, worse),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", required=True, metavar="COMMAND")
    parser.add_argument("--new", required=True, metavar="COMMAND")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--worse", type=float, default=0.03, metavar="SHARE", help="that is accepted (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="a JSON file for the results")
    parser.add_argument("words", nargs="+", metavar="PART …", help="what to measure, and how")
    arguments = parser.parse_args()
    machine = describe()
    commands = {"old": arguments.old, "new": arguments.new}
    readings = in_turns(commands, arguments.words, arguments.rounds)
    rows = compare(readings["old"], readings["new"], arguments.worse)
    for row in rows:
        old, new = row["old"], row["new"]
        print(
            f"{row['figure']:70} {old['median']:9.3f} ({old['low']:.3f}-{old['high']:.3f})"
            f" {new['median']:9.3f} ({new['low']:.3f}-{new['high']:.3f})"
            f" {row['new_over_old']:6.3f} {'' if row['ok'] else 'WORSE'}"
        )
    result = {
        "run": "turns",
        "measured": arguments.words,
        "rounds": arguments.rounds,
        "worse": arguments.worse,
        "figures": rows,
        "readings": readings,
        "machine": machine,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(not rows or not all(row["ok"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
