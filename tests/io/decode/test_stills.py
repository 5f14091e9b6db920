"""HEIC and AVIF of tiles and crops, animated WebP: the whole picture, or a clear refusal."""

from __future__ import annotations

import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.media.clips import make_clip
from support.media.stills import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    aperture,
    box,
    exif_data,
    flat,
    icc_profile,
    make_heif,
)

from upframe.filters.frame import Picture, StreamInfo
from upframe.io.decode.demuxer import find_target
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import TooLargeMedia, TruncatedMedia, UnsupportedMedia
from upframe.io.limits import VARIABLE
from upframe.io.probe import probe_source
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source

HEIC, AVIF = ("a.heic", "libx265"), ("a.avif", "libsvtav1")
FOUR = [flat(RED), flat(GREEN), flat(BLUE), flat(WHITE)]


def read(target: object, **options: object) -> tuple[StreamInfo, list[Picture], list[str]]:
    source = open_source(str(target) if isinstance(target, Path) else target, **options)  # type: ignore[arg-type]
    try:
        return source.info, list(source), source.warnings()
    finally:
        source.close()


def shown(path: Path, folder: Path) -> np.ndarray:
    """(H, W, 3) as a picture viewer shows the PNG made of a file."""
    source = open_source(str(path))
    target = folder / "shown.png"
    sink = open_file_sink(target, source.info, EncoderOptions(), overwrite=True)
    for picture in source:
        sink.write(picture)
    source.close()
    sink.finish()
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB"))


def is_close(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - color).max() <= 12)


def colors_of(array: np.ndarray) -> list[tuple[int, int, int]]:
    """The colours in the middles of the four quarters, row by row, as the nearest known."""
    height, width = array.shape[:2]
    found = []
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            near = [color for color in (RED, GREEN, BLUE, WHITE) if is_close(array[y, x], color)]
            found.append(near[0] if near else tuple(int(value) for value in array[y, x]))
    return found


@pytest.mark.parametrize(("name", "codec"), [HEIC, AVIF])
@pytest.mark.parametrize("size", [(128, 128), (120, 100), (66, 126)])
def test_a_picture_of_tiles_is_read_whole(
    tmp_path: Path, name: str, codec: str, size: tuple[int, int]
) -> None:
    path = make_heif(tmp_path / name, FOUR, columns=2, shown=size, codec=codec)
    source = open_source(str(path))
    assert probe_source(source).container == ("avif" if codec == "libsvtav1" else "heif")
    source.close()
    info, pictures, warnings = read(path)
    assert (info.width, info.height, info.num_frames, len(pictures)) == (*size, 1, 1)
    assert warnings == []
    array = shown(path, tmp_path)
    corners = [array[0, 0], array[0, -1], array[-1, 0], array[-1, -1]]
    assert all(map(is_close, corners, (RED, GREEN, BLUE, WHITE)))


@pytest.mark.parametrize("tiles", [1, 4])
def test_padding_is_no_picture(tmp_path: Path, tiles: int) -> None:
    """The crop is to the right and below the middle."""
    whole = flat(RED)
    whole[16:, 32:] = GREEN
    pictures = [whole] if tiles == 1 else [flat(RED), flat(RED), flat(RED), flat(GREEN)]
    crop = aperture(32, 48, 32, 16) if tiles == 1 else aperture(60, 40, 68, 88)
    path = make_heif(
        tmp_path / "a.heic", pictures, columns=1 if tiles == 1 else 2, properties=[crop]
    )
    array = shown(path, tmp_path)
    assert array.shape[:2] == ((48, 32) if tiles == 1 else (40, 60))
    assert is_close(array[4, 4], GREEN)
    assert is_close(array[-1, -1], GREEN)


def test_an_avif_that_is_cropped_is_refused(tmp_path: Path) -> None:
    path = make_heif(
        tmp_path / "a.avif", FOUR[:1], properties=[aperture(32, 32)], codec="libsvtav1"
    )
    with pytest.raises(UnsupportedMedia, match=r"an AVIF picture that is cropped \(clap\)"):
        open_source(str(path))


@pytest.mark.parametrize(("name", "codec"), [HEIC, AVIF])
@pytest.mark.parametrize("tiles", [1, 4])
@pytest.mark.parametrize(
    ("properties", "wanted"),
    [
        ([], [RED, GREEN, BLUE, WHITE]),
        ([box(b"irot", b"\1")], [GREEN, WHITE, RED, BLUE]),
        ([box(b"irot", b"\2")], [WHITE, BLUE, GREEN, RED]),
        ([box(b"irot", b"\3")], [BLUE, RED, WHITE, GREEN]),
        ([box(b"imir", b"\1")], [GREEN, RED, WHITE, BLUE]),
        ([box(b"imir", b"\0")], [BLUE, WHITE, RED, GREEN]),
        ([box(b"irot", b"\1"), box(b"imir", b"\1")], [WHITE, GREEN, BLUE, RED]),
        ([box(b"irot", b"\3"), box(b"imir", b"\0")], [WHITE, GREEN, BLUE, RED]),
    ],
    ids=["as it is", "90", "180", "270", "left right", "top bottom", "90 left", "270 top"],
)
def test_a_picture_stands_as_its_file_says(
    tmp_path: Path,
    name: str,
    codec: str,
    tiles: int,
    properties: list[bytes],
    wanted: list[tuple[int, int, int]],
) -> None:
    """ISO/IEC 23008-12, 6.5.10 and 6.5.12: counter-clockwise, then mirrored."""
    whole = np.concatenate((np.concatenate(FOUR[:2], 1), np.concatenate(FOUR[2:], 1)), 0)
    pictures = FOUR if tiles == 4 else [whole]
    path = make_heif(
        tmp_path / name,
        pictures,
        columns=2 if tiles == 4 else 1,
        properties=properties,
        codec=codec,
    )
    assert colors_of(shown(path, tmp_path)) == wanted


