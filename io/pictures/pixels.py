"""PyAV's frames ⇄ pictures: every pixel format to planes and back, bit for bit, one copy a plane.

The decoder reuses its frame's memory, so planes are copied out of it; rows in it are padded, and
may run from bottom to top. Nothing here goes through FFmpeg's scaler, which rounds and guesses.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
import torch

from ...filters.frame import Color, Picture, PixelFormat
from ..errors import UnsupportedMedia
from .cards import can_stay, on_cpu, pix_fmt_of, planes_on_card
from .packing import Component, is_native, packing_of
from .tags import set_tags

Array = npt.NDArray[Any]

# Chroma sampled in ways that planar_pix_fmt's formats do not have: doubled along (rows, columns).
_DOUBLED = {
    "yuv411p": ("yuv422p", (False, True)),
    "yuv410p": ("yuv420p", (True, True)),
    "yuv440p": ("yuv444p", (True, False)),
    "yuv440p10le": ("yuv444p10le", (True, False)),
    "yuv440p12le": ("yuv444p12le", (True, False)),
}
_SPECIAL = {"pal8": "gbrap", "monow": "gray", "monob": "gray"}


def planar_pix_fmt(name: str) -> str:
    """Name the planar format that holds a format of FFmpeg's without loss.

    Raises:
        UnsupportedMedia: if there is none: floats, hardware frames, Bayer and XYZ data.
    """
    name = _canonical(name)
    if is_native(name):
        return name
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name in _DOUBLED:
        return _DOUBLED[name][0]
    packing = packing_of(name)
    if packing is None:
        raise UnsupportedMedia(
            f"pixel format must be YUV, RGB, gray or a palette of 8 to 16 bit integers, got {name}"
        )
    return packing.pix_fmt


def conversion_warning(name: str) -> str | None:
    """Say that a format is kept in another that needs more chroma samples; None if it is not."""
    name = _canonical(name)
    if name not in _DOUBLED:
        return None
    return f"chroma of {name} is interpolated once to {_DOUBLED[name][0]}'s"


def _canonical(name: str) -> str:
    """FFmpeg's own spelling of a format, ``yuvj`` and aliases resolved."""
    try:
        name = av.VideoFormat(name).name
    except ValueError as error:
        raise UnsupportedMedia(f"pixel format must be one of FFmpeg's, got {name!r}") from error
    return name.replace("yuvj", "yuv", 1)


def picture_of(
    frame: av.VideoFrame, color: Color, pts: int, duration: int, time_base: Fraction
) -> Picture:
    """Copy a decoded frame into planes of :func:`planar_pix_fmt`.

    Args:
        frame: any frame; not kept. The planes of one on a card lie on the card.
        color: the picture's tags; a ``yuvj`` format makes an unspecified range full.
        pts: in ticks of `time_base`.
        duration: in ticks of `time_base`; 0 if unknown.
        time_base: seconds a tick.

    Raises:
        UnsupportedMedia: if there is no planar format for it.
    """
    pix_fmt = planar_pix_fmt(pix_fmt_of(frame))
    if frame.format.name.startswith("yuvj") and color.range is None:
        color = replace(color, range="pc")
    if can_stay(frame):
        planes = planes_on_card(frame)
    else:
        planes = [torch.as_tensor(plane) for plane in _planes_of(on_cpu(frame), color)]
    alpha = planes.pop() if PixelFormat.parse(pix_fmt).has_alpha else None
    return Picture(
        tuple(planes),
        pix_fmt,
        color,
        pts,
        duration,
        time_base,
        alpha=alpha,
        interlaced=frame.interlaced_frame,
    )


def frame_of(picture: Picture) -> av.VideoFrame:
    """Copy a picture into a new frame, with its tags, pts, duration and time base.

    Raises:
        UnsupportedMedia: if FFmpeg has no such pixel format.
    """
    pix_fmt = _canonical(picture.pix_fmt)
    form = PixelFormat.parse(pix_fmt)
    frame = av.VideoFrame(picture.width, picture.height, pix_fmt)
    order = (2, 0, 1) if form.family == "rgb" else range(form.num_planes)  # FFmpeg: G, B, R
    for index, plane in zip(order, picture.planes, strict=True):
        _rows(frame, index, plane.numpy().dtype)[:, : plane.shape[1]] = plane.numpy()
    if picture.alpha is not None:
        alpha = picture.alpha.numpy()
        _rows(frame, form.num_planes, alpha.dtype)[:, : alpha.shape[1]] = alpha
    set_tags(frame, picture.color)
    frame.pts = picture.pts
    frame.duration = picture.duration
    frame.time_base = picture.time_base
    return frame


