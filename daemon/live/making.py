"""The output's parts in the making: at the start what needs no input, the rest once it is known."""

from __future__ import annotations

from collections.abc import Iterator

from ...io.live.targets import LiveTarget
from .intake import Intake
from .loading import Loading
from .preparing import prepare
from .request import LiveRequest
from .works import Surroundings, Works, start_works

_PREPARED_SECONDS = 5.0
"""For weights from the disk, at the end; a fetch from the hub is left behind."""


class Making:
    """Makes the parts of one session; both steps take their time, each on a thread of its own."""

    def __init__(
        self, request: LiveRequest, target: LiveTarget, intake: Intake, around: Surroundings
    ) -> None:
        """Begin with what needs no input."""
        self._request, self._target = request, target
        self._intake, self._around = intake, around
        self._prepared = Loading(lambda: prepare(request, target), around.changed)
        self._loading: Loading[Works] | None = None

    @property
    def works(self) -> Works | None:
        """The parts, once they run."""
        return None if self._loading is None else self._loading.made

    def failures(self) -> Iterator[BaseException]:
        """Tell why there is nothing."""
        for loading in (self._prepared, self._loading):
            if loading is not None and loading.failure is not None:
                yield loading.failure

    def go_on(self) -> None:
        """Have the rest made, once it is known for what, and with what."""
        first, prepared = self._intake.first, self._prepared.made
        if first is None or prepared is None or self._loading is not None:
            return
        request, target, intake, around = self._request, self._target, self._intake, self._around
        self._loading = Loading(
            lambda: start_works(request, target, prepared, first, intake, around), around.changed
        )

    def join(self) -> None:
        """Wait for the parts, if they are being made."""
        if self._loading is not None:
            self._loading.join()

    def drop(self) -> None:
        """Leave nothing behind that can be waited for."""
        self._prepared.join(_PREPARED_SECONDS)
        self.join()
