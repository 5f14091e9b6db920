"""Make a release of this checkout: everything but publishing it.

    make release VERSION=X.Y.Z

Sets the version and the heading of the changelog, runs `.ci/run`, builds the wheel and the sdist
with `.ci/wheel`, writes them with their SHA-256 checksums to `dist/`, commits and tags. Input that
is wrong is refused before anything is changed. If a step fails or is interrupted, the files, the
history and `dist/` are as they were.

The environment variables RELEASE_CHECK and RELEASE_BUILD name other commands for the two long
steps; the second gets the folder to build into as its last argument.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "pyproject.toml"
CHANGELOG = ROOT / "CHANGELOG.md"
DIST = ROOT / "dist"
UNRELEASED = "## [Unreleased]\n"
USAGE, FAILED = 64, 1

VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")


class Refused(Exception):
    """The release cannot be made of this input; nothing was changed."""


class Failed(Exception):
    """A step of the release failed; what it changed is undone."""


def main(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        version = checked(words)
        release(version)
    except Refused as error:
        print(f"no release: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("no release, everything is as it was: interrupted", file=sys.stderr)
        return 130
    except Failed as error:
        print(f"no release, everything is as it was: {error}", file=sys.stderr)
        return FAILED
    print(f"upframe {version} is committed, tagged and in dist/, and not published:")
    print(f"  git push origin HEAD v{version}")
    return 0


def checked(words: list[str]) -> str:
    """Return the version asked for; raise Refused where it, or the checkout, does not fit."""
    if len(words) != 1:
        raise Refused(f"wanted one version, got {len(words)}: make release VERSION=1.2.3")
    (version,) = words
    if not VERSION.fullmatch(version):
        raise Refused(f"a version is three numbers such as 1.2.3, got {version!r}")
    tags = git("tag", "--list", "v*").split()
    if f"v{version}" in tags:
        raise Refused(f"the tag v{version} exists")
    if changes := git("status", "--porcelain"):
        raise Refused(f"wanted a clean tree, got changes:\n{changes}")
    released = [tag[1:] for tag in tags if VERSION.fullmatch(tag[1:])]
    newest = max(present(), *released, key=numbers) if released else present()
    if numbers(version) <= numbers(newest):
        raise Refused(f"{version} is not newer than {newest}")
    _, found, rest = CHANGELOG.read_text().partition(UNRELEASED)
    if not found or not rest.partition("\n## ")[0].strip():
        raise Refused("CHANGELOG.md has nothing under [Unreleased]")
    return version


def release(version: str) -> None:
    """Do all steps; undo them where one fails."""
    files = {path: path.read_bytes() for path in (PROJECT, CHANGELOG)}
    head = git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as built:
        try:
            write_version(version)
            run("RELEASE_CHECK", ".ci/run")
            run("RELEASE_BUILD", ".ci/wheel", built)
            names = with_checksums(Path(built), version)
            commit(version, head, set(files))
            DIST.mkdir(exist_ok=True)
            for name in names:
                shutil.move(Path(built, name), DIST / name)
        except BaseException:
            undo(version, head, files)
            raise


def write_version(version: str) -> None:
    """Set the version of the project, and give the changelog's newest part its heading."""
    text, count = re.subn(
        r'(?m)^version = ".*"$', f'version = "{version}"', PROJECT.read_text(), count=1
    )
    assert count == 1
    PROJECT.write_text(text)
    heading = f"{UNRELEASED}\n## [{version}] - {datetime.now(UTC):%Y-%m-%d}\n"
    CHANGELOG.write_text(CHANGELOG.read_text().replace(UNRELEASED, heading, 1))


def with_checksums(folder: Path, version: str) -> list[str]:
    """Write the checksums of a wheel and an sdist beside them, for ``sha256sum --check``."""
    names = sorted(path.name for path in folder.iterdir())
    if [name.endswith(".whl") for name in names] != [True, False]:
        raise Failed(f"wanted a wheel and an sdist, got {names}")
    sums = f"upframe-{version}.sha256"
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    ]
    (folder / sums).write_text("".join(lines))
    return [*names, sums]


def commit(version: str, head: str, files: set[Path]) -> None:
    """Commit and tag what was checked, and nothing else."""
    changed = {ROOT / line[3:] for line in git("status", "--porcelain").splitlines()}
    if changed != files or git("rev-parse", "HEAD") != head:
        others = sorted(str(path.relative_to(ROOT)) for path in changed ^ files)
        raise Failed(f"the checkout was changed meanwhile: {others or 'another commit'}")
    git("commit", "--quiet", "--all", "--message", f"Release {version}")
    git("tag", "--annotate", "--message", f"upframe {version}", f"v{version}")


def undo(version: str, head: str, files: dict[Path, bytes]) -> None:
    """Put back history and files; changes that others made meanwhile stay."""
    subject = git("log", "-1", "--format=%s")
    if subject == f"Release {version}" and git("rev-parse", "HEAD^") == head:
        git("reset", "--quiet", "--soft", head)
    subprocess.run(
        ["git", "tag", "--delete", f"v{version}"], cwd=ROOT, capture_output=True, check=False
    )
    for path, content in files.items():
        path.write_bytes(content)
    git("reset", "--quiet")
    for path in DIST.glob(f"upframe-{version}[-.]*"):
        path.unlink()


def present() -> str:
    """Read the version that the project has now."""
    return tomllib.loads(PROJECT.read_text())["project"]["version"]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def run(switch: str, command: str, *more: str) -> None:
    """Run one of the long steps, or what the environment names instead."""
    words = [*shlex.split(os.environ.get(switch, command)), *more]
    print(f"== {shlex.join(words)}", flush=True)
    try:
        code = subprocess.run(words, cwd=ROOT, check=False).returncode
    except OSError as error:
        raise Failed(str(error)) from error
    if code:
        raise Failed(f"{words[0]} ended with {code}")


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.rstrip()


def _interrupted(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
