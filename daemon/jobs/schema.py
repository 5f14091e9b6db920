"""The tables of the store, as the steps that lead to them: one script for each version.

A step is never edited once it was released: who has the older tables needs it as it was. Times
are seconds since 1970 (UTC); the whole of a job is JSON in `body`, and the columns beside it are
only what is searched by.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..errors import StoreBroken

APPLICATION_ID = 0x75706672
""""upfr" in the header of the file: tells our store from any other SQLite file."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE jobs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            key TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL,
            state TEXT NOT NULL
                CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
            priority INTEGER NOT NULL,
            created REAL NOT NULL,
            due REAL NOT NULL,
            ended REAL,
            sink TEXT NOT NULL,
            body TEXT NOT NULL,
            report TEXT
        )
        """,
        "CREATE INDEX jobs_in_order ON jobs (state, priority DESC, created, seq)",
        "CREATE INDEX jobs_by_due ON jobs (due) WHERE state = 'queued'",
        "CREATE INDEX jobs_by_end ON jobs (ended, seq) WHERE ended IS NOT NULL",
        "CREATE INDEX jobs_by_sink ON jobs (sink)",
        """
        CREATE TABLE forgotten (
            id TEXT PRIMARY KEY,
            key TEXT NOT NULL UNIQUE,
            digest TEXT NOT NULL,
            state TEXT NOT NULL,
            ended REAL NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE outputs (
            path TEXT PRIMARY KEY,
            job TEXT NOT NULL,
            made REAL NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    (
        """
        CREATE TABLE messages (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            topic TEXT NOT NULL,
            payload BLOB NOT NULL,
            properties BLOB NOT NULL,
            received REAL NOT NULL
        )
        """,
        """
        CREATE TABLE verdicts (
            key TEXT PRIMARY KEY,
            verdict TEXT NOT NULL,
            since REAL NOT NULL
        ) WITHOUT ROWID
        """,
    ),
)

VERSION = len(MIGRATIONS)
"""What this program writes and reads."""


def version_of(connection: sqlite3.Connection) -> int:
    """Tell the version of an open store; 0 for an empty file.

    Raises:
        StoreBroken: if it is a database of something else, or of a newer upframe.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    if owner != APPLICATION_ID and (tables or version or owner):
        raise StoreBroken("is a database, but not one of upframe's")
    if version > VERSION:
        raise StoreBroken(
            f"was written by a newer upframe: its schema is {version}, this one knows {VERSION}"
        )
    return int(version)


def migrate(
    connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS
) -> None:
    """Bring a store to the newest version, step by step; a step is done wholly or not at all.

    Raises:
        StoreBroken: as :func:`version_of` does.
    """
    while (version := version_of(connection)) < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
