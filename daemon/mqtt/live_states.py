"""Every live stream's retained state, on each change and now and then, held as the board has it.

As with jobs, the broker is where old truths survive: the state of a stream whose entry went while
nobody was connected is seen after connecting, and cleared.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

from ...io.redaction import redacted_values
from ..live.board import LiveBoard
from .message import Publication
from .outbox import Outbox
from .requests import json_bytes
from .topics import Topics

REPEAT_SECONDS = 60.0
"""Counts and delays change all the time; so often they are told without another reason."""


class LiveStates:
    """Follows all live streams, and tells the broker."""

    def __init__(
        self,
        topics: Topics,
        outbox: Outbox,
        board: LiveBoard,
        *,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        self._topics = topics
        self._outbox = outbox
        self._board = board
        self._repeat_seconds = repeat_seconds

    async def run(self) -> None:
        """Tell of every stream, then of every change, until cancelled."""
        async with aclosing(self._board.changes()) as changes:
            async for name in changes:
                self._announce(name)

    async def repeat(self) -> None:
        """Tell of every stream now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._repeat_seconds)
            for name in self._board.statuses:
                self._announce(name)

    def seen(self, name: str) -> None:
        """Note that the broker holds a state of ours, which may be of a stream that is gone."""
        self._announce(name)

    def _announce(self, name: str) -> None:
        self._outbox.retain(self._topics.live_state(name), partial(self._render, name))

    async def _render(self, name: str) -> Publication:
        """Make a stream's retained state as it is now; an empty one where there is no stream."""
        status = self._board.statuses.get(name)
        payload = b"" if status is None else json_bytes(redacted_values(status.to_json()))
        return Publication(self._topics.live_state(name), payload, retain=True)
