"""The demo's media, drawn by formulas: a landscape with a tune, and a before/after picture."""

# PyAV's Packet is generic without a default, so every mux and encode is "partially unknown".
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .demo_scene import DemoScene, one_thread
from .files import write_error
from .pictures.font import put_label

# A short clip of the demo scene with sound, as from a camera: H.264 and AAC in MP4.

_SAMPLE_RATE = 48000
_NOTE_SECONDS = 0.25
_MELODY = (0, 7, 12, 16, 19, 16, 12, 7, 5, 9, 12, 17, 19, 16, 14, 11)  # semitones above C4
_BASS = (-12, -12, -7, -5)  # one for every four notes
_C4_HERTZ = 261.63
_BT709 = 1  # AVCOL_PRI_BT709 and AVCOL_TRC_BT709


def write_demo_clip(
    path: Path, *, width: int, height: int, rate: Fraction, num_frames: int
) -> None:
    """Write a clip of the scene with the tune, as long as the frames last. Replaces `path`.

    Args:
        path: An MP4 file.
        width: Even, in pixels.
        height: Likewise.
        rate: Frames per second.
        num_frames: At least 1.

    Raises:
        SinkRefused, SinkFull: if it cannot be written.
    """
    options = {"movflags": "+faststart"}
    try:
        with one_thread(), av.open(str(path), "w", format="mp4", options=options) as container:
            _write(container, DemoScene(width, height, float(num_frames / rate)), rate, num_frames)
    except OSError as error:
        raise write_error(path, error) from error


def _write(container: OutputContainer, scene: DemoScene, rate: Fraction, num_frames: int) -> None:
    video = _add_video(container, scene.width, scene.height, rate)
    audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
    audio.bit_rate = 160_000
    container.metadata["title"] = "upframe demo"
    _write_sound(container, audio, float(num_frames / rate))
    reformatter = VideoReformatter()  # one for all frames: its setup takes longer than its work
    for index in range(num_frames):
        frame = _coded(scene(float(index / rate)), reformatter)
        frame.pts, frame.time_base = index, 1 / rate
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def _add_video(container: OutputContainer, width: int, height: int, rate: Fraction) -> VideoStream:
    video = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "medium"})
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    context = video.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries = context.color_trc = _BT709
    return video


def _coded(picture: Tensor, reformatter: VideoReformatter) -> av.VideoFrame:
    """Convert (3, H, W) in [0, 1] to 4:2:0 BT.709 in limited range."""
    frame = av.VideoFrame.from_ndarray(_bytes_of(picture), format="rgb24")
    return reformatter.reformat(
        frame,
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )


