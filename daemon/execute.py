"""Runs one pipeline in this process: the event loop, the signals, the progress."""

from __future__ import annotations

import asyncio
import os
import signal

from .pipeline import Flow, Pipeline
from .progress import Display, show_progress


def execute(pipeline: Pipeline, total: int | None, display: Display) -> Flow:
    """Run a pipeline to its end. The first SIGINT or SIGTERM ends it in order, a second at once.

    Raises:
        Stopped: after a first signal.
        MediaError, FilterError: whatever ended the work early.
    """
    return asyncio.run(_execute(pipeline, total, display))


async def _execute(pipeline: Pipeline, total: int | None, display: Display) -> Flow:
    loop = asyncio.get_running_loop()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        if seen:  # no second thoughts: threads may hang in a codec or in a read
            os._exit(128 + number)
        seen.append(number)
        pipeline.stop(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, on_signal, int(number))
    progress = asyncio.create_task(show_progress(pipeline.flow, total, display), name="progress")
    try:
        return await pipeline.run()
    finally:
        progress.cancel()
        await asyncio.gather(progress, return_exceptions=True)
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # the loop leaves the default, not what it found
