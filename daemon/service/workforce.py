"""What the daemon tells of its workers: to people, to Prometheus, to those who send work."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..work.scheduler import Scheduler
from .config import Config
from .metrics import Metrics


def told_of(scheduler: Scheduler) -> list[dict[str, Any]]:
    """Every worker, as `/status` shows it."""
    return [asdict(worker) for worker in scheduler.workers()]


def collect(scheduler: Scheduler, metrics: Metrics) -> None:
    """Set the metrics of workers and of what happened to attempts."""
    for worker in scheduler.workers():
        text = "Memory of a worker process."
        metrics.set_gauge("worker_resident_bytes", text, worker.rss_bytes, slot=worker.slot)
    for name, number in scheduler.statistics().items():
        metrics.set_total("work_events", "What happened to attempts.", number, event=name)


def facts_of(config: Config, scheduler: Scheduler) -> dict[str, Any]:
    """What those who want to send work should know, beside what may be asked."""
    workers = scheduler.workers()
    return {
        "devices": sorted({worker.device for worker in workers if worker.device}),
        "slots": len(workers),
        "weights": config.weights,
        "models": ["RIFE 4.22.lite", "Real-ESRGAN"],
        "attempts": config.jobs.attempts,
    }
