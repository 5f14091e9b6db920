"""A publisher as tests run one: fed with pictures, listened to, and nothing of it left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.stream import Stream

from upframe.daemon.backoff import Backoff
from upframe.daemon.live.publisher import Publisher
from upframe.filters.frame import Color, Picture, StreamInfo
from upframe.io.encode.options import EncoderOptions
from upframe.io.live.live_encoder import LiveEncoder
from upframe.io.live.target import LiveTarget
from upframe.io.live.values import Encoded, OutputState

DEADLINE_SECONDS = 30.0
RATE = Fraction(25)
INFO = StreamInfo(96, 64, "yuv420p", Fraction(1, 90_000), RATE)
LARGE = StreamInfo(640, 360, "yuv420p", Fraction(1, 90_000), RATE)


def noise(info: StreamInfo) -> Picture:
    planes = tuple(
        torch.randint(16, 235, info.format.plane_size(info.width, info.height, n)[::-1])
        for n in range(3)
    )
    return Picture(
        tuple(plane.to(torch.uint8) for plane in planes),
        info.pix_fmt,
        Color(),
        0,
        0,
        info.time_base,
    )


@dataclass
class Told:
    """What a publisher has said of itself."""

    states: list[OutputState] = field(default_factory=list[OutputState])
    written: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def change(self, state: OutputState) -> None:
        self.states.append(state)

    def write(self, packet: Encoded, at: float) -> None:
        self.written.append((packet.pts, at))

    @property
    def reasons(self) -> list[str | None]:
        return [state.reason for state in self.states if not state.connected]


class Source:
    """Gives a publisher pictures as an output thread does, at 25 a second or as fast as asked."""

    def __init__(self, publisher: Publisher, encoder: LiveEncoder, picture: Picture) -> None:
        self.publisher = publisher
        self.given = self.taken = 0
        self.encoder = encoder
        self._picture = picture
        self._keyframe: Encoded | None = None

    def picture(self) -> None:
        """Encode and give the next one."""
        wanted = self.publisher.wants_keyframe
        for packet in self.encoder(self._picture, self.given, keyframe=wanted):
            self.given += 1
            self.taken += self.publisher.give(packet)

    def keyframe(self) -> None:
        """Give a keyframe that was encoded before: much data for little work."""
        if self._keyframe is None:
            (self._keyframe,) = self.encoder(self._picture, self.given, keyframe=True)
        index = self.given
        self.given += 1
        data, tick = self._keyframe.data, self._keyframe.time_base
        self.taken += self.publisher.give(Encoded("video", data, index, index, 1, tick, True))

    def until(
        self,
        condition: Callable[[], object],
        pause_seconds: float = 0.01,
        give: Callable[[Source], None] = picture,
    ) -> None:
        """Go on until something is so; fails where it does not become so."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < ends, f"not so: {self.publisher.state}"
            give(self)
            time.sleep(pause_seconds)


@contextmanager
def publishing(
    target: LiveTarget,
    told: Told,
    info: StreamInfo = INFO,
    sound: Stream | None = None,
    **more: object,
) -> Generator[Source]:
    """A publisher that soon tries again, killed at the end if it still runs; none of it is left."""
    before = children()
    encoder = LiveEncoder(info, EncoderOptions(), sound=sound, format=target.format)
    publisher = Publisher(
        target,
        encoder.primer,
        backoff=Backoff(chance=lambda: 0.0),
        on_change=told.change,
        on_written=told.write,
        **more,  # pyright: ignore[reportArgumentType]
    )
    publisher.start()
    try:
        yield Source(publisher, encoder, noise(info))
    finally:
        publisher.kill()
    ours = children() - before
    assert not [pid for pid in ours if pid in publishers() or is_dead_python(pid)]
    assert not [one.name for one in threading.enumerate() if one.name == "upframe-publisher"]


def children() -> set[int]:
    """Processes that we have started and that are not reaped, zombies among them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def is_dead_python(pid: int) -> bool:
    """Whether a process of the publisher's has ended and was not reaped; receivers are ffmpeg's."""
    with suppress(OSError):
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        return "python" in name and rest.split()[0] == "Z"
    return False


def publishers() -> list[int]:
    return [pid for pid in children() if b"upframe.io.live.publisher_child" in command_of(pid)]


def command_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
