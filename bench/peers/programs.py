"""Whole programs from file to file: upframe, framelift-video, and ffmpeg's minterpolate."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from clip_frames import luma
from contests import OWN, WEIGHTS
from quality import Picture, psnr, summed_up
from rounds import Variant, interleave

_CRF, _PRESET = "20", "veryfast"
"""Of x264 in all of them."""
_LONGEST_SECONDS = 1800
_PAIR = "framelift-video interpolating"
_NO_PAIR = (
    "not comparable: it takes RIFE 4.26 only, whose weights are not those of the contest, and "
    "fetches them from the network"
)


@dataclass(frozen=True, slots=True)
class Work:
    """What whole programs do with a clip."""

    name: str
    clip: Path
    frames_in: int
    weights_folder: Path
    threads: int

    @property
    def framelift_weights(self) -> Path:
        """A folder of its own: the program keeps its caches there."""
        return self.clip.parent / "framelift"


def enlarge(work: Work) -> dict[str, Callable[[Path], list[str]]]:
    """Give the commands that enlarge a clip by 4 with realesr-animevideov3."""
    return {
        OWN: partial(_upframe, work, "--upscale", "4", "--upscaling-model-path", "srvgg"),
        "framelift-video torch": partial(_framelift, work, "torch"),
        "framelift-video OpenVINO": partial(_framelift, work, "openvino"),
    }


def double(work: Work) -> dict[str, Callable[[Path], list[str]]]:
    """Give the commands that double a clip's rate; ffmpeg's is no network, for orientation."""
    return {
        OWN: partial(
            _upframe, work, "--interpolate", "1", "--frame-interpolation-model-path", "rife"
        ),
        "ffmpeg minterpolate": partial(_minterpolate, work),
    }


def run(
    work: Work, commands: dict[str, Callable[[Path], list[str]]], rounds: int
) -> dict[str, Any]:
    """Run all in turns, each once before; give times, outputs and errors.

    The outputs' luma is compared with upframe's: both are encoded, so that 35 dB and more are the
    same picture.
    """
    errors = {_PAIR: _NO_PAIR} if "ffmpeg minterpolate" in commands else {}
    targets = {name: work.clip.with_name(f"{name}.mp4") for name in commands}
    lines = {name: make(targets[name]) for name, make in commands.items()}
    for name, line in lines.items():
        if complaint := _once(line):
            errors[name] = complaint
    able = [
        Variant(name, partial(_seconds, line)) for name, line in lines.items() if name not in errors
    ]
    samples = interleave(able, rounds)
    ours = luma(targets[OWN]) if OWN in samples else []
    return {
        "program": work.name,
        "frames_in": work.frames_in,
        "entrants": [
            {"name": name, **_outcome(work, seconds, luma(targets[name]), ours)}
            for name, seconds in samples.items()
        ]
        + [{"name": name, "error": error} for name, error in errors.items()],
    }


def _upframe(work: Work, *options: str | Path) -> list[str]:
    *filters, network, target = options
    line = [sys.executable, "-m", "upframe.daemon", "run", str(work.clip), str(target)]
    line += [*map(str, filters), str(work.weights_folder / WEIGHTS[str(network)])]  # type: ignore[index]
    return [*line, "--crf", _CRF, "--preset", _PRESET, "--overwrite", "--progress", "none"]


def _framelift(work: Work, backend: str, target: Path) -> list[str]:
    folder = work.framelift_weights
    folder.mkdir(exist_ok=True)
    if not (folder / WEIGHTS["srvgg"]).exists():
        shutil.copy(work.weights_folder / WEIGHTS["srvgg"], folder)
    line = [sys.executable, "-m", "framelift", "-i", str(work.clip), "-o", str(target)]
    line += ["--scale", "4", "--ai-strength", "1", "--tile", "0", "--no-audio", "-q"]
    line += ["--model", "realesr-animevideov3", "--weights-dir", str(folder)]
    line += ["--backend", backend, "--torch-threads", str(work.threads)]
    return [*line, "--crf", _CRF, "--x264-preset", _PRESET]


def _minterpolate(work: Work, target: Path) -> list[str]:
    line = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(work.clip)]
    line += ["-vf", "minterpolate=fps=48:mi_mode=mci:mc_mode=aobmc:me_mode=bidir"]
    return [*line, "-c:v", "libx264", "-crf", _CRF, "-preset", _PRESET, str(target)]


def _once(line: list[str]) -> str | None:
    """Run a program; give its complaint where it fails."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=_LONGEST_SECONDS, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    lines = [text for text in (done.stderr + done.stdout).splitlines() if text.strip()]
    return f"ended with {done.returncode}: {' '.join(lines[-3:])}" if done.returncode else None


def _seconds(line: list[str], runs: int) -> float:
    began = time.perf_counter()
    for _ in range(runs):
        subprocess.run(line, capture_output=True, timeout=_LONGEST_SECONDS, check=True)
    return time.perf_counter() - began


def _outcome(
    work: Work, seconds: list[float], pictures: list[Picture], ours: list[Picture]
) -> dict[str, Any]:
    both = min(len(pictures), len(ours))
    return {
        "seconds": summed_up(seconds),
        "ms_per_frame_in": round(statistics.median(seconds) * 1000 / work.frames_in, 1),
        "frames_out": len(pictures),
        "height": statistics.mode(picture.shape[1] for picture in pictures),
        "luma_psnr_to_upframe_db": psnr(pictures[:both], ours[:both]) if ours else None,
    }
