"""`upframe demo`: makes what it says, where it says, again and again."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import pytest

from upframe.daemon.__main__ import main
from upframe.daemon.cli.demo import Demo, make_demo
from upframe.io.demo import read_pictures
from upframe.io.errors import SinkRefused

SIZE = (128, 72)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A small demo: what it does depends on neither size nor length."""
    return make_demo(tmp_path_factory.mktemp("demo") / "new" / "folder", size=SIZE, num_frames=4)


def test_doubles_rate_and_size(demo: Demo) -> None:
    with av.open(str(demo.source)) as before, av.open(str(demo.result)) as after:
        source, result = before.streams.video[0], after.streams.video[0]
        assert (result.width, result.height) == (2 * source.width, 2 * source.height)
        assert source.average_rate == 15
        times = [frame.time for frame in after.decode(result)]
        assert times == [pytest.approx(index / 30) for index in range(7)]


def test_keeps_the_sound(demo: Demo) -> None:
    sounds: list[list[bytes]] = []
    for path in (demo.source, demo.result):
        with av.open(str(path)) as container:
            packets = container.demux(container.streams.audio[0])
            sounds.append([bytes(packet) for packet in packets if packet.size])
    assert sounds[0] == sounds[1] != []


def test_uses_the_built_in_weights_and_asks_no_hub(demo: Demo) -> None:
    assert [weights.origin for weights in demo.report.weights] == ["builtin", "builtin"]
    assert demo.report.warnings == []


def test_the_inserted_frames_are_new(demo: Demo) -> None:
    left, middle, right = read_pictures(demo.result, 2, 3)
    assert (middle - left).abs().max() > 0.1
    assert (middle - right).abs().max() > 0.1
    assert demo.report.counters["cuts"] == 0


def test_the_picture_is_as_wide_as_the_result_and_higher(demo: Demo) -> None:
    (picture,) = read_pictures(demo.picture, 0, 1)
    _, height, width = read_pictures(demo.result, 0, 1)[0].shape
    assert picture.shape[2] == width
    assert picture.shape[1] > height
    assert picture.std() > 0.1


def test_says_in_three_lines_what_it_made_and_where(demo: Demo) -> None:
    before, after, compare = demo.lines()
    assert str(demo.source) in before
    assert "128x72, 15 fps, 4 frames" in before
    assert str(demo.result) in after
    assert "256x144, 30 fps, 7 frames" in after
    assert str(demo.picture) in compare


def test_replaces_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    first = make_demo(tmp_path, size=SIZE, num_frames=2)
    stamp = first.result.stat().st_mtime_ns
    assert make_demo(tmp_path, size=SIZE, num_frames=2).result.stat().st_mtime_ns > stamp
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.txt", "before.mp4", "after.mp4", "compare.png"}


def test_refuses_a_folder_that_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(SinkRefused, match="cannot make the folder"):
        make_demo(taken, num_frames=2)
    assert main(["demo", str(taken)]) == 73
    assert "cannot make the folder" in capsys.readouterr().err


def test_leaves_the_log_as_it_was_for_the_next_run(demo: Demo) -> None:
    """Demo and doctor once turned the plan of every later run in the same process off."""
    assert demo.report.streams
    assert logging.getLogger("upframe.run").level == logging.NOTSET
