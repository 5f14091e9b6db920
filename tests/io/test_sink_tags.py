"""Colour tags, HDR10 data, aspect ratio, rotation: from end to end, as ffprobe sees them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from support.media import clips as samples
from support.media.sinks import FAST, constant, encode, frame_tags, streams, through

from upframe.filters.frame import Color
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.source import open_source

BT709 = Color("tv", "bt709", "bt709", "bt709", "left")
BT601 = Color("tv", "smpte170m", "smpte170m", "smpte170m")
FULL = Color("pc", "bt709", "iec61966-2-1", "bt709", "center")
PQ = Color("tv", "bt2020", "smpte2084", "bt2020nc", "topleft")


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("color", [BT709, BT601, FULL, PQ], ids=["709", "601", "full", "pq"])
def test_all_four_tags_are_in_the_file(tmp_path: Path, name: str, color: Color) -> None:
    """Peers' pitfall 30b and services 5.9: nothing is copied by itself."""
    video = streams(encode(tmp_path / name, constant(color=color)), "video")[0]
    got = (video["color_range"], video["color_primaries"], video["color_transfer"])
    assert (*got, video["color_space"]) == (
        color.range,
        color.primaries,
        color.trc,
        color.matrix,
    )
    assert color.chroma_location in (None, video["chroma_location"])


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx265"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libsvtav1"), ("a.mkv", "ffv1")],
)
def test_tags_are_in_the_file_with_every_usual_codec(tmp_path: Path, name: str, codec: str) -> None:
    options = EncoderOptions(codec=codec)
    target = encode(tmp_path / name, constant(color=BT709), options=options)
    video = streams(target, "video")[0]
    assert video["color_space"] == video["color_primaries"] == "bt709"
    assert (video["color_transfer"], video["color_range"]) == ("bt709", "tv")


def test_unspecified_stays_unspecified(tmp_path: Path) -> None:
    video = streams(encode(tmp_path / "a.mp4", constant()), "video")[0]
    for tag in ("color_range", "color_primaries", "color_transfer", "color_space"):
        assert video.get(tag, "unknown") == "unknown"


def test_a_tag_that_the_container_does_not_carry_is_said_before_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(
        tmp_path / "a.avi",
        constant(color=BT601, sample_aspect_ratio=Fraction(16, 11), rotation=90),
        options=EncoderOptions(codec="mpeg4"),
    )
    assert "avi with mpeg4 does not carry color primaries smpte170m" in caplog.text
    assert "does not carry the rotation of 90 degrees" in caplog.text
    assert "aspect" not in caplog.text  # MPEG-4 has it in the bitstream


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_hdr10_metadata_is_carried_exactly(tmp_path: Path, name: str) -> None:
    """Peers' pitfall 31."""
    clip = samples.make_hdr10_clip(tmp_path / "in.mp4")
    lines = through(clip, tmp_path / name)
    before, after = (open_source(str(path)) for path in (clip, tmp_path / name))
    assert before.info.mastering_display is not None
    assert after.info.mastering_display == before.info.mastering_display
    assert after.info.content_light == before.info.content_light
    assert after.info.color == before.info.color
    before.close()
    after.close()
    kinds = {entry["side_data_type"] for entry in frame_tags(tmp_path / name)["side_data_list"]}
    assert {"Mastering display metadata", "Content light level metadata"} <= kinds
    assert lines == []


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_hdr10_metadata_is_carried_by_other_encoders(tmp_path: Path, codec: str) -> None:
    clip = samples.make_hdr10_clip(tmp_path / "in.mp4")
    preset = "12" if codec == "libsvtav1" else "ultrafast"
    options = EncoderOptions(codec=codec, pix_fmt="yuv420p10le", preset=preset)
    through(clip, tmp_path / "a.mp4", options=options)
    before, after = (open_source(str(path)) for path in (clip, tmp_path / "a.mp4"))
    wanted, got = before.info.mastering_display, after.info.mastering_display
    assert wanted is not None
    assert got is not None
    assert float(got.max_luminance) == pytest.approx(float(wanted.max_luminance), rel=0.001)
    assert float(got.red[0]) == pytest.approx(float(wanted.red[0]), abs=0.0001)
    assert after.info.content_light == before.info.content_light
    before.close()
    after.close()


def test_hdr10_metadata_that_an_encoder_cannot_write_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = samples.make_hdr10_clip(tmp_path / "in.mp4")
    through(clip, tmp_path / "a.mkv", options=EncoderOptions(codec="ffv1"))
    assert "matroska with ffv1 does not carry the HDR10 mastering display" in caplog.text
    assert "does not carry the HDR10 light levels" in caplog.text


def test_hevc_plays_on_apple_devices(tmp_path: Path) -> None:
    target = encode(tmp_path / "a.mp4", constant(pix_fmt="yuv420p10le"))
    video = streams(target, "video")[0]
    assert (video["codec_tag_string"], video["pix_fmt"]) == ("hvc1", "yuv420p10le")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_the_sample_aspect_ratio_is_carried(tmp_path: Path, name: str) -> None:
    aspect = Fraction(16, 11)
    target = encode(tmp_path / name, constant(sample_aspect_ratio=aspect))
    assert streams(target, "video")[0]["sample_aspect_ratio"] == "16:11"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotation_and_mirror_are_carried(
    tmp_path: Path, name: str, rotation: int, hflip: bool
) -> None:
    """Peers' pitfall 32."""
    target = encode(tmp_path / name, replace(constant(), rotation=rotation, hflip=hflip), 3)
    source = open_source(str(target))
    assert (source.info.rotation, source.info.hflip) == (rotation, hflip)
    source.close()


def test_the_users_parameters_are_added_to_ours(tmp_path: Path) -> None:
    clip = samples.make_hdr10_clip(tmp_path / "in.mp4")
    options = EncoderOptions(preset="ultrafast", options={"x265-params": "keyint=3"})
    through(clip, tmp_path / "a.mp4", options=options)
    after = open_source(str(tmp_path / "a.mp4"))
    assert after.info.content_light is not None
    after.close()
    assert b"keyint=3" in (tmp_path / "a.mp4").read_bytes()


def test_one_picture_alone_can_be_written(tmp_path: Path) -> None:
    """libx265 gives it a dts from memory that it never wrote to."""
    for round_number in range(5):
        target = tmp_path / f"{round_number}.mp4"
        encode(target, constant(pix_fmt="yuv420p10le"), 1, options=FAST)
        assert streams(target, "video")[0]["nb_read_packets"] == "1"
