"""Where a filter's weights come from: a local file, the model hub, or the built-in starter weights.

A name is read in this order: ``builtin``; a file or folder that exists; ``owner/name`` or
``owner/name:file`` on the hub. What is spelled like a path (``./x``, ``/x``, ``x.pth``) is never
asked from the hub. Only the default weights, under the policy ``auto``, are ever replaced by the
built-in ones, and never silently.
"""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from .errors import CheckpointRejected, WeightsUnavailable
from .hub import fetch_from_hub, sha256_of, too_large
from .options import REAL_ESRGAN_ID, RIFE_ID, Policy

_logger = logging.getLogger("upframe.filters.weights")


# Read a file of weights as a flat dictionary of tensors, trusting nothing in it.
#
# A file is read once and whole. Its pickle or header yields only dictionaries and claims of which
# bytes make up a tensor; all claims are compared with the file before any memory is allocated.
# Torch's own reader inflates archives and trusts the lengths that a pickle declares.

_MOST_BYTES = 1 << 30
"""Of a file: the largest that was published for these networks has 67 MB."""
_MOST_HEADER_BYTES = 1 << 20
"""Of what describes the tensors; published ones have up to 0.2 MB."""
_MOST_PARTS = 1 << 14
"""Entries of an archive, or tuples of a pickle, of which four describe a tensor."""
_SHARED = ("GLOBAL", "BINUNICODE", "SHORT_BINSTRING", "EMPTY_DICT", "EMPTY_LIST", "REDUCE")
"""Opcodes whose results torch.save memoizes: names, functions, dictionaries, tensors."""
_MOST_AXES, _TOO_MANY = 5, 1 << 63

_WRAPPERS = ("params_ema", "params")
"""Keys under which Real-ESRGAN's training keeps the state dict; the averaged one is the better."""
_NAME = re.compile(r"[!-~]{1,200}")
_COUNTERS = "num_batches_tracked"
"""Ending of the only names under which there may be integers: training leaves them."""

_DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "I64": torch.int64,
}  # fmt: skip
"""As safetensors and as torch.save name them."""
_WANTED = "plain tensors of float32, float16, bfloat16 or float64"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""With these torch.save began its files before they were archives."""

# Errors that a damaged or hostile file raises in Python's readers: no bug of ours.
_DAMAGES = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, RuntimeError, EOFError, LookupError,
    ValueError, TypeError, AttributeError, ArithmeticError,
)  # fmt: skip


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_values: int


class _Claim(NamedTuple):
    """A tensor as a file declares it."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Declared = tuple[object, Mapping[str, bytes | memoryview]]
"""What a file declares, and the bytes of each storage."""


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read weights from a ``.safetensors`` file or a PyTorch checkpoint; content decides which.

    A checkpoint may hold the dictionary itself, or hold it under ``params_ema`` or ``params``.

    Returns:
        Tensors by name, on the CPU, floating ones as float32, all finite.

    Raises:
        WeightsUnavailable: if the file cannot be read.
        CheckpointRejected: if it is no checkpoint, wants to run code, is compressed, declares more
            than it has, holds anything but plain tensors of floats, or NaN or infinite values.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise WeightsUnavailable(
            f"cannot read weights {path}: {error.strerror or error}"
        ) from error
    try:
        found, data = _declared(path, content)
    except _DAMAGES as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointRejected(f"{path} is a damaged or foreign checkpoint: {first}") from error
    claims = {key: _checked(path, key, one, data) for key, one in _entries(path, found).items()}
    total = sum(prod(claim.shape) * claim.storage.dtype.itemsize for claim in claims.values())
    if total > len(content):
        raise CheckpointRejected(
            f"{path} declares {total} bytes of tensors, and has {len(content)} in all"
        )

    @cache
    def stored(storage: _Storage) -> Tensor:
        """Copy what several tensors may lie in."""
        return torch.frombuffer(bytearray(data[storage.key]), dtype=storage.dtype)

    return {key: _finite(path, key, claim, stored) for key, claim in claims.items()}


_T = TypeVar("_T")


def load(weights: Weights, build: Callable[[Mapping[str, Tensor]], _T]) -> _T:
    """Read a file of weights and build its network.

    Raises:
        CheckpointRejected: as `load_state_dict`, or as `build` does.
        WeightsUnavailable: if it cannot be read.
    """
    state = load_state_dict(weights.path)
    try:
        return build(state)
    except CheckpointRejected as error:
        raise CheckpointRejected(f"{weights.path}: {error}") from error


