"""A cluster of Ray on this machine: a head that does no work, and nodes with a folder each.

It runs in a process of its own, since Ray reads its token once, and keeps what it has set up.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

_STORE_BYTES = 100 << 20
_DUMP_SECONDS = 1
"""Between what a node says of its store."""


class RayCluster:
    """Controls it; made by `ray_cluster`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        """With the token."""
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                text=True,
            )
        self.address: str = self.ask("head")

    def ask(self, what: str, name: str = "") -> Any:
        """Have something done, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, name]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.folder / "log").read_text()[-4000:]
        return json.loads(answer)

    def add(self, *names: str) -> Self:
        """Have nodes join."""
        for name in names:
            (self.folder / name).mkdir(exist_ok=True)
            self.ask("add", name)
        self.ask("wait")
        return self

    def kept(self) -> list[Path]:
        """What the nodes have on their disks."""
        return [path for path in self.folder.glob("*/*/*") if path.is_file()]

    def processes(self, name: bytes) -> list[int]:
        """Those of the nodes that are called so."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                named, asked = path.read_bytes(), path.with_name("environ").read_bytes()
            except OSError:
                continue
            if name in named and str(self.folder).encode() in asked:
                found.append(int(path.parent.name))
        return found

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=60)


@contextmanager
def ray_cluster(folder: Path, *nodes: str, mode: str = "token") -> Generator[RayCluster]:
    """Run a cluster of one core a node."""
    folder.mkdir(exist_ok=True)
    environment = {"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "2"  # for a head that died
    environment["RAY_TMPDIR"] = "/tmp"  # a socket's path must be short
    cluster = RayCluster(folder, environment)
    try:
        yield cluster.add(*nodes)
    finally:
        cluster.close()


def serve(folder: Path) -> None:
    """Do what is asked for, line by line."""
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), dict[str, Any]()
    common = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        what, name = json.loads(line)
        answer: Any = None
        if what == "head":
            dumps = {"event_stats_print_interval_ms": 1000 * _DUMP_SECONDS}
            cluster.add_node(num_cpus=0, node_name="head", _system_config=dumps, **common)
            answer = cluster.address
        elif what == "add":
            environment = {"UPFRAME_NODE_FOLDER": str(folder / name)}
            about = {"node_name": name, "env_vars": environment, **common}
            nodes[name] = cluster.add_node(wait=False, num_cpus=1, **about)
        elif what == "wait":
            cluster.wait_for_nodes()
        elif what == "remove":
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        elif what == "behead":
            cluster.remove_node(cluster.head_node, allow_graceful=False)
        elif what == "stored":  # bytes, by all stores so far
            time.sleep(2 * _DUMP_SECONDS)
            logs = Path(cluster.head_node.get_session_dir_path(), "logs").glob("raylet*.out")
            found = (re.findall(r"bytes created total: (\d+)", log.read_text()) for log in logs)
            answer = sum(int(each[-1]) for each in found)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    cluster.shutdown()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
