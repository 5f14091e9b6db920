"""Sound as a live input has it: a real stream of AAC, to be a template, and its packets."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Stream

SAMPLE_RATE = 44_100
PACKET_SAMPLES = 1024


@contextmanager
def aac_stream(folder: Path, num_packets: int = 1) -> Generator[tuple[Stream, list[bytes]]]:
    """A stream of silence that is open, and the data of its packets."""
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=SAMPLE_RATE)
        for index in range(num_packets):
            frame = av.AudioFrame(format="fltp", layout="stereo", samples=PACKET_SAMPLES)
            frame.sample_rate, frame.pts = SAMPLE_RATE, index * PACKET_SAMPLES
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        sound = container.streams.audio[0]
        yield sound, [bytes(packet) for packet in container.demux(sound) if packet.size]
