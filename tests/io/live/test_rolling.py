"""Rows of recordings: no frame twice, none lost between two, and saved after a crash."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.live.publishing_child import KEYFRAMES_EVERY, Child, encoded, later

from upframe.io.errors import SinkFull
from upframe.io.live.publisher_protocol import Event, Note, Recorded, Written
from upframe.io.live.recorder import RecordingFile, RollingRecorder
from upframe.io.live.target import find_live_target
from upframe.io.live.values import Encoded

START = time.mktime((2024, 5, 6, 7, 8, 9, 0, 0, -1))


class Row:
    """A row of recordings whose time of day is that of its packets."""

    def __init__(self, pattern: Path, *, seconds: float = 1.0, sound: str | None = None) -> None:
        self.told: list[Event] = []
        self.now = START
        self.sound = sound
        target = find_live_target(str(pattern), segment_seconds=seconds)
        self.rolling = RollingRecorder(
            target, encoded(150, sound=sound)[0], self.told.append, self.wall
        )

    def wall(self) -> float:
        return self.now

    def write(self, packets: tuple[Encoded, ...]) -> None:
        for packet in packets:
            self.now = START + float(packet.seconds)
            self.rolling.write(packet)

    @property
    def files(self) -> list[Recorded]:
        return [event for event in self.told if isinstance(event, Recorded)]


def pictures(count: int = 150) -> tuple[Encoded, ...]:
    return encoded(count)[1]


def lightness(path: Path) -> list[int]:
    """Of every picture: the luma of its middle."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.to_ndarray()[24, 32].item() for frame in frames]


def test_a_new_file_begins_at_the_first_keyframe_after_its_time(tmp_path: Path) -> None:
    row = Row(tmp_path / "%Y%m%d-%H%M%S.mp4", seconds=1.5)
    row.write(pictures())
    row.rolling.close()
    assert [Path(event.path).name for event in row.files] == [
        "20240506-070809.mp4",
        "20240506-070811.mp4",
        "20240506-070813.mp4",
    ]
    assert [event.frames for event in row.files] == [50, 50, 50]
    assert not list(tmp_path.glob(".*"))


def test_no_frame_is_lost_or_written_twice(tmp_path: Path) -> None:
    """The pictures become lighter by one step each."""
    row = Row(tmp_path / "%H%M%S.mkv")
    row.write(pictures())
    row.rolling.close()
    assert len(row.files) == 6
    light = [value for event in row.files for value in lightness(Path(event.path))]
    assert len(light) == 150
    assert all(abs(value - 16 - number) <= 1 for number, value in enumerate(light))


def test_a_file_is_there_as_soon_as_the_next_has_begun(tmp_path: Path) -> None:
    row = Row(tmp_path / "%H%M%S.mp4")
    row.write(pictures()[:30])
    ends = time.monotonic() + 30
    while not row.files:
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert Path(row.files[0].path).exists()
    row.rolling.abandon()


def test_sound_goes_where_it_belongs_also_where_it_comes_late(tmp_path: Path) -> None:
    packets = encoded(100, sound="aac")[1]
    late = sorted(packets, key=lambda one: one.seconds + Fraction(one.kind == "sound", 5))
    row = Row(tmp_path / "%H%M%S.mkv", seconds=2.0, sound="aac")
    row.write(tuple(late))
    row.rolling.close()
    assert [event.frames for event in row.files] == [50, 50]
    counts: list[int] = []
    for event in row.files:
        with av.open(event.path) as container:
            sound = [packet for packet in container.demux(audio=0) if packet.size]
        counts.append(len(sound))
        assert sound[0].pts * sound[0].time_base < Fraction(1, 20)
        assert abs(sound[-1].pts * sound[-1].time_base - 2) < Fraction(1, 10)
    wanted = sum(packet.kind == "sound" and packet.seconds >= 0 for packet in packets)
    assert wanted - 1 <= sum(counts) <= wanted  # the encoder's first is before the start


def test_a_name_that_is_taken_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "cam.6.mp4").write_bytes(b"mine")
    row = Row(tmp_path / "cam.%d.mp4", seconds=1)
    row.write(pictures(100))
    row.rolling.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 5, names
    assert (tmp_path / "cam.6.mp4").read_bytes() == b"mine"
    assert sum(event.frames for event in row.files) == 100


