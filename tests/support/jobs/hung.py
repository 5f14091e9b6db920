"""Processes whose filter never returns, or takes its time, under a watch with short limits.

python -m support.jobs.hung KIND SOURCE SINK [AT]    as `upframe run` would end
python -m support.jobs.hung pipe OPTION …            as `upframe pipe`
python -m support.jobs.hung --parent PID --lock F    as a worker whose jobs all hang
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from upframe.daemon.__main__ import main
from upframe.daemon.convert.conversion import Ledger, run
from upframe.daemon.convert.preflight import RunRequest
from upframe.daemon.hang import HangLimits, HangWatch, say_on_stderr
from upframe.daemon.jobs.model import partial_token
from upframe.daemon.specification import ConversionOptions
from upframe.daemon.workers.channel import run_worker
from upframe.daemon.workers.messages import Event, Ready, Request, RunJob
from upframe.daemon.workers.worker import JobChannel, serve
from upframe.filters.chain import BuiltFilter, build_filters
from upframe.filters.device import Runtime
from upframe.filters.frame import Frame, StreamInfo
from upframe.filters.options import FilterOptions

FRAMES = 12
"""In a segment."""
LIMITS = HangLimits(asleep=2.0, tick=0.1)
LONG_SECONDS = 5.0
"""Of the calls that do return."""
RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
OPTIONS = ConversionOptions(
    filters=FilterOptions(enable_frame_interpolation=True), segment_frames=FRAMES
)


def pause() -> None:
    """Sleep in native code for ever."""
    while True:
        ctypes.CDLL(None).pause()


def work() -> None:
    """Keep a core busy for a long time."""
    ends = time.process_time() + LONG_SECONDS
    while time.process_time() < ends:
        pass


def rest() -> None:
    """Sleep, but for less than counts as a hang."""
    time.sleep(LIMITS.asleep / 2)


KINDS: Mapping[str, Callable[[], object]] = {
    "go": lambda: None,
    "pause": pause,
    "work": work,
    "rest": rest,
}


class Slow:
    """A filter that does something else before one of its frames, counted from 1."""

    def __init__(self, something: Callable[[], object], at: int) -> None:
        self._something, self._at = something, at
        self._num_frames = 0

    def open(self, info: StreamInfo) -> StreamInfo:
        return info

    def __call__(self, frame: Frame) -> Iterable[Frame]:
        self._num_frames += 1
        if self._num_frames == self._at:
            os.write(2, b"begins\n")
            self._something()
        return [frame]

    def flush(self) -> Iterable[Frame]:
        return ()

    def statistics(self) -> Mapping[str, int]:
        return {}


def convert(kind: str, source: str, sink: str, at: str = "3", **more: Any) -> None:
    def build(options: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
        slow = BuiltFilter("slow", Slow(KINDS[kind], int(at)), None)
        return slow, *build_filters(options, runtime)

    run(RunRequest(source, sink, OPTIONS, RUNTIME), filters=build, **more)


def serve_hung(_: argparse.Namespace) -> int:
    channel = JobChannel()
    channel.take_log()
    channel.send(Ready(device="cpu"))

    def answer(request: Request) -> Event:
        assert isinstance(request, RunJob)
        ledger = Ledger(partial_token(request.id), lambda *_: None)
        convert("pause", str(request.work.source), str(request.work.sink), ledger=ledger)
        raise AssertionError("it returned")

    return serve(channel, answer, LIMITS)


if __name__ == "__main__":
    if "--parent" in sys.argv:
        run_worker(argparse.ArgumentParser(), serve_hung)
    with HangWatch(say_on_stderr, LIMITS):
        if sys.argv[1] == "pipe":
            sys.exit(main(sys.argv[1:]))
        convert(*sys.argv[1:])
