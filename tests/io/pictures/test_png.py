"""PNG written here, read by FFmpeg; and the delays of animations."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest

from upframe.io.pictures.png import END, SIGNATURE, Writer, chunk, chunks, delayed


def noise(num_components: int, dtype: str, height: int = 5, width: int = 7) -> np.ndarray:
    made = np.random.default_rng(1).integers(
        0, np.iinfo(dtype).max, (height, width, num_components)
    )
    return made.astype(dtype)


@pytest.mark.parametrize(
    ("num_components", "dtype", "pix_fmt"),
    [
        (1, "uint8", "gray"),
        (3, "uint8", "rgb24"),
        (4, "uint8", "rgba"),
        (3, "uint16", "rgb48be"),
        (4, "uint16", "rgba64be"),
    ],
)
def test_every_value_comes_back(num_components: int, dtype: str, pix_fmt: str) -> None:
    pixels = noise(num_components, dtype)
    writer = Writer(pixels, 1)
    with av.open(BytesIO(writer.head + writer.frame(pixels) + END)) as opened:
        (frame,) = opened.decode(video=0)
    assert frame.format.name == pix_fmt
    assert np.array_equal(frame.to_ndarray().reshape(pixels.shape), pixels)


def test_primaries_and_transfer_come_back() -> None:
    pixels = noise(3, "uint16")
    writer = Writer(pixels, 1, (9, 16))
    with av.open(BytesIO(writer.head + writer.frame(pixels) + END)) as opened:
        (frame,) = opened.decode(video=0)
    assert (frame.color_primaries, frame.color_trc) == (9, 16)


def test_an_animation_comes_back_with_its_delays() -> None:
    pictures = [np.full((4, 4, 4), value, np.uint8) for value in (10, 200, 90)]
    writer = Writer(pictures[0], 3)
    delays = [Fraction(1, 5), Fraction(1, 100), Fraction(7, 3)]
    data = writer.head
    data += b"".join(map(writer.frame, pictures, delays)) + END
    with av.open(BytesIO(data)) as opened:
        assert opened.format.name == "apng"
        stream = opened.streams.video[0]
        shown = [packet.duration for packet in opened.demux(stream) if packet.size]
        assert [ticks * stream.time_base for ticks in shown] == [
            Fraction(1, 5),
            Fraction(1, 100),
            Fraction(233_333, 100_000),
        ]
    with av.open(BytesIO(data)) as opened:
        frames = [frame.to_ndarray(format="rgba") for frame in opened.decode(video=0)]
    assert [int(frame[0, 0, 3]) for frame in frames] == [10, 200, 90]


@pytest.mark.parametrize(
    ("seconds", "numbers"),
    [
        (Fraction(1001, 24_000), (1001, 24_000)),
        (Fraction(1001, 60_000), (1001, 60_000)),
        (Fraction(1, 1000), (1, 1000)),
        (Fraction(3600), (3600, 1)),
        (Fraction(100_000), (65_535, 1)),
        (Fraction(0), (1, 65_535)),
        (Fraction(1, 90_000), (1, 65_535)),
    ],
)
def test_a_delay_is_a_fraction_of_two_16_bit_numbers(
    seconds: Fraction, numbers: tuple[int, int]
) -> None:
    packet = chunk(b"fcTL", bytes(26)) + chunk(b"IDAT", b"x")
    made = delayed(packet, seconds)
    assert len(made) == len(packet)
    ((name, start, end), last) = chunks(made, 0)
    assert name == b"fcTL"
    delay = made[start + 20 : start + 24]
    assert (int.from_bytes(delay[:2]), int.from_bytes(delay[2:])) == numbers
    assert chunk(name, made[start:end]) == made[: end + 4]
    assert last[0] == b"IDAT"


def test_a_delay_of_no_such_fraction_is_the_nearest() -> None:
    seconds = Fraction(3001, 90_000)
    made = delayed(chunk(b"fcTL", bytes(26)), seconds)
    delay = made[28:32]
    near = Fraction(int.from_bytes(delay[:2]), int.from_bytes(delay[2:]))
    assert abs(near - seconds) < Fraction(1, 10**8)
    assert delayed(SIGNATURE, seconds) == SIGNATURE
