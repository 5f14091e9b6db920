"""Each filter alone: every precision and amount of one network at one size, interleaved."""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Literal, Self

import torch
from clips import Feed, Size
from limits import Convolution, timed
from networks import Network
from psnr import psnr_db
from results import FilterFigures, LeftOut
from rounds import Variant, affordable, interleave, runs_for, spread_of
from torch import Tensor

from upframe.filters.device import Runtime, resolve_precision
from upframe.filters.errors import FilterError, TooLarge
from upframe.filters.frame import Frame, StreamInfo
from upframe.filters.options import Policy

_GIGA = 1e9
_SHARE_GUESSED = 0.25
"""Of the best convolution, before anything was measured."""
_RATE_GUESSED = 2e9
"""Operations a second, where there is no limit to take a share of."""
_WARM_RUNS = 4
"""Of each mode before the rounds: one to begin, two to compare, one to time."""


@dataclass(slots=True)
class Measurer:
    """Measures case by case; what it has seen predicts how long the next one will take.

    Args:
        convolutions: the device's best, by precision.
        copy_rate: bytes a second.
        repeats: rounds wanted.
        budget_seconds: for one case.
    """

    convolutions: Mapping[str, Convolution]
    copy_rate: float
    repeats: int
    budget_seconds: float
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    _rates: dict[tuple[int, str], float] = field(default_factory=dict[tuple[int, str], float])
    """Operations a second that a network has reached in a precision."""

    def measure(
        self, network: Network, modes: Sequence[Mode], workload: Workload
    ) -> list[FilterFigures]:
        """Measure one network at one size.

        Args:
            network: of one filter.
            modes: fp32 first, or nothing can be compared to it.
            workload: where, and on what.
        """
        case = f"{network.filter} {network.weights} {workload.size}"
        expected = {mode.name: self._expected_seconds(network, mode, workload) for mode in modes}
        kept, _ = self._afford(case, expected, _WARM_RUNS, "would take")
        ready: list[WarmFilter] = []
        for mode in modes:
            if mode.name not in kept:
                continue
            try:
                ready.append(WarmFilter(mode, network, workload))
            except TooLarge as error:
                self._leave_out(f"{case} {mode.name}", str(error))
            except FilterError as error:
                self._leave_out(f"{case} {mode.name}", f"failed: {error}")
        for one in ready:
            rate = network.flop(workload.size, one.mode.amount) / one.seconds
            self._rates[id(network), one.mode.precision] = rate
        kept, rounds = self._afford(case, {one.mode.name: one.seconds for one in ready}, 0, "takes")
        return self._interleaved(
            network, [one for one in ready if one.mode.name in kept], workload, rounds
        )

    def _expected_seconds(self, network: Network, mode: Mode, workload: Workload) -> float:
        rate = self._rates.get((id(network), mode.precision))
        if rate is None and mode.precision in self.convolutions:
            best = self.convolutions[mode.precision]
            rate = _SHARE_GUESSED * best.flop / best.run(1)
        return network.flop(workload.size, mode.amount) / (rate or _RATE_GUESSED)

    def _afford(
        self, case: str, costs: Mapping[str, float], extra_runs: int, verb: str
    ) -> tuple[tuple[str, ...], int]:
        """Choose what there is time for, and note what there is not."""
        choice = affordable(
            costs, rounds=self.repeats, budget_seconds=self.budget_seconds, extra_runs=extra_runs
        )
        for name in choice.too_long:
            reason = (
                f"{verb} about {costs[name]:.1f} s a frame; all modes of this case together must "
                f"fit into --budget-seconds {self.budget_seconds:g}"
            )
            self._leave_out(f"{case} {name}", reason)
        return choice.kept, choice.rounds

    def _leave_out(self, what: str, reason: str) -> None:
        self.left_out.append(LeftOut(what=what, reason=reason))

    def _interleaved(
        self, network: Network, ready: Sequence[WarmFilter], workload: Workload, rounds: int
    ) -> list[FilterFigures]:
        precisions = dict.fromkeys(one.mode.precision for one in ready)
        limits = {
            precision: self.convolutions[precision].as_variant()
            for precision in precisions
            if precision in self.convolutions
        }
        variants = [variant for one in ready for variant in one.variants()]
        readings = interleave([*variants, *limits.values()], rounds)
        rates = {
            precision: self.convolutions[precision].flop / median(readings[limit.name])
            for precision, limit in limits.items()
        }
        references = {one.mode.amount: one.made for one in ready if one.mode.precision == "fp32"}
        return [self._figures(network, one, workload, readings, rates, references) for one in ready]

    def _figures(
        self,
        network: Network,
        one: WarmFilter,
        workload: Workload,
        readings: Mapping[str, Sequence[float]],
        rates: Mapping[str, float],
        references: Mapping[float, Sequence[Tensor]],
    ) -> FilterFigures:
        mode = one.mode
        seconds = median(readings[mode.name])
        flop, frames = network.flop(workload.size, mode.amount), network.frames(mode.amount)
        limit = rates.get(mode.precision)
        is_reference = mode.precision == "fp32"
        frame_bytes = workload.frames[0].pixels.nbytes
        made_bytes = one.made[0].nbytes * frames
        return FilterFigures(
            filter=network.filter,
            weights=network.weights,
            network=network.description,
            size=str(workload.size),
            precision=mode.precision,
            exp=int(mode.amount) if mode.is_exp else None,
            scale=None if mode.is_exp else mode.amount,
            frames=frames,
            ms=spread_of(readings[mode.name], 1e3),
            fps=frames / seconds,
            gflop=flop / _GIGA,
            gflop_per_second=flop / seconds / _GIGA,
            convolution_gflop_per_second=None if limit is None else limit / _GIGA,
            share_of_convolution=None if limit is None else flop / seconds / limit,
            share_of_copy=(frame_bytes + made_bytes) / self.copy_rate / seconds,
            psnr_db=None if is_reference else one.psnr_to(references.get(mode.amount)),
            peak_mib=one.peak_mib,
            duplicate_ms=spread_of(readings[duplicate_of(mode.name)], 1e3),
        )


