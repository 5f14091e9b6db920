"""Which parts begin anew when the file has changed, and which keys wait for a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upframe.daemon.config import Config
from upframe.daemon.service.daemon import reload_of

BEFORE: dict[str, Any] = {
    "state_dir": Path("/var/lib/upframe"),
    "jobs": {"slots": 1, "attempts": 3},
    "mqtt": {"host": "localhost"},
}


def changed(**changes: Any) -> Config:
    return Config.model_validate(BEFORE | changes)


def test_the_same_file_changes_nothing() -> None:
    reload = reload_of(changed(), changed())
    assert (reload.parts, reload.waiting) == (frozenset(), ())
    assert str(reload) == "configuration read again: nothing changed"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"log": {"level": "debug"}}, {"log"}),
        ({"http": {"listen": "127.0.0.1:1"}}, {"http"}),
        ({"mqtt": None}, {"mqtt"}),
        ({"jobs": {"slots": 1, "attempts": 5}}, {"jobs", "mqtt"}),
        ({"jobs": {"slots": 1, "attempts": 5}, "mqtt": None}, {"jobs", "mqtt"}),
    ],
)
def test_what_is_changed_begins_anew(changes: dict[str, Any], parts: set[str]) -> None:
    reload = reload_of(changed(), changed(**changes))
    assert reload.parts == parts
    assert reload.config == changed(**changes)


def test_what_needs_a_restart_is_kept_and_said() -> None:
    new = changed(
        state_dir=Path("/elsewhere"), weights="auto", jobs={"slots": 2, "devices": ("cpu",)}
    )
    reload = reload_of(changed(), new)
    assert reload.waiting == ("state_dir", "weights", "jobs.slots", "jobs.devices")
    assert reload.config == changed()
    assert str(reload).endswith("jobs.devices after a restart")


def test_mqtt_hears_of_other_roots() -> None:
    new = changed(jobs={"slots": 1, "attempts": 3, "roots": (Path("/srv"),)})
    assert "mqtt" in reload_of(changed(), new).parts
