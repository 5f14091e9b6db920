"""Dolby Vision: which profile a file has, and whether its pictures mean anything without Dolby.

Dolby's data change the pictures of a base layer. Of most profiles that layer is plain HDR10, HLG or
SDR; of profile 5 and some others it is not: its colours, shown as they are, are green and violet.
FFmpeg keeps the container's record of that to itself, so that it is read here.

Sources: Dolby Vision Streams Within the ISO Base Media File Format 2.1.2, 3 (the record); Matroska
Codec Specifications, 7.2; Dolby Vision Profiles and Levels 1.3.2, 2 and 4.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..extent import EBML, mp4_index
from ..pictures.metadata import side_data
from ..rawvideo.matroska import block_additions
from ..traits import OpenedFile, Trait

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_BOX = re.compile(rb"\0\0\0\x20dv[cvw]C(.{24})", re.DOTALL)  # dvcC, dvvC and dvwC
_HEAD_BYTES = 1 << 20  # of Matroska: the tracks come before the frames
_ALWAYS_PLAIN = (4, 7, 9)
"""Profiles with a plain base layer, whose older records have 0 in place of its kind."""


@dataclass(frozen=True, slots=True)
class DolbyVision:
    """What a file says of it."""

    profile: int
    compatibility: int | None = None
    """What the base layer is by itself: 1 and 6 HDR10, 2 SDR, 4 HLG, 0 nothing; None: not said."""

    @property
    def is_plain(self) -> bool:
        """Whether the base layer is a picture without Dolby's data."""
        if self.profile in _ALWAYS_PLAIN:
            return True
        return self.profile != 5 if self.compatibility is None else self.compatibility != 0

    def __str__(self) -> str:
        kind = f".{self.compatibility}" if self.compatibility and self.profile >= 8 else ""
        return f"Dolby Vision profile {self.profile}{kind}"


def dolby_vision_of(path: Path | None, frame: VideoFrame | None = None) -> DolbyVision | None:
    """Return what a file says of Dolby Vision; None if nothing.

    MP4, MOV and Matroska have a record; of other formats the first frame tells.
    """
    record = b"" if path is None else _record_of(path)
    if len(record) >= 5:  # version, 2 bytes; profile, 7 bits; …; compatibility, 4 bits
        return DolbyVision(record[2] >> 1, record[4] >> 4)
    return None if frame is None else inferred((side_data(frame) or {}).get("DOVI_METADATA", b""))


def _record_of(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(EBML):
        added = block_additions(head)
        return next((added[name] for name in (b"dvcC", b"dvvC", b"dvwC") if name in added), b"")
    box = _BOX.search(mp4_index(path))
    return b"" if box is None else box[1]


def inferred(metadata: bytes) -> DolbyVision | None:
    """Infer the profile from libavutil's AVDOVIMetadata, which a decoder makes of Dolby's data.

    Only profile 5 has a full range and VDR profile 0. Where the residual of a second layer is not
    disabled, it is profile 7, else 8.
    """
    header = metadata[int.from_bytes(metadata[:8], sys.byteorder) :][:17]
    if len(header) < 17:
        return None
    vdr_profile, full_range, two_layers, no_residual = (header[at] for at in (4, 10, 15, 16))
    if vdr_profile == 0:
        return DolbyVision(5) if full_range else None
    return DolbyVision(7 if two_layers and not no_residual else 8)


def dolby_vision_traits(opened: OpenedFile) -> Iterator[Trait]:
    """Yield what a file says of Dolby Vision."""
    if (found := dolby_vision_of(opened.path, next(iter(opened.frames), None))) is not None:
        yield Trait("video", "dolby vision", str(found))
