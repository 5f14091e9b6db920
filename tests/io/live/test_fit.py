"""Frames of another form than the first one's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.io.live.fit import FrameFitter
from upframe.io.pictures.pixels import color_of, picture_of, set_tags

TV, PC = Color(range="tv"), Color(range="pc")
TIME_BASE = Fraction(1, 90_000)


def model(
    width: int = 64, height: int = 48, pix_fmt: str = "yuv420p", color: Color = TV
) -> StreamInfo:
    return StreamInfo(width, height, pix_fmt, TIME_BASE, color=color)


def flat(
    width: int, height: int, yuv: tuple[int, int, int], color: Color = TV, pix_fmt: str = "yuv420p"
) -> av.VideoFrame:
    """A frame of one colour, in 8-bit code values."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, yuv, strict=True):
        plane.update(np.full(plane.buffer_size, value, np.uint8))
    set_tags(frame, color)
    if pix_fmt != "yuv420p":
        frame = frame.reformat(format=pix_fmt)
        set_tags(frame, color)
    frame.pts, frame.time_base, frame.duration = 4500, TIME_BASE, 6000
    return frame


def fitted(fit: FrameFitter, frame: av.VideoFrame, pixels: Fraction | None = None) -> Picture:
    given = fit(frame, pixels)
    return picture_of(given, color_of(given), given.pts or 0, 0, TIME_BASE)


def test_a_frame_of_the_same_form_is_given_as_it_is() -> None:
    frame = flat(64, 48, (90, 100, 110))
    assert FrameFitter(model())(frame) is frame
    packed = flat(64, 48, (90, 100, 110), pix_fmt="nv12")
    assert FrameFitter(model())(packed) is packed  # becomes the same planes


def test_another_size_of_the_same_aspect_fills_the_picture() -> None:
    given = fitted(FrameFitter(model()), flat(128, 96, (90, 100, 110)))
    assert [plane.unique().tolist() for plane in given.planes] == [[90], [100], [110]]


def test_a_wider_frame_gets_bars_above_and_below() -> None:
    given = fitted(FrameFitter(model()), flat(128, 48, (90, 100, 110)))
    luma, blue = given.planes[0].numpy(), given.planes[1].numpy()
    assert luma.shape == (48, 64)
    assert (luma[:12] == 16).all()
    assert (luma[12:36] == 90).all()
    assert (luma[36:] == 16).all()
    assert (blue[:6] == 128).all()
    assert (blue[6:18] == 100).all()


def test_a_narrower_frame_gets_bars_at_the_sides() -> None:
    luma = fitted(FrameFitter(model()), flat(32, 48, (90, 100, 110))).planes[0].numpy()
    assert (luma[:, :16] == 16).all()
    assert (luma[:, 16:48] == 90).all()
    assert (luma[:, 48:] == 16).all()


def test_the_aspect_of_pixels_counts() -> None:
    """720x576 with pixels of 16:15 is 4:3, as the model is: no bars."""
    frame = flat(720, 576, (90, 100, 110))
    anamorphic = fitted(FrameFitter(model()), frame, Fraction(16, 15))
    assert (anamorphic.planes[0] == 90).all()
    square = fitted(FrameFitter(model()), frame).planes[0].numpy()
    assert (square[:, :2] == 16).all()


def test_pixels_of_the_model_count_too() -> None:
    wide = replace(model(), sample_aspect_ratio=Fraction(2))
    luma = fitted(FrameFitter(wide), flat(128, 96, (90, 100, 110))).planes[0].numpy()
    assert (luma[:, :16] == 16).all()
    assert (luma[:, 16:48] == 90).all()


def test_the_same_size_with_other_pixels_is_fitted() -> None:
    luma = fitted(FrameFitter(model()), flat(64, 48, (90, 100, 110)), Fraction(2)).planes[0].numpy()
    assert (luma[:12] == 16).all()
    assert (luma[12:36] == 90).all()


def test_the_range_of_values_becomes_the_models() -> None:
    full = fitted(FrameFitter(model(color=PC)), flat(64, 48, (16, 128, 128), TV))
    assert [plane.unique().tolist() for plane in full.planes] == [[0], [128], [128]]
    limited = fitted(FrameFitter(model(color=TV)), flat(64, 48, (255, 128, 128), PC))
    assert [plane.unique().tolist() for plane in limited.planes] == [[235], [128], [128]]


def test_the_matrix_becomes_the_models_where_both_are_known() -> None:
    hd, sd = Color("tv", matrix="bt709"), Color("tv", matrix="smpte170m")
    red = flat(64, 48, (81, 90, 240), sd)  # BT.601
    given = fitted(FrameFitter(model(color=hd)), red)
    values = [int(plane[20, 20]) for plane in given.planes]
    assert all(abs(got - want) <= 2 for got, want in zip(values, (63, 102, 240), strict=True))
    unknown = flat(64, 48, (81, 90, 240), Color("tv"))
    assert FrameFitter(model(color=hd))(unknown) is unknown


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "gbrp", "gray", "yuva420p"])
def test_another_pixel_format_becomes_the_models(pix_fmt: str) -> None:
    given = FrameFitter(model(pix_fmt=pix_fmt))(flat(128, 48, (126, 128, 128)))
    assert given.format.name == pix_fmt
    assert (given.width, given.height) == (64, 48)
    shown = picture_of(given, color_of(given), 0, 0, TIME_BASE)
    scale = 1 << (shown.planes[0].element_size() - 1) * 2  # 1 for 8 bits, 4 for 10
    middle, corner = int(shown.planes[0][24, 32]), int(shown.planes[0][0, 0])
    grey, black = (128, 0) if pix_fmt == "gbrp" else (126, 16)
    assert (abs(middle - grey * scale) <= 2 * scale, corner) == (True, black * scale)
    assert shown.alpha is None or (shown.alpha == 255).all()


@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "rgb24", "yuyv422", "nv12"])
def test_what_cameras_send_is_taken(pix_fmt: str) -> None:
    color = PC if pix_fmt == "yuvj420p" else TV
    frame = flat(160, 90, (126, 128, 128), color, pix_fmt)
    given = fitted(FrameFitter(model()), frame)
    assert (given.pix_fmt, given.color.range) == ("yuv420p", "tv")
    assert abs(int(given.planes[0][24, 32]) - 126) <= 2


def test_odd_sizes_are_filled() -> None:
    given = fitted(FrameFitter(model(63, 47)), flat(200, 80, (90, 100, 110)))
    assert [tuple(plane.shape) for plane in given.planes] == [(47, 63), (24, 32), (24, 32)]
    assert int(given.planes[0][0, 0]) == 16
    assert int(given.planes[0][23, 31]) == 90


def test_times_stay() -> None:
    given = FrameFitter(model())(flat(128, 48, (90, 100, 110)))
    assert (given.pts, given.time_base, given.duration) == (4500, TIME_BASE, 6000)
