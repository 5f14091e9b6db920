"""PNG's chunks, and the two that FFmpeg's muxer of animations leaves to us: pictures and delays.

Source: Portable Network Graphics, Third Edition (W3C, 2025), sections 5, 11.3.2.6 and 11.3.6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_DELAY = 65_535  # of numerator and denominator
_HIDDEN = {b"iCCP": b"icCP", b"eXIf": b"exIf"}  # ancillary names that nobody knows
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of components


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def chunks(png: bytes, start: int = len(SIGNATURE)) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each whole chunk, and where its data begin and end."""
    while start + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, start)
        if start + 12 + length > len(png):
            return
        yield png[start + 4 : start + 8], start + 8, start + 8 + length
        start += 12 + length


def with_hidden_data(png: bytes) -> bytes:
    """Return a PNG, or chunks of one, of the same length, in which no reader finds ICC or EXIF.

    The profile has a name. Wherever PyAV 18 looks at the side data of a frame, it frees that name,
    which the frame frees again: a crash. Where EXIF data are damaged, FFmpeg 8 refuses the picture.
    """
    if not any(name in png for name in _HIDDEN):
        return png
    made = bytearray(png)
    for name, start, end in chunks(png, len(SIGNATURE) if png.startswith(SIGNATURE) else 0):
        if name in _HIDDEN:
            made[start - 8 : end + 4] = chunk(_HIDDEN[name], png[start:end])
    return bytes(made)


class Writer:
    """Writes PNG, or an animation of several pictures of one size, from top to bottom.

    Pictures are (H, W, C) of gray, gray and alpha, RGB or RGB and alpha; uint8 or uint16. `cicp`
    are primaries and transfer of ITU-T H.273; None where unknown.
    """

    def __init__(
        self, first: npt.NDArray[np.generic], num_frames: int, cicp: tuple[int, int] | None = None
    ) -> None:
        self._num_chunks = 0
        height, width, num_components = first.shape
        self._size = width, height
        self._animated = num_frames > 1
        depth = 8 * first.dtype.itemsize
        head = struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[num_components], 0, 0, 0)
        self.head = SIGNATURE + chunk(b"IHDR", head)
        if cicp is not None:
            self.head += chunk(b"cICP", bytes([*cicp, 0, 1]))
        if self._animated:
            self.head += chunk(b"acTL", struct.pack(">II", num_frames, 1))

    def frame(self, pixels: npt.NDArray[np.generic], seconds: Fraction = Fraction(0)) -> bytes:
        """Return the chunks of one picture, which is shown for some time."""
        height, width, num_components = pixels.shape
        rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">")))
        lines = rows.view(np.uint8).reshape(height, width * num_components * pixels.itemsize)
        data = zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes(), 1)  # 0: not filtered
        if not self._animated:
            return chunk(b"IDAT", data)
        numbers = (self._num_chunks, *self._size, 0, 0, *_fraction_of(seconds), 0, 0)
        control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", *numbers))
        if not self._num_chunks:
            self._num_chunks = 1
            return control + chunk(b"IDAT", data)
        self._num_chunks += 2
        return control + chunk(b"fdAT", struct.pack(">I", self._num_chunks - 1) + data)


END = chunk(b"IEND", b"")


def delayed(packet: bytes, seconds: Fraction) -> bytes:
    """Return the chunks of an animation's frame, which is to be shown for some time.

    FFmpeg's muxer only measures the time up to the next frame, so the last has none.
    """
    for name, start, end in chunks(packet, 0):
        if name == b"fcTL":
            delay = struct.pack(">HH", *_fraction_of(seconds))
            control = chunk(name, packet[start : start + 20] + delay + packet[start + 24 : end])
            return packet[: start - 8] + control + packet[end + 4 :]
    return packet


def _fraction_of(seconds: Fraction) -> tuple[int, int]:
    """Return the nearest fraction of two 16-bit numbers that is more than 0."""
    most = min(_MAX_DELAY, int(_MAX_DELAY / seconds)) if seconds else _MAX_DELAY
    near = min(seconds.limit_denominator(max(1, most)), Fraction(_MAX_DELAY))
    return (near.numerator, near.denominator) if near else (1, _MAX_DELAY)
