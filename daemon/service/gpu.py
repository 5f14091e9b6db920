"""Notice that a GPU is there but cannot be opened, and say which setting of the unit hides it.

CUDA itself is silent: with the wrong DeviceAllow= it finds no device, `auto` means the CPU, and
everything takes a hundred times as long.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_NEEDED = ("nvidiactl", "nvidia0", "nvidia-uvm")


def hidden_gpu(
    devices: Iterable[str], proc: Path = Path("/proc"), dev: Path = Path("/dev")
) -> str | None:
    """Explain why CUDA will not see the GPU that the driver has; None where all is well.

    Args:
        devices: As configured; without `auto` or `cuda` among them nothing is wanted.
        proc: Where the driver tells of itself.
        dev: Where its devices are.
    """
    if not any(name == "auto" or name.startswith("cuda") for name in devices):
        return None
    cards = proc / "driver" / "nvidia" / "gpus"
    if not cards.is_dir() or not any(cards.iterdir()):
        return None
    trouble = list(_closed(dev))
    if not trouble:
        return None
    return "the NVIDIA driver has a GPU, but CUDA will not see it: " + "; ".join(trouble)


def _closed(dev: Path) -> Iterator[str]:
    for name in _NEEDED:
        try:
            os.close(os.open(dev / name, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            yield f"{dev / name}: {_reason(error)}"


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "is not there (PrivateDevices= in the unit? nvidia-modprobe or nvidia_uvm missing?)"
    if error.errno == errno.EPERM:
        return "is not allowed (DeviceAllow=char-nvidia and char-nvidia-frontend in the unit?)"
    if error.errno == errno.EACCES:
        return "belongs to others (SupplementaryGroups=video render in the unit?)"
    return error.strerror or str(error)
