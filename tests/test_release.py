"""`make release` in a small checkout of its own, with other commands for its two long steps."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHANGES = (
    "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- More.\n\n## [0.0.9] - 2026-01-01\n\n- Some.\n"
)
BUILD = "touch $1/upframe-0.2.0-py3-none-any.whl $1/upframe-0.2.0.tar.gz"
NO_ONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
ME = {
    f"GIT_{who}_{what}": "me@here" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


class Checkout:
    """A git repository with what a release changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        for name in ("Makefile", "pyproject.toml", ".gitignore", ".ci/release.py"):
            shutil.copy(ROOT / name, folder / name)
        text = (folder / "pyproject.toml").read_text()
        version = next(line for line in text.splitlines() if line.startswith("version = "))
        (folder / "pyproject.toml").write_text(text.replace(version, 'version = "0.1.0"'))
        (folder / "CHANGELOG.md").write_text(CHANGES)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "All of it")

    def git(self, *words: str) -> str:
        told = {"cwd": self.folder, "env": os.environ | NO_ONE | ME}
        return subprocess.check_output(["git", *words], text=True, **told)  # type: ignore[call-overload]

    def command(self, **variables: str) -> tuple[list[str], dict[str, str]]:
        """`make release`, with a build that writes two empty files."""
        words = ["make", "--no-print-directory", "release", f"PYTHON={sys.executable}"]
        steps = {"RELEASE_CHECK": "true", "RELEASE_BUILD": f"sh -c '{BUILD}' build"}
        version = [f"VERSION={variables.pop('VERSION')}"] if "VERSION" in variables else []
        return words + version, os.environ | NO_ONE | ME | steps | variables

    def release(self, **variables: str) -> subprocess.CompletedProcess[str]:
        words, env = self.command(**variables)
        return subprocess.run(
            words, cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def state(self) -> tuple[str, ...]:
        """Everything that a release may change."""
        files = [str(path) for path in sorted(self.folder.glob("dist/*"))]
        texts = [(self.folder / name).read_text() for name in ("pyproject.toml", "CHANGELOG.md")]
        what = (("rev-parse", "HEAD"), ("tag",), ("status", "--porcelain"), ("diff", "--cached"))
        return (*files, *texts, *(self.git(*words) for words in what))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "checkout").mkdir()
    return Checkout(tmp_path / "checkout")


def test_a_release_is_a_commit_a_tag_and_files_with_their_checksums(checkout: Checkout) -> None:
    done = checkout.release(VERSION="0.2.0", RELEASE_CHECK="grep -q 0.2.0 pyproject.toml")
    assert done.returncode == 0, done.stderr
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    text = checkout.git("show", "v0.2.0:CHANGELOG.md")
    assert f"## [Unreleased]\n\n## [0.2.0] - {today}\n\n### Added\n\n- More.\n\n## [0.0.9]" in text
    assert '\nversion = "0.2.0"\n' in checkout.git("show", "v0.2.0:pyproject.toml")
    assert checkout.git("cat-file", "-t", "v0.2.0") == "tag\n"
    assert checkout.git("log", "--format=%s") == "Release 0.2.0\nAll of it\n"
    assert checkout.git("status", "--porcelain") == ""
    names = sorted(path.name for path in (checkout.folder / "dist").iterdir())
    wheel, sums, sdist = names
    empty = hashlib.sha256().hexdigest()
    assert (checkout.folder / "dist" / sums).read_text() == f"{empty}  {wheel}\n{empty}  {sdist}\n"


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("", "wanted one version, got 0"),
        ("1.2.3 1.2.4", "wanted one version, got 2"),
        ("1.2", "got '1.2'"),
        ("v1.2.3", "got 'v1.2.3'"),
        ("1.2.3rc1", "got '1.2.3rc1'"),
        ("01.2.3", "got '01.2.3'"),
        ("0.1.0", "0.1.0 is not newer than 0.3.0"),
        ("0.2.10", "0.2.10 is not newer than 0.3.0"),
        ("0.3.0", "the tag v0.3.0 exists"),
    ],
)
def test_a_version_that_does_not_fit_is_refused(
    checkout: Checkout, version: str, text: str
) -> None:
    checkout.git("tag", "v0.3.0")
    checkout.git("tag", "valid-for-nothing")
    before = checkout.state()
    done = checkout.release(VERSION=version, RELEASE_CHECK="touch ../checked")
    assert done.returncode != 0
    assert text in done.stderr
    assert checkout.state() == before


@pytest.mark.parametrize("version", ["0.1.0", "0.0.10"])
def test_a_version_that_is_not_newer_than_the_project_is_refused(
    checkout: Checkout, version: str
) -> None:
    done = checkout.release(VERSION=version)
    assert f"{version} is not newer than 0.1.0" in done.stderr


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.txt"])
def test_a_tree_with_changes_is_refused(checkout: Checkout, name: str) -> None:
    with (checkout.folder / name).open("a") as file:
        file.write("more\n")
    before = checkout.state()
    done = checkout.release(VERSION="0.2.0")
    assert "wanted a clean tree, got changes" in done.stderr
    assert name in done.stderr
    assert checkout.state() == before


def test_a_release_without_changes_for_users_is_refused(checkout: Checkout) -> None:
    (checkout.folder / "CHANGELOG.md").write_text(
        "## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n- x\n"
    )
    checkout.git("commit", "--quiet", "--all", "--message", "Nothing new")
    assert "nothing under [Unreleased]" in checkout.release(VERSION="0.2.0").stderr


@pytest.mark.parametrize(
    ("switch", "command", "text"),
    [
        ("RELEASE_CHECK", "false", "false ended with 1"),
        ("RELEASE_CHECK", "no-such-program", "no-such-program"),
        ("RELEASE_CHECK", "cp pyproject.toml Makefile", "changed meanwhile: ['Makefile']"),
        ("RELEASE_BUILD", "false", "false ended with 1"),
        ("RELEASE_BUILD", "true", "wanted a wheel and an sdist, got []"),
        ("GIT_COMMITTER_NAME", "", "git commit"),
    ],
)
def test_a_step_that_fails_leaves_everything_as_it_was(
    checkout: Checkout, switch: str, command: str, text: str
) -> None:
    before = checkout.state()
    done = checkout.release(VERSION="0.2.0", **{switch: command})
    assert done.returncode != 0
    assert text in done.stderr
    checkout.git("checkout", "--quiet", "Makefile")  # not the release's own change
    assert checkout.state() == before


def test_a_tag_that_cannot_be_made_leaves_everything_as_it_was(checkout: Checkout) -> None:
    checkout.git("tag", "v0.2.0/taken")  # a folder where the tag's file would lie
    before = checkout.state()
    done = checkout.release(VERSION="0.2.0")
    assert "git tag" in done.stderr
    assert checkout.state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_release_leaves_everything_as_it_was(
    checkout: Checkout, number: signal.Signals
) -> None:
    before = checkout.state()
    _, env = checkout.command(RELEASE_CHECK="sh -c 'touch ../started; exec sleep 60'")
    program = [sys.executable, checkout.folder / ".ci/release.py", "0.2.0"]
    with subprocess.Popen(program, cwd=checkout.folder, env=env) as process:
        while not (checkout.folder.parent / "started").exists():
            assert process.poll() is None
            time.sleep(0.01)
        assert checkout.state() != before
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    assert checkout.state() == before
