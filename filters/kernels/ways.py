"""Which way a network is computed on a CPU: measured once on the machine, and remembered.

Names of instruction sets do not tell what is faster: that depends on caches, memory and threads,
too. So all ways take turns on a small picture, and one is taken instead of plain torch only if it
is ahead in four of five readings, or where other work disturbed them in the shortest one. No other
module of the filters reads a clock.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from operator import lt
from pathlib import Path
from statistics import median
from typing import cast, get_args

import torch
from pydantic import BaseModel, FiniteFloat, TypeAdapter

from ..device import cache_folder, cpu_name
from ..errors import DeviceUnavailable
from ..options import Way
from .cpu_convolution import CompiledConv, TileConv, WinogradConv
from .native import VERSION

_logger = logging.getLogger("upframe.filters.ways")

SWITCH = "UPFRAME_WAY"
"""Environment variable: ways, separated by commas; the first that a network has is taken."""


CONVOLUTIONS: Mapping[Way, type[CompiledConv]] = {"winograd": WinogradConv, "tiles": TileConv}
"""Of a way: what computes the layers that it fits."""
EDGES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Of the square picture, pixels: the largest one is taken for which there is time."""
ROUNDS, _WINS = 5, 4
_SECONDS, _MOST_SECONDS = 0.15, 1.0
"""For a measurement, and the most where the smallest picture or the machine is slow."""
_CALM = 1.5
"""Median to fastest reading; above it other work was in between."""
_MOST_BYTES = 1 << 20

Trial = Callable[[int], Callable[[], object]]
"""Makes, for an edge in pixels, what computes a picture of that size once."""
Clock = Callable[[], float]
"""Seconds."""


class Measurement(BaseModel, frozen=True):
    """Readings of all ways of a network, taken at a time in seconds since 1970."""

    network: str
    machine: str
    edge: int
    taken: FiniteFloat
    milliseconds: dict[Way, list[FiniteFloat]]

    @property
    def way(self) -> Way:
        """The fastest of those that are ahead of torch in four of five readings; else torch."""
        best, plain = cast("Way", "torch"), self.milliseconds.get("torch", [])
        for way, own in self.milliseconds.items():
            if sum(map(lt, own, plain)) >= _WINS and median(own) < median(self.milliseconds[best]):
                best = way
        return best

    @property
    def is_sure(self) -> bool:
        """Whether torch is not left because there was no time, or other work in between."""
        own = self.milliseconds.values()
        is_calm = all(len(one) == ROUNDS and median(one) <= _CALM * min(one) for one in own)
        return is_calm or self.way != "torch"


_FILE = TypeAdapter(dict[str, Measurement])
_known: dict[str, Measurement] = {}
_lock = threading.Lock()  # of the above; and two that measure at the same time disturb each other


def choose(
    network: str,
    trials: Mapping[Way, Trial],
    given: Way | None = None,
    *,
    smallest: int = EDGES[0],
    clock: Clock = time.perf_counter,
) -> Way:
    """Choose the given way of a network, or one that `SWITCH` names, or the fastest.

    Where other work leaves no calm readings, the shortest ones decide, for this process only: other
    work can only make them longer, and torch would cost a service half its speed for months.
    `network` names all on which its speed depends, for people; `trials` are of every way that it
    has here, "torch" among them; the smallest picture to measure with has an edge of `smallest`
    pixels.

    Raises:
        DeviceUnavailable: if the network has none of the ways asked for.
    """
    if wanted := given or os.environ.get(SWITCH):
        for name in wanted.split(","):
            for way in trials:
                if way == name.strip():
                    return way
        text = f"{network} can be computed by {', '.join(trials)} on this machine, not by {wanted}"
        raise DeviceUnavailable(f"{text}; ways are {', '.join(get_args(Way))}")
    if len(trials) == 1:
        return "torch"
    key = f"{network} on {machine()}"
    with _lock:
        found = _known.get(key) or _read().get(key)
        if found is None or found.milliseconds.keys() != trials.keys():
            found = measure(network, trials, smallest, clock)
            _logger.debug("measured: %r", found)
            if not found.is_sure:  # the next process may find it calm
                return min(trials, key=lambda way: min(found.milliseconds[way]))
            _remember(key, found)
        _known[key] = found
    return found.way


def measure(
    network: str, trials: Mapping[Way, Trial], smallest: int, clock: Clock = time.perf_counter
) -> Measurement:
    """Let all ways take turns; on a busy machine each reading is the best of several."""

    def seconds(run: Callable[[], object]) -> float:
        began = clock()
        run()
        return clock() - began

    def ready(trial: Trial, edge: int) -> Callable[[], object]:
        run = torch.inference_mode()(trial(edge))
        run()  # only then memory is there, and what torch compiles
        return run

    here, began = machine(), clock()
    once = seconds(ready(trials["torch"], smallest)) * len(trials) * (ROUNDS + 1) / smallest**2
    left = _SECONDS - (clock() - began)
    edge = max(edge for edge in EDGES if edge == smallest or once * edge**2 <= left)
    readings: dict[Way, list[float]] = {way: [] for way in trials}
    runs = [(ready(trial, edge), readings[way]) for way, trial in trials.items()]
    number = 0
    while True:
        place = slice(number % ROUNDS, number % ROUNDS + 1)
        for run, own in runs:
            own[place] = [min([seconds(run) * 1000, *own[place]])]
        runs.reverse()  # in turns also which one comes first
        found = Measurement(
            network=network, machine=here, edge=edge, taken=time.time(), milliseconds=readings
        )
        if clock() - began > _MOST_SECONDS or (place.stop == ROUNDS and found.is_sure):
            return found
        number += 1


def machine() -> str:
    """Describe the CPU, the versions and the number of threads on which speed depends."""
    versions = f"upframe {version('upframe')}, torch {torch.__version__}, kernels {VERSION}"
    cpu = f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{cpu}, {torch.get_num_threads()} threads, {versions}"


def ways_file() -> Path:
    """File of all measurements; what is not in it is measured."""
    return cache_folder() / "ways.json"


def measurements() -> list[Measurement]:
    """Return what is known of this machine in this process's number of threads."""
    return [found for found in (_read() | _known).values() if found.machine == machine()]


def forget() -> None:
    """Forget all measurements, so that they are taken again.

    Raises:
        OSError: if the file cannot be removed.
    """
    _known.clear()
    ways_file().unlink(missing_ok=True)


def _read() -> dict[str, Measurement]:
    """Read the file; a damaged or foreign one is as good as none."""
    try:
        with ways_file().open("rb") as opened:
            return _FILE.validate_json(opened.read(_MOST_BYTES))
    except (OSError, ValueError):
        return {}


def _remember(key: str, found: Measurement) -> None:
    """Add to what other processes have written meanwhile; they read the file at any moment."""
    file = ways_file()
    written = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        written.write_bytes(_FILE.dump_json(_read() | {key: found}, indent=1))
        written.replace(file)
    except OSError as error:
        _logger.debug("each process measures for itself, %s cannot be written: %s", file, error)
