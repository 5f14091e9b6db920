"""Films on the nodes of a Ray cluster are those of one machine, whatever becomes of the nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.jobs.daemon import SMALL, a_clip, daemon_in, until, verified
from support.media.clips import make_clip
from support.media.sinks import decoded_frames
from support.servers.ray_cluster import RayCluster, ray_cluster

from upframe.daemon.convert.plan import plan_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]
ROOT = Path(__file__).parents[3]
SECONDS = 120.0
FILTERS = ("--interpolate", "1", "--weights", "builtin", "--threads", "1", "--codec", "ffv1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("cluster"), "one", "two", "three") as running:
        yield running


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "in.mkv"
    return make_clip(path, frames=192, width=192, height=108, options={"g": "8"}, audio="aac")


@pytest.fixture(scope="module")
def frames(film: Path) -> list[tuple[int, bytes]]:
    """As one machine makes them."""
    target = film.with_name("one.mkv")
    log_of(started(film, target))
    return decoded_frames(target)


def started(
    film: Path,
    target: Path,
    cluster: RayCluster | None = None,
    more: Sequence[str] = (),
    within: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """`upframe run`, on a cluster or alone."""
    words = ["run", str(film), str(target), *FILTERS, "--segment-frames", "8", *more]
    words += ["--progress", "json"]
    words += [] if cluster is None else ["--executor", f"ray:{cluster.address}"]
    return subprocess.Popen(
        [*within, sys.executable, "-m", "upframe.daemon", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **({} if cluster is None else cluster.environment)},
    )


def log_of(
    ran: subprocess.Popen[str], acts: dict[int, Callable[[], object]] | None = None
) -> list[str]:
    """Wait for the end, and act once so many frames are done; return what it has logged."""
    waiting, log = sorted((acts or {}).items()), list[str]()
    with ran:
        for line in ran.stderr or ():
            if not line.startswith("{"):
                log.append(line)
            elif waiting and json.loads(line)["frame"] >= waiting[0][0]:
                waiting.pop(0)[1]()
    assert not waiting, "".join(log)
    return log


def lost(log: Sequence[str]) -> list[str]:
    return [line for line in log if re.search(r"over segment \d+", line)]


# ------------------------------------------------------------------------------------- equal films


def test_three_nodes_make_the_film_of_one_machine_and_store_next_to_nothing(
    cluster: RayCluster, film: Path, frames: list[tuple[int, bytes]]
) -> None:
    target, before = film.with_name("shared.mkv"), cluster.ask("stored")
    log = log_of(started(film, target, cluster))
    assert decoded_frames(target) == frames, "".join(log)
    assert lost(log) == []
    assert cluster.ask("stored") - before < 1 << 20
    assert not plan_folder(target).exists()


def test_what_nodes_do_not_see_is_copied_to_them_and_removed(
    cluster: RayCluster, film: Path, frames: list[tuple[int, bytes]]
) -> None:
    """In a mount namespace of its own, the run has a folder that no node sees."""
    folder = film.parent / "hidden"
    folder.mkdir()
    hidden, target = folder / film.name, film.with_name("copied.mkv")
    shell = (
        f'mount -t tmpfs none {folder} && cp -p {film} {folder} && "$@"; mv {folder}/o.mkv {target}'
    )
    within = ("unshare", "-m", "sh", "-c", shell, "sh")
    log = log_of(started(hidden, folder / "o.mkv", cluster, within=within))
    assert decoded_frames(target) == frames, "".join(log)
    assert until(lambda: cluster.kept() == [], "the copies are removed")


def test_a_killed_actor_and_a_killed_node_lose_nothing_but_what_is_in_flight(
    cluster: RayCluster, film: Path, frames: list[tuple[int, bytes]]
) -> None:
    target = film.with_name("killed.mkv")
    acts: dict[int, Callable[[], object]] = {
        40: lambda: os.kill(cluster.processes(b"ray::NodeWorker")[0], signal.SIGKILL),
        120: lambda: cluster.ask("remove", "two"),
    }
    log = log_of(started(film, target, cluster), acts)
    cluster.add("two")
    assert decoded_frames(target) == frames, "".join(log)
    assert 1 <= len(lost(log)) <= 2, "".join(log)


def test_a_run_that_is_stopped_leaves_no_process_and_is_continued(
    cluster: RayCluster, film: Path, frames: list[tuple[int, bytes]]
) -> None:
    target = film.with_name("stopped.mkv")
    ran = started(film, target, cluster)
    log_of(ran, {40: lambda: ran.send_signal(signal.SIGTERM)})
    assert ran.returncode == 143
    until(lambda: cluster.processes(b"segment_worker") == [], "its processes have ended")
    log = "".join(log_of(started(film, target, cluster)))
    assert re.search(r"of which an earlier run has made [1-9]", log), log
    assert decoded_frames(target) == frames


# --------------------------------------------------------------------------------------- refusals


def test_doctor_lists_the_nodes_with_what_they_see(cluster: RayCluster, film: Path) -> None:
    words = ["cluster", "doctor", cluster.address, str(film), "/nowhere", "--json"]
    command = [sys.executable, "-m", "upframe.daemon", *words]
    environment = os.environ | cluster.environment
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    nodes = {node["node"]: node for node in json.loads(ran.stdout)}
    assert nodes.pop("head")["refused"] == "it lends neither cores nor cards"
    assert nodes.keys() == {"one", "two", "three"}
    for node in nodes.values():
        assert node["refused"] is None
        assert node["machine"]["device"] == "cpu"
        assert node["seen"] == {str(film): True, "/nowhere": False}
        assert node["speed"]["speeds"][-1]["frames_in_per_second"] > 0


def test_nodes_without_the_weights_are_refused_by_name(cluster: RayCluster, film: Path) -> None:
    folder = film.parent / "weights"
    folder.mkdir()
    weights = ROOT / "filters" / "builtin" / "rife_starter.safetensors"
    shell = f'mount -t tmpfs none {folder} && cp {weights} {folder}/flownet.safetensors && "$@"'
    more = ("--frame-interpolation-model-path", str(folder / "flownet.safetensors"))
    ran = started(
        film, film.with_name("w.mkv"), cluster, more, ("unshare", "-m", "sh", "-c", shell, "sh")
    )
    text = "".join(log_of(ran))
    assert ran.returncode == 69, text
    for name in ("one", "two", "three"):
        assert re.search(f"{name} is refused: .*flownet", text), text


def test_nodes_with_another_number_of_cores_are_refused_by_name(
    cluster: RayCluster, film: Path
) -> None:
    ran = started(film, film.with_name("c.mkv"), cluster, within=("taskset", "-c", "0"))
    text = "".join(log_of(ran))
    assert ran.returncode == 69, text
    assert "one is refused: cores: got" in text


def test_a_cluster_that_is_open_to_everybody_is_refused(tmp_path: Path, film: Path) -> None:
    with ray_cluster(tmp_path / "open", mode="disabled") as cluster:
        ran = started(film, tmp_path / "o.mkv", cluster)
        assert "is open to everybody" in "".join(log_of(ran))
        assert ran.returncode == 69


# --------------------------------------------------------------------------------------- the daemon


def test_fifty_jobs_are_each_done_once_while_a_node_leaves_and_another_joins(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source, names = a_clip(tmp_path / "in.mp4"), [f"job-{number}" for number in range(50)]
    executor = {"kind": "ray", "address": cluster.address}

    def states() -> list[str]:
        return [job.state for job in daemon.jobs().values()]

    with daemon_in(tmp_path, executor=executor) as daemon:
        for name in names:
            daemon.submit(source, tmp_path / f"{name}.mp4", SMALL, name)
        until(lambda: states().count("done") >= 5, "some are done")
        cluster.ask("remove", "three")
        until(lambda: states().count("done") >= 20, "more are done")
        cluster.add("four")
        until(lambda: states().count("done") == 50, "all are done", SECONDS)
        assert daemon.stop() == 0
    assert all(verified(tmp_path / f"{name}.mp4") == 3 for name in names)


def test_a_film_goes_on_after_the_death_of_the_head(cluster: RayCluster, film: Path) -> None:
    """Here on one machine, as the last test: the cluster is gone."""
    target, once = film.with_name("head.mkv"), film.with_name("once.mkv")
    longer = ("--interpolate", "2")  # than a driver lives on without its head
    ran = started(film, target, cluster, longer)
    log = log_of(ran, {60: lambda: cluster.ask("behead")})
    assert ran.returncode == 69, "".join(log)
    assert "are done; the next run continues" in "".join(log)
    again = "".join(log_of(started(film, target, more=longer)))
    assert re.search(r"of which an earlier run has made [1-9]", again), again
    log_of(started(film, once, more=longer))
    assert decoded_frames(target) == decoded_frames(once)
