"""Resident memory of `upframe pipe` with a slow reader: many frames against few.

    python bench/memory.py [--frames 150 1500] [--size 320x180]

Feeds raw video made on the fly to one process, reads its output in slow steps, and watches the
process's resident set. The figure is the difference of the two peaks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from machine import describe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", nargs=2, type=int, default=(150, 1500))
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--pause-seconds", type=float, default=0.02, help="of the reader, a MiB")
    parser.add_argument("--at-most-mib", type=float, default=47, help="50 MB; more exits with 1")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    width, height = (int(part) for part in arguments.size.split("x"))
    runs = [measure(width, height, frames, arguments.pause_seconds) for frames in arguments.frames]
    result: dict[str, Any] = {
        "benchmark": "memory",
        "machine": describe(),
        "size": arguments.size,
        "runs": runs,
        "difference_mib": round(runs[1]["peak_rss_mib"] - runs[0]["peak_rss_mib"], 1),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    if result["difference_mib"] > arguments.at_most_mib:
        sys.exit(f"{result['difference_mib']} MiB more, wanted at most {arguments.at_most_mib}")


def measure(width: int, height: int, frames: int, pause_seconds: float) -> dict[str, Any]:
    """Run one process over `frames` moving frames; give its peak resident set."""
    command = [sys.executable, "-m", "upframe.daemon", "pipe", "--upscale", "2"]
    command += ["--weights", "builtin", "--progress", "none"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    feeder = threading.Thread(target=feed, args=(process.stdin, width, height, frames))
    feeder.start()
    peak, read = 0, 0
    while chunk := process.stdout.read(2**20):
        read += len(chunk)
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(pause_seconds)
    feeder.join()
    if code := process.wait():
        raise SystemExit(f"upframe ended with {code}")
    return {"frames": frames, "bytes_read": read, "peak_rss_mib": round(peak / 2**20, 1)}


def feed(stream: IO[bytes], width: int, height: int, frames: int) -> None:
    """Write moving Y4M frames, no two alike."""
    stream.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420mpeg2\n".encode())
    rows, columns = np.mgrid[0:height, 0:width]
    chroma = np.full(2 * (-(-width // 2)) * (-(-height // 2)), 128, np.uint8).tobytes()
    for index in range(frames):
        luma = (16 + (columns * 2 + rows * 3 + index * 5) % 220).astype(np.uint8)
        stream.write(b"FRAME\n" + luma.tobytes() + chroma)
    stream.close()


def resident_bytes(pid: int) -> int:
    """The resident set now, or 0 once the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * 4096


if __name__ == "__main__":
    main()
