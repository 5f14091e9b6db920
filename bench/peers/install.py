"""Make a virtual environment of its own with the peers at pinned versions, and upframe.

    python bench/peers/install.py [FOLDER] [--cuda] [--wheels DIR]

FOLDER is bench/peers/.venv, which git ignores. With --cuda it sees the packages of the Python that
runs this, so that its torch, built for the card, is used, and only the peers that run there are
installed. With --wheels no index is asked: all comes from files in
that folder.

A peer that cannot be installed does not stop the others; its error is written into FOLDER and comes
back in the results of `compare.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sysconfig
import venv
from pathlib import Path

from pins import PEERS, RECORD, Peer

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / ".venv"
_LINES_KEPT = 6
"""Of pip's complaint."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--cuda", action="store_true", help="use the torch that is there")
    parser.add_argument("--wheels", type=Path, help="take every package from this folder")
    arguments = parser.parse_args()
    venv.create(arguments.folder, with_pip=True)
    if arguments.cuda:
        _see_packages_of_this_python(arguments.folder)
    pip = [str(arguments.folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if arguments.wheels:
        pip += ["--no-index", "--find-links", str(arguments.wheels)]
    subprocess.run([*pip, *_upframe(arguments.cuda)], check=True)
    record = {peer.name: install(pip, peer) for peer in PEERS if peer.on_cuda or not arguments.cuda}
    (arguments.folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
    print(f"now: {arguments.folder / 'bin' / 'python'} bench/peers/compare.py")


def install(pip: list[str], peer: Peer) -> dict[str, str]:
    """Install one peer; give what was installed, or the end of pip's complaint."""
    options = ["-c", str(ROOT / "constraints.txt")]
    if not peer.with_dependencies:
        options.append("--no-deps")
    done = subprocess.run(
        [*pip, *options, *peer.requirements], capture_output=True, text=True, check=False
    )
    outcome = {"wanted": ", ".join(peer.requirements)}
    if done.returncode:
        outcome["error"] = "\n".join(done.stderr.strip().splitlines()[-_LINES_KEPT:])
    return outcome


def _see_packages_of_this_python(folder: Path) -> None:
    """Let the environment see them behind its own, also where this Python is an environment's."""
    # an environment of Python 3.11 brings a setuptools of its own, too old to build upframe
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "setuptools"], check=True)
    own = next((folder / "lib").glob("python*")) / "site-packages"
    theirs = sysconfig.get_path("purelib")
    (own / "packages_of_another_python.pth").write_text(
        f"import site; site.addsitedir({theirs!r})\n"
    )


def _upframe(cuda: bool) -> list[str]:
    """Say how this checkout is installed: on a CUDA machine, with the versions that are there."""
    if cuda:
        return ["--no-build-isolation", "-e", str(ROOT)]
    return ["-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)]


if __name__ == "__main__":
    main()
