"""Alpha: the decoder that shows it, and whether it is used.

WebM stores the alpha of VP8 and VP9 as a second picture beside each block (BlockAdditional, ID 1).
FFmpeg's own decoders ignore it, libvpx decodes both. Decoders of GIF and of palettes report alpha
for every picture, also where nothing is transparent, so that only the pixels show it.

Source: WebM Container Guidelines, section on AlphaMode and BlockAdditional.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, cast

import av
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...filters.frame import PixelFormat
from ..capabilities import has_codec
from ..errors import MediaError, UnsupportedMedia
from ..pictures.pixels import is_transparent, pix_fmt_of, planar_pix_fmt
from ..traits import OpenedFile, Trait
from .demuxer import Target, best_video, open_container

_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_ADDITIONAL: Final = "matroska_block_additional"
_ALPHA_ID = (1).to_bytes(8, "big")  # before the data, as libavformat passes them
_MOST_PIXELS = 1 << 28
"""Decoded to see whether a file is opaque: a second or two, and nearly all animations."""


def is_tagged(stream: VideoStream) -> bool:
    """Return whether a VP8 or VP9 stream says that it has alpha."""
    return stream.codec_context.name in _DECODERS and stream.metadata.get("alpha_mode") == "1"


def alpha_decoder(
    stream: VideoStream, first: Packet[VideoStream]
) -> tuple[VideoCodecContext, list[VideoFrame]] | None:
    """Make a decoder for alpha that the stream's own, before its first packet, ignores.

    Returns:
        The decoder, and what the stream's own makes of the packet: frames without alpha, but with
        what the container says, such as the rotation. None if there is no such alpha.
    """
    name = _DECODERS.get(stream.codec_context.name)
    if name is None or not (is_tagged(stream) or _has_alpha(first)) or not has_codec(name, "r"):
        return None
    try:
        own = [*first.decode(), *stream.decode(None)]  # pyright: ignore[reportUnknownMemberType]  # bare Packet
    except FFmpegError:
        own = []
    return cast("VideoCodecContext", av.CodecContext.create(name, "r")), own


def _has_alpha(packet: Packet[VideoStream]) -> bool:
    if not packet.has_sidedata(_ADDITIONAL):
        return False
    return bytes(packet.get_sidedata(_ADDITIONAL)).startswith(_ALPHA_ID)


def may_be_opaque(stream: VideoStream, first: VideoFrame) -> bool:
    """Return whether a decoder reports alpha without knowing that there is any."""
    return stream.codec_context.name == "gif" or pix_fmt_of(first) == "pal8"


def is_opaque(target: Target) -> bool:
    """Return whether no pixel of a file is transparent, as far as can be said by decoding it.

    Only files are decoded, and only those of few pixels.
    """
    if not isinstance(target.file, Path) or (target.path is None and not target.images):
        return False
    left = _MOST_PIXELS
    try:
        with open_container(target) as container:
            stream = best_video(container, target.name)
            if is_tagged(stream):  # which is not in the frames of this decoder
                return False
            left -= stream.width * stream.height
            for frame in islice(container.decode(stream) if left >= 0 else (), target.num_images):
                left -= frame.width * frame.height
                if left < 0 or is_transparent(frame):
                    return False
    except (MediaError, FFmpegError, OSError, MemoryError):  # the real opening will report it
        return False
    return left >= 0


def alpha_traits(target: Target, opened: OpenedFile) -> Iterator[Trait]:
    """Yield that a file has alpha, unless all of it was seen to be opaque."""
    if opened.video.codec_context.name in _DECODERS:
        has_alpha = opened.packet is not None and _has_alpha(opened.packet)
    else:
        has_alpha = any(map(_holds_alpha, opened.frames[:1])) and not is_opaque(target)
    if has_alpha:
        yield Trait("video", "alpha", "alpha")


def _holds_alpha(frame: VideoFrame) -> bool:
    try:
        return PixelFormat.parse(planar_pix_fmt(pix_fmt_of(frame))).has_alpha
    except UnsupportedMedia:  # floats, Bayer data
        return False
