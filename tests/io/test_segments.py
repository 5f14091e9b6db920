"""A film encoded in segments and joined: the same packets' times, sound and tags as in one go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from support.media import clips as samples
from support.media.messages import captions, coded_messages, hdr10_plus
from support.media.sinks import constant, decodes_without_errors, ffprobe, packets, pictures, write

from upframe.filters.frame import Color, ContentLight, MasteringDisplay, Picture, StreamInfo
from upframe.io.encode.encoder import EncoderOptions, output_pix_fmt
from upframe.io.errors import SinkRefused, VerificationFailed
from upframe.io.pictures.metadata import Tags, tags_of
from upframe.io.segments import (
    open_joined_sink,
    open_segment_sink,
    segment_facts,
    why_not_cut,
)
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source
from upframe.io.streams.plan import StreamPlan, plan_streams

NTSC = constant(Fraction(30000, 1001), time_base=Fraction(1, 30000))
VARIABLE = replace(constant(), time_base=Fraction(1, 90_000), rate=None)
# many ticks between frames, more than Matroska's 16 bits between blocks
FINE = replace(VARIABLE, time_base=Fraction(1, 1_000_000_000))
STEPS = (1501, 3003, 6006, 3000, 9001)
CUTS = ((0, 13), (13, 27), (27, 40))
SHORT = ((0, 1), (1, 3), (3, 40))
"""Segments of fewer pictures than an encoder reorders."""
TESTS = Path(__file__).parents[1]
FAST = EncoderOptions(codec="libx264", preset="veryfast")


def film(info: StreamInfo, count: int = 40) -> list[Picture]:
    """Pictures from an offset on, at the rate of `info` or at none."""
    if info.rate is not None:
        return list(pictures(info, count, start=7 * 1001))
    scale = int(Fraction(1, 90_000) / info.time_base)
    pts = [5 * 90_000]
    for index in range(count - 1):
        pts.append(pts[-1] + STEPS[index % len(STEPS)])
    return list(pictures(info, count, pts=[one * scale for one in pts]))


def segments_of(
    folder: Path,
    target: Path,
    info: StreamInfo,
    options: EncoderOptions,
    shown: Sequence[Picture],
    cuts: Sequence[tuple[int, int]] = CUTS,
) -> list[Path]:
    """Encode the pictures in segments."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.mkv" for number in range(len(cuts))]
    for path, (first, end) in zip(paths, cuts, strict=True):
        final = end == len(shown)
        sink = open_segment_sink(path, info, options, target=target, final=final)
        write(sink, iter(shown[first:end]))
    return paths


def join(
    target: Path,
    info: StreamInfo,
    options: EncoderOptions,
    paths: Sequence[Path],
    plan: StreamPlan | None = None,
) -> None:
    """Join segments into the output."""
    sink = open_joined_sink(target, info, options, plan=plan)
    try:
        for path in paths:
            sink.append(path)
        sink.finish()
    finally:
        sink.abort()


def times_of(path: Path) -> tuple[list[tuple[int | None, int | None]], list[int | None]]:
    """Times of the video's packets: (pts, duration) in order of pts, and all dts.

    MP4 keeps only the distances of dts, so there durations belong to places, not to pictures.
    """
    with av.open(str(path)) as opened:
        found = [each for each in opened.demux(opened.streams.video[0]) if each.size]
    times = [(each.pts, each.duration) for each in found]
    if path.suffix != ".mkv":
        pts = sorted(each.pts for each in found)
        times = list(zip(pts, (each.duration for each in found), strict=True))
    return sorted(times), [each.dts for each in found]


def decoded(path: Path) -> list[bytes]:
    """The decoded pictures."""
    with av.open(str(path)) as opened:
        return [frame.to_ndarray().tobytes() for frame in opened.decode(video=0)]


def tags(path: Path) -> Tags:
    """What the file declares about its pictures."""
    with av.open(str(path)) as opened:
        return tags_of(opened, opened.streams.video[0])


