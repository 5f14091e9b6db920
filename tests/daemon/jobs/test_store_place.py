"""The store's file is deleted, replaced, spoilt or locked while it is open: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
from starlette.requests import Request
from support.jobs.queues import a_job, a_work, opened, with_queue
from support.media.small_files import small_files

from upframe.daemon.errors import StoreBroken
from upframe.daemon.jobs import database
from upframe.daemon.jobs.database import Database
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import STORE_NAME, JobStore
from upframe.daemon.service.http import status_routes
from upframe.daemon.service.status import LoopLag, Metrics, Status


def ids_in(path: Path) -> set[str]:
    with JobStore(path, read_only=True) as store:
        return {job.id for job in store.jobs()}


def delete(path: Path, *endings: str) -> None:
    for ending in endings:
        Path(f"{path}{ending}").unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / STORE_NAME


@pytest.mark.parametrize(
    "endings", [("", "-wal", "-shm"), ("",), ("-wal",), ("-shm", "-wal"), ("", "-wal")]
)
def test_what_is_deleted_is_written_anew_with_all_that_it_held(
    endings: tuple[str, ...], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path.parent) as store:
        store.add(a_job("before"))
        store.journal("topic", b"payload", b"{}")
        delete(path, *endings)
        assert store.add(a_job("after"))[1]
        assert ids_in(path) == {"before", "after"}
        delete(path, *endings)
        store.change("after", "running")
    with opened(path.parent) as store:
        assert {job.id: job.state for job in store.jobs()} == {
            "before": "queued",
            "after": "running",
        }
        assert [message.payload for message in store.journaled()] == [b"payload"]
        store.prove()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in path.parent.iterdir()} == {STORE_NAME}
    assert "was deleted" in caplog.text


def test_a_file_of_somebody_else_is_not_touched_and_nothing_is_taken(path: Path) -> None:
    with opened(path.parent) as store:
        store.add(a_job("before"))
        other = path.with_name("backup")
        with JobStore(other) as backup:
            backup.add(a_job("theirs"))
        content = other.read_bytes()
        other.replace(path)
        for _ in range(2):
            with pytest.raises(StoreBroken, match=r"is another file than was opened: start the"):
                store.add(a_job("after"))
        with pytest.raises(StoreBroken, match="another file"):
            store.prove()
        assert path.read_bytes() == content
        assert {job.id for job in store.jobs()} == {"before"}


def test_without_its_folder_nothing_is_taken_until_it_is_there_again(path: Path) -> None:
    folder = path.parent / "state"
    folder.mkdir()
    with opened(folder) as store:
        store.add(a_job("before"))
        shutil.rmtree(folder)
        for _ in range(2):
            with pytest.raises(StoreBroken, match="No such file or directory"):
                store.add(a_job("lost"))
        folder.mkdir()
        store.add(a_job("after"))
        assert ids_in(folder / STORE_NAME) == {"before", "after"}


def test_what_is_deleted_in_the_middle_of_a_write_is_not_said_to_be_stored(path: Path) -> None:
    with closing(Database(path)) as store:
        with pytest.raises(StoreBroken, match="was taken away"), store.write():
            path.unlink()
        with store.write():
            pass
    assert path.exists()


def test_a_store_that_was_open_to_others_is_closed_to_them(path: Path) -> None:
    with opened(path.parent) as store:
        store.add(a_job("before"))
    path.chmod(0o644)
    with opened(path.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


# What keeps the store from being written, as `/readyz` tells it.


@contextmanager
def deleted_with_its_folder(path: Path) -> Generator[None]:
    shutil.rmtree(path.parent)
    yield


@contextmanager
def replaced(path: Path) -> Generator[None]:
    other = path.with_name("other")
    other.write_bytes(b"")
    other.replace(path)
    yield


@contextmanager
def corrupted(path: Path) -> Generator[None]:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    yield


@contextmanager
def cut_off(path: Path) -> Generator[None]:
    os.truncate(path, 0)
    yield


@contextmanager
def locked(path: Path) -> Generator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(path: Path) -> Generator[None]:
    with small_files(Path(f"{path}-wal").stat().st_size):
        yield


def filled(folder: Path) -> Path:
    """A store with some pages in its file and none in its log."""
    with opened(folder) as store:
        for index in range(50):
            store.add(a_job(f"job{index}", source=f"/in/{'x' * 2000}.mp4"))
    return folder / STORE_NAME


async def readiness(status: Status) -> tuple[HTTPStatus, str]:
    (route,) = (each for each in status_routes(status) if each.path == "/readyz")  # type: ignore[attr-defined]
    answer = await route.endpoint(Request({"type": "http"}))  # type: ignore[attr-defined]
    return HTTPStatus(answer.status_code), answer.body.decode()


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (deleted_with_its_folder, "No such file or directory"),
        (replaced, "is another file than was opened"),
        (corrupted, "malformed|is damaged"),
        (cut_off, "malformed|its schema is 0"),
        (locked, "database is locked"),
        (full, "disk is full|disk I/O error"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_it_is_not_ready_while_the_store_cannot_be_written(
    spoilt: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.2)
    folder = tmp_path / "state"
    folder.mkdir()
    path = filled(folder)

    async def use(queue: JobQueue) -> None:
        status = Status(queue, Metrics(), LoopLag())
        status.phase = "ready"
        assert await readiness(status) == (HTTPStatus.OK, "ready\n")
        later = Status(queue, Metrics(), LoopLag())
        later.phase = "ready"
        with spoilt(path):  # type: ignore[operator]
            code, text = await readiness(later)
            assert code == HTTPStatus.SERVICE_UNAVAILABLE
            assert str(path) in text
            assert any(part in text for part in reason.split("|")), text

    with_queue(folder, use)


class Counting(JobStore):
    num_proofs = 0
    seconds = 0.0

    def prove(self) -> None:
        self.num_proofs += 1
        time.sleep(self.seconds)
        super().prove()


def test_probes_in_quick_succession_cost_one_write(path: Path) -> None:
    async def use(store: Counting) -> None:
        queue = JobQueue(store)
        status = Status(queue, Metrics(), LoopLag())
        assert await readiness(status) == (HTTPStatus.SERVICE_UNAVAILABLE, "starting\n")
        assert store.num_proofs == 0
        status.phase = "ready"
        for _ in range(20):
            assert await readiness(status) == (HTTPStatus.OK, "ready\n")
        assert store.num_proofs == 1
        await queue.close()

    with Counting(path) as store:
        asyncio.run(use(store))


def test_a_store_that_does_not_answer_keeps_no_probe_waiting(path: Path) -> None:
    async def use(store: Counting) -> None:
        queue = JobQueue(store)
        status = Status(queue, Metrics(), LoopLag())
        status.phase = "ready"
        began = time.monotonic()
        code, text = await readiness(status)
        assert 1.5 < time.monotonic() - began < 4.5
        assert (code, text) == (HTTPStatus.SERVICE_UNAVAILABLE, f"{path}: no answer within 2 s\n")
        await queue.close()
        assert await readiness(status) == (HTTPStatus.OK, "ready\n")
        assert store.num_proofs == 1

    with Counting(path) as store:
        store.seconds = 5.0
        asyncio.run(use(store))


def test_a_submission_that_could_not_be_stored_is_refused(path: Path) -> None:
    async def use(queue: JobQueue) -> None:
        queue.store.add(a_job("before"))
        with replaced(path), pytest.raises(StoreBroken, match="another file"):
            await queue.submit(a_job("after", source=a_work().source))

    with_queue(path.parent, use)
