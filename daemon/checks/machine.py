"""What the doctor says of the machine: versions, devices, precision, threads, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from ...filters.device import cpu_has_bf16, resolve_device, resolve_precision
from ...filters.native.compiled import kernels
from .finding import Finding, fail, ok, warn

_GIB = 2**30
_LOW_MEMORY_BYTES = 2 * _GIB  # the networks, torch and a 1080p frame in tiles
_LOW_DISK_BYTES = 1 * _GIB


def describe_machine() -> Iterator[Finding]:
    """Look at what everything else stands on."""
    yield ok("upframe", version("upframe"), version=version("upframe"))
    yield ok(
        "python",
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        version=platform.python_version(),
        executable=sys.executable,
    )
    yield ok("torch", torch.__version__, version=str(torch.__version__))
    yield from _devices()
    yield _precision()
    yield _kernels()
    yield _threads()
    yield _memory()
    yield _temporary_folder()


def _devices() -> Iterator[Finding]:
    has_bf16 = cpu_has_bf16()
    bf16 = "with" if has_bf16 else "without"
    yield ok("cpu", f"{cpu_name()}, {bf16} bf16 hardware", model=cpu_name(), has_bf16=has_bf16)
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            "this torch has no CUDA" if built is None else "torch finds no NVIDIA device or driver"
        )
        yield ok("cuda", f"none: {why}; everything runs on the CPU", devices=0)
        return
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield ok(f"cuda:{index}", text, model=name, free_bytes=free, total_bytes=total)


def _precision() -> Finding:
    device = resolve_device()
    dtype = resolve_precision("auto", device)
    name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32")
    why = {
        "fp16": "fastest on CUDA",
        "bf16": "this CPU multiplies bf16 in hardware",
        "fp32": "this CPU has no bf16 hardware",
    }[name]
    return ok("precision", f"auto means {name} on {device}: {why}", auto=name, device=str(device))


def _kernels() -> Finding:
    there = kernels() is not None
    text = (
        "compiled: interpolation on the CPU is fast"
        if there
        else (
            "not there: interpolation on the CPU is slower; install a C compiler (gcc, libc6-dev), "
            "then upframe again"
        )
    )
    return (ok if there else warn)("kernels", text, compiled=there)


def _threads() -> Finding:
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = torch.get_num_threads()
    text = f"{threads} for computing, {usable} CPUs usable of {os.cpu_count()}"
    if threads < usable:
        return warn("threads", f"{text}; see OMP_NUM_THREADS", threads=threads, usable=usable)
    return ok("threads", text, threads=threads, usable=usable)


def _memory() -> Finding:
    free = available_memory_bytes()
    if free is None:
        return warn("memory", "this system does not say how much is free")
    text = f"{free / _GIB:.1f} GiB available"
    if free < _LOW_MEMORY_BYTES:
        return warn("memory", f"{text}: large frames may not fit", available_bytes=free)
    return ok("memory", text, available_bytes=free)


def _temporary_folder() -> Finding:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"upframe")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return fail("disk", f"cannot write to {folder}: {error.strerror}", folder=folder)
    text = f"{free / _GIB:.1f} GiB free at {folder}"
    if free < _LOW_DISK_BYTES:
        return warn("disk", text, folder=folder, free_bytes=free)
    return ok("disk", text, folder=folder, free_bytes=free)


def cpu_name() -> str:
    """Name the processor as its maker does, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping: the system's, or the control group's if less."""
    found = [_meminfo_bytes(), _cgroup_bytes()]
    return min((size for size in found if size is not None), default=None)


def _meminfo_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    kibibytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes[0]) * 1024 if kibibytes else None


def _cgroup_bytes() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = (folder / "memory.current").read_text().strip()
    except OSError:  # no control groups of version 2, or not limited here
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))
