"""Which encoder and pixel format are chosen, and what is refused early."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.media.sinks import constant, pictures, write

from upframe.io.encode.encoder import EncoderOptions, codec_choice, output_pix_fmt
from upframe.io.errors import SinkRefused
from upframe.io.sink import open_file_sink


@pytest.mark.parametrize(
    ("pix_fmt", "name", "codec", "taken"),
    [
        ("yuv420p", "a.mp4", "libx264", "yuv420p"),
        ("yuv422p", "a.mov", "libx264", "yuv422p"),
        ("yuv444p", "a.mkv", "libx264", "yuv444p"),
        ("gray", "a.mkv", "libx264", "gray"),
        ("gbrp", "a.mp4", "libx264", "yuv444p"),
        ("yuv420p10le", "a.mp4", "libx265", "yuv420p10le"),
        ("yuv422p10le", "a.mkv", "libx265", "yuv422p10le"),
        ("yuv444p12le", "a.mov", "libx265", "yuv444p12le"),
        ("yuv420p9le", "a.ts", "libx265", "yuv420p10le"),
        ("yuv420p16le", "a.mkv", "ffv1", "yuv420p16le"),
        ("gbrp14le", "a.mkv", "ffv1", "gbrp14le"),
        ("yuv420p", "a.webm", "libvpx-vp9", "yuv420p"),
        ("yuva420p", "a.webm", "libvpx-vp9", "yuva420p"),
        ("yuv444p", "a.webm", "libvpx-vp9", "yuv444p"),
        ("yuv420p10le", "a.webm", "libsvtav1", "yuv420p10le"),
        ("yuv420p", "a.avi", "libx264", "yuv420p"),
        ("yuv422p10le", "a.avi", "ffv1", "yuv422p10le"),
        ("yuv420p", "a.mpg", "mpeg2video", "yuv420p"),
        ("gbrp", "a.png", "png", "gbrp"),
        ("gbrap", "a.png", "png", "gbrap"),
        ("gbrap16le", "a.png", "png", "gbrap16le"),
        ("yuv420p10le", "a.png", "png", "gbrp16le"),
        ("yuva444p", "a.png", "png", "gbrap"),
        ("gray16le", "a.png", "png", "gray16le"),
        ("gray10le", "a.png", "png", "gray16le"),
        ("yuv420p", "a.jpg", "mjpeg", "yuv420p"),
        ("gbrp", "a.jpg", "mjpeg", "yuv444p"),
        ("gbrap", "a.webp", "libwebp", "gbrap"),
        ("gbrp16le", "a.tiff", "tiff", "gbrp16le"),
    ],
)
def test_the_default_keeps_what_the_pictures_hold(
    pix_fmt: str, name: str, codec: str, taken: str
) -> None:
    choice = codec_choice(constant(pix_fmt=pix_fmt), EncoderOptions(), name)
    assert (choice.codec, choice.pix_fmt) == (codec, taken)


def test_a_codec_for_more_bits_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output_pix_fmt(constant(pix_fmt="yuv420p10le"), EncoderOptions(), "a.mp4")
    assert "10 bit: encoding as HEVC (libx265), which keeps it" in caplog.text


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "lost"),
    [
        ("yuv420p10le", "mpeg4", "10 bits are reduced to 8"),
        ("yuva420p", "libx264", "alpha is dropped"),
        ("gbrp", "libx264", "RGB is stored as YUV"),
        ("yuv444p", "mpeg4", "chroma is reduced from yuv444p to yuv420p"),
    ],
)
def test_what_is_lost_is_said(
    caplog: pytest.LogCaptureFixture, pix_fmt: str, codec: str, lost: str
) -> None:
    output_pix_fmt(constant(pix_fmt=pix_fmt), EncoderOptions(codec=codec), "a.mkv")
    assert lost in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "libx266"}, r"no encoder is called 'libx266'; .*usual ones: libx264, libx265"),
        ({"codec": "aac"}, r"aac encodes audio, wanted a video encoder"),
        ({"pix_fmt": "yuv410p"}, r"pixel format 'yuv410p': .*must be gray, yuv"),
        (
            {"pix_fmt": "yuv420p16le", "codec": "libx264"},
            r"libx264 does not support yuv420p16le; it",
        ),
        ({"preset": "fastest"}, r"libx264 has no preset 'fastest'; it has ultrafast, superfast"),
        ({"options": {"crff": "3"}}, r"libx264 knows no option 'crff'; near it: crf"),
        ({"options": {"crf": "much"}}, r"libx264 refuses 64x48 yuv420p with crf=much"),
        ({"codec": "prores_ks", "crf": 3}, r"prores_ks knows no option 'crf'; .*qscale|it has"),
    ],
)
def test_wrong_options_are_refused_before_any_picture(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    encoder = EncoderOptions.model_validate(options)
    target = tmp_path / "a.mov"
    with pytest.raises(SinkRefused, match=message):
        _open(target, encoder)
    assert list(tmp_path.iterdir()) == []


def _open(target: Path, encoder: EncoderOptions) -> None:
    pix_fmt = output_pix_fmt(constant(), encoder, target)
    open_file_sink(target, constant(pix_fmt=pix_fmt), encoder).abort()


@pytest.mark.parametrize(("name", "codec"), [("a.webm", "libx264"), ("a.flv", "ffv1")])
def test_a_codec_that_the_container_does_not_hold_is_refused(
    tmp_path: Path, name: str, codec: str
) -> None:
    with pytest.raises(SinkRefused, match=f"{codec}"):
        open_file_sink(tmp_path / name, constant(), EncoderOptions(codec=codec))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "container", "message"),
    [
        ("a.zip", None, r"cannot tell the format of .*a.zip .*wanted one of .mp4, .*--format"),
        ("a", None, r"cannot tell the format"),
        ("a.mp4", "mp5", r"unknown output format 'mp5'; known are .*matroska"),
    ],
)
def test_unknown_containers_are_refused(
    tmp_path: Path, name: str, container: str | None, message: str
) -> None:
    with pytest.raises(SinkRefused, match=message):
        open_file_sink(tmp_path / name, constant(), EncoderOptions(), format=container)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_crf_is_a_quantiser_for_codecs_without_it(tmp_path: Path, codec: str) -> None:
    sizes: list[int] = []
    for crf in (1, 5, 31):
        info = constant(width=320, height=240)
        target = tmp_path / f"{crf}.mkv"
        sink = open_file_sink(target, info, EncoderOptions(codec=codec, crf=crf))
        write(sink, pictures(info))
        sizes.append(target.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[2]


def test_format_wins_over_the_extension(tmp_path: Path) -> None:
    choice = codec_choice(constant(), EncoderOptions(), "a.mp4", "webm")
    assert choice.codec == "libvpx-vp9"
    assert codec_choice(constant(), EncoderOptions(), "a.png", "mkv").codec == "libx264"
