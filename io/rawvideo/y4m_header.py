"""The line that opens a YUV4MPEG2 stream: read leniently, written strictly.

The format is that of the mjpegtools, ``yuv4mpeg(5)``; the tags for more than 8 bits and
``XCOLORRANGE`` are FFmpeg's, ``XLENGTH`` is VapourSynth's. It has no tags for primaries,
transfer and matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ...filters.frame import Color, StreamInfo
from ..errors import UnsupportedMedia

MAGIC = b"YUV4MPEG2"
MAX_READ_BYTES = 1024
"""Longest header or FRAME line that we read."""
MAX_WRITE_BYTES = 80
"""Longest header that x264 reads, newline included."""
MAX_SIDE = 65535

FieldOrder = Literal["progressive", "tt", "bb", "tb", "bt"]

_DEPTHS = (9, 10, 12, 14, 16)
_FORMATS: dict[str, tuple[str, str | None]] = {
    "420jpeg": ("yuv420p", "center"),
    "420mpeg2": ("yuv420p", "left"),
    "420paldv": ("yuv420p", "topleft"),
    "420": ("yuv420p", "center"),
    "422": ("yuv422p", None),
    "444": ("yuv444p", None),
    "444alpha": ("yuva444p", None),
    "mono": ("gray", None),
    **{f"{s}p{d}": (f"yuv{s}p{d}le", None) for s in ("420", "422", "444") for d in _DEPTHS},
    **{f"mono{depth}": (f"gray{depth}le", None) for depth in _DEPTHS},
}
_SITINGS = {"center": "420jpeg", "left": "420mpeg2", "topleft": "420paldv"}
_TAGS = {pix_fmt: tag for tag, (pix_fmt, siting) in _FORMATS.items() if siting is None}
_RANGES: dict[str, Literal["tv", "pc"]] = {"LIMITED": "tv", "FULL": "pc"}
_FIELD_ORDERS: dict[str, FieldOrder] = {"p": "progressive", "t": "tt", "b": "bb"}

SUPPORTED_TAGS = ", ".join(f"C{tag}" for tag in _FORMATS)


@dataclass(frozen=True, slots=True)
class Y4MHeader:
    """What a stream header says."""

    width: int
    height: int
    rate: Fraction
    """Frames per second."""
    pix_fmt: str
    color: Color
    interlacing: str = "p"
    """``p`` progressive, ``t`` top field first, ``b`` bottom field first, ``m`` mixed, ``?``."""
    sample_aspect_ratio: Fraction | None = None
    num_frames: int | None = None
    """XLENGTH."""

    def info(self) -> StreamInfo:
        """The header as every source describes its stream."""
        frames = self.num_frames
        return StreamInfo(
            width=self.width,
            height=self.height,
            pix_fmt=self.pix_fmt,
            time_base=1 / self.rate,
            rate=self.rate,
            average_rate=self.rate,
            color=self.color,
            sample_aspect_ratio=self.sample_aspect_ratio,
            field_order=_FIELD_ORDERS.get(self.interlacing),
            num_frames=frames,
            duration_seconds=None if frames is None else frames / self.rate,
        )


def parse_header(line: bytes) -> Y4MHeader:
    """Read a header line, its newline already off.

    Tags may come in any order; unknown ones, and all ``X`` tags but two, are ignored. ``C`` may
    be missing and means 420 then; ``I`` may be missing and means progressive.

    Raises:
        UnsupportedMedia: if size or rate are missing or senseless, or the chroma tag is unknown.
    """
    magic, *words = line.decode("ascii", "replace").split(" ")
    if magic.encode("ascii", "replace") != MAGIC:
        raise UnsupportedMedia(f"y4m must begin with {MAGIC.decode()}, got {magic[:32]!r}")
    tags = {word[0]: word[1:] for word in words if word and word[0] != "X"}
    extensions = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    pix_fmt, siting = _format(tags.get("C", "420"))
    return Y4MHeader(
        width=_side(tags, "W", "width"),
        height=_side(tags, "H", "height"),
        rate=_rate(tags.get("F", "")),
        pix_fmt=pix_fmt,
        color=Color(range=_RANGES.get(extensions.get("XCOLORRANGE", "")), chroma_location=siting),
        interlacing=tags.get("I", "p")[:1] or "p",
        sample_aspect_ratio=_ratio(tags.get("A", "")),
        num_frames=_count(extensions.get("XLENGTH", "")),
    )


def format_header(info: StreamInfo) -> bytes:
    """Write the header line, newline included, in at most 80 bytes where that loses nothing.

    Left out when there is no room, in this order, because readers assume them anyway: the
    number of frames, the unknown aspect ratio, the limited range. Full range always stays.

    Raises:
        UnsupportedMedia: if y4m cannot hold the pixel format, or the rate is not constant.
    """
    if info.rate is None:
        raise UnsupportedMedia(
            "y4m holds one constant frame rate, got a variable or unknown one; "
            "--format nut and --format matroska keep time stamps"
        )
    needed = [
        MAGIC.decode(),
        f"W{info.width}",
        f"H{info.height}",
        f"F{info.rate.numerator}:{info.rate.denominator}",
        f"I{_interlacing(info.field_order)}",
    ]
    aspect = info.sample_aspect_ratio
    ranges = {"tv": "XCOLORRANGE=LIMITED", "pc": "XCOLORRANGE=FULL", None: ""}
    words = {
        "aspect": f"A{aspect.numerator}:{aspect.denominator}" if aspect else "A0:0",
        "chroma": f"C{chroma_tag(info.pix_fmt, info.color.chroma_location)}",
        "range": ranges[info.color.range],
        "length": "" if info.num_frames is None else f"XLENGTH={info.num_frames}",
    }
    droppable = ["length", *([] if aspect else ["aspect"])]
    droppable += ["range"] if info.color.range == "tv" else []
    line = _join(needed, words)
    for name in droppable:
        if len(line) > MAX_WRITE_BYTES:
            line = _join(needed, words := {**words, name: ""})
    return line


def chroma_tag(pix_fmt: str, siting: str | None) -> str:
    """The C tag of a planar format, without the C.

    Raises:
        UnsupportedMedia: if there is none, as for RGB.
    """
    if pix_fmt == "yuv420p":  # the format's default where the siting is unknown, as FFmpeg does
        return _SITINGS.get(siting or "center", "420jpeg")
    name = pix_fmt if pix_fmt in _TAGS else f"{pix_fmt}le"
    if name not in _TAGS:
        raise UnsupportedMedia(
            f"y4m cannot hold {pix_fmt} (it has {SUPPORTED_TAGS}); --format nut holds it"
        )
    return _TAGS[name]


def _join(needed: list[str], words: dict[str, str]) -> bytes:
    return " ".join([*needed, *(word for word in words.values() if word)]).encode() + b"\n"


def _interlacing(field_order: str | None) -> str:
    return {"tt": "t", "bb": "b", "tb": "t", "bt": "b"}.get(field_order or "", "p")


def _format(tag: str) -> tuple[str, str | None]:
    if tag not in _FORMATS:
        raise UnsupportedMedia(f"y4m chroma tag C{tag[:32]} is not supported; {SUPPORTED_TAGS} are")
    return _FORMATS[tag]


def _side(tags: dict[str, str], tag: str, name: str) -> int:
    size = _count(tags.get(tag, ""))
    if not size or size > MAX_SIDE:
        got = repr(tags[tag][:32]) if tag in tags else "none"
        raise UnsupportedMedia(f"y4m {name} ({tag}) must be 1 to {MAX_SIDE}, got {got}")
    return size


def _rate(text: str) -> Fraction:
    rate = _ratio(text)
    if rate is None:
        got = repr(text[:32]) if text else "none"
        raise UnsupportedMedia(f"y4m frame rate (F) must be like F30000:1001, got {got}")
    return rate


def _ratio(text: str) -> Fraction | None:
    over, _, under = text.partition(":")
    numerator, denominator = _count(over), _count(under)
    return Fraction(numerator, denominator) if numerator and denominator else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
