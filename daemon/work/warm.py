"""Filters that stay built from job to job: weights are loaded once, a network runs in once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from ...filters.chain import BuiltFilter, Chain, Runtime, build_filters
from ...filters.frame import Frame, StreamInfo
from ...filters.options import FilterOptions
from ..report import kept_warnings

log = logging.getLogger("upframe.work")

_MOST_KEPT = 4
"""Sets of filters: few settings are in use at once, and each holds its networks in memory."""
_WIDTH, _HEIGHT = 64, 48
_TIME_BASE = Fraction(1, 25)

Signature = tuple[tuple[int, int, int], ...]
"""Inode, size and time of every file of weights."""


@dataclass(frozen=True, slots=True)
class _Kept:
    filters: tuple[BuiltFilter, ...]
    signature: Signature | None
    warnings: tuple[str, ...]
    """Said while building; true of every job that uses them."""


class WarmFilters:
    """Builds filters as :func:`build_filters` does, or gives those that it built before.

    What it gives is opened anew by every job, so jobs must come one after the other.
    """

    def __init__(self, most_kept: int = _MOST_KEPT) -> None:
        self._most_kept = most_kept
        self._kept: OrderedDict[tuple[FilterOptions, Runtime], _Kept] = OrderedDict()

    def __call__(self, options: FilterOptions, runtime: Runtime) -> tuple[BuiltFilter, ...]:
        """Give the filters that the options enable.

        Raises:
            CheckpointRejected, WeightsUnavailable: as building does.
        """
        kept = self._kept.pop((options, runtime), None)
        if kept is None or kept.signature is None or _signature_of(kept.filters) != kept.signature:
            kept = _build(options, runtime)
        else:
            for text in kept.warnings:
                log.warning("%s", text)
        self._kept[options, runtime] = kept
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        return kept.filters

    def warm_up(self, options: FilterOptions, runtime: Runtime) -> None:
        """Build filters and take two small frames through them.

        Raises:
            CheckpointRejected, WeightsUnavailable: as building does.
            FilterError: if a network does not work here.
        """
        chain = Chain(tuple(built.filter for built in self(options, runtime)))
        chain.open(StreamInfo(_WIDTH, _HEIGHT, "yuv420p", _TIME_BASE))
        with torch.inference_mode():
            for index in range(2):
                for _ in chain(_frame(index, runtime.device)):
                    pass
            for _ in chain.flush():
                pass


def _frame(index: int, device: torch.device) -> Frame:
    row = torch.linspace(0, 1 - 0.2 * index, _WIDTH, device=device)
    pixels = row.expand(3, _HEIGHT, _WIDTH).contiguous()
    return Frame(pixels, pts=index, duration=1, time_base=_TIME_BASE)


def _build(options: FilterOptions, runtime: Runtime) -> _Kept:
    with kept_warnings() as warned:
        filters = build_filters(options, runtime)
    return _Kept(filters, _signature_of(filters), tuple(warned.messages))


def _signature_of(filters: Sequence[BuiltFilter]) -> Signature | None:
    """Describe the files of weights as they are now; None where one is gone."""
    try:
        found = [built.weights.path.stat() for built in filters if built.weights is not None]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)
