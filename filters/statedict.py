"""Read a file of weights as a flat dictionary of tensors, trusting nothing in it.

Pickles are read by torch's restricted unpickler, which builds tensors and containers and refuses
everything else; nothing in the file is ever run. What the tensors mean is the networks' business.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import CheckpointRejected, WeightsUnavailable

_WRAPPERS = ("params_ema", "params")
"""Keys under which Real-ESRGAN's training keeps the state dict; the averaged one is the better."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""A zip archive, or a bare pickle of protocol 2 or later."""

_HEAD_BYTES = 512

# Whatever a damaged or hostile pickle makes the unpickler stumble over: no bug of ours.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    ImportError,
)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read weights from a ``.safetensors`` file or a PyTorch checkpoint; content decides which.

    A checkpoint may hold the dictionary itself, or hold it under ``params_ema`` or ``params``.

    Returns:
        Tensors by name, on the CPU, floating ones as float32, all finite.

    Raises:
        WeightsUnavailable: if the file cannot be read.
        CheckpointRejected: if it is no checkpoint, wants to run code, holds anything but plain
            tensors, or holds NaN or infinite values.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        content = _read(path, head)
    except OSError as error:
        raise WeightsUnavailable(
            f"cannot read weights {path}: {error.strerror or error}"
        ) from error
    return {key: _checked(path, key, value) for key, value in _entries(path, content).items()}


def _read(path: Path, head: bytes) -> object:
    if head[8:9] == b"{" and not head.startswith(b"{"):
        return _read_safetensors(path)
    if not head.startswith(_PICKLE_STARTS):
        raise CheckpointRejected(f"{path} is not a checkpoint: {_what_it_is(head)}")
    return _read_pickle(path)


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)  # pyright: ignore[reportUnknownMemberType]
    except (SafetensorError, LookupError, ValueError) as error:
        raise CheckpointRejected(f"{path} is a damaged safetensors file: {error}") from error


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickles; what it cannot read, it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except _UNPICKLING_ERRORS as error:
        raise CheckpointRejected(f"{path} {_why_refused(error)}") from error


def _why_refused(error: BaseException) -> str:
    text = str(error)
    if match := re.search(r"GLOBAL ([\w.]+)", text):
        return f"is refused: it wants to load {match[1]}, and weights may hold tensors only"
    first = text.splitlines()[0] if text else type(error).__name__
    return f"is a damaged or foreign checkpoint: {first}"


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, saved by a download that went wrong"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself (git lfs pull)"
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        return f"it is a text file that begins with {head[:40].decode('utf-8', 'replace')!r}"
    return f"neither safetensors nor PyTorch, it begins with the bytes {head[:8].hex(' ')}"


def _entries(path: Path, content: object) -> Mapping[str, object]:
    if isinstance(content, Mapping):
        unwrapped = cast("Mapping[Any, object]", content)
        for key in _WRAPPERS:
            if isinstance(inner := unwrapped.get(key), Mapping):
                unwrapped = cast("Mapping[Any, object]", inner)
                break
        if not unwrapped:
            raise CheckpointRejected(f"{path} holds an empty dictionary, not tensors by name")
        if strange := [key for key in unwrapped if not isinstance(key, str)]:
            raise CheckpointRejected(f"{path} must hold tensors by name, got key {strange[0]!r}")
        return unwrapped
    kind = type(content).__name__
    raise CheckpointRejected(f"{path} must hold a dictionary of tensors, got a {kind}")


def _checked(path: Path, key: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise CheckpointRejected(f"{path} must hold tensors only, got a {kind} under {key!r}")
    tensor = value.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointRejected(f"{path} must hold plain tensors, {key!r} is {tensor.type()}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # a stride of 0 lets a tiny file ask for any amount of memory
        shape = tuple(tensor.shape)
        raise CheckpointRejected(f"{path} holds less than the {shape} that {key!r} claims")
    if tensor.is_floating_point():
        tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointRejected(f"{path} holds NaN or infinite values under {key!r}")
    return tensor
