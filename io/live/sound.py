"""The sound of an input, kept beyond its connection: what it is like, and who can hold it."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import av

from ..encode.containers import Container
from ..encode.muxing import add_copied
from ..streams.conversion import mux_trial

if TYPE_CHECKING:
    from av.stream import Stream

_CARRIED = {"hls": "mpegts", "rtp_mpegts": "mpegts"}
"""Muxers of another container's bytes."""
_BY_RTP = (
    "aac", "mp2", "mp3", "opus", "vorbis", "speex", "amr_nb", "amr_wb", "ilbc",
    "pcm_alaw", "pcm_mulaw", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_u8", "pcm_s8",
    "g722", "g726", "g726le",
)  # fmt: skip
"""Decoders of what libavformat packs into RTP; rtpenc.c, is_supported."""
_BY_WHIP = ("opus",)


class KeptSound:
    """A template of a stream of sound that lives as long as it is wanted.

    The stream that it is made from dies with its connection; this one belongs to a file in memory
    that is never written.
    """

    def __init__(self, stream: Stream) -> None:
        """Copy a stream's parameters, on the thread that reads it.

        Raises:
            ValueError: if there is no decoder for it.
        """
        self._container = av.open(BytesIO(), "w", format="nut")
        self.stream = add_copied(self._container, stream)
        """To make streams like it."""
        self.codec = _codec_of(stream)
        """FFmpeg's name of the decoder."""
        self._likeness = _likeness_of(stream)

    def is_like(self, stream: Stream) -> bool:
        """Tell whether packets of another connection's sound may follow those of this one."""
        return _likeness_of(stream) == self._likeness

    def refusal(self, format: str) -> str | None:  # noqa: A002
        """Say why a muxer does not take it; None if it does."""
        if format in ("rtsp", "whip"):
            known = _BY_RTP if format == "rtsp" else _BY_WHIP
            return None if self.codec in known else f"{format} does not carry {self.codec}"
        return mux_trial(self.stream, [], Container(_CARRIED.get(format, format)))


def _codec_of(stream: Stream) -> str:
    return stream.codec_context.codec.canonical_name


def _likeness_of(stream: Stream) -> tuple[object, ...]:
    context = stream.codec_context
    layout = getattr(context, "layout", None)
    return (
        _codec_of(stream),
        getattr(context, "sample_rate", None),
        getattr(layout, "name", None),
        bytes(context.extradata or b""),
    )
