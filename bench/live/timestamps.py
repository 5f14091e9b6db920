"""A camera whose clock is wrong in every way that clocks are.

    python bench/live/timestamps.py [--rounds 10] [--short]

MPEG-TS over TCP: in every round the timestamps wrap at 33 bits, jump by +10 s, jump by -10 s, are
missing three times, and start from 0 again. Correct is: all is counted, and the output goes on
smoothly, with next to no repeats while nothing is given up: at lower levels they are meant.
A round takes six times the space between two events, so that ten of them take three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from figures import Check, Outcome, at_least, at_most, equal, none_of, run_as_script, timed
from shown import judged
from stream import Sample, Stream
from support.media.ts_packets import WRAP
from support.media.ts_senders import TICKS, TsSender
from support.servers.receivers import Receiver

SIZE, RATE = "64x48", 15
LEVEL = "full"
"""That the stream should have."""
SHORT = {"rounds": 1, "space_seconds": 0.6}
_EVENTS = 5
_MISSING = 3
_LEAST_SHARE = 0.2
"""Of the time at the level that the stream should have: else too few events were seen at it."""
_REPEATS = 4
"""Of the output's frames, at each event: nothing is interpolated across it."""


def measure(folder: Path, *, rounds: int, space_seconds: float, seed: int) -> Outcome:
    clock = WrongClock(rounds, round(space_seconds * RATE))
    sender = TsSender(clock, rate=RATE, size=SIZE)
    with (
        Receiver(folder / "received") as receiver,
        sender,
        # tiny pictures: threads would wait for each other, and for other work, more than compute
        Stream(sender.url, receiver.url, threads=1) as stream,
    ):
        began = stream.until_running(RATE)
        clock.begin(sender.sent + RATE)
        sender.until_sent(sender.sent + RATE + clock.pictures, clock.pictures / RATE + 60)
        end = time.monotonic() + 1.0
        last = stream.until(lambda s: s.at > end, "all is over")
        code = stream.stop()
        received = receiver.wait()
        checks, shown = judged([receiver.file], "128x96", 2 * RATE)
        counts = last.status["counts"]
        samples = [each for each in stream.after(began.at) if each.at <= last.at]
        repeated, seconds = at_level(samples, LEVEL)
        share = seconds / (last.at - began.at)
        most_repeats = round(_REPEATS * rounds * _EVENTS * share)
        checks = [
            *counted(counts, rounds),
            equal("connections of the camera", sender.connections, 1),
            timed(at_most(f"repeated at {LEVEL}", repeated, most_repeats, "frames")),
            timed(at_least(f"share of the time at {LEVEL}", share, _LEAST_SHARE)),
            timed(equal("frames dropped before work", last.count("frames_dropped"), 0)),
            *checks,
            equal("exit of the stream", code, 0),
            equal("exit of the receiver", received, 0),
            equal("errors of the receiver", receiver.log, ""),
            none_of("processes left", stream.left()),
        ]
        details = {
            "counts": counts,
            "delay": last.status["delay_seconds"],
            "levels": sorted({each.status["level"] for each in samples}),
            "received": shown,
        }
        return Outcome(checks, details)


def at_level(samples: Sequence[Sample], level: str) -> tuple[int, float]:
    """Frames repeated, and seconds passed, while a level was in force."""
    repeated, seconds = 0, 0.0
    for before, after in pairwise(samples):
        if before.status["level"] == after.status["level"] == level:
            repeated += after.count("frames_repeated") - before.count("frames_repeated")
            seconds += after.at - before.at
    return repeated, seconds


def counted(counts: dict[str, int], rounds: int) -> list[Check]:
    """Each event is counted for what it is.

    To start from 0 again is to jump backward; the way to a round's begin, shortly before the wrap,
    is a jump forward.
    """
    wanted = {
        "wrap": rounds,
        "forward": 2 * rounds,
        "backward": 2 * rounds,
        "missing": _MISSING * rounds,
    }
    return [
        equal(f"discontinuities: {kind}", counts.get(f"discontinuities_{kind}", 0), number)
        for kind, number in wanted.items()
    ]


class WrongClock:
    """Steady until `begin`; then the events of each round, one after the other."""

    def __init__(self, rounds: int, space: int) -> None:
        """Take how many rounds there are, and how many pictures between two events."""
        self._rounds, self._space = rounds, space
        self._round = (_EVENTS + 1) * space
        self.pictures = rounds * self._round
        self._first: int | None = None

    def begin(self, first: int) -> None:
        """Begin with a picture that was not sent yet."""
        self._first = first

    def __call__(self, number: int) -> int | None:
        if self._first is None or number < self._first:
            return TICKS + number * TICKS // RATE
        since = number - self._first
        place = since - self._round * min(since // self._round, self._rounds - 1)
        event = place // self._space
        if event == 4 and place % self._space < _MISSING:
            return None
        if event >= 5:
            return (place - 5 * self._space) * TICKS // RATE
        later = 10 * TICKS if event == 2 else 0
        return WRAP + (place - self._space) * TICKS // RATE + later


if __name__ == "__main__":
    run_as_script("timestamps", __doc__, measure, SHORT, rounds=10, space_seconds=3.0)
