"""A daemon's surroundings: folders, a broker, clips, and work that arrives by three ways."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import paths  # noqa: F401  # finds what is imported next
from support.jobs.daemon import SECONDS, UPFRAME, RunningDaemon, a_clip, daemon_in, until
from support.servers.mqtt import Broker

from upframe.daemon.jobs.client import place_in
from upframe.daemon.jobs.model import Job
from upframe.daemon.jobs.store import JobStore

BASE = "upframe/node1"
ENLARGE = {"enable_upscaling": True, "upscaling_scale": 2}
"""Takes no time."""
DOUBLE = {"enable_frame_interpolation": True, "frame_interpolation_exp": 1}
"""Takes a second or two for some ten frames."""
ENDLESS = {"enable_frame_interpolation": True, "frame_interpolation_exp": 6, **ENLARGE}
"""With a clip of a hundred frames, more work than any run waits for."""


class Yard:
    """All folders of a run.

    Args:
        folder: Made empty; also holds what the daemon would leave in the temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = folder / "in"
        self.watched = folder / "watched"
        self.asked = folder / "asked"
        self.clips = folder / "clips"
        self.temporary = folder / "temporary"
        for path in (self.input, self.watched, self.asked, self.clips, self.temporary):
            path.mkdir(parents=True)

    @property
    def store(self) -> Path:
        return place_in(self.folder / "state").store

    def watch(self, **more: Any) -> dict[str, Any]:
        """A `[[watch]]` entry."""
        return {
            "input": self.input,
            "output": self.watched,
            "stable_seconds": 0.2,
            "scan_seconds": 2.0,
            "filters": ENLARGE,
            **more,
        }

    def config(
        self,
        broker: Broker | None = None,
        *,
        watches: tuple[dict[str, Any], ...] = (),
        **jobs: Any,
    ) -> dict[str, Any]:
        config: dict[str, Any] = {"jobs": {"roots": [self.folder], **jobs}, "watch": watches}
        if broker is not None:
            config["mqtt"] = {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"}
        return config

    def counts(self) -> dict[str, int]:
        with JobStore(self.store, read_only=True) as store:
            return {str(state): number for state, number in store.counts().items()}

    def jobs(self) -> list[Job]:
        with JobStore(self.store, read_only=True) as store:
            return store.jobs()

    def until_ended(self, number: int, seconds: float = 300.0) -> None:
        """Wait until so many jobs have ended."""

        def ended() -> bool:
            counts = self.counts()
            return sum(counts.get(state, 0) for state in ("done", "failed", "cancelled")) >= number

        until(ended, f"{number} jobs have ended", seconds)

    def leftovers(self) -> list[str]:
        """What no daemon leaves behind once it has nothing to do."""
        found = [
            path
            for folder in (self.input, self.watched, self.asked, self.clips)
            for path in _all_below(folder)
            if path.name.startswith(".") or "partial" in path.name
        ]
        found += _all_below(self.folder / "state" / "results")
        found += _all_below(self.temporary)
        return sorted(str(path.relative_to(self.folder)) for path in found)


def _all_below(folder: Path) -> list[Path]:
    """Files and folders, while others make and remove some."""
    return [
        Path(parent) / name
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
    ]


@contextmanager
def yard_in(folder: Path) -> Iterator[Yard]:
    """Lay out the folders; the daemon's temporary files are caught in one of them."""
    yard = Yard(folder)
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(yard.temporary)
    try:
        yield yard
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


@contextmanager
def running(yard: Yard, config: Mapping[str, Any]) -> Iterator[RunningDaemon]:
    """A daemon that is ready and, where it has a broker, connected."""
    with daemon_in(yard.folder, **config) as daemon:
        if "mqtt" in config:
            until(lambda: daemon.status()["mqtt"]["connected"], "connected to the broker")
        yield daemon


def document(name: str, source: Path, sink: Path, filters: Mapping[str, Any]) -> dict[str, Any]:
    """A good request by MQTT."""
    work = {"source": str(source), "sink": str(sink), "filters": dict(filters)}
    return {"schema": "upframe.job/1", "id": name, **work}


def arrive(source: Path, target: Path) -> None:
    """Let a file appear whole, as a download does at its end."""
    hidden = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, hidden)
    hidden.rename(target)


def publish(broker: Broker, topic: str, payload: Mapping[str, Any]) -> None:
    """Send a message with QoS 1; done when the broker has it."""
    where = ["-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-q", "1"]
    subprocess.run(
        ["mosquitto_pub", *where, "-t", topic, "-m", json.dumps(payload)],
        check=True,
        timeout=SECONDS,
    )


def submit_by_command(
    config: Path, name: str, source: Path, sink: Path, filters: Mapping[str, Any]
) -> int:
    """Run `upframe jobs submit` until a daemon has taken the job, as a careful script would.

    Returns:
        how often it had to be run.
    """
    words = [*UPFRAME, "jobs", "submit", str(source), str(sink), "--id", name]
    if filters.get("enable_frame_interpolation"):
        words += ["--interpolate", str(filters["frame_interpolation_exp"])]
    if filters.get("enable_upscaling"):
        words += ["--upscale", str(filters["upscaling_scale"])]
    end = time.monotonic() + 300
    tries = 0
    while True:
        tries += 1
        ran = subprocess.run(
            [*words, "--config", str(config)], capture_output=True, text=True, timeout=SECONDS
        )
        if ran.returncode == 0:
            return tries
        if ran.returncode not in (69, 75) or time.monotonic() > end:
            raise RuntimeError(f"{' '.join(words)}: {ran.returncode}: {ran.stderr}")
        time.sleep(0.3)


@dataclass(frozen=True)
class Content:
    """What a video shows."""

    frames: int
    digest: str
    """Of all pixels of all frames."""


def content_of(path: Path) -> Content:
    """Decode a video.

    Raises:
        av.error.FFmpegError: if it is none, or a broken one.
    """
    digest = hashlib.sha256()
    frames = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray(format="yuv420p").tobytes())
            frames += 1
    return Content(frames, digest.hexdigest())


def shows(path: Path) -> Content | str:
    """What a video shows, or why it is none."""
    try:
        return content_of(path)
    except (OSError, av.error.FFmpegError) as error:
        return f"{type(error).__name__}: {error}"


def some_clips(yard: Yard, *frames: int) -> list[Path]:
    return [a_clip(yard.clips / f"clip{number}.mp4", number) for number in frames]


def shuffled(chance: random.Random, ways: tuple[str, ...], number: int) -> list[str]:
    """As many of each way as can be, in an order of chance."""
    chosen = [ways[index % len(ways)] for index in range(number)]
    chance.shuffle(chosen)
    return chosen


def logged(yard: Yard) -> Iterator[dict[str, Any]]:
    """All lines that the daemons of a run have written."""
    for line in (yard.folder / "log.jsonl").read_text().splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def ended_twice(yard: Yard) -> list[str]:
    """Jobs that the log says were done more than once."""
    done = Counter(line["job_id"] for line in logged(yard) if line.get("event") == "job-done")
    return [name for name, number in done.items() if number > 1]
