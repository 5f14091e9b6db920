"""Each filter alone: every precision and amount of one network at one size, interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from torch import Tensor

from ...filters.errors import FilterError, TooLarge
from .limits import Convolution
from .networks import Network
from .results import FilterFigures, LeftOut
from .rounds import affordable, interleave
from .spread import spread_of
from .ways import ReadyWay, Stage, Way, duplicate_of

_GIGA = 1e9
_SHARE_GUESSED = 0.25
"""Of the best convolution, before anything was measured."""
_RATE_GUESSED = 2e9
"""Operations a second, where there is no limit to take a share of."""
_WARM_RUNS = 4
"""Of each way before the rounds: one to begin, two to compare, one to time."""


@dataclass(slots=True)
class Measurer:
    """Measures case by case; what it has seen tells it how long the next one will take.

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

    def measure(self, network: Network, ways: Sequence[Way], stage: Stage) -> list[FilterFigures]:
        """Measure one network at one size.

        Args:
            network: of one filter.
            ways: fp32 first, or nothing can be compared to it.
            stage: where, and on what.
        """
        case = f"{network.filter} {network.weights} {stage.size}"
        expected = {way.name: self._expected_seconds(network, way, stage) for way in ways}
        kept, _ = self._afford(case, expected, _WARM_RUNS, "would take")
        ready: list[ReadyWay] = []
        for way in ways:
            if way.name not in kept:
                continue
            try:
                ready.append(ReadyWay(way, network, stage))
            except TooLarge as error:
                self._leave_out(f"{case} {way.name}", str(error))
            except FilterError as error:
                self._leave_out(f"{case} {way.name}", f"failed: {error}")
        for one in ready:
            rate = network.flop(stage.size, one.way.amount) / one.seconds
            self._rates[id(network), one.way.precision] = rate
        kept, rounds = self._afford(case, {one.way.name: one.seconds for one in ready}, 0, "takes")
        return self._interleaved(
            network, [one for one in ready if one.way.name in kept], stage, rounds
        )

    def _expected_seconds(self, network: Network, way: Way, stage: Stage) -> float:
        rate = self._rates.get((id(network), way.precision))
        if rate is None and way.precision in self.convolutions:
            best = self.convolutions[way.precision]
            rate = _SHARE_GUESSED * best.flop / best.run(1)
        return network.flop(stage.size, way.amount) / (rate or _RATE_GUESSED)

    def _afford(
        self, case: str, costs: Mapping[str, float], extra_runs: int, verb: str
    ) -> tuple[tuple[str, ...], int]:
        """Choose what there is time for, and note what there is not."""
        choice = affordable(
            costs, rounds=self.repeats, budget_seconds=self.budget_seconds, extra_runs=extra_runs
        )
        for name in choice.too_long:
            reason = (
                f"{verb} about {costs[name]:.1f} s a frame; all ways of this case together must "
                f"fit into --budget-seconds {self.budget_seconds:g}"
            )
            self._leave_out(f"{case} {name}", reason)
        return choice.kept, choice.rounds

    def _leave_out(self, what: str, reason: str) -> None:
        self.left_out.append(LeftOut(what=what, reason=reason))

    def _interleaved(
        self, network: Network, ready: Sequence[ReadyWay], stage: Stage, rounds: int
    ) -> list[FilterFigures]:
        precisions = dict.fromkeys(one.way.precision for one in ready)
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
        references = {one.way.amount: one.made for one in ready if one.way.precision == "fp32"}
        return [self._figures(network, one, stage, readings, rates, references) for one in ready]

    def _figures(
        self,
        network: Network,
        one: ReadyWay,
        stage: Stage,
        readings: Mapping[str, Sequence[float]],
        rates: Mapping[str, float],
        references: Mapping[float, Sequence[Tensor]],
    ) -> FilterFigures:
        way = one.way
        seconds = median(readings[way.name])
        flop, frames = network.flop(stage.size, way.amount), network.frames(way.amount)
        limit = rates.get(way.precision)
        is_reference = way.precision == "fp32"
        frame_bytes = stage.frames[0].pixels.nbytes
        made_bytes = one.made[0].nbytes * frames
        return FilterFigures(
            filter=network.filter,
            weights=network.weights,
            network=network.description,
            size=str(stage.size),
            precision=way.precision,
            exp=int(way.amount) if way.is_exp else None,
            scale=None if way.is_exp else way.amount,
            frames=frames,
            ms=spread_of(readings[way.name], 1e3),
            fps=frames / seconds,
            gflop=flop / _GIGA,
            gflop_per_second=flop / seconds / _GIGA,
            convolution_gflop_per_second=None if limit is None else limit / _GIGA,
            share_of_convolution=None if limit is None else flop / seconds / limit,
            share_of_copy=(frame_bytes + made_bytes) / self.copy_rate / seconds,
            psnr_db=None if is_reference else one.psnr_to(references.get(way.amount)),
            peak_mib=one.peak_mib,
            duplicate_ms=spread_of(readings[duplicate_of(way.name)], 1e3),
        )
