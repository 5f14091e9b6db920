"""When a file has held still for long enough."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from upframe.daemon.watch.scan import Signature, Stability, opened_status
from upframe.io.root import Root

FILM = Path("/in/film.mkv")
ONE = Signature(100, 5, 7)


def test_one_sample_is_never_enough() -> None:
    assert not Stability(10).observe(FILM, ONE, now=1e9)


def test_ready_after_the_stable_time_between_two_samples() -> None:
    stability = Stability(10)
    stability.observe(FILM, ONE, now=0)
    assert not stability.observe(FILM, ONE, now=9.9)
    assert stability.observe(FILM, ONE, now=10)


@pytest.mark.parametrize(
    "other", [Signature(101, 5, 7), Signature(100, 6, 7), Signature(100, 5, 8)]
)
def test_every_change_starts_the_wait_anew(other: Signature) -> None:
    """Of the size, of the time, and of the inode: another file was renamed over it."""
    stability = Stability(10)
    stability.observe(FILM, ONE, now=0)
    assert not stability.observe(FILM, other, now=10)
    assert not stability.observe(FILM, other, now=19)
    assert stability.observe(FILM, other, now=20)


def test_no_clock_but_ours_counts() -> None:
    future = Signature(100, 2**62, 7)
    stability = Stability(10)
    stability.observe(FILM, future, now=0)
    assert stability.observe(FILM, future, now=10)


def test_tells_when_to_look_next() -> None:
    stability = Stability(10)
    assert stability.next_due() is None
    stability.observe(FILM, ONE, now=3)
    assert stability.next_due() == 13
    assert stability.due(12) == []
    assert stability.due(13) == [FILM]


def test_put_off_file_waits_longer_each_time_up_to_a_limit() -> None:
    stability = Stability(10)
    stability.observe(FILM, ONE, now=0)
    delays = [stability.postpone(FILM, now=0) for _ in range(9)]
    assert delays == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert not stability.observe(FILM, ONE, now=599)
    assert stability.observe(FILM, ONE, now=600)


def test_a_file_is_given_up_after_many_delays_and_a_long_time() -> None:
    stability = Stability(10)
    stability.observe(FILM, ONE, now=0)
    for _ in range(7):
        stability.postpone(FILM, now=0)
    assert not stability.is_given_up(FILM, now=3600)
    stability.postpone(FILM, now=0)
    assert not stability.is_given_up(FILM, now=3599)
    assert stability.is_given_up(FILM, now=3600)


def test_change_ends_the_putting_off() -> None:
    stability = Stability(10)
    stability.observe(FILM, ONE, now=0)
    stability.postpone(FILM, now=1000)
    stability.observe(FILM, Signature(1, 2, 3), now=100)
    assert stability.next_due() == 110


def test_forgets_what_is_gone() -> None:
    stability = Stability(10)
    other = Path("/in/other.mkv")
    stability.observe(FILM, ONE, now=0)
    stability.observe(other, ONE, now=0)
    stability.keep({other})
    assert stability.due(100) == [other]
    stability.forget(other)
    assert len(stability) == 0


def test_opening_tells_the_same_as_looking(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    path.write_bytes(b"abc")
    assert Signature.of(opened_status(Root(tmp_path), path)) == Signature.of(path.lstat())


def test_opening_never_hangs_nor_follows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="is a FIFO, wanted a regular file"):
        opened_status(Root(tmp_path), tmp_path / "fifo")
    with pytest.raises(OSError, match="leads outside"):
        opened_status(Root(tmp_path), tmp_path / "link")
