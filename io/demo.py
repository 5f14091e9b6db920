"""The demo's media, drawn by formulas: a landscape with a tune, and a before/after picture."""

from __future__ import annotations

# PyAV's Packet is generic without a default, so every mux and encode is "partially unknown".
# pyright: reportUnknownMemberType=false
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .files import write_error
from .pictures.font import put_label

# A moving landscape drawn by formulas, as a clip to try the filters on without a download.
#
# It is drawn here rather than shipped, since even a strongly compressed clip is larger than this
# code (110 KB against 20 KB), and tests and measurements draw it at other sizes and rates.
# Everything is drawn at three times the size and averaged down, so edges and fine lines fall
# between pixels as in a camera. Lengths are in pixels of a picture 216 high and scale with it;
# times are in seconds.

OVERSAMPLING = 3
"""Samples along each edge of a pixel; shapes are softened over one sample."""
_REACH = 66.0  # pixels from the middle of the largest object to its edge

Layer = tuple[Tensor, Tensor]
"""Colour (3, H, W) and coverage (H, W), both [0, 1]."""
_NOTE_SECONDS = 0.25
_DESIGN_HEIGHT = 216.0


@contextmanager
def one_thread() -> Generator[None]:
    """Let torch use one thread.

    Drawing is many small operations. With several threads each ends in a wait for the others, which
    on a busy machine takes far longer than the operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rgb(code: int) -> Tensor:
    """Return a web colour as (3, 1, 1)."""
    return torch.tensor([code >> 16, code >> 8 & 255, code & 255])[:, None, None] / 255


def _mix(first: Tensor | int, second: Tensor | int, amount: Tensor) -> Tensor:
    """Interpolate from the first to the second by an amount in [0, 1]; numbers are web colours."""
    low, high = (_rgb(one) if isinstance(one, int) else one for one in (first, second))
    return low + (high - low) * amount


def _inside(distance: Tensor, pixel: float) -> Tensor:
    """Return a shape's coverage, [0, 1], from its signed distance, negative inside."""
    return (0.5 - distance * OVERSAMPLING / pixel).clamp(0, 1)


def _box(x: Tensor, y: Tensor, width: Tensor | float, height: float) -> Tensor:
    """Return the signed distance of a rectangle around (0, 0), by half its sides."""
    return torch.maximum(x.abs() - width, y.abs() - height)


