from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.jobs.queues import a_job, opened

from upframe.daemon.errors import StoreBroken
from upframe.daemon.jobs.database import (
    APPLICATION_ID,
    MIGRATIONS,
    VERSION,
    Database,
    migrate,
    version_of,
)
from upframe.daemon.jobs.store import STORE_NAME, JobStore, insert


def connect(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None))


def make_version_1(path: Path) -> None:
    """A store as the first version left it, with a job in it."""
    with connect(path) as connection:
        migrate(connection, MIGRATIONS[:1])
        insert(connection, a_job("old"))
        assert version_of(connection) == 1


def test_an_older_store_is_brought_up_to_date_with_all_that_is_in_it(tmp_path: Path) -> None:
    make_version_1(tmp_path / STORE_NAME)
    with opened(tmp_path) as store:
        assert store.get("old") == a_job("old")
        assert store.journal("topic", b"payload", b"") == 1
        store.set_verdict("key", "seen")
        assert not store.add(a_job("old"))[1]
    with connect(tmp_path / STORE_NAME) as connection:
        assert version_of(connection) == VERSION


def test_every_version_leads_to_the_same_tables(tmp_path: Path) -> None:
    schemas: set[str] = set()
    for start in range(VERSION + 1):
        with connect(tmp_path / f"{start}.sqlite") as connection:
            migrate(connection, MIGRATIONS[:start])
            migrate(connection)
            rows = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
            schemas.add(str(rows))
    assert len(schemas) == 1


def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    make_version_1(tmp_path / STORE_NAME)
    steps = (*MIGRATIONS[:1], ("CREATE TABLE half (a)", "CREATE TABLE oh no"))
    with connect(tmp_path / STORE_NAME) as connection:
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, steps)
        assert version_of(connection) == 1
        tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
        assert ("half",) not in tables
    with opened(tmp_path) as store:
        assert store.get("old").state == "queued"


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    with opened(tmp_path) as store:
        store.add(a_job())
    with connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 7}")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreBroken, match=rf"newer upframe: its schema is {VERSION + 7}, this"):
            JobStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    with connect(path) as connection:
        connection.execute("CREATE TABLE precious (a)")
    before = path.read_bytes()
    with pytest.raises(StoreBroken, match="not one of upframe's"):
        JobStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    path.write_bytes(b"holiday pictures" * 1000)
    with pytest.raises(StoreBroken, match=rf"{path}: file is not a database"):
        JobStore(path)
    assert path.read_bytes() == b"holiday pictures" * 1000


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STORE_NAME
    with opened(tmp_path) as store:
        for number in range(200):
            store.add(a_job(f"job{number}"))
    content = bytearray(path.read_bytes())
    content[8192:16384] = b"\xff" * 8192
    path.write_bytes(content)
    with pytest.raises(StoreBroken, match=rf"{path}: .*(damaged|malformed)"):
        JobStore(path)


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / STORE_NAME).touch()
    with opened(tmp_path) as store:
        assert store.jobs() == []
    with connect(tmp_path / STORE_NAME) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken, match="No such file or directory"):
        JobStore(tmp_path / "absent" / STORE_NAME)
    with pytest.raises(StoreBroken, match="there is no such file"):
        JobStore(tmp_path / STORE_NAME, read_only=True)


def test_a_view_of_an_older_store_waits_for_the_daemon(tmp_path: Path) -> None:
    make_version_1(tmp_path / STORE_NAME)
    with pytest.raises(StoreBroken, match=f"its schema is 1, wanted {VERSION}"):
        JobStore(tmp_path / STORE_NAME, read_only=True)


def test_nobody_else_may_read_the_store(tmp_path: Path) -> None:
    """Sources may be URLs with passwords in them."""
    with opened(tmp_path) as store:
        store.add(a_job())
        files = list(tmp_path.iterdir())
        assert len(files) == 3  # with the log and the shared memory of SQLite
        assert {file.stat().st_mode & 0o077 for file in files} == {0}


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_what_must_last_waits_for_the_disk(durable: bool, level: int, tmp_path: Path) -> None:
    database = Database(tmp_path / STORE_NAME)
    for _ in range(2):
        with database.write(durable=not durable):
            pass
        with database.write(durable=durable) as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
    assert database.read("PRAGMA journal_mode") == [("wal",)]
    database.close()


def test_an_exception_undoes_the_whole_transaction(tmp_path: Path) -> None:
    database = Database(tmp_path / STORE_NAME)
    with pytest.raises(KeyError), database.write() as connection:  # noqa: PT012
        connection.execute("INSERT INTO verdicts VALUES ('a', 'b', 0)")
        raise KeyError
    assert database.read("SELECT * FROM verdicts") == []
    with database.write() as connection:
        connection.execute("INSERT INTO verdicts VALUES ('a', 'b', 0)")
    assert len(database.read("SELECT * FROM verdicts")) == 1
    database.close()
