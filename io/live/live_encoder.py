"""The encoder of a live output: no delay, no B-frames, a keyframe every two seconds and on demand.

H.264 with 8 bits in 4:2:0 unless the user names another: every receiver, browser and camera wall
plays it. By NVENC where that opens, else by x264 with the settings of go2rtc's templates: no
B-frames, no lookahead, an IDR frame whenever one is requested.

Its packets go to another process, which has no encoder. That process gets the streams' parameters
as a *primer*: a tiny NUT file with their headers and one picture, whose streams are its templates.
The primer is made by another encoder of the same settings, so that the one for the stream starts
with the stream.
"""

from __future__ import annotations

import io
import logging
import os
import time
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import cast

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from ...filters.frame import Picture, StreamInfo, lasting
from ..capabilities import lacks_device
from ..decode.demuxer import codec_of
from ..encode.codecs import (
    CodecChoice,
    bitstream_options,
    choose_codec,
    default_codec,
    joined_options,
)
from ..encode.containers import Container
from ..encode.encoder import check_range, open_codec, quality_parameters
from ..encode.options import QUALITIES, EncoderOptions
from ..encode.packets import AnyPacket, add_copied, add_video, choose_timing, encoded, mux, nearest
from ..errors import SinkFull, SinkRefused
from ..pictures.pixels import frame_of, set_color
from ..pictures.t35 import MessageWriter
from ..streams.converter import StreamTrial
from .slate import blank
from .target import CARRIED
from .values import Encoded

log = logging.getLogger("upframe.io.live.encoder")


USUAL_PIX_FMT = "yuv420p"

