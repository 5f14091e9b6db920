from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.jobs.queues import FAILURE, NOON, a_job, opened, put

from upframe.daemon.errors import Conflict, IllegalChange, StoreBroken, UnknownJob
from upframe.daemon.jobs.model import LEGAL_CHANGES, JobProgress, State
from upframe.daemon.jobs.store import STATES, STORE_NAME


def test_keeps_a_job_as_it_was_given(tmp_path: Path) -> None:
    job = a_job(encoder={"crf": 20.5, "options": {"x": "ä'\"\n"}}, framerate="24000/1001")
    with opened(tmp_path) as store:
        assert store.add(job) == (job, True)
        assert store.get("film") == job
    with opened(tmp_path) as store:
        assert store.get("film") == job


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("place", "value", "left"),
    [
        ("source", "/" + "x" * 60_000, "/" + "x" * 1023),
        ("sink", "http://" + "\u00e4" * 5000, "http://" + "\u00e4" * 1017),
        ("framerate", "0" * 20 + "25", None),
        ("framerate", "9" * 5000, None),
        ("encoder.crf", 5000, None),
        ("encoder.crf", 99, None),
        ("encoder.preset", "warp", None),
        ("encoder.codec", "h265", None),
        ("filters.upscaling_tile", 1 << 40, 0),
    ],
)
def test_what_a_former_version_took_can_be_read(
    tmp_path: Path, place: str, value: object, left: object, state: State
) -> None:
    with opened(tmp_path) as store:
        put(store, "a", state)
        put(store, "b")
    with sqlite3.connect(tmp_path / STORE_NAME) as raw:
        raw.execute(
            f"UPDATE jobs SET body = json_set(body, '$.{place}', ?) WHERE id = 'a'", [value]
        )
    raw.close()
    with opened(tmp_path) as store:
        job: object = store.get("a")
        assert {job.id for job in store.jobs()} == {"a", "b"}
        assert store.get("a").state == state
        for name in place.split("."):
            job = getattr(job, name)
        assert job == left


@pytest.mark.parametrize("place", ["state", "id", "unknown", "filters.unknown", "origin"])
def test_what_no_version_took_cannot_be_read(tmp_path: Path, place: str) -> None:
    with opened(tmp_path) as store:
        put(store, "a")
    with sqlite3.connect(tmp_path / STORE_NAME) as raw:
        raw.execute(f"UPDATE jobs SET body = json_set(body, '$.{place}', ' ')")
    raw.close()
    with opened(tmp_path) as store, pytest.raises(StoreBroken, match="cannot be read"):
        store.jobs()


