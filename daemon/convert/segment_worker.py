"""A process that makes segments of one film on one device, as :mod:`.crew` orders them.

It keeps its filters, and dies with the thread that has started it. What only this process may have
met, such as a card that fails, ends it; what every other one would meet as well is sent.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import pickle
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch

from ...filters.chain import BuiltFilter, build_filters
from ...filters.device import allow_memory, resolve_device
from ...filters.errors import (
    DeviceUnavailable,
    FilterError,
    WeightsUnavailable,
    is_out_of_memory,
)
from ...io.child import ParentPipes, kill_on_parent_death
from ...io.errors import MediaError
from ...io.limits import limits
from ...io.web import network_rules
from ..exits import Exit
from ..hang import HangWatch, say_on_stderr
from .crew import (
    Event,
    Order,
    SegmentProgress,
    Setup,
    WorkerReady,
    WorkFailed,
    difference,
    machine_of,
)
from .pipeline import Flow, Pipeline
from .segments import MadeSegment, run_segment

_SHOW_SECONDS = 0.5


def main() -> NoReturn:
    """Make segments until no more are ordered."""
    parser = argparse.ArgumentParser(prog="upframe-segments")
    parser.add_argument("--parent", type=int, required=True)
    for name in ("--machine", "--source", "--folder", "--share"):
        parser.add_argument(name, help="Of another machine, instead of what the setup says.")
    arguments = parser.parse_args()
    status = Exit.UNAVAILABLE
    if kill_on_parent_death(arguments.parent):
        try:
            with HangWatch(say_on_stderr):
                status = _Segments(ParentPipes(), arguments).serve()
        except BaseException as error:
            traceback.print_exc()
            status = Exit.TRY_LATER if is_out_of_memory(error) else Exit.INTERNAL
    sys.stderr.flush()
    os._exit(status)  # a thread of a library may hang, or free tensors too late


class _Segments:
    def __init__(self, pipes: ParentPipes, arguments: argparse.Namespace) -> None:
        self._pipes = pipes
        self._given = arguments

    def serve(self) -> Exit:
        """Answer orders; the first line is the setup."""
        given = self._given
        try:
            if given.machine is not None:  # before the setup, which other versions cannot read
                wanted: dict[str, str] = json.loads(given.machine)
                device = resolve_device("cpu" if wanted["device"] == "cpu" else "cuda")
                if (wrong := difference(wanted, machine_of(device))) is not None:
                    raise DeviceUnavailable(wrong)
            setup: Setup = pickle.loads(base64.b64decode(self._pipes.stdin.readline()))
            if given.source is not None:
                work = replace(setup.work, source=given.source)
                setup = replace(setup, work=work, memory_share=int(given.share))
            if setup.runtime.device.type == "cpu":
                allow_memory(limits().memory_mebibytes, share=setup.memory_share)
            torch.set_num_threads(setup.threads)
            with network_rules(setup.rules):
                filters = build_filters(setup.work.options.filters, setup.runtime)
                for one in filters:
                    if one.weights and one.weights.sha256 != setup.weights[one.name]:
                        raise WeightsUnavailable(f"the weights of {one.name} have changed")
                self._send(WorkerReady())
                for line in self._pipes.stdin:
                    self._send(self._made(setup, filters, pickle.loads(base64.b64decode(line))))
        except (MediaError, FilterError) as error:
            if is_out_of_memory(error.__cause__):
                raise
            self._send(WorkFailed(error=type(error).__name__, message=str(error)))
        return Exit.OK

    def _made(self, setup: Setup, filters: tuple[BuiltFilter, ...], order: Order) -> MadeSegment:
        segment, path = order
        if self._given.folder is not None:
            path = Path(self._given.folder, path.name)
        work = replace(setup.work, segment=segment)

        def execute(pipeline: Pipeline) -> None:
            asyncio.run(self._run(pipeline, segment.number))

        return run_segment(work, path, filters, setup.runtime, execute, Flow()).complete()

    async def _run(self, pipeline: Pipeline, number: int) -> None:
        async def show() -> None:
            while True:
                counts = {
                    name: getattr(pipeline.flow, name) for name in ("frames_in", "frames_out")
                }
                self._send(SegmentProgress(number=number, **counts))
                await asyncio.sleep(_SHOW_SECONDS)

        shown = asyncio.create_task(show())
        try:
            await pipeline.run()
        finally:
            shown.cancel()
            with suppress(asyncio.CancelledError):
                await shown

    def _send(self, event: Event) -> None:
        self._pipes.write(event.model_dump_json().encode() + b"\n")


if __name__ == "__main__":
    main()
