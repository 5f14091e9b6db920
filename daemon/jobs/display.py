"""Jobs for people: a table, the details of one, and bars that move. All of it from plain JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

JobJson = Mapping[str, Any]
"""A job as :func:`.shown.shown` writes it."""

STYLES = {
    "queued": "default",
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "cancelled": "dim",
}
_WIDE = 100_000  # columns of what is no terminal: nothing is cut off from who reads it by program


def console() -> Console:
    """Make a console on stdout."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def table_of(jobs: Iterable[JobJson]) -> Table:
    """Set jobs as a table, in their order."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", no_wrap=True, min_width=8, overflow="ellipsis")
    table.add_column("STATE", no_wrap=True)
    table.add_column("PRIO", justify="right", no_wrap=True)
    table.add_column("SINCE", justify="right", no_wrap=True)
    table.add_column("PROGRESS", no_wrap=True)
    table.add_column("SINK", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("NOTE", no_wrap=True, overflow="ellipsis", ratio=3)
    now = datetime.now(UTC)
    for job in jobs:
        table.add_row(
            Text(job["id"]),
            Text(job["state"], STYLES[job["state"]]),
            str(job["priority"]),
            duration((now - _since(job)).total_seconds()),
            progress_text(job),
            Text(job["sink"]),
            Text(note_of(job)),
        )
    return table


def details_of(job: JobJson) -> Table:
    """Set all that is known of a job, a line for each fact."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, text in _facts(job):
        table.add_row(name, Text(text, STYLES[text] if name == "state" else ""))
    return table


def counts_text(counts: Mapping[str, int]) -> str:
    """Say how many jobs are in which state."""
    parts = [f"{number:,} {state}" for state, number in counts.items() if number]
    return " · ".join(parts) or "no jobs"


def progress_text(job: JobJson) -> str:
    """Say how far a job is; nothing for one that has not begun."""
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
    """Say what is worth knowing of a job's state, on one line."""
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
    for name in ("filters", "encoder"):
        options = {key: value for key, value in job[name].items() if value not in (None, {})}
        yield name, ", ".join(f"{key}={value}" for key, value in options.items()) or "(as usual)"
    for name in ("container", "framerate", "overwrite", "strict_streams"):
        if job[name]:
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
                yield name.replace("_", " "), "\n".join(map(str, lines))


def _since(job: JobJson) -> datetime:
    """When it came into the state that it is in."""
    return datetime.fromisoformat(job["ended"] or job["started"] or job["created"])


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
