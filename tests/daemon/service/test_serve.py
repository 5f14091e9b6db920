"""The whole daemon, as a child process: how it starts, changes, drains and ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.jobs.daemon import (
    HEAVY,
    SMALL,
    UPFRAME,
    RunningDaemon,
    a_clip,
    daemon_in,
    free_port,
    lives,
    until,
    verified,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for tests that only look, or give it small jobs."""
    port = free_port()
    folder = tmp_path_factory.mktemp("shared")
    with daemon_in(folder, http={"listen": f"127.0.0.1:{port}"}) as daemon:
        daemon.port = port
        yield daemon


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if "partial" in path.name]


def test_children_do_not_speak_with_systemd(shared: RunningDaemon) -> None:
    (worker,) = shared.workers()
    environment = Path(f"/proc/{worker}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environment
    assert b"WATCHDOG" not in environment


def test_the_daemon_itself_computes_nothing_and_stays_small(
    shared: RunningDaemon, tmp_path: Path
) -> None:
    shared.submit(a_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", SMALL, name="small")
    shared.until_state("small", "done")
    maps = Path(f"/proc/{shared.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "libavcodec" not in maps
    assert shared.status()["resident_bytes"] < 100 * 2**20


def test_a_drain_lets_what_runs_end(tmp_path: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        clip = a_clip(tmp_path / "a.mp4", frames=20)
        daemon.submit(clip, tmp_path / "b.mp4", SMALL, name="running")
        until(lambda: daemon.jobs()["running"].state == "running", "a running job")
        daemon.submit(clip, tmp_path / "c.mp4", SMALL, name="waiting")
        workers = daemon.workers()
        assert workers
        assert daemon.stop() == 0
        assert not any(lives(worker) for worker in workers)
        assert not daemon.socket.exists()
        assert daemon.jobs()["running"].state == "done"
        assert verified(tmp_path / "b.mp4") == 20
        assert daemon.jobs()["waiting"].state == "queued"


def test_a_drain_under_load_ends_in_time_and_tells_systemd_and_probes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    port = free_port()
    clip = a_clip(tmp_path / "a.mp4", frames=30)
    http = {"listen": f"127.0.0.1:{port}"}
    with daemon_in(tmp_path, jobs={"drain_seconds": 2}, http=http) as daemon:
        daemon.port = port
        before_ready = daemon.told[: daemon.told.index("READY=1")]
        assert "EXTEND_TIMEOUT_USEC=30000000" in before_ready
        assert any(line.startswith("STATUS=") and "worker" in line for line in before_ready)
        assert daemon.told[daemon.told.index("READY=1") + 1] == "STATUS=0 running, 0 queued"
        until(lambda: daemon.heard("WATCHDOG=1"), "a ping")

        daemon.submit(clip, out / "b.mp4", HEAVY, name="heavy")
        until(lambda: partials(out), "a partial output")
        until(lambda: daemon.heard("STATUS=1 running (a.mp4"), "a status with the job")
        workers = daemon.workers()
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        until(lambda: daemon.get("/healthz") == b"draining\n", "the drain")
        with pytest.raises(urllib.error.HTTPError, match="503"):
            daemon.get("/readyz")
        assert daemon.wait() == 0
        assert time.monotonic() - began < 2 + 5
        daemon.until_heard("STOPPING=1")
        assert daemon.heard("STATUS=draining for at most 2 s")

        heavy = daemon.jobs()["heavy"]
        assert (heavy.state, heavy.attempts) == ("queued", 0)
        assert list(out.iterdir()) == []
        assert not any(lives(worker) for worker in workers)
        assert daemon.logged("stopped")


def test_a_second_signal_stops_at_once_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with daemon_in(tmp_path) as daemon:
        clip = a_clip(tmp_path / "a.mp4", frames=30)
        daemon.submit(clip, out / "b.mp4", HEAVY, name="heavy")
        until(lambda: partials(out), "a partial output")
        workers = daemon.workers()
        daemon.signal(signal.SIGTERM)
        until(lambda: daemon.logged("draining"), "the drain")
        began = time.monotonic()
        daemon.signal(signal.SIGINT)
        assert daemon.wait() == 128 + signal.SIGINT
        assert time.monotonic() - began < 3
        assert not any(lives(worker) for worker in workers)
    with daemon_in(tmp_path, jobs={"drain_seconds": 0}) as daemon:
        assert daemon.until_state("heavy", "running").attempts == 1
        assert daemon.command("cancel", "heavy").returncode == 0
        assert list(out.iterdir()) == []
        assert daemon.stop() == 0


def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    with daemon_in(tmp_path, ready=False) as daemon:
        until(lambda: (tmp_path / "state" / "upframe.sock").exists(), "the control socket")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 6
        assert not daemon.heard("READY=1")


def test_a_second_daemon_on_the_same_state_is_refused(shared: RunningDaemon) -> None:
    result = subprocess.run(
        [*UPFRAME, "serve", "--config", str(shared.file)], capture_output=True, text=True
    )
    assert result.returncode == 75
    assert f"another daemon (process {shared.process.pid}) has the state" in result.stderr
    assert "Traceback" not in result.stderr
    assert shared.process.poll() is None


@pytest.mark.parametrize("check", [True, False])
def test_a_wrong_file_exits_with_78_and_says_file_key_got_and_wanted(
    check: bool, tmp_path: Path
) -> None:
    path = tmp_path / "upframe.toml"
    path.write_text('[jobs]\nslots = 0\n[[watch]]\ninput = "in"\n')
    result = subprocess.run(
        [*UPFRAME, "serve", "--config", str(path), *(["--check"] if check else [])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 78
    assert f"{path}: jobs.slots: got 0, wanted greater than or equal to 1\n" in result.stderr
    assert f'{path}: watch[0].input: got "in", wanted an absolute path\n' in result.stderr
    assert "Traceback" not in result.stderr


def test_check_finds_what_would_not_work_and_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "upframe.toml"
    state = tmp_path / "state"
    text = f'state_dir = "{state}"\nweights = "builtin"\n[jobs]\ndevices = ["cuda:7"]\n'
    path.write_text(text)
    command = [*UPFRAME, "serve", "--check", "--config", str(path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 78
    assert f'{path}: jobs.devices[0]: got "cuda:7": ' in result.stderr
    path.write_text(text.replace("cuda:7", "cpu"))
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, state.exists()) == (0, False)
    assert result.stderr.startswith(f"upframe: {path} is fine: 0 watched folders")


def test_weights_that_cannot_be_had_end_the_start_with_69(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with daemon_in(tmp_path, ready=False, weights="hub") as daemon:
        assert daemon.wait() == 69
        assert "elfgum/RIFE-4.22.lite" in daemon.log_file.read_text()
        assert "Traceback" not in daemon.log_file.read_text()


def test_a_reload_takes_a_good_file_over_and_keeps_the_old_one_for_a_bad_one(
    tmp_path: Path,
) -> None:
    watch = {"input": tmp_path / "in", "output": tmp_path / "out", "filters": SMALL}
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    with daemon_in(tmp_path) as daemon:
        daemon.write({"watch": [watch | {"stable_seconds": 0}]})
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.logged("the new file is wrong"), "the refusal")
        assert "watch[0].stable_seconds: got 0" in daemon.logged("is wrong")[0]["message"]
        assert daemon.status()["watch"] == []

        daemon.told.clear()
        daemon.write({"watch": [watch | {"stable_seconds": 0.2}], "weights": "auto"})
        daemon.signal(signal.SIGHUP)
        until(lambda: daemon.logged("configuration read again"), "the reload")
        (line,) = daemon.logged("configuration read again")
        assert line["message"].endswith("watch changed; weights after a restart")
        a_clip(tmp_path / "in" / "film.mp4")
        until(lambda: (tmp_path / "out" / "film.mp4").exists(), "the new folder's result")
        daemon.until_heard("READY=1")
        reloading = daemon.told.index("RELOADING=1")
        assert daemon.told[reloading + 1].startswith("MONOTONIC_USEC=")
        assert "READY=1" in daemon.told[reloading:]
        assert daemon.stop() == 0


def test_health_and_metrics_are_served(shared: RunningDaemon, tmp_path: Path) -> None:
    assert shared.get("/healthz") == b"ready\n"
    assert shared.get("/readyz") == b"ready\n"
    shared.submit(a_clip(tmp_path / "a.mp4"), tmp_path / "b.mp4", SMALL, name="counted")
    shared.until_state("counted", "done")
    status = json.loads(shared.get("/status"))
    assert status["phase"] == "ready"
    assert status["jobs"]["done"] >= 1
    assert status["pid"] == shared.process.pid
    metrics = shared.get("/metrics").decode()
    for name in (
        "upframe_build_info{",
        "upframe_up 1.0",
        'upframe_jobs{state="running"} 0.0',
        'upframe_jobs_total{result="done",source="cli"} ',
        'upframe_frames_total{source="cli",stage="upscaled"} ',
        "upframe_stage_seconds_bucket{",
        "upframe_event_loop_lateness_seconds_bucket{",
        'upframe_worker_resident_bytes{slot="0"}',
        'upframe_work_events_total{event="done"}',
        "process_resident_memory_bytes",
    ):
        assert name in metrics, name


def test_every_line_of_a_job_carries_its_id(shared: RunningDaemon, tmp_path: Path) -> None:
    shared.submit(a_clip(tmp_path / "one.mp4"), tmp_path / "two.mp4", SMALL, name="film-1")
    shared.submit(tmp_path / "missing.mp4", tmp_path / "three.mp4", SMALL, name="film-2")
    shared.until_state("film-1", "done")
    shared.until_state("film-2", "failed")
    until(lambda: shared.logged("two.mp4, 3 frames"), "the line of the end")
    for line in shared.log():
        for name, files in {"film-1": ("one.mp4", "two.mp4"), "film-2": ("missing.mp4",)}.items():
            if any(file in line["message"] for file in files):
                assert line["job_id"] == name, line
    events = [line.get("event") for line in shared.log() if line.get("job_id") == "film-1"]
    assert [events.count(event) for event in ("job-begun", "job-done")] == [1, 1]


def test_an_address_that_is_taken_does_not_take_the_daemon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with daemon_in(tmp_path, http={"listen": f"127.0.0.1:{port}"}) as daemon:
            daemon.port = port
            until(lambda: daemon.logged("restarts in"), "the second attempt")
            assert not any("Traceback" in line["message"] for line in daemon.log())
            taken.close()
            until(lambda: daemon.logged("health and metrics on"), "the freed address")
            assert daemon.get("/healthz") == b"ready\n"
