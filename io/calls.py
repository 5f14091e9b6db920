"""The calls into codecs and filters that have not returned yet, for a watch over them.

A codec may wait for itself for ever, and a driver for its card. Only what computes is entered here:
a read, a write or a queue may wait for others for as long as they like.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of one thread, known by its identity."""

    text: str
    """Its stage and what it calls, for people, such as ``encode: libsvtav1``."""
    on_card: bool
    """Whether it waits for a GPU."""


_entered: set[Call] = set()  # the interpreter adds, discards and copies in one step


@contextmanager
def calling(text: str, *, on_card: bool = False) -> Generator[None]:
    """Enter a call for the time of the block, which must not wait for anything outside."""
    call = Call(text, on_card)
    _entered.add(call)
    try:
        yield
    finally:
        _entered.discard(call)


def calls_at_work() -> set[Call]:
    """Return the calls of all threads that have not returned yet."""
    return _entered.copy()


def frames_of(decoder: VideoCodecContext, packet: Packet[Any] | None) -> list[VideoFrame]:
    """Decode a packet of video, or drain the decoder with None."""
    with calling(f"decode: {decoder.name}", on_card=decoder.is_hwaccel):
        return cast("list[VideoFrame]", cast("Any", decoder).decode(packet))