def complaints(path: Path) -> str:
    """What a real ffmpeg warns of while it decodes a file."""
    command = [
        "ffmpeg",
        "-v",
        "warning",
        "-i",
        str(path),
        "-map",
        "0:v",
        "-fps_mode",
        "passthrough",
    ]
    command += ["-enc_time_base", "1:90000", "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stderr


KINDS = {"ntsc": NTSC, "variable": VARIABLE, "fine": FINE}


@pytest.mark.parametrize("cuts", [CUTS, SHORT], ids=["alike", "short"])
@pytest.mark.parametrize(
    ("codec", "suffix", "kind"),
    [
        ("libx264", "mp4", "ntsc"), ("libx264", "mp4", "variable"), ("libx264", "mp4", "fine"),
        ("libx264", "mkv", "ntsc"), ("libx264", "mkv", "variable"), ("libx264", "mkv", "fine"),
        ("libx264", "mov", "variable"), ("libx264", "ts", "variable"), ("libx265", "mp4", "ntsc"),
        ("libx265", "mp4", "variable"), ("libx265", "mkv", "variable"), ("libx265", "ts", "ntsc"),
        ("ffv1", "mkv", "ntsc"), ("ffv1", "mkv", "fine"), ("prores_ks", "mov", "variable"),
        ("mpeg4", "mp4", "ntsc"), ("mpeg4", "mkv", "ntsc"), ("libvpx-vp9", "webm", "variable"),
        ("libvpx-vp9", "mp4", "ntsc"), ("libsvtav1", "mp4", "variable"),
        ("libsvtav1", "mkv", "ntsc"),
    ],
)  # fmt: skip
def test_packets_of_joined_segments_have_the_times_of_one_encoder(
    tmp_path: Path, codec: str, suffix: str, kind: str, cuts: Sequence[tuple[int, int]]
) -> None:
    target, options = tmp_path / f"out.{suffix}", EncoderOptions(codec=codec)
    info = KINDS[kind]
    info = replace(info, pix_fmt=output_pix_fmt(info, options, target))
    shown = film(info)
    write(open_file_sink(once := tmp_path / f"once.{suffix}", info, options), iter(shown))
    paths = segments_of(tmp_path / "parts", target, info, options, shown, cuts)
    join(target, info, options, paths)
    assert times_of(target) == times_of(once)
    assert decoded(target) == [picture for path in paths for picture in decoded(path)]
    assert complaints(target) == ""


def test_dts_rise_and_do_not_pass_pts(tmp_path: Path) -> None:
    shown, target = film(VARIABLE, 90), tmp_path / "out.mp4"
    cuts = [(first, first + 15) for first in range(0, 90, 15)]
    options = EncoderOptions(codec="libx264", options={"bf": "8", "b-pyramid": "normal"})
    join(target, VARIABLE, options, segments_of(tmp_path, target, VARIABLE, options, shown, cuts))
    with av.open(str(target)) as opened:
        found = [each for each in opened.demux(opened.streams.video[0]) if each.size]
    dts = [each.dts for each in found]
    assert dts == sorted(set(dts))
    assert all(each.dts <= each.pts for each in found)
    assert sum(each.dts < each.pts for each in found) > 30  # there are pictures out of order


def hdr10() -> StreamInfo:
    """Colours and light of HDR10, with pixels that are not square, turned."""
    point, light = (Fraction(17, 50), Fraction(1, 4)), (Fraction(1, 100), Fraction(1000))
    return constant(
        pix_fmt="yuv420p10le",
        color=Color("tv", "bt2020", "smpte2084", "bt2020nc", "topleft"),
        mastering_display=MasteringDisplay(point, point, point, point, *light),
        content_light=ContentLight(1000, 400),
        sample_aspect_ratio=Fraction(4, 3),
        rotation=90,
    )


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("codec", ["libx265", "libsvtav1"])
def test_tags_and_hdr_are_those_of_one_encoder(tmp_path: Path, codec: str, suffix: str) -> None:
    info, options, target = hdr10(), EncoderOptions(codec=codec), tmp_path / f"out.{suffix}"
    shown = list(pictures(info, 40))
    write(open_file_sink(once := tmp_path / f"once.{suffix}", info, options), iter(shown))
    join(target, info, options, segments_of(tmp_path, target, info, options, shown))
    assert tags(target) == tags(once)
    assert tags(target).mastering_display is not None
    assert (
        ffprobe(target)["streams"][0]["codec_tag_string"]
        == (ffprobe(once)["streams"][0]["codec_tag_string"])
    )


def test_captions_and_hdr10_plus_cross_the_join(tmp_path: Path) -> None:
    target, options = tmp_path / "out.mp4", EncoderOptions(codec="libx265")
    shown = [
        replace(one, t35=(captions(index), hdr10_plus(index)))
        for index, one in enumerate(pictures(NTSC, 40))
    ]
    paths = segments_of(tmp_path, target, NTSC, options, shown)
    assert [segment_facts(path).num_messages for path in paths] == [26, 28, 26]
    join(target, NTSC, options, paths)
    wanted = [each for index in range(40) for each in (captions(index), hdr10_plus(index))]
    assert sorted(coded_messages(target, hevc=True)) == sorted(wanted)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_other_streams_are_as_in_one_go(tmp_path: Path, suffix: str) -> None:
    """Two tracks of sound, one of them late, chapters and, in Matroska, a font."""
    plain = samples.make_clip(
        tmp_path / "plain.mkv", audio="aac", frames=40, audio_offset_seconds=0.2,
        chapters=((0, 0.5, "one"), (0.5, 1.6, "two")),
    )  # fmt: skip
    (font := tmp_path / "a.ttf").write_bytes(b"\0\1\0\0" + bytes(60))
    clip = tmp_path / "in.mkv"
    command = ["ffmpeg", "-v", "error", "-i", str(plain), "-map", "0", "-map", "0:a", "-c", "copy"]
    command += ["-attach", str(font), "-metadata:s:t", "mimetype=font/ttf", str(clip)]
    subprocess.run(command, check=True)
    source = open_source(str(clip))
    shown, info = list(source), source.info
    source.close()
    once, target = tmp_path / f"once.{suffix}", tmp_path / f"out.{suffix}"
    plan = plan_streams(str(clip), str(once), None)
    write(open_file_sink(once, info, FAST, plan=plan), iter(shown))
    paths = segments_of(tmp_path / "parts", target, info, FAST, shown)
    join(target, info, FAST, paths, plan_streams(str(clip), str(target), None))
    for stream in ("a:0", "a:1"):
        sound = [(one["pts_time"], one["size"]) for one in packets(target, stream)]
        assert sound == [(one["pts_time"], one["size"]) for one in packets(once, stream)]
    assert times_of(target) == times_of(once)
    got, wanted = ffprobe(target), ffprobe(once)
    assert got["chapters"] == wanted["chapters"]
    assert [one["codec_type"] for one in got["streams"]] == (
        [one["codec_type"] for one in wanted["streams"]]
    )
    assert got["format"]["duration"] == wanted["format"]["duration"]
    assert decodes_without_errors(target)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_long_last_frame_keeps_its_length(tmp_path: Path, suffix: str) -> None:
    shown, target = film(VARIABLE), tmp_path / f"out.{suffix}"
    shown[-1] = replace(shown[-1], duration=90_000)
    write(open_file_sink(once := tmp_path / f"once.{suffix}", VARIABLE, FAST), iter(shown))
    join(target, VARIABLE, FAST, segments_of(tmp_path, target, VARIABLE, FAST, shown))
    assert times_of(target) == times_of(once)


def test_a_segment_of_which_filters_left_no_picture_joins_as_nothing(tmp_path: Path) -> None:
    shown, target = film(VARIABLE), tmp_path / "out.mp4"
    cuts = ((0, 20), (20, 20), (20, 40))
    paths = segments_of(tmp_path, target, VARIABLE, FAST, shown, cuts)
    assert segment_facts(paths[1]).times == ()
    join(target, VARIABLE, FAST, paths)
    assert len(decoded(target)) == 40


def test_a_segment_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    """What a dead process has left half written is replaced."""
    shown, path = film(VARIABLE), tmp_path / "0.mkv"
    left = tmp_path / ".0.mkv.segment.partial"
    left.write_bytes(b"half")
    sink = open_segment_sink(path, VARIABLE, FAST, target=tmp_path / "out.mp4")
    for picture in shown:
        sink.write(picture)
    assert not path.exists()
    assert left.exists()
    sink.finish()
    assert [one.name for one in tmp_path.iterdir()] == ["0.mkv"]
    facts = segment_facts(path)
    assert facts.times == tuple((one.pts, one.duration) for one in shown)
    assert facts.size == path.stat().st_size
    other = open_segment_sink(tmp_path / "1.mkv", VARIABLE, FAST, target=tmp_path / "out.mp4")
    other.write(shown[0])
    other.abort()
    assert [one.name for one in tmp_path.iterdir()] == ["0.mkv"]


def spoilt(data: bytes) -> dict[str, bytes | None]:
    """Ways in which a segment can be lost."""
    middle = len(data) // 2
    return {
        "one bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "one bit of its times": data[:-50] + bytes([data[-50] ^ 1]) + data[-49:],
        "truncated": data[:middle],
        "without its digest": data[:-32],
        "longer": data + b"\0",
        "empty": b"",
        "missing": None,
    }


@pytest.mark.parametrize("how", spoilt(bytes(100)))
def test_a_damaged_segment_is_refused(tmp_path: Path, how: str) -> None:
    shown, target = film(VARIABLE), tmp_path / "out.mp4"
    paths = segments_of(tmp_path / "parts", target, VARIABLE, FAST, shown)
    made = spoilt(paths[1].read_bytes())[how]
    paths[1].unlink() if made is None else paths[1].write_bytes(made)
    with pytest.raises(VerificationFailed, match=r"1\.mkv"):
        segment_facts(paths[1])
    with pytest.raises(VerificationFailed, match=r"1\.mkv"):
        join(target, VARIABLE, FAST, paths)
    assert [one.name for one in tmp_path.iterdir()] == ["parts"]


def noisy(picture: Picture) -> Picture:
    """A picture that takes an encoder as many bytes as any."""
    planes = (torch.randint(0, 255, plane.shape, dtype=torch.uint8) for plane in picture.planes)
    return replace(picture, planes=tuple(planes))


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_a_segment_of_which_a_frame_does_not_decode_gets_no_name(tmp_path: Path, at: float) -> None:
    info, plain = replace(VARIABLE, width=320, height=240), EncoderOptions(codec="mpeg4")
    sink = open_segment_sink(tmp_path / "0.mkv", info, plain, target=tmp_path / "out.mkv")
    for picture in film(info):
        sink.write(noisy(picture))
    [partial] = tmp_path.glob(".*.partial")
    with partial.open("r+b") as file:
        file.seek(int(at * partial.stat().st_size))
        file.write(bytes(64))
    with pytest.raises(VerificationFailed, match=r"0\.mkv: .* decode"):
        sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("info", "options", "said"),
    [
        (VARIABLE, FAST.model_copy(update={"preset": "ultrafast"}), "other parameters"),
        (VARIABLE, EncoderOptions(codec="mpeg4"), "wanted a segment of h264 64x48, got mpeg4"),
        (replace(VARIABLE, width=80), FAST, "wanted a segment of h264 64x48, got h264 80x48"),
        (FINE, FAST, "wanted ticks of 1/90000 s"),
        (VARIABLE, FAST, "wanted more than"),
    ],
    ids=["parameters", "codec", "size", "ticks", "order"],
)
def test_a_segment_of_another_film_is_refused(
    tmp_path: Path, info: StreamInfo, options: EncoderOptions, said: str
) -> None:
    shown, target = film(VARIABLE), tmp_path / "out.mp4"
    first, *_ = segments_of(tmp_path, target, VARIABLE, FAST, shown)
    begin = 0 if said == "wanted more than" else 20
    others = segments_of(tmp_path / "other", target, info, options, film(info)[begin:], ((0, 10),))
    sink = open_joined_sink(target, VARIABLE, FAST)
    sink.append(first)
    with pytest.raises(VerificationFailed, match=said):
        sink.append(others[0])
    sink.abort()
    assert not target.exists()


