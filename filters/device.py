"""Where and how precisely filters compute."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, cast

import torch
from torch import Tensor

from .errors import DeviceUnavailable, is_out_of_memory
from .options import Policy, Way

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SEVERAL = re.compile(r"[,*]|^all$")
_MOST_WORKERS = 64


def resolve_device(name: str = "auto") -> torch.device:
    """Find the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means.

    Raises:
        DeviceUnavailable: if the name is another, or there is no such CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and index) or (index and not index.isdigit()):
        several = "; several are for a film from file to file" if _SEVERAL.search(name) else ""
        raise DeviceUnavailable(f"device must be auto, cpu, cuda or cuda:N, got {name!r}{several}")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise DeviceUnavailable(f"{name} was asked for, but {_cuda_devices(found)}")
    return torch.device("cuda", int(index or 0))


def resolve_devices(names: str = "auto") -> tuple[torch.device, ...]:
    """Find the devices of a list such as ``cuda:0,cuda:1``, on which the parts of a film are made.

    ``all`` means every card, or the CPU where there is none; ``NAME*K`` means NAME, K times.

    Raises:
        DeviceUnavailable: as `resolve_device`, or if they are of two kinds, whose results differ.
    """
    found: list[torch.device] = []
    for part in names.split(","):
        name, star, times = part.strip().partition("*")
        count = int(times) if times.isdigit() and times.isascii() else 0
        if star and not 1 <= count <= _MOST_WORKERS:
            wanted = f"NAME*K with K from 1 to {_MOST_WORKERS}, such as cpu*2"
            raise DeviceUnavailable(f"device must be {wanted}, got {part.strip()!r}")
        cards = torch.cuda.device_count() if name == "all" and torch.cuda.is_available() else 0
        each = [f"cuda:{index}" for index in range(cards)] or ["cpu" if name == "all" else name]
        found += [resolve_device(one) for one in each] * (count if star else 1)
    kinds = {
        str(one): torch.cuda.get_device_name(one) if one.type == "cuda" else "the CPU"
        for one in found
    }
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{one} ({kind})" for one, kind in kinds.items())
        raise DeviceUnavailable(f"one film needs devices of one kind, got {listed}")
    return tuple(found)


def _cuda_devices(found: int) -> str:
    if found:
        return f"this machine's CUDA devices are cuda:0 to cuda:{found - 1}"
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "this machine has no CUDA device: PyTorch finds no NVIDIA card or driver"


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX or Arm BF16)."""
    return cpu_has("avx512_bf16", "amx_bf16", "bf16")


def cpu_has(*flags: str) -> bool:
    """Return whether this CPU has any of these, as torch names them."""
    ask = cast(
        "Callable[[], dict[str, object]] | None", getattr(torch.cpu, "get_capabilities", None)
    )
    if ask is None:  # a torch too old to report it: slower, never wrong
        return False
    capabilities = ask()
    return any(bool(capabilities.get(flag)) for flag in flags)


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """Return the processor's model name, if the system reports it."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Folder for what was found out about this machine; it may not exist yet."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder) / "upframe"


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """Find the dtype of convolutions.

    ``auto`` is fp16 on CUDA, bf16 on a CPU that has it, else fp32.

    Raises:
        ValueError: if the name is none of auto, fp32, bf16, fp16.
    """
    if name == "auto":
        name = "fp16" if device.type == "cuda" else "bf16" if cpu_has_bf16() else "fp32"
    if name not in _DTYPES:
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {name!r}")
    return _DTYPES[name]


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Compute fp32 exactly: by default cuDNN rounds factors to 10 bits (TF32)."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Device, precision and sources of weights that filters are built for."""

    device: torch.device
    precision: torch.dtype
    policy: Policy = "auto"
    """Where weights may come from; see :mod:`upframe.filters.weights`."""
    most_bytes: int | None = field(default=None, compare=False)
    """Of a file of weights that is not loaded yet; None: any number."""
    ways: Mapping[str, Way] = field(default_factory=dict[str, Way], hash=False)
    """By name of a filter, how its network is computed on a CPU; what is missing is measured."""
    workers: tuple[torch.device, ...] = field(default=(), compare=False)
    """Where the parts of a film are made, by a process each; empty: all is done by this process."""

    @property
    def num_at_once(self) -> int:
        """How many parts of a film are computed at the same time: one on a card."""
        workers = self.workers if self.device.type == "cpu" else set(self.workers)
        return max(1, len(workers))


