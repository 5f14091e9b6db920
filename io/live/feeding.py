"""One muxer of a live output: packets in, as they come; timestamps that start at 0 and only rise.

Used in the process of :mod:`upframe.io.live.publish` alone: opening, writing and closing can block.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, cast

import av
from av.error import FFmpegError
from av.packet import Packet

from ..encode.muxing import add_copied, mux
from ..errors import SinkRefused
from .values import Encoded

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.stream import Stream

_TICK = Fraction(1, 90_000)
"""Seconds; asked of the muxer for video, which may have its own."""
_SOUND: dict[str, tuple[str, ...]] = {
    "mpegts": ("aac", "mp2", "mp3", "ac3", "eac3", "opus", "aac_latm", "dts"),
    "flv": ("aac", "mp3", "pcm_alaw", "pcm_mulaw", "speex"),
    "whip": ("opus",),
    "webm": ("opus", "vorbis"),
}
"""Sound that players of a format know; some muxers take anything and mark it as private data."""
_LIKE = {"hls": "mpegts", "rtp_mpegts": "mpegts"}


class Muxer:
    """Writes the packets of one connection, or of one file.

    Args:
        output: a URL or path that FFmpeg opens itself, or a file that is open.
        form: FFmpeg's name of the muxer.
        options: of the muxer and its protocol.
        primer: a NUT stream whose streams are like ours.
        at_once: whether the header goes out now, or before the first packet.
        opener: opens each of the muxer's files, where FFmpeg shall not: as `av.open` takes it.

    Raises:
        SinkRefused: if the muxer cannot hold the video.
        FFmpegError, OSError: if the other end does not take the header.
    """

    def __init__(
        self,
        output: str | BinaryIO,
        form: str,
        options: dict[str, str],
        primer: bytes,
        *,
        at_once: bool = True,
        opener: Callable[[str, int, dict[str, str]], BinaryIO] | None = None,
    ) -> None:
        self.frames = 0
        """Video packets written."""
        self.first_seconds: Fraction | None = None
        """Presentation time of the first frame on the time line of the packets."""
        self.last_seconds = Fraction(0)
        """The same of the frame that is shown last."""
        self.notes: list[str] = []
        """What is left out, for people."""
        self._origin: Fraction | None = None
        self._last: dict[str, int] = {}
        direct = {"flush_packets": "1", "max_interleave_delta": "1"}  # microseconds; 0 is for ever
        self._output: OutputContainer = av.open(
            output, "w", format=form, options=options | direct, io_open=opener
        )
        try:
            with av.open(BytesIO(primer), format="nut") as template:
                self._streams = self._add(template.streams.best("video"), form)
                self._add_sound(template.streams.best("audio"), form)
            if at_once:
                self._output.start_encoding()
        except BaseException:
            self.abandon()
            raise

    @property
    def has_sound(self) -> bool:
        """Whether sound is written too; the muxer then holds the latest packet back."""
        return "sound" in self._streams

    @property
    def origin(self) -> Fraction | None:
        """What is 0 in the output, on the time line of the packets; None before the first."""
        return self._origin

    def _add(self, template: Stream | None, form: str) -> dict[str, Stream]:
        if template is None:
            raise SinkRefused("the primer holds no video")
        try:
            stream = add_copied(self._output, template)
        except (ValueError, FFmpegError) as error:
            raise SinkRefused(f"{form} cannot hold {template.name} video: {error}") from error
        if form in ("mp4", "mov") and template.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # without it Apple's players show nothing
        stream.time_base = _TICK
        return {"video": stream}

    def _add_sound(self, template: Stream | None, form: str) -> None:
        if template is None:
            return
        known = _SOUND.get(_LIKE.get(form, form))
        try:
            if known is not None and template.name not in known:
                raise ValueError(f"wanted {', '.join(known)}")
            self._streams["sound"] = add_copied(self._output, template)
        except (ValueError, FFmpegError) as error:
            self.notes.append(f"{form} cannot hold {template.name}, sound is left out: {error}")

    def write(self, packet: Encoded) -> bool:
        """Write a packet.

        Returns:
            False for one that has no place: before the first keyframe, sound of a moment before
            that, sound where none is written.

        Raises:
            FFmpegError, OSError: if the other end does not take it.
        """
        stream = self._streams.get(packet.kind)
        if stream is None:
            return False
        if self._origin is None:
            if packet.kind != "video" or not packet.is_keyframe:
                return False
            self._output.start_encoding()
            self._origin = packet.dts * packet.time_base
        if packet.dts * packet.time_base < self._origin:
            return False
        mux(self._output, self._timed(packet, stream, self._origin))
        if packet.kind == "video":
            self._count(packet.seconds)
        return True

    def _timed(self, packet: Encoded, stream: Stream, origin: Fraction) -> Packet[Stream]:
        """Make a packet of the muxer's, in its ticks, which must rise however coarse they are."""
        tick = cast("Fraction", stream.time_base)
        dts = round((packet.dts * packet.time_base - origin) / tick)
        dts = max(dts, self._last.get(packet.kind, -1) + 1)
        self._last[packet.kind] = dts
        made: Packet[Stream] = Packet(packet.data)
        made.dts = dts
        made.pts = max(dts, round((packet.seconds - origin) / tick))
        made.duration = round(packet.duration * packet.time_base / tick)
        made.time_base = tick
        made.is_keyframe = packet.is_keyframe
        made.stream = stream
        return made

    def _count(self, seconds: Fraction) -> None:
        if self.first_seconds is None:
            self.first_seconds = self.last_seconds = seconds
        self.first_seconds = min(seconds, self.first_seconds)
        self.last_seconds = max(seconds, self.last_seconds)
        self.frames += 1

    def close(self) -> None:
        """Write what the muxer holds back, and its end.

        Raises:
            FFmpegError, OSError: if the other end does not take it.
        """
        self._output.close()

    def abandon(self) -> None:
        """Let go of a muxer whose other end is gone."""
        with suppress(FFmpegError, OSError, ValueError):  # it says again what is known already
            self._output.close()
