"""What the compute thread does: planes to RGB, the filters, RGB to planes."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from ..filters.chain import Chain
from ..filters.color import ToFrame, ToPicture, matrix_warning, output_color, output_size
from ..filters.frame import Filter, Frame, Picture, StreamInfo
from ..filters.scenes import Scenes
from .lanes import Lanes, lanes_for

PICTURES_COMING = 2
"""That come down from a CUDA card while it computes the next ones."""

log = logging.getLogger("upframe.compute")


class Compute:
    """Pictures in, filtered pictures out; every frame takes the same way through the colours.

    Args:
        info: Of the pictures that come in.
        filters: In the order in which frames pass them.
        pix_fmt: Of the pictures that go out.
        device: Where the filters compute.
        detect_cuts: Whether scene cuts are sought.
    """

    def __init__(
        self,
        info: StreamInfo,
        filters: Iterable[Filter],
        *,
        pix_fmt: str,
        device: torch.device,
        detect_cuts: bool = True,
    ) -> None:
        self._chain = Chain(tuple(filters))
        out = self._chain.open(info)
        width, height = output_size(out.width, out.height, pix_fmt)
        color = output_color(info, width, height, pix_fmt)
        self.info = replace(out, width=width, height=height, pix_fmt=pix_fmt, color=color)
        """Of the pictures that go out."""
        if warning := matrix_warning(info, color):
            log.warning("%s", warning)
        self._scenes = Scenes(detect_cuts)
        self._to_frame = ToFrame(device)
        self._to_picture = ToPicture(pix_fmt, color)
        self._coming: deque[Callable[[], Picture]] = deque()
        self._most_coming = PICTURES_COMING if device.type == "cuda" else 0
        self._lanes: Lanes[Picture] | None = lanes_for(self._chain, device, _coded_bytes(info, out))

    def __call__(self, picture: Picture) -> Iterator[Picture]:
        """Take the next picture, give those that are ready."""
        marks = self._scenes(picture)
        with torch.inference_mode():
            frame = self._to_frame(picture, cut=marks.cut, duplicate=marks.duplicate)
        if self._lanes is None:
            yield from self._pictures(self._chain(frame))
        else:
            planned = self._chain.plan(frame)
            yield from self._lanes([self._to_picture.plan(pending) for pending in planned])

    def flush(self) -> Iterator[Picture]:
        """Give what the filters still hold."""
        if self._lanes is not None:
            yield from self._lanes.settle()
            self.close()
        yield from self._pictures(self._chain.flush())
        yield from self.settle()

    def settle(self) -> Iterator[Picture]:
        """Give the pictures that are on their way, and wait for them."""
        if self._lanes is not None:
            yield from self._lanes.settle()
        while self._coming:
            yield self._coming.popleft()()

    def close(self) -> None:
        """End the threads that compute; what they have not given is lost. To be called last."""
        if self._lanes is not None:
            self._lanes.close()

    def stage(self, picture: Picture) -> Picture:
        """Begin to copy a picture to the device; for the thread that reads them, in their order."""
        return self._to_frame.stage(picture)

    def statistics(self) -> Mapping[str, int]:
        """Counters of the scenes, the colours and all filters."""
        total: Counter[str] = Counter()
        for stage in (self._scenes, self._to_frame, self._chain, self._to_picture):
            total.update(stage.statistics())
        return dict(total)

    def _pictures(self, frames: Iterable[Frame]) -> Iterator[Picture]:
        for frame in frames:
            with torch.inference_mode():
                self._coming.append(self._to_picture.begin(frame))
            if len(self._coming) > self._most_coming:
                yield self._coming.popleft()()


def _coded_bytes(incoming: StreamInfo, outgoing: StreamInfo) -> int:
    """Estimate the memory of all pictures that come of one, at most."""
    pictures = int(incoming.time_base / outgoing.time_base)
    return pictures * outgoing.width * outgoing.height * 3 * torch.uint16.itemsize
