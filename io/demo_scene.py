"""A moving landscape drawn by formulas, as a clip to try the filters on without a download.

It is drawn here rather than shipped, since even a strongly compressed clip is larger than this code
(110 KB against 20 KB), and tests and measurements draw it at other sizes and rates. Everything is
drawn at three times the size and averaged down, so edges and fine lines fall between pixels as in a
camera. Lengths are in pixels of a picture 216 high and scale with it; times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Drawing with tensors: shapes by their signed distance, noise by hashing, colours by web codes.

OVERSAMPLING = 3
"""Samples along each edge of a pixel; shapes are softened over one sample."""


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


def rgb(code: int) -> Tensor:
    """Return a web colour as (3, 1, 1)."""
    return torch.tensor([code >> 16, code >> 8 & 255, code & 255])[:, None, None] / 255


def solid(code: int, like: Tensor) -> Tensor:
    """Return one web colour for all samples of `like`: (3, H, W)."""
    return rgb(code).expand(3, *like.shape)


def mix(first: Tensor, second: Tensor, amount: Tensor) -> Tensor:
    """Interpolate from the first to the second by an amount in [0, 1]."""
    return first + (second - first) * amount


def inside(distance: Tensor, pixel: float) -> Tensor:
    """Return a shape's coverage, [0, 1], from its signed distance, negative inside."""
    return (0.5 - distance * OVERSAMPLING / pixel).clamp(0, 1)


