"""How long a film will take, measured on a few of its pictures before the work begins.

Pictures at three places, or parts of them where whole ones would take too long, are filtered and
encoded. Filters are then as they were: the output is the same with and without an estimate.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from math import sqrt

import torch
from pydantic import BaseModel, Field

from ...filters.chain import BuiltFilter
from ...filters.errors import FilterError, TooLarge
from ...filters.frame import Picture, StreamInfo
from ...io.errors import MediaError
from ...io.part import Part
from ...io.probe import excerpts, part_of, trial_encoder
from ...io.root import ConfinedFile
from ..specification import MediaOptions
from .compute import Compute

log = logging.getLogger("upframe.estimate")

_PLACES = (1 / 6, 1 / 2, 5 / 6)
_KEPT_BYTES = 256 << 20
"""Of filtered pictures, for the encoder."""
_LEAST_EDGE = 64
"""Pixels, of parts; encoders accept it."""
_RATES = {"cpu": 2.5e10, "cuda": 1e12}
"""Multiplications a second on a slow device of a kind."""
_MULTIPLICATIONS = {"interpolate": 0.003, "upscale": 0.25}
"""About, for a pixel of each frame that goes out, by byte of weights; RIFE works on small ones."""
_CODING_SECONDS = 1e-6
"""For each pixel of the output, with a slow encoder."""


class Estimate(BaseModel, frozen=True):
    """What a film will take."""

    seconds: float = Field(description="For the whole film.")
    fps: float = Field(description="Frames of the output a second.")
    frames: int = Field(description="Of the output.")
    num_pictures: int = Field(description="Of the source, on which it was measured.")
    measured: str = Field(description="On what it was measured.")

    def text(self, now: datetime) -> str:
        """Write the estimate in one line, for work that begins now."""
        end = now + timedelta(seconds=self.seconds)
        when = end.strftime("%H:%M" if end.date() == now.date() else "%a %d %b %H:%M")
        hours, minutes = divmod(round(self.seconds / 60), 60)
        took = f"{hours} h {minutes} min" if hours else f"{minutes} min"
        took = f"{self.seconds:.0f} s" if self.seconds < 60 else took
        return f"{self.frames:,} frames: about {took}, done by {when}; {self.fps:.3g} fps"


@dataclass(frozen=True, slots=True)
class Limits:
    """When an estimate is made, and what it may take."""

    least_seconds: float = 60.0
    """Of the film's work."""
    share: float = 0.02
    """Of the film's work, for the estimate."""
    most_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Film:
    """A conversion whose filters are built; nothing of it may be in flight."""

    source: str | ConfinedFile
    sink: str | None
    """The output's name; None leaves the encoder out."""
    info: StreamInfo
    filters: Sequence[BuiltFilter]
    compute: Compute
    device: torch.device
    options: MediaOptions
    part: Part | None = None
    """Which part of the source it is; None for all."""
    num_workers: int = 1
    """Which make it at the same time."""

    @property
    def num_frames(self) -> int:
        """Frames of the output; 0 if they cannot be known."""
        out = self.compute.info
        return out.num_frames or round((out.duration_seconds or 0) * (out.average_rate or 0))

    @property
    def bound_seconds(self) -> float:
        """What a slow machine would take, by nothing but numbers of frames and pixels."""
        out, work = self.compute.info, 0.0
        for built in self.filters:
            size = 0 if built.weights is None else built.weights.path.stat().st_size
            work += size * _MULTIPLICATIONS.get(built.name, 0.0) / _RATES[self.device.type]
        pixels = work * self.info.width * self.info.height
        return self.num_frames * (pixels + _CODING_SECONDS * out.width * out.height)


def estimate(
    film: Film,
    limits: Limits,
    wall: Callable[[], float] = time.monotonic,
    cpu: Callable[[], float] = time.process_time,
) -> Estimate | None:
    """Measure what a film will take; its filters are as new afterwards.

    Returns:
        None where nothing can be measured, or the film takes less than is worth it.

    Raises:
        TooLarge: if a frame does not fit in memory.
    """
    if film.num_frames < 2 or film.bound_seconds < limits.least_seconds:
        return None
    try:
        made = _measured(film, limits, wall, cpu)
        return None if made is None or made.seconds < limits.least_seconds else made
    except TooLarge:
        raise
    except (MediaError, FilterError, OSError) as error:
        log.debug("no estimate: %s", error)
        return None
    finally:
        while film.compute.num_in_flight:
            with suppress(FilterError):  # one for each frame in flight, at most
                _ = list(film.compute.settle())
        film.compute.restart()


