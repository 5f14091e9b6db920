"""The store of jobs: one SQLite file in the state directory, and the truth about every job.

Every change of state is one transaction that has reached the disk before the call returns. All
methods block and may be called from any thread; on an event loop, use the queue instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, get_args

from ..errors import Conflict, IllegalChange, UnknownJob
from .database import (
    ALTERABLE,
    Database,
    Memory,
    Row,
    altered,
    job_of_row,
    plain_path,
    row_of,
    seconds_of,
)
from .model import LEGAL_CHANGES, Job, JobProgress, State

# Single steps on jobs inside a transaction that somebody else begins and ends.


def insert(connection: sqlite3.Connection, job: Job) -> None:
    """Write a new job."""
    row = row_of(job)
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", tuple(row.values()))


def load(connection: sqlite3.Connection, id: str) -> Job:  # noqa: A002
    """Read a job.

    Raises:
        UnknownJob: if there is none of that id.
    """
    row = connection.execute("SELECT body, report FROM jobs WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise UnknownJob(f"no job has the id {id!r}")
    return job_of_row(*row)


def save(connection: sqlite3.Connection, job: Job) -> Job:
    """Write a job over what is stored of it, and remember its output once it is done."""
    row = row_of(job)
    assignments = ", ".join(f"{column} = ?" for column in row)
    connection.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*row.values(), job.id))
    if job.state == "done" and job.ended is not None:
        made = (plain_path(job.sink), job.id, seconds_of(job.ended))
        connection.execute("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", made)
    return job


def same_job(connection: sqlite3.Connection, job: Job) -> Job | None:
    """Find the job that a request means. Its id decides before its key does.

    Raises:
        Conflict: if the id stands for other work.
    """
    digest = job.work.digest
    for column, value in (("id", job.id), ("key", job.idempotency_key)):
        row = connection.execute(
            f"SELECT body, report FROM jobs WHERE {column} = ?", (value,)
        ).fetchone()
        known = None if row is None else job_of_row(*row)
        known = known or _forgotten(connection, job, column, value)
        if known is None:
            continue
        if column == "id" and known.work.digest != digest:
            raise Conflict(f"the id {job.id!r} belongs to other work already: choose another")
        return known
    return None


def _forgotten(connection: sqlite3.Connection, job: Job, column: str, value: str) -> Job | None:
    """Make what is left of a dropped job, with the work of the request that asks for it."""
    row = connection.execute(
        f"SELECT id, digest, state, ended FROM forgotten WHERE {column} = ?", (value,)
    ).fetchone()
    if row is None:
        return None
    id, digest, state, ended = row  # noqa: A001
    if column == "id" and digest != job.work.digest:
        raise Conflict(f"the id {job.id!r} belongs to other work already: choose another")
    return altered(job, id=id, state=state, ended=datetime.fromtimestamp(ended, UTC))


def forget(connection: sqlite3.Connection, job: Job) -> None:
    """Drop a job, all but what tells that it was here."""
    ended = seconds_of(job.ended) if job.ended else 0.0
    left = (job.id, job.idempotency_key, job.work.digest, job.state, ended)
    connection.execute("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?, ?)", left)
    connection.execute("DELETE FROM jobs WHERE id = ?", (job.id,))


STORE_NAME = "jobs.sqlite"
"""Of the file in the state directory."""

STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
_AT_ONCE = 100  # jobs in one transaction: it must not hold up others for long

# Running ones, then the others in the order in which they will go, then the ended, latest first.
_GROUPS = (
    ("running", "state = 'running'", "priority DESC, created, seq"),
    ("queued", "state = 'queued'", "priority DESC, created, seq"),
    ("ended", "ended IS NOT NULL", "ended DESC, seq DESC"),
)


class JobStore(Memory):
    """An open store of jobs.

    Args:
        path: the file; made where it is not there, unless `read_only`.
        read_only: look at a store that another process may be writing; every change fails.

    Raises:
        StoreBroken: if the file cannot be used; from every method, if it fails later.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(Database(path, read_only=read_only))
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._database.close()

    def prove(self) -> None:
        """See whether changes can be made: writes and reads, and changes nothing."""
        self._database.prove()

    def add(self, job: Job) -> tuple[Job, bool]:
        """Take a job, unless it is known already.

        Returns:
            The job as the store has it, and whether it is new. A job that was forgotten since
            comes back with the state in which it ended, and is not run again.

        Raises:
            Conflict: if its id stands for other work.
        """
        with self._database.write() as connection:
            known = same_job(connection, job)
            if known is not None:
                return known, False
            insert(connection, job)
            return job, True

    def get(self, id: str) -> Job:  # noqa: A002
        """Read a job.

        Raises:
            UnknownJob: if there is none of that id.
        """
        rows = self._database.read("SELECT body, report FROM jobs WHERE id = ?", (id,))
        if not rows:
            raise UnknownJob(self._why_unknown(id))
        return job_of_row(*rows[0])

    def find(self, idempotency_key: str) -> Job | None:
        """Read the job of a key; None where there is none, or none any more."""
        query = "SELECT body, report FROM jobs WHERE key = ?"
        rows = self._database.read(query, (idempotency_key,))
        return job_of_row(*rows[0]) if rows else None

    def jobs(self, states: Collection[State] | None = None, limit: int | None = None) -> list[Job]:
        """Read jobs: running, then queued in the order of their turn, then ended, latest first."""
        return [job_of_row(*row) for row in self._rows("body, report", states, limit)]

    def bodies(
        self, states: Collection[State] | None = None, limit: int | None = None
    ) -> list[str]:
        """Read jobs as JSON without their reports: many times faster, for lists."""
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

        What a change always means is set unless given: times of start and end, no more reason to
        wait, and progress from nought for a job that is queued again.

        Args:
            id: of the job.
            state: the new one.
            expected: refuse if it is in none of these states by now.
            **fields: new values by their names.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if :data:`LEGAL_CHANGES` does not have it, or it is not as `expected`.
        """
        with self._database.write() as connection:
            job = load(connection, id)
            if state not in LEGAL_CHANGES[job.state] or (
                expected is not None and job.state not in expected
            ):
                raise IllegalChange(f"job {id} is {job.state}, it cannot become {state} now")
            given = _meaning_of(state) | _allowed(fields)
            return save(connection, altered(job, state=state, **given))

    def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job again that failed or was cancelled, with all its attempts.

        Its source is taken as it will be then: it may have been mended.

        Raises:
            UnknownJob: if there is no such job.
            IllegalChange: if it is in another state.
        """
        given = _afresh(self.get(id))
        return self.change(id, "queued", expected=("failed", "cancelled"), **given)

    def retry_failed(self, ended_before: datetime, limit: int = _AT_ONCE) -> list[Job]:
        """Queue jobs again that failed before a time, at most `limit` in this one transaction."""
        query = "SELECT body, report FROM jobs WHERE state = 'failed' AND ended < ? LIMIT ?"
        with self._database.write() as connection:
            rows = connection.execute(query, (seconds_of(ended_before), limit)).fetchall()
            jobs = [job_of_row(*row) for row in rows]
            given = _meaning_of("queued") | {"state": "queued"}
            return [save(connection, altered(job, **given, **_afresh(job))) for job in jobs]

    def update(self, id: str, **fields: object) -> Job:  # noqa: A002
        """Write fields of :data:`ALTERABLE` without a change of state.

        Raises:
            UnknownJob: if there is no such job.
        """
        with self._database.write(durable=False) as connection:
            return save(connection, altered(load(connection, id), **_allowed(fields)))

    def claim(self, now: datetime, *, limit_ids: Collection[str] | None = None) -> Job | None:
        """Begin an attempt of the job whose turn it is: the highest priority, then the oldest.

        Args:
            now: a job whose `not_before` is later is passed over.
            limit_ids: choose among these only.

        Returns:
            The job, running; None where none is due.
        """
        chosen, ids = "", tuple(limit_ids or ())
        if limit_ids is not None:
            chosen = f"AND id IN ({', '.join('?' * len(ids))})"
        query = f"""
            SELECT body, report FROM jobs WHERE state = 'queued' AND due <= ? {chosen}
            ORDER BY priority DESC, created, seq LIMIT 1
        """
        parameters = (seconds_of(now), *ids)
        if not self._database.read(query, parameters):  # no transaction while there is no work
            return None
        with self._database.write() as connection:
            row: Row | None = connection.execute(query, parameters).fetchone()
            if row is None:
                return None
            job = job_of_row(*row)
            given = _meaning_of("running") | {"started": now, "attempts": job.attempts + 1}
            return save(connection, altered(job, state="running", **given))

    def next_due(self, now: datetime) -> datetime | None:
        """Tell when the next queued job becomes due after `now`; None where none will."""
        query = "SELECT MIN(due) FROM jobs WHERE state = 'queued' AND due > ?"
        ((due,),) = self._database.read(query, (seconds_of(now),))
        return None if due is None else datetime.fromtimestamp(due, UTC)

    def forget(self, ended_before: datetime, limit: int = _AT_ONCE) -> list[Job]:
        """Drop jobs that ended before a time, the oldest first, at most `limit` at once.

        Their ids and keys stay known, so that the same request is not run again, and so do the
        outputs that they made.

        Returns:
            Those dropped.
        """
        query = "SELECT body, report FROM jobs WHERE ended < ? ORDER BY ended, seq LIMIT ?"
        with self._database.write() as connection:
            rows = connection.execute(query, (seconds_of(ended_before), limit)).fetchall()
            jobs = [job_of_row(*row) for row in rows]
            for job in jobs:
                forget(connection, job)
        return jobs

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


def _afresh(job: Job) -> dict[str, object]:
    """Say what a job begins anew with when the user has it tried again."""
    confined = job.confined and job.confined.model_copy(update={"accepted": None})
    return {"attempts": 0, "error": None, "report": None, "confined": confined}


def _meaning_of(state: State) -> dict[str, object]:
    """Say what a change to a state means for the other fields."""
    now = datetime.now(UTC)
    common: dict[str, object] = {"not_before": None, "waits_for": None}
    if state == "queued":
        return common | {"started": None, "ended": None, "progress": JobProgress()}
    if state == "running":
        return common | {"started": now, "ended": None}
    return common | {"ended": now} | ({"error": None} if state == "done" else {})