def _planes_of(frame: av.VideoFrame, color: Color) -> list[Array]:
    """Copies of a frame's components in a picture's order, contiguous, uint8 or uint16."""
    name = _canonical(frame.format.name)
    if name == "pal8":
        return _colours_of_palette(frame)
    if name in ("monow", "monob"):
        bits = np.unpackbits(_rows(frame, 0, "u1"), axis=1)[:, : frame.width]
        return [(bits * np.uint8(255)) ^ np.uint8(255 if name == "monow" else 0)]
    if name in _DOUBLED:
        return _doubled_chroma(frame, name, color)
    packing = packing_of(name)
    if packing is None:
        raise UnsupportedMedia(f"pixel format {name} has no planar equivalent")
    form = PixelFormat.parse(packing.pix_fmt)
    sizes = [form.plane_size(frame.width, frame.height, index) for index in range(3)]
    return [
        _component(_rows(frame, component.plane, packing.dtype), component, size, form.bit_depth)
        for component, size in zip(packing.components, (*sizes, sizes[0]), strict=False)
    ]


def _rows(frame: av.VideoFrame, index: int, dtype: npt.DTypeLike) -> Array:
    """View a plane's memory, padding included, top row first: (height, elements of a line)."""
    plane = frame.planes[index]
    memory = np.frombuffer(cast("bytes", plane), dtype)
    rows = memory.reshape(plane.height, -1)
    return rows if plane.line_size >= 0 else rows[::-1]


def _component(rows: Array, component: Component, size: tuple[int, int], bit_depth: int) -> Array:
    """Copy one component out of rows of memory; fewer than 8 bits become the nearest of 8."""
    width, height = size
    values = rows[:height, component.first :: component.step][:, :width]
    dtype = np.uint8 if bit_depth == 8 else np.uint16
    if component.shift:
        values = values >> component.shift
    if component.bits < 16:
        values = values & ((1 << component.bits) - 1)
    if component.bits < 8:
        top = (1 << component.bits) - 1
        values = (values.astype(np.uint16) * 255 + top // 2) // top
    return np.array(values, dtype, order="C")


def _colours_of_palette(frame: av.VideoFrame) -> list[Array]:
    palette = np.frombuffer(cast("bytes", frame.planes[1]), np.uint32)  # A, R, G, B from the top
    indices = _rows(frame, 0, "u1")[:, : frame.width]
    return [(palette >> shift).astype(np.uint8)[indices] for shift in (16, 8, 0, 24)]


def _doubled_chroma(frame: av.VideoFrame, name: str, color: Color) -> list[Array]:
    pix_fmt, (rows, columns) = _DOUBLED[name]
    form = PixelFormat.parse(pix_fmt)
    dtype = "u1" if form.bit_depth == 8 else "<u2"
    planes: list[Array] = []
    for index, plane in enumerate(frame.planes):
        values = _rows(frame, index, dtype)[:, : plane.width].astype(dtype)
        if index and rows:
            values = _doubled(values, between=True)
        if index and columns:
            between = color.chroma_location in ("center", "top", "bottom")
            values = _doubled(values.T, between=between).T
        width, height = form.plane_size(frame.width, frame.height, index)
        planes.append(np.array(values[:height, :width], order="C"))
    return planes


def _doubled(values: Array, *, between: bool) -> Array:
    """Twice the rows, linearly: samples stay where they are, or move apart if they lie between."""
    wide = values.astype(np.uint32)
    before = np.concatenate((wide[:1], wide[:-1]))
    after = np.concatenate((wide[1:], wide[-1:]))
    pair = (
        ((before + 3 * wide + 2) // 4, (3 * wide + after + 2) // 4)
        if between
        else (wide, (wide + after + 1) // 2)
    )
    return np.stack(pair, 1).reshape(-1, values.shape[1]).astype(values.dtype)
