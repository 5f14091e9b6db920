"""The output's parts, made on their own thread: weights take seconds, or minutes from the hub."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .works import Works


class Loading:
    """Makes the parts once; whoever asks sees whether they are there."""

    def __init__(self, make: Callable[[], Works], changed: Callable[[], None]) -> None:
        """Begin.

        Args:
            make: makes and starts them, on this thread.
            changed: called when that has ended.
        """
        self.works: Works | None = None
        """The parts, once they run."""
        self.failure: BaseException | None = None
        """Why there are none."""
        self._make = make
        self._changed = changed
        self._thread = threading.Thread(target=self._run, name="upframe-load", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended: nothing can stop it."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self.works = self._make()
        except BaseException as error:  # raised again by the session, which ends with it
            self.failure = error
        finally:
            self._changed()
