"""How late the daemon's event loop is during heavy work and ten submissions a second.

    python bench/faults/lateness.py [--seconds 240] [--per-second 10]

One slot has a job without an end, which takes all the processor it can get; another does the small
jobs that arrive by MQTT, by the control socket and in a watched folder. The daemon measures its
lateness itself, every 20 ms; this reads what Prometheus would scrape. Correct is: of all samples
during the load at most one in a thousand was later than 50 ms.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from pathlib import Path

import paths  # noqa: F401  # finds what is imported next
from broker import persistent_client
from figures import Outcome, at_most, equal, none_of, run_as_script
from support.jobs.daemon import RunningDaemon, free_port
from support.servers.mqtt import broker_in
from yard import BASE, ENDLESS, ENLARGE, Yard, arrive, document, running, some_clips, yard_in

_MOST_SECONDS = 0.05
_FEW_SAMPLES = 5
"""That may be late in a run of less than a minute, which has no 99.9th percentile to speak of."""
WAYS = ("mqtt", "mqtt", "cli", "cli", "watch")


def measure(folder: Path, *, seconds: float, per_second: float, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        small, large = some_clips(yard, 2, max(100, round(2.5 * seconds)))
        config = yard.config(
            broker, watches=(yard.watch(),), slots=2, attempts=1, drain_seconds=0.2
        )
        port = free_port()
        config["http"] = {"listen": f"127.0.0.1:{port}"}
        with running(yard, config) as daemon, persistent_client(broker) as client:
            daemon.port = port
            daemon.submit(large, yard.asked / "endless.mp4", ENDLESS, "endless")
            daemon.until_state("endless", "running")
            sent: Counter[str] = Counter()
            before = histogram(daemon)
            began = time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                number = sum(sent.values())
                due = began + number / per_second
                if now < due:
                    time.sleep(due - now)
                way = chance.choice(WAYS)
                sent[way] += 1
                daemon.heard("")  # reads its messages to the service manager, as that would
                name = f"job{number}"
                sink = yard.asked / f"{name}.mp4"
                if way == "mqtt":
                    request = json.dumps(document(name, small, sink, ENLARGE))
                    client.publish(f"{BASE}/job/submit", request, qos=1)
                elif way == "cli":
                    daemon.submit(small, sink, ENLARGE, name)
                else:
                    arrive(small, yard.input / sink.name)
            took = time.monotonic() - began
            return judged(yard, daemon, before, sent, took, per_second)


def judged(
    yard: Yard,
    daemon: RunningDaemon,
    before: dict[str, int],
    sent: Counter[str],
    took: float,
    per_second: float,
) -> Outcome:
    buckets = {bound: number - before[bound] for bound, number in histogram(daemon).items()}
    samples = buckets["+Inf"]
    late = samples - buckets[str(_MOST_SECONDS)]
    status = daemon.status()
    counts = yard.counts()
    endless = daemon.jobs()["endless"]
    rate = sum(sent.values()) / took
    checks = [
        at_most("samples later than 50 ms", late, max(_FEW_SAMPLES, samples / 1000), "(0.1 %)"),
        equal("the endless job", endless.state, "running"),
        equal("submissions were as many as asked", rate > 0.9 * per_second, True),
        none_of("jobs failed", [job.id for job in yard.jobs() if job.state == "failed"]),
        equal("exit of the daemon", daemon.stop(), 0),
    ]
    details = {
        "samples": samples,
        "share that was at most so late, %": {
            f"{bound} s": round(100 * number / samples, 3) for bound, number in buckets.items()
        },
        "as the daemon sums up the last ten minutes": status["loop_lateness_seconds"],
        "submissions a second": round(rate, 2),
        "submissions": dict(sent),
        "jobs at the end": counts,
        "workers": status["workers"],
    }
    return Outcome(checks, details)


def histogram(daemon: RunningDaemon) -> dict[str, int]:
    """How many samples were at most so late, since the start."""
    text = daemon.get("/metrics").decode()
    name = "upframe_event_loop_lateness_seconds_bucket"
    found = re.findall(rf'^{name}{{le="([^"]+)"}} (\S+)$', text, re.MULTILINE)
    return {bound: int(float(number)) for bound, number in found}


if __name__ == "__main__":
    run_as_script("lateness", __doc__, measure, seconds=240.0, per_second=10.0)
