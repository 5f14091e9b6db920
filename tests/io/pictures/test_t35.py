"""T.35 messages in access units: found, written, and what a decoder makes of them."""

from __future__ import annotations

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.media.messages import captions, hdr10_plus, with_sei

from upframe.filters.frame import lasting
from upframe.io.pictures.t35 import NalSyntax

H264, HEVC = NalSyntax(is_hevc=False), NalSyntax(is_hevc=True)
# access unit delimiter, parameter sets, the encoder's own SEI, then two slices
H264_UNITS = [
    b"\x09\xf0",
    b"\x67\x64\x00\x1f",
    b"\x68\xee",
    b"\x06\x05\x01\x00\x80",
    b"\x65\x88\x84",
]
HEVC_UNITS = [b"\x46\x01\x50", b"\x40\x01\x0c", b"\x42\x01\x01", b"\x44\x01\xc1", b"\x26\x01\xaf"]
UNITS = {H264: [*H264_UNITS, b"\x65\x08"], HEVC: [*HEVC_UNITS, b"\x26\x01\x2f"]}


def annex_b(units: list[bytes], start: bytes = b"\0\0\0\1") -> bytes:
    return b"".join(start + unit for unit in units)


def lengths(units: list[bytes], size: int = 4) -> bytes:
    return b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)


@pytest.mark.parametrize("syntax", [H264, HEVC], ids=["h264", "hevc"])
@pytest.mark.parametrize("start", [b"\0\0\0\1", b"\0\0\1"])
def test_messages_stand_before_the_first_slice_and_nothing_else_changes(
    syntax: NalSyntax, start: bytes
) -> None:
    units = UNITS[syntax]
    packet = annex_b(units, start)
    joined = syntax.with_messages(packet, [captions(1)])
    head, tail = annex_b(units[:-2], start), annex_b(units[-2:], start)
    assert joined.startswith(head)
    assert joined.endswith(tail)
    between = joined[len(head) : len(joined) - len(tail)]
    assert (
        between
        == b"\0\0\0\1"
        + (b"\x4e\x01" if syntax.is_hevc else b"\x06")
        + bytes([4, len(captions(1))])
        + captions(1)
        + b"\x80"
    )
    assert syntax.messages(joined) == [captions(1)]


@pytest.mark.parametrize("hevc", [False, True], ids=["h264", "hevc"])
@pytest.mark.parametrize("size", [2, 4])
def test_units_with_lengths_get_one_with_a_length(hevc: bool, size: int) -> None:
    plain = HEVC if hevc else H264
    syntax = NalSyntax(hevc, size)
    joined = syntax.with_messages(lengths(UNITS[plain], size), [captions(7), hdr10_plus(7)])
    added = plain.with_messages(annex_b(UNITS[plain]), [captions(7), hdr10_plus(7)])
    assert joined == lengths(added.split(b"\0\0\0\1")[1:], size)
    assert syntax.messages(joined) == [captions(7), hdr10_plus(7)]


def test_an_sei_message_of_hevc_has_the_temporal_layer_of_its_picture() -> None:
    packet = annex_b([b"\x02\x03\xd0"])  # TRAIL_R of temporal layer 2
    assert HEVC.with_messages(packet, [b"x"])[4:6] == b"\x4e\x03"


@given(
    st.lists(st.binary(max_size=600) | st.lists(st.sampled_from([0, 1, 3]), max_size=40).map(bytes))
)
def test_any_message_comes_back_and_imitates_no_start_code(messages: list[bytes]) -> None:
    for syntax in (H264, HEVC):
        joined = syntax.with_messages(annex_b(UNITS[syntax]), messages)
        assert syntax.messages(joined) == messages
        assert len(joined.split(b"\0\0\1")) == len(UNITS[syntax]) + len(messages) + 1


@pytest.mark.parametrize("packet", [b"", b"\0", b"\0\0\1", b"\0\0\0\1", b"GGGGGGG", b"\0\0\1\x67"])
def test_a_packet_without_a_slice_stays_as_it_is(packet: bytes) -> None:
    for syntax in (H264, HEVC, NalSyntax(is_hevc=False, length_bytes=4)):
        assert syntax.with_messages(packet, [b"x"]) == packet
        assert syntax.messages(packet) == []


@given(st.binary(max_size=200))
def test_no_packet_can_make_the_reader_fail(packet: bytes) -> None:
    for syntax in (H264, HEVC, NalSyntax(is_hevc=False, length_bytes=1), NalSyntax(True, 4)):
        syntax.messages(packet)
        syntax.messages(b"\0\0\1\x06" + packet)


@pytest.mark.parametrize(
    ("codec", "extradata", "expected"),
    [
        ("h264", b"", NalSyntax(is_hevc=False)),
        ("h264", b"\0\0\0\1\x67\x64", NalSyntax(is_hevc=False)),
        ("h264", b"\1\x64\x00\x1f\xff\xe1", NalSyntax(is_hevc=False, length_bytes=4)),
        ("h264", b"\1\x64\x00\x1f\xfd\xe1", NalSyntax(is_hevc=False, length_bytes=2)),
        ("hevc", b"\1" + bytes(20) + b"\x0f\x00", NalSyntax(is_hevc=True, length_bytes=4)),
        ("hevc", b"\0\0\0\1\x40\1", NalSyntax(is_hevc=True)),
        ("vp9", b"", None),
        ("av1", b"\x81\x00", None),
    ],
)
def test_the_header_tells_how_units_are_separated(
    codec: str, extradata: bytes, expected: NalSyntax | None
) -> None:
    context = av.CodecContext.create(codec, "r")
    context.extradata = extradata
    assert NalSyntax.of(context) == expected  # type: ignore[arg-type]


def test_the_writer_and_another_one_agree() -> None:
    for syntax in (H264, HEVC):
        packet = annex_b(UNITS[syntax], b"\0\0\1")
        messages = [captions(3), hdr10_plus(3)]
        theirs = with_sei(packet, messages, hevc=syntax.is_hevc)
        assert syntax.with_messages(packet, messages) == theirs


def test_what_describes_a_frame_lasts_and_captions_do_not() -> None:
    assert lasting((captions(1), hdr10_plus(1), b"\x26other")) == (hdr10_plus(1), b"\x26other")
