from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.jobs.queues import FAILURE, NOON, a_job, opened, put

from upframe.daemon.errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from upframe.daemon.jobs.model import State
from upframe.daemon.jobs.store import STATES, STORE_NAME, JobStore


def test_a_retry_has_all_its_attempts_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film")
        store.claim(datetime.now(UTC))
        store.change("film", "failed", error=FAILURE)
        job = store.retry("film")
        assert (job.state, job.attempts, job.error, job.ended) == ("queued", 0, None, None)
        assert store.claim(datetime.now(UTC)) is not None


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_only_what_failed_or_was_cancelled_is_tried_again(state: State, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", state)
        with pytest.raises(IllegalChange, match=f"is {state}"):
            store.retry("film")


def test_all_failed_are_tried_again_in_portions(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for number in range(5):
            put(store, f"bad{number}", "failed", error=FAILURE)
        put(store, "good", "done")
        now = datetime.now(UTC)
        portions = [len(store.retry_failed(now, limit=2)) for _ in range(4)]
        assert portions == [2, 2, 1, 0]
        assert store.counts() == dict.fromkeys(STATES, 0) | {"queued": 5, "done": 1}


def test_what_fails_anew_is_not_tried_again_in_the_same_breath(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        before = datetime.now(UTC)
        put(store, "bad", "failed", error=FAILURE)
        assert store.retry_failed(before) == []


def test_lists_running_then_queued_then_ended(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "done1", "done", ended=NOON)
        put(store, "queued1")
        put(store, "failed2", "failed", ended=NOON + timedelta(hours=1))
        put(store, "running1", "running")
        everything = ["running1", "queued1", "failed2", "done1"]
        assert [job.id for job in store.jobs()] == everything
        for limit in range(5):
            assert [job.id for job in store.jobs(limit=limit)] == everything[:limit]
        assert [job.id for job in store.jobs(("done", "queued"))] == ["queued1", "done1"]
        assert [job.id for job in store.jobs(("done", "failed"), 1)] == ["failed2"]
        assert store.jobs(()) == []
        assert [json for json in store.bodies(("running",)) if '"id":"running1"' in json]


def test_what_is_forgotten_is_not_run_again(tmp_path: Path) -> None:
    key = "watch:/in/old.mp4:1"
    with opened(tmp_path) as store:
        store.add(a_job("old", key=key))
        store.change("old", "running")
        store.change("old", "done", ended=NOON)
        put(store, "new", "done")
        put(store, "waiting")
        assert [job.id for job in store.forget(NOON + timedelta(days=1))] == ["old"]
        assert [job.id for job in store.jobs()] == ["waiting", "new"]
    with opened(tmp_path) as store:
        job, new = store.add(a_job("old", key=key))
        assert (job.state, job.ended, new) == ("done", NOON, False)
        job, new = store.add(a_job("other-id", key=key))
        assert (job.id, job.state, new) == ("old", "done", False)
        with pytest.raises(Conflict):
            store.add(a_job("old", overwrite=True))
        with pytest.raises(UnknownJob, match="job old ended as done on 2026-06-01, and its record"):
            store.get("old")
        assert store.counts()["queued"] == 1


def test_forgets_the_oldest_first_and_no_more_than_asked(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for number in range(5):
            put(store, f"j{number}", "failed", ended=NOON + timedelta(hours=5 - number))
        later = NOON + timedelta(days=1)
        assert [job.id for job in store.forget(later, limit=2)] == ["j4", "j3"]
        assert len(store.forget(later)) == 3
        assert store.forget(later) == []


def test_a_read_only_view_sees_changes_and_makes_none(tmp_path: Path) -> None:
    with opened(tmp_path) as store, JobStore(tmp_path / STORE_NAME, read_only=True) as view:
        put(store, "film", "running")
        assert view.get("film").state == "running"
        with pytest.raises(StoreBroken, match="opened for reading only"):
            view.change("film", "done")


def test_a_record_that_no_job_can_be_made_of_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film")
    with sqlite3.connect(tmp_path / STORE_NAME) as connection:
        connection.execute("""UPDATE jobs SET body = '{"id": "film", "source": 5}'""")
    connection.close()
    wanted = r'the record of job "film" cannot be read: .*source: Input should be a valid'
    with opened(tmp_path) as store, pytest.raises(StoreBroken, match=wanted):
        store.get("film")
