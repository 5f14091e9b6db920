"""The house in figures: files, lines, imports and names of the three rooms, with their goals.

    python bench/house.py          prints a table; ends with 1 where a goal is missed
    python bench/house.py -v       and what each row counts

| row | what it counts |
|---|---|
| files, lines | Python files of the rooms, and all their lines |
| modules with one importer | a concept may be torn: such a module often belongs into its importer |
| … under 100 lines | of these, the small ones |
| folders that import each other | pairs of folders, neither of them inside the other |
| circles of modules | modules that need each other, also through others |
| class names taken twice | public classes of one name in several modules |
| file names taken twice | but for those that every folder may have |
| gerunds as modules | files named for an activity instead of a thing |
| words of the dialect | words that a reader must translate, in code and prose |
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("daemon", "filters", "io")

GOALS = {
    "files": 230,
    "lines": 54_700,
    "modules with one importer": 40,
    "modules with one importer, under 100 lines": 5,
    "folders that import each other": 0,
    "circles of modules": 0,
    "class names taken twice": 5,
    "file names taken twice": 15,
    "gerunds as modules": 0,
    "words of the dialect": 150,
}
"""At most. Files and lines: those reached, 192 and 45,081, and the budgets of what is planned."""

SMALL_LINES = 100
COMMON_NAMES = frozenset({"__init__", "options", "errors", "cpu", "cuda"})
"""A folder's own of a kind that many folders have."""
FIELD_NOUNS = frozenset({"testing", "logging", "timing", "padding", "muxing", "pooling", "staging"})
"""Nouns of the field that end as gerunds do."""
_GERUND = re.compile(r"\w{2,}ing")
_DIALECT = re.compile(
    r"\b(anew|told|tells|whoever|nobody|to be had|mended|held against|let go of|is over)\b"
)


