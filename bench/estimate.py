"""Compare what `upframe probe` estimates with what `upframe run` takes, on one clip.

python bench/estimate.py [--clip FILE] [OPTIONS of upframe, such as --interpolate 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UPFRAME = [sys.executable, "-m", "upframe.daemon"]
CLIP = ["-f", "lavfi", "-i", "testsrc2=s=640x360:r=25:d=20", "-pix_fmt", "yuv420p"]


def upframe(*arguments: object) -> str:
    """Run a command, and return what it prints."""
    command = [*UPFRAME, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print both times, and by how much the estimate is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, help="The film; 20 s of 640x360 if not given.")
    arguments, options = parser.parse_known_args()
    options = options or ["--interpolate", "1", "--weights", "builtin"]
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder, "clip.mp4"), Path(folder, "out.mp4")
        if arguments.clip is None:
            subprocess.run(["ffmpeg", "-v", "error", *CLIP, str(clip)], check=True)
        else:
            clip = arguments.clip
        began = time.monotonic()
        made = json.loads(upframe("probe", clip, out, "--json", *options))["estimate"]
        took = time.monotonic() - began
        report = Path(folder, "report.json")
        upframe("run", clip, out, "--progress", "none", "--report", report, *options)
        real = json.loads(report.read_text())["seconds"]
        off = 100 * (made["seconds"] / real - 1)
        print(f"estimate {made['seconds']:.1f} s ({made['measured']}; the probe took {took:.1f} s)")
        print(f"reality  {real:.1f} s: the estimate is {off:+.0f} % off")


if __name__ == "__main__":
    main()
