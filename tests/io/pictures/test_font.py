"""Letters in pictures."""

from __future__ import annotations

import pytest
import torch

from upframe.io.pictures.font import draw_text, put_label


def test_draws_letters_as_they_look() -> None:
    drawn = ["".join("#" if dot else "." for dot in row[:5]) for row in draw_text("t").tolist()]
    assert drawn == ["#####", *["..#.."] * 6]
    assert torch.equal(draw_text("abc 09"), draw_text("ABC 09"))
    assert draw_text("é").sum() == 0
    assert draw_text("HI", scale=3).shape == (21, 36)


def test_a_label_is_cut_off_at_the_edge() -> None:
    picture = torch.ones(3, 8, 20)
    put_label(picture[:, 2:, 15:], "A LONG LABEL")
    assert picture[:, :2].min() == 1
    assert picture[:, 2:, :15].min() == 1
    assert picture[:, 2, 15:].max() == pytest.approx(0.35)
