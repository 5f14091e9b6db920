"""What the store remembers beside jobs: files that we made, verdicts on files, unread messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .database import Database
from .rows import plain_path


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

    def sinks_done(self) -> list[str]:
        """List every output ever made, also of jobs that are forgotten."""
        return [path for (path,) in self._database.read("SELECT path FROM outputs ORDER BY path")]

    def remember_outputs(self, job_id: str, paths: Iterable[str]) -> None:
        """Note files that a job made beside its sink, such as the stills of a sequence."""
        now = time.time()
        rows = [(plain_path(path), job_id, now) for path in paths]
        with self._database.write() as connection:
            connection.executemany("INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)", rows)

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
