"""What a run keeps of a film in segments, and how a later run continues it.

Whether and where a film is divided is decided here, and whether a plan that was kept is the same.
What it fixes (device, precision, threads, ways) is used again, unless the user asks for other
values or this machine cannot use them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ...filters.chain import BuiltFilter
from ...filters.device import Runtime
from ...filters.errors import DeviceUnavailable
from ...io.cuts import Cuts, Segment
from ...io.encode.encoder import codec_choice
from ...io.files import is_special
from ...io.segments import why_not_cut
from .plan import (
    PLAN_NAME,
    Facts,
    Plan,
    SourceFacts,
    held,
    plan_folder,
    remove_folder,
    settings_of,
    versions_of,
)
from .preflight import Preflight, RunRequest
from .report import device_name

log = logging.getLogger("upframe.run")


@dataclass(frozen=True, slots=True)
class Division:
    """A film in segments, whose folder is held."""

    source: Path
    """To look at it again."""
    segments: Sequence[Segment]
    runtime: Runtime
    """As the user asked, or as the plan that is continued has fixed it."""
    threads: int
    _folder: Path
    _facts: Facts
    """But for what is known once filters are built."""
    _kept: Plan | None
    _arguments: Mapping[str, Any]

    def build(self, build: Callable[[Runtime], Sequence[BuiltFilter]]) -> Sequence[BuiltFilter]:
        """Build the filters, by the ways of the plan that is continued.

        Raises:
            CheckpointRejected, WeightsUnavailable, DeviceUnavailable: as building does.
        """
        try:
            return build(self.runtime)
        except DeviceUnavailable as error:
            if not self.runtime.ways:
                raise
            log.warning("the plan cannot be continued here: %s", error)
        return build(replace(self.runtime, ways={}))

    def plan(self, filters: Sequence[BuiltFilter]) -> Plan:
        """Return the plan: the one that was kept if it is the same, else a new one.

        Raises:
            SinkFull: if it cannot be written.
        """
        facts, kept = self._facts.with_filters(filters), self._kept
        if kept is not None and kept.hash == facts.hash:
            return kept
        if kept is not None:
            changes = "; ".join(kept.facts.changes(facts))
            log.warning("what an earlier run has kept is of another plan: begun anew (%s)", changes)
            kept.close()
        return Plan.begun(self._folder, facts, self._arguments, self.segments)

    def remove(self) -> None:
        """Remove all that was kept."""
        with suppress(OSError):
            remove_folder(self._folder)


@contextmanager
def divided(
    request: RunRequest, checked: Preflight, *, announce: bool = True
) -> Generator[Division | None]:
    """Divide a film into segments; None where it is short, or cannot be.

    Args:
        request: the conversion.
        checked: what was found of it.
        announce: whether to log why a film is not divided.

    Raises:
        SinkRefused: if another process works on the same output.
        SourceMissing: if the source has disappeared.
    """
    folder = request.keep.folder or plan_folder(request.where)
    has_plan = (folder / PLAN_NAME).is_file() and request.seen_at.is_file()
    cuts = None if has_plan else film_cuts(request, checked)
    if cuts is not None and len(cuts.segments) < _fewest(request):
        if cuts.why_whole is not None and announce:
            log.info("if it is broken off, it begins anew: %s", cuts.why_whole)
        yield None
        return
    with held(folder, request.where):
        try:
            yield _division(request, checked, folder, cuts)
        finally:
            if not (request.keep.resume and (folder / PLAN_NAME).is_file()):
                with suppress(OSError):
                    remove_folder(folder)


def _fewest(request: RunRequest) -> int:
    """Return how many segments are worth a plan: other machines make even a single one."""
    return 2 if request.crew is None else 1


def film_cuts(request: RunRequest, checked: Preflight) -> Cuts:
    """Divide a film into segments; reads all of its packets.

    Raises:
        SinkRefused: for an unknown encoder, pixel format or container.
    """
    options = request.options
    if is_special(request.where):
        return Cuts(why_whole="the output is no file")
    why = why_not_cut(options.encoder, checked.info, request.sink, options.container)
    return checked.source.cuts(options.segment_frames) if why is None else Cuts(why_whole=why)


def _division(
    request: RunRequest, checked: Preflight, folder: Path, cuts: Cuts | None
) -> Division | None:
    source, runtime, keep = request.seen_at, request.runtime, request.keep
    kept = Plan.opened(folder) if keep.resume else None
    if keep.resume and kept is None and (folder / PLAN_NAME).is_file():
        log.warning("the plan in %s is damaged or of another version: begun anew", folder)
    threads = torch.get_num_threads()
    facts = _facts(request, checked, runtime, threads)
    if kept is not None and _cuts_by(kept.facts) == _cuts_by(facts):
        runtime, threads = _as_kept(kept.facts, runtime, threads, keep.asked)
        facts = _facts(request, checked, runtime, threads)
        segments = tuple(entry.segment for entry in kept.entries())
    else:
        segments = (cuts or film_cuts(request, checked)).segments
    if len(segments) < _fewest(request):  # the film was another one
        remove_folder(folder)
        return None
    return Division(source, segments, runtime, threads, folder, facts, kept, keep.arguments)


def _as_kept(
    facts: Facts, runtime: Runtime, threads: int, asked: frozenset[str]
) -> tuple[Runtime, int]:
    """Return device, precision, ways and threads as a plan has fixed them, where it may."""
    if "device" not in asked and facts.device == "cpu":
        runtime = replace(runtime, device=torch.device("cpu"))
    if device_name(runtime.device) != facts.device:
        return runtime, threads  # another plan
    if "precision" not in asked:
        fixed = cast("torch.dtype", getattr(torch, facts.precision))
        runtime = replace(runtime, precision=fixed)
    return replace(runtime, ways=facts.ways), threads if "threads" in asked else facts.threads


def _cuts_by(facts: Facts) -> tuple[object, ...]:
    return facts.source, facts.settings, facts.versions


def _facts(request: RunRequest, checked: Preflight, runtime: Runtime, threads: int) -> Facts:
    options, info = request.options, checked.info
    choice = codec_choice(info, options.encoder, request.sink, options.container)
    settings = settings_of(
        options,
        codec=choice.codec,
        pix_fmt=info.pix_fmt,
        output=Path(request.sink).suffix.lower(),
        cores=len(os.sched_getaffinity(0)),  # by which encoders choose their threads
    )
    return Facts(
        source=SourceFacts.of(request.seen_at),
        settings=settings,
        versions=versions_of(choice.codec),
        device=device_name(runtime.device),
        precision=str(runtime.precision).removeprefix("torch."),
        threads=threads,
    )
