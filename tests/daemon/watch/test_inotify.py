"""Running out of inotify: said in words that help, and polled around.

In a user namespace of our own, where the limits can be lowered for real.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.jobs.watching import Yard, eventually, watching

from upframe.daemon.config import WatchConfig
from upframe.daemon.fence import internal_errors
from upframe.daemon.watch.watcher import ChangeListener, exhaustion

_SAMPLES = Path(__file__).parents[2]


def test_nothing_to_say_while_there_are_watches(tmp_path: Path) -> None:
    assert exhaustion(tmp_path) is None


def test_a_missing_folder_is_no_shortage(tmp_path: Path) -> None:
    assert exhaustion(tmp_path / "gone") is None


@pytest.mark.parametrize(
    ("limit", "count", "key"),
    [("watches", 3, "max_user_watches"), ("instances", 0, "max_user_instances")],
)
def test_shortage_at_the_start_is_named_and_polled_around(
    tmp_path: Path, limit: str, count: int, key: str
) -> None:
    lines = _in_a_namespace(tmp_path, limit, count, "from_the_start")
    assert len([line for line in lines if "events are lost" in line]) == 1
    warning = next(line for line in lines if "events are lost" in line)
    assert f"inotify {limit} have run out (fs.inotify.{key} is " in warning
    assert "the disk is not full" in warning
    assert f"sysctl fs.inotify.{key}=" in warning
    assert "scanned every" in warning
    assert "jobs 1 mode poll" in lines


def test_shortage_that_comes_later_is_noticed_at_the_next_scan(tmp_path: Path) -> None:
    """watchfiles says nothing when it cannot watch a new folder."""
    lines = _in_a_namespace(tmp_path, "watches", 12, "later")
    assert "first events" in lines
    assert len([line for line in lines if "events are lost" in line]) == 1
    assert "jobs 1 mode poll" in lines


def test_the_limit_is_tested_only_when_the_watches_of_the_tree_were_added(tmp_path: Path) -> None:
    """The watch that tests the limit would take one of theirs, and hide what is missing."""
    lines = _in_a_namespace(tmp_path, "watches", 3, "too_early")
    assert [line for line in lines if " mode " in line] == ["early mode events", "late mode poll"]


def _in_a_namespace(tmp_path: Path, limit: str, count: int, scene: str) -> list[str]:
    """Play a scene of this file where inotify is short; returns the lines that it wrote."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    lower = f'echo {count} > /proc/sys/user/max_inotify_{limit} && exec "$@"'
    words = [sys.executable, str(Path(__file__)), scene, str(tmp_path)]
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", lower, "sh", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": str(_SAMPLES)}
    )
    if done.returncode and not done.stdout and "unshare" in done.stderr:
        pytest.skip(f"no user namespace: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def from_the_start(yard: Yard) -> None:
    for number in range(10):
        yard.put("film.mkv" if number == 9 else "a.txt", folder=yard.input / f"folder {number}")
    await _watch(yard, late_folders=0)


async def later(yard: Yard) -> None:
    await _watch(yard, late_folders=20)


async def too_early(yard: Yard) -> None:
    for number in range(10):
        yard.put("a.txt", folder=yard.input / f"folder {number}")
    watch = WatchConfig.model_validate(yard.watch(mode="events"))
    woken = asyncio.Event()
    listener = ChangeListener(watch, woken.set)
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    for number in range(3):  # takes all watches that there are
        libc.inotify_add_watch(descriptor, os.fsencode(yard.input / f"folder {number}"), 0x400)
    await listener.begin("ext4", 11)
    await listener.check()
    say("early mode", listener.mode.name)
    await asyncio.wait_for(woken.wait(), 30)
    await listener.check()
    say("late mode", listener.mode.name)
    await listener.end()
    os.close(descriptor)


async def _watch(yard: Yard, *, late_folders: int) -> None:
    async with watching(yard, yard.watch(mode="events")) as house:
        await house.scans(1)
        say("first", house.watches.status()[0]["mode"])
        for number in range(late_folders):
            yard.put("a.txt", folder=yard.input / f"late {number}")
        if late_folders:
            yard.put("film.mkv", folder=yard.input / f"late {late_folders - 1}")
        await house.job()
        await eventually(lambda: house.watches.status()[0]["mode"] == "poll")
        await house.scans(2)
        say("jobs", len(await house.jobs()), "mode", house.watches.status()[0]["mode"])


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    scenes = {"from_the_start": from_the_start, "later": later, "too_early": too_early}
    asyncio.run(scenes[sys.argv[1]](Yard(Path(sys.argv[2]))))


def test_a_bug_in_hearing_changes_is_told_so_that_the_folder_is_polled(tmp_path: Path) -> None:
    """The library raises what nobody has foreseen where a name is no UTF-8."""

    async def main() -> None:
        woken = asyncio.Event()
        watch = WatchConfig.model_construct(
            input=tmp_path / os.fsdecode(b"\xff"), mode="events", recursive=True, scan_seconds=60
        )
        listener = ChangeListener(watch, woken.set)
        before = internal_errors["event"]
        await listener.begin("ext4", 1)
        await asyncio.wait_for(woken.wait(), 10)
        assert listener.mode.name == "poll"
        assert "internal error" in listener.mode.why
        assert internal_errors["event"] == before + 1
        assert listener.take() is None
        await listener.end()

    asyncio.run(main())
