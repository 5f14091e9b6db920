"""Pictures into files: time, frames and shape of what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
import pytest
from support.media import clips as samples
from support.media.sinks import (
    FAST,
    constant,
    decodes_without_errors,
    encode,
    ffprobe,
    packets,
    pictures,
    streams,
    through,
    write,
)
from support.media.stills import icc_profile

from upframe.filters.frame import StreamInfo
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkRefused
from upframe.io.pictures.png import chunks
from upframe.io.sink import open_file_sink
from upframe.io.source import open_source

NTSC = Fraction(24000, 1001)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi", "a.webm", "a.nut"])
def test_every_picture_comes_out_once_with_b_frames(tmp_path: Path, name: str) -> None:
    """Peers' pitfall 1: encoders hold frames back until they are drained."""
    target = encode(tmp_path / name, constant(), 40, options=EncoderOptions())
    assert int(streams(target, "video")[0]["nb_read_packets"]) == 40
    assert decodes_without_errors(target)


@pytest.mark.parametrize("rate", [NTSC, NTSC * 2, Fraction(25), Fraction(60000, 1001)])
def test_players_see_the_exact_rate(tmp_path: Path, rate: Fraction) -> None:
    """Peers' pitfall 7: a rounded rate makes an accidental VFR."""
    target = encode(tmp_path / "a.mp4", constant(rate), 24)
    video = streams(target, "video")[0]
    assert Fraction(video["r_frame_rate"]) == Fraction(video["avg_frame_rate"]) == rate
    starts = sorted(int(packet["pts"]) for packet in packets(target))
    assert len({after - before for before, after in pairwise(starts)}) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("rate", [Fraction(25), NTSC])
def test_the_last_frame_keeps_its_duration(tmp_path: Path, name: str, rate: Fraction) -> None:
    """Peers' pitfall 2: else the sound outlasts the picture."""
    target = encode(tmp_path / name, constant(rate), 24)
    duration = float(ffprobe(target)["format"]["duration"])
    assert abs(duration - float(24 / rate)) <= 0.001


def test_variable_pts_are_kept_exactly(tmp_path: Path) -> None:
    times = [0, 40, 80, 180, 220, 300, 333, 400]
    info = StreamInfo(64, 48, "yuv420p", Fraction(1, 1000), None, Fraction(20))
    target = encode(tmp_path / "a.mp4", info, pts=times)
    shown = sorted(float(packet["pts_time"]) for packet in packets(target))
    assert [round(time * 1000) for time in shown] == times
    assert float(streams(target, "video")[0]["duration"]) == pytest.approx(0.467, abs=0.0005)


def test_a_time_base_of_interpolated_frames_is_kept_exactly(tmp_path: Path) -> None:
    """Milliseconds halved six times: the in-betweens of exp 6."""
    base = Fraction(1, 64_000)
    times = [0, 33, 67, 100, 166, 999, 1000, 64_001]
    info = StreamInfo(64, 48, "yuv420p", base, None, Fraction(20))
    target = encode(tmp_path / "a.mov", info, pts=times)
    shown = sorted(Fraction(packet["pts_time"]) for packet in packets(target))
    assert [round(time / base) for time in shown] == times


