"""Waiting that has an end: after a time, or by an event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any


async def within(seconds: float, work: Awaitable[object]) -> bool:
    """Wait for something, which is cancelled after a time; return whether it came before."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work
            return True
    return False


async def finished_before(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Run some work until it is done or an event is set, which cancels it.

    Returns:
        Whether the work is done and the event is not set.

    Raises:
        Exception: as the work does.
    """
    working = asyncio.create_task(work, name="until stopped")
    waiting = asyncio.create_task(event.wait(), name="stop")
    ended = False
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        ended = working.done()
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait({working, waiting})
    if not ended or working.cancelled():
        return False
    working.result()
    return not event.is_set()
