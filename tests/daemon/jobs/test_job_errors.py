from __future__ import annotations

import pytest

from upframe.daemon.exits import exit_code_of, is_expected
from upframe.daemon.jobs import model
from upframe.daemon.jobs.protocol import ERRORS, kind_of

CODES = {
    "UnknownJob": 66,
    "Conflict": 64,
    "IllegalChange": 64,
    "StoreBroken": 74,
    "DaemonAbsent": 69,
}


def test_every_error_has_a_code() -> None:
    own = [v for v in vars(model).values() if getattr(v, "__module__", "") == model.__name__]
    classes = {v.__name__ for v in own if isinstance(v, type) and issubclass(v, Exception)}
    assert classes == CODES.keys()


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_error_ends_the_command_as_designed_and_crosses_the_socket(name: str) -> None:
    error = getattr(model, name)("text")
    assert exit_code_of(error) == CODES[name]
    assert is_expected(error)
    assert ERRORS[kind_of(error)] is type(error)


def test_an_error_of_ours_is_told_as_internal() -> None:
    assert kind_of(ZeroDivisionError()) == "internal"
