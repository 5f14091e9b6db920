"""What the encoder of a live output is opened with: the first choice that works here, and threads.

Also makes the primer, which shows that it works.
"""

from __future__ import annotations

import io
import logging
import os
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from ...filters.frame import StreamInfo
from ..encode.codecs import CodecChoice
from ..encode.containers import Container
from ..encode.muxing import add_copied, add_video, encoded_video, mux
from ..encode.options import EncoderOptions
from ..encode.pacing import choose_pace
from ..encoder import open_codec
from ..errors import SinkRefused
from ..pictures.pixels import frame_of
from ..pictures.tags import set_color
from .slate import blank
from .tuning import live_choices, live_parameters

if TYPE_CHECKING:
    from av.stream import Stream

log = logging.getLogger("upframe.io.live.encoder")

_MAX_SLICES = 4


class EncoderSettings:
    """What an encoder is opened with, as often as needed."""

    def __init__(
        self,
        info: StreamInfo,
        rate: Fraction,
        options: EncoderOptions,
        keyframe_seconds: float,
        format: str,  # noqa: A002
    ) -> None:
        self._info = info
        self._rate = rate
        self._options = options
        self._gop = max(1, round(rate * Fraction(keyframe_seconds)))
        self._container = Container(format)
        self._choices = live_choices(info, options, format)
        self._take(self._choices[0])

    def _take(self, choice: CodecChoice) -> None:
        self.choice = choice
        self.tick = choose_pace(self._info, choice.codec, self._container).time_base

    def try_all(self, sound: Stream | None) -> bytes:
        """Take the first encoder that works, shown by the primer that it makes; give that one.

        Raises:
            SinkRefused: as the last one says.
        """
        for choice in self._choices[:-1]:
            self._take(choice)
            try:
                return self._primer(sound)
            except (SinkRefused, FFmpegError) as error:
                log.info("%s is not to be had here (%s)", choice.codec, error)
        self._take(self._choices[-1])
        return self._primer(sound)

    def opened(self) -> VideoCodecContext:
        """Open an encoder that belongs to no container.

        Raises:
            SinkRefused: if it refuses size, pixel format or an option.
        """
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
        open_codec(codec, self._options)
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
                for packet in encoded_video(stream, given):
                    mux(output, packet)
        return buffer.getvalue()
