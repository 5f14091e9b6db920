"""Where the output of a watched file goes, and what happens where something is there already."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ..service.config import WatchConfig
from .names import Skip, shown
from .records import Records
from .stability import Signature


class Placement(NamedTuple):
    """Where an output goes."""

    sink: Path
    overwrite: bool


def mirrored(source: Path, root: Path, target: Path) -> Path:
    """Move a path from below one folder to the same place below another."""
    return target / source.relative_to(root)


class Placing:
    """Finds the output's path for the inputs of one watched folder.

    An output of ours that nobody has touched since is replaced by that of a newer version of the
    same source, whatever `on_existing` says about files of others.
    """

    def __init__(self, watch: WatchConfig, records: Records) -> None:
        self._watch = watch
        self._records = records

    def sink_of(self, source: Path) -> Path:
        """Mirror a source's path below the output folder, with the container's extension."""
        sink = mirrored(source, self._watch.input, self._watch.output)
        container = self._watch.container
        return sink if container is None else sink.with_suffix("." + container.lstrip("."))

    def place(self, source: Path) -> Placement | Skip:
        """Choose where the output of a source goes, or say why it is passed over."""
        sink = self.sink_of(source)
        if self._watch.on_existing == "suffix":
            return Placement(self._free(sink, source), overwrite=False)
        if _same_file(source, sink):
            detail = "its output would replace it: give another output folder, or a container"
            return Skip(source, "collision", detail)
        if (other := self._other_source(sink, source)) is not None:
            detail = f"{shown(sink)} is already the output of {shown(other)}"
            return Skip(source, "collision", detail)
        return self._beside_existing(source, sink)

    def _beside_existing(self, source: Path, sink: Path) -> Placement | Skip:
        present = _signature(sink)
        if present is None:
            return Placement(sink, overwrite=False)
        maker = self._records.maker(sink)
        if maker is not None and maker.source == str(source) and maker.made_it(present):
            return Placement(sink, overwrite=True)
        if self._watch.on_existing == "overwrite":
            return Placement(sink, overwrite=True)
        if self._watch.on_existing == "if-newer":
            return self._if_newer(source, sink, present)
        return Skip(source, "exists", f"{shown(sink)} is there already (on_existing = skip)")

    def _if_newer(self, source: Path, sink: Path, present: Signature) -> Placement | Skip:
        mine = _signature(source)
        if mine is not None and mine.mtime_ns > present.mtime_ns:
            return Placement(sink, overwrite=True)
        detail = f"{shown(sink)} is not older (on_existing = if-newer)"
        return Skip(source, "exists", detail)

    def _other_source(self, sink: Path, source: Path) -> Path | None:
        """Name another input that is still there and has this output: a.avi beside a.mov."""
        maker = self._records.maker(sink)
        if maker is None or maker.source == str(source) or not os.path.lexists(maker.source):
            return None
        return Path(maker.source)

    def _free(self, sink: Path, source: Path) -> Path:
        names = (sink.with_name(f"{sink.stem}-{number}{sink.suffix}") for number in count(1))
        for candidate in (sink, *()) if self._is_free(sink, source) else names:
            if self._is_free(candidate, source):
                return candidate
        raise AssertionError("there are always more numbers")

    def _is_free(self, sink: Path, source: Path) -> bool:
        if os.path.lexists(sink):
            return False
        maker = self._records.maker(sink)
        return maker is None or maker.source == str(source)


def _signature(path: Path) -> Signature | None:
    try:
        return Signature.of(path.lstat())
    except FileNotFoundError:
        return None


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other
