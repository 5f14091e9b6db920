"""The SQLite file below the store: two connections, their locks, and transactions that last.

Write-ahead logging keeps readers and the writer out of each other's way, so a long list does not
hold up a change of state. A transaction that was committed with `durable` has reached the disk.
"""

from __future__ import annotations

import json
import logging
import os
import os.path
import re
import sqlite3
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ...io.redaction import LOCATION_MAX_BYTES
from ..errors import StoreBroken
from ..specification import ConversionSpec
from .model import Job
from .schema import APPLICATION_ID, VERSION, migrate, version_of

log = logging.getLogger("upframe.store")

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
        self._identity = self._found()

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
            writer = self._hold_place(self._writer)
            self._set_durable(writer, durable)
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
        """Make a write that changes nothing, down to the disk, and look through the whole file.

        Raises:
            StoreBroken: as :meth:`write` does, and if the file is damaged.
        """
        with self.write() as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        with self._explained(), closing(self._open_reader()) as fresh:  # it has no cache yet
            _check(fresh)

    def _found(self) -> list[tuple[int, int] | None]:
        """Tell which files the names of the database and of its log lead to just now."""
        return [_identity_of(f"{self.path}{ending}") for ending in ("", "-wal")]

    def _hold_place(self, writer: sqlite3.Connection) -> sqlite3.Connection:
        """Write to no file that nobody will find again: what was deleted is written anew."""
        found = self._found()
        if found == self._identity:
            return writer
        if found[0] not in (None, self._identity[0]):
            raise StoreBroken("is another file than was opened: start the daemon again to use it")
        log.error("%s was deleted, or its log: what they hold is written again", self.path)
        saved = self.path.with_name(f".{self.path.name}.saved")
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(saved, flags, _OWNER_ONLY))
        writer.execute("VACUUM INTO ?", (str(saved),))
        with self._read_lock:
            self._closed, self._durable = True, None  # unless all of the rest goes well
            self._reader.close()
            writer.close()
            for rest in ("-wal", "-shm"):  # of the old file; with the new one they spoil it
                Path(f"{self.path}{rest}").unlink(missing_ok=True)
            if found[0] is None:
                os.link(saved, self.path)  # never over a file that has come meanwhile
                saved.unlink()
            else:
                saved.replace(self.path)
            self._writer, self._reader = self._open_writer(), self._open_reader()
            self._identity, self._closed = self._found(), False
        return self._writer

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
            file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _OWNER_ONLY)
            if os.fstat(file).st_mode & 0o077:
                os.fchmod(file, _OWNER_ONLY)
            os.close(file)
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
        except OSError as error:
            raise StoreBroken(f"{self.path}: {error.strerror or error}") from error


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


# A job as a row of the store, and back.

_OUT_OF_BOUNDS = ("value_error", "string_pattern_mismatch", "less_than", "less_than_equal")
_MOST_CHARACTERS = LOCATION_MAX_BYTES // 4

ALTERABLE = frozenset(
    {
        "attempts",
        "confined",
        "ended",
        "error",
        "not_before",
        "priority",
        "progress",
        "report",
        "started",
        "waits_for",
    }
)
"""What may be written into a job after it was added, beside its state."""


def altered(job: Job, **fields: object) -> Job:
    """Copy a job with other values in some fields, checked as new ones are.

    Raises:
        ValidationError: if a value is none that the field can have.
    """
    given: dict[str, Any] = {name: getattr(job, name) for name in Job.model_fields}
    return Job.model_validate(given | fields)


