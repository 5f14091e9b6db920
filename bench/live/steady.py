"""A camera that this machine keeps up with, for ten minutes.

    python bench/live/steady.py [--seconds 600] [--short]

160x90 at 15 frames a second, from an RTSP server to an ffmpeg that listens, made twice as smooth
and twice as large with the built-in weights, on two cores, on which camera and receiver run too.
Correct is: once settled, nothing is given up, no frame is lost, the delay keeps to its budget.
"""

from __future__ import annotations

import json
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from cores import on_two_cores
from figures import Outcome, at_most, equal, none_of, run_as_script, timed
from shown import judged
from stream import Stream, growth_bytes
from support.servers.camera import Camera
from support.servers.receivers import Receiver

BUDGET_SECONDS = 2.0
SIZE, RATE = "160x90", 15
COUNTED = ("level_changes", "frames_decoded", "frames_dropped", "frames_repeated", "frames_late")
SHORT = {"seconds": 3.0, "settle_seconds": 2.0}


def measure(folder: Path, *, seconds: float, settle_seconds: float, seed: int) -> Outcome:
    report = folder / "report.json"
    with (
        on_two_cores(),
        Camera(size=SIZE, rate=RATE) as camera,
        Receiver(folder / "received") as receiver,
        Stream(camera.url, receiver.url, "--report", str(report)) as stream,
    ):
        began = stream.until_running().at
        settled = stream.until(
            lambda s: s.at >= began + settle_seconds, "settled", settle_seconds + 30
        )
        end = settled.at + seconds
        last = stream.until(lambda s: s.at >= end, "the time is over", seconds + 60)
        code = stream.stop()
        received = receiver.wait()
        samples = [each for each in stream.after(settled.at) if each.at <= last.at]
        document = json.loads(report.read_text())
        checks, shown = judged([receiver.file], "320x180", 2 * RATE)
        delays = [each.status["delay_seconds"] for each in samples]
        written = last.written - settled.written
        levels = sorted({each.status["level"] for each in samples})
        grown = growth_bytes([each.resident_bytes for each in samples])
        gained = {name: last.count(name) - settled.count(name) for name in COUNTED}
        checks = [
            timed(equal("level changes once settled", gained["level_changes"], 0)),
            timed(equal("frames dropped before work", gained["frames_dropped"], 0)),
            timed(equal("frames that the receiver lost", last.lost - settled.lost, 0)),
            at_most("delay, 99th percentile of any minute", _worst(delays), BUDGET_SECONDS, "s"),
            at_most("growth of memory", grown / 1e6, 20.0, "MB"),
            *checks,
            equal("exit of the stream", code, 0),
            equal("exit of the receiver", received, 0),
            equal("errors of the receiver", receiver.log, ""),
            none_of("processes left", stream.left()),
        ]
        details = {
            "levels once settled": levels,
            "levels of all": document["levels"],
            "delay of all": document["delay_seconds"],
            "frames a second, written": round(written / (last.at - settled.at), 2),
            "seconds to settle": round(settled.at - began, 1),
            "dropped while settling": settled.count("frames_dropped"),
            "level changes while settling": settled.count("level_changes"),
            "gained once settled": gained,
            "received": shown,
        }
        return Outcome(checks, details)


def _worst(delays: list[dict[str, float]]) -> float:
    """The largest 99th percentile of the last minute that was ever reported."""
    return max(each["p99"] for each in delays)


if __name__ == "__main__":
    run_as_script("steady", __doc__, measure, SHORT, seconds=600.0, settle_seconds=60.0)
