"""Pictures that FFmpeg does not read whole: tiled and cropped HEIC and AVIF, animated WebP.

FFmpeg takes each tile of a HEIF file for a stream, and knows neither its crop nor its alpha. Such
a file is decoded by libheif (pillow-heif, an extra of this package) or libavif (Pillow), an
animation by libwebp (Pillow), and FFmpeg reads the result as PNG.

Source: ISO/IEC 23008-12 (HEIF), 6 and 7; ISO/IEC 14496-12, 8.11 and 12.1.4; RFC 9649 (WebP), 2.7.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from ..errors import TooLargeMedia, TruncatedMedia, UnsupportedMedia, reason_of
from ..extent import mp4_boxes
from ..limits import limits
from ..pictures.image_files import Embedded, checked, read_embedded
from ..pictures.png import END, SIGNATURE, Writer, chunks
from ..rawvideo.bytestream import PieceReader

if TYPE_CHECKING:
    from PIL.WebPImagePlugin import WebPImageFile

_HEAD_BYTES, _MOST_BYTES = 1 << 16, 1 << 26
_ANIMATED = 0x02  # a flag of WebP
_SHORTEST = 11  # ms: less is shown for 100 ms by browsers, as in GIF
_DEFAULT_SECONDS = Fraction(1, 10)
_BEYOND_FFMPEG = {
    b"grid": "made of tiles (grid)",
    b"iovl": "made of others (iovl)",
    b"iden": "derived from another (iden)",
    b"clap": "that is cropped (clap)",
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha": "with alpha",
    b"urn:mpeg:hevc:2015:auxid:1": "with alpha",
}
"""By what the index of a HEIF file holds then."""
_BRANDS = (b"mif1", b"msf1", b"heic", b"heix", b"heim", b"heis", b"avif", b"avis")
_BROKEN = (OSError, EOFError, ValueError, SyntaxError, RuntimeError)
"""What Pillow, libheif and libavif raise for damaged files."""

Contents = Callable[[], BinaryIO]
"""Opens what FFmpeg is to read instead of a file."""


@dataclass(frozen=True, slots=True)
class Still:
    """What an image file holds besides what FFmpeg reads of it."""

    embedded: Embedded
    format: str
    """``webp``, ``heif`` or ``avif``."""
    contents: Contents | None = None
    """None where FFmpeg reads the file itself."""


def still_in(path: Path, name: str) -> Still | None:
    """Look at the beginning of a file (`name` for people); None if FFmpeg reads all that it holds.

    Raises:
        UnsupportedMedia: if nothing here reads it whole.
        TooLargeMedia: if its pictures are too large.
        TruncatedMedia: if it ends too early.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[4:8] == b"ftyp" and any(brand in head[8:32] for brand in _BRANDS):
        return _heif_in(path, name)
    is_animated = head.startswith(SIGNATURE) and any(one == b"acTL" for one, _, _ in chunks(head))
    if is_animated and path.stat().st_size < _MOST_BYTES:  # EXIF data may follow the frames
        return Still(read_embedded(path.read_bytes()) or Embedded(), "apng")
    if head[:4] + head[8:16] != b"RIFFWEBPVP8X" or not int.from_bytes(head[20:21]) & _ANIMATED:
        return None
    width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    limits().check_size(width, height, name)
    if (promised := 8 + int.from_bytes(head[4:8], "little")) > (size := path.stat().st_size):
        raise TruncatedMedia(f"{name}: truncated: got {size} of {promised} bytes")
    found = read_embedded(path.read_bytes()) or Embedded()
    return Still(found, "webp", lambda: _animation(path, name))


def _animation(path: Path, name: str) -> BinaryIO:
    """Open an animated WebP as an animated PNG, of which no more is in memory than one frame."""
    from PIL.Image import DecompressionBombError  # here, since few inputs need them
    from PIL.WebPImagePlugin import WebPImageFile

    try:
        image = WebPImageFile(path)
    except DecompressionBombError as error:  # Pillow's own limit may be the lower one
        raise TooLargeMedia(f"{name}: too large for memory: {error}") from error
    except _BROKEN as error:
        raise _undecodable(name, error) from error
    return cast("BinaryIO", PieceReader(_animated_png(image), name))


