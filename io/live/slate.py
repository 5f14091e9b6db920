"""The picture that an output shows without an input: the stream's name and NO SIGNAL.

It has only greys, and so needs no colour matrix in any family of pixel formats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...filters.frame import Color, Picture, PixelFormat, StreamInfo
from ..pictures.font import draw_text

HEADLINE = "NO SIGNAL"

_DARK = 0.09
_BRIGHT = 0.86
_CELL_WIDTH = 6  # dots from letter to letter
_CELL_HEIGHT = 10  # dots from line to line, of which a letter has 7
_LETTER_HEIGHT = 7
_SHARE_OF_WIDTH = 0.75
_SHARE_OF_HEIGHT = 0.2  # of the picture, for the headline


def slate(info: StreamInfo, name: str) -> Picture:
    """Draw a plain dark picture with a stream's name and NO SIGNAL.

    The letters are as large as the picture allows, down to 5 by 7 pixels each; a name too long for
    the picture is broken into lines, and cut off at its lower edge. It has pts 0 and duration 0,
    and size, pixel format and colour of the output.
    """
    ink = torch.zeros(info.height, info.width)
    room = info.height
    dots = len(HEADLINE) * _CELL_WIDTH
    by_width = _SHARE_OF_WIDTH * info.width / dots
    by_height = _SHARE_OF_HEIGHT * info.height / _LETTER_HEIGHT
    scale = max(1, int(min(by_width, by_height)))
    headline = wrapped(HEADLINE, info.width, scale)
    small, lines = _fitted(name, info.width, room - len(headline) * _CELL_HEIGHT * scale, scale)
    used = _CELL_HEIGHT * (len(headline) * scale + len(lines) * small)
    top = max(0, (room - used) // 2)
    top = _put_lines(ink, headline, scale, top)
    _put_lines(ink, lines, small, top)
    return _grey_picture(_DARK + (_BRIGHT - _DARK) * ink, info)


def blank(info: StreamInfo) -> Picture:
    """Draw the slate without letters."""
    return _grey_picture(torch.full((info.height, info.width), _DARK), info)


def wrapped(text: str, width: int, scale: int) -> list[str]:
    """Break words into lines that fit a picture, between them if possible.

    The width is in pixels, the scale in pixels to each dot of a letter.
    """
    columns = max(1, (width // scale + 1) // _CELL_WIDTH)
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines += [word[at : at + columns] for at in range(0, len(word), columns)]
    return lines


def _fitted(name: str, width: int, height: int, scale: int) -> tuple[int, list[str]]:
    """Choose the largest scale, at most the headline's, at which all lines of a name fit."""
    for smaller in range(max(1, scale // 2), 0, -1):
        lines = wrapped(name, width, smaller)
        if len(lines) * _CELL_HEIGHT * smaller <= height:
            return smaller, lines
    return 1, wrapped(name, width, 1)[: max(1, height // _CELL_HEIGHT)]


def _put_lines(ink: Tensor, lines: list[str], scale: int, top: int) -> int:
    """Draw centred lines one below the other; return the row below them."""
    height, width = ink.shape
    for line in lines:
        letters = draw_text(line, scale)[:, :-scale]  # without the gap after the last one
        left = max(0, (width - letters.shape[1]) // 2)
        part = ink[top : top + letters.shape[0], left : left + letters.shape[1]]
        part.copy_(letters[: part.shape[0], : part.shape[1]])
        top = min(top + _CELL_HEIGHT * scale, height)
    return top


def _grey_picture(grey: Tensor, info: StreamInfo) -> Picture:
    """Encode greys in [0, 1], (H, W), as a picture of the stream."""
    form = info.format
    planes = [_coded(grey, form, info.color)]
    for index in range(1, form.num_planes):
        if form.family == "rgb":
            planes.append(planes[0])
            continue
        columns, rows = form.plane_size(info.width, info.height, index)
        planes.append(torch.full((rows, columns), 1 << (form.bit_depth - 1), dtype=_dtype(form)))
    full = (1 << form.bit_depth) - 1
    alpha = torch.full(grey.shape, full, dtype=_dtype(form)) if form.has_alpha else None
    return Picture(tuple(planes), form.name, info.color, 0, 0, info.time_base, alpha=alpha)


def _coded(grey: Tensor, form: PixelFormat, color: Color) -> Tensor:
    """Encode luma, or each of R, G and B: ITU-T H.273 (07/2024), 8.3, equations 31 to 33."""
    limited = (color.range or ("tv" if form.family == "yuv" else "pc")) == "tv"
    unit = 1 << (form.bit_depth - 8)
    low, span = (16 * unit, 219 * unit) if limited else (0, (1 << form.bit_depth) - 1)
    return (low + span * grey).round().to(torch.int32).to(_dtype(form))


def _dtype(form: PixelFormat) -> torch.dtype:
    return torch.uint8 if form.bit_depth == 8 else torch.uint16
