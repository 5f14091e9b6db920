"""Arithmetic of laying out kernels."""

import pytest

from upframe.filters.kernels.cuda import Card, launch_of, rows_each

H100 = Card(num_processors=132, shared_bytes=232_448)
A100 = Card(num_processors=108, shared_bytes=166_912)
RTX = Card(num_processors=128, shared_bytes=101_376)


def test_weights_stay_in_shared_memory_where_there_is_enough() -> None:
    assert launch_of(64, 64, H100).is_resident
    assert launch_of(64, 64, A100).is_resident
    assert not launch_of(64, 64, RTX).is_resident
    assert not launch_of(96, 32, H100).is_resident


@pytest.mark.parametrize("num_in", [32, 64, 96, 128, 160, 192])
def test_channels_are_read_in_whole_parts(num_in: int) -> None:
    assert num_in % launch_of(num_in, 32, H100).block == 0


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (320, 180), (1920, 1080), (3840, 2160), (129, 7)]
)
def test_every_row_has_a_program_and_no_processor_has_much_more_than_its_share(
    width: int, height: int
) -> None:
    strips = -(-width // 128)
    rows = rows_each(width, height, 128, 132)
    assert 1 <= rows <= height
    programs = strips * -(-height // rows)
    rounds = -(-programs // 132)
    share = strips * height / 132
    assert rounds * (rows + 2) <= max(1.25 * share, share + 4)
