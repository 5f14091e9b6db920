"""A few neighbouring pictures from places all over a film, and its encoder tried on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from itertools import chain, islice

import av
from av.error import FFmpegError
from torch import Tensor

from ..filters.frame import Picture, PixelFormat, StreamInfo
from .decode.demuxer import best_video, find_target, open_container
from .encode.codecs import is_image
from .encode.containers import container_of
from .encode.encoder import EncoderOptions, Encoding, codec_choice, open_encoder
from .encode.packets import EncoderTimeline, encoded
from .errors import UnsupportedMedia, reason_of
from .pictures.pixels import frame_of, picture_of, without_alpha
from .root import ConfinedFile

_MOST_PACKETS = 200
"""Decoded at one place, so that a damaged film takes no longer."""


def excerpts(
    target: str | ConfinedFile, info: StreamInfo, shares: Sequence[float], num_pictures: int
) -> Iterator[list[Picture]]:
    """Yield the first pictures from a key frame on, for each place; none of what cannot seek.

    Args:
        target: file as for `open_source`; it is opened once more.
        info: of its pictures; places with others are left out.
        shares: the places, as parts of its duration.
        num_pictures: of each place.

    Raises:
        MediaError: if it cannot be read any more.
    """
    found = find_target(target)
    if found.path is None or found.still is not None or info.duration_seconds is None:
        return
    try:
        with open_container(found) as container:
            stream = best_video(container, found.name)
            stream.thread_type = "AUTO"
            for share in shares:
                ticks = float(info.duration_seconds) * share / float(stream.time_base or 1)
                container.seek((stream.start_time or 0) + int(ticks), stream=stream)
                packets = islice(container.demux(stream), _MOST_PACKETS)
                frames = chain.from_iterable(packet.decode() for packet in packets)
                made = [
                    picture_of(frame, info.color, 0, 1, info.time_base)
                    for frame in islice(frames, num_pictures)
                ]
                if not info.format.has_alpha:
                    made = [without_alpha(one) for one in made]
                forms = {(one.pix_fmt, one.width, one.height) for one in made}
                if len(made) == num_pictures and forms == {(info.pix_fmt, info.width, info.height)}:
                    yield made
    except FFmpegError as error:
        raise UnsupportedMedia(f"{found.name}: {reason_of(error)}") from error


def part_of(picture: Picture, width: int, height: int) -> Picture:
    """Return the middle of a picture; what is cut off before it is a multiple of 8 pixels."""
    form = PixelFormat.parse(picture.pix_fmt)
    corner = (picture.width - width) // 16 * 8, (picture.height - height) // 16 * 8

    def cut(plane: Tensor, number: int) -> Tensor:
        left, top = form.plane_size(*corner, number)
        wide, high = form.plane_size(width, height, number)
        return plane[top : top + high, left : left + wide].contiguous()

    planes = tuple(cut(plane, number) for number, plane in enumerate(picture.planes))
    alpha = None if picture.alpha is None else cut(picture.alpha, 0)
    return replace(picture, planes=planes, alpha=alpha)


def trial_encoder(
    info: StreamInfo,
    options: EncoderOptions,
    target: str,
    format: str | None,  # noqa: A002
) -> Callable[[Sequence[Picture]], None] | None:
    """Open an output's encoder in memory; returns what encodes some pictures, once, to the end.

    None for images, each of which has an encoder of its own. Arguments are those of
    :func:`~upframe.io.sink.open_file_sink`.

    Raises:
        SinkRefused: if the encoder refuses the pictures or an option.
    """
    if is_image(target, format):
        return None
    container, choice = container_of(target, format), codec_choice(info, options, target, format)
    output = av.open(BytesIO(), "w", format=container.name)
    encoder = open_encoder(output, Encoding(info, options, choice, container))
    timeline = EncoderTimeline(encoder.timing, info.time_base)

    def encode(pictures: Sequence[Picture]) -> None:
        with closing(output):
            for picture in pictures:
                frame = frame_of(picture)
                frame.pts, frame.duration = timeline.enter(picture)
                frame.time_base = encoder.timing.time_base
                encoded(encoder.stream, frame)
            encoded(encoder.stream, None)

    return encode
