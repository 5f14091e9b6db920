"""One way to run a filter, made ready: loaded, warm, its memory and its quality known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...filters.device import Runtime, resolve_precision
from ...filters.frame import Frame, StreamInfo
from ...filters.options import Policy
from ...filters.quality import psnr_db
from .frames import Feed, Size
from .limits import timed
from .networks import Network
from .peak import PeakMemory
from .rounds import Variant, runs_for

_COMPARED_RUNS = 2
"""Source frames whose results are held against those in fp32."""

Psnr = float | Literal["identical"] | None


@dataclass(frozen=True, slots=True)
class Way:
    """A precision, and how much: the exponent of RIFE, or the scale of an upscaler."""

    precision: str
    amount: float
    is_exp: bool

    @property
    def name(self) -> str:
        """``bf16 exp 2`` or ``bf16 x4``."""
        much = f"exp {self.amount:g}" if self.is_exp else f"x{self.amount:g}"
        return f"{self.precision} {much}"


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Where and on what filters are measured."""

    size: Size
    info: StreamInfo
    frames: Sequence[Frame]
    """On the device."""
    device: torch.device
    policy: Policy


class ReadyWay:
    """A way that was built and has run; what it made first is kept to be compared.

    Raises:
        TooLarge: if the device cannot hold it.
        FilterError: if it cannot be had.
    """

    def __init__(self, way: Way, network: Network, stage: Stage) -> None:
        self.way = way
        self._feed = Feed(list(stage.frames))
        with PeakMemory(stage.device) as memory:
            precision = resolve_precision(way.precision, stage.device)
            runtime = Runtime(stage.device, precision, stage.policy)
            self._filter = network.build(way.amount, runtime)
            self._filter.open(stage.info)
            self._skip = 1 if way.is_exp else 0  # the source frame itself comes first
            self._take_next()
            self.made = [pixels for _ in range(_COMPARED_RUNS) for pixels in self._kept()]
        self.peak_mib = None if memory.grown_bytes is None else memory.grown_bytes / 2**20
        self._run = timed(stage.device, self._take_next)
        self._run_duplicate = timed(stage.device, self._take_again)
        self.seconds = self._run(1)
        """Of one run, read once."""
        self._duplicate_seconds = self._run_duplicate(1)

    def variants(self) -> tuple[Variant, Variant]:
        """To be interleaved: a computed frame, and a duplicate."""
        name = self.way.name
        return (
            Variant(name, self._run, runs_for(self.seconds)),
            Variant(duplicate_of(name), self._run_duplicate, runs_for(self._duplicate_seconds)),
        )

    def psnr_to(self, reference: Sequence[Tensor] | None) -> Psnr:
        """How near it is to what fp32 made of the same frames; None without that."""
        if reference is None:
            return None
        value = psnr_db(self.made, reference)
        return "identical" if math.isinf(value) else value

    def _take_next(self) -> list[Frame]:
        return list(self._filter(self._feed.next()))

    def _take_again(self) -> list[Frame]:
        return list(self._filter(self._feed.again()))

    def _kept(self) -> list[Tensor]:
        """Copies, because a filter may compute the next result in the same place."""
        return [frame.pixels.clone() for frame in self._take_next()[self._skip :]]


def duplicate_of(name: str) -> str:
    """Name the variant that repeats a way's last frame."""
    return f"{name} duplicate"
