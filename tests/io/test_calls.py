"""Calls are known while they are at work."""

from __future__ import annotations

import pytest

from upframe.io.calls import calling, calls_at_work


def test_a_call_is_at_work_until_it_has_returned_or_raised() -> None:
    with calling("encode: a"), calling("compute: b", on_card=True):
        assert {(call.text, call.on_card) for call in calls_at_work()} == {
            ("encode: a", False),
            ("compute: b", True),
        }
    with pytest.raises(RuntimeError), calling("encode: a"):
        raise RuntimeError
    assert calls_at_work() == set()


def test_equal_calls_of_several_threads_are_several() -> None:
    with calling("encode: a"):
        with calling("encode: a"):
            assert len(calls_at_work()) == 2
        assert len(calls_at_work()) == 1
