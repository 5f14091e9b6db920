from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from support.media.fakes import ListSink, ListSource, moving_pictures, stream_info

from upframe.filters.frame import Color
from upframe.io.errors import TruncatedMedia
from upframe.io.media import Sink, Source

FORMATS = ["yuv420p", "yuv422p10le", "yuv444p16le", "gray", "gray12le", "gbrp", "gbrap16le"]


@pytest.mark.parametrize("pix_fmt", [*FORMATS, "yuva420p"])
@pytest.mark.parametrize("size", [(64, 48), (65, 47), (1, 1)])
def test_pictures_of_every_format_and_size_are_valid(pix_fmt: str, size: tuple[int, int]) -> None:
    pictures = moving_pictures(2, *size, pix_fmt)
    assert [(picture.width, picture.height) for picture in pictures] == [size] * 2


def test_every_picture_differs_from_all_others() -> None:
    lumas = [picture.planes[0] for picture in moving_pictures(16)]
    for index, one in enumerate(lumas):
        assert not any(torch.equal(one, other) for other in lumas[index + 1 :])


def test_constant_rate_in_a_coarse_time_base_is_rounded() -> None:
    pictures = moving_pictures(4, rate=Fraction(24), time_base=Fraction(1, 1000))
    assert [(p.pts, p.duration) for p in pictures] == [(0, 42), (42, 41), (83, 42), (125, 42)]


def test_given_timestamps_are_kept() -> None:
    pictures = moving_pictures(3, pts=[5, 9, 20], time_base=Fraction(1, 100))
    assert [(p.pts, p.duration) for p in pictures] == [(5, 4), (9, 11), (20, 11)]


def test_list_source_gives_what_it_was_given() -> None:
    pictures = moving_pictures(3, color=Color(range="pc"))
    listed = ListSource(stream_info(num_frames=3), pictures, warnings=["said"])
    source: Source = listed
    assert list(source) == pictures
    assert source.warnings() == ["said"]
    assert source.info.duration_seconds == Fraction(3, 25)
    source.close()
    assert listed.closed


def test_list_source_can_end_too_early() -> None:
    source = ListSource(stream_info(), moving_pictures(2), error=TruncatedMedia("cut"))
    pictures = iter(source)
    assert (next(pictures).pts, next(pictures).pts) == (0, 1)
    with pytest.raises(TruncatedMedia, match="cut"):
        next(pictures)


def test_list_sink_keeps_pictures_until_it_ends() -> None:
    listed = ListSink()
    sink: Sink = listed
    pictures = moving_pictures(2)
    for picture in pictures:
        sink.write(picture)
    sink.finish()
    assert (listed.pictures, listed.finished) == (pictures, True)
    with pytest.raises(ValueError, match="takes no more pictures"):
        sink.write(pictures[0])
    sink.abort()
    assert (listed.pictures, listed.aborted) == ([], True)
