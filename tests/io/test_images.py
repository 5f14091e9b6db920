"""Stills and numbered sequences: pixels, alpha, rotation, names, and nothing half done."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from support.media.clips import make_still
from support.media.sinks import constant, pictures, write
from support.media.stills import embedded_of, exif_data, icc_profile, with_segments

from upframe.filters.frame import Color, Picture, PixelFormat, StreamInfo
from upframe.io.decode.demuxer import find_target
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.errors import SinkRefused, VerificationFailed
from upframe.io.losses import contents_of
from upframe.io.sink import open_file_sink, plan_output
from upframe.io.source import open_source
from upframe.io.streams.plan import plan_streams
from upframe.io.verify import inspect

RGB = Color("pc", None, None, "gbr")


def noise(pix_fmt: str, width: int = 31, height: int = 17, color: Color = RGB) -> Picture:
    """Random code values of a format."""
    form = PixelFormat.parse(pix_fmt)
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    planes = [
        torch.randint(0, 1 << form.bit_depth, form.plane_size(width, height, plane)[::-1])
        .to(torch.int32)
        .to(dtype)
        for plane in (*range(form.num_planes), 0)
    ]
    alpha = planes.pop()
    info = constant()
    return Picture(
        tuple(planes), pix_fmt, color, 0, 1, info.time_base, alpha if form.has_alpha else None
    )


def info_of(picture: Picture, **more: object) -> StreamInfo:
    """What a source would say of a still."""
    info = constant(pix_fmt=picture.pix_fmt, color=picture.color, num_frames=1)
    return replace(info, width=picture.width, height=picture.height, **more)


def write_still(target: Path, picture: Picture, **more: object) -> Path:
    """One picture through the sink."""
    options = more.pop("options", EncoderOptions())
    assert isinstance(options, EncoderOptions)
    sink = open_file_sink(target, info_of(picture, **more), options)
    write(sink, iter([picture]))
    return target


def read_still(path: Path) -> Picture:
    """The picture that a source reads."""
    source = open_source(str(path))
    (picture,) = list(source)
    source.close()
    return picture


def rgb_by_ffmpeg(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) as a real ffmpeg shows it, turned as the file says."""
    probe = ["ffprobe", "-v", "error", "-of", "csv=p=0", "-show_entries", "stream=width,height"]
    size = subprocess.run([*probe, str(path)], capture_output=True, check=True).stdout
    width, height = (int(part) for part in size.decode().strip().split(",")[:2])
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def tiff_values(path: Path) -> dict[int, int]:
    """The short and long values in a little-endian TIFF's first directory, by tag."""
    data = path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    places = range(start + 2, start + 2 + 12 * count, 12)
    entries = [struct.unpack_from("<HHII", data, place) for place in places]
    return {tag: value for tag, _, num_values, value in entries if num_values == 1}


@pytest.mark.parametrize(
    ("location", "rotation", "positioning"),
    [("topleft", 0, 2), ("center", 0, None), ("topleft", 90, None)],
)
def test_tiff_says_where_its_chroma_lies_unless_that_was_turned(
    tmp_path: Path, location: str, rotation: int, positioning: int | None
) -> None:
    """TIFF 6.0, section 21: YCbCrPositioning is 2 for co-sited chroma, else centred."""
    picture = noise("yuv420p", 32, 16, Color("tv", None, None, "smpte170m", location))
    values = tiff_values(write_still(tmp_path / "a.tiff", picture, rotation=rotation))
    assert values[256] == (16 if rotation else 32)
    assert values.get(531) == positioning


@pytest.mark.parametrize(
    ("name", "pix_fmt"),
    [
        ("a.png", "gbrp"),
        ("a.png", "gbrap"),
        ("a.png", "gbrp16le"),
        ("a.png", "gbrap16le"),
        ("a.png", "gray"),
        ("a.png", "gray16le"),
        ("a.tiff", "gbrp"),
        ("a.tif", "gbrap"),
        ("a.tiff", "gbrp16le"),
        ("a.tiff", "gbrap16le"),
        ("a.bmp", "gbrp"),
    ],
)
def test_lossless_stills_keep_every_code_value_and_alpha(
    tmp_path: Path, name: str, pix_fmt: str
) -> None:
    picture = noise(pix_fmt, color=RGB if "gray" not in pix_fmt else Color("pc"))
    again = read_still(write_still(tmp_path / name, picture))
    assert again.pix_fmt == pix_fmt
    for plane, same in zip(again.planes, picture.planes, strict=True):
        assert torch.equal(plane.int(), same.int())
    if picture.alpha is not None:
        assert again.alpha is not None
        assert torch.equal(again.alpha.int(), picture.alpha.int())


