"""Planes of frames on a card, as PyAV gives them: it knows of no streams."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest
import torch

from upframe.io.pictures.pixels import planes_on_card


class Plane:
    """A plane of PyAV on a card: it says so, and gives itself only where nobody names a stream."""

    def __init__(self, plane: Any) -> None:
        self._plane = plane

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int | None = None) -> object:
        if stream is not None:
            raise NotImplementedError("CUDA stream synchronization is not supported.")
        return self._plane.__dlpack__()


@pytest.mark.parametrize(("name", "bits"), [("nv12", 8), ("p010le", 10)])
def test_planes_are_taken_without_naming_a_stream(name: str, bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (36, 48), np.uint16)
    frame = av.VideoFrame(48, 24, name)
    for plane, rows in zip(frame.planes, (codes[:24], codes[24:]), strict=True):
        words = (rows << 6).astype("<u2") if bits == 10 else rows.astype(np.uint8)
        padded = np.zeros((len(rows), plane.line_size), np.uint8)
        padded[:, : words.nbytes // len(rows)] = words.view(np.uint8)
        plane.update(padded.tobytes())
    on_card = SimpleNamespace(
        format=SimpleNamespace(name="cuda"),
        sw_format=SimpleNamespace(name=name),
        planes=[Plane(plane) for plane in frame.planes],
    )
    luma, u, v = planes_on_card(cast("Any", on_card))
    wanted = torch.from_numpy(codes.astype(np.int32))
    assert torch.equal(luma.int(), wanted[:24])
    assert torch.equal(u.int(), wanted[24:, 0::2])
    assert torch.equal(v.int(), wanted[24:, 1::2])
