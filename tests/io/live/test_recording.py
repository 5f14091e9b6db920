"""Recordings of live outputs: complete or not there, and of use where they were cut off."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.live.publishing_child import (
    DEADLINE_SECONDS,
    KEYFRAMES_EVERY,
    RATE,
    Child,
    encoded,
    later,
)

from upframe.io.errors import SinkFull, VerificationFailed
from upframe.io.extent import mp4_boxes, whole_fragments
from upframe.io.live.archive import (
    DiskSync,
    VideoExtent,
    check_recording,
    lock_of,
    truncate_to_whole,
    video_extent,
)
from upframe.io.live.publisher_protocol import (
    Connected,
    Event,
    Finished,
    Note,
    PublishFailed,
    Recorded,
    Written,
)
from upframe.io.live.recorder import RecordingFile, rescue
from upframe.io.live.target import find_live_target

FORMS = {
    "mp4": "mp4", "mov": "mov", "mkv": "matroska", "ts": "mpegts", "flv": "flv",
}  # fmt: skip


def record(path: Path, count: int = 60, *, sound: str | None = None) -> RecordingFile:
    """A recording that has got all its packets, and was not completed."""
    primer, packets = encoded(count, sound=sound)
    target = find_live_target(str(path), overwrite=True)
    recording = RecordingFile(target, path, primer)
    for packet in packets:
        recording.write(packet)
    return recording


def decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("extension", FORMS)
def test_a_recording_is_complete_and_gets_its_name_when_it_is_checked(
    extension: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{extension}"
    primer, pictures = encoded(60)
    with Child(find_live_target(str(path)), primer) as child:
        child.give(later(pictures, 5000))
        child.until(Connected)
        assert not path.exists()
        assert child.finish() == 0, (child.events[-1], child.stderr)
        assert child.events[-2:] == [Recorded(str(path), 60, float(Fraction(59, RATE))), Finished()]
        assert child.written == list(range(1, 61))
    assert decoded(path) == 60
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("count", [1, 2, KEYFRAMES_EVERY, KEYFRAMES_EVERY + 1])
def test_a_short_recording_is_complete_too(count: int, tmp_path: Path) -> None:
    recording = record(tmp_path / "out.mp4", count)
    recording.close()
    made = recording.publish()
    assert made is not None
    assert decoded(tmp_path / "out.mp4") == made.frames == count


def test_a_complete_mp4_is_a_plain_one(tmp_path: Path) -> None:
    recording = record(tmp_path / "out.mp4")
    recording.close()
    recording.publish()
    names = [name for name, _ in mp4_boxes(tmp_path / "out.mp4")]
    assert names == ["ftyp", "free", "mdat", "moov"]


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_sound_is_recorded_beside_the_picture(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{extension}"
    recording = record(path, sound="aac")
    recording.close()
    recording.publish()
    with av.open(str(path)) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}
        sound = [packet for packet in container.demux(audio=0) if packet.size]
    assert abs(sound[-1].pts * sound[-1].time_base - Fraction(60, RATE)) < Fraction(1, 10)


def test_sound_that_mp4_does_not_hold_is_left_out_and_told(tmp_path: Path) -> None:
    primer, packets = encoded(30, sound="pcm_mulaw")
    told: list[Event] = []
    path = tmp_path / "out.mp4"
    with Child(find_live_target(str(path)), primer) as child:
        child.give(packets)
        assert child.finish() == 0
        told = child.told(Note)
    assert "mp4 cannot hold pcm_mulaw" in told[0].message
    assert decoded(path) == 30


@pytest.mark.parametrize("extension", FORMS)
def test_a_recording_can_be_read_while_it_grows(extension: str, tmp_path: Path) -> None:
    recording = record(tmp_path / f"out.{extension}", 60)
    try:
        partial = hidden(tmp_path)[0]
        whole = 60 // KEYFRAMES_EVERY * KEYFRAMES_EVERY
        assert video_extent(partial, FORMS[extension]).frames >= whole
    finally:
        recording.discard()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("extension", FORMS)
def test_wherever_it_is_cut_off_what_was_whole_is_saved(extension: str, tmp_path: Path) -> None:
    recording = record(tmp_path / f"out.{extension}", 60)
    content = hidden(tmp_path)[0].read_bytes()
    recording.discard()
    second = content.find(b"moof") if extension in ("mp4", "mov") else 2 * len(content) // 3
    for number, size in enumerate(range(second, len(content), 331)):
        partial = tmp_path / f".part-{number}"
        partial.write_bytes(content[:size])
        made = rescue(partial, tmp_path / f"saved-{number}.{extension}", FORMS[extension])
        assert made.rescued
        assert made.frames >= KEYFRAMES_EVERY
        assert decoded(Path(made.path)) in (made.frames, made.frames - 1)


def test_an_end_that_was_begun_hides_nothing(tmp_path: Path) -> None:
    """An MP4 gets its index in the end; without all of it, the fragments count."""
    recording = record(tmp_path / "out.mp4", 60)
    partial = hidden(tmp_path)[0]
    fragments = partial.read_bytes()
    recording.close()
    whole = partial.read_bytes()
    index = whole[whole.rfind(b"moov") - 4 :]
    recording.discard()
    for size in (0, 7, 100, len(index)):
        partial.write_bytes(fragments + index[:size])
        assert whole_fragments(partial) == len(fragments)
    partial.write_bytes(whole)
    assert whole_fragments(partial) == len(whole)


def test_what_no_one_can_read_is_not_saved(tmp_path: Path) -> None:
    partial = tmp_path / ".part"
    partial.write_bytes(bytes(5000))
    with pytest.raises(VerificationFailed, match="cannot be read back"):
        rescue(partial, tmp_path / "out.mp4", "mp4")
    assert not (tmp_path / "out.mp4").exists()
    assert partial.exists()


def test_a_recording_that_lost_frames_is_no_good(tmp_path: Path) -> None:
    recording = record(tmp_path / "out.ts", 60)
    recording.close()
    partial = hidden(tmp_path)[0]
    os.truncate(partial, partial.stat().st_size // 376 * 188)
    with pytest.raises(VerificationFailed, match="frames: wanted 60, got"):
        recording.publish()
    recording.discard()


def test_the_check_looks_at_times_too(tmp_path: Path) -> None:
    recording = record(tmp_path / "out.mp4", 60)
    recording.close()
    recording.publish()
    path = tmp_path / "out.mp4"
    check_recording(path, "mp4", VideoExtent(60, Fraction(59, RATE)))
    with pytest.raises(VerificationFailed, match=r"last frame at: wanted 2\.000 s, got 2\.360 s"):
        check_recording(path, "mp4", VideoExtent(60, Fraction(2)))


@pytest.mark.parametrize("limit", [3_000, 6_000, 7_500])
def test_a_full_disk_is_told_and_what_was_whole_is_kept(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # it might be cut off
    path = tmp_path / "out.mp4"
    primer, pictures = encoded(150)
    with Child(find_live_target(str(path)), primer) as child:
        child.connected()
        resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        child.give(pictures)
        assert child.finish() != 0
        failed = child.told(PublishFailed)[0]
        assert failed.error == "SinkFull", failed
        saved = child.told(Recorded)
    assert saved[0].rescued
    assert saved[0].frames % KEYFRAMES_EVERY == 0
    assert decoded(path) == saved[0].frames > 0
    assert hidden(tmp_path) == []


def test_a_disk_that_is_full_at_the_very_end_keeps_the_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index that an MP4 gets at its end is what does not fit."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # it might be cut off
    recording = record(tmp_path / "probe.mp4", 60)
    fragments = hidden(tmp_path)[0].stat().st_size
    recording.discard()
    for more in (0, 300, 700):
        path = tmp_path / f"out-{more}.mp4"
        primer, pictures = encoded(60)
        with Child(find_live_target(str(path)), primer) as child:
            child.connected()
            limit = fragments + more
            resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            child.give(pictures)
            assert child.finish() != 0, "there was room enough: the test proves nothing"
            assert child.told(PublishFailed)[0].error == "SinkFull"
            assert decoded(path) == child.told(Recorded)[0].frames >= 50


def test_a_name_that_was_taken_meanwhile_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    primer, pictures = encoded(30)
    with Child(find_live_target(str(path)), primer) as child:
        child.connected()
        path.write_bytes(b"mine")
        child.give(pictures)
        assert child.finish() != 0
        assert child.told(PublishFailed)[0].error == "SinkRefused"
        assert child.files == [str(tmp_path / "out-1.mp4")]
    assert path.read_bytes() == b"mine"
    assert decoded(tmp_path / "out-1.mp4") == 30


def test_a_file_is_replaced_where_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"old")
    primer, pictures = encoded(30)
    with Child(find_live_target(str(path), overwrite=True), primer) as child:
        child.connected()
        child.give(pictures)
        assert path.read_bytes() == b"old"
        assert child.finish() == 0, child.events
    assert decoded(path) == 30


def test_where_nothing_came_there_is_no_file(tmp_path: Path) -> None:
    with Child(find_live_target(str(tmp_path / "out.mp4")), encoded(2)[0]) as child:
        assert child.finish() == 0
        assert child.told(Note)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_ends_well_on_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    primer, pictures = encoded(50)
    with Child(find_live_target(str(path)), primer) as child:
        child.give(pictures)
        child.until(Written, 50)
        child.process.send_signal(signal.SIGTERM)
        assert child.wait() == 0, child.stderr
    assert decoded(path) == 50


def test_a_fifo_gets_what_comes_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "out.ts"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    primer, pictures = encoded(50)
    with Child(find_live_target(str(path)), primer) as child:
        child.give(pictures)
        assert child.finish() == 0, child.events
    reader.join()
    copy = tmp_path / "copy.ts"
    copy.write_bytes(got[0])
    assert decoded(copy) == 50


def test_shortening_leaves_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(bytes(188 * 5 + 100))
    truncate_to_whole(path, "mpegts")
    assert path.stat().st_size == 188 * 5


def test_a_disk_that_does_not_take_it_is_told_at_the_next_keyframe() -> None:
    """A pipe stands for it: nothing written there can be brought to any disk."""
    reading, writing = os.pipe()
    disk = DiskSync(writing)

    def sync_again_and_again() -> None:
        ends = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < ends:
            disk.sync()

    with pytest.raises(SinkFull, match="the disk has not taken it"):
        sync_again_and_again()
    disk.close()
    os.close(reading)
    os.close(writing)


def test_a_file_is_locked_for_as_long_as_somebody_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = lock_of(path)
    assert lock is not None
    assert lock_of(path) is None
    lock.close()
    again = lock_of(path)
    assert again is not None
    again.close()
