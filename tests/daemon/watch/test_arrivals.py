"""However a file arrives, it is taken once and whole."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.jobs.watching import House, Judging, Yard, eventually, watching

STABLE_SECONDS = 0.8
PIECES = 12
MODES = ("events", "poll")


async def in_pieces(source: Path, target: Path) -> None:
    """As a slow upload does: three times as long as it has to hold still."""
    with open(target, "wb", buffering=0) as file:  # noqa: ASYNC230
        for piece in pieces_of(source, PIECES):
            file.write(piece)
            await asyncio.sleep(3 * STABLE_SECONDS / PIECES)


async def with_a_stall(source: Path, target: Path) -> None:
    """It holds still for long enough in the middle, but is no whole file then."""
    first, second = pieces_of(source, 2)
    with open(target, "wb", buffering=0) as file:  # noqa: ASYNC230
        file.write(first)
        await asyncio.sleep(2 * STABLE_SECONDS)
        file.write(second)


async def with_space_reserved(source: Path, target: Path) -> None:
    """As download clients do: the full length at once, the content later."""
    (content,) = pieces_of(source, 1)
    with open(target, "wb", buffering=0) as file:  # noqa: ASYNC230
        file.truncate(len(content))
        await asyncio.sleep(2 * STABLE_SECONDS)
        file.write(content)


async def by_cp(source: Path, target: Path) -> None:
    await run("cp", str(source), str(target))


async def by_cp_that_keeps_times(source: Path, target: Path) -> None:
    await run("cp", "--preserve=timestamps", str(source), str(target))


async def by_rename(source: Path, target: Path) -> None:
    """The recommended way: written elsewhere, renamed in."""
    elsewhere = target.parent.parent.parent / f"elsewhere-{target.parent.name}-{target.name}"
    shutil.copyfile(source, elsewhere)
    os.rename(elsewhere, target)


async def by_rename_from_part(source: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    await in_pieces(source, part)
    part.rename(target)


async def by_rsync(source: Path, target: Path) -> None:
    """Into `.NAME.XXXXXX`, slowly, then renamed."""
    await run("rsync", "--times", "--bwlimit=100", str(source), str(target))


async def by_rsync_in_place(source: Path, target: Path) -> None:
    await run("rsync", "--inplace", "--bwlimit=100", str(source), str(target))


WAYS: tuple[Callable[[Path, Path], Coroutine[None, None, None]], ...] = (
    in_pieces,
    with_a_stall,
    with_space_reserved,
    by_cp,
    by_cp_that_keeps_times,
    by_rename,
    by_rename_from_part,
    by_rsync,
    by_rsync_in_place,
)


def pieces_of(source: Path, count: int) -> list[bytes]:
    content = source.read_bytes()
    size = -(-len(content) // count)
    return [content[start : start + size] for start in range(0, len(content), size)]


async def run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()


def test_every_file_is_taken_once_and_whole(
    tmp_path: Path, large_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder that is watched by events, and in one that is polled, at the same time."""
    caplog.set_level("INFO", "upframe")
    yard = Yard(tmp_path)
    watches = [watch_of(yard, mode) for mode in MODES]
    arrivals = [(mode, way) for mode in MODES for way in WAYS]
    names = sorted(f"{mode}/{way.__name__}.mp4" for mode, way in arrivals)

    async def arrive() -> None:
        async with watching(yard, *watches, prober=Judging()) as house:
            working = asyncio.create_task(keep_working(house), name="worker")
            async with asyncio.TaskGroup() as tasks:
                for mode, way in arrivals:
                    target = yard.input / mode / f"{way.__name__}.mp4"
                    tasks.create_task(way(large_clip, target), name=f"{mode} {way.__name__}")
            await eventually(lambda: house.store.counts()["done"] >= len(names))
            await house.scans()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            jobs = await house.jobs()
            taken = [Path(job.source).relative_to(yard.input) for job in jobs]
            assert sorted(map(str, taken)) == names
            assert {job.state for job in jobs} == {"done"}

    asyncio.run(arrive())
    made = [path for mode in MODES for path in (yard.output / mode).iterdir()]
    outputs = {str(path.relative_to(yard.output)): path.read_bytes() for path in made}
    assert outputs == dict.fromkeys(names, large_clip.read_bytes())


def watch_of(yard: Yard, mode: str) -> dict[str, Any]:
    for folder in (yard.input, yard.output):
        (folder / mode).mkdir()
    folders = {"input": yard.input / mode, "output": yard.output / mode}
    return yard.watch(mode=mode, stable_seconds=STABLE_SECONDS, **folders)


async def keep_working(house: House) -> None:
    while True:
        if await house.work() is None:
            await asyncio.sleep(0.02)
