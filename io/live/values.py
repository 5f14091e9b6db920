"""What flows between the parts of a live stream, and what they say of themselves."""

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
"""Of an input: `stalled` while a connection gives no frames, `reconnecting` while there is none."""


@dataclass(frozen=True, slots=True)
class LiveForm:
    """What a connection gives, as its first decoded frame tells it."""

    info: StreamInfo
    """`rate` is the nominal rate (never None here), progressive, planar."""
    codec: str
    """FFmpeg's name of the decoder."""
    gop_seconds: Fraction | None
    """From keyframe to keyframe; None until two were seen."""
    sound: Stream | None
    """The stream whose packets come along as they are; None where there is none, or unwanted."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One whole decoded frame of a live input, in presentation order."""

    frame: VideoFrame
    """As the decoder gave it, deinterlaced."""
    seconds: Fraction | None
    """Presentation time on the sender's clock; None where the sender gave none."""
    arrived: float
    """Monotonic seconds when the packet came that it was decoded from."""
    is_keyframe: bool
    after_loss: bool = False
    """Frames before it were damaged, or lost on the way: nothing may be interpolated before it."""
    sample_aspect_ratio: Fraction | None = None
    """Width over height of its pixels; None where the stream does not say."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One packet for an output: of our encoder, or copied."""

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
    """Where an output stands."""

    connected: bool = False
    reason: Reason | None = None
    """Why it is not connected, or was not the last time."""
    message: str = ""
    """The same for people, without secrets."""
    connections: int = 0
    """How often it was connected so far."""
    written: int = 0
    """Video packets that the far end's socket, or the file, has taken."""
    dropped: dict[str, int] = field(default_factory=dict[str, int])
    """Video packets that were given and not written, by why: `away`, `full`, `lost`."""
    files: tuple[str, ...] = ()
    """Recordings that were completed and checked, the latest ones."""
