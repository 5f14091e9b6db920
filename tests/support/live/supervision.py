"""Entries of live streams, and a supervisor at work, for the tests of what keeps streams up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.jobs.work import children_of
from support.live.child import command_in

from upframe.daemon.backoff import Backoff
from upframe.daemon.config import Config
from upframe.daemon.live.status import LiveStatus
from upframe.daemon.live.supervisor import LiveSupervisor

UPSCALE = {"enable_upscaling": True, "upscaling_scale": 2}
SECONDS = 30.0
"""For anything that is waited for."""


def entry(name: str, **fields: Any) -> dict[str, Any]:
    given = {"input": f"rtsp://127.0.0.1:9/{name}", "output": f"rtsp://127.0.0.1:9/out/{name}"}
    return {"name": name, "filters": UPSCALE, "device": "cpu", **given, **fields}


def config_with(folder: Path, *entries: dict[str, Any], **jobs: Any) -> Config:
    given = {"state_dir": folder, "weights": "builtin", "live": entries, "jobs": jobs}
    return Config.model_validate(given)


class Watched:
    """A supervisor, and what is waited for in it."""

    def __init__(self, supervisor: LiveSupervisor) -> None:
        self.supervisor = supervisor

    def status(self, name: str) -> LiveStatus | None:
        return self.supervisor.board.statuses.get(name)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                while not holds():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"not within {SECONDS:g} s: {what}; {self._all()}") from None

    async def until_state(self, name: str, state: str) -> LiveStatus:
        def found() -> bool:
            status = self.status(name)
            return status is not None and status.state == state

        await self.until(found, f"{name} is {state}")
        status = self.status(name)
        assert status is not None
        return status

    def _all(self) -> str:
        return ", ".join(f"{s.name}: {s}" for s in self.supervisor.board.statuses.values())


@asynccontextmanager
async def supervised(config: Config, **options: Any) -> AsyncIterator[Watched]:
    """A supervisor at work; at the end no process of it is left, not even a zombie."""
    before = children_of(os.getpid())
    # the first steps of the pauses, without chance: 0.6 s
    given = {
        "backoff": lambda: Backoff(chance=lambda: 0.0),
        "command": command_in(config.state_dir),
    }
    supervisor = LiveSupervisor(**given | options)
    supervisor.configure(config)
    try:
        yield Watched(supervisor)
    finally:
        await supervisor.end()
        assert children_of(os.getpid()) == before
