"""Old recordings go, the oldest first, and nothing else ever does."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.live.publishing_child import encoded

from upframe.io.live.archive import NamePattern
from upframe.io.live.publisher_protocol import Event, Note, Removed
from upframe.io.live.recorder import RollingRecorder
from upframe.io.live.target import find_live_target

DAY = 86400.0
NOW = time.mktime((2024, 5, 6, 7, 8, 9, 0, 0, -1))


def old(path: Path, days: float, size: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return path


def expired(pattern: Path, **keep: float) -> list[Event]:
    """What a recorder tells that begins and ends now."""
    told: list[Event] = []
    target = replace(find_live_target(str(pattern)), **keep)
    RollingRecorder(target, encoded(2)[0], told.append, lambda: NOW).close()
    return told


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("pattern", "ours", "others"),
    [
        (
            "%Y%m%d-%H%M%S.mp4",
            ["20240506-070809.mp4", "20240506-070809-1.mp4", "20240506-070809-9999.mp4"],
            ["20240506-070809.mkv", "20240506-070809-.mp4", "20240506-070809-01.mp4",
             "2024506-070809.mp4", "x20240506-070809.mp4", "20240506-070809.mp4.bak",
             "20240506-070809-10000.mp4", ".20240506-070809.mp4.live-0123abcd.partial",
             "gate-20240506-070809.mp4", "holiday.mp4"],
        ),
        (
            "gate.%F.%j.ts",
            ["gate.2024-05-06.127.ts"],
            ["gate.2024-05-06.ts", "gateX2024-05-06.127.ts"],
        ),
        (
            "%Y/%m-%d/a+b %s.mkv",
            ["2024/05-06/a+b 1.mkv"],
            ["2024/05-06/aab 1.mkv", "old/05-06/a+b 1.mkv"],
        ),
        ("%y%%%H.mp4", ["24%07.mp4"], ["24%%07.mp4", "2407.mp4"]),
        (
            "%Y%m%d/gate.mp4",
            ["20240506/gate.mp4", "20240506/gate-2.mp4"],
            ["backup/gate.mp4", "gate.mp4"],
        ),
    ],
)  # fmt: skip
def test_only_what_has_exactly_such_a_name_is_a_recording(
    pattern: str, ours: list[str], others: list[str], tmp_path: Path
) -> None:
    for days, name in enumerate([*ours, *others]):
        old(tmp_path / name, days)
    recordings = NamePattern(tmp_path / pattern).recordings()
    found = [str(path.relative_to(tmp_path)) for path, _ in recordings]
    assert sorted(found) == sorted(ours)


def test_what_is_too_old_goes_and_is_told(tmp_path: Path) -> None:
    for number, days in enumerate((1, 6, 8, 30)):
        old(tmp_path / f"2024050{number}.mp4", days)
    other = old(tmp_path / "holiday.mp4", 1000)
    told = expired(tmp_path / "%Y%m%d.mp4", keep_days=7)
    removed = [event for event in told if isinstance(event, Removed)]
    assert [Path(event.path).name for event in removed] == ["20240503.mp4", "20240502.mp4"]
    assert [round(event.days) for event in removed] == [30, 8]
    assert names_in(tmp_path) == ["20240500.mp4", "20240501.mp4", other.name]


def test_the_oldest_go_until_the_others_fit(tmp_path: Path) -> None:
    for number in range(6):
        old(tmp_path / f"2024050{number}.mp4", 6 - number, 1 << 20)
    old(tmp_path / "holiday.mp4", 1000, 100 << 20)
    told = expired(tmp_path / "%Y%m%d.mp4", keep_gibibytes=3.5 / 1024)
    assert len([event for event in told if isinstance(event, Removed)]) == 3
    assert names_in(tmp_path) == ["20240503.mp4", "20240504.mp4", "20240505.mp4", "holiday.mp4"]


def test_either_limit_counts(tmp_path: Path) -> None:
    for number, days in enumerate((40, 3, 2, 1)):
        old(tmp_path / f"2024050{number}.mp4", days, 1 << 20)
    expired(tmp_path / "%Y%m%d.mp4", keep_days=30, keep_gibibytes=2.5 / 1024)
    assert names_in(tmp_path) == ["20240502.mp4", "20240503.mp4"]


def test_the_latest_recording_is_kept_whatever_the_limits(tmp_path: Path) -> None:
    for number in range(3):
        old(tmp_path / f"2024050{number}.mp4", 100 - number, 1 << 20)
    expired(tmp_path / "%Y%m%d.mp4", keep_days=1, keep_gibibytes=0.1 / 1024)
    assert names_in(tmp_path) == ["20240502.mp4"]


def test_nothing_goes_unless_asked_for(tmp_path: Path) -> None:
    for number in range(3):
        old(tmp_path / f"2024050{number}.mp4", 10_000)
    assert expired(tmp_path / "%Y%m%d.mp4") == []
    assert len(names_in(tmp_path)) == 3


def test_a_folder_that_is_empty_goes_too(tmp_path: Path) -> None:
    old(tmp_path / "20240401/gate.mp4", 35)
    old(tmp_path / "20240402/gate.mp4", 34)
    old(tmp_path / "20240402/notes.txt", 34)
    old(tmp_path / "20240506/gate.mp4", 0)
    expired(tmp_path / "%Y%m%d/gate.mp4", keep_days=7)
    assert names_in(tmp_path) == ["20240402", "20240402/notes.txt", "20240506", "20240506/gate.mp4"]


def test_links_lead_to_no_removal(tmp_path: Path) -> None:
    kept = old(tmp_path / "elsewhere/20240101.mp4", 1000)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "2024").symlink_to(kept.parent)
    (rows / "2023").mkdir()
    (rows / "2023/20230101.mp4").symlink_to(kept)
    old(rows / "2025/20250101.mp4", 0)
    assert expired(rows / "%Y/%Y%m%d.mp4", keep_days=7) == []
    assert kept.exists()
    assert (rows / "2023/20230101.mp4").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    old(tmp_path / "2020/gate.mp4", 1000)
    old(tmp_path / "2024/gate.mp4", 0)
    (tmp_path / "2020").chmod(0o500)
    (note,) = expired(tmp_path / "%Y/gate.mp4", keep_days=7)
    assert isinstance(note, Note)
    assert "cannot be removed" in note.message


def test_each_file_that_is_completed_makes_room(tmp_path: Path) -> None:
    told: list[Event] = []
    primer, packets = encoded(150)
    target = find_live_target(str(tmp_path / "%H%M%S.mp4"), segment_seconds=1)
    begun = time.time()
    seconds = [0.0]
    row = RollingRecorder(
        replace(target, keep_gibibytes=1e-9), primer, told.append, lambda: begun + seconds[0]
    )
    for packet in packets:
        seconds[0] = float(packet.seconds)
        row.write(packet)
    row.close()
    assert len(names_in(tmp_path)) == 1  # the latest
    assert [event for event in told if isinstance(event, Removed)]