def _animated_png(image: WebPImageFile) -> Iterator[bytes]:
    count, writer = 0, None
    try:
        for count in range(image.n_frames):
            image.seek(count)
            image.load()
            pixels = np.asarray(image)
            if writer is None:
                writer = Writer(pixels, image.n_frames)
                yield writer.head
            shown = cast("int", image.info["duration"])
            seconds = Fraction(shown, 1000) if shown >= _SHORTEST else _DEFAULT_SECONDS
            yield writer.frame(pixels, seconds)
    except _BROKEN as error:
        raise OSError(errno.EIO, f"frame {count} is damaged: {reason_of(error)}") from error
    yield END


def _heif_in(path: Path, name: str) -> Still | None:
    if (meta := _index_of(path, name)) is None:
        return None
    is_avif = b"av1C" in meta
    opened = _opened_avif if is_avif else _opened_heic
    beyond = next((text for word, text in _BEYOND_FFMPEG.items() if word in meta), None)
    if is_avif and b"clap" in meta:  # which libavif leaves to its caller
        raise UnsupportedMedia(f"{name}: an AVIF picture that is cropped (clap), wanted it whole")
    try:
        image = opened(path)
    except (ImportError, *_BROKEN) as error:
        if beyond is None:  # FFmpeg may be less strict
            return None
        if isinstance(error, ImportError):
            raise UnsupportedMedia(
                f"{name}: a HEIC picture {beyond} is read by pillow-heif, which is not installed: "
                "pip install 'upframe[heif]'"
            ) from error
        raise _undecodable(name, error) from error
    limits().check_size(image.size[0], image.size[1], name)
    exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0") or None
    # libheif turns the pixels; libavif only says how, by the orientation
    found = checked(image.info.get("icc_profile"), exif, turn=None if is_avif else (0, False))
    if is_avif and beyond is None:
        return Still(found, "avif")
    bits = meta[meta.find(b"pixi") + 9]
    if is_avif and bits > 8:
        found = replace(found, notes=(*found.notes, f"its {bits} bits are read as 8, by Pillow"))
    png = cache(lambda: _png(opened(path), name))  # opened again: libavif fails only once
    return Still(found, "avif" if is_avif else "heif", lambda: BytesIO(png()))


def _undecodable(name: str, error: Exception) -> UnsupportedMedia:
    return UnsupportedMedia(f"{name}: not a picture that can be decoded: {reason_of(error)}")


def _index_of(path: Path, name: str) -> bytes | None:
    """Return the index of a HEIF file; None if it is a film."""
    boxes, size = mp4_boxes(path), path.stat().st_size
    names = [box for box, _ in boxes]
    if "meta" not in names or "moov" in names:  # the latter also of sequences of pictures
        return None
    needed = max(end for box, end in boxes if box in ("meta", "mdat"))
    if needed > size:
        raise TruncatedMedia(f"{name}: truncated: got {size} of {needed} bytes")
    start, end = (boxes[names.index("meta") - back][1] for back in (1, 0))
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _opened_avif(path: Path) -> Any:
    from PIL.AvifImagePlugin import AvifImageFile  # here, since few inputs need it

    return AvifImageFile(BytesIO(path.read_bytes()))


def _opened_heic(path: Path) -> Any:
    opened = import_module("pillow_heif").open_heif(path, convert_hdr_to_8bit=False)
    return opened[opened.primary_index]


def _png(image: Any, name: str) -> bytes:
    try:
        pixels = np.asarray(image)
    except _BROKEN as error:
        raise _undecodable(name, error) from error
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    nclx = image.info.get("nclx_profile")
    cicp = (nclx["color_primaries"], nclx["transfer_characteristics"]) if nclx else None
    writer = Writer(pixels, 1, cicp)
    return writer.head + writer.frame(pixels) + END
