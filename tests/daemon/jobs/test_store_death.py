"""The store when processes die, disks fill up, and everybody writes at once."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.jobs.queues import a_job, fill, opened

from upframe.daemon.errors import StoreBroken
from upframe.daemon.jobs.model import LEGAL_CHANGES
from upframe.daemon.jobs.store import STORE_NAME, JobStore

# Says each change on stdout only once it is committed, and makes another at once.
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from upframe.daemon.jobs.model import job_of
from upframe.daemon.specification import ConversionSpec
from upframe.daemon.jobs.store import JobStore

run = sys.argv[2]
store = JobStore(Path(sys.argv[1]))
print("open", flush=True)
filters = {"enable_upscaling": True}
work = ConversionSpec.model_validate({"source": "/in", "sink": "/out", "filters": filters})
for number in range(1_000_000):
    id = f"{run}-{number}"
    store.add(job_of(work, id=id, origin="cli"))
    print("added", id, flush=True)
    job = store.claim(datetime.now(UTC), limit_ids=[id])
    print("claimed", id, flush=True)
    store.journal("topic", id.encode(), b"")
    print("journaled", id, flush=True)
    store.change(id, "done", report={"text": "x" * 3000})
    print("done", id, flush=True)
"""
STATE_AFTER = {"added": "queued", "claimed": "running", "journaled": "running", "done": "done"}


def killed_while_writing(path: Path, run: str, num_changes: int) -> list[list[str]]:
    """Start a writer, kill -9 it after so many changes or more, and return those that it had said.

    It goes on while we read, so it may be killed at any moment of the next change.
    """
    command = [sys.executable, "-c", WRITER, str(path), run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        said = [writer.stdout.readline() for _ in range(num_changes)]
        writer.kill()
        said += writer.stdout.read().splitlines()
    assert writer.returncode == -signal.SIGKILL
    return [line.split() for line in said if len(line.split()) == 2]


def check_integrity(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_was_told_is_stored(
    tmp_path: Path,
) -> None:
    moments = random.Random(3)
    path = tmp_path / STORE_NAME
    for run in range(6):
        said = killed_while_writing(path, f"run{run}", moments.randint(1, 60))
        last = {name: word for word, name in said}
        check_integrity(path)
        with opened(tmp_path) as store:
            journaled = {message.payload.decode() for message in store.journaled()}
            for name, word in last.items():
                state, told = store.get(name).state, STATE_AFTER[word]
                # the change after the last one said may have been committed, but not a further one
                assert state == told or state in LEGAL_CHANGES[told], (name, word, state)
                assert name in journaled or word in ("added", "claimed")
            known = {job.id for job in store.jobs() if job.id.startswith(f"run{run}-")}
            assert known >= last.keys()
            assert len(known - last.keys()) <= 1
            assert all(job.report for job in store.jobs(("done",)))
    with opened(tmp_path) as store:
        assert store.counts()["done"] > 20  # it was in the middle of many changes


def test_a_full_disk_fails_the_change_and_spoils_nothing(tmp_path: Path) -> None:
    filler = """
import resource, sys
from pathlib import Path
from upframe.daemon.errors import StoreBroken
from upframe.daemon.jobs.store import JobStore

store = JobStore(Path(sys.argv[1]))
store.journal("first", b"", b"")
sys.dont_write_bytecode = True  # it might be cut off
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
written = 0
try:
    while True:
        store.journal("more", b"x" * 10_000, b"")
        written += 1
except StoreBroken as error:
    print(written, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.journal("last", b"", b"")
"""
    path = tmp_path / STORE_NAME
    command = [sys.executable, "-c", filler, str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written, error = out.split(maxsplit=1)
    assert int(written) > 5
    assert str(path) in error
    check_integrity(path)
    with opened(tmp_path) as store:
        topics = [message.topic for message in store.journaled()]
        assert topics == ["first", *["more"] * int(written), "last"]


def test_many_threads_claim_every_job_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:

        def claim_all(_: int) -> list[str]:
            claimed: list[str] = []
            while job := store.claim(datetime.now(UTC)):
                claimed.append(job.id)
            return claimed

        for number in range(200):
            store.add(a_job(f"job{number}"))
        with ThreadPoolExecutor(8) as pool:
            claims = [name for names in pool.map(claim_all, range(8)) for name in names]
        assert sorted(claims) == sorted(f"job{number}" for number in range(200))
        assert {job.attempts for job in store.jobs()} == {1}


def test_a_long_list_does_not_hold_up_a_change(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fill(store.path, (a_job(f"job{number}") for number in range(3000)))
        stop, listing = threading.Event(), [0]  # the number of the list that is being read

        def read() -> None:
            while not stop.is_set():
                listing[0] += 1
                store.jobs()

        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            lists: list[int] = []
            for number in range(100):
                store.journal("topic", str(number).encode(), b"")
                lists.append(listing[0])
            stop.set()
            reading.result()
        assert max(Counter(lists).values()) > 2  # changes that were made during one list


def test_a_view_reads_what_a_killed_writer_left(tmp_path: Path) -> None:
    """Its log lies beside the store, and nobody has worked it in yet."""
    path = tmp_path / STORE_NAME
    said = killed_while_writing(path, "run", 20)
    assert path.with_name(f"{STORE_NAME}-wal").stat().st_size > 0
    with JobStore(path, read_only=True) as view:
        ids = {job.id for job in view.jobs()}
    assert ids >= {name for _, name in said}
    assert len(ids) > 3


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        pass
    store.close()
    with pytest.raises(StoreBroken, match="is closed"):
        store.add(a_job())
    with pytest.raises(StoreBroken, match="is closed"):
        store.jobs()
