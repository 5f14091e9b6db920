"""Detect cuts and repeated pictures in a stream from coded planes alone.

Pictures are compared as thumbnails of luma (of green, for RGB), freed of brightness and contrast,
so that fades and flashes do not count. What moved only a little finds its value near its old place
in the other thumbnail, so that pans and motion hardly count; values that are found nowhere near
do, and so does a change of the distribution of all values, which motion leaves alone. A cut stands
out from the pictures just before it: in a stream where everything changes all the time there is
none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from .frame import Picture, PixelFormat
from .kernels.cuda import on_stream

_THUMBNAIL = (36, 64)
"""Height and width."""
_SAMPLES_PER_CELL = 4
"""Pixels that are read at least per cell of the thumbnail and direction, if there are as many."""
_REACH = 3
"""Cells that something may move from one picture to the next: 1/20 of the width."""
_FLAT = 0.02
"""Standard deviation below which there is nothing to recognise in a thumbnail."""
_DISTRIBUTION_WEIGHT = 0.25
_CUT = 0.2
"""A change above this may be a cut: motion of 1/20 of the width measures 0.03, a new scene 0.5."""
_STANDS_OUT = 1.6
"""A cut changes this many times more than the pictures before it, in the median."""
_RECENT = 3
HISTORY = 12
"""Pictures back to which a picture is judged by those before it, so that any part of a stream can
be judged as in the whole."""
_FLAT_CUT = 0.12
"""Where one picture is flat: a mean difference above this is a cut."""
_FLASH = 0.1
"""A flat picture that is so much brighter is a flash."""
_FLASH_PICTURES = 6
"""Longest flash; what follows a longer one counts as a new scene."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How a picture relates to the one before it."""

    cut: bool
    """A new scene begins with it."""
    duplicate: bool
    """All its code values are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class _Thumbnail:
    """Luma, [0, 1], (1, 36, 64), and the same with mean 0 and standard deviation 1."""

    luma: Tensor
    normal: Tensor
    mean: float
    is_flat: bool


class Scenes:
    """Marks the pictures of one stream, in order."""

    def __init__(self, detect_cuts: bool = True) -> None:
        self._detect_cuts = detect_cuts
        self._before: Picture | None = None
        self._last: _Thumbnail | None = None
        self._scene: _Thumbnail | None = None
        """The last one with something to recognise."""
        self._flat_pictures = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        """Number of a picture, and its change."""
        self._number = 0
        self._is_first = True
        self._counts = {"cuts": 0, "duplicates": 0}

    def look_back(self, pictures: Iterable[Picture]) -> None:
        """Take note of pictures before the first one, which is not compared with them itself."""
        for picture in pictures:
            self._is_first = True
            self(picture)
        self._is_first = True

    def __call__(self, picture: Picture) -> Marks:
        """Compare a picture with those before it. Planes are only read."""
        self._number += 1
        before, self._before = self._before, picture
        # planes on a card are complete: reading them waits for nothing that is computed there
        with on_stream("scenes", picture.planes[0].device):
            duplicate = before is not None and _is_same(before, picture)
            if duplicate:
                self._flat_pictures += self._flat_pictures > 0
            cut = self._detect_cuts and not duplicate and self._is_cut(picture)
        if self._is_first:
            self._is_first = False
            return Marks(cut=False, duplicate=False)
        self._counts["duplicates"] += duplicate
        self._counts["cuts"] += cut
        return Marks(cut, duplicate)

    def statistics(self) -> Mapping[str, int]:
        """Count pictures: ``cuts`` and ``duplicates``."""
        return dict(self._counts)

    @torch.inference_mode()
    def _is_cut(self, picture: Picture) -> bool:
        last, now = self._last, _thumbnail(picture)
        cut = last is not None and self._is_new(last, now)
        self._flat_pictures = self._flat_pictures + 1 if now.is_flat else 0
        self._last = now
        if not now.is_flat:
            self._scene = now
        return cut

    def _is_new(self, last: _Thumbnail, now: _Thumbnail) -> bool:
        if not last.is_flat and not now.is_flat:
            change = _change(last, now)
            while self._recent and self._recent[0][0] <= self._number - HISTORY:
                self._recent.popleft()
            usual = median(each for _, each in self._recent) if self._recent else 0.0
            self._recent.append((self._number, change))
            return change > max(_CUT, _STANDS_OUT * usual)
        if _mean_distance(last.luma, now.luma) < _FLAT_CUT:
            return False  # the end or the beginning of a fade
        if now.is_flat:
            return last.is_flat or now.mean < last.mean + _FLASH
        back = self._scene is not None and _change(self._scene, now) < _CUT
        return not (back and self._flat_pictures <= _FLASH_PICTURES)


def _is_same(left: Picture, right: Picture) -> bool:
    if left.pix_fmt != right.pix_fmt or (left.alpha is None) != (right.alpha is None):
        return False
    pairs = list(zip(left.planes, right.planes, strict=True))
    if left.alpha is not None and right.alpha is not None:
        pairs.append((left.alpha, right.alpha))
    return all(_is_equal(a, b) for a, b in pairs)


def _is_equal(a: Tensor, b: Tensor) -> bool:
    if a.is_cuda or b.is_cuda:  # where a card decodes; torch compares no uint16 there
        a, b = a.view(torch.uint8), b.view(torch.uint8).to(a.device)
    return torch.equal(a, b)


def _thumbnail(picture: Picture) -> _Thumbnail:
    plane = picture.planes[0]
    height, width = plane.shape
    rows = max(1, height // (_THUMBNAIL[0] * _SAMPLES_PER_CELL))
    columns = max(1, width // (_THUMBNAIL[1] * _SAMPLES_PER_CELL))
    samples = plane[::rows, ::columns].to(torch.float32).cpu() / (
        2 ** PixelFormat.parse(picture.pix_fmt).bit_depth - 1
    )
    luma = F.adaptive_avg_pool2d(samples.unsqueeze(0), _THUMBNAIL)
    deviation, mean = (float(value) for value in torch.std_mean(luma))
    return _Thumbnail(luma, (luma - mean) / max(deviation, _FLAT), mean, deviation < _FLAT)


def _change(left: _Thumbnail, right: _Thumbnail) -> float:
    """Measure how different two scenes are: 0 if one is the other moved, about 0.5 if unrelated."""
    a, b = left.normal, right.normal
    unexplained = max(_not_near(a, b), _not_near(b, a))
    redistributed = _mean_distance(a.flatten().sort().values, b.flatten().sort().values)
    return unexplained + _DISTRIBUTION_WEIGHT * redistributed


def _not_near(here: Tensor, there: Tensor) -> float:
    """Measure by how much the values of `here` lie outside those around them in `there`."""
    size = 2 * _REACH + 1
    highest = F.max_pool2d(there, size, stride=1, padding=_REACH)
    lowest = -F.max_pool2d(-there, size, stride=1, padding=_REACH)
    return float((F.relu(here - highest) + F.relu(lowest - here)).mean())


def _mean_distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().mean())
