"""By what a version of a file is known again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.jobs.watching import Yard

from upframe.daemon.watch.records import file_key, job_id, key_fits, settings_digest
from upframe.daemon.watch.scan import Signature

FILM = Path("/in/film.mkv")
ONE = Signature(100, 5, 7)


def key(path: Path = FILM, signature: Signature = ONE, settings: str = "s") -> str:
    return file_key(path, signature, settings, "ext4")


def test_key_tells_path_version_and_settings_apart() -> None:
    keys = {
        key(),
        key(path=Path("/in/other.mkv")),
        key(signature=Signature(101, 5, 7)),
        key(signature=Signature(100, 6, 7)),
        key(signature=Signature(100, 5, 8)),
        key(settings="t"),
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"container": "mkv"},
        {"encoder": {"crf": 20}},
        {"filters": {"enable_upscaling": True, "upscaling_scale": 2}},
        {"output": "/else"},
    ],
)
def test_settings_are_what_decides_the_result(tmp_path: Path, change: dict[str, object]) -> None:
    yard = Yard(tmp_path)
    one, other = yard.config().watch[0], yard.config(yard.watch(**change)).watch[0]
    assert settings_digest(one) != settings_digest(other)


def test_settings_are_not_how_it_is_watched(tmp_path: Path) -> None:
    yard = Yard(tmp_path)
    more = {"stable_seconds": 9, "priority": 4, "on_existing": "overwrite", "mode": "poll"}
    one, other = yard.config().watch[0], yard.config(yard.watch(**more)).watch[0]
    assert settings_digest(one) == settings_digest(other)


def test_key_fits_the_version_it_was_made_of_only() -> None:
    assert key_fits(key(Path("/in/a:b:c.mkv")), ONE)
    for other in (Signature(101, 5, 7), Signature(100, 6, 7), Signature(100, 5, 8)):
        assert not key_fits(key(), other)


def test_inode_does_not_count_where_it_changes_by_itself() -> None:
    made = file_key(FILM, ONE, "s", "cifs")
    assert made == file_key(FILM, Signature(100, 5, 8), "s", "cifs")
    assert key_fits(made, Signature(100, 5, 8))


@pytest.mark.parametrize("name", ["film.mkv", "-rf.mkv", "ä ö/ü.mkv", "..mkv", f"{'x' * 250}.mkv"])
def test_job_id_is_safe_and_shows_the_file(name: str) -> None:
    made = job_id(Path("/in", name), "a key")
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", made)
    assert made == job_id(Path("/in", name), "a key")
    assert made != job_id(Path("/in", name), "another key")
    assert job_id(FILM, "a key").startswith("film-")
