"""The command line against a real socket, and against a store without a daemon."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs.queues import FAILURE, SECRET, ServedQueue, a_job

from upframe.daemon.jobs.model import JobProgress

Command = Callable[..., tuple[int, str, str]]


def test_submits_a_job_and_prints_its_id(
    served: ServedQueue, jobs: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My film.mp4").touch()
    options = "--interpolate 2 --crf 20 --encoder-option tune=film --format matroska --overwrite"
    options += (
        " --priority 3 --framerate 24000/1001 --deinterlace off --strict-streams --hwaccel auto"
        " --audio-codec opus"
    )
    code, out, err = jobs("submit", "My film.mp4", "sub/../large.mkv", *options.split())
    assert (code, err) == (0, "")
    (job,) = served.store.jobs()
    assert out == f"{job.id}\n"
    assert job.id.startswith("My-film-")
    assert job.source == str(tmp_path / "My film.mp4")
    assert job.sink == str(tmp_path / "large.mkv")
    assert job.filters.frame_interpolation_exp == 2
    assert (job.encoder.crf, job.encoder.options) == (20, {"tune": "film"})
    assert (job.container, job.overwrite, job.strict_streams) == ("matroska", True, True)
    assert (job.priority, job.framerate, job.deinterlace) == (3, "24000/1001", "off")
    assert (job.hwaccel, job.audio_codec) == ("auto", "opus")
    assert job.origin == "cli"


def test_submits_the_same_job_once(served: ServedQueue, jobs: Command, tmp_path: Path) -> None:
    source, sink = tmp_path / "a.mp4", tmp_path / "b.mp4"
    source.touch()
    words = ("submit", str(source), str(sink), "--upscale", "2", "--id", "film-1")
    assert jobs(*words) == (0, "film-1\n", "")
    source.rename(sink)  # the job has moved it away, and its result is there
    assert jobs(*words) == (0, "film-1\n", "upframe: it is known already, and queued\n")
    code, out, err = jobs(*words, "--overwrite")
    assert (code, out) == (64, "")
    assert err == "upframe: the id 'film-1' belongs to other work already: choose another\n"
    assert served.store.counts()["queued"] == 1


def test_a_source_by_url_stays_as_it_is_and_no_answer_tells_its_password(
    served: ServedQueue, jobs: Command
) -> None:
    code, out, _ = jobs("submit", SECRET, "/b.mkv", "--upscale", "2", "--json")
    assert code == 0
    assert json.loads(out)["source"] == "rtsp://***@camera/1"
    assert served.store.get(json.loads(out)["id"]).source == SECRET


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("/a", "/b"), "no filter asked for"),
        (("/a", "/b", "--upscale", "9"), "--upscale: "),
        (("-", "/b", "--upscale", "2"), "a job has no stdin and stdout"),
        (("/a", "/b", "--upscale", "2", "--id", "a/b"), "--id: string should match pattern"),
        (("/a", "/b", "--upscale", "2", "--priority", "5000"), "--priority: input should be less"),
        (("/a",), "the following arguments are required: sink"),
    ],
)
def test_wrong_submissions_never_reach_the_daemon(
    words: tuple[str, ...], text: str, jobs: Command
) -> None:
    code, out, err = jobs("submit", *words)
    assert (code, out) == (64, "")
    assert text in err


def submission(tmp_path: Path, *words: str) -> tuple[str, ...]:
    (tmp_path / "in.mp4").touch()
    return ("submit", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4"), "--upscale", "2", *words)


@pytest.mark.parametrize("source", ["frames/%05d.png", "frames/*.png", "rtsp://camera/1"])
def test_sequences_and_addresses_are_for_the_daemon_to_open(
    source: str, served: ServedQueue, jobs: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert jobs("submit", source, "out.mp4", "--upscale", "2")[0] == 0


def test_the_output_of_a_job_that_has_not_ended_is_not_given_to_a_second_one(
    served: ServedQueue, jobs: Command, tmp_path: Path
) -> None:
    assert jobs(*submission(tmp_path, "--id", "first"))[0] == 0
    code, out, err = jobs(*submission(tmp_path, "--id", "second"))
    assert (code, out) == (64, "")
    expected = f"job 'first', which has not ended, writes the same output: {tmp_path}/out.mp4"
    assert err == f"upframe: {expected}\n"
    code, out, err = jobs(*submission(tmp_path, "--id", "second", "--overwrite"))
    assert (code, out, err) == (0, "second\n", f"upframe: {expected}\n")
    for name in ("first", "second"):
        served.run(served.queue.cancel(name))
    assert jobs(*submission(tmp_path, "--id", "third")) == (0, "third\n", "")


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(
    served: ServedQueue, jobs: Command
) -> None:
    for name in ("film-3f9a", "film-77b0", "clip-01", "clip"):
        served.store.add(a_job(name))
    assert "film-3f9a" in jobs("show", "film-3")[1]
    assert "clip-01" not in jobs("show", "clip")[1]  # a whole id is itself
    assert jobs("cancel", "film-7") == (0, "film-77b0: cancelled\n", "")
    assert jobs("retry", "film-7") == (0, "film-77b0: queued\n", "")
    assert jobs("cancel", "film-77b0")[0] == 0
    assert jobs("watch", "film-7") == (0, "film-77b0: cancelled\n", "")
    for action in ("show", "cancel", "retry", "watch"):
        code, out, err = jobs(action, "film")
        assert (code, out) == (64, "")
        assert err == "upframe: 2 ids begin with 'film': film-3f9a, film-77b0\n"
    served.stop()
    assert "film-3f9a" in jobs("show", "film-3")[1]  # without a daemon, of its records
    assert jobs("show", "film")[0] == 64


def test_an_empty_id_means_no_job_even_where_there_is_one_only(
    served: ServedQueue, jobs: Command
) -> None:
    served.store.add(a_job("film"))
    for action in ("show", "cancel", "retry", "watch"):
        assert jobs(action, "") == (64, "", "upframe: the id of a job must not be empty\n")
    assert served.store.get("film").state == "queued"


def test_of_many_ids_that_begin_alike_some_are_shown(served: ServedQueue, jobs: Command) -> None:
    for number in range(30):
        served.store.add(a_job(f"film-{number:02}"))
    code, _, err = jobs("show", "film")
    assert code == 64
    assert err.startswith("upframe: 30 ids begin with 'film': film-00, film-01")
    assert err.endswith("film-09, …\n")


def test_lists_jobs_in_a_table(served: ServedQueue, jobs: Command) -> None:
    served.store.add(a_job("late", priority=-2))
    served.store.add(a_job("running", priority=9))
    served.store.add(a_job("broken"))
    served.store.change("broken", "failed", error=FAILURE)
    served.run(served.queue.claim(limit_ids=["running"]))
    progress = JobProgress(stage="streaming", frames=250, total=1000, fps=12.5, eta_seconds=60)
    served.run(report(served, "running", progress))
    code, out, err = jobs("list")
    assert (code, err) == (0, "")
    header, *rows, counts = out.splitlines()
    assert header.split() == ["ID", "STATE", "PRIO", "SINCE", "SINK", "PROGRESS"]
    assert [row.split()[:3] for row in rows] == [
        ["running", "running", "9"],
        ["late", "queued", "-2"],
        ["broken", "failed", "0"],
    ]
    assert "25 %, 12.5 fps, 1 min left" in rows[0]
    assert "/out/late.mp4" in rows[1]
    assert "no frame could be decoded" in rows[2]
    assert counts.split(" · ") == ["1 queued", "1 running", "1 failed"]


async def report(served: ServedQueue, name: str, progress: JobProgress) -> None:
    served.queue.report_progress(name, progress)


def test_lists_no_more_than_asked_and_says_what_is_left(served: ServedQueue, jobs: Command) -> None:
    for number in range(60):
        served.store.add(a_job(f"job{number}", minute=number))
    served.store.add(a_job("other"))
    served.store.change("other", "cancelled")
    _, out, _ = jobs("list")
    assert out.count("queued ") == 50 + 1
    assert out.endswith("60 queued · 1 cancelled · 11 more are not shown (--limit 0)\n")
    _, out, _ = jobs("list", "--limit", "0")
    assert len(out.splitlines()) == 1 + 61 + 1
    assert out.endswith("60 queued · 1 cancelled\n")
    _, out, _ = jobs("list", "--state", "cancelled", "--state", "done")
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["ID", "other"]


def test_an_empty_list_says_so(served: ServedQueue, jobs: Command) -> None:
    assert jobs("list") == (0, "no jobs\n", "")
    assert jobs("list", "--json") == (0, "[]\n", "")


def test_machines_get_json(served: ServedQueue, jobs: Command) -> None:
    for number in range(60):
        served.store.add(a_job(f"job{number}", minute=number))
    _, out, _ = jobs("list", "--json")
    assert [job["id"] for job in json.loads(out)] == [f"job{number}" for number in range(60)]
    _, out, _ = jobs("list", "--json", "--limit", "1")
    assert len(json.loads(out)) == 1
    _, out, _ = jobs("show", "job3", "--json")
    assert json.loads(out)["sink"] == "/out/job3.mp4"
    _, out, _ = jobs("cancel", "job3", "--json")
    assert [job["state"] for job in json.loads(out)] == ["cancelled"]
    _, out, _ = jobs("status", "--json")
    assert json.loads(out)["jobs"]["queued"] == 59


def test_shows_what_a_running_job_was_estimated_to_take(served: ServedQueue, jobs: Command) -> None:
    served.store.add(a_job("film"))
    served.run(served.queue.claim())
    assert "estimate" not in jobs("show", "film")[1]
    memory = "up to 1.2 GiB of memory of 9.0 free, about 0.4 for the encoder"
    progress = JobProgress(stage="streaming", frames=1, estimate_seconds=7300, memory=memory)
    served.run(report(served, "film", progress))
    _, out, _ = jobs("show", "film")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["estimate"] == "about 2 h for all of it"
    assert facts["memory"] == memory


def test_shows_all_that_is_known_of_a_job(served: ServedQueue, jobs: Command) -> None:
    report = {"frames_in": 10, "frames_out": 19, "warnings": ["a [bold]first[/bold]", "second"]}
    served.store.add(a_job("film", source=SECRET, encoder={"crf": 18}, overwrite=True))
    served.run(served.queue.claim())
    served.run(served.queue.change("film", "failed", error=FAILURE, report=report))
    code, out, _ = jobs("show", "film")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert code == 0
    assert facts["state"] == "failed"
    assert facts["source"] == "rtsp://***@camera/1"
    assert "frame_interpolation_exp=1" in facts["filters"]
    assert facts["encoder"] == "crf=18.0"
    assert facts["error"] == "no frame could be decoded (exit code 65, for good)"
    assert facts["detail"] == "moov?"
    assert "frames out  19" in out
    assert "a [bold]first[/bold]" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_the_status_of_a_broken_store_is_printed_and_ends_with_its_code(
    served: ServedQueue, jobs: Command
) -> None:
    assert jobs("status")[0] == 0
    served.store.close()
    code, out, _ = jobs("status")
    assert code == 74
    assert "is closed" in json.loads(out)["store_trouble"]


def test_cancels_and_tries_again(served: ServedQueue, jobs: Command) -> None:
    for name in ("a", "b", "c"):
        served.store.add(a_job(name))
    assert jobs("cancel", "a") == (0, "a: cancelled\n", "")
    assert jobs("retry", "a") == (0, "a: queued\n", "")
    for name in ("b", "c"):
        served.store.change(name, "failed", error=FAILURE)
    code, out, _ = jobs("retry", "--failed")
    assert (code, sorted(out.splitlines())) == (0, ["b: queued", "c: queued"])
    assert jobs("retry", "--failed") == (0, "", "")
    code, _, err = jobs("retry", "b")
    assert (code, err) == (64, "upframe: job b is queued, it cannot become queued now\n")
    assert jobs("retry")[0] == jobs("retry", "a", "--failed")[0] == 64


@pytest.mark.parametrize("action", ["show", "cancel", "retry", "watch"])
def test_an_unknown_job_has_its_exit_code(action: str, served: ServedQueue, jobs: Command) -> None:
    assert jobs(action, "nobody") == (66, "", "upframe: no job has the id 'nobody'\n")


def test_follows_some_jobs_to_their_end(served: ServedQueue, jobs: Command) -> None:
    for name in ("good", "bad"):
        served.store.add(a_job(name))

    def work() -> None:
        served.run(served.queue.claim(limit_ids=["good"]))
        served.run(report(served, "good", JobProgress(stage="streaming", frames=3, total=9)))
        time.sleep(0.05)
        served.run(served.queue.change("good", "done"))
        served.run(served.queue.change("bad", "failed", error=FAILURE))

    working = threading.Timer(0.3, work)
    working.start()
    code, out, _ = jobs("watch", "good", "bad")
    working.join()
    lines = out.splitlines()
    assert code == 65  # as `upframe run` would have ended
    assert lines[:2] == ["good: queued", "bad: queued"]
    assert lines[-2:] == ["good: done", "bad: failed, no frame could be decoded"]


def test_following_says_each_change_as_json(served: ServedQueue, jobs: Command) -> None:
    served.store.add(a_job())
    cancelling = threading.Timer(0.2, lambda: served.run(served.queue.cancel("film")))
    cancelling.start()
    code, out, _ = jobs("watch", "film", "--json")
    cancelling.join()
    assert code == 0
    changes: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert [change["job"]["state"] for change in changes] == ["queued", "cancelled"]


def test_following_ends_with_the_daemon(served: ServedQueue, jobs: Command) -> None:
    served.store.add(a_job())
    stopping = threading.Timer(0.3, served.stop)
    stopping.start()
    code, _, err = jobs("watch", "film")
    stopping.join()
    assert code == 69
    assert "the daemon" in err


def test_an_interrupt_ends_following_without_a_trace(served: ServedQueue, tmp_path: Path) -> None:
    served.store.add(a_job())
    words = ["jobs", "watch", "--socket", str(served.socket), "film"]
    with subprocess.Popen(
        [sys.executable, "-m", "upframe.daemon", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert watching.stdout.readline() == "film: queued\n"
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read() == "upframe: interrupted\n"
    assert watching.returncode == 130
