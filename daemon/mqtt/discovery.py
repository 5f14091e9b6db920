"""Home Assistant's discovery: one device with what the node does, found without any configuration.

The device message is described in Home Assistant's documentation of MQTT discovery: `dev` and `o`
are mandatory, and each component has its platform `p` and a `unique_id`. Keys are spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..jobs.model import Job, State
from .topics import Topics

BIRTH = b"online"
"""What Home Assistant says at its birth; then everything is announced again."""


def identifier_of(topics: Topics) -> str:
    """Name the device: only letters, digits, ``_`` and ``-`` may stand in the topic."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{topics.prefix}_{topics.node_id}")


def device_topic(topics: Topics) -> str:
    """Where the device is announced."""
    return f"{topics.discovery_prefix}/device/{identifier_of(topics)}/config"


def device_document(topics: Topics) -> dict[str, Any]:
    """Describe the device with its sensors."""
    identifier = identifier_of(topics)
    here = version("upframe")
    return {
        "dev": {
            "identifiers": [identifier],
            "name": f"upframe {topics.node_id}",
            "manufacturer": "upframe",
            "model": "video interpolation and enlargement",
            "sw_version": here,
        },
        "o": {"name": "upframe", "sw_version": here},
        "cmps": {
            name: {"p": "sensor", "unique_id": f"{identifier}_{name}", **sensor}
            for name, sensor in _sensors(topics).items()
        },
        "qos": 1,
    }


def _sensors(topics: Topics) -> dict[str, dict[str, Any]]:
    working = {
        "state_topic": topics.activity,
        "availability_topic": topics.status,
        # a node that drains is still there
        "availability_template": "{{ 'online' if value in ('online', 'draining') else 'offline' }}",
    }
    counted = {**working, "state_class": "measurement"}
    return {
        "status": {"name": "Status", "state_topic": topics.status, "icon": "mdi:server"},
        "state": {
            **working,
            "name": "State",
            "value_template": "{{ value_json.state }}",
            "icon": "mdi:filmstrip",
        },
        "queue": {
            **counted,
            "name": "Queue",
            "value_template": "{{ value_json.queued }}",
            "unit_of_measurement": "jobs",
            "icon": "mdi:tray-full",
        },
        "progress": {
            **counted,
            "name": "Progress",
            "value_template": "{{ value_json.progress_percent }}",
            "unit_of_measurement": "%",
            "icon": "mdi:progress-clock",
        },
        "fps": {
            **counted,
            "name": "Speed",
            "value_template": "{{ value_json.fps }}",
            "unit_of_measurement": "fps",
            "icon": "mdi:speedometer",
        },
    }


def activity_document(counts: dict[State, int], running: Sequence[Job]) -> dict[str, Any]:
    """Say what the node does: the progress of all running jobs together, and their speed."""
    known = [job.progress for job in running if job.progress.total]
    frames = sum(progress.frames for progress in known)
    total = sum(progress.total or 0 for progress in known)
    return {
        "state": "working" if running else "idle",
        "queued": counts["queued"],
        "running": len(running),
        "progress_percent": round(min(100.0, 100 * frames / total), 1) if total else 0.0,
        "fps": round(sum(job.progress.fps for job in running), 2),
    }
