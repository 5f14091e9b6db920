"""The whole way against the filters alone, on the same frames, interleaved.

*Filters*: all frames lie ready on the device, in as many lanes as on the whole way, and results are
thrown away. *File to file*: from an open
file to a renamed H.264 file. Neither loads weights. *Encoder alone*: what that has made is encoded
again. *Pipe to pipe* is in `.processes`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ...filters.chain import BuiltFilter, Chain, build_filters
from ...filters.color.convert import ToFrame
from ...filters.device import Runtime
from ...filters.frame import Frame, Picture, StreamInfo
from ...filters.options import FilterOptions
from ...filters.scenes import Scenes
from ...io.encode.encoder import EncoderOptions, output_pix_fmt
from ...io.sink import open_file_sink
from ...io.source import open_source
from ..convert.compute import Compute, Lanes, lanes_for
from ..convert.conversion import execute
from ..convert.pipeline import Flow, Pipeline
from ..convert.progress import Silent
from .frames import read_pictures
from .limits import timed
from .results import StageFigures

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
        filters = [one.filter for one in self.built]
        compute = Compute(source.info, filters, pix_fmt=pix_fmt, device=self._device)
        sink = open_file_sink(self._target, compute.info, self._encoder, overwrite=True)
        began = time.perf_counter()
        with closing(compute):
            flow = execute(Pipeline(source, compute, sink, staging=compute), None, Silent())
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