def test_a_time_base_too_fine_for_the_codec_is_rounded_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MPEG-4 part 2 counts ticks in 16 bits."""
    info = StreamInfo(64, 48, "yuv420p", Fraction(1, 90_000), None, Fraction(25))
    times = [0, 3600, 7201, 10_800, 14_403]
    target = encode(tmp_path / "a.mp4", info, pts=times, options=EncoderOptions(codec="mpeg4"))
    shown = sorted(float(packet["pts_time"]) for packet in packets(target))
    assert shown == pytest.approx([time / 90_000 for time in times], abs=0.0001)
    assert "timestamps were rounded to 1/65535 s" in caplog.text


def test_a_constant_rate_stays_exact_where_the_time_base_is_too_fine(tmp_path: Path) -> None:
    info = constant(NTSC, time_base=Fraction(1, 24_000 * 1001))
    target = encode(tmp_path / "a.mp4", info, options=EncoderOptions(codec="mpeg4"))
    assert Fraction(streams(target, "video")[0]["r_frame_rate"]) == NTSC


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_the_output_begins_at_zero_whenever_the_input_does(tmp_path: Path, name: str) -> None:
    info = constant(25, time_base=Fraction(1, 12_800))
    target = encode(tmp_path / name, info, start=12_800 * 7)
    assert float(packets(target)[0]["pts_time"]) < 0.2
    assert float(ffprobe(target)["format"]["duration"]) == pytest.approx(12 / 25, abs=0.001)


def test_a_variable_rate_is_refused_where_frames_have_no_time(tmp_path: Path) -> None:
    info = StreamInfo(64, 48, "yuv420p", Fraction(1, 1000), None, Fraction(20))
    with pytest.raises(SinkRefused, match=r"avi holds only constant frame rates"):
        open_file_sink(tmp_path / "a.avi", info, EncoderOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.flv", "a.wmv", "a.mpg", "a.m2ts", "a.mxf", "a.3gp", "a.vob"])
@pytest.mark.parametrize("audio", [None, "mp2"])
def test_rarer_containers_work_too(tmp_path: Path, name: str, audio: str | None) -> None:
    clip = samples.make_clip(tmp_path / "in.mkv", frames=25, audio=audio, audio_offset_seconds=0.1)
    through(clip, tmp_path / name, options=EncoderOptions())
    assert int(streams(tmp_path / name, "video")[0]["nb_read_packets"]) == 25


@pytest.mark.parametrize("name", ["a.gif", "a.apng"])
def test_animations_keep_their_frames_and_length(tmp_path: Path, name: str) -> None:
    info = constant(pix_fmt="gbrp")
    target = encode(tmp_path / name, info, options=EncoderOptions())
    assert int(streams(target, "video")[0]["nb_read_packets"]) == 12


def apng_delays(path: Path) -> list[Fraction]:
    """The delays of an animation, as they are written."""
    data = path.read_bytes()
    return [
        Fraction(
            int.from_bytes(data[start + 20 : start + 22]),
            int.from_bytes(data[start + 22 : start + 24]),
        )
        for name, start, _ in chunks(data)
        if name == b"fcTL"
    ]


@pytest.mark.parametrize(
    "rate",
    [Fraction(24_000, 1001), 25, Fraction(30_000, 1001), 30, 50, Fraction(60_000, 1001), 60, 120],
)
def test_an_apng_of_any_rate_has_exactly_its_delays(tmp_path: Path, rate: Fraction | int) -> None:
    target = encode(tmp_path / "a.apng", constant(rate, pix_fmt="gbrp"), options=EncoderOptions())
    assert apng_delays(target) == [1 / Fraction(rate)] * 12


@pytest.mark.parametrize("name", ["a.apng", "a.gif"])
@pytest.mark.parametrize("delays", [(20, 50, 10), (10, 20, 50), (5, 5, 300), (2, 3, 7)])
def test_animations_keep_uneven_delays_also_the_last(
    tmp_path: Path, name: str, delays: tuple[int, ...]
) -> None:
    info = StreamInfo(64, 48, "gbrp", Fraction(1, 100), None, Fraction(10))
    first, ends = next(pictures(constant(pix_fmt="gbrp"))), [*accumulate(delays)]
    made = [
        replace(first, pts=end - delay, duration=delay, time_base=Fraction(1, 100))
        for end, delay in zip(ends, delays, strict=True)
    ]
    sink = open_file_sink(tmp_path / name, info, EncoderOptions())
    write(sink, iter(made))
    shown = [Fraction(packet["duration_time"]) for packet in packets(tmp_path / name)]
    assert shown == [Fraction(delay, 100) for delay in delays]
    if name == "a.apng":
        assert apng_delays(tmp_path / name) == shown


def test_an_apng_of_one_frame_is_a_png(tmp_path: Path) -> None:
    info = replace(constant(pix_fmt="gbrp"), num_frames=1)
    picture = replace(next(pictures(info)), duration=7)
    write(open_file_sink(tmp_path / "a.apng", info, EncoderOptions()), iter([picture]))
    assert apng_delays(tmp_path / "a.apng") == []


def test_a_film_of_pictures_with_a_profile_is_in_srgb(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = replace(constant(pix_fmt="gbrp"), icc_profile=icc_profile("Display P3"))
    target = encode(tmp_path / "a.mkv", info, options=EncoderOptions(codec="ffv1"))
    plain = encode(
        tmp_path / "b.mkv", constant(pix_fmt="gbrp"), options=EncoderOptions(codec="ffv1")
    )
    assert "matroska cannot hold ICC profile 'Display P3': converted to sRGB" in caplog.text
    shades = []
    for path in (target, plain):
        source = open_source(str(path))
        shades.append([int(picture.planes[0][0, 0]) for picture in source])
        source.close()
    # gray stays gray: of a curve of 2.2 instead of sRGB's own
    assert shades[0] != shades[1]
    assert all(abs(one - other) < 8 for one, other in zip(*shades, strict=True))


def test_more_frames_than_the_container_can_tell_apart_are_refused_early(tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match="matroska counts time in 1/1000 s, too coarse for 2000"):
        open_file_sink(tmp_path / "a.mkv", constant(2000), FAST)


def test_frames_come_out_in_order(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", frames=16)
    through(clip, tmp_path / "out.mp4", options=EncoderOptions(crf=4))
    source = open_source(str(tmp_path / "out.mp4"))
    assert [samples.index_of(picture) for picture in source] == list(range(16))
    source.close()


def test_sizes_that_the_encoder_refuses_are_refused_before_any_picture(tmp_path: Path) -> None:
    info = constant(width=65, height=49)
    with pytest.raises(SinkRefused, match=r"libx264 refuses 65x49 yuv420p"):
        open_file_sink(tmp_path / "a.mp4", info, EncoderOptions())
    assert list(tmp_path.iterdir()) == []


def test_x264_encodes_whole_frames_not_slices(tmp_path: Path) -> None:
    """PyAV's own default of slice threads costs quality."""
    target = encode(tmp_path / "a.mp4", constant())
    assert b"sliced_threads=0" in target.read_bytes()


