"""By what a version of a watched file is known again: its idempotency key and its job's id."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from ..service.config import WatchConfig
from .filesystems import keeps_inodes
from .stability import Signature

_SCHEME = "watch"
_DIGEST_CHARACTERS = 16
_LONGEST_STEM = 40


def settings_digest(watch: WatchConfig) -> str:
    """Condense what decides the result: other settings make other work of the same file."""
    content = watch.model_dump(mode="json", include={"filters", "encoder", "container", "output"})
    return _digest(json.dumps(content, sort_keys=True, separators=(",", ":")))


def file_key(path: Path, signature: Signature, settings: str, filesystem: str) -> str:
    """Write the idempotency key of one version of a file under some settings."""
    kept = signature if keeps_inodes(filesystem) else replace(signature, inode=0)
    numbers = f"{kept.size}:{kept.mtime_ns}:{kept.inode}"
    return f"{_SCHEME}:{numbers}:{settings}:{path}"


def key_fits(key: str, signature: Signature) -> bool:
    """Tell whether a key was made of a file as it is now, whatever the settings were."""
    numbers = key.split(":", 4)[1:4]
    size, mtime_ns, inode = (int(number) for number in numbers)
    same = (size, mtime_ns) == (signature.size, signature.mtime_ns)
    return same and inode in (0, signature.inode)


def job_id(path: Path, key: str) -> str:
    """Name the job of a key: always the same, and people see which file it is."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:_LONGEST_STEM]
    return f"{stem or 'file'}-{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
