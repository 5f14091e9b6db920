"""The pipe between daemon and worker, whatever comes through it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.jobs.work import eventually

from upframe.daemon.fence import internal_errors
from upframe.daemon.workers.messages import Cancel, Ready, Stop, Stopped, read_event
from upframe.daemon.workers.process import Child, WorkerSettings

READY = "from upframe.daemon.workers.messages import Ready; sys.stdout.buffer.write(Ready().line);"


@dataclass(frozen=True)
class Script(WorkerSettings):
    """A child that is no worker."""

    script: str = ""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", f"import sys; {self.script}"]


async def started(script: str) -> Child:
    child = Child(Script("0", Path("/none"), script=script))
    await child.start()
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
        child.send(Stop())
        await child.kill("enough")
        assert not child.alive
        child.send(Stop())  # to nobody
        await child.kill("twice")
        assert child.end == "was killed: enough"

    asyncio.run(main())


def test_requests_to_a_child_that_died_are_lost_in_silence() -> None:
    async def main() -> None:
        child = await started("")
        await eventually(lambda: not child.alive)
        for _ in range(20):
            child.send(Cancel(id="a"))
        await child.ended()

    asyncio.run(main())


WIRE = """
import os, sys
from upframe.daemon.workers.messages import Ready, Stopped
from upframe.daemon.workers.channel import Wire
wire = Wire()
print("noise of a library", flush=True)
os.write(1, b"more noise\\n")
wire.send(Ready())
while (request := wire.next_request()) is not None:
    wire.send(Stopped())
assert sys.stdin.read() == ""
os._exit(3)
"""


def through_wire(requests: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", WIRE]
    return subprocess.run(command, input=requests, capture_output=True, timeout=60, check=False)


def test_nothing_but_events_comes_out_of_a_worker_and_it_ends_with_its_pipe() -> None:
    done = through_wire(Stop().line + Stop().line)
    assert [read_event(line) for line in done.stdout.splitlines()] == [
        Ready(),
        Stopped(),
        Stopped(),
    ]
    assert done.stderr.decode().splitlines() == ["noise of a library", "more noise"]
    assert done.returncode == 3


def test_a_worker_does_not_guess_at_what_is_no_request() -> None:
    done = through_wire(b'{"kind": "job"}\n')
    assert done.returncode == 70
    assert b"ValidationError" in done.stderr


class Tripping(Child):
    """Has a bug, which some lines bring out."""

    def _take(self, line: bytes) -> None:
        if line == b"poison\n":
            raise ZeroDivisionError("a bug")
        super()._take(line)


def test_a_line_that_trips_us_is_passed_over_and_the_next_one_heard() -> None:
    async def main() -> None:
        before = internal_errors["worker"]
        script = f"print('poison', flush=True); {READY} sys.stdout.flush(); sys.stdin.read()"
        child = Tripping(Script("0", Path("/none"), script=script))
        await child.start()
        assert await child.events.get() == Ready()
        assert child.alive
        assert internal_errors["worker"] == before + 1
        child.hang_up()
        await child.ended()

    asyncio.run(main())
