"""What machine a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

_FAST_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_GIB = 2**30


def describe() -> dict[str, Any]:
    """Processor, memory, versions: everything that a figure depends on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        **_cuda(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "upframe": version("upframe"),
        "torch": torch.__version__,
        "av": version("av"),
    }


def _cuda() -> dict[str, Any]:
    """The CUDA device that is used by default."""
    if not torch.cuda.is_available():
        return {"cuda_device": None}
    # torch leaves its type open
    properties = cast("Any", torch.cuda).get_device_properties(0)
    return {
        "cuda_device": properties.name,
        "cuda_memory_gib": round(properties.total_memory / _GIB, 1),
        "cuda_multiprocessors": properties.multi_processor_count,
        "cuda_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _processor() -> str:
    names = {line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")}
    flags = [name for name in _FAST_FLAGS if name in _flags()]
    return ", ".join(sorted(names) + flags)


def _flags() -> set[str]:
    for line in _cpuinfo():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
