"""Where and how precisely filters compute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch

from .errors import DeviceUnavailable

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_device(name: str = "auto") -> torch.device:
    """Find the device that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` means.

    Raises:
        DeviceUnavailable: if the name is another, or there is no such CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and index) or (index and not index.isdigit()):
        raise DeviceUnavailable(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise DeviceUnavailable(f"{name} was asked for, but {found} CUDA devices are there")
    return torch.device("cuda", int(index or 0))


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX or Arm BF16)."""
    return cpu_has("avx512_bf16", "amx_bf16", "bf16")


def cpu_has(*flags: str) -> bool:
    """Tell whether this CPU has any of these, as torch names them."""
    ask = cast(
        "Callable[[], dict[str, object]] | None", getattr(torch.cpu, "get_capabilities", None)
    )
    if ask is None:  # a torch too old to tell: slower, never wrong
        return False
    capabilities = ask()
    return any(bool(capabilities.get(flag)) for flag in flags)


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
    """Keep fp32 what it says: by default cuDNN rounds what it multiplies to 10 bits (TF32)."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that an allocation failed, on CUDA or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # the CPU allocator raises a plain RuntimeError with one of these texts
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "not enough memory", "bad alloc")
    )
