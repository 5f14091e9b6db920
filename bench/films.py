"""Films of many kinds, made by ffmpeg, and what an ffmpeg that is not ours finds in a file."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import paths  # finds what is imported next
from figures import Check
from support.media.clips import HDR10, make_clip
from support.media.fields import soft_telecine

DATA = Path(os.environ.get("UPFRAME_TEST_DATA", paths.ROOT.parent / "shared"))
MOVING = "testsrc2=size=128x96:rate=24,rotate=0.2"
SOUND = "sine=frequency=440:sample_rate=48000"
_X265 = "log-level=none:keyint=12:min-keyint=12:scenecut=0:bframes=3"


class Shown(NamedTuple):
    """A decoded frame or a packet."""

    pts: Fraction
    """Seconds."""
    duration: Fraction
    digest: str
    """SHA-256 of its pixels or bytes."""


def frames_in(path: Path) -> list[Shown]:
    """All frames of the first video stream, decoded."""
    decoded = ["-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "-1"]
    return next((shown for kind, shown in _hashes(path, decoded) if kind == "video"), [])


def packets_in(path: Path, kind: str) -> list[list[Shown]]:
    """All packets of each stream of a kind: video, audio or subtitle."""
    copied = ["-map", "0:v", "-map", "0:s?", "-c", "copy"]
    return [shown for found, shown in _hashes(path, copied) if found == kind]


def _hashes(path: Path, words: Sequence[str]) -> list[tuple[str, list[Shown]]]:
    # with the sound, since ffmpeg moves what it takes of a transport stream to its start
    words = [*words, "-map", "0:a?", "-c:a", "copy", "-f", "framehash", "-"]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", str(path), *words]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    units: list[Fraction] = []
    found: list[tuple[str, list[Shown]]] = []
    for line in text.splitlines():
        if line.startswith("#tb"):
            units.append(Fraction(line.rpartition(" ")[2]))
        elif line.startswith("#media_type"):
            found.append((line.rpartition(" ")[2], []))
        elif line and not line.startswith("#"):
            stream, _, pts, duration, _, digest = (word.strip() for word in line.split(",")[:6])
            unit = units[int(stream)]
            shown = Shown(int(pts) * unit, int(duration) * unit, digest)
            found[int(stream)][1].append(shown)
    return found


def described(path: Path) -> dict[str, Any]:
    """What ffprobe says of streams, chapters and tags, and of each frame's side data."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-show_chapters"]
    command += ["-show_format", "-show_data_hash", "sha256", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for part in (found["format"], *found["streams"]):
        for name in _OF_ONE_FILE:
            part.pop(name, None)
        if part.get("codec_type") == "video":  # x265 names its options in it
            part["extradata_size"] = part["extradata_hash"] = None
        for name in [name for name in part.get("tags", ()) if name.startswith("_STATISTICS")]:
            del part["tags"][name]
    found["side data"] = _side_data(path)
    return found


_OF_ONE_FILE = ("filename", "size", "bit_rate", "probe_score", "max_bit_rate")
"""What two files of equal content may say otherwise."""


_OWN_WORDS = "User Data Unregistered SEI"


def _side_data(path: Path) -> list[Any]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v:0", "-show_frames"]
    ran = subprocess.run([*command, str(path)], capture_output=True, check=True)
    names = ("color_range", "color_space", "color_transfer", "color_primaries", "side_data_list")
    found = json.loads(ran.stdout)["frames"]
    for frame in found:  # x264 and x265 introduce themselves where they begin
        kept = [one for one in frame.get("side_data_list", ()) if _OWN_WORDS not in str(one)]
        frame["side_data_list"] = kept
    return [{name: frame.get(name) for name in (*names, "interlaced_frame")} for frame in found]


def differences(one: Any, other: Any, at: str = "") -> Iterator[str]:
    """Say where two results of `described` differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{at}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            yield from differences(first, second, f"{at}[{index}]")
    elif one != other:
        yield f"{at.lstrip('.')}: {str(one)[:60]} != {str(other)[:60]}"


def same(what: str, got: Sequence[Any], wanted: Sequence[Any], note: str = "") -> Check:
    """Whether two lists are equal; tells the first difference."""
    text = f"{len(got)} equal" if got == wanted else _first_difference(got, wanted)
    return Check(what, f"{text}{note}", f"{len(wanted)} equal", bool(wanted) and got == wanted)


def _first_difference(got: Sequence[Any], wanted: Sequence[Any]) -> str:
    pairs = enumerate(zip(got, wanted, strict=False))
    at = next((index for index, (one, other) in pairs if one != other), min(len(got), len(wanted)))
    different = sum(one != other for one, other in zip(got, wanted, strict=False))
    return f"{len(got)}, of which {different} differ, the first one is {at}"


def made(path: Path, *words: str) -> Path:
    """Run ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *words, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def drawn(path: Path, seconds: float, *words: str, source: str = MOVING) -> Path:
    """A moving picture, 24 frames a second."""
    pixels = [] if "-pix_fmt" in words else ["-pix_fmt", "yuv420p"]
    return made(path, "-f", "lavfi", "-t", str(seconds), "-i", source, *words, *pixels)


def scaled_clip(path: Path, seconds: float, size: str, *words: str) -> Path:
    """The clip of the test data, again and again, in a size."""
    clip = DATA / "media" / "bigbuckbunny.mp4"
    if not clip.exists():
        raise FileNotFoundError(f"no {clip}; UPFRAME_TEST_DATA names its folder")
    looped = ["-stream_loop", "-1", "-i", str(clip), "-t", str(seconds), "-map", "0:v:0"]
    return made(path, *looped, "-vf", f"scale={size}", "-r", "25", *words)


def uneven(
    path: Path, frames: int, width: int, height: int, *, start: int, seed: int, keys: int = 50
) -> Path:
    """A film of variable rate with B-frames, its times even numbers of milliseconds."""
    dice = random.Random(seed)
    gaps = dice.choices((20, 40, 42, 66, 84, 100), (1, 4, 4, 4, 4, 1), k=frames - 1)
    return make_clip(
        path, frames=frames, width=width, height=height, pts=list(accumulate(gaps, initial=start)),
        time_base=Fraction(1, 1000), options={"preset": "veryfast", "bf": "3", "g": str(keys)},
    )  # fmt: skip


def with_sound(film: Path, path: Path, seconds: float, *words: str) -> Path:
    """Add two tracks of sound, the second one from 0.35 s on, and whatever the words add."""
    sounds: list[str] = []
    for offset, tone in (("0", SOUND), ("0.35", SOUND.replace("440", "880"))):
        sounds += ["-itsoffset", offset, "-f", "lavfi", "-t", str(seconds), "-i", tone]
    mapped = ["-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:v", "copy", "-c:a", "aac"]
    return made(path, "-copyts", "-i", str(film), *sounds, *mapped, *words)


# ---------------------------------------------------------------------------------- kinds of films


@dataclass(frozen=True)
class Kind:
    """A kind of film, and the words by which it is encoded without loss."""

    name: str
    file: str
    """Its name tells the container."""
    make: Callable[[Path, float], object]
    """Writes so many seconds to a path."""
    encode: tuple[str, ...] = ("--codec", "ffv1")
    output: str = ".mkv"
    evened: Fraction | None = None
    """Frames per second, where the container's times are made even before a part is chosen."""


def _fonts_and_chapters(path: Path, seconds: float) -> None:
    plain = drawn(path.with_suffix(".video.mkv"), seconds, *_H264)
    font, chapters = path.with_name("plain.ttf"), path.with_name("chapters.txt")
    texts = path.with_suffix(".srt")
    font.write_bytes(random.Random(1).randbytes(50_000))
    middle = round(500 * seconds)
    marks = [(0, middle, "one"), (middle, 2 * middle, "two")]
    chapters.write_text(
        ";FFMETADATA1\ntitle=A film\n"
        + "".join(
            f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n"
            for start, end, title in marks
        )
    )
    texts.write_text(
        "".join(f"{n}\n00:00:0{n},250 --> 00:00:0{n},900\nline {n}\n\n" for n in range(1, 4))
    )
    inputs = ["-i", str(plain), "-i", str(chapters), "-i", str(texts)]
    inputs += ["-f", "lavfi", "-t", str(seconds), "-i", SOUND]
    attach = ["-attach", str(font), "-metadata:s:t", "mimetype=application/x-truetype-font"]
    mapped = ["-map", "0:v", "-map", "3:a", "-map", "2:s", "-map_metadata", "1"]
    made(path, *inputs, *mapped, "-map_chapters", "1", "-c:v", "copy", "-c:a", "flac", *attach)


def _two_tracks(path: Path, seconds: float) -> None:
    film = drawn(path.with_suffix(".video.mp4"), seconds, *_H264)
    with_sound(film, path, seconds, "-metadata:s:a:0", "language=eng", "-metadata:s:a:1",
               "language=deu")  # fmt: skip


def _uneven(path: Path, seconds: float) -> None:
    uneven(path, round(seconds * 17), 128, 96, start=0, seed=3, keys=12)


_H264 = ("-c:v", "libx264", "-g", "12", "-bf", "2")
_BT2020 = ("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc")
_TAGGED = ("-color_primaries", "bt709", "-color_trc", "bt709", "-colorspace", "bt709")
_X264_LOSSLESS = ("--codec", "libx264", "--crf", "0", "--preset", "ultrafast")
_X265_LOSSLESS = ("--codec", "libx265", "--preset", "ultrafast", "--encoder-option",
                  "x265-params=lossless=1:log-level=none")  # fmt: skip
_INTERLACED = ("-vf", "interlace", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-top", "1",
               "-g", "12", "-bf", "2", "-b:v", "2M")  # fmt: skip

KINDS = (
    Kind("SDR", "sdr.mp4", lambda p, s: drawn(p, s, *_H264, *_TAGGED), _X264_LOSSLESS, ".mp4"),
    Kind(
        "HDR10, 10 bit",
        "hdr10.mkv",
        lambda p, s: drawn(p, s, "-c:v", "libx265", "-pix_fmt", "yuv420p10le", *_BT2020,
                           "-x265-params", f"{_X265}:{HDR10}"),
        _X265_LOSSLESS,
    ),
    Kind("VFR", "vfr.mkv", _uneven),
    Kind("4:4:4", "444.mkv", lambda p, s: drawn(p, s, *_H264, "-pix_fmt", "yuv444p"),
         _X264_LOSSLESS),
    Kind("interlaced (MPEG-2)", "interlaced.mpg", lambda p, s: drawn(p, s, *_INTERLACED)),
    Kind("soft telecine", "telecine.ts",
         lambda p, s: soft_telecine(p, frames=round(6 * s) * 4), evened=Fraction(24_000, 1001)),
    Kind(
        "open GOP (x265)",
        "open.mkv",
        lambda p, s: drawn(p, s, "-c:v", "libx265", "-x265-params", f"{_X265}:open-gop=1"),
    ),
    Kind("MKV with fonts and chapters", "fonts.mkv", _fonts_and_chapters),
    Kind("MP4 with two audio tracks", "tracks.mp4", _two_tracks, _X264_LOSSLESS, ".mp4"),
    Kind(
        "TS",
        "plain.ts",
        lambda p, s: drawn(p, s, "-f", "lavfi", "-t", str(s), "-i", SOUND, *_H264, "-c:a", "aac",
                           "-output_ts_offset", "7.3"),
        _X264_LOSSLESS,
        ".ts",
    ),
)  # fmt: skip
