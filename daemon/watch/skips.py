"""Says why a file is passed over: once for each version of it, not at every scan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from .names import Reason, Skip, shown
from .stability import Signature

log = logging.getLogger("upframe.watch")


class SkipLog:
    """Remembers what was said of each path."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[Reason, Signature | None]] = {}

    def say(self, skip: Skip, version: Signature | None = None) -> None:
        """Log why a path is passed over, unless that was said already.

        Args:
            skip: The path and the reason.
            version: Of the file, where another version is worth another line.
        """
        if self._said.get(skip.path) == (skip.reason, version):
            return
        self._said[skip.path] = (skip.reason, version)
        # "waits" for what will be looked at again by itself
        verb = "waits" if skip.reason in ("unstable", "unfinished") else "skipped"
        log.info("%s: %s, reason=%s: %s", shown(skip.path), verb, skip.reason, skip.detail)

    def clear(self, path: Path) -> None:
        """Forget a path that is no longer passed over."""
        self._said.pop(path, None)

    def keep(self, present: Collection[Path]) -> None:
        """Forget every path that is not there any more."""
        for path in self._said.keys() - set(present):
            del self._said[path]

    def reason_of(self, path: Path) -> Reason | None:
        """Tell why a path is passed over."""
        said = self._said.get(path)
        return said[0] if said else None

    def counts(self) -> dict[str, int]:
        """Count the paths that are passed over, by reason. Safe while another thread adds some."""
        return dict(Counter(reason for reason, _ in list(self._said.values())))
