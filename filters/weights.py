"""Where a filter's weights come from: a local file, the model hub, or the built-in starter weights.

A name is read in this order: ``builtin``; a file or folder that exists; ``owner/name`` or
``owner/name:file`` on the hub. What is spelled like a path (``./x``, ``/x``, ``x.pth``) is never
asked from the hub. Only the default weights, under the policy ``auto``, are ever replaced by the
built-in ones, and never silently.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from .errors import CheckpointRejected, WeightsUnavailable
from .hub import fetch_from_hub, find_cached, sha256_of
from .options import Policy

__all__ = [
    "BUILTIN",
    "REAL_ESRGAN",
    "RIFE",
    "WEIGHT_SUFFIXES",
    "DefaultWeights",
    "Policy",
    "Weights",
    "load_state_dict",
    "resolve_weights",
]

_logger = logging.getLogger("upframe.filters.weights")


# Read a file of weights as a flat dictionary of tensors, trusting nothing in it.
#
# Pickles are read by torch's restricted unpickler, which builds tensors and containers and refuses
# everything else; nothing in the file is ever run. What the tensors mean is the networks'
# business.

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


BUILTIN = "builtin"

_BUILTIN_FOLDER = Path(__file__).parent / "builtin"
_HUB_NAME = re.compile(r"(?P<repo_id>\w[\w.-]*/\w[\w.-]*)(?::(?P<filename>[^:\\]+))?", re.ASCII)
WEIGHT_SUFFIXES = (".pkl", ".pth", ".pt", ".safetensors")


@dataclass(frozen=True, slots=True)
class Weights:
    """A file of weights on this machine, and where it came from."""

    name: str
    """As a user would name them: a path, ``owner/name:file``, or ``builtin``."""
    path: Path
    sha256: str
    """Of the file, 64 hexadecimal digits."""
    origin: Literal["local", "hub", "builtin"]


@dataclass(frozen=True, slots=True)
class DefaultWeights:
    """What a filter uses when nobody names weights, and what it looks for in folders."""

    repo_id: str
    filename: str
    builtin: str
    """File name below ``filters/builtin``."""
    filenames: tuple[str, ...]
    """Looked for in a folder or repository that is given without a file name, in this order."""
    sole_suffixes: tuple[str, ...] = ()
    """Without any of `filenames`, a folder's only file with one of these suffixes is meant."""

    @property
    def name(self) -> str:
        """``owner/name:file``."""
        return f"{self.repo_id}:{self.filename}"

    @property
    def builtin_path(self) -> Path:
        """Where the built-in starter weights lie in this installation."""
        return _BUILTIN_FOLDER / self.builtin


RIFE = DefaultWeights(
    repo_id="elfgum/RIFE-4.22.lite",
    filename="flownet.pkl",
    builtin="rife_starter.safetensors",
    filenames=("flownet.pkl", "flownet.safetensors"),
)
REAL_ESRGAN = DefaultWeights(
    repo_id="ai-forever/Real-ESRGAN",
    filename="RealESRGAN_x4.pth",
    builtin="srvgg_starter_x4.safetensors",
    filenames=("RealESRGAN_x4.pth",),
    sole_suffixes=(".pth", ".safetensors"),
)


def resolve_weights(
    name: str | None, default: DefaultWeights, policy: Policy = "auto", *, offline: bool = False
) -> Weights:
    """Find the file that a name means, fetching it from the hub where needed.

    Args:
        name: a local file or folder, ``owner/name``, ``owner/name:file`` or ``builtin``; None for
            the default.
        default: the default weights of the filter that asks.
        policy: where the default may come from; what a user names is never replaced.
        offline: take from the hub only what is in its cache already.

    Raises:
        WeightsUnavailable: if there is no such file, or the hub cannot give it.
    """
    if name == BUILTIN or (name is None and policy == "builtin"):
        return _builtin(default)
    if name is None:
        return _default(default, policy, offline)
    if os.path.exists(local := os.path.expanduser(name)):
        return _local(name, Path(local), default)
    if match := _hub_match(name):
        filenames = (match["filename"],) if match["filename"] else default.filenames
        return _hub(match["repo_id"], filenames, offline)
    no_hub = (
        "" if _is_spelled_as_path(name) else ", nor is it a hub's owner/name or owner/name:file"
    )
    raise WeightsUnavailable(f"no weights at {name!r}: there is no such file or folder{no_hub}")


