"""Media through the sink, and what real ffprobe and ffmpeg processes say of the result."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from upframe.filters.frame import Color, Picture, PixelFormat, StreamInfo
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.media import Sink
from upframe.io.part import Part
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source
from upframe.io.streams.plan import plan_streams

FAST = EncoderOptions(preset="ultrafast")


def pictures(
    info: StreamInfo, count: int = 12, *, pts: list[int] | None = None, start: int = 0
) -> Iterator[Picture]:
    """Flat pictures whose luma numbers them; constant rate from `start` unless `pts` says else."""
    form = PixelFormat.parse(info.pix_fmt)
    step = round(1 / info.rate / info.time_base) if info.rate else 0
    times = pts if pts is not None else [start + index * step for index in range(count)]
    ends = [*times[1:], times[-1] + (step or times[-1] - times[-2])]
    for index, (time, end) in enumerate(zip(times, ends, strict=True)):
        yield Picture(
            tuple(_plane(info, form, plane, index) for plane in range(form.num_planes)),
            info.pix_fmt,
            info.color,
            time,
            end - time,
            info.time_base,
            alpha=_plane(info, form, 0, index) if form.has_alpha else None,
        )


def _plane(info: StreamInfo, form: PixelFormat, plane: int, index: int) -> torch.Tensor:
    width, height = form.plane_size(info.width, info.height, plane)
    dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
    value = (40 + 10 * (index % 16) + 5 * plane) << (form.bit_depth - 8)
    ramp = torch.arange(width).expand(height, width) << (form.bit_depth - 8)
    return (ramp + value).to(torch.int32).to(dtype).contiguous()


def constant(
    rate: Fraction | int = 25, pix_fmt: str = "yuv420p", color: Color | None = None, **more: Any
) -> StreamInfo:
    """A stream of constant rate, 64x48."""
    rate = Fraction(rate)
    info = StreamInfo(64, 48, pix_fmt, 1 / rate, rate, rate, color or Color())
    return replace(info, **more)


def write(sink: Sink, all_pictures: Iterator[Picture]) -> None:
    """Write all pictures and finish."""
    for picture in all_pictures:
        sink.write(picture)
    sink.finish()


def encode(target: Path, info: StreamInfo, count: int = 12, **more: Any) -> Path:
    """Make a file of pictures through the sink."""
    options = more.pop("options", FAST if target.suffix in (".mp4", ".mkv", ".mov") else None)
    sink = open_file_sink(target, info, options or EncoderOptions())
    write(sink, pictures(info, count, **more))
    return target


def through(
    source: Path | str,
    target: Path,
    *,
    options: EncoderOptions = FAST,
    strict: bool = False,
    container: str | None = None,
    audio_codec: str = "auto",
    part: Part | None = None,
) -> list[str]:
    """Decode a file or a part and write it again, all streams included; give the plan's lines."""
    plan = plan_streams(
        str(source), str(target), container, strict=strict, audio_codec=audio_codec, part=part
    )
    opened = open_source(str(source), part=part)
    try:
        pix_fmt = output_pix_fmt(opened.info, options, target, container)
        info = replace(opened.info, pix_fmt=pix_fmt)
        write(open_file_sink(target, info, options, plan=plan, format=container), iter(opened))
    finally:
        opened.close()
    return plan.lines()


def ffprobe(path: Path) -> dict[str, Any]:
    """Everything a real ffprobe says: streams with counted packets, format, chapters."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-count_packets"]
    command += ["-show_streams", "-show_format", "-show_chapters", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    return json.loads(done.stdout)


def streams(path: Path, kind: str) -> list[dict[str, Any]]:
    """The streams of a kind, as ffprobe sees them."""
    return [one for one in ffprobe(path)["streams"] if one["codec_type"] == kind]


def packets(path: Path, stream: str = "v:0") -> list[dict[str, Any]]:
    """The packets of one stream, as ffprobe sees them, in file order."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", stream]
    command += ["-show_packets", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    return json.loads(done.stdout)["packets"]


def frame_tags(path: Path) -> dict[str, Any]:
    """The first video frame with its side data, as ffprobe decodes it."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-select_streams", "v:0"]
    command += ["-read_intervals", "%+#1", "-show_frames", str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    return json.loads(done.stdout)["frames"][0]


def decodes_without_errors(path: Path) -> bool:
    """Whether a real ffmpeg decodes every stream to its end and complains of nothing."""
    command = ["ffmpeg", "-v", "error", "-xerror", "-i", str(path), "-map", "0:v", "-map", "0:a?"]
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, check=False)
    return done.returncode == 0 and not done.stderr


def sound_offset(path: Path) -> float:
    """Seconds from the first frame to the first sound, as ffprobe sees the streams' starts."""
    video, audio = streams(path, "video")[0], streams(path, "audio")[0]
    return float(audio["start_time"]) - float(video["start_time"])


def sync(path: Path, *, end: bool = False) -> float:
    """Seconds from the first frame to the start, or end, of the last packet of sound, as demuxed.

    Measured at the end, because containers mark an encoder's priming at the start in ways that
    players of different age understand differently.
    """
    with av.open(str(path)) as opened:
        times: dict[str, list[Fraction]] = {"video": [], "audio": []}
        for packet in opened.demux(opened.streams.video[0], opened.streams.audio[0]):
            if packet.pts is not None and packet.time_base:
                more = (packet.duration or 0) if end and packet.stream.type == "audio" else 0
                times[packet.stream.type].append((packet.pts + more) * packet.time_base)
    return float(max(times["audio"]) - min(times["video"]))


def decoded_frames(path: Path) -> list[tuple[int, bytes]]:
    """The pts and the hash of each frame of the video, decoded."""
    with av.open(str(path)) as opened:
        return [
            (frame.pts or 0, hashlib.sha256(frame.to_ndarray().tobytes()).digest())
            for frame in opened.decode(video=0)
        ]


def decoded_sound(path: Path) -> list[bytes]:
    """The samples of the first stream of sound, decoded, one byte string a channel."""
    with av.open(str(path)) as opened:
        pieces = [frame.to_ndarray() for frame in opened.decode(audio=0)]
        packed = not opened.streams.audio[0].codec_context.format.is_planar
    joined = np.concatenate([one.reshape(-1, 1).T if packed else one for one in pieces], axis=1)
    return [channel.tobytes() for channel in joined]
