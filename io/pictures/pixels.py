"""PyAV's frames ⇄ pictures: every pixel format to planes and back, bit for bit, one copy a plane.

The decoder reuses a frame's memory, so planes are copied out of it; its rows are padded, and may
run from bottom to top. FFmpeg's scaler, which rounds and guesses, is not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any, Final, Literal, cast

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from ...filters.frame import Color, Picture, PixelFormat
from ..errors import UnsupportedMedia

# Where the components of packed, semi-planar and big-endian pixel formats lie in memory.
#
# A table entry names the planar format that holds the same values and, for each of its planes, the
# memory to read, like FFmpeg's AVComponentDescriptor, which PyAV does not expose. No value is
# scaled, except RGB of 2 to 6 bits, which becomes the nearest of 8 bits.
#
# Source: FFmpeg 8, libavutil/pixfmt.h, the comments of enum AVPixelFormat.


@dataclass(frozen=True, slots=True)
class Component:
    """One colour component: elements `first`, `first` + `step`, … of every row of a plane."""

    plane: int
    first: int
    step: int
    shift: int = 0
    """Bits to drop from the right of an element."""
    bits: int = 16
    """Bits to keep after that."""


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How a pixel format's memory becomes the planes of a planar one."""

    pix_fmt: str
    """The planar format."""
    dtype: str
    """Of one element of memory, as numpy writes it: ``u1``, ``<u2``, ``>u2``, ``<u4``, …"""
    components: tuple[Component, ...]
    """Y, U, V or R, G, B or Y, then alpha: in the order of a Picture."""


_NATIVE = re.compile(
    r"(yuv(420|422|444)p|gbrp|gray)((9|10|12|14|16)le)?$"
    r"|yuva(420|422|444)p((9|10|12|16)le)?$|gbrap((10|12|14|16)le)?$"
)
_PLANAR = re.compile(
    r"(?P<family>yuva?(?:4[0-4]{2}p)|gbra?p|gray)"
    r"(?P<depth>9|10|12|14|16)?(?P<msb>msb)?(?P<endian>le|be)?$"
)
_SEMI_PLANAR = re.compile(r"p(?P<chroma>[024])(?P<depth>10|12|16)(?P<endian>le|be)$")
_HALF = {"0": "420", "2": "422", "4": "444"}

# Elements in memory order; x is padding. Each of several Y is a pixel of its own.
_BYTES = {
    "rgb24": "RGB", "bgr24": "BGR", "rgba": "RGBA", "bgra": "BGRA", "argb": "ARGB",
    "abgr": "ABGR", "rgb0": "RGBx", "bgr0": "BGRx", "0rgb": "xRGB", "0bgr": "xBGR",
    "ya8": "YA", "ayuv": "AYUV", "uyva": "UYVA", "vuya": "VUYA", "vuyx": "VUYx",
    "vyu444": "VYU", "yuyv422": "YUYV", "uyvy422": "UYVY", "yvyu422": "YVYU",
}  # fmt: skip
# The same for elements of 16 bits: (order, bit depth); the values are in the high bits.
_WORDS = {
    "rgb48": ("RGB", 16), "bgr48": ("BGR", 16), "rgba64": ("RGBA", 16), "bgra64": ("BGRA", 16),
    "ya16": ("YA", 16), "ayuv64": ("AYUV", 16), "xv36": ("UYVx", 12), "xv48": ("UYVx", 16),
    "y210": ("YUYV", 10), "y212": ("YUYV", 12), "y216": ("YUYV", 16),
}  # fmt: skip
# One element a pixel: (bytes, (shift, bits) of each component in a Picture's order, planar format).
_FIELDS = {
    "rgb565": (2, ((11, 5), (5, 6), (0, 5)), "gbrp"),
    "bgr565": (2, ((0, 5), (5, 6), (11, 5)), "gbrp"),
    "rgb555": (2, ((10, 5), (5, 5), (0, 5)), "gbrp"),
    "bgr555": (2, ((0, 5), (5, 5), (10, 5)), "gbrp"),
    "rgb444": (2, ((8, 4), (4, 4), (0, 4)), "gbrp"),
    "bgr444": (2, ((0, 4), (4, 4), (8, 4)), "gbrp"),
    "rgb8": (1, ((5, 3), (2, 3), (0, 2)), "gbrp"),
    "bgr8": (1, ((0, 3), (3, 3), (6, 2)), "gbrp"),
    "rgb4_byte": (1, ((3, 1), (1, 2), (0, 1)), "gbrp"),
    "bgr4_byte": (1, ((0, 1), (1, 2), (3, 1)), "gbrp"),
    "x2rgb10": (4, ((20, 10), (10, 10), (0, 10)), "gbrp10le"),
    "x2bgr10": (4, ((0, 10), (10, 10), (20, 10)), "gbrp10le"),
    "xv30": (4, ((10, 10), (0, 10), (20, 10)), "yuv444p10le"),
    "v30x": (4, ((12, 10), (2, 10), (22, 10)), "yuv444p10le"),
}
_NV = {
    "nv12": ("yuv420p", "UV", 1), "nv21": ("yuv420p", "VU", 1), "nv16": ("yuv422p", "UV", 1),
    "nv24": ("yuv444p", "UV", 1), "nv42": ("yuv444p", "VU", 1), "nv20": ("yuv422p10le", "UV", 2),
}  # fmt: skip


