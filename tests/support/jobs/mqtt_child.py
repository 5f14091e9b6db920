"""A node in a process of its own, which can be killed: `python mqtt_child.py PORT FOLDER`.

It runs jobs without doing anything, a few each time.
"""

from __future__ import annotations

import asyncio
import sys
from math import inf
from pathlib import Path

from upframe.daemon.backoff import Backoff
from upframe.daemon.config import Config
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.mqtt.bridge import MqttBridge


async def run(port: int, folder: Path) -> None:
    config = Config.model_validate(
        {
            "state_dir": folder / "state",
            "jobs": {"roots": [folder / "videos"]},
            "mqtt": {"host": "127.0.0.1", "port": port, "node_id": "node1"},
        }
    )
    with JobStore(folder / "jobs.sqlite") as store:
        for job in store.jobs(("running",)):  # as recovery does
            store.change(job.id, "queued", attempts=0)
        queue = JobQueue(store)
        bridge = MqttBridge(
            config,
            queue,
            store,
            dict,
            dict,
            backoff=Backoff(((0.05, 0.1), (0.2, inf)), parts=(0.0, 1.0)),
        )
        running = asyncio.create_task(bridge.run(), name="bridge")
        while not running.done():
            await queue.wait_for_work(0.5)
            job = await queue.claim()
            if job is not None:
                await queue.change(job.id, "done")
        running.result()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), Path(sys.argv[2])))
