"""Claims on a share that several daemons see."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from upframe.daemon.watch import records
from upframe.daemon.watch.records import Locks
from upframe.daemon.watch.scan import LOCKS_FOLDER
from upframe.io.root import Root


def test_the_first_has_it_and_the_second_is_told_who(tmp_path: Path) -> None:
    sink = tmp_path / "sub/film.mkv"
    assert Locks(Root(tmp_path), "one").take(sink, "job-1") is None
    holder = Locks(Root(tmp_path), "two").take(sink, "job-2")
    assert holder is not None
    assert f"process {os.getpid()}" in holder
    assert "delete" in holder


def test_only_one_of_many_gets_it(tmp_path: Path) -> None:
    barrier, taken = threading.Barrier(8), list[str]()

    def take(name: str) -> None:
        barrier.wait()
        if Locks(Root(tmp_path), name).take(tmp_path / "film.mkv", "job") is None:
            taken.append(name)

    threads = [threading.Thread(target=take, args=(f"daemon {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_is_known_by_its_place_in_the_share(tmp_path: Path) -> None:
    """Daemons may have it mounted at different places."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.symlink_to(here)
    assert Locks(Root(here), "one").take(here / "film.mkv", "job") is None
    assert Locks(Root(there), "two").take(there / "film.mkv", "job") is not None


def test_ours_may_be_taken_again(tmp_path: Path) -> None:
    """After a crash between the claim and the job."""
    locks = Locks(Root(tmp_path), "one")
    assert locks.take(tmp_path / "film.mkv", "job-1") is None
    assert locks.take(tmp_path / "film.mkv", "job-2") is None


def test_given_back_it_leaves_nothing_behind(tmp_path: Path) -> None:
    locks = Locks(Root(tmp_path), "one")
    locks.take(tmp_path / "film.mkv", "job-1")
    locks.take(tmp_path / "other.mkv", "job-2")
    locks.release(tmp_path / "film.mkv", "job-1")
    assert (tmp_path / LOCKS_FOLDER).is_dir()
    locks.release(tmp_path / "other.mkv", "job-2")
    assert list(tmp_path.iterdir()) == []
    assert Locks(Root(tmp_path), "two").take(tmp_path / "film.mkv", "job") is None


def test_a_job_gives_back_its_own_only(tmp_path: Path) -> None:
    sink = tmp_path / "film.mkv"
    locks, other = Locks(Root(tmp_path), "one"), Locks(Root(tmp_path), "two")
    locks.take(sink, "job-1")
    locks.take(sink, "job-2")
    locks.release(sink, "job-1")
    other.release(sink, "job-2")
    assert other.take(sink, "job-3") is not None


def test_clears_ours_of_jobs_that_are_over_and_no_others(tmp_path: Path) -> None:
    locks, other = Locks(Root(tmp_path), "one"), Locks(Root(tmp_path), "two")
    locks.take(tmp_path / "over.mkv", "over")
    locks.take(tmp_path / "queued.mkv", "queued")
    other.take(tmp_path / "theirs.mkv", "over")
    locks.clear(lambda job: job == "queued")
    assert other.take(tmp_path / "over.mkv", "job") is None
    assert other.take(tmp_path / "queued.mkv", "job") is not None
    assert locks.take(tmp_path / "theirs.mkv", "job") is not None


def test_beats_for_ours(tmp_path: Path) -> None:
    Locks(Root(tmp_path), "one").take(tmp_path / "film.mkv", "job")
    Locks(Root(tmp_path), "two").take(tmp_path / "theirs.mkv", "job")
    for lock in (tmp_path / LOCKS_FOLDER).iterdir():
        os.utime(lock, (0, 0))
    Locks(Root(tmp_path), "one").beat()
    times = sorted(lock.stat().st_mtime for lock in (tmp_path / LOCKS_FOLDER).iterdir())
    assert times[0] == 0
    assert times[1] > 1e9


def test_a_fifo_in_the_place_of_a_lock_holds_nobody_up(tmp_path: Path) -> None:
    lock = tmp_path / "film.lock"
    os.mkfifo(lock)
    claim = records.LockClaim.model_construct(sink="film.mkv")
    with pytest.raises(OSError, match="No such device"):
        records._write(lock, claim, os.O_TRUNC)
