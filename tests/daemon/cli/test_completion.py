"""`upframe completion`: what a real shell offers after the beginning of a line."""

from __future__ import annotations

import os
import pty
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.parsers import shown, subcommands

from upframe.daemon.__main__ import main
from upframe.daemon.parser import COMMANDS, Parser, make_parser

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.fixture
def bash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    path = tmp_path / "upframe.bash"
    path.write_text(script("bash", capsys))
    return path


def said_by(*words: str, folder: Path) -> str:
    """What a shell writes that finds `upframe`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=os.environ | {"PATH": path},
    )
    assert ran.stderr == ""
    return ran.stdout


def offered(path: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line, as readline divides it into words."""
    words = shlex.split(line.replace("=", " = ")) + ([""] if line.endswith((" ", "=")) else [])
    array = " ".join(map(shlex.quote, words))
    program = f"""
source {shlex.quote(str(path))}
COMP_WORDS=({array})
COMP_CWORD={len(words) - 1}
COMP_LINE={shlex.quote(line)}
COMP_POINT={len(line)}
COMP_TYPE=9
_python_argcomplete upframe "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}" end
"""
    said = said_by("bash", "-c", program, folder=path.parent)
    return [word.rstrip() for word in said.splitlines()[:-1]]


def parsers(parser: Parser, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Parser]:
    found = {words: parser}
    for name, each in subcommands(parser).items():
        found |= parsers(each, (*words, name))
    return found


def test_bash_offers_all_commands_and_those_that_begin_as_typed(bash: Path) -> None:
    assert offered(bash, "upframe ") == list(COMMANDS)
    assert offered(bash, "upframe p") == ["pipe", "probe"]
    assert "--version" in offered(bash, "upframe -")


def test_bash_offers_every_option_of_every_command(bash: Path) -> None:
    for words, parser in parsers(make_parser()).items():
        flags = {flag for action in shown(parser) for flag in action.option_strings}
        assert set(offered(bash, " ".join(("upframe", *words, "-")))) == flags, words


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("upframe run in.mp4 out.mp4 --deinter", ["--deinterlace"]),
        ("upframe run in.mp4 --deinterlace ", ["auto", "on", "off"]),
        ("upframe run in.mp4 --deinterlace o", ["on", "off"]),
        ("upframe run in.mp4 --weights=bu", ["builtin"]),
        ("upframe run in.mp4 --weights=", ["auto", "hub", "builtin"]),
        ("upframe --debug run in.mp4 --on-loss s", ["slate", "stop"]),
        (
            "upframe jobs ",
            ["submit", "list", "show", "cancel", "retry", "watch", "folders", "status", "clean"],
        ),
        ("upframe jobs list --state f", ["failed"]),
        ("upframe models c", ["check"]),
        ("upframe completion ", list(SHELLS)),
        ("upframe pipe --format m", ["matroska"]),
    ],
)
def test_bash_offers_subcommands_and_choices(line: str, wanted: list[str], bash: Path) -> None:
    assert offered(bash, line) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "upframe run ",
        "upframe run my",
        "upframe run in.mp4 --report ",
        "upframe run pipe ",
        "upframe serve --config=",
        "upframe jobs submit m",
    ],
)
def test_bash_offers_names_of_files_where_one_may_be(line: str, bash: Path) -> None:
    (bash.parent / "my film.mkv").touch()
    assert "my\\ film.mkv" in offered(bash, line)


@pytest.mark.parametrize("line", ["upframe run in.mp4 --crf ", "upframe jobs show ", "upframe mo/"])
def test_bash_offers_nothing_where_only_the_user_knows(line: str, bash: Path) -> None:
    assert offered(bash, line) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_accepted_by_its_shell(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(script(shell, capsys))
    subprocess.run([shell, "-n", path], check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "wanted", "not_wanted"),
    [
        ("upframe p", {"pipe", "probe"}, {"run"}),
        ("upframe run --deinter", {"--deinterlace"}, {"--crf"}),
        ("upframe run --deinterlace o", {"on", "off"}, {"auto"}),
        ("upframe jobs l", {"list"}, {"submit"}),
        ("upframe jobs list --s", {"--state", "--socket"}, {"--limit"}),
        ("upframe completion z", {"zsh"}, {"bash"}),
    ],
)
def test_fish_offers_commands_options_and_choices(
    line: str,
    wanted: set[str],
    not_wanted: set[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "upframe.fish"
    path.write_text(script("fish", capsys))
    program = f"source {path}; complete -C {shlex.quote(line)}"
    said = said_by("fish", "--no-config", "-c", program, folder=tmp_path)
    found = {each.split("\t")[0] for each in said.splitlines()}
    assert wanted <= found
    assert not not_wanted & found


class Zsh:
    """zsh on a terminal of its own."""

    def __init__(self, setup: str, folder: Path) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            os.environ.update(TERM="dumb", ZDOTDIR="/nonexistent", PATH=path)
            os.chdir(folder)
            os.execvp("zsh", ["zsh", "-f", "-i"])
        self.types(f"{setup}; PS1='rea''dy '\n", until="ready ")

    def types(self, keys: str, until: str) -> None:
        """Type, and wait for what is shown."""
        os.write(self._terminal, keys.encode())
        shown = ""
        while until not in shown:
            assert select.select([self._terminal], [], [], 20)[0], shown
            shown += os.read(self._terminal, 4096).decode(errors="replace")

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._terminal)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_on_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "upframe.zsh").write_text(script("zsh", capsys))
    (tmp_path / "my film.mkv").touch()
    zsh = Zsh("autoload -Uz compinit; compinit -u -D; source upframe.zsh", tmp_path)
    try:
        for begun, rest in [
            ("upframe compl", "etion "),
            ("upframe run a.mp4 --deinterl", "ace "),
            ("upframe run a.mp4 --deinterlace a", "uto "),
            ("upframe jobs li", "st "),
            ("upframe run my", "\\ film.mkv "),
        ]:
            zsh.types(f"\x15{begun}\t", until=f"{begun}{rest}")  # ^U deletes the line before
    finally:
        zsh.close()


LINE = {"COMP_LINE": "upframe run --", "COMP_POINT": "14", "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}


@pytest.mark.parametrize("environment", [{}, LINE])
def test_a_script_and_an_answer_come_without_loading_what_commands_need(
    environment: dict[str, str],
) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "upframe.daemon", "completion", "bash"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "argcomplete" in loaded
    assert not {"torch", "av", "numpy", "rich"} & loaded
    assert after.ru_utime - before.ru_utime < 1  # 0.2 s on two idle cores
