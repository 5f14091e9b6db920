"""Choose the encoder and the pixel format that preserve what the pictures hold.

Defaults: 8 bit is encoded as H.264, 9 to 12 bit as HEVC (H.264 High 10 plays on few devices), more
as FFV1. The pixel format is kept if the encoder supports it, else the nearest lossless one is used.
RGB in a container for players becomes 4:2:0, since few of them show RGB or 4:4:4.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
from av.codec import Codec
from av.error import FFmpegError

from ...filters.errors import UnsupportedPixels
from ...filters.frame import MasteringDisplay, PixelFormat, StreamInfo
from ..capabilities import has_codec, why_encoder_fails
from ..errors import SinkRefused
from .containers import Container
from .options import ENCODERS

# Encoders' pixel formats, and the planar format that holds the same values.
_PLANAR = {
    "yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p",
    "nv12": "yuv420p", "nv16": "yuv422p", "p010le": "yuv420p10le",
    "rgb24": "gbrp", "bgr24": "gbrp", "bgr0": "gbrp", "0rgb": "gbrp",
    "rgba": "gbrap", "bgra": "gbrap", "argb": "gbrap",
    "rgb48le": "gbrp16le", "rgb48be": "gbrp16le", "rgba64le": "gbrap16le", "rgba64be": "gbrap16le",
    "gray16be": "gray16le", "rgb8": "gbrp",
}  # fmt: skip

_ONE_CODEC = {
    "gif": "gif", "apng": "apng", "asf": "wmv2", "mpeg": "mpeg2video", "vob": "mpeg2video",
    "mxf": "mpeg2video",
}  # fmt: skip
_HOLDS_FFV1 = ("matroska", "nut", "avi", "mp4")
_FOR_PLAYERS = ("mp4", "mov", "3gp", "webm", "flv", "mpegts")
_VPX = ("libvpx", "libvpx-vp9")
_TRIED_SIZE = (256, 144)
_KEEP_ALPHA = "libvpx-vp9 (WebM, MKV), prores_ks, qtrle (MOV) and ffv1 (MKV) keep it"


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """An encoder, and the pixel formats on both sides of it."""

    codec: str
    """FFmpeg's name of the encoder."""
    pix_fmt: str
    """Of the pictures that the sink accepts: planar."""
    coded_pix_fmt: str
    """What the encoder accepts; holds the same values as `pix_fmt`."""
    notes: tuple[str, ...] = ()
    """The choice and its reason, for people."""
    losses: tuple[str, ...] = ()
    """What the pictures lose, for people."""


def choose_codec(
    source: PixelFormat, container: Container, codec: str | None, pix_fmt: str | None
) -> CodecChoice:
    """Choose an encoder, unless the user named one, and its pixel format, likewise.

    Raises:
        SinkRefused: if there is no such encoder, or it does not support that pixel format.
    """
    name = None if codec is None else encoder_of(codec)
    if pix_fmt is not None:
        asked = _parse(pix_fmt)
        name = name or default_codec(asked, container)
        coded = _asked_format(pix_fmt, name, encoder_formats(name))
        notes = _reason(name, asked) if codec is None else ()
        return CodecChoice(name, _PLANAR.get(coded, coded), coded, notes)
    wanted = source
    if source.family == "rgb" and container.name in _FOR_PLAYERS and _is_for_players(name):
        alpha, depth = "a" * source.has_alpha, "10le" if source.bit_depth > 8 else ""
        wanted = PixelFormat.parse(f"yuv{alpha}420p{depth}")
    name = name or default_codec(wanted, container)
    notes = _reason(name, wanted) if codec is None else ()
    coded = _nearest_format(wanted, encoder_formats(name), name)
    planar = _PLANAR.get(coded, coded)
    if wanted is not source:
        notes += (f"RGB: stored as {planar}, for all players; --pix-fmt yuv444p keeps more colour",)
    if source.has_alpha and not PixelFormat.parse(planar).has_alpha:  # the ledger: if it hides any
        notes += (f"alpha is dropped, so that what it hid is seen; {_KEEP_ALPHA}",)
    lost = _losses(source, replace(wanted, bit_depth=source.bit_depth), planar, name)
    return CodecChoice(name, planar, coded, notes, tuple(lost))


def encoder_of(codec: str) -> str:
    """Return FFmpeg's name of the encoder that a name stands for: libx265 for ``hevc``.

    Raises:
        SinkRefused: if there is no such video encoder.
    """
    usual = ENCODERS.get(codec, codec)
    return _encoder(usual if has_codec(usual, "w") else codec).name


def _is_for_players(codec: str | None) -> bool:
    """Return whether an encoder, or the default one, is for files to watch, not to work on."""
    if codec is None:
        return True
    found = _encoder(codec)
    return found.lossy and not found.intra_only and "yuv420p" in encoder_formats(codec)