def test_a_matroska_file_that_is_no_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="no whole segment"):
        segment_facts(samples.make_clip(tmp_path / "film.mkv"))


@pytest.mark.parametrize(
    ("target", "codec", "options", "said"),
    [
        ("out.gif", None, {}, "gif in gif is not joined"),
        ("out.apng", None, {}, "apng in apng is not joined"),
        ("out_%d.png", None, {}, "each image has an encoder"),
        ("out.avi", "mpeg4", {}, "mpeg4 in avi is not joined"),
        ("out.mkv", "libvpx", {}, "libvpx does not promise"),
        ("out.mkv", "mpeg2video", {}, "mpeg2video does not promise"),
        ("out.mp4", "libx264", {"b": "2M"}, "option b spends bits"),
        ("out.mp4", "libx264", {"maxrate": "2M", "bufsize": "4M"}, "option maxrate spends"),
        ("out.mp4", "libx264", {"x264-params": "ref=2:vbv-maxrate=900"}, "vbv-maxrate spends"),
        ("out.mp4", "libx264", {"flags": "+pass1"}, "another pass"),
        ("out.mp4", "libx265", {"x265-params": "pass=2"}, "option pass depends on another pass"),
        ("out.mp4", "libx265", {"x265-params": "zones=0,9,q=20"}, "option zones counts frames"),
        ("out.mp4", "libsvtav1", {"svtav1-params": "rc=1:tbr=900"}, "option rc spends"),
        ("out.mp4", "libx264", {"x264-params": "keyint=12:open-gop=1"}, None),
        ("out.webm", "libvpx-vp9", {"b": "0"}, None),
        ("out.mp4", None, {}, None),
        ("out.ts", None, {}, None),
    ],
)
def test_what_needs_one_encoder_is_named(
    tmp_path: Path, target: str, codec: str | None, options: dict[str, str], said: str | None
) -> None:
    asked = EncoderOptions(codec=codec, options=options)
    why = why_not_cut(asked, constant(), tmp_path / target)
    if said is None:
        assert why is None
        return
    assert said in (why or "")
    with pytest.raises(SinkRefused, match="cannot be made of segments"):
        open_segment_sink(tmp_path / "0.mkv", constant(), asked, target=tmp_path / target)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"x265-params": "open-gop=1:keyint=6"}),
        ("libx264", {"x264-params": "open-gop=1:keyint=6"}),
        ("mpeg4", {"bf": "2", "g": "7"}),
        ("ffv1", {"g": "7", "level": "3"}),
    ],
)
def test_references_that_the_user_asks_for_end_with_their_segment(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    target, shown = tmp_path / "out.mp4", film(NTSC)
    asked = EncoderOptions(codec=codec, options=options)
    paths = segments_of(tmp_path, target, NTSC, asked, shown)
    join(target, NTSC, asked, paths)
    assert decoded(target) == [picture for path in paths for picture in decoded(path)]
    assert complaints(target) == ""


@pytest.mark.parametrize("size", [(96, 80), (320, 180)])
def test_a_segment_does_not_depend_on_what_memory_held_before(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """Where the CPU has AVX-512, x264 by itself gives other packets at these sizes."""
    made = [packets_of_noise(tmp_path / f"{byte}.mkv", size, byte) for byte in ("1", "85")]
    assert made[0] == made[1]


def packets_of_noise(path: Path, size: tuple[int, int], byte: str) -> list[bytes]:
    """The packets of a segment of noise, made by a process whose fresh memory has a byte."""
    program = f"""
from dataclasses import replace
from pathlib import Path
import torch
from support.media.sinks import constant, pictures, write
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.segments import open_segment_sink
info = replace(constant(), width={size[0]}, height={size[1]})
seed = torch.Generator().manual_seed(1)
noise = torch.randint(60, 200, {size[::-1]}, generator=seed, dtype=torch.uint8)
shown = [replace(one, planes=(noise.roll((n, 2 * n), (0, 1)).contiguous(), *one.planes[1:]))
         for n, one in enumerate(pictures(info, 24))]
sink = open_segment_sink(Path({str(path)!r}), info, EncoderOptions(), target=Path("a.mkv"))
write(sink, iter(shown))
"""
    environment = os.environ | {"MALLOC_PERTURB_": byte, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    with av.open(str(path)) as opened:
        return [bytes(packet) for packet in opened.demux(video=0)]