def _measured(
    film: Film, limits: Limits, wall: Callable[[], float], cpu: Callable[[], float]
) -> Estimate | None:
    compute, info, began = film.compute, film.info, wall()
    lanes = max(1, compute.max_in_flight - 1)
    # an interpolation begins with the second picture
    num = lanes + (compute.info.time_base != info.time_base)
    # so that the places and a cold call before them would end in time on a slow machine
    most = min(limits.most_seconds, limits.share * film.bound_seconds)
    passes = (len(_PLACES) + 1) * lanes * round(info.time_base / compute.info.time_base)
    share = most / film.bound_seconds * film.num_frames / passes
    size = part_size(info.width, info.height, share)
    spent, num_places, made, kept = 0.0, 0, 0, list[Picture]()
    places = excerpts(film.source, info, _PLACES, num, film.part)
    first = next(places, None)
    if first is None:
        return None
    _filtered(film, first, size)  # the first call of each network is slow
    for pictures in chain([first], places):
        started = wall()
        results = _filtered(film, pictures, size)
        spent, made, num_places = spent + wall() - started, made + len(results), num_places + 1
        kept += results if sum(one.num_bytes for one in kept) < _KEPT_BYTES else []
        if wall() + 2 * spent / num_places > began + most:  # for one more, and the encoder
            break
    encode = _encoding(film, kept, wall, cpu)
    whole = info.width * info.height / (size[0] * size[1])
    cores = len(os.sched_getaffinity(0))
    threads = torch.get_num_threads() if film.device.type == "cpu" else 1
    seconds = (
        film.num_frames
        * whole
        * overlapped(spent / made, *encode, threads, cores, film.num_workers)
    )
    part = "" if whole == 1 else f", parts of {size[0]}x{size[1]} pixels"
    coding = "" if any(encode) else ", without encoding"
    return Estimate(
        seconds=round(seconds, 3),
        fps=round(film.num_frames / max(seconds, 1e-9), 3),
        frames=film.num_frames,
        num_pictures=num_places * num,
        measured=f"{made} frames, {num_places} of {len(_PLACES)} places{part}{coding}",
    )


def _filtered(film: Film, pictures: Sequence[Picture], size: tuple[int, int]) -> list[Picture]:
    rate = film.info.rate or film.info.average_rate or 25
    step, made = max(1, round(1 / rate / film.info.time_base)), list[Picture]()
    for index, picture in enumerate(pictures):
        part = replace(part_of(picture, *size), pts=index * step, duration=step)
        made += film.compute(part)
    made += film.compute.settle()
    film.compute.restart()
    return made


def _encoding(
    film: Film, pictures: Sequence[Picture], wall: Callable[[], float], cpu: Callable[[], float]
) -> tuple[float, float]:
    """Return the seconds to encode each picture, and those of one processor."""
    info = replace(film.compute.info, width=pictures[0].width, height=pictures[0].height)
    given = film.options
    encode = film.sink and trial_encoder(info, given.encoder, film.sink, given.container)
    if not encode:
        return 0.0, 0.0
    started, used = wall(), cpu()
    encode(pictures)
    return (wall() - started) / len(pictures), (cpu() - used) / len(pictures)


def overlapped(
    compute: float, encode: float, encode_cpu: float, threads: int, cores: int, workers: int = 1
) -> float:
    """Return the seconds of a frame in pipelines, from those of each stage alone.

    The slowest stage holds up the others, or the cores do, for which they compete.
    """
    slowest = max(compute, encode) / workers
    return max(slowest, (compute * min(threads, cores) + encode_cpu) / cores)


def part_size(width: int, height: int, share: float) -> tuple[int, int]:
    """Return the size of about a share of a picture, as multiples of 16, or of all of it."""

    def edge(whole: int) -> int:
        return min(whole, max(int(whole * sqrt(share)) // 16 * 16, _LEAST_EDGE))

    return (width, height) if share >= 1 else (edge(width), edge(height))
