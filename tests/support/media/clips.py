"""Small real clips for tests, written with PyAV: every one is made when a test asks for it.

Each frame's luma tells its index (see `index_of`), so that a lost, doubled or misplaced frame
shows after any lossy codec.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from upframe.filters.frame import Picture, PixelFormat

HDR10 = (
    "hdr10=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited"
    ":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    ":max-cll=1000,400"
)
"""x265 parameters of an HDR10 stream: P3 D65, 0.005 to 1000 cd/m2, MaxCLL 1000, MaxFALL 400."""

# the four tags by the numbers of ISO/IEC 23091-2, as PyAV takes them
BT709 = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1}
BT2020_PQ = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}


def luma_of(index: int) -> int:
    """The 8-bit luma of a frame's flat part: 12 apart, and back to the start after 16 frames."""
    return 32 + 12 * (index % 16)


def index_of(picture: Picture) -> int:
    """Which frame (modulo 16) a decoded picture of `make_clip` or `make_still` is."""
    form = PixelFormat.parse(picture.pix_fmt)
    scale = 2 ** (form.bit_depth - 8)
    planes = [plane.numpy().astype(np.float64) / scale for plane in picture.planes]
    flats = [plane[plane.shape[0] // 2 + 2 : -2, 2:-2].mean() for plane in planes]
    if form.family == "rgb":
        luma = 16 + 219 / 255 * (0.299 * flats[0] + 0.587 * flats[1] + 0.114 * flats[2])
    else:
        luma = 16 + 219 / 255 * flats[0] if picture.color.range == "pc" else flats[0]
    return round((luma - 32) / 12)


def numbered_frame(
    index: int, width: int = 64, height: int = 48, pix_fmt: str = "yuv420p"
) -> av.VideoFrame:
    """Frame `index`: below a flat luma that numbers it, above a bright bar that moves right."""
    luma = np.full((height, width), luma_of(index), np.uint8)
    luma[: height // 2] = 60
    left = (3 * index) % max(1, width - width // 4)
    luma[height // 8 : 3 * height // 8, left : left + width // 4] = 200
    chroma = np.full((height // 2 * 2, width // 2), 128, np.uint8)[: (height + 1) // 2 * 2]
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(frame.planes, (luma, chroma[::2] + 8, chroma[1::2] - 8), strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        filled = values[: plane.height, : plane.width]
        rows[: filled.shape[0], : filled.shape[1]] = filled
        plane.update(rows.tobytes())
    return frame if pix_fmt == "yuv420p" else frame.reformat(format=pix_fmt, threads=1)


def combed_frame(index: int, width: int = 64, height: int = 48) -> av.VideoFrame:
    """An interlaced frame, top field first: its two fields show the bar at two times."""
    top, bottom = (
        numbered_frame(2 * index, width, height),
        numbered_frame(2 * index + 1, width, height),
    )
    frame = numbered_frame(index, width, height)
    for plane, first, second in zip(frame.planes, top.planes, bottom.planes, strict=True):
        rows = np.frombuffer(bytes(first), np.uint8).reshape(plane.height, -1).copy()
        rows[1::2] = np.frombuffer(bytes(second), np.uint8).reshape(plane.height, -1)[1::2]
        plane.update(rows.tobytes())
    return frame


def make_clip(
    path: Path,
    *,
    frames: int = 12,
    width: int = 64,
    height: int = 48,
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    sample_aspect_ratio: Fraction | None = None,
    rotation: int = 0,
    hflip: bool = False,
    interlaced: bool = False,
    audio: str | None = None,
    audio_offset_seconds: float = 0.0,
    subtitles: Sequence[tuple[float, float, str]] = (),
    chapters: Sequence[tuple[float, float, str]] = (),
    attachment: bool = False,
    metadata: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Write a clip; the container is told by the name.

    Args:
        path: Where to.
        frames: How many, numbered as `luma_of` says.
        width: Pixels.
        height: Pixels.
        rate: Frames per second; with `pts`, only what the header claims.
        codec: FFmpeg's name of the encoder.
        pix_fmt: What it is given.
        pts: In `time_base`, instead of a constant rate: for variable rates and start offsets.
        time_base: Of `pts`; 1 / rate if not given.
        options: Of the encoder; x264 makes B-frames by default.
        tags: Colour tags, such as `BT709`.
        sample_aspect_ratio: Of the pixels.
        rotation: Degrees counter-clockwise, in the display matrix (MP4, MOV).
        hflip: Mirror in the display matrix, as PyAV applies it: after the rotation.
        interlaced: Two fields per frame, top field first.
        audio: Codec of a 440 Hz sine that lasts as long as the video: ``aac``, ``pcm_s16le``, …
        audio_offset_seconds: When the sound starts.
        subtitles: (start, end, text) in seconds; srt in Matroska, mov_text in MP4.
        chapters: (start, end, title) in seconds.
        attachment: Put a file named font.ttf into a Matroska.
        metadata: Of the container.
        container_options: Of the muxer, such as ``movflags``.
        format: FFmpeg's name of the container, where the file's name does not tell it.
    """
    base = time_base or 1 / rate
    with av.open(
        str(path), "w", format=format, container_options=container_options or {}
    ) as container:
        container.metadata.update(metadata or {})
        all_options = {**_quiet(codec), **(options or {})}
        if interlaced:
            all_options |= {"flags": "+ildct+ilme", "x264-params": "tff=1"}
        stream = container.add_stream(codec, rate=rate, options=all_options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation or hflip:
            stream.set_display_rotation(rotation, hflip)
        sound = _add_audio(container, audio)
        text = _add_subtitles(container, path) if subtitles else None
        if attachment:
            container.add_attachment("font.ttf", "application/x-truetype-font", b"not a font")
        if chapters:
            _set_chapters(container, chapters)
        seconds = float(frames / rate) if pts is None else float((pts[-1] + 1) * base)
        # everything else first: these are short clips, and the muxer sorts by time
        _write_video(container, stream, frames, pts, base, pix_fmt, interlaced)
        if sound is not None:
            _write_sine(container, sound, seconds, audio_offset_seconds)
        if text is not None:
            _write_subtitles(container, text, subtitles)
    return path


def _quiet(codec: str) -> dict[str, str]:
    return {"x265-params": "log-level=none"} if codec == "libx265" else {}


def _write_video(
    container: OutputContainer,
    stream: VideoStream,
    frames: int,
    pts: Sequence[int] | None,
    time_base: Fraction,
    pix_fmt: str,
    interlaced: bool,
) -> None:
    context = stream.codec_context
    for index in range(frames):
        make = combed_frame if interlaced else numbered_frame
        frame = make(index, context.width, context.height)
        if pix_fmt != "yuv420p":
            frame = frame.reformat(format=pix_fmt, threads=1)
        frame.pts = index if pts is None else pts[index]
        frame.time_base = time_base
        following = index + 1 if pts is None else (*pts, 2 * pts[-1] - pts[-2])[index + 1]
        frame.duration = following - frame.pts
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_audio(container: OutputContainer, codec: str | None):
    if codec is None:
        return None
    stream = container.add_stream(codec, rate=48_000)
    stream.codec_context.layout = "mono"
    return stream


def _write_sine(container: OutputContainer, stream, seconds: float, offset_seconds: float) -> None:
    total = int(48_000 * seconds)
    wave = 0.25 * np.sin(2 * np.pi * 440 * np.arange(total) / 48_000)
    format_name = stream.codec_context.format.name
    start = int(48_000 * offset_seconds)
    for first in range(0, total, 1024):
        piece = wave[first : first + 1024]
        samples = piece if format_name.startswith("flt") else piece * 32_767
        dtype = np.float32 if format_name.startswith("flt") else np.int16
        frame = av.AudioFrame.from_ndarray(
            samples.astype(dtype).reshape(1, -1), format_name, "mono"
        )
        frame.sample_rate = 48_000
        frame.pts, frame.time_base = start + first, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _add_subtitles(container: OutputContainer, path: Path):
    return container.add_mux_stream("mov_text" if path.suffix in (".mp4", ".mov") else "subrip")


def _write_subtitles(container: OutputContainer, stream, lines) -> None:
    is_mov = "mp4" in container.format.name or "mov" in container.format.name
    for start, end, text in lines:
        data = text.encode()
        packet = av.Packet(struct.pack(">H", len(data)) + data if is_mov else data)
        packet.stream = stream
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = round(start * 1000)
        packet.duration = round((end - start) * 1000)
        container.mux(packet)


def _set_chapters(container: OutputContainer, chapters) -> None:
    container.set_chapters(
        [
            {
                "id": index + 1,
                "start": round(start * 1000),
                "end": round(end * 1000),
                "time_base": Fraction(1, 1000),
                "metadata": {"title": title},
            }
            for index, (start, end, title) in enumerate(chapters)
        ]
    )


def make_hdr10_clip(path: Path, *, frames: int = 12) -> Path:
    """A 10-bit HEVC clip with BT.2020 PQ tags, mastering display and light levels."""
    return make_clip(
        path,
        frames=frames,
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=BT2020_PQ,
        options={"x265-params": f"log-level=none:{HDR10}"},
    )


def make_vfr_clip(path: Path, *, pts: Sequence[int] = (0, 40, 80, 180, 220, 300, 333, 400)) -> Path:
    """A clip of variable rate, by default with pts in milliseconds."""
    return make_clip(path, frames=len(pts), pts=pts, time_base=Fraction(1, 1000))


def make_sequence(folder: Path, *, frames: int = 5, start: int = 1, suffix: str = "png") -> str:
    """Numbered images; returns their printf pattern."""
    pix_fmt = {"png": "rgb24", "jpg": "yuvj420p", "tiff": "rgb24", "webp": "yuv420p"}[suffix]
    pattern = folder / f"frame_%05d.{suffix}"
    for index in range(frames):
        make_still(Path(str(pattern) % (start + index)), index=index, pix_fmt=pix_fmt)
    return str(pattern)


def make_still(
    path: Path,
    *,
    index: int = 0,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "rgb24",
) -> Path:
    """One picture: PNG, JPEG, WebP or TIFF by its suffix."""
    codecs = {".png": "png", ".jpg": "mjpeg", ".tiff": "tiff", ".webp": "libwebp"}
    codec = av.CodecContext.create(codecs[path.suffix], "w")
    codec.width, codec.height, codec.pix_fmt = width, height, pix_fmt
    codec.time_base = Fraction(1, 25)
    if path.suffix == ".jpg":
        codec.color_range = 2
    frame = numbered_frame(index, width, height, pix_fmt)
    frame.pts = 0
    packets = [*codec.encode(frame), *codec.encode(None)]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path
