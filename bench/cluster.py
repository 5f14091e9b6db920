"""Films on three nodes of a Ray cluster against one, and 64 simulated nodes that die now and then.

    python bench/cluster.py [--seconds N] [--short] [--out FILE]

The nodes are of one core each, on this machine: with fewer than three cores, they can only be so
much faster, which is what is wanted. The film is of 640x360 on a path that all of them see.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import paths  # noqa: F401  # finds what is imported next
from figures import Check, Outcome, at_least, at_most, equal, run_as_script, timed
from segments_runs import converted
from segments_schedule import MEAN_SECONDS, Simulation
from support.servers.ray_cluster import RayCluster, ray_cluster

NODES = ("one", "two", "three")
CLIP = ("-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-pix_fmt", "yuv420p", "-g", "50")
OPTIONS = ("--interpolate", 1, "--threads", 1, "--segment-frames", 50, "--preset", "ultrafast")
SHARE = 0.9
"""Of what the cores allow."""
DEATHS_AN_HOUR = 0.01
BACK_SECONDS = 600.0
"""Until a node is back that has died."""
LEAST_BUSY = 0.95


def measure(folder: Path, seconds: float, seed: int) -> Outcome:
    del seed
    clip = folder / "clip.mkv"
    subprocess.run(["ffmpeg", "-v", "error", *CLIP, "-t", str(seconds), str(clip)], check=True)
    with ray_cluster(folder / "cluster", NODES[0]) as cluster:
        one, frames = taken(clip, cluster)
        cluster.add(*NODES[1:])
        before = cluster.ask("stored")
        three, others = taken(clip, cluster)
        stored = cluster.ask("stored") - before
    cores = min(len(NODES), len(os.sched_getaffinity(0)))
    busy, deaths = simulated()
    checks = [
        timed(at_least(f"three nodes against one, {cores} cores", one / three, SHARE * cores)),
        equal("frames are equal", frames == others, True),
        at_most("through the object store", stored / 1e6, 1.0, "MB"),
        busy,
    ]
    details: dict[str, Any] = {"seconds": [one, three], "nodes that died in simulation": deaths}
    return Outcome(checks, details)


def taken(clip: Path, cluster: RayCluster) -> tuple[float, str]:
    """Convert a clip on a cluster; return the seconds, and a hash of the frames."""
    target = clip.with_name("out.mkv")
    words = (*OPTIONS, "--overwrite", "--executor", f"ray:{cluster.address}")
    ran = converted(clip, target, *words, **cluster.environment)
    frames = ["ffmpeg", "-v", "error", "-i", str(target), "-f", "framemd5", "-"]
    hashes = subprocess.run(frames, check=True, stdout=subprocess.PIPE).stdout
    return ran.report["seconds"], hashlib.sha256(hashes).hexdigest()


def simulated() -> tuple[Check, int]:
    """Return how busy 64 nodes are until the tail, and how many of them have died."""
    a_segment = MEAN_SECONDS * 2.5  # nodes are up to four times as slow as the fastest
    dying = {"failures": DEATHS_AN_HOUR * a_segment / 3600, "restart_seconds": BACK_SECONDS}
    made = Simulation(20_000, seed=2, **dying)()  # with this one, there is a death
    return at_least(
        "64 simulated nodes are busy until the tail", made.busy, LEAST_BUSY
    ), made.num_lost


if __name__ == "__main__":
    run_as_script("cluster", __doc__, measure, {"seconds": 10.0}, seconds=240.0)
