"""Which names are passed over."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from upframe.daemon.watch.scan import MEDIA_EXTENSIONS, NameRules, is_text, printable_path

UNFINISHED = """
    film.mkv.part film.mkv.partial film.mkv.tmp film.mkv.temp film.mkv.crdownload
    film.mkv.download film.mkv.!qB film.mkv.!ut film.mkv.bc! film.mkv.aria2 film.mkv.ytdl
    film.mkv.filepart film.mkv.unmanic.part .syncthing.film.mkv.tmp ~syncthing~film.mkv.tmp
    film.sync-conflict-20260101-101010-ABCDEFG.mkv .nfs000000000123.mkv ._film.mkv ~$film.mkv
    Thumbs.db .DS_Store FILM.MKV.PART .film.mkv.a1B2c3 .film.mkv film.mkv.upframe-error.json
"""
FOLDERS = """
    _UNPACK_film _FAILED_film __ADMIN__ .stversions .stfolder @eaDir #recycle lost+found .hidden
    film.mp4.download .upframe-locks
"""


@pytest.mark.parametrize("name", UNFINISHED.split())
def test_passes_over_unfinished_downloads_and_litter(name: str) -> None:
    assert NameRules().against_file(PurePath("sub", name)) is not None


@pytest.mark.parametrize("name", UNFINISHED.split())
def test_include_does_not_bring_them_back(name: str) -> None:
    assert NameRules(include=["*"]).against_file(PurePath(name)) is not None


@pytest.mark.parametrize("name", FOLDERS.split())
def test_passes_over_working_folders(name: str) -> None:
    assert NameRules().against_folder(PurePath("sub", name)) is not None


@pytest.mark.parametrize("name", ["Season 1", "parts", "download", "a.b", "tmp"])
def test_looks_into_other_folders(name: str) -> None:
    assert NameRules().against_folder(PurePath(name)) is None


@pytest.mark.parametrize(
    "name", ["film.mkv", "FILM.MP4", "a.part.mkv", "temp.mov", "part.mkv", "a b [x] #1.webm"]
)
def test_takes_videos(name: str) -> None:
    assert NameRules().against_file(PurePath(name)) is None


@pytest.mark.parametrize("name", ["film.srt", "film.nfo", "cover.jpg", "song.mp3", "film", "mkv"])
def test_passes_over_what_is_no_video_by_its_name(name: str) -> None:
    assert "extension" in (NameRules().against_file(PurePath(name)) or "")


def test_include_replaces_the_names_of_videos() -> None:
    rules = NameRules(include=["*.PNG", "shows/*/a*.mkv"])
    assert rules.against_file(PurePath("still.png")) is None
    assert rules.against_file(PurePath("shows/one/abc.mkv")) is None
    assert rules.against_file(PurePath("shows/one/bcd.mkv")) == "no include pattern matches"


def test_exclude_passes_over_files_and_folders() -> None:
    rules = NameRules(exclude=["*Sample*", "old/*"])
    assert rules.against_file(PurePath("film-sample.mkv")) == "name matches *sample*"
    assert rules.against_folder(PurePath("Samples")) is not None
    assert rules.against_file(PurePath("old/film.mkv")) is not None
    assert rules.against_file(PurePath("film.mkv")) is None


def test_a_path_in_the_log_is_one_line() -> None:
    assert printable_path(Path("/in/ä film.mkv")) == "/in/ä film.mkv"
    assert printable_path(Path("/in/a\nb\x1b[1m.mkv")).isprintable()
    assert printable_path(Path("/in/\udcff.mkv")).isprintable()


def test_tells_names_that_are_no_text() -> None:
    assert is_text(Path("/in/ä.mkv"))
    assert not is_text(Path("/in/\udcff.mkv"))


def test_extensions_are_in_lower_case() -> None:
    assert all(
        extension == extension.lower() and extension[0] == "." for extension in MEDIA_EXTENSIONS
    )
