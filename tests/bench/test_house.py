"""The figures of the house reach their goals; what they count is counted rightly."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripts import script

house = script("house")


@pytest.fixture(scope="module")
def rows() -> dict[str, tuple[int, list[str]]]:
    return house.House().rows()


@pytest.mark.parametrize("name", house.GOALS)
def test_a_goal_is_kept(name: str, rows: dict[str, tuple[int, list[str]]]) -> None:
    count, found = rows[name]
    assert count <= house.GOALS[name], found


def test_imports_folders_and_names_are_counted(tmp_path: Path) -> None:
    files = {
        "daemon/__init__.py": "",
        "daemon/a/one.py": "from ..b import two\nfrom . import telling\nclass Same: ...\n",
        "daemon/a/telling.py": "from ...filters.frame import Frame\n",
        "daemon/b/two.py": "def late():\n    from ..a.telling import x\nclass Same: ...\n",
        "filters/frame.py": "# nobody is told\nclass Frame: ...\nclass _Private: ...\n",
        "io/frame.py": "import upframe.filters.frame\nclass _Private: ...\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    rows = {name: count for name, (count, _) in house.House(tmp_path).rows().items()}
    assert rows == {
        "files": 6,
        "lines": 12,
        "modules with one importer": 1,
        "modules with one importer, under 100 lines": 1,
        "folders that import each other": 1,
        "circles of modules": 0,
        "class names taken twice": 1,
        "file names taken twice": 1,
        "gerunds as modules": 1,
        "words of the dialect": 2,
    }


def test_a_circle_is_found_but_not_among_what_only_type_checkers_import(tmp_path: Path) -> None:
    (tmp_path / "io").mkdir()
    (tmp_path / "io" / "a.py").write_text("from . import b\n")
    (tmp_path / "io" / "b.py").write_text("if TYPE_CHECKING:\n    from . import a\n")
    assert house.House(tmp_path).circles == []
    (tmp_path / "io" / "b.py").write_text("from . import a\n")
    assert house.House(tmp_path).circles != []
