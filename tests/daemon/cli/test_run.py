"""`upframe run` as a user runs it, on small clips, with the built-in weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from support.media.clips import (
    BT709,
    make_clip,
    make_hdr10_clip,
    make_sequence,
    make_still,
    make_vfr_clip,
)
from support.media.fakes import moving_pictures, stream_info
from support.media.fields import soft_telecine

from upframe.daemon.__main__ import main
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.sink import open_file_sink


def run(*words: object) -> int:
    quiet = ["--progress", "none", "--weights", "builtin"]
    return main(["run", *(str(word) for word in words), *quiet])


def probe(path: Path) -> dict[str, Any]:
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-show_chapters"]
    text = subprocess.run([*command, "-of", "json", path], capture_output=True, check=True).stdout
    return json.loads(text)


def video_of(path: Path) -> dict[str, Any]:
    return next(s for s in probe(path)["streams"] if s["codec_type"] == "video")


def frame_times(path: Path) -> list[Fraction]:
    """Presentation times of all decoded frames, by an independent decoder."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "frame=pts"]
    text = subprocess.run(
        [*command, "-of", "csv=p=0", path], capture_output=True, check=True, text=True
    ).stdout
    base = Fraction(video_of(path)["time_base"])
    return [int(line.strip(",")) * base for line in text.split() if line.strip(",").isdigit()]


def frame_count(path: Path) -> int:
    return len(frame_times(path))


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("frames", "exp"), [(1, 1), (2, 1), (3, 1), (5, 1), (5, 2), (3, 3), (2, 4)]
)
def test_n_frames_become_n_minus_1_times_2_to_the_exp_plus_1(
    tmp_path: Path, frames: int, exp: int
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=frames)
    assert run(clip, tmp_path / "out.mp4", "--interpolate", exp) == 0
    assert len(frame_times(tmp_path / "out.mp4")) == (frames - 1) * 2**exp + 1


def test_a_film_comes_out_smoother_and_larger_with_all_its_streams(tmp_path: Path) -> None:
    clip = make_clip(
        tmp_path / "in.mkv",
        rate=Fraction(24000, 1001),
        frames=24,
        audio="aac",
        subtitles=[(0.1, 0.5, "hello")],
        chapters=[(0, 0.5, "one"), (0.5, 1, "two")],
        attachment=True,
        metadata={"title": "a film"},
    )
    out, report = tmp_path / "out.mkv", tmp_path / "report.json"
    assert run(clip, out, "--interpolate", 1, "--upscale", 2, "--report", report) == 0
    result = probe(out)
    video = video_of(out)
    assert (video["width"], video["height"]) == (128, 96)
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.framerate == Fraction(48000, 1001)
    assert [stream["codec_type"] for stream in result["streams"]] == [
        "video",
        "audio",
        "subtitle",
        "attachment",
    ]
    assert len(result["chapters"]) == 2
    assert result["format"]["tags"]["title"] == "a film"
    assert len(frame_times(out)) == 47
    written = json.loads(report.read_text())
    assert (written["frames_in"], written["frames_out"]) == (24, 47)
    added = {name: n for name, n in written["counters"].items() if name.startswith("repeated")}
    assert written["counters"]["inserted"] + sum(added.values()) == 23
    assert {entry["origin"] for entry in written["weights"]} == {"builtin"}
    assert all(len(entry["sha256"]) == 64 for entry in written["weights"])
    assert set(written["stages"]) == {"decode", "compute", "encode"}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])  # TS holds no durations
