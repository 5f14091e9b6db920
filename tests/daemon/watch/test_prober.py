"""With the prober of the daemon: a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from support.jobs.watching import Yard, eventually, watching

from upframe.daemon.workers.process import FileProber


def test_real_prober_tells_whole_half_and_damaged_files_apart(tmp_path: Path, clip: Path) -> None:
    yard = Yard(tmp_path)
    whole = clip.read_bytes()
    yard.put("whole.mp4", whole)
    half = yard.put("half.mp4", whole[: len(whole) // 2])
    yard.put("damaged.mp4", b"this is no film at all" * 100)

    async def run() -> None:
        async with (
            aclosing(FileProber(yard.config())) as prober,
            watching(yard, prober=prober) as house,
        ):
            await eventually(lambda: house.store.counts()["failed"], seconds=60)
            await eventually(house.has_jobs(2))
            states = {Path(job.source).stem: job.state for job in await house.jobs()}
            assert states == {"whole": "queued", "damaged": "failed"}
            half.write_bytes(whole)
            job = await house.job(count=3)
            assert (Path(job.source).stem, job.state) == ("half", "queued")

    asyncio.run(run())
