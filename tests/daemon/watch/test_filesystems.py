"""Where events can be trusted, and inode numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from upframe.daemon.watch.watcher import choose_mode
from upframe.io.root import filesystem_type, keeps_inodes

_IN_A_NAMESPACE = """
mount -t tmpfs none "$1/a b" && mount -t ramfs none "$1/a b" && mkdir "$1/a b/c" && exec "$2" -c '
import sys
from pathlib import Path
from upframe.io.root import filesystem_type
root = Path(sys.argv[1])
print(filesystem_type(root / "a b/c"), filesystem_type(root / "link"), filesystem_type(root))
' "$1"
"""


def test_names_the_file_system() -> None:
    assert filesystem_type(Path("/proc/self")) == "proc"
    assert filesystem_type(Path("/dev/shm")) == "tmpfs"


def test_names_the_topmost_mount_also_behind_links_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a b/c")
    arguments = ["sh", "-c", _IN_A_NAMESPACE, "sh", str(tmp_path), sys.executable]
    command = ["unshare", "--user", "--map-root-user", "--mount", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode and not done.stdout and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no mounts in a namespace of our own: {done.stderr}")
    assert done.stdout.split() == ["ramfs", "ramfs", filesystem_type(tmp_path)], done.stderr


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "virtiofs", "ceph"]
)
def test_polls_where_others_change_files_without_a_word(kind: str) -> None:
    mode = choose_mode("auto", kind)
    assert mode.name == "poll"
    assert kind in mode.why


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk"])
def test_hears_events_elsewhere(kind: str) -> None:
    assert choose_mode("auto", kind).name == "events"


def test_polls_trees_of_very_many_folders() -> None:
    """watchfiles holds the interpreter while it begins: 19 µs a folder were measured."""
    assert choose_mode("auto", "ext4", 2000).name == "events"
    assert choose_mode("auto", "ext4", 2001).name == "poll"
    assert choose_mode("events", "ext4", 2001).name == "events"


def test_configuration_wins() -> None:
    assert choose_mode("poll", "ext4").name == "poll"
    assert choose_mode("events", "nfs4").name == "events"


def test_knows_where_inodes_change_from_mount_to_mount() -> None:
    assert all(keeps_inodes(kind) for kind in ("ext4", "xfs", "nfs4"))
    assert not any(keeps_inodes(kind) for kind in ("cifs", "fuse.sshfs", "9p", "vfat"))
