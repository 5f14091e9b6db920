"""With a real daemon that is busy: what can only fail is said when submitted, not at its turn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.jobs.daemon import HEAVY, SMALL, UPFRAME, RunningDaemon, a_clip, daemon_in, until
from support.servers.mqtt import Broker, broker, observer_of

__all__ = ["broker"]

REPLY = "upframe/node1/job/film/reply"


def busy(folder: Path, **config: Any) -> Generator[RunningDaemon]:
    clip = a_clip(folder / "heavy.mp4", frames=200)
    with daemon_in(folder, jobs={"slots": 1, "roots": [folder]}, **config) as daemon:
        daemon.submit(clip, folder / "heavy.out.mp4", HEAVY, "heavy")
        daemon.until_state("heavy", "running")
        for pid in daemon.workers():
            os.kill(pid, signal.SIGSTOP)  # so that it takes no time from the others
        yield daemon
        assert daemon.jobs()["heavy"].state == "running"


@pytest.fixture
def daemon(tmp_path: Path) -> Generator[RunningDaemon]:
    yield from busy(tmp_path)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [*UPFRAME, "run", *words, "--weights", "builtin"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_jobs_submit_ends_as_the_run_would(tmp_path: Path, daemon: RunningDaemon) -> None:
    (tmp_path / "text.mkv").write_text("no film at all" * 100)
    clip, out, twice = a_clip(tmp_path / "in.mp4"), tmp_path / "out.mkv", ("--upscale", "2")
    half = tmp_path / "half.mp4"
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (tmp_path / "there.mkv").touch()
    for code, *words in (
        (65, tmp_path / "text.mkv", out),
        (65, half, out),
        (64, clip, out, "--preset", "picture"),
        (73, clip, tmp_path / "there.mkv"),
    ):
        given = [*map(str, words), *twice]
        submitted, ran = daemon.command("submit", *given), run(*given)
        assert (submitted.returncode, submitted.stdout) == (code, ""), submitted
        assert (ran.returncode, ran.stderr.splitlines()[-1:]) == (
            code,
            submitted.stderr.splitlines()[-1:],
        )
    assert list(daemon.jobs()) == ["heavy"]


def test_an_output_of_another_job_is_refused_with_its_name(
    tmp_path: Path, daemon: RunningDaemon
) -> None:
    clip, out, twice = a_clip(tmp_path / "in.mp4"), tmp_path / "out.mkv", ("--upscale", "2")
    (tmp_path / "link").symlink_to(tmp_path)
    accepted = daemon.command("submit", str(clip), str(out), *twice)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    other = daemon.command("submit", str(clip), str(out), "--upscale", "3")
    assert other.returncode == 64
    job = accepted.stdout.strip()
    assert f"job {job!r}, which has not ended, writes the same output" in other.stderr
    for sink in (out, tmp_path / "link" / "out.mkv"):
        ran = run(str(clip), str(sink), *twice)
        assert (ran.returncode, out.exists()) == (73, False)
        assert f"job {job!r} of the daemon, which has not ended, writes the same" in ran.stderr
    ran = run(str(clip), str(tmp_path / "heavy.out.mp4"), *twice)
    assert (ran.returncode, "job 'heavy' of the daemon" in ran.stderr) == (73, True)
    probe = [*UPFRAME, "probe", str(clip), str(out), *twice, "--no-estimate"]
    probed = subprocess.run(probe, capture_output=True, text=True, timeout=60)
    assert f"obstacle: job {job!r} of the daemon, which has not" in probed.stdout
    ran = run(str(clip), str(out), *twice, "--overwrite")  # which then says what it does
    assert (ran.returncode, f"job {job!r} of the daemon" in ran.stderr) == (0, True)
    assert run(str(clip), str(tmp_path / "other.mkv"), *twice).returncode == 0


def test_a_file_of_a_folder_with_wrong_options_fails_before_its_turn(tmp_path: Path) -> None:
    for name in ("in", "out", "good", "made", "failed"):
        (tmp_path / name).mkdir()
    usual = {"stable_seconds": 0.2, "filters": SMALL, "on_failed": "move"}
    usual["failed_dir"] = tmp_path / "failed"
    wrong = {"input": tmp_path / "in", "output": tmp_path / "out", "encoder": {"preset": "picture"}}
    good = {"input": tmp_path / "good", "output": tmp_path / "made"}
    for daemon in busy(tmp_path, watch=[usual | wrong, usual | good]):
        a_clip(tmp_path / "in" / "film.mp4")
        a_clip(tmp_path / "good" / "film.mp4")
        until(lambda: (tmp_path / "failed" / "film.mp4").exists(), "the file is moved")
        states = {Path(job.source).parent.name: job for job in daemon.jobs().values()}
        assert states["good"].state == "queued"
        failed = states["in"]
        assert (failed.state, failed.attempts) == ("failed", 0)
        assert failed.error is not None
        assert "libx264 has no preset 'picture'" in failed.error.message
        assert len(daemon.logged("failed before its turn")) == 1


def test_a_request_is_answered_with_the_reason_before_its_turn(
    tmp_path: Path, broker: Broker
) -> None:
    clip = a_clip(tmp_path / "in.mp4")
    work = {"source": str(clip), "filters": SMALL, "schema": "upframe.job/1"}
    right = work | {"id": "right", "sink": str(tmp_path / "right.mp4")}
    wrong = work | {"id": "film", "sink": str(tmp_path / "out.mp4")}
    wrong |= {"encoder": {"options": {"tune": "nothing"}}}

    async def ask() -> None:
        async with observer_of(broker) as observer:
            await observer.on("upframe/node1/status", b"online")
            for request in (right, wrong):
                await observer.say("upframe/node1/job/submit", json.dumps(request).encode())

            def replies(heard: list[Any]) -> list[dict[str, Any]]:
                return [json.loads(one.payload) for one in heard if one.topic == REPLY]

            await observer.until(lambda heard: len(replies(heard)) == 2, "both answers")
            accepted, failed = replies(observer.heard)
            assert accepted["status"] == "accepted"
            assert (failed["status"], failed["error"]["code"]) == ("error", "job_failed")
            assert "tune" in failed["error"]["message"]
            assert failed["data"]["error"]["code"] in (64, 73)

    mqtt = {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"}
    for daemon in busy(tmp_path, mqtt=mqtt):
        asyncio.run(ask())
        assert daemon.jobs()["right"].state == "queued"
