"""A clip to watch for."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.media.clips import make_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MP4 whose index is at its end."""
    return make_clip(tmp_path_factory.mktemp("clip") / "film.mp4")


@pytest.fixture(scope="session")
def large_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of about 250 kB, which rsync can be told to take its time over."""
    path = tmp_path_factory.mktemp("clip") / "large.mp4"
    make_clip(path, width=320, height=240, frames=12, codec="mpeg4", options={"qmin": "1"})
    padding = 250_000 - path.stat().st_size
    with path.open("ab") as file:  # a box of the kind `free`: players pass over it
        file.write(padding.to_bytes(4) + b"free" + bytes(padding - 8))
    return path
