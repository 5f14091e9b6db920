"""A short form of each of the runs in bench/faults, against a real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripts import script

arrivals = script("faults/arrivals")
broker = script("faults/broker")
drain = script("faults/drain")
fuzz = script("faults/fuzz")
growth = script("faults/growth")
kills = script("faults/kills")
lateness = script("faults/lateness")
links = script("faults/links")
malformed = script("faults/malformed")
mutations = script("faults/mutations")

pytestmark = pytest.mark.slow


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny frames: threads would wait for each other, and for other work, more than compute."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("one_thread")
def test_no_kill_loses_a_job_or_does_one_twice(tmp_path: Path) -> None:
    outcome = kills.measure(tmp_path / "yard", rounds=2, jobs=3, seed=1)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_a_broker_that_comes_and_goes_loses_no_submission(tmp_path: Path) -> None:
    outcome = broker.measure(
        tmp_path / "yard", restarts=1, jobs=8, per_second=4.0, up_seconds=1.5, seed=1
    )
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_damaged_files_are_done_or_fail_with_a_reason(tmp_path: Path) -> None:
    outcome = mutations.measure(tmp_path / "yard", files=10, stable_seconds=0.01, seed=2)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_mutated_files_and_pipes_of_many_kinds_are_no_internal_errors(tmp_path: Path) -> None:
    outcome = fuzz.measure(tmp_path / "yard", files=60, seed=3)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_malformed_messages_are_counted_and_harm_nobody(tmp_path: Path) -> None:
    outcome = malformed.measure(tmp_path / "yard", bad=40, good=4, seed=1)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_links_bent_at_any_moment_lead_nowhere(tmp_path: Path) -> None:
    outcome = links.measure(tmp_path / "yard", moments=40, seed=1)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_a_file_is_taken_once_and_whole_however_it_arrives(tmp_path: Path) -> None:
    outcome = arrivals.measure(tmp_path / "yard", seconds=2.0, stable_seconds=0.3, seed=1)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_a_daemon_under_load_ends_in_time(tmp_path: Path) -> None:
    outcome = drain.measure(tmp_path / "yard", rounds=2, drain_seconds=0.5, seed=1)
    assert outcome.ok, outcome


def test_submissions_beside_heavy_work_do_not_hold_up_the_loop(tmp_path: Path) -> None:
    outcome = lateness.measure(tmp_path / "yard", seconds=2.0, per_second=10.0, seed=1)
    assert outcome.ok, outcome


@pytest.mark.usefixtures("one_thread")
def test_short_jobs_leave_no_memory_behind(tmp_path: Path) -> None:
    outcome = growth.measure(tmp_path / "yard", jobs=12, seed=1)
    assert outcome.ok, outcome
