"""One run of the benchmark, from its settings to the document of its results."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ...filters.device import resolve_precision
from ...filters.errors import FilterError
from ..convert.report import device_name
from ..errors import UsageError
from .alone import Measurer
from .frames import Clips, Size, distinct, frames_of, read_pictures
from .limits import Convolution, copy_rates, find_best_convolution
from .machine import describe
from .networks import Network, find_networks
from .pipelines import Job, measure_pipeline, measure_start
from .results import ConvolutionLimit, Document, FilterFigures, LeftOut, Limits
from .settings import Settings
from .spread import spread_of
from .watched import ProcessFailed
from .ways import Stage, Way

Part = Literal["filters", "pipeline", "start"]
PARTS: tuple[Part, ...] = ("filters", "pipeline", "start")
T = TypeVar("T")

log = logging.getLogger("upframe.bench")


def run_benchmark(settings: Settings, parts: Sequence[Part]) -> Document:
    """Measure, one part after the other.

    Raises:
        MediaError: if the clip cannot be read, or nothing be written to the temporary folder.
        FilterError: if weights or the device are not to be had.
        UsageError: if the clip is too short, or nothing moves in it.
    """
    began, at = time.monotonic(), datetime.now(UTC)
    machine = describe()  # before: its load is that of others
    with tempfile.TemporaryDirectory(prefix="upframe-bench-") as folder:
        run = _Run(settings, Path(folder))
        limits, filters = run.filters() if "filters" in parts else (None, [])
        pipeline = list(run.cases("pipeline", measure_pipeline)) if "pipeline" in parts else []
        start = list(run.cases("start", measure_start)) if "start" in parts else []
    return Document(
        schema="upframe.bench/1",
        began=at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        machine=machine,
        device=device_name(settings.device),
        clip=run.clips.name,
        settings=settings.as_dict(),
        limits=limits,
        filters=filters,
        pipeline=pipeline,
        start=start,
        left_out=run.left_out,
    )


@dataclass
class _Run:
    """What the parts share."""

    settings: Settings
    folder: Path
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])

    def __post_init__(self) -> None:
        settings = self.settings
        sizes = (*settings.sizes, *settings.pipeline_sizes)
        self.clips = Clips(self.folder, settings.clip, sizes, settings.pipeline_frames)

    def filters(self) -> tuple[Limits, list[FilterFigures]]:
        """Every network at every size, the small ones first."""
        settings = self.settings
        networks = list(
            find_networks(settings.interpolation_path, settings.upscaling_paths, settings.policy)
        )
        sizes = sorted(settings.sizes, key=lambda size: size.pixels)
        log.info("the limits of the device")
        picture = frames_of(read_pictures(self.clips.at(sizes[0]), 1)[1], settings.device)[0]
        best = self._convolutions(picture.pixels)
        copies = copy_rates(settings.device, short=settings.short)
        measurer = Measurer(best, median(copies), settings.repeats, settings.budget_seconds)
        figures: list[FilterFigures] = []
        for size in sizes:
            stage = self._stage(size)
            for network in networks:
                log.info("%s %s at %s", network.filter, network.description, size)
                figures += measurer.measure(network, self._ways(network), stage)
        self.left_out += measurer.left_out
        limits = Limits(
            convolutions=[_limit_of(one) for one in best.values()],
            copy_gb_per_second=spread_of(copies, 1e-9),
        )
        return limits, figures

    def cases(self, name: str, measure: Callable[[Job, Size], T]) -> Iterator[T]:
        """Measure at every size of the pipeline; what fails there is left out, with its reason."""
        job = Job(self.settings, self.clips, self.folder)
        for size in self.settings.pipeline_sizes:
            log.info("%s at %s", name, size)
            try:
                yield measure(job, size)
            except (FilterError, ProcessFailed) as error:
                self.left_out.append(LeftOut(what=f"{name} {size}", reason=str(error)))

    def _convolutions(self, picture: Tensor) -> dict[str, Convolution]:
        found: dict[str, Convolution] = {}
        for name in self.settings.precisions:
            best = self._best_convolution(picture, name)
            if best is None:
                self.left_out.append(
                    LeftOut(what=f"convolution {name}", reason="torch has none on the device")
                )
            else:
                found[name] = best
        return found

    def _best_convolution(self, picture: Tensor, name: str) -> Convolution | None:
        device = self.settings.device
        dtype = resolve_precision(name, device)
        return find_best_convolution(picture, device, name, dtype, short=self.settings.short)

    def _stage(self, size: Size) -> Stage:
        info, pictures = read_pictures(self.clips.at(size))
        moving = distinct(pictures, self.settings.filter_frames)
        if len(moving) < 2:
            raise UsageError(f"in {self.clips.name} nothing moves: no two frames differ")
        device = self.settings.device
        return Stage(size, info, frames_of(moving, device), device, self.settings.policy)

    def _ways(self, network: Network) -> list[Way]:
        is_exp = network.filter == "interpolate"
        amounts = self.settings.exps if is_exp else self.settings.scales
        precisions = self.settings.precisions
        return [Way(name, float(amount), is_exp) for name in precisions for amount in amounts]


def _limit_of(one: Convolution) -> ConvolutionLimit:
    seconds = median(one.run(1) for _ in range(5))
    return ConvolutionLimit(
        precision=one.precision,
        size=one.size,
        layout=one.layout,
        gflop_per_second=one.flop / seconds / 1e9,
    )


def slug(device: torch.device) -> str:
    """Name a device for a file: ``cpu``, ``nvidia-h100-80gb-hbm3``."""
    words = "".join(c if c.isalnum() else " " for c in device_name(device).lower()).split()
    return "-".join(words)
