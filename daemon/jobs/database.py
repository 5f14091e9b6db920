"""The SQLite file below the store: two connections, their locks, its tables and their versions.

With write-ahead logging readers and the writer do not block each other, so a long list does not
delay a change of state. A transaction that was committed with `durable` has reached the disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ..errors import StoreBroken

log = logging.getLogger("upframe.store")

_BUSY_SECONDS = 10.0
_OWNER_ONLY = 0o600  # sources may be URLs that carry passwords
_ERRORS_OF_THE_FILE = (sqlite3.DatabaseError, sqlite3.OperationalError, sqlite3.InternalError)
_SYNCHRONOUS = {True: "FULL", False: "NORMAL"}

Row = tuple[Any, ...]


class Database:
    """An open store file, usable from any thread; its arguments are those of `JobStore`.

    Raises:
        StoreBroken: if it cannot be opened, is damaged, or not ours.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._durable: bool | None = None
        self._closed = False
        self._writer: sqlite3.Connection | None = None
        with self._explained():
            if not read_only:
                self._writer = self._open_writer()
            self._reader = self._open_reader()
        self._identity = self._found()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._write_lock, self._read_lock:
            self._closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one query on what is committed.

        Raises:
            StoreBroken: if the file fails.
        """
        with self._read_lock, self._explained():
            return self._reader.execute(query, parameters).fetchall()

    @contextmanager
    def write(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """Open a transaction: committed at the end of the block, rolled back on any exception.

        If `durable` it waits for the disk, so that even a power cut cannot undo it. Otherwise a
        power cut may undo the last few; the death of the process undoes nothing either way.

        Raises:
            StoreBroken: if the file fails, the disk is full, or the file was opened read-only.
        """
        if self._writer is None:
            raise StoreBroken(f"{self.path}: opened for reading only")
        with self._write_lock, self._explained():
            writer = self._with_a_name(self._writer)
            if durable != self._durable:
                writer.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durable]}")
                self._durable = durable
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield writer
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:  # some failures have ended it already
                    writer.execute("ROLLBACK")
                raise
            if self._found() != self._identity:
                raise StoreBroken("was taken away while it was written: try again")

    def prove(self) -> None:
        """Write without a change, down to the disk, and check the whole file.

        Raises:
            StoreBroken: as :meth:`write` does, and if the file is damaged.
        """
        with self.write() as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        with self._explained(), closing(self._open_reader()) as fresh:  # it has no cache yet
            _check(fresh)

    def _found(self) -> list[tuple[int, int] | None]:
        """Return the identities of the files that have the names of the database and its log."""
        return [_identity_of(f"{self.path}{ending}") for ending in ("", "-wal")]

    def _with_a_name(self, writer: sqlite3.Connection) -> sqlite3.Connection:
        """Return a writer of a file that has its name: what was deleted is written again."""
        found = self._found()
        if found == self._identity:
            return writer
        if found[0] not in (None, self._identity[0]):
            raise StoreBroken("is another file than was opened: start the daemon again to use it")
        log.error("%s or its log was deleted: what they hold is written again", self.path)
        saved = self.path.with_name(f".{self.path.name}.saved")
        saved.unlink(missing_ok=True)
        saved.touch(_OWNER_ONLY)
        writer.execute("VACUUM INTO ?", (str(saved),))
        with self._read_lock:
            self._closed, self._durable = True, None  # unless all of the rest succeeds
            self._reader.close()
            writer.close()
            for rest in ("-wal", "-shm"):  # of the old file; they would corrupt the new one
                Path(f"{self.path}{rest}").unlink(missing_ok=True)
            if found[0] is None:
                os.link(saved, self.path)  # fails if a file has that name by now
                saved.unlink()
            else:
                saved.replace(self.path)
            self._writer, self._reader = self._open_writer(), self._open_reader()
            self._identity, self._closed = self._found(), False
        return self._writer

    def _open_writer(self) -> sqlite3.Connection:
        try:
            file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _OWNER_ONLY)
            if os.fstat(file).st_mode & 0o077:
                os.fchmod(file, _OWNER_ONLY)
            os.close(file)
        except OSError as error:
            raise StoreBroken(f"cannot be opened: {error.strerror}") from error
        with self._connected("rw") as connection:
            version_of(connection)  # before the first write: it may not be ours
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreBroken("lies on a file system without write-ahead logging")
            _check(connection)
            migrate(connection)
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise StoreBroken("there is no such file")
        with self._connected("ro") as connection:
            version = version_of(connection)
            if version < VERSION:
                raise StoreBroken(
                    f"is of an older upframe: its schema is {version}, wanted {VERSION}; "
                    "the daemon brings it up to date when it starts"
                )
        return connection

    @contextmanager
    def _connected(self, mode: str) -> Generator[sqlite3.Connection]:
        """Open a connection, and close it again if the block fails."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,  # transactions are explicit
            check_same_thread=False,  # the locks make it safe
        )
        try:
            yield connection
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Raise errors of the file as `StoreBroken` with its path; other errors are bugs."""
        try:
            if self._closed:
                raise StoreBroken("is closed")
            yield
        except StoreBroken as error:
            if str(error).startswith(str(self.path)):
                raise
            raise StoreBroken(f"{self.path}: {error}") from error
        except OSError as error:
            raise StoreBroken(f"{self.path}: {error.strerror or error}") from error
        except sqlite3.DatabaseError as error:
            if type(error) not in _ERRORS_OF_THE_FILE:
                raise
            raise StoreBroken(f"{self.path}: {error}") from error


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreBroken(f"is damaged: {verdict}")


# The tables, as the steps that make them: one script for each version. A released step is never
# edited, since older stores still need it. Times are seconds since 1970 (UTC); a job is JSON in
# `body`, and its other columns are for searching only.

APPLICATION_ID = 0x75706672
""""upfr" in the header of the file distinguishes our store from other SQLite files."""

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
"""The version that this program reads and writes."""


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of an open store; 0 for an empty file.

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
    """Bring a store to the newest version; each step is one transaction.

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