def step(value: Tensor, low: float, high: float) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high` (the cubic Hermite step)."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def noise(x: Tensor, y: Tensor, octaves: int) -> Tensor:
    """Return value noise, [0, 1]: random at whole coordinates, smooth between, in octaves."""
    total, weight = torch.zeros_like(x), 0.0
    for octave in range(octaves):
        share = 0.5**octave
        total += share * _value_noise(x * 2**octave + 17 * octave, y * 2**octave)
        weight += share
    return total / weight


def _value_noise(x: Tensor, y: Tensor) -> Tensor:
    column, row = torch.floor(x), torch.floor(y)
    across, down = step(x - column, 0, 1), step(y - row, 0, 1)
    upper = mix(_hash(column, row), _hash(column + 1, row), across)
    lower = mix(_hash(column, row + 1), _hash(column + 1, row + 1), across)
    return mix(upper, lower, down)


def _hash(column: Tensor, row: Tensor) -> Tensor:
    """Hash every pair of whole numbers to a number in [0, 1)."""
    bits = column.to(torch.int64) * 374761393 + row.to(torch.int64) * 668265263
    bits = (bits ^ (bits >> 13)) * 1274126177 & 0x7FFFFFFF
    return ((bits ^ (bits >> 16)) & 0xFFFF).float() / 65536


_DESIGN_HEIGHT = 216.0
_FAR_SPEED, _MIDDLE_SPEED, _NEAR_SPEED = 5.0, 20.0, 65.0  # pixels a second, to the left
_MILL_X, _MILL_Y = 292.0, 118.0
_MILL_TURN = 0.5  # radians a second
_BALLOON_SPEED = 26.0  # pixels a second, to the right
_REACH = 66.0  # pixels from the middle of the largest object to its edge

Layer = tuple[Tensor, Tensor]
"""Colour (3, H, W) and coverage (H, W), both [0, 1]."""


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Where the samples lie, in design pixels."""

    x: Tensor
    """(H, W)."""
    y: Tensor
    """(H, W)."""
    pixel: float
    """Size of one output pixel in design pixels: the narrowest visible line."""

    def around(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Return rows and columns of the samples within `reach` of a point, at least one each."""
        sample = self.pixel / OVERSAMPLING
        return _near(y, reach, sample, self.y.shape[0]), _near(x, reach, sample, self.x.shape[1])

    def window(self, part: tuple[slice, slice], x: float, y: float) -> _Canvas:
        """Return some of the samples, relative to a point."""
        return _Canvas(self.x[part] - x, self.y[part] - y, self.pixel)


_Object = Callable[[_Canvas, float], Layer]
"""Draws an object around (0, 0) at a time in seconds."""


class DemoScene:
    """Draws the scene at any moment; equal arguments give equal pixels.

    Args:
        width: Of the pictures, in pixels.
        height: Likewise.
        seconds: Length of the scene: the landscape is drawn once, wide enough for it.
    """

    def __init__(self, width: int, height: int, seconds: float) -> None:
        self.width, self.height = width, height
        self._canvas = _canvas(width, height)
        self._sky = _sky(self._canvas)
        self._landscape = tuple(
            (speed, draw(_canvas(width + math.ceil(speed * seconds / self._canvas.pixel), height)))
            for speed, draw in (
                (_FAR_SPEED, _mountains),
                (_MIDDLE_SPEED, _fields),
                (_NEAR_SPEED, _meadow),
                (_NEAR_SPEED, _wires),
            )
        )

    def __call__(self, seconds: float) -> Tensor:
        """Draw one moment.

        Returns:
            (3, height, width) float32, [0, 1], R'G'B'.
        """
        picture = self._sky.clone()
        mountains, fields, meadow, wires = self._landscape
        self._pan(picture, *mountains, seconds)
        self._pan(picture, *fields, seconds)
        self._place(picture, _MILL_X - _MIDDLE_SPEED * seconds, _MILL_Y, _mill, seconds)
        over = 66 + 7 * math.sin(1.3 * seconds)
        self._place(picture, 52 + _BALLOON_SPEED * seconds, over, _balloon, seconds)
        self._pan(picture, *meadow, seconds)
        self._pan(picture, *wires, seconds)
        return functional.avg_pool2d(picture[None], OVERSAMPLING)[0].clamp(0, 1)

    def _pan(self, picture: Tensor, speed: float, layer: Layer, seconds: float) -> None:
        first = round(speed * seconds / self._canvas.pixel * OVERSAMPLING)
        part = slice(first, first + picture.shape[2])
        _cover(picture, layer[0][:, :, part], layer[1][:, part])

    def _place(self, picture: Tensor, x: float, y: float, draw: _Object, seconds: float) -> None:
        rows, columns = part = self._canvas.around(x, y, _REACH)
        _cover(picture[:, rows, columns], *draw(self._canvas.window(part, x, y), seconds))


def _canvas(width: int, height: int) -> _Canvas:
    pixel = _DESIGN_HEIGHT / height
    xs = (torch.arange(width * OVERSAMPLING) + 0.5) / OVERSAMPLING * pixel
    ys = (torch.arange(height * OVERSAMPLING) + 0.5) / OVERSAMPLING * pixel
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return _Canvas(x, y, pixel)


def _near(at: float, reach: float, sample: float, size: int) -> slice:
    first = min(max(0, int((at - reach) / sample)), size - 1)
    return slice(first, max(first + 1, min(size, int((at + reach) / sample))))


def _cover(picture: Tensor, color: Tensor, coverage: Tensor) -> None:
    """Paint over a picture, in place."""
    picture += (color - picture) * coverage


def _sky(canvas: _Canvas) -> Tensor:
    x, y = canvas.x, canvas.y
    height = (y / 150).clamp(0, 1)
    sky = mix(rgb(0x2F6DB5), rgb(0x9CC4DC), step(height, 0.0, 0.62))
    sky = mix(sky, rgb(0xFBE0B4), step(height, 0.4, 1.0))
    distance = torch.hypot(x - 96, y - 92)
    sky = mix(sky, rgb(0xFFE9B8), 0.75 * torch.exp(-distance / 42))
    sky = mix(sky, rgb(0xFFF8E4), inside(distance - 17, canvas.pixel))
    clouds = noise(x / 70, y / 15 + 40, octaves=4)
    return mix(sky, rgb(0xFFF3E6), 0.75 * step(clouds, 0.52, 0.82) * (1 - height**3))


def _mountains(canvas: _Canvas) -> Layer:
    x, y = canvas.x, canvas.y
    ridge = 118 - 34 * noise(x / 60, torch.full_like(x, 3.7), octaves=5)
    rock = noise(x / 13 + y / 22, y / 11 - x / 30, octaves=3)
    color = mix(rgb(0x4F6785), rgb(0x9DB2C6), step(rock, 0.35, 0.7))
    snow = step(9 - (y - ridge) + 22 * (rock - 0.5), -1, 1)
    color = mix(color, rgb(0xF4F7FA), snow)
    color = mix(color, rgb(0xC9CFD2), ((y - 95) / 60).clamp(0, 0.75))  # haze in the valley
    return color, inside(ridge - y, canvas.pixel)


def _fields(canvas: _Canvas) -> Layer:
    """Draw hills with furrows in perspective."""
    x, y = canvas.x, canvas.y
    ridge = 146 + 7 * torch.sin(x / 47) + 4 * torch.sin(x / 19 + 1)
    depth = (y - ridge + 10).clamp(min=1)
    furrows = 0.5 + 0.5 * torch.sin(2 * math.pi * (x * 0.9 + 240) / depth.sqrt() / 4.2)
    patch = noise(x / 48, y / 9, octaves=2)
    color = mix(rgb(0x6F9A4C), rgb(0xC9B25A), step(patch, 0.42, 0.52))
    color = mix(color, rgb(0x4A6B35), 0.45 * step(furrows, 0.45, 0.9))
    return color, inside(ridge - y, canvas.pixel)


def _meadow(canvas: _Canvas) -> Layer:
    """Draw grass in the foreground, blade by blade."""
    x, y = canvas.x, canvas.y
    blades = noise(x / 1.7, y / 9, octaves=2)
    edge = 193 + 3 * torch.sin(x / 33) + 7 * (blades - 0.5)
    color = mix(rgb(0x27451F), rgb(0x7FA548), step(blades, 0.25, 0.8))
    flowers = noise(x / 2.6, y / 2.6 + 90, octaves=1)
    color = mix(color, rgb(0xF2E86B), step(flowers, 0.80, 0.86))
    return color, inside(edge - y, canvas.pixel)


def _wires(canvas: _Canvas) -> Layer:
    """Draw telegraph poles and wires, lines narrower than a pixel."""
    x, y, span = canvas.x, canvas.y, 190.0
    along = torch.remainder(x + 60, span) - span / 2  # from -span/2 to span/2, a pole at 0
    pole = torch.maximum(along.abs() - 1.6, 128 - y)
    coverage = inside(pole, canvas.pixel)
    for height, reach in ((136.0, 11.0), (145.0, 8.5)):
        arm = torch.maximum(along.abs() - reach, (y - height).abs() - 1.0)
        coverage = torch.maximum(coverage, inside(arm, canvas.pixel))
        sag = 13 * (1 - ((along.abs() / (span / 2)) - 1) ** 2)
        for offset in (-2.2, -5.0):
            line = (y - height - offset - sag).abs() - 0.35
            coverage = torch.maximum(coverage, inside(line, canvas.pixel))
    return solid(0x33291F, x), coverage


def _mill(canvas: _Canvas, seconds: float) -> Layer:
    """Draw a windmill with turning lattice sails."""
    x, y = canvas.x, canvas.y
    width = 7 + 0.13 * y
    tower = torch.maximum(x.abs() - width, torch.maximum(-y - 4, y - 46))
    bricks = step(torch.remainder(y, 4.0), 0.4, 0.9) * 0.18
    color = mix(rgb(0xF1EBDD), rgb(0x8D8F8A), (x / width * 0.5 + 0.45).clamp(0, 1))
    color = color * (0.82 + bricks)
    cap = torch.maximum(torch.hypot(x, y + 4) - 8.5, y + 4)
    color = mix(color, rgb(0x5A2F28), inside(cap, canvas.pixel))
    sails = torch.zeros_like(x)
    for quarter in range(4):
        turned = _MILL_TURN * seconds + quarter * math.pi / 2
        sails = torch.maximum(sails, _sail(x, y + 6, turned, canvas.pixel))
    color = mix(color, rgb(0x3B2A20), sails)
    body = torch.maximum(inside(tower, canvas.pixel), inside(cap, canvas.pixel))
    return color, torch.maximum(body, sails)


def _sail(x: Tensor, y: Tensor, angle: float, pixel: float) -> Tensor:
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    spar = torch.maximum(across.abs() - 0.9, (along - 23).abs() - 23)
    frame = torch.maximum((across - 4.6).abs() - 4.6, (along - 28).abs() - 17)
    bars = torch.remainder(along - 11, 5.6667) - 2.83333
    lattice = torch.minimum(bars.abs(), torch.minimum(across.abs(), (across - 9.2).abs())) - 0.45
    lattice = torch.minimum(lattice, (across - 4.6).abs() - 0.45)
    return inside(torch.minimum(spar, torch.maximum(frame, lattice)), pixel)


def _balloon(canvas: _Canvas, seconds: float) -> Layer:
    """Draw a striped balloon that drifts, sways and rotates."""
    sway = 0.05 * math.sin(1.9 * seconds)
    x, y = canvas.x + sway * canvas.y, canvas.y - sway * canvas.x
    radius = 34.0
    taper = 1 - 0.42 * ((y - 6) / 40).clamp(0, 1) ** 1.6
    half = (radius**2 - (y * 0.94).clamp(-radius, radius) ** 2).sqrt() * taper
    envelope = torch.maximum(x.abs() - half, torch.maximum(y - 34, -y * 0.94 - radius))
    longitude = torch.asin((x / half.clamp(min=0.5)).clamp(-1, 1)) + 0.8 * seconds
    color = _stripes(longitude, y)
    light = 0.62 + 0.5 * (1 - torch.hypot(x + 11, y + 13) / 48).clamp(0, 1)
    coverage = inside(envelope, canvas.pixel)
    gear, basket = _basket(x, y, canvas.pixel)
    color = torch.where(y < 34.2, (color * light).clamp(0, 1), gear)
    return color, torch.maximum(coverage, basket)


def _stripes(longitude: Tensor, y: Tensor) -> Tensor:
    segment = torch.remainder(longitude / (2 * math.pi) * 12, 3.0)
    color = mix(rgb(0xD8352B), rgb(0xFBF2DC), step(segment, 0.96, 1.04))
    color = mix(color, rgb(0x20508F), step(segment, 1.96, 2.04))
    zigzag = ((torch.remainder(longitude * 3.8, 2.0) - 1).abs() - 0.5) * 7
    color = mix(color, rgb(0xF5B83A), inside((y - 4).abs() - 5, 0.6))
    return mix(color, rgb(0x7A1E18), inside((y - 4 - zigzag).abs() - 1.1, 0.6))


def _basket(x: Tensor, y: Tensor, pixel: float) -> Layer:
    box = torch.maximum(x.abs() - 6, (y - 52).abs() - 4.5)
    weave = (torch.floor(x / 1.5) + torch.floor((y - 47.5) / 1.5)).remainder(2)
    color = mix(rgb(0x8A5A2B), rgb(0xC79A5B), weave)
    rim = torch.maximum(x.abs() - 6.8, (y - 47.6).abs() - 0.9)
    color = mix(color, rgb(0x4A2E16), inside(rim, pixel))
    coverage = inside(torch.minimum(box, rim), pixel)
    for foot, top in ((-5.5, -11.0), (5.5, 11.0), (-2.0, -3.5), (2.0, 3.5)):
        at = foot + (top - foot) * (48 - y) / 14
        rope = torch.maximum((x - at).abs() - 0.3, torch.maximum(33.5 - y, y - 48))
        covered = inside(rope, pixel)
        color = mix(color, rgb(0x2E241B), covered)
        coverage = torch.maximum(coverage, covered)
    return color, coverage
