"""Fixtures for every room."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("UPFRAME_TEST_DATA", ROOT.parent / "shared"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell's background job; the processes under test would ignore it, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of processes are started: where it is set, each would compile the whole package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nothing is measured, so that results are the same on every machine; tests of measuring undo this.
os.environ["UPFRAME_WAY"] = "winograd,compiled,torch"

hypothesis.settings.load_profile("ci")  # the same examples in every run, however slow it is


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of golden cases, real checkpoints and media; tests that need it skip without."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA} (set UPFRAME_TEST_DATA)")
    return DATA


@pytest.fixture(autouse=True)
def _require_cuda(request: pytest.FixtureRequest) -> None:
    """Skip ``needs_cuda`` without a device, but fail where one is promised."""
    if request.node.get_closest_marker("needs_cuda") is None or torch.cuda.is_available():
        return
    if os.environ.get("UPFRAME_REQUIRE_CUDA") == "1":
        pytest.fail("UPFRAME_REQUIRE_CUDA=1, but no CUDA device is there")
    pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@contextmanager
def _log_kept() -> Generator[None]:
    """Take away what a command in the test's process has set up: its stderr is closed by then."""
    logger = logging.getLogger("upframe")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Generator[None]:
    with _log_kept():
        yield


@pytest.fixture(autouse=True, scope="module")
def _log_as_it_was_before_the_module() -> Generator[None]:
    """The same for commands that a module's own fixtures run."""
    with _log_kept():
        yield
