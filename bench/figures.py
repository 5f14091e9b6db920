"""What a run has measured, compared with its goals: a table, a JSON file, an exit code."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import paths  # finds what is imported next
from machine import describe
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Check:
    """One figure."""

    what: str
    got: Any
    wanted: str
    ok: bool
    timed: bool = False
    """Whether it may be missed on a machine that is busy with other work."""


@dataclass(frozen=True)
class Outcome:
    """All that a run has shown."""

    checks: list[Check]
    details: dict[str, Any]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def ok_if_busy(self) -> bool:
        """Whether all is well but for what a busy machine may miss: for tests."""
        return all(check.ok for check in self.checks if not check.timed)

    def __str__(self) -> str:
        """The figures that were missed, for a test that fails."""
        missed = [f"{c.what}: got {c.got}, wanted {c.wanted}" for c in self.checks if not c.ok]
        return "; ".join([*missed, json.dumps(self.details, default=str)])


def equal(what: str, got: Any, wanted: Any) -> Check:
    return Check(what, got, str(wanted), got == wanted)


def none_of(what: str, found: list[Any]) -> Check:
    """Nothing of a kind may be there; names the first ones that are."""
    shown = 0 if not found else f"{len(found)}: {', '.join(map(str, found[:5]))}"
    return Check(what, shown, "0", not found)


def at_most(what: str, got: float, most: float, unit: str) -> Check:
    return Check(what, round(got, 3), f"≤ {most:g} {unit}", got <= most)


def at_least(what: str, got: float, least: float) -> Check:
    return Check(what, round(got, 3), f"≥ {least:g}", got >= least)


def timed(check: Check) -> Check:
    """The same figure, which may be missed on a machine that is busy with other work."""
    return replace(check, timed=True)


Measure = Callable[..., Outcome]


def run_as_script(
    name: str,
    text: str | None,
    measure: Measure,
    short: Mapping[str, float | str] | None = None,
    **sizes: float | str,
) -> None:
    """Run with the sizes of the command line; exits with 1 where a figure is missed.

    Args:
        name: Of the run, in the results.
        text: What `--help` says.
        measure: Called with a folder, `seed` and the sizes.
        short: Sizes of a run that only shows that all works, for `--short`.
        sizes: The options and their defaults.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in sizes.items():
        words = option.replace("_", "-")
        help_text = f"({default})"
        parser.add_argument(f"--{words}", type=type(default), metavar="N", help=help_text)
    if short is not None:
        parser.add_argument("--short", action="store_true", help="only see whether all works")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON of the results")
    parser.add_argument("--folder", type=Path, help="work here, and leave all as it is at the end")
    arguments = parser.parse_args()
    defaults = {**sizes, **(short or {})} if getattr(arguments, "short", False) else sizes
    given: dict[str, Any] = {"seed": arguments.seed}
    for option, default in defaults.items():
        asked = getattr(arguments, option)
        given[option] = default if asked is None else asked
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="upframe-faults-") as made:
        folder = (arguments.folder or Path(made)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = measure(folder, **given)
    show(name, outcome)
    if arguments.out:
        full_size = sizes | {"seed": given["seed"]} == given
        seconds = time.monotonic() - began
        write_result(
            arguments.out, name, outcome, options=given, full_size=full_size, seconds=seconds
        )
    sys.exit(0 if outcome.ok else 1)


def write_result(
    path: Path,
    name: str,
    outcome: Outcome,
    *,
    options: Mapping[str, Any],
    full_size: bool,
    seconds: float,
) -> None:
    """Write what a run has shown, with what machine and commit it was made by."""
    result = {
        "run": name,
        "options": options,
        "full_size": full_size,
        "ok": outcome.ok,
        "seconds": round(seconds, 1),
        "checks": [asdict(check) for check in outcome.checks],
        "details": outcome.details,
        "commit": _commit(),
        "machine": describe() | {"load_average": os.getloadavg()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, default=str) + "\n")


def _commit() -> str | None:
    """What was measured, as git names it."""
    command = ["git", "-C", str(paths.ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.stdout.strip() or None


def show(name: str, outcome: Outcome) -> None:
    table = Table(title=name)
    for heading in ("what", "got", "wanted", ""):
        table.add_column(heading)
    for check in outcome.checks:
        table.add_row(check.what, str(check.got), check.wanted, "ok" if check.ok else "MISSED")
    Console().print(table)
    print(json.dumps(outcome.details, indent=2, default=str))
