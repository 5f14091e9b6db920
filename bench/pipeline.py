"""End to end against the filters alone, on the same frames, interleaved.

    python bench/pipeline.py CLIP [--frames 24] [--repeats 3] [--interpolate 1] [--upscale 2]

*Filters*: all frames decoded and converted beforehand, results thrown away. *End to end*:
`upframe.daemon.run` from the file to an H.264 file, preset fast, without loading the weights.
The figure is the ratio of the rates: 1 means that decoding, colours, encoding and the flow
between the threads cost nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import torch

from upframe.daemon.bench.machine import describe
from upframe.daemon.compute import Compute
from upframe.daemon.execute import execute
from upframe.daemon.pipeline import Pipeline
from upframe.daemon.progress import Silent
from upframe.filters.chain import BuiltFilter, Chain, Runtime, build_filters
from upframe.filters.color import ToFrame
from upframe.filters.device import resolve_device, resolve_precision
from upframe.filters.options import FilterOptions
from upframe.filters.scenes import Scenes
from upframe.io.encoder import EncoderOptions, output_pix_fmt
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--interpolate", type=int, default=1)
    parser.add_argument("--upscale", type=float, default=2)
    parser.add_argument("--frame-interpolation-model-path")
    parser.add_argument("--upscaling-model-path")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--at-least", type=float, default=0.9, help="a lower ratio exits with 1")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    runtime = Runtime(device, resolve_precision(arguments.precision, device), "builtin")
    options = FilterOptions(
        enable_frame_interpolation=True,
        frame_interpolation_exp=arguments.interpolate,
        frame_interpolation_model_path=arguments.frame_interpolation_model_path,
        enable_upscaling=True,
        upscaling_scale=arguments.upscale,
        upscaling_model_path=arguments.upscaling_model_path,
    )
    built = build_filters(options, runtime)
    with tempfile.TemporaryDirectory() as folder:
        clip = cut_clip(arguments.clip, Path(folder), arguments.size, arguments.frames)
        end_to_end(clip, Path(folder), built, device)  # warm-up
        alone: list[float] = []
        whole: list[dict[str, Any]] = []
        for _ in range(arguments.repeats):
            alone.append(filters_alone(clip, build_filters(options, runtime), device))
            whole.append(end_to_end(clip, Path(folder), build_filters(options, runtime), device))
    result = {
        "benchmark": "pipeline",
        "machine": describe(),
        "precision": str(runtime.precision),
        "weights": [f"{one.name}: {one.weights.name}" for one in built if one.weights],
        "clip": arguments.clip.name,
        "size": arguments.size,
        "frames_in": arguments.frames,
        "interpolate": arguments.interpolate,
        "upscale": arguments.upscale,
        "filters_seconds": alone,
        "end_to_end": whole,
        "ratio": statistics.median(alone) / statistics.median(run["seconds"] for run in whole),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if result["ratio"] < arguments.at_least:
        sys.exit(f"ratio {result['ratio']:.3f}, wanted at least {arguments.at_least}")


def cut_clip(source: Path, folder: Path, size: str, frames: int) -> Path:
    """The first frames of a clip at another size, as a short H.264 file."""
    width, height = (int(part) for part in size.split("x"))
    target = folder / "clip.mp4"
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        rate = container.streams.video[0].average_rate
        stream = out.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, frame in enumerate(container.decode(video=0)):
            if index == frames:
                break
            small = frame.reformat(width, height, "yuv420p")
            small.pts, small.time_base = index, 1 / rate
            out.mux(stream.encode(small))
        out.mux(stream.encode(None))
    return target


def filters_alone(clip: Path, built: tuple[BuiltFilter, ...], device: torch.device) -> float:
    """Seconds for the filters over frames that lie ready."""
    source = open_source(str(clip))
    chain = Chain([one.filter for one in built])
    chain.open(source.info)
    to_frame, scenes = ToFrame(device), Scenes()
    frames = []
    for picture in source:
        marks = scenes(picture)
        frames.append(to_frame(picture, cut=marks.cut, duplicate=marks.duplicate))
    source.close()
    began = time.perf_counter()
    for frame in frames:
        for _ in chain(frame):
            pass
    for _ in chain.flush():
        pass
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def end_to_end(
    clip: Path, folder: Path, built: tuple[BuiltFilter, ...], device: torch.device
) -> dict[str, Any]:
    """Seconds from the open file to the renamed result, and what each stage did."""
    encoder = EncoderOptions(preset="fast")
    target = folder / "result.mp4"
    source = open_source(str(clip))
    pix_fmt = output_pix_fmt(source.info, encoder, str(target), None)
    compute = Compute(source.info, [one.filter for one in built], pix_fmt=pix_fmt, device=device)
    sink = open_file_sink(target, compute.info, encoder, plan=None, overwrite=True, format=None)
    began = time.perf_counter()
    flow = execute(Pipeline(source, compute, sink), None, Silent())
    return {
        "seconds": time.perf_counter() - began,
        "first_frame_seconds": flow.first_frame_seconds,
        "stages": {
            name: {"worked": clock.worked_seconds, "waited": clock.waited_seconds}
            for name, clock in flow.stages.items()
        },
    }


if __name__ == "__main__":
    main()
