"""How much space an output takes, and how much there is. Loads neither torch nor PyAV."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...filters.options import FilterOptions
from ...io.encode.options import QUALITIES, EncoderOptions, quality_range

MARGIN_BYTES = 64 << 20
"""Free on a file system in any case, before anything is written to it."""
_PIXELS_POWER = 0.75
"""Bit rate at equal quality grows with the 0.75th power of the pixels in a frame."""
_RATE_POWER = 0.5
"""And about with the root of the frame rate: in-betweens are cheap to predict."""
_COPIES = 2
"""Of the video at the end: the finished segments, and the file that they are joined into."""
_LEAST = 0.1
"""Of the expected video, what even a film of few details takes."""

_BITS: Mapping[str, float] = {
    "libx264": 0.3, "libx264rgb": 0.6, "libx265": 0.2, "libsvtav1": 0.15, "libvpx-vp9": 0.2,
    "libvpx": 0.3, "h264_nvenc": 0.3, "hevc_nvenc": 0.2, "av1_nvenc": 0.15, "prores_ks": 4.0,
    "prores": 4.0, "prores_aw": 4.0, "dnxhd": 4.0, "cfhd": 5.0, "mjpeg": 3.0, "gif": 3.0,
}  # fmt: skip
"""Bits for a pixel at the default quality, for a film with much detail: rough on purpose."""
_USUAL_BITS = 0.8
_LOSSLESS = ("ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv", "png", "apng", "qtrle", "tiff")
_LOSSLESS_SHARE = 0.6
"""Of the plain pixels."""
_PLAIN = ("rawvideo", "v210", "v308", "v408", "v410", "r210", "bmp", "wrapped_avframe")


def growth(filters: FilterOptions) -> float:
    """Estimate how many times larger a file becomes."""
    factor = 1.0
    if filters.enable_upscaling:
        factor *= (filters.upscaling_scale**2) ** _PIXELS_POWER
    if filters.enable_frame_interpolation:
        factor *= (2**filters.frame_interpolation_exp) ** _RATE_POWER
    return factor


@dataclass(frozen=True, slots=True)
class ExpectedSize:
    """What an output takes, in bytes."""

    video: int
    least_video: int
    copied: int
    """Of the streams that are copied."""

    @property
    def expected(self) -> int:
        """What will be wanted, with temporary files."""
        return _COPIES * self.video + self.copied

    @property
    def least(self) -> int:
        """What will be wanted in any case."""
        return _COPIES * self.least_video + self.copied


def expected_size(
    codec: str, options: EncoderOptions, pixels: int, plain_bits: float, grown: float, copied: int
) -> ExpectedSize:
    """Estimate the size of an output.

    `pixels` are of all frames, `plain_bits` for one that is not compressed; `grown` are the bytes
    of the input's video, times `growth`, `copied` those of copied streams. 0 is unknown.
    """
    plain = pixels * plain_bits / 8
    if codec in _PLAIN:
        return ExpectedSize(round(plain), round(plain), copied)
    if codec in _LOSSLESS:
        video = plain * _LOSSLESS_SHARE
    else:
        coded = min(pixels * _BITS.get(codec, _USUAL_BITS) / 8 * _of_quality(codec, options), plain)
        video = min(coded or grown, grown or coded)
    return ExpectedSize(round(video), round(video * _LEAST), copied)


def _of_quality(codec: str, options: EncoderOptions) -> float:
    """Return how many times larger than by default: twice for an eighth of the range less."""
    allowed = quality_range(codec)
    if options.crf is None or allowed is None or codec not in QUALITIES:
        return 1.0
    return float(2 ** ((QUALITIES[codec] - options.crf) * 8 / (allowed[1] - allowed[0])))


def source_bytes(source: str) -> int:
    """Return the size of a file, or of a numbered sequence; 0 for anything else. Blocks."""
    path = Path(source)
    try:
        if path.is_file():
            return path.stat().st_size
        start, percent, _ = path.name.partition("%")
        if not percent or "://" in source:
            return 0
        with os.scandir(path.parent) as entries:
            alike = (entry for entry in entries if entry.name.startswith(start))
            return sum(entry.stat().st_size for entry in alike if entry.name.endswith(path.suffix))
    except OSError:  # the job itself will report what is wrong with its source
        return 0


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a folder's file system, None if unknown. Blocks."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def device_of(folder: Path) -> int | None:
    """Return the number of a folder's file system, None if unknown. Blocks."""
    try:
        return folder.stat().st_dev
    except OSError:  # the job itself will report what is wrong with it
        return None


def size_text(num_bytes: float) -> str:
    """Write a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"