def test_a_library_that_writes_to_stderr_by_itself_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    info = constant(pix_fmt="yuv420p10le")
    encode(tmp_path / "a.mp4", info, options=FAST)
    encode(tmp_path / "a.webm", info, options=EncoderOptions(preset="12"))
    assert capfd.readouterr().err == ""


def test_a_pipe_takes_no_mp4(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", str(fifo)], stdout=subprocess.DEVNULL)
    with pytest.raises(SinkRefused, match=r"mp4 cannot be written to .*fifo, which cannot seek"):
        open_file_sink(fifo, constant(), FAST, format="mp4")
    assert reader.wait(5) == 0


def test_a_device_is_written_directly() -> None:
    info = constant()
    sink = open_file_sink(Path("/dev/null"), info, FAST, format="matroska")
    write(sink, pictures(info))
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov", "out.ts"])
@pytest.mark.parametrize("source", ["in.mp4", "in.mkv", "in.ts"])
def test_a_variable_rate_goes_through_every_pair_of_containers(
    tmp_path: Path, source: str, target: str
) -> None:
    clip = samples.make_vfr_clip(tmp_path / source)
    through(clip, tmp_path / target, options=EncoderOptions())
    before, after = (
        sorted(float(packet["pts_time"]) for packet in packets(path))
        for path in (clip, tmp_path / target)
    )
    assert [time - after[0] for time in after] == pytest.approx(
        [time - before[0] for time in before], abs=0.001
    )


def test_the_last_of_variable_frames_keeps_its_duration_in_matroska(tmp_path: Path) -> None:
    times = [0, 40, 80, 180, 220]
    info = StreamInfo(64, 48, "yuv420p", Fraction(1, 1000), None, Fraction(20))
    all_pictures = [*pictures(info, pts=times)]
    last = replace(all_pictures[-1], duration=700)
    sink = open_file_sink(tmp_path / "a.mkv", info, FAST)
    write(sink, iter([*all_pictures[:-1], last]))
    assert float(ffprobe(tmp_path / "a.mkv")["format"]["duration"]) == pytest.approx(0.92)


def test_a_rounded_constant_rate_comes_back_exact(tmp_path: Path) -> None:
    """Matroska's milliseconds must not make an accidental VFR of 24000/1001."""
    clip = samples.make_clip(tmp_path / "in.mkv", frames=48, rate=NTSC)
    through(clip, tmp_path / "out.mp4")
    video = streams(tmp_path / "out.mp4", "video")[0]
    assert Fraction(video["r_frame_rate"]) == Fraction(video["avg_frame_rate"]) == NTSC


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """The sink's own part of the figure: under 50 MB more for ten times the frames."""
    peaks = [_peak_mebibytes(tmp_path / f"{count}.mp4", count) for count in (150, 1500)]
    assert peaks[1] - peaks[0] < 50


def _peak_mebibytes(target: Path, count: int) -> float:
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from support.media.sinks import FAST, constant, pictures, write\n"
        "from upframe.io.sink import open_file_sink\n"
        "info = constant(width=320, height=240)\n"
        "sink = open_file_sink(Path(sys.argv[2]), info, FAST)\n"
        "write(sink, pictures(info, int(sys.argv[3])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    tests = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", script, tests, str(target), str(count)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "mpeg4"])
