"""The ledger of results, and how a published file is known again."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from upframe.daemon.workers.ledger import PublishedFile, Result, Results
from upframe.daemon.workers.worker_lock import hold


def complete(tmp_path: Path, text: str = "a film") -> tuple[Path, Path]:
    partial, final = tmp_path / ".a.mp4.job-1.partial", tmp_path / "a.mp4"
    partial.write_text(text)
    return partial, final


def test_a_file_is_waiting_until_it_is_renamed_and_published_from_then_on(tmp_path: Path) -> None:
    partial, final = complete(tmp_path)
    file = PublishedFile.of(partial, final)
    assert (file.is_waiting, file.is_published) == (True, False)
    os.link(partial, final)  # the first half of a rename that must not replace
    assert (file.is_waiting, file.is_published) == (True, True)
    partial.unlink()
    assert (file.is_waiting, file.is_published) == (False, True)


def test_another_file_of_that_name_is_not_ours(tmp_path: Path) -> None:
    partial, final = complete(tmp_path)
    file = PublishedFile.of(partial, final)
    final.write_text("b film")  # as long, and as old
    times = partial.stat()
    os.utime(final, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not file.is_published
    partial.write_text("another")
    assert not file.is_waiting


def test_a_file_is_known_where_inodes_change_and_times_are_coarse(tmp_path: Path) -> None:
    """As on FAT, or on a share that was mounted again."""
    partial, final = complete(tmp_path)
    file = PublishedFile.of(partial, final)
    final.write_bytes(partial.read_bytes())
    partial.unlink()
    coarse = file.mtime_ns // 2_000_000_000 * 2_000_000_000
    os.utime(final, ns=(coarse, coarse))
    assert file.is_published
    os.utime(final, ns=(coarse, coarse + 60_000_000_000))
    assert not file.is_published


def test_an_entry_is_read_as_it_was_written_until_it_is_forgotten(tmp_path: Path) -> None:
    kept = Results(tmp_path / "results")
    assert kept.read("a") is None
    result = Result.of("a", "digest", [complete(tmp_path)], {"frames_out": 3})
    kept.write(result)
    assert Results(tmp_path / "results").read("a") == result
    assert list(kept.job_ids()) == ["a"]
    kept.forget("a")
    kept.forget("a")
    assert kept.read("a") is None
    assert list((tmp_path / "results").iterdir()) == []


def test_half_an_entry_is_none(tmp_path: Path) -> None:
    kept = Results(tmp_path)
    (tmp_path / ".a.json.new").write_text('{"schema": "upf')
    assert kept.read("a") is None
    assert list(kept.job_ids()) == []
    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_says_nothing_counts_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.json").write_text('{"schema": "upframe.result/9"}')
    with caplog.at_level(logging.WARNING, "upframe"):
        assert Results(tmp_path).read("a") is None
    assert "a.json is no entry of the ledger" in caplog.text


@pytest.mark.parametrize("before", [None, 0o755, 0o777])
def test_folders_of_the_state_directory_are_closed_to_others(
    before: int | None, tmp_path: Path
) -> None:
    folders = tmp_path / "results", tmp_path / "workers"
    for folder in folders if before else ():
        folder.mkdir()
        folder.chmod(before or 0)
    Results(folders[0])
    hold(folders[1] / "0.lock").close()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
