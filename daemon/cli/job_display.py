"""Jobs on a terminal: a table, the details of one, and bars of progress, all from plain JSON."""

from __future__ import annotations

import os.path
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ...io.redaction import one_line, printable
from ..specification import ConversionOptions

JobJson = Mapping[str, Any]
"""A job as :func:`upframe.daemon.jobs.api.to_public_dict` returns it."""

STYLES = {
    "queued": "default",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "cancelled": "dim",
}
_HEADERS = ("ID", "STATE", "PRIO", "SINCE", "SINK", "PROGRESS")
_NUMBERS = ("PRIO", "SINCE")
_SHOWN_WHOLE = ("filters", "encoder")
_OF_LINES = ("detail", "streams", "warnings")
_STRETCHED = {"SINK": 2, "PROGRESS": 3}
_WHOLE = 36  # columns of an id that are never cut
_OTHERS = 60  # columns for the rest of a table
_FITTED_ROWS = 1000  # fitting more takes seconds
_WIDE = 100_000  # columns without a terminal: nothing is cut


def console() -> Console:
    """Return a console on stdout."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)


def print_jobs(jobs: Sequence[JobJson], out: Console) -> None:
    """Print jobs as a table: fitted to a terminal, else plain and uncut for programs."""
    rows = [_row(job, datetime.now(UTC)) for job in jobs]
    if out.is_terminal and len(rows) <= _FITTED_ROWS:
        out.print(_fitted(rows, out.width))
        return
    widths = [max(map(len, column)) for column in zip(_HEADERS, *rows, strict=True)]
    for row in (_HEADERS, *rows):
        cells = (
            cell.rjust(width) if header in _NUMBERS else cell.ljust(width)
            for header, cell, width in zip(_HEADERS, row, widths, strict=True)
        )
        out.file.write("  ".join(cells).rstrip() + "\n")


def _row(job: JobJson, now: datetime) -> tuple[str, ...]:
    age = duration((now - _since(job)).total_seconds())
    notes = "; ".join(text for text in (progress_text(job), note_of(job)) if text)
    cells = (job["id"], job["state"], str(job["priority"]), age, job["sink"], notes)
    return tuple(one_line(" ".join(str(cell).split())) for cell in cells)


def _fitted(rows: Sequence[tuple[str, ...]], width: int) -> Table:
    """Show ids and states uncut, and share the rest of the width among the others."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for header, *column in zip(_HEADERS, *rows, strict=True):
        stretched = _STRETCHED.get(header)
        table.add_column(
            header,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if header in _NUMBERS else "left",
            min_width=None if stretched else min(_WHOLE, max(map(len, column))),
            max_width=None if stretched else max(_WHOLE, width - _OTHERS),
            ratio=stretched,
        )
    for row in rows:
        cells = (os.path.basename(cell) if "/" in cell else cell for cell in row[:-1])
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in (*cells, row[-1])))
    return table


def print_details(job: JobJson, out: Console) -> None:
    """Print a job, a line for each fact."""
    facts = list(_facts(job))
    width = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        parts = text.splitlines()[:100] if name in _OF_LINES else [text]
        lines = ("\n" + " " * width).join(map(one_line, parts))
        style = STYLES[text] if name == "state" else ""
        out.print(Text.assemble((name.ljust(width), "bold"), (lines, style)), soft_wrap=True)


def counts_text(counts: Mapping[str, int]) -> str:
    """Describe how many jobs are in each state."""
    parts = [f"{number:,} {state}" for state, number in counts.items() if number]
    return " · ".join(parts) or "no jobs"


def progress_text(job: JobJson) -> str:
    """Describe the progress of a job; empty for one that has not started."""
    progress = job["progress"]
    if job["state"] == "done" and progress["frames"]:
        return f"{progress['frames']:,} frames"
    if job["state"] != "running":
        return ""
    if progress["stage"] != "streaming":
        return str(progress["stage"])
    text = f"{progress['frames']:,} frames"
    if progress["total"]:
        text = f"{100 * progress['frames'] / progress['total']:.0f} %"
    eta = progress["eta_seconds"]
    left = "" if eta is None else f", {duration(eta)} left"
    return f"{text}, {progress['fps']:.1f} fps{left}"


