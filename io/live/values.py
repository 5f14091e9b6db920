"""The values that the stages of a live stream exchange, and their states."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from av.stream import Stream
    from av.video.frame import VideoFrame

    from ...filters.frame import StreamInfo
    from ..errors import Reason

InputState = Literal["connecting", "probing", "running", "stalled", "reconnecting", "disabled"]
"""`stalled`: the connection yields no frames; `reconnecting`: there is no connection."""


@dataclass(frozen=True, slots=True)
class LiveForm:
    """What a connection is like, by its first decoded frame."""

    info: StreamInfo
    """`rate` is the nominal rate (never None here), progressive, planar."""
    codec: str
    """FFmpeg's name of the decoder."""
    gop_seconds: Fraction | None
    """From keyframe to keyframe; None until two were seen."""
    sound: Stream | None
    """The stream whose packets are copied; None if there is none, or it is not wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One undamaged frame of a live input, in presentation order."""

    frame: VideoFrame
    """As decoded, then deinterlaced."""
    seconds: Fraction | None
    """Presentation time on the sender's clock; None if the sender gave none."""
    arrived: float
    """Monotonic seconds when its packet came."""
    is_keyframe: bool
    after_loss: bool = False
    """Whether frames before it were damaged or lost: nothing may be interpolated before it."""
    sample_aspect_ratio: Fraction | None = None
    """Width over height of its pixels; None if unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One packet for an output, encoded or copied."""

    kind: Literal["video", "sound"]
    data: bytes
    pts: int
    dts: int
    duration: int
    """In ticks of `time_base`, like pts and dts; 0 where unknown."""
    time_base: Fraction
    is_keyframe: bool

    @property
    def seconds(self) -> Fraction:
        """Presentation time on the output's time line."""
        return self.pts * self.time_base


@dataclass(frozen=True, slots=True, eq=False)
class SoundPacket:
    """One packet of sound from a live input, to be copied."""

    data: bytes
    seconds: Fraction | None
    """On the sender's clock."""
    duration_seconds: Fraction
    arrived: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class OutputState:
    """The state of an output."""

    connected: bool = False
    reason: Reason | None = None
    """Why it is not connected, or was not the last time."""
    message: str = ""
    """The same for people, without secrets."""
    connections: int = 0
    """Number of connections so far."""
    written: int = 0
    """Video packets that the receiver's socket, or the file, has accepted."""
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """Video packets that were not written, by reason: `away`, `full`, `lost`."""
    files: tuple[str, ...] = ()
    """The latest recordings that were completed and verified."""