@dataclass(frozen=True)
class Module:
    """One file of the rooms."""

    path: Path
    """Below the root of the checkout."""
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """As Python imports it below `upframe`."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def classes(self) -> set[str]:
        """Public ones, also nested ones."""
        names = {node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}
        return {name for name in names if not name.startswith("_")}

    def imported(self, *, types_too: bool = True) -> set[str]:
        """Every dotted name below `upframe` that it imports, wherever in the file.

        Args:
            types_too: also what only type checkers import.
        """
        package = self.path.parts[:-1]
        found: set[str] = set()
        for node in _imports(self.tree, types_too=types_too):
            if isinstance(node, ast.Import):
                names = (alias.name.split(".") for alias in node.names)
                found |= {".".join(parts[1:]) for parts in names if parts[0] == "upframe"}
                continue
            stem = node.module.split(".") if node.module else []
            if node.level:
                stem = [*package[: len(package) - node.level + 1], *stem]
            elif stem[:1] == ["upframe"]:
                stem = stem[1:]
            else:
                continue
            found |= {".".join(stem), *(".".join([*stem, alias.name]) for alias in node.names)}
        return found


def _imports(tree: ast.AST, *, types_too: bool) -> Iterable[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif types_too or not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from _imports(node, types_too=types_too)


class House:
    """The modules of the three rooms, and what they import of each other."""

    def __init__(self, root: Path = ROOT) -> None:
        self.modules: dict[str, Module] = {}
        for room in ROOMS:
            for path in sorted((root / room).rglob("*.py")):
                text = path.read_text()
                module = Module(path.relative_to(root), text, ast.parse(text))
                self.modules[module.name] = module

    @cached_property
    def needs(self) -> Mapping[str, set[str]]:
        """By module, the modules that it imports, packages' own files left out."""
        return self._graph(types_too=True)

    @cached_property
    def needs_to_run(self) -> Mapping[str, set[str]]:
        """The same without what only type checkers import."""
        return self._graph(types_too=False)

    @cached_property
    def importers(self) -> Mapping[str, set[str]]:
        """By module, those that import it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, needed in self.needs.items():
            for other in needed:
                found[other].add(name)
        return found

    @property
    def with_one_importer(self) -> list[Module]:
        return [
            module
            for name, module in self.modules.items()
            if module.path.name not in ("__init__.py", "__main__.py")
            and len(self.importers[name]) == 1
        ]

    @property
    def two_way_folders(self) -> list[tuple[str, str]]:
        """Folders that import each other, neither of them inside the other."""
        pairs = {
            (self.modules[name].path.parent, self.modules[other].path.parent)
            for name, needed in self.needs.items()
            for other in needed
        }
        return sorted(
            (str(a), str(b))
            for a, b in pairs
            if a < b and (b, a) in pairs and a not in b.parents and b not in a.parents
        )

    @property
    def circles(self) -> list[list[str]]:
        """The first circle of modules, if there is one."""
        try:
            TopologicalSorter(self.needs_to_run).prepare()
        except CycleError as error:
            return [error.args[1]]
        return []

    @property
    def classes_taken_twice(self) -> dict[str, list[str]]:
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for name, module in self.modules.items():
            for each in module.classes:
                holders[each].append(name)
        return {each: names for each, names in sorted(holders.items()) if len(names) > 1}

    @property
    def files_taken_twice(self) -> dict[str, list[str]]:
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            holders[module.path.stem].append(str(module.path.parent))
        return {
            stem: folders
            for stem, folders in sorted(holders.items())
            if len(folders) > 1 and stem not in COMMON_NAMES
        }

    @property
    def gerunds(self) -> list[str]:
        stems = ((str(module.path), module.path.stem) for module in self.modules.values())
        return [path for path, stem in stems if _GERUND.fullmatch(stem) and stem not in FIELD_NOUNS]

    @property
    def dialect(self) -> dict[str, int]:
        """By module, how many words."""
        counts = {name: len(_DIALECT.findall(each.text)) for name, each in self.modules.items()}
        return {name: count for name, count in counts.items() if count}

    def rows(self) -> dict[str, tuple[int, list[str]]]:
        """By the names of `GOALS`: the figure, and what it counts."""
        one = self.with_one_importer
        small = [module for module in one if module.lines < SMALL_LINES]
        dialect = self.dialect
        lists: dict[str, list[str]] = {
            "modules with one importer": [str(module.path) for module in one],
            "modules with one importer, under 100 lines": [str(each.path) for each in small],
            "folders that import each other": [" ⇄ ".join(pair) for pair in self.two_way_folders],
            "circles of modules": [" → ".join(circle) for circle in self.circles],
            "class names taken twice": _listed(self.classes_taken_twice),
            "file names taken twice": _listed(self.files_taken_twice),
            "gerunds as modules": self.gerunds,
        }
        return {
            "files": (len(self.modules), []),
            "lines": (sum(module.lines for module in self.modules.values()), []),
            **{name: (len(found), found) for name, found in lists.items()},
            "words of the dialect": (
                sum(dialect.values()),
                [f"{name}: {count}" for name, count in dialect.items()],
            ),
        }

    def _graph(self, *, types_too: bool) -> Mapping[str, set[str]]:
        return {
            name: {
                other
                for other in module.imported(types_too=types_too)
                if other in self.modules and other != name and not self.modules[other].is_package
            }
            for name, module in self.modules.items()
        }


def _listed(holders: Mapping[str, list[str]]) -> list[str]:
    return [f"{name}: {', '.join(places)}" for name, places in holders.items()]


def main(words: list[str]) -> int:
    rows = House().rows()
    for name, (count, found) in rows.items():
        mark = "" if count <= GOALS[name] else "  MISSED"
        print(f"{name:44} {count:6} (goal {GOALS[name]}){mark}")
        if "-v" in words:
            print(*(f"    {each}" for each in found), sep="\n", end="\n" if found else "")
    return int(any(count > GOALS[name] for name, (count, _) in rows.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