def test_folders_are_made_as_the_time_comes(tmp_path: Path) -> None:
    row = Row(tmp_path / "%Y-%m-%d" / "%H" / "%M%S.mp4", seconds=2)
    row.write(pictures(75))
    row.rolling.close()
    assert (tmp_path / "2024-05-06" / "07" / "0809.mp4").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    row = Row(tmp_path / "%Y" / "%H%M%S.mp4")
    (tmp_path / "2024").write_bytes(b"in the way")
    with pytest.raises(SinkFull, match="cannot create the folder"):
        row.write(pictures())
    row.rolling.abandon()


def killed(pattern: Path, count: int) -> None:
    """A process that is killed when it has written so many pictures."""
    target = find_live_target(str(pattern), segment_seconds=3600)
    primer = encoded(150)[0]
    with Child(target, primer) as child:
        child.give(pictures()[:count])
        child.until(Written, count)
        os.kill(child.process.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_a_killed_recording_is_saved_by_the_next_and_loses_a_fragment_at_most(
    extension: str, tmp_path: Path
) -> None:
    pattern = tmp_path / f"cam-%Y%m%d-%H%M%S.{extension}"
    killed(pattern, 120)
    assert not list(tmp_path.glob(f"*.{extension}"))
    with Child(find_live_target(str(pattern)), encoded(150)[0]) as child:
        child.until(Recorded)
        child.give(later(pictures(30), 60))
        assert child.finish() == 0, (child.events[-1], child.stderr)
        saved, own = child.told(Recorded)
    assert saved.rescued
    assert saved.frames > 120 - KEYFRAMES_EVERY
    assert saved.frames == len(lightness(Path(saved.path)))
    assert not own.rescued
    assert own.frames == 30
    assert not list(tmp_path.glob(".*"))


def test_one_that_was_killed_before_its_first_fragment_goes_away(tmp_path: Path) -> None:
    pattern = tmp_path / "cam-%H%M%S.mp4"
    killed(pattern, 20)
    (partial,) = tmp_path.glob(".*")
    old = time.time() - 3600
    os.utime(partial, (old, old))
    with Child(find_live_target(str(pattern)), encoded(150)[0]) as child:
        assert child.finish() == 0
        assert child.told(Recorded) == []
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    pattern = tmp_path / "cam-%H%M%S.mp4"
    target = find_live_target(str(pattern))
    with Child(target, encoded(150)[0]) as first:
        first.give(pictures(100)[:80])
        first.until(Written, 80)
        (partial,) = tmp_path.glob(".*")
        with Child(target, encoded(150)[0]) as second:
            assert second.finish() == 0
            assert second.told(Recorded) == second.told(Note) == []
        assert partial.exists()
        assert first.finish() == 0
        assert [event.frames for event in first.told(Recorded)] == [80]


def test_what_cannot_be_saved_is_told_and_kept(tmp_path: Path) -> None:
    partial = tmp_path / ".070809.mp4.live-0123abcd.partial"
    partial.write_bytes(bytes(10_000))
    row = Row(tmp_path / "%H%M%S.mp4")
    row.write(pictures(30))
    row.rolling.close()
    notes = [event for event in row.told if isinstance(event, Note)]
    assert "cannot be saved" in notes[0].message
    assert partial.exists()
    assert len(row.files) == 2


def test_a_leftover_does_not_take_the_name_of_another(tmp_path: Path) -> None:
    primer = encoded(150)[0]
    target = find_live_target(str(tmp_path / "%H%M%S.mp4"))
    left = RecordingFile(replace(target, kind="file"), tmp_path / "070809.mp4", primer)
    for packet in pictures(100):
        left.write(packet)
    (partial,) = tmp_path.glob(".*")
    content = partial.read_bytes()
    left.discard()
    partial.write_bytes(content)
    (tmp_path / "070809.mp4").write_bytes(b"mine")
    row = Row(tmp_path / "%H%M%S.mp4")
    row.rolling.close()
    assert [Path(event.path).name for event in row.files] == ["070809-1.mp4"]
    assert (tmp_path / "070809.mp4").read_bytes() == b"mine"
    assert row.files[0].frames == 100 - KEYFRAMES_EVERY  # the last fragment was never written
