"""Lateness is measured where it happens: in the loop."""

from __future__ import annotations

import asyncio
import time

from upframe.daemon.service.status import LoopLag


def measured(blocking_seconds: float, observed: list[float]) -> LoopLag:
    async def measure() -> LoopLag:
        lag = LoopLag(observed.append)
        running = asyncio.create_task(lag.run())
        await asyncio.sleep(0.1)
        time.sleep(blocking_seconds)  # noqa: ASYNC251  (what shall be noticed)
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.wait({running})
        return lag

    return asyncio.run(measure())


def test_a_blocking_call_is_seen_for_how_long_it_blocked() -> None:
    observed: list[float] = []
    statistics = measured(0.3, observed).statistics()
    assert 0.27 <= statistics["max"] < 2
    assert statistics["p99.9"] == statistics["max"]
    assert statistics["p50"] < statistics["max"] / 2
    assert statistics["p50"] in observed
    assert max(observed) == statistics["max"]


def test_nothing_measured_is_nothing_late() -> None:
    assert LoopLag().statistics() == {"p50": 0.0, "p99.9": 0.0, "max": 0.0}
