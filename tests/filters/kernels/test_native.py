"""Finding the compiled kernels."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upframe.filters.kernels import native

PROGRAM = "from upframe.filters.kernels.native import kernels; print(kernels())"


def test_they_can_be_switched_off() -> None:
    found = subprocess.check_output([sys.executable, "-c", PROGRAM], env={"UPFRAME_NATIVE": "0"})
    assert found.strip() == b"None"


def test_a_library_of_another_version_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    path = tmp_path / "old.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)],
        input=b"int upframe_version(void) { return 0; }",
        check=True,
    )
    with caplog.at_level(logging.WARNING):
        assert native.opened(path) is None
    assert f"of version 0, not {native.VERSION}" in caplog.text


def test_what_is_no_library_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"not a library")
    with caplog.at_level(logging.WARNING):
        assert native.opened(path) is None
    assert "cannot be used" in caplog.text
