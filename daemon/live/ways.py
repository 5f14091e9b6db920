"""How a picture goes at one level: through the filters in RGB, or on its coded planes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch

from ...filters.chain import Chain
from ...filters.color import ToFrame, ToPicture
from ...filters.frame import Filter, Frame, Picture, StreamInfo
from ...filters.scenes import Scenes
from ...io.live.scaling import Method, Scaler


class Way(Protocol):
    """What is done with pictures at one level, one after the other."""

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Take a picture, give those that are ready; see `LiveCompute`."""
        ...

    def flush(self) -> Iterator[Picture]:
        """Give what is held, and remember nothing of it."""
        ...

    def rehearse(self, picture: Picture) -> None:
        """Do all of the work for a picture, whatever it shows, and give nothing."""
        ...

    def forget(self) -> None:
        """Leave no trace of what was rehearsed."""
        ...

    def statistics(self) -> Mapping[str, int]:
        """Counters of what was done so far, without those of the filters."""
        ...


class FilteredWay:
    """Through the filters, and where these do not enlarge, to the output's size thereafter.

    Args:
        filters: Opened here. Other ways may have them too, for one goes at a time and is flushed.
        incoming: Of the pictures that come in.
        outgoing: Of the pictures that go out, whatever the level.
        device: Where the filters compute.
        detect_cuts: Whether scene cuts are sought.
    """

    def __init__(
        self,
        filters: Iterable[Filter],
        incoming: StreamInfo,
        outgoing: StreamInfo,
        *,
        device: torch.device,
        detect_cuts: bool,
    ) -> None:
        self._chain = Chain(tuple(filters))
        self._incoming = incoming
        self._chain.open(incoming)
        self._finish = Finish(outgoing, "bicubic")
        self._outgoing = outgoing
        self._device = device
        self._detect_cuts = detect_cuts
        self._scenes = Scenes(detect_cuts)
        self._to_frame = ToFrame(device)
        self._to_picture = ToPicture(outgoing.pix_fmt, outgoing.color)
        self._counts: Counter[str] = Counter()

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Take a picture, give those that are ready."""
        if breaks:
            yield from self.flush()
        marks = self._scenes(picture)
        with torch.inference_mode():
            frame = self._to_frame(picture, cut=marks.cut or breaks, duplicate=marks.duplicate)
        yield from self._pictures(self._chain(frame))

    def flush(self) -> Iterator[Picture]:
        """Give what the filters hold; what comes next is compared with nothing before it."""
        yield from self._pictures(self._chain.flush())
        self._counts.update(self._scenes.statistics())
        self._scenes = Scenes(self._detect_cuts)

    def rehearse(self, picture: Picture) -> None:
        """Run the networks; the pictures should differ, and follow each other closely."""
        with torch.inference_mode():
            frame = self._to_frame(picture)
        for _ in self._pictures(self._chain(frame)):
            pass

    def forget(self) -> None:
        """Begin anew, also with all counters."""
        self._chain.open(self._incoming)
        self._to_frame = ToFrame(self._device)
        self._to_picture = ToPicture(self._outgoing.pix_fmt, self._outgoing.color)

    def statistics(self) -> Mapping[str, int]:
        """Counters of the scenes and the colours."""
        total = Counter(self._counts)
        for stage in (self._scenes, self._to_frame, self._to_picture):
            total.update(stage.statistics())
        return dict(total)

    def _pictures(self, frames: Iterable[Frame]) -> Iterator[Picture]:
        for frame in frames:
            with torch.inference_mode():
                picture = self._to_picture(frame)
            yield self._finish(picture)


class PlanesWay:
    """No filter: coded planes to the output's size and format, each picture for itself.

    Args:
        incoming: Of the pictures that come in.
        outgoing: Of the pictures that go out, whatever the level.
        method: How they are scaled.
    """

    def __init__(self, incoming: StreamInfo, outgoing: StreamInfo, method: Method) -> None:
        self._finish = Finish(outgoing, method)
        self._to_frame = ToFrame(torch.device("cpu"))
        self._to_picture = ToPicture(outgoing.pix_fmt, outgoing.color)
        alike = incoming.format.family == outgoing.format.family
        ranges = incoming.color.range, outgoing.color.range
        self._through_rgb = not alike or ranges[0] != ranges[1] or outgoing.format.has_alpha

    def __call__(self, picture: Picture, *, breaks: bool) -> Iterator[Picture]:
        """Give the picture."""
        if self._through_rgb:
            with torch.inference_mode():
                picture = self._to_picture(self._to_frame(picture))
        yield self._finish(picture)

    def flush(self) -> Iterator[Picture]:
        """Give nothing: nothing is held."""
        return iter(())

    def rehearse(self, picture: Picture) -> None:
        """Let swscale make its tables."""
        for _ in self(picture, breaks=False):
            pass

    def forget(self) -> None:
        """There is no trace."""

    def statistics(self) -> Mapping[str, int]:
        """Counters of the colours, for pictures that went through them."""
        total: Counter[str] = Counter()
        for stage in (self._to_frame, self._to_picture):
            total.update(stage.statistics())
        return dict(total)


class Finish:
    """The output's size, pixel format, colour tags and time base, on coded planes.

    Args:
        outgoing: Of what is given; its colours are coded as those of what comes in.
        method: How pictures of another size are scaled.
    """

    def __init__(self, outgoing: StreamInfo, method: Method) -> None:
        self._outgoing = outgoing
        self._scale = Scaler(outgoing.width, outgoing.height, method, outgoing.pix_fmt)

    def __call__(self, picture: Picture) -> Picture:
        """Make a picture one of the output's."""
        ticks = picture.time_base / self._outgoing.time_base
        picture = self._scale(picture)
        if ticks == 1 and picture.color == self._outgoing.color:
            return picture
        return replace(
            picture,
            color=self._outgoing.color,
            pts=int(picture.pts * ticks),
            duration=int(picture.duration * ticks),
            time_base=self._outgoing.time_base,
        )
