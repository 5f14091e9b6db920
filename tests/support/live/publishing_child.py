"""The process that muxes a live output, driven by hand; and real packets to feed it with."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any, Self, TypeVar, cast

import av
import numpy as np
from av.codec.context import Flags

from upframe.io.live.publisher_protocol import (
    Connected,
    Event,
    Header,
    Recorded,
    Skipped,
    Written,
    header_bytes,
    packet_bytes,
    read_event,
)
from upframe.io.live.target import LiveTarget
from upframe.io.live.values import Encoded

RATE = 25
KEYFRAMES_EVERY = 25
SOUND_HZ = 48_000
T = TypeVar("T")
DEADLINE_SECONDS = 30.0


@cache
def encoded(
    frames: int, *, codec: str = "libx264", sound: str | None = None
) -> tuple[bytes, tuple[Encoded, ...]]:
    """A primer and its packets: 64x48 at 25 pictures a second, a keyframe each second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="nut") as template:
        video = cast("Any", template.add_stream(codec, rate=RATE, width=64, height=48))
        video.pix_fmt = "yuv420p"
        video.codec_context.flags |= Flags.global_header
        video.codec_context.gop_size = KEYFRAMES_EVERY
        video.options = {"tune": "zerolatency", "preset": "ultrafast", "bf": "0"}
        audio = cast("Any", template.add_stream(sound, rate=SOUND_HZ)) if sound else None
        pictures = [packet for n in range(frames) for packet in video.encode(picture(n))]
        tones = list(tone(audio, frames)) if audio else []
        packets = [packet_of(one, "video", Fraction(1, RATE)) for one in pictures]
        packets += [packet_of(one, "sound", Fraction(1, SOUND_HZ)) for one in tones]
        first = av.Packet(bytes(pictures[0]))
        first.pts = first.dts = 0
        first.is_keyframe, first.stream = True, video
        template.mux(first)
    packets.sort(key=lambda packet: (packet.seconds, packet.kind))
    return buffer.getvalue(), tuple(packets)


def picture(number: int) -> av.VideoFrame:
    values = np.full((72, 64), 16 + number % 200, np.uint8)
    frame = av.VideoFrame.from_ndarray(values, format="yuv420p")
    frame.pts, frame.time_base = number, Fraction(1, RATE)
    return frame


def tone(audio: Any, frames: int) -> Iterator[Any]:
    samples = (audio.codec_context.open(), audio.codec_context.frame_size or 1024)[1]
    form, dtype = audio.codec_context.format.name, np.float32
    if form.startswith("s16"):
        dtype = np.int16
    channels = audio.codec_context.layout.nb_channels
    shape = (channels, samples) if audio.codec_context.format.is_planar else (1, samples * channels)
    for n in range(frames * SOUND_HZ // RATE // samples):
        layout = audio.codec_context.layout.name
        frame = av.AudioFrame.from_ndarray(np.zeros(shape, dtype), format=form, layout=layout)
        frame.sample_rate, frame.pts = SOUND_HZ, n * samples
        frame.time_base = Fraction(1, SOUND_HZ)
        yield from audio.encode(frame)


def packet_of(one: Any, kind: Any, base: Fraction) -> Encoded:
    scale = (one.time_base or base) / base
    pts, dts = round(one.pts * scale), round(one.dts * scale)
    duration = round((one.duration or 0) * scale) or 1
    return Encoded(kind, bytes(one), pts, dts, duration, base, one.is_keyframe or kind == "sound")


def later(packets: tuple[Encoded, ...], seconds: int) -> tuple[Encoded, ...]:
    """The same packets at another moment."""
    return tuple(
        replace(one, pts=one.pts + seconds // one.time_base, dts=one.dts + seconds // one.time_base)
        for one in packets
    )


class Child:
    """One process; a thread reads what it says."""

    def __init__(self, target: LiveTarget, primer: bytes) -> None:
        command = [sys.executable, "-P", "-m", "upframe.io.live.publisher_child"]
        self.process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.events: list[Event] = []
        self.stderr = b""
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._listen, self._drain)
        ]
        for thread in self._threads:
            thread.start()
        self.number = 0
        self.stdin.write(header_bytes(Header(target, primer)))
        self.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    @property
    def stdin(self) -> Any:
        return self.process.stdin

    def give(self, packets: tuple[Encoded, ...], *, paced: bool = False) -> None:
        """Feed packets, at their own pace or at once; stops where it takes no more."""
        begun, first = time.monotonic(), packets[0].seconds
        try:
            for packet in packets:
                if paced:
                    due = begun + float(packet.seconds - first)
                    time.sleep(max(0.0, due - time.monotonic()))
                self.number += 1
                self.stdin.write(packet_bytes(packet, self.number))
                self.stdin.flush()
        except BrokenPipeError:
            pass

    def finish(self) -> int:
        """End its input and wait for its end; gives the exit status."""
        with suppress(BrokenPipeError):
            self.stdin.close()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        return code

    def until(self, kind: type[Event], count: int = 1) -> None:
        """Wait until it has said something so often."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._ended or len(self.told(kind)) >= count, DEADLINE_SECONDS
            )
        assert done, (self.events[-3:], self.stderr)
        assert len(self.told(kind)) >= count, (self.events[-3:], self.stderr)

    def told(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def connected(self) -> None:
        self.until(Connected)

    @property
    def written(self) -> list[int]:
        return [event.number for event in self.told(Written)]

    @property
    def skipped(self) -> list[int]:
        return [event.number for event in self.told(Skipped)]

    @property
    def files(self) -> list[str]:
        return [event.path for event in self.told(Recorded)]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.events.append(read_event(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line
