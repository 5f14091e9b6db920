"""What a receiver was shown: decoded, counted, measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import paths  # noqa: F401  # finds what is imported next
from figures import Check, equal, none_of


@dataclass(frozen=True)
class Shown:
    """One file that a receiver has written."""

    frames: int
    sizes: set[str]
    gaps: Counter[str]
    """Seconds between pictures, as text, and how often."""
    rises: bool
    """Whether each packet's timestamp is later than the one before, as they came in."""
    seconds: float
    undecodable: int
    """Packets with pictures that could not be decoded, or were damaged."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "sizes": sorted(self.sizes),
            "gaps": dict(self.gaps.most_common(8)),
            "seconds": round(self.seconds, 1),
            "undecodable": self.undecodable,
        }


def shown_in(path: Path) -> Shown:
    """Decode all of it; a last packet that is cut off counts for nothing.

    The gap between the first two pictures is left out: ffmpeg as a receiver of RTSP gives the
    first packet no time of its own.
    """
    frames, undecodable = 0, 0
    sizes: set[str] = set()
    stamps: list[Fraction] = []
    times: list[Fraction] = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and packet.dts is not None:
                stamps.append(packet.dts * packet.time_base)
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                undecodable += 1
                continue
            for picture in pictures:
                frames += 1
                undecodable += bool(picture.is_corrupt)
                sizes.add(f"{picture.width}x{picture.height}")
                if picture.pts is not None:
                    times.append(picture.pts * picture.time_base)
    times = sorted(times)[1:]
    gaps = Counter(f"{float(b - a):.4f}" for a, b in pairwise(times))
    seconds = float(times[-1] - times[0]) if times else 0.0
    rises = all(a < b for a, b in pairwise(stamps))
    return Shown(frames, sizes, gaps, rises, seconds, undecodable)


def judged(
    files: Iterable[Path], size: str, rate: Fraction | int
) -> tuple[list[Check], dict[str, Any]]:
    """Hold what a receiver got against the one form that the output has, whatever goes on."""
    all_shown = {path.name: shown_in(path) for path in files}
    right = f"{float(1 / Fraction(rate)):.4f}"
    sizes = set[str]().union(*(each.sizes for each in all_shown.values()))
    wrong = [
        f"{name}: {gap} s, {number} times"
        for name, each in all_shown.items()
        for gap, number in each.gaps.items()
        if gap != right
    ]
    checks = [
        equal("sizes that the receiver saw", sorted(sizes), [size]),
        none_of(f"gaps other than {right} s", wrong),
        none_of(
            "connections with timestamps that do not strictly rise",
            [name for name, each in all_shown.items() if not each.rises],
        ),
        equal("pictures that cannot be decoded", sum(s.undecodable for s in all_shown.values()), 0),
    ]
    return checks, {name: each.as_dict() for name, each in all_shown.items()}
