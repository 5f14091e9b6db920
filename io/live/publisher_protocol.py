"""The two pipes of the process that muxes a live output.

Stdin gets one line of JSON with the target, the primer, then packets, each a fixed head and its
data. Stdout returns one line of JSON for every event. Secrets in a URL go through the pipe only,
never on a command line. This module imports little: a child that imports it starts at once.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast, get_args

from .. import errors
from ..errors import MediaError, OutputLost, Reason
from ..redaction import excerpt
from .target import LiveTarget
from .values import Encoded

_HEAD = struct.Struct("<BBqqqqqQI")
"""Kind, keyframe, pts, dts, duration, time base over and under, number, bytes of data."""
_KINDS = ("video", "sound")
_MAX_PACKET_BYTES = 1 << 28
_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What an output is, before its first packet."""

    target: LiveTarget
    primer: bytes
    """A NUT stream of one packet, whose streams describe those of the packets."""


def header_bytes(header: Header) -> bytes:
    """Encode a header."""
    values = {"target": asdict(header.target), "primer_bytes": len(header.primer)}
    return json.dumps(values).encode() + b"\n" + header.primer


def read_header(file: BinaryIO) -> Header:
    """Read a header.

    Raises:
        EOFError: if the stream ends before it is complete.
        ValueError: if it is none.
    """
    line = file.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError(f"the header ends after {len(line)} bytes")
    values = json.loads(line)
    size = int(values["primer_bytes"])
    if not 0 < size <= _MAX_PACKET_BYTES:
        raise ValueError(f"the primer has {size} bytes, wanted 1 to {_MAX_PACKET_BYTES}")
    return Header(LiveTarget(**values["target"]), _exactly(file, size))


def packet_bytes(packet: Encoded, number: int) -> bytes:
    """Encode a packet, with the number by which the child reports that it is written."""
    base, kind = packet.time_base, _KINDS.index(packet.kind)
    times = (packet.pts, packet.dts, packet.duration, base.numerator, base.denominator)
    size = len(packet.data)
    return _HEAD.pack(kind, packet.is_keyframe, *times, number, size) + packet.data


def read_packet(file: BinaryIO) -> tuple[int, Encoded] | None:
    """Read a packet and its number; None at the end of the stream, also in mid-packet.

    A packet that is cut off is no error: the sender was killed, and the packets before it are to
    be completed.

    Raises:
        ValueError: if the stream holds something else.
    """
    try:
        fields = _HEAD.unpack(_exactly(file, _HEAD.size))
        kind, keyframe, pts, dts, duration, over, under, number, size = fields
        if kind >= len(_KINDS) or under < 1 or size > _MAX_PACKET_BYTES:
            raise ValueError(f"not the head of a packet: kind {kind}, {size} bytes, base {under}")
        data = _exactly(file, size)
    except EOFError:
        return None
    base = Fraction(over, under)
    name = "sound" if kind else "video"
    return number, Encoded(name, data, pts, dts, duration, base, bool(keyframe))


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"wanted {size} bytes, got {len(data)}")
    return data


@dataclass(frozen=True, slots=True)
class Connected:
    """The far end has accepted our header, or the file is open."""


@dataclass(frozen=True, slots=True)
class Written:
    """A video packet was passed to the kernel, or written to the file."""

    number: int
    at: float
    """Monotonic seconds, on the same clock as the parent's."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A video packet came before the first keyframe of the connection, and is not sent."""

    number: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file is complete, checked, and has its final name."""

    path: str
    frames: int
    seconds: float
    rescued: bool = False
    """Whether it was left behind by an earlier process, and saved as far as it was whole."""


@dataclass(frozen=True, slots=True)
class Removed:
    """An old recording was deleted."""

    path: str
    days: float
    """Since it was completed."""


@dataclass(frozen=True, slots=True)
class Note:
    """A warning for people, which changes nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """The output has failed; the process ends."""

    reason: Reason
    error: str
    """Name of its class in io/errors.py."""
    message: str
    """Without secrets."""

    def exception(self) -> MediaError:
        """Return the error to raise in the parent."""
        if self.error in ("SinkRefused", "SinkFull", "VerificationFailed"):
            kind = cast("type[MediaError]", getattr(errors, self.error))
            return kind(self.message)
        return OutputLost(self.reason, self.message)


@dataclass(frozen=True, slots=True)
class Finished:
    """All packets are written and the output is complete; the process ends."""


Event = Connected | Written | Skipped | Recorded | Removed | Note | PublishFailed | Finished

_EVENTS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


def event_line(event: Event) -> bytes:
    """Write an event as a line of JSON."""
    return json.dumps({"kind": type(event).__name__, **asdict(event)}).encode() + b"\n"


def read_event(line: bytes) -> Event:
    """Read what :func:`event_line` wrote.

    Raises:
        ValueError: if it is none.
    """
    try:
        values = cast("dict[str, Any]", json.loads(line))
        return _EVENTS[values.pop("kind")](**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {excerpt(repr(line))}") from error
