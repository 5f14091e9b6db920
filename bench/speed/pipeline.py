"""The whole way compared with the filters alone, on the same frames, interleaved; and the start.

*Filters*: all frames lie ready on the device, in as many lanes as on the whole way, and results are
thrown away. *File to file*: from an open file to a renamed H.264 file. Neither loads weights.
*Encoder alone*: what that has made is encoded again. *Pipe to pipe* and the start are processes as
a user starts them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from clips import Clips, Size, read_pictures
from commands import PipeRun, has_ffmpeg, run_file, run_pipes, run_start, write_y4m
from limits import timed
from networks import filter_options, shown_name
from results import PipeFigures, PipelineFigures, StageFigures, StartFigures
from rounds import LEAST_ROUNDS, spread_of
from settings import Settings, precision_name

from upframe.daemon.cli.arguments import flag_of
from upframe.daemon.convert.compute import Compute, Lanes, lanes_for
from upframe.daemon.convert.conversion import execute
from upframe.daemon.convert.pipeline import Flow, Pipeline
from upframe.daemon.convert.progress import Display
from upframe.filters.chain import BuiltFilter, Chain, build_filters
from upframe.filters.color.convert import ToFrame
from upframe.filters.device import Runtime, resolve_precision
from upframe.filters.frame import Frame, Picture, StreamInfo
from upframe.filters.options import FilterOptions
from upframe.filters.scenes import Scenes
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source

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
            pipes.append(run_pipes(job.settings.upframe, clip, job.folder, job.words(), preset))
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
    ended = run_file(job.settings.upframe, clip, job.folder / "run.mp4", options)
    return ended.peak_bytes / _MIB


def _rounds(settings: Settings, seconds: float) -> int:
    """As many as are wanted and fit into the budget, but enough for a spread."""
    fit = int(settings.budget_seconds / (_RUNS_IN_A_ROUND * seconds))
    return min(settings.repeats, max(fit, LEAST_ROUNDS))


def _pipe_figures(runs: list[PipeRun], filters_seconds: float) -> PipeFigures:
    return PipeFigures(
        seconds=spread_of([run.seconds for run in runs]),
        flow_seconds=spread_of([run.report["seconds"] for run in runs]),
        ratio=filters_seconds / median(run.report["seconds"] for run in runs),
        first_frame_seconds=spread_of([run.report["first_frame_seconds"] or 0.0 for run in runs]),
        stages=stages_of(
            [
                {
                    name: (stage["worked_seconds"], stage["waited_seconds"])
                    for name, stage in run.report["stages"].items()
                }
                for run in runs
            ]
        ),
        peak_mib=max(run.peak_bytes for run in runs) / _MIB,
    )


def measure_start(job: Job, size: Size) -> StartFigures:
    """Start `upframe pipe` several times; the first start, which reads from disk, is not counted.

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
        run_start(job.settings.upframe, y4m, out, job.words())
    runs = [
        run_start(job.settings.upframe, y4m, out, job.words()) for _ in range(job.settings.repeats)
    ]
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
    """What torch had allocated at most on the card; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / _MIB if device.type == "cuda" else None


_MOST_BYTES = 2 << 30
"""Of results that are held to be encoded again."""


@dataclass(frozen=True, slots=True)
class FileRun:
    """One run from file to file."""

    seconds: float
    flow: Flow


class Workbench:
    """A clip and the filters for it, loaded once; each of its runs is a whole stream.

    Args:
        clip: what goes in.
        folder: where results are written, and replaced.
        options: which filters.
        runtime: device, precision and where weights come from.
        preset: of x264.
    """

    def __init__(
        self, clip: Path, folder: Path, options: FilterOptions, runtime: Runtime, preset: str
    ) -> None:
        self._clip = clip
        self._target = folder / "result.mp4"
        self._encoder = EncoderOptions(preset=preset)
        self._results: tuple[StreamInfo, list[Picture]] | None = None
        self._device = runtime.device
        self.built: tuple[BuiltFilter, ...] = build_filters(options, runtime)
        self._info, self._frames = _marked_frames(clip, runtime.device)
        self._clock = timed(runtime.device, self._filter_all)

    def filters_alone(self) -> float:
        """Seconds for the filters over frames that lie ready."""
        return self._clock(1)

    def file_to_file(self) -> FileRun:
        """Seconds from the open file to the renamed result, and what each stage did."""
        source = open_source(str(self._clip))
        pix_fmt = output_pix_fmt(source.info, self._encoder, str(self._target), None)
        levels = {"full": Chain(one.filter for one in self.built)}
        compute = Compute(source.info, levels, pix_fmt=pix_fmt, device=self._device)
        sink = open_file_sink(self._target, compute.info, self._encoder, overwrite=True)
        began = time.perf_counter()
        with closing(compute):
            flow = execute(Pipeline(source, compute, sink), None, Display())
        return FileRun(time.perf_counter() - began, flow)

    def encoder_alone(self) -> float | None:
        """Seconds to encode what file to file has made; None if it is too large to be held."""
        if self._results is None:
            with closing(open_source(str(self._target))) as source:
                info = source.info
            if info.width * info.height * 1.5 * (info.num_frames or 0) > _MOST_BYTES:
                return None
            self._results = read_pictures(self._target)
        info, pictures = self._results
        again = self._target.with_stem("again")
        sink = open_file_sink(again, info, self._encoder, overwrite=True)
        began = time.perf_counter()
        for picture in pictures:
            sink.write(picture)
        sink.finish()
        return time.perf_counter() - began

    def _filter_all(self) -> None:
        chain = Chain([one.filter for one in self.built])
        chain.open(self._info)
        lanes: Lanes[Frame] | None = lanes_for(chain, self._device)
        with closing(lanes) if lanes is not None else nullcontext():
            for frame in self._frames:
                if lanes is None:
                    _drop(chain(frame))
                else:
                    _drop(lanes([pending.frame for pending in chain.plan(frame)]))
            if lanes is not None:
                _drop(lanes.settle())
        _drop(chain.flush())


def _drop(frames: Iterable[Frame]) -> None:
    for _ in frames:
        pass


def _marked_frames(clip: Path, device: torch.device) -> tuple[StreamInfo, list[Frame]]:
    info, pictures = read_pictures(clip)
    convert, scenes, frames = ToFrame(device), Scenes(), list[Frame]()
    with torch.inference_mode():
        for picture in pictures:
            marks = scenes(picture)
            frames.append(convert(picture, cut=marks.cut, duplicate=marks.duplicate))
    return info, frames


def stages_of(runs: Sequence[dict[str, tuple[float, float]]]) -> dict[str, StageFigures]:
    """Medians over several runs: (worked, waited) seconds by stage."""
    return {
        name: StageFigures(
            worked_seconds=median(run[name][0] for run in runs),
            waited_seconds=median(run[name][1] for run in runs),
        )
        for name in runs[0]
    }


def times_of(flow: Flow) -> dict[str, tuple[float, float]]:
    """(worked, waited) seconds by stage."""
    return {
        name: (clock.worked_seconds, clock.waited_seconds) for name, clock in flow.stages.items()
    }
