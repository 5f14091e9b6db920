"""`upframe jobs`: submit, list, follow and cancel jobs of the daemon."""

from __future__ import annotations

import argparse
import json
import os.path
import re
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...io.redaction import json_text, redacted
from ..config import with_absolute_weights
from ..errors import DaemonAbsent, UsageError
from ..exits import Exit
from ..jobs.api import NewJob, to_public_dict, to_public_json
from ..jobs.client import DaemonClient, Place, find_place
from ..jobs.store import STATES, JobStore
from ..specification import ConversionOptions, ConversionSpec
from .arguments import (
    add_encoder_arguments,
    add_filter_arguments,
    add_options,
    refuse_options,
    specified,
)
from .job_display import Bars, console, counts_text, print_details, print_jobs

_ROWS = 50  # of the table, unless more are asked for

_EPILOG = """\
examples:
  upframe jobs submit film.mkv large.mkv --interpolate 1 --upscale 2
  upframe jobs list
  upframe jobs watch
  upframe jobs show film-3f9a1c
  upframe jobs retry --failed

The daemon is found by --config or --socket, else in /var/lib/upframe. If none is running, list and
show read its store.

exit codes: 0 done · 64 the state of the job does not allow it · 66 no such job · 69 no daemon
74 the store of the jobs cannot be read
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and its arguments."""
    parser.description = "Submit, list, follow and cancel jobs of the daemon `upframe serve`."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_submit(actions)
    listing = _action(actions, "list", _list, "List jobs: running, queued, then ended.")
    listing.add_argument(
        "--state", action="append", choices=STATES, help="List this state. May be repeated."
    )
    listing.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"List N jobs, 0 for all. Default: {_ROWS}; all as JSON.",
    )
    _action(actions, "show", _show, "Show a job.").add_argument("id", metavar="ID")
    _action(actions, "cancel", _cancel, "Cancel a job.").add_argument("id", metavar="ID")
    retry = _action(actions, "retry", _retry, "Queue a failed or cancelled job again.")
    retry.add_argument("id", metavar="ID", nargs="?")
    retry.add_argument("--failed", action="store_true", help="Queue all failed jobs again.")
    watch = _action(actions, "watch", _watch, "Follow all jobs, or some until they have ended.")
    watch.add_argument("ids", metavar="ID", nargs="*")
    _action(actions, "status", _status, "Show the status of the daemon as JSON.")


def _action(actions: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="Find the daemon by its configuration."
    )
    parser.add_argument("--socket", type=Path, metavar="FILE", help="Find it by its socket.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.set_defaults(command=command)
    return parser


def _add_submit(actions: Any) -> None:
    parser = _action(actions, "submit", _submit, "Give the daemon a job, and print its id.")
    for name in ("source", "sink"):
        parser.add_argument(name, help=ConversionSpec.model_fields[name].description)
    add_options(parser, NewJob, "id", "priority")
    add_filter_arguments(parser)
    add_encoder_arguments(parser)
    add_options(parser.add_argument_group("input and output"), ConversionOptions)
    refuse_options(parser, "job")


def _submit(arguments: argparse.Namespace) -> int:
    work = specified(
        arguments,
        ConversionSpec,
        source=_absolute(arguments.source),
        sink=_absolute(arguments.sink),
    )
    work = work.model_copy(update={"filters": with_absolute_weights(work.filters)})
    id = arguments.id or _new_id(work.source)  # noqa: A001
    submitted = _client(arguments).submit(specified(arguments, NewJob, id=id, work=work))
    job = submitted["job"]
    if arguments.json:
        _print_json(job)
        return Exit.OK
    sys.stdout.write(f"{job['id']}\n")
    if not submitted["new"]:
        sys.stderr.write(f"upframe: it is known already, and {job['state']}\n")
    return Exit.OK


def _list(arguments: argparse.Namespace) -> int:
    limit: int | None = arguments.limit if arguments.limit is not None else _ROWS
    if arguments.limit == 0 or (arguments.json and arguments.limit is None):
        limit = None
    jobs, counts = _listed(arguments, limit)
    if arguments.json:
        _print_json_list(jobs)
        return Exit.OK
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
        job = DaemonClient(place.socket).show(arguments.id)
    except DaemonAbsent as absent:
        with _store_without_daemon(place, absent) as store:
            job = to_public_dict(store.get(arguments.id))
    if arguments.json:
        _print_json(job)
    else:
        print_details(job, console())
    return Exit.OK


def _cancel(arguments: argparse.Namespace) -> int:
    _print_states([_client(arguments).cancel(arguments.id)], arguments)
    return Exit.OK


def _retry(arguments: argparse.Namespace) -> int:
    if (arguments.id is None) != arguments.failed:
        raise UsageError("give the ID of a job or --failed, one of them")
    _print_states(_client(arguments).retry(arguments.id)["jobs"], arguments)
    return Exit.OK


def _watch(arguments: argparse.Namespace) -> int:
    ended: dict[str, Any] = {}
    with Bars(console()) as bars:
        for change in _client(arguments).follow(arguments.ids):
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
    _print_json(status)
    return Exit.OK if status["store_trouble"] is None else Exit.IO


def _store_without_daemon(place: Place, absent: DaemonAbsent) -> JobStore:
    if not os.access(place.store, os.R_OK):
        raise absent
    store = JobStore(place.store, read_only=True)
    sys.stderr.write("upframe: no daemon is running; this is what it has recorded\n")
    return store


def _print_states(jobs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        _print_json_list(jobs)
        return
    for job in jobs:
        sys.stdout.write(f"{job['id']}: {job['state']}\n")


def _print_json(value: object) -> None:
    sys.stdout.write(json_text(value) + "\n")


def _print_json_list(jobs: Iterable[Any]) -> None:
    """Write an array, an element a line."""
    separator = "["
    for job in jobs:
        sys.stdout.write(f"{separator}\n{json_text(job, None)}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def _place(arguments: argparse.Namespace) -> Place:
    return find_place(arguments.config, arguments.socket)


def _client(arguments: argparse.Namespace) -> DaemonClient:
    return DaemonClient(_place(arguments).socket)


def _absolute(text: str) -> str:
    """Make a path absolute, since the daemon has another working directory."""
    if text == "-":
        raise UsageError("a job has no stdin and stdout: give a file or a URL, not '-'")
    return text if "://" in text else os.path.abspath(text)


def _new_id(source: str) -> str:
    """Make a unique id that users recognise."""
    stem = os.path.splitext(os.path.basename(redacted(source)))[0]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:40]
    return f"{slug or 'job'}-{secrets.token_hex(4)}"
