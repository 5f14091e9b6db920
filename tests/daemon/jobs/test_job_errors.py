from __future__ import annotations

import pytest

from upframe.daemon import errors
from upframe.daemon.exits import exit_code_of, is_expected
from upframe.daemon.jobs.api import EXPECTED_ERRORS, error_of, problem_of

CODES = {
    "UnknownJob": 66,
    "Conflict": 64,
    "IllegalChange": 64,
    "StoreBroken": 74,
    "DaemonAbsent": 69,
}


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_error_ends_the_command_as_designed_and_crosses_the_socket(name: str) -> None:
    error = getattr(errors, name)("text")
    assert exit_code_of(error) == CODES[name]
    assert is_expected(error)
    assert crossed(error).args == ("text",)


@pytest.mark.parametrize("kind", EXPECTED_ERRORS)
def test_every_expected_error_crosses_the_socket_as_itself(kind: type[Exception]) -> None:
    assert str(crossed(kind("text"))) == "text"


def crossed(error: Exception) -> Exception:
    """The error as the client raises it."""
    raised = error_of(problem_of(error).model_dump(mode="json"))
    assert type(error) is type(raised)
    return raised


def test_an_error_of_ours_is_reported_as_internal_without_its_text() -> None:
    problem = problem_of(ZeroDivisionError("a secret"))
    assert (problem.code, problem.status) == ("internal", 500)
    assert "a secret" not in problem.detail
    assert type(error_of(problem.model_dump())) is RuntimeError
