"""The encoder of live outputs: no delay, keyframes when they are wanted, packets others can mux."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from av.stream import Stream
from av.video.frame import VideoFrame
from support.live.sound import aac_stream
from support.media.messages import captions, hdr10_plus

from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.io.encode.options import EncoderOptions
from upframe.io.errors import SinkRefused
from upframe.io.live.live_encoder import LiveEncoder, live_choices, live_pix_fmt
from upframe.io.live.values import Encoded
from upframe.io.pictures.t35 import NalSyntax

RATE = Fraction(30)


def info_of(pix_fmt: str = "yuv420p", rate: Fraction | None = RATE, **more: object) -> StreamInfo:
    given = {"color": Color(range="tv", matrix="bt709"), **more}
    return StreamInfo(96, 64, pix_fmt, Fraction(1, 90_000), rate, **given)  # pyright: ignore


def picture_of(index: int, info: StreamInfo) -> Picture:
    """Flat, as bright as its index tells; moves by 8 codes a picture, starts anew after 16."""
    depth, form = info.bit_depth, info.format
    dtype = torch.uint8 if depth == 8 else torch.uint16
    luma = (64 + 8 * (index % 16)) << (depth - 8)
    values = [luma, 1 << (depth - 1), 1 << (depth - 1)]
    planes = tuple(
        torch.full(form.plane_size(info.width, info.height, n)[::-1], values[n], dtype=dtype)
        for n in range(form.num_planes)
    )
    return Picture(planes, info.pix_fmt, info.color, 0, 0, info.time_base)


def encoded(encoder: LiveEncoder, info: StreamInfo, count: int = 12) -> list[Encoded]:
    packets = [packet for n in range(count) for packet in encoder(picture_of(n, info), n)]
    return packets + encoder.flush()


def decoded(primer: bytes, packets: list[Encoded]) -> list[VideoFrame]:
    """Decode as another process would, that has only the primer."""
    with av.open(io.BytesIO(primer), format="nut") as container:
        decoder = container.streams.video[0].codec_context
        frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet.data))]
        return frames + decoder.decode(None)


def luma_of(frame: VideoFrame) -> float:
    return float(frame.to_ndarray()[: frame.height].mean())  # Y stands first


@pytest.fixture
def aac(tmp_path: Path) -> Iterator[Stream]:
    """A stream of sound, as a live input has one."""
    with aac_stream(tmp_path) as (stream, _):
        yield stream


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        (None, "yuv420p"),
        ("libx264rgb", "gbrp"),
        ("libx265", "yuv420p"),
        ("libsvtav1", "yuv420p"),
        ("libvpx-vp9", "yuv420p"),
        ("mpeg4", "yuv420p"),
    ],
)
def test_every_picture_comes_out_with_the_call_it_went_in_with(
    codec: str | None, pix_fmt: str
) -> None:
    info = info_of(pix_fmt)
    encoder = LiveEncoder(info, EncoderOptions(codec=codec))
    for index in range(70):
        (packet,) = encoder(picture_of(index, info), index)
        assert (packet.kind, packet.pts, packet.dts, packet.duration) == ("video", index, index, 1)
        assert packet.time_base == 1 / RATE
    assert encoder.flush() == []


def test_there_is_a_keyframe_every_two_seconds_and_where_one_is_asked_for() -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions())
    picture = picture_of(0, info)
    packets = [encoder(picture, n, keyframe=n == 25)[0] for n in range(150)]
    assert [packet.pts for packet in packets if packet.is_keyframe] == [0, 25, 85, 145]


def test_a_receiver_can_join_at_any_keyframe() -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions(options={"g": "6"}))
    packets = encoded(encoder, info)
    joined = packets[6:]
    assert joined[0].is_keyframe
    bare = av.CodecContext.create("h264", "r")  # without the primer: all is in the packets
    frames = [f for packet in joined for f in bare.decode(av.Packet(packet.data))]
    frames += bare.decode(None)
    assert [round((luma_of(frame) - 64) / 8) for frame in frames] == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4"])
def test_another_process_can_decode_with_the_primer_alone(codec: str) -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions(codec=codec))
    packets = encoded(encoder, info)
    assert [packet.pts for packet in packets] == list(range(12))
    assert packets[0].is_keyframe
    frames = decoded(encoder.primer, packets)
    assert [round((luma_of(frame) - 64) / 8) for frame in frames] == list(range(12))


def test_the_primer_says_what_the_pictures_are() -> None:
    color = Color("tv", "bt2020", "smpte2084", "bt2020nc")
    info = info_of(color=color, sample_aspect_ratio=Fraction(4, 3))
    encoder = LiveEncoder(info, EncoderOptions())
    with av.open(io.BytesIO(encoder.primer), format="nut") as primer:
        (video,) = primer.streams
        codec = video.codec_context
        assert (codec.width, codec.height, codec.pix_fmt) == (96, 64, "yuv420p")
        assert codec.sample_aspect_ratio == Fraction(4, 3)
        assert [codec.color_range, codec.colorspace, codec.color_trc] == [1, 9, 16]
        assert codec.extradata


def test_the_primer_can_be_a_template_of_a_file_that_the_packets_go_into(tmp_path: Path) -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions())
    path = tmp_path / "out.mp4"
    with av.open(io.BytesIO(encoder.primer), format="nut") as primer, av.open(str(path), "w") as to:
        stream = to.add_stream_from_template(primer.streams[0], True)
        for one in encoded(encoder, info):
            packet = av.Packet(one.data)
            packet.pts, packet.dts, packet.duration = one.pts, one.dts, one.duration
            packet.time_base, packet.is_keyframe, packet.stream = (
                one.time_base,
                one.is_keyframe,
                stream,
            )
            to.mux(packet)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [round((luma_of(frame) - 64) / 8) for frame in frames] == list(range(12))
    assert frames[11].pts * frames[11].time_base == Fraction(11, 30)


@pytest.mark.parametrize(
    "rate", [Fraction(30_000, 1001), Fraction(25, 2), Fraction(1), Fraction(240)]
)
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_indices_stay_exact_at_any_rate_and_after_months(rate: Fraction, codec: str) -> None:
    info = info_of(rate=rate)
    encoder = LiveEncoder(info, EncoderOptions(codec=codec))
    first = 10**9  # a year at 30 frames a second
    picture = picture_of(0, info)
    packets = [p for n in (0, 1, 5) for p in encoder(picture, first + n)]
    assert [packet.pts for packet in packets] == [first, first + 1, first + 5]
    assert packets[-1].seconds == (first + 5) / rate


def test_sound_goes_along_by_samples(aac: Stream) -> None:
    encoder = LiveEncoder(info_of(), EncoderOptions(), sound=aac)
    packet = encoder.sound_packet(b"data", Fraction(1024, 44_100), Fraction(1024, 44_100))
    assert (packet.kind, packet.pts, packet.dts, packet.duration) == ("sound", 1024, 1024, 1024)
    assert (packet.time_base, packet.data) == (Fraction(1, 44_100), b"data")
    with av.open(io.BytesIO(encoder.primer), format="nut") as primer:
        (sound,) = primer.streams.audio
        assert (sound.codec_context.name, sound.codec_context.sample_rate) == ("aac", 44_100)
        assert sound.codec_context.extradata == aac.codec_context.extradata


def test_without_sound_there_is_no_packet_of_it() -> None:
    with pytest.raises(ValueError, match="has no sound"):
        LiveEncoder(info_of(), EncoderOptions()).sound_packet(b"", Fraction(0))


def test_refuses_pictures_of_another_form() -> None:
    encoder = LiveEncoder(info_of(), EncoderOptions())
    other = info_of("yuv444p")
    with pytest.raises(ValueError, match="must be 96x64 yuv420p, got 96x64 yuv444p"):
        encoder(picture_of(0, other), 0)


def test_refuses_to_go_back_in_time() -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions())
    encoder(picture_of(0, info), 3)
    with pytest.raises(ValueError, match="indices must rise, got 3 after 3"):
        encoder(picture_of(0, info), 3)


def test_wants_a_constant_rate() -> None:
    with pytest.raises(ValueError, match="constant rate"):
        LiveEncoder(info_of(rate=None), EncoderOptions())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"codec": "libx266"}, "no encoder is called 'libx266'"),
        ({"crf": 60}, "libx264 has no crf 60; it has 0 to 51"),
        ({"codec": "libx264", "options": {"speed": "9"}}, "libx264 knows no option 'speed'"),
        ({"codec": "libx264", "pix_fmt": "yuv420p16"}, "libx264 does not support yuv420p16"),
        ({"preset": "7"}, "libx264 has no preset '7'; it has ultrafast"),
    ],
)
def test_says_what_is_wrong_with_the_users_options(options: dict[str, object], text: str) -> None:
    with pytest.raises(SinkRefused, match=text):
        LiveEncoder(info_of(), EncoderOptions.model_validate(options))


def test_the_users_options_win() -> None:
    info = info_of()
    given = EncoderOptions(codec="libx264", crf=45, preset="ultrafast", options={"g": "7"})
    small = [encoded(LiveEncoder(info, options), info, 20) for options in (given, EncoderOptions())]
    assert [packet.pts for packet in small[0] if packet.is_keyframe] == [0, 7, 14]
    assert [packet.pts for packet in small[1] if packet.is_keyframe] == [0, 16]  # a cut


@pytest.mark.parametrize(
    ("pix_fmt", "options", "wanted"),
    [
        ("yuv420p", {}, "yuv420p"),
        ("yuv444p10le", {}, "yuv420p"),  # what every receiver plays
        ("gray", {}, "yuv420p"),
        ("gbrp", {}, "yuv420p"),
        ("yuv444p10le", {"pix_fmt": "yuv422p10le"}, "yuv422p10le"),
        ("yuv420p10le", {"codec": "libx265"}, "yuv420p10le"),
        ("yuv422p12le", {"codec": "libsvtav1"}, "yuv420p10le"),
        ("yuv420p", {"codec": "mpeg4"}, "yuv420p"),
        ("yuv420p", {"codec": "libx264rgb"}, "gbrp"),  # which it is given as bgr0
    ],
)
def test_pictures_are_made_in_the_format_that_the_encoder_takes(
    pix_fmt: str, options: dict[str, str], wanted: str
) -> None:
    given = EncoderOptions.model_validate(options)
    made = live_pix_fmt(info_of(pix_fmt), given, "rtsp")
    assert made == wanted
    info = info_of(made)
    packets = encoded(LiveEncoder(info, given, format="rtsp"), info, 2)
    assert len(packets) == 2


def test_webm_gets_the_codec_that_it_holds() -> None:
    assert live_choices(info_of(), EncoderOptions(), "webm")[0].codec == "libvpx-vp9"


def test_falls_back_to_x264_where_nvenc_does_not_open() -> None:
    """It is in PyAV's build everywhere, but opens only where a device has it."""
    names = [choice.codec for choice in live_choices(info_of(), EncoderOptions(), "rtsp")]
    assert names == ["h264_nvenc", "libx264"]
    assert LiveEncoder(info_of(), EncoderOptions()).codec in names


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_captions_are_sent_once_and_hdr10_plus_with_every_repeat(codec: str) -> None:
    info = info_of()
    encoder = LiveEncoder(info, EncoderOptions(codec=codec))
    syntax = NalSyntax(is_hevc=codec == "libx265")
    picture = replace(picture_of(0, info), t35=(captions(1), hdr10_plus(1)))
    packets = [encoder(picture, slot)[0] for slot in range(3)]
    packets += encoder(picture_of(1, info), 3)
    sent = [syntax.messages(packet.data) for packet in packets]
    assert sent == [[captions(1), hdr10_plus(1)], [hdr10_plus(1)], [hdr10_plus(1)], []]
    assert len(decoded(encoder.primer, packets)) == 4
