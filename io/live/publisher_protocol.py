"""What goes through the two pipes of the process that muxes a live output.

Down its stdin: one line of JSON that says where to, the primer, then packets, each a fixed head
and its data. Up its stdout: one line of JSON for every event. Secrets in a URL travel in the pipe
only, never on a command line. This module is light: a child that imports it starts at once.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast

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
    """A NUT stream of one packet, whose streams say what the packets of ours are."""


def write_header(file: BinaryIO, header: Header) -> None:
    """Write a header.

    Raises:
        OSError: if the other end is gone.
    """
    told = {"target": asdict(header.target), "primer_bytes": len(header.primer)}
    file.write(json.dumps(told).encode() + b"\n" + header.primer)


def read_header(file: BinaryIO) -> Header:
    """Read what :func:`write_header` wrote.

    Raises:
        EOFError: if the stream ends before it is complete.
        ValueError: if it is none.
    """
    line = file.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError(f"the header ends after {len(line)} bytes")
    told = json.loads(line)
    size = int(told["primer_bytes"])
    if not 0 < size <= _MAX_PACKET_BYTES:
        raise ValueError(f"the primer has {size} bytes, wanted 1 to {_MAX_PACKET_BYTES}")
    return Header(LiveTarget(**told["target"]), _exactly(file, size))


def write_packet(file: BinaryIO, packet: Encoded, number: int) -> None:
    """Write one packet.

    Args:
        file: the child's stdin.
        packet: what to send.
        number: by which the child says that it is written; only a video packet's is told.

    Raises:
        OSError: if the other end is gone.
    """
    base = packet.time_base
    head = _HEAD.pack(
        _KINDS.index(packet.kind),
        packet.is_keyframe,
        packet.pts,
        packet.dts,
        packet.duration,
        base.numerator,
        base.denominator,
        number,
        len(packet.data),
    )
    file.write(head + packet.data)


def read_packet(file: BinaryIO) -> tuple[int, Encoded] | None:
    """Read a packet and its number; None at the end of the stream, also in mid-packet.

    A packet that was cut off is no damage: whoever wrote it was killed, and what came before
    shall be completed.

    Raises:
        ValueError: if what is there is no packet.
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
    """The far end has taken our header, or the file is open."""


@dataclass(frozen=True, slots=True)
class Written:
    """A video packet was handed to the kernel, or to the file."""

    number: int
    at: float
    """Monotonic seconds, on the same clock as the parent's."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A video packet came before the first keyframe of the connection; nobody gets it."""

    number: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file has got its name: complete and checked."""

    path: str
    frames: int
    seconds: float
    rescued: bool = False
    """What an earlier process left behind, as far as it was whole."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that people should know, and that changes nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """It is over, and not well; the process ends."""

    reason: Reason
    error: str
    """Name of the class in io/errors.py that it means."""
    message: str
    """Without secrets."""

    def exception(self) -> MediaError:
        """Make the error to raise in the parent."""
        if self.error in ("SinkRefused", "SinkFull", "VerificationFailed"):
            kind = cast("type[MediaError]", getattr(errors, self.error))
            return kind(self.message)
        return OutputLost(self.reason, self.message)


@dataclass(frozen=True, slots=True)
class Finished:
    """All that came was written and completed; the process ends."""


Event = Connected | Written | Skipped | Recorded | Note | Failed | Finished

_EVENTS: dict[str, type[Event]] = {
    "connected": Connected,
    "written": Written,
    "skipped": Skipped,
    "file": Recorded,
    "note": Note,
    "failed": Failed,
    "finished": Finished,
}
_NAMES = {kind: name for name, kind in _EVENTS.items()}


def event_line(event: Event) -> bytes:
    """Write an event as a line of JSON."""
    return json.dumps({"event": _NAMES[type(event)], **asdict(event)}).encode() + b"\n"


def read_event(line: bytes) -> Event:
    """Read what :func:`event_line` wrote.

    Raises:
        ValueError: if it is none.
    """
    try:
        told = cast("dict[str, Any]", json.loads(line))
        return _EVENTS[told.pop("event")](**told)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event: {excerpt(repr(line))}") from error
