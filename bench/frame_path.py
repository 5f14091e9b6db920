"""Which modules a newcomer must open to follow one frame, or one job: those that really execute.

    python bench/frame_path.py            all three, each in a process of its own
    python bench/frame_path.py run        `upframe run`: between the first frame and the last
    python bench/frame_path.py live       a live stream once settled, the filters' own room left out
    python bench/frame_path.py job        the daemon, from an MQTT request until its job runs

A profile hook sees each call of a function of the three rooms in one process; what runs in child
processes (the publisher, the worker) is not seen. Ends with 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import paths  # noqa: F401  # finds what is imported next

import upframe.daemon

GOALS = {"run": 37, "live": 24, "job": 30}
"""Modules at most."""
ROOT = Path(upframe.daemon.__file__).parents[1]
_FRAME = "filters/frame.py"
_SECONDS = 60.0
_JOBS = 3
"""What executes for each of them belongs to the path; what the daemon does besides does not."""


class Calls:
    """Notes when functions of which modules are called, in all threads that start from now on."""

    def __init__(self) -> None:
        self._modules: dict[CodeType, str | None] = {}
        self._calls: list[tuple[float, str]] = []
        self.frames: list[float] = []
        """When a frame was made, which a filter then gets or has computed."""

    def start(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def between(self, begin: float, end: float) -> list[str]:
        return sorted({module for at, module in self._calls if begin <= at <= end})

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._modules:
            self._modules[code] = self._module_of(code)
        module = self._modules[code]
        if module is None:
            return
        at = time.perf_counter()
        self._calls.append((at, module))
        if module == _FRAME and code.co_qualname == "Frame.__post_init__":
            self.frames.append(at)

    @staticmethod
    def _module_of(code: CodeType) -> str | None:
        """A room's file; None for others, and for the bodies of modules and classes."""
        path = Path(code.co_filename)
        if not code.co_flags & CO_OPTIMIZED or not path.is_relative_to(ROOT):
            return None
        inside = path.relative_to(ROOT)
        return str(inside) if inside.parts[0] in ("daemon", "filters", "io") else None


def run(calls: Calls, folder: Path) -> list[str]:
    """Both filters, from file to file, with sound."""
    from upframe.daemon.__main__ import main
    from upframe.io.demo import write_demo_clip

    clip = folder / "clip.mp4"
    write_demo_clip(clip, width=64, height=48, rate=Fraction(10), num_frames=150)
    words = ["--interpolate", "1", "--upscale", "2", "--weights", "builtin", "--progress", "none"]
    calls.start()
    code = main(["run", str(clip), str(folder / "out.mp4"), *words])
    calls.stop()
    assert code == 0
    return calls.between(calls.frames[0], calls.frames[-1])


def live(calls: Calls, folder: Path) -> list[str]:
    """From a sender of MPEG-TS to a receiver, for a few seconds."""
    from support.media.ts_senders import TsSender
    from support.servers.receivers import Receiver

    from upframe.daemon.__main__ import main

    words = ["--upscale", "2", "--weights", "builtin", "--progress", "none", "--duration", "4"]
    with TsSender(rate=10) as sender, Receiver(folder / "received") as receiver:
        calls.start()
        code = main(["run", sender.url, receiver.url, *words])
        calls.stop()
    assert code == 0
    modules = calls.between(calls.frames[len(calls.frames) // 2], calls.frames[-1])
    return [module for module in modules if not module.startswith("filters/")]


def job(calls: Calls, folder: Path) -> list[str]:
    """A request is published to a real broker; the daemon is this process."""
    from support.servers.mqtt import broker_in

    from upframe.daemon.__main__ import main
    from upframe.io.demo import write_demo_clip

    root = folder / "videos"
    root.mkdir()
    write_demo_clip(root / "in.mp4", width=64, height=48, rate=Fraction(10), num_frames=20)
    config = folder / "upframe.toml"
    with broker_in(folder / "broker") as broker:
        config.write_text(
            f'state_dir = "{folder}/state"\nweights = "builtin"\n'
            f'jobs = {{ roots = ["{root}"], devices = ["cpu"] }}\n'
            f'mqtt = {{ host = "127.0.0.1", port = {broker.port}, node_id = "node1" }}\n'
        )
        windows: list[tuple[float, float]] = []
        thread = threading.Thread(target=_submit, args=(broker.port, root, windows))
        calls.start()
        thread.start()
        code = main(["serve", "--config", str(config)])
        calls.stop()
        thread.join()
    assert code == 0
    assert len(windows) == _JOBS, f"a job did not run within {_SECONDS:g} s"
    always = set.intersection(*(set(calls.between(*window)) for window in windows))
    return sorted(name for name in always if name.startswith("daemon/"))


def _submit(port: int, root: Path, windows: list[tuple[float, float]]) -> None:
    """Publish requests once the node is there; note when, and when the job of each is running."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    sys.setprofile(None)
    heard: queue.Queue[bytes] = queue.Queue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.put(message.payload)
    client.connect("127.0.0.1", port)
    for topic in ("status", "job/+/state"):
        client.subscribe(f"upframe/node1/{topic}")
    client.loop_start()

    def until(word: bytes) -> float:
        while word not in heard.get(timeout=_SECONDS):
            pass
        return time.perf_counter()

    try:
        until(b"online")
        for number in range(_JOBS):
            time.sleep(1.0)  # what the start, or the job before, goes on with has ended
            document = {
                "schema": "upframe.job/1",
                "id": f"job{number}",
                "source": str(root / "in.mp4"),
                "sink": str(root / f"out{number}.mp4"),
                "filters": {"enable_upscaling": True, "upscaling_scale": 2},
            }
            began = time.perf_counter()
            client.publish("upframe/node1/job/submit", json.dumps(document), qos=1)
            windows.append((began, until(b'"running"')))
            until(b'"done"')
    finally:
        client.disconnect()
        client.loop_stop()
        os.kill(os.getpid(), signal.SIGTERM)


PARTS: dict[str, Callable[[Calls, Path], list[str]]] = {"run": run, "live": live, "job": job}


def measure(parts: Iterable[str]) -> dict[str, list[str]]:
    """Run each part in a process of its own; the modules by part."""
    found: dict[str, list[str]] = {}
    for part in parts:
        command = [sys.executable, __file__, part, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[part] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(words: list[str]) -> int:
    if words[1:] == ["--json"]:
        with tempfile.TemporaryDirectory(prefix="upframe-path-") as folder:
            print(json.dumps(PARTS[words[0]](Calls(), Path(folder))))
        return 0
    found = measure(words or PARTS)
    for part, modules in found.items():
        print(f"{part}: {len(modules)} modules (goal {GOALS[part]})", *modules, sep="\n  ")
    return int(any(len(modules) > GOALS[part] for part, modules in found.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
