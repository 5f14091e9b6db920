"""The names of rolling recordings: a path with fields of strftime, such as ``%Y%m%d-%H%M%S.mp4``.

Folders may have fields too; those are made as they are needed. A name that is taken gets ``-1``,
``-2`` and so on before its extension, so that no recording ever replaces another.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import SinkRefused
from ..files import check_target, rename

_FIELDS = "YmdHMSjyFTs"
_FIELD = re.compile(r"%(.?)")
_IS_FIELD = re.compile(r"%[YmdHMSjyFT]")
_NAME_MAX_BYTES = 255
_TOKEN_BYTES = 4
_ENDING = re.compile(r"\.live-[0-9a-f]{8}\.partial$")
_MOST_OF_ONE_NAME = 10_000


def new_token() -> str:
    """Make a token by which the partial files of recordings are known."""
    return f"live-{secrets.token_hex(_TOKEN_BYTES)}"


def is_naming(path: Path) -> bool:
    """Tell whether a path is a pattern of strftime, and not one of printf for images."""
    return _IS_FIELD.search(str(path)) is not None


class Naming:
    """Gives the paths of rolling recordings.

    Args:
        pattern: an absolute path with fields.
    """

    def __init__(self, pattern: Path) -> None:
        self.pattern = pattern
        plain = [part for part in pattern.parts if "%" not in part]
        depth = next(at for at, part in enumerate(pattern.parts) if "%" in part)
        self._base = Path(*plain[:depth])

    def check(self) -> None:
        """Refuse a pattern whose files could not be written.

        Raises:
            SinkRefused: for unknown fields, names that are too long, or a folder that is not there
                or cannot be written.
        """
        for field in _FIELD.findall(str(self.pattern)):
            if field not in (*_FIELDS, "%"):
                known = " ".join(f"%{one}" for one in _FIELDS)
                raise SinkRefused(f"{self.pattern}: unknown field %{field}, wanted {known} or %%")
        longest = len(os.fsencode(self.at(2e9).name)) + len(".-9999..live-00000000.partial")
        if longest > _NAME_MAX_BYTES:
            raise SinkRefused(f"output name has more than {_NAME_MAX_BYTES} bytes: {self.pattern}")
        check_target(self._base / "upframe", overwrite=True)

    def at(self, wall_seconds: float) -> Path:
        """Give the path for a moment, in local time."""
        return Path(time.strftime(str(self.pattern), time.localtime(wall_seconds)))

    def leftovers(self) -> Iterator[tuple[Path, Path]]:
        """Find what other processes have left unfinished: where it is, and its name.

        They may still be at work on it.
        """
        folder, name = self.pattern.parent, self.pattern.name
        hidden = f".{_globbed(name)}.live-????????.partial"
        for found in sorted(glob.glob(str(Path(_globbed(str(folder))) / hidden))):
            path = Path(found)
            if ending := _ENDING.search(path.name):
                yield path, path.with_name(path.name[1 : ending.start()])


def _globbed(text: str) -> str:
    """Write a pattern of strftime as one of glob."""
    parts = _FIELD.split(text)  # text, field, text, field, …
    plain = (glob.escape(part) for part in parts[::2])
    fields = ("%" if field == "%" else "*" for field in [*parts[1::2], ""])
    return "".join(a + b for a, b in zip(plain, fields, strict=True)).removesuffix("*")


def numbered(path: Path) -> Iterator[Path]:
    """Give a path, then the same with -1, -2, … before its extension."""
    yield path
    for number in range(1, _MOST_OF_ONE_NAME):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def free_path(path: Path) -> Path:
    """Give a path, or the first one beside it that is not taken.

    Raises:
        SinkRefused: if thousands of that name are there.
    """
    found = next((one for one in numbered(path) if not os.path.lexists(one)), None)
    if found is None:
        raise SinkRefused(f"{_MOST_OF_ONE_NAME} files of that name are there: {path}")
    return found


def rename_beside(partial: Path, target: Path) -> Path:
    """Give a finished recording its name, or the first free one beside it.

    Returns:
        The name it got.

    Raises:
        SinkFull: if the rename fails.
        SinkRefused: if thousands of that name are there.
    """
    for path in numbered(target):
        try:
            rename(partial, path, overwrite=False)
        except SinkRefused:
            continue
        return path
    raise SinkRefused(f"{_MOST_OF_ONE_NAME} files of that name are there: {target}")
