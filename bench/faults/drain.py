"""SIGTERM under load, at moments of chance: how long until the daemon has gone.

    python bench/faults/drain.py [--rounds 12] [--drain-seconds 5]

Each round a daemon runs a job without an end and small ones beside it, more wait, and some go on
arriving; now and then the broker does not answer, or the daemon is still loading. Correct is: it
has gone within `drain_seconds` + 5 s, with exit code 0; what ran is queued again, as if it had not
been tried; the small jobs are all done in the end, once; and nothing is left behind.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Outcome, at_most, equal, none_of, run_as_script
from processes import children_of, until_gone
from support.jobs.daemon import RunningDaemon, daemon_in, until
from support.servers.mqtt import Broker, broker_in
from witness import Witness
from yard import (
    BASE,
    ENDLESS,
    ENLARGE,
    Yard,
    arrive,
    document,
    ended_twice,
    publish,
    running,
    some_clips,
    yard_in,
)

_MARGIN_SECONDS = 5.0
_SMALL_JOBS = 6
"""Of each round, by each of two ways."""
LOADS = ("working", "working", "broker hangs", "broker is away", "loading")


def measure(folder: Path, *, rounds: int, drain_seconds: float, seed: int) -> Outcome:
    chance = random.Random(seed)
    with yard_in(folder) as yard, broker_in(folder / "broker") as broker:
        small, large = some_clips(yard, 3, 100 + round(10 * drain_seconds))
        watch = yard.watch()
        config = yard.config(
            broker, watches=(watch,), slots=2, attempts=1, drain_seconds=drain_seconds
        )
        with running(yard, config) as daemon:
            daemon.submit(large, yard.asked / "endless.mp4", ENDLESS, "endless")
            daemon.until_state("endless", "running")
            first = drained(daemon, "first")
        rows = [first]
        with Witness(yard.watched, yard.asked) as witness:
            for number in range(1, rounds):
                load = LOADS[number % len(LOADS)]
                rows.append(one_round(yard, config, broker, small, number, load, chance))
            sent = yard.counts()
            with running(yard, config) as daemon:
                daemon.command("cancel", "endless")
                yard.until_ended(1 + 2 * _SMALL_JOBS * (rounds - 1))
                until(lambda: not yard.leftovers(), "tidy", 10)
                rows.append(drained(daemon, "idle"))
        return judged(yard, rows, witness, rounds, drain_seconds, sent)


def drained(daemon: RunningDaemon, load: str) -> dict[str, Any]:
    """Stop a daemon; returns how that went."""
    children = children_of(daemon.process.pid)
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    code = daemon.wait(120.0)
    seconds = time.monotonic() - began
    left = until_gone(children, 5.0)
    return {"load": load, "seconds": round(seconds, 2), "exit": code, "processes left": left}


def one_round(
    yard: Yard,
    config: dict[str, Any],
    broker: Broker,
    clip: Path,
    number: int,
    load: str,
    chance: random.Random,
) -> dict[str, Any]:
    for index in range(_SMALL_JOBS):  # some of them the next daemon finds waiting for it
        arrive(clip, yard.input / f"round{number}-{index}.mp4")
        name = f"round{number}-asked{index}"
        request = document(name, clip, yard.asked / f"{name}.mp4", ENLARGE)
        publish(broker, f"{BASE}/job/submit", request)
    if load == "broker is away":
        broker.stop()
    with daemon_in(yard.folder, ready=False, **config) as daemon:
        if load == "loading":
            until(lambda: daemon.socket.exists(), "the control socket")
            time.sleep(chance.uniform(0.0, 1.5))
        else:
            daemon.until_heard("READY=1")
            daemon.until_state("endless", "running")
            time.sleep(chance.uniform(0.0, 1.5))
        if load == "broker hangs":
            broker.pause()
        row = drained(daemon, load)
    if load == "broker hangs":
        broker.resume()
    elif load == "broker is away":
        broker.start()
    endless = daemon.jobs()["endless"]
    return row | {"endless": (endless.state, endless.attempts)}


def judged(
    yard: Yard,
    rows: list[dict[str, Any]],
    witness: Witness,
    rounds: int,
    drain_seconds: float,
    sent: dict[str, int],
) -> Outcome:
    jobs = yard.jobs()
    undone = [job.id for job in jobs if job.state != "done" and job.id != "endless"]
    wanted = 2 * _SMALL_JOBS * (rounds - 1)
    given_back = [row["endless"] for row in rows if "endless" in row]
    most = max(row["seconds"] for row in rows)
    checks = [
        at_most("SIGTERM to exit, longest", most, drain_seconds + _MARGIN_SECONDS, "s"),
        none_of("exits with another code than 0", [row for row in rows if row["exit"] != 0]),
        none_of("processes left", [row for row in rows if row["processes left"]]),
        none_of(
            "not given back, or as an attempt",
            [each for each in given_back if each != ("queued", 0)],
        ),
        equal("small jobs", len(jobs) - 1, wanted),
        none_of("small jobs not done", undone),
        none_of("jobs done twice", ended_twice(yard)),
        none_of("outputs published more than once", witness.twice()),
        none_of("leftovers", yard.leftovers()),
    ]
    details = {
        "drain_seconds": drain_seconds,
        "rounds": rows,
        "jobs after the last round": sent,
    }
    return Outcome(checks, details)


if __name__ == "__main__":
    run_as_script("drain", __doc__, measure, rounds=12, drain_seconds=5.0)
