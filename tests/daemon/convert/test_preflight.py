"""What would fail at the end of a conversion fails before its weights are loaded."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.media.clips import make_clip

from upframe.daemon.__main__ import main
from upframe.daemon.convert.compute import FilmCompute
from upframe.daemon.convert.conversion import run
from upframe.daemon.convert.preflight import RunRequest, check_space, preflight
from upframe.daemon.convert.space import ExpectedSize, expected_size
from upframe.daemon.specification import ConversionOptions
from upframe.filters.chain import build_filters
from upframe.filters.device import Runtime
from upframe.filters.options import FilterOptions
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import SinkFull, SinkRefused, TruncatedMedia
from upframe.io.files import OutputFile, hold, partial_path

RUNTIME = Runtime(torch.device("cpu"), torch.float32, "builtin")
TWICE = FilterOptions(enable_frame_interpolation=True)


def options_of(filters: FilterOptions = TWICE, **encoder: Any) -> ConversionOptions:
    return ConversionOptions(filters=filters, encoder=EncoderOptions(**encoder))


def asked_of(source: Path, sink: Path, options: ConversionOptions) -> RunRequest:
    return RunRequest(str(source), str(sink), options, place=sink)


def larger(scale: float, **more: Any) -> FilterOptions:
    return FilterOptions(enable_upscaling=True, upscaling_scale=scale, **more)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mkv", frames=2)


@pytest.mark.parametrize("name", ["out.mkv", "out.png", "out_%03d.png"])
def test_an_output_that_is_being_written_is_refused_with_its_process(
    tmp_path: Path, clip: Path, name: str
) -> None:
    target = tmp_path / name
    if "%" in name:
        partial_path(target, "a1").mkdir()
        held = os.open(partial_path(target, "a1"), os.O_RDONLY)
        hold(held)
    else:
        partial_path(target, "a1").touch()
        held = os.open(partial_path(target, "a1"), os.O_RDWR)
        hold(held)
    asked = asked_of(clip, target, options_of(larger(2)).model_copy(update={"overwrite": True}))
    wanted = rf"^process {os.getpid()} is writing .*{name}.*\.{name}\.a1\.partial"
    with pytest.raises(SinkRefused, match=wanted), preflight(asked):
        pass
    with preflight(replace(asked, sink=str(tmp_path / "o.mkv")), token="a1"):
        pass  # the owner's own
    with preflight(asked_of(clip, tmp_path / f"other{target.suffix}.mkv", asked.options)):
        pass  # another output in that folder
    os.close(held)  # as at the end of its process: what it has left stops nobody
    with preflight(replace(asked, sink=str(tmp_path / "o.mkv"))):
        pass


def test_an_open_output_is_held_until_it_is_published_or_discarded(
    tmp_path: Path, clip: Path
) -> None:
    def refusal(target: Path) -> str | None:
        try:
            with preflight(asked_of(clip, target, options_of())):
                return None
        except SinkRefused as error:
            return str(error)

    target = tmp_path / "a.mp4"
    file = OutputFile(target, overwrite=False)
    assert "is writing" in str(refusal(target))
    file.publish()
    assert "output exists" in str(refusal(target))
    again = OutputFile(target, overwrite=True)
    again.discard()
    assert "output exists" in str(refusal(target))


def test_who_begins_while_weights_are_loaded_is_noticed(tmp_path: Path, clip: Path) -> None:
    other: list[OutputFile] = []

    def build(options: FilterOptions, runtime: Runtime) -> Any:
        other.append(OutputFile(tmp_path / "a.mkv", overwrite=False))
        return build_filters(options, runtime)

    request = RunRequest(str(clip), str(tmp_path / "a.mkv"), options_of(), RUNTIME)
    with pytest.raises(SinkRefused, match="is writing"):
        run(request, filters=build)
    other[0].discard()


FASTSTART, FRAGMENTS = {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize(
    ("name", "container"),
    [("in.mp4", FASTSTART), ("in.mov", FASTSTART), ("in.mp4", FRAGMENTS), ("in.mkv", {})],
)
def test_a_missing_end_is_found_before_the_first_frame(
    tmp_path: Path, name: str, container: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_clip(tmp_path / name, frames=48, audio="aac", container_options=container)
    target, whole = tmp_path / "out.mkv", path.read_bytes()
    with preflight(asked_of(path, target, options_of())):
        pass
    path.write_bytes(whole[: len(whole) * 7 // 10])
    with (
        pytest.raises(TruncatedMedia, match=rf"{name}: truncated: got {len(whole) * 7 // 10} byte"),
        preflight(asked_of(path, target, options_of())),
    ):
        pass
    begins = ConversionOptions.model_validate({"filters": TWICE, "end": "0.5"})
    with preflight(asked_of(path, target, begins)):
        pass  # nothing of what is missing is asked for
    assert main(["probe", str(path), str(target), "--interpolate", "1", "--no-estimate"]) == 0
    assert f"obstacle: {path}: truncated: got" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["in.ts", "in.avi", "in.y4m"])
def test_what_does_not_tell_its_end_is_read_to_it(tmp_path: Path, name: str) -> None:
    codec = {"in.avi": "mpeg4", "in.y4m": "wrapped_avframe"}.get(name, "libx264")
    path = make_clip(tmp_path / name, frames=48, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with preflight(asked_of(path, tmp_path / "out.mkv", options_of())):
        pass


@pytest.mark.parametrize(
    ("name", "size", "encoder", "wanted"),
    [
        ("out.mkv", (2200, 16), {}, "libx264 refuses 17600x128 yuv420p"),
        ("out.mkv", (16, 2200), {"codec": "mpeg4"}, "mpeg4 refuses 128x17600 yuv420p"),
        ("out.webm", (2200, 16), {"codec": "av1"}, "libsvtav1 refuses 17600x128 yuv420p"),
        ("out_%d.webp", (2200, 16), {}, "libwebp .* 17600x128"),
        ("out.mov", (64, 48), {"codec": "dnxhd"}, "dnxhd refuses 512x384"),
    ],
)
def test_the_size_of_the_result_is_tried_before_weights_are_loaded(
    tmp_path: Path, name: str, size: tuple[int, int], encoder: dict[str, Any], wanted: str
) -> None:
    def build(options: FilterOptions, runtime: Runtime) -> Any:
        raise AssertionError("the weights were loaded")

    source = make_clip(tmp_path / "in.mkv", frames=2, codec="ffv1", width=size[0], height=size[1])
    request = RunRequest(
        str(source), str(tmp_path / name), options_of(larger(8), **encoder), RUNTIME
    )
    with pytest.raises(SinkRefused, match=wanted):
        run(request, filters=build)


@pytest.mark.parametrize(
    ("filters", "encoder", "clip_options"),
    [
        (TWICE, {}, {}),
        (larger(1.5, enable_frame_interpolation=True), {}, {"width": 66, "height": 50}),
        (larger(3), {}, {"codec": "ffv1", "pix_fmt": "yuv444p", "width": 66, "height": 50}),
        (TWICE, {"pix_fmt": "yuv420p"}, {"codec": "ffv1", "pix_fmt": "bgr0"}),
    ],
)
def test_what_is_tried_is_what_the_filters_make(
    tmp_path: Path, filters: FilterOptions, encoder: dict[str, Any], clip_options: dict[str, Any]
) -> None:
    source = make_clip(tmp_path / "in.mkv", frames=3, **clip_options)
    options = options_of(filters, **encoder)
    with preflight(asked_of(source, tmp_path / "out.mkv", options)) as checked:
        built = build_filters(filters, RUNTIME)
        compute = FilmCompute(checked.source.info, built, options, RUNTIME, checked.info.pix_fmt)
        compute.close()
        assert compute.info == checked.info
        assert checked.trial is not None


def test_an_output_without_space_is_refused_or_warned_of(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asked_of(clip, tmp_path / "out.mkv", options_of())
    wanted = r"got 0 B free in .*, wanted about [0-9.]+ B for the output .* very least [0-9.]+ B"
    with pytest.raises(SinkFull, match=wanted), preflight(asked, free=lambda _: 0):
        pass
    with preflight(asked, free=lambda _: None) as checked:  # nobody knows
        size = checked.size
    assert 0 < size.least < size.expected
    caplog.clear()
    for free, warnings in ((size.least, 1), (size.expected, 0)):
        caplog.set_level(logging.WARNING, "upframe")
        caplog.clear()
        with preflight(asked, free=lambda _, free=free: free):
            pass
        assert len([one for one in caplog.messages if "may not be enough" in one]) == warnings


def test_a_device_needs_no_space() -> None:
    size = ExpectedSize(1 << 60, 1 << 60, 0)
    assert check_space(Path("/dev/null"), size, lambda _: 0) is None


DAY = 1920 * 1080 * 25 * 86_400
"""Pixels of a day of film."""


@pytest.mark.parametrize(
    ("codec", "encoder", "grown", "low", "high"),
    [
        ("libx264", {}, 0, 100e9, 200e9),  # 9 to 18 Mbit/s
        ("libx264", {}, 20e9, 20e9, 20e9),  # not above what the input's rate lets expect
        ("libx264", {"crf": 31}, 0, 10e9, 50e9),
        ("libx265", {}, 0, 60e9, 150e9),
        ("ffv1", {}, 20e9, 2e12, 6e12),
        ("rawvideo", {}, 20e9, DAY * 1.5, DAY * 1.5),
    ],
)
def test_a_size_is_that_of_the_codec(
    codec: str, encoder: dict[str, Any], grown: float, low: float, high: float
) -> None:
    size = expected_size(codec, EncoderOptions(**encoder), DAY, 12, grown, 5)
    assert low <= size.video <= high
    assert size.expected == 2 * size.video + 5  # finished segments, and the file made of them
    assert size.least_video == (size.video if codec == "rawvideo" else round(size.video / 10))


def test_probe_lists_what_would_stop_a_run(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def obstacles(*words: object) -> list[str]:
        assert main(["probe", str(clip), *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["obstacles"]

    target = tmp_path / "out.mkv"
    assert obstacles(target) == []
    target.touch()
    assert obstacles(target) == [f"output exists: {target} (use --overwrite)"]
    assert obstacles(target, "--overwrite") == []
    missing = tmp_path / "none" / "out.mkv"
    assert obstacles(missing) == [f"output folder does not exist: {missing.parent}"]
    assert obstacles() is None
    assert main(["probe", str(clip), str(missing), "--no-estimate", "--crf", "18"]) == 0
    assert "\nobstacle: output folder does not exist" in capsys.readouterr().out


def test_probe_tries_the_encoder_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "in.mkv", frames=2, codec="ffv1", width=2200, height=16)
    words = ["probe", str(clip), str(tmp_path / "out.mkv")]
    assert main([*words, "--crf", "60"]) == 64
    assert "libx264 has no crf 60" in capsys.readouterr().err
    assert main([*words, "--upscale", "8", "--codec", "mpeg2video", "--no-estimate"]) == 73
    assert "mpeg2video refuses 17600x128" in capsys.readouterr().err
