"""After a death at any moment: one correct output, and nothing left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs.work import FAST, frames_in, names_in, new_job, opened_queue, store_path
from support.media.clips import make_clip

from upframe.daemon.jobs.model import Job, partial_token
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.workers.ledger import FOLDER, Result, Results
from upframe.daemon.workers.outcomes import recover, settle
from upframe.io.files import partial_path

REPORT = {"frames_out": 7}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def kept(tmp_path: Path) -> Results:
    return Results(tmp_path / "state" / FOLDER)


def job_to(sink: Path, *, overwrite: bool = False) -> Job:
    return new_job("a", "/in.mp4", sink, overwrite=overwrite)


def about_to_publish(kept: Results, job: Job, text: str = "a film") -> list[tuple[Path, Path]]:
    """An attempt that has noted its result, and not renamed it."""
    sink = Path(job.sink)
    partial = partial_path(sink, partial_token(job.id))
    if "%" in sink.name:
        partial.mkdir()
        renames = [
            (partial / f"a_{number}.png", sink.with_name(f"a_{number}.png")) for number in "123"
        ]
    else:
        renames = [(partial, sink)]
    for path, _ in renames:
        path.write_text(text)
    kept.write(Result.of(job.id, job.work.digest, renames, REPORT))
    return renames


def test_a_death_while_streaming_leaves_only_temporary_files_which_go(
    out: Path, kept: Results
) -> None:
    for name in ("a.mp4", "a_%d.png"):
        job = job_to(out / name)
        partial = partial_path(out / name, partial_token(job.id))
        if "%" in name:
            partial.mkdir()
            (partial / "a_1.png").write_text("half")
        else:
            partial.write_text("half")
        assert settle(job, kept) is None
        assert names_in(out) == set()


def test_a_death_before_the_rename_is_made_good(out: Path, kept: Results) -> None:
    job = job_to(out / "a.mp4")
    about_to_publish(kept, job)
    assert settle(job, kept) == REPORT
    assert names_in(out) == {"a.mp4"}
    assert settle(job, kept) == REPORT  # as often as it is asked


def test_a_death_between_link_and_unlink_is_made_good(out: Path, kept: Results) -> None:
    job = job_to(out / "a.mp4")
    ((partial, final),) = about_to_publish(kept, job)
    os.link(partial, final)
    assert settle(job, kept) == REPORT
    assert names_in(out) == {"a.mp4"}


@pytest.mark.parametrize("renamed", [0, 1, 3])
def test_a_death_in_the_middle_of_a_sequence_is_made_good(
    out: Path, kept: Results, renamed: int
) -> None:
    job = job_to(out / "a_%d.png")
    for partial, final in about_to_publish(kept, job)[:renamed]:
        partial.rename(final)
    assert settle(job, kept) == REPORT
    assert names_in(out) == {"a_1.png", "a_2.png", "a_3.png"}


def test_an_output_that_may_be_replaced_is(out: Path, kept: Results) -> None:
    (out / "a.mp4").write_text("older")
    job = job_to(out / "a.mp4", overwrite=True)
    about_to_publish(kept, job)
    assert settle(job, kept) == REPORT
    assert (out / "a.mp4").read_text() == "a film"


def test_a_name_that_another_file_took_is_left_to_it(out: Path, kept: Results) -> None:
    job = job_to(out / "a_%d.png")
    renames = about_to_publish(kept, job)
    renames[0][0].rename(renames[0][1])
    (out / "a_2.png").write_text("somebody else's")
    assert settle(job, kept) is None
    assert names_in(out) == {"a_2.png"}
    assert (out / "a_2.png").read_text() == "somebody else's"


def test_a_cancelled_job_is_not_completed_but_what_is_complete_stays(
    out: Path, kept: Results
) -> None:
    job = job_to(out / "a_%d.png")
    renames = about_to_publish(kept, job)
    renames[0][0].rename(renames[0][1])
    assert settle(job, kept, complete=False) is None
    assert names_in(out) == set()
    for partial, final in about_to_publish(kept, job):
        partial.rename(final)
    assert settle(job, kept, complete=False) == REPORT


def test_an_entry_of_other_work_says_nothing(out: Path, kept: Results) -> None:
    about_to_publish(kept, job_to(out / "a.mp4"))
    other = new_job("a", "/other.mp4", out / "a.mp4")
    assert settle(other, kept) is None
    assert names_in(out) == set()


def recovered(tmp_path: Path, *jobs: Job) -> list[Job]:
    """Let a daemon claim jobs and die, and the next one start."""
    with JobStore(store_path(tmp_path / "state")) as store:
        for job in jobs:
            store.add(job)
            assert store.claim(job.created, limit_ids=[job.id]) is not None

    async def main() -> list[Job]:
        async with opened_queue(tmp_path / "state") as queue:
            await recover(queue, tmp_path / "state")
            return [await queue.get(job.id) for job in jobs]

    return asyncio.run(main())


def test_a_start_finds_what_ran_and_queues_or_completes_it(
    tmp_path: Path, out: Path, kept: Results
) -> None:
    half, ready = (new_job(name, "/in.mp4", out / f"{name}.mp4") for name in ("half", "ready"))
    partial_path(out / "half.mp4", partial_token("half")).write_text("half")
    about_to_publish(kept, ready)
    again, done = recovered(tmp_path, half, ready)
    assert (again.state, again.attempts) == ("queued", 0)
    assert (done.state, done.report) == ("done", REPORT)
    assert names_in(out) == {"ready.mp4"}
    assert names_in(tmp_path / "state" / FOLDER) == set()


def test_entries_of_jobs_that_ended_are_dropped(tmp_path: Path, out: Path, kept: Results) -> None:
    renames = about_to_publish(kept, job_to(out / "gone.mp4"))
    renames[0][0].rename(renames[0][1])
    assert recovered(tmp_path) == []
    assert names_in(tmp_path / "state" / FOLDER) == set()
    assert names_in(out) == {"gone.mp4"}


ATTEMPTS = """
import json, os, signal, sys
from pathlib import Path
import torch
from upframe.daemon.convert.conversion import Ledger, run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.jobs.model import Job, partial_token
from upframe.daemon.workers.ledger import Result, Results
from upframe.filters.device import Runtime
state = Path(sys.argv[1])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def attempt(job, moment):
    def record(report, renames):
        if moment == "before":
            die()
        told = report.model_dump(mode="json", by_alias=True)
        Results(state / "results").write(Result.of(job.id, job.work.digest, renames, told))
        if moment == "recorded":
            die()
    runtime = Runtime(torch.device("cpu"), torch.float32, "builtin")
    request = RunRequest(job.source, job.sink, job.work, runtime)
    run(request, ledger=Ledger(partial_token(job.id), record))
    die()
