"""The values that flow: Picture, Frame, StreamInfo, and the contract of a filter.

A Picture is what `io` reads and writes: coded planes with their timestamp. A Frame is what a
filter sees: R'G'B' in [0, 1] on some device. A StreamInfo describes all frames of a stream.
Names of pixel formats and colours are FFmpeg's.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from .errors import UnsupportedPixels

_FORMAT = re.compile(r"(?:yuva?(420|422|444)p|gbra?p|gray)(9|10|12|14|16)?(?:le)?$")
_FAMILIES: dict[str, Literal["yuv", "rgb", "gray"]] = {"yuv": "yuv", "gbr": "rgb", "gra": "gray"}
_CHROMA_SHIFTS = {"420": (1, 1), "422": (1, 0), "444": (0, 0), None: (0, 0)}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """A planar pixel format, parsed."""

    name: str
    """FFmpeg's name, little-endian where it has more than 8 bits: ``yuv420p10le``."""
    family: Literal["yuv", "rgb", "gray"]
    bit_depth: int
    """8 to 16; more than 8 are kept in uint16, in the low bits."""
    chroma_shift_x: int
    """log2 of the horizontal chroma subsampling: 1 for 4:2:0 and 4:2:2, else 0."""
    chroma_shift_y: int
    """log2 of the vertical chroma subsampling: 1 for 4:2:0, else 0."""
    has_alpha: bool

    @staticmethod
    @cache
    def parse(name: str) -> PixelFormat:
        """Parse FFmpeg's name of a planar format.

        Raises:
            UnsupportedPixels: if the name is none of gray, yuv(a)4xxp or gbr(a)p, 8 to 16 bits.
        """
        if (match := _FORMAT.match(name)) is None:
            raise UnsupportedPixels(
                "pixel format must be gray, yuv(a)420p/422p/444p or gbr(a)p with 8 to 16 bits, "
                f"got {name}"
            )
        sampling, depth = match.groups()
        family, shifts = _FAMILIES[name[:3]], _CHROMA_SHIFTS[sampling]
        has_alpha = name.startswith(("yuva", "gbra"))
        return PixelFormat(name, family, int(depth or 8), *shifts, has_alpha)

    @property
    def num_planes(self) -> int:
        """Colour planes, without alpha: 1 for gray, else 3."""
        return 1 if self.family == "gray" else 3

    def plane_size(self, width: int, height: int, plane: int) -> tuple[int, int]:
        """(width, height) of one colour plane; subsampled sizes are rounded up, as FFmpeg does."""
        if self.family != "yuv" or plane == 0:
            return width, height
        return -(-width >> self.chroma_shift_x), -(-height >> self.chroma_shift_y)


@dataclass(frozen=True, slots=True)
class Color:
    """The meaning of code values. FFmpeg's names; None if the stream does not tag them."""

    range: Literal["tv", "pc"] | None = None
    primaries: str | None = None
    """``bt709``, ``bt470bg``, ``smpte170m``, ``bt2020``, …"""
    trc: str | None = None
    """Transfer characteristic: ``bt709``, ``smpte170m``, ``smpte2084``, ``arib-std-b67``, …"""
    matrix: str | None = None
    """FFmpeg's *colorspace*: ``bt709``, ``bt470bg``, ``smpte170m``, ``bt2020nc``, ``gbr``, …"""
    chroma_location: str | None = None
    """``left``, ``center``, ``topleft``, ``top``, ``bottomleft``, ``bottom``."""


@dataclass(frozen=True, slots=True)
class MasteringDisplay:
    """HDR10 mastering display metadata (SMPTE ST 2086), exact as in the stream."""

    red: tuple[Fraction, Fraction]
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white_point: tuple[Fraction, Fraction]
    """CIE 1931 (x, y)."""
    min_luminance: Fraction
    max_luminance: Fraction
    """cd/m²."""