def _default(default: DefaultWeights, policy: Policy, offline: bool) -> Weights:
    try:
        return _hub(default.repo_id, (default.filename,), offline)
    except WeightsUnavailable as error:
        if policy != "auto":
            raise
        _logger.warning(
            "USING BUILT-IN STARTER WEIGHTS OF LOWER QUALITY instead of %s: %s. For the real ones, "
            "run `upframe models pull` where the hub can be reached, or give a local file as model "
            "path. `--weights builtin` asks for the starter weights without this warning, "
            "`--weights hub` never accepts them.",
            default.name,
            error,
        )
        return _builtin(default)


def _weights(name: str, path: Path, origin: Literal["local", "hub", "builtin"]) -> Weights:
    try:
        return Weights(name, path, sha256_of(path), origin)
    except OSError as error:
        raise WeightsUnavailable(f"cannot read weights {path}: {error.strerror}") from error


def _builtin(default: DefaultWeights) -> Weights:
    path = default.builtin_path
    if not path.is_file():
        raise WeightsUnavailable(f"the built-in weights {path} are missing: install upframe again")
    return _weights(BUILTIN, path, "builtin")


def _hub(repo_id: str, filenames: tuple[str, ...], offline: bool) -> Weights:
    find = _find_cached if offline else fetch_from_hub
    filename, path = find(repo_id, filenames)
    return _weights(f"{repo_id}:{filename}", path, "hub")


def _find_cached(repo_id: str, filenames: tuple[str, ...]) -> tuple[str, Path]:
    for filename in filenames:
        path = find_cached(repo_id, filename)
        if path is not None:
            return filename, path
    wanted = " or ".join(filenames)
    raise WeightsUnavailable(
        f"{repo_id}: {wanted} is not in the hub's cache; `upframe models pull` fetches it"
    )


def _local(name: str, path: Path, default: DefaultWeights) -> Weights:
    file = _file_in(path, default) if path.is_dir() else path
    if not file.is_file():
        raise WeightsUnavailable(f"weights must be a regular file or a folder, {name!r} is neither")
    return _weights(str(file) if path.is_dir() else name, file, "local")


def _file_in(folder: Path, default: DefaultWeights) -> Path:
    for filename in default.filenames:
        if (folder / filename).is_file():
            return folder / filename
    try:
        found = sorted(p for p in folder.iterdir() if p.is_file())
    except OSError as error:
        raise WeightsUnavailable(f"cannot list the folder {folder}: {error.strerror}") from error
    candidates = [path for path in found if path.suffix.lower() in default.sole_suffixes]
    if len(candidates) == 1:
        return candidates[0]
    wanted = " or ".join(default.filenames)
    if candidates:
        names = ", ".join(path.name for path in candidates)
        raise WeightsUnavailable(f"no {wanted} in {folder}; name one of its files: {names}")
    if default.sole_suffixes:
        wanted += " nor any " + " or ".join(default.sole_suffixes)
    raise WeightsUnavailable(f"no {wanted} in the folder {folder}")


def _hub_match(name: str) -> re.Match[str] | None:
    match = _HUB_NAME.fullmatch(name)
    if match is None or _is_spelled_as_path(name):
        return None
    parts = (match["filename"] or "x").split("/")  # no way out of the repository
    return None if {"", ".", ".."} & set(parts) else match


def _is_spelled_as_path(name: str) -> bool:
    if name.startswith(("/", ".", "~")) or "\\" in name:
        return True
    return ":" not in name and name.lower().endswith(WEIGHT_SUFFIXES)
