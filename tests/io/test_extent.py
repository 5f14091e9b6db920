"""How far a file goes by its own structure, also where nothing is in it but structure."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from upframe.io.extent import EBML, mp4_boxes, mp4_index, promised_bytes, whole_fragments
from upframe.io.pictures.image_files import Embedded, read_embedded
from upframe.io.pictures.png import SIGNATURE, chunk, with_hidden_data
from upframe.io.rawvideo.matroska import block_additions

MANY = 20_000


def box(name: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def written(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


HEAD = box(b"ftyp", b"isom") + box(b"moov", b"the index")


@pytest.mark.parametrize("empty", [box(b"free"), struct.pack(">I4sQ", 1, b"free", 16)])
def test_empty_boxes_without_end_are_not_walked_over(tmp_path: Path, empty: bytes) -> None:
    clip = written(tmp_path / "a.mp4", HEAD, empty * MANY)
    assert len(mp4_boxes(clip)) < MANY / 10
    assert mp4_index(clip) == box(b"moov", b"the index")
    promised = promised_bytes(clip)
    assert promised is not None
    assert promised <= clip.stat().st_size


def test_a_recording_of_as_many_small_fragments_is_walked_to_its_end(tmp_path: Path) -> None:
    """Every second box is the data of a frame that is silent, or as black as the one before."""
    fragment = box(b"moof", bytes(80)) + box(b"mdat", b"!")
    clip = written(tmp_path / "a.mp4", HEAD, fragment * MANY, fragment[:-1])
    assert len(mp4_boxes(clip)) == 2 + 2 * MANY + 2
    assert promised_bytes(clip) == clip.stat().st_size + 1
    assert whole_fragments(clip) == len(HEAD) + MANY * len(fragment)


RUNS: dict[str, Callable[[bytes], bytes]] = {
    "png": lambda exif: SIGNATURE + chunk(b"teST", b"") * MANY + chunk(b"eXIf", exif),
    "jpeg": lambda exif: (
        b"\xff\xd8" + b"\xff\xe3\0\2" * MANY + b"\xff\xe1" + (len(exif) + 8).to_bytes(2)
        + b"Exif\0\0" + exif
    ),
    "webp": lambda exif: (
        b"RIFF\0\0\0\0WEBP" + b"teST\0\0\0\0" * MANY + b"EXIF" + struct.pack("<I", len(exif)) + exif
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_behind_a_run_of_nothing_in_an_image_is_not_looked_for(kind: str) -> None:
    exif = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    assert read_embedded(RUNS[kind](exif)) == Embedded()
    few = RUNS[kind](exif).replace(b"teST\0\0\0\0" * MANY, b"").replace(b"\xff\xe3\0\2" * MANY, b"")
    found = read_embedded(few.replace(chunk(b"teST", b"") * MANY, b""))
    assert found is not None
    assert found.exif == exif


@pytest.mark.parametrize("name", [b"iCCP", b"eXIf"])
def test_no_run_of_nothing_hides_what_must_be_hidden(name: bytes) -> None:
    png = SIGNATURE + chunk(b"teST", b"") * MANY + chunk(name, b"x")
    assert name not in with_hidden_data(png)
    assert len(with_hidden_data(png)) == len(png)


def test_a_head_of_empty_elements_is_walked_over_once() -> None:
    """A copy of all the rest for each of them took 20 s."""
    header = EBML + b"\x80" + b"\xec\x80" * 500_000
    began = time.monotonic()
    assert block_additions(header) == {}
    assert time.monotonic() - began < 8