@dataclass(frozen=True, slots=True)
class ContentLight:
    """HDR10 content light level (CTA-861.3), cd/m²."""

    max_cll: int
    max_fall: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Properties of every frame of a video stream."""

    width: int
    height: int
    pix_fmt: str
    """Planar, as :class:`PixelFormat` parses it."""
    time_base: Fraction
    """Seconds in one tick of pts and duration."""
    rate: Fraction | None = None
    """Frames per second where constant; None where variable or unknown."""
    average_rate: Fraction | None = None
    """Frames per second on average, where known; equals `rate` where that is known."""
    color: Color = field(default_factory=Color)
    sample_aspect_ratio: Fraction | None = None
    """Width over height of one pixel; None where unknown."""
    rotation: int = 0
    """Degrees counter-clockwise to turn for display: 0, 90, 180 or 270. Pixels are as coded."""
    hflip: bool = False
    """Mirrored horizontally for display, before the rotation."""
    field_order: Literal["progressive", "tt", "bb", "tb", "bt"] | None = None
    num_frames: int | None = None
    """Where known exactly or from the header; never trusted for sizes of buffers."""
    duration_seconds: Fraction | None = None
    mastering_display: MasteringDisplay | None = None
    content_light: ContentLight | None = None
    icc_profile: bytes | None = field(default=None, repr=False)
    """Of an image file: what its R'G'B' or gray values mean, whatever `color` says."""
    exif: bytes | None = field(default=None, repr=False)
    """Of an image file, from its TIFF header on."""
    stereo: str | None = None
    """Where two views lie in a frame: ``left_right``, ``right_left``, ``top_bottom``, …"""
    view_boxes: bytes = b""
    """How it is shown on a sphere, or to two eyes: boxes of an MP4's sample entry."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size must be at least 1x1, got {self.width}x{self.height}")
        if self.time_base <= 0:
            raise ValueError(f"time_base must be positive, got {self.time_base}")

    @property
    def bit_depth(self) -> int:
        """Bits per component."""
        return PixelFormat.parse(self.pix_fmt).bit_depth

    @property
    def format(self) -> PixelFormat:
        """`pix_fmt`, parsed."""
        return PixelFormat.parse(self.pix_fmt)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One coded picture: planes as a decoder returns and an encoder accepts them.

    They lie on the CPU, unless a CUDA device has decoded them: then they stay there until computed.
    """

    planes: tuple[Tensor, ...]
    """Y, U, V or R, G, B or Y alone: each (H, W), uint8 for 8 bits, else uint16."""
    pix_fmt: str
    color: Color
    pts: int
    duration: int
    """In ticks of `time_base`; 0 where unknown."""
    time_base: Fraction
    alpha: Tensor | None = None
    """(H, W), dtype as the planes, always full range; there exactly if the format has alpha."""
    interlaced: bool = False
    t35: tuple[bytes, ...] = ()
    """ITU-T T.35 messages coded with it: captions (ATSC A/53), HDR10+, …"""

    def __post_init__(self) -> None:
        form = PixelFormat.parse(self.pix_fmt)
        dtype = torch.uint8 if form.bit_depth == 8 else torch.uint16
        if len(self.planes) != form.num_planes or (self.alpha is not None) != form.has_alpha:
            raise ValueError(
                f"{self.pix_fmt} wants {form.num_planes} planes and alpha {form.has_alpha}, "
                f"got {len(self.planes)} and alpha {self.alpha is not None}"
            )
        alpha = () if self.alpha is None else (self.alpha,)
        for index, plane in enumerate((*self.planes, *alpha)):
            size = form.plane_size(self.width, self.height, index if index < 3 else 0)
            if plane.dtype != dtype or tuple(plane.shape) != size[::-1]:
                raise ValueError(
                    f"plane {index} of {self.pix_fmt} must be {dtype} {size[::-1]}, "
                    f"got {plane.dtype} {tuple(plane.shape)}"
                )

    @property
    def width(self) -> int:
        """Pixels, of the luma plane."""
        return self.planes[0].shape[1]

    @property
    def height(self) -> int:
        """Pixels, of the luma plane."""
        return self.planes[0].shape[0]

    @property
    def num_bytes(self) -> int:
        """Memory of all planes, alpha included."""
        planes = self.planes if self.alpha is None else (*self.planes, self.alpha)
        return sum(plane.nbytes for plane in planes)

    def __repr__(self) -> str:
        size = f"{self.width}x{self.height}"
        return f"Picture({size} {self.pix_fmt}, pts={self.pts}*{self.time_base})"


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame as filters see it: R'G'B' as coded (not linear light), on some device.

    A frame is a value: a filter makes a new one and never writes into `pixels`.
    """

    pixels: Tensor
    """(3, H, W), float, [0, 1]; R, G, B."""
    pts: int
    duration: int
    """In ticks of `time_base`; 0 where unknown."""
    time_base: Fraction
    alpha: Tensor | None = None
    """(1, H, W), float, [0, 1], not premultiplied."""
    cut: bool = False
    """A scene, or a time line, begins with this frame: look at nothing before it."""
    duplicate: bool = False
    """Exactly the pixels of the frame before it in the same stream of frames."""
    t35: tuple[bytes, ...] = ()
    """As of the :class:`Picture`."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[0] != 3:
            raise ValueError(f"pixels must be (3, H, W), got {tuple(self.pixels.shape)}")
        if not self.pixels.is_floating_point():
            raise ValueError(f"pixels must be a float tensor, got {self.pixels.dtype}")
        if self.alpha is not None and self.alpha.shape != (1, *self.pixels.shape[1:]):
            raise ValueError(
                f"alpha must be (1, {self.height}, {self.width}), got {tuple(self.alpha.shape)}"
            )

    @property
    def width(self) -> int:
        """Pixels."""
        return self.pixels.shape[2]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.pixels.shape[1]

    def __repr__(self) -> str:
        flags = "".join(f", {name}" for name in ("cut", "duplicate") if getattr(self, name))
        return f"Frame({self.width}x{self.height}, pts={self.pts}*{self.time_base}{flags})"


