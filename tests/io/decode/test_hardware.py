"""Decoding by a card where it may, and by software everywhere else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from support.media.clips import make_clip

from upframe.io.decode.decoder import Hardware
from upframe.io.source import open_source

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(
    ("name", "device", "said"),
    [
        ("none", CARD, ""),
        ("auto", CPU, ""),
        ("cuda", CPU, "decoded by software, not by the card: frames are needed on cpu"),
    ],
)
def test_software_decodes_where_no_card_is_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, device: torch.device, said: str
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=3)
    source = open_source(str(clip), hardware=Hardware(name, device))  # pyright: ignore[reportArgumentType]
    assert len(list(source)) == 3
    assert said in caplog.text
    assert bool(said) == ("the card" in caplog.text)


@pytest.mark.usefixtures("_quiet")
def test_a_card_that_is_not_there_is_said_and_software_decodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    clip = make_clip(tmp_path / "in.mp4", frames=3)
    wanted, got = open_source(str(clip)), open_source(str(clip), hardware=Hardware("cuda", CARD))
    assert got.info == wanted.info
    for a, b in zip(got, wanted, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
    (record,) = [one for one in caplog.records if "the card" in one.message]
    assert record.levelno == logging.WARNING
    assert "decoded by software, not by the card: the card cannot be used" in record.message


@pytest.mark.usefixtures("_quiet")
def test_what_a_card_would_not_give_alike_is_decoded_by_software(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=2, pix_fmt="yuv444p")
    source = open_source(str(clip), hardware=Hardware("cuda", CARD))
    assert len(list(source)) == 2
    assert "the pixel format is yuv444p, not yuv420p or yuv420p10le" in caplog.text


@pytest.mark.needs_cuda
def test_a_card_gives_the_same_values_and_keeps_them(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=40, width=320, height=240)
    wanted, got = open_source(str(clip)), open_source(str(clip), hardware=Hardware("cuda", CARD))
    assert got.info == wanted.info
    there = list(got)  # all at once: the decoder's own memory was given back
    assert there[0].planes[0].is_cuda
    for a, b in zip(there, wanted, strict=True):
        assert a.pts == b.pts
        assert all(torch.equal(x.cpu(), y) for x, y in zip(a.planes, b.planes, strict=True))
