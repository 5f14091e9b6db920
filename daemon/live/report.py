"""A session's parts, looked at together: one status value, and the report at the end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ...io.child import rss_bytes_of
from ...io.live.values import LiveForm, OutputState
from ...io.redaction import redacted, redacted_target
from ..convert.report import WeightsReport, WrittenReport, device_name, weights_of
from .input import FrameIngest, InputSupervisor
from .live_pipeline import LivePipeline
from .request import LiveRequest
from .status import LiveStatus

# What a live run did, for who comes later: as one JSON file, and as one line.


class LiveReport(WrittenReport, frozen=True):
    """What `--report FILE` writes of a live run."""

    schema_name: Literal["upframe.live-report/1"] = Field("upframe.live-report/1", alias="schema")
    version: str
    name: str
    input: dict[str, Any]
    output: dict[str, Any]
    ended_by: str = Field(description="why it ended, for people")
    seconds: float = Field(description="that the output lasts")
    counts: dict[str, int]
    reconnects: dict[str, int] = Field(description="of the input, by reason")
    connections: int = Field(description="of the output")
    written: int = Field(description="pictures that the far end, or the file, has taken")
    dropped: dict[str, int] = Field(description="pictures that were encoded and not written")
    delay_seconds: dict[str, float] = Field(description="p50, p99 and max of the whole run")
    levels: list[tuple[float, str, str]] = Field(
        description="changes of the level: seconds since the start, its name, why"
    )
    files: list[str]
    device: str
    precision: str
    weights: list[WeightsReport]
    warnings: list[str]

    @property
    def summary(self) -> str:
        """One line for people."""
        shown = self.output.get("url", "")
        late = self.delay_seconds.get("p99")
        delay = "" if late is None else f", delay {late:.2f} s at the 99th percentile"
        return (
            f"{shown}: {self.written} frames written in {self.seconds:.1f} s{delay}, "
            f"{self.counts.get('frames_dropped', 0)} dropped; {self.ended_by}"
        )


_NAMES = {"inserted": "frames_inserted", "upscaled": "frames_enlarged", "skipped": "frames_skipped"}
"""Of the filters' counters, in a status."""


def now_utc() -> str:
    """Give the time of day as a status says it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def status_of_parts(
    request: LiveRequest,
    incoming: InputSupervisor,
    intake: FrameIngest,
    works: LivePipeline | None,
    *,
    since: str,
    now: float,
) -> LiveStatus:
    """Look at all parts; `works` is None before the first connection was probed."""
    return LiveStatus(
        name=request.spec.name,
        state=incoming.state,
        since=since,
        reason=incoming.reason,
        message=redacted(incoming.message),
        level="full" if works is None else works.governor.level.name,
        input={"url": redacted(request.spec.input), **_input_of(incoming.form)},
        output={"url": redacted_target(request.spec.output), **_output_of(works)},
        output_state=OutputState() if works is None else works.publisher.state,
        showing="nothing" if works is None else works.outgoing.showing,
        counts=counts_of(incoming, intake, works),
        reconnects=dict(incoming.reconnects),
        delay_seconds={} if works is None else works.delays.recent(now),
        waiting_frames=0 if works is None else len(works.queue),
        last_frame_age_seconds=incoming.silent_seconds(),
        rss_bytes=rss_of_family(os.getpid()),
    )


def counts_of(
    incoming: InputSupervisor, intake: FrameIngest, works: LivePipeline | None
) -> dict[str, int]:
    """Add up what all parts have counted."""
    total = Counter(incoming.counts())
    total.update(intake.counts())
    if works is not None:
        for name, count in works.computing.counts().items():
            total[_NAMES.get(name, name)] += count
        total.update(works.outgoing.counts())
        queued = works.queue.counts
        total["frames_dropped"] += queued["full"] + queued["old"]
        total["level_changes"] += works.governor.changes
        for kind, count in works.clock.counts.items():
            total[f"discontinuities_{kind}"] += count
    return dict(total)


def report_of(
    request: LiveRequest,
    status: LiveStatus,
    works: LivePipeline | None,
    *,
    ended_by: str,
    began: float,
    warnings: Sequence[str],
) -> LiveReport:
    """Say what was done."""
    built = () if works is None else works.compute.filters
    state = status.output_state
    history = () if works is None else works.governor.history
    return LiveReport(
        schema="upframe.live-report/1",
        version=version("upframe"),
        name=request.spec.name,
        input=status.input,
        output=status.output,
        ended_by=ended_by,
        seconds=0.0 if works is None else round(works.outgoing.seconds(), 3),
        counts=status.counts,
        reconnects={str(reason): count for reason, count in status.reconnects.items()},
        connections=state.connections,
        written=state.written,
        dropped=state.dropped,
        delay_seconds={} if works is None else works.delays.overall(),
        levels=[(round(one.at - began, 3), one.name, one.reason) for one in history],
        files=[redacted(name) for name in state.files],
        device=device_name(request.runtime.device),
        precision=str(request.runtime.precision).removeprefix("torch."),
        weights=[weights_of(one) for one in built if one.weights is not None],
        warnings=list(dict.fromkeys(redacted(text) for text in warnings)),
    )


def rss_of_family(pid: int) -> int:
    """Add up the resident memory of a process and all below it."""
    return rss_bytes_of(pid) + sum(rss_of_family(child) for child in children_of(pid))


def children_of(pid: int) -> Iterator[int]:
    """Give the processes that a process has started, and that are not reaped."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from (int(word) for word in path.read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue


def _input_of(form: LiveForm | None) -> dict[str, Any]:
    if form is None:
        return {}
    info = form.info
    return {
        "width": info.width,
        "height": info.height,
        "rate": str(info.rate),
        "codec": form.codec,
        "pix_fmt": info.pix_fmt,
        "sound": None if form.sound is None else "copied",
    }


def _output_of(works: LivePipeline | None) -> dict[str, Any]:
    if works is None:
        return {}
    info = works.compute.info
    return {
        "width": info.width,
        "height": info.height,
        "rate": str(info.rate),
        "codec": works.encoder.codec,
        "pix_fmt": info.pix_fmt,
        "sound": works.sound is not None,
    }
