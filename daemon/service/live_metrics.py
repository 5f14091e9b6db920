"""Live streams as Prometheus sees them: base units, counters that only grow, few label values.

`source` is the name of a stream, of which there are as many as the configuration has entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from ...io.live.values import InputState
from ..live.status import LiveStatus
from ..live.supervisor import LiveSupervisor

if TYPE_CHECKING:
    from .metrics import Metrics

_STAGES = {
    "decoded": "frames_decoded",
    "interpolated": "frames_inserted",
    "upscaled": "frames_enlarged",
    "encoded": "frames_encoded",
    "repeated": "frames_repeated",
}
_DROPS = {
    "overload": "frames_dropped",
    "half-rate": "frames_skipped",
    "damaged": "frames_damaged",
    "late": "frames_late",
}
_QUANTILES = {"p50": "0.5", "p99": "0.99", "max": "1"}
_JUMPS = "discontinuities_"

_TEXTS = {
    "frames": "Frames of jobs and live streams.",
    "frames_dropped": "Frames of live streams that never came out, by why.",
    "source_reconnects": "Connections to a live input that were lost, by why.",
    "source_stalls": "Times that a live input was connected and gave no frames.",
    "timestamp_discontinuities": "Jumps of a live input's timestamps, by kind.",
    "level_changes": "Changes of what is given up under load.",
    "sink_connections": "Connections made to a live output.",
    "stream_restarts": "Workers of a live stream that had to be begun again.",
}

Counted = tuple[str, float, dict[str, str]]
"""A counter without prefix and suffix, its value, and its labels beside the source."""


class LiveMetrics:
    """Sets the metrics of all streams when somebody asks."""

    def __init__(self, supervisor: LiveSupervisor) -> None:
        self._supervisor = supervisor
        self._known: set[str] = set()

    def __call__(self, metrics: Metrics) -> None:
        """Set them as they are now; those of streams that are gone go."""
        statuses = self._supervisor.board.statuses
        for gone in self._known - statuses.keys():
            metrics.forget(source=gone)
        self._known = set(statuses)
        for name, status in statuses.items():
            self._set_gauges(metrics, name, status)
            restarts = self._supervisor.num_restarts(name)
            for total, value, labels in (*_counted(status), ("stream_restarts", restarts, {})):
                metrics.set_total(total, _TEXTS[total], value, source=name, **labels)

    def _set_gauges(self, metrics: Metrics, name: str, status: LiveStatus) -> None:
        def show(gauge: str, text: str, value: float, **labels: str) -> None:
            metrics.set_gauge(gauge, text, value, source=name, **labels)

        for state in get_args(InputState):
            show("stream_state", "1 for the state of it.", status.state == state, state=state)
        for level in (*self._supervisor.levels(name), status.level):
            text = "1 for what is given up under load just now."
            show("degradation_level", text, status.level == level, level=level)
        show("sink_connected", "Whether the output is there.", status.output_state.connected)
        show("queue_depth", "Frames that wait.", status.waiting_frames, stage="compute")
        show("stream_resident_bytes", "Memory of its processes.", status.rss_bytes)
        for key, quantile in _QUANTILES.items():
            if key in status.delay_seconds:
                text = "From a packet's arrival to its frame's being written, of the last minute."
                delay = status.delay_seconds[key]
                show("end_to_end_latency_seconds", text, delay, quantile=quantile)
        if (last := self._supervisor.board.last_frame(name)) is not None:
            show("source_last_frame_timestamp_seconds", "When it was decoded.", last)


def _counted(status: LiveStatus) -> Iterator[Counted]:
    """List the counters of a stream."""
    counts, sink = status.counts, status.output_state
    for stage, key in _STAGES.items():
        yield "frames", counts.get(key, 0), {"stage": stage}
    yield "frames", sink.written, {"stage": "written"}
    for reason, key in _DROPS.items():
        yield "frames_dropped", counts.get(key, 0), {"reason": reason}
    for reason, number in sink.dropped.items():
        yield "frames_dropped", number, {"reason": f"output-{reason}"}
    for reason, number in status.reconnects.items():
        yield "source_reconnects", number, {"reason": reason}
    yield "source_stalls", counts.get("stalls", 0), {}
    for key, number in counts.items():
        if key.startswith(_JUMPS):
            yield "timestamp_discontinuities", number, {"kind": key.removeprefix(_JUMPS)}
    yield "level_changes", counts.get("level_changes", 0), {}
    yield "sink_connections", sink.connections, {}
