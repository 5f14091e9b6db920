"""Files and folders are opened beneath a root, whatever links are bent meanwhile."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upframe.io.errors import SourceMissing
from upframe.io.root import (
    Identity,
    Root,
    by_descriptor,
    open_file,
    open_folder,
    opened_folder,
    opened_source,
    read_entry,
)

NO_SUCH_CALL = 100_000  # of the system: what a kernel without openat2 says


@pytest.fixture(params=["by the kernel", "by hand"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every rule holds both with openat2 and without."""
    if request.param == "by hand":
        monkeypatch.setattr("upframe.io.root._OPENAT2", NO_SUCH_CALL)
    return request.param


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a film, beside a secret."""
    root = tmp_path / "root"
    (root / "in" / "deep").mkdir(parents=True)
    (root / "in" / "film.mkv").write_text("film")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "film.mkv").write_text("secret")
    return root


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def read(root: Path, path: Path) -> str:
    with os.fdopen(open_file(Root(root), path)) as file:
        return file.read()


def refused(root: Path, path: Path, number: int) -> None:
    for call in (open_file, open_folder):
        with pytest.raises(OSError, match=r".") as raised:
            os.close(call(Root(root), path))
        assert raised.value.errno == number
        assert raised.value.filename == str(path)


def test_opens_what_lies_beneath(root: Path) -> None:
    assert read(root, root / "in" / "film.mkv") == "film"
    assert read(root, Path("in/film.mkv")) == "film"
    for path in (root, Path(), root / "in"):
        os.close(open_folder(Root(root), path))


def test_follows_links_that_stay_beneath(root: Path) -> None:
    (root / "link").symlink_to("in")
    (root / "in" / "deep" / "up").symlink_to("../../link/film.mkv")
    assert read(root, root / "link" / "deep" / ".." / "film.mkv") == "film"
    assert read(root, root / "in" / "deep" / "up") == "film"
    assert read(root / "link", Path("film.mkv")) == "film"  # a root may itself be a link


def links_out(root: Path) -> dict[str, Path]:
    """By what it is made with, a path below the root that leads out of it."""
    (root / "folder").symlink_to("../secret")
    (root / "file.mkv").symlink_to("../secret/film.mkv")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "home").symlink_to(root / "in")  # absolute links lead out, wherever they end
    (root / "twice").symlink_to("folder")
    (root / "in" / "far").symlink_to("deep/../../../secret")
    return {
        "dots": root / "in" / ".." / ".." / "secret" / "film.mkv",
        "elsewhere": root.parent / "secret" / "film.mkv",
        "like the root": root.parent / "rootless",
        "link to a folder": root / "folder" / "film.mkv",
        "link to a file": root / "file.mkv",
        "absolute link": root / "absolute" / "film.mkv",
        "absolute link inside": root / "home" / "film.mkv",
        "link to a link": root / "twice" / "film.mkv",
        "link with dots": root / "in" / "far" / "film.mkv",
    }


def test_refuses_what_leads_outside(root: Path) -> None:
    for path in links_out(root).values():
        refused(root, path, errno.EXDEV)
        with pytest.raises(OSError, match=f"leads outside of {root}"):
            open_folder(Root(root), path / "new", create=True)
    assert os.listdir(root.parent / "secret") == ["film.mkv"]


def test_refuses_magic_links() -> None:
    with open(__file__) as file:
        name = f"fd/{file.fileno()}"
        with pytest.raises(OSError, match=r".") as raised:
            open_file(Root(Path("/proc/self")), Path(name))
    assert raised.value.errno in (errno.ELOOP, errno.EXDEV)


def test_a_loop_of_links_ends(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    refused(root, root / "loop", errno.ELOOP)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a FIFO"), (make_socket, "a socket"), (Path.mkdir, "a directory")],
)
def test_what_is_no_file_is_refused_and_not_waited_for(
    root: Path, make: Callable[[Path], None], kind: str
) -> None:
    make(root / "x")
    with pytest.raises(OSError, match=f"is {kind}, wanted a regular file"):
        open_file(Root(root), root / "x")


def test_a_device_is_refused() -> None:
    with pytest.raises(OSError, match="is a device, wanted a regular file"):
        open_file(Root(Path("/dev")), Path("null"))


def test_what_is_not_there_is_told_from_what_leads_out(root: Path) -> None:
    refused(root, root / "none.mkv", errno.ENOENT)
    with pytest.raises(NotADirectoryError):
        open_folder(Root(root), root / "in" / "film.mkv")
    with pytest.raises(NotADirectoryError):
        open_file(Root(root), root / "in" / "film.mkv" / "x")
    with pytest.raises(FileNotFoundError):
        open_folder(Root(root / "none"), root / "none" / "x", create=True)


def test_an_entry_is_read_only_as_far_as_it_is_small(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    entry.write_bytes(bytes(1 << 20))
    assert len(read_entry(entry)) == 1 << 20
    os.truncate(entry, 1 << 42)  # which takes no room on the disk
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        read_entry(entry)


def test_an_entry_that_is_a_folder_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        with pytest.raises(IsADirectoryError):
            read_entry(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_makes_folders_beneath(root: Path) -> None:
    with opened_folder(Root(root), root / "new" / "and" / "deep", create=True) as folder:
        (folder / "a").write_text("1")
    with opened_folder(Root(root), root / "new" / "and" / "deep", create=True) as folder:
        assert (folder / "a").read_text() == "1"
    assert (root / "new" / "and" / "deep" / "a").is_file()


def test_a_folder_is_held_wherever_its_name_leads_by_then(root: Path) -> None:
    with opened_folder(Root(root), root / "in") as folder:
        (root / "in").rename(root / "moved")
        (root / "in").symlink_to("../secret")
        assert (folder / "film.mkv").read_text() == "film"
        (folder / "film.mkv").rename(folder / "other.mkv")
    assert (root / "moved" / "other.mkv").is_file()


def test_a_source_stays_what_was_opened(root: Path) -> None:
    film = root / "in" / "film.mkv"
    with opened_source(str(film), Root(root), Identity.of(film.stat())) as source:
        film.unlink()
        film.symlink_to("../../secret/film.mkv")
        assert source.descriptor is not None
        for _ in range(2):  # from its begin each time
            assert by_descriptor(source.descriptor).read_text() == "film"
        assert str(source) == str(film)
    with pytest.raises(SourceMissing, match=r"film.mkv: cannot be read: leads outside of"):
        opened_source(str(film), Root(root), None).__enter__()


def test_a_source_must_be_the_file_that_was_accepted(root: Path) -> None:
    film = root / "in" / "film.mkv"
    accepted = Identity.of(film.stat())
    os.utime(film, ns=(0, 5))
    text = rf"not the file that was accepted: mtime_ns 5 \(was {accepted.mtime_ns}\)$"
    with pytest.raises(SourceMissing, match=text):
        opened_source(str(film), Root(root), accepted).__enter__()
    film.rename(root / "old")
    film.write_text("other!")
    with pytest.raises(SourceMissing, match=r"inode \d+ \(was \d+\), size 6 \(was 4\), mtime_ns"):
        opened_source(str(film), Root(root), accepted).__enter__()
    with opened_source(str(film), Root(root), None):
        pass


def test_devices_are_compared_within_one_boot_only(root: Path) -> None:
    now = Identity.of((root / "in" / "film.mkv").stat())
    elsewhere = replace(now, device=now.device + 1)
    assert "device" in elsewhere.changes(now)
    assert not replace(elsewhere, boot="an earlier one").changes(now)


def test_inodes_are_not_compared_where_they_do_not_last(root: Path) -> None:
    status = (root / "in" / "film.mkv").stat()
    now = Identity.of(status)
    assert not Identity.of(status, lasting=False).changes(replace(now, inode=now.inode + 1))
    assert "inode" in now.changes(replace(now, inode=now.inode + 1))


def test_a_closed_folder_stays_closed_beneath_the_root(root: Path) -> None:
    state = root / "state"
    state.mkdir()
    (state / "jobs.sqlite").write_text("jobs")
    (root / "in" / "link").symlink_to("../state")
    (root / "in" / "bent.mkv").symlink_to("link/jobs.sqlite")
    closed = Root(root, state)
    for path in (root / "in" / "bent.mkv", root / "in" / "link" / "jobs.sqlite"):
        with pytest.raises(OSError, match=f"lies in {state}, which is closed"):
            open_file(closed, path)
    for path in (state, root / "in" / "link", state / "new", root / "in" / "link" / "new"):
        with pytest.raises(OSError, match=f"lies in {state}, which is closed"):
            open_folder(closed, path, create=True)
    assert os.listdir(state) == ["jobs.sqlite"]
    os.close(open_file(closed, root / "in" / "film.mkv"))


@given(st.lists(st.sampled_from(["in", "deep", "..", ".", "out", "up", "film.mkv"]), max_size=8))
def test_no_way_of_names_and_links_leads_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    base = tmp_path_factory.mktemp("ways")
    root = base / "root"
    (root / "in" / "deep").mkdir(parents=True)
    for folder in (base, root, root / "in", root / "in" / "deep"):
        (folder / "film.mkv").write_text("secret" if folder == base else "film")
    (root / "in" / "out").symlink_to("../..")
    (root / "in" / "deep" / "up").symlink_to("../deep/..")
    try:
        got = read(root, Path(*names) / "film.mkv")
    except OSError:
        return
    assert got == "film"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_race_of_links_is_never_won(root: Path, what: str) -> None:
    """A film or its folder is exchanged for a link outside, and back, while it is opened."""
    inside, kept = root / "swap", root / "kept"
    link = root / "link"
    (inside if what == "folder" else root).joinpath(".").mkdir(exist_ok=True)
    film = inside / "film.mkv" if what == "folder" else inside
    film.write_text("film")
    link.symlink_to("../secret" if what == "folder" else "../secret/film.mkv")
    stop = threading.Event()

    def bend() -> None:
        while not stop.is_set():
            inside.rename(kept)
            link.rename(inside)
            inside.rename(link)
            kept.rename(inside)

    bender = threading.Thread(target=bend)
    bender.start()
    seen: dict[str, int] = {}
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            got = "refused"
            with suppress(OSError):
                got = read(root, film)
            seen[got] = seen.get(got, 0) + 1
    finally:
        stop.set()
        bender.join()
    assert seen["film"] > 50, seen  # it was tried in earnest
    assert seen["refused"] > 50, seen
    assert "secret" not in seen
