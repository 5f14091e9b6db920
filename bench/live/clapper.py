"""A film of flashes and beeps at the same moments, and how far apart they are in a copy of it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 48_000
_BLOCK = 480
"""Samples, 10 ms: as exactly is the begin of a beep found."""
_BEEP_SECONDS = 0.2
_BRIGHT, _DARK = 200, 100
_LOUD, _QUIET = 0.05, 0.01


def make_clapper(path: Path, *, size: str, rate: int, seconds: int) -> Path:
    """Write it: every second begins with one white frame, and a beep."""
    width, height = (int(word) for word in size.split("x"))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"tune": "zerolatency", "x264-params": f"keyint={rate}:bframes=0"}
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for second in range(seconds):
            for index in range(rate):
                frame = _picture(width, height, index, rate)
                frame.pts, frame.time_base = second * rate + index, Fraction(1, rate)
                container.mux(video.encode(frame))
            samples = av.AudioFrame.from_ndarray(_beep()[None], format="fltp", layout="mono")
            samples.sample_rate = SAMPLE_RATE
            samples.pts, samples.time_base = second * SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(samples))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    return path


def offsets_in(path: Path) -> list[tuple[float, float]]:
    """Find when each flash begins, and by how many seconds its beep is later."""
    flashes, beeps = _flashes(path), _beeps(path)
    if not beeps:
        return []
    times = np.asarray(beeps)
    return [
        (flash, float(times[np.abs(times - flash).argmin()] - flash))
        for flash in flashes
        if times[0] - 0.5 < flash < times[-1] + 0.5
    ]


def _picture(width: int, height: int, index: int, rate: int) -> av.VideoFrame:
    luma = np.full((height, width), 235 if index == 0 else 40, np.uint8)
    if index:
        left = index * (width - 8) // rate
        luma[:, left : left + 8] = 90
    chroma = np.full((height // 2, width), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate((luma, chroma)), format="yuv420p")


def _beep() -> np.ndarray:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    wave = 0.5 * np.sin(2 * np.pi * 1000 * times) * (times < _BEEP_SECONDS)
    return wave.astype(np.float32)


def _flashes(path: Path) -> list[float]:
    found: list[float] = []
    dark = True
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            mean = float(frame.to_ndarray(format="gray").mean())
            if dark and mean > _BRIGHT:
                found.append(float(frame.pts * frame.time_base))
                dark = False
            elif mean < _DARK:
                dark = True
    return found


def _beeps(path: Path) -> list[float]:
    """When it becomes loud after it was quiet, by the loudness of blocks."""
    found: list[float] = []
    quiet = True
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            start = float(frame.pts * frame.time_base)
            samples = frame.to_ndarray().reshape(-1)
            for place in range(0, len(samples), _BLOCK):
                loud = float(np.abs(samples[place : place + _BLOCK]).max())
                if quiet and loud > _LOUD:
                    found.append(start + place / SAMPLE_RATE)
                    quiet = False
                elif loud < _QUIET:
                    quiet = True
    return found