@cache
def layout_of(name: str) -> PixelLayout | None:
    """Return how to unpack a format; None if it is unknown."""
    stem, endian = (name[:-2], name[-2:]) if name.endswith(("le", "be")) else (name, "le")
    order = "<" if endian == "le" else ">"
    if name in _BYTES:
        return _interleaved(_BYTES[name], 8, "u1")
    if stem in _WORDS:
        return _interleaved(*_WORDS[stem], f"{order}u2")
    if stem in _FIELDS:
        size, fields, pix_fmt = _FIELDS[stem]
        return PixelLayout(
            pix_fmt,
            f"{order}u{size}",
            tuple(Component(0, 0, 1, shift, bits) for shift, bits in fields),
        )
    if stem in _NV:
        pix_fmt, chroma, size = _NV[stem]
        return PixelLayout(pix_fmt, f"{order}u{size}", tuple(_semi_planar(chroma, 0)))
    if match := _SEMI_PLANAR.match(name):
        depth = int(match["depth"])
        return PixelLayout(
            f"yuv{_HALF[match['chroma']]}p{depth}le",
            f"{order}u2",
            tuple(_semi_planar("UV", 16 - depth)),
        )
    return _planar(name, order)


def _interleaved(letters: str, depth: int, dtype: str) -> PixelLayout:
    alpha = "a" if "A" in letters else ""
    suffix = "" if depth == 8 else f"{depth}le"
    if "U" not in letters:  # RGB, or gray with alpha, which only RGB planes can hold
        pix_fmt = f"gbr{alpha}p{suffix}"
        wanted = "RGB" if "R" in letters else "YYY"
    else:
        pix_fmt = f"yuv{alpha}{'422' if letters.count('Y') == 2 else '444'}p{suffix}"
        wanted = "YUV"
    shift = 0 if depth == 8 else 16 - depth
    return PixelLayout(
        pix_fmt,
        dtype,
        tuple(
            Component(0, letters.index(letter), len(letters) // letters.count(letter), shift)
            for letter in (*wanted, *alpha.upper())
        ),
    )


def _semi_planar(chroma: str, shift: int) -> Iterator[Component]:
    yield Component(0, 0, 1, shift)
    for letter in "UV":
        yield Component(1, chroma.index(letter), 2, shift)


def _planar(name: str, order: str) -> PixelLayout | None:
    """Planar formats of the other byte order, or with their values in the high bits."""
    if (match := _PLANAR.match(name)) is None:
        return None
    depth = int(match["depth"] or 8)
    pix_fmt = match["family"] + (f"{depth}le" if depth > 8 else "")
    if not _NATIVE.match(pix_fmt):
        return None
    shift = 16 - depth if match["msb"] else 0
    planes = (2, 0, 1, 3) if "gbr" in name else (0, 1, 2, 3)  # FFmpeg keeps G, B, R
    count = 1 if name.startswith("gray") else 4 if "a" in match["family"] else 3
    return PixelLayout(
        pix_fmt,
        "u1" if depth == 8 else f"{order}u2",
        tuple(Component(plane, 0, 1, shift) for plane in planes[:count]),
    )


_SHIFT = {"nv12": 0, "p010le": 6}
"""Pixel formats of frames on an NVIDIA card (`decode.decoder`), and the bits below the value."""


def is_on_card(frame: VideoFrame) -> bool:
    """Return whether a frame's pixels are on a card."""
    return frame.format.name == "cuda"


def pix_fmt_of(frame: VideoFrame) -> str:
    """Return the pixel format of a frame, also on a card: ``nv12`` there."""
    format_on_card = frame.sw_format if is_on_card(frame) else None
    return frame.format.name if format_on_card is None else format_on_card.name


def form_of(frame: VideoFrame) -> tuple[int, int, str]:
    """Return width, height and pixel format of a frame, wherever it is."""
    return frame.width, frame.height, pix_fmt_of(frame)


def matrix_of(frame: VideoFrame) -> int | None:
    """Return the matrix of a frame for swscale; None where it names none (RGB, unspecified)."""
    return None if frame.colorspace in (0, UNSPECIFIED) else int(frame.colorspace)


def on_cpu(frame: VideoFrame) -> VideoFrame:
    """Copy a frame to the CPU's memory, if it is on a card."""
    if not is_on_card(frame):
        return frame
    brought = frame.reformat(format=pix_fmt_of(frame))
    brought.pts = frame.pts
    return brought


def planes_on_card(frame: VideoFrame) -> list[Tensor]:
    """Copy Y, U and V out of a frame on a card: (H, W) each, uint8 or uint16, on the same card.

    The copies are complete when this returns: the decoder reuses the frame's memory.
    """
    shift = _SHIFT[pix_fmt_of(frame)]
    # a capsule, since PyAV knows no streams, and torch would pass one
    luma, chroma = (
        torch.from_dlpack(plane.__dlpack__())  # pyright: ignore[reportUnknownMemberType]
        for plane in frame.planes[:2]
    )
    planes = [_values(part, shift) for part in (luma, chroma[..., 0], chroma[..., 1])]
    # FFmpeg decodes on the default stream, so the copies on it come after that; filters compute on
    # another one, for which this does not wait
    if luma.is_cuda:
        torch.cuda.current_stream(luma.device).synchronize()
    return planes


def _values(words: Tensor, shift: int) -> Tensor:
    """Copy code values into new memory; torch cannot shift uint16, so shift as int32."""
    if not shift:
        return words.clone(memory_format=torch.contiguous_format)
    return ((words.to(torch.int32) & 0xFFFF) >> shift).to(torch.uint16)


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
    """Return the planar format that holds one of FFmpeg's formats without loss.

    Raises:
        UnsupportedMedia: for floats, hardware frames, Bayer and XYZ data.
    """
    name = canonical_pix_fmt(name)
    if _NATIVE.match(name):
        return name
    if name in _SPECIAL:
        return _SPECIAL[name]
    if name in _DOUBLED:
        return _DOUBLED[name][0]
    if (layout := layout_of(name)) is None:
        raise UnsupportedMedia(
            f"pixel format must be YUV, RGB, gray or a palette of 8 to 16 bit integers, got {name}"
        )
    return layout.pix_fmt


def conversion_warning(name: str) -> str | None:
    """Return a warning if a format is stored in one with more chroma samples; else None."""
    name = canonical_pix_fmt(name)
    if name not in _DOUBLED:
        return None
    return f"chroma of {name} is interpolated once to {_DOUBLED[name][0]}'s"


def canonical_pix_fmt(name: str) -> str:
    """Return FFmpeg's own spelling of a format: byte order added, ``yuvj`` and aliases resolved.

    Raises:
        UnsupportedMedia: if FFmpeg has no such format.
    """
    try:
        name = av.VideoFormat(name).name
    except ValueError as error:
        raise UnsupportedMedia(f"pixel format must be one of FFmpeg's, got {name!r}") from error
    return name.replace("yuvj", "yuv", 1)


def picture_of(
    frame: av.VideoFrame, color: Color, pts: int, duration: int, time_base: Fraction
) -> Picture:
    """Copy a decoded frame into planes of :func:`planar_pix_fmt`, those of one on a card there.

    The frame is not kept; its `opaque` is a list of its T.35 messages, if it has some. A ``yuvj``
    format makes an unspecified range full. Times are in ticks of `time_base` seconds; a duration of
    0 is unknown.

    Raises:
        UnsupportedMedia: if there is no planar format for it.
    """
    pix_fmt = planar_pix_fmt(pix_fmt_of(frame))
    if frame.format.name.startswith("yuvj") and color.range is None:
        color = replace(color, range="pc")
    if is_on_card(frame) and pix_fmt_of(frame) in _SHIFT:
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
        t35=tuple(cast("list[bytes]", frame.opaque or [])),
    )


