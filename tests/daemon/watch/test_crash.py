"""A watch that is killed at any moment neither loses a file nor takes one twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

from support.jobs.watching import Yard, eventually, watching

ROUNDS = 6
_TESTS = Path(__file__).parents[2]


def settings(yard: Yard) -> dict[str, object]:
    return yard.watch(on_done="move", done_dir=yard.root / "done", stable_seconds=0.05)


def test_killed_again_and_again_it_takes_every_file_once(tmp_path: Path) -> None:
    yard, chance = Yard(tmp_path), random.Random(1)
    for number in range(ROUNDS):
        for letter in "abcd":
            yard.put(f"{number}/{letter}.mkv", f"{number}{letter}")
        _watch_and_kill(yard, after_seconds=chance.uniform(0.0, 0.4))

    async def finish() -> None:
        async with watching(yard, settings(yard)) as house:
            await eventually(lambda: house.store.counts()["queued"] == 4 * ROUNDS)
            while (job := await house.work()) is not None:
                await house.settled(job)
            await house.scans()
            jobs = await house.jobs()
            assert len({job.source for job in jobs}) == len(jobs) == 4 * ROUNDS
            assert {job.state for job in jobs} == {"done"}

    asyncio.run(finish())
    for folder in (yard.output, yard.root / "done"):
        found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
        files = {name: path.read_text() for name, path in found.items() if path.is_file()}
        assert files == {f"{n}/{x}.mkv": f"{n}{x}" for n in range(ROUNDS) for x in "abcd"}
        assert not [name for name in found if "/." in f"/{name}"]
    assert [path for path in yard.input.rglob("*") if path.is_file()] == []


def _watch_and_kill(yard: Yard, *, after_seconds: float) -> None:
    words = [sys.executable, str(Path(__file__)), str(yard.root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env={"PYTHONPATH": str(_TESTS)}) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"looked\n"
        time.sleep(after_seconds)
        child.kill()


async def watch_for_ever(yard: Yard) -> None:
    """What the child does."""
    async with watching(yard, settings(yard)) as house:
        await house.watches.looked()
        sys.stdout.write("looked\n")
        sys.stdout.flush()
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(watch_for_ever(Yard(Path(sys.argv[1]))))
