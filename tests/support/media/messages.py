"""Clips whose frames have captions and HDR10+, written and read without the code under test."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from support.media.clips import numbered_frame

_START = re.compile(b"\0\0\1")


def captions(index: int) -> bytes:
    """One pair of characters that tells a frame's index, as ATSC A/53 wraps it."""
    return b"\xb5\x00\x31GA94\x03" + bytes([0x41, 0xFF, 0xFC, 0x80 | index % 64, 0x80]) + b"\xff"


def hdr10_plus(index: int) -> bytes:
    """The metadata of SMPTE ST 2094-40 for one window, whose luminances tell a frame's index."""
    fields = [(8, 0xB5), (16, 0x3C), (16, 1), (8, 4), (8, 1), (2, 1), (27, 400 + index), (1, 0)]
    fields += [(17, 5000 + index), (17, 0), (17, 7000), (17, 1500), (4, 9)]
    for percentage, value in zip((1, 5, 10, 25, 50, 75, 90, 95, 99), range(9), strict=True):
        fields += [(7, percentage), (17, 1000 * value)]
    fields += [(10, 0), (1, 0), (1, 1), (12, 100), (12, 200), (4, 9)]
    fields += [*((10, 100 * (anchor + 1)) for anchor in range(9)), (1, 0)]
    bits = "".join(f"{value:0{width}b}" for width, value in fields)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def with_sei(packet: bytes, messages: Iterable[bytes], *, hevc: bool) -> bytes:
    """Put messages before the first slice of an Annex B access unit."""
    starts = [match.start() for match in _START.finditer(packet)]
    first = next(s for s in starts if _is_slice(packet[s + 3], hevc=hevc))
    header = b"\x4e\x01" if hevc else b"\x06"
    units = b"".join(b"\0\0\0\1" + header + _escaped(message) for message in messages)
    return packet[:first] + units + packet[first:]


def _is_slice(header: int, *, hevc: bool) -> bool:
    return header >> 1 < 32 if hevc else header & 31 in (1, 5)


def _escaped(message: bytes) -> bytes:
    out, zeros = bytearray(), 0
    for byte in bytes([4, len(message)]) + message + b"\x80":
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def make_clip_with_messages(
    path: Path,
    codec: str,
    messages: Callable[[int], list[bytes]],
    *,
    frames: int = 8,
    options: dict[str, str] | None = None,
    bit_depth: int = 8,
) -> Path:
    """Write a clip of 25 frames a second; each frame has the messages of its index."""
    hevc = codec == "libx265"
    quiet = {"x265-params": "log-level=none:bframes=2"} if hevc else {"bf": "2"}
    with av.open(str(path), "w") as container:
        stream = cast("Any", container).add_stream(
            codec, rate=25, options={**quiet, **(options or {})}
        )
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p" if bit_depth == 8 else "yuv420p10le"
        stream.codec_context.time_base = Fraction(1, 25)

        def pass_on(packets: list[Any]) -> None:
            for packet in packets:
                made: Any = av.Packet(with_sei(bytes(packet), messages(packet.pts), hevc=hevc))
                made.stream, made.time_base = stream, packet.time_base
                made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
                made.is_keyframe = packet.is_keyframe
                container.mux(made)

        for index in range(frames):
            frame = numbered_frame(index, pix_fmt=stream.pix_fmt)
            frame.pts, frame.time_base, frame.duration = index, Fraction(1, 25), 1
            pass_on(stream.encode(frame))
        pass_on(stream.encode(None))
    return path


def side_data_of(path: Path, name: str) -> list[bytes | None]:
    """One kind of side data of every frame, as they are shown; None where a frame has none."""
    found: list[bytes | None] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            entries = {entry.type.name: bytes(entry) for entry in cast("Any", frame.side_data)}
            found.append(entries.get(name))
    return found


def coded_messages(path: Path, *, hevc: bool) -> list[bytes]:
    """The T.35 messages in a file, in coded order, as ffmpeg's own filters lay them bare."""
    name = "hevc" if hevc else "h264"
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v:0", "-c", "copy"]
    command += ["-bsf:v", f"{name}_mp4toannexb", "-f", name, "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    starts = [match.end() for match in _START.finditer(data)]
    units = [data[a:b] for a, b in zip(starts, [*(s - 3 for s in starts[1:]), None], strict=True)]
    prefix = b"\x4e\x01\x04" if hevc else b"\x06\x04"
    plain = (unit.replace(b"\0\0\3", b"\0\0") for unit in units if unit.startswith(prefix))
    return [unit[len(prefix) + 1 :][: unit[len(prefix)]] for unit in plain]