def without_alpha(picture: Picture) -> Picture:
    """Return the same picture in the format without alpha."""
    return replace(picture, pix_fmt=opaque_pix_fmt(picture.pix_fmt), alpha=None)


def opaque_pix_fmt(name: str) -> str:
    """Return the planar format that differs only in that it has no alpha."""
    return name.replace("yuva", "yuv", 1).replace("gbrap", "gbrp", 1)


def is_transparent(frame: av.VideoFrame) -> bool:
    """Return whether a pixel of a frame is not opaque."""
    name = canonical_pix_fmt(pix_fmt_of(frame))
    form = PixelFormat.parse(planar_pix_fmt(name))
    if not form.has_alpha:
        return False
    if name == "pal8":
        alpha = _colours_of_palette(frame)[3]
    else:
        layout = layout_of(name)
        assert layout is not None  # else it would have no planar format
        component = layout.components[-1]
        rows = rows_of(frame, component.plane, layout.dtype)
        alpha = _component(rows, component, (frame.width, frame.height), form.bit_depth)
    return int(alpha.min()) < (1 << form.bit_depth) - 1


def black_frame(width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    """Make a frame whose code values are all 0, with pts 0."""
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    return frame


def frame_of(picture: Picture) -> av.VideoFrame:
    """Copy a picture into a new frame, with its tags, T.35 messages, pts, duration and time base.

    Raises:
        UnsupportedMedia: if FFmpeg has no such pixel format.
    """
    pix_fmt = canonical_pix_fmt(picture.pix_fmt)
    form = PixelFormat.parse(pix_fmt)
    frame = av.VideoFrame(picture.width, picture.height, pix_fmt)
    order = (2, 0, 1) if form.family == "rgb" else range(form.num_planes)  # FFmpeg: G, B, R
    for index, plane in zip(order, picture.planes, strict=True):
        rows_of(frame, index, plane.numpy().dtype)[:, : plane.shape[1]] = plane.numpy()
    if picture.alpha is not None:
        alpha = picture.alpha.numpy()
        rows_of(frame, form.num_planes, alpha.dtype)[:, : alpha.shape[1]] = alpha
    set_tags(frame, picture.color)
    frame.pts = picture.pts
    frame.duration = picture.duration
    frame.time_base = picture.time_base
    if picture.t35:
        frame.opaque = list(picture.t35)  # a list of its own: PyAV counts no references to it
    return frame


def _planes_of(frame: av.VideoFrame, color: Color) -> list[Array]:
    """Copies of a frame's components in a picture's order, contiguous, uint8 or uint16."""
    name = canonical_pix_fmt(frame.format.name)
    if name == "pal8":
        return _colours_of_palette(frame)
    if name in ("monow", "monob"):
        bits = np.unpackbits(rows_of(frame, 0, "u1"), axis=1)[:, : frame.width]
        return [(bits * np.uint8(255)) ^ np.uint8(255 if name == "monow" else 0)]
    if name in _DOUBLED:
        return _doubled_chroma(frame, name, color)
    if (layout := layout_of(name)) is None:
        raise UnsupportedMedia(f"pixel format {name} has no planar equivalent")
    form = PixelFormat.parse(layout.pix_fmt)
    sizes = [form.plane_size(frame.width, frame.height, index) for index in range(3)]
    return [
        _component(rows_of(frame, component.plane, layout.dtype), component, size, form.bit_depth)
        for component, size in zip(layout.components, (*sizes, sizes[0]), strict=False)
    ]


def rows_of(frame: av.VideoFrame, index: int, dtype: npt.DTypeLike) -> Array:
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
    indices = rows_of(frame, 0, "u1")[:, : frame.width]
    return [(palette >> shift).astype(np.uint8)[indices] for shift in (16, 8, 0, 24)]


def _doubled_chroma(frame: av.VideoFrame, name: str, color: Color) -> list[Array]:
    pix_fmt, (rows, columns) = _DOUBLED[name]
    form = PixelFormat.parse(pix_fmt)
    dtype = "u1" if form.bit_depth == 8 else "<u2"
    planes: list[Array] = []
    for index, plane in enumerate(frame.planes):
        values = rows_of(frame, index, dtype)[:, : plane.width].astype(dtype)
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


# FFmpeg's numbers for colour ⇄ the names that a Color carries.
#
# Source: ITU-T H.273 (07/2024), tables 2 to 4; the names are those of FFmpeg's pixdesc.c, which its
# command line and ffprobe use.

UNSPECIFIED: Final = 2  # for primaries, trc and matrix; the range's is 0
RANGES: Final[dict[int, Literal["tv", "pc"]]] = {1: "tv", 2: "pc"}
PRIMARIES: Final = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020",
    10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213", 256: "vgamut",
}  # fmt: skip
TRANSFERS: Final = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear",
    9: "log100", 10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1",
    14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
    256: "vlog",
}  # fmt: skip
MATRICES: Final = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc",
    13: "chroma-derived-c", 14: "ictcp", 15: "ipt-c2", 16: "ycgco-re", 17: "ycgco-ro",
}  # fmt: skip

