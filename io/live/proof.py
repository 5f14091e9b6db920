"""What a recording holds: counted, timed, and where it was cut off, shortened to what is whole.

Light on purpose: the process that records loads nothing that computes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from ..errors import VerificationFailed

_TS_PACKET_BYTES = 188
_TOLERANCE = Fraction(2, 1000)
"""Seconds: both ends may be rounded to milliseconds."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the packets of a recording's video say."""

    frames: int
    seconds: Fraction
    """From the start of the first frame to that of the last."""


def prove(path: Path, form: str) -> Proof:
    """Read a recording to its end.

    Args:
        path: the file, under whatever name.
        form: FFmpeg's name of its container.

    Raises:
        VerificationFailed: if it cannot be read, or holds no video.
    """
    frames, first, last = 0, None, None
    try:
        with av.open(f"file:{path}", format=form) as opened:
            if not opened.streams.video:
                raise VerificationFailed(f"{path.name} holds no video")
            video = opened.streams.video[0]
            for packet in opened.demux(video):
                if packet.size == 0 or packet.is_corrupt:
                    continue
                frames += 1
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = packet.pts if last is None else max(last, packet.pts)
            tick = video.time_base or Fraction(0)
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VerificationFailed(f"{path.name} cannot be read back: {reason}") from error
    if first is None or last is None:
        raise VerificationFailed(f"{path.name} holds no frame with a time, got {frames} frames")
    return Proof(frames, (last - first) * tick)


def check(path: Path, form: str, wanted: Proof) -> None:
    """Compare a finished recording with what was written to it.

    Raises:
        VerificationFailed: if it is not that; the text says what was got and wanted.
    """
    got = prove(path, form)
    if got.frames != wanted.frames:
        raise VerificationFailed(f"{path.name}: frames: wanted {wanted.frames}, got {got.frames}")
    if abs(got.seconds - wanted.seconds) > _TOLERANCE:
        raise VerificationFailed(
            f"{path.name}: last frame at: wanted {float(wanted.seconds):.3f} s, "
            f"got {float(got.seconds):.3f} s"
        )


def shorten(path: Path, form: str) -> None:
    """Cut off the part at the end of an unfinished file that was not written whole.

    Raises:
        OSError: if it cannot be.
    """
    if form in ("mp4", "mov"):
        size = whole_fragments(path)
    elif form == "mpegts":
        size = path.stat().st_size // _TS_PACKET_BYTES * _TS_PACKET_BYTES
    elif form == "flv":
        size = whole_tags(path)
    else:  # the demuxer of Matroska stops at the last whole block by itself
        return
    if 0 < size < path.stat().st_size:
        os.truncate(path, size)


def whole_fragments(path: Path) -> int:
    """Tell up to which byte an MP4 consists of whole fragments: an index and its data.

    Source: ISO/IEC 14496-12, 4.2 and 8.8.4.
    """
    total = path.stat().st_size
    offset = whole = 0
    has_index = False
    with path.open("rb") as file:
        while offset + 8 <= total:
            file.seek(offset)
            head = file.read(16)
            size, name = int.from_bytes(head[:4]), head[4:8]
            if size == 1:
                size = int.from_bytes(head[8:16])
            if size < 8 or offset + size > total:
                break
            if name == b"moov" and has_index:  # of the file that it was about to become
                break
            has_index = has_index or name == b"moov"
            offset += size
            if name != b"moof":  # which is of no use without the data behind it
                whole = offset
    return whole


def whole_tags(path: Path) -> int:
    """Tell up to which byte a Flash video consists of whole tags.

    Source: Adobe Flash Video File Format Specification 10.1, E.3 and E.4.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        offset = int.from_bytes(file.read(9)[5:9]) + 4
        while offset + 11 <= total:
            file.seek(offset + 1)
            size = 11 + int.from_bytes(file.read(3)) + 4
            if offset + size > total:
                break
            offset += size
    return min(offset, total)
