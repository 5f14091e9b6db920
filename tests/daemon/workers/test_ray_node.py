"""What a node keeps, and which nodes and clusters are refused, without a cluster."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from upframe.daemon.__main__ import main
from upframe.daemon.convert.crew import difference
from upframe.daemon.convert.plan import SourceFacts
from upframe.daemon.errors import ClusterAbsent
from upframe.daemon.workers.ray import check_cluster
from upframe.daemon.workers.ray_node import NodeFilm, NodeWorker

MACHINE = {"Python": "3.11", "Ray": "2.60", "upframe": "0.1.0", "cores": "8", "device": "cpu"}
RUN = "1"


def a_film(folder: Path, data: bytes = b"film") -> NodeFilm:
    source, probe = folder / "in.mkv", folder / "worker-0" / "probe"
    source.write_bytes(data)
    probe.parent.mkdir()
    probe.write_text("secret")
    facts = SourceFacts.of(source).model_dump()
    about = {"folders": str(folder / "worker-"), "machine": MACHINE, "setup": "", "most": 1}
    return NodeFilm(source=str(source), secret="secret", **facts, **about)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeWorker:
    monkeypatch.setenv("UPFRAME_NODE_FOLDER", str(tmp_path / "node"))
    monkeypatch.setenv("UPFRAME_NODE_MEBIBYTES", "1")
    return NodeWorker(1)


def kept(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in (folder / "node").glob("*/*")]


def put(node: NodeWorker, film: NodeFilm, offset: int, data: bytes) -> None:
    node.put(RUN, film, offset, data, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("name", MACHINE)
def test_a_machine_that_differs_in_anything_is_named_with_what_it_has(name: str) -> None:
    assert difference(MACHINE, MACHINE) is None
    other = MACHINE | {name: "other"}
    assert difference(MACHINE, other) == f"{name}: got other, wanted {MACHINE[name]}"


def test_a_node_sees_a_film_by_what_is_in_it_and_not_by_its_path(
    node: NodeWorker, tmp_path: Path
) -> None:
    film = a_film(tmp_path)
    assert node.look(RUN, film) == (True, True)
    Path(f"{film.folders}0", "probe").write_text("another folder of the same name")
    stamp = os.stat(film.source).st_mtime_ns
    Path(film.source).write_bytes(b"mlif")
    os.utime(film.source, ns=(stamp, stamp))
    assert node.look(RUN, film) == (False, False)


def test_pieces_may_come_twice_and_are_removed_at_the_end(node: NodeWorker, tmp_path: Path) -> None:
    film = a_film(tmp_path, b"onetwo")
    node.look(RUN, film)
    for offset, data in ((0, b"one"), (3, b"two"), (0, b"one"), (3, b"two")):
        put(node, film, offset, data)
    assert kept(tmp_path) == [b"onetwo"]
    node.end()
    assert kept(tmp_path) == []


def test_what_is_damaged_too_large_or_of_another_run_is_not_kept(
    node: NodeWorker, tmp_path: Path
) -> None:
    film = a_film(tmp_path)
    with pytest.raises(ValueError, match="was started again"):
        put(node, film, 0, b"film")
    node.look(RUN, film)
    with pytest.raises(ValueError, match=r"4 bytes of .* have arrived damaged"):
        node.put(RUN, film, 0, b"film", "0" * 64)
    with pytest.raises(ValueError, match="of 2 MiB, and at most 1 MiB may be kept"):
        put(node, film.model_copy(update={"size": 2 << 20}), 0, b"film")
    assert kept(tmp_path) == []


def test_a_process_that_an_earlier_actor_had_started_is_lost(node: NodeWorker) -> None:
    assert node.turn(RUN, 0, ["order\n"], 0) == ([], "was lost with its actor")


def test_what_processes_left_that_were_killed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPFRAME_NODE_FOLDER", str(tmp_path))
    ended, other = tmp_path / str(2**22 + 1), tmp_path / "other"
    for folder in (ended, other):
        folder.mkdir()
        (folder / "source.mkv").touch()
    NodeWorker(1)
    assert {path.name for path in tmp_path.iterdir()} == {str(os.getpid()), "other"}


def test_without_ray_a_run_says_so_in_one_line(tmp_path: Path) -> None:
    words = ["run", str(tmp_path / "a.mkv"), str(tmp_path / "b.mkv"), "--interpolate", "1"]
    script = "import sys; sys.modules['ray'] = None; from upframe.daemon.__main__ import main"
    command = [sys.executable, "-c", f"{script}; sys.exit(main(sys.argv[1:]))", *words]
    ran = subprocess.run([*command, "--executor", "ray"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.count("\n")) == (69, 1)
    assert "Ray is not installed: pip install 'upframe[ray]'" in ran.stderr


def test_a_live_stream_is_made_by_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "rtsp://127.0.0.1:9/a", "out.ts", "--interpolate", "1", "--executor", "ray"]
    assert main(words) == 64
    assert "--executor is no option of live streams" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_no_cluster_at_the_address_is_said_with_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterAbsent, match=f"no cluster answers at {address}"):
            check_cluster(address)