def _declared(path: Path, content: bytes) -> _Declared:
    if len(content) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
    if content[8:9] == b"{" and not content.startswith(b"{"):
        return _read_safetensors(content)
    if content.startswith(b"PK\x03\x04"):
        return _read_archive(content)
    if content.startswith(b"\x80"):
        return _read_pickles(content)
    raise CheckpointRejected(f"{path} is not a checkpoint: {_what_it_is(content[:512])}")


def _read_safetensors(content: bytes) -> _Declared:
    begin = 8 + int.from_bytes(content[:8], "little")
    if begin > min(len(content), 8 + _MOST_HEADER_BYTES):
        raise ValueError(f"its header claims {begin - 8} bytes, the file has {len(content)}")
    header = json.loads(content[8:begin], object_pairs_hook=_unique)
    header.pop("__metadata__", None)
    claims, data = dict[str, _Claim](), dict[str, bytes | memoryview]()
    for name, entry in header.items():
        if (dtype := _DTYPES.get(entry["dtype"])) is None:
            raise ValueError(f"a tensor is {entry['dtype'][:20]!a}, wanted {_WANTED}")
        first, end = entry["data_offsets"]
        data[name] = memoryview(content)[begin + first : begin + end]
        storage = _Storage(name, dtype, len(data[name]) // dtype.itemsize)
        shape = entry["shape"][: _MOST_AXES + 1]
        strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
        claims[name] = _claim(storage, 0, shape, strides)
    ranges = sorted(entry["data_offsets"] for entry in header.values())
    if [0, *(end for _, end in ranges)] != [*(first for first, _ in ranges), len(content) - begin]:
        raise ValueError("its tensors overlap, leave gaps, or end elsewhere than the file")
    return claims, data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names two things the same")
    return found


def _read_archive(content: bytes) -> _Declared:
    if (count := content.count(b"PK\x01\x02")) > _MOST_PARTS:  # one begins each entry
        raise ValueError(f"it is an archive of {count} entries, wanted at most {_MOST_PARTS}")
    archive = zipfile.ZipFile(io.BytesIO(content))
    entries = _unique([(entry.filename, entry) for entry in archive.infolist()])
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError("its entries are compressed, wanted stored as torch.save does it")
    if (total := sum(entry.file_size for entry in entries.values())) > len(content):
        raise ValueError(f"its entries claim {total} bytes, the file has {len(content)}")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"torch.save writes one data.pkl into an archive, got {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its byte order is not little")
    found, storages = _unpickled(io.BytesIO(archive.read(pickles[0])))
    return found, {key: archive.read(f"{folder}data/{key}") for key in storages}


def _read_pickles(content: bytes) -> _Declared:
    file, data = io.BytesIO(content), dict[str, bytes | memoryview]()
    if _unpickled(file)[0] != _MAGIC or _unpickled(file)[0] != _PROTOCOL:
        raise ValueError("it is a pickle, but not as torch.save writes it")
    _unpickled(file)  # of the machine that wrote it
    found, storages = _unpickled(file)
    keys, _ = _unpickled(file)
    for key in cast("list[str]", keys):
        num_values, begin = int.from_bytes(file.read(8), "little"), file.tell()
        file.seek(num_values * storages[key].dtype.itemsize, io.SEEK_CUR)
        data[key] = memoryview(content)[begin : file.tell()]
    if file.tell() > len(content):
        raise EOFError("it ends within its values")
    return found, data


def _unpickled(file: io.BytesIO) -> tuple[object, dict[str, _Storage]]:
    """Read the next pickle of a file, and which storages it names."""
    begin, num_tuples, before, shared = file.tell(), 0, "", set[object]()
    for opcode, argument, place in pickletools.genops(file):
        num_tuples += opcode.name.startswith("TUPLE")
        if "PUT" in opcode.name:  # of what may be fetched again: never a tuple
            (shared.add if before in _SHARED else shared.discard)(argument)
        before = opcode.name
        if (
            opcode.proto > 2  # of torch.save
            or file.tell() - begin > _MOST_HEADER_BYTES
            or num_tuples > _MOST_PARTS  # hashing nested ones needs as deep a stack
            or opcode.name == "DUP"  # a tuple of one tuple twice, and so on, is hashed for ever
            or ("GET" in opcode.name and argument not in shared)
            # allocates memory
            or ("PUT" in opcode.name and cast("int", argument) > _MOST_HEADER_BYTES)
        ):
            raise ValueError(f"torch.save writes no such pickle: {opcode.name} at byte {place}")
    unpickler = _Unpickler(io.BytesIO(file.getbuffer()[begin : file.tell()]))
    return unpickler.load(), unpickler.storages


