"""ITU-T T.35 messages: captions, HDR10+ and what else is registered there, frame by frame.

A decoder shows captions as side data of a frame; all other messages are taken from the packets of
H.264 and HEVC, so that they stay the same to the byte. PyAV cannot attach side data to the frames
that are encoded: the messages are written into the packets of these two codecs, as SEI messages.

Sources: ITU-T H.264 and H.265, 7.3.1 and 7.4 (NAL units, emulation prevention), annexes B (start
codes) and D (user_data_registered_itu_t_t35); ISO/IEC 14496-15, 5.3.3 and 8.3.3 (length fields);
ATSC A/53 Part 4, 6.2.3 (captions).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ...filters.frame import CAPTIONS
from .metadata import side_data

log = logging.getLogger("upframe.io.encoder")

CARRIED_KINDS = {"h264": {"a53 captions"}, "hevc": {"a53 captions", "hdr10+", "hdr vivid"}}
"""Kinds of traits that come with T.35 messages, by codec, as far as decoders show them."""

_START_CODE = b"\0\0\1"
_H264_SLICES = (*range(1, 6), 14, 20)  # 14 and 20: of scalable streams
_REGISTERED = 4  # payloadType of user_data_registered_itu_t_t35
_MOST_TRIPLETS = 31  # cc_count has 5 bits
_MOST_WAITING = 64  # more than any decoder keeps back


@dataclass(frozen=True, slots=True)
class NalSyntax:
    """How the access units of a stream consist of NAL units."""

    is_hevc: bool
    length_bytes: int = 0
    """Of the length before each unit; 0 where start codes separate them (Annex B)."""

    @classmethod
    def of(cls, codec: VideoCodecContext) -> NalSyntax | None:
        """Return the syntax of a stream, by its header; None if it is neither H.264 nor HEVC."""
        name, extradata = codec.codec.canonical_name, codec.extradata or b""
        if name not in ("h264", "hevc"):
            return None
        place = 21 if name == "hevc" else 4
        has_lengths = extradata[:1] == b"\1" and len(extradata) > place  # avcC or hvcC
        return cls(name == "hevc", (extradata[place] & 3) + 1 if has_lengths else 0)

    def messages(self, packet: bytes) -> list[bytes]:
        """Return the T.35 messages of an access unit, in order."""
        units, _, _ = self._head(packet)
        return [message for unit in units for message in self._messages_in(unit)]

    def with_messages(self, packet: bytes, messages: Iterable[bytes]) -> bytes:
        """Add T.35 messages to an access unit: behind its parameter sets, before its slices."""
        _, place, start = self._head(packet)
        if start + 1 >= len(packet):  # nothing that they could belong to
            return packet
        # a prefix SEI message is of the same temporal layer as the slices
        header = bytes([39 << 1, packet[start + 1] & 7]) if self.is_hevc else b"\6"
        made = (self._framed(header + _sei(message)) for message in messages)
        return b"".join((packet[:place], *made, packet[place:]))

    def _head(self, packet: bytes) -> tuple[list[bytes], int, int]:
        """Return the units before the first slice, and where that begins: its frame, its header."""
        units: list[bytes] = []
        begun = None
        for place, start in self._places(packet):
            if begun is not None and begun < place:
                units.append(packet[begun:place])
            if self._is_slice(packet[start]):
                return units, place, start
            begun = start
        if begun is not None:
            units.append(packet[begun:])
        return units, len(packet), len(packet)

    def _places(self, packet: bytes) -> Iterator[tuple[int, int]]:
        """Yield where the length or start code of each unit begins, and where its header does."""
        if self.length_bytes:
            place = 0
            while (start := place + self.length_bytes) < len(packet):
                length = int.from_bytes(packet[place:start])
                if length:
                    yield place, start
                place = start + length
            return
        found = packet.find(_START_CODE)
        while 0 <= found < len(packet) - 3:
            yield found - (found > 0 and not packet[found - 1]), found + 3
            found = packet.find(_START_CODE, found + 3)

    def _is_slice(self, header: int) -> bool:
        return header >> 1 & 63 < 32 if self.is_hevc else header & 31 in _H264_SLICES

    def _messages_in(self, unit: bytes) -> Iterator[bytes]:
        is_sei = unit[0] >> 1 & 63 == 39 if self.is_hevc else unit[0] & 31 == 6
        data = unit[2 if self.is_hevc else 1 :].replace(b"\0\0\3", b"\0\0")
        place = 0
        while is_sei and place + 2 < len(data):  # type, size, and the bits at the end
            kind, place = _number(data, place)
            size, place = _number(data, place)
            if kind == _REGISTERED:
                yield data[place : place + size]
            place += size

    def _framed(self, unit: bytes) -> bytes:
        if self.length_bytes:
            return len(unit).to_bytes(self.length_bytes) + unit
        return b"\0" + _START_CODE + unit


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Read a type or size of an SEI message, where each 255 adds one byte more."""
    total = 0
    while data[place : place + 1] == b"\xff":
        total, place = total + 255, place + 1
    return total + int.from_bytes(data[place : place + 1]), place + 1


