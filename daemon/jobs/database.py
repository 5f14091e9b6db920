"""The SQLite file below the store: two connections, their locks, and transactions that last.

Write-ahead logging keeps readers and the writer out of each other's way, so a long list does not
hold up a change of state. A transaction that was committed with `durable` has reached the disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import StoreBroken
from .schema import VERSION, migrate, version_of

_BUSY_SECONDS = 10.0
_OWNER_ONLY = 0o600  # sources may be URLs that carry passwords
_SYNCHRONOUS = {True: "FULL", False: "NORMAL"}

Row = tuple[Any, ...]


class Database:
    """An open store file, usable from any thread.

    Args:
        path: the file; made where it is not there, unless `read_only`.
        read_only: look at a store that another process may be writing.

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

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._write_lock, self._read_lock:
            self._closed = True
            self._reader.close()
            if self._writer is not None:
                self._writer.close()

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Run one query on what is committed by now.

        Raises:
            StoreBroken: if the file fails.
        """
        with self._read_lock, self._explained():
            self._refuse_if_closed()
            return self._reader.execute(query, parameters).fetchall()

    @contextmanager
    def write(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """Hold a transaction: committed at the end of the block, undone by any exception.

        Args:
            durable: wait for the disk, so that even a power cut cannot undo it. Without, a power
                cut may undo the last few; the death of the process undoes nothing either way.

        Raises:
            StoreBroken: if the file fails, is full, or this is a read-only view of it.
        """
        if self._writer is None:
            raise StoreBroken(f"{self.path}: opened for reading only")
        with self._write_lock, self._explained():
            self._refuse_if_closed()
            self._set_durable(self._writer, durable)
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # some failures have ended it already
                    self._writer.execute("ROLLBACK")
                raise

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreBroken("is closed")

    def _set_durable(self, writer: sqlite3.Connection, durable: bool) -> None:
        if durable != self._durable:
            writer.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durable]}")
            self._durable = durable

    def _open_writer(self) -> sqlite3.Connection:
        self._create()
        connection = self._connect("rw")
        try:
            version_of(connection)  # before anything is written into a file that is not ours
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreBroken("lies on a file system without write-ahead logging")
            _check(connection)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _OWNER_ONLY))
        except OSError as error:
            raise StoreBroken(f"cannot be opened: {error.strerror}") from error

    def _open_reader(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise StoreBroken("there is no such file")
        connection = self._connect("ro")
        try:
            version = version_of(connection)
        except BaseException:
            connection.close()
            raise
        if version < VERSION:
            connection.close()
            raise StoreBroken(
                f"is of an older upframe: its schema is {version}, wanted {VERSION}; "
                "the daemon brings it up to date when it starts"
            )
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,  # transactions are begun and ended by us
            check_same_thread=False,  # the locks see to it
        )

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Turn SQLite's errors into ours; wrong use of the module stays what it is, a bug."""
        try:
            yield
        except StoreBroken as error:
            if str(error).startswith(str(self.path)):
                raise
            raise StoreBroken(f"{self.path}: {error}") from error
        except (sqlite3.OperationalError, sqlite3.InternalError) as error:
            raise StoreBroken(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise StoreBroken(f"{self.path}: {error}") from error


def _check(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreBroken(f"is damaged: {verdict}")
