"""What the rooms, folders and modules may be called, and which way imports may point."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.scripts import script

house = script("house")
HOUSE = house.House()
ROOT: Path = house.ROOT
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAY_IMPORT: dict[str, set[str]] = {
    "filters": set(),
    "io": {"filters"},
    "daemon": {"filters", "io"},
}
NEVER: dict[str, set[str]] = {
    "filters": {"asyncio", "av", "time"},
    "io": {"asyncio"},
    "daemon": set(),
}
CLOCKS = {"filters/kernels/ways.py": "it measures which way of computing a network is the fastest"}
"""A module of `filters` that reads a clock, and why."""
ARROWS: dict[str, set[str]] = {
    "cli": {"service", "mqtt", "watch", "workers", "live", "jobs", "convert"},
    "service": {"mqtt", "watch", "workers", "live", "jobs", "convert"},
    "mqtt": {"live", "jobs"},  # it publishes the state of live streams
    "live": {"workers", "convert"},  # a live stream runs in a worker process
    "watch": {"jobs"},
    "workers": {"jobs", "convert"},
    "jobs": set(),
    "convert": set(),
}
"""By folder of `daemon`, the folders that it may import; the files beside them are open to all."""

SMALL_WITH_ONE_IMPORTER = {
    "daemon/cli/demo.py": "a command, of which `doctor` runs the work",
    "daemon/workers/prober.py": "the second kind of child, beside the scheduler of the first",
}
"""A module under 100 lines that one other imports belongs into it, but for these."""

CLASSES_TAKEN_TWICE: dict[str, str] = {}

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
"""Of modules: they say nothing."""
PREPOSITIONS = {"above", "across", "after", "around", "before", "behind", "beneath", "beside"}
PREPOSITIONS |= {"between", "beyond", "inside", "outside", "through", "under", "within", "without"}
PARTICIPLE = re.compile(r"\w{2,}[^e]ed")

LONG_LINES = 600
LONG_REASON = "Long, because "
"""So a docstring says why its module has more lines."""


def imports_of(source: Path) -> set[tuple[str, ...]]:
    """Every dotted name that a file imports, relative ones made absolute."""
    package = ("upframe", *source.relative_to(ROOT).parent.parts)
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*stem, alias.name) for alias in node.names}
    return found


IMPORTS = {str(each.path): imports_of(ROOT / each.path) for each in HOUSE.modules.values()}


# ------------------------------------------------------------------------------------ rooms


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room: str) -> None:
    wrong = {
        path: other
        for path, names in IMPORTS.items()
        if path.startswith(f"{room}/")
        for other in {name[1] for name in names if name[0] == "upframe" and len(name) > 1}
        if other not in MAY_IMPORT[room] | {room}
    }
    assert wrong == {}


@pytest.mark.parametrize("room", NEVER)
def test_a_room_keeps_to_its_trade(room: str) -> None:
    taken = {
        path: NEVER[room] & {name[0] for name in names}
        for path, names in IMPORTS.items()
        if path.startswith(f"{room}/")
    }
    clocks = {path: {"time"} for path in CLOCKS if path in taken}
    assert {path: names for path, names in taken.items() if names} == clocks


def test_io_takes_only_the_values_from_filters() -> None:
    taken = {
        path: {name[2] for name in names if name[:2] == ("upframe", "filters") and len(name) > 2}
        for path, names in IMPORTS.items()
        if path.startswith("io/")
    }
    assert {path: names for path, names in taken.items() if not names <= {"frame", "errors"}} == {}


def test_rooms_are_never_imported_from_the_working_directory() -> None:
    """``import filters`` would load a second copy of every class."""
    everything = IMPORTS | {str(path): imports_of(path) for path in TESTS}
    wrong = [
        path for path, names in everything.items() if {"daemon", "filters"} & {n[0] for n in names}
    ]
    assert wrong == []


def test_tests_are_not_a_package() -> None:
    """A ``tests/io/__init__.py`` would let pytest replace the standard ``io`` module."""
    assert "__init__.py" not in {test.name for test in TESTS}


# -------------------------------------------------------------------------- folders and modules


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert HOUSE.circles == []


def test_no_two_folders_import_each_other() -> None:
    assert HOUSE.two_way_folders == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_packages_of_a_room_import_one_way(room: str) -> None:
    """Nodes are the folders in a room and the modules beside them; the sort fails at a circle."""
    needs: dict[str, set[str]] = {}
    for name, needed in HOUSE.needs.items():
        paths = [path for each in (name, *needed) if len(path := each.split(".")) > 1]
        mine, *others = [path[1] for path in paths if path[0] == room] or [""]
        if name.startswith(f"{room}.") and mine:
            needs.setdefault(mine, set()).update(other for other in others if other != mine)
    assert set(TopologicalSorter(needs).static_order()) >= needs.keys()


def test_folders_of_the_daemon_import_as_the_design_draws_it() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, needed in HOUSE.needs.items()
        for other in needed
        if (mine := _folder(name)) and (theirs := _folder(other)) and mine != theirs
        if theirs not in ARROWS[mine]
    ]
    assert wrong == []


def test_the_files_beside_the_daemons_folders_import_none_of_them() -> None:
    beside = {name: needed for name, needed in HOUSE.needs.items() if not _folder(name)}
    wrong = {
        name: folders
        for name, needed in beside.items()
        if name.startswith("daemon")
        and (folders := sorted(other for other in needed if _folder(other)))
    }
    assert wrong == {}


def _folder(name: str) -> str | None:
    """The folder of `daemon` that a module is in; None for one beside them, or in another room."""
    parts = name.split(".")
    return parts[1] if parts[0] == "daemon" and len(parts) > 2 else None


def test_a_small_module_with_one_importer_has_a_reason() -> None:
    small = [m for m in HOUSE.with_one_importer if m.lines < house.SMALL_LINES]
    assert {str(module.path) for module in small} <= SMALL_WITH_ONE_IMPORTER.keys()
    assert len(SMALL_WITH_ONE_IMPORTER) <= 5


def test_a_long_module_says_why() -> None:
    long = [module for module in HOUSE.modules.values() if module.lines > LONG_LINES]
    silent = [m for m in long if LONG_REASON not in (ast.get_docstring(m.tree) or "")]
    assert [str(module.path) for module in silent] == []


# ------------------------------------------------------------------------------------- names


def test_modules_are_named_for_things() -> None:
    stems = {str(module.path): module.path.stem for module in HOUSE.modules.values()}
    wrong = [
        path
        for path, stem in stems.items()
        if stem in FORBIDDEN_NAMES | PREPOSITIONS or PARTICIPLE.fullmatch(stem)
    ]
    assert wrong == []
    assert HOUSE.gerunds == []


def test_a_class_name_is_taken_once() -> None:
    assert HOUSE.classes_taken_twice.keys() <= CLASSES_TAKEN_TWICE.keys()
    assert len(CLASSES_TAKEN_TWICE) <= 5
