"""A node on a broker without the rest of the daemon: bridge, queue and store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from support.servers.mqtt import DEADLINE_SECONDS, Broker

from upframe.daemon.backoff import Backoff
from upframe.daemon.config import Config
from upframe.daemon.jobs.model import Job, job_of
from upframe.daemon.jobs.queue import JobQueue
from upframe.daemon.jobs.store import JobStore
from upframe.daemon.live.status import LiveBoard
from upframe.daemon.mqtt.bridge import MqttBridge
from upframe.daemon.specification import ConversionSpec

BASE = "upframe/node1"
FILTERS = {"enable_upscaling": True, "upscaling_scale": 2}


@dataclass
class Node:
    bridge: MqttBridge
    queue: JobQueue
    store: JobStore
    root: Path
    running: asyncio.Task[None] | None = field(default=None)

    async def until(self, wanted: Callable[[], object], what: str) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not wanted():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def up(self) -> None:
        await self.until(lambda: self.bridge.health()["connected"], "connected")

    async def add(self, job_id: str, **fields: Any) -> Job:
        """Give the node a job from elsewhere."""
        work = ConversionSpec.model_validate(
            {"source": "/v/a.mkv", "sink": f"/v/{job_id}.mkv", "filters": FILTERS} | fields
        )
        job, _ = await self.queue.submit(job_of(work, id=job_id, origin="cli"))
        return job

    async def end(self, job_id: str, state: str = "done", **fields: Any) -> Job:
        """Run a job, without doing anything."""
        claimed = await self.queue.claim(limit_ids=(job_id,))
        assert claimed is not None
        return await self.queue.change(job_id, state, **fields)  # type: ignore[arg-type]

    def submission(self, job_id: str, **fields: Any) -> bytes:
        """A good request."""
        document = {
            "schema": "upframe.job/1",
            "id": job_id,
            "source": str(self.root / "in.mkv"),
            "sink": str(self.root / f"{job_id}.mkv"),
            "filters": FILTERS,
        }
        return json.dumps(document | fields).encode()


def config_of(broker: Broker, tmp_path: Path, **mqtt: Any) -> Config:
    root = tmp_path / "videos"
    root.mkdir(exist_ok=True)
    return Config.model_validate(
        {
            "state_dir": tmp_path / "state",
            "jobs": {
                "roots": [root],
                "allowed_schemes": ["file", "rtsp"],
                "allowed_hosts": ["cam"],
            },
            "mqtt": {"host": "127.0.0.1", "port": broker.port, "node_id": "node1"} | mqtt,
        }
    )


def fast_backoff() -> Backoff:
    return Backoff(((0.05, 0.1), (0.2, inf)), parts=(0.0, 1.0), good_seconds=1.0)


@asynccontextmanager
async def node_on(
    broker: Broker,
    tmp_path: Path,
    *,
    backoff: Backoff | None = None,
    stop: bool = True,
    metrics_seconds: float = 60.0,
    live: LiveBoard | None = None,
    **mqtt: Any,
) -> AsyncIterator[Node]:
    """A running node; `stop`: it says farewell, else it is cancelled."""
    with JobStore(tmp_path / "jobs.sqlite") as store:
        queue = JobQueue(store)
        bridge = MqttBridge(
            config_of(broker, tmp_path, **mqtt),
            queue,
            store,
            lambda: {"version": "1.2.3", "device": "cpu"},
            lambda: {"upframe_up": 1.0},
            live=live or LiveBoard(),
            backoff=backoff or fast_backoff(),
            metrics_seconds=metrics_seconds,
        )
        node = Node(bridge, queue, store, tmp_path / "videos")
        node.running = asyncio.create_task(bridge.run(), name="bridge")
        try:
            yield node
            if stop:
                await bridge.stopped()
        finally:
            node.running.cancel()
            await asyncio.wait({node.running})
            await queue.close()
            if not node.running.cancelled():
                node.running.result()


def answers(payload: bytes) -> dict[str, Any]:
    return json.loads(payload)
