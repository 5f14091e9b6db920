"""The store of jobs: one SQLite file in the state directory, and the truth about every job.

Every change of state is one transaction that has reached the disk before the call returns. All
methods block and may be called from any thread; on an event loop, use the queue instead.
"""

from __future__ import annotations

import json
import os.path
import re
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, get_args

from pydantic import ValidationError

from ...io.redaction import LOCATION_MAX_BYTES
from ..errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from ..specification import ConversionSpec, Origin
from .database import Database, Row
from .model import LEGAL_CHANGES, Job, JobProgress, State

STORE_NAME = "jobs.sqlite"
"""Of the file in the state directory."""

STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

ALTERABLE = frozenset(
    {
        *("attempts", "confined", "ended", "error", "not_before"),
        *("priority", "progress", "report", "started", "waits_for"),
    }
)
"""The fields that may be written after a job was added, beside its state."""

_AT_ONCE = 100  # jobs in one transaction: longer ones would keep other writers waiting
_JOB = "SELECT body, report FROM jobs"

# Running ones, then queued ones in the order of their turn, then ended ones, latest first.
_GROUPS = (
    ("running", "state = 'running'", "priority DESC, created, seq"),
    ("queued", "state = 'queued'", "priority DESC, created, seq"),
    ("ended", "ended IS NOT NULL", "ended DESC, seq DESC"),
)

_OUT_OF_BOUNDS = ("value_error", "string_pattern_mismatch", "less_than", "less_than_equal")
_MOST_CHARACTERS = LOCATION_MAX_BYTES // 4


def altered(job: Job, **fields: object) -> Job:
    """Copy a job with other values in some fields, validated as those of a new job.

    Raises:
        ValidationError: if a field cannot have its value.
    """
    given: dict[str, Any] = {name: getattr(job, name) for name in Job.model_fields}
    return Job.model_validate(given | fields)


def plain_path(path: str) -> str:
    """Normalize a path for lookups; URLs stay as they are."""
    return path if "://" in path else os.path.normpath(path)


def row_of(job: Job) -> dict[str, object]:
    """Return a job as the columns of its row, without `seq`."""
    return {
        "id": job.id,
        "key": job.idempotency_key,
        "digest": job.work.digest,
        "state": job.state,
        "priority": job.priority,
        "created": job.created.timestamp(),
        "due": job.not_before.timestamp() if job.not_before else 0.0,
        "ended": job.ended.timestamp() if job.ended else None,
        "sink": plain_path(job.sink),
        "body": job.model_dump_json(exclude={"report"}),
        "report": None if job.report is None else json.dumps(job.report, separators=(",", ":")),
    }


def job_of_row(body: str, report: str | None) -> Job:
    """Read a job from its two JSON columns.

    Raises:
        StoreBroken: if they hold no job.
    """
    whole = body if report is None else f'{body[:-1]},"report":{report}}}'
    try:
        return Job.model_validate_json(whole)
    except ValidationError as error:
        if (job := _repaired(whole, error)) is not None:
            return job
        # without the values: one may be a URL with a password
        faults = error.errors(include_url=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        named = re.search(r'"id":\s*("[^"]*")', body)
        name = f"job {named[1]}" if named else "a job"
        raise StoreBroken(f"the record of {name} cannot be read: {text}") from None


def _repaired(whole: str, error: ValidationError) -> Job | None:
    """Read a job of a former version, which accepted values that are out of bounds by now."""
    fields: dict[str, Any] = json.loads(whole) if whole[:1] == "{" else {}
    try:
        for fault in error.errors(include_url=False, include_input=False):
            place, *below = (str(level) for level in fault["loc"])
            if place not in ConversionSpec.model_fields or fault["type"] not in _OUT_OF_BOUNDS:
                return None
            if place in ("source", "sink"):
                fields[place] = fields[place][:_MOST_CHARACTERS]  # no such file: the job fails
            else:
                del (fields[place] if below else fields)[(below or [place])[-1]]
        return Job.model_validate_json(json.dumps(fields))
    except (ValueError, LookupError, TypeError):
        return None


# Steps inside a transaction that the caller begins and ends.


def insert(connection: sqlite3.Connection, job: Job) -> None:
    """Write a new job."""
    row = row_of(job)
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", tuple(row.values()))


def _load(connection: sqlite3.Connection, id: str) -> Job:  # noqa: A002
    row = connection.execute(f"{_JOB} WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise UnknownJob(f"no job has the id {id!r}")
    return job_of_row(*row)


def _save(connection: sqlite3.Connection, job: Job) -> Job:
    """Update the row of a job, and record its output once it is done."""
    row = row_of(job)
    assignments = ", ".join(f"{column} = ?" for column in row)
    connection.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*row.values(), job.id))
    if job.state == "done" and job.ended is not None:
        made = (plain_path(job.sink), job.id, job.ended.timestamp())
        connection.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", made)
    return job


