"""How much memory a device still has, so that what cannot fit is refused before work starts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

GIB = 1 << 30

_CGROUPS = Path("/sys/fs/cgroup")
_recorded: Counter[torch.device] = Counter()
"""Bytes of CUDA graphs, which torch counts as held, but not as used."""


def note_recorded(device: torch.device, num_bytes: int) -> None:
    """Count the memory of a CUDA graph in, or out where negative."""
    _recorded[device] += num_bytes


def available_bytes(device: torch.device) -> int | None:
    """Find how many bytes could still be allocated on a device; None where it does not say.

    On CUDA that includes what torch holds but does not use. On Linux it is what the system could
    free without swapping, or less where a control group (a service, a container) allows less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + max(idle - _recorded[device], 0)
    limits = [limit for limit in (_system_bytes(), *_cgroup_bytes()) if limit is not None]
    return min(limits, default=None)


def _system_bytes() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _cgroup_bytes() -> Iterator[int]:
    """Find what each control group (version 2) around this process still allows."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        number, _, path = line.partition("::")
        if number != "0":
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):
            if (free := cgroup_free_bytes(_CGROUPS / group)) is not None:
                yield free


def cgroup_free_bytes(folder: Path) -> int | None:
    """Find how much more a control group (version 2) may use; None where it has no limit."""
    limit, used = _read(folder / "memory.max").strip(), _read(folder / "memory.current").strip()
    if not (limit.isdigit() and used.isdigit()):
        return None
    # files that were read long ago count as used, but give way at once
    stat = dict(line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines())
    return max(int(limit) - int(used) + int(stat.get("inactive_file", 0)), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # not this system, or none of our business: no limit is known from here