@pytest.mark.parametrize(("name", "codec"), [HEIC, AVIF])
@pytest.mark.parametrize("tiles", [1, 4])
def test_exif_data_of_heif_do_not_turn_it(
    tmp_path: Path, name: str, codec: str, tiles: int
) -> None:
    """HEIF, 6.5.10: only its own properties do; cameras write both."""
    path = make_heif(
        tmp_path / name,
        FOUR[:tiles],
        columns=2 if tiles == 4 else 1,
        exif=exif_data(6),
        codec=codec,
    )
    info, _, _ = read(path)
    assert (info.rotation, info.hflip) == (0, False)
    assert info.exif is not None
    assert b"ACM" in info.exif


def test_profile_of_tiles_is_kept(tmp_path: Path) -> None:
    colour = box(b"colr", b"prof" + icc_profile())
    for name, codec in (HEIC, AVIF):
        for columns, pictures in ((1, FOUR[:1]), (2, FOUR)):
            path = make_heif(
                tmp_path / name, pictures, columns=columns, properties=[colour], codec=codec
            )
            assert read(path)[0].icc_profile == icc_profile()


def test_primaries_and_transfer_of_tiles_are_kept(tmp_path: Path) -> None:
    colour = box(b"colr", b"nclx" + bytes([0, 9, 0, 16, 0, 9, 0]))
    path = make_heif(tmp_path / "a.heic", FOUR, columns=2, properties=[colour])
    color = read(path)[0].color
    assert (color.primaries, color.trc) == ("bt2020", "smpte2084")


def test_tiles_of_ten_bits_keep_them_or_the_loss_is_said(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 64, 0).repeat(3, 2)
    path = make_heif(tmp_path / "a.heic", [ramp] * 4, columns=2, pix_fmt="yuv420p10le")
    info, _, warnings = read(path)
    assert (info.bit_depth, warnings) == (16, [])


@pytest.mark.parametrize(("name", "codec"), [HEIC, AVIF])
def test_heif_in_a_sequence_is_refused(tmp_path: Path, name: str, codec: str) -> None:
    """FFmpeg's demuxer of sequences reads none."""
    make_heif(tmp_path / name, FOUR[:1], codec=codec)
    with pytest.raises(UnsupportedMedia, match="read one by one, wanted PNG or JPEG"):
        open_source(str(tmp_path / f"*{Path(name).suffix}"))


def test_without_the_extra_only_what_ffmpeg_reads_whole_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    plain = make_heif(tmp_path / "plain.heic", FOUR[:1], exif=exif_data(6))
    assert read(plain)[0].width == 64
    tiled = make_heif(tmp_path / "tiled.heic", FOUR, columns=2)
    cropped = make_heif(tmp_path / "cropped.heic", FOUR[:1], properties=[aperture(32, 32)])
    needs = "is read by pillow-heif, which is not installed: pip install 'upframe\\[heif\\]'"
    for target, what in (
        (tiled, r"made of tiles \(grid\)"),
        (cropped, r"that is cropped \(clap\)"),
    ):
        with pytest.raises(UnsupportedMedia, match=f"a HEIC picture {what} {needs}"):
            open_source(str(target))


def test_tiles_from_a_stream_are_refused(tmp_path: Path) -> None:
    tiled = make_heif(tmp_path / "tiled.heic", FOUR, columns=2)
    with pytest.raises(UnsupportedMedia, match="a picture of 4 tiles, wanted it as a file"):
        open_source(BytesIO(tiled.read_bytes()))


