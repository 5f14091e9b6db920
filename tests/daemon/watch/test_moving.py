"""How an input is put out of the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from support.media.small_files import small_files

from upframe.daemon.watch import outcome
from upframe.daemon.watch.outcome import move


@pytest.fixture(params=["same device", "other device"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where to move to: on the same file system, or on another."""
    if request.param == "same device":
        yield tmp_path / "done"
        return
    folder = Path(mkdtemp(dir="/dev/shm"))
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system")
    yield folder / "done"
    shutil.rmtree(folder)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "film.mkv"
    path.write_bytes(os.urandom(100_000))
    os.utime(path, ns=(10**18, 10**18 + 1))
    return path


def nothing(_: Path) -> None:
    pass


def tree_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_whole_file_is_there_and_not_here(source: Path, place: Path) -> None:
    content = source.read_bytes()
    moved = move(source, place / "sub/film.mkv", nothing)
    assert moved == place / "sub/film.mkv"
    assert moved.read_bytes() == content
    assert moved.stat().st_mtime_ns == 10**18 + 1
    assert not source.exists()
    assert tree_of(place) == ["sub/film.mkv"]


def test_replaces_nothing(source: Path, place: Path) -> None:
    place.mkdir(parents=True)
    (place / "film.mkv").write_text("another")
    (place / "film-1.mkv").symlink_to("nowhere")
    assert move(source, place / "film.mkv", nothing) == place / "film-2.mkv"
    assert (place / "film.mkv").read_text() == "another"


def test_file_is_at_both_places_before_it_is_removed(source: Path, place: Path) -> None:
    seen: list[tuple[bool, Path]] = []

    def look(name: Path) -> None:
        seen.append((source.exists() and name.exists(), name))

    move(source, place / "film.mkv", look)
    assert seen == [(True, place / "film.mkv")]


def test_second_thoughts_leave_it_where_it_was(source: Path, place: Path) -> None:
    def refuse(_: Path) -> None:
        raise OSError("it has changed")

    with pytest.raises(OSError, match="it has changed"):
        move(source, place / "film.mkv", refuse)
    assert source.exists()
    assert tree_of(place) == []


def test_finishes_what_was_cut_off(source: Path, place: Path) -> None:
    """A crash after the file got its new name, and before it lost the old one."""
    place.mkdir(parents=True)
    if place.stat().st_dev == source.stat().st_dev:
        os.link(source, place / "film.mkv")
    else:
        shutil.copy2(source, place / "film.mkv")
    calls: list[Path] = []
    assert move(source, place / "film.mkv", calls.append) == place / "film.mkv"
    assert calls == [place / "film.mkv"]
    assert not source.exists()
    assert tree_of(place) == ["film.mkv"]


def test_failed_copy_leaves_nothing(source: Path, place: Path) -> None:
    """As on a full disk: no file of ours may grow beyond 50 kB meanwhile."""
    if place.parent.stat().st_dev == source.stat().st_dev:
        pytest.skip("nothing is copied")
    with small_files(50_000), pytest.raises(OSError, match="File too large"):
        move(source, place / "film.mkv", nothing)
    assert source.exists()
    assert tree_of(place) == []


def test_a_folder_in_the_place_of_the_file_leaves_nothing_open(tmp_path: Path) -> None:
    place = tmp_path / "done.mkv"
    before = os.listdir("/proc/self/fd")
    with pytest.raises(IsADirectoryError):
        outcome._copy(tmp_path, place)
    assert os.listdir("/proc/self/fd") == before
    assert not list(tmp_path.iterdir())
