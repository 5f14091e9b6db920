"""The real worker with a real camera: it records, ends well, and leaves no process behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs.daemon import SECONDS, daemon_in, until, verified
from support.live.supervision import config_with, entry
from support.servers.camera import Camera, camera_of, free_port
from support.servers.mqtt import Broker, broker, retained_of

from upframe.daemon.live.supervisor import command_of
from upframe.daemon.specification import StreamSpec, part_of
from upframe.daemon.workers.messages import Event, ExitMessage, RunStream
from upframe.daemon.workers.process import WorkerChild
from upframe.daemon.workers.worker_lock import hold

__all__ = ["broker"]

PATTERN = "%Y%m%d-%H%M%S.mp4"
SECRET = "pa55"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Stands in the environment of all processes that are begun from now on."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("UPFRAME_TEST_MARK", text := uuid.uuid4().hex)
    return text


def marked(mark: str, *others: int) -> set[int]:
    """Every process but ours and others that has it, whoever its parent is by now.

    Zombies have no environment; who looks after these is tested by their parent.
    """
    found: set[int] = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                found.add(int(environment.parent.name))
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            continue
    return found - {os.getpid(), *others}


def states_at(broker: Broker) -> dict[str, str]:
    """What the broker holds of our streams."""
    held = asyncio.run(retained_of(broker, "upframe/node1/live/+/state"))
    states = [json.loads(payload) for payload in held.values()]
    return {state["name"]: state["state"] for state in states}


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def recorder(camera: Camera, folder: Path, **fields: Any) -> dict[str, Any]:
    """Read a camera, record what comes of it."""
    folder.mkdir(exist_ok=True)
    output = str(folder / PATTERN)
    return entry("gate", input=camera.url, output=output, encoder={"preset": "ultrafast"}, **fields)


def credentials(folder: Path) -> Path:
    path = folder / "gate.secret"
    path.write_text(f"me:{SECRET}\n")
    path.chmod(0o600)
    return path


SUPERVISOR = """
import asyncio, json, sys
from upframe.daemon.live.supervisor import LiveSupervisor
from upframe.daemon.config import Config
async def main():
    streams = LiveSupervisor()
    streams.configure(Config.model_validate_json(sys.argv[1]))
    while True:
        print(json.dumps(streams.public_statuses()), flush=True)
        await asyncio.sleep(0.1)
asyncio.run(main())
"""


class Supervisor:
    """The part of a daemon that keeps streams up, in a process of its own."""

    def __init__(self, config: str) -> None:
        command = [sys.executable, "-c", SUPERVISOR, config]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.said = ""

    def told(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Read what it says of the first stream until that is as wanted."""
        assert self.process.stdout is not None
        ends = time.monotonic() + SECONDS
        for line in self.process.stdout:
            self.said += line
            for stream in json.loads(line):
                if wanted(stream):
                    return stream
            assert time.monotonic() < ends, f"not within {SECONDS:g} s: {what}; {line}"
        raise AssertionError(f"it has ended: {self.said}")

    def frames(self, more_than: int = 0) -> dict[str, Any]:
        """Wait for frames that are recorded."""

        def recorded(stream: dict[str, Any]) -> bool:
            return stream["output_state"]["written"] > more_than + 15

        return self.told(recorded, "frames")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
def test_whoever_is_killed_recordings_are_whole_and_no_process_is_left(
    tmp_path: Path, mark: str
) -> None:
    with camera_of(login=f"me:{SECRET}") as camera:
        gate = recorder(camera, tmp_path / "out", credentials_file=str(credentials(tmp_path)))
        daemon = Supervisor(config_with(tmp_path, gate).model_dump_json())
        try:
            before = daemon.frames()
            assert (before["state"], before["output_state"]["connected"]) == ("running", True)
            assert before["output"]["width"] == 2 * before["input"]["width"]
            os.kill(before["pid"], signal.SIGKILL)
            daemon.told(lambda stream: stream["state"] == "reconnecting", "the loss")
            after = daemon.frames(before["output_state"]["written"])
            assert after["pid"] != before["pid"]
            assert after["counts"]["frames_decoded"] > before["counts"]["frames_decoded"]
        finally:
            daemon.kill()
        until(lambda: not marked(mark, camera.pid), "nothing outlives the daemon")
    files = recordings(tmp_path / "out")
    assert len(files) == 2
    assert all(verified(file) > 10 for file in files)
    assert sorted((tmp_path / "out").iterdir()) == files  # nothing hidden, nothing half
    assert SECRET not in daemon.said