def test_the_same_id_and_work_is_one_job(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", "running")
        again, new = store.add(a_job("film", minute=5, priority=7))
        assert not new
        assert (again.state, again.priority) == ("running", 0)
        assert store.counts()["running"] == 1


def test_the_same_id_with_other_work_is_a_conflict(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(a_job("film"))
        with pytest.raises(Conflict, match="'film' belongs to other work"):
            store.add(a_job("film", overwrite=True))
        assert store.get("film") == a_job("film")


def test_the_same_key_is_one_job_whatever_its_id(tmp_path: Path) -> None:
    first = a_job("first", key="watch:/in/film.mp4:17", origin="watch")
    with opened(tmp_path) as store:
        store.add(first)
        assert store.add(a_job("second", key=first.idempotency_key)) == (first, False)
        assert store.find(first.idempotency_key) == first
        assert store.find("watch:other") is None
        with pytest.raises(UnknownJob, match="no job has the id 'second'"):
            store.get("second")


@pytest.mark.parametrize(("before", "after"), list(product(STATES, STATES)))
def test_a_state_changes_as_the_table_says(before: State, after: State, tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", before)
        if after in LEGAL_CHANGES[before]:
            assert store.change("film", after).state == store.get("film").state == after
        else:
            with pytest.raises(IllegalChange, match=f"film is {before}, it cannot become {after}"):
                store.change("film", after)
            assert store.get("film").state == before


def test_a_change_may_insist_on_the_state_before_it(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", "running")
        with pytest.raises(IllegalChange):
            store.change("film", "cancelled", expected=("queued",))
        assert store.change("film", "cancelled", expected=("running",)).state == "cancelled"


def test_times_and_outcome_are_kept_with_the_state(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film")
        running = store.claim(NOON + timedelta(hours=1))
        assert running is not None
        assert (running.attempts, running.started) == (1, NOON + timedelta(hours=1))
        progress = JobProgress(stage="streaming", frames=7, total=9, fps=3.5)
        report = {"frames_out": 7, "warnings": ["…"]}
        store.change("film", "done", report=report, progress=progress)
        done = store.get("film")
        assert (done.report, done.progress, done.error) == (report, progress, None)
        assert done.ended is not None
        assert done.started is not None
        assert abs(done.ended - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_attempt_that_failed_waits_for_its_time(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", "running")
        due = NOON + timedelta(seconds=30)
        store.change("film", "queued", not_before=due, error=FAILURE)
        assert store.get("film").error == FAILURE
        assert store.claim(due - timedelta(milliseconds=1)) is None
        assert store.next_due(NOON) == due
        assert store.next_due(due) is None
        job = store.claim(due)
        assert job is not None
        assert job.not_before is None


def test_a_success_after_a_failure_has_no_error(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film", "running")
        store.change("film", "queued", error=FAILURE)
        store.claim(datetime.now(UTC))
        assert store.change("film", "done").error is None


def test_a_job_given_back_keeps_its_place_and_its_attempts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add(a_job("old", minute=0))
        store.add(a_job("new", minute=1))
        job = store.claim(datetime.now(UTC))
        assert job is not None
        store.change(job.id, "queued", attempts=job.attempts - 1)
        again = store.claim(datetime.now(UTC))
        assert again is not None
        assert (again.id, again.attempts) == ("old", 1)


def test_the_highest_priority_goes_first_and_then_the_oldest(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for name, priority, minute in (("d", 0, 9), ("c", 0, 1), ("b", 5, 7), ("a", 5, 3)):
            store.add(a_job(name, priority=priority, minute=minute))
        store.add(a_job("e", priority=-1))
        order = [job.id for job in store.jobs()]
        claimed = [job.id for _ in order if (job := store.claim(datetime.now(UTC)))]
        assert claimed == order == ["a", "b", "c", "d", "e"]
        assert store.claim(datetime.now(UTC)) is None


def test_equal_age_keeps_the_order_of_arrival(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        ids = [f"job{number}" for number in (3, 1, 2)]
        for name in ids:
            store.add(a_job(name))
        assert [job.id for job in store.jobs()] == ids


def test_a_priority_written_later_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "first")
        put(store, "second")
        store.update("second", priority=1)
        job = store.claim(datetime.now(UTC))
        assert job is not None
        assert job.id == "second"


def test_a_claim_may_be_limited_to_some_jobs(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for name in ("a", "b", "c"):
            put(store, name)
        assert store.claim(datetime.now(UTC), limit_ids=()) is None
        job = store.claim(datetime.now(UTC), limit_ids={"c", "b", "x"})
        assert job is not None
        assert job.id == "b"


def test_a_reason_to_wait_is_kept_until_the_job_begins(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film")
        store.update("film", waits_for="3 GiB of room in /out")
        assert store.get("film").waits_for == "3 GiB of room in /out"
        job = store.claim(datetime.now(UTC))
        assert job is not None
        assert job.waits_for is None


def test_what_a_job_is_cannot_be_written_later(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, "film")
        with pytest.raises(ValueError, match="job's origin, sink cannot be written later, only"):
            store.update("film", sink="/etc/passwd", origin="mqtt")
        with pytest.raises(ValidationError, match="attempts"):
            store.update("film", attempts="many")
        assert store.get("film") == a_job("film")


@pytest.mark.parametrize("call", ["get", "retry", "change", "update"])
def test_an_unknown_job_is_said_to_be_so(call: str, tmp_path: Path) -> None:
    arguments = {"change": ("nobody", "running")}.get(call, ("nobody",))
    with opened(tmp_path) as store, pytest.raises(UnknownJob, match="no job has the id 'nobody'"):
        getattr(store, call)(*arguments)
