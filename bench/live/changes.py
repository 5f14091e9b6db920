"""A camera that comes back with another size and rate, again and again.

    python bench/live/changes.py [--rounds 12] [--seconds 6] [--short]

Correct is: the output keeps the form that it began with, without a gap, and the camera's pictures
are in it within 5 s of its return.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, at_most, equal, none_of, run_as_script
from shown import judged
from stream import Stream
from support.servers.camera import Camera
from support.servers.receivers import Receiver

SIZE, RATE = "160x90", 15
FORMS = (("320x180", 10), ("96x96", 25), ("160x90", 15), ("128x72", 12), ("240x136", 20))
SHORT = {"rounds": 1, "seconds": 1.0}


def measure(
    folder: Path, *, rounds: int, seconds: float, back_seconds: float, seed: int
) -> Outcome:
    chance = random.Random(seed)
    with (
        Camera(size=SIZE, rate=RATE) as camera,
        Receiver(folder / "received") as receiver,
        Stream(camera.url, receiver.url) as stream,
    ):
        began = stream.until_running(RATE)
        returns: list[tuple[str, int, float]] = []
        for number in range(rounds):
            size, rate = FORMS[number % len(FORMS)]
            returns.append((size, rate, changed(stream, camera, size, rate)))
            time.sleep(seconds * chance.uniform(0.8, 1.2))
        last = stream.now
        code = stream.stop()
        received = receiver.wait()
        checks, shown = judged([receiver.file], "320x180", 2 * RATE)
        missing = last.at - began.at - sum(each["seconds"] for each in shown.values())
        late = [each for each in returns if each[2] > back_seconds]
        forms = {(s.status["output"]["width"], s.status["output"]["rate"]) for s in stream.after(0)
                 if s.status["output"].get("width")}  # fmt: skip
        checks = [
            none_of(f"returns after which it took more than {back_seconds:g} s", late),
            equal("forms of the output", sorted(forms), [(320, str(2 * RATE))]),
            equal("connections of the output", last.status["output_state"]["connections"], 1),
            at_most("time that the receiver's video lacks", missing, 3.0, "s"),
            *checks,
            equal("exit of the stream", code, 0),
            equal("exit of the receiver", received, 0),
            equal("errors of the receiver", receiver.log, ""),
            none_of("processes left", stream.left()),
        ]
        details = {
            "returns": returns,
            "counts": last.status["counts"],
            "delay": last.status["delay_seconds"],
            "received": shown,
        }
        return Outcome(checks, details)


def changed(stream: Stream, camera: Camera, size: str, rate: int) -> float:
    """Restart the camera in another form; returns after how long its pictures are taken."""
    camera.kill()
    time.sleep(1.0)
    before = stream.now.count("frames_decoded")
    camera.start(size=size, rate=rate)
    returned = time.monotonic()
    width = int(size.partition("x")[0])
    back = stream.until(
        lambda s: (
            s.at > returned
            and s.status["input"].get("width") == width
            and s.count("frames_decoded") > before
        ),
        f"pictures of {size}",
    )
    since_first = (back.count("frames_decoded") - before - 1) / rate
    return round(max(0.0, back.at - returned - since_first), 2)


if __name__ == "__main__":
    run_as_script("changes", __doc__, measure, SHORT, rounds=12, seconds=6.0, back_seconds=5.0)