@pytest.mark.parametrize("name", ["a.mp4", "a.m4v"])
def test_a_longer_last_frame_lasts_longer_by_every_measure(
    tmp_path: Path, name: str, codec: str
) -> None:
    """After interpolation the last frame lasts several; a B-frame behind it would hide that."""
    info = constant(NTSC * 4)
    all_pictures = [*pictures(info, 45)]
    all_pictures[-1] = replace(all_pictures[-1], duration=4)
    options = EncoderOptions(codec=codec)
    write(open_file_sink(tmp_path / name, info, options), iter(all_pictures))
    with av.open(str(tmp_path / name)) as opened:
        stream = opened.streams.video[0]
        shown = [packet for packet in opened.demux(stream) if packet.size]
        last = max(shown, key=lambda packet: packet.pts)
        by_packets = float((last.pts + last.duration) * stream.time_base)
    probed = ffprobe(tmp_path / name)
    by_header = float(probed["format"]["duration"])
    for measured in (by_packets, by_header, float(probed["streams"][0]["duration"])):
        assert measured == pytest.approx(float(12 / NTSC), abs=0.001)


@pytest.mark.parametrize("name", ["a.ts", "a.avi", "a.nut", "a.flv", "a.mkv", "a.webm"])
def test_a_longer_last_frame_is_no_error_where_it_cannot_be_told(tmp_path: Path, name: str) -> None:
    info = constant(50)
    all_pictures = [*pictures(info, 23)]
    all_pictures[-1] = replace(all_pictures[-1], duration=2)
    write(open_file_sink(tmp_path / name, info, EncoderOptions()), iter(all_pictures))
    assert int(streams(tmp_path / name, "video")[0]["nb_read_packets"]) == 23
    if name in ("a.mkv", "a.webm"):
        lasts = float(ffprobe(tmp_path / name)["format"]["duration"])
        assert lasts == pytest.approx(0.48, abs=0.001)