_COMPARED_RUNS = 2
"""Source frames whose results are compared with those in fp32."""

Psnr = float | Literal["identical"] | None


@dataclass(frozen=True, slots=True)
class Mode:
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
class Workload:
    """Where and on what filters are measured."""

    size: Size
    info: StreamInfo
    frames: Sequence[Frame]
    """On the device."""
    device: torch.device
    policy: Policy


class WarmFilter:
    """A filter that was built and has run; its first results are kept to be compared.

    Raises:
        TooLarge: if the device cannot hold it.
        FilterError: if it cannot be built.
    """

    def __init__(self, mode: Mode, network: Network, workload: Workload) -> None:
        self.mode = mode
        self._feed = Feed(list(workload.frames))
        with PeakMemory(workload.device) as memory:
            precision = resolve_precision(mode.precision, workload.device)
            runtime = Runtime(workload.device, precision, workload.policy)
            self._filter = network.build(mode.amount, runtime)
            self._filter.open(workload.info)
            self._skip = 1 if mode.is_exp else 0  # the source frame itself comes first
            self._take_next()
            self.made = [pixels for _ in range(_COMPARED_RUNS) for pixels in self._kept()]
        self.peak_mib = None if memory.grown_bytes is None else memory.grown_bytes / 2**20
        self._run = timed(workload.device, self._take_next)
        self._run_duplicate = timed(workload.device, self._take_again)
        self.seconds = self._run(1)
        """Of one run, read once."""
        self._duplicate_seconds = self._run_duplicate(1)

    def variants(self) -> tuple[Variant, Variant]:
        """To be interleaved: a computed frame, and a duplicate."""
        name = self.mode.name
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
    """Name the variant that repeats a mode's last frame."""
    return f"{name} duplicate"


_RESET_HIGH_WATER = "5"
"""To `clear_refs`; see proc(5)."""
_PROC = Path("/proc/self")


class PeakMemory:
    """What the memory grew by at most, while its block ran.

    On a CPU it is the resident set, by the kernel's high-water mark; before, unused memory is
    given back, or its reuse would not show. On CUDA it is what torch had allocated (untested on
    CUDA hardware).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.grown_bytes: int | None = None
        """None where the system does not report it."""

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = _resident_bytes() if _reset_high_water() else None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is None:
            return
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status_bytes("VmHWM")
        self.grown_bytes = max(0, peak - self._before)


def _reset_high_water() -> bool:
    """Give free memory back and reset the kernel's high-water mark; False where that cannot be."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (_PROC / "clear_refs").write_text(_RESET_HIGH_WATER)
    except (OSError, AttributeError):  # not Linux, not glibc, or a container that forbids it
        return False
    return True


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_PROC / 'status'} has no {name}")
