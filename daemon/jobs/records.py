"""Single steps on jobs inside a transaction that somebody else begins and ends."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from .errors import Conflict, UnknownJob
from .model import Job
from .rows import altered, job_of_row, plain_path, row_of, seconds_of


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
