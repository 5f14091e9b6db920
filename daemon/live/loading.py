"""What takes its time, made on its own thread: weights take seconds, or minutes from the hub."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Loading(Generic[T]):
    """Makes something once; whoever asks sees whether it is there."""

    def __init__(self, make: Callable[[], T], changed: Callable[[], None]) -> None:
        """Begin.

        Args:
            make: makes it, on this thread.
            changed: called when that has ended.
        """
        self.made: T | None = None
        """What was made, once it is there."""
        self.failure: BaseException | None = None
        """Why there is nothing."""
        self._make = make
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="upframe-load", daemon=True)
        self._thread.start()

    def join(self, timeout_seconds: float | None = None) -> None:
        """Wait until it has ended, for nothing can stop it; None: as long as it takes."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self.made = self._make()
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
        finally:
            self._changed()