def note_of(job: JobJson) -> str:
    """Explain the state of a job in one line."""
    error = job["error"]
    reason = error["message"].splitlines()[0] if error and error["message"] else ""
    if job["state"] == "failed":
        return reason
    notes = [f"attempt {job['attempts']}"] if job["attempts"] > 1 else []
    if job["state"] == "queued":
        notes = [f"after attempt {job['attempts']}: {reason}"] if job["attempts"] and reason else []
        notes += [str(job["waits_for"])] if job["waits_for"] else []
        notes += [f"not before {_clock(job['not_before'])}"] if job["not_before"] else []
    return "; ".join(notes)


def duration(seconds: float) -> str:
    """Write a duration in its largest unit: 40 s, 12 min, 5 h, 3 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _facts(job: JobJson) -> Iterator[tuple[str, str]]:
    for name in ("id", "state", "source", "sink"):
        yield name, str(job[name])
    for name in _SHOWN_WHOLE:
        options = {key: value for key, value in job[name].items() if value not in (None, {})}
        yield name, ", ".join(f"{key}={value}" for key, value in options.items()) or "(as usual)"
    for name, field in ConversionOptions.model_fields.items():
        if name not in _SHOWN_WHOLE and job.get(name, field.default) != field.default:
            yield name, str(job[name])
    for name in ("origin", "priority", "attempts"):
        yield name, str(job[name])
    for name in ("created", "started", "ended", "not_before"):
        if job[name]:
            yield name.replace("_", " "), _clock(job[name])
    if progress_text(job):
        yield "progress", progress_text(job)
    if job["waits_for"]:
        yield "waits for", str(job["waits_for"])
    yield from _outcome(job)


def _outcome(job: JobJson) -> Iterator[tuple[str, str]]:
    error, report = job["error"], job.get("report")
    if error:
        kind = "worth another try" if error["retryable"] else "for good"
        yield "error", f"{error['message']} (exit code {error['code']}, {kind})"
        if error["detail"]:
            yield "detail", error["detail"]
    if report:
        for name in ("frames_in", "frames_out", "seconds", "streams", "warnings"):
            value = report.get(name)
            if value:
                lines = cast("list[object]", value) if isinstance(value, list) else [value]
                yield name.replace("_", " "), "\n".join(printable(str(line)) for line in lines)


def _since(job: JobJson) -> datetime:
    """When the job reached its state."""
    return datetime.fromisoformat(job["ended"] or job["started"] or job["created"])


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Bars:
    """Shows changes: a bar for each running job and lines; only lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.fields[id]}", markup=False),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self._progress = Progress(*columns)
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, str] = {}
        self._counts = ""
        self._live = Live(get_renderable=self._render, console=console)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, change: JobJson) -> None:
        """Show one change."""
        job: JobJson = change["job"]
        if change["kind"] != "progress":
            self._print(job)
        if job["state"] == "running":
            self._move(job)
        elif job["id"] in self._tasks:
            self._progress.remove_task(self._tasks.pop(job["id"]))
        if "counts" in change:
            self._counts = counts_text(change["counts"])

    def _render(self) -> Group:
        return Group(self._progress.get_renderable(), Text(self._counts, "dim"))

    def _print(self, job: JobJson) -> None:
        """Print a state that is new."""
        note = note_of(job)
        line = f"{job['id']}: {job['state']}{f', {note}' if note else ''}"
        if self._printed.get(job["id"]) != line:
            self._console.print(Text(one_line(line), STYLES[job["state"]]), soft_wrap=True)
        self._printed[job["id"]] = line
        if job["state"] in ("done", "cancelled"):
            del self._printed[job["id"]]

    def _move(self, job: JobJson) -> None:
        progress = job["progress"]
        if job["id"] not in self._tasks:
            self._tasks[job["id"]] = self._progress.add_task("", id=job["id"], total=None)
        self._progress.update(
            self._tasks[job["id"]],
            total=progress["total"],
            completed=progress["frames"],
            description=progress_text(job),
        )
