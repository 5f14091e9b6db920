"""The daemon end to end: work from a folder, the command line and MQTT, seen by all who look."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from support.jobs.daemon import (
    HEAVY,
    SMALL,
    RunningDaemon,
    a_clip,
    daemon_in,
    free_port,
    until,
    verified,
)
from support.servers.mqtt import Broker, Observer, broker, observer_of, retained_of

__all__ = ["broker"]

BASE = "upframe/node1"


def configuration(folder: Path, broker: Broker, **more: Any) -> dict[str, Any]:
    for name in ("in", "out"):
        (folder / name).mkdir()
    watch = {
        "input": folder / "in",
        "output": folder / "out",
        "stable_seconds": 0.2,
        "filters": SMALL,
    }
    return {
        "watch": [watch],
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"},
        "jobs": {"roots": [folder]},
        **more,
    }


def submission(name: str, source: Path, sink: Path, filters: dict[str, Any]) -> bytes:
    work = {"source": str(source), "sink": str(sink), "filters": filters}
    return json.dumps({"schema": "upframe.job/1", "id": name, **work}).encode()


async def state_of(observer: Observer, name: str, state: str) -> dict[str, Any]:
    def found(heard: list[Any]) -> list[dict[str, Any]]:
        topic = f"{BASE}/job/{name}/state"
        states = [json.loads(one.payload) for one in heard if one.topic == topic and one.payload]
        return [each for each in states if each["state"] == state]

    await observer.until(found, f"{name} is {state}")
    return found(observer.heard)[-1]


def test_three_jobs_by_three_ways_are_done(tmp_path: Path, broker: Broker) -> None:
    port = free_port()
    config = configuration(tmp_path, broker, http={"listen": f"127.0.0.1:{port}"})
    clip = a_clip(tmp_path / "clip.mp4")

    async def by_mqtt(daemon: RunningDaemon) -> None:
        async with observer_of(broker) as observer:
            await observer.on(f"{BASE}/status", b"online")
            request = submission("by-mqtt", clip, tmp_path / "mqtt.mp4", SMALL)
            await observer.say(f"{BASE}/job/submit", request)
            done = await state_of(observer, "by-mqtt", "done")
            assert done["origin"] == "mqtt"
            assert done["report"]["frames_out"] == 3
            daemon.signal(signal.SIGTERM)
            await observer.on(f"{BASE}/status", b"draining")
            await observer.on(f"{BASE}/status", b"stopped")

    with daemon_in(tmp_path, **config) as daemon:
        daemon.port = port
        (tmp_path / "in" / "notes.txt").write_text("notes")
        a_clip(tmp_path / "in" / "film.mp4")
        result = daemon.command(
            "submit", str(clip), str(tmp_path / "cli.mp4"), "--upscale", "2", "--id", "by-cli"
        )
        assert result.returncode == 0, result.stderr
        daemon.until_state("by-cli", "done")
        until(lambda: (tmp_path / "out" / "film.mp4").exists(), "the output of the folder")
        metrics = daemon.get("/metrics").decode()
        assert "upframe_mqtt_connected 1.0" in metrics
        assert 'upframe_watch_files{folder="in",state="taken",watch="0"} 1.0' in metrics
        listed = daemon.command("folders")
        assert listed.returncode == 0, listed.stderr
        first, file = listed.stdout.splitlines()
        assert first == f"in: {tmp_path / 'in'}: watching"
        assert file.split()[:2] == ["skipped", "notes.txt:"]
        assert file.endswith("extension .txt is not that of a video (excluded)")
        (folder,) = json.loads(daemon.command("folders", "--json").stdout)
        (shown,) = json.loads(daemon.get("/status"))["watch"]
        assert folder["files"] == shown["files"]
        assert (folder["files"][0]["reason"], folder["files_left_out"]) == ("excluded", 0)
        asyncio.run(by_mqtt(daemon))
        assert daemon.wait() == 0

    (film,) = [job for job in daemon.jobs().values() if job.origin == "watch"]
    (taken,) = daemon.logged("taken as job")
    assert taken["job_id"] == film.id

    for path in ("mqtt.mp4", "cli.mp4", "out/film.mp4"):
        assert verified(tmp_path / path) == 3
    assert {job.origin: job.state for job in daemon.jobs().values()} == dict.fromkeys(
        ("watch", "cli", "mqtt"), "done"
    )
    retained = asyncio.run(retained_of(broker, f"{BASE}/#"))
    assert retained[f"{BASE}/status"] == b"stopped"
    info = json.loads(retained[f"{BASE}/info"])
    assert {"version", "devices", "models", "limits", "requests"} <= info.keys()


def test_the_broker_may_be_away_at_the_start_and_at_the_end(tmp_path: Path, broker: Broker) -> None:
    broker.stop()
    with daemon_in(tmp_path, **configuration(tmp_path, broker)) as daemon:
        a_clip(tmp_path / "in" / "film.mp4")
        until(lambda: (tmp_path / "out" / "film.mp4").exists(), "the output of the folder")
        until(lambda: daemon.heard("STATUS=0 running, 0 queued; no MQTT broker"), "the status")
        assert daemon.status()["mqtt"]["connected"] is False
        assert daemon.stop() == 0


def test_a_killed_daemon_is_said_to_be_offline_and_loses_nothing(
    tmp_path: Path, broker: Broker
) -> None:
    config = configuration(tmp_path, broker)
    clip = a_clip(tmp_path / "clip.mp4", frames=30)

    async def kill_it(daemon: RunningDaemon) -> None:
        async with observer_of(broker) as observer:
            await observer.on(f"{BASE}/status", b"online")
            heavy = submission("heavy", clip, tmp_path / "heavy.mp4", HEAVY)
            await observer.say(f"{BASE}/job/submit", heavy)
            await state_of(observer, "heavy", "running")
            small = submission("small", clip, tmp_path / "small.mp4", SMALL)
            await observer.say(f"{BASE}/job/submit", small)
            await state_of(observer, "small", "queued")
            daemon.signal(signal.SIGKILL)
            await observer.on(f"{BASE}/status", b"offline")
            await observer.say(
                f"{BASE}/job/cancel",
                json.dumps({"schema": "upframe.job/1", "id": "heavy"}).encode(),
            )

    with daemon_in(tmp_path, **config) as daemon:
        asyncio.run(kill_it(daemon))
        daemon.wait()
    with daemon_in(tmp_path, **(config)) as daemon:
        daemon.until_state("heavy", "cancelled")
        daemon.until_state("small", "done")
        assert daemon.stop() == 0
    assert verified(tmp_path / "small.mp4") == 30
    assert not (tmp_path / "heavy.mp4").exists()
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_reload_moves_the_node_on_the_broker(tmp_path: Path, broker: Broker) -> None:
    config = configuration(tmp_path, broker)

    async def rename(daemon: RunningDaemon) -> None:
        async with observer_of(broker) as observer:
            await observer.on(f"{BASE}/status", b"online")
            daemon.write(config | {"mqtt": config["mqtt"] | {"node_id": "node2"}})
            daemon.signal(signal.SIGHUP)
            await observer.on(f"{BASE}/status", b"stopped")
            await observer.on("upframe/node2/status", b"online")

    with daemon_in(tmp_path, **config) as daemon:
        asyncio.run(rename(daemon))
        assert daemon.stop() == 0