_CRF = 23.0
_NVENC = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
_VPX = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
_X264 = {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
_TUNED: dict[str, dict[str, str]] = {
    "libx264": _X264,
    "libx264rgb": _X264,
    # else every keyframe carries 2 kB of its settings
    "libx265": _X264 | {"preset": "ultrafast", "x265-params": "info=0"},
    "libsvtav1": {"preset": "10", "svtav1-params": "pred-struct=1:lookahead=0"},
    "libvpx-vp9": _VPX | {"row-mt": "1"},
    "libvpx": _VPX,
}
_TUNED_NVENC = {
    "preset": "p4", "tune": "ll", "forced-idr": "1", "delay": "0", "zerolatency": "1",
}  # fmt: skip
_QUALITY = {
    "libx264": _CRF, "libx264rgb": _CRF, "libx265": 28.0, "libsvtav1": 35.0, "libvpx-vp9": 31.0,
    "libvpx": 10.0,
} | dict.fromkeys(_NVENC, _CRF)  # fmt: skip
_CARDS = ("/dev/nvidiactl", "/dev/dxg")
_START_CODES = (b"\0\0\0\1", b"\0\0\1")
_BY_WHIP = ("opus",)


def live_pix_fmt(info: StreamInfo, options: EncoderOptions, format: str) -> str:
    """Return the pixel format of a live output's pictures; `format` is FFmpeg's name of the muxer.

    Raises:
        SinkRefused: for an encoder or a pixel format that is not available.
    """
    return live_choices(info, options, format)[-1].pix_fmt


def live_choices(info: StreamInfo, options: EncoderOptions, format: str) -> list[CodecChoice]:
    """Return the encoders to try, the best first; all accept the same pictures.

    Raises:
        SinkRefused: for an encoder or a pixel format that is not available.
    """
    container = Container(format)
    if options.codec is not None:
        choice = choose_codec(info.format, container, options.codec, options.pix_fmt)
        check_range(choice.codec, options)
        return [choice]
    usual = StreamInfo(info.width, info.height, USUAL_PIX_FMT, info.time_base)
    last = default_codec(usual.format, container)
    check_range(last, options)
    names = ("h264_nvenc", last) if last == "libx264" else (last,)
    pix_fmt = options.pix_fmt or USUAL_PIX_FMT
    choices: list[CodecChoice] = []
    for name in names:
        try:
            choices.append(choose_codec(usual.format, container, name, pix_fmt))
        except SinkRefused:
            if name == last:
                raise
    wanted = choices[-1].pix_fmt
    return [choice for choice in choices if choice.pix_fmt == wanted]


def live_parameters(codec: str, info: StreamInfo, options: EncoderOptions) -> dict[str, str]:
    """Return all options of a live encoder for FFmpeg; the user's override ours."""
    ours = dict(_TUNED_NVENC if codec in _NVENC else _TUNED.get(codec, {}))
    default = _QUALITY.get(codec, QUALITIES.get(codec))
    ours |= quality_parameters(codec, default if options.crf is None else options.crf)
    if options.preset is not None:
        ours["preset"] = options.preset
    ours["bf"] = "0"
    ours = joined_options(ours, bitstream_options(codec, info))
    return joined_options(ours, options.options)


KEYFRAME_SECONDS = 2
"""From keyframe to keyframe at most."""

_MAX_SLICES = 4


def has_card() -> bool:
    """Return whether there is an NVIDIA card, by its driver's device, here or in WSL."""
    return any(map(os.path.exists, _CARDS))


class EncoderSettings:
    """Opens encoders with the first choice that works on this machine, and makes the primer."""

    def __init__(
        self, info: StreamInfo, rate: Fraction, options: EncoderOptions, format: str
    ) -> None:
        self._info = info
        self._rate = rate
        self._options = options
        self._gop = max(1, round(rate * KEYFRAME_SECONDS))
        self._container = Container(format)
        self._choices = live_choices(info, options, format)
        self._take(self._choices[0])

    def _take(self, choice: CodecChoice) -> None:
        self.choice = choice
        self.tick = choose_timing(self._info, choice.codec).time_base

    def try_all(self, sound: Stream | None) -> bytes:
        """Return the primer of the first encoder that can make one, or raise the last's error."""
        for choice in self._choices[:-1]:
            if lacks_device(choice.codec):
                continue
            self._take(choice)
            try:
                return self._primer(sound)
            except (SinkRefused, FFmpegError) as error:
                level = logging.INFO if has_card() else logging.DEBUG
                log.log(level, "%s is not available here (%s)", choice.codec, error)
        self._take(self._choices[-1])
        return self._primer(sound)

    def opened(self) -> VideoCodecContext:
        """Open a bare encoder; raise SinkRefused if it refuses size, pixel format or an option."""
        codec = cast("VideoCodecContext", av.CodecContext.create(self.choice.codec, "w"))
        codec.width, codec.height = self._info.width, self._info.height
        codec.time_base, codec.framerate = self.tick, self._rate
        return self._open(codec)

    def _open(self, codec: VideoCodecContext) -> VideoCodecContext:
        info = self._info
        codec.pix_fmt = self.choice.coded_pix_fmt
        codec.gop_size = self._gop
        codec.max_b_frames = 0
        codec.flags |= Flags.global_header
        # threads on slices of one frame: threads on frames hold a frame each
        codec.thread_type = "SLICE"
        codec.thread_count = min(os.cpu_count() or 1, _MAX_SLICES)
        if info.sample_aspect_ratio:
            codec.sample_aspect_ratio = info.sample_aspect_ratio
        set_color(codec, info.color)
        codec.options = live_parameters(self.choice.codec, info, self._options)
        open_codec(codec)
        return codec

    def _primer(self, sound: Stream | None) -> bytes:
        info, buffer = self._info, io.BytesIO()
        with av.open(buffer, "w", format="nut") as output:
            size = {"width": info.width, "height": info.height}
            codec = self.choice.codec
            stream = add_video(output, codec, **size, rate=self._rate, tick=self.tick)
            self._open(stream.codec_context)
            if sound is not None:
                add_copied(output, sound)
            frame = frame_of(blank(info))
            frame.pts, frame.time_base = 0, self.tick
            for given in (frame, None):
                for packet in encoded(stream, given):
                    mux(output, packet)
        return buffer.getvalue()


_TRIED_SIZE, _TRIED_RATE = (640, 360), Fraction(25)
_TRIED_PIX_FMTS = ("yuv420p", "yuv420p10le")
"""Pixel formats of inputs for which an encoder's options may be meant."""

_REST_SECONDS = {"libsvtav1": 0.005}
"""Between a packet and the next picture. SVT-AV1 4.1 without delay waits for itself for ever, about
once in 3,000 pictures, if they follow at once; never in 25,000 after a rest of 5 ms."""

_LOOK_BYTES = 64  # an access unit delimiter, and what else may stand before parameter sets


class LiveEncoder:
    """Encodes pictures one by one; packets come out with the same call if the codec can."""

    def __init__(
        self,
        info: StreamInfo,
        options: EncoderOptions,
        *,
        sound: Stream | None = None,
        format: str = "nut",
    ) -> None:
        """Choose an encoder, and open it.

        Args:
            info: of the pictures: `rate` is known, `pix_fmt` that of :func:`live_pix_fmt`.
            options: the user's.
            sound: of the packets that will be copied.
            format: the muxer that the packets are for, as for :func:`live_pix_fmt`.

        Raises:
            SinkRefused: if no encoder accepts the pictures, or it refuses an option.
        """
        if info.rate is None:
            raise ValueError("a live output has a constant rate, got None")
        self._info = info
        self._tick = 1 / info.rate
        self._settings = EncoderSettings(info, info.rate, options, format)
        self._sound_tick = None if sound is None else _tick_of(sound)
        self.primer = self._settings.try_all(sound)
        """The streams' headers, as a NUT file in memory."""
        self.codec = self._settings.choice.codec
        """FFmpeg's name of the encoder."""
        self._codec = self._settings.opened()
        self._messages = MessageWriter(self._codec)
        # parameter sets to repeat before keyframes, for receivers that join later: if they have
        # start codes, as the bitstream; AV1 and VP9 repeat their headers by themselves
        extradata = self._codec.extradata or b""
        self._headers = extradata if extradata.startswith(_START_CODES) else b""
        self._last: tuple[Picture, VideoFrame] | None = None
        self._last_index = -1
        self._rest_seconds = _REST_SECONDS.get(self.codec, 0.0)
        self._rested_at = 0.0

    def __call__(self, picture: Picture, index: int, *, keyframe: bool = False) -> list[Encoded]:
        """Encode the picture of a slot.

        The same object again costs no copy. A slot's time is index / rate, and rises with every
        call. With `keyframe` a receiver can start here.

        Raises:
            SinkFull: if the encoder fails.
        """
        if index <= self._last_index:
            raise ValueError(f"indices must rise, got {index} after {self._last_index}")
        self._last_index = index
        repeats = self._last is not None and self._last[0] is picture
        frame = self._frame(picture)
        frame.pts = nearest(index * self._tick / self._settings.tick)
        frame.time_base = self._settings.tick
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        self._messages.enter(frame.pts, lasting(picture.t35) if repeats else picture.t35)
        return self._encoded(frame)

    def flush(self) -> list[Encoded]:
        """Return what the encoder still holds; nothing can be encoded after that."""
        self._last = None
        return self._encoded(None)

    def sound_packet(
        self, data: bytes, seconds: Fraction, duration: Fraction = Fraction(0)
    ) -> Encoded:
        """Put a packet of the input's sound on the output's time line.

        The data stay. Its presentation time is on the output's time line; the duration is 0 where
        unknown. Both are in seconds.
        """
        if self._sound_tick is None:
            raise ValueError("this output has no sound")
        pts = nearest(seconds / self._sound_tick)
        lasts = nearest(duration / self._sound_tick)
        return Encoded("sound", data, pts, pts, lasts, self._sound_tick, is_keyframe=True)

    def _frame(self, picture: Picture) -> VideoFrame:
        if self._last is not None and self._last[0] is picture:
            return self._last[1]
        info = self._info
        got = (picture.width, picture.height, picture.pix_fmt)
        if got != (info.width, info.height, info.pix_fmt):
            wanted = f"{info.width}x{info.height} {info.pix_fmt}"
            raise ValueError(f"picture must be {wanted}, got {got[0]}x{got[1]} {got[2]}")
        frame, coded = frame_of(picture), self._settings.choice.coded_pix_fmt
        if frame.format.name != coded:  # the same values in another order, such as NV12
            frame = frame.reformat(format=coded, threads=1)
        self._last = (picture, frame)
        return frame

    def _encoded(self, frame: VideoFrame | None) -> list[Encoded]:
        if self._rest_seconds:
            time.sleep(max(0.0, self._rested_at - time.monotonic()))
        try:
            packets = encoded(self._codec, frame)
            self._rested_at = time.monotonic() + self._rest_seconds
        except FFmpegError as error:
            raise SinkFull(f"{self.codec} cannot encode: {error}") from error
        return [self._described(packet) for packet in packets]

    def _described(self, packet: AnyPacket) -> Encoded:
        data = bytes(self._messages(packet))
        if packet.is_keyframe and self._headers not in data[: len(self._headers) + _LOOK_BYTES]:
            data = self._headers + data
        pts = self._slot(packet.pts)
        dts = pts if packet.dts is None else self._slot(packet.dts)
        return Encoded("video", data, pts, dts, 1, self._tick, is_keyframe=packet.is_keyframe)

    def _slot(self, ticks: int | None) -> int:
        return nearest((ticks or 0) * self._settings.tick / self._tick)


def check_encoder(options: EncoderOptions, format: str) -> None:
    """Raise, before there is an input, if no input could be encoded.

    Raises:
        SinkRefused: if there is no such encoder or pixel format, or it refuses an option.
    """
    refused: list[SinkRefused] = []
    for pix_fmt in _TRIED_PIX_FMTS:
        info = StreamInfo(*_TRIED_SIZE, pix_fmt, Fraction(1, 90_000), rate=_TRIED_RATE)
        try:
            info = replace(info, pix_fmt=live_pix_fmt(info, options, format))
            EncoderSettings(info, _TRIED_RATE, options, format).try_all(None)
            return
        except SinkRefused as error:
            refused.append(error)
    raise refused[0]


def _tick_of(sound: Stream) -> Fraction:
    """Return the time base of sound, a sample, so that rounding moves no packet."""
    sample_rate = getattr(sound.codec_context, "sample_rate", 0)
    if sample_rate:
        return Fraction(1, sample_rate)
    return Fraction(sound.time_base) if sound.time_base else Fraction(1, 90_000)


_BY_RTP = (
    "aac", "mp2", "mp3", "opus", "vorbis", "speex", "amr_nb", "amr_wb", "ilbc",
    "pcm_alaw", "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_u8", "pcm_s8",
    "g722", "g726", "g726le",
)  # fmt: skip
"""Decoders of the codecs that libavformat packs into RTP; rtpenc.c, is_supported."""


class SoundTemplate:
    """A copy of the parameters of a sound stream, which outlives the stream's connection.

    It belongs to a file in memory that is never written.
    """

    def __init__(self, stream: Stream) -> None:
        """Copy, on the thread that reads it; raise ValueError if there is no decoder for it."""
        self._container = av.open(BytesIO(), "w", format="nut")
        self.stream = add_copied(self._container, stream)
        """The template of new streams."""
        self.codec = codec_of(stream)
        """FFmpeg's name of the decoder."""
        self._likeness = _likeness_of(stream)

    def is_like(self, stream: Stream) -> bool:
        """Return whether packets of another connection's sound may follow those of this one."""
        return _likeness_of(stream) == self._likeness

    def refusal(self, format: str) -> str | None:
        """Return why a muxer cannot hold it; None if it can."""
        if format in ("rtsp", "whip"):
            known = _BY_RTP if format == "rtsp" else _BY_WHIP
            return None if self.codec in known else f"{format} does not carry {self.codec}"
        return StreamTrial(self.stream, [], Container(CARRIED.get(format, format))).why_not_held()


def _likeness_of(stream: Stream) -> tuple[object, ...]:
    context = stream.codec_context
    layout = getattr(context, "layout", None)
    return (
        codec_of(stream),
        getattr(context, "sample_rate", None),
        getattr(layout, "name", None),
        bytes(context.extradata or b""),
    )
