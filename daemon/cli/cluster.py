"""`upframe cluster doctor`: the nodes of a cluster, and whether they could work together."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ...filters.device import resolve_device
from ...io.redaction import json_text, one_line
from ..convert.crew import difference, machine_of
from ..exits import Exit
from ..workers.ray import check_cluster, look_at


def command(arguments: argparse.Namespace) -> int:
    """Do what the command line asks, and return the exit code."""
    nodes = look_at(check_cluster(arguments.address), arguments.folders)
    here = machine_of(resolve_device())
    for node in nodes:
        node.setdefault("refused", difference(here, node.get("machine", {})))
    lines = [json_text(nodes)] if arguments.json else map(_line, nodes)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return Exit.OK if any(node["refused"] is None for node in nodes) else Exit.UNAVAILABLE


def _line(node: dict[str, Any]) -> str:
    """Describe a node, for people."""
    why = node["refused"]
    parts = [f"FAIL {node['node']}: {why}" if why else f"OK   {node['node']}"]
    parts += [f"{name} {text}" for name, text in node.get("machine", {}).items() if text]
    if "speed" in node:
        speed = node["speed"]["speeds"][-1]
        parts.append(f"{speed['frames_in_per_second']:.1f} frames of {speed['size']} a second")
    parts += [f"{'sees' if seen else 'does not see'} {path}" for path, seen in node["seen"].items()]
    return one_line("; ".join(parts))
