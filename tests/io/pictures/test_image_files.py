"""ICC profiles and EXIF data in the files of every image format, and damaged ones."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest
from support.media.clips import index_of, make_clip, make_still
from support.media.stills import embedded_of, exif_data, icc_profile, with_segments

from upframe.io.decode.demuxer import find_target
from upframe.io.losses import contents_of
from upframe.io.pictures.image_files import Embedded, read_embedded, with_embedded
from upframe.io.pictures.png import chunk, chunks
from upframe.io.source import open_source

NAMES = ["a.png", "a.jpg", "a.webp", "a.tiff"]
PIX_FMTS = {".jpg": "yuvj420p", ".webp": "yuv420p"}


def still(path: Path) -> Path:
    return make_still(path, pix_fmt=PIX_FMTS.get(path.suffix, "rgb24"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", [0, 100_001])
def test_what_is_put_into_a_file_is_found_in_it(tmp_path: Path, name: str, padding: int) -> None:
    """A profile above 64 KiB takes several segments of a JPEG."""
    path, profile = still(tmp_path / name), icc_profile(padding=padding)
    assert embedded_of(path) == Embedded()
    path.write_bytes(with_embedded(path.read_bytes(), profile, exif_data(6), 64, 48))
    found = embedded_of(path)
    assert found is not None
    assert (found.icc_profile, found.turn, found.notes) == (profile, (0, False), ())
    assert found.exif is not None
    assert b"ACM" in found.exif


@pytest.mark.parametrize("name", NAMES)
def test_each_can_be_there_alone(tmp_path: Path, name: str) -> None:
    data, profile = still(tmp_path / name).read_bytes(), icc_profile()
    alone = read_embedded(with_embedded(data, profile, None, 64, 48))
    assert alone == Embedded(icc_profile=profile)
    other = read_embedded(with_embedded(data, None, exif_data(1), 64, 48))
    assert other is not None
    assert other.icc_profile is None
    assert other.exif is not None
    assert with_embedded(data, None, None, 64, 48) == data


def test_a_png_with_a_profile_says_nothing_else_of_its_colours(tmp_path: Path) -> None:
    data = still(tmp_path / "a.png").read_bytes()
    spoken = data[:33] + chunk(b"sRGB", b"\0") + chunk(b"gAMA", bytes(4)) + data[33:]
    names = [name for name, _, _ in chunks(with_embedded(spoken, icc_profile(), None, 64, 48))]
    assert names[:2] == [b"IHDR", b"iCCP"]
    assert {b"sRGB", b"gAMA", b"cHRM", b"cICP"}.isdisjoint(names)
    assert names[-1] == b"IEND"


def test_a_film_is_no_image(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    assert embedded_of(clip) is None


@pytest.mark.parametrize(
    ("profile", "fault"),
    [
        (b"nonsense", "no header in 8 bytes"),
        (bytes(200), "no header in 200 bytes"),
        (icc_profile()[:300], r"300 of \d+ bytes, at most \d+"),
    ],
)
def test_a_damaged_profile_is_left_out_with_a_line(
    tmp_path: Path, profile: bytes, fault: str
) -> None:
    data = still(tmp_path / "a.jpg").read_bytes()
    found = read_embedded(with_embedded(data, profile, exif_data(6), 64, 48))
    assert found is not None
    assert found.icc_profile is None
    assert found.exif is not None
    (note,) = found.notes
    assert re.fullmatch(f"the ICC profile is damaged: {fault}", note)


def test_damaged_exif_data_are_left_out_with_a_line(tmp_path: Path) -> None:
    path = with_segments(still(tmp_path / "a.jpg"), (0xE1, b"Exif\0\0II*\0\xff\xff\0\0"))
    found = embedded_of(path)
    assert found is not None
    assert (found.exif, found.turn) == (None, (0, False))
    assert "the EXIF data are damaged" in found.notes[0]


def test_a_profile_with_a_part_missing_is_left_out_with_a_line(tmp_path: Path) -> None:
    segments = [(0xE1, b"Exif\0\0" + exif_data(6))]
    segments.append((0xE2, b"ICC_PROFILE\0\x01\x02" + icc_profile()[:300]))
    found = embedded_of(with_segments(still(tmp_path / "a.jpg"), *segments))
    assert found is not None
    assert (found.icc_profile, found.turn) == (None, (270, False))
    assert "the ICC profile is damaged" in found.notes[0]


def test_a_compressed_profile_cannot_fill_the_memory(tmp_path: Path) -> None:
    data = still(tmp_path / "a.png").read_bytes()
    bomb = zlib.compress(bytes(200 << 20), 9)
    found = read_embedded(data[:33] + chunk(b"iCCP", b"x\0\0" + bomb) + data[33:])
    assert found is not None
    assert found.icc_profile is None
    assert "damaged" in found.notes[0]
    broken = read_embedded(data[:33] + chunk(b"iCCP", b"x\0\0nonsense") + data[33:])
    assert broken is not None
    assert "damaged" in broken.notes[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_ends_anywhere_is_no_error(tmp_path: Path, name: str) -> None:
    data = with_embedded(still(tmp_path / name).read_bytes(), icc_profile(), exif_data(6), 64, 48)
    for length in range(0, len(data), 7):
        found = read_embedded(data[:length])
        assert found is None or found.icc_profile in (None, icc_profile())


def test_more_exif_data_than_a_jpeg_holds_is_an_error(tmp_path: Path) -> None:
    data = still(tmp_path / "a.jpg").read_bytes()
    with pytest.raises(ValueError, match="JPEG holds 65533 bytes of EXIF data, got 7"):
        with_embedded(data, None, exif_data(1) + bytes(70_000), 64, 48)


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "nonsense": lambda data: bytes(byte ^ 0x5A for byte in data),
    "zeros": lambda data: bytes(len(data)),
    "an end that is none": lambda data: data[:8] + b"\xff\xff" + data[10:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["exif", "icc"])
@pytest.mark.parametrize("name", NAMES[:3])
def test_pixels_are_read_beside_damaged_data(
    tmp_path: Path, name: str, kind: str, damage: str
) -> None:
    path, bad = still(tmp_path / name), DAMAGE[damage]
    plain, marked = path.read_bytes(), exif_data(1) if kind == "exif" else icc_profile()
    data = plain
    if path.suffix == ".png":
        content = bad(marked) if kind == "exif" else b"x\0\0" + bad(zlib.compress(marked))
        data = plain[:33] + chunk(b"eXIf" if kind == "exif" else b"iCCP", content) + plain[33:]
    elif path.suffix == ".jpg":
        head = b"Exif\0\0" if kind == "exif" else b"ICC_PROFILE\0\1\1"
        path = with_segments(path, (0xE1 if kind == "exif" else 0xE2, head + bad(marked)))
        data = path.read_bytes()
    else:
        whole = {"exif": None, "icc": None} | {kind: marked}
        data = with_embedded(plain, whole["icc"], whole["exif"], 64, 48)
        start = data.rfind(b"EXIF" if kind == "exif" else b"ICCP") + 8
        size = int.from_bytes(data[start - 4 : start], "little")
        data = data[:start] + bad(data[start : start + size]).ljust(size) + data[start + size :]
    path.write_bytes(data)
    source = open_source(str(path))
    assert [index_of(picture) for picture in source] == [0]
    is_seen = damage in ("nonsense", "zeros")  # others may change what nobody reads
    assert "damaged" in " ".join(source.warnings()) or not is_seen
    source.close()


@pytest.mark.parametrize("behind", [False, True])
def test_exif_data_of_an_animation_are_read_before_and_behind_its_frames(
    tmp_path: Path, behind: bool
) -> None:
    path = make_clip(tmp_path / "a.apng", codec="apng", format="apng", pix_fmt="rgb24", frames=3)
    data = path.read_bytes()
    at = data.rfind(b"IEND") - 4 if behind else 33
    path.write_bytes(data[:at] + chunk(b"eXIf", exif_data(1)) + data[at:])
    assert "exif" in {trait.kind for trait in contents_of(find_target(str(path)))}
    source = open_source(str(path))
    assert (source.container_name, source.info.exif) == ("apng", exif_data(1))
    assert len(list(source)) == 3
    source.close()
