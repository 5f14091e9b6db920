"""Where the components of packed, semi-planar and big-endian pixel formats lie in memory.

One table entry names the planar format that holds the same values and says, for each of its planes,
which memory to read: as FFmpeg's own AVComponentDescriptor does, whose fields PyAV does not
show. No value is scaled, but for RGB of 2 to 6 bits, which becomes the nearest of 8.

Source: FFmpeg 8, libavutil/pixfmt.h, the comments of enum AVPixelFormat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


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
class Packing:
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

# Elements in memory order; x is padding. Several Y belong to several pixels.
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


def is_native(name: str) -> bool:
    """Tell whether a format is one that a Picture holds as it is."""
    return _NATIVE.match(name) is not None


@cache
def packing_of(name: str) -> Packing | None:
    """Find out how to unpack a format; None if this table does not know it."""
    stem, endian = (name[:-2], name[-2:]) if name.endswith(("le", "be")) else (name, "le")
    order = "<" if endian == "le" else ">"
    if name in _BYTES:
        return _interleaved(_BYTES[name], 8, "u1")
    if stem in _WORDS:
        return _interleaved(*_WORDS[stem], f"{order}u2")
    if stem in _FIELDS:
        size, fields, pix_fmt = _FIELDS[stem]
        return Packing(
            pix_fmt,
            f"{order}u{size}",
            tuple(Component(0, 0, 1, shift, bits) for shift, bits in fields),
        )
    if stem in _NV:
        pix_fmt, chroma, size = _NV[stem]
        return Packing(pix_fmt, f"{order}u{size}", tuple(_semi_planar(chroma, 0)))
    if match := _SEMI_PLANAR.match(name):
        depth = int(match["depth"])
        return Packing(
            f"yuv{_HALF[match['chroma']]}p{depth}le",
            f"{order}u2",
            tuple(_semi_planar("UV", 16 - depth)),
        )
    return _planar(name, order)


def _interleaved(letters: str, depth: int, dtype: str) -> Packing:
    alpha = "a" if "A" in letters else ""
    suffix = "" if depth == 8 else f"{depth}le"
    if "U" not in letters:  # RGB, or gray with alpha, which only RGB planes can hold
        pix_fmt = f"gbr{alpha}p{suffix}"
        wanted = "RGB" if "R" in letters else "YYY"
    else:
        pix_fmt = f"yuv{alpha}{'422' if letters.count('Y') == 2 else '444'}p{suffix}"
        wanted = "YUV"
    shift = 0 if depth == 8 else 16 - depth
    return Packing(
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


def _planar(name: str, order: str) -> Packing | None:
    """Planar formats of the other byte order, or with their values in the high bits."""
    match = _PLANAR.match(name)
    if match is None:
        return None
    depth = int(match["depth"] or 8)
    pix_fmt = match["family"] + (f"{depth}le" if depth > 8 else "")
    if not is_native(pix_fmt):
        return None
    shift = 16 - depth if match["msb"] else 0
    planes = (2, 0, 1, 3) if "gbr" in name else (0, 1, 2, 3)  # FFmpeg keeps G, B, R
    count = 1 if name.startswith("gray") else 4 if "a" in match["family"] else 3
    return Packing(
        pix_fmt,
        "u1" if depth == 8 else f"{order}u2",
        tuple(Component(plane, 0, 1, shift) for plane in planes[:count]),
    )
