"""A receiver that dies and returns, beside an input that must not notice.

    python bench/live/receivers.py [--kills 20] [--freezes 3] [--short]

An ffmpeg that listens is killed by `kill -9`, some after they were frozen by SIGSTOP for a while,
and started again after a time of chance. Correct is: packets go out again within 5 s of its return,
the first one a keyframe; the input loses nothing.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, at_most, equal, none_of, run_as_script, timed
from shown import judged
from stream import Stream
from support.servers.camera import Camera
from support.servers.receivers import Receiver, packets_of

SIZE, RATE = "160x90", 15
SHORT = {"kills": 1, "freezes": 0, "most_seconds": 1.0, "between_seconds": 1.0}
_NEVER_SECONDS = 120.0


@dataclass(frozen=True)
class Return:
    """One absence of the receiver."""

    kind: str
    away_seconds: float
    back_seconds: float
    noticed: bool
    """Whether the output was reported to be away meanwhile."""


def measure(
    folder: Path,
    *,
    kills: int,
    freezes: int,
    most_seconds: float,
    back_seconds: float,
    between_seconds: float,
    seed: int,
) -> Outcome:
    chance = random.Random(seed)
    kinds = ["kill"] * kills + ["freeze"] * freezes
    chance.shuffle(kinds)
    with (
        Camera(size=SIZE, rate=RATE) as camera,
        Receiver(folder / "received") as receiver,
        Stream(camera.url, receiver.url) as stream,
    ):
        began = stream.until_running(RATE)
        returns: list[Return] = []
        for kind in kinds:
            time.sleep(chance.uniform(0.5, between_seconds))
            returns.append(absence(stream, receiver, kind, chance.uniform(0.5, most_seconds)))
        receiver.until_pictures(2 * RATE)
        last = stream.now
        code = stream.stop()
        received = receiver.wait()
        checks, shown = judged(receiver.files, "320x180", 2 * RATE)
        decoded = last.count("frames_decoded") - began.count("frames_decoded")
        lacking = (last.at - began.at) * RATE - decoded
        firsts = [path.name for path in receiver.files if not _begins_whole(path)]
        checks = [
            none_of(
                f"returns after which it took more than {back_seconds:g} s",
                [each for each in returns if each.back_seconds > back_seconds],
            ),
            none_of(
                "absences that were not reported", [each for each in returns if not each.noticed]
            ),
            none_of("connections that do not begin with a keyframe", firsts),
            equal("connections that have got pictures", len(receiver.files), len(kinds) + 1),
            equal("reconnects of the input", last.status["reconnects"], {}),
            equal("stalls of the input", last.count("stalls"), 0),
            timed(at_most("frames that the input lacks", lacking, 1.5 * RATE, "frames")),
            timed(equal("frames dropped before work", last.count("frames_dropped"), 0)),
            *checks,
            equal("exit of the stream", code, 0),
            equal("exit of the last receiver", received, 0),
            none_of("processes left", stream.left()),
        ]
        details = {
            "returns": [asdict(each) for each in returns],
            "longest": max((each.back_seconds for each in returns), default=None),
            "dropped": last.status["output_state"]["dropped"],
            "counts": last.status["counts"],
            "received": shown,
        }
        return Outcome(checks, details)


def absence(stream: Stream, receiver: Receiver, kind: str, away: float) -> Return:
    """Let the receiver be away for a time; returns how soon it gets something again."""
    gone = time.monotonic()
    if kind == "freeze":
        receiver.freeze()
        time.sleep(away)
    receiver.kill()
    time.sleep(away)
    receiver.start()
    returned = time.monotonic()
    before = stream.now.written
    seconds = _NEVER_SECONDS
    with suppress(AssertionError):  # it is reported as too late
        back = stream.until(
            lambda s: s.at > returned and s.written > before, "written again", _NEVER_SECONDS
        )
        since_first = (back.written - before - 1) / (2 * RATE)
        seconds = max(0.0, back.at - returned - since_first)
    noticed = any(not s.status["output_state"]["connected"] for s in stream.after(gone))
    return Return(kind, round(away, 2), round(seconds, 2), noticed)


def _begins_whole(path: Path) -> bool:
    pictures = [packet for packet in packets_of(path) if packet.kind == "video"]
    return bool(pictures) and pictures[0].is_keyframe


if __name__ == "__main__":
    run_as_script(
        "receivers",
        __doc__,
        measure,
        SHORT,
        kills=20,
        freezes=3,
        most_seconds=10.0,
        back_seconds=5.0,
        between_seconds=6.0,
    )
