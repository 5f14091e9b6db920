"""Names, temporary names, and what happens when the disk says no."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.media.sinks import FAST, constant, encode, pictures, write
from support.media.small_files import small_files

from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import ReaderGone, SinkFull, SinkRefused
from upframe.io.files import OutputFile, check_target, partial_path, refuse_same_file
from upframe.io.sink import open_file_sink


def test_the_temporary_name_is_hidden_and_no_media_file(tmp_path: Path) -> None:
    """Services 1.2: media libraries index what ends in .mkv, even in hidden folders."""
    sink = open_file_sink(tmp_path / "film.mkv", constant(), FAST)
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(".film.mkv.")
    assert partial.name.endswith(".partial")
    write(sink, pictures(constant()))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mkv"]


@pytest.mark.parametrize("letter", ["x", "ü", "映"])
def test_temporary_names_fit_where_the_name_itself_does(tmp_path: Path, letter: str) -> None:
    name = letter * ((255 - 4) // len(letter.encode())) + ".mkv"
    encode(tmp_path / name, constant(), options=FAST)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(os.fsencode(partial_path(tmp_path / name).name)) <= 255


def test_two_at_once_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    first, second = (OutputFile(tmp_path / "a", overwrite=False) for _ in range(2))
    assert first.path != second.path
    first.publish()
    with pytest.raises(SinkRefused, match=r"output appeared meanwhile: .*/a \(use --overwrite\)"):
        second.publish()
    second.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("precious")
    with pytest.raises(SinkRefused, match=r"output exists: .*a.mp4 \(use --overwrite\)"):
        open_file_sink(target, constant(), FAST)
    assert target.read_text() == "precious"
    write(open_file_sink(target, constant(), FAST, overwrite=True), pictures(constant()))
    assert target.stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == 1


def test_an_existing_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("precious")
    sink = open_file_sink(target, constant(), FAST, overwrite=True)
    for picture in pictures(constant()):
        sink.write(picture)
    assert target.read_text() == "precious"
    sink.abort()
    sink.abort()
    assert target.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    file = OutputFile(folder / "a.mkv", overwrite=False)
    folder.rename(tmp_path / "away")
    with pytest.raises(SinkRefused, match=r"output folder does not exist any more: .*/out"):
        file.publish()
    file.discard()


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.mkv"
    sink = open_file_sink(target, constant(), FAST)
    for picture in pictures(constant()):
        sink.write(picture)
    target.write_text("precious")
    with pytest.raises(SinkRefused, match="output appeared meanwhile"):
        sink.finish()
    assert target.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_abort_after_finish_keeps_the_output(tmp_path: Path) -> None:
    sink = open_file_sink(tmp_path / "a.mkv", constant(), FAST)
    write(sink, pictures(constant()))
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "folder"])
def test_the_input_is_never_the_output(tmp_path: Path, link: str) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(b"0")
    target = tmp_path / "other.mp4"
    if link == "symbolic":
        target.symlink_to(source)
    elif link == "hard":
        target.hardlink_to(source)
    elif link == "folder":
        (tmp_path / "elsewhere").symlink_to(tmp_path)
        target = tmp_path / "elsewhere" / "in.mp4"
    else:
        target = source
    with pytest.raises(SinkRefused, match="input and output are the same file"):
        refuse_same_file(str(source), str(target))


def test_different_files_and_urls_are_fine(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"0")
    refuse_same_file(tmp_path / "in.mp4", tmp_path / "out.mp4")
    refuse_same_file("rtsp://host/stream", tmp_path / "out.mp4")
    refuse_same_file("/dev/null", "/dev/null")


def test_bad_folders_have_their_own_messages(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match=r"output folder does not exist: .*/none"):
        check_target(tmp_path / "none" / "a.mp4", overwrite=False)
    with pytest.raises(SinkRefused, match="output is a folder"):
        check_target(tmp_path, overwrite=True)
    with pytest.raises(SinkRefused, match="more than 255 bytes"):
        check_target(tmp_path / ("x" * 300), overwrite=True)


def test_a_read_only_folder_is_refused() -> None:
    """Tried for real, because permission bits say nothing to root and on read-only mounts."""
    with pytest.raises(SinkRefused, match="output folder is not writable: /proc"):
        check_target(Path("/proc/a.mp4"), overwrite=False)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("limit", [100, 20_000])
def test_no_room_leaves_nothing_behind(
    tmp_path: Path, name: str, limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for a full disk: a write fails in the middle."""
    info = constant(width=640, height=480)
    sink = open_file_sink(tmp_path / name, info, FAST.model_copy(update={"crf": 0}))
    with small_files(limit):
        with pytest.raises(SinkFull) as full:
            write(sink, pictures(info, 60))
        sink.abort()
    assert f"cannot write {tmp_path / name}: File too large" in str(full.value)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_is_said_to_be_full() -> None:
    info = constant(width=320, height=240)
    options = EncoderOptions(codec="ffv1")
    sink = open_file_sink(Path("/dev/full"), info, options, format="matroska")
    with pytest.raises(SinkFull, match="cannot write /dev/full: No space left on device"):
        write(sink, pictures(info, 100))
    sink.abort()


def test_a_reader_of_a_fifo_that_goes_away_is_told_apart(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.mkv"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["head", "-c", "1000", str(fifo)], stdout=subprocess.DEVNULL)
    info = constant(width=320, height=240)
    sink = open_file_sink(fifo, info, EncoderOptions(codec="ffv1"), format="matroska")
    with pytest.raises(ReaderGone, match=r"fifo\.mkv closed it"):
        write(sink, pictures(info, 200))
    sink.abort()
    reader.wait(5)
    assert fifo.exists()


def test_a_reader_of_a_fifo_gets_everything(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.mkv"
    os.mkfifo(fifo)
    command = ["ffprobe", "-v", "error", "-count_packets", "-of", "csv=p=0"]
    command += ["-show_entries", "stream=nb_read_packets", str(fifo)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    write(open_file_sink(fifo, constant(), FAST), pictures(constant(), 30))
    said, _ = reader.communicate(timeout=10)
    assert int(said.strip().strip(",")) == 30


def test_where_file_numbers_do_not_last_none_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a share that numbers a file anew once it is closed: hours of work must not go."""
    monkeypatch.setattr("upframe.io.files.filesystem_type", lambda _: "cifs")
    file = OutputFile(tmp_path / "a.mkv", overwrite=False)
    file.stream.write(b"film")
    file.close()
    content = file.path.read_bytes()
    kept = file.path.rename(tmp_path / "former")  # so that its number is not given out again
    file.path.write_bytes(content)
    file.publish()
    assert (tmp_path / "a.mkv").read_bytes() == kept.read_bytes() == b"film"
