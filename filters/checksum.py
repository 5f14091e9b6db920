"""The SHA-256 of a file, computed once for as long as the file stays as it is."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Compute a file's SHA-256, anew only when its size or time of change differ.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
