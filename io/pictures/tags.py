"""FFmpeg's numbers for colour ⇄ the names that a Color carries.

Source: ITU-T H.273 (07/2024), tables 2 to 4; the names are those of FFmpeg's pixdesc.c, which
its command line and ffprobe use.
"""

from __future__ import annotations

from typing import Final, Literal

import av

from ...filters.frame import Color

UNSPECIFIED: Final = 2  # for primaries, trc and matrix; the range's is 0

RANGES: Final[dict[int, Literal["tv", "pc"]]] = {1: "tv", 2: "pc"}
PRIMARIES: Final = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
    256: "vgamut",
}
TRANSFERS: Final = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
    256: "vlog",
}
MATRICES: Final = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}


_RANGE_NUMBERS: Final = {name: number for number, name in RANGES.items()}
_PRIMARY_NUMBERS: Final = {name: number for number, name in PRIMARIES.items()}
_TRANSFER_NUMBERS: Final = {name: number for number, name in TRANSFERS.items()}
_MATRIX_NUMBERS: Final = {name: number for number, name in MATRICES.items()}


def color_of(tagged: av.VideoFrame | av.VideoCodecContext) -> Color:
    """Read the tags of a frame or a codec; a number without a name counts as unspecified.

    A ``yuvj`` format means full range even where no tag says so. The chroma location is None: PyAV
    does not show it.
    """
    pix_fmt = tagged.format.name if tagged.format is not None else ""
    return Color(
        range="pc" if pix_fmt.startswith("yuvj") else RANGES.get(int(tagged.color_range)),
        primaries=PRIMARIES.get(int(tagged.color_primaries)),
        trc=TRANSFERS.get(int(tagged.color_trc)),
        matrix=MATRICES.get(int(tagged.colorspace)),
    )


def set_tags(tagged: av.VideoFrame | av.VideoCodecContext, color: Color) -> None:
    """Write range, primaries, transfer and matrix; what has no number becomes unspecified."""
    tagged.color_range = _RANGE_NUMBERS.get(color.range or "", 0)
    tagged.color_primaries = _PRIMARY_NUMBERS.get(color.primaries or "", UNSPECIFIED)
    tagged.color_trc = _TRANSFER_NUMBERS.get(color.trc or "", UNSPECIFIED)
    tagged.colorspace = _MATRIX_NUMBERS.get(color.matrix or "", UNSPECIFIED)


def set_color(codec_context: av.VideoCodecContext, color: Color) -> None:
    """Tag what an encoder will write, chroma location included; before its first encode.

    The frames given to it need the tags as well (ProRes reads them there): `frame_of` sets them.
    The chroma location has no attribute in PyAV, but FFmpeg's own encoder option
    ``chroma_sample_location`` works: it is added to ``codec_context.options``, so options that are
    assigned later would drop it.
    """
    set_tags(codec_context, color)
    if color.chroma_location is not None:
        location = {"chroma_sample_location": color.chroma_location}
        codec_context.options = {**codec_context.options, **location}
