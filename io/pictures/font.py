"""A bitmap font of capital letters, five pixels by seven, for labels in pictures."""

from __future__ import annotations

import torch
from torch import Tensor

# One word a glyph, one letter a row from the top: the value in base 32 is the row's five pixels.
_GLYPHS = {
    " ": "0000000",
    "A": "EHHVHHH", "B": "UHHUHHU", "C": "EHGGGHE", "D": "UHHHHHU", "E": "VGGUGGV",
    "F": "VGGUGGG", "G": "EHGNHHF", "H": "HHHVHHH", "I": "E44444E", "J": "722222C",
    "K": "HIKOKIH", "L": "GGGGGGV", "M": "HRLLHHH", "N": "HHPLJHH", "O": "EHHHHHE",
    "P": "UHHUGGG", "Q": "EHHHLID", "R": "UHHUKIH", "S": "FGGE11U", "T": "V444444",
    "U": "HHHHHHE", "V": "HHHHHA4", "W": "HHHLLLA", "X": "HHA4AHH", "Y": "HHHA444",
    "Z": "V1248GV", "0": "EHJLPHE", "1": "4C4444E", "2": "EH1248V", "3": "V24212E",
    "4": "26AIV22", "5": "VGU11HE", "6": "68GUHHE", "7": "V124888", "8": "EHHEHHE",
    "9": "EHHF12C", ".": "00000CC", ",": "0000648", "-": "000V000", "+": "044V440",
    "_": "000000V", ":": "0CC0CC0", "/": "01248G0", "(": "2488842", ")": "8422248",
}  # fmt: skip


def draw_text(text: str, scale: int = 1) -> Tensor:
    """Draw one line of text; letters become capitals, unknown characters blanks.

    Returns:
        (7 * scale, 6 * scale * len(text)) float32: 1 where there is ink, else 0.
    """
    ink = torch.zeros(7, 6 * len(text))
    for position, character in enumerate(text.upper()):
        for row, digit in enumerate(_GLYPHS.get(character, _GLYPHS[" "])):
            bits = int(digit, 32)
            for column in range(5):
                ink[row, position * 6 + column] = bits >> (4 - column) & 1
    return ink.repeat_interleave(scale, 0).repeat_interleave(scale, 1)


def put_label(picture: Tensor, text: str, scale: int = 1) -> None:
    """Write a line at the top left of a picture, (3, H, W) float, [0, 1], in place.

    White letters on a darkened plate, cut off at the picture's edges; `scale` pixels to each dot.
    """
    ink = draw_text(text, scale)
    margin = 3 * scale
    plate = torch.zeros(ink.shape[0] + 2 * margin, ink.shape[1] + 2 * margin - scale)
    plate[margin:-margin, margin : margin + ink.shape[1]] = ink[:, : plate.shape[1] - margin]
    part = picture[:, : plate.shape[0], : plate.shape[1]]
    plate = plate[: part.shape[1], : part.shape[2]]
    part.copy_(part * 0.35 * (1 - plate) + plate)