def _sei(message: bytes) -> bytes:
    """Return the content of an SEI NAL unit with one T.35 message."""
    more, rest = divmod(len(message), 255)
    content = bytes([_REGISTERED, *[255] * more, rest]) + message + b"\x80"
    return re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)


def captions_of(frame: VideoFrame) -> list[bytes]:
    """Return the captions of a decoded frame, of whatever codec, as T.35 messages."""
    data = (side_data(frame) or {}).get("A53_CC", b"")
    parts = [data[at : at + 3 * _MOST_TRIPLETS] for at in range(0, len(data), 3 * _MOST_TRIPLETS)]
    # process_cc_data_flag and cc_count, em_data, the triplets, marker_bits
    return [CAPTIONS + bytes([0x40 | len(part) // 3, 0xFF]) + part + b"\xff" for part in parts]


class MessageReader:
    """Gives frames of a decoder the T.35 messages of their packets, as their `opaque`."""

    def __init__(self, codec: VideoCodecContext) -> None:
        self._syntax = NalSyntax.of(codec)
        self._by_pts: dict[int, list[bytes]] = {}

    def send(self, packet: Packet[Any]) -> None:
        """Note the messages of a packet that is to be decoded."""
        if self._syntax is None or packet.pts is None:
            return
        found = self._syntax.messages(bytes(packet))
        if others := [each for each in found if not each.startswith(CAPTIONS)]:
            self._by_pts[packet.pts] = others
        if len(self._by_pts) > _MOST_WAITING:  # packets of which no frame came
            self._by_pts.clear()

    def receive(self, frame: VideoFrame) -> None:
        """Attach its messages to a decoded frame."""
        others = [] if frame.pts is None else self._by_pts.pop(frame.pts, [])
        if messages := captions_of(frame) + others:
            frame.opaque = messages


class MessageWriter:
    """Puts the T.35 messages of pictures into the packets of an open encoder."""

    def __init__(self, codec: VideoCodecContext) -> None:
        self._name = codec.codec.canonical_name
        self._syntax = NalSyntax.of(codec)
        self._by_pts: dict[int, tuple[bytes, ...]] = {}
        self._said = False
        self.num_written = 0
        """Messages that packets got."""

    def enter(self, pts: int, messages: tuple[bytes, ...]) -> None:
        """Note the messages of a picture; `pts` is that of its frame, in the encoder's ticks."""
        if messages and self._syntax is not None:
            self._by_pts[pts] = messages
        elif messages and not self._said:
            self._said = True
            what = "captions" if messages[0].startswith(CAPTIONS) else "HDR10+"
            log.warning("frames have %s, which %s cannot hold: left out", what, self._name)

    def __call__(self, packet: Packet[Any]) -> Packet[Any]:
        """Return a packet of the encoder with the messages of its picture."""
        messages = () if packet.pts is None else self._by_pts.pop(packet.pts, ())
        if self._syntax is None or not messages:
            return packet
        made = cast("Packet[Any]", Packet(self._syntax.with_messages(bytes(packet), messages)))
        if made.size > packet.size:
            self.num_written += len(messages)
        if cast("object | None", packet.stream) is not None:
            made.stream = packet.stream
        made.time_base, made.is_keyframe = packet.time_base, packet.is_keyframe
        made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
        return made
