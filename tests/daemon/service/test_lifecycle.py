"""Signals mean what they should, and a part that fails begins again without harm to the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from upframe.daemon.service.lifecycle import Signals, SupervisedTask
from upframe.daemon.tasks import finished_before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_second_stops_at_once(number: signal.Signals) -> None:
    async def run() -> None:
        async with Signals() as signals:
            os.kill(os.getpid(), number)
            await asyncio.wait_for(signals.drain.wait(), 5)
            assert not signals.at_once.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(signals.at_once.wait(), 5)
            assert signals.number == signal.SIGTERM

    asyncio.run(run())


def test_hangup_reloads_and_nothing_else() -> None:
    async def run() -> None:
        async with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(signals.reload.wait(), 5)
            assert not signals.drain.is_set()

    asyncio.run(run())


def test_signals_are_given_back() -> None:
    async def run() -> None:
        async with Signals():
            pass

    before = signal.getsignal(signal.SIGTERM)
    asyncio.run(run())
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_part_that_fails_begins_again_and_is_counted() -> None:
    failures: list[str] = []
    begun = 0

    async def run() -> None:
        again = asyncio.Event()

        async def work() -> None:
            nonlocal begun
            begun += 1
            if begun == 1:
                raise RuntimeError("a bug")
            again.set()
            await asyncio.Event().wait()

        part = SupervisedTask("mqtt", failures.append)
        part.start(work)
        await asyncio.wait_for(again.wait(), 10)
        await part.stop()

    asyncio.run(run())
    assert failures == ["mqtt"]
    assert begun == 2


def test_stopping_a_part_waits_for_its_end() -> None:
    async def run() -> None:
        ended = False

        async def work() -> None:
            nonlocal ended
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                ended = True

        part = SupervisedTask("watch", lambda _: None)
        part.start(work)
        await asyncio.sleep(0)
        await part.stop()
        assert ended
        await part.stop()

    asyncio.run(run())


def test_work_goes_on_until_an_event_cancels_it() -> None:
    async def run() -> None:
        event = asyncio.Event()
        assert await finished_before(event, asyncio.sleep(0))
        ended = asyncio.Event()

        async def work() -> None:
            event.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        assert not await finished_before(event, work())
        assert ended.is_set()
        with pytest.raises(OSError, match="why"):
            await finished_before(asyncio.Event(), failing())

    async def failing() -> None:
        raise OSError("why")

    asyncio.run(run())


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import threading, time\n"
        "from upframe.daemon.service.lifecycle import leave_within\n"
        "threading.Thread(target=time.sleep, args=(60,), name='share').start()\n"
        "leave_within(0.2, 7)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20
    )
    assert result.returncode == 7
    assert "these threads hang: " in result.stderr
    assert "share" in result.stderr
