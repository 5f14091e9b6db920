"""The map in CONTRIBUTING.md shows the house as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ROOMS = ("daemon", "filters", "io")


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.[a-z]+)", TEXT))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_of_a_room_is_on_the_map(room: str) -> None:
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{room}/`"))
    folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    assert [folder for folder in sorted(folders) if f"`{folder}/`" not in row] == []


def test_the_names_by_which_it_sends_one_there_are_in_the_files() -> None:
    for name, file in {
        "REGISTRY": "filters/chain.py",
        "_SWITCHES": "filters/options.py",
        "_SCHEMES": "io/live/target.py",
        "_do": "daemon/mqtt/handler.py",
    }.items():
        assert f"`{name}`" in TEXT
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), file


def test_no_task_needs_more_than_three_files() -> None:
    rows = re.findall(r"^\| ((?:add|change) .*)\|$", TEXT, re.MULTILINE)
    assert len(rows) == 5
    for row in rows[:4]:
        change = row.split("|")[1]
        assert 1 <= len(set(re.findall(r"`[a-z_/]+\.py`|`filters/NAME\.py`", change))) <= 3, row
