"""Metrics name a watched folder, and forget a name that is no longer used."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from support.jobs.watching import Saying, Yard, eventually

from upframe.daemon.config import Config
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.live.status import LiveBoard
from upframe.daemon.service.daemon import Frontends
from upframe.daemon.service.status import LoopLag, Metrics, Status


def test_a_folder_has_its_name_beside_its_number(tmp_path: Path) -> None:
    yard, second = Yard(tmp_path), Yard(tmp_path / "more")
    metrics = Metrics()

    async def run() -> None:
        with JobStore(tmp_path / "state" / "jobs.sqlite") as store:
            queue = JobQueue(store)
            status = Status(queue, metrics, LoopLag())
            parts = Frontends(queue, store, Saying().probe, status, metrics, LiveBoard())

            async def folders() -> set[tuple[str, str]]:
                text = (await status.exposition()).decode()
                lines = re.findall(r"^upframe_watch_paused\{(.*)\}", text, re.M)
                found = (dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines)
                return {(labels["watch"], labels["folder"]) for labels in found}

            both = yard.config(yard.watch(), second.watch(name="films"))
            await parts.start_work(both)
            assert await folders() == {("0", "in"), ("1", "films")}
            assert (await status.whole())["watch"][1]["name"] == "films"
            await parts.change(renamed(yard), {"watch"})
            await eventually(lambda: len(status.parts["watch"]()) == 1)
            assert await folders() == {("0", "other")}
            await parts.stop()
            await queue.close()

    asyncio.run(run())


def renamed(yard: Yard) -> Config:
    return yard.config(yard.watch(name="other"))
