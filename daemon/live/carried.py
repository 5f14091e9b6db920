"""Counts of a stream over the lives of its workers: a new one begins at nothing, its stream not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from .status import LiveStatus

K = TypeVar("K", bound=str)

_MOST_FILES = 10
"""Recordings that are remembered, the latest."""


def carried_on(before: LiveStatus | None, status: LiveStatus) -> LiveStatus:
    """Add what was counted by the workers before to what the one of now says."""
    if before is None:
        return status
    old, new = before.output_state, status.output_state
    sink = replace(
        new,
        connections=old.connections + new.connections,
        written=old.written + new.written,
        dropped=_sum(old.dropped, new.dropped),
        files=(*old.files, *new.files)[-_MOST_FILES:],
    )
    return replace(
        status,
        counts=_sum(before.counts, status.counts),
        reconnects=_sum(before.reconnects, status.reconnects),
        output_state=sink,
    )


def _sum(one: Mapping[K, int], other: Mapping[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
