"""INSTALL.md followed line by line in a minimal Debian 12 that runs its own systemd.

The tree is made by debootstrap and booted by systemd-nspawn, which needs root, a network and a
machine that lets it mount, but no container engine. It has no udev, no procps and no adduser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.media.clips import make_clip

ROOT = Path(__file__).parent.parent
INSTALL = (ROOT / "systemd/INSTALL.md").read_text()
TOOLS = ("debootstrap", "systemd-nspawn", "git")
PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root boots a tree"),
    pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}"),
]


def section(number: int) -> str:
    return INSTALL.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


def blocks(language: str, number: int) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(number), re.M | re.S)


def commands() -> list[str]:
    """Every command of the sections 1 to 5, but those for weights of the hub."""
    joined = "".join(text for number in (1, 2, 3, 5) for text in blocks("console", number))
    return [by_itself(line) for line in joined.replace("\\\n", " ").splitlines() if line.strip()]


def by_itself(line: str) -> str:
    """What a person would end, or do in an editor; a log may have nothing to show yet."""
    if line.startswith("systemctl edit"):
        return f"script -qec '{line}' /dev/null"  # it wants a terminal
    looks = line.startswith("journalctl") or " jobs watch" in line
    return f"timeout 5 {line} || true" if looks else line


CHECKS = """
said() { echo "CHECK $*"; }
pid() { systemctl show -P MainPID upframe; }
until_true() { for _ in $(seq 150); do "$@" && return 0; sleep 1; done; return 1; }
another() { test "$(pid)" != "$1" && systemctl is-active -q upframe; }

systemctl is-active upframe && said active
grep -w "$(getent group render | cut -d: -f3)" /proc/$(pid)/status && said groups
cp /opt/guide/clip.mp4 /srv/video/in/
until_true test -s /srv/video/out/clip.mp4 && said job
systemctl reload upframe
reloaded() { journalctl -u upframe | grep -q "configuration read again"; }
until_true reloaded && said reload
old=$(pid); kill -KILL $old
until_true another $old && said restarted
old=$(pid); kill -STOP $old
until_true another $old && said watchdog
systemctl stop upframe && said stopped
! systemctl is-failed upframe && said well
"""
WANTED = ("active", "groups", "job", "reload", "restarted", "watchdog", "stopped", "well")

SCRIPT = """#!/bin/bash
trap 'echo "EXIT $?"; systemctl poweroff --no-block' EXIT
set -ex
cd /opt/guide/upframe
{commands}
{checks}
"""
UNIT = """[Unit]
After=network.target
[Service]
Type=oneshot
ExecStart=/opt/guide/follow
StandardOutput=file:/opt/guide/log
StandardError=inherit
{environment}
[Install]
WantedBy=multi-user.target
"""
EDITOR = '#!/bin/sh\ncat /opt/guide/drop-in > "$1"\n'


def run(*words: str | Path, seconds: float = 600.0) -> None:
    subprocess.run(words, check=True, timeout=seconds)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A minimal Debian 12 with a checkout and the script that follows the guide."""
    made = tmp_path / "tree"
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", made)
    home = made / "opt/guide"
    run("git", "clone", "-q", ROOT, home / "upframe")
    config, drop_in = blocks("toml", 2)[0], blocks("ini", 3)[0]
    lines = commands()
    at = next(number for number, line in enumerate(lines) if line.startswith("cp systemd/"))
    lines.insert(at, "cp /opt/guide/upframe.toml /etc/upframe/upframe.toml")
    wheels = ["pip", "download", "-q", "-d", home / "wheels", "-c", ROOT / "constraints.txt"]
    run(*wheels, ROOT, "setuptools>=77")  # with this machine's settings, which the tree has not
    environment = {
        **{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/opt/guide/wheels", "HOME": "/root"},
        **{"SYSTEMD_EDITOR": "/opt/guide/editor", "LANG": "C.UTF-8"},
        **{"DEBIAN_FRONTEND": "noninteractive"},
    }
    (made / "etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";\n')
    settings = "\n".join(f'Environment="{name}={value}"' for name, value in environment.items())
    files = {
        "upframe.toml": config,
        "drop-in": drop_in,
        "editor": EDITOR,
        "follow": SCRIPT.format(commands="\n".join(lines), checks=CHECKS),
    }
    for name, text in files.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    make_clip(home / "clip.mp4")
    unit = made / "etc/systemd/system/follow.service"
    unit.write_text(UNIT.format(environment=settings))
    wants = unit.parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(unit)
    shutil.copy("/etc/resolv.conf", made / "etc/resolv.conf")
    return made


def test_the_guide_makes_a_service_that_runs_reloads_and_restarts(tree: Path) -> None:
    words = ["systemd-nspawn", "--register=no", "--keep-unit", "-b", "-D", str(tree), "-q"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    log = tree / "opt/guide/log"
    assert log.exists(), f"the tree did not boot: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    text = log.read_text(errors="replace")
    assert re.findall(r"^CHECK (\w+)$", text, re.M) == list(WANTED), text[-6000:]
    assert re.findall(r"^EXIT (\d+)$", text, re.M) == ["0"]
