"""`upframe jobs`: submit, list, follow and cancel jobs of the daemon."""

from __future__ import annotations

import argparse
import json
import os.path
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ...io.errors import SinkRefused, SourceMissing
from ...io.redaction import json_text, one_line, printable
from ..config import with_absolute_weights
from ..errors import DaemonAbsent, UnknownJob, UsageError
from ..exits import Exit
from ..jobs.api import NewJob, to_public_dict, to_public_json
from ..jobs.client import DaemonClient, Place, find_place
from ..jobs.model import new_id
from ..jobs.store import STATES, JobStore
from ..specification import ConversionOptions, ConversionSpec
from .arguments import specified
from .commands import ROWS

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
_OF_LINES = ("detail", "streams", "losses", "warnings")
_WHOLE = 36  # columns of an id that are never cut
_OTHERS = 60  # columns for the rest of a table
_FITTED_ROWS = 1000  # fitting more takes seconds
_WIDE = 100_000  # columns without a terminal: nothing is cut
_CANDIDATES = 10  # shown of the ids that begin alike
_STRETCHED = {"SINK": 2, "PROGRESS": 3}


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    return _ACTIONS[arguments.action](arguments)


def _submit(arguments: argparse.Namespace) -> int:
    places = {name: _absolute(getattr(arguments, name)) for name in ("source", "sink")}
    work = specified(arguments, ConversionSpec, **places)
    work = work.model_copy(update={"filters": with_absolute_weights(work.filters)})
    id = arguments.id or new_id(work.source)  # noqa: A001
    client, new = _client(arguments), specified(arguments, NewJob, id=id, work=work)
    if arguments.id is None or not _is_known(client, id):
        client.check(new)
    submitted = client.submit(new)
    job = submitted["job"]
    if submitted["note"]:
        sys.stderr.write(f"upframe: {one_line(submitted['note'])}\n")
    _print(arguments, job, [job["id"]])
    if not (submitted["new"] or arguments.json):
        sys.stderr.write(f"upframe: it is known already, and {job['state']}\n")
    return Exit.OK


def _is_known(client: DaemonClient, id: str) -> bool:  # noqa: A002
    try:
        client.show(id)
    except UnknownJob:
        return False
    return True


def _list(arguments: argparse.Namespace) -> int:
    limit: int | None = arguments.limit if arguments.limit is not None else ROWS
    if arguments.limit == 0 or (arguments.json and arguments.limit is None):
        limit = None
    jobs, counts = _listed(arguments, limit)
    if arguments.json:
        return _print(arguments, jobs)
    out = console()
    if jobs:
        print_jobs(jobs, out)
    states = arguments.state or STATES
    left = sum(counts[state] for state in states) - len(jobs)
    more = f" · {left:,} more are not shown (--limit 0)" if left > 0 else ""
    out.print(f"{counts_text(counts)}{more}", style="dim")
    return Exit.OK