class Names(dict[object, object]):
    """An `OrderedDict` that ignores attributes."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries and claims, by functions that a pickle gets to see but once."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> object:
        def tensor(*parts: Any) -> object:
            return _claim(*parts)

        def parameter(claim: object, *_: object) -> object:
            return claim if isinstance(claim, _Claim) else None

        match f"{module_name}.{global_name}":
            case "collections.OrderedDict":
                return lambda: Names()
            case "torch._utils._rebuild_tensor_v2":
                return tensor
            case "torch._utils._rebuild_parameter":
                return parameter
            case name if found := _DTYPES.get(name.removeprefix("torch.").removeprefix("cuda.")):
                return found
            case name:
                raise ValueError(f"it wants to load {ascii(name[:100])[1:-1]}, wanted {_WANTED}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, num_values = pid[:5]
        storage = _Storage(key, dtype, num_values)
        if (
            not (isinstance(dtype, torch.dtype) and type(key) is str and type(num_values) is int)
            or not 0 <= num_values < _TOO_MANY
            or any(pid[5:])
            or self.storages.setdefault(key, storage) != storage
        ):
            raise ValueError("a storage is described in two ways, or not as torch.save does it")
        return storage


def _claim(storage: object, offset: int, shape: Any, strides: Any, *others: object) -> _Claim:
    """Check the types of what describes a tensor; the third other is what else it is."""
    if (
        not isinstance(storage, _Storage)
        or not len(shape) == len(strides) <= _MOST_AXES
        or any(type(n) is not int or not 0 <= n < _TOO_MANY for n in (offset, *shape, *strides))
        or any(others[2:])
    ):
        raise ValueError("a tensor is not described as torch.save does it")
    return _Claim(storage, offset, tuple(shape), tuple(strides))


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
        if strange := [
            key for key in unwrapped if not (isinstance(key, str) and _NAME.fullmatch(key))
        ]:
            raise CheckpointRejected(
                f"{path} must hold tensors by name, got {_kind(strange[0])} for a name"
            )
        return unwrapped
    raise CheckpointRejected(f"{path} must hold a dictionary of tensors, got {_kind(content)}")


def _kind(value: object) -> str:
    if isinstance(value, str):
        return f"{value!a:.40}"
    return "a Tensor" if isinstance(value, _Claim) else f"a {type(value).__name__}"


def _checked(path: Path, key: str, value: object, data: Mapping[str, bytes | memoryview]) -> _Claim:
    """Compare the claim of a tensor with the bytes in the file."""
    if not isinstance(value, _Claim):
        raise CheckpointRejected(f"{path} must hold tensors only, got {_kind(value)} under {key!r}")
    storage, offset, shape, strides = value
    if not (storage.dtype.is_floating_point or key.endswith(_COUNTERS)):
        raise CheckpointRejected(f"{path} must hold {_WANTED}, {key!r} is {storage.dtype}")
    last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    needed = max(offset + last + 1, prod(shape)) if all(shape) else 0
    num_bytes = storage.num_values * storage.dtype.itemsize
    # a stride of 0 lets a tiny file ask for any memory
    if needed > storage.num_values or len(data.get(storage.key, b"")) != num_bytes:
        raise CheckpointRejected(
            f"{path} holds something else than the {shape} that {key!r} claims"
        )
    return value


def _finite(path: Path, key: str, claim: _Claim, stored: Callable[[_Storage], Tensor]) -> Tensor:
    if not all(claim.shape):
        return torch.empty(claim.shape)
    tensor = stored(claim.storage).as_strided(claim.shape, claim.strides, claim.offset)
    if tensor.is_floating_point():
        tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointRejected(f"{path} holds NaN or infinite values under {key!r}")
    return tensor


BUILTIN = "builtin"

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
    missed: str = ""
    """Why built-in weights stand in for the published ones; empty where they do not."""


@dataclass(frozen=True, slots=True)
class DefaultWeights:
    """Weights that a filter uses by default, and the file names it looks for in folders."""

    repo_id: str
    filename: str
    builtin: str
    """File name below ``filters/builtin``."""
    filenames: tuple[str, ...]
    """Looked for, in this order, in a folder or repository named without a file."""
    sole_suffixes: tuple[str, ...] = ()
    """Without any of `filenames`, a folder's only file with one of these suffixes is meant."""

    @property
    def name(self) -> str:
        """``owner/name:file``."""
        return f"{self.repo_id}:{self.filename}"

    @property
    def builtin_path(self) -> Path:
        """Where the built-in starter weights lie in this installation."""
        return Path(__file__).parent / "builtin" / self.builtin