def test_a_film_is_never_taken_for_a_still(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.heic", frames=3, format="mp4")
    assert find_target(str(clip)).still is None
    assert read(clip)[0].num_frames == 3


@pytest.mark.parametrize(("name", "codec"), [HEIC, AVIF])
def test_a_damaged_file_is_refused_with_a_reason(tmp_path: Path, name: str, codec: str) -> None:
    path = make_heif(tmp_path / name, FOUR, columns=2, codec=codec)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(TruncatedMedia, match=f"truncated: got {len(whole) - 20} of {len(whole)}"):
        read(path)
    start = whole.index(b"ipma")
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            read(path)
        except UnsupportedMedia:
            continue


def test_a_picture_above_the_limits_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_heif(tmp_path / "a.heic", FOUR, columns=2, shown=(60_000, 60_000))
    with pytest.raises(TooLargeMedia, match="got 60000x60000"):
        read(path)
    monkeypatch.setenv(VARIABLE, '{"width": 64, "height": 32}')
    webp = animation(tmp_path / "a.webp")
    with pytest.raises(TooLargeMedia, match="got 64x48"):
        read(webp)


# -------------------------------------------------------------------------------------- animations


def animation(
    path: Path, delays: tuple[int, ...] = (200, 500, 100), alpha: bool = True, size: int = 64
) -> Path:
    """Flat frames, each with less alpha than the one before; delays in milliseconds."""
    mode = "RGBA" if alpha else "RGB"
    frames = []
    for number in range(len(delays)):
        color = (255 - 20 * number, 60, 20 * number, 255 - 20 * number)[: len(mode)]
        frames.append(Image.new(mode, (size, size * 3 // 4), color))
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=list(delays),
        lossless=True,
        exact=True,
    )
    return path


def test_an_animated_webp_is_read_with_times_and_alpha(tmp_path: Path) -> None:
    info, pictures, warnings = read(animation(tmp_path / "a.webp"))
    assert (info.pix_fmt, info.num_frames, info.rate) == ("gbrap", 3, None)
    assert info.duration_seconds == Fraction(8, 10)
    times = [
        (picture.pts * picture.time_base, picture.duration * picture.time_base)
        for picture in pictures
    ]
    assert times == [
        (0, Fraction(1, 5)),
        (Fraction(1, 5), Fraction(1, 2)),
        (Fraction(7, 10), Fraction(1, 10)),
    ]
    alphas = [int(picture.alpha[5, 5]) for picture in pictures if picture.alpha is not None]
    assert alphas == [255, 235, 215]
    assert [int(picture.planes[0][5, 5]) for picture in pictures] == [255, 235, 215]
    assert warnings == []


def test_an_animated_webp_of_a_constant_rate_has_one(tmp_path: Path) -> None:
    info, pictures, _ = read(animation(tmp_path / "a.webp", delays=(40,) * 12, alpha=False))
    assert (info.pix_fmt, info.rate, len(pictures)) == ("gbrp", 25, 12)


def test_frames_that_cover_a_part_lie_on_those_before(tmp_path: Path) -> None:
    first = Image.new("RGB", (64, 48), (200, 0, 0))
    second = first.copy()
    second.paste((0, 0, 200), (0, 0, 8, 8))
    path = tmp_path / "a.webp"
    first.save(path, save_all=True, append_images=[second], duration=[100, 100], lossless=True)
    _, pictures, _ = read(path)
    values = [[int(plane[20, 20]) for plane in picture.planes] for picture in pictures]
    assert values == [[200, 0, 0], [200, 0, 0]]
    assert [int(plane[2, 2]) for plane in pictures[1].planes] == [0, 0, 200]


def test_a_frame_of_no_time_is_shown_as_browsers_show_it(tmp_path: Path) -> None:
    data = bytearray(animation(tmp_path / "a.webp").read_bytes())
    place = data.index(b"ANMF") + 8 + 12
    data[place : place + 3] = bytes(3)
    (tmp_path / "a.webp").write_bytes(data)
    _, pictures, _ = read(tmp_path / "a.webp")
    assert pictures[0].duration * pictures[0].time_base == Fraction(1, 10)


def test_an_animated_webp_above_the_limit_of_pillow_is_too_large(tmp_path: Path) -> None:
    data = bytearray(animation(tmp_path / "a.webp").read_bytes())
    data[24:30] = (15_999).to_bytes(3, "little") + (11_999).to_bytes(3, "little")
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(TooLargeMedia, match=r"a\.webp: too large for memory: .*pixels"):
        read(tmp_path / "a.webp")


def test_an_animated_webp_that_ends_early_is_truncated(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(TruncatedMedia, match=f"got {len(whole) - 30} of {len(whole)} bytes"):
        read(path)


@pytest.mark.parametrize("frame", [0, 2])
def test_an_animated_webp_with_a_damaged_frame_is_no_shorter_one(
    tmp_path: Path, frame: int
) -> None:
    path = animation(tmp_path / "a.webp")
    data = bytearray(path.read_bytes())
    place = data.index(b"VP8L") if frame == 0 else data.rindex(b"VP8L")
    data[place + 8 : place + 20] = b"\xff" * 12
    path.write_bytes(data)
    with pytest.raises((TruncatedMedia, UnsupportedMedia), match=r"damaged|decoded"):
        read(path)


def test_a_still_webp_is_read_by_ffmpeg_as_before(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    Image.new("RGBA", (64, 48), (9, 9, 9, 100)).save(
        path, icc_profile=icc_profile(), exif=exif_data(6)
    )
    assert find_target(str(path)).still is None
    info, _, _ = read(path)
    assert (info.rotation, info.icc_profile) == (270, icc_profile())