def _listed(
    arguments: argparse.Namespace, limit: int | None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Get jobs and counts from the daemon, or where none runs from its store."""
    place = _place(arguments)
    states = None if arguments.state is None else tuple(arguments.state)
    try:
        listed = DaemonClient(place.socket).jobs(states, limit)
        return listed["jobs"], listed["counts"]
    except DaemonAbsent as absent:
        with _store_without_daemon(place, absent) as store:
            bodies = store.bodies(states, limit)
            counts = {str(state): number for state, number in store.counts().items()}
            return [json.loads(to_public_json(body)) for body in bodies], counts


def _show(arguments: argparse.Namespace) -> int:
    place = _place(arguments)
    try:
        job = _job(DaemonClient(place.socket), arguments.id)
    except DaemonAbsent as absent:
        with _store_without_daemon(place, absent) as store:
            ids = (json.loads(body)["id"] for body in store.bodies(None, None))
            job = to_public_dict(store.get(_whole_id(arguments.id, ids)))
    if arguments.json:
        return _print(arguments, job)
    print_details(job, console())
    return Exit.OK


def _job(client: DaemonClient, given: str) -> dict[str, Any]:
    """Get the job of an id, or of its beginning; an UnknownJob or, of several, a UsageError."""
    try:
        return client.show(given)
    except UnknownJob:
        listed = client.jobs(None, None)["jobs"]
        return client.show(_whole_id(given, (job["id"] for job in listed)))


def _whole_id(given: str, ids: Iterable[str]) -> str:
    """Return the id that is meant by itself or by its beginning; raises as `_job` does."""
    if not given:  # which every id begins with: of a single job, too
        raise UsageError("the id of a job must not be empty")
    found = sorted(each for each in ids if each.startswith(given))
    if not found:
        raise UnknownJob(f"no job has the id {given!r}")
    if len(found) == 1 or given in found:
        return found[0]
    shown = ", ".join(found[:_CANDIDATES]) + (", …" if len(found) > _CANDIDATES else "")
    raise UsageError(f"{len(found)} ids begin with {given!r}: {shown}")


def _cancel(arguments: argparse.Namespace) -> int:
    client = _client(arguments)
    job = client.cancel(_job(client, arguments.id)["id"])
    return _print(arguments, [job], [_state(job)])


def _retry(arguments: argparse.Namespace) -> int:
    if (arguments.id is None) != arguments.failed:
        raise UsageError("give the ID of a job or --failed, one of them")
    client = _client(arguments)
    id = None if arguments.id is None else _job(client, arguments.id)["id"]  # noqa: A001
    jobs = client.retry(id)["jobs"]
    return _print(arguments, jobs, map(_state, jobs))


def _watch(arguments: argparse.Namespace) -> int:
    ended: dict[str, Any] = {}
    client = _client(arguments)
    ids = [_job(client, each)["id"] for each in arguments.ids]
    with Bars(console()) as bars:
        for change in client.follow(ids):
            if arguments.json:
                sys.stdout.write(json_text(change, None) + "\n")
                sys.stdout.flush()
            else:
                bars.show(change)
            ended[change["job"]["id"]] = change["job"]["error"]
    codes = [error["code"] for error in ended.values() if error]
    return codes[0] if codes and arguments.ids else Exit.OK


def _status(arguments: argparse.Namespace) -> int:
    status = _client(arguments).status()
    sys.stdout.write(json_text(status) + "\n")
    return Exit.OK if status["store_trouble"] is None else Exit.IO


def _folders(arguments: argparse.Namespace) -> int:
    folders: list[JobJson] = _client(arguments).status()["watch"]
    lines: list[str] = []
    for folder in folders:
        lines.append(f"{folder['name']}: {folder['input']}: {folder['paused'] or folder['state']}")
        for file in folder["files"]:
            path = str(file["path"]).removeprefix(f"{folder['input']}/")
            lines.append(f"  {file['state']:<8} {path}: {file['detail']} ({file['reason']})")
        if folder["files_left_out"]:
            lines.append(f"  and {folder['files_left_out']} more")
    return _print(arguments, folders, lines)


def _clean(arguments: argparse.Namespace) -> int:
    from ..convert.plan import abandoned_plans  # loads torch, which no other action needs

    removed, refused = list[dict[str, Any]](), list[str]()
    for folder in arguments.folders:
        if not folder.is_dir():
            raise SourceMissing(f"there is no folder {folder}")
        for plan, remove in abandoned_plans(folder):
            if isinstance(plan, SinkRefused):
                refused.append(str(plan))
                continue
            left = remove()
            facts = {"folder": str(plan.folder), "bytes": plan.num_bytes}
            removed.append({**facts, "age_seconds": round(plan.age_seconds), "segments": plan.done})
            kept = f"; {left} files in it are not upframe's, and stay" if left else ""
            if not arguments.json:
                sys.stdout.write(one_line(f"removed {plan.text}{kept}") + "\n")
    _print(arguments, removed, () if removed or refused else ["nothing to remove"])
    if refused:
        raise SinkRefused("; ".join(refused))
    return Exit.OK


_ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    action.__name__.removeprefix("_"): action
    for action in (_submit, _list, _show, _cancel, _retry, _watch, _folders, _status, _clean)
}


def _store_without_daemon(place: Place, absent: DaemonAbsent) -> JobStore:
    if not os.access(place.store, os.R_OK):
        raise absent
    store = JobStore(place.store, read_only=True)
    sys.stderr.write("upframe: no daemon is running; this is what it has recorded\n")
    return store


def _print(arguments: argparse.Namespace, value: object, lines: Iterable[str] = ()) -> int:
    """Print a value as JSON if that is asked for, else the lines; return the exit code."""
    texts = [json_text(value)] if arguments.json else map(one_line, lines)
    sys.stdout.writelines(f"{text}\n" for text in texts)
    return Exit.OK


def _state(job: JobJson) -> str:
    return f"{job['id']}: {job['state']}"


def _place(arguments: argparse.Namespace) -> Place:
    return find_place(arguments.config, arguments.socket)


def _client(arguments: argparse.Namespace) -> DaemonClient:
    return DaemonClient(_place(arguments).socket)


def _absolute(text: str) -> str:
    """Make a path absolute, since the daemon has another working directory."""
    if text == "-":
        raise UsageError("a job has no stdin and stdout: give a file or a URL, not '-'")
    return text if "://" in text else os.path.abspath(text)


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
    since = datetime.fromisoformat(job["ended"] or job["started"] or job["created"])
    age = duration((now - since).total_seconds())
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
    if (seconds := job["progress"]["estimate_seconds"]) is not None:
        yield "estimate", f"about {duration(seconds)} for all of it"
    if memory := job["progress"]["memory"]:
        yield "memory", str(memory)
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
        for name in ("frames_in", "frames_out", "seconds", "streams", "losses", "warnings"):
            if value := report.get(name):
                lines = cast("list[object]", value) if isinstance(value, list) else [value]
                yield name.replace("_", " "), "\n".join(printable(str(line)) for line in lines)


def _clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


class Bars(Progress):
    """Shows changes: a bar for each running job and lines; only lines without a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars: dict[str, TaskID] = {}
        self._printed: dict[str, str] = {}
        self._counts = ""
        columns = (
            TextColumn("{task.fields[id]}", markup=False),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
        )
        super().__init__(*columns, console=console, disable=not console.is_terminal)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield what is shown below the lines: the bars, and how many jobs there are."""
        yield from super().get_renderables()
        yield Text(self._counts, "dim")

    def show(self, change: JobJson) -> None:
        """Show one change."""
        job: JobJson = change["job"]
        if change["kind"] != "progress":
            self._print(job)
        if job["state"] == "running":
            progress = job["progress"]
            if job["id"] not in self._bars:
                self._bars[job["id"]] = self.add_task("", id=job["id"], total=None)
            self.update(
                self._bars[job["id"]],
                total=progress["total"],
                completed=progress["frames"],
                description=progress_text(job),
            )
        elif job["id"] in self._bars:
            self.remove_task(self._bars.pop(job["id"]))
        if "counts" in change:
            self._counts = counts_text(change["counts"])

    def _print(self, job: JobJson) -> None:
        note = note_of(job)
        line = f"{job['id']}: {job['state']}{f', {note}' if note else ''}"
        if self._printed.get(job["id"]) != line:
            self.console.print(Text(one_line(line), STYLES[job["state"]]), soft_wrap=True)
        self._printed[job["id"]] = line
        if job["state"] in ("done", "cancelled"):
            del self._printed[job["id"]]
