"""A real daemon as a child process, with a service manager that listens to what it says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from upframe.daemon.jobs.api import NewJob
from upframe.daemon.jobs.client import DaemonClient, place_in
from upframe.daemon.jobs.model import Job
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.specification import ConversionSpec
from upframe.io.demo import write_demo_clip

UPFRAME = (sys.executable, "-m", "upframe.daemon")
SECONDS = 60.0
"""For anything that a daemon is waited for."""

SMALL = {"enable_upscaling": True, "upscaling_scale": 2}
"""Filters that take no time."""
HEAVY = {
    "enable_frame_interpolation": True,
    "frame_interpolation_exp": 6,
    "enable_upscaling": True,
    "upscaling_scale": 8,
}
"""Filters that take minutes: a clip of 30 frames becomes one of 1857, with 64 times the pixels."""


def a_clip(path: Path, frames: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.part.mp4")
    write_demo_clip(hidden, width=64, height=48, rate=Fraction(10), num_frames=frames)
    return hidden.rename(path)


def toml(value: object) -> str:
    """Write a value as TOML does; strings and keys here need no more than JSON."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key} = {toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(each) for each in value)}]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def until(found: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Wait for something that is true, and give it."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


class RunningDaemon:
    """One `upframe serve`; made by `daemon_in`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.file = folder / "upframe.toml"
        self.log_file = folder / "log.jsonl"
        self.told: list[str] = []
        """What it said to the service manager, line by line."""
        self.port = 0
        """Of its HTTP server, if the test knows."""
        self.write(config)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(folder / "notify"))
        self._manager.setblocking(False)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*UPFRAME, "serve", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=os.environ
                | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "30000000"},
            )

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return place_in(self.state).socket

    def write(self, config: Mapping[str, Any]) -> None:
        """Write the configuration: as given, on top of what every test wants."""
        base = {"state_dir": self.state, "weights": "builtin", "log": {"format": "json"}}
        jobs = {"devices": ["cpu"], "retry_delays": [0.1], **config.get("jobs", {})}
        whole = {**base, **config, "jobs": jobs}
        self.file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in whole.items()))

    def heard(self, word: str) -> bool:
        """Whether the service manager was told something that begins so."""
        with suppress(BlockingIOError):
            while True:
                self.told += self._manager.recv(4096).decode().splitlines()
        return any(line.startswith(word) for line in self.told)

    def until_heard(self, word: str) -> None:
        until(lambda: self.heard(word) or self.process.poll() is not None, word)
        assert self.heard(word), (
            f"it ended with {self.process.returncode}:\n{self.log_file.read_text()}"
        )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = SECONDS) -> int:
        return self.process.wait(seconds)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._manager.close()

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, text: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if text in line["message"]]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `upframe jobs …` against it."""
        return subprocess.run(
            [*UPFRAME, "jobs", *words, "--config", str(self.file)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def submit(self, source: Path, sink: Path, filters: Mapping[str, Any], name: str) -> None:
        """Give it a job, as `upframe jobs submit` does."""
        work = ConversionSpec.model_validate(
            {"source": str(source), "sink": str(sink), "filters": filters}
        )
        DaemonClient(self.socket).submit(NewJob(id=name, work=work))

    def jobs(self) -> dict[str, Job]:
        """All jobs as the store has them, also where no daemon runs."""
        with JobStore(place_in(self.state).store, read_only=True) as store:
            return {job.id: job for job in store.jobs()}

    def until_state(self, name: str, state: str) -> Job:
        return until(
            lambda: (job := self.jobs().get(name)) is not None and job.state == state and job,
            f"{name} is {state}",
        )

    def status(self) -> dict[str, Any]:
        return DaemonClient(self.socket).status()

    def workers(self) -> list[int]:
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
            return answer.read()


@contextmanager
def daemon_in(folder: Path, *, ready: bool = True, **config: Any) -> Generator[RunningDaemon]:
    """Start a daemon, by default wait until it is ready, and leave none behind."""
    (folder / "notify").unlink(missing_ok=True)
    daemon = RunningDaemon(folder, config)
    try:
        if ready:
            daemon.until_heard("READY=1")
        yield daemon
    finally:
        daemon.close()


def verified(path: Path) -> int:
    """Decode a video, and count its frames."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return end.getsockname()[1]
