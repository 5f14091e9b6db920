"""Which way a network is computed on a CPU: measured once on the machine, and remembered.

What is faster cannot be read off the names of instruction sets: it depends on caches, memory and
threads, too. So all ways that a network has on a machine take turns on a small picture, and one is
taken instead of plain torch only if it is ahead in four of five readings. This is the one module
of the filters that reads a clock.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from operator import itemgetter, lt
from pathlib import Path
from statistics import median
from typing import NamedTuple, get_args

import torch
from pydantic import BaseModel, FiniteFloat, TypeAdapter
from torch import Tensor

from ..device import cache_folder, cpu_name
from ..errors import DeviceUnavailable
from ..options import Way
from . import amx, winograd
from .native import VERSION

_logger = logging.getLogger("upframe.filters.ways")

SWITCH = "UPFRAME_WAY"
"""Environment variable: ways, separated by commas. Every network takes the first one that it has,
and nothing is measured."""


class Convolutions(NamedTuple):
    """What a way computes convolutions with."""

    fits: Callable[[winograd.Layer], bool]
    """Whether it can compute a layer on this machine."""
    fits_rgb: Callable[[winograd.Layer], bool]
    """Whether it can compute a layer that ends in a picture."""
    make: Callable[[winograd.Layer, Tensor | None], winograd.CompiledConv]
    """Of a layer, and the slopes of the PReLU behind it."""


CONVOLUTIONS: Mapping[Way, Convolutions] = {
    "winograd": Convolutions(
        winograd.can_convolve, winograd.supports_rgb_output, winograd.WinogradConv
    ),
    "tiles": Convolutions(amx.can_convolve, amx.supports_rgb_output, amx.TileConv),
}
"""By way; "compiled" and "torch" have those of torch."""


# Measuring

EDGES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Of the square picture, pixels: the largest one is taken for which there is time."""
ROUNDS, _WINS = 5, 4
_SECONDS, _MOST_SECONDS = 0.15, 1.0
"""For a measurement, and the most where the smallest picture or the machine is slow."""
_CALM = 1.5
"""Median to fastest reading; above it other work was in between."""

Trial = Callable[[int], Callable[[], object]]
"""Makes, for an edge in pixels, what computes a picture of that size once."""
Clock = Callable[[], float]
"""Seconds."""


class Measurement(BaseModel, frozen=True):
    """Readings of all ways of a network."""

    network: str
    """With its precision."""
    machine: str
    """With all else on which speed depends."""
    milliseconds: dict[Way, list[FiniteFloat]]
    """In the order in which they were taken; none of a way that failed."""
    edge: int
    taken: FiniteFloat
    """Seconds since 1970."""

    @property
    def is_certain(self) -> bool:
        """Whether all readings are there, and nothing but torch itself spoke for torch."""
        readings = self.milliseconds.values()
        is_calm = all(median(own) <= _CALM * min(own) for own in readings if own)
        return all(len(own) == ROUNDS for own in readings) and (is_calm or self.way != "torch")

    @property
    def way(self) -> Way:
        """The fastest of those that are ahead of torch in four of five readings; else torch."""
        plain = self.milliseconds.get("torch", [])
        ahead: dict[Way, float] = {
            way: median(own)
            for way, own in self.milliseconds.items()
            if sum(map(lt, own, plain)) >= _WINS
        }
        return min(ahead.items(), key=itemgetter(1))[0] if ahead else "torch"


def measure(
    network: str,
    trials: Mapping[Way, Trial],
    smallest: int = EDGES[0],
    clock: Clock = time.perf_counter,
) -> Measurement:
    """Let all ways take turns on a picture, `smallest` or more pixels wide, as long as time allows.

    A way that fails is left out, with a warning.
    """
    began = clock()
    edge = _affordable(network, trials, smallest, clock)
    readings: dict[Way, list[float]] = {way: [] for way in trials}
    runs = [(_started(network, way, trial, edge), readings[way]) for way, trial in trials.items()]
    for _ in range(ROUNDS):
        for run, own in runs:
            if run is not None:
                own.append(_seconds(run, clock) * 1000)
        runs.reverse()  # in turns also which one comes first
        if clock() - began > _MOST_SECONDS:
            break
    return Measurement(
        network=network, machine=machine(), milliseconds=readings, edge=edge, taken=time.time()
    )


def _affordable(network: str, trials: Mapping[Way, Trial], smallest: int, clock: Clock) -> int:
    """Find the largest edge for which there is time, by what torch takes for the smallest."""
    began = clock()
    if (run := _started(network, "torch", trials["torch"], smallest)) is None:
        return smallest
    seconds = _seconds(run, clock) * len(trials) * (ROUNDS + 1)
    left = _SECONDS - (clock() - began)
    return max(
        edge for edge in EDGES if edge == smallest or seconds * (edge / smallest) ** 2 <= left
    )