for text in json.load(sys.stdin):
    job = Job.model_validate_json(text)
    pid = os.fork()  # one process each, and only one that loads everything
    if not pid:
        attempt(job, job.id.split("-")[1])
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_kill_9_around_the_rename_ends_in_one_output(tmp_path: Path, out: Path) -> None:
    """Real conversions in real processes, which kill themselves at the worst moments."""
    source = make_clip(tmp_path / "in.mp4", frames=3)
    film, stills = (
        [
            new_job(f"{kind}-{moment}", source, out / f"{moment}{name}", encoder=encoder)
            for moment in ("before", "recorded", "renamed")
        ]
        for kind, name, encoder in (("film", ".mp4", FAST), ("stills", "_%d.png", {}))
    )
    died = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(tmp_path / "state")],
        input=json.dumps([job.model_dump_json() for job in (*film, *stills)]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=100,
    )
    assert died.stdout.split() == [str(-signal.SIGKILL)] * 6
    after = recovered(tmp_path, *film, *stills)
    assert [job.state for job in after] == ["queued", "done", "done"] * 2
    assert [job.report and job.report["frames_out"] for job in after] == [None, 5, 5] * 2
    numbered = {f"{moment}_{n}.png" for moment in ("recorded", "renamed") for n in range(1, 6)}
    assert names_in(out) == {"recorded.mp4", "renamed.mp4"} | numbered
    assert [frames_in(out / name) for name in ("recorded.mp4", "renamed.mp4")] == [5, 5]


HOLD = """
import os, sys, time
from pathlib import Path
from upframe.daemon.workers import worker_lock
lock = worker_lock.hold(Path(sys.argv[1]) / "workers" / "0.lock")
partial = open(sys.argv[2], "wb", buffering=0)
print("held", flush=True)
while True:
    partial.write(b"frame")
    time.sleep(0.001)
"""


def test_a_start_ends_workers_left_behind_before_it_touches_their_files(
    tmp_path: Path, out: Path
) -> None:
    job = job_to(out / "a.mp4")
    partial = partial_path(out / "a.mp4", partial_token("a"))
    left = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "state"), str(partial)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert left.stdout is not None
    assert left.stdout.readline() == "held\n"
    (after,) = recovered(tmp_path, job)
    assert left.wait(5) == -signal.SIGKILL
    left.communicate()
    assert (after.state, after.attempts, names_in(out)) == ("queued", 0, set())
