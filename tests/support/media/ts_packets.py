"""MPEG-TS written by hand (ISO/IEC 13818-1), so that its timestamps can be as wrong as we like.

FFmpeg's muxer refuses what cameras and networks do: clocks that jump, wrap, or say nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PACKET_BYTES = 188
WRAP = 1 << 33
"""Timestamps count 90 kHz in 33 bits."""

VIDEO_PID, SOUND_PID = 0x100, 0x101
_TABLE_PID = 0x1000
_H264, _AAC_ADTS = 0x1B, 0x0F
_VIDEO_ID, _SOUND_ID = 0xE0, 0xC0
_PAYLOAD_BYTES = PACKET_BYTES - 4


class TsWriter:
    """Makes packets, and counts them for each PID as the standard wants it."""

    def __init__(self, *, sound: bool) -> None:
        self._sound = sound
        self._counters: dict[int, int] = {}

    def tables(self) -> bytes:
        """What is in the stream: a PAT and a PMT."""
        program = struct.pack(">HH", 1, 0xE000 | _TABLE_PID)
        streams = _stream(_H264, VIDEO_PID) + (_stream(_AAC_ADTS, SOUND_PID) * self._sound)
        contents = struct.pack(">HH", 0xE000 | VIDEO_PID, 0xF000) + streams
        tables = ((0, 0x00, program), (_TABLE_PID, 0x02, contents))
        return b"".join(
            packet
            for pid, table, body in tables
            for packet in self._packets(pid, b"\x00" + _section(table, body), None, pad=True)
        )

    def video(self, picture: bytes, stamp: int | None) -> list[bytes]:
        """Packets of one access unit; without a stamp there is neither a PTS nor a PCR."""
        return list(self._packets(VIDEO_PID, _pes(_VIDEO_ID, picture, stamp), stamp))

    def sound(self, frame: bytes, stamp: int | None) -> list[bytes]:
        """Packets of one ADTS frame."""
        return list(self._packets(SOUND_PID, _pes(_SOUND_ID, frame, stamp), None))

    def _packets(
        self, pid: int, payload: bytes, clock: int | None, *, pad: bool = False
    ) -> Iterator[bytes]:
        """Cut a payload into packets: the first one carries the clock, the last is filled up."""
        begins = True
        while payload:
            extra = _clock(clock) if begins and clock is not None else b""
            room = _PAYLOAD_BYTES - (1 + len(extra) if extra else 0)
            part, payload = payload[:room], payload[room:]
            missing = room - len(part)
            if pad:
                part, missing = part + b"\xff" * missing, 0
            field = _adaptation(extra, missing)
            counter = self._counters.get(pid, -1) + 1 & 0x0F
            self._counters[pid] = counter
            control = (0x30 if field else 0x10) | counter
            yield struct.pack(">BHB", 0x47, (0x4000 if begins else 0) | pid, control) + field + part
            begins = False


def _stream(kind: int, pid: int) -> bytes:
    return struct.pack(">BHH", kind, 0xE000 | pid, 0xF000)


def _section(table: int, body: bytes) -> bytes:
    """One section of PSI: header, body, CRC."""
    length = 5 + len(body) + 4
    head = struct.pack(">BHHBBB", table, 0xB000 | length, 1, 0xC1, 0, 0)
    return head + body + struct.pack(">I", _crc(head + body))


def _crc(data: bytes) -> int:
    """CRC-32 of the standard's annex A: the polynomial 04C11DB7, not reflected."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def _pes(identity: int, data: bytes, stamp: int | None) -> bytes:
    """A PES packet, with a PTS if there is a stamp; the length of video is left open."""
    times = b"" if stamp is None else _stamp(stamp)
    length = 0 if identity == _VIDEO_ID else len(data) + 3 + len(times)
    flags = 0x00 if stamp is None else 0x80
    return struct.pack(">IHBBB", 0x100 | identity, length, 0x84, flags, len(times)) + times + data


def _stamp(stamp: int) -> bytes:
    value = stamp % WRAP
    return struct.pack(
        ">BHH",
        0x21 | (value >> 30) << 1,
        (value >> 15 & 0x7FFF) << 1 | 1,
        (value & 0x7FFF) << 1 | 1,
    )


def _clock(stamp: int) -> bytes:
    """Flags and PCR of an adaptation field; the extension of 27 MHz is 0."""
    value = stamp % WRAP
    return struct.pack(">BIH", 0x10, value >> 1, (value & 1) << 15 | 0x7E00)


def _adaptation(extra: bytes, missing: int) -> bytes:
    """An adaptation field that holds `extra`, and takes the bytes that a payload lacks."""
    if extra:
        return bytes((len(extra) + missing,)) + extra + b"\xff" * missing
    if missing == 0:
        return b""
    if missing == 1:
        return b"\x00"
    return bytes((missing - 1, 0x00)) + b"\xff" * (missing - 2)