@pytest.mark.slow
def test_the_daemon_shows_changes_and_ends_its_streams(
    tmp_path: Path, broker: Broker, mark: str
) -> None:
    port = free_port()
    with camera_of() as camera:
        gate = recorder(camera, tmp_path / "out")
        away = entry("away", input=f"rtsp://127.0.0.1:{free_port()}/x", filters=gate["filters"])
        config: dict[str, Any] = {"http": {"listen": f"127.0.0.1:{port}"}}
        config["mqtt"] = {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"}
        config["live"] = [gate, away]
        with daemon_in(tmp_path, **config) as daemon:
            daemon.port = port

            def told(name: str) -> dict[str, Any]:
                streams = json.loads(daemon.get("/status"))["live"]
                return next((one for one in streams if one["name"] == name), {"state": "none"})

            until(lambda: told("gate")["state"] == "running", "the gate runs")
            until(lambda: told("away")["reason"] == "refused", "the other is refused")
            assert daemon.get("/healthz") == b"ready\n"  # a dead camera is no fault of ours
            assert daemon.get("/readyz") == b"ready\n"
            metrics = daemon.get("/metrics").decode()
            assert 'upframe_stream_state{source="gate",state="running"} 1.0' in metrics
            assert 'upframe_degradation_level{level="full",source="gate"}' in metrics
            assert 'upframe_source_reconnects_total{reason="refused",source="away"}' in metrics
            until(lambda: daemon.heard("") and "; away re" in "".join(daemon.told), "its line")
            until(lambda: states_at(broker).keys() == {"gate", "away"}, "both at the broker")
            pid = told("gate")["pid"]
            daemon.write(config | {"live": [gate]})
            daemon.signal(signal.SIGHUP)
            until(lambda: told("away")["state"] == "none", "the other is gone")
            assert told("gate")["pid"] == pid
            until(lambda: told("gate")["output_state"]["written"] > 30, "frames")
            assert daemon.stop() == 0
        assert not marked(mark, camera.pid)
    assert states_at(broker) == {"gate": "disabled"}
    (file,) = recordings(tmp_path / "out")
    assert verified(file) > 30


def test_what_cannot_work_is_told_with_its_exit_code(tmp_path: Path, mark: str) -> None:
    async def ended(**fields: Any) -> ExitMessage:
        (made,) = config_with(tmp_path, entry("gate", **fields)).live
        words, events = command_of("gate", tmp_path), list[Event]()
        process = WorkerChild("live gate", words, events.append, lambda: None)
        try:
            process.spawn()
            process.send(RunStream(spec=part_of(made, StreamSpec), weights="builtin"))
            async with asyncio.timeout(60):
                await process.ended()
        finally:
            await process.kill("the test is over")
        assert isinstance(events[-1], ExitMessage)
        return events[-1]

    async def main() -> None:
        out = str(tmp_path / "out.mp4")
        refused = await ended(output=out, encoder={"options": {"none-of-x264": "1"}})
        assert refused.code == 64, refused
        assert "none-of-x264" in refused.message

    asyncio.run(main())
    assert not marked(mark)


def test_a_second_worker_of_a_name_is_refused(tmp_path: Path, mark: str) -> None:
    """So two never write to one output, whoever started them."""
    words = command_of("gate", tmp_path)
    with hold(tmp_path / "workers" / "live-gate.lock"):
        second = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert second.returncode == 75
    assert b"is held by another process" in second.stderr
    assert not marked(mark)