def _same_job(connection: sqlite3.Connection, job: Job) -> Job | None:
    """Find the job that a request means. Its id decides before its key does.

    Raises:
        Conflict: if the id stands for other work.
    """
    digest = job.work.digest
    for column, value in (("id", job.id), ("key", job.idempotency_key)):
        row = connection.execute(f"{_JOB} WHERE {column} = ?", (value,)).fetchone()
        known, known_digest = None, ""
        if row is not None:
            known = job_of_row(*row)
            known_digest = known.work.digest
        else:
            query = f"SELECT id, digest, state, ended FROM forgotten WHERE {column} = ?"
            row = connection.execute(query, (value,)).fetchone()
            if row is not None:  # its record was dropped: it had the work of this request
                id, known_digest, state, ended = row  # noqa: A001
                known = altered(job, id=id, state=state, ended=datetime.fromtimestamp(ended, UTC))
        if known is None:
            continue
        if column == "id" and known_digest != digest:
            raise Conflict(f"the id {job.id!r} belongs to other work already: choose another")
        return known
    return None


class JournaledMessage(NamedTuple):
    """A message of the broker that is not handled yet."""

    number: int
    topic: str
    payload: bytes
    properties: bytes
    received: float
    """Seconds since 1970."""


class JobStore:
    """An open store: of jobs, of the outputs made, of verdicts on files, of unhandled messages.

    Args:
        path: the file; made if it does not exist, unless `read_only`.
        read_only: read a store that another process may be writing; every change fails.

    Raises:
        StoreBroken: if the file cannot be used; from every method, if it fails later.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._database = Database(path, read_only=read_only)
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._database.close()

    def prove(self) -> None:
        """Check that the store can be written, without changing it."""
        self._database.prove()

    def add(self, job: Job) -> tuple[Job, bool]:
        """Add a job, unless it is known already.

        Returns:
            The job as the store has it, and whether it is new. A job whose record was dropped
            is returned in the state in which it ended, and does not run again.

        Raises:
            Conflict: if its id stands for other work.
        """
        with self._database.write() as connection:
            known = _same_job(connection, job)
            if known is not None:
                return known, False
            insert(connection, job)
            return job, True

    def get(self, id: str) -> Job:  # noqa: A002
        """Read a job.

        Raises:
            UnknownJob: if there is none of that id.
        """
        rows = self._database.read(f"{_JOB} WHERE id = ?", (id,))
        if not rows:
            raise UnknownJob(self._why_unknown(id))
        return job_of_row(*rows[0])

    def find(self, idempotency_key: str) -> Job | None:
        """Read the job of a key; None if there is none, or its record was dropped."""
        rows = self._database.read(f"{_JOB} WHERE key = ?", (idempotency_key,))
        return job_of_row(*rows[0]) if rows else None

    def jobs(self, states: Collection[State] | None = None, limit: int | None = None) -> list[Job]:
        """Read jobs: running, then queued in the order of their turn, then ended, latest first."""
        return [job_of_row(*row) for row in self._rows("body, report", states, limit)]

    def bodies(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[str]:
        """Read jobs as JSON without their reports, many times faster, in the order of `jobs`."""
        return [body for (body,) in self._rows("body", states, limit)]

    def counts(self) -> dict[State, int]:
        """Count the jobs in each state."""
        rows = dict(self._database.read("SELECT state, COUNT(*) FROM jobs GROUP BY state"))
        return {state: rows.get(state, 0) for state in STATES}

    def change(
        self,
        id: str,  # noqa: A002
        state: State,
        *,
        expected: Collection[State] | None = None,
        **fields: object,
    ) -> Job:
        """Change the state of a job, and with it fields of :data:`ALTERABLE`.

        What a change always implies is set unless given: times of start and end, no reason to wait,
        and no progress for a job that is queued again. `expected` are the states in which the job
        must be; None: any. `fields` are new values by name.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if :data:`LEGAL_CHANGES` does not have it, or the job is in another
                state than `expected`.
        """
        return self._change(id, state, expected, _allowed(fields))

    def _change(
        self,
        id: str,  # noqa: A002
        state: State,
        expected: Collection[State] | None,
        fields: Mapping[str, object],
    ) -> Job:
        with self._database.write() as connection:
            job = _load(connection, id)
            if state not in LEGAL_CHANGES[job.state] or (
                expected is not None and job.state not in expected
            ):
                raise IllegalChange(f"job {id} is {job.state}, it cannot become {state} now")
            given = _implied_by(state) | dict(fields)
            return _save(connection, altered(job, state=state, **given))

    def retry(
        self,
        id: str,  # noqa: A002
        renewed: Mapping[str, object] | None = None,
    ) -> Job:
        """Queue a job again that failed or was cancelled, with all its attempts.

        Its source is read as it is then: it may have been repaired. `renewed` has new values of any
        fields but the id, by name.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if it is in another state.
        """
        given = _reset(self.get(id)) | dict(renewed or {})
        return self._change(id, "queued", ("failed", "cancelled"), given)

    def retry_failed(
        self, ended_before: datetime, limit: int = _AT_ONCE, *, but_origin: Origin | None = None
    ) -> list[Job]:
        """Queue jobs again that failed before a time, at most `limit` in this transaction.

        Those of an origin may be left out.
        """
        query = f"""
            {_JOB} WHERE state = 'failed' AND ended < ?
            AND json_extract(body, '$.origin') IS NOT ? LIMIT ?
        """
        parameters = (ended_before.timestamp(), but_origin, limit)
        with self._database.write() as connection:
            rows = connection.execute(query, parameters).fetchall()
            jobs = [job_of_row(*row) for row in rows]
            given = _implied_by("queued") | {"state": "queued"}
            return [_save(connection, altered(job, **given, **_reset(job))) for job in jobs]

    def update(self, id: str, **fields: object) -> Job:  # noqa: A002
        """Write fields of :data:`ALTERABLE` without a change of state.

        Raises:
            UnknownJob: if there is no such job.
        """
        with self._database.write(durable=False) as connection:
            return _save(connection, altered(_load(connection, id), **_allowed(fields)))

    def claim(self, now: datetime, *, limit_ids: Collection[str] | None = None) -> Job | None:
        """Begin an attempt of the job whose turn it is: the highest priority, then the oldest.

        Passed over are jobs whose `not_before` is later than `now`, and those not in `limit_ids`
        where given. None: no job is due.
        """
        chosen, ids = "", tuple(limit_ids or ())
        if limit_ids is not None:
            chosen = f"AND id IN ({', '.join('?' * len(ids))})"
        query = f"""
            {_JOB} WHERE state = 'queued' AND due <= ? {chosen}
            ORDER BY priority DESC, created, seq LIMIT 1
        """
        parameters = (now.timestamp(), *ids)
        if not self._database.read(query, parameters):  # no transaction while there is no work
            return None
        with self._database.write() as connection:
            row: Row | None = connection.execute(query, parameters).fetchone()
            if row is None:
                return None
            job = job_of_row(*row)
            given = _implied_by("running") | {"started": now, "attempts": job.attempts + 1}
            return _save(connection, altered(job, state="running", **given))

    def next_due(self, now: datetime) -> datetime | None:
        """Return when the next queued job becomes due after `now`; None if none will."""
        query = "SELECT MIN(due) FROM jobs WHERE state = 'queued' AND due > ?"
        ((due,),) = self._database.read(query, (now.timestamp(),))
        return None if due is None else datetime.fromtimestamp(due, UTC)

    def forget(self, ended_before: datetime, limit: int = _AT_ONCE) -> list[Job]:
        """Delete jobs that ended before a time, the oldest first, at most `limit` at once.

        Their ids and keys stay known, so that the same request does not run again, and so do the
        outputs that they made.

        Returns:
            Those deleted.
        """
        query = f"{_JOB} WHERE ended < ? ORDER BY ended, seq LIMIT ?"
        with self._database.write() as connection:
            rows = connection.execute(query, (ended_before.timestamp(), limit)).fetchall()
            jobs = [job_of_row(*row) for row in rows]
            for job in jobs:
                ended = job.ended.timestamp() if job.ended else 0.0
                left = (job.id, job.idempotency_key, job.work.digest, job.state, ended)
                connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?, ?)", left)
                connection.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
        return jobs

    def is_known_sink(self, path: str) -> bool:
        """Return whether a file is an output: of a job that is done, queued or running."""
        plain = plain_path(path)
        query = """
            SELECT 1 FROM outputs WHERE path = ?
            UNION ALL SELECT 1 FROM jobs WHERE sink = ? AND state IN ('queued', 'running')
            LIMIT 1
        """
        return bool(self._database.read(query, (plain, plain)))

    def writer_of(self, sink: str, new_id: str = "") -> str | None:
        """Return the id of a queued or running job with an output; None if the new job is known."""
        query = """
            SELECT id FROM jobs WHERE sink = ? AND state IN ('queued', 'running')
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?) LIMIT 1
        """
        rows = self._database.read(query, (plain_path(sink), new_id))
        return str(rows[0][0]) if rows else None

    def journal(self, topic: str, payload: bytes, properties: bytes) -> int:
        """Record a message until it is handled; on the disk when this returns.

        Returns:
            Its number, by which :meth:`unjournal` deletes it.
        """
        with self._database.write() as connection:
            cursor = connection.execute(
                "INSERT INTO messages (topic, payload, properties, received) VALUES (?, ?, ?, ?)",
                (topic, payload, properties, time.time()),
            )
            return int(cursor.lastrowid or 0)

    def journaled(self) -> list[JournaledMessage]:
        """List the messages that are not handled yet, the oldest first."""
        query = "SELECT number, topic, payload, properties, received FROM messages ORDER BY number"
        return [JournaledMessage(*row) for row in self._database.read(query)]

    def unjournal(self, number: int) -> None:
        """Delete a handled message. A power cut may bring it back: ids make that safe."""
        with self._database.write(durable=False) as connection:
            connection.execute("DELETE FROM messages WHERE number = ?", (number,))

    def seen_verdict(self, key: str) -> str | None:
        """Return what was decided about a version of a file; None: nothing yet."""
        rows = self._database.read("SELECT verdict FROM verdicts WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def set_verdict(self, key: str, verdict: str) -> None:
        """Record what was decided about a version of a file."""
        with self._database.write(durable=False) as connection:
            row = (key, verdict, time.time())
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)

    def drop_verdict(self, key: str) -> None:
        """Delete a verdict, so that the file is inspected again."""
        with self._database.write(durable=False) as connection:
            connection.execute("DELETE FROM verdicts WHERE key = ?", (key,))

    def _rows(
        self, columns: str, states: Collection[State] | None, limit: int | None
    ) -> Iterator[Row]:
        wanted = STATES if states is None else tuple(state for state in STATES if state in states)
        marks = ", ".join("?" * len(wanted))
        left = limit
        for group, condition, order in _GROUPS:
            if not set(wanted) & set(ENDED if group == "ended" else (group,)):
                continue
            query = f"SELECT {columns} FROM jobs WHERE {condition} AND state IN ({marks})"
            rows = self._database.read(
                f"{query} ORDER BY {order} LIMIT ?", (*wanted, -1 if left is None else left)
            )
            yield from rows
            left = None if left is None else left - len(rows)

    def _why_unknown(self, id: str) -> str:  # noqa: A002
        rows = self._database.read("SELECT state, ended FROM forgotten WHERE id = ?", (id,))
        if not rows:
            return f"no job has the id {id!r}"
        state, ended = rows[0]
        day = datetime.fromtimestamp(ended, UTC).date()
        return f"job {id} ended as {state} on {day}, and its record has been dropped since"


def _allowed(fields: dict[str, object]) -> dict[str, object]:
    if fields.keys() - ALTERABLE:
        raise ValueError(
            f"a job's {', '.join(sorted(fields.keys() - ALTERABLE))} cannot be written later, "
            f"only {', '.join(sorted(ALTERABLE))}"
        )
    return fields


def _reset(job: Job) -> dict[str, object]:
    """Return the fields with which a job starts again when the user retries it."""
    confined = job.confined and job.confined.model_copy(update={"accepted": None})
    return {"attempts": 0, "error": None, "report": None, "confined": confined}


def _implied_by(state: State) -> dict[str, object]:
    """Return what a change to a state implies for the other fields."""
    now = datetime.now(UTC)
    common: dict[str, object] = {"not_before": None, "waits_for": None}
    if state == "queued":
        return common | {"started": None, "ended": None, "progress": JobProgress()}
    if state == "running":
        return common | {"started": now, "ended": None}
    return common | {"ended": now} | ({"error": None} if state == "done" else {})
