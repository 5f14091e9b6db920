"""An attempt of a job, in the worker: the conversion, and what is noted and told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch

from ...filters.chain import Runtime
from ...filters.device import resolve_device, resolve_precision
from ...filters.policy import Policy
from ...io.redaction import redacted_values
from ..conversion import Ledger, RunRequest, Stage, run
from ..jobs.model import Work, partial_token
from ..report import Report, device_name
from .messages import Done, Event, Request, RunJob, StageBegun, Warm, Warmed
from .results import Result, Results
from .warm import WarmFilters
from .wire import Wire, WireDisplay


@dataclass(frozen=True, slots=True)
class AttemptSettings:
    """What a worker computes with, and where it notes results."""

    results: Path
    device: str
    precision: str
    weights: Policy
    threads: int | None


class Attempts:
    """Answers the requests of a worker that runs jobs.

    Raises:
        DeviceUnavailable: if the device is not there.
    """

    def __init__(self, wire: Wire, settings: AttemptSettings) -> None:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = resolve_device(settings.device)
        precision = resolve_precision(settings.precision, device)
        self._runtime = Runtime(device, precision, settings.weights)
        self._wire = wire
        self._filters = WarmFilters()
        self._results = Results(settings.results)

    @property
    def device_name(self) -> str:
        """As people know it."""
        return device_name(self._runtime.device)

    def __call__(self, request: Request) -> Event:
        """Answer a request.

        Raises:
            Exception: whatever ends the attempt.
        """
        if isinstance(request, Warm):
            began = monotonic()
            self._filters.warm_up(request.filters, self._runtime)
            return Warmed(seconds=monotonic() - began)
        if isinstance(request, RunJob):
            report = self._run(request.id, request.work)
            return Done(report=_told(report))
        raise TypeError(f"this worker runs jobs, got {request.kind!r}")

    def _run(self, job_id: str, work: Work) -> Report:
        def record(report: Report, renames: Sequence[tuple[Path, Path]]) -> None:
            self._results.write(Result.of(job_id, work.digest, renames, _told(report)))

        def tell(stage: Stage) -> None:
            self._wire.send(StageBegun(stage=stage))

        return run(
            request_of(work, self._runtime),
            WireDisplay(self._wire),
            announce=False,  # the report has it
            ledger=Ledger(partial_token(job_id), record),
            filters=self._filters,
            on_stage=tell,
        )


def _told(report: Report) -> dict[str, Any]:
    """Write a report as others may read it: without the passwords of URLs."""
    values = redacted_values(report.model_dump(mode="json", by_alias=True))
    return cast("dict[str, Any]", values)


def request_of(work: Work, runtime: Runtime) -> RunRequest:
    """Say a job's work in the words of a conversion."""
    return RunRequest(
        source=work.source,
        sink=work.sink,
        filters=work.filters,
        runtime=runtime,
        encoder=work.encoder,
        format=work.container,
        overwrite=work.overwrite,
        strict_streams=work.strict_streams,
        deinterlace=work.deinterlace,
        framerate=None if work.framerate is None else Fraction(work.framerate),
    )
