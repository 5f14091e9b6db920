"""The encoder of a live output: no delay, no B-frames, a keyframe every two seconds and on demand.

Its packets go to another process, which has no encoder. What that one must know of the streams
comes in a *primer*: a tiny NUT file with their headers and one picture, from which it takes them
as templates. It is made by another encoder of the same settings, so that the one for the stream
starts with the stream.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from av.error import FFmpegError
from av.video.frame import PictureType

from ...filters.frame import Picture, StreamInfo
from ..encode.muxing import AnyPacket, encoded_video
from ..encode.options import EncoderOptions
from ..errors import SinkFull, SinkRefused
from ..pictures.pixels import frame_of
from .settings import EncoderSettings
from .tuning import live_pix_fmt
from .values import Encoded

if TYPE_CHECKING:
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

KEYFRAME_SECONDS = 2.0
"""From keyframe to keyframe, where nothing else is said."""

_TRIED_SIZE, _TRIED_RATE = (640, 360), Fraction(25)
_TRIED_PIX_FMTS = ("yuv420p", "yuv420p10le")
"""Of inputs, that an encoder's options may be meant for."""

_LOOK_BYTES = 64  # an access unit delimiter, and what else may stand before parameter sets
_START_CODES = (b"\0\0\0\1", b"\0\0\1")


class LiveEncoder:
    """Encodes pictures one by one; what goes in comes out with the same call, where codecs can."""

    def __init__(
        self,
        info: StreamInfo,
        options: EncoderOptions,
        *,
        sound: Stream | None = None,
        keyframe_seconds: float = KEYFRAME_SECONDS,
        format: str = "nut",  # noqa: A002
    ) -> None:
        """Choose an encoder, and open it.

        Args:
            info: of the pictures: `rate` is known, `pix_fmt` what :func:`live_pix_fmt` told.
            options: the user's.
            sound: whose packets will come along, to be copied.
            keyframe_seconds: from keyframe to keyframe at most.
            format: the muxer that the packets are for, as for :func:`live_pix_fmt`.

        Raises:
            SinkRefused: if no encoder takes the pictures, or it refuses an option.
        """
        if info.rate is None:
            raise ValueError("a live output has a constant rate, got None")
        self._info = info
        self._tick = 1 / info.rate
        self._settings = EncoderSettings(info, info.rate, options, keyframe_seconds, format)
        self._sound_tick = None if sound is None else _tick_of(sound)
        self.primer = self._settings.try_all(sound)
        """The streams' headers, as a NUT file in memory."""
        self._codec = self._settings.opened()
        self._headers = _repeated_headers(self._codec)
        self._last: tuple[Picture, VideoFrame] | None = None
        self._last_index = -1

    @property
    def codec(self) -> str:
        """FFmpeg's name of the encoder."""
        return self._settings.choice.codec

    def __call__(self, picture: Picture, index: int, *, keyframe: bool = False) -> list[Encoded]:
        """Encode the picture of a slot.

        Args:
            picture: as `info` says; the same object again costs no copy.
            index: of the slot: its time is index / rate. Rises with every call.
            keyframe: whether a receiver must be able to start here.

        Raises:
            SinkFull: if the encoder fails.
        """
        if index <= self._last_index:
            raise ValueError(f"indices must rise, got {index} after {self._last_index}")
        self._last_index = index
        frame = self._frame(picture)
        frame.pts = _nearest(index * self._tick / self._settings.tick)
        frame.time_base = self._settings.tick
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        return self._encoded(frame)

    def flush(self) -> list[Encoded]:
        """Give what the encoder still holds; nothing can be encoded after that."""
        self._last = None
        return self._encoded(None)

    def sound_packet(
        self, data: bytes, seconds: Fraction, duration: Fraction = Fraction(0)
    ) -> Encoded:
        """Put a packet of the input's sound on the output's time line.

        Args:
            data: as it came.
            seconds: when it is heard, on the output's time line.
            duration: in seconds; 0 where unknown.
        """
        if self._sound_tick is None:
            raise ValueError("this output has no sound")
        pts = _nearest(seconds / self._sound_tick)
        lasts = _nearest(duration / self._sound_tick)
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
        try:
            packets = encoded_video(self._codec, frame)
        except FFmpegError as error:
            raise SinkFull(f"{self.codec} cannot encode: {error}") from error
        return [self._described(packet) for packet in packets]

    def _described(self, packet: AnyPacket) -> Encoded:
        data = bytes(packet)
        if packet.is_keyframe and self._headers not in data[: len(self._headers) + _LOOK_BYTES]:
            data = self._headers + data
        pts = self._slot(packet.pts)
        dts = pts if packet.dts is None else self._slot(packet.dts)
        return Encoded("video", data, pts, dts, 1, self._tick, is_keyframe=packet.is_keyframe)

    def _slot(self, ticks: int | None) -> int:
        return _nearest((ticks or 0) * self._settings.tick / self._tick)


def check_encoder(options: EncoderOptions, format: str) -> None:  # noqa: A002
    """Refuse what no input could be encoded with, before there is one.

    Args:
        options: the user's.
        format: the muxer that the packets are for.

    Raises:
        SinkRefused: if there is no such encoder or pixel format, or it refuses an option.
    """
    refused: SinkRefused | None = None
    for pix_fmt in _TRIED_PIX_FMTS:
        info = StreamInfo(*_TRIED_SIZE, pix_fmt, Fraction(1, 90_000), rate=_TRIED_RATE)
        try:
            info = replace(info, pix_fmt=live_pix_fmt(info, options, format))
            EncoderSettings(info, _TRIED_RATE, options, KEYFRAME_SECONDS, format).try_all(None)
        except SinkRefused as error:
            refused = refused or error
        else:
            return
    assert refused is not None
    raise refused


def _repeated_headers(codec: VideoCodecContext) -> bytes:
    """What goes before every keyframe, so that who joins later can decode: parameter sets.

    Only where they are kept as the bitstream has them, with start codes; AV1 and VP9 repeat their
    headers by themselves.
    """
    extradata = codec.extradata or b""
    return extradata if extradata.startswith(_START_CODES) else b""


def _tick_of(sound: Stream) -> Fraction:
    """Seconds in which sound is counted: a sample, so that no packet is moved by rounding."""
    sample_rate = getattr(sound.codec_context, "sample_rate", 0)
    if sample_rate:
        return Fraction(1, sample_rate)
    return Fraction(sound.time_base) if sound.time_base else Fraction(1, 90_000)


def _nearest(ticks: Fraction) -> int:
    """Round half up; Fraction's own rounding to even would make steps uneven."""
    return math.floor(ticks + Fraction(1, 2))