_RANGE_NUMBERS: Final = {name: number for number, name in RANGES.items()}
_PRIMARY_NUMBERS: Final = {name: number for number, name in PRIMARIES.items()}
_TRANSFER_NUMBERS: Final = {name: number for number, name in TRANSFERS.items()}
_MATRIX_NUMBERS: Final = {name: number for number, name in MATRICES.items()}


def color_of(tagged: av.VideoFrame | av.VideoCodecContext) -> Color:
    """Read the tags of a frame or a codec; a number without a name counts as unspecified.

    A ``yuvj`` format means full range even without a tag. The chroma location is None: PyAV does
    not show it.
    """
    pix_fmt = tagged.format.name if tagged.format is not None else ""
    return Color(
        range="pc" if pix_fmt.startswith("yuvj") else RANGES.get(int(tagged.color_range)),
        primaries=PRIMARIES.get(int(tagged.color_primaries)),
        trc=TRANSFERS.get(int(tagged.color_trc)),
        matrix=MATRICES.get(int(tagged.colorspace)),
    )


def color_of_stream(stream: VideoStream, first: VideoFrame) -> Color:
    """Read each tag from the first frame, or from the stream where the frame does not say."""
    frame, other = color_of(first), color_of(stream.codec_context)
    shown = frame.range or other.range, frame.primaries or other.primaries
    return Color(*shown, frame.trc or other.trc, frame.matrix or other.matrix)


def set_tags(tagged: av.VideoFrame | av.VideoCodecContext, color: Color) -> None:
    """Write range, primaries, transfer and matrix; a name without a number becomes unspecified."""
    tagged.color_range = _RANGE_NUMBERS.get(color.range or "", 0)
    tagged.color_primaries = _PRIMARY_NUMBERS.get(color.primaries or "", UNSPECIFIED)
    tagged.color_trc = _TRANSFER_NUMBERS.get(color.trc or "", UNSPECIFIED)
    tagged.colorspace = _MATRIX_NUMBERS.get(color.matrix or "", UNSPECIFIED)


def set_color(codec_context: av.VideoCodecContext, color: Color) -> None:
    """Set an encoder's tags, chroma location included; before its first frame.

    The frames need the tags as well (ProRes reads them there): `frame_of` sets them. PyAV has no
    attribute for the chroma location, so FFmpeg's option ``chroma_sample_location`` is added to
    ``codec_context.options``: assigning options later would drop it.
    """
    set_tags(codec_context, color)
    if color.chroma_location is not None:
        location = {"chroma_sample_location": color.chroma_location}
        codec_context.options = {**codec_context.options, **location}
