"""The cases of the pipeline and of the start: their rounds, and what the figures come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ...filters.chain import Chain, build_filters
from ...filters.device import Runtime, resolve_precision
from ...filters.options import FilterOptions
from ..cli.arguments import flag_of
from .frames import Clips, Size, read_pictures
from .networks import filter_options, shown_name
from .processes import PipeRun, has_ffmpeg, run_file, run_pipes, run_start, write_y4m
from .results import PipeFigures, PipelineFigures, StartFigures
from .rounds import LEAST_ROUNDS
from .settings import Settings, precision_name
from .spread import spread_of
from .whole import FileRun, Workbench, stages_of, times_of

_MIB = 2**20
_START_FRAMES = 4
_RUNS_IN_A_ROUND = 3


@dataclass(frozen=True, slots=True)
class Job:
    """The first of each list of the settings: what the pipeline does."""

    settings: Settings
    clips: Clips
    folder: Path

    @property
    def exp(self) -> int:
        """Of the interpolation."""
        return self.settings.exps[0]

    @property
    def scale(self) -> float:
        """Of the enlargement."""
        return self.settings.scales[0]

    def options(self) -> FilterOptions:
        """Both filters, one after the other."""
        return filter_options(
            exp=self.exp,
            scale=self.scale,
            interpolation_path=self.settings.interpolation_path,
            upscaling_path=self.settings.upscaling_paths[0],
        )

    def words(self) -> list[str]:
        """The same, as arguments of a command."""
        words = [f"--device={self.settings.device}", f"--weights={self.settings.policy}"]
        words += [f"--precision={self.settings.pipeline_precision}"]
        words += [f"--interpolate={self.exp}", f"--upscale={self.scale:g}"]
        paths = {
            "frame_interpolation_model_path": self.settings.interpolation_path,
            "upscaling_model_path": self.settings.upscaling_paths[0],
        }
        return words + [f"{flag_of(name)}={path}" for name, path in paths.items() if path]

    def runtime(self) -> Runtime:
        """Device, precision, and where weights come from."""
        settings = self.settings
        precision = resolve_precision(settings.pipeline_precision, settings.device)
        return Runtime(settings.device, precision, settings.policy)


def measure_pipeline(job: Job, size: Size) -> PipelineFigures:
    """Filters alone, file to file, and pipe to pipe where there is an ffmpeg; interleaved.

    Raises:
        FilterError, MediaError: if it cannot be done.
        ProcessFailed: if a process fails.
    """
    clip, runtime = job.clips.at(size), job.runtime()
    _reset_cuda_peak(runtime.device)
    preset = job.settings.preset
    bench = Workbench(clip, job.folder, job.options(), runtime, preset)
    warm_up = bench.file_to_file()
    alone: list[float] = []
    files: list[FileRun] = []
    encoded: list[float] = []
    pipes: list[PipeRun] = []
    for _ in range(_rounds(job.settings, warm_up.seconds)):
        alone.append(bench.filters_alone())
        files.append(bench.file_to_file())
        if (seconds := bench.encoder_alone()) is not None:
            encoded.append(seconds)
        if has_ffmpeg():
            pipes.append(run_pipes(clip, job.folder, job.words(), preset))
    filters = median(alone)
    flow = files[0].flow
    return PipelineFigures(
        size=str(size),
        precision=precision_name(runtime.precision),
        weights=[shown_name(one.weights) for one in bench.built if one.weights],
        exp=job.exp,
        scale=job.scale,
        frames_in=flow.frames_in,
        frames_out=flow.frames_out,
        filters_seconds=spread_of(alone),
        file_seconds=spread_of([run.seconds for run in files]),
        preset=preset,
        encoder_seconds=spread_of(encoded) if encoded else None,
        ratio=filters / median(run.seconds for run in files),
        first_frame_seconds=spread_of([run.flow.first_frame_seconds or 0.0 for run in files]),
        stages=stages_of([times_of(run.flow) for run in files]),
        run_peak_mib=_run_peak_mib(job, clip),
        cuda_peak_mib=_cuda_peak_mib(runtime.device),
        pipe=_pipe_figures(pipes, filters) if pipes else None,
    )


def _run_peak_mib(job: Job, clip: Path) -> float:
    options = [*job.words(), "--preset", job.settings.preset]
    return run_file(clip, job.folder / "run.mp4", options).peak_bytes / _MIB


def _rounds(settings: Settings, seconds: float) -> int:
    """As many as are wanted and fit into the budget, but enough for a spread."""
    fit = int(settings.budget_seconds / (_RUNS_IN_A_ROUND * seconds))
    return min(settings.repeats, max(fit, LEAST_ROUNDS))


def _pipe_figures(runs: list[PipeRun], filters_seconds: float) -> PipeFigures:
    return PipeFigures(
        seconds=spread_of([run.seconds for run in runs]),
        flow_seconds=spread_of([run.report.seconds for run in runs]),
        ratio=filters_seconds / median(run.report.seconds for run in runs),
        first_frame_seconds=spread_of([run.report.first_frame_seconds or 0.0 for run in runs]),
        stages=stages_of(
            [
                {
                    name: (stage.worked_seconds, stage.waited_seconds)
                    for name, stage in run.report.stages.items()
                }
                for run in runs
            ]
        ),
        peak_mib=max(run.peak_bytes for run in runs) / _MIB,
    )


def measure_start(job: Job, size: Size) -> StartFigures:
    """Start `upframe pipe` again and again; the first time, which reads from disk, is not counted.

    Raises:
        FilterError, MediaError: if it cannot be done.
        ProcessFailed: if a process fails.
    """
    clip, runtime = job.clips.at(size), job.runtime()
    y4m = job.folder / f"start-{size}.y4m"
    write_y4m(clip, y4m, _START_FRAMES)
    built = build_filters(job.options(), runtime)
    out = Chain([one.filter for one in built]).open(read_pictures(clip, 1)[0])
    if not job.settings.short:
        run_start(y4m, out, job.words())
    runs = [run_start(y4m, out, job.words()) for _ in range(job.settings.repeats)]
    return StartFigures(
        size=str(size),
        precision=precision_name(runtime.precision),
        weights=[shown_name(one.weights) for one in built if one.weights],
        exp=job.exp,
        scale=job.scale,
        header_seconds=spread_of([run.header_seconds for run in runs]),
        first_frame_seconds=spread_of([run.first_frame_seconds for run in runs]),
        peak_mib=max(run.peak_bytes for run in runs) / _MIB,
    )


def _reset_cuda_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _cuda_peak_mib(device: torch.device) -> float | None:
    """What torch had allocated at most on the card (not yet seen on a GPU); None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / _MIB if device.type == "cuda" else None
