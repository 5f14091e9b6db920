"""Data tracks: telemetry, KLV, timed ID3 are copied or in the ledger; chapters are no data."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from support.media import clips as samples
from support.media.sinks import ffprobe, streams, through

from upframe.io.errors import SinkRefused
from upframe.io.streams.plan import plan_streams

LINES = ((0.0, 0.2, "DEVC one"), (0.2, 0.4, "DEVC two"))
PAYLOADS = [b"\x06\x0e\x2b\x34" + bytes([index]) * 30 for index in range(5)]


def telemetry(path: Path, entry: bytes, **more: object) -> Path:
    """An MP4 with a data track: a text track whose handler and sample entry are renamed."""
    samples.make_clip(path, subtitles=LINES, frames=14, **more)
    raw = path.read_bytes()
    for old, new in ((b"sbtl", b"meta"), (b"tx3g", entry)):
        place = raw.rindex(old)
        raw = raw[:place] + new + raw[place + 4 :]
    path.write_bytes(raw)
    return path


def with_data(path: Path, codec: str) -> Path:
    """A transport stream with packets of data beside its video."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        data = output.add_data_stream(codec)
        for index, payload in enumerate(PAYLOADS):
            frame = samples.numbered_frame(index)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
            packet = av.Packet(payload)
            packet.stream = data
            packet.pts = packet.dts = index * 3600
            packet.time_base = Fraction(1, 90_000)
            output.mux(packet)
        output.mux(video.encode(None))
    return path


def data_of(path: Path) -> list[bytes]:
    """The packets of all data tracks, as demuxed."""
    with av.open(str(path)) as opened:
        tracks = opened.streams.data
        return [bytes(one) for one in opened.demux(tracks) if one.size] if tracks else []


def test_telemetry_of_an_mp4_is_copied_into_an_mp4(tmp_path: Path) -> None:
    clip = telemetry(tmp_path / "in.mp4", b"gpmd")
    assert through(clip, tmp_path / "out.mp4", strict=True) == ["data #1 gpmd: copied"]
    (track,) = streams(tmp_path / "out.mp4", "data")
    assert track["codec_tag_string"] == "gpmd"
    assert data_of(tmp_path / "out.mp4") == data_of(clip) != []


@pytest.mark.parametrize("entry", ["gpmd", "rtmd", "mebx"])
@pytest.mark.parametrize("target", ["out.mkv", "out.ts", "out.avi", "out.mov", "out.mp4"])
def test_data_is_copied_whole_or_in_the_ledger(tmp_path: Path, entry: str, target: str) -> None:
    clip = telemetry(tmp_path / "in.mp4", entry.encode())
    (line,) = through(clip, tmp_path / target)
    if line == f"data #1 {entry}: copied":
        assert data_of(tmp_path / target) == data_of(clip) != []
        assert entry.encode() in (tmp_path / target).read_bytes()
        return
    assert line.startswith(f"data #1 {entry}: left out, ")
    assert data_of(tmp_path / target) == []
    with pytest.raises(SinkRefused, match=f"--strict-streams: {target}: data #1 {entry}: left out"):
        plan_streams(str(clip), str(tmp_path / target), strict=True)


@pytest.mark.parametrize("codec", ["klv", "timed_id3"])
def test_data_of_a_transport_stream_is_copied_into_one(tmp_path: Path, codec: str) -> None:
    clip = with_data(tmp_path / "in.ts", codec)
    assert through(clip, tmp_path / "out.ts") == [f"data #1 {codec}: copied"]
    assert data_of(tmp_path / "out.ts") == data_of(clip)
    assert len(data_of(clip)) == len(PAYLOADS)


@pytest.mark.parametrize("codec", ["klv", "timed_id3"])
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv"])
def test_data_that_a_container_cannot_hold_is_left_out_and_said(
    tmp_path: Path, codec: str, target: str
) -> None:
    clip = with_data(tmp_path / "in.ts", codec)
    plan = plan_streams(str(clip), str(tmp_path / target))
    (warning,) = plan.warnings
    assert warning.startswith(f"data #1 {codec}: left out, ")


def test_chapters_and_telemetry_are_told_apart(tmp_path: Path) -> None:
    """FFmpeg calls both of their tracks bin_data."""
    clip = telemetry(tmp_path / "in.mp4", b"gpmd", chapters=((0.0, 0.2, "a"), (0.2, 0.4, "b")))
    lines = through(clip, tmp_path / "out.mp4", strict=True)
    assert lines == ["data #1 gpmd: copied", "2 chapters: copied"]
    assert [one["tags"]["title"] for one in ffprobe(tmp_path / "out.mp4")["chapters"]] == ["a", "b"]
    assert set(data_of(clip)) <= set(data_of(tmp_path / "out.mp4"))
    assert through(clip, tmp_path / "out.mkv")[1:] == ["2 chapters: copied"]


def test_chapters_that_have_no_place_are_said_once(tmp_path: Path) -> None:
    clip = samples.make_clip(tmp_path / "in.mp4", chapters=((0.0, 0.48, "all"),), frames=12)
    plan = plan_streams(str(clip), str(tmp_path / "out.avi"))
    assert plan.lines() == ["1 chapters: left out, avi holds none"]