def resolve_runtime(
    names: str, precision: str, policy: Policy, threads: int | None = None
) -> Runtime:
    """Find the devices of a film, and give each of its workers its threads.

    `names` and `precision` are as for `resolve_devices` and `resolve_precision`. Each worker on a
    CPU has so many threads of torch; None: they share those that torch has.

    Raises:
        DeviceUnavailable: as `resolve_devices`.
        ValueError: as `resolve_precision`.
    """
    first, *others = devices = resolve_devices(names)
    if threads is None and first.type == "cpu" and others:
        threads = max(1, torch.get_num_threads() // len(devices))
    if threads is not None:
        torch.set_num_threads(threads)
    dtype = resolve_precision(precision, first)
    return Runtime(first, dtype, policy, workers=devices if others else ())


# How much memory a device still has, so that what cannot fit is refused before work starts.

GIB = 1 << 30

_CGROUPS = Path("/sys/fs/cgroup")
_recorded: Counter[torch.device] = Counter()
"""Bytes of CUDA graphs, which torch counts as reserved, but not as allocated."""


def note_recorded(device: torch.device, num_bytes: int) -> None:
    """Add to the memory of CUDA graphs; negative where one is freed."""
    _recorded[device] += num_bytes


def available_bytes(device: torch.device) -> int | None:
    """Return how many bytes could still be allocated on a device; None where unknown.

    On CUDA that includes what torch holds but does not use. On Linux it is what the system could
    free without swapping, or less where a control group (a service, a container) or this process's
    own limit (RLIMIT_AS) allows less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + max(idle - _recorded[device], 0)
    limits = [_system_bytes(), _address_bytes(), *map(cgroup_free_bytes, _cgroups())]
    return min((limit for limit in limits if limit is not None), default=None)


def _system_bytes() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _address_bytes() -> int | None:
    """Find what this process's own limit still allows; None where it has none."""
    if (used := _addresses()) is None:
        return None
    import resource  # not on every system

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else max(limit - used, 0)


def _addresses() -> int | None:
    text = _read(Path("/proc/self/statm"))
    return int(text.split()[0]) * os.sysconf("SC_PAGE_SIZE") if text else None


def unless_out_of_memory(compute: Callable[[], Tensor]) -> Tensor | None:
    """Return None where memory ran out; by then everything that `compute` held is free again."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:  # it holds on to every tensor of the attempt
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


_LEAST_BYTES = 2 * GIB
"""Address space reserved by torch (1 GiB, mostly unused) and stacks of threads (8 MiB each)."""


def allow_memory(mebibytes: int | None, *, share: int = 1) -> None:
    """Limit this process to so much address space on top of what it uses now.

    Not for a process that uses a CUDA card, whose driver reserves address space without bounds.
    None is the memory of the machine, or of the control group where that is less; it is divided by
    `share`.
    """
    if (used := _addresses()) is None:
        return
    import resource

    keep_freed_memory()  # else each allocating thread reserves 64 or 128 MiB of addresses
    groups = (_read(group / "memory.max").strip() for group in _cgroups())
    system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    whole = min([system, *(int(text) for text in groups if text.isdigit())])
    most = max(whole if mebibytes is None else mebibytes << 20, _LEAST_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [used + most // share, *([] if hard == resource.RLIM_INFINITY else [hard])]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))


def _cgroups() -> Iterator[Path]:
    """Find each control group (version 2) around this process."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, _, path = line.partition("::")
        if number != "0":
            continue
        inner = PurePosixPath(path.lstrip("/"))
        yield from (_CGROUPS / group for group in (inner, *inner.parents))


def cgroup_free_bytes(folder: Path) -> int | None:
    """Find how much more a control group (version 2) may use; None where it has no limit."""
    limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    # the page cache counts as used, but is reclaimed at once
    stat = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines())
    return max(int(limit) - int(used) + int(stat.get("inactive_file", 0)), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # another system, or no permission: no limit is known


# Keep the memory that one frame needed for the next.
#
# glibc returns large blocks to the system as soon as they are free, and the system clears every
# page when it is allocated again: 14 of the 59 ms of an interpolated 640x352 frame. What is kept is
# at most what a frame needed, so memory stays flat.
#
# Threads share one arena: glibc trims other arenas regardless of these settings, and pictures that
# one thread allocates and another frees cost 3 % of a conversion.

# of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 512 << 20
_LARGEST_BLOCK_BYTES = 32 << 20
"""The maximum of glibc; larger blocks still go back to the system."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Configure glibc's allocator; return False for another one or where MALLOC_* is set."""
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") for name in os.environ
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    settings = (
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES),
        (_M_ARENA_MAX, 1),
    )
    accepted = [mallopt(name, value) for name, value in settings]
    return all(accepted)
