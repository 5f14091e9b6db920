"""What the doctor says of weights: the built-in ones, the cache, and the hub."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ...filters.errors import WeightsUnavailable
from ...filters.hub import find_cached
from ...filters.weights import BUILTIN, REAL_ESRGAN, RIFE, DefaultWeights, resolve_weights
from .finding import Finding, fail, ok, warn

_HUB_SECONDS = 5.0
_DEFAULTS = {"interpolate": RIFE, "upscale": REAL_ESRGAN}


def describe_weights() -> Iterator[Finding]:
    """Look at the weights on this machine; asks no network."""
    for filter_name, default in _DEFAULTS.items():
        yield _builtin(filter_name, default)
    try:
        yield _cache_folder()
        for filter_name, default in _DEFAULTS.items():
            yield _published(filter_name, default)
    except ValueError as error:  # raised while the client is imported, by a malformed HF_… variable
        yield warn("cache", f"the hub's client cannot be used: {error}")


def describe_hub() -> Iterator[Finding]:
    """Ask the hub for the head of a file; every answer, a refusal too, shows that it is there."""
    endpoint = _endpoint()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield warn("hub", "HF_HUB_OFFLINE is set: it is never asked", endpoint=endpoint)
        return
    try:
        address = f"{endpoint.rstrip('/')}/{RIFE.repo_id}/resolve/main/{RIFE.filename}"
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # an answer all the same
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        text = f"{endpoint} cannot be reached: {reason}; the built-in weights still work"
        yield warn("hub", text, endpoint=endpoint)
        return
    yield ok("hub", f"{endpoint} answers", endpoint=endpoint)


def _builtin(filter_name: str, default: DefaultWeights) -> Finding:
    name = f"weights {filter_name}"
    try:
        found = resolve_weights(BUILTIN, default)
    except WeightsUnavailable as error:
        return fail(name, str(error))
    text = f"built-in {default.builtin}, SHA-256 {found.sha256}"
    wanted = _recorded_sha256(default)
    if found.sha256 != wanted:
        return fail(name, f"{text}, which should be {wanted}: install upframe again")
    return ok(name, text, file=str(found.path), sha256=found.sha256)


def _recorded_sha256(default: DefaultWeights) -> str:
    record = default.builtin_path.with_name("provenance.json").read_text()
    return str(cast("dict[str, dict[str, Any]]", json.loads(record))[default.builtin]["sha256"])


def _cache_folder() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return warn("cache", f"{folder} is not writable: set HF_HOME", folder=str(folder))
    state = "writable" if existing == folder else "will be made on first use"
    return ok("cache", f"{folder} ({state})", folder=str(folder))


def _published(filter_name: str, default: DefaultWeights) -> Finding:
    name = f"published {filter_name}"
    path = find_cached(default.repo_id, default.filename)
    if path is None:
        text = f"{default.name} is not in the cache: fetched on first use, else built-in weights"
        return warn(name, text, cached=False)
    return ok(name, f"{default.name} is in the cache", cached=True, file=str(path))


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