def test_ffmpeg_sees_the_same_colours(tmp_path: Path) -> None:
    picture = noise("gbrp")
    shown = rgb_by_ffmpeg(write_still(tmp_path / "a.png", picture))
    assert np.array_equal(shown, torch.stack(picture.planes, -1).numpy())


def test_lossless_webp_keeps_alpha(tmp_path: Path) -> None:
    picture = noise("gbrap", 32, 32)
    assert picture.alpha is not None
    picture = replace(picture, alpha=picture.alpha.clamp(min=1))  # WebP drops unseen colours
    target = write_still(tmp_path / "a.webp", picture, options=EncoderOptions(crf=0))
    again = read_still(target)
    assert again.alpha is not None
    assert torch.equal(again.alpha, picture.alpha)
    for plane, same in zip(again.planes, picture.planes, strict=True):
        assert torch.equal(plane, same)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lower_crf_means_larger_and_better_stills(tmp_path: Path, name: str) -> None:
    picture = noise("yuv420p", 64, 64, Color("pc", None, None, "bt470bg"))
    sizes = [
        write_still(tmp_path / f"{crf}{name}", picture, options=EncoderOptions(crf=crf))
        .stat()
        .st_size
        for crf in (1, 20, 51)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[2]


@pytest.mark.parametrize(
    "color",
    [
        Color("tv", "bt709", "bt709", "bt709"),
        Color("tv", "smpte170m", "smpte170m", "smpte170m"),
        Color("pc", "bt709", "bt709", "bt709"),
        Color("pc", None, None, "bt470bg"),
    ],
    ids=["709 tv", "601 tv", "709 pc", "jfif"],
)
def test_a_jpeg_shows_the_colours_that_were_meant(tmp_path: Path, color: Color) -> None:
    """JFIF knows only BT.601 in full range; whatever the video was, it must look the same."""
    red = {"bt709": (63, 102, 240), "smpte170m": (81, 90, 240), "bt470bg": (81, 90, 240)}
    y, u, v = red[color.matrix or ""]
    if color.range == "pc":
        y, u, v = (54, 99, 255) if color.matrix == "bt709" else (76, 85, 255)
    planes = tuple(torch.full((32, 32), value, dtype=torch.uint8) for value in (y, u, v))
    picture = Picture(planes, "yuv444p", color, 0, 1, constant().time_base)
    shown = rgb_by_ffmpeg(write_still(tmp_path / "a.jpg", picture))
    assert np.abs(shown[16, 16].astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("pix_fmt", ["gbrap", "yuv420p", "yuv444p"])
def test_rotation_is_done_on_the_pixels(
    tmp_path: Path, pix_fmt: str, rotation: int, hflip: bool
) -> None:
    picture = noise(pix_fmt, 32, 16, RGB if pix_fmt == "gbrap" else Color("pc", matrix="bt470bg"))
    target = tmp_path / ("a.png" if pix_fmt == "gbrap" else "a.tiff")
    options = EncoderOptions() if pix_fmt == "gbrap" else EncoderOptions(pix_fmt=pix_fmt)
    write_still(target, picture, options=options, rotation=rotation, hflip=hflip)
    again = read_still(target)
    wanted = picture.planes[0].flip(1) if hflip else picture.planes[0]
    assert torch.equal(again.planes[0], wanted.rot90(rotation // 90))
    if picture.alpha is not None and again.alpha is not None:
        wanted = picture.alpha.flip(1) if hflip else picture.alpha
        assert torch.equal(again.alpha, wanted.rot90(rotation // 90))


def test_turned_by_90_degrees_422_becomes_444() -> None:
    """4:4:0, which it would be, is read by hardly anything."""
    info = constant(pix_fmt="yuv422p", rotation=90)
    assert output_pix_fmt(info, EncoderOptions(), "a.jpg") == "yuv444p"
    assert output_pix_fmt(replace(info, rotation=180), EncoderOptions(), "a.jpg") == "yuv422p"


NAMES = ["a.png", "a.jpg", "a.webp", "a.tiff"]


def photo(folder: Path, *, profile: bytes | None = None, orientation: int = 6) -> Path:
    """A JPEG as phones write it, 64x48 as coded."""
    segments = [(0xE1, b"Exif\0\0" + exif_data(orientation))]
    if profile is not None:
        segments.append((0xE2, b"ICC_PROFILE\0\1\1" + profile))
    return with_segments(make_still(folder / "photo.jpg", pix_fmt="yuvj420p"), *segments)


def through(source: Path, target: Path) -> Path:
    """A still read and written, without filters."""
    opened = open_source(str(source))
    info = replace(opened.info, pix_fmt=output_pix_fmt(opened.info, EncoderOptions(), target))
    form = PixelFormat.parse(info.pix_fmt)
    kept = list(opened)
    opened.close()
    if form.name != kept[0].pix_fmt:
        with Image.open(source) as image:
            planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1).copy()
        kept = [replace(kept[0], planes=tuple(map(torch.from_numpy, planes)), pix_fmt=form.name)]
    write(open_file_sink(target, info, EncoderOptions()), iter(kept))
    return target


@pytest.mark.parametrize("name", NAMES)
def test_profile_and_exif_data_are_carried_and_the_orientation_is_neutral(
    tmp_path: Path, name: str
) -> None:
    target = through(photo(tmp_path, profile=icc_profile()), tmp_path / name)
    with Image.open(target) as image:
        assert image.size == (48, 64)
        assert image.info["icc_profile"] == icc_profile()
        exif = image.getexif()
        assert (exif[0x010F], exif[0x0112]) == ("ACM", 1)
        assert exif.get_ifd(0x8769)[0xA002] == 48
        assert exif.get_ifd(0x8825)[2] == (52.0, 30.0, 0.0)
        image.load()
    rgb = rgb_by_ffmpeg(target)
    assert rgb.shape == (64, 48, 3)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_carried_can_be_carried_again(tmp_path: Path, name: str) -> None:
    once = through(photo(tmp_path, profile=icc_profile()), tmp_path / name)
    again = through(once, tmp_path / f"again_{name}")
    found, before = embedded_of(again), embedded_of(once)
    assert found is not None
    assert before is not None
    assert (found.icc_profile, found.turn) == (icc_profile(), (0, False))
    assert found.exif is not None
    assert b"ACM" in found.exif
    with Image.open(again) as image:
        assert image.size == (48, 64)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_a_stream_of_bytes_has_the_profile_and_exif_data_of_its_image(
    tmp_path: Path, name: str
) -> None:
    image = through(photo(tmp_path, profile=icc_profile()), tmp_path / name)
    with image.open("rb") as file:
        for stream in (file, BytesIO(image.read_bytes())):
            source = open_source(stream)
            assert (source.info.icc_profile, len(list(source))) == (icc_profile(), 1)
            assert source.info.exif is not None
            source.close()


@pytest.mark.parametrize("name", ["a.apng", "a.mov", "a.nut"])
def test_png_with_a_profile_is_decoded_in_every_container(tmp_path: Path, name: str) -> None:
    """PyAV frees the name of the profile twice, if it sees it."""
    with Image.open(photo(tmp_path, profile=None)) as opened:
        opened.save(tmp_path / "a.png", icc_profile=icc_profile())
        opened.save(
            tmp_path / "a.apng", save_all=True, append_images=[opened.rotate(90)],
            icc_profile=icc_profile(),
        )  # fmt: skip
    path = tmp_path / name
    if path.suffix != ".apng":
        png = av.Packet((tmp_path / "a.png").read_bytes())
        png.pts, png.dts, png.time_base, png.duration = 0, 0, Fraction(1, 1000), 40
        with av.open(str(path), "w") as output:
            png.stream = output.add_stream("png", rate=25, width=64, height=48, pix_fmt="rgb24")
            output.mux(png)
    for _ in range(3):  # so that freed memory is used again
        source = open_source(str(path))
        assert len(list(source)) in (1, 2)
        source.close()
        assert "icc" in {trait.kind for trait in contents_of(find_target(str(path)))}
        inspect(find_target(str(path)))


def test_a_format_without_profiles_gets_srgb(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An orange of Display P3 is another triple in sRGB."""
    planes = tuple(torch.full((16, 16), value, dtype=torch.uint8) for value in (200, 120, 60))
    picture = Picture(planes, "gbrp", RGB, 0, 1, constant().time_base)
    for name, wanted in (("a.bmp", (214, 116, 38)), ("a.png", (200, 120, 60))):
        target = write_still(tmp_path / name, picture, icc_profile=icc_profile())
        assert np.abs(rgb_by_ffmpeg(target)[8, 8].astype(int) - wanted).max() <= 2
    assert caplog.messages == [
        ".bmp cannot hold ICC profile 'Display P3 test': converted to sRGB, in 8 bits"
    ]


@pytest.mark.parametrize(
    ("space", "pix_fmt", "name", "kept"),
    [
        (b"GRAY", "gray", "a.png", True),
        (b"GRAY", "gray16le", "a.tiff", True),
        (b"GRAY", "gray", "a.jpg", False),  # whose encoder has no gray
        (b"RGB ", "gray", "a.png", False),
        (b"GRAY", "gbrp", "a.png", False),
        (b"CMYK", "gbrp", "a.png", False),
    ],
)
def test_a_profile_is_only_put_on_pictures_of_its_kind(
    tmp_path: Path, space: bytes, pix_fmt: str, name: str, kept: bool
) -> None:
    color = Color("pc") if pix_fmt.startswith("gray") else RGB
    profile = icc_profile(space=space)
    target = write_still(
        tmp_path / name, noise(pix_fmt, 32, 16, color), icc_profile=profile, exif=exif_data(1)
    )
    found = embedded_of(target)
    assert found is not None
    assert found.icc_profile == (profile if kept else None)
    assert found.exif is not None


def test_a_cmyk_photo_is_read_and_its_profile_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    profile = icc_profile(space=b"CMYK")
    Image.new("CMYK", (32, 16), (0, 255, 255, 0)).save(path, icc_profile=profile, quality=98)
    target = through(path, tmp_path / "b.png")
    found = embedded_of(target)
    assert found is not None
    assert found.icc_profile is None
    assert np.abs(rgb_by_ffmpeg(target)[8, 8].astype(int) - (255, 0, 0)).max() < 12


def test_damaged_exif_data_are_left_out_and_the_picture_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = exif_data(6)[:110]  # whole as far as the orientation
    picture = noise("gbrp", 32, 16)
    target = write_still(tmp_path / "a.png", picture, exif=damaged, icc_profile=icc_profile())
    found = embedded_of(target)
    assert found is not None
    assert (found.exif, found.icc_profile) == (None, icc_profile())
    assert "EXIF data are left out" in caplog.text


def test_a_sequence_keeps_the_profile_and_leaves_each_pictures_exif_data(tmp_path: Path) -> None:
    for number in (1, 2):
        made = photo(tmp_path, profile=icc_profile(), orientation=1)
        made.rename(tmp_path / f"in_{number}.jpg")
    source = open_source(str(tmp_path / "in_%d.jpg"))
    info = replace(source.info, pix_fmt="yuv420p")
    write(open_file_sink(tmp_path / "out_%d.jpg", info, EncoderOptions()), iter(list(source)))
    source.close()
    found = embedded_of(tmp_path / "out_2.jpg")
    assert found is not None
    assert (found.icc_profile, found.exif) == (icc_profile(), None)


def test_a_sequence_is_numbered_from_one_and_appears_at_the_end(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB, num_frames=12)
    sink = open_file_sink(tmp_path / "f_%03d.png", info, EncoderOptions())
    for picture in pictures(info):
        sink.write(picture)
    (hidden,) = tmp_path.iterdir()
    assert hidden.name.startswith(".")
    assert hidden.name.endswith(".partial")
    sink.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"f_{number:03d}.png" for number in range(1, 13)
    ]
    source = open_source(str(tmp_path / "f_%03d.png"))
    assert [int(picture.planes[0][0, 0]) for picture in source] == [
        40 + 10 * index for index in range(12)
    ]
    source.close()


def test_a_sequence_can_be_longer_than_its_digits(tmp_path: Path) -> None:
    info = constant(pix_fmt="gray", color=Color("pc"))
    write(open_file_sink(tmp_path / "%d.png", info, EncoderOptions()), pictures(info))
    assert (tmp_path / "12.png").exists()


def test_an_aborted_sequence_leaves_nothing(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB)
    sink = open_file_sink(tmp_path / "f_%03d.png", info, EncoderOptions())
    sink.write(next(pictures(info)))
    sink.abort()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["f_001.png", "f_007.png", "f_1234.png"])
def test_existing_images_of_a_sequence_need_overwrite(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    info = constant(pix_fmt="gbrp", color=RGB)
    target = tmp_path / "f_%03d.png"
    with pytest.raises(SinkRefused, match=rf"output exists: .*{there}"):
        open_file_sink(target, info, EncoderOptions())
    assert [path.name for path in tmp_path.iterdir()] == [there]
    write(open_file_sink(target, info, EncoderOptions(), overwrite=True), pictures(info))
    assert len(list(tmp_path.iterdir())) == (13 if there == "f_1234.png" else 12)


def test_an_image_that_appears_meanwhile_stops_the_sequence(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB)
    sink = open_file_sink(tmp_path / "f_%03d.png", info, EncoderOptions())
    for picture in pictures(info):
        sink.write(picture)
    (tmp_path / "f_005.png").write_text("precious")
    with pytest.raises(SinkRefused, match=r"output appeared meanwhile: .*f_005.png"):
        sink.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["f_005.png"]


def test_a_video_does_not_fit_into_one_still(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB, num_frames=12)
    message = r"a.png holds one picture, got 12 frames; wanted a numbered name such as a_%05d.png"
    with pytest.raises(SinkRefused, match=message):
        open_file_sink(tmp_path / "a.png", info, EncoderOptions())
    sink = open_file_sink(tmp_path / "a.png", replace(info, num_frames=None), EncoderOptions())
    two = pictures(info)
    sink.write(next(two))
    with pytest.raises(SinkRefused, match="holds one picture"):
        sink.write(next(two))
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_no_picture_is_no_still(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB)
    for name in ("a.png", "f_%03d.png"):
        with pytest.raises(VerificationFailed, match="got no picture"):
            open_file_sink(tmp_path / name, info, EncoderOptions()).finish()
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_of_stills_are_refused_early(tmp_path: Path) -> None:
    info = constant(pix_fmt="gbrp", color=RGB)
    for options, message in (
        (EncoderOptions(options={"compresion_level": "3"}), "near it: compression_level|knows no"),
        (EncoderOptions(codec="libx264"), r"\.png is encoded by png, got libx264"),
        (EncoderOptions(codec="nonsense"), "no encoder is called 'nonsense'"),
    ):
        with pytest.raises(SinkRefused, match=message):
            open_file_sink(tmp_path / "a.png", info, options)
    with pytest.raises(SinkRefused, match="output folder does not exist"):
        open_file_sink(tmp_path / "none" / "f_%03d.png", info, EncoderOptions())
    assert list(tmp_path.iterdir()) == []


PROFILE_LOST = "file: ICC profile 'Display P3 test': not kept"
EXIF_LOST = "file: EXIF data: not kept"


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("a.png", []),
        ("a.jpg", []),
        ("a.webp", []),
        ("a.tiff", []),
        ("a.bmp", [PROFILE_LOST, EXIF_LOST]),
        ("a.mkv", [PROFILE_LOST, EXIF_LOST]),
        ("a.gif", [PROFILE_LOST, EXIF_LOST]),
    ],
)
def test_the_ledger_lists_profile_and_exif_data_where_they_are_lost(
    tmp_path: Path, name: str, lost: list[str]
) -> None:
    """Planned before the work, and found after it."""
    before, target = photo(tmp_path, profile=icc_profile(), orientation=1), tmp_path / name
    plan = plan_streams(str(before), str(target))
    opened = open_source(str(before))
    info, (picture,) = opened.info, list(opened)
    opened.close()
    pix_fmt = output_pix_fmt(info, EncoderOptions(), target)
    made = replace(info, pix_fmt=pix_fmt)
    planned = plan_output(made, EncoderOptions(), str(target), None, plan).losses
    assert [line for line in planned if line.startswith("file")] == lost
    form = PixelFormat.parse(pix_fmt)
    if form.name != picture.pix_fmt:
        planes = tuple(torch.zeros((48, 64), dtype=torch.uint8) for _ in range(form.num_planes))
        alpha = planes[0] if form.has_alpha else None
        picture = replace(picture, planes=planes, pix_fmt=form.name, alpha=alpha)
    sink = open_file_sink(target, replace(info, pix_fmt=pix_fmt), EncoderOptions(), plan=plan)
    write(sink, iter([picture]))
    assert [line for line in sink.losses() if line.startswith("file")] == lost


def test_strict_streams_refuse_a_format_without_profiles(tmp_path: Path) -> None:
    before, target = photo(tmp_path, profile=icc_profile()), tmp_path / "a.bmp"
    plan = plan_streams(str(before), str(target), strict=True)
    opened = open_source(str(before))
    info = replace(opened.info, pix_fmt="gbrp")
    opened.close()
    with pytest.raises(SinkRefused, match=r"--strict-streams: a\.bmp: .*ICC profile 'Display P3"):
        open_file_sink(target, info, EncoderOptions(), plan=plan)
    assert not target.exists()
