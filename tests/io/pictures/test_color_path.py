"""Colours from file to file: decoded, turned into frames and back, encoded, decoded again."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from support.kernels.colors import RECOMMENDATIONS, Array, code_difference, codes_of, picture, ramp

from upframe.filters.chain import Chain
from upframe.filters.color.convert import ToFrame, ToPicture
from upframe.filters.frame import Color, Picture
from upframe.io.pictures.pixels import color_of, frame_of, picture_of, set_color

TIME_BASE = Fraction(1, 25)
PRIMARIES = {"601": "smpte170m", "709": "bt709", "2020": "bt2020"}
FIELDS = {"white": (1, 1, 1), "black": (0, 0, 0), "skin": (0.8, 0.6, 0.5), "blue": (0.1, 0.1, 0.9)}


def write(path: Path, pictures: list[Picture]) -> None:
    first = pictures[0]
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.pix_fmt
        set_color(stream.codec_context, first.color)
        for item in pictures:
            container.mux(stream.encode(frame_of(item)))
        container.mux(stream.encode(None))


def read(path: Path) -> Iterator[Picture]:
    with av.open(path) as container:
        for pts, frame in enumerate(container.decode(video=0)):
            yield picture_of(frame, color_of(frame), pts, 1, TIME_BASE)


def fields() -> list[Array]:
    flat = [np.broadcast_to(np.array(rgb)[:, None, None], (3, 64, 96)) for rgb in FIELDS.values()]
    return [*flat, ramp(96, 64)]


@pytest.mark.parametrize("recommendation", RECOMMENDATIONS)
@pytest.mark.parametrize("color_range", ["tv", "pc"])
@pytest.mark.parametrize(("pix_fmt", "bit_depth"), [("yuv420p", 8), ("yuv420p10le", 10)])
def test_flat_fields_and_ramps_pass_a_chain_that_changes_nothing(
    recommendation: str, color_range: str, pix_fmt: str, bit_depth: int, tmp_path: Path
) -> None:
    """Within 1 code, the mean within 0.1, and every tag the same."""
    tags = Color(
        range="tv" if color_range == "tv" else "pc",
        primaries=PRIMARIES[recommendation],
        trc="smpte2084" if recommendation == "2020" else "bt709",
        matrix=RECOMMENDATIONS[recommendation][0],
    )
    given = [
        picture(codes_of(rgb, recommendation, color_range, bit_depth), pix_fmt, tags, pts)
        for pts, rgb in enumerate(fields())
    ]
    write(tmp_path / "given.mkv", given)
    to_frame, to_picture, chain = ToFrame(torch.device("cpu")), ToPicture(pix_fmt, tags), Chain(())
    passed = [
        to_picture(frame)
        for item in read(tmp_path / "given.mkv")
        for frame in (*chain(to_frame(item)), *chain.flush())
    ]
    write(tmp_path / "passed.mkv", passed)
    got = list(read(tmp_path / "passed.mkv"))
    assert len(got) == len(given)
    for mine, theirs in zip(got, given, strict=True):
        largest, mean = code_difference(mine, theirs)
        assert largest <= 1
        assert mean <= 0.1
        assert mine.color == tags
    assert to_frame.statistics() == {"clipped_values": 0}
