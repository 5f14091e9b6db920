"""Two hours of a stream in twelve minutes.

    python bench/live/endurance.py [--seconds 7200] [--speed 10] [--short]

A film of flashes and beeps is played again and again as a live camera, with a clock that runs ten
times as fast; the session is the one behind `upframe run`, in this process. Correct is: memory does
not grow by more than 20 MB, and in what was recorded each beep is within 40 ms of its flash.
"""

from __future__ import annotations

import os
import time
from array import array
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from capacity import DOUBLED
from clapper import make_clapper, offsets_in
from figures import Outcome, at_most, equal, run_as_script, timed
from stream import family_of, growth_bytes, resident_bytes
from support.live.looped import LoopedFile

from upframe.daemon.live.live_pipeline import LiveRequest
from upframe.daemon.live.session import LiveSession
from upframe.daemon.live.status import LiveStatus
from upframe.daemon.specification import StreamSpec
from upframe.filters.device import Runtime, resolve_device, resolve_precision
from upframe.filters.options import FilterOptions

SIZE, RATE = "64x48", 10
SHORT = {"seconds": 20.0, "speed": 8.0, "warm_seconds": 10.0}
MOST_OFFSET_SECONDS = 0.040
MOST_GROWTH_MEGABYTES = 20.0
_ROUND_SECONDS = 30
_LATENCY_SECONDS = 10.0
"""On the fast clock: a second of ours."""


def measure(
    folder: Path, *, seconds: float, speed: float, warm_seconds: float, seed: int
) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    film = make_clapper(folder / "film.mkv", size=SIZE, rate=RATE, seconds=_ROUND_SECONDS)
    result = folder / "result.mkv"
    began = time.monotonic()

    def fast() -> float:
        return began + (time.monotonic() - began) * speed

    resident = array("Q")  # nothing that grows by itself: it is this process that is measured

    def on_status(status: LiveStatus) -> None:
        if status.output_state.written and fast() >= began + warm_seconds:
            resident.append(sum(map(resident_bytes, family_of(os.getpid()))))

    session = LiveSession(
        request_for(result, seconds),
        now=fast,
        speed=speed,
        on_status=on_status,
        make_input=lambda _: LoopedFile(film, speed=speed, now=fast),
    )
    report = session.run()
    offsets = offsets_in(result)
    source = offsets_in(film)
    ours = [offset - source[0][1] for _, offset in offsets]
    lacking = seconds - len(offsets)
    worst = max(map(abs, ours), default=float("inf"))
    checks = [
        at_most("growth of memory", growth_bytes(resident) / 1e6, MOST_GROWTH_MEGABYTES, "MB"),
        at_most("beeps away from their flashes", worst, MOST_OFFSET_SECONDS, "s"),
        timed(at_most("flashes that are not there", lacking, 0.02 * seconds + 3, "")),
        at_most("time that is not there", seconds - report.seconds, 1.0, "s"),
        equal("discontinuities", discontinuities(report.counts), {}),
        equal("reconnects", report.reconnects, {}),
    ]
    details: dict[str, Any] = {
        "offset, first and last": (ours[:1], ours[-1:]),
        "resident MB": [round(each / 1e6) for each in resident[:: len(resident) // 12 + 1]],
        "counts": report.counts,
        "levels": report.levels[:20],
        "delay, fast clock": report.delay_seconds,
        "seconds of ours": round(time.monotonic() - began, 1),
    }
    return Outcome(checks, details)


def request_for(result: Path, seconds: float) -> LiveRequest:
    device = resolve_device()
    spec = StreamSpec(
        name="endurance",
        input="tcp://127.0.0.1:9",  # for its name alone: what is read is the film
        output=str(result),
        filters=FilterOptions.model_validate(DOUBLED),
        latency_seconds=_LATENCY_SECONDS,
    )
    runtime = Runtime(device, resolve_precision("auto", device), "builtin")
    return LiveRequest(spec, runtime, duration_seconds=seconds)


def discontinuities(counts: dict[str, int]) -> dict[str, int]:
    """Those that were seen, by kind."""
    return {name: n for name, n in counts.items() if name.startswith("discontinuities_") and n}


if __name__ == "__main__":
    run_as_script(
        "endurance", __doc__, measure, SHORT, seconds=7200.0, speed=10.0, warm_seconds=300.0
    )