def row_of(job: Job) -> dict[str, object]:
    """Write a job as the columns of its row, all but `seq`."""
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
        StoreBroken: if no job can be made of them.
    """
    whole = body if report is None else f'{body[:-1]},"report":{report}}}'
    try:
        return Job.model_validate_json(whole)
    except ValidationError as error:
        if (job := _mended(whole, error)) is not None:
            return job
        # without the values: one may be a URL with a password
        faults = error.errors(include_url=False, include_input=False)
        text = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise StoreBroken(f"the record of {_name_in(body)} cannot be read: {text}") from None


def _mended(whole: str, error: ValidationError) -> Job | None:
    """Read work of a former version, which took values that are out of bounds by now."""
    fields: dict[str, Any] = json.loads(whole) if whole[:1] == "{" else {}
    try:
        for fault in error.errors(include_url=False, include_input=False):
            place, *below = (str(level) for level in fault["loc"])
            if place not in ConversionSpec.model_fields or fault["type"] not in _OUT_OF_BOUNDS:
                return None
            if place in ("source", "sink"):
                fields[place] = fields[place][:_MOST_CHARACTERS]  # no such file: it fails so
            else:
                del (fields[place] if below else fields)[(below or [place])[-1]]
        return Job.model_validate_json(json.dumps(fields))
    except (ValueError, LookupError, TypeError):
        return None


def _name_in(body: str) -> str:
    named = re.search(r'"id":\s*("[^"]*")', body)
    return f"job {named[1]}" if named else "a job"


def plain_path(path: str) -> str:
    """Spell a path the one way by which it is looked up; URLs stay as they are."""
    return path if "://" in path else os.path.normpath(path)


def seconds_of(moment: datetime) -> float:
    """Tell a time as the columns have it."""
    return moment.timestamp()


# What the store remembers beside jobs: files that we made, verdicts on files, unread messages.


class JournaledMessage(NamedTuple):
    """A message that was taken from the broker and not dealt with yet."""

    number: int
    topic: str
    payload: bytes
    properties: bytes
    received: float
    """Seconds since 1970."""


class Memory:
    """The small tables of the store. Every method blocks, and is safe in any thread.

    Raises:
        StoreBroken: from any method, if the file fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_known_sink(self, path: str) -> bool:
        """Tell whether a file is our work: made once, or being made by a job that is not ended."""
        plain = plain_path(path)
        query = """
            SELECT 1 FROM outputs WHERE path = ?
            UNION ALL SELECT 1 FROM jobs WHERE sink = ? AND state IN ('queued', 'running')
            LIMIT 1
        """
        return bool(self._database.read(query, (plain, plain)))

    def journal(self, topic: str, payload: bytes, properties: bytes) -> int:
        """Keep a message until it is dealt with; on the disk when this returns.

        Returns:
            Its number, by which :meth:`unjournal` drops it.
        """
        with self._database.write() as connection:
            cursor = connection.execute(
                "INSERT INTO messages (topic, payload, properties, received) VALUES (?, ?, ?, ?)",
                (topic, payload, properties, time.time()),
            )
            return int(cursor.lastrowid or 0)

    def journaled(self) -> list[JournaledMessage]:
        """List the messages not dealt with yet, the oldest first."""
        query = "SELECT number, topic, payload, properties, received FROM messages ORDER BY number"
        return [JournaledMessage(*row) for row in self._database.read(query)]

    def unjournal(self, number: int) -> None:
        """Drop a message that was dealt with. A power cut may bring it back: ids make that safe."""
        with self._database.write(durable=False) as connection:
            connection.execute("DELETE FROM messages WHERE number = ?", (number,))

    def seen_verdict(self, key: str) -> str | None:
        """Tell what was decided about a version of a file; None: nothing yet."""
        rows = self._database.read("SELECT verdict FROM verdicts WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def set_verdict(self, key: str, verdict: str) -> None:
        """Remember what was decided about a version of a file."""
        self.set_verdicts({key: verdict})

    def set_verdicts(self, verdicts: Mapping[str, str]) -> None:
        """Remember several verdicts at once: one transaction, however many."""
        now = time.time()
        rows = [(key, verdict, now) for key, verdict in verdicts.items()]
        with self._database.write(durable=False) as connection:
            connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", rows)

    def drop_verdict(self, key: str) -> None:
        """Forget a verdict, so that the file is looked at again."""
        with self._database.write(durable=False) as connection:
            connection.execute("DELETE FROM verdicts WHERE key = ?", (key,))
