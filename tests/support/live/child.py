"""A child that speaks as the worker of a live stream does, and does what a file tells it to.

It is started as a program, by `command_in(folder)`. The file NAME.do says what to do; without it,
it lives well until its stdin ends. In NAME.log stands what happened to it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def command_in(folder: Path) -> Callable[[str, Path], Sequence[str]]:
    """Start this program in place of a worker."""
    return lambda name, _: [sys.executable, "-S", __file__, name, str(folder)]


def log_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """What happened, line by line."""
    path = folder / f"{name}.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def orders_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line["order"] for line in log_of(folder, name) if "order" in line]


def pids_of(folder: Path, name: str) -> list[int]:
    return [line["pid"] for line in log_of(folder, name) if "order" in line]


def num_farewells(folder: Path, name: str) -> int:
    return sum("farewell" in line for line in log_of(folder, name))


class _Child:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        do = folder / f"{name}.do"
        self.words = do.read_text().split() if do.exists() else []
        self.frames = 0

    def note(self, **line: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def say(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"kind": kind, **fields}), flush=True)  # noqa: T201

    def tell(self, **fields: Any) -> None:
        self.frames += 1
        counts = {"frames_decoded": self.frames, "stalls": 1}
        status = {"name": self.name, "state": "running", "counts": counts, "rss_bytes": 1000}
        status |= {"last_frame_age_seconds": 0.1, "output_state": {"connected": True}}
        status |= {"reconnects": {"ended": 2}, "delay_seconds": {"p50": 0.25, "p99": 0.5}}
        self.say("status", status=status | fields)

    def run(self) -> None:
        self.note(pid=os.getpid(), order=json.loads(sys.stdin.readline()))
        match self.words:
            case ["refuse", code, *text]:
                self.say("exit", code=int(code), message=" ".join(text))
                sys.exit(int(code))
            case ["swear"]:
                self.tell()
                print("this is no JSON", flush=True)  # noqa: T201
            case ["odd"]:
                self.tell(state="connecting", counts={"frames_encoded": "many"})
                self.live()
            case ["complain"]:
                sys.stderr.write("cannot reach rtsp://me:pa55@host/x\n")
                sys.exit(1)
            case ["grow", mebibytes]:
                self.tell(rss_bytes=int(mebibytes) << 20)
            case ["log", *text]:
                self.say("log", level=30, logger="upframe.live.far", message=" ".join(text))
                self.tell()
            case ["once"]:
                self.tell()
            case ["stuck"]:
                self.live(frames_encoded=10, frames_repeated=9)
            case _:
                self.live()
        sys.stdin.read()
        if self.words == ["deaf"]:
            time.sleep(3600)
        self.note(farewell=os.getpid())
        self.say("exit", code=0, message="")

    def live(self, **counts: int) -> None:
        """Tell all the time until stdin ends."""
        os.set_blocking(0, False)
        while os.path.exists("/proc/self"):
            self.tell(counts={"frames_decoded": self.frames, **counts})
            time.sleep(0.05)
            try:
                if os.read(0, 1) == b"":
                    break
            except BlockingIOError:
                continue
        os.set_blocking(0, True)


if __name__ == "__main__":
    _Child(sys.argv[1], Path(sys.argv[2])).run()