def default_codec(source: PixelFormat, container: Container) -> str:
    """Return the default encoder for a pixel format and a container."""
    if one := _ONE_CODEC.get(container.name):
        return one
    if container.name == "webm":  # libvpx-vp9 is built for 8 bits only, but AV1 has no alpha
        return "libvpx-vp9" if source.bit_depth == 8 or source.has_alpha else "libsvtav1"
    if source.bit_depth == 8:
        return "libx264"
    if container.name == "avi" or (source.bit_depth > 12 and container.name in _HOLDS_FFV1):
        return "ffv1"
    return "libx265"


def _reason(codec: str, source: PixelFormat) -> tuple[str, ...]:
    why = {
        "libx265": "as HEVC (libx265), which keeps it",
        "ffv1": "losslessly as FFV1, which keeps it; files are large",
        "libsvtav1": "as AV1 (libsvtav1), which keeps 10",
    }
    return (f"{source.bit_depth} bit: encoding {why[codec]}",) if codec in why else ()


@cache
def encoder_formats(codec: str) -> tuple[str, ...]:
    """List the pixel formats that an encoder claims to support, by FFmpeg's names.

    Raises:
        SinkRefused: if there is no such video encoder.
    """
    formats = tuple(form.name for form in _encoder(codec).video_formats or ())
    return formats or ("yuv420p", "yuv422p", "yuv444p", "gray")


def _encoder(codec: str) -> Codec:
    try:
        found = Codec(codec, "w")
    except (ValueError, FFmpegError) as error:
        raise SinkRefused(f"no encoder is called {codec!r}; {_similar(codec)}") from error
    if found.type != "video":
        raise SinkRefused(f"{codec} encodes {found.type}, wanted a video encoder")
    return found


@cache
def _opens(codec: str, pix_fmt: str) -> bool:
    """Return whether an encoder really accepts a format: some list formats that they refuse."""
    info = StreamInfo(*_TRIED_SIZE, _PLANAR.get(pix_fmt, pix_fmt), Fraction(1, 25))
    return why_encoder_fails(codec, pix_fmt, bitstream_options(codec, info)) is None


def _similar(codec: str) -> str:
    stem = codec.lower().lstrip("lib")[:3]
    usual = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "mpeg4")
    alike = difflib.get_close_matches(codec.lower(), av.codecs_available, n=3)
    near = sorted(name for name in av.codecs_available if stem and stem in name and name != codec)
    named = ", ".join(list(dict.fromkeys([*alike, *near]))[:8])
    return f"near it: {named or 'none'}; usual ones: {', '.join(usual)}"


def _parse(name: str) -> PixelFormat:
    try:
        return PixelFormat.parse(_PLANAR.get(name, name))
    except UnsupportedPixels as error:
        raise SinkRefused(f"pixel format {name!r}: {error}") from error


def _asked_format(pix_fmt: str, codec: str, supported: tuple[str, ...]) -> str:
    for name in (pix_fmt, f"{pix_fmt}le"):
        if name in supported:
            return name
    planar = [name for name in supported if _is_usable(name)]
    raise SinkRefused(f"{codec} does not support {pix_fmt}; it supports {', '.join(planar)}")


def _is_usable(name: str) -> bool:
    try:
        _parse(name)
    except SinkRefused:
        return False
    return True


def _nearest_format(source: PixelFormat, names: Iterable[str], codec: str) -> str:
    """Choose the format that loses least of `source`, of those the smallest, which also opens.

    If none opens, it is not for the format: the hardware may be missing.
    """
    usable = [name for name in names if _is_usable(name)]
    if not usable:
        raise SinkRefused(
            f"{codec} supports no planar pixel format; it supports {', '.join(names)}"
        )
    ranked = sorted(usable, key=lambda name: (*_distance(source, _parse(name)), name in _PLANAR))
    return next((name for name in ranked if _opens(codec, name)), ranked[0])


def _distance(source: PixelFormat, other: PixelFormat) -> tuple[int, ...]:
    """Order formats by what is lost, then by what is stored needlessly."""
    shift = other.chroma_shift_x + other.chroma_shift_y
    had = source.chroma_shift_x + source.chroma_shift_y
    return (
        int(source.family != "gray" and other.family == "gray"),
        max(0, source.bit_depth - other.bit_depth),
        int(source.has_alpha and not other.has_alpha),
        int(source.family != "gray" and source.family != other.family),
        max(0, shift - had) if source.family != "gray" else 0,
        int(source.family != other.family) + int(other.family == "rgb"),
        max(0, other.bit_depth - source.bit_depth),
        int(other.has_alpha and not source.has_alpha),
        max(0, had - shift) if source.family != "gray" else -shift,
    )


def _losses(source: PixelFormat, wanted: PixelFormat, planar: str, codec: str) -> Iterator[str]:
    """Say what is lost of `wanted`, which is the source's format or made of it on purpose."""
    other, lost = PixelFormat.parse(planar), list[str]()
    if other.bit_depth < wanted.bit_depth:
        lost.append(f"{wanted.bit_depth} bits are reduced to {other.bit_depth}")
    if wanted.family == "rgb" and other.family == "yuv":
        lost.append("RGB is stored as YUV")
    if wanted.family != "gray" and other.family == "gray":
        lost.append("colour is dropped")
    shift = (other.chroma_shift_x, other.chroma_shift_y)
    if wanted.family == "yuv" and shift > (wanted.chroma_shift_x, wanted.chroma_shift_y):
        lost.append(f"chroma is reduced from {source.name} to {other.name}")
    if lost:
        named = f"{codec} does not support {source.name}, {other.name} is the nearest"
        yield f"{named}: {', '.join(lost)}"