CAPTIONS = b"\xb5\x00\x31GA94\x03"
"""How the T.35 message begins that carries captions: USA, ATSC, cc_data. Source: ATSC A/53, 6.2."""


def lasting(t35: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the T.35 messages of a frame that hold until the next one: all but captions.

    What describes a frame describes its in-betweens too; captions repeated would be shown twice.
    """
    return tuple(message for message in t35 if not message.startswith(CAPTIONS))


class Filter(Protocol):
    """One stage of a chain: opened, called for every frame in order, flushed at the end.

    It can be opened again, for another stream, also if the one before was never flushed, and called
    after a flush, as at the beginning. A filter returns 0, 1 or more frames for each, never waits,
    and reads no clock. If its work is to be done in several threads, it is a `PlannedFilter`.

    In a live stream a filter serves several levels: it is opened for the first one, and at others
    the rate and the time base of its frames may differ from those of `open`.
    """

    def open(self, info: StreamInfo) -> StreamInfo:
        """Begin a stream: accept the description of what comes in, return that of what goes out."""
        ...

    def __call__(self, frame: Frame) -> Iterable[Frame]:
        """Accept the next frame and return those that are ready."""
        ...

    def flush(self) -> Iterable[Frame]:
        """Return what is still held; the stream has ended."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Return counters for the report, by name, such as ``cuts`` and ``inserted``."""
        ...


# Frames that are computed later, by the threads that ask for them: independent ones concurrently.

T = TypeVar("T")
U = TypeVar("U")


class Deferred(Generic[T]):
    """A value that is computed once, when it is first asked for, and then drops its sources.

    Threads that ask meanwhile wait. After an error the next caller computes again. `check` returns
    what replaces the value in the end, mostly itself: a card tells only later whether a result is
    damaged.
    """

    def __init__(self, compute: Callable[[], T], check: Callable[[T], T] | None = None) -> None:
        self._compute: Callable[[], T] | None = compute
        self._check = check
        self._values: list[T] = []
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """Return the checked value; raises what computing or checking it raises."""
        with self._lock:
            value = self._begun()
            if self._check is not None:
                self._values[0] = value = self._check(value)
                self._check = None
            return value

    def begun(self) -> T:
        """Return the value without waiting for its check; raises what computing it raises."""
        with self._lock:
            return self._begun()

    def then(self, make: Callable[[T], U]) -> Deferred[U]:
        """Derive a value from this one, and again where the check replaces this one."""
        used: list[T] = []

        def compute() -> U:
            used[:] = (self.begun(),)
            return make(used[0])

        def check(made: U) -> U:
            value = self()
            return made if value is used[0] else make(value)

        return Deferred(compute, check)

    def peek(self) -> T | None:
        """Return the value, checked or not, or None while it is not computed."""
        return self._values[0] if self._values else None

    def _begun(self) -> T:
        if self._compute is not None:
            self._values.append(self._compute())
            self._compute = None
        return self._values[0]


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A frame that may still have to be computed."""

    frame: Deferred[Frame]
    duplicate: bool
    """The frame's flag, known beforehand."""

    @classmethod
    def of(cls, frame: Frame) -> Pending:
        """Wrap a frame that exists."""
        return cls(Deferred(lambda: frame), frame.duplicate)


class PlannedFilter(ABC):
    """A filter, mostly a slow one, whose frames are computed when they are asked for.

    `plan` is called in the order of the stream; the frames may be computed in any.
    """

    frame_bytes: int = 0
    """Memory for the work on one frame, an upper estimate; known once the filter is open."""

    @abstractmethod
    def plan(self, pending: Pending) -> Iterable[Pending]:
        """Accept the next frame and return the frames that come of it, without computing them."""

    def __call__(self, frame: Frame) -> Iterator[Frame]:
        """Accept the next frame; the frames that come of it are computed as they are iterated.

        Raises:
            ValueError: for a frame that `plan` refuses.
        """
        planned = self.plan(Pending.of(frame))
        return (pending.frame() for pending in planned)


class Counts:
    """Counters of some names that several threads may add to."""

    def __init__(self, names: Iterable[str]) -> None:
        self._counts = Counter(dict.fromkeys(names, 0))
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Add to one counter."""
        with self._lock:
            self._counts[name] += count

    def all(self) -> dict[str, int]:
        """Return the counters as they are now."""
        with self._lock:
            return dict(self._counts)