def _started(network: str, way: Way, trial: Trial, edge: int) -> Callable[[], object] | None:
    """Compute once: only then memory is there, and what torch compiles."""
    try:
        run = torch.inference_mode()(trial(edge))
        run()
    except (RuntimeError, MemoryError, OSError) as error:
        _logger.warning("%s cannot be computed by the way %s: %s", network, way, error)
        return None
    return run


def _seconds(run: Callable[[], object], clock: Clock) -> float:
    began = clock()
    run()
    return clock() - began


# Remembering

_MOST_BYTES, _MOST_ENTRIES = 1 << 20, 200
_FILE = TypeAdapter(dict[str, Measurement])
_known: dict[tuple[Path, str], Measurement] = {}
"""By file and key: what this process has read or measured."""
_lock = threading.Lock()  # of the above; and two that measure at the same time disturb each other


def ways_file() -> Path:
    """File of all measurements; what is not in it is measured."""
    return cache_folder() / "ways.json"


def machine() -> str:
    """Describe the CPU, the versions and the number of threads on which speed depends."""
    return f"{_processor()}, {torch.get_num_threads()} threads"


@cache
def _processor() -> str:
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict[str, object])()
    flags = " ".join(sorted(name for name, value in known.items() if value is True))
    level = torch.backends.cpu.get_cpu_capability()  # less than the CPU has, if so configured
    versions = f"upframe {version('upframe')}, torch {torch.__version__}, kernels {VERSION}"
    return f"{cpu_name()} ({flags}; {level}), {versions}"


def asked(network: str, ways: Collection[Way], given: Way | None) -> Way | None:
    """Return the way that a network must be computed by; None if the fastest one is to be found.

    Args:
        network: its name, for people.
        ways: every way that it has here.
        given: must be taken; None for what `SWITCH` says.

    Raises:
        DeviceUnavailable: if the network does not have the given way here, or none of those that
            `SWITCH` names.
    """
    names = [given] if given else [name.strip() for name in os.environ.get(SWITCH, "").split(",")]
    wanted = [way for name in names for way in get_args(Way) if way == name]
    if len(wanted) < len(names) and names != [""]:
        known = ", ".join(get_args(Way))
        raise DeviceUnavailable(f"{SWITCH} must name some of {known}, got {','.join(names)!r}")
    for way in wanted:
        if way in ways:
            return way
    if wanted:
        raise DeviceUnavailable(
            f"{network} was to be computed by the way {' or '.join(wanted)}, but on this machine "
            f"it has only {', '.join(ways)}"
        )
    return None


def fastest(
    network: str,
    trials: Mapping[Way, Trial],
    *,
    smallest: int = EDGES[0],
    clock: Clock = time.perf_counter,
) -> Way:
    """Find the fastest way of a network, from what is known of this machine or by measuring.

    Args:
        network: all on which its speed depends, for people.
        trials: of every way that it has here, "torch" among them.
        smallest: edge of the smallest picture to measure with, pixels.
        clock: for measuring.
    """
    if len(trials) == 1:
        return "torch"
    file, key = ways_file(), f"{network} on {machine()}"
    with _lock:
        found = _known.get((file, key)) or _read(file).get(key)
        if found is None or found.milliseconds.keys() != trials.keys():
            found = measure(network, trials, smallest, clock)
            _logger.debug("measured: %r", found)
            if not found.is_certain:
                return found.way
            _remember(file, key, found)
        _known[file, key] = found
    return found.way


def measurements() -> Sequence[Measurement]:
    """Return what is known of this machine in this process's number of threads, by network."""
    here, file = machine(), ways_file()
    with _lock:
        mine = [found for (path, _), found in _known.items() if path == file]
        known = [found for found in (*_read(file).values(), *mine) if found.machine == here]
    return sorted({found.network: found for found in known}.values(), key=lambda one: one.network)


def forget() -> None:
    """Forget them, so that they are measured again.

    Raises:
        OSError: if the file cannot be written.
    """
    here, file = machine(), ways_file()
    with _lock:
        kept = {key: found for key, found in _read(file).items() if found.machine != here}
        _write(file, kept)
        _known.clear()


def _remember(file: Path, key: str, found: Measurement) -> None:
    """Add to what other processes have written meanwhile; the oldest ones are dropped."""
    entries = sorted({**_read(file), key: found}.items(), key=lambda item: item[1].taken)
    try:
        _write(file, dict(entries[-_MOST_ENTRIES:]))
    except OSError as error:
        _logger.debug("each process measures for itself, %s cannot be written: %s", file, error)


def _read(file: Path) -> dict[str, Measurement]:
    """Read the file; a damaged or foreign one is as good as none."""
    try:
        with file.open("rb") as opened:
            return _FILE.validate_json(opened.read(_MOST_BYTES))
    except (OSError, ValueError):
        return {}


def _write(file: Path, entries: dict[str, Measurement]) -> None:
    """Replace the file at once: others read it at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(_FILE.dump_json(entries, indent=1))
        os.replace(name, file)
    except OSError:
        with suppress(OSError):
            os.unlink(name)
        raise
