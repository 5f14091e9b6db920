"""Did the input end where its header says that it ends?

Only what a container promises exactly is held against it, so that no intact file is accused: the
index of an MP4 (after its edit list), the size of a Matroska segment or its track's duration, the
length of an AVI. Formats without a promise (MPEG-TS, raw streams) can end anywhere.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_SLACK_FRAMES = 3  # Matroska and AVI round their durations


def missing_end(
    container: InputContainer,
    stream: VideoStream,
    path: Path | None,
    *,
    num_packets: int,
    end_seconds: Fraction,
    frame_seconds: Fraction,
) -> str | None:
    """Say what the header promised beyond what came; None if all came, or nothing was promised.

    Args:
        container: Read to its end.
        stream: The video stream.
        path: The file, if it is one.
        num_packets: Those of the stream that were read.
        end_seconds: Where the last frame ends, in the stream's own time.
        frame_seconds: What one frame lasts, about.
    """
    if "mp4" in container.format.name.split(","):
        promised = len(stream.index_entries)
        return f"{promised} frames" if num_packets < promised else None
    if path is not None and (size := segment_end(path)) and size > path.stat().st_size:
        return f"a segment up to byte {size}"
    promised_seconds = _promised_seconds(container, stream)
    if promised_seconds and end_seconds < promised_seconds - _SLACK_FRAMES * frame_seconds:
        return f"{float(promised_seconds):.3f} seconds"
    return None


def ends_inside_frame(container: InputContainer, path: Path | None, end_byte: int) -> bool:
    """Tell whether a YUV4MPEG2 file goes on after its last whole frame: FFmpeg drops that rest.

    Args:
        container: Read to its end.
        path: The file, if it is one.
        end_byte: Where the last whole frame ends.
    """
    is_y4m = container.format.name == "yuv4mpegpipe"
    return is_y4m and path is not None and path.stat().st_size > end_byte


def _promised_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """What the header says about this very stream, in seconds; None if it says nothing."""
    kinds = container.format.name.split(",")
    if "avi" in kinds and stream.time_base:
        return stream.frames * stream.time_base
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if "matroska" in kinds and clock:
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return None


def segment_end(path: Path) -> int | None:
    """Read where a Matroska or WebM file's segment ends; None for other files, or where unknown.

    Source: RFC 8794 (EBML), sections 4 and 6; RFC 9559, section 5.1.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if not head.startswith(_EBML):
        return None
    length, offset = _vint(head, len(_EBML))
    offset += length or 0
    if head[offset : offset + len(_SEGMENT)] != _SEGMENT:
        return None
    length, offset = _vint(head, offset + len(_SEGMENT))
    return None if length is None else offset + length


def _vint(data: bytes, offset: int) -> tuple[int | None, int]:
    """Read an EBML data size: its value (None if unknown) and the offset behind it."""
    if offset >= len(data) or not data[offset]:
        return None, offset
    width = 9 - data[offset].bit_length()
    value = int.from_bytes(data[offset : offset + width]) & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), offset + width