RIFE = DefaultWeights(
    repo_id=RIFE_ID,
    filename="flownet.pkl",
    builtin="rife_starter.safetensors",
    filenames=("flownet.pkl", "flownet.safetensors"),
)
REAL_ESRGAN = DefaultWeights(
    repo_id=REAL_ESRGAN_ID,
    filename="RealESRGAN_x4.pth",
    builtin="srvgg_starter_x4.safetensors",
    filenames=("RealESRGAN_x4.pth",),
    sole_suffixes=(".pth", ".safetensors"),
)


def resolve_weights(
    name: str | None,
    default: DefaultWeights,
    policy: Policy = "auto",
    *,
    offline: bool = False,
    most_bytes: int | None = None,
) -> Weights:
    """Find the file that a name means, fetching it from the hub where needed.

    It is a local file or folder, ``owner/name``, ``owner/name:file`` or ``builtin``; None for the
    default of the filter that asks, which may come from where `policy` says; what a user names is
    never replaced. `offline` uses only files already in the hub's cache, as `builtin` does too.

    Raises:
        CheckpointRejected: if it is too large.
        WeightsUnavailable: if there is no such file, or the hub cannot deliver it.
    """
    if name == BUILTIN or (name is None and policy == "builtin"):
        return _builtin(default)
    offline = offline or policy == "builtin"
    if name is None:
        try:
            return _hub(default.repo_id, (default.filename,), offline, most_bytes)
        except WeightsUnavailable as error:
            if policy != "auto":
                raise
            return replace(_builtin(default), missed=str(error))
    if os.path.exists(local := os.path.expanduser(name)):
        path = Path(local)
        file = _file_in(path, default) if path.is_dir() else path
        if not file.is_file():
            raise WeightsUnavailable(
                f"weights must be a regular file or a folder, {name!r} is neither"
            )
        return _weights(str(file) if path.is_dir() else name, file, "local", most_bytes)
    if match := _hub_match(name):
        filenames = (match["filename"],) if match["filename"] else default.filenames
        return _hub(match["repo_id"], filenames, offline, most_bytes)
    no_hub = (
        "" if _is_spelled_as_path(name) else ", nor is it a hub's owner/name or owner/name:file"
    )
    raise WeightsUnavailable(f"no weights at {name!r}: there is no such file or folder{no_hub}")


def warn_of_builtin(used: Iterable[Weights]) -> None:
    """Warn, in one line, of built-in weights that stand in for published ones."""
    reasons = [weights.missed for weights in used if weights.missed]
    if reasons:
        _logger.warning(
            "THE BUILT-IN STARTER WEIGHTS ARE USED, OF LOWER QUALITY: %s (`upframe models pull` "
            "fetches the published ones; --weights builtin takes these without this warning)",
            reasons[0],
        )


def _weights(
    name: str, path: Path, origin: Literal["local", "hub", "builtin"], most_bytes: int | None = None
) -> Weights:
    try:
        if most_bytes is not None and (size := path.stat().st_size) > most_bytes:
            raise CheckpointRejected(f"weights {name}: {too_large(size, most_bytes)}")
        return Weights(name, path, sha256_of(path), origin)
    except OSError as error:
        raise WeightsUnavailable(f"cannot read weights {path}: {error.strerror}") from error


def _builtin(default: DefaultWeights) -> Weights:
    path = default.builtin_path
    if not path.is_file():
        raise WeightsUnavailable(f"the built-in weights {path} are missing: install upframe again")
    return _weights(BUILTIN, path, "builtin")


def _hub(
    repo_id: str, filenames: tuple[str, ...], offline: bool, most_bytes: int | None
) -> Weights:
    filename, path = fetch_from_hub(repo_id, filenames, most_bytes, offline=offline)
    return _weights(f"{repo_id}:{filename}", path, "hub", most_bytes)


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