def _bytes_of(picture: Tensor) -> npt.NDArray[np.uint8]:
    return (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _write_sound(container: OutputContainer, audio: AudioStream, seconds: float) -> None:
    tune = play_tune(round(seconds * _SAMPLE_RATE))
    size = audio.codec_context.frame_size or 1024
    for first in range(0, tune.shape[1], size):
        part = tune[:, first : first + size].contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = _SAMPLE_RATE, first
        frame.time_base = Fraction(1, _SAMPLE_RATE)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def play_tune(num_samples: int) -> Tensor:
    """Synthesise plucked strings over a soft bass.

    Returns:
        (2, num_samples) float32, [-1, 1], 48 kHz, silent at the very end.
    """
    sound = torch.zeros(2, num_samples)
    length = round(_NOTE_SECONDS * _SAMPLE_RATE)
    for index in range(-(-num_samples // length)):
        right = 0.5 + 0.35 * math.sin(index * 0.9)
        _pluck(sound, index * length, _MELODY[index % len(_MELODY)], 0.30, right)
        if index % 4 == 0:
            _pluck(sound, index * length, _BASS[index // 4 % len(_BASS)], 0.35, 0.5)
    fade = torch.arange(num_samples, 0, -1) / (0.4 * _SAMPLE_RATE)
    return (sound * fade.clamp(0, 1)).clamp(-1, 1)


def _pluck(sound: Tensor, first: int, semitones: int, loudness: float, right: float) -> None:
    """Add a note that decays, its overtones faster."""
    times = torch.arange(min(sound.shape[1] - first, 2 * _SAMPLE_RATE)) / _SAMPLE_RATE
    hertz = _C4_HERTZ * 2 ** (semitones / 12)
    note = torch.zeros_like(times)
    for overtone in range(1, 7):
        decay = torch.exp(-times * (2.2 + 1.6 * overtone))
        note += torch.sin(2 * math.pi * hertz * overtone * times) * decay / overtone**1.4
    note *= (times / 0.004).clamp(0, 1) * loudness
    sound[:, first : first + len(times)] += torch.tensor([1 - right, right])[:, None] * note


# A before/after picture: the source, the result, and an inserted frame.

_GAP = 4  # pixels of the page between panels
_PAGE = 0.11  # grey
_ZOOM = 6  # how many pixels wide a pixel of the source becomes in the detail


def read_pictures(path: Path, first: int, count: int) -> list[Tensor]:
    """Decode some pictures of a video.

    Args:
        path: A video file.
        first: Number of the first picture, counted from 0.
        count: How many, at most; fewer where the video ends.

    Returns:
        Each (3, H, W) float32, [0, 1], R'G'B'.
    """
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), first, first + count)
        return [_to_tensor(frame) for frame in frames]


def compare(source: Tensor, results: list[Tensor]) -> Tensor:
    """Compose the comparison.

    At the top the busiest half of one frame: on the left from the source, enlarged pixel by pixel,
    on the right the same part of the result. In the middle its finest detail, in three versions. At
    the bottom the region with most motion: the frame, the one inserted after it, and the next.

    Args:
        source: (3, h, w), [0, 1]: a frame of the source.
        results: Three of (3, H, W), [0, 1]: the same frame in the result, and the two after it.

    Returns:
        (3, …, …) float32, [0, 1].
    """
    if len(results) != 3:
        raise ValueError(f"the result must have 3 frames there, got {len(results)}")
    size = (results[0].shape[1], results[0].shape[2])
    scale = max(1, size[1] // 640)
    with one_thread():
        return _stack(
            _sides(enlarge(source, size, "nearest-exact"), results[0], source, scale),
            _details(source, results[0], scale),
            _moments(results, scale),
        )


def write_png(path: Path, picture: Tensor) -> None:
    """Write (3, H, W), [0, 1], as an 8-bit PNG. Replaces `path`.

    Raises:
        SinkRefused, SinkFull: if it cannot be written.
    """
    try:
        Image.fromarray(_bytes_of(picture.clamp(0, 1))).save(path, "PNG")
    except OSError as error:
        raise write_error(path, error) from error


def enlarge(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize (3, H, W) to (height, width) by ``nearest-exact`` or ``bicubic``."""
    return functional.interpolate(picture[None], size, mode=mode)[0].clamp(0, 1)


def busiest(activity: Tensor, height: int, width: int) -> tuple[int, int]:
    """Return the position of the window with the highest activity.

    Args:
        activity: (H, W), non-negative.
        height: Of the window, at most H.
        width: Likewise, at most W.

    Returns:
        Row and column of its upper left corner.
    """
    sums = functional.avg_pool2d(activity[None, None], (height, width), stride=1)[0, 0]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]


def _sides(before: Tensor, after: Tensor, source: Tensor, scale: int) -> Tensor:
    """Show the half of the frame with the most detail, before and after."""
    _, height, whole = after.shape
    width = (whole - _GAP) // 2
    _, left = busiest(_edges(after)[0], height, width)
    panels = {
        f"source {_size_of(source)}": before[:, :, left : left + width].clone(),
        f"upframe {_size_of(after)}": after[:, :, left : left + width].clone(),
    }
    return _row(panels, whole, scale)


def _details(source: Tensor, result: Tensor, scale: int) -> Tensor:
    """Show a detail of the source, enlarged by repeated pixels, by bicubic, and by the filter."""
    width = _panel_width(result.shape[2])
    columns = min(source.shape[2], width // (_ZOOM * scale))
    rows = min(source.shape[1], columns * 3 // 5)
    top, left = busiest(functional.avg_pool2d(_edges(source), 3, 1, 1)[0], rows, columns)
    part = source[:, top : top + rows, left : left + columns]
    zoom = result.shape[2] / source.shape[2]
    area = [round(edge * zoom) for edge in (top, left, top + rows, left + columns)]
    fine = result[:, area[0] : area[2], area[1] : area[3]]
    size = (round(width * rows / columns), width)
    panels = {
        "pixels of the source": enlarge(part, size, "nearest-exact"),
        "bicubic": enlarge(part, size, "bicubic"),
        "upframe": enlarge(fine, size, "bicubic"),
    }
    return _row(panels, result.shape[2], scale)


def _moments(results: list[Tensor], scale: int) -> Tensor:
    """Show the region where the first and the last frame differ most, in all three."""
    width = _panel_width(results[0].shape[2])
    height = min(results[0].shape[1], width * 4 // 5)
    moved = (results[2] - results[0]).abs().mean(0)
    top, left = busiest(
        moved[: moved.shape[0] * 4 // 5], min(height, moved.shape[0] * 4 // 5), width
    )
    names = ("a frame", "inserted after it", "the next frame")
    panels = {
        name: result[:, top : top + height, left : left + width].clone()
        for name, result in zip(names, results, strict=True)
    }
    return _row(panels, results[0].shape[2], scale)


def _row(panels: dict[str, Tensor], width: int, scale: int) -> Tensor:
    height = next(iter(panels.values())).shape[1]
    row = torch.full((3, height, width), _PAGE)
    for index, (name, panel) in enumerate(panels.items()):
        left = index * (panel.shape[2] + _GAP)
        put_label(panel, name, top=0, left=0, scale=scale)
        row[:, :, left : left + panel.shape[2]] = panel
    return row


def _stack(*rows: Tensor) -> Tensor:
    gap = torch.full((3, _GAP, rows[0].shape[2]), _PAGE)
    parts = [part for row in rows for part in (row, gap)]
    return torch.cat(parts[:-1], 1)


def _panel_width(width: int) -> int:
    return (width - 2 * _GAP) // 3


def _edges(picture: Tensor) -> Tensor:
    """Return how much neighbouring pixels differ: (1, H, W)."""
    gray = picture.mean(0, keepdim=True)
    across = functional.pad((gray[:, :, 1:] - gray[:, :, :-1]).abs(), (0, 1))
    down = functional.pad((gray[:, 1:] - gray[:, :-1]).abs(), (0, 0, 0, 1))
    return across + down


def _size_of(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _to_tensor(frame: av.VideoFrame) -> Tensor:
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))  # pyright: ignore[reportUnknownArgumentType]
    return pixels.permute(2, 0, 1).float() / 255
