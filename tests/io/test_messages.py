"""Captions and HDR10+ from a file into the next one, as decoders see them."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import pytest
from support.media.messages import (
    captions,
    coded_messages,
    hdr10_plus,
    make_clip_with_messages,
    side_data_of,
)
from support.media.sinks import decodes_without_errors, through

from upframe.io.decode.demuxer import Target
from upframe.io.encode.encoder import EncoderOptions
from upframe.io.errors import SinkRefused, VerificationFailed
from upframe.io.losses import contents_of, losses
from upframe.io.verify import ExpectedOutput, inspect, verify_output

CODECS = {"h264": "libx264", "hevc": "libx265"}
FASTEST = {"h264": EncoderOptions(codec="libx264", preset="veryfast", options={"bf": "2"})}
FASTEST["hevc"] = EncoderOptions(codec="libx265", preset="veryfast")


def of(index: int) -> list[bytes]:
    """Captions on every other frame, HDR10+ on all."""
    return [*([captions(index)] if index % 2 == 0 else []), hdr10_plus(index)]


@pytest.mark.parametrize("into", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("source", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("name", "other"), [("h264", "hevc"), ("hevc", "h264"), ("hevc", "hevc")])
def test_every_frame_keeps_its_messages_across_codecs_and_containers(
    tmp_path: Path, name: str, other: str, source: str, into: str
) -> None:
    clip = make_clip_with_messages(tmp_path / f"in.{source}", CODECS[name], of)
    out = tmp_path / f"out.{into}"
    through(clip, out, options=FASTEST[other])
    captioned = side_data_of(clip, "A53_CC")
    assert [one is not None for one in captioned] == [True, False] * 4
    assert side_data_of(out, "A53_CC") == captioned
    if name == other == "hevc":  # FFmpeg shows HDR10+ of no H.264
        dynamic = side_data_of(clip, "DYNAMIC_HDR_PLUS")
        assert len(set(dynamic)) == 8
        assert side_data_of(out, "DYNAMIC_HDR_PLUS") == dynamic
    wanted = sorted(message for index in range(8) for message in of(index))
    assert sorted(coded_messages(out, hevc=other == "hevc")) == wanted
    assert decodes_without_errors(out)


def test_captions_of_mpeg2_become_those_of_h264(tmp_path: Path) -> None:
    """ATSC broadcasts: captions are user data of the picture, which have no packet of their own."""
    plain, clip = tmp_path / "plain.m2v", tmp_path / "in.ts"
    with av.open(str(plain), "w", format="mpeg2video") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height = 64, 48
        for index in range(6):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pictures = plain.read_bytes().split(b"\0\0\1\0")  # picture headers
    user = b"\0\0\1\xb2GA94\3\x41\xff\xfc\xc8\xe9\xff"
    parts = [part.replace(b"\0\0\1\1", user + b"\0\0\1\1", 1) for part in pictures[1:]]
    plain.write_bytes(b"\0\0\1\0".join([pictures[0], *parts]))
    with av.open(str(plain)) as raw, av.open(str(clip), "w") as container:
        (video,) = raw.streams
        copied = container.add_stream_from_template(video, True)
        for index, packet in enumerate(raw.demux(video)):
            if packet.size:
                packet.stream, packet.pts, packet.dts = copied, index * 3600, index * 3600
                container.mux(packet)
    before = side_data_of(clip, "A53_CC")
    assert b"\xfc\xc8\xe9" in before
    through(clip, tmp_path / "out.mp4")
    assert side_data_of(tmp_path / "out.mp4", "A53_CC") == before


def test_a_codec_that_holds_none_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip_with_messages(tmp_path / "in.mp4", "libx264", lambda i: [captions(i)])
    with caplog.at_level(logging.WARNING, "upframe"):
        through(clip, tmp_path / "out.webm", options=EncoderOptions(codec="libvpx-vp9"))
    said = [line for line in caplog.messages if "which vp9 cannot hold" in line]
    assert said == ["frames have captions, which vp9 cannot hold: left out"]


def test_a_file_with_fewer_messages_than_were_written_is_no_good(tmp_path: Path) -> None:
    clip = make_clip_with_messages(tmp_path / "in.mkv", "libx264", of)
    assert inspect(Target("in", clip, clip)).times.num_messages == 12
    verify_output(clip, ExpectedOutput(messages=12))
    with pytest.raises(VerificationFailed, match=r"T\.35 messages: wanted at least 13, got 12"):
        verify_output(clip, ExpectedOutput(messages=13))


def test_captions_are_not_repeated_with_the_frame_in_place_of_a_damaged_one(tmp_path: Path) -> None:
    clip = make_clip_with_messages(
        tmp_path / "in.mkv", "libx264", lambda i: [captions(i)], frames=12, options={"bf": "0"}
    )
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        hit = bytes([packet for packet in container.demux(video=0) if packet.size][6])
    at = data.index(hit)
    data[at : at + len(hit)] = bytes(len(hit))
    clip.write_bytes(data)
    through(clip, tmp_path / "out.mkv")
    shown = [one for one in side_data_of(tmp_path / "out.mkv", "A53_CC") if one is not None]
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
    ("name", "codec", "lost"),
    [
        ("a.mp4", "libx265", []),
        ("a.mkv", "libx264", ["hdr10+"]),
        ("a.webm", "libvpx-vp9", ["a53 captions", "hdr10+"]),
    ],
)
def test_the_ledger_lists_what_decoders_do_not_see_in_the_output(
    tmp_path: Path, name: str, codec: str, lost: list[str]
) -> None:
    clip, out = tmp_path / "in.mp4", tmp_path / name
    make_clip_with_messages(clip, "libx265", of)
    through(clip, out, options=EncoderOptions(codec=codec))
    source, output = (contents_of(Target(path.name, path, path)) for path in (clip, out))
    found = {loss.trait.kind for loss in losses(source, output) if loss.trait.subject == "frames"}
    assert sorted(found) == lost


def test_captions_that_will_be_lost_are_an_error_before_the_work_if_losses_are(
    tmp_path: Path,
) -> None:
    clip = make_clip_with_messages(tmp_path / "in.mp4", "libx264", lambda i: [captions(i)])
    through(clip, tmp_path / "a.mkv", strict=True)
    with pytest.raises(SinkRefused, match="closed captions"):
        through(clip, tmp_path / "b.mkv", options=EncoderOptions(codec="libvpx-vp9"), strict=True)
    assert not (tmp_path / "b.mkv").exists()