def test_duration_and_sound_offset_stay_within_a_millisecond(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(
        tmp_path / f"in.{suffix}",
        rate=Fraction(24000, 1001),
        frames=24,
        audio="aac",
        audio_offset_seconds=0.25,
    )
    out = tmp_path / f"out.{suffix}"
    assert run(clip, out, "--interpolate", 1) == 0
    assert abs(video_duration(out) - video_duration(clip)) <= Fraction(1, 1000)
    assert abs(sound_offset(out) - sound_offset(clip)) <= Fraction(1, 1000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_stays_variable_and_its_duration_within_a_millisecond(
    tmp_path: Path, suffix: str
) -> None:
    clip = make_vfr_clip(tmp_path / f"in.{suffix}")
    out = tmp_path / f"out.{suffix}"
    assert run(clip, out, "--interpolate", 1) == 0
    before, after = frame_times(clip), frame_times(out)
    tolerance = Fraction(1, 1000) if suffix == "mkv" else 0
    for time, kept in zip(before, after[::2], strict=True):
        assert abs((kept - after[0]) - (time - before[0])) <= tolerance
    middles = [(a + b) / 2 for a, b in pairwise(before)]
    for time, made in zip(middles, after[1::2], strict=True):
        assert abs((made - after[0]) - (time - before[0])) <= tolerance
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        wanted = stream.duration and stream.duration * stream.time_base
    assert abs(video_duration(out) - (wanted or video_duration(clip))) <= Fraction(1, 1000)


@pytest.mark.parametrize("exp", [1, 2])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_soft_telecine_comes_out_even_and_as_long(tmp_path: Path, suffix: str, exp: int) -> None:
    clip = soft_telecine(tmp_path / "in.vob", audio=True)
    out, report = tmp_path / f"out.{suffix}", tmp_path / "report.json"
    assert run(clip, out, "--interpolate", exp, "--report", report) == 0
    rate, times = 2**exp * Fraction(24_000, 1001), frame_times(out)
    assert len(times) == 23 * 2**exp + 1
    tolerance = Fraction(1, 1000) if suffix == "mkv" else 0
    for index, time in enumerate(times):
        assert abs(time - times[0] - index / rate) <= tolerance
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.framerate == rate
    assert abs(sound_offset(out) - sound_offset(clip)) <= Fraction(1, 1000)
    assert abs(video_duration(out) - 24 * Fraction(1001, 24_000)) <= Fraction(1001, 60_000)
    assert "soft telecine" in report.read_text()


def test_hdr10_keeps_its_depth_tags_and_metadata(tmp_path: Path) -> None:
    clip = make_hdr10_clip(tmp_path / "in.mp4", frames=3)
    out = tmp_path / "out.mp4"
    assert run(clip, out, "--interpolate", 1) == 0
    names = ("pix_fmt", "color_range", "color_space", "color_transfer", "color_primaries")
    assert [video_of(out)[name] for name in names] == [video_of(clip)[name] for name in names]
    assert hdr_of(out) == hdr_of(clip)
    assert hdr_of(out)


def test_a_still_becomes_a_larger_still(tmp_path: Path) -> None:
    still = make_still(tmp_path / "in.png")
    out = tmp_path / "out.png"
    assert run(still, out, "--upscale", 2) == 0
    with av.open(str(out)) as container:
        (frame,) = container.decode(video=0)
    assert (frame.width, frame.height, frame.format.name) == (128, 96, "rgb24")


def test_a_sequence_becomes_a_film(tmp_path: Path) -> None:
    pattern = make_sequence(tmp_path, frames=3)
    out = tmp_path / "out.mp4"
    assert run(pattern, out, "--upscale", 2, "--framerate", "10") == 0
    assert frame_times(out) == [0, Fraction(1, 10), Fraction(2, 10)]


def test_an_existing_output_is_kept_unless_overwriting_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    assert run(clip, out, "--upscale", 1) == 73
    assert out.read_text() == "precious"
    assert "--overwrite" in capsys.readouterr().err
    assert run(clip, out, "--upscale", 1, "--overwrite") == 0
    assert len(frame_times(out)) == 2
    assert files_in(tmp_path) == {"in.mp4", "out.mp4"}


@pytest.mark.parametrize("name", ["in.mp4", "link.mp4"])
def test_the_input_is_never_its_own_output(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "link.mp4").symlink_to(clip)
    before = clip.read_bytes()
    assert run(clip, tmp_path / name, "--upscale", 2, "--overwrite") == 64
    assert clip.read_bytes() == before


def test_colours_and_tags_pass_unchanged(tmp_path: Path) -> None:
    tags = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
    clip = make_clip(tmp_path / "in.mkv", frames=6, codec="ffv1", tags=tags)
    out = tmp_path / "out.mkv"
    assert run(clip, out, "--interpolate", 1, "--codec", "ffv1", "--precision", "fp32") == 0
    for source, kept in zip(pixels_of(clip), pixels_of(out)[::2], strict=True):
        difference = kept.astype(int) - source
        assert abs(difference).max() <= 1
        assert abs(difference.mean()) <= 0.1
    names = ("color_range", "color_space", "color_primaries", "color_transfer")
    assert [video_of(out)[name] for name in names] == [video_of(clip)[name] for name in names]


def test_inserted_frames_are_as_bright_as_the_originals(tmp_path: Path) -> None:
    """Every second frame brighter was the classic fault: all frames must take one path."""
    info, pictures = stream_info(64, 48), moving_pictures(6, 64, 48)
    options = EncoderOptions(codec="ffv1")
    sink = open_file_sink(tmp_path / "in.mkv", info, options)
    for picture in pictures:
        sink.write(picture)
    sink.finish()
    out = tmp_path / "out.mkv"
    assert run(tmp_path / "in.mkv", out, "--interpolate", 1, "--codec", "ffv1") == 0
    means = [frame.mean() for frame in pixels_of(out)]
    for left, made, right in zip(means[::2], means[1::2], means[2::2], strict=False):
        assert abs(made - (left + right) / 2) <= 0.5


def test_the_plan_is_told_before_weights_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=2, audio="aac", attachment=True)
    code = run(
        clip, tmp_path / "out.mp4", "--interpolate", 1,
        "--frame-interpolation-model-path", tmp_path / "missing.pkl",
    )  # fmt: skip
    text = capsys.readouterr().err
    assert code == 69
    assert text.index("font.ttf") < text.index("missing.pkl")
    assert files_in(tmp_path) == {"in.mkv"}


@pytest.mark.parametrize(
    ("output", "report", "code", "text"),
    [
        ("there.mp4", None, 73, "output exists: {0}/there.mp4 (use --overwrite)"),
        ("none/out.mp4", None, 73, "output folder does not exist: {0}/none"),
        ("folder.mp4", None, 73, "output is a folder, wanted a file name: {0}/folder.mp4"),
        ("frame_%02d.png", None, 73, "output exists: {0}/frame_01.png (use --overwrite)"),
        ("none/frame_%02d.png", None, 73, "output folder does not exist: {0}/none"),
        ("out.mp4", "none/a.json", 73, "cannot write the report {0}/none/a.json: No such"),
        ("out.mp4", "folder.mp4", 73, "cannot write the report {0}/folder.mp4: Is a directory"),
        ("out.mp4", "in.mp4", 64, "the report would replace the input or the output: {0}/in.mp4"),
        ("out.mp4", "link.mp4", 64, "the report would replace the input or the output: {0}/link"),
        ("out.mp4", "out.mp4", 64, "the report would replace the input or the output: {0}/out.mp4"),
    ],
)
def test_what_cannot_be_written_is_refused_before_weights_are_loaded(
    output: str,
    report: str | None,
    code: int,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    (tmp_path / "link.mp4").symlink_to(clip)
    (tmp_path / "folder.mp4").mkdir()
    for name in ("there.mp4", "frame_01.png"):
        (tmp_path / name).touch()
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    words = ["--interpolate", 1, "--frame-interpolation-model-path", tmp_path / "missing.pkl"]
    words += [] if report is None else ["--report", tmp_path / report]
    assert run(clip, tmp_path / output, *words) == code
    assert text.format(tmp_path) in capsys.readouterr().err
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == before


def test_a_report_that_is_there_is_replaced_only_when_the_work_is_done(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    report = tmp_path / "report.json"
    report.write_text("old")
    none, out = tmp_path / "none.mp4", tmp_path / "out.mp4"
    assert run(none, out, "--upscale", 1, "--report", report) == 66
    assert report.read_text() == "old"
    assert run(clip, tmp_path / "out.mp4", "--upscale", 1, "--report", report) == 0
    assert json.loads(report.read_text())["frames_out"] == 2
    assert run(clip, tmp_path / "out2.mp4", "--upscale", 1, "--report", "/dev/null") == 0


def test_x265_writes_no_banner_whatever_parameters_the_user_gives(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2)
    words = [sys.executable, "-m", "upframe.daemon", "run", clip, tmp_path / "out.mp4"]
    words += ["--upscale", "1", "--weights", "builtin", "--progress", "none"]
    words += ["--codec", "libx265", "--encoder-option", "x265-params=keyint=7"]
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    assert "x265 [info]" not in ran.stderr
    assert all(line.startswith("upframe: ") for line in ran.stderr.splitlines())


def test_an_encoder_of_a_card_that_is_not_there_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg"))):
        pytest.skip("there is an NVIDIA card")
    clip = make_clip(tmp_path / "in.mp4", width=320, height=240, frames=2)
    assert run(clip, tmp_path / "out.mp4", "--upscale", 1, "--codec", "h264_nvenc") == 73
    text = capsys.readouterr().err
    assert "h264_nvenc cannot be used: it needs an NVIDIA card, and this machine shows none" in text
    assert "not permitted" not in text


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4", "out.ts"])
def test_a_subtitle_track_without_a_line_does_not_spoil_the_result(
    tmp_path: Path, name: str
) -> None:
    """Its header is copied and no packet: hours of work were refused at the end for that once."""
    whole = make_clip(tmp_path / "whole.mkv", frames=50, subtitles=[(1.5, 1.9, "late")])
    clip = tmp_path / "in.mkv"
    cut = ["ffmpeg", "-v", "error", "-i", whole, "-map", "0", "-c", "copy", "-t", "0.4", clip]
    subprocess.run(cut, check=True)
    assert [stream["codec_type"] for stream in probe(clip)["streams"]] == ["video", "subtitle"]
    assert run(clip, tmp_path / name, "--interpolate", 1) == 0
    assert frame_count(tmp_path / name) == 2 * frame_count(clip) - 1


def test_strict_streams_refuses_what_would_be_lost(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=2, attachment=True)
    assert run(clip, tmp_path / "out.mp4", "--upscale", 2, "--strict-streams") == 73
    assert files_in(tmp_path) == {"in.mkv"}


@pytest.mark.parametrize(
    ("size", "scale", "lost"),
    [
        ((65, 49), 1.5, ["video: 97x73 pixels: cropped to 96x72 for yuv420p"]),
        ((65, 49), 2, []),
        ((65, 48), 1, ["video: 65x48 pixels: cropped to 64x48 for yuv420p"]),
        ((64, 48), 1, []),
    ],
)
def test_a_column_or_row_that_chroma_does_not_allow_is_a_loss(
    tmp_path: Path, size: tuple[int, int], scale: float, lost: list[str]
) -> None:
    report, out = tmp_path / "report.json", tmp_path / "out.mkv"
    clip = tmp_path / "in.mkv"
    words = ["-f", "lavfi", "-i", f"testsrc=s={size[0]}x{size[1]}:r=10:d=0.2", "-c:v", "ffv1"]
    subprocess.run(["ffmpeg", "-v", "error", *words, "-pix_fmt", "yuv420p", clip], check=True)
    more = ["--upscale", scale] if scale != 1 else ["--interpolate", 1]
    assert run(clip, out, *more, "--report", report) == 0
    assert json.loads(report.read_text())["losses"] == lost
    assert run(clip, out, *more, "--overwrite", "--strict-streams") == (73 if lost else 0)


def test_losses_are_in_the_report_and_refused_before_weights_are_loaded(
    tmp_path: Path,
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=2, metadata={"SHOT_BY": "me"})
    report, out = tmp_path / "report.json", tmp_path / "out.mp4"
    assert run(clip, out, "--upscale", 2, "--report", report) == 0
    lost = "file: tag SHOT_BY 'me': not kept"
    found = json.loads(report.read_text())
    assert found["losses"] == [lost]
    assert lost in found["warnings"]
    out.unlink()
    missing = ["--upscaling-model-path", tmp_path / "none.pth", "--strict-streams"]
    assert run(clip, out, "--upscale", 2, *missing) == 73
    assert not out.exists()
    assert run(clip, tmp_path / "out.mkv", "--upscale", 2, "--strict-streams") == 0


def test_the_matrix_that_rgb_does_not_need_is_no_loss(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=2, tags=BT709)
    encoder = ["--codec", "ffv1", "--pix-fmt", "bgr0"]
    assert run(clip, tmp_path / "out.mkv", "--upscale", 2, "--strict-streams", *encoder) == 0


def pixels_of(path: Path) -> list[Any]:
    """The luma planes, by PyAV alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]


def video_duration(path: Path) -> Fraction:
    """From the start of the first frame to the end of the last, by packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        last = max(packets, key=lambda packet: packet.pts)
        first = min(packet.pts for packet in packets)
        duration = last.duration or round(1 / stream.average_rate / stream.time_base)
        return (last.pts + duration - first) * stream.time_base


def sound_offset(path: Path) -> Fraction:
    """When the first sound plays, seen from the first frame."""
    with av.open(str(path)) as container:
        firsts: dict[str, Fraction] = {}
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                time = packet.pts * packet.time_base
                kind = packet.stream.type
                firsts[kind] = min(time, firsts.get(kind, time))
        return firsts["audio"] - firsts["video"]


def hdr_of(path: Path) -> list[dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-read_intervals", "%+#1", "-show_frames", "-of", "json"]
    text = subprocess.run([*command, path], capture_output=True, check=True).stdout
    sides = json.loads(text)["frames"][0].get("side_data_list", [])
    wanted = ("Mastering display metadata", "Content light level metadata")
    return [side for side in sides if side["side_data_type"] in wanted]
