"""Compare two workers of one thread with one of one thread, and their outputs.

    python bench/segments_workers.py [--seconds N]      ends with 1 where the goal is missed

The clip is of 640x360. Encoding, for which one worker already uses the other cores, is made fast;
starting the workers counts, so a short film gains less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

UPFRAME = [sys.executable, "-m", "upframe.daemon", "run"]
CLIP = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-pix_fmt", "yuv420p", "-g", "50"]
OPTIONS = ["--interpolate", "1", "--weights", "builtin", "--threads", "1", "--no-resume"]
OPTIONS += ["--segment-frames", "50", "--preset", "ultrafast"]
GOAL = 1.85


def taken(clip: Path, device: str) -> tuple[float, str]:
    """Convert a clip; return the seconds, and a hash of the frames."""
    target, report = clip.with_name("out.mkv"), clip.with_name("report.json")
    files = [str(clip), str(target), "--report", str(report), "--overwrite"]
    words = [*UPFRAME, *files, *OPTIONS, "--device", device, "--progress", "none"]
    subprocess.run(words, check=True, stderr=subprocess.PIPE)
    frames = ["ffmpeg", "-v", "error", "-i", str(target), "-f", "framemd5", "-"]
    hashes = subprocess.run(frames, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(report.read_text())["seconds"], hashlib.sha256(hashes).hexdigest()


def compared(folder: Path, seconds: float) -> tuple[float, float, bool]:
    """Return the seconds of one worker and of two, and whether the frames are equal."""
    clip = folder / "clip.mkv"
    subprocess.run(["ffmpeg", "-v", "error", *CLIP, "-t", str(seconds), str(clip)], check=True)
    (one, frames), (two, others) = taken(clip, "cpu"), taken(clip, "cpu*2")
    return one, two, frames == others


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="Of the clip. Default: 120.")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        one, two, equal = compared(Path(folder), seconds)
    print(f"one worker {one:.1f} s, two {two:.1f} s: {one / two:.2f} times as fast, wanted {GOAL}")
    print(f"frames {'equal' if equal else 'NOT EQUAL'}")
    return int(one / two < GOAL or not equal)


if __name__ == "__main__":
    sys.exit(main())
