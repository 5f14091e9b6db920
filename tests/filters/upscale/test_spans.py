from itertools import pairwise

import pytest

from upframe.filters.upscale.network import cut

CASES = [
    (length, edge, margin, multiple)
    for length in (1, 2, 31, 32, 33, 100, 257)
    for edge in (1, 5, 32, 64, 1000)
    for margin in (0, 3, 18)
    for multiple in (1, 2, 4)
]


@pytest.mark.parametrize(("length", "edge", "margin", "multiple"), CASES)
def test_spans_cover_the_axis_once_and_see_enough(
    length: int, edge: int, margin: int, multiple: int
) -> None:
    spans = cut(length, edge, margin, multiple)
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert all(left.stop == right.start for left, right in pairwise(spans))
    for span in spans:
        assert 0 < span.stop - span.start <= max(edge, multiple)
        assert span.start % multiple == span.seen_from % multiple == 0
        assert span.seen_to % multiple == 0 or span.seen_to == length
        assert span.seen_from <= max(span.start - margin, 0)
        assert span.seen_to >= min(span.stop + margin, length)
        assert 0 <= span.seen_from < span.seen_to <= length


def test_spans_are_of_about_equal_length() -> None:
    """A last sliver would cost a margin for nothing."""
    assert [s.stop - s.start for s in cut(101, 100, 8)] == [51, 50]


def test_own_part_is_where_the_span_lies_in_what_it_sees() -> None:
    first, second = cut(20, 10, 3)
    assert (first.own(4), second.own(4)) == (slice(0, 40), slice(12, 52))
