"""The scripts of `bench` can be found, each under one name."""

from __future__ import annotations

import ast
import re
from collections import Counter

from support.scripts import BENCH, script


def test_no_two_scripts_have_one_name() -> None:
    """They import each other without their folders, in one process under test."""
    scripts = [path for path in BENCH.rglob("*.py") if not path.is_symlink()]
    names = Counter(path.stem for path in scripts if ".venv" not in path.parts)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_folder_of_scripts_finds_what_is_shared() -> None:
    for folder in ("faults", "live", "peers", "speed"):
        assert (BENCH / folder / "paths.py").resolve() == (BENCH / "paths.py").resolve()


def test_what_scripts_import_of_the_rooms_is_there() -> None:
    """Some of them need a card, or a peer, and run in no test."""
    modules = script("house").House().modules
    missing: list[str] = []
    for path in BENCH.rglob("*.py"):
        if path.is_symlink() or ".venv" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "upframe."
            ):
                continue
            name = (node.module or "").removeprefix("upframe.")
            missing += [
                f"{path.name}: {name}.{alias.name}"
                for alias in node.names
                if f"{name}.{alias.name}" not in modules
                and (name not in modules or alias.name not in names_in(modules[name].tree))
            ]
    assert missing == []


def names_in(tree: ast.Module) -> set[str]:
    """What a module defines or imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_the_tests_that_scripts_run_are_there() -> None:
    texts = [path.read_text() for path in BENCH.rglob("*.sh") if ".venv" not in path.parts]
    named = {name for text in texts for name in re.findall(r"\btests/[\w/.]+", text)}
    assert [name for name in sorted(named) if not (BENCH.parent / name).exists()] == []
    assert named
