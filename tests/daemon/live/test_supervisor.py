"""Streams are kept up: whatever ends, hangs or outgrows a worker, another one follows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest
from support.jobs.work import children_of, is_alive
from support.live.child import log_of, num_farewells, orders_of, pids_of
from support.live.supervision import config_with, entry, supervised

from upframe.daemon.fence import internal_errors

REFUSED = "refuse 66 gate.secret: mode 0644 lets everybody read it"


def of_process(pid: int, file: str) -> bytes:
    return Path(f"/proc/{pid}/{file}").read_bytes()


def test_every_entry_has_a_process_that_is_told_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        gate = entry("gate", latency_seconds=1.5, levels=["full", "pass"])
        async with supervised(config_with(tmp_path, gate, entry("yard"))) as streams:
            await streams.until_state("gate", "running")
            await streams.until_state("yard", "running")
            assert list(streams.supervisor.board.statuses) == ["gate", "yard"]
            (order,) = orders_of(tmp_path, "gate")
            assert order["spec"]["latency_seconds"] == 1.5
            assert order["spec"]["levels"] == ["full", "pass"]
            assert (order["weights"], order["spec"]["filters"]["upscaling_scale"]) == ("builtin", 2)
            told = {one["name"]: one for one in streams.supervisor.public_statuses()}
            assert [told["gate"]["pid"]] == pids_of(tmp_path, "gate")
            assert told["gate"]["restarts"] == 0

    asyncio.run(main())


def test_what_is_killed_is_begun_again_and_counts_on(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("once")
        async with supervised(config_with(tmp_path, entry("gate"))) as streams:
            await streams.until_state("gate", "running")
            (pid,) = pids_of(tmp_path, "gate")
            os.kill(pid, signal.SIGKILL)
            lost = await streams.until_state("gate", "reconnecting")
            assert (lost.reason, lost.output_state.connected) == ("failed", False)
            assert "was ended by SIGKILL" in lost.message
            assert lost.counts == {"frames_decoded": 1, "stalls": 1}
            again = await streams.until_state("gate", "running")
            assert again.counts == {"frames_decoded": 2, "stalls": 2}
            assert again.reconnects == {"ended": 4}
            assert len(set(pids_of(tmp_path, "gate"))) == 2
            assert streams.supervisor.num_restarts("gate") == 1

    asyncio.run(main())


def test_what_falls_silent_is_killed_and_begun_again(tmp_path: Path) -> None:
    async def main() -> None:
        config = config_with(tmp_path, entry("gate"))
        async with supervised(config, silent_seconds=2.0) as streams:
            await streams.until_state("gate", "running")
            (pid,) = pids_of(tmp_path, "gate")
            os.kill(pid, signal.SIGSTOP)
            lost = await streams.until_state("gate", "reconnecting")
            assert "was killed: it said nothing for 2 s" in lost.message
            await streams.until_state("gate", "running")
            assert not is_alive(pid)

    asyncio.run(main())


def test_what_makes_nothing_of_its_frames_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("stuck")
        config = config_with(tmp_path, entry("gate"), entry("yard"))
        async with supervised(config, still_seconds=1.0) as streams:
            lost = await streams.until_state("gate", "reconnecting")
            assert "it made nothing of the frames that came for 1 s" in lost.message
            await streams.until_state("gate", "running")
            assert streams.supervisor.num_restarts("yard") == 0  # it is loading, and may

    asyncio.run(main())


def test_what_speaks_nonsense_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("swear")
        async with supervised(config_with(tmp_path, entry("gate"))) as streams:
            lost = await streams.until_state("gate", "reconnecting")
            assert "was killed: it sent what is no event" in lost.message

    asyncio.run(main())


def test_a_status_that_trips_us_is_passed_over_and_the_next_one_told(tmp_path: Path) -> None:
    async def main() -> None:
        before = internal_errors["live"]
        (tmp_path / "gate.do").write_text("odd")
        async with supervised(config_with(tmp_path, entry("gate"))) as streams:
            await streams.until_state("gate", "running")
            assert len(pids_of(tmp_path, "gate")) == 1
            assert internal_errors["live"] == before + 1

    asyncio.run(main())


def test_what_outgrows_its_limit_ends_well_and_is_replaced_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("grow 100")
        config = config_with(tmp_path, entry("gate"), recycle_mebibytes=100)
        async with supervised(config) as streams:
            await streams.until(lambda: len(pids_of(tmp_path, "gate")) > 1, "a second worker")
            assert num_farewells(tmp_path, "gate") >= 1
            status = streams.status("gate")
            assert status is not None
            assert status.state != "reconnecting"

    asyncio.run(main())


def test_what_somebody_has_to_mend_is_told_and_tried_seldom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text(REFUSED)
        config = config_with(tmp_path, entry("gate"))
        async with supervised(config) as streams:
            lost = await streams.until_state("gate", "reconnecting")
            assert lost.message == REFUSED.removeprefix("refuse 66 ")
            (seconds,) = re.findall(r"again in ([\d.]+) s", caplog.text)
            assert 30 <= float(seconds) <= 42
            # who mends it need not wait: a changed entry is tried at once
            (tmp_path / "gate.do").unlink()
            streams.supervisor.configure(config_with(tmp_path, entry("gate", on_loss="freeze")))
            await streams.until_state("gate", "running")

    asyncio.run(main())


def test_a_disabled_entry_is_shown_and_has_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        before = children_of(os.getpid())
        config = config_with(tmp_path, entry("gate", enabled=False))
        async with supervised(config) as streams:
            status = await streams.until_state("gate", "disabled")
            assert status.message == "switched off by its entry"
            assert children_of(os.getpid()) == before
            streams.supervisor.configure(config_with(tmp_path, entry("gate")))
            await streams.until_state("gate", "running")
            streams.supervisor.configure(config)
            await streams.until_state("gate", "disabled")
            await streams.until(lambda: children_of(os.getpid()) == before, "no process")
            assert num_farewells(tmp_path, "gate") == 1

    asyncio.run(main())


def test_a_reload_touches_only_what_has_changed(tmp_path: Path) -> None:
    async def main() -> None:
        names = ("gate", "yard", "roof")
        config = config_with(tmp_path, *map(entry, names))
        async with supervised(config) as streams:
            for name in names:
                await streams.until_state(name, "running")
            before = pids_of(tmp_path, "gate")
            changed = entry("yard", input="rtsp://127.0.0.1:9/other")
            later = config_with(tmp_path, entry("gate"), changed, entry("door"), attempts=7)
            streams.supervisor.configure(later)
            await streams.until(lambda: len(orders_of(tmp_path, "yard")) == 2, "a new yard")
            await streams.until_state("door", "running")
            await streams.until(lambda: streams.status("roof") is None, "no roof")
            assert orders_of(tmp_path, "yard")[1]["spec"]["input"] == "rtsp://127.0.0.1:9/other"
            assert [num_farewells(tmp_path, name) for name in names] == [0, 1, 1]
            assert pids_of(tmp_path, "gate") == before
            assert is_alive(before[0])

    asyncio.run(main())


def test_a_drain_lets_all_end_well_and_kills_what_does_not(tmp_path: Path) -> None:
    async def main() -> None:
        before = children_of(os.getpid())
        (tmp_path / "yard.do").write_text("deaf")
        config = config_with(tmp_path, entry("gate"), entry("yard"), entry("roof"))
        async with supervised(config) as streams:
            for name in ("gate", "yard", "roof"):
                await streams.until_state(name, "running")
            await streams.supervisor.drain(3.0)
            assert children_of(os.getpid()) == before
            assert [num_farewells(tmp_path, name) for name in ("gate", "yard", "roof")] == [1, 0, 1]
            status = streams.status("gate")
            assert status is not None
            assert (status.state, status.message) == ("disabled", "the daemon stops")

    asyncio.run(main())


def test_the_end_waits_for_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "yard.do").write_text("deaf")
        async with supervised(config_with(tmp_path, entry("gate"), entry("yard"))) as streams:
            await streams.until_state("gate", "running")
            await streams.until_state("yard", "running")
        assert num_farewells(tmp_path, "gate") == 0

    asyncio.run(main())


def test_what_a_worker_logs_is_logged_under_its_streams_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("log the camera has moved")
        async with supervised(config_with(tmp_path, entry("gate"))) as streams:
            await streams.until_state("gate", "running")

    asyncio.run(main())
    (line,) = [one for one in caplog.records if one.name == "upframe.live.far"]
    assert (line.getMessage(), line.source) == ("the camera has moved", "gate")


def test_no_secret_is_shown_by_whatever_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        (tmp_path / "gate.do").write_text("complain")
        secret = entry("gate", input="rtsp://me:pa55@127.0.0.1:9/x")
        async with supervised(config_with(tmp_path, secret, entry("yard"))) as streams:
            lost = await streams.until_state("gate", "reconnecting")
            assert lost.input == {"url": "rtsp://***@127.0.0.1:9/x"}
            assert "pa55" not in str(streams.supervisor.public_statuses())
            (tmp_path / "gate.do").unlink()
            await streams.until_state("gate", "running")
            (pid,) = pids_of(tmp_path, "gate")[1:]
            assert not any(b"pa55" in of_process(pid, file) for file in ("cmdline", "environ"))
        (order, *_) = orders_of(tmp_path, "gate")
        assert order["spec"]["input"] == secret["input"]  # by the pipe alone

    asyncio.run(main())
    assert "cannot reach rtsp://***@host/x" in caplog.text
    assert "pa55" not in caplog.text


def test_several_streams_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))

    async def main() -> None:
        both = config_with(tmp_path, entry("gate"), entry("yard"))
        async with supervised(both) as streams:
            await streams.until_state("gate", "running")
            await streams.until_state("yard", "running")
        async with supervised(config_with(tmp_path, entry("alone"))) as streams:
            await streams.until_state("alone", "running")

    asyncio.run(main())
    assert orders_of(tmp_path, "gate")[0]["threads"] == max(1, cores // 2)
    assert orders_of(tmp_path, "alone")[0]["threads"] is None
    assert log_of(tmp_path, "nobody") == []
