"""Alpha is decoded wherever a file has it, and is not invented where it has none."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from support.media.clips import make_clip
from support.media.sinks import streams

from upframe.filters.color.convert import ToFrame, ToPicture
from upframe.filters.color.matrix import output_color
from upframe.filters.frame import Picture, PixelFormat, StreamInfo
from upframe.io.decode.alpha import is_opaque
from upframe.io.decode.demuxer import find_target
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.losses import contents_of
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source
from upframe.io.streams.plan import plan_streams

WIDTH, HEIGHT = 64, 48
RAMP = np.arange(WIDTH) * 4
VPX = {"libvpx": {"auto-alt-ref": "0", "b": "1M", "crf": "4"}, "libvpx-vp9": {"crf": "4"}}


def transparent(index: int, pix_fmt: str, alpha: np.ndarray = RAMP) -> av.VideoFrame:
    """A frame whose alpha rises from left to right."""
    pixels = np.full((HEIGHT, WIDTH, 4), 60 + 20 * index, np.uint8)
    pixels[..., 3] = alpha
    return av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pix_fmt, threads=1)


def clip(
    path: Path,
    codec: str,
    pix_fmt: str,
    alpha: np.ndarray = RAMP,
    *,
    frames: int = 4,
    rotation: int = 0,
) -> Path:
    """Write frames with that alpha."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=10, options=VPX.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame = transparent(index, pix_fmt, alpha)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def alpha_mode(path: Path) -> str | None:
    """The tag that says whether a video has alpha, in whatever spelling."""
    (video,) = streams(path, "video")
    tags = {key.lower(): value for key, value in video.get("tags", {}).items()}
    return tags.get("alpha_mode")


def read(path: Path | str) -> tuple[StreamInfo, list[Picture]]:
    source = open_source(str(path))
    try:
        return source.info, list(source)
    finally:
        source.close()


def convert(source: Path, target: Path, options: EncoderOptions | None = None) -> None:
    """Write a file anew, its pictures by way of RGB, as a conversion does."""
    options = options or EncoderOptions()
    plan = plan_streams(str(source), str(target))
    info, pictures = read(source)
    pix_fmt = output_pix_fmt(info, options, target)
    color = output_color(info, info.width, info.height, pix_fmt)
    to_frame, to_picture = ToFrame(torch.device("cpu")), ToPicture(pix_fmt, color)
    outgoing = replace(info, pix_fmt=pix_fmt, color=color)
    sink = open_file_sink(target, outgoing, options, plan=plan)
    for picture in pictures:
        sink.write(to_picture(to_frame(picture)))
    sink.finish()


def alpha_off_by(path: Path, wanted: np.ndarray = RAMP) -> int:
    """How far the alpha of a file's pictures is from that of `transparent`, of 255."""
    _, pictures = read(path)
    planes = [picture.alpha.numpy() for picture in pictures if picture.alpha is not None]
    assert len(planes) == len(pictures) > 0
    scale = 255 / ((1 << PixelFormat.parse(pictures[0].pix_fmt).bit_depth) - 1)
    return int(max(abs(plane * scale - wanted).max() for plane in planes))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
