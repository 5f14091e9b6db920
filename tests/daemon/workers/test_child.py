"""The pipe between daemon and worker, whatever comes through it."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from support.jobs.work import eventually

from upframe.daemon.fence import internal_errors
from upframe.daemon.workers.messages import (
    CancelJob,
    Event,
    JobStopped,
    ProbeFile,
    Ready,
    read_event,
)
from upframe.daemon.workers.process import WorkerChild

READY = "from upframe.daemon.workers.messages import Ready; sys.stdout.buffer.write(Ready().line);"


class Script(WorkerChild):
    """A child that is no worker, and a queue of its events with None for their end."""

    def __init__(self, script: str) -> None:
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()
        command = [sys.executable, "-c", f"import sys; {script}"]
        put = self.events.put_nowait
        super().__init__("worker 0", command, put, lambda: put(None))


async def started(script: str) -> Script:
    child = Script(script)
    child.spawn()
    return child


def test_a_child_that_sends_no_event_is_killed() -> None:
    async def main() -> None:
        child = await started("print('hello', flush=True); sys.stdin.read()")
        assert await child.events.get() is None
        await child.ended()
        assert child.end.startswith("was killed: it sent what is no event:")

    asyncio.run(main())


def test_half_a_line_is_the_end() -> None:
    async def main() -> None:
        child = await started(READY + 'sys.stdout.write(\'{"kind": "st\')')
        assert await child.events.get() == Ready()
        assert await child.events.get() is None
        await child.ended()
        assert child.end == "ended with status 0"

    asyncio.run(main())


def test_stderr_never_stops_a_child_and_its_end_is_kept() -> None:
    async def main() -> None:
        child = await started(
            "sys.stderr.write('x' * 79 + '\\n') and [sys.stderr.write('y' * 79 + '\\n')"
            " for _ in range(50_000)]; sys.stderr.write('the last words'); " + READY
        )
        async with asyncio.timeout(20):
            assert await child.events.get() == Ready()
            await child.ended()
        assert child.tail.text is not None
        assert child.tail.text.endswith("the last words")
        assert len(child.tail.text) < 10_000

    asyncio.run(main())


def test_a_child_that_closes_its_pipe_can_still_be_ended() -> None:
    async def main() -> None:
        child = await started("import os, time; os.close(1); time.sleep(600)")
        assert await child.events.get() is None
        assert child.alive
        child.send(CancelJob(id="a"))
        await child.kill("enough")
        assert not child.alive
        child.send(CancelJob(id="a"))  # to nobody
        await child.kill("twice")
        assert child.end == "was killed: enough"

    asyncio.run(main())


def test_requests_to_a_child_that_died_are_lost_in_silence() -> None:
    async def main() -> None:
        child = await started("")
        await eventually(lambda: not child.alive)
        for _ in range(20):
            child.send(CancelJob(id="a"))
        await child.ended()

    asyncio.run(main())


CHANNEL = """
import os, sys
from upframe.daemon.workers.messages import Ready, JobStopped
from upframe.daemon.workers.worker import JobChannel
channel = JobChannel()
print("noise of a library", flush=True)
os.write(1, b"more noise\\n")
channel.send(Ready())
while (request := channel.next_request()) is not None:
    channel.send(JobStopped())
assert sys.stdin.read() == ""
os._exit(3)
"""


def through_channel(requests: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", CHANNEL]
    return subprocess.run(command, input=requests, capture_output=True, timeout=60, check=False)


def test_nothing_but_events_comes_out_of_a_worker_and_it_ends_with_its_pipe() -> None:
    done = through_channel(2 * ProbeFile(path="/a").line)
    assert [read_event(line) for line in done.stdout.splitlines()] == [
        Ready(),
        JobStopped(),
        JobStopped(),
    ]
    assert done.stderr.decode().splitlines() == ["noise of a library", "more noise"]
    assert done.returncode == 3


def test_a_worker_does_not_guess_at_what_is_no_request() -> None:
    done = through_channel(b'{"kind": "job"}\n')
    assert done.returncode == 70
    assert b"ValidationError" in done.stderr


def test_a_line_that_trips_us_is_passed_over_and_the_next_one_heard() -> None:
    async def main() -> None:
        before = internal_errors["worker"]
        poison = "Ready(device='poison').line"
        script = f"{READY} sys.stdout.flush(); sys.stdin.read()".replace(
            "Ready().line", poison + " + Ready().line"
        )
        child = Script(script)

        def trip(event: Event) -> None:
            if event == Ready(device="poison"):
                raise ZeroDivisionError("a bug")
            child.events.put_nowait(event)

        child._on_event = trip
        child.spawn()
        assert await child.events.get() == Ready()
        assert child.alive
        assert internal_errors["worker"] == before + 1
        child.close_stdin()
        await child.ended()

    asyncio.run(main())
