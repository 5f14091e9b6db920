"""`upframe models`: list and fetch weights, and identify files of weights."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...filters.errors import CheckpointRejected
from ...filters.hub import list_cached, sha256_of
from ...filters.weights import (
    BUILTIN,
    REAL_ESRGAN,
    RIFE,
    WEIGHT_SUFFIXES,
    DefaultWeights,
    Weights,
    load_state_dict,
    resolve_weights,
)
from ...io.redaction import json_text, one_line
from ..errors import UsageError

_DEFAULTS = (RIFE, REAL_ESRGAN)
# Without a filter, a folder or repository may hold the weights of either.
_EITHER = DefaultWeights(
    repo_id="",
    filename="",
    builtin="",
    filenames=RIFE.filenames + REAL_ESRGAN.filenames,
    sole_suffixes=REAL_ESRGAN.sole_suffixes,
)
_LISTED_BYTES = 2**28
"""No filter here can load larger files."""


def command(arguments: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    return {"list": _list, "pull": _pull, "check": _check}[arguments.action](arguments)


def list_models() -> Iterator[dict[str, Any]]:
    """Yield the built-in weights, the defaults, cached or not, and all others in the cache."""
    for default in _DEFAULTS:
        yield _entry("builtin", default.builtin, default.builtin_path)
    cached = dict(list_cached(WEIGHT_SUFFIXES))
    for default in _DEFAULTS:
        yield _entry("default", default.name, cached.pop(default.name, None))
    for name, path in cached.items():
        if path.stat().st_size <= _LISTED_BYTES:
            yield _entry("cached", name, path)


def _entry(kind: str, name: str, path: Path | None) -> dict[str, Any]:
    """Describe weights as JSON values; without a path, they were never fetched."""
    if path is None:
        return {"kind": kind, "name": name, "path": None}
    size = path.stat().st_size
    sha256 = sha256_of(path)
    return {"kind": kind, "name": name, "path": str(path), "bytes": size, "sha256": sha256}


def describe(weights: Weights) -> str:
    """Load weights strictly and name their network.

    Raises:
        CheckpointRejected: if no filter here can use them.
    """
    # loading the networks takes a while, listing and fetching need none of it
    from ...filters.interpolate.network import load_ifnet
    from ...filters.upscale.checkpoint import load_upscaler

    try:
        state = load_state_dict(weights.path)
        size = f"{sum(value.numel() for value in state.values()) / 1e6:.2f} million weights"
        if any(re.match(r"(module\.)?(block\d|encode\.)", key) for key in state):
            load_ifnet(state)
            return f"RIFE 4.22.lite, interpolation, {size}"
        network = load_upscaler(state)
        return f"{type(network).__name__}, enlarging x{network.scale}, {size}"
    except CheckpointRejected as error:
        if str(weights.path) in (text := str(error)):
            raise
        raise CheckpointRejected(f"{weights.path}: {text}") from error


def _list(arguments: argparse.Namespace) -> int:
    entries = list(list_models())
    if arguments.json:
        sys.stdout.write(json_text(entries) + "\n")
        return 0
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        state = "not fetched; upframe models pull"
        if entry["path"] is not None:
            state = f"{entry['bytes'] / 1e6:7.2f} MB  {entry['sha256']}  {entry['path']}"
        line = f"{entry['kind']:<8} {entry['name']:<{width}}  {state}"
        sys.stdout.write(f"{one_line(line)}\n")
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    names: list[str] = arguments.name
    pulls = [(name, _EITHER) for name in names] or [(None, default) for default in _DEFAULTS]
    for name, default in pulls:
        weights = resolve_weights(name, default, "hub") if name != BUILTIN else None
        if weights is None or weights.origin != "hub":
            raise UsageError(f"{name} is on this machine; pull takes owner/name or owner/name:file")
        _print(weights)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    names: list[str] = arguments.name
    for name in names:
        for default in _DEFAULTS if name == BUILTIN else (_EITHER,):
            _print(resolve_weights(name, default))
    return 0


def _print(weights: Weights) -> None:
    name = f"{weights.name}: {describe(weights)}"
    lines = (name, f"  {weights.path}", f"  SHA-256 {weights.sha256}")
    sys.stdout.writelines(f"{one_line(line)}\n" for line in lines)
    sys.stdout.flush()