@pytest.mark.parametrize("name", ["a.webm", "a.mkv"])
def test_alpha_beside_vp8_and_vp9_is_decoded(tmp_path: Path, codec: str, name: str) -> None:
    info, pictures = read(clip(tmp_path / name, codec, "yuva420p"))
    assert (info.pix_fmt, len(pictures)) == ("yuva420p", 4)
    assert alpha_off_by(tmp_path / name) <= 6


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_that_no_tag_announces_is_decoded(tmp_path: Path, codec: str) -> None:
    tagged = clip(tmp_path / "a.webm", codec, "yuva420p")
    with av.open(str(tagged)) as source, av.open(str(tmp_path / "b.mkv"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    assert alpha_mode(tmp_path / "b.mkv") is None
    assert read(tmp_path / "b.mkv")[0].pix_fmt == "yuva420p"
    assert alpha_off_by(tmp_path / "b.mkv") <= 6


def test_what_the_container_says_is_kept_beside_alpha(tmp_path: Path) -> None:
    info, _ = read(clip(tmp_path / "a.mkv", "libvpx-vp9", "yuva420p", rotation=90))
    assert (info.pix_fmt, info.rotation) == ("yuva420p", 90)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_without_alpha_ffmpegs_own_decoder_is_used(tmp_path: Path, codec: str) -> None:
    info, pictures = read(make_clip(tmp_path / "a.webm", codec=codec, options={"b": "1M"}))
    assert (info.pix_fmt, len(pictures)) == ("yuv420p", 12)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("in.mov", "qtrle", "argb"),
        ("in.mov", "png", "rgba"),
        ("in.mov", "prores_ks", "yuva444p10le"),
        ("in.mkv", "ffv1", "gbrap10le"),
        ("in.mkv", "ffv1", "yuva420p"),
        ("in.webm", "libvpx", "yuva420p"),
        ("in.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_webm_keeps_the_alpha_of_every_source(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    convert(clip(tmp_path / name, codec, pix_fmt), tmp_path / "out.webm")
    (video,) = streams(tmp_path / "out.webm", "video")
    assert (video["codec_name"], alpha_mode(tmp_path / "out.webm")) == ("vp9", "1")
    assert alpha_off_by(tmp_path / "out.webm") <= 10


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("out.mkv", "libvpx"),
        ("out.mkv", "ffv1"),
        ("out.mov", "prores_ks"),
        ("out.mov", "qtrle"),
    ],
)
def test_encoders_with_alpha_keep_it(tmp_path: Path, name: str, codec: str) -> None:
    source = clip(tmp_path / "in.webm", "libvpx-vp9", "yuva420p")
    convert(source, tmp_path / name, EncoderOptions(codec=codec))
    assert alpha_off_by(tmp_path / name) <= 10


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", None), ("a.webm", "libsvtav1")])
def test_an_output_without_alpha_is_not_tagged_with_it(
    tmp_path: Path, name: str, codec: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    source = clip(tmp_path / "in.webm", "libvpx-vp9", "yuva420p")
    convert(source, tmp_path / name, EncoderOptions(codec=codec))
    assert alpha_mode(tmp_path / name) is None
    assert "video: alpha: not kept" in caplog.text


# GIF and palettes: alpha where something is transparent.


RED, GREEN, CLEAR = 0, 1, 2
_PALETTE = (0xFF_FF_00_00, 0xFF_00_FF_00, 0x00_00_00_FF)  # A, R, G, B


def palette_frame(left: int, right: int) -> av.VideoFrame:
    """A frame with a palette, whose halves have those colours."""
    frame = av.VideoFrame(WIDTH, HEIGHT, "pal8")
    indices = np.frombuffer(frame.planes[0], np.uint8).reshape(HEIGHT, -1)
    indices[:, : WIDTH // 2], indices[:, WIDTH // 2 :] = left, right
    palette = np.frombuffer(frame.planes[1], np.uint32)
    palette[:] = 0xFF_00_00_00
    palette[:2] = _PALETTE[:2]
    if CLEAR in (left, right):
        palette[CLEAR] = _PALETTE[CLEAR]
    return frame


def gif(path: Path, *colors: int) -> Path:
    """Write frames, each of one colour."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        for index, color in enumerate(colors):
            frame = palette_frame(color, color)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def test_a_gif_has_alpha_where_a_frame_of_it_is_transparent(tmp_path: Path) -> None:
    info, pictures = read(gif(tmp_path / "a.gif", CLEAR, RED, GREEN))
    assert info.pix_fmt == "gbrap"
    levels = [
        np.unique(picture.alpha).tolist() for picture in pictures if picture.alpha is not None
    ]
    assert levels == [[0], [255], [255]]


def test_an_opaque_gif_has_none(tmp_path: Path) -> None:
    info, pictures = read(gif(tmp_path / "a.gif", RED, GREEN))
    assert info.pix_fmt == "gbrp"
    assert {picture.pix_fmt for picture in pictures} == {"gbrp"}


@pytest.mark.parametrize(("colors", "tag"), [((CLEAR, RED), "1"), ((RED, GREEN), None)])
def test_webm_from_gif_is_tagged_only_with_alpha_that_is_there(
    tmp_path: Path, colors: tuple[int, ...], tag: str | None
) -> None:
    convert(gif(tmp_path / "a.gif", *colors), tmp_path / "a.webm")
    (video,) = streams(tmp_path / "a.webm", "video")
    assert alpha_mode(tmp_path / "a.webm") == tag
    assert video["pix_fmt"] == "yuv420p"  # of the colours; the alpha lies beside them


def still(path: Path, frame: av.VideoFrame) -> Path:
    """Write a frame as a PNG."""
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, frame.format.name
    codec.time_base = Fraction(1, 25)
    path.write_bytes(b"".join(map(bytes, [*codec.encode(frame), *codec.encode(None)])))
    return path


def test_a_palette_has_alpha_where_a_pixel_of_it_is_transparent(tmp_path: Path) -> None:
    info, (picture,) = read(still(tmp_path / "a.png", palette_frame(RED, CLEAR)))
    assert info.pix_fmt == "gbrap"
    assert picture.alpha is not None
    assert picture.alpha[:, :32].unique().tolist() == [255]
    assert picture.alpha[:, 32:].unique().tolist() == [0]


def test_an_opaque_palette_has_none(tmp_path: Path) -> None:
    info, (picture,) = read(still(tmp_path / "a.png", palette_frame(RED, GREEN)))
    assert (info.pix_fmt, picture.alpha) == ("gbrp", None)


def test_a_sequence_has_alpha_where_one_picture_of_it_is_transparent(tmp_path: Path) -> None:
    still(tmp_path / "1.png", palette_frame(RED, GREEN))
    assert read(str(tmp_path / "%d.png"))[0].pix_fmt == "gbrp"
    still(tmp_path / "2.png", palette_frame(RED, CLEAR))
    info, pictures = read(str(tmp_path / "%d.png"))
    assert (info.pix_fmt, len(pictures)) == ("gbrap", 2)


@pytest.mark.parametrize("pix_fmt", ["ya8", "ya16be"])
def test_gray_keeps_its_alpha_in_every_still(tmp_path: Path, pix_fmt: str) -> None:
    still(tmp_path / "a.png", transparent(0, pix_fmt))
    assert alpha_off_by(tmp_path / "a.png") <= 1
    convert(tmp_path / "a.png", tmp_path / "b.png")
    assert alpha_off_by(tmp_path / "b.png") <= 1
    convert(tmp_path / "a.png", tmp_path / "b.tiff")
    assert alpha_off_by(tmp_path / "b.tiff") <= 1


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("prores_ks", "yuva444p10le")]
)
def test_opacity_is_seen_in_every_layout(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    opaque = np.full(WIDTH, 255)
    full = clip(tmp_path / "full.mov", codec, pix_fmt, opaque)
    part = clip(tmp_path / "part.mov", codec, pix_fmt)
    assert is_opaque(find_target(str(full)))
    assert not is_opaque(find_target(str(part)))


# In the ledger: alpha that hides something, and that the output lacks.


def kinds(path: Path) -> list[str]:
    found = contents_of(find_target(str(path)))
    return [trait.kind for trait in found if trait.kind == "alpha"]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mkv", "libvpx", "yuva420p"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mkv", "ffv1", "gbrap10le"),
    ],
)
def test_alpha_is_a_trait_that_an_output_without_it_loses(
    tmp_path: Path, name: str, codec: str, pix_fmt: str
) -> None:
    source = clip(tmp_path / name, codec, pix_fmt)
    assert kinds(source) == ["alpha"]
    convert(source, tmp_path / "kept.webm")
    assert kinds(tmp_path / "kept.webm") == ["alpha"]
    convert(source, tmp_path / "lost.mp4")
    assert kinds(tmp_path / "lost.mp4") == []


def test_a_tag_without_alpha_is_no_alpha(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.webm", codec="libvpx-vp9")
    with av.open(str(clip)) as source, av.open(str(tmp_path / "b.webm"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0], True)
        stream.metadata["alpha_mode"] = "1"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    assert alpha_mode(tmp_path / "b.webm") == "1"
    assert kinds(tmp_path / "b.webm") == []
    assert read(tmp_path / "b.webm")[0].pix_fmt == "yuv420p"
    convert(tmp_path / "b.webm", tmp_path / "c.webm")
    assert alpha_mode(tmp_path / "c.webm") is None


def test_gif_and_palette_are_in_the_ledger_where_they_are_transparent(tmp_path: Path) -> None:
    assert kinds(gif(tmp_path / "a.gif", RED, GREEN)) == []
    assert kinds(gif(tmp_path / "b.gif", CLEAR, RED)) == ["alpha"]
    assert kinds(still(tmp_path / "a.png", palette_frame(RED, GREEN))) == []
    assert kinds(still(tmp_path / "b.png", palette_frame(RED, CLEAR))) == ["alpha"]
