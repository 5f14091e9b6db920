"""Matrix coefficients, ranges and bit depths between code values and R'G'B'.

Unspecified values are guessed as players do: BT.601 for SD, BT.709 for HD, limited range
for YUV, full range for RGB and for gray alone (as FFmpeg's scaler does). The guess is for
arithmetic; tags stay as they are, unless the output's size would make a player guess another.

Source: ITU-T H.273 (07/2024), 8.3: equations 31 to 53 (scaling, luma and chroma from kr and kb).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UnsupportedPixels
from ..frame import Color, PixelFormat, StreamInfo

MAX_SD_WIDTH = 1024  # pixels
MAX_SD_HEIGHT = 576  # pixels

_KR_KB = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
_YCGCO = ((0.25, 0.5, 0.25), (-0.25, 0.5, -0.25), (0.5, 0.0, -0.5))


def arithmetic_matrix(color: Color, width: int, height: int) -> str:
    """Name the matrix to compute YUV with: the tagged one, else by size as players guess.

    Up to 1024x576 is SD and means ``smpte170m`` (or ``bt470bg``, the same numbers, for 576 lines
    or primaries of that name). The tag ``gbr`` is wrong for YUV, so it is guessed too.
    """
    if color.matrix not in (None, "gbr"):
        return color.matrix
    if width > MAX_SD_WIDTH or height > MAX_SD_HEIGHT:
        return "bt709"
    if color.primaries in ("bt470bg", "smpte170m"):
        return color.primaries
    return "bt470bg" if height == MAX_SD_HEIGHT else "smpte170m"


def arithmetic_range(color: Color, form: PixelFormat) -> Literal["tv", "pc"]:
    """Name the range to compute with: the tagged one, else ``tv`` for YUV and ``pc`` for others."""
    return color.range or ("tv" if form.family == "yuv" else "pc")


def output_color(info: StreamInfo, width: int, height: int, pix_fmt: str | None = None) -> Color:
    """Choose the tags of an output made from a stream.

    They are the stream's own, with two exceptions. Where its matrix is unspecified and a player
    would guess another one from the output's size, the matrix that was used is named. Where RGB
    becomes YUV or the reverse, or colour becomes gray (which FFmpeg always treats as full range),
    matrix and range are named explicitly. `width` and `height` are the output's, in pixels; so is
    `pix_fmt`, the stream's own if None.
    """
    color = info.color
    source = info.format.family
    target = PixelFormat.parse(pix_fmt).family if pix_fmt else source
    if target == "rgb" and source != "rgb":
        return replace(color, matrix="gbr", range="pc", chroma_location=None)
    if target == "yuv" and source == "rgb":
        unspecified = replace(color, matrix=None, chroma_location=None)
        return replace(
            unspecified, range="tv", matrix=arithmetic_matrix(unspecified, width, height)
        )
    if target == "gray" and source != "gray":
        color = replace(color, range="pc", chroma_location=None)
    if target == "rgb" or source != "yuv" or color.matrix not in (None, "gbr"):
        return color
    used = arithmetic_matrix(color, info.width, info.height)
    guessed = arithmetic_matrix(color, width, height)
    return color if _KR_KB[used] == _KR_KB[guessed] else replace(color, matrix=used)


def matrix_warning(info: StreamInfo, color: Color) -> str | None:
    """Warn that :func:`output_color` named a matrix that the stream left open, else None."""
    if info.format.family != "yuv" or color.matrix in (info.color.matrix, "gbr"):
        return None
    return (
        f"the input does not name its colour matrix; {color.matrix} was assumed for its size "
        f"of {info.width}x{info.height}, and the output, of another class of size, says so"
    )


def rgb_to_yuv(matrix: str) -> Tensor:
    """Coefficients from R'G'B' in [0, 1] to Y' in [0, 1] and two colour differences in [-0.5, 0.5].

    Returns:
        (3, 3), float64, CPU.

    Raises:
        UnsupportedPixels: if the matrix is not linear in R'G'B', or unknown.
    """
    if matrix == "ycgco":
        return torch.tensor(_YCGCO, dtype=torch.float64)
    if matrix not in _KR_KB:
        raise UnsupportedPixels(
            f"colour matrix must be {', '.join(_KR_KB)}, ycgco or gbr, got {matrix}, "
            "which no fixed matrix on R'G'B' can undo"
        )
    kr, kb = _KR_KB[matrix]
    luma = torch.tensor((kr, 1 - kr - kb, kb), dtype=torch.float64)
    red, _, blue = torch.eye(3, dtype=torch.float64)
    return torch.stack((luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)))


def code_scale(
    bit_depth: int, color_range: Literal["tv", "pc"], *, chroma: bool = False
) -> tuple[float, float]:
    """Scale and offset of code values: ``code = scale * value + offset``.

    Args:
        bit_depth: 8 to 16.
        color_range: ``tv`` is 16 to 235 (chroma 16 to 240) in 8 bits, ``pc`` 0 to 2^n - 1.
        chroma: for colour differences in [-0.5, 0.5] instead of values in [0, 1].
    """
    unit = 1 << (bit_depth - 8)
    if color_range == "pc":
        return float((1 << bit_depth) - 1), float(128 * unit if chroma else 0)
    return float((224 if chroma else 219) * unit), float((128 if chroma else 16) * unit)
