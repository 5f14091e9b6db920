"""Which way imports may point between the rooms."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
SOURCES = [p for room in MAY_IMPORT for p in sorted((ROOT / room).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


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


def name_of(source: Path) -> str:
    return str(source.relative_to(ROOT))


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_imports_point_one_way(source: Path) -> None:
    room = source.relative_to(ROOT).parts[0]
    rooms = {name[1] for name in imports_of(source) if name[0] == "upframe" and len(name) > 1}
    assert rooms <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_a_room_keeps_to_its_trade(source: Path) -> None:
    room = source.relative_to(ROOT).parts[0]
    assert not NEVER[room] & {name[0] for name in imports_of(source)}


@pytest.mark.parametrize("source", sorted((ROOT / "io").rglob("*.py")), ids=name_of)
def test_io_takes_only_the_values_from_filters(source: Path) -> None:
    taken = {name for name in imports_of(source) if name[:2] == ("upframe", "filters")}
    assert {name[2] for name in taken if len(name) > 2} <= {"frame", "errors"}


def test_packages_of_io_depend_on_each_other_one_way() -> None:
    """Nodes are the packages in io/ and the modules beside them; the sort fails at a circle."""
    needs: dict[str, set[str]] = {}
    for source in (ROOT / "io").glob("**/[!_]*.py"):
        node = source.relative_to(ROOT / "io").parts[0].removesuffix(".py")
        names = {name[2] for name in imports_of(source) if name[:2] == ("upframe", "io")}
        needs.setdefault(node, set()).update(names - {node})
    assert set(TopologicalSorter(needs).static_order()) == needs.keys()


@pytest.mark.parametrize("source", SOURCES + TESTS, ids=name_of)
def test_rooms_are_never_imported_from_the_working_directory(source: Path) -> None:
    """``import filters`` would load a second copy of every class."""
    assert not {"daemon", "filters"} & {name[0] for name in imports_of(source)}


def test_tests_are_not_a_package() -> None:
    """A ``tests/io/__init__.py`` would let pytest replace the standard ``io`` module."""
    assert "__init__.py" not in {test.name for test in TESTS}
