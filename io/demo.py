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
    """Write a clip of the scene with the tune, as long as the frames last. Replaces the MP4 `path`.

    Width and height are even, in pixels; there are at least one frame, and `rate` a second.

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
    options = {"crf": "14", "preset": "medium"}
    video = container.add_stream("libx264", rate=rate, options=options)
    video.width, video.height, video.pix_fmt = scene.width, scene.height, "yuv420p"
    context = video.codec_context
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries = context.color_trc = _BT709
    audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="stereo")
    audio.bit_rate = 160_000
    container.metadata["title"] = "upframe demo"
    _write_sound(container, audio, float(num_frames / rate))
    reformatter = VideoReformatter()  # one for all frames: its setup takes longer than its work
    for index in range(num_frames):
        frame = reformatter.reformat(
            av.VideoFrame.from_ndarray(_bytes_of(scene(float(index / rate))), format="rgb24"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = index, 1 / rate
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


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
    """Decode up to `count` pictures of a video, from the one with number `first` (from 0) on.

    Returns:
        Each (3, H, W) float32, [0, 1], R'G'B'.
    """
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), first, first + count)
        made = [torch.as_tensor(frame.to_ndarray(format="rgb24")) for frame in frames]
    return [picture.permute(2, 0, 1).float() / 255 for picture in made]


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
    width = results[0].shape[2]
    rows: list[Tensor] = []
    with one_thread():
        for make in (_sides, _details, _moments):
            panels = make(source, results)
            height = next(iter(panels.values())).shape[1]
            row = torch.full((3, height + _GAP, width), _PAGE)
            for index, (name, panel) in enumerate(panels.items()):
                panel = panel.clone()
                put_label(panel, name, max(1, width // 640))
                left = index * (panel.shape[2] + _GAP)
                row[:, :height, left : left + panel.shape[2]] = panel
            rows.append(row)
    return torch.cat(rows, 1)[:, :-_GAP]


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
    """Return row and column of the window with the highest activity: of its upper left corner.

    The activity is (H, W), non-negative; height and width of the window are at most that.
    """
    sums = functional.avg_pool2d(activity[None, None], (height, width), stride=1)[0, 0]
    best = int(sums.argmax())
    return best // sums.shape[1], best % sums.shape[1]


def _sides(source: Tensor, results: list[Tensor]) -> dict[str, Tensor]:
    """Return the half of the frame with the most detail, before and after."""
    after = results[0]
    size = (after.shape[1], after.shape[2])
    width = (size[1] - _GAP) // 2
    _, left = busiest(_edges(after), size[0], width)
    before = enlarge(source, size, "nearest-exact")
    return {
        f"{name} {of.shape[2]}x{of.shape[1]}": whole[:, :, left : left + width]
        for name, of, whole in (("source", source, before), ("upframe", after, after))
    }


def _details(source: Tensor, results: list[Tensor]) -> dict[str, Tensor]:
    """Return a detail of the source, enlarged by repeated pixels, by bicubic, and by the filter."""
    whole = results[0].shape[2]
    width = (whole - 2 * _GAP) // 3
    columns = min(source.shape[2], width // (_ZOOM * max(1, whole // 640)))
    rows = min(source.shape[1], columns * 3 // 5)
    edges = functional.avg_pool2d(_edges(source)[None], 3, 1, 1)[0]
    top, left = busiest(edges, rows, columns)
    part = source[:, top : top + rows, left : left + columns]
    area = [
        round(edge * whole / source.shape[2]) for edge in (top, left, top + rows, left + columns)
    ]
    fine = results[0][:, area[0] : area[2], area[1] : area[3]]
    size = (round(width * rows / columns), width)
    return {
        "pixels of the source": enlarge(part, size, "nearest-exact"),
        "bicubic": enlarge(part, size, "bicubic"),
        "upframe": enlarge(fine, size, "bicubic"),
    }


def _moments(source: Tensor, results: list[Tensor]) -> dict[str, Tensor]:
    """Return the region where the first and the last frame differ most, in all three."""
    width = (results[0].shape[2] - 2 * _GAP) // 3
    moved = (results[2] - results[0]).abs().mean(0)
    moved = moved[: moved.shape[0] * 4 // 5]
    top, left = busiest(moved, min(width * 4 // 5, moved.shape[0]), width)
    bottom = top + min(results[0].shape[1], width * 4 // 5)
    names = ("a frame", "inserted after it", "the next frame")
    parts = (result[:, top:bottom, left : left + width] for result in results)
    return dict(zip(names, parts, strict=True))


def _edges(picture: Tensor) -> Tensor:
    """Return how much neighbouring pixels differ: (H, W)."""
    gray = picture.mean(0)
    across = functional.pad((gray[:, 1:] - gray[:, :-1]).abs(), (0, 1))
    return across + functional.pad((gray[1:] - gray[:-1]).abs(), (0, 0, 0, 1))