# HDR10 mastering and light-level data are passed in the encoder's own parameters, since PyAV has no
# other way. Units: x264 and x265 count chromaticity in 1/50000 and luminance in 1/10000 cd/m²
# (ITU-T H.265 D.3.28), SVT-AV1 reads plain numbers.

Written = Callable[[Fraction], str]
_INTEGERS: tuple[Written, Written] = (  # chromaticity, luminance
    lambda value: str(round(value * 50_000)),
    lambda value: str(round(value * 10_000)),
)
_DECIMALS: tuple[Written, Written] = (
    lambda value: f"{float(value):.5f}",
    lambda value: f"{float(value):.4f}",
)
# By encoder: its list of parameters, its names of mastering display and light levels, their form.
_HDR10 = {
    "libx264": ("x264-params", "mastering-display", "cll", *_INTEGERS),
    "libx265": ("x265-params", "master-display", "max-cll", *_INTEGERS),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", *_DECIMALS),
}


def bitstream_options(codec: str, info: StreamInfo) -> dict[str, str]:
    """Return an encoder's options for chroma siting and HDR10 data."""
    options: dict[str, str] = {}
    if codec in _VPX and info.format.has_alpha:
        options["auto-alt-ref"] = "0"  # libvpx hides no frames where there is alpha
    if info.color.chroma_location and info.format.family == "yuv":
        options["chroma_sample_location"] = info.color.chroma_location
    if codec not in _HDR10:
        return options
    key, mastering, light_levels, *units = _HDR10[codec]
    # x265 writes its banner to stderr whatever FFmpeg's log level is
    parameters = ["log-level=error"] if codec == "libx265" else []
    if info.mastering_display:
        parameters.append(f"{mastering}={_mastering(info.mastering_display, *units)}")
    if (light := info.content_light) is not None:
        parameters.append(f"{light_levels}={light.max_cll},{light.max_fall}")
    return options | ({key: ":".join(parameters)} if parameters else {})


def joined_options(ours: dict[str, str], users: dict[str, str]) -> dict[str, str]:
    """Merge options; the user's take precedence, and their ``…-params`` are appended to ours."""
    joined = ours | users
    for key in ours.keys() & users.keys():
        if key.endswith("-params"):
            joined[key] = f"{ours[key]}:{users[key]}"
    return joined


def _mastering(display: MasteringDisplay, chromaticity: Written, luminance: Written) -> str:
    points = (display.green, display.blue, display.red, display.white_point)
    green, blue, red, white = (",".join(map(chromaticity, point)) for point in points)
    light = f"{luminance(display.max_luminance)},{luminance(display.min_luminance)}"
    return f"G({green})B({blue})R({red})WP({white})L({light})"


# Extension → encoder. WebP comes in two kinds; libwebp writes stills.
_CODECS = {
    "png": "png", "jpg": "mjpeg", "jpeg": "mjpeg", "webp": "libwebp", "tif": "tiff",
    "tiff": "tiff", "bmp": "bmp",
}  # fmt: skip
_NUMBER = re.compile(r"%(0\d+)?d")


def is_image(target: str | Path, format: str | None = None) -> bool:
    """Return whether an output is a still or a sequence of stills, by its extension.

    ``--format image2`` means images; with any other format it is none.
    """
    if format is not None:
        return format in ("image2", "image")
    return _extension(target) in _CODECS


def is_sequence(target: str | Path) -> bool:
    """Return whether a name has a placeholder for a number: ``frame_%05d.png``."""
    return len(_NUMBER.findall(Path(str(target)).name)) == 1


def numbered(target: Path, number: int) -> Path:
    """Return the path of one image of a sequence."""
    name = _NUMBER.sub(lambda match: f"{number:{match[1] or ''}d}", target.name)
    return target.with_name(name.replace("%%", "%"))


def still_choice(
    source: PixelFormat, target: str | Path, codec: str | None, pix_fmt: str | None
) -> CodecChoice:
    """Choose encoder and pixel format of a still.

    Raises:
        SinkRefused: if the extension is no image format, or the encoder does not support it.
    """
    extension = _extension(target)
    if codec is None and extension not in _CODECS:
        known = ", ".join(f".{name}" for name in _CODECS)
        raise SinkRefused(f"cannot tell the image format of {target}; wanted one of {known}")
    name = codec or _CODECS[extension]
    encoder_formats(name)  # refuses an unknown name
    if extension in _CODECS and name != _CODECS[extension]:
        raise SinkRefused(f".{extension} is encoded by {_CODECS[extension]}, got {name}")
    return choose_codec(source, Container("image2"), name, pix_fmt)


def _extension(target: str | Path) -> str:
    return Path(str(target)).suffix.lower().lstrip(".")
