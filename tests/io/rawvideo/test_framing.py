"""Whatever a NUT or Matroska stream holds, its framing ends, in time that grows with its length."""

from __future__ import annotations

import time
from io import BytesIO
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.media.clips import make_clip

from upframe.io.rawvideo.bytestream import ByteReader, RawStream, WholeUnits
from upframe.io.rawvideo.matroska import matroska_units
from upframe.io.rawvideo.nut import MAGIC, nut_units

MAIN = bytes.fromhex("4e4d7a561f5f04ad")
ENDLESS = b"\xff" * 400_000
SEGMENT = bytes.fromhex("18538067 01ffffffffffffff")
DEEP = SEGMENT + bytes.fromhex("1f43b675 0100ffffffffffff") * 20_000


def number(value: int) -> bytes:
    """One of NUT's."""
    data = bytes([value & 0x7F])
    while value := value >> 7:
        data = bytes([value & 0x7F | 0x80]) + data
    return data


def nut_header(*table: int) -> bytes:
    """A main header with a table of frame codes."""
    body = b"".join(map(number, (3, 1, 1000, 1, 1, 25, *table)))
    return MAGIC + MAIN + number(len(body)) + body


def read(data: bytes, form: str) -> bytes:
    reader = ByteReader(cast("RawStream", BytesIO(data)))
    units = WholeUnits(reader, nut_units if form == "nut" else matroska_units)
    return b"".join(iter(units.read, b""))


@pytest.mark.parametrize(
    ("form", "data"),
    [
        # flags, number of fields, pts, mul, stream, size, reserved, count
        ("nut", nut_header(0, 6, 0, 1, 0, 0, 0, 1 << 62)),
        ("nut", nut_header(0, 2, 0, 1 << 62)),
        ("nut", MAGIC + MAIN + ENDLESS),
        ("nut", MAGIC + MAIN + number(len(ENDLESS)) + ENDLESS),
        ("matroska", DEEP),
    ],
    ids=["count", "size", "length", "version", "nested clusters"],
)
def test_hostile_numbers_end_at_once(form: str, data: bytes) -> None:
    began = time.monotonic()
    read(data, form)
    assert time.monotonic() - began < 1


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("streams")
    return {
        form: make_clip(folder / f"a.{suffix}", frames=4, codec="ffv1").read_bytes()
        for form, suffix in (("nut", "nut"), ("matroska", "mkv"))
    }


@pytest.mark.parametrize("form", ["nut", "matroska"])
def test_whole_stream_passes_unchanged(form: str, streams: dict[str, bytes]) -> None:
    assert read(streams[form], form) == streams[form]


@settings(max_examples=300, deadline=2000)
@given(
    form=st.sampled_from(["nut", "matroska"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=12)),
        min_size=1,
        max_size=6,
    ),
)
def test_changed_stream_ends_as_a_part_of_itself(
    form: str, changes: list[tuple[float, bytes]], streams: dict[str, bytes]
) -> None:
    data = bytearray(streams[form])
    for place, put in changes:
        start = int(place * len(data))
        data[start : start + len(put)] = put
    assert bytes(data).startswith(read(bytes(data), form))
