"""Live streams in metrics: counters that only grow, and nothing of what is gone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.live.supervision import config_with, entry

from upframe.daemon.live.status import LiveStatus, accumulate_counters, status_of
from upframe.daemon.live.supervisor import LiveSupervisor
from upframe.daemon.service.status import Metrics, set_live_metrics
from upframe.io.live.values import OutputState

GATE = LiveStatus(
    "gate",
    state="running",
    level="bicubic",
    output_state=OutputState(
        connected=True, connections=2, written=50, dropped={"away": 3}, files=("/out/1.mp4",)
    ),
    counts={
        "frames_decoded": 30,
        "frames_inserted": 29,
        "frames_enlarged": 59,
        "frames_encoded": 60,
        "frames_repeated": 1,
        "frames_dropped": 4,
        "stalls": 1,
        "discontinuities_wrap": 2,
    },
    reconnects={"refused": 5},
    delay_seconds={"p50": 0.2, "p99": 0.5, "max": 0.7},
    waiting_frames=2,
    last_frame_age_seconds=0.5,
    rss_bytes=1 << 20,
)


def samples(metrics: Metrics) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def collected(supervisor: LiveSupervisor) -> dict[str, float]:
    metrics = Metrics()
    set_live_metrics(supervisor, metrics)
    return samples(metrics)


def test_a_stream_is_told_by_the_names_that_prometheus_knows() -> None:
    supervisor = LiveSupervisor()
    supervisor.board.update(GATE)
    found = collected(supervisor)
    assert found["upframe_stream_state{source=gate,state=running}"] == 1
    assert found["upframe_stream_state{source=gate,state=stalled}"] == 0
    assert found["upframe_degradation_level{level=bicubic,source=gate}"] == 1
    assert found["upframe_source_reconnects_total{reason=refused,source=gate}"] == 5
    assert found["upframe_source_stalls_total{source=gate}"] == 1
    assert found["upframe_timestamp_discontinuities_total{kind=wrap,source=gate}"] == 2
    assert found["upframe_frames_total{source=gate,stage=decoded}"] == 30
    assert found["upframe_frames_total{source=gate,stage=interpolated}"] == 29
    assert found["upframe_frames_total{source=gate,stage=upscaled}"] == 59
    assert found["upframe_frames_total{source=gate,stage=encoded}"] == 60
    assert found["upframe_frames_total{source=gate,stage=written}"] == 50
    assert found["upframe_frames_dropped_total{reason=overload,source=gate}"] == 4
    assert found["upframe_frames_dropped_total{reason=output-away,source=gate}"] == 3
    assert found["upframe_end_to_end_latency_seconds{quantile=0.99,source=gate}"] == 0.5
    assert found["upframe_queue_depth{source=gate,stage=compute}"] == 2
    assert found["upframe_sink_connected{source=gate}"] == 1
    assert found["upframe_sink_connections_total{source=gate}"] == 2
    age = time.time() - found["upframe_source_last_frame_timestamp_seconds{source=gate}"]
    assert 0.4 < age < 30


def test_frames_of_jobs_and_streams_are_one_metric() -> None:
    supervisor, metrics = LiveSupervisor(), Metrics()
    metrics.count("frames", 7, source="watch", stage="encoded")
    supervisor.board.update(GATE)
    set_live_metrics(supervisor, metrics)
    set_live_metrics(supervisor, metrics)  # as often as somebody asks
    found = samples(metrics)
    assert found["upframe_frames_total{source=watch,stage=encoded}"] == 7
    assert found["upframe_frames_total{source=gate,stage=encoded}"] == 60


def test_a_stream_that_is_gone_has_no_state_any_more() -> None:
    supervisor, metrics = LiveSupervisor(), Metrics()
    for name in ("gate", "yard"):
        supervisor.board.update(replace(GATE, name=name))
    set_live_metrics(supervisor, metrics)
    supervisor.board.forget("gate")
    metrics.begin()
    set_live_metrics(supervisor, metrics)
    gauges = [name for name in samples(metrics) if "gate" in name and "_total" not in name]
    assert gauges == []
    assert samples(metrics)["upframe_stream_state{source=yard,state=running}"] == 1


def test_the_workers_before_count_too() -> None:
    both = accumulate_counters(GATE, replace(GATE, state="connecting"))
    assert both.state == "connecting"
    assert both.counts == {name: 2 * count for name, count in GATE.counts.items()}
    assert both.reconnects == {"refused": 10}
    assert both.output_state.written == 100
    assert both.output_state.dropped == {"away": 6}
    assert both.output_state.files == ("/out/1.mp4", "/out/1.mp4")
    assert accumulate_counters(None, GATE) == GATE


def test_a_status_survives_the_pipe() -> None:
    assert status_of(GATE.to_json()) == GATE
    for nonsense in ({"names": 1}, {"name": "x", "output_state": {"conected": True}}):
        with pytest.raises(ValueError, match="no status"):
            status_of(nonsense)


def test_every_level_that_may_be_entered_is_shown() -> None:
    both = {"enable_frame_interpolation": True, "frame_interpolation_exp": 2}
    both |= {"enable_upscaling": True, "upscaling_scale": 2}

    async def main() -> dict[str, float]:
        supervisor = LiveSupervisor()
        disabled = entry("gate", filters=both, enabled=False)
        supervisor.configure(config_with(Path("/none"), disabled))
        while not supervisor.board.statuses:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found = collected(supervisor)
        await supervisor.end()
        return found

    found = asyncio.run(main())
    levels = ("full", "exp-1", "no-interpolation", "bicubic", "half-rate", "pass")
    shown = {
        level: found[f"upframe_degradation_level{{level={level},source=gate}}"] for level in levels
    }
    assert shown == dict.fromkeys(levels, 0.0) | {"full": 1.0}
    assert found["upframe_stream_state{source=gate,state=disabled}"] == 1
