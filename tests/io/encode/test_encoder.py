"""Which encoder and pixel format are chosen, and what is refused early."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from support.media.sinks import constant, pictures, write

from upframe.io.capabilities import why_encoder_fails
from upframe.io.encode.codecs import encoder_formats, encoder_of
from upframe.io.encode.containers import Container
from upframe.io.encode.encoder import (
    EncoderOptions,
    codec_choice,
    encoder_parameters,
    output_pix_fmt,
)
from upframe.io.encode.options import presets, quality_range
from upframe.io.errors import SinkRefused, WrongOption
from upframe.io.sink import open_file_sink


@pytest.mark.parametrize(
    ("pix_fmt", "name", "codec", "taken"),
    [
        ("yuv420p", "a.mp4", "libx264", "yuv420p"),
        ("yuv422p", "a.mov", "libx264", "yuv422p"),
        ("yuv444p", "a.mkv", "libx264", "yuv444p"),
        ("gray", "a.mkv", "libx264", "gray"),
        ("gbrp", "a.mp4", "libx264", "yuv420p"),
        ("gbrap", "a.mov", "libx264", "yuv420p"),
        ("gbrp10le", "a.mp4", "libx265", "yuv420p10le"),
        ("gbrp16le", "a.mp4", "libx265", "yuv420p10le"),
        ("gbrp", "a.ts", "libx264", "yuv420p"),
        ("gbrp", "a.webm", "libvpx-vp9", "yuv420p"),
        ("gbrap", "a.webm", "libvpx-vp9", "yuva420p"),
        ("gbrap16le", "a.webm", "libvpx-vp9", "yuva420p"),
        ("yuva444p10le", "a.webm", "libvpx-vp9", "yuva420p"),
        ("gbrp16le", "a.webm", "libsvtav1", "yuv420p10le"),
        ("gbrp", "a.mkv", "libx264", "yuv444p"),
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


@pytest.mark.parametrize(
    ("codec", "name", "taken"),
    [
        ("libx264", "a.mp4", "yuv420p"),
        ("hevc", "a.mov", "yuv420p"),
        ("av1", "a.mp4", "yuv420p"),
        ("libx264rgb", "a.mp4", "gbrp"),
        ("qtrle", "a.mov", "gbrp"),
        ("ffv1", "a.mp4", "gbrp"),
        ("prores_ks", "a.mov", "yuv444p10le"),
        ("ffv1", "a.mkv", "gbrp"),
        ("hevc", "a.mkv", "gbrp"),
    ],
)
def test_rgb_is_subsampled_for_players_but_not_for_further_work(
    codec: str, name: str, taken: str
) -> None:
    choice = codec_choice(constant(pix_fmt="gbrp"), EncoderOptions(codec=codec), name)
    assert choice.pix_fmt == taken


def test_rgb_for_players_is_said_and_can_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    info = constant(pix_fmt="gbrp")
    assert output_pix_fmt(info, EncoderOptions(), "a.mp4") == "yuv420p"
    assert "RGB: stored as yuv420p" in caplog.text
    assert "--pix-fmt yuv444p" in caplog.text
    asked = EncoderOptions(pix_fmt="yuv444p")
    assert output_pix_fmt(info, asked, "a.mp4") == "yuv444p"
    assert output_pix_fmt(info, EncoderOptions(codec="libx265", pix_fmt="gbrp"), "a.mp4") == "gbrp"


# What a codec's name stands for, and its quality.


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("h264", "libx264"),
        ("hevc", "libx265"),
        ("av1", "libsvtav1"),
        ("vp9", "libvpx-vp9"),
        ("vp8", "libvpx"),
        ("libx265", "libx265"),
        ("mpeg4", "mpeg4"),
        ("ffv1", "ffv1"),
        ("h264_nvenc", "h264_nvenc"),
    ],
)
def test_a_codec_stands_for_an_encoder(name: str, encoder: str) -> None:
    assert codec_choice(constant(), EncoderOptions(codec=name), "a.mkv").codec == encoder


@pytest.mark.parametrize(
    ("codec", "quality"),
    [
        ("h264", {"crf": "18"}),
        ("hevc", {"crf": "18"}),
        ("libx264rgb", {"crf": "18"}),
        ("av1", {"crf": "20"}),
        ("vp9", {"crf": "20"}),
        ("vp8", {"crf": "10"}),
        ("mpeg4", {"qmin": "3", "qmax": "3"}),
        ("h264_nvenc", {"rc": "vbr", "cq": "19"}),
        ("hevc_nvenc", {"rc": "vbr", "cq": "19"}),
        ("hevc_qsv", {"global_quality": "19"}),
        ("hevc_vaapi", {"rc_mode": "CQP", "global_quality": "19"}),
        ("ffv1", {}),
    ],
)
def test_every_encoder_has_a_quality_of_ours(codec: str, quality: dict[str, str]) -> None:
    options, mkv = EncoderOptions(codec=codec), Container("matroska")
    name = codec if "vaapi" in codec else encoder_of(codec)
    given = encoder_parameters(name, constant(), options, mkv)
    assert quality.items() <= given.items()
    assert quality or "crf" not in given
    if "crf" in quality:
        asked = encoder_parameters(name, constant(), EncoderOptions(codec=codec, crf=30), mkv)
        assert asked["crf"] == "30"


@pytest.mark.parametrize(
    ("short", "native"), [("h264", "libx264"), ("hevc", "libx265"), ("vp9", "libvpx-vp9")]
)
def test_a_codec_and_its_encoder_have_the_same_quality(
    tmp_path: Path, short: str, native: str
) -> None:
    sizes: list[int] = []
    for codec in (short, native):
        target = tmp_path / f"{codec}.mkv"
        info = constant(width=160, height=96)
        write(open_file_sink(target, info, EncoderOptions(codec=codec)), pictures(info))
        sizes.append(target.stat().st_size)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("h265", "hevc"), ("x265", "hevc"), ("H.265", "hevc"), ("x264", "h264"), ("avc", "h264")],
)
def test_the_codec_that_was_meant_is_suggested(wrong: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"did you mean {meant}"):
        EncoderOptions(codec=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "libx264", "crf": 52}, "must be 0 to 51 for libx264"),
        ({"codec": "hevc", "crf": 60}, "must be 0 to 51 for hevc"),
        ({"codec": "av1", "crf": 99}, "must be 0 to 63 for av1"),
        ({"codec": "libvpx-vp9", "crf": 64}, "must be 0 to 63 for libvpx-vp9"),
        ({"codec": "libvpx", "crf": 1}, "must be 4 to 63 for libvpx"),
        ({"codec": "mpeg4", "crf": 32}, "must be 1 to 31 for mpeg4"),
        ({"codec": "h264_nvenc", "crf": 0}, "must be 1 to 51 for h264_nvenc"),
        ({"crf": 64}, "must be 0 to 63"),
        ({"codec": "libx264", "preset": "7"}, "must be one of ultrafast, .* for libx264"),
        ({"codec": "av1", "preset": "slow"}, "must be one of -1, 0, .*, 13 for av1"),
        ({"codec": "av1", "preset": "14"}, "must be one of -1, 0, .*, 13 for av1"),
        ({"codec": "hevc_nvenc", "preset": "veryslow"}, "must be one of p1, .* for hevc_nvenc"),
        ({"preset": "fastest"}, "must be one of ultrafast"),
    ],
)
def test_what_an_encoder_does_not_have_is_refused_with_its_range(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderOptions.model_validate(options)


@pytest.mark.parametrize(
    "codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx", "mpeg4", "mpeg2video"]
)
def test_the_ends_of_an_encoders_range_are_accepted_by_it(tmp_path: Path, codec: str) -> None:
    low, high = quality_range(codec) or (0, 0)
    for crf in (low, high):
        _open(tmp_path / f"{crf}.mkv", EncoderOptions(codec=codec, crf=crf))
    for preset in presets(codec) or ():
        _open(tmp_path / "preset.mkv", EncoderOptions(codec=codec, preset=preset))


@pytest.mark.parametrize(
    ("name", "pix_fmt", "options", "message"),
    [
        ("a.mp4", "yuv420p", {"crf": 60}, "libx264 has no crf 60; it has 0 to 51"),
        ("a.mp4", "yuv420p10le", {"crf": 60}, "libx265 has no crf 60; it has 0 to 51"),
        ("a.mpg", "yuv420p", {"crf": 40}, "mpeg2video has no crf 40; it has 1 to 31"),
        ("a.mp4", "yuv420p", {"preset": "5"}, "libx264 has no preset '5'; it has ultrafast"),
        ("a.webm", "yuv420p10le", {"preset": "slow"}, "libsvtav1 has no preset 'slow'; it has -1"),
        ("a.webm", "yuv420p", {"preset": "slow"}, "libvpx-vp9 knows no option 'preset'"),
        ("a.webm", "yuv420p", {"codec": "vp8", "preset": "5"}, "libvpx knows no option 'preset'"),
        ("a.mkv", "gbrp16le", {"crf": 20}, "ffv1 knows no option 'crf'"),
        ("a.mkv", "yuv420p", {"codec": "ffv1", "crf": 20}, "ffv1 knows no option 'crf'"),
        ("a.mov", "yuv420p", {"codec": "prores_ks", "crf": 3}, "prores_ks knows no option 'crf'"),
        ("a.gif", "yuv420p", {"crf": 3}, "gif knows no option 'crf'"),
        ("a.mp4", "yuv420p", {"options": {"crff": "3"}}, "libx264 .* 'crff'; near it: crf"),
        ("a.png", "gbrp", {"preset": "photo"}, "png knows no option 'preset'"),
        ("a.jpg", "yuv420p", {"options": {"lossless": "1"}}, "mjpeg knows no option 'lossless'"),
    ],
)
def test_what_an_encoder_that_is_chosen_later_does_not_have_is_refused_then(
    name: str, pix_fmt: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(WrongOption, match=message):
        output_pix_fmt(constant(pix_fmt=pix_fmt), EncoderOptions.model_validate(options), name)


LISTED_AND_REFUSED = [("libx265", "yuva420p"), ("libvpx-vp9", "yuva444p"), ("libvpx-vp9", "gbrap")]


@pytest.mark.parametrize(("codec", "pix_fmt"), LISTED_AND_REFUSED)
def test_a_format_that_an_encoder_lists_but_refuses_is_not_taken(codec: str, pix_fmt: str) -> None:
    if pix_fmt not in encoder_formats(codec) or why_encoder_fails(codec, pix_fmt) is None:
        pytest.skip(f"{codec} of this build is honest about {pix_fmt}")
    choice = codec_choice(constant(pix_fmt=pix_fmt), EncoderOptions(codec=codec), "a.mkv")
    assert choice.coded_pix_fmt != pix_fmt
    assert why_encoder_fails(codec, choice.coded_pix_fmt, {"auto-alt-ref": "0"}) is None


def test_a_codec_for_more_bits_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output_pix_fmt(constant(pix_fmt="yuv420p10le"), EncoderOptions(), "a.mp4")
    assert "10 bit: encoding as HEVC (libx265), which keeps it" in caplog.text


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "lost"),
    [
        ("yuv420p10le", "mpeg4", "10 bits are reduced to 8"),
        ("yuva420p", "libx264", "alpha is dropped, so that what it hid is seen; libvpx-vp9"),
        ("gbrp", "libx264", "RGB is stored as YUV"),
        ("yuv444p", "mpeg4", "chroma is reduced from yuv444p to yuv420p"),
    ],
)
def test_what_is_lost_is_said(
    caplog: pytest.LogCaptureFixture, pix_fmt: str, codec: str, lost: str
) -> None:
    caplog.set_level("INFO")
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
        ({"preset": "7"}, r"libx264 has no preset '7'; it has ultrafast, superfast"),
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
