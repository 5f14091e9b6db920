"""The picture and the clip at the top of the README, made by the demo.

    python bench/preview.py [--folder bench/results]

Writes `demo.jpg`, the demo's comparison, and `demo.webp`, an animation of the same part of the clip
before (on the left, each pixel repeated) and after. Together they stay under 2 MB. Needs ffmpeg.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next

from upframe.daemon.cli.demo import make_demo

MAX_BYTES = 2_000_000
_SECONDS = 3
_RATE = 30
_WIDTH, _LEFT = 382, 300
"""Of the part of the result that is shown, in pixels."""


def make_preview(folder: Path) -> tuple[Path, Path]:
    """Run the demo and write both files to a folder.

    Raises:
        subprocess.CalledProcessError: if ffmpeg fails.
        ValueError: if the files are too large for the top of a page.
    """
    picture, clip = folder / "demo.jpg", folder / "demo.webp"
    with tempfile.TemporaryDirectory(prefix="upframe-preview-") as place:
        demo = make_demo(Path(place))
        _ffmpeg("-i", demo.picture, "-q:v", "3", picture)
        _ffmpeg(
            *("-t", _SECONDS, "-i", demo.source, "-t", _SECONDS, "-i", demo.result),
            *("-filter_complex", _both(demo.report.output.width, demo.report.output.height)),
            *("-c:v", "libwebp_anim", "-quality", 70, "-compression_level", 6, "-loop", 0, clip),
        )
    if (size := picture.stat().st_size + clip.stat().st_size) > MAX_BYTES:
        raise ValueError(f"got {size} bytes, wanted at most {MAX_BYTES}")
    return picture, clip


def _both(width: int, height: int) -> str:
    part = f"crop={_WIDTH}:{height}:{_LEFT}:0"
    before = f"[0:v]fps={_RATE},scale={width}:{height}:flags=neighbor,{part},pad=iw+4:ih[before]"
    return f"{before};[1:v]fps={_RATE},{part}[after];[before][after]hstack"


def _ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench/results"))
    for path in make_preview(parser.parse_args().folder):
        sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")
