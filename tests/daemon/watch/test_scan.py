"""What a walk through a folder finds."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from upframe.daemon.jobs.model import partial_token
from upframe.daemon.watch.scan import AllowedFiles, NameRules, Scan, ScanStopped, Signature, Tree
from upframe.io.root import Root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in ("film.mkv", "one/two/three.mp4", ".hidden/film.mkv", "out/film.mkv", "a.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def found(scan: Scan, root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in scan.found}


def reasons(scan: Scan, root: Path) -> dict[str, str]:
    return {os.fsdecode(skip.path.relative_to(root)): skip.detail for skip in scan.skipped}


def tree(root: Path, *, recursive: bool = True, stop: threading.Event | None = None) -> Tree:
    return Tree(
        AllowedFiles(Root(root)),
        NameRules(),
        recursive=recursive,
        reserved={root / "out": "output of a watch"},
        stop=stop or threading.Event(),
    )


def test_finds_files_in_all_folders_and_says_why_not_the_others(root: Path) -> None:
    scan = tree(root).scan()
    assert found(scan, root) == {"film.mkv", "one/two/three.mp4"}
    assert reasons(scan, root) == {
        ".hidden": "hidden folder",
        "a.txt": "extension .txt is not that of a video",
        "out": "output of a watch",
    }
    assert scan.found[root / "film.mkv"] == Signature.of((root / "film.mkv").stat())


def test_looks_into_no_folder_unless_asked(root: Path) -> None:
    scan = tree(root, recursive=False).scan()
    assert found(scan, root) == {"film.mkv"}
    assert reasons(scan, root)["one"] == "folder (recursive = false)"
    assert found(tree(root, recursive=False).look_at([root / "one/two/three.mp4"]), root) == set()


def test_follows_no_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else/film.mkv").touch()
    (root / "loop").symlink_to(root)
    (root / "else").symlink_to(tmp_path / "else")
    (root / "link.mkv").symlink_to(root / "film.mkv")
    scan = tree(root).scan()
    assert found(scan, root) == {"film.mkv", "one/two/three.mp4"}
    assert reasons(scan, root)["link.mkv"] == "symbolic link"
    hinted = tree(root).look_at([root / "else/film.mkv", root / "loop/film.mkv"])
    assert hinted.found == {}


def test_passes_over_what_is_no_regular_file(root: Path) -> None:
    os.mkfifo(root / "fifo.mkv")
    assert reasons(tree(root).scan(), root)["fifo.mkv"] == "not a regular file"


def test_passes_over_a_file_that_aria2_still_loads(root: Path) -> None:
    (root / "film.mkv.aria2").touch()
    assert reasons(tree(root).scan(), root)["film.mkv"] == "aria2 is still downloading it"


def test_passes_over_names_that_are_no_text(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.mkv")).touch()
    scan = tree(root).scan()
    assert found(scan, root) == {"film.mkv", "one/two/three.mp4"}
    assert "its name is not UTF-8" in reasons(scan, root).values()


def test_says_nothing_of_what_we_made_ourselves(root: Path) -> None:
    (root / ".upframe-locks").mkdir()
    (root / "film.mkv.upframe-error.json").touch()
    (root / f".film.mkv.{partial_token('job 1')}.partial").touch()
    scan = tree(root).scan()
    assert len(scan.found) == 2
    assert set(reasons(scan, root)) == {".hidden", "a.txt", "out"}


def test_hints_obey_the_same_rules(root: Path) -> None:
    hints = ["film.mkv", "one", ".hidden/film.mkv", "out/film.mkv", "a.txt", "gone.mkv", ""]
    scan = tree(root).look_at([root / hint for hint in hints] + [root.parent / "film.mkv"])
    assert found(scan, root) == {"film.mkv", "one/two/three.mp4"}
    assert set(reasons(scan, root)) == {"a.txt"}


def test_missing_root_is_an_error_and_not_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tree(AllowedFiles(Root(tmp_path / "gone")), NameRules()).scan()


def test_ends_when_it_is_asked_to(root: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(ScanStopped):
        tree(root, stop=stop).scan()
