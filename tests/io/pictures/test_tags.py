"""Colour tags by FFmpeg's names and numbers, as far as the written file."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import pytest
import torch

from upframe.filters.frame import Color, Picture
from upframe.io.pictures.pixels import (
    MATRICES,
    PRIMARIES,
    TRANSFERS,
    color_of,
    frame_of,
    set_color,
    set_tags,
)

needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe")

SYSTEMS = [
    Color("tv", "bt709", "bt709", "bt709", "left"),
    Color("tv", "smpte170m", "smpte170m", "smpte170m", "center"),
    Color("pc", "bt470bg", "bt470bg", "bt470bg", None),
    Color("tv", "bt2020", "smpte2084", "bt2020nc", "topleft"),
    Color("tv", "bt2020", "arib-std-b67", "bt2020nc", "topleft"),
    Color(),
]


def clip(path: Path, codec: str, color: Color, pix_fmt: str = "yuv420p") -> None:
    height = width = 64
    subsampled = 64 if "444" in pix_fmt else 32
    planes = tuple(
        torch.full(size, 128, dtype=torch.uint8)
        for size in ((height, width), (subsampled, subsampled), (subsampled, subsampled))
    )
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        set_color(stream.codec_context, color)
        for pts in range(2):
            picture = Picture(planes, pix_fmt, color, pts, 1, Fraction(1, 25))
            container.mux(stream.encode(frame_of(picture)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("color", SYSTEMS, ids=lambda color: f"{color.range}-{color.trc}")
@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mkv"), ("libx264", "mp4"), ("ffv1", "mkv")]
)
def test_tags_arrive_in_the_file(codec: str, suffix: str, color: Color, tmp_path: Path) -> None:
    path = tmp_path / f"tagged.{suffix}"
    clip(path, codec, color)
    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
        assert astuple(color_of(frame))[:4] == astuple(color)[:4]
        assert astuple(color_of(context))[:4] == astuple(color)[:4]


@needs_ffprobe
@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_the_chroma_location_arrives_in_the_stream(location: str, tmp_path: Path) -> None:
    path = tmp_path / "sited.mkv"
    clip(path, "libx264", Color("tv", chroma_location=location))
    entries = "stream=chroma_location"
    probed = subprocess.run(
        ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", path],
        capture_output=True,
        check=True,
    )
    assert json.loads(probed.stdout)["streams"][0]["chroma_location"] == location


def test_setting_colours_keeps_the_encoders_other_options() -> None:
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.options = {"crf": "18"}
    set_color(context, Color(chroma_location="topleft"))
    assert context.options == {"crf": "18", "chroma_sample_location": "topleft"}
    set_color(context, Color())
    assert "crf" in context.options


@pytest.mark.parametrize(
    ("field", "table"), [("primaries", PRIMARIES), ("trc", TRANSFERS), ("matrix", MATRICES)]
)
def test_every_name_has_its_number(
    field: Literal["primaries", "trc", "matrix"], table: dict[int, str]
) -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    assert len(set(table.values())) == len(table)
    for name in table.values():
        color = Color(**{field: name})
        set_tags(frame, color)
        assert color_of(frame) == color


def test_numbers_without_a_name_are_unspecified() -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.color_primaries, frame.color_trc, frame.colorspace = 3, 3, 3
    assert color_of(frame) == Color()


def test_yuvj_is_full_range_without_a_tag() -> None:
    assert color_of(av.VideoFrame(16, 16, "yuvj420p")).range == "pc"


@needs_ffprobe
@pytest.mark.parametrize(
    ("table", "option"),
    [(PRIMARIES, "color_primaries"), (TRANSFERS, "color_trc"), (MATRICES, "colorspace")],
)
def test_the_names_are_ffmpegs_own(table: dict[int, str], option: str, tmp_path: Path) -> None:
    """Asked of ffprobe, which prints FFmpeg's names of the numbers of a raw FFV1 stream."""
    for number, name in table.items():
        if number in (0, 15, 16, 17, 256):  # RGB alone, or newer than many an ffprobe
            continue
        path = tmp_path / f"{number}.mkv"
        with av.open(path, "w") as container:
            stream = container.add_stream("ffv1", 25)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            setattr(stream.codec_context, option, number)
            frame = av.VideoFrame(16, 16, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        entry = {"color_trc": "color_transfer", "colorspace": "color_space"}.get(option, option)
        command = ["ffprobe", "-v", "error", "-show_entries", f"stream={entry}", "-of", "json"]
        probed = subprocess.run([*command, path], capture_output=True, check=True)
        assert json.loads(probed.stdout)["streams"][0].get(entry) == name
