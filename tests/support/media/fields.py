"""Clips with combs, flags that lie, and film shown for two and three fields in turn."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

from support.media.clips import make_clip

_MOVING = "testsrc2=size=320x240:rate={rate},rotate=0.35"
_WEAVE = {
    "tt": "tinterlace=interleave_top,setfield=prog",
    "bb": "tinterlace=interleave_bottom,setfield=prog",
}

_LOSSLESS = {
    "libx264": ["-c:v", "libx264", "-qp", "0", "-g", "12"],
    "mpeg2video": ["-c:v", "mpeg2video", "-q:v", "1", "-g", "6"],
    "ffv1": ["-c:v", "ffv1"],
    "rawvideo": ["-c:v", "rawvideo"],
}
_TOP_FIRST = {
    "libx264": ["-flags", "+ildct", "-x264opts", "tff=1"],
    "mpeg2video": ["-flags", "+ildct+ilme", "-field_order", "tt"],
}


def _encode(path: Path, source: str, *options: str) -> Path:
    command = ["ffmpeg", "-v", "error", "-y", "-nostdin", "-f", "lavfi", "-i", source, *options]
    subprocess.run([*command, str(path)], check=True)
    return path


def moving_frames(path: Path, *, rate: int, frames: int) -> Path:
    """Progressive frames of the picture of which all others here are made."""
    return _encode(path, _MOVING.format(rate=rate), "-frames:v", str(frames), *_LOSSLESS["ffv1"])


def unflagged_combs(path: Path, order: str, *, codec: str = "libx264", frames: int = 24) -> Path:
    """Two fields in each frame, of two times, which no flag says."""
    source = f"{_MOVING.format(rate=50)},{_WEAVE[order]}"
    return _encode(path, source, "-frames:v", str(frames), *_LOSSLESS[codec])


def flagged_progressive(path: Path, *, codec: str = "libx264", frames: int = 24) -> Path:
    """Progressive frames in an interlaced stream, as camcorders write 25p into 50i."""
    flags = _TOP_FIRST[codec]
    return _encode(
        path, _MOVING.format(rate=25), "-frames:v", str(frames), *_LOSSLESS[codec], *flags
    )


def wrongly_ordered(path: Path, *, frames: int = 24) -> Path:
    """Bottom field first by its pixels, top field first by its flags."""
    source = f"{_MOVING.format(rate=50)},tinterlace=interleave_bottom,setfield=tff"
    flags = _TOP_FIRST["libx264"]
    return _encode(path, source, "-frames:v", str(frames), *_LOSSLESS["libx264"], *flags)


def telecined(path: Path, *, frames: int = 40) -> Path:
    """Film in 60 fields, none of them flagged: two frames of five have combs."""
    source = f"{_MOVING.format(rate='24000/1001')},telecine,setfield=prog"
    return _encode(path, source, "-frames:v", str(frames), *_LOSSLESS["libx264"])


def still_combs(path: Path, *, flagged: bool, frames: int = 24) -> Path:
    """A picture that does not move, whose lines alternate."""
    source = "color=gray:size=320x240:rate=25,geq=lum='if(mod(Y,2),60,180)':cb=128:cr=128"
    flags = _TOP_FIRST["libx264"] if flagged else []
    return _encode(path, source, "-frames:v", str(frames), *_LOSSLESS["libx264"], *flags)


def soft_telecine(
    path: Path, *, frames: int = 24, video_from: int | None = None, audio: bool = False
) -> Path:
    """Film in MPEG-2 of 30000/1001 whose flags repeat a field of every second frame.

    Args:
        path: What to write; its name decides the container.
        frames: How many.
        video_from: The first frame without such flags, shown for two fields, as all after it; a
            multiple of 4.
        audio: Add a sine in AC-3, as long as the film.
    """
    raw = path.with_suffix(".m2v")
    make_clip(
        raw, frames=frames, rate=Fraction(24_000, 1001), codec="mpeg2video", format="mpeg2video",
        options={"bf": "2", "g": "12"},
    )  # fmt: skip
    raw.write_bytes(_with_pulldown(raw.read_bytes(), frames if video_from is None else video_from))
    kind = {".vob": "vob", ".ts": "mpegts", ".mkv": "matroska"}[path.suffix]
    command = ["ffmpeg", "-v", "error", "-y", "-fflags", "+genpts", "-i", str(raw)]
    if audio:
        command += ["-f", "lavfi", "-t", str(frames / 24), "-i", "sine=r=48000", "-c:a", "ac3"]
    subprocess.run([*command, "-c:v", "copy", "-f", kind, str(path)], check=True)
    return path


def _with_pulldown(stream: bytes, until: int) -> bytes:
    """Set the flags of ISO/IEC 13818-2, 6.2.3.1: top_field_first and repeat_first_field."""
    data, place, group, seen, shown = bytearray(stream), 0, 0, 0, 0
    while (place := data.find(b"\0\0\1", place)) >= 0:
        kind = data[place + 3]
        if kind == 0xB3:  # sequence header: frame_rate_code 4 is 30000/1001
            data[place + 7] = data[place + 7] & 0xF0 | 4
        elif kind == 0xB8:
            group = seen
        elif kind == 0:
            shown = group + (data[place + 4] << 2 | data[place + 5] >> 6)  # temporal_reference
            seen += 1
        elif kind == 0xB5 and data[place + 4] >> 4 == 1:
            data[place + 5] &= ~0x08  # progressive_sequence
        elif kind == 0xB5 and data[place + 4] >> 4 == 8:
            cadence = ((1, 1), (0, 0), (0, 1), (1, 0))
            top, repeat = cadence[shown % 4] if shown < until else (1, 0)
            data[place + 7] = data[place + 7] & ~0x82 | top << 7 | repeat << 1
            data[place + 8] |= 0x80  # progressive_frame
        place += 3
    return bytes(data)
