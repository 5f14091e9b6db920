"""EXIF data: orientation, neutral copies, and their place in TIFF files."""

from __future__ import annotations

import struct

import pytest
from support.media.stills import exif_data

from upframe.io.pictures.image_files import fields_of, neutral, read_tiff, turn_of, with_fields

ORDERS = ["<", ">"]


def values(exif: bytes, tag_of_directory: int | None = None) -> dict[int, bytes]:
    """The values of a directory by tag, in little-endian order."""
    offset = None
    big = exif[:1] == b"M"
    if tag_of_directory is not None:
        (pointer,) = [field.value for field in fields_of(exif) if field.tag == tag_of_directory]
        offset = int.from_bytes(pointer, "big" if big else "little")
    units = {2: 1, 3: 2, 4: 4, 5: 4, 7: 1}
    return {
        field.tag: b"".join(
            field.value[i : i + units[field.kind]][:: -1 if big else 1]
            for i in range(0, len(field.value), units[field.kind])
        )
        for field in fields_of(exif, offset)
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(1, (0, False)), (2, (0, True)), (4, (180, True)), (6, (270, False)), (8, (90, False))],
)
def test_orientation_is_degrees_and_a_mirror(
    order: str, orientation: int, turn: tuple[int, bool]
) -> None:
    assert turn_of(exif_data(orientation, order=order)) == turn


def test_an_orientation_that_there_is_not_is_none() -> None:
    assert turn_of(exif_data(9)) == (0, False)
    assert turn_of(struct.pack("<4sIHI", b"II*\0", 8, 0, 0)) == (0, False)


@pytest.mark.parametrize("order", ORDERS)
def test_a_neutral_copy_differs_in_orientation_size_and_thumbnail_alone(order: str) -> None:
    before = exif_data(6, order=order)
    after = neutral(before, 1000, 70_000)
    assert len(after) == len(before)
    assert values(after)[0x0112] == struct.pack("<H", 1)
    exif = values(after, 0x8769)
    assert exif[0xA002] == struct.pack("<I", 1000)
    assert exif[0xA003] == struct.pack("<I", 70_000)
    assert exif[0x927C] == values(before, 0x8769)[0x927C]
    assert values(after, 0x8825) == values(before, 0x8825)
    end_of_first = 8 + 2 + 4 * 12
    assert after[end_of_first : end_of_first + 4] == bytes(4)
    changed = [place for place in range(len(before)) if before[place] != after[place]]
    assert len(changed) <= 2 + 2 * 8 + 4


@pytest.mark.parametrize("order", ORDERS)
def test_a_tiff_file_keeps_its_own_fields_and_gets_those_that_it_lacks(order: str) -> None:
    plain = struct.pack("<4sIH", b"II*\0", 8, 2) + struct.pack("<HHII", 256, 4, 1, 7)
    plain += struct.pack("<HHII", 271, 2, 4, 0x004D4346) + bytes(4)  # FCM
    made = with_fields(plain, b"profile!", neutral(exif_data(6, order=order), 64, 48))
    assert made.startswith(plain[:4])
    fields = {field.tag: field.value for field in fields_of(made)}
    assert list(fields) == sorted(fields)
    assert fields[256] == struct.pack("<I", 7)
    assert fields[271] == b"FCM\0"
    assert fields[0x0112] == struct.pack("<H", 1)
    assert fields[34675] == b"profile!"
    for below in (0x8769, 0x8825):
        assert values(made, below) == values(neutral(exif_data(6, order=order), 64, 48), below)


@pytest.mark.parametrize("order", ORDERS)
def test_what_a_tiff_says_of_its_picture_comes_out_as_exif_data(order: str) -> None:
    plain = struct.pack("<4sIH", b"II*\0", 8, 1) + struct.pack("<HHII", 256, 4, 1, 7) + bytes(4)
    assert read_tiff(plain) == (None, None)
    profile, exif = read_tiff(with_fields(plain, b"profile!", exif_data(8, order=order)))
    assert profile == b"profile!"
    assert exif is not None
    assert turn_of(exif) == (90, False)
    assert values(exif)[0x010F] == b"ACM\0"
    assert {256, 34675}.isdisjoint(values(exif))
    assert values(exif, 0x8825) == values(exif_data(8, order=order), 0x8825)


def test_damaged_data_are_an_error_and_no_endless_work() -> None:
    whole = exif_data(6)
    for length in range(4, len(whole) - 24):
        with pytest.raises(ValueError, match=r"\d|end|TIFF"):
            values(neutral(whole[:length], 1, 1), 0x8825)
    with pytest.raises(ValueError, match="wanted a TIFF header, got b'nons'"):
        turn_of(b"nonsense")
    loop = struct.pack("<4sIH", b"II*\0", 8, 1) + struct.pack("<HHII", 0x8769, 4, 1, 8) + bytes(4)
    _, again = read_tiff(loop)
    assert again is not None
    assert len(again) < 200


def test_values_that_overlap_are_refused_before_they_are_copied() -> None:
    fields = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(40_000, 45_000))
    hostile = struct.pack("<4sIH", b"II*\0", 8, 5000) + fields + bytes(4)
    for read in (turn_of, read_tiff, lambda exif: neutral(exif, 1, 1)):
        with pytest.raises(ValueError, match="more values than the 60014 bytes that there are"):
            read(hostile)


def test_only_one_of_many_exif_directories_is_followed() -> None:
    fields = struct.pack("<HHII", 0x8769, 4, 1, 8) * 20_000
    hostile = struct.pack("<4sIH", b"II*\0", 8, 20_000) + fields + bytes(4)
    assert len(neutral(hostile, 1, 1)) == len(hostile)  # a square of it would take minutes
