"""What senders of MPEG-TS repeat: a second of pictures, and a second of sound."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import cache

import av
import numpy as np

SAMPLE_RATE, FRAME_SAMPLES = 48_000, 1024


@cache
def clip_of(size: str, rate: Fraction) -> tuple[bytes, ...]:
    """About a second of a moving bar as H.264, Annex B, that starts with the only keyframe."""
    width, height = (int(word) for word in size.split("x"))
    number = max(2, round(rate))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        parameters = f"keyint={number}:bframes=0:aud=1:scenecut=0"
        stream.options = {"tune": "zerolatency", "x264-params": parameters}
        packets = [
            bytes(packet)
            for index in range(number)
            for packet in stream.encode(_picture(width, height, index / number))
        ]
        packets += [bytes(packet) for packet in stream.encode(None)]
    assert len(packets) == number
    return tuple(packets)


@cache
def tone() -> tuple[bytes, ...]:
    """A second of AAC, as ADTS frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        times = np.arange(SAMPLE_RATE // FRAME_SAMPLES * FRAME_SAMPLES) / SAMPLE_RATE
        wave = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for each in (frame, None):
            container.mux(stream.encode(each))
    return _adts_frames(buffer.getvalue())


def _picture(width: int, height: int, place: float) -> av.VideoFrame:
    """A bright bar on a slope; `place` from 0 to 1 is where it stands."""
    luma = np.tile(np.linspace(40, 120, width, dtype=np.uint8), (height, 1))
    left = int(place * (width - width // 8))
    luma[:, left : left + width // 8] = 220
    chroma = np.full((height // 2, width), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate((luma, chroma)), format="yuv420p")


def _adts_frames(data: bytes) -> tuple[bytes, ...]:
    """Cut ADTS into frames, by the length in each header."""
    frames: list[bytes] = []
    while data:
        length = (data[3] & 0x03) << 11 | data[4] << 3 | data[5] >> 5
        frames.append(data[:length])
        data = data[length:]
    return tuple(frames)
