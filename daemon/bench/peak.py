"""The most memory that a piece of work had at once, in this process or on its CUDA device."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_RESET_HIGH_WATER = "5"
"""To `clear_refs`; see proc(5)."""
_PROC = Path("/proc/self")


class PeakMemory:
    """What the memory grew by at most, while its block ran.

    On a CPU it is the resident set, by the kernel's high-water mark; before, what nobody uses is
    given back, or its reuse would not show. On CUDA it is what torch had allocated (not yet seen on
    a GPU).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.grown_bytes: int | None = None
        """None where the system does not tell."""

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = _resident_bytes() if _reset_high_water() else None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is None:
            return
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status_bytes("VmHWM")
        self.grown_bytes = max(0, peak - self._before)


def _reset_high_water() -> bool:
    """Give free memory back and let the kernel's mark begin anew; False where that cannot be."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (_PROC / "clear_refs").write_text(_RESET_HIGH_WATER)
    except (OSError, AttributeError):  # not Linux, not glibc, or a container that forbids it
        return False
    return True


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_PROC / 'status'} has no {name}")