def _step(value: Tensor, low: float, high: float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high` (the cubic Hermite step)."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _noise(x: Tensor, y: Tensor, octaves: int) -> Tensor:
    """Return value noise, [0, 1]: random at whole coordinates, smooth between, in octaves."""
    total, weight = torch.zeros_like(x), 0.0
    for octave in range(octaves):
        share = 0.5**octave
        total += share * _value_noise(x * 2**octave + 17 * octave, y * 2**octave)
        weight += share
    return total / weight


def _value_noise(x: Tensor, y: Tensor) -> Tensor:
    column, row = torch.floor(x), torch.floor(y)
    across, down = _step(x - column, 0, 1), _step(y - row, 0, 1)
    upper = _mix(_hash(column, row), _hash(column + 1, row), across)
    lower = _mix(_hash(column, row + 1), _hash(column + 1, row + 1), across)
    return _mix(upper, lower, down)


def _hash(column: Tensor, row: Tensor) -> Tensor:
    """Hash every pair of whole numbers to a number in [0, 1)."""
    bits = column.to(torch.int64) * 374761393 + row.to(torch.int64) * 668265263
    bits = (bits ^ (bits >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((bits ^ (bits >> 16)) & 0xFFFF).float() / 65536


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Where the samples lie, (H, W) each, in pixels of the design."""

    x: Tensor
    y: Tensor
    pixel: float
    """Size of one output pixel: the narrowest visible line."""

    @classmethod
    def of(cls, width: int, height: int) -> _Canvas:
        """Return the samples of a picture of this many pixels."""
        pixel = _DESIGN_HEIGHT / height
        sides = (torch.arange(side * OVERSAMPLING) + 0.5 for side in (height, width))
        y, x = torch.meshgrid(*(side / OVERSAMPLING * pixel for side in sides), indexing="ij")
        return cls(x, y, pixel)

    def painted(self, color: Tensor, distance: Tensor, *over: tuple[int, Tensor]) -> Layer:
        """Paint shapes over one another, each by a colour and its signed distance."""
        coverage = _inside(distance, self.pixel)
        for code, another in over:
            covered = _inside(another, self.pixel)
            color, coverage = _mix(color, code, covered), torch.maximum(coverage, covered)
        return color, coverage


def _sky(canvas: _Canvas) -> Tensor:
    x, y = canvas.x, canvas.y
    height = (y / 150).clamp(0, 1)
    sky = _mix(0x2F6DB5, 0x9CC4DC, _step(height, 0.0, 0.62))
    sky = _mix(sky, 0xFBE0B4, _step(height, 0.4, 1.0))
    distance = torch.hypot(x - 96, y - 92)
    sky = _mix(sky, 0xFFE9B8, 0.75 * torch.exp(-distance / 42))
    sky = _mix(sky, 0xFFF8E4, _inside(distance - 17, canvas.pixel))
    clouds = _noise(x / 70, y / 15 + 40, octaves=4)
    return _mix(sky, 0xFFF3E6, 0.75 * _step(clouds, 0.52, 0.82) * (1 - height**3))


def _mountains(canvas: _Canvas) -> Layer:
    x, y = canvas.x, canvas.y
    ridge = 118 - 34 * _noise(x / 60, torch.full_like(x, 3.7), octaves=5)
    rock = _noise(x / 13 + y / 22, y / 11 - x / 30, octaves=3)
    color = _mix(0x4F6785, 0x9DB2C6, _step(rock, 0.35, 0.7))
    color = _mix(color, 0xF4F7FA, _step(9 - (y - ridge) + 22 * (rock - 0.5), -1, 1))  # snow
    color = _mix(color, 0xC9CFD2, ((y - 95) / 60).clamp(0, 0.75))  # haze in the valley
    return canvas.painted(color, ridge - y)


def _fields(canvas: _Canvas) -> Layer:
    """Draw hills with furrows in perspective."""
    x, y = canvas.x, canvas.y
    ridge = 146 + 7 * torch.sin(x / 47) + 4 * torch.sin(x / 19 + 1)
    depth = (y - ridge + 10).clamp(min=1)
    furrows = 0.5 + 0.5 * torch.sin(2 * math.pi * (x * 0.9 + 240) / depth.sqrt() / 4.2)
    color = _mix(0x6F9A4C, 0xC9B25A, _step(_noise(x / 48, y / 9, octaves=2), 0.42, 0.52))
    color = _mix(color, 0x4A6B35, 0.45 * _step(furrows, 0.45, 0.9))
    return canvas.painted(color, ridge - y)


def _meadow(canvas: _Canvas) -> Layer:
    """Draw grass in the foreground, blade by blade, and flowers."""
    x, y = canvas.x, canvas.y
    blades = _noise(x / 1.7, y / 9, octaves=2)
    color = _mix(0x27451F, 0x7FA548, _step(blades, 0.25, 0.8))
    color = _mix(color, 0xF2E86B, _step(_noise(x / 2.6, y / 2.6 + 90, octaves=1), 0.80, 0.86))
    return canvas.painted(color, 193 + 3 * torch.sin(x / 33) + 7 * (blades - 0.5) - y)


def _wires(canvas: _Canvas) -> Layer:
    """Draw telegraph poles and wires, lines narrower than a pixel."""
    x, y, span = canvas.x, canvas.y, 190.0
    along = torch.remainder(x + 60, span) - span / 2  # from -span/2 to span/2, a pole at 0
    drawn = torch.maximum(along.abs() - 1.6, 128 - y)
    for height, reach in ((136.0, 11.0), (145.0, 8.5)):
        drawn = torch.minimum(drawn, _box(along, y - height, reach, 1.0))
        sag = 13 * (1 - ((along.abs() / (span / 2)) - 1) ** 2)
        for offset in (-2.2, -5.0):
            drawn = torch.minimum(drawn, (y - height - offset - sag).abs() - 0.35)
    return canvas.painted(_rgb(0x33291F).expand(3, *x.shape), drawn)


def _mill(canvas: _Canvas, seconds: float) -> Layer:
    """Draw a windmill with turning lattice sails."""
    x, y = canvas.x, canvas.y
    width = 7 + 0.13 * y
    color = _mix(0xF1EBDD, 0x8D8F8A, (x / width * 0.5 + 0.45).clamp(0, 1))
    color = color * (0.82 + _step(torch.remainder(y, 4.0), 0.4, 0.9) * 0.18)  # bricks
    cap = torch.maximum(torch.hypot(x, y + 4) - 8.5, y + 4)
    angles = (0.5 * seconds + quarter * math.pi / 2 for quarter in range(4))
    sails = torch.stack([_sail(x, y + 6, angle) for angle in angles]).amin(0)
    return canvas.painted(color, _box(x, y - 21, width, 25), (0x5A2F28, cap), (0x3B2A20, sails))


def _sail(x: Tensor, y: Tensor, angle: float) -> Tensor:
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    bars = torch.remainder(along - 11, 5.6667) - 2.83333
    lattice = torch.stack([bars, across, across - 9.2, across - 4.6]).abs().amin(0) - 0.45
    frame = torch.maximum(_box(along - 28, across - 4.6, 17, 4.6), lattice)
    return torch.minimum(_box(along - 23, across, 23, 0.9), frame)


def _balloon(canvas: _Canvas, seconds: float) -> Layer:
    """Draw a striped balloon that drifts, sways and rotates."""
    sway = 0.05 * math.sin(1.9 * seconds)
    x, y = canvas.x + sway * canvas.y, canvas.y - sway * canvas.x
    radius = 34.0
    taper = 1 - 0.42 * ((y - 6) / 40).clamp(0, 1) ** 1.6
    half = (radius**2 - (y * 0.94).clamp(-radius, radius) ** 2).sqrt() * taper
    envelope = torch.maximum(x.abs() - half, torch.maximum(y - 34, -y * 0.94 - radius))
    longitude = torch.asin((x / half.clamp(min=0.5)).clamp(-1, 1)) + 0.8 * seconds
    light = 0.62 + 0.5 * (1 - torch.hypot(x + 11, y + 13) / 48).clamp(0, 1)
    gear, basket = _basket(canvas, x, y)
    color = torch.where(y < 34.2, (_stripes(longitude, y) * light).clamp(0, 1), gear)
    return color, torch.maximum(_inside(envelope, canvas.pixel), basket)


def _stripes(longitude: Tensor, y: Tensor) -> Tensor:
    segment = torch.remainder(longitude / (2 * math.pi) * 12, 3.0)
    color = _mix(0xD8352B, 0xFBF2DC, _step(segment, 0.96, 1.04))
    color = _mix(color, 0x20508F, _step(segment, 1.96, 2.04))
    zigzag = ((torch.remainder(longitude * 3.8, 2.0) - 1).abs() - 0.5) * 7
    color = _mix(color, 0xF5B83A, _inside((y - 4).abs() - 5, 0.6))
    return _mix(color, 0x7A1E18, _inside((y - 4 - zigzag).abs() - 1.1, 0.6))


def _basket(canvas: _Canvas, x: Tensor, y: Tensor) -> Layer:
    weave = (torch.floor(x / 1.5) + torch.floor((y - 47.5) / 1.5)).remainder(2)
    feet = ((-5.5, -11.0), (5.5, 11.0), (-2.0, -3.5), (2.0, 3.5))
    ropes = [
        (0x2E241B, _box(x - foot - (top - foot) * (48 - y) / 14, y - 40.75, 0.3, 7.25))
        for foot, top in feet
    ]
    rim = (0x4A2E16, _box(x, y - 47.6, 6.8, 0.9))
    return canvas.painted(_mix(0x8A5A2B, 0xC79A5B, weave), _box(x, y - 52, 6, 4.5), rim, *ropes)


_LANDSCAPE = ((_mountains, 5.0), (_fields, 20.0), (_meadow, 65.0), (_wires, 65.0))
"""From far to near, each with its speed to the left, in pixels a second."""


class DemoScene:
    """Draws the scene at any moment, of so many pixels; equal arguments give equal pixels.

    The landscape is drawn once, wide enough for a scene of `seconds`.
    """

    def __init__(self, width: int, height: int, seconds: float) -> None:
        self.width, self.height = width, height
        self._canvas = _Canvas.of(width, height)
        self._sky = _sky(self._canvas)
        passed = [
            (draw, math.ceil(speed * seconds / self._canvas.pixel)) for draw, speed in _LANDSCAPE
        ]
        self._layers = [draw(_Canvas.of(width + more, height)) for draw, more in passed]

    def __call__(self, seconds: float) -> Tensor:
        """Draw one moment.

        Returns:
            (3, height, width) float32, [0, 1], R'G'B'.
        """
        picture = self._sky.clone()
        for (draw, speed), (color, coverage) in zip(_LANDSCAPE, self._layers, strict=True):
            first = round(speed * seconds / self._canvas.pixel * OVERSAMPLING)
            part = slice(first, first + picture.shape[2])
            _cover(picture, color[:, :, part], coverage[:, part])
            if draw is _fields:
                self._place(picture, 292.0 - speed * seconds, 118.0, _mill, seconds)
                over = 66 + 7 * math.sin(1.3 * seconds)
                self._place(picture, 52 + 26.0 * seconds, over, _balloon, seconds)
        return functional.avg_pool2d(picture[None], OVERSAMPLING)[0].clamp(0, 1)

    def _place(
        self,
        picture: Tensor,
        x: float,
        y: float,
        draw: Callable[[_Canvas, float], Layer],
        seconds: float,
    ) -> None:
        """Draw an object around a point, as far as it is in the picture."""
        sample = self._canvas.pixel / OVERSAMPLING
        rows, columns = (
            slice(max(0, int((at - _REACH) / sample)), max(0, int((at + _REACH) / sample)))
            for at in (y, x)
        )
        near = self._canvas.x[rows, columns] - x, self._canvas.y[rows, columns] - y
        _cover(picture[:, rows, columns], *draw(_Canvas(*near, self._canvas.pixel), seconds))


def _cover(picture: Tensor, color: Tensor, coverage: Tensor) -> None:
    """Paint over a picture, in place."""
    picture += (color - picture) * coverage


# A short clip of the demo scene with sound, as from a camera: H.264 and AAC in MP4.

_SAMPLE_RATE = 48000
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
    tune = play_tune(round(float(num_frames / rate) * _SAMPLE_RATE))
    size = audio.codec_context.frame_size or 1024
    for first in range(0, tune.shape[1], size):
        part = tune[:, first : first + size].contiguous().numpy()
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = _SAMPLE_RATE, first
        frame.time_base = Fraction(1, _SAMPLE_RATE)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))
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
    the bottom the region with most motion: the frame, the one inserted after it, and the next. The
    source's frame is (3, h, w), [0, 1]; results are three of (3, H, W): the same frame in the
    result, and the two after it. Returned is (3, …, …) float32, [0, 1].
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
