"""Whoever owns an output finds its temporary files again, and is told what will be renamed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.media.sinks import FAST, constant, pictures, write

from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.errors import SinkRefused
from upframe.io.files import Owner, discard_partials, partial_path
from upframe.io.media import Sink
from upframe.io.sink import open_file_sink

TOKEN = "job-0123456789ab"
Renames = Sequence[tuple[Path, Path]]


def opened(target: Path, owner: Owner, *, overwrite: bool = False) -> Sink:
    options = FAST if target.suffix == ".mp4" else EncoderOptions()
    info = constant()
    info = constant(pix_fmt=output_pix_fmt(info, options, target))
    return open_file_sink(target, info, options, owner=owner, overwrite=overwrite)


def write_three(sink: Sink, target: Path) -> None:
    info = constant(pix_fmt=output_pix_fmt(constant(), EncoderOptions(), target))
    write(sink, pictures(info, 3))


@pytest.mark.parametrize("name", ["a.mp4", "a_%03d.png"])
def test_temporary_names_carry_the_owners_token(tmp_path: Path, name: str) -> None:
    sink = opened(tmp_path / name, Owner(TOKEN, lambda _: None))
    assert [path.name for path in tmp_path.iterdir()] == [f".{name}.{TOKEN}.partial"]
    assert partial_path(tmp_path / name, TOKEN).exists()
    sink.abort()


@pytest.mark.parametrize(("name", "count"), [("a.mp4", 1), ("a_%03d.png", 3)])
def test_the_owner_is_told_of_all_files_when_they_are_complete_and_before_any_has_its_name(
    tmp_path: Path, name: str, count: int
) -> None:
    told: list[Renames] = []

    def look(renames: Renames) -> None:
        told.append(renames)
        assert [path.name for path in tmp_path.iterdir()] == [f".{name}.{TOKEN}.partial"]
        assert all(partial.stat().st_size > 100 for partial, _ in renames)
        assert not any(final.exists() for _, final in renames)

    write_three(opened(tmp_path / name, Owner(TOKEN, look)), tmp_path / name)
    (renames,) = told
    assert len(renames) == count
    assert {final for _, final in renames} == set(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a_%03d.png"])
def test_an_owner_who_refuses_stops_the_work_before_anything_has_a_name(
    tmp_path: Path, name: str
) -> None:
    def refuse(_: Renames) -> None:
        raise OSError(28, "No space left on device")

    sink = opened(tmp_path / name, Owner(TOKEN, refuse))
    with pytest.raises(OSError, match="No space left on device"):
        write_three(sink, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_two_owners_do_not_meet(tmp_path: Path) -> None:
    sinks = [opened(tmp_path / "a.mp4", Owner(f"job-{number}", lambda _: None)) for number in "12"]
    assert len(list(tmp_path.iterdir())) == 2
    discard_partials(tmp_path / "a.mp4", "job-1")
    assert [path.name for path in tmp_path.iterdir()] == [".a.mp4.job-2.partial"]
    for sink in sinks:
        sink.abort()


def test_what_is_left_of_an_owner_is_found_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / f".a_%03d.png.{TOKEN}.partial"
    folder.mkdir()
    (folder / "a_001.png").write_text("half")
    (tmp_path / f".upframe.{TOKEN}.partial").touch()  # with which the folder was tried
    (tmp_path / "other.png").touch()
    discard_partials(tmp_path / "a_%03d.png", TOKEN)
    discard_partials(tmp_path / "a_%03d.png", TOKEN)
    discard_partials(tmp_path / "none" / "a.mp4", TOKEN)
    assert [path.name for path in tmp_path.iterdir()] == ["other.png"]


def test_a_name_that_is_taken_meanwhile_is_refused_after_the_owner_was_told(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    sink = opened(target, Owner(TOKEN, lambda _: target.write_text("precious") and None))
    with pytest.raises(SinkRefused, match="appeared meanwhile"):
        write_three(sink, target)
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]
