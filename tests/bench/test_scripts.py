"""The scripts of `bench` can be found, each under one name."""

from __future__ import annotations

from collections import Counter

from support.scripts import BENCH


def test_no_two_scripts_have_one_name() -> None:
    """They import each other without their folders, in one process under test."""
    scripts = [path for path in BENCH.rglob("*.py") if not path.is_symlink()]
    names = Counter(path.stem for path in scripts if ".venv" not in path.parts)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_folder_of_scripts_finds_what_is_shared() -> None:
    for folder in ("faults", "live", "peers", "speed"):
        assert (BENCH / folder / "paths.py").resolve() == (BENCH / "paths.py").resolve()
